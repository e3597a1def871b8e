"""The weights of one request on the items of a catalog: an array, and a few numbers that stand in its place.

A request knows something about few items: what its user took, what goes with that, what its filters allow. Of all
others it says what every request says. Where the array is shared by requests, nothing that is done for one of them
grows with the catalog. Where a request has an array of its own, one number an item, there is nothing beside it: that
is quicker where the catalog is small.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from llmgen.trie.core import ItemTrie
from llmgen.types import FloatArray, IntArray

CANCELLED = 1e-6
"""Share of a sum that must be left after a subtraction for ten of its digits to be right."""


NO_ITEMS: IntArray = np.zeros(0, np.int64)
NO_VALUES: FloatArray = np.zeros(0)


class Below:
    """What is below the nodes of a trie, each node looked at when it is first asked about.

    A request asks about few nodes, and mostly about the same as others do. May be asked by several threads at once.

    Args:
        trie: Of the items.
        log_weights: float64 [num_items] in catalog order.
        top: The largest of them; -inf where no item is eligible.

    Attributes:
        in_order: float64 [num_items], the log weights in trie order.
        count: int32 [num_items + 1], eligible items before each position.
        top: As given.
    """

    def __init__(self, trie: ItemTrie, log_weights: FloatArray, top: float) -> None:
        self.top = top
        self._log_weight = np.append(log_weights[trie.order], -np.inf)  # an interval may end behind the last item
        self._weight = np.exp(self._log_weight - (top if top > -np.inf else 0.0))
        self.in_order = self._log_weight[:-1]
        self.count = np.zeros(trie.num_items + 1, np.int32)
        (self.in_order > -np.inf).cumsum(out=self.count[1:])
        self._trie = trie
        self._known = np.zeros(trie.num_nodes, dtype=bool)
        self._best, self._mass = np.zeros(trie.num_nodes), np.zeros(trie.num_nodes)
        self._looking = Lock()

    def at(self, nodes: IntArray) -> tuple[FloatArray, FloatArray]:
        """Largest log weight, and sum of the weights in units of the largest one of all, below some nodes."""
        with self._looking:  # numpy lets other threads run in the middle of reading or writing an array
            new = nodes[~self._known[nodes]]
            if len(new):
                self._look(np.unique(new))
        return self._best[nodes], self._mass[nodes]

    def _look(self, nodes: IntArray) -> None:
        start, end = self._trie.lo[nodes], self._trie.hi[nodes]
        last_first = (-start).argsort()  # so that what is between two of them is no interval
        between = np.stack([start, end], axis=1)[last_first].ravel()
        self._best[nodes[last_first]] = np.maximum.reduceat(self._log_weight, between)[::2]
        self._mass[nodes[last_first]] = np.add.reduceat(self._weight, between)[::2]
        self._known[nodes] = True


class Shared:
    """Log weights that many requests have in common; what is derived from them is computed once.

    May be asked by several threads at once.

    Args:
        log_weights: float64 [n_items], natural logarithm; -inf removes an item. It is not copied.

    Raises:
        ValueError: NaN or +inf among them.
    """

    def __init__(self, log_weights: FloatArray) -> None:
        self.log_weights = log_weights
        self.top = check_log_weights(log_weights)
        self._below: tuple[ItemTrie, Below] | None = None
        self._making = Lock()

    @cached_property
    def _level(self) -> bool:
        """Whether all items weigh the same, as they do after a change of the catalog where priors know only few."""
        return self.top > -np.inf and float(self.log_weights.min()) == self.top

    @cached_property
    def ranking(self) -> IntArray:
        """Eligible items, int64, best first, ties in catalog order."""
        if self._level:
            return np.arange(len(self.log_weights))
        eligible = np.flatnonzero(self.log_weights > -np.inf)
        ranked: IntArray = eligible[np.argsort(-self.log_weights[eligible], kind="stable")]
        return ranked

    @cached_property
    def ranked(self) -> FloatArray:
        """The log weights of `ranking`, falling."""
        falling: FloatArray = self.log_weights if self._level else self.log_weights[self.ranking]
        return falling

    @cached_property
    def count(self) -> int:
        """Eligible items."""
        return int(np.count_nonzero(self.log_weights > -np.inf))

    @cached_property
    def mass(self) -> float:
        """The sum of all weights, in units of the largest one; 0 where no item is eligible."""
        if self._level:
            return float(len(self.log_weights))
        return 0.0 if self.top == -np.inf else float(np.exp(self.log_weights - self.top).sum())

    def top_items(self, k: int, tie_order: FloatArray | None = None) -> tuple[IntArray, FloatArray, float]:
        """The k items with the largest weights, their weights, and the log of the sum of all; ties as in `top`.

        Without the ranking of all, which is worth its time only where many requests share it.
        """
        log_weights = self.log_weights
        eligible = np.flatnonzero(log_weights > -np.inf)
        if len(eligible) > k:
            kth = np.partition(log_weights[eligible], len(eligible) - k)[len(eligible) - k]
            eligible = eligible[log_weights[eligible] >= kth]
            if tie_order is not None:  # all items may tie, and only those that get a place need to be sorted
                tied = log_weights[eligible] == kth
                places = k - int(np.count_nonzero(~tied))
                last = np.flatnonzero(tied)[np.argpartition(tie_order[eligible[tied]], places - 1)[places:]]
                eligible = np.delete(eligible, last)
        if tie_order is not None:
            eligible = eligible[np.argsort(tie_order[eligible], kind="stable")]
        items = eligible[np.argsort(-log_weights[eligible], kind="stable")][:k]
        return items, log_weights[items], float(self.top + np.log(np.exp(log_weights - self.top).sum()))

    def below(self, trie: ItemTrie) -> Below:
        """What is below the nodes of a trie; kept for the last one that was asked for."""
        with self._making:
            if self._below is None or self._below[0] is not trie:
                self._below = trie, Below(trie, self.log_weights, self.top)
            return self._below[1]


@dataclass(frozen=True, slots=True, eq=False)
class ItemWeights:
    """The log weights of one request.

    Attributes:
        shared: Of all items but those in `items`.
        rest: Added to it, finite.
        items: int64, catalog indices, rising, none twice.
        values: float64, the log weights of `items`.
        alone: Whether no other request has `shared`; then there is no `rest`, and there are no `items`. See `whole`.

    Raises:
        ValueError: NaN or +inf among the values, or `rest` not finite.
    """

    shared: Shared
    rest: float
    items: IntArray
    values: FloatArray
    alone: bool = False

    @classmethod
    def whole(cls, log_weights: FloatArray) -> ItemWeights:
        """One number an item, float64 [n_items], of a request that shares nothing.

        Raises:
            ValueError: NaN or +inf among them.
        """
        return cls(Shared(log_weights), 0.0, NO_ITEMS, NO_VALUES, alone=True)

    def __post_init__(self) -> None:
        if self.alone and (self.rest or len(self.items)):
            raise ValueError("weights that share nothing have neither rest nor items; put them into the array")
        check_log_weights(self.values)
        if not np.isfinite(self.rest):
            raise ValueError(f"rest is {self.rest}; it must be finite: to remove items, let `shared` be -inf there")

    @property
    def num_items(self) -> int:
        """Items of the catalog."""
        return len(self.shared.log_weights)

    @property
    def any(self) -> bool:
        """Whether an item is eligible."""
        return self.shared.top > -np.inf if self.alone else self.count > 0

    @property
    def count(self) -> int:
        """Eligible items."""
        replaced = np.count_nonzero(self.shared.log_weights[self.items] > -np.inf)
        return self.shared.count - int(replaced) + int(np.count_nonzero(self.values > -np.inf))

    def dense(self) -> FloatArray:
        """float64 [n_items], one number an item; not to be changed."""
        if self.alone:
            return self.shared.log_weights
        whole: FloatArray = self.shared.log_weights + self.rest
        whole[self.items] = self.values
        return whole

    def at(self, items: IntArray) -> FloatArray:
        """The log weights of some items, float64 [len(items)]."""
        return overwritten(self.shared.log_weights[items] + self.rest, items, self.items, self.values)

    def among(self, items: IntArray, nothing: Shared | None = None) -> ItemWeights:
        """The same with nothing left but some items.

        Args:
            items: Catalog indices, none twice.
            nothing: Log weights that remove every item, where weights that share an array share this one then.
        """
        items = np.sort(items)
        if nothing is None or self.alone:
            left = np.full(self.num_items, -np.inf)
            left[items] = self.at(items)
            return ItemWeights.whole(left)
        return ItemWeights(nothing, 0.0, items, self.at(items))

    def rank(self, item: int) -> int | None:
        """How many items weigh at least as much as the one at a catalog index, itself included; None if it is removed.

        So it is the rank of the item where ties are counted against it.
        """
        weight = float(self.at(np.array([item]))[0])
        if weight == -np.inf:
            return None
        if self.alone:
            return int(np.count_nonzero(self.shared.log_weights >= weight))
        theirs = self.shared.log_weights[self.items] + self.rest
        ahead = bisect_right(self.shared.ranked, -weight, key=lambda one: -(one + self.rest))
        return ahead - int((theirs >= weight).sum()) + int((self.values >= weight).sum())

    def top(self, k: int, tie_order: FloatArray | None = None) -> tuple[IntArray, FloatArray, float]:
        """The k items with the largest weights, their weights, and the log of the sum of all.

        Args:
            k: How many, 1 or more.
            tie_order: float64 [n_items]: of items of equal weight those with the smaller number come first; by default
                those that stand first in the catalog. With it, the time grows with the catalog.
        """
        if self.alone or tie_order is not None:
            return (self.shared if self.alone else Shared(self.dense())).top_items(k, tie_order)
        eligible = self.values > -np.inf
        others, looked_at = np.zeros(0, np.int64), k
        while len(others) < k:
            looked_at *= 2
            others = self.shared.ranking[:looked_at]
            others = others[~self._own(others)][:k]
            if looked_at >= len(self.shared.ranking):
                break
        items = np.concatenate([others, self.items[eligible]])
        values = np.concatenate([self.shared.log_weights[others] + self.rest, self.values[eligible]])
        order = np.lexsort((items, -values))[:k]
        return items[order], values[order], self._log_total()

    def _own(self, items: IntArray) -> NDArray[np.bool_]:
        """Whether each of some items is one of the request's own."""
        if not len(self.items):
            return np.zeros(len(items), dtype=bool)
        own: NDArray[np.bool_] = (
            self.items[np.minimum(np.searchsorted(self.items, items), len(self.items) - 1)] == items
        )
        return own

    def _log_total(self) -> float:
        top = max(self.shared.top + self.rest, float(self.values.max(initial=-np.inf)))
        if top == -np.inf:
            return top
        replaced = self.shared.log_weights[self.items] + self.rest
        whole = self.shared.mass * np.exp(self.shared.top + self.rest - top)
        others = whole - np.exp(replaced - top).sum()
        if others > CANCELLED * whole or whole == 0:
            return float(np.log(others + np.exp(self.values - top).sum()) + top)
        # Nearly all of the shared mass is replaced, so what is left is lost in rounding: sum it up, however many it is.
        left = [np.delete(self.shared.log_weights, self.items) + self.rest, self.values]
        return float(np.logaddexp.reduce(np.concatenate(left)))


def weights_of(given: FloatArray | ItemWeights) -> ItemWeights:
    """Weights as they are, or of an array with one number an item."""
    return given if isinstance(given, ItemWeights) else ItemWeights.whole(given)


def check_log_weights(log_weights: FloatArray) -> float:
    """The largest of some log weights; -inf where there is none.

    Raises:
        ValueError: NaN or +inf among them.
    """
    top = float(log_weights.max(initial=-np.inf))  # is NaN where any of them is
    if np.isnan(top) or top == np.inf:
        raise ValueError("a prior's logarithm must not be NaN or +inf")
    return top


def overwritten(log_weights: FloatArray, items: IntArray, own: IntArray, values: FloatArray) -> FloatArray:
    """Log weights of some items, with those of a request's own put in; changes the array.

    Args:
        log_weights: float64 [len(items)].
        items: Catalog indices.
        own: Catalog indices, rising, none twice.
        values: float64 [len(own)].
    """
    if len(own):
        place = np.minimum(np.searchsorted(own, items), len(own) - 1)
        known = own[place] == items
        log_weights[known] = values[place[known]]
    return log_weights
