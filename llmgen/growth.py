"""Grow a trie by a few paths, without building it anew.

In breadth-first order a new node stands before some old node, its anchor, or at the end of its level. Of a node that
hangs on an old one the anchor is the sibling that follows. Of one that hangs on a new one it is the first child of its
parent's anchor: all that stands before the parent has its children before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Literal

import numpy as np

from llmgen.trie import Int32Array, ItemTrie
from llmgen.types import IntArray

SHORT = 64
"""Where the pieces between what is put in are shorter than this on average, they are not moved one by one."""


def grow(trie: ItemTrie, paths: Sequence[Sequence[int]]) -> ItemTrie:
    """A trie with more items, whose catalog indices follow those that it has; equal to one built of all paths.

    Costs a copy of the arrays, and nothing else that grows with the items that are there already.

    Args:
        trie: Not changed.
        paths: As of `ItemTrie.build`; may be none.

    Raises:
        ValueError: An empty path, a negative token, or a path that is the beginning of another one.
    """
    if not len(paths):
        return trie
    new = _New(trie, paths)
    anchor, place = np.array(new.anchor, np.int64), np.array(new.place, np.int64)
    rank = np.lexsort((np.array(new.level), anchor))  # stable: of one level in the order of the paths
    anchor = anchor[rank]
    number = np.empty(len(rank), np.int64)  # of each new node
    number[rank] = anchor + np.arange(len(rank))
    position = place + np.arange(len(place))

    def numbers(nodes: Sequence[int]) -> IntArray:
        """Of old nodes, and of new ones that are given as -1 - n."""
        given = np.array(nodes, np.int64)
        old = given >= 0
        found = np.empty(len(given), np.int64)
        found[old] = given[old] + anchor.searchsorted(given[old], side="right")
        found[~old] = number[-1 - given[~old]]
        return found

    above = numbers(new.parent)
    # all that stands before a new node has its children before those of the new one
    first = trie.first[anchor] + np.sort(above).searchsorted(number[rank])
    behind = [1 + parent if parent >= 0 else new.anchor[-1 - parent] for parent in new.parent]
    lows, highs = zip(*((trie.lo[a:b], trie.hi[a:b]) for a, b in _levels(trie)), strict=True)
    lo = _inserted(
        trie.lo, anchor, position[np.array(new.first_item, np.int64)[rank]], *_in_each(lows, place, side="left")
    )
    hi = _inserted(
        trie.hi, anchor, position[np.array(new.last_item, np.int64)[rank]] + 1, *_in_each(highs, place, side="right")
    )
    met = numbers(new.met)  # old nodes above new items
    np.minimum.at(lo, met, position[new.met_by].astype(np.int32))
    np.maximum.at(hi, met, position[new.met_by].astype(np.int32) + 1)
    items = np.array(new.item, np.int64) + trie.num_items
    moved = trie.position + place.searchsorted(trie.position, side="right").astype(np.int32)
    leaf = trie.leaf + anchor.searchsorted(trie.leaf, side="right").astype(np.int32)
    return ItemTrie(
        _inserted(trie.first, anchor, first, np.array(behind, np.int64)),
        _inserted(trie.token, anchor, np.array(new.token, np.int64)[rank]),
        lo,
        hi,
        _inserted(trie.parent, anchor, above[rank], trie.parent.searchsorted(anchor)),
        _inserted(trie.order, place, items),
        np.concatenate([moved, position[items.argsort()].astype(np.int32)]),
        _inserted(leaf, place, numbers(new.leaf)),
    )


class _New:
    """The new nodes and items of some paths, in the order of the paths.

    Attributes:
        anchor, level, token, parent: Of each new node; a parent that is new itself is given as -1 - n.
        first_item, last_item: The new items below each new node.
        item, place, leaf: Of each new item: number of its path, the position of the old item that it stands before, and
            its leaf, given as a parent is.
        met, met_by: Old nodes above new items, and these.
    """

    def __init__(self, trie: ItemTrie, paths: Sequence[Sequence[int]]) -> None:
        self.anchor: list[int] = []
        self.level: list[int] = []
        self.token: list[int] = []
        self.parent: list[int] = []
        self.first_item: list[int] = []
        self.last_item: list[int] = []
        self.item = sorted(range(len(paths)), key=lambda number: tuple(paths[number]))
        self.place: list[int] = []
        self.leaf: list[int] = []
        self.met: list[int] = []
        self.met_by: list[int] = []
        before: tuple[int, ...] = ()
        chain: list[int] = []  # new nodes of the path before, each after its parent
        for number, name in enumerate(self.item):
            path = tuple(paths[name])
            if not path or min(path) < 0:
                raise ValueError(f"path {name} must be token ids of 0 or more, at least one, not {path}")
            node, depth, child = self._walk(trie, path, number)
            if depth < len(path):
                shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, path, strict=False)))
                if before and shared == len(before) < len(path):
                    raise _beginning(before, path)
                chain = chain[: max(shared - depth, 0)]
                for known in chain:
                    self.last_item[known] = number
                for level in range(depth + len(chain), len(path)):
                    self.anchor.append(int(trie.first[self.anchor[chain[-1]]]) if chain else child)
                    self.parent.append(-1 - chain[-1] if chain else node)
                    self.level.append(level)
                    self.token.append(path[level])
                    self.first_item.append(number)
                    self.last_item.append(number)
                    chain.append(len(self.anchor) - 1)
                self.leaf.append(-1 - chain[-1])
                self.place.append(int(trie.lo[child]) if child < trie.first[node + 1] else int(trie.hi[node]))
            else:
                self.leaf.append(node)
                self.place.append(int(trie.hi[node]))
                chain = []
            before = path

    def _walk(self, trie: ItemTrie, path: tuple[int, ...], number: int) -> tuple[int, int, int]:
        """The last old node on a path, its depth, and the child of it that a new one stands before."""
        node = depth = child = 0
        token = trie.token.data  # element by element, a memoryview is quicker than an array
        while True:
            self.met.append(node)
            self.met_by.append(number)
            begin, end = int(trie.first[node]), int(trie.first[node + 1])
            if (begin == end) != (depth == len(path)):
                raise _beginning(trie.spelling(node), path) if begin == end else _beginning(path, trie.spelling(begin))
            if begin == end:
                return node, depth, 0
            child = bisect_left(token, path[depth], begin, end)
            if child == end or token[child] != path[depth]:
                return node, depth, child
            node, depth = child, depth + 1


def _beginning(short: Sequence[int], long: Sequence[int]) -> ValueError:
    return ValueError(f"path {tuple(short)} is the beginning of {tuple(long)}; end every path with the same end token")


def _levels(trie: ItemTrie) -> Iterator[tuple[int, int]]:
    """First node of each level, and the one behind its last."""
    start, end = 0, 1
    while start < end:
        yield start, end
        start, end = end, int(trie.first[end])


def _in_each(
    levels: Sequence[Int32Array], values: IntArray, *, side: Literal["left", "right"]
) -> tuple[IntArray, IntArray]:
    """Where each level, whose numbers do not fall, reaches values: places in the whole, and steps of 1 there.

    What was added within a level is taken away at its end.
    """
    values = values.astype(np.int32)
    ends = np.cumsum([len(level) for level in levels])
    places = [end - len(level) + level.searchsorted(values, side=side) for level, end in zip(levels, ends, strict=True)]
    steps = np.ones(len(values) * len(levels), np.int64), np.full(len(levels), -len(values))
    return np.concatenate([*places, ends]), np.concatenate(steps)


def _inserted(
    array: Int32Array,
    at: IntArray,
    values: IntArray | Int32Array,
    places: IntArray | None = None,
    steps: IntArray | None = None,
) -> Int32Array:
    """With values put in before places of the old array, which do not fall.

    Args:
        array: int32.
        at: Where the values come, rising.
        values: What is put in, as it is.
        places: Of the old array, from each of which on all of its numbers are larger than before by
        steps: so much; 1 by default.
    """
    places = np.zeros(0, np.int64) if places is None else places
    steps = np.ones(len(places), np.int64) if steps is None else steps
    made = np.empty(len(array) + len(at), np.int32)
    made[at + np.arange(len(at))] = values
    cuts = np.unique(np.concatenate([[0], at, places]))
    shift = at.searchsorted(cuts, side="right")
    by_place = places.argsort()
    more = np.append(0, steps[by_place].cumsum())[places[by_place].searchsorted(cuts, side="right")]
    ends = np.append(cuts[1:], len(array))
    if len(cuts) > len(array) / SHORT:
        sizes = np.maximum(ends - cuts, 0)
        made[np.arange(len(array)) + shift.repeat(sizes)] = array + more.repeat(sizes)
        return made
    for start, end, moved, added in zip(cuts.tolist(), ends.tolist(), shift.tolist(), more.tolist(), strict=True):
        np.add(array[start:end], added, out=made[start + moved : end + moved])  # moved as a whole: at memory's speed
    return made
