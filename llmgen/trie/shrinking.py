"""Take paths out of a trie, or give its items other indices, without building it anew."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from llmgen.trie.core import Int32Array, ItemTrie
from llmgen.types import IntArray

FEW = 32
"""Paths that are taken out one by one; of more, all nodes are looked at once."""


def shrink(trie: ItemTrie, items: IntArray) -> ItemTrie:
    """A trie without some items, the others in their order; equal to one built of the paths that are left.

    No path is spelled again. What stays are nodes above which paths part still; below the first node that only one
    path goes through, what were nodes becomes the beginning of a tail.

    Args:
        trie: Not changed.
        items: int64, catalog indices of what is taken out; may be none, but not all.

    Raises:
        ValueError: Nothing would be left.
    """
    out = np.zeros(trie.num_items, bool)
    out[items] = True
    if out.all():
        raise ValueError(f"a trie needs at least one path, and this takes out all {trie.num_items}")
    if len(items) <= FEW:
        return _without_few(trie, np.unique(items))
    stays = np.flatnonzero(~out[trie.order])  # positions
    begins = np.append(True, trie.leaf[1:] != trie.leaf[:-1])  # where the items of a leaf begin
    run = begins.cumsum() - 1
    leads = np.append(True, run[stays][1:] != run[stays][:-1])  # the first one of each leaf that stays
    paths_before = _counts(stays[leads], trie.num_items)
    num_paths = paths_before[trie.hi] - paths_before[trie.lo]
    keep = num_paths > 0
    parts = num_paths > 1
    parts[0] = True  # the root has a child, even if there is one path only
    keep[1:] &= parts[trie.parent[1:]]

    number = (keep.cumsum() - 1).astype(np.int32)
    before = _counts(stays, trie.num_items).astype(np.int32)
    parent = np.append(np.int32(-1), number[trie.parent[keep][1:]])
    first = 1 + np.append(0, np.bincount(parent[1:], minlength=len(parent)).cumsum())
    leaf = trie.leaf[stays]
    lead = stays[leads]
    ends = np.append(np.flatnonzero(leads), len(stays))
    chains = {}  # by its place among the leaves that stay: tokens of what were nodes
    for place in np.flatnonzero(~keep[leaf[leads]]).tolist():
        node, chain = int(trie.leaf[lead[place]]), []
        while not keep[node]:
            chain.append(int(trie.token[node]))
            node = int(trie.parent[node])
        chains[place] = chain[::-1]
        leaf[ends[place] : ends[place + 1]] = node

    old = np.flatnonzero(begins)[run[lead]]  # where the tail of each leaf that stays begins
    lengths = trie.tail[old + 1] - trie.tail[old]
    tail_tokens = np.flatnonzero(np.repeat(np.isin(np.arange(trie.num_items), old), np.diff(trie.tail)))
    starts = lengths.cumsum() - lengths
    places = [int(starts[place]) for place, chain in chains.items() for _ in chain]
    tokens = [token for chain in chains.values() for token in chain]
    rest = np.insert(trie.token[trie.num_nodes :][tail_tokens], places, tokens)
    for place, chain in chains.items():
        lengths[place] += len(chain)
    behind = np.zeros(len(stays), np.int64)
    behind[leads] = lengths

    order = (np.cumsum(~out) - 1)[trie.order[stays]].astype(np.int32)
    position = np.empty(len(order), np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    leaf = number[leaf]
    made = ItemTrie(
        first.astype(np.int32),
        np.concatenate([trie.token[: trie.num_nodes][keep], rest]),
        before[trie.lo[keep]],
        before[trie.hi[keep]],
        parent,
        order,
        position,
        leaf,
        np.append(0, behind.cumsum()).astype(np.int32),
        0,
    )
    levels = np.array([end - start for start, end in made.levels()])
    depth = np.arange(len(levels)).repeat(levels)
    return dataclasses.replace(made, longest=int((depth[leaf] + behind).max()))


def renumber(trie: ItemTrie, items: IntArray) -> ItemTrie:
    """A trie of the same paths, whose items have other catalog indices.

    Args:
        trie: Not changed.
        items: int64 [num_items], of each item its new index; each once.
    """
    order = items[trie.order]
    together = trie.leaf[1:] == trie.leaf[:-1]  # with the position before, on one leaf
    if (together & (order[1:] < order[:-1])).any():
        order = order[np.lexsort((order, np.append(False, ~together).cumsum()))]
    position = np.empty(len(order), np.int32)
    position[order] = np.arange(len(order), dtype=np.int32)
    return dataclasses.replace(trie, order=order.astype(np.int32), position=position)


def _counts(places: IntArray, size: int) -> IntArray:
    """How many of some places stand before each place, and before the end: int64 [size + 1]."""
    there = np.zeros(size + 1, np.int64)
    there[places + 1] = 1
    return there.cumsum()


class _Cut(NamedTuple):
    """What goes out of a trie together with some items.

    Attributes:
        nodes: int64, rising.
        leaves: Old leaf, whose nodes go out and whose path stays -> the node that is its leaf now.
    """

    nodes: IntArray
    leaves: dict[int, int]


def _without_few(trie: ItemTrie, items: IntArray) -> ItemTrie:
    """See `shrink`; costs copies of the arrays, and what the paths that go out have nodes.

    Args:
        trie: Not changed.
        items: int64, rising, none twice.
    """
    if not len(items):
        return trie
    gone = np.sort(trie.position[items]).astype(np.int64)
    cut = _cut(trie, gone)
    leaf = trie.leaf.copy()
    for old, node in cut.leaves.items():
        leaf[trie.lo[old] : trie.hi[old]] = node
    tail, tokens = _tails_left(trie, gone, cut)
    nodes = trie.num_nodes
    made = ItemTrie(
        _lowered(np.delete(trie.first, cut.nodes), cut.nodes),
        np.concatenate([np.delete(trie.token[:nodes], cut.nodes), *tokens]),
        _lowered(np.delete(trie.lo, cut.nodes), gone),
        _lowered(np.delete(trie.hi, cut.nodes), gone),
        _lowered(np.delete(trie.parent, cut.nodes), cut.nodes),
        _lowered(np.delete(trie.order, gone), items),
        _lowered(np.delete(trie.position, items), gone),
        _lowered(np.delete(leaf, gone), cut.nodes),
        tail,
        trie.longest,
    )
    if max(len(trie.path(item)) for item in items.tolist()) < trie.longest:
        return made
    return dataclasses.replace(made, longest=_longest(made))


def _cut(trie: ItemTrie, gone: IntArray) -> _Cut:
    """What goes out with the items at some positions, which rise."""
    left: dict[int, list[int]] = {}  # of a node above what goes out: leaves that stay below it, two of them at most

    def staying(node: int) -> list[int]:
        if node not in left:
            found: list[int] = []
            position, end = int(trie.lo[node]), int(trie.hi[node])
            while position < end and len(found) < 2:
                leaf = int(trie.leaf[position])
                first, last = int(trie.lo[leaf]), int(trie.hi[leaf])
                if np.searchsorted(gone, last) - np.searchsorted(gone, first) < last - first:
                    found.append(leaf)
                position = last
            left[node] = found
        return left[node]

    out: set[int] = set()
    leaves: dict[int, int] = {}
    for old in dict.fromkeys(trie.leaf[gone].tolist()):
        if staying(old):  # other items have the same path
            continue
        node = old
        while node and not staying(node):
            out.add(node)
            node = int(trie.parent[node])
        alone = node
        while node and len(staying(node)) == 1:  # up to the first node that only one path goes through now
            alone, node = node, int(trie.parent[node])
        if alone and len(staying(alone)) == 1:
            leaf = above = staying(alone)[0]
            while above != alone:
                leaves[leaf] = alone
                out.add(above)
                above = int(trie.parent[above])
    return _Cut(np.array(sorted(out), np.int64), leaves)


def _tails_left(trie: ItemTrie, gone: IntArray, cut: _Cut) -> tuple[Int32Array, list[Int32Array]]:
    """`ItemTrie.tail` without the items at some positions, and all tails in pieces."""
    lengths, tokens = np.diff(trie.tail), trie.token[trie.num_nodes :]
    edits: list[tuple[int, int, list[int]]] = []  # in the old tokens: from where to where, and what stands there now
    whole = set(gone.tolist())
    for leaf in dict.fromkeys(trie.leaf[gone].tolist()):
        first, last = int(trie.lo[leaf]), int(trie.hi[leaf])
        stays = next((position for position in range(first, last) if position not in whole), None)
        if stays is None:
            edits.append((int(trie.tail[first]), int(trie.tail[first + 1]), []))
        else:  # the first of those that share a path has its tail
            lengths[first], lengths[stays] = 0, lengths[first]
    for old, made in cut.leaves.items():
        chain, node = [], old
        while node != made:
            chain.append(int(trie.token[node]))
            node = int(trie.parent[node])
        first = int(trie.lo[old])
        edits.append((int(trie.tail[first]), int(trie.tail[first]), chain[::-1]))
        lengths[next(position for position in range(first, int(trie.hi[old])) if position not in whole)] += len(chain)
    pieces, done = [], 0
    for start, end, put in sorted(edits, key=lambda edit: edit[:2]):
        pieces += [tokens[done:start], np.array(put, np.int32)]
        done = end
    tail = np.append(0, np.delete(lengths, gone).cumsum()).astype(np.int32)
    return tail, [*pieces, tokens[done:]]


def _lowered(array: Int32Array, gone: IntArray) -> Int32Array:
    """Numbers, each less by how many of those that are gone stood before it."""
    made = array.copy()
    for one in gone.tolist():
        made -= array > one
    return made


def _longest(trie: ItemTrie) -> int:
    levels = np.array([end - start for start, end in trie.levels()])
    depth = np.arange(len(levels)).repeat(levels)
    return int((depth[trie.leaf] + np.diff(trie.tail)).max())
