"""How many requests a second a client may make."""

from __future__ import annotations

import httpx2
import pytest

from llmgen.errors import ArgumentError
from llmgen.recommend.recommender import Recommender
from llmgen.server import AppSettings, Limits, create_app
from llmgen.server import rates as rates_module
from llmgen.server.rates import Rates
from tests.server.conftest import running


def test_a_second_may_come_at_once_and_then_so_many_a_second() -> None:
    now = 100.0
    rates = Rates(4, lambda: now)
    assert [rates.wait_s("a") for _ in range(5)] == [0, 0, 0, 0, 0.25]
    assert rates.wait_s("b") == 0  # of another client
    now += 0.25
    assert [rates.wait_s("a") for _ in range(2)] == [0, 0.25]  # what was refused is not counted
    now += 60
    assert [rates.wait_s("a") for _ in range(5)] == [0, 0, 0, 0, 0.25]  # no more than a second's is saved up


def test_less_than_one_a_second_is_one_in_so_many_seconds() -> None:
    now = 0.0
    rates = Rates(0.1, lambda: now)
    assert [rates.wait_s("a"), rates.wait_s("a")] == [0, 10]
    now = 9.5
    assert rates.wait_s("a") == pytest.approx(0.5)
    now = 10.0
    assert rates.wait_s("a") == 0


def test_few_clients_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates_module, "KNOWN", 2)
    rates = Rates(1, lambda: 0.0)
    assert [rates.wait_s(client) for client in "abc"] == [0, 0, 0]
    assert rates.wait_s("c") == 1
    assert rates.wait_s("a") == 0  # was forgotten, as the one that asked longest ago


def test_each_key_has_its_own_and_status_is_always_told(recommender: Recommender) -> None:
    keys = ("first-key-of-the-tests", "other-key-of-the-tests")
    with running(create_app(recommender, AppSettings(keys=keys, limits=Limits(rate=0.01)))) as base:

        def ask(key: str) -> httpx2.Response:
            return httpx2.get(f"{base}/v1/items/1", headers={"x-api-key": key})

        assert [ask(keys[0]).status_code, ask(keys[0]).status_code] == [200, 429]
        refused = ask(keys[0])
        assert refused.headers["retry-after"]
        assert "ask again in" in refused.json()["message"]
        assert ask(keys[1]).status_code == 200
        assert [httpx2.get(f"{base}/ready").status_code for _ in range(3)] == [200, 200, 200]


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ArgumentError, match="rate must be above 0"):
        Limits(rate=0)
