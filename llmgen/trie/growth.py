"""Grow a trie by a few paths, or take some out, without building it anew.

In breadth-first order a new node stands before some old node, its anchor, or at the end of its level. Of a node that
hangs on an old one the anchor is the sibling that follows. Of one that hangs on a new one it is the first child of its
parent's anchor: all that stands before the parent has its children before.

Where a new path leaves an old one within its tail, the old path is put in again beside the new one: its leaf has
children from now on, and what was a tail becomes nodes as far as both go, and a shorter tail behind them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from llmgen.trie.core import Int32Array, ItemTrie
from llmgen.trie.shrinking import renumber, shrink
from llmgen.types import IntArray

MANY = 8
"""Where more than one new path comes to so many that are there, a trie is built anew."""
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
    entries, met = _entries(trie, paths)
    new = _New(trie, entries)
    anchor = np.array(new.anchor, np.int64)
    rank = np.lexsort((np.array(new.level), anchor))  # stable: of one level in the order of the paths
    anchor = anchor[rank]
    number = np.empty(len(rank), np.int64)  # of each new node
    number[rank] = anchor + np.arange(len(rank))
    sizes = [len(entry.items) for entry in entries]
    items = np.array([item for entry in entries for item in entry.items], np.int64)
    place = np.array([entry.place for entry in entries], np.int64).repeat(sizes)
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
    low, high = _bounds(trie, entries, place, position)
    lows, highs = zip(*((trie.lo[a:b], trie.hi[a:b]) for a, b in trie.levels()), strict=True)
    lo = _inserted(trie.lo, anchor, low[np.array(new.first_entry, np.int64)[rank]], *_in_each(lows, place, side="left"))
    hi = _inserted(
        trie.hi, anchor, high[np.array(new.last_entry, np.int64)[rank]], *_in_each(highs, place, side="right")
    )
    nodes, by = numbers([node for node, _ in met]), [entry for _, entry in met]
    np.minimum.at(lo, nodes, low[by].astype(np.int32))
    np.maximum.at(hi, nodes, high[by].astype(np.int32))
    moved = trie.position + place.searchsorted(trie.position, side="right").astype(np.int32)
    leaf = trie.leaf + anchor.searchsorted(trie.leaf, side="right").astype(np.int32)
    leaves = numbers(new.leaf)
    for entry, its_leaf in zip(entries, leaves.tolist(), strict=True):
        if entry.moves:
            leaf[trie.lo[entry.node] : trie.hi[entry.node]] = its_leaf
    tail, tokens = _tails(trie, entries, new.depth)
    nodes_tokens = _inserted(trie.token[: trie.num_nodes], anchor, np.array(new.token, np.int64)[rank])
    return ItemTrie(
        _inserted(trie.first, anchor, first, np.array(behind, np.int64)),
        np.concatenate([nodes_tokens, *tokens]),
        lo,
        hi,
        _inserted(trie.parent, anchor, above[rank], trie.parent.searchsorted(anchor.astype(np.int32))),
        _inserted(trie.order, place, items + trie.num_items),
        np.concatenate([moved, position[items.argsort()].astype(np.int32)]),
        _inserted(leaf, place, leaves.repeat(sizes)),
        tail,
        max(trie.longest, *map(len, paths)),
    )


@dataclass(slots=True)
class _Entry:
    """One of the distinct paths that are put in.

    Attributes:
        path: Its tokens.
        node: The last old node on it.
        depth: Of that node.
        child: The old node before which a child of `node` on this path stands.
        place: The position of the old item that its new items stand before.
        joins: The path is an old one, and stays where it is.
        moves: The path is an old one, whose leaf is `node`, and gets another leaf below that.
        items: Numbers of the new paths that are this one.
    """

    path: tuple[int, ...]
    node: int
    depth: int
    child: int
    place: int
    joins: bool = False
    moves: bool = False
    items: list[int] = field(default_factory=list)


def _entries(trie: ItemTrie, paths: Sequence[Sequence[int]]) -> tuple[list[_Entry], list[tuple[int, int]]]:
    """The distinct paths to put in, in their order, and pairs: an old node above new items, and the entry of these."""
    by_path: dict[tuple[int, ...], _Entry] = {}
    above: dict[tuple[int, ...], list[int]] = {}
    before: tuple[int, ...] = ()
    for name in sorted(range(len(paths)), key=lambda number: tuple(paths[number])):
        path = tuple(paths[name])
        if not path or min(path) < 0:
            raise ValueError(f"path {name} must be token ids of 0 or more, at least one, not {path}")
        if before and len(before) < len(path) and path[: len(before)] == before:
            raise _beginning(before, path)
        before = path
        if path in by_path:
            by_path[path].items.append(name)
            continue
        entry, above[path] = _walk(trie, path)
        entry.items.append(name)
        by_path[path] = entry
    for entry in [entry for entry in by_path.values() if not entry.joins and _is_leaf(trie, entry.node)]:
        path = (*entry.path[: entry.depth], *trie.tail_of(entry.node))
        old = by_path.setdefault(path, _Entry(path, entry.node, entry.depth, entry.child, int(trie.hi[entry.node])))
        old.joins, old.moves = False, True
    entries = sorted(by_path.values(), key=lambda entry: entry.path)
    number = {entry.path: place for place, entry in enumerate(entries)}
    return entries, [(node, number[path]) for path, nodes in above.items() for node in nodes]


def _is_leaf(trie: ItemTrie, node: int) -> bool:
    return bool(trie.first[node] == trie.first[node + 1])


def _walk(trie: ItemTrie, path: tuple[int, ...]) -> tuple[_Entry, list[int]]:
    """Where a path goes in an old trie, and the old nodes on it."""
    node = depth = 0
    token = trie.token.data  # element by element, a memoryview is quicker than an array
    nodes = [0]
    while (begin := int(trie.first[node])) < (end := int(trie.first[node + 1])):
        if depth == len(path):
            raise _beginning(path, trie.path(int(trie.order[trie.lo[node]])))
        child = bisect_left(token, path[depth], begin, end)
        if child == end or token[child] != path[depth]:
            place = trie.lo[child] if child < end else trie.hi[node]
            return _Entry(path, node, depth, child, int(place)), nodes
        node, depth = child, depth + 1
        nodes.append(node)
    rest, tail = path[depth:], tuple(trie.tail_of(node))
    if rest != tail and rest == tail[: len(rest)]:
        raise _beginning(path, path[:depth] + tail)
    if rest != tail and tail == rest[: len(tail)]:
        raise _beginning(path[:depth] + tail, path)
    place = trie.lo[node] if rest < tail else trie.hi[node]
    return _Entry(path, node, depth, int(trie.first[node]), int(place), joins=rest == tail), nodes


class _New:
    """The new nodes of some entries, in their order.

    Attributes:
        anchor, level, token, parent: Of each new node; a parent that is new itself is given as -1 - n.
        first_entry, last_entry: The entries below each new node.
        leaf: Of each entry, given as a parent is.
        depth: Of the leaf of each entry.
    """

    def __init__(self, trie: ItemTrie, entries: Sequence[_Entry]) -> None:
        self.anchor: list[int] = []
        self.level: list[int] = []
        self.token: list[int] = []
        self.parent: list[int] = []
        self.first_entry: list[int] = []
        self.last_entry: list[int] = []
        self.leaf = [entry.node for entry in entries]
        self.depth = [entry.depth for entry in entries]
        making = [number for number, entry in enumerate(entries) if not entry.joins]
        paths = [entries[number].path for number in making]
        shared = [0, *map(_common, paths, paths[1:]), 0]  # tokens, with the path before and with the one after
        chain: list[int] = []  # new nodes of the path before, each after its parent
        for place, number in enumerate(making):
            entry = entries[number]
            chain = chain[: max(shared[place] - entry.depth, 0)]
            for known in chain:
                self.last_entry[known] = number
            self.depth[number] = max(entry.depth, shared[place], shared[place + 1]) + 1
            for level in range(entry.depth + len(chain), self.depth[number]):
                self.anchor.append(int(trie.first[self.anchor[chain[-1]]]) if chain else entry.child)
                self.parent.append(-1 - chain[-1] if chain else entry.node)
                self.level.append(level)
                self.token.append(entry.path[level])
                self.first_entry.append(number)
                self.last_entry.append(number)
                chain.append(len(self.anchor) - 1)
            self.leaf[number] = -1 - chain[-1]


def _bounds(
    trie: ItemTrie, entries: Sequence[_Entry], place: IntArray, position: IntArray
) -> tuple[IntArray, IntArray]:
    """The first position of the items of each entry, and one past the last, once all are put in.

    Args:
        trie: Before.
        entries: What is put in.
        place: Of each new item, the position of the old one that it stands before.
        position: Of each new item, once all are put in.
    """
    low, high, done = [], [], 0
    for entry in entries:
        ends = position[done : done + len(entry.items)].tolist()
        done += len(entry.items)
        if entry.moves:
            old = np.array([trie.lo[entry.node], trie.hi[entry.node] - 1], np.int64)
            ends += (old + place.searchsorted(old, side="right")).tolist()
        low.append(min(ends))
        high.append(max(ends) + 1)
    return np.array(low, np.int64), np.array(high, np.int64)


def _tails(trie: ItemTrie, entries: Sequence[_Entry], depth: Sequence[int]) -> tuple[Int32Array, list[Int32Array]]:
    """`ItemTrie.tail` with the entries put in, and all tails in pieces; `depth` is that of the leaf of each."""
    lengths, tokens = np.diff(trie.tail), trie.token[trie.num_nodes :]
    places: list[int] = []
    added: list[int] = []
    pieces, done = [], 0
    for entry, below in zip(entries, depth, strict=True):
        rest = () if entry.joins or entry.moves else entry.path[below:]
        places += [entry.place] * len(entry.items)
        added += [len(rest), *[0] * (len(entry.items) - 1)] if entry.items else []
        begin = int(trie.lo[entry.node]) if entry.moves else entry.place
        pieces += [tokens[done : trie.tail[begin]], np.array(rest, np.int32)]
        done = int(trie.tail[begin])
        if entry.moves:  # what has become nodes
            done += below - entry.depth
            lengths[begin] -= below - entry.depth
    lengths = np.insert(lengths, places, added)
    return np.append(0, lengths.cumsum()).astype(np.int32), [*pieces, tokens[done:]]


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many tokens two paths, neither of which begins the other, begin with alike."""
    return next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


def _beginning(short: Sequence[int], long: Sequence[int]) -> ValueError:
    return ValueError(f"path {tuple(short)} is the beginning of {tuple(long)}; end every path with the same end token")


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


def follow(trie: ItemTrie, before: IntArray, spell: Callable[[IntArray], Sequence[Sequence[int]]]) -> ItemTrie | None:
    """The trie of a changed catalog, made of the one of the catalog before; equal to one built of all paths.

    Args:
        trie: Not changed.
        before: int64, of each item of the new catalog its index in the old one; -1 where it has another path than
            before, or is new.
        spell: Gives the paths of some items of the new catalog.

    Returns:
        None where most items changed, or stand in another order: there, building anew is quicker.

    Raises:
        ValueError: As `grow`.
    """
    new, kept = np.flatnonzero(before < 0), before[before >= 0]
    if MANY * len(new) > len(kept) or not len(kept) or (np.diff(kept) <= 0).any():
        return None
    gone = np.delete(np.arange(trie.num_items), kept)
    made = shrink(trie, gone) if len(gone) else trie
    made = grow(made, spell(new)) if len(new) else made
    in_order = not len(new) or new[0] == len(kept)
    return made if in_order else renumber(made, np.append(np.flatnonzero(before >= 0), new))
