"""Where items stand: looked up for those that were there when an identifier was fitted, read from what others say."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmgen.catalog.core import label_of
from llmgen.types import IntArray, Item
from llmgen.vectors import Encoder, ItemVectors
from llmgen.vectors.contents import content_of
from llmgen.vectors.encoders import Float32Array
from llmgen.vectors.making import read_items

MOST_LATE = 65_536
"""Places of items that came later which are kept, the last ones asked for."""


@dataclass(frozen=True, eq=False)
class Reading:
    """How an identifier knows an item.

    Attributes:
        label: How the catalog that it was fitted on wrote items.
        content: What an encoder reads of an item, see `item_content`.
        encoder: Reads items that come later; None where vectors were given without one: nothing is known of them then.
        keys: uint64 [n], rising, one for each item that was there.
        places: int64 [n, width], where these stand.
        dimensions: Of a vector.
    """

    label: str
    content: str | None
    encoder: Encoder | None
    keys: NDArray[np.uint64]
    places: IntArray
    dimensions: int
    _late: OrderedDict[int, tuple[int, ...]] = field(default_factory=OrderedDict, repr=False)

    @classmethod
    def of(cls, vectors: ItemVectors, places: IntArray) -> Reading:
        """How items of a catalog are known whose vectors are there.

        Args:
            vectors: Of the catalog.
            places: int64 [n_items, width], where each of its items stands.
        """
        catalog = vectors.catalog
        nothing = np.zeros(0, np.uint64)
        empty = np.zeros((0, places.shape[1]), np.int64)
        made = cls(catalog.label_format, vectors.content, vectors.encoder, nothing, empty, vectors.dimensions)
        keys, first = np.unique(made.keys_of(catalog), return_index=True)
        return cls(made.label, made.content, made.encoder, keys, places[first], made.dimensions)

    def find(self, items: Sequence[Item], place: Callable[[Float32Array], IntArray]) -> IntArray:
        """Where items stand, int64 [len(items), width].

        Args:
            items: At least one.
            place: float32 [n, d] -> int64 [n, width], where vectors stand; those of length 0 are of items of which
                nothing is known.

        Raises:
            EngineUnavailableError, DownloadError: An item is new, and its encoder cannot be had here.
        """
        keys = self.keys_of(items)
        rows = np.searchsorted(self.keys, keys)
        rows[rows == len(self.keys)] = 0
        known = self.keys[rows] == keys if len(self.keys) else np.zeros(len(keys), bool)
        found = np.zeros((len(items), self.places.shape[1]), np.int64)
        found[known] = self.places[rows[known]]
        late = np.flatnonzero(~known).tolist()
        places = {key: kept for key in keys[late].tolist() if (kept := self._late.get(key)) is not None}
        new = {int(keys[number]): number for number in late if int(keys[number]) not in places}
        if new:
            vectors = np.zeros((len(new), self.dimensions), np.float32)
            if self.encoder is not None:
                contents = [self._content(items[number]) for number in new.values()]
                vectors = read_items(self.encoder, contents, self.dimensions)
            made = dict(zip(new, map(tuple, place(vectors).tolist()), strict=True))
            places.update(made)
            self._late.update(made)
        for number in late:
            found[number] = places[int(keys[number])]
        while len(self._late) > MOST_LATE:
            self._late.popitem(last=False)
        return found

    def keys_of(self, items: Sequence[Item]) -> NDArray[np.uint64]:
        """What items are known again by: their ids, and where an encoder reads them, what it reads too."""
        texts = ((item.id if self.encoder is None else f"{item.id}\0{self._content(item)}").encode() for item in items)
        digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
        return np.frombuffer(digests, np.dtype("<u8")).astype(np.uint64)

    def _content(self, item: Item) -> str:
        return content_of(item, label_of(item, self.label), self.content)
