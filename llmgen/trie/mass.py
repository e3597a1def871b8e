"""What the items below nodes of a trie weigh, for several requests at once; the search asks nothing else of weights.

Two forms with one contract: `DenseMass` of requests that share nothing, whose cost grows with the catalog, and
`SparseMass` of those that share an array, whose cost does not. `mass_of` is the one place that tells them apart: in a
catalog of 1,682 items the first is the quicker one, at 100,000 the second. The loss of a training has a sum of its own
(`llmgen.training.loss`): it asks for all nodes of a path at once, of which one is below the other, and these forms are
asked for nodes that have no item in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llmgen.trie.core import ItemTrie
from llmgen.trie.weights import ItemWeights
from llmgen.types import FloatArray, IntArray

TINY = 1e-290
"""A sum of weights in units of the largest that is smaller has lost digits, or all of them."""


class Weighed(NamedTuple):
    """What is below some nodes; one entry a node.

    Attributes:
        best: float64, at least the largest log weight below the node; -inf where no item is eligible. A node with one
            item is bounded by that item's own.
        log_mass: float64, log of the sum of the weights below the node.
        size: int64, how many eligible items are below the node.
    """

    best: FloatArray
    log_mass: FloatArray
    size: IntArray


class Mass(Protocol):
    """The weights of some requests, which are numbered as they were given: the `owner` of what is asked.

    Attributes:
        count: int64 [n_requests], eligible items.
    """

    count: IntArray

    def below(self, owner: IntArray, node: IntArray) -> Weighed:
        """What is below nodes; no item may be below two nodes of one owner."""
        ...

    def items(self, owner: IntArray, node: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """The eligible items below nodes: which of the nodes, position in the trie, log weight."""
        ...


def mass_of(trie: ItemTrie, weights: Sequence[ItemWeights]) -> Mass:
    """The form that suits: sparse as soon as one request shares an array."""
    if all(one.alone for one in weights):
        return DenseMass(trie, [one.shared.log_weights for one in weights])
    return SparseMass(trie, weights)


class DenseMass:
    """From one number an item.

    What is known of each item stands in one row a request: its columns are the positions in trie order, and one more,
    so that an interval may end behind the last item. Rows are used joined: a place is `owner * stride + position`.

    Args:
        trie: Of the items.
        weights: float64 [n_items] each, log weights in catalog order.
    """

    def __init__(self, trie: ItemTrie, weights: Sequence[FloatArray]) -> None:
        self._trie = trie
        self._stride = trie.num_items + 1
        shape = (len(weights), self._stride)
        log_weight, weights_of = np.empty(shape), np.zeros(shape)  # the latter in units of exp(top)
        count = np.zeros(shape, np.int32)  # of eligible items before
        self._top = np.empty(len(weights))
        order = trie.order.astype(np.int64)
        for number, one in enumerate(weights):  # one by one, so that there is no third array as large as these
            weight = one[order]
            log_weight[number, :-1] = weight
            self._top[number] = weight.max()
            np.exp(weight - self._top[number], out=weights_of[number, :-1])
            (weight > -np.inf).cumsum(out=count[number, 1:])
        log_weight[:, -1] = -np.inf
        self.count = count[:, -1].astype(np.int64)
        self._log_weight, self._weight, self._count = log_weight.ravel(), weights_of.ravel(), count.ravel()

    def below(self, owner: IntArray, node: IntArray) -> Weighed:
        """See `Mass`; `best` is the largest weight itself."""
        offset = owner * self._stride
        start, end = self._trie.lo[node] + offset, self._trie.hi[node] + offset
        place = start.argsort()  # the ends of one and the start of the next, rising: no item is looked at twice
        between = np.stack([start, end], axis=1)[place].ravel()
        best, mass = np.empty(len(node)), np.empty(len(node))
        best[place] = np.maximum.reduceat(self._log_weight, between)[::2]
        mass[place] = np.add.reduceat(self._weight, between)[::2]  # a difference of sums would lose what is small
        with np.errstate(divide="ignore"):
            log_mass = np.log(mass) + self._top[owner]
        lost = np.flatnonzero((mass < TINY) & (best > -np.inf))
        if len(lost):  # too small beside the largest for numbers that are no logarithms
            position, which = intervals(start[lost], end[lost])
            first = np.searchsorted(which, np.arange(len(lost)))
            log_mass[lost] = np.logaddexp.reduceat(self._log_weight[position], first)
        # a sum that was rounded to less than its largest
        return Weighed(best, np.maximum(log_mass, best), (self._count[end] - self._count[start]).astype(np.int64))

    def items(self, owner: IntArray, node: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """See `Mass`."""
        position, which = intervals(self._trie.lo[node], self._trie.hi[node])
        log_weight = self._log_weight[position + (owner * self._stride)[which]]
        alive = log_weight > -np.inf
        return which[alive], position[alive], log_weight[alive]


class SparseMass:
    """From what all requests share and what each has of its own.

    Args:
        trie: Of the items.
        weights: One a request.
    """

    def __init__(self, trie: ItemTrie, weights: Sequence[ItemWeights]) -> None:
        self._trie = trie
        shared = {id(one.shared): one.shared for one in weights}
        self._shared = [one.below(trie) for one in shared.values()]
        number = {key: place for place, key in enumerate(shared)}
        self._which = np.array([number[id(one.shared)] for one in weights])
        self._rest = np.array([one.rest for one in weights])
        self._top = np.array([max(one.shared.top + one.rest, one.values.max(initial=-np.inf)) for one in weights])
        positions, values, replaced = [], [], []
        for one, which in zip(weights, self._which.tolist(), strict=True):
            position = trie.position[one.items].astype(np.int64)
            order = position.argsort()
            positions.append(position[order])
            values.append(one.values[order])
            replaced.append(self._shared[which].in_order[positions[-1]] + one.rest)
        sizes = [len(one.items) for one in weights]
        owner = np.repeat(np.arange(len(weights)), sizes)
        self._key = owner * trie.num_items + np.concatenate(positions)
        # of the items that a request has of its own, and one more, so that an interval may end behind the last
        self._value = np.append(np.concatenate(values), -np.inf)
        self._weight = np.append(np.exp(self._value[:-1] - self._top[owner]), 0.0)
        taken = np.concatenate(replaced)
        self._taken = np.append(np.exp(taken - self._top[owner]), 0.0)
        self._num_own = np.append(0, (self._value[:-1] > -np.inf).cumsum())
        self._num_taken = np.append(0, (taken > -np.inf).cumsum())
        owners, root = np.arange(len(weights)), np.zeros(len(weights), np.int64)
        self.count = self.below(owners, root).size

    def below(self, owner: IntArray, node: IntArray) -> Weighed:
        """See `Mass`; `best` may be the weight that an item would have if its request said nothing of it."""
        best, mass, count = self._in_common(owner, node)
        with np.errstate(divide="ignore"):  # weights too small beside the others: they add nothing to a sum
            log_mass = np.maximum(np.log(mass) + self._top[owner], best)
        start, end = self._own(owner, node)
        some = np.flatnonzero(end > start)
        if len(some):
            start, end = start[some], end[some]
            others = count[some] - (self._num_taken[end] - self._num_taken[start])
            place = start.argsort()
            between = np.stack([start, end], axis=1)[place].ravel()
            largest, own, taken = np.empty(len(some)), np.empty(len(some)), np.empty(len(some))
            largest[place] = np.maximum.reduceat(self._value, between)[::2]
            own[place] = np.add.reduceat(self._weight, between)[::2]
            taken[place] = np.add.reduceat(self._taken, between)[::2]
            left = np.where(others > 0, mass[some] - taken, 0.0)
            lost = np.flatnonzero((others > 0) & (left <= 1e-6 * mass[some]))  # a difference of numbers nearly equal
            with np.errstate(divide="ignore"):
                log_left, log_own = np.log(np.maximum(left, 0.0)), np.log(own)
            log_left += self._top[owner[some]]
            log_own += self._top[owner[some]]
            log_left[lost] = self._log_mass_of_others(owner[some[lost]], node[some[lost]])
            log_mass[some] = np.logaddexp(log_left, np.maximum(log_own, largest))
            best[some] = np.maximum(np.where(others > 0, best[some], -np.inf), largest)
            count[some] = others + self._num_own[end] - self._num_own[start]
        return Weighed(best, log_mass, count)

    def items(self, owner: IntArray, node: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
        """See `Mass`."""
        position, which = intervals(self._trie.lo[node], self._trie.hi[node])
        log_weight, _ = self._weights(owner[which], position)
        alive = log_weight > -np.inf
        return which[alive], position[alive], log_weight[alive]

    def _in_common(self, owner: IntArray, node: IntArray) -> tuple[FloatArray, FloatArray, IntArray]:
        """Best, mass in units of the owner's top, and count, as if no request had items of its own."""
        best, mass = np.empty(len(node)), np.empty(len(node))
        count = np.empty(len(node), np.int64)
        start, end = self._trie.lo[node], self._trie.hi[node]
        for which, below in enumerate(self._shared):
            mine = np.flatnonzero(self._which[owner] == which) if len(self._shared) > 1 else slice(None)
            rest = self._rest[owner[mine]]
            largest, total = below.at(node[mine])
            best[mine] = largest + rest
            count[mine] = below.count[end[mine]] - below.count[start[mine]]
            scale = 0.0 if below.top == -np.inf else np.exp(below.top + rest - self._top[owner[mine]])
            mass[mine] = total * scale
        return best, mass, count

    def _own(self, owner: IntArray, node: IntArray) -> tuple[IntArray, IntArray]:
        """The interval of a request's own items below each node."""
        offset = owner * self._trie.num_items
        start = np.searchsorted(self._key, offset + self._trie.lo[node])
        return start, np.searchsorted(self._key, offset + self._trie.hi[node])

    def _weights(self, owner: IntArray, position: IntArray) -> tuple[FloatArray, NDArray[np.bool_]]:
        """Log weights at positions, and whether each is the request's own."""
        log_weight = np.empty(len(position))
        for which, below in enumerate(self._shared):
            mine = np.flatnonzero(self._which[owner] == which) if len(self._shared) > 1 else slice(None)
            log_weight[mine] = below.in_order[position[mine]] + self._rest[owner[mine]]
        if not len(self._key):
            return log_weight, np.zeros(len(position), dtype=bool)
        key = owner * self._trie.num_items + position
        place = np.minimum(np.searchsorted(self._key, key), len(self._key) - 1)
        own = self._key[place] == key
        log_weight[own] = self._value[place[own]]
        return log_weight, own

    def _log_mass_of_others(self, owner: IntArray, node: IntArray) -> FloatArray:
        """Log mass below nodes of the items that are not the request's own, of which there are some; item by item."""
        position, which = intervals(self._trie.lo[node], self._trie.hi[node])
        log_weight, own = self._weights(owner[which], position)
        return np.logaddexp.reduceat(log_weight[~own], np.searchsorted(which[~own], np.arange(len(node))))


def intervals(start: IntArray | NDArray[np.int32], end: IntArray | NDArray[np.int32]) -> tuple[IntArray, IntArray]:
    """All whole numbers in some intervals, one after the other, and which interval each comes from."""
    size = end - start
    which = np.arange(len(size)).repeat(size)
    return np.arange(len(which)) + (start - size.cumsum() + size)[which], which
