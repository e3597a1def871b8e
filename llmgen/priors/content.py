"""What items say of themselves: a factor that also knows items which nobody took yet."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError
from llmgen.priors.base import FLOOR, Saving, check_floor, log_lift, only_appended, unchanged
from llmgen.priors.interactions import INDEX, Evidence, histories_of
from llmgen.priors.sparse import SparseRow, lifted, rows_of
from llmgen.text.bm25 import LARGE
from llmgen.text.normalization import tokens
from llmgen.types import FloatArray, IntArray, Item, Query

RANGES = 8
"""Ranges that the numbers of an attribute are divided into, with about as many items each."""


@dataclass(frozen=True, eq=False)
class Features:
    """What is counted of an item: words of its title, values of its attributes, ranges of its numbers.

    Attributes:
        columns: Feature -> its column.
        weights: float64 [n_features], inverse document frequency, log(n_items / items that have it).
        edges: Attribute -> rising numbers between its ranges.
    """

    columns: Mapping[str, int]
    weights: FloatArray
    edges: Mapping[str, FloatArray]

    @classmethod
    def of(cls, items: Sequence[Item]) -> Features:
        """Those of some items, each of which two of them have at least: others make no two items alike."""
        numbers: dict[str, list[float]] = {}
        for item in items:
            for name, value in item.attributes.items():
                if _is_number(value):
                    numbers.setdefault(name, []).append(float(value))
        edges = {name: np.unique(np.quantile(own, np.arange(1, RANGES) / RANGES)) for name, own in numbers.items()}
        counts = Counter(feature for item in items for feature in set(_features(item, edges)))
        common = sorted(feature for feature, count in counts.items() if count > 1)
        columns = {feature: column for column, feature in enumerate(common)}
        return cls(columns, np.log(len(items) / np.array([counts[feature] for feature in common])), edges)

    def vectors(self, items: Sequence[Item]) -> sparse.csr_array:
        """float64 [len(items), n_features], each row of length 1, or 0 where an item has no known feature."""
        known = [[self.columns[f] for f in set(_features(item, self.edges)) if f in self.columns] for item in items]
        indices = np.array([column for row in known for column in sorted(row)], dtype=INDEX)
        ends = np.cumsum([0, *map(len, known)], dtype=INDEX)
        values = self.weights[indices]
        rows = np.repeat(np.arange(len(items)), np.diff(ends))
        lengths = np.sqrt(np.bincount(rows, values**2, minlength=len(items)))
        values = np.divide(values, lengths[rows], out=np.zeros_like(values), where=lengths[rows] > 0)
        return sparse.csr_array((values, indices, ends), shape=(len(items), len(self.columns)))


@dataclass(frozen=True, eq=False)
class Content(Saving):
    """Items that are like those of the history: score(j) = sum_i decay^age(i) * cosine of the features of i and j.

    Age 0 is the newest item of the history. It needs no log, so it knows new items as well as old ones.

    Attributes:
        catalog: The items.
        decay: In (0, 1]: an item of the history counts this much less for each newer one.
        floor: In (0, 1], see `llmgen.priors.log_lift`.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
        features: What is counted; made of the catalog where it is not given.
        vectors: float64 [n_items, n_features]; made of the catalog where they are not given.

    Source: the vector space model; TF-IDF with binary term frequency (Salton & Buckley, IPM 1988).
    """

    catalog: Catalog = field(repr=False)
    decay: float = 0.95
    floor: float = FLOOR
    weight: float = 1.0
    name: str = "content"
    features: Features | None = field(default=None, repr=False)
    vectors: sparse.csr_array | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if not 0 < self.decay <= 1:
            raise ArgumentError(f"decay must be in (0, 1], not {self.decay}")
        if self.features is None or self.vectors is None:
            features = Features.of(self.catalog)
            object.__setattr__(self, "features", features)
            object.__setattr__(self, "vectors", features.vectors(self.catalog))

    def scores(self, queries: Sequence[Query]) -> sparse.csr_array:
        """Raw scores, float64 [len(queries), n_items], 0 or more; none for a query without history."""
        assert self.vectors is not None  # made in __post_init__
        liked = histories_of(self.catalog, queries, self.decay) @ self.vectors
        result: sparse.csr_array = liked @ self.vectors.T
        return result

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; 0 everywhere for a query whose history says nothing."""
        return log_lift(self.scores(queries).toarray(), self.floor)

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`; costs as much as there are items with a feature of the history."""
        floor = float(np.log(self.floor))
        return [lifted(items, found, floor, len(self.catalog)) for items, found in rows_of(self.scores(queries))]

    def evidence(self, query: Query, item: Item) -> list[Evidence]:
        """The items of the history that are like an item, see `ItemToItem.evidence`.

        Raises:
            UnknownItemError: `item` is not in the catalog.
        """
        assert self.vectors is not None  # made in __post_init__
        taken = self.catalog.positions(query.items)
        alike = (self.vectors[taken] @ self.vectors[[self.catalog.index(item)]].T).toarray()[:, 0]
        sums: dict[int, float] = {}
        for age, (position, cosine) in enumerate(reversed(list(zip(taken, alike.tolist(), strict=True)))):
            sums[position] = sums.get(position, 0.0) + self.decay**age * cosine
        found = [Evidence(self.catalog[position], part) for position, part in sums.items() if part > 0]
        return sorted(found, key=lambda entry: -entry.score)

    def on_catalog(self, catalog: Catalog, before: IntArray) -> Content:
        """See `Movable`; what changed items say is counted by the features that the others have.

        In a small catalog any change but new items at the end counts all features anew.
        """
        assert self.features is not None and self.vectors is not None  # made in __post_init__
        if catalog.begins_with(self.catalog):
            same = before
        elif len(catalog) >= LARGE:
            same = unchanged(self.catalog, catalog, before)
        else:
            return dataclasses.replace(self, catalog=catalog, features=None, vectors=None)
        new = self.features.vectors([catalog[place] for place in np.flatnonzero(same < 0).tolist()])
        places = same.copy()
        places[same < 0] = len(self.catalog) + np.arange((same < 0).sum())
        vectors = sparse.csr_array(sparse.vstack([self.vectors, new]))
        if not only_appended(same, len(self.catalog)):
            vectors = sparse.csr_array(vectors[places])
        return dataclasses.replace(self, catalog=catalog, vectors=vectors)


def _features(item: Item, edges: Mapping[str, FloatArray]) -> Iterator[str]:
    for word in tokens(item.title):
        yield f"title:{word}"
    for name, value in item.attributes.items():
        if _is_number(value):
            if name in edges:
                yield f"{name}#{int(np.searchsorted(edges[name], float(value), side='right'))}"
        else:
            for part in value if isinstance(value, tuple) else (value,):
                yield f"{name}:{part}"


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
