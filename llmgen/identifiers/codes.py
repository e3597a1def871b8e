"""Codes in the place of titles, from the general to the particular: `<a_12><b_7><c_201><d_0>`."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_lowercase
from typing import ClassVar

import numpy as np

from llmgen.errors import ArgumentError
from llmgen.identifiers.kmeans import kmeans, nearest_centroid
from llmgen.identifiers.reading import Reading
from llmgen.types import IntArray, Item
from llmgen.vectors import ItemVectors
from llmgen.vectors.encoders import Float32Array

DEPTH = 3
SIZES = (16, 256)
"""Of codebooks that are chosen by the number of items."""
APART = 256
"""Tokens of the last place, which tells items apart whose codes are the same."""


@dataclass(frozen=True, eq=False)
class Codes:
    """Spells an item as tokens that a model's tokenizer must have (`tokens`); make it with `fit`.

    Each place of a code is the nearest centroid of what the places before leave over, so that each is finer than the
    one before. The last place comes of the item's id: the same code of a thousand items, its last place apart, costs
    no memory of which came first, and one in `APART` pairs of them shares it; the item prior decides between those, as
    between equal titles.

    Attributes:
        codebooks: float32 [depth, size, d]; rows of NaN fill up a codebook with fewer centroids.
        reading: How items are known.
    """

    kind: ClassVar[str] = "codes"

    codebooks: Float32Array
    reading: Reading

    @classmethod
    def fit(cls, vectors: ItemVectors, *, size: int | None = None, depth: int = DEPTH, seed: int = 0) -> Codes:
        """Quantise the vectors of a catalog by k-means of residuals.

        Args:
            vectors: Of the catalog: from texts, or of a collaborative model.
            size: Tokens of a place, 2 or more; by default the power of 2 that is next to the square root of the number
                of items, from 16 to 256.
            depth: Places, without the last one, from 1 to 24.
            seed: Of k-means.

        Raises:
            ArgumentError: A number is out of range.

        Source: residual quantisation (Chen et al., Sensors 2010), as items' ids in generative recommenders since TIGER
        (Rajput et al., NeurIPS 2023).
        """
        points = vectors.at(np.arange(len(vectors.catalog)))
        size = size_for(len(points)) if size is None else size
        if size < 2 or not 1 <= depth < len(ascii_lowercase) - 1:
            raise ArgumentError(f"size must be 2 or more and depth from 1 to 24, not {size} and {depth}")
        known = points[points.any(axis=1)]
        left = known if len(known) else points
        codebooks = np.full((depth, size, vectors.dimensions), np.nan, np.float32)
        for level in range(depth):
            made = kmeans(left, size, seed=seed)
            codebooks[level, : len(made)] = made
            left = left - made[nearest_centroid(left, made)]
        return cls(codebooks, Reading.of(vectors, _codes(codebooks, points)))

    @cached_property
    def digest(self) -> str:
        """See `llmgen.catalog.core.Identifier`."""
        told = json.dumps([self.kind, APART, self.reading.label, self.reading.content]).encode()
        arrays = (np.array(self.codebooks.shape), self.codebooks, self.reading.keys, self.reading.places)
        return hashlib.sha256(b"\0".join([told, *(array.tobytes() for array in arrays)])).hexdigest()[:16]

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The tokens of the first place, those of the second, and so on."""
        sizes = [*[self.codebooks.shape[1]] * len(self.codebooks), APART]
        return tuple(_token(place, code) for place, size in enumerate(sizes) for code in range(size))

    def codes(self, items: Sequence[Item]) -> IntArray:
        """Codes of items, int64 [len(items), depth + 1], the last place among them."""
        codes = self.reading.find(items, lambda vectors: _codes(self.codebooks, vectors))
        return np.column_stack([codes, [_apart(item.id) for item in items]])

    def spell(self, items: Sequence[Item], labels: Sequence[str]) -> list[str]:
        """See `llmgen.catalog.core.Identifier`; labels are not in it."""
        return ["".join(_token(place, code) for place, code in enumerate(row)) for row in self.codes(items).tolist()]


def size_for(n: int) -> int:
    """Tokens of a place for n items: the power of 2 that is next to their square root, from 16 to 256.

    >>> size_for(16_859)
    128
    """
    return min(max(SIZES[0], 1 << round(math.log2(n) / 2)), SIZES[1])


def _codes(codebooks: Float32Array, vectors: Float32Array) -> IntArray:
    """int64 [n, depth]."""
    left = np.asarray(vectors, np.float32)
    found = np.zeros((len(left), len(codebooks)), np.int64)
    for level, book in enumerate(codebooks):
        made = book[~np.isnan(book[:, 0])]
        found[:, level] = nearest_centroid(left, made)
        left = left - made[found[:, level]]
    return found


def _apart(item_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(item_id.encode(), digest_size=8).digest()) % APART


def _token(place: int, code: int) -> str:
    return f"<{ascii_lowercase[place]}_{code}>"
