"""Grow a trie by a few paths, without building it anew.

In breadth-first order a new node stands before some old node, its anchor, or at the end of its level. Of a node that
hangs on an old one the anchor is the sibling that follows. Of one that hangs on a new one it is the first child of its
parent's anchor: all that stands before the parent has its children before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import takewhile

import numpy as np

from llmgen.trie import Int32Array, ItemTrie
from llmgen.types import IntArray


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
    shift, item_shift = _steps(anchor, trie.num_nodes + 1), _steps(place, trie.num_items + 1)

    def numbers(nodes: Sequence[int]) -> IntArray:
        """Of old nodes, and of new ones that are given as -1 - n."""
        given = np.array(nodes, np.int64)
        old = given >= 0
        found = np.empty(len(given), np.int64)
        found[old] = given[old] + shift[given[old]]
        found[~old] = number[-1 - given[~old]]
        return found

    above = numbers(new.parent)
    children = _inserted(np.diff(trie.first), anchor, np.zeros(len(rank), np.int32))
    np.add.at(children, above, 1)
    first = np.ones(len(children) + 1, np.int32)
    first[1:] += children.cumsum(dtype=np.int32)
    parent = trie.parent.copy()
    parent[1:] += shift[parent[1:]]
    lo = _inserted(trie.lo + item_shift[trie.lo], anchor, position[np.array(new.first_item, np.int64)[rank]])
    hi = _inserted(trie.hi + item_shift[trie.hi - 1], anchor, position[np.array(new.last_item, np.int64)[rank]] + 1)
    met = numbers(new.met)  # old nodes above new items
    np.minimum.at(lo, met, position[new.met_by].astype(np.int32))
    np.maximum.at(hi, met, position[new.met_by].astype(np.int32) + 1)
    items = np.array(new.item, np.int64) + trie.num_items
    return ItemTrie(
        first,
        _inserted(trie.token, anchor, np.array(new.token, np.int64)[rank]),
        lo,
        hi,
        _inserted(parent, anchor, above[rank]),
        _inserted(trie.order, place, items),
        np.concatenate([trie.position + item_shift[trie.position], position[items.argsort()].astype(np.int32)]),
        _inserted(trie.leaf + shift[trie.leaf], place, numbers(new.leaf)),
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


def _steps(at: IntArray, size: int) -> Int32Array:
    """How many of some rising numbers are at most 0, 1, 2, ...: int32 [size]."""
    return np.repeat(np.arange(len(at) + 1, dtype=np.int32), np.diff(at, prepend=0, append=size))


def _inserted(array: Int32Array, at: IntArray, values: IntArray | Int32Array) -> Int32Array:
    """With values put in before places of the old array, which do not fall."""
    made = np.empty(len(array) + len(at), np.int32)
    made[at + np.arange(len(at))] = values
    start = 0
    for number, end in enumerate([*at.tolist(), len(array)]):
        made[start + number : end + number] = array[start:end]
        start = end
    return made
