"""Transition counts that are changed by each event, and always are those of a fit on all events so far."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError
from llmgen.events import Interaction
from llmgen.priors.interactions import INDEX
from llmgen.types import IntArray


class _Log(NamedTuple):
    """The events of one user, oldest first; numbers stand for items."""

    times: list[float]
    items: list[int]


class TransitionCounts:
    """N of `llmgen.priors.Transition`, event by event.

    Pairs of items are counted as whole numbers, for each gap apart, and multiplied by `step_decay` only at the end: so
    no order of the events leaves another rounding behind, and the counts are bit for bit those of a fit.

    Args:
        ids: Of the items that are in the catalog now.
        window: As of `Transition.fit`.
        step_decay: As of `Transition.fit`.

    Raises:
        ArgumentError: `window` below 1, or `step_decay` outside (0, 1].
    """

    def __init__(self, ids: Iterable[str], *, window: int = 20, step_decay: float = 0.9) -> None:
        if window < 1:
            raise ArgumentError(f"window must be 1 or more, not {window}")
        if not 0 < step_decay <= 1:
            raise ArgumentError(f"step_decay must be in (0, 1], not {step_decay}")
        self._window, self._step_decay = window, step_decay
        self._numbers: dict[str, int] = {}
        self._there = {self._number(item_id) for item_id in ids}
        self._logs: dict[str, _Log] = {}
        self._users: dict[int, set[str]] = {}  # of each item
        self._counted: list[sparse.csr_array | None] = [None] * window
        self._changes: list[tuple[list[int], list[int], list[int]]] = [([], [], []) for _ in range(window)]

    def add(self, events: Iterable[Interaction]) -> None:
        """Count events. Those of one user and time count in the order in which they are added."""
        for event in events:
            item = self._number(event.item)
            log = self._logs.setdefault(event.user, _Log([], []))
            self._users.setdefault(item, set()).add(event.user)
            place = bisect_right(log.times, event.time)
            if item in self._there:
                before = self._nearest(reversed(log.items[:place]))
                after = self._nearest(log.items[place:])
                self._across(before, after, -1)
                self._across(before, [item, *after], 1)
                self._across([item], after, 1)
            log.times.insert(place, event.time)
            log.items.insert(place, item)

    def forget(self, user: str) -> None:
        """Take all events of a user back; of one who is not known there are none."""
        log = self._logs.pop(user, _Log([], []))
        self._whole(log, -1)
        for item in set(log.items):
            self._users[item].discard(user)

    def follow(self, ids: Iterable[str]) -> None:
        """Count as if these items, and no others, had always been there: a fit leaves out the events of others."""
        there = {self._number(item_id) for item_id in ids}
        users = {user for item in there ^ self._there for user in self._users.get(item, ())}
        for user in users:
            self._whole(self._logs[user], -1)
        self._there = there
        for user in users:
            self._whole(self._logs[user], 1)

    def counts(self, catalog: Catalog) -> sparse.csr_array:
        """float64 [n_items, n_items], as `Transition.count` gives of the same events.

        Args:
            catalog: Has the items that were named to `follow` last.
        """
        size = len(self._numbers)
        total = sparse.csr_array((size, size), dtype=np.float64)
        for gap in range(self._window):
            counted = self._merged(gap, size)
            if counted is not None and counted.nnz:
                # a fit adds the same number again and again, and so does a running sum: other than a product, it
                # rounds at each step
                sums = np.cumsum(np.full(counted.data.max(), self._step_decay**gap))
                values = (sums[counted.data - 1], counted.indices, counted.indptr)
                total = total + sparse.csr_array(values, shape=(size, size))
        places = np.array([self._numbers[item_id] for item_id in catalog.ids], dtype=np.int64)
        found = total[places][:, places].tocsr()
        found.sort_indices()
        return found

    def _number(self, item_id: str) -> int:
        return self._numbers.setdefault(item_id, len(self._numbers))

    def _nearest(self, items: Iterable[int]) -> list[int]:
        """The first items of the catalog, as many as a window has."""
        return list(islice((item for item in items if item in self._there), self._window))

    def _across(self, before: Sequence[int], after: Sequence[int], change: int) -> None:
        """Count all pairs of an item before, nearest first, and one after a place in a sequence."""
        for back, first in enumerate(before):
            for gap, second in enumerate(after[: self._window - back], start=back):
                rows, columns, changes = self._changes[gap]
                rows.append(first)
                columns.append(second)
                changes.append(change)

    def _whole(self, log: _Log, change: int) -> None:
        """Count all pairs of a sequence."""
        items = [item for item in log.items if item in self._there]
        for place, item in enumerate(items):
            self._across([item], items[place + 1 : place + 1 + self._window], change)

    def _merged(self, gap: int, size: int) -> sparse.csr_array | None:
        """Pairs that stand so many places apart, with what has changed; int64, no zeros."""
        rows, columns, changes = self._changes[gap]
        known = self._counted[gap]
        if known is not None and known.shape[0] < size:  # new items, which nothing is counted of yet
            ends = np.append(known.indptr, np.full(size - known.shape[0], known.indptr[-1], known.indptr.dtype))
            known = sparse.csr_array((known.data, known.indices, ends), shape=(size, size))
        if changes:
            cells: tuple[list[int], tuple[IntArray, IntArray]] = (
                changes, (np.array(rows, dtype=INDEX), np.array(columns, dtype=INDEX))
            )  # fmt: skip
            changed = sparse.coo_array(cells, shape=(size, size), dtype=np.int64).tocsr()
            known = changed if known is None else known + changed
            known.eliminate_zeros()
            self._counted[gap], self._changes[gap] = known, ([], [], [])
        return known
