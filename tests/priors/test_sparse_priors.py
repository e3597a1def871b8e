"""What priors say in few numbers is what they say in one number an item."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.priors import (
    AttributeFilter,
    Content,
    Ease,
    ExcludeSeen,
    ItemKNN,
    ItemToItem,
    Popularity,
    Prior,
    SharedWeights,
    SparsePrior,
    SparseRow,
    TextQuery,
    Transition,
    combine,
    combine_sparse,
    multiply,
)
from llmgen.priors import sparse as sparse_module
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.tuning import REMOVED, target_ranks
from llmgen.types import FloatArray, Item, Query

WORDS = ("alien", "brazil", "desert", "moon", "river", "story")
CATALOG = Catalog(
    [
        Item(
            str(number),
            f"{WORDS[number % 6]} {WORDS[number // 6 % 6]} {number}",
            {"year": 1980 + number % 7, "rare": "yes" if number == 3 else "no", "half": number % 2},
        )
        for number in range(40)
    ]
)


def log(seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 12, size=150)
    items = rng.integers(0, 25, size=150)  # the others nobody took
    return pl.DataFrame({"user_id": users.astype(str), "item_id": items.astype(str), "timestamp": np.arange(150.0)})


def fitted() -> list[Prior]:
    knn = ItemKNN.fit(log(), CATALOG, neighbours=3, weight=0.7)
    assert isinstance(Transition.fit(log(), CATALOG).similarity, np.ndarray)  # so that both kinds are met
    narrow = dataclasses.replace(knn, similarity=sparse.csr_array(knn.similarity), name="narrow")
    return [
        ExcludeSeen(CATALOG),
        AttributeFilter(CATALOG),
        TextQuery(CATALOG, weight=0.5),
        Popularity.fit(log(), CATALOG, weight=-0.3),
        Transition.fit(log(), CATALOG),
        Ease.fit(log(), CATALOG, weight=2.0),
        knn,
        narrow,
        Content(CATALOG, weight=0.6),
    ]


PRIORS = fitted()
FILTERS = st.sampled_from(
    [{}, {}, {"year": "1983.."}, {"rare": "yes"}, {"rare": "no"}, {"half": 1, "year": ("1980..1982", "1985")}]
)
QUERIES = st.builds(
    Query,
    history=st.lists(st.sampled_from([*CATALOG, Item("gone", "Gone")]), max_size=6),
    text=st.sampled_from([None, " ", "a river story", "xyz"]),
    exclude_seen=st.booleans(),
    filters=FILTERS,
)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.name)
@settings(max_examples=50, deadline=None)
@given(queries=st.lists(QUERIES, max_size=4))
def test_each_prior_says_the_same_in_both_forms(prior: Prior, queries: list[Query]) -> None:
    assert isinstance(prior, SparsePrior)
    rows = prior.sparse_log_weights(queries)
    everything = np.arange(len(CATALOG))
    assert len(rows) == len(queries)
    for row, dense in zip(rows, prior.log_weights(queries), strict=True):
        assert (np.diff(row.items) > 0).all()
        np.testing.assert_allclose(row.at(everything), dense, atol=1e-12)


class Whole:
    """A prior of somebody's own, without a sparse form."""

    name = "whole"
    weight = 1.5

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        return np.stack([np.sin(np.arange(40.0)) - len(query.history) for query in queries])


@settings(max_examples=150, deadline=None)
@given(
    queries=st.lists(QUERIES, min_size=1, max_size=4),
    chosen=st.lists(st.sampled_from([*PRIORS, Whole()]), unique_by=lambda prior: prior.name),
    candidates=st.lists(st.integers(0, 39), min_size=1, unique=True),
)
def test_products_are_the_same(queries: list[Query], chosen: list[Prior], candidates: list[int]) -> None:
    whole, dense = combine(chosen, queries, len(CATALOG)), multiply(chosen, queries, len(CATALOG))
    few = combine_sparse(chosen, queries, SharedWeights(len(CATALOG)))
    some = [np.array(candidates)] * len(queries)
    targets = np.arange(len(queries))
    ranks = target_ranks(whole.total, targets).tolist()
    for number in range(len(queries)):
        assert dense.row(number).alone
        for product in (few, dense):
            assert product.row(number).rank(number) == (None if ranks[number] == REMOVED else ranks[number])
            np.testing.assert_allclose(product.row(number).dense(), whole.total[number], atol=1e-12)
            left = np.full(len(CATALOG), -np.inf)
            left[candidates] = whole.total[number, candidates]
            np.testing.assert_allclose(product.among(some).row(number).dense(), left, atol=1e-12)
        for prior in chosen:
            assert few.term(prior.name, number, 7) == pytest.approx(dense.term(prior.name, number, 7), abs=1e-12)


def test_queries_share_what_is_the_same_for_all_of_them() -> None:
    shared = SharedWeights(len(CATALOG))
    some = [Query(history=[CATALOG[number], CATALOG[number + 1]]) for number in range(5)]
    rows = combine_sparse(PRIORS, some, shared).rows
    later = combine_sparse(PRIORS, some[:1], shared).rows
    assert len({id(row.shared) for row in (*rows, *later)}) == 1
    filtered = [Query(filters={"half": 1}), Query(filters={"half": 1})]
    assert len({id(row.shared) for row in combine_sparse(PRIORS, filtered, shared).rows}) == 1


def test_only_the_last_products_and_filters_are_kept() -> None:
    where, shared = AttributeFilter(CATALOG), SharedWeights(len(CATALOG), most=2)
    for year in range(1980, 1986):
        combine_sparse([where], [Query(filters={"year": (f"{year}", "1986", "1985", "1984")})], shared)
    assert len(shared._known) == 2
    assert len(where.rows) <= 8


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
def test_an_item_that_nothing_leads_to_is_not_held_to_fit_badly(kind: Any) -> None:
    similarity = np.zeros((40, 40))
    similarity[0, 1] = similarity[2, 3] = 1.0
    prior = ItemToItem(CATALOG, kind(similarity))
    (log_w,) = prior.log_weights([Query(history=[CATALOG[0]])])
    assert log_w[1] > 0
    assert log_w[3] == np.log(prior.floor)  # known, and not for this user
    assert (np.delete(log_w, [1, 3]) == 0).all()


def test_a_row_of_few_items_costs_no_array_of_all() -> None:
    (row,) = AttributeFilter(CATALOG).sparse_log_weights([Query(filters={"rare": "yes"})])
    assert (row.base, row.items.tolist(), row.values.tolist()) == (-np.inf, [3], [0.0])
    (row,) = AttributeFilter(CATALOG).sparse_log_weights([Query(filters={"rare": "no"})])
    assert (row.base, row.items.tolist(), row.values.tolist()) == (0.0, [3], [-np.inf])


@pytest.mark.parametrize("lm_weight", [0.0, 0.4])
def test_a_recommender_answers_alike_in_both_forms(lm_weight: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    queries = [
        Query(
            history=[CATALOG[int(place)] for place in rng.integers(0, 40, size=size)],
            text="river" if size % 2 else None,
            filters={"half": 1} if size > 3 else {},
            k=5,
        )
        for size in range(7)
    ]
    priors = [prior for prior in PRIORS if prior.name not in ("seen", "where")]
    answers = []
    for large in (20_000, 0):
        monkeypatch.setattr(sparse_module, "LARGE_CATALOG", large)
        one = Recommender(CATALOG, FakeEngine(), priors=priors, lm_weight=lm_weight, exact=True)
        ranked = one.rank_many([(query, ["5", "3", "7"]) for query in queries[:4]])
        answers.append([*one.recommend_many(queries), *ranked])
    for dense, few in zip(*answers, strict=True):
        assert [place.item.id for place in dense] == [place.item.id for place in few]
        for place, other in zip(dense, few, strict=True):
            assert place.terms == pytest.approx(other.terms, abs=1e-9)
            assert (place.score, place.probability) == pytest.approx((other.score, other.probability))


def test_scores_too_large_or_small_to_add_are_no_matter() -> None:
    similarity = np.zeros((40, 40))
    similarity[1, 2], similarity[1, 3] = 1e308, 1e308
    prior = ItemToItem(CATALOG, similarity)
    (row,) = prior.sparse_log_weights([Query(history=[CATALOG[1]])])
    np.testing.assert_allclose(row.at(np.arange(40)), prior.log_weights([Query(history=[CATALOG[1]])])[0])
    assert isinstance(row, SparseRow)
