"""Nats of held-out items, against the prior alone and against the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

pytest.importorskip("torch", reason="needs llmgen[train]")

from llmgen.catalog.core import Catalog
from llmgen.engines.hf import HFEngine
from llmgen.priors import ExcludeSeen, Popularity, Transition, combine
from llmgen.recommend.recommender import Recommender
from llmgen.training.validation import ALONE, Validation, nats
from llmgen.types import Item, Query
from tests.conftest import films


def beginning_alike() -> Catalog:
    """Titles of which most begin another one."""
    words = ("Dog", "Star", "City")
    return Catalog(
        [Item(str(number + 1), " ".join([f"Film{number // 4}", *words[: number % 4]])) for number in range(40)]
    )


@pytest.mark.slow
@pytest.mark.parametrize("named", [films(40), beginning_alike()], ids=["films", "beginning alike"])
@pytest.mark.parametrize("prompt", ["next_item", "next_item_list"])
def test_nats_are_those_of_prior_and_search(tiny_model: Path, prompt: str, named: Catalog) -> None:
    assert len(set(named.labels)) == 40
    rows = [
        {
            "user_id": f"u{user}",
            "item_id": str(1 + (7 * user + 3 * place) % 40),
            "timestamp": float(place),
            "rating": None,
        }
        for user in range(6)
        for place in range(5)
    ]
    known = pl.DataFrame(rows, schema_overrides={"rating": pl.Float64})
    histories = [tuple(named[row["item_id"]] for row in rows if row["user_id"] == f"u{user}") for user in range(6)]
    queries = [Query(history, user_id=f"u{user}", k=40) for user, history in enumerate(histories)]
    held_out = [str(1 + (7 * user + 15) % 40) for user in range(6)]
    priors = [Transition.fit(known, named), Popularity.fit(known, named, weight=0.5)]
    engine = HFEngine.load(str(tiny_model))
    recommender = Recommender(named, engine, prompt=prompt)
    weights = [0.0, 0.3, ALONE]
    found = nats(
        engine.model, recommender, queries, held_out, priors, prompt=prompt, weights=weights, batch=4, quiet=True
    )

    wanted = [named.index(item) for item in held_out]
    total = combine([ExcludeSeen(named), *priors], queries).total
    expected = np.logaddexp.reduce(total, axis=1) - total[np.arange(6), wanted]
    assert found[0] == pytest.approx(expected, rel=1e-5)

    for query, item, lost in zip(queries, held_out, found[2], strict=True):
        asked = Query(query.history, k=40, exclude_seen=False)
        place = next(place for place in recommender.recommend(asked) if place.item.id == item)
        assert lost == pytest.approx(-place.terms["lm"], rel=1e-4)
    assert not np.allclose(found[1], found[0])

    measured = Validation(
        named,
        priors,
        queries,
        held_out,
        engine.chat_tokenizer.tokenizer,
        prompt=prompt,
        max_history=recommender.max_history,
        lm_weights=(0.3, 1.0),
        users=0,
        nats_users=6,
    )(engine.model)
    each = nats(engine.model, recommender, queries, held_out, priors, prompt=prompt, weights=[0.3, 1.0], quiet=True)
    means = dict(zip((0.3, 1.0), each.mean(axis=1), strict=True))
    best = min(means, key=lambda weight: means[weight])
    assert measured == pytest.approx(
        {"nats": means[best], "nats_weight": best, "nats_prior": found[0].mean(), "nats_lm": found[2].mean()}, rel=1e-5
    )
