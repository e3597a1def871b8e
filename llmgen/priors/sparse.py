"""Priors of large catalogs: one number for most items and others for few, and their product.

The same mathematics as `llmgen.priors.base`, on `SparseRow` instead of one number an item; nothing that is done for a
query grows with the catalog, unless a prior has no sparse form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from scipy import sparse

from llmgen.lru import Recent
from llmgen.priors.base import Prior, check_priors, combine, weighted
from llmgen.trie.weights import NO_ITEMS, NO_VALUES, ItemWeights, Shared, overwritten
from llmgen.types import FloatArray, IntArray, Query

LARGE_CATALOG = 20_000
"""Above so many items priors are worked with in sparse form; below, one number an item is quicker."""


class SparseRow(NamedTuple):
    """The log weights that a prior gives the items for one query, before its own weight.

    Attributes:
        base: Of all items but `items`: one number, or float64 [n_items]. Give the same array object again and again
            where queries share it: what is derived from it is then computed once.
        items: int64, catalog indices, rising, none twice.
        values: float64, their log weights; -inf removes an item.
    """

    base: FloatArray | float = 0.0
    items: IntArray = NO_ITEMS
    values: FloatArray = NO_VALUES

    def at(self, items: IntArray) -> FloatArray:
        """The log weights of some items, float64 [len(items)]."""
        found = self.base[items] if isinstance(self.base, np.ndarray) else np.full(len(items), self.base)
        return overwritten(found, items, self.items, self.values)


@runtime_checkable
class SparsePrior(Prior, Protocol):
    """A prior that can say what it knows in few numbers; all of llmgen's own can."""

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """The same as `log_weights`, one row a query."""
        ...


class SharedWeights:
    """Products of base arrays, the last few of them: requests with the same ones share what is derived from them.

    May be asked by several threads at once.

    Args:
        num_items: Of the catalog.
        most: How many products are kept; one holds some 70 bytes an item once it was searched with.
    """

    def __init__(self, num_items: int, most: int = 4) -> None:
        self.nothing = Shared(np.full(num_items, -np.inf))
        self._flat = Shared(np.zeros(num_items))
        self._known: Recent[tuple[tuple[int, float], ...], tuple[Shared, list[FloatArray]]] = Recent(most)

    def product(self, bases: Sequence[tuple[FloatArray, float]]) -> Shared:
        """The product of arrays, each raised to its weight; the last one that was made of the same, where it is kept.

        Args:
            bases: float64 [num_items] and its weight, any number.
        """
        if not bases:
            return self._flat
        key = tuple((id(base), weight) for base, weight in bases)

        def make() -> tuple[Shared, list[FloatArray]]:
            total = np.zeros(len(bases[0][0]))
            for base, weight in bases:
                total += weighted(base, weight)
            return Shared(total), [base for base, _ in bases]  # held, so that no other gets their ids

        return self._known.get(key, make)[0]


@dataclass(frozen=True, eq=False)
class Product:
    """The product of several priors for some queries, in the form that suits the catalog.

    Attributes:
        rows: The weights of each query.
        part: Name of a prior, number of a query and catalog index of an item -> what the prior adds to its score.
        nothing: Of a query that allows no item.
    """

    rows: Sequence[ItemWeights]
    part: Callable[[str, int, int], float]
    nothing: Shared

    def row(self, number: int) -> ItemWeights:
        """The log weights of one query."""
        return self.rows[number]

    def term(self, name: str, number: int, index: int) -> float:
        """What one prior adds to the score of the item at a catalog index, for one query."""
        return self.part(name, number, index)

    def among(self, candidates: Sequence[IntArray]) -> Product:
        """The same with nothing left but some items of each query: their catalog indices, int64, none twice."""
        rows = [row.among(items, self.nothing) for row, items in zip(self.rows, candidates, strict=True)]
        return Product(rows, self.part, self.nothing)


def combine_sparse(priors: Sequence[Prior], queries: Sequence[Query], shared: SharedWeights) -> Product:
    """Multiply priors, as `llmgen.priors.combine` does.

    A prior without a sparse form is asked query by query, and its row is as long as the catalog.

    Args:
        priors: No name twice.
        queries: One row each.
        shared: Products of earlier requests on the same catalog.

    Raises:
        ValueError: A name twice, or a weight that is not finite.
    """
    check_priors(priors)
    terms: dict[str, tuple[float, Sequence[SparseRow]]] = {}
    for prior in priors:
        if isinstance(prior, SparsePrior):
            rows = prior.sparse_log_weights(queries)
        else:
            rows = [whole_row(prior.log_weights([query])[0]) for query in queries]
        terms[prior.name] = float(prior.weight), rows
    products = [
        _product([(rows[number], weight) for weight, rows in terms.values()], shared) for number in range(len(queries))
    ]

    def part(name: str, number: int, index: int) -> float:
        weight, rows = terms[name]
        return float(weighted(rows[number].at(np.array([index])), weight)[0])

    return Product(products, part, shared.nothing)


def multiply(
    priors: Sequence[Prior], queries: Sequence[Query], n_items: int, shared: SharedWeights | None = None
) -> Product:
    """Multiply priors in the form that suits the catalog.

    Args:
        priors: No name twice.
        queries: One row each.
        n_items: Of the catalog.
        shared: Products of earlier requests on the same catalog, where there were some.

    Raises:
        ValueError: See `llmgen.priors.combine`.
    """
    shared = shared or SharedWeights(n_items)
    if n_items > LARGE_CATALOG:
        return combine_sparse(priors, queries, shared)
    combined = combine(priors, queries, n_items)
    return Product([ItemWeights.whole(row) for row in combined.total], combined.term, shared.nothing)


def whole_row(log_weights: FloatArray) -> SparseRow:
    """A row that says something of its own of every item; float64 [n_items]."""
    return SparseRow(0.0, np.arange(len(log_weights)), np.asarray(log_weights, dtype=np.float64))


def rows_of(scores: sparse.csr_array) -> Iterator[tuple[IntArray, FloatArray]]:
    """Columns, int64, rising, and values of each row."""
    scores.sort_indices()
    for start, end in pairwise(scores.indptr.tolist()):
        yield scores.indices[start:end].astype(np.int64), scores.data[start:end]


def lifted(items: IntArray, scores: FloatArray, floors: FloatArray | float, n_items: int) -> SparseRow:
    """`llmgen.priors.log_lift` of one row that is 0 but for some scores.

    Args:
        items: int64, catalog indices, rising, none twice.
        scores: float64, finite; those below 0 count as 0.
        floors: Natural logarithm of the floor, which is in (0, 1]; or float64 [n_items], where it is that for some
            items, those with a score among them, and another number for others.
        n_items: Of the catalog.
    """
    positive = scores > 0
    if not positive.any():
        return SparseRow()
    items, scores = items[positive], scores[positive] / scores.max()  # neither tiny nor huge scores may overflow
    floor = np.exp(floors[items[0]] if isinstance(floors, np.ndarray) else floors)
    return SparseRow(floors, items, np.log(scores * ((1.0 - floor) * n_items / scores.sum()) + floor))


def _product(factors: Sequence[tuple[SparseRow, float]], shared: SharedWeights) -> ItemWeights:
    bases = [(row.base, weight) for row, weight in factors if isinstance(row.base, np.ndarray)]
    numbers = [(row.base, weight) for row, weight in factors if not isinstance(row.base, np.ndarray)]
    removing = [row.items for row, _ in factors if not isinstance(row.base, np.ndarray) and row.base == -np.inf]
    items = min(removing, key=len) if removing else _union([row.items for row, _ in factors])
    values = np.zeros(len(items))
    for row, weight in factors:
        if removing:
            found = row.at(items)
        else:  # all that the row has of its own is among the items
            found = row.base[items] if isinstance(row.base, np.ndarray) else np.full(len(items), row.base)
            found[np.searchsorted(items, row.items)] = row.values
        values += weighted(found, weight)
    if removing:
        return ItemWeights(shared.nothing, 0.0, items, values)
    return ItemWeights(shared.product(bases), sum(weight * base for base, weight in numbers), items, values)


def _union(lists: Sequence[IntArray]) -> IntArray:
    """All numbers of some lists that rise, rising, none twice."""
    some = [one for one in lists if len(one)]
    if len(some) < 2:
        return some[0] if some else NO_ITEMS
    joined: IntArray = np.sort(np.concatenate(some), kind="stable")  # merges what is sorted
    new: IntArray = joined[np.append(True, joined[1:] != joined[:-1])]
    return new
