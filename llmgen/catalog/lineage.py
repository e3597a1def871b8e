"""Lineage: the items of catalogs that came from one another, and where each of them stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, repeat
from operator import attrgetter
from threading import RLock
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from llmgen.types import IntArray, Item

GROWING = RLock()
"""Held while a shelf gets more items: two catalogs that grow from one at the same time may not both get them there."""


@dataclass(slots=True)
class Lineage:
    """Items one after the other, how each is spelled, where each stands, and the lines of the first ones in a file.

    Catalogs that grew from one another share one: each is a beginning of it, so that to grow costs nothing that grows
    with the catalog.

    Attributes:
        items: In their order.
        spellings: How each is spelled, in the same order.
        index: Id -> the number of the item, which it keeps when others are removed.
        lines: Of the first items.
        places: int64, number -> position, -1 where there is no such item any more; None where they are the same.
    """

    items: list[Item]
    spellings: list[str]
    index: dict[str, int]
    lines: list[bytes]
    places: IntArray | None = None

    def position(self, item_id: str) -> int | None:
        """Where an item stands; None where it does not."""
        number = self.index.get(item_id)
        if number is None or self.places is None:
            return number
        return int(self.places[number])

    def positions(self, ids: Sequence[str]) -> IntArray:
        """Where items stand, int64; -1 where one does not."""
        numbers = np.fromiter(map(self.index.get, ids, repeat(-1)), np.int64, len(ids))
        return numbers if self.places is None else np.where(numbers >= 0, self.places[numbers], -1)

    def number(self, position: int) -> int:
        """A new number for an item that comes to stand at a position, behind all others."""
        if self.places is None:
            return position
        self.places = np.append(self.places, position)
        return len(self.places) - 1

    def beginning(self, length: int) -> Lineage:
        """A shelf of its own with the first items of this one."""
        with GROWING:
            if length == len(self.items):
                return Lineage(self.items[:], self.spellings[:], self.index.copy(), self.lines[:], self.places)
        items = self.items[:length]
        return Lineage(items, self.spellings[:length], places_of(items), self.lines[:length])

    def chosen(self, keep: NDArray[np.bool_]) -> Lineage:
        """A shelf of its own with those of the first items for which `keep`, bool [length], says so."""
        if len(keep) < len(self.items):
            return self.beginning(len(keep)).chosen(keep)
        with GROWING:
            index, items = self.index.copy(), self.items[:]
        places = np.arange(len(keep)) if self.places is None else self.places
        after = np.append(np.where(keep, keep.cumsum() - 1, -1), -1)  # the last is that of what has no place
        for position in np.flatnonzero(~keep).tolist():
            del index[items[position].id]
        flags = keep.tolist()
        left, spellings, lines = (
            list(compress(items, flags)),
            [*compress(self.spellings, flags)],
            [*compress(self.lines, flags)],
        )
        if len(places) > 2 * len(left):  # more numbers of what has gone than of what is there
            return Lineage(left, spellings, places_of(left), lines)
        return Lineage(left, spellings, index, lines, after[places])

    def append(self, other: Lineage) -> None:
        """Put the items of another shelf behind, none of which stands here."""
        length = len(self.items)
        if self.places is not None:
            first = len(self.places)
            self.places = np.append(self.places, np.arange(length, length + len(other.items)))
        else:
            first = length
        self.items.extend(other.items)
        self.spellings.extend(other.spellings)
        self.index.update((item_id, first + position) for item_id, position in other.index.items())


@dataclass(frozen=True, slots=True)
class Change:
    """How a catalog came from another one.

    Attributes:
        of: The other one, while it is there.
        before: int64 [n_items], position there of the item with the same id; -1 where there is none.
        same: int64 [n_items], the same, but -1 also where the item was replaced.
    """

    of: ref[object]
    before: IntArray
    same: IntArray


def places_of(items: Sequence[Item]) -> dict[str, int]:
    """Id -> position."""
    return dict(zip(map(attrgetter("id"), items), range(len(items)), strict=True))
