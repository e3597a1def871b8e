"""Lineage: the items of catalogs that came from one another, and where each of them stands."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat
from operator import attrgetter
from threading import RLock
from typing import Any
from weakref import ref

import numpy as np
from numpy.typing import NDArray

from llmgen.types import IntArray, Item

STEP = 2_048
"""Items between two hashes that are kept, so that after a change not all is hashed again."""
FEW = 100
"""Items that are taken out one by one."""
GROWING = RLock()
"""Held while a shelf gets more items: two catalogs that grow from one at the same time may not both get them there."""


@dataclass(slots=True)
class Lineage:
    """Items one after the other, how each is spelled, where each stands, and the lines of the first ones in a file.

    Catalogs that grew from one another share one: each is a beginning of it, so that to grow costs nothing that grows
    with the catalog. Those that came from one another share the numbers of ids.

    Attributes:
        items: In their order.
        spellings: How each is spelled, in the same order.
        index: Id -> its number, also of items that stand in others only.
        lines: Of the first items.
        places: int64, number -> position, -1 where there is no such item; None where the first numbers are positions.
            Later numbers have no place here.
        states: SHA-256 of what stands before the items 0, `STEP`, 2 `STEP`, and so on, as far as it is known.
    """

    items: list[Item]
    spellings: list[str]
    index: dict[str, int]
    lines: list[bytes]
    places: IntArray | None = None
    states: list[hashlib._Hash] = field(default_factory=list)

    def position(self, item_id: str) -> int | None:
        """Where an item stands; None where it does not."""
        number = self.index.get(item_id)
        if number is None or number >= (len(self.items) if self.places is None else len(self.places)):
            return None
        place = number if self.places is None else int(self.places[number])
        return None if place < 0 else place

    def positions(self, ids: Sequence[str]) -> IntArray:
        """Where items stand, int64; -1 where one does not."""
        numbers = np.fromiter(map(self.index.get, ids, repeat(-1)), np.int64, len(ids))
        places = np.arange(len(self.items)) if self.places is None else self.places
        known = (numbers >= 0) & (numbers < len(places))
        return np.where(known, places[np.where(known, numbers, 0)], -1)

    def take_in(self, ids: Sequence[str], start: int) -> None:
        """Let items that do not stand here have the positions from one on."""
        numbers = [self.index.setdefault(item_id, len(self.index)) for item_id in ids]
        if self.places is None:
            if numbers == list(range(start, start + len(ids))):
                return
            self.places = np.arange(start)
        places = np.full(max(len(self.places), *numbers) + 1, -1)
        places[: len(self.places)] = self.places
        places[numbers] = np.arange(start, start + len(ids))
        self.places = places

    def beginning(self, length: int) -> Lineage:
        """A shelf of its own with the first items of this one."""
        with GROWING:
            places = self.places
            if places is not None and length < len(self.items):
                places = np.where(places < length, places, -1)
            states = self.states[: length // STEP + 1]
            return Lineage(
                self.items[:length], self.spellings[:length], self.index, self.lines[:length], places, states
            )

    def chosen(self, keep: NDArray[np.bool_]) -> Lineage:
        """A shelf of its own with those of the first items for which `keep`, bool [length], says so."""
        made = self.beginning(len(keep))
        gone = np.flatnonzero(~keep)
        for part in (made.items, made.spellings, made.lines):
            _leave_out(part, keep, gone.tolist())
        places = np.arange(len(keep)) if made.places is None else made.places
        if len(places) > 2 * len(made.items):  # more numbers of what has gone than of what is there
            return Lineage(made.items, made.spellings, places_of(made.items), made.lines)
        after = np.append(np.where(keep, keep.cumsum() - 1, -1), -1)  # the last is that of what has no place
        made.places = after[places]
        made.forget_states(int(gone[0]))
        return made

    def append(self, other: Lineage) -> None:
        """Put the items of another shelf behind, none of which stands here."""
        length = len(self.items)
        self.items.extend(other.items)
        self.spellings.extend(other.spellings)
        self.take_in([item.id for item in other.items], length)

    def forget_states(self, position: int) -> None:
        """Of what comes behind an item that was changed, the hash is not known any more."""
        del self.states[position // STEP + 1 :]

    def hashed(self, first: bytes, length: int) -> hashlib._Hash:
        """SHA-256 of a first line and the lines of the first items, all of which are there."""
        with GROWING:
            if not self.states:
                self.states.append(hashlib.sha256(first))
            known = min(len(self.states) - 1, length // STEP)
            state = self.states[known].copy()
            for start in range(known * STEP, length, STEP):
                part = self.lines[start : min(start + STEP, length)]
                state.update(b"".join(part))
                if len(part) == STEP and len(self.states) == start // STEP + 1:
                    self.states.append(state.copy())
            return state


def _leave_out(part: list[Any], keep: NDArray[np.bool_], gone: Sequence[int]) -> None:
    """Take the entries at some positions, rising, out of a list; it may end before some of them."""
    if len(gone) > FEW:
        part[:] = compress(part, keep.tolist())
        return
    for position in reversed(gone):
        del part[position : position + 1]


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
