"""What a request costs the host is counted rightly, and how often it waits for the device stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[hf]")

from eval.bench import host
from eval.bench.logs import queries
from llmgen.engines.hf import HFEngine
from llmgen.recommend.recommender import Recommender
from llmgen.types import Query
from tests.conftest import films


@pytest.fixture(scope="module")
def recommender(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    engine = HFEngine.load(host.model_of(tmp_path_factory.mktemp("host"), str(tiny_model)))
    made = Recommender(films(60), engine, num_beams=host.K)
    made.recommend(Query(k=3))
    return made


def counts(recommender: Recommender, users: int) -> host.Counts:
    engine = recommender.engine
    assert isinstance(engine, HFEngine)
    engine.forget()
    asked = queries(recommender.catalog, users, 5, k=host.K)
    return host.counted(engine, lambda: recommender.recommend_many(asked))


def test_the_host_waits_once_a_round_whatever_the_number_of_users(recommender: Recommender) -> None:
    for users in (1, 12):
        found = counts(recommender, users)
        assert found.rounds > 1
        assert found.waits == found.rounds


def test_operations_do_not_grow_with_users(recommender: Recommender) -> None:
    one, many = counts(recommender, 1), counts(recommender, 12)
    assert many.passes <= many.rounds + 1  # the first prompt is read for all others, which is a pass of its own
    assert many.operations / many.passes < 1.25 * one.operations / one.passes


def test_operations_and_waits_are_counted(recommender: Recommender) -> None:
    engine = recommender.engine
    assert isinstance(engine, HFEngine)

    def act() -> None:
        numbers = torch.arange(6.0)  # one operation
        rows = numbers.view(2, 3).T  # none: both show the same memory
        rows.add_(1)  # one
        assert (rows @ rows.T).sum().item() == 6**2 + 15**2  # two or more, and a wait
        numbers.cpu().numpy()  # a wait, and 24 bytes

    found = host.counted(engine, act)
    assert (found.waits, found.host_bytes) == (2, 4 + 24)
    assert found.operations >= 4
    assert (found.rounds, found.passes) == (0, 0)


def test_each_number_of_users_has_a_row_beside_its_prompts(recommender: Recommender) -> None:
    asked = queries(recommender.catalog, 2, 5, k=host.K)
    rows = list(host.measured(recommender, "films", asked, (1, 2)))
    assert [(row.case, row.arm) for row in rows] == [
        (f"{users} users, films", arm) for users in (1, 2) for arm in ("llmgen", "prompts alone")
    ]
    assert all(row.cpu_s and row.cpu_s > 0 for row in rows)
    assert "waits" in rows[0].note
