"""Priors that need no fit: random, repeat the last item, the choice of a few; and a random order of ties."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmgen.catalog.core import Catalog
from llmgen.priors import SparseRow
from llmgen.types import FloatArray, Query

FIRST_PLACES = 1_000
"""Of a random order of a large catalog, that are drawn."""


@dataclass(frozen=True, eq=False)
class Random:
    """Any order, the same one for a user always.

    Attributes:
        n_items: Size of the catalog.
        seed: Another seed, another order.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    n_items: int
    seed: int = 0
    weight: float = 1.0
    name: str = "random"

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`."""
        rows = [np.random.default_rng([self.seed, _number(str(query.user_id))]) for query in queries]
        return np.log([1.0 - rng.random(self.n_items) for rng in rows]) if rows else np.empty((0, self.n_items))

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`; only the first places are drawn, for an order of a million items is read no further."""
        rows = []
        for query in queries:
            rng = np.random.default_rng([self.seed, _number(str(query.user_id))])
            first = np.unique(rng.integers(self.n_items, size=FIRST_PLACES))
            rows.append(SparseRow(-1.0, first, -rng.random(len(first))))
        return rows


@dataclass(frozen=True)
class RandomTies:
    """Each user's own random order of the items that score alike; it is no prior and changes no score.

    Attributes:
        n_items: Size of the catalog.
        seed: Another seed, another order.
    """

    n_items: int
    seed: int

    def __call__(self, query: Query) -> FloatArray:
        """See `llmgen.recommend.parts.TieOrder`; the same for a user always."""
        return np.random.default_rng([self.seed, _number(str(query.user_id))]).random(self.n_items)


@dataclass(frozen=True, eq=False)
class RepeatLast:
    """What was taken last comes first, then what was taken before it; what was never taken last of all.

    Attributes:
        catalog: The items.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    catalog: Catalog = field(repr=False)
    weight: float = 1.0
    name: str = "repeat_last"

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`."""
        found = np.zeros((len(queries), len(self.catalog)))
        for row, query in zip(found, queries, strict=True):
            for age, position in enumerate(dict.fromkeys(reversed(self.catalog.positions(query.items)))):
                row[position] = 1.0 / (1 + age)
        return found

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`."""
        rows = []
        for query in queries:
            taken = np.array(list(dict.fromkeys(reversed(self.catalog.positions(query.items)))), np.int64)
            order = taken.argsort()
            rows.append(SparseRow(0.0, taken[order], 1.0 / (1.0 + order.astype(np.float64))))
        return rows


@dataclass(frozen=True, eq=False)
class Among:
    """Removes all but a few items, the same ones for everybody.

    Attributes:
        allowed: float64 [n_items], 0 for these and -inf for the others.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    allowed: FloatArray = field(repr=False)
    weight: float = 1.0
    name: str = "among"

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`."""
        return np.tile(self.allowed, (len(queries), 1))

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`."""
        return [SparseRow(self.allowed)] * len(queries)


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
