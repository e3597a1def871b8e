"""PriorContract: what every item prior must do, as tests that the test class of a prior inherits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.priors import Movable, Prior, SparsePrior, reweighted
from llmgen.recommend.recommender import Recommender
from llmgen.testing.catalogs import films, views_of
from llmgen.types import FloatArray, Item, Query


class PriorContract:
    """Give it a fixture `prior`: made for the fixture `catalog`, and fitted on the fixture `log` if it is fitted.

    `catalog`, `log` and `queries` may be overridden by fixtures of your own, where the prior reads what made-up films
    do not have. What is optional is asked only of priors that have it: `sparse_log_weights`, `on_catalog`, and being a
    dataclass, without which a weight cannot be tuned.

    Attributes:
        tolerance: Largest difference of two log weights that are to be equal.
        removes: Whether the prior may remove items; others give finite numbers only.
    """

    tolerance = 1e-9
    removes = False

    @pytest.fixture
    def catalog(self) -> Catalog:
        """Sixty made-up films."""
        return films(60)

    @pytest.fixture
    def log(self, catalog: Catalog) -> pl.DataFrame:
        """Who took which of them when."""
        return views_of(catalog)

    @pytest.fixture
    def queries(self, catalog: Catalog) -> list[Query]:
        """Users without a history, with a short and a long one, with a wish, with an item that the catalog lacks."""
        items = list(catalog)
        return [
            Query(),
            Query(history=items[:1], user_id="u1"),
            Query(history=items[3:9], ratings=[5.0, 1.0, 3.0, 4.0, 2.0, 5.0], user_id="u2"),
            Query(history=[items[2], items[5], items[2]], exclude_seen=False),
            Query(text=f"something like {items[1].title}", user_id="a stranger"),
            Query(history=[items[4], Item("nowhere", "An item that the catalog lacks")], text=items[0].title),
            Query(history=items[-2:]),
        ]

    def test_it_has_a_name_and_a_weight(self, prior: Prior) -> None:
        """The key of its part of the score, and a finite exponent."""
        assert isinstance(prior.name, str) and prior.name, f"the name is {prior.name!r}"
        assert np.isfinite(prior.weight), f"the weight is {prior.weight}"

    def test_log_weights_are_one_number_a_query_and_item(
        self, prior: Prior, catalog: Catalog, queries: list[Query]
    ) -> None:
        """float64 [n_queries, n_items], finite, or -inf where an item is removed."""
        found = prior.log_weights(queries)
        assert found.dtype == np.float64, f"log weights are {found.dtype}, not float64"
        assert found.shape == (len(queries), len(catalog)), f"{found.shape} for {len(queries)} queries"
        assert not np.isnan(found).any(), f"NaN in the rows {np.unique(np.isnan(found).nonzero()[0])}"
        assert not np.isposinf(found).any(), f"+inf in the rows {np.unique(np.isposinf(found).nonzero()[0])}"
        assert self.removes or np.isfinite(found).all(), "-inf removes an item; say `removes = True` where it should"

    def test_no_query_no_row(self, prior: Prior, catalog: Catalog) -> None:
        """An empty batch has an empty answer."""
        shape = prior.log_weights([]).shape
        assert shape == (0, len(catalog)), f"{shape} for no query, not {(0, len(catalog))}"

    def test_answers_do_not_depend_on_the_company(self, prior: Prior, queries: list[Query]) -> None:
        """Queries that are asked together are answered as each alone, in any order."""
        together, backwards = prior.log_weights(queries), prior.log_weights(queries[::-1])[::-1]
        alone = np.concatenate([prior.log_weights([query]) for query in queries])
        self._same(together, alone, "asked together and alone")
        self._same(together, backwards, "asked in another order")

    def test_an_answer_is_the_askers_own(self, prior: Prior, queries: list[Query]) -> None:
        """Whoever changes an answer does not change the next one."""
        first = prior.log_weights(queries)
        before = first.copy()
        if first.flags.writeable:
            first[:] = 99.0
        self._same(prior.log_weights(queries), before, "asked again")

    def test_the_sparse_form_says_the_same(self, prior: Prior, catalog: Catalog, queries: list[Query]) -> None:
        """One row a query; items rise, none twice."""
        if not isinstance(prior, SparsePrior):
            return
        rows = prior.sparse_log_weights(queries)
        assert len(rows) == len(queries), f"{len(rows)} rows for {len(queries)} queries"
        for row in rows:
            assert (np.diff(row.items) > 0).all(), f"the items of a sparse row must rise: {row.items}"
            assert len(row.items) == len(row.values), f"{len(row.items)} items have {len(row.values)} values"
        everything = np.arange(len(catalog))
        dense = np.array([row.at(everything) for row in rows])
        self._same(dense, prior.log_weights(queries), "in sparse and dense form")
        assert prior.sparse_log_weights([]) == []

    def test_it_follows_a_catalog_that_is_put_in_another_order(
        self, prior: Prior, catalog: Catalog, queries: list[Query]
    ) -> None:
        """The same items have the same weights, wherever they stand."""
        if not isinstance(prior, Movable):
            return
        order = np.arange(len(catalog))[::-1].copy()
        moved = prior.on_catalog(self._with_items(catalog, [catalog[int(place)] for place in order]), order)
        self._same(moved.log_weights(queries), prior.log_weights(queries)[:, order], "in another order of the catalog")
        assert (moved.name, moved.weight) == (prior.name, prior.weight)

    def test_it_follows_a_catalog_whose_items_come_and_go(
        self, prior: Prior, catalog: Catalog, queries: list[Query]
    ) -> None:
        """What is new has a weight too, and histories with items that are gone are answered."""
        if not isinstance(prior, Movable):
            return
        new = [
            Item("new-1", "An entirely new film", catalog[0].attributes),
            dataclasses.replace(catalog[1], id="new-2"),
        ]
        grown = [*catalog, *new]
        kept = [place for place in range(len(catalog)) if place % 3]
        for items, before in (
            (grown, np.append(np.arange(len(catalog)), [-1, -1])),
            ([*(catalog[place] for place in kept), *new], np.array([*kept, -1, -1])),
        ):
            moved = prior.on_catalog(self._with_items(catalog, items), before.astype(np.int64))
            asked = [*queries, Query(history=[*catalog[:2], new[0]], user_id="u1")]
            found = moved.log_weights(asked)
            assert found.shape == (len(asked), len(items)), f"{found.shape} for {len(items)} items"
            assert not np.isnan(found).any() and not np.isposinf(found).any(), "NaN or +inf in a changed catalog"
            assert self.removes or np.isfinite(found).all(), "-inf in a changed catalog"

    def test_a_copy_with_another_weight_says_the_same(self, prior: Prior, queries: list[Query]) -> None:
        """The weight is an exponent that stands outside of `log_weights`."""
        if not dataclasses.is_dataclass(prior):
            return
        other = reweighted(prior, 2.5)
        assert other.weight == 2.5
        self._same(other.log_weights(queries), prior.log_weights(queries), "with another weight")

    def test_a_recommender_multiplies_with_it(self, prior: Prior, catalog: Catalog, queries: list[Query]) -> None:
        """Its part of each score is its weight times its log weight."""
        recommender = Recommender(catalog, None, priors=[prior])
        rows = prior.log_weights(queries)
        for query, row in zip(queries, rows, strict=True):
            found = recommender.recommend(dataclasses.replace(query, k=5, exclude_seen=False))
            assert len(found), "no item was recommended"
            for place in found:
                expected = prior.weight * row[catalog.index(place.item.id)]
                assert abs(place.terms[prior.name] - expected) <= self.tolerance, f"{place.terms} instead of {expected}"

    def _same(self, one: FloatArray, other: FloatArray, when: str) -> None:
        gone = np.isneginf(one)
        assert (gone == np.isneginf(other)).all(), f"other items are removed when {when}"
        apart = np.abs(np.where(gone, 0.0, one) - np.where(gone, 0.0, other))
        assert not apart.size or apart.max() <= self.tolerance, f"log weights differ by {apart.max():.3g} when {when}"

    @staticmethod
    def _with_items(catalog: Catalog, items: Sequence[Item]) -> Catalog:
        return catalog.like(items)
