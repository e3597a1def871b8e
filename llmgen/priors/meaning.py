"""What items mean, by their vectors: those near the user's words, and those near what the user took."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, ConfigError
from llmgen.priors.base import FLOOR, Saving, check_floor
from llmgen.priors.interactions import Evidence, recency
from llmgen.priors.sparse import SparseRow, lifted
from llmgen.types import FloatArray, IntArray, Item, Query
from llmgen.vectors import ItemVectors
from llmgen.vectors.encoders import DEMO, Float32Array
from llmgen.vectors.named import named_vectors

Pool = Literal["sum", "max"]
NEIGHBOURS = 300
TEMPERATURE = 0.1


@dataclass(frozen=True, eq=False)
class _Near(Saving, ABC):
    """What both priors of this file are: near items get exp(cosine / temperature), all others the floor."""

    vectors: ItemVectors = field(repr=False)
    neighbours: int = NEIGHBOURS
    temperature: float = TEMPERATURE
    floor: float = FLOOR
    weight: float = 1.0
    name: str = "near"

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if self.neighbours < 1:
            raise ArgumentError(f"neighbours must be 1 or more, not {self.neighbours}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ArgumentError(f"temperature must be above 0, not {self.temperature}")

    @property
    def catalog(self) -> Catalog:
        """The items."""
        return self.vectors.catalog

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; 0 everywhere for a query that says nothing to this prior."""
        made = np.zeros((len(queries), len(self.catalog)))
        for row, few in zip(made, self.sparse_log_weights(queries), strict=True):
            row[:] = few.base
            row[few.items] = few.values
        return made

    @abstractmethod
    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`."""

    def prepare(self) -> None:
        """See `Preparable`: the index of a large catalog."""
        self.vectors.prepare()

    @cached_property
    def _floors(self) -> FloatArray | float:
        """The log weight of what is not near: the floor, and 0 where an item has no vector."""
        known = self.vectors.known
        return math.log(self.floor) if known is None else np.where(known, math.log(self.floor), 0.0)

    def _row(self, items: IntArray, scores: FloatArray, silent: IntArray | None = None) -> SparseRow:
        """A row of scores; of `silent` items it says nothing."""
        there = items >= 0
        if self.vectors.known is not None:
            there &= self.vectors.known[items]
        if silent is not None and len(silent):
            there &= ~np.isin(items, silent)
        items, scores = items[there], scores[there]
        order = np.argsort(items)
        row = lifted(items[order], scores[order], self._floors, len(self.catalog))
        if silent is None or not len(silent) or not len(row.items):
            return row
        items = np.concatenate([row.items, silent])
        order = np.argsort(items)
        return row._replace(items=items[order], values=np.append(row.values, np.zeros(len(silent)))[order])


@dataclass(frozen=True, eq=False)
class TextQueryVectors(_Near):
    """Items whose vectors are near that of `Query.text`, as a factor: score(j) = exp(cosine(text, j) / temperature).

    It finds what means the same in other words, where `TextQuery` finds the words themselves; beside each other the two
    know more than either. The items beyond the nearest ones weigh the floor.

    Attributes:
        vectors: Of the catalog's items, with an encoder that reads words.
        neighbours: How many items are near, 1 or more.
        temperature: Above 0: the smaller, the more the nearest ones are ahead of the others.
        floor: In (0, 1], see `llmgen.priors.log_lift`.
        weight: Exponent.
        name: Key in `Recommendation.terms`.

    Raises:
        ConfigError: The vectors have no encoder.

    Source: dense retrieval (Karpukhin et al., EMNLP 2020), here as a factor beside others.
    """

    name: str = "wish_vectors"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vectors.encoder is None:
            raise ConfigError(
                "WishVectors needs vectors with an encoder that reads words, and these came without one: "
                "ItemVectors.read(catalog, path, encoder)"
            )

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        catalog: Catalog,
        *,
        weight: float = 1.0,
        encoder: str = DEMO,
        vectors: str = "",
        content: str = "",
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
        floor: float = FLOOR,
    ) -> TextQueryVectors:
        """The prior of what settings name.

        Args:
            interactions: Not read.
            catalog: The items.
            weight: See the class.
            encoder: See `llmgen.vectors.load_encoder`.
            vectors: A folder to keep them in, or a file of your own, see `ItemVectors.read`; by default a folder of
                llmgen's cache.
            content: What is read of an item, see `llmgen.vectors.item_content`.
            neighbours: See the class.
            temperature: See the class.
            floor: See the class.

        Raises:
            EngineUnavailableError, DownloadError: The encoder cannot be had here.
            DataError, ConfigError: The vectors cannot be read.
        """
        found = named_vectors(catalog, encoder, vectors, content)
        return cls(found, neighbours, temperature, floor, weight)

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`; costs as much as finding the nearest items does."""
        rows = [SparseRow()] * len(queries)
        asked = {number: text for number, query in enumerate(queries) if (text := (query.text or "").strip())}
        if asked:
            found = self.vectors.nearest(self.vectors.words(list(asked.values())), self.neighbours, words=True)
            for number, items, cosines in zip(asked, *found, strict=True):
                rows[number] = self._row(items, _sharpened(cosines, self.temperature))
        return rows

    def on_catalog(self, catalog: Catalog, before: IntArray) -> TextQueryVectors:
        """See `Movable`; only new and changed items are encoded."""
        return dataclasses.replace(self, vectors=self.vectors.on_catalog(catalog, before))


@dataclass(frozen=True, eq=False)
class HistoryVectors(_Near):
    """Items whose vectors are near those of the history, as a factor.

    Each item of the history speaks for its nearest neighbours, the newer the louder; age 0 is the newest item:

        score(j) = sum_i decay^age(i) * exp(cosine(i, j) / temperature)

    With `pool="max"` it is the largest of these numbers, not their sum: one item that is near enough is then as good as
    many. Of the items of the history themselves it says nothing. It needs no log, so it knows new items as well as old
    ones.

    Items of the history that the catalog lacks count too: those that were taken out of it, and those of another
    catalog, such as films where music is recommended. Their vectors are looked up in `others`, or made by the encoder.
    Ids must tell the catalogs apart.

    Attributes:
        vectors: Of the catalog's items.
        neighbours: How many items are near each item of the history, 1 or more.
        temperature: Above 0: the smaller, the more the nearest ones are ahead of the others.
        floor: In (0, 1], see `llmgen.priors.log_lift`.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
        decay: In (0, 1]: an item of the history counts this much less for each newer one.
        newest: How many items of the history are looked at, 1 or more.
        pool: `sum` or `max`.
        others: Vectors of items of other catalogs, in the same space.

    Raises:
        ArgumentError: Something out of range, or vectors of other catalogs of another dimension.
    """

    name: str = "history_vectors"
    decay: float = 0.9
    newest: int = 20
    pool: Pool = "sum"
    others: Sequence[ItemVectors] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay <= 1:
            raise ArgumentError(f"decay must be in (0, 1], not {self.decay}")
        if self.newest < 1:
            raise ArgumentError(f"newest must be 1 or more, not {self.newest}")
        if self.pool not in get_args(Pool):
            raise ArgumentError(f"pool must be sum or max, not {self.pool!r}")
        for other in self.others:
            if other.dimensions != self.vectors.dimensions:
                raise ArgumentError(
                    f"vectors of another catalog have {other.dimensions} numbers and these {self.vectors.dimensions}; "
                    "make both with one encoder"
                )

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        catalog: Catalog,
        *,
        weight: float = 1.0,
        encoder: str = DEMO,
        vectors: str = "",
        content: str = "",
        neighbours: int = NEIGHBOURS,
        temperature: float = TEMPERATURE,
        floor: float = FLOOR,
        decay: float = 0.9,
        newest: int = 20,
        pool: Pool = "sum",
    ) -> HistoryVectors:
        """The prior of what settings name, see `WishVectors.fit`.

        Args:
            interactions: Not read.
            catalog: The items.
            weight: See the class.
            encoder: See `WishVectors.fit`; it need not be there where `vectors` is a file: an empty name is none.
            vectors: See `WishVectors.fit`.
            content: See `WishVectors.fit`.
            neighbours: See the class.
            temperature: See the class.
            floor: See the class.
            decay: See the class.
            newest: See the class.
            pool: See the class.

        Raises:
            EngineUnavailableError, DownloadError, DataError, ConfigError: See `WishVectors.fit`.
        """
        found = named_vectors(catalog, encoder, vectors, content)
        return cls(found, neighbours, temperature, floor, weight, decay=decay, newest=newest, pool=pool)

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`; costs as much as finding the nearest items does."""
        rows = [SparseRow()] * len(queries)
        read = {number: found for number, query in enumerate(queries) if len((found := self._read(query))[0])}
        if not read:
            return rows
        points = np.concatenate([vectors for vectors, _ in read.values()])
        near, cosines = self.vectors.nearest(points, self.neighbours)
        start = 0
        for number, (_, weights) in read.items():
            end = start + len(weights)
            scores = _sharpened(cosines[start:end], self.temperature, weights)
            taken = np.unique(np.array(self.catalog.positions(queries[number].items), np.int64))
            rows[number] = self._row(*_pooled(near[start:end], scores, self.pool), taken)
            start = end
        return rows

    def evidence(self, query: Query, item: Item) -> list[Evidence]:
        """The items of the history that are near an item, see `ItemToItem.evidence`.

        Raises:
            UnknownItemError: `item` is not in the catalog.
        """
        vectors, weights = self._read(query, keep_blank=True)
        (wanted,) = self.vectors.at([self.catalog.index(item)])
        parts = weights * np.maximum(vectors @ wanted, 0.0)
        sums: dict[str, Evidence] = {}
        for taken, part in zip(query.items[-self.newest :], parts.tolist(), strict=True):
            before = sums[taken.id].score if taken.id in sums else 0.0
            sums[taken.id] = Evidence(taken, before + part)
        return sorted((entry for entry in sums.values() if entry.score > 0), key=lambda entry: -entry.score)

    def on_catalog(self, catalog: Catalog, before: IntArray) -> HistoryVectors:
        """See `Movable`; only new and changed items are encoded."""
        return dataclasses.replace(self, vectors=self.vectors.on_catalog(catalog, before))

    def _read(self, query: Query, *, keep_blank: bool = False) -> tuple[Float32Array, FloatArray]:
        """Vectors of the newest items of a history, oldest first, and what each counts; without those of length 0."""
        items = query.items[-self.newest :]
        weights = recency(len(items), self.decay)
        vectors = np.zeros((len(items), self.vectors.dimensions), np.float32)
        strange = []
        for place, item in enumerate(items):
            for one in (self.vectors, *self.others):
                if item in one.catalog:
                    vectors[place] = one.at([one.catalog.index(item)])[0]
                    break
            else:
                strange.append(place)
        if strange and self.vectors.encoder is not None:
            vectors[strange] = self.vectors.contents([items[place] for place in strange])
        kept = np.ones(len(items), bool) if keep_blank else vectors.any(axis=1)
        return vectors[kept], weights[kept]


def _sharpened(cosines: Float32Array, temperature: float, weights: FloatArray | float = 1.0) -> FloatArray:
    """Of each cosine weight * exp(cosine / temperature), divided by the largest; a row of cosines for each weight."""
    log_scores = cosines.astype(np.float64) / temperature
    if isinstance(weights, np.ndarray):
        log_scores = log_scores + np.log(weights)[:, None]
    made: FloatArray = np.exp(log_scores - log_scores.max())
    return made


def _pooled(items: IntArray, scores: FloatArray, pool: Pool) -> tuple[IntArray, FloatArray]:
    """Each item once, rising, with the sum or the largest of its scores."""
    found, which = np.unique(items, return_inverse=True)
    if pool == "sum":
        return found, np.bincount(which.ravel(), scores.ravel(), len(found)).astype(np.float64)
    best = np.zeros(len(found))
    np.maximum.at(best, which.ravel(), scores.ravel())
    return found, best
