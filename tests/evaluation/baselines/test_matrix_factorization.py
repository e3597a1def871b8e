"""ALS and BPR as baselines."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import llmgen.evaluation.run
from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.evaluation.baselines.matrix_factorization import Als, Bpr, _matrix
from llmgen.evaluation.config import RunConfig
from llmgen.types import Item, Query

CATALOG = Catalog(Item(str(number), f"Item {number}") for number in range(24))


@pytest.fixture(scope="module")
def log() -> pl.DataFrame:
    """Forty users who each take nine of the twelve items of one half of the catalog, and never one of the other."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", str(12 * (user % 2) + int(item)), float(age))
        for user in range(40)
        for age, item in enumerate(rng.permutation(12)[:9])
    ]
    return pl.DataFrame(
        rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64}, orient="row"
    )


def history(log: pl.DataFrame, user: str) -> tuple[Item, ...]:
    return tuple(CATALOG[item] for item in log.filter(user_id=user)["item_id"])


@pytest.mark.parametrize("model", [Als, Bpr])
def test_what_one_half_takes_is_for_that_half(log: pl.DataFrame, model: type[Als] | type[Bpr]) -> None:
    prior = model.fit(log, CATALOG, factors=2)
    users = [f"u{number}" for number in range(40)]
    scores = prior.log_weights([Query(history(log, user), user_id=user) for user in users])
    assert scores.shape == (40, 24)
    assert prior.log_weights([]).shape == (0, 24)
    for number, row in enumerate(scores):
        own = slice(0, 12) if number % 2 == 0 else slice(12, 24)
        others = slice(12, 24) if number % 2 == 0 else slice(0, 12)
        assert row[own].min() > row[others].max()
    again = model.fit(log, CATALOG, factors=2)
    queries = [Query(history(log, user), user_id=user) for user in users]
    np.testing.assert_array_equal(again.log_weights(queries), scores)
    np.testing.assert_allclose(
        again.log_weights(queries[3:4])[0], scores[3], atol=1e-5
    )  # another shape rounds otherwise


def test_als_gives_what_the_library_gives(log: pl.DataFrame) -> None:
    prior = Als.fit(log, CATALOG, factors=4)
    users, matrix = _matrix(log, CATALOG)
    assert matrix.sum() == len(log)
    items, scores = prior.model.recommend(7, matrix[7], N=5, recalculate_user=True)
    query = Query(history(log, users[7]))  # by the history, whoever that is
    row = prior.log_weights([query])[0]
    row[[int(item.id) for item in query.history]] = -np.inf
    assert np.argsort(-row)[:5].tolist() == items.tolist()
    np.testing.assert_allclose(np.sort(row)[::-1][:5], scores, rtol=1e-5)


def test_bpr_knows_only_the_popularity_for_a_new_user(log: pl.DataFrame) -> None:
    prior = Bpr.fit(log, CATALOG, factors=4, iterations=20)
    np.testing.assert_allclose(prior.log_weights([Query(user_id="nobody")])[0], prior.items[:, -1])


def test_the_extra_is_named_where_it_is_missing(log: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit", None)
    with pytest.raises(ConfigError, match=r"als and bpr need implicit .* pip install 'llmgen\[factors\]'"):
        Als.fit(log, CATALOG)


def test_a_run_has_them_beside_the_others(log: pl.DataFrame, tmp_path: Path) -> None:
    pl.DataFrame({"item_id": CATALOG.ids, "title": [item.title for item in CATALOG]}).write_csv(tmp_path / "items.csv")
    log.write_csv(tmp_path / "log.csv")
    protocol = {"data": {"items": tmp_path / "items.csv", "interactions": tmp_path / "log.csv"}, "k": 3}
    settings = {
        "protocol": protocol,
        "classics": "defaults",
        "also": ["als", "bpr", "sasrec"],
        "draws": 100,
        "latency_users": 0,
    }
    found = llmgen.evaluation.run.evaluate(RunConfig.model_validate(settings), tmp_path / "out", command="test")
    rates = {arm.name: arm.metrics["hr@3"].mean for arm in found.arms}
    assert rates["als"] > 0.6  # three of the four items of the half that are left: .75
    assert rates["random"] < 0.5
    assert list(rates)[-5:] == ["sasrec", "mix", "mix+sasrec", "als", "bpr"]
    with pytest.raises(ConfigError, match="bpr has learned each user's whole log, not the newest 2 items"):
        config = RunConfig.model_validate({**settings, "protocol": {**protocol, "newest": 2}})
        llmgen.evaluation.run.evaluate(config, tmp_path / "other", command="test")
