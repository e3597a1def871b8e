"""The weight of the language model where nobody gives one, in Python as on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmgen import Item, Query, Recommender
from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.engines.fake import FakeEngine
from llmgen.priors import Popularity, TextQuery, Transition
from llmgen.recommend.request_weight import RequestWeight
from llmgen.types import FloatArray
from llmgen.workspace.core import RecommenderSettings, Workspace

SMALL = 0.03
CATALOG = Catalog([Item(f"i{number}", f"Film {number}") for number in range(8)])
LOG = pl.DataFrame(
    {
        "user_id": ["ann", "ann", "bob", "bob"],
        "item_id": ["i0", "i1", "i0", "i2"],
        "timestamp": [1, 2, 1, 2],
        "rating": [None] * 4,
    }
)
KNOWN, WISH, NOTHING = Query(history=["i0"], k=3), Query(text="film 5", k=3), Query(k=3)


class Own:
    """A prior of no kind that is known."""

    name = "own"
    weight = 1.0

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """All alike."""
        return np.zeros((len(queries), len(CATALOG)))


def made(*priors: str, **settings: object) -> Recommender:
    there = {
        "transition": Transition.fit(LOG, CATALOG),
        "popularity": Popularity.fit(LOG, CATALOG),
        "wish": TextQuery(CATALOG),
        "own": Own(),
    }
    return Recommender(CATALOG, FakeEngine(), priors=[there[name] for name in priors], **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("priors", "weights"),
    [
        ((), (1.0, 1.0, 1.0)),
        (("popularity",), (1.0, 1.0, 1.0)),
        (("transition",), (SMALL, 1.0, 1.0)),
        (("wish",), (1.0, SMALL, 1.0)),
        (("transition", "wish"), (SMALL, SMALL, 1.0)),
        (("own",), (SMALL, SMALL, 1.0)),
    ],
    ids=lambda given: " ".join(given) if given and isinstance(given[0], str) else None,
)
def test_beside_a_prior_that_knows_the_user_or_the_wish_it_is_small(
    priors: tuple[str, ...], weights: tuple[float, ...]
) -> None:
    answers = made(*priors).recommend_many([KNOWN, WISH, NOTHING])
    assert tuple(answer.lm_weight for answer in answers) == weights


def test_answers_are_those_of_the_same_weight_given() -> None:
    default, small, one = made("transition"), made("transition", lm_weight=SMALL), made("transition", lm_weight=1.0)
    assert default.recommend(KNOWN) == small.recommend(KNOWN) != one.recommend(KNOWN)
    assert default.recommend(NOTHING) == one.recommend(NOTHING)


def test_a_prior_that_is_put_beside_the_model_later_counts_too() -> None:
    prior = Transition.fit(LOG, CATALOG)
    assert made().with_priors(prior).recommend(KNOWN).lm_weight == SMALL
    assert made(lm_weight=0.5).with_priors(prior).recommend(KNOWN).lm_weight == 0.5


def test_it_is_saved_as_what_it_is(tmp_path: Path) -> None:
    made("transition").save(tmp_path / "saved")
    again = Recommender.load(tmp_path / "saved", engine=FakeEngine())
    assert again.config.lm_weight is None
    assert [answer.lm_weight for answer in again.recommend_many([KNOWN, NOTHING])] == [SMALL, 1.0]


@pytest.mark.parametrize("query", [KNOWN, WISH, NOTHING], ids=["history", "wish", "nothing"])
def test_the_commands_say_the_same(query: Query) -> None:
    workspace = Workspace(replace(Dataset.of(CATALOG), interactions=LOG))
    settings = RecommenderSettings(engine="fake", priors={"transition": 1.0, "wish": 1.0})
    by_command = workspace.recommender(settings, query).recommend(query)
    prompt = "cold_start" if query is WISH else ()
    assert made("transition", "wish", prompt=prompt).recommend(query) == by_command


def test_a_request_weight_is_as_before() -> None:
    weight = RequestWeight(bias=np.log(0.5))
    assert made("transition", lm_weight=weight).recommend(KNOWN).lm_weight == pytest.approx(0.5)
