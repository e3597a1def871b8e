"""The study of how items are spelled: its own arithmetic, and one run on a small log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("peft", reason="needs llmgen[train]")

from eval.spelling import ARMS, curve, main, taken_vectors
from llmgen.catalog.core import Catalog
from llmgen.types import Item
from tests.conftest import films
from tests.training.conftest import REAL_RUNS


def test_items_that_the_same_users_took_have_one_direction_and_those_of_nobody_none() -> None:
    """Users 1 and 2 took a and b, users 3 and 4 took c and d, nobody took e: two groups, two directions."""
    catalog = Catalog([Item(name, name) for name in "abcde"])
    rows = [(user, item) for user, items in (("1", "ab"), ("2", "ab"), ("3", "cd"), ("4", "cd")) for item in items]
    made = taken_vectors(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"), catalog, dimensions=2)
    assert made.shape == (5, 2)
    likeness = made @ made.T
    np.testing.assert_allclose(likeness[0, 1], likeness[0, 0], atol=1e-6)
    np.testing.assert_allclose(likeness[:2, 2:], 0, atol=1e-6)
    np.testing.assert_allclose(made[4], 0, atol=1e-6)


def test_a_curve_has_the_tokens_up_to_each_validation(tmp_path: Path) -> None:
    history = [{"step": 1, "loss": 3.0}, {"step": 10, "eval_nats": 5.0, "eval_nats_lm": 6.0}]
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    assert curve(tmp_path, 100.4) == [(1004, 6.0, 5.0)]


class TestRuns:
    pytestmark = REAL_RUNS

    def test_every_arm_is_trained_on_as_many_tokens_and_asked_the_same(
        self, tiny_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """100 films, of which some ten are drawn as new, and 40 users who go through them in an order of their own."""
        items = [{"item_id": one.id, "title": one.title} for one in films(100)]
        pl.DataFrame(items).write_csv(tmp_path / "items.csv")
        log_ = [
            (f"u{user}", 1 + (7 * user + (1 + user % 3) * place) % 100, place)
            for user in range(40)
            for place in range(12)
        ]
        pl.DataFrame(log_, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(tmp_path / "log.csv")
        data = {"items": str(tmp_path / "items.csv"), "interactions": str(tmp_path / "log.csv")}
        out = tmp_path / "out"
        main(out, json.dumps(data), "new", 4000, 10, 8, 1, 4, 1e-3, str(tiny_encoder), ",".join(ARMS))
        said = capsys.readouterr().out
        found = json.loads((out / "results.json").read_text())
        assert list(found) == list(ARMS)
        for arm in ARMS:
            told = found[arm]
            assert told["steps"] * told["tokens_a_step"] == pytest.approx(4000, rel=0.3)
            assert len(told["curve"]) == 1
            assert len(told["warm"]["alone"]) == len(found["title"]["warm"]["alone"])
            assert f"| {arm} | " in said
