"""ItemTrie: the token paths of a catalog's items as flat arrays, with the interval of items below each node.

Nodes are numbered breadth-first in sorted order, so the children of a node are contiguous and so are the items below
it. There is no Python object for a node; a node is an int, the root is 0.

A path has nodes as far as it shares its way with another, and one more, its leaf. What follows there, where nothing is
left to choose, is its tail: a string of tokens. Four of five tokens of a million titles stand in tails, and a tail
costs 4 bytes a token where a node costs 20. Whoever must go through tails all the same (raw mode does, which asks the
model about every token) gives their places numbers behind those of the nodes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Int32Array = NDArray[np.int32]
IndexArray = NDArray[np.int64]
ARRAYS = ("first", "token", "lo", "hi", "parent", "order", "position", "leaf", "tail")
FORMAT = 4
PART = 1 << 22  # bytes read at once


class Children(NamedTuple):
    """The children of several nodes, node after node."""

    nodes: IndexArray
    splits: IndexArray
    """int64 [number of asked nodes + 1]: the children of the i-th node are `nodes[splits[i]:splits[i + 1]]`."""


@dataclass(frozen=True, slots=True)
class ItemTrie:
    """A trie over the token paths of items, as arrays.

    Attributes:
        first: int32 [num_nodes + 1]; the children of v are `first[v] .. first[v + 1] - 1`; a leaf has none.
        token: int32 [num_nodes + tokens of all tails]; token on the edge into each node, -1 for the root; behind them
            the tails, one after the other. So `num_nodes + t` is the number of the place behind token t of these.
        lo: int32 [num_nodes]; first item position below each node.
        hi: int32 [num_nodes]; one past the last item position below each node.
        parent: int32 [num_nodes]; -1 for the root.
        order: int32 [num_items]; catalog index of the item at each position. Items that share a path share a leaf and
            stand there in catalog order.
        position: int32 [num_items]; position of the item at each catalog index, the inverse of `order`.
        leaf: int32 [num_items]; the leaf that each position belongs to.
        tail: int32 [num_items + 1]; the tail of the leaf whose first position is p has the places `num_nodes + t` with
            t in `tail[p] .. tail[p + 1] - 1`. The other positions of a leaf that several items share have none.
        longest: Tokens of the longest path.
    """

    first: Int32Array
    token: Int32Array
    lo: Int32Array
    hi: Int32Array
    parent: Int32Array
    order: Int32Array
    position: Int32Array
    leaf: Int32Array
    tail: Int32Array
    longest: int

    @classmethod
    def build(cls, paths: Sequence[Sequence[int]]) -> ItemTrie:
        """The trie of one token path an item, in catalog order.

        Args:
            paths: At least one; each at least one token id >= 0. End every path with one and the same end token, so
                that a title may begin another title.

        Raises:
            ValueError: No paths, an empty path, a negative token, or a path that is the beginning of another one.

        >>> trie = ItemTrie.build([[5, 6, 0], [5, 0]])
        >>> [trie.path(item) for item in (0, 1)]
        [(5, 6, 0), (5, 0)]
        """
        if not len(paths):
            raise ValueError("a trie needs at least one path")
        lengths = np.fromiter(map(len, paths), np.int64, len(paths))
        shortest = int(lengths.min())
        if not shortest:
            raise ValueError(f"path {int(np.argmin(lengths))} is empty; every item needs at least one token")
        flat = np.fromiter(chain.from_iterable(paths), np.int32, int(lengths.sum()))
        if flat.min() < 0:
            raise ValueError(f"token ids are 0 or more, not {int(flat.min())}")
        start = lengths.cumsum() - lengths
        tokens = np.full((int(lengths.max()), len(paths)), -1, np.int32)
        for place, row in enumerate(tokens):
            there = slice(None) if place < shortest else lengths > place
            row[there] = flat[start[there] + place]

        order = _sorted(tokens, int(flat.max()) + 2)
        shared = _shared(tokens, order)
        lengths, start = lengths[order], start[order]
        prefix = np.flatnonzero((shared[1:] == lengths[:-1]) & (lengths[1:] > lengths[:-1]))
        if len(prefix):
            short, long = int(order[prefix[0]]), int(order[prefix[0] + 1])
            raise ValueError(f"path {short} is the beginning of path {long}; end every path with the same end token")
        distinct = np.flatnonzero(shared < lengths)  # of paths that are equal, the first
        begun = shared[distinct]
        depth_of_leaf = np.maximum(begun, np.append(begun[1:], 0)) + 1
        added = np.zeros(len(paths), np.int64)  # nodes of a path that the path before it does not have
        added[distinct] = depth_of_leaf - begun
        item = np.arange(len(paths), dtype=np.int32).repeat(added)
        end = added.cumsum()
        depth = np.arange(len(item)) - (end - added - shared).repeat(added)
        by_level = depth.astype(np.min_scalar_type(len(tokens))).argsort(kind="stable")  # of few bits: a radix sort
        number = np.empty(len(item), np.int32)  # of each of these nodes, path by path
        number[by_level] = np.arange(1, len(item) + 1, dtype=np.int32)
        levels = 1 + np.append(0, np.bincount(depth).cumsum())
        lo = np.append(np.int32(0), item[by_level])

        above = np.append(np.int32(0), number[:-1])  # the parent is the node before, but where a path branches off
        above[(end - added)[distinct]] = _branched(lo, levels, distinct, begun)
        parent = np.append(np.int32(-1), above[by_level])
        first = 1 + np.append(0, np.bincount(parent[1:], minlength=len(lo)).cumsum())
        position = np.empty(len(paths), np.int32)
        position[order] = np.arange(len(paths), dtype=np.int32)
        leaf = number[end[distinct] - 1].repeat(np.diff(np.append(distinct, len(paths))))
        hi = _ends(lo, parent, levels, len(paths))

        left = np.zeros(len(paths), np.int64)  # tokens behind the leaf
        left[distinct] = lengths[distinct] - depth_of_leaf
        tail = np.append(0, left.cumsum())
        behind = np.arange(tail[-1]) + (start + lengths - tail[1:]).repeat(left)
        token = np.concatenate([np.full(1, -1, np.int32), flat[start.repeat(added) + depth][by_level], flat[behind]])
        return cls(
            first.astype(np.int32),
            token,
            lo,
            hi,
            parent,
            order.astype(np.int32),
            position,
            leaf,
            tail.astype(np.int32),
            int(lengths.max()),
        )

    @property
    def num_nodes(self) -> int:
        """Nodes, the root included; places in tails are none."""
        return len(self.lo)

    @property
    def num_items(self) -> int:
        """Items, those that share a path each counted."""
        return len(self.order)

    def levels(self) -> Iterator[tuple[int, int]]:
        """First node of each level, and the one behind its last, from the root down."""
        start, end = 0, 1
        while start < end:
            yield start, end
            start, end = end, int(self.first[end])

    def is_leaf(self, nodes: IndexArray) -> NDArray[np.bool_]:
        """Whether there is nothing left to choose at each of some nodes."""
        leaf: NDArray[np.bool_] = self.first[nodes] == self.first[nodes + 1]
        return leaf

    def node_of(self, places: IndexArray) -> IndexArray:
        """Nodes as they are, and the leaf of each place in a tail."""
        nodes = places.copy()
        inside = np.flatnonzero(places >= self.num_nodes)
        if len(inside):
            token = (places[inside] - self.num_nodes).astype(np.int32)
            nodes[inside] = self.leaf[self.tail.searchsorted(token, side="right") - 1]
        return nodes

    def children(self, places: IndexArray) -> Children:
        """What follows on several nodes and places at once: children, and where there are none, one place in a tail."""
        nodes = self.node_of(places)
        begin = self.first[nodes].astype(np.int64)
        counts = self.first[nodes + 1] - begin
        alone = np.flatnonzero(counts == 0)
        if len(alone):
            position = self.lo[nodes[alone]]
            inside = places[alone] >= self.num_nodes
            begin[alone] = np.where(inside, places[alone] + 1, self.num_nodes + self.tail[position])
            counts[alone] = begin[alone] < self.num_nodes + self.tail[position + 1]
        splits = np.concatenate([[0], np.cumsum(counts)])
        return Children(np.arange(splits[-1]) + np.repeat(begin - splits[:-1], counts), splits)

    def spelling(self, place: int) -> tuple[int, ...]:
        """Tokens from the root to a node or to a place in a tail."""
        spelled: list[int] = []
        node = place
        if place >= self.num_nodes:
            node = int(self.node_of(np.array([place]))[0])
            begin = self.num_nodes + int(self.tail[self.lo[node]])
            spelled = self.token[begin : place + 1][::-1].tolist()
        while node:
            spelled.append(int(self.token[node]))
            node = int(self.parent[node])
        return tuple(reversed(spelled))

    def path(self, item: int) -> tuple[int, ...]:
        """Token path of the item with a catalog index."""
        leaf = int(self.leaf[self.position[item]])
        return (*self.spelling(leaf), *self.tail_of(leaf))

    def tail_of(self, leaf: int) -> list[int]:
        """Tokens behind a leaf."""
        begin, end = self.tail[self.lo[leaf] : self.lo[leaf] + 2]
        tokens: list[int] = self.token[self.num_nodes + begin : self.num_nodes + end].tolist()
        return tokens

    def save(self, folder: Path) -> None:
        """Write the arrays into a new folder; it is there whole or not at all, also with several writers."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name in ARRAYS:
                np.save(scratch / f"{name}.npy", getattr(self, name))
            about = {"format": FORMAT, "longest": self.longest, "crc32": _checksums(scratch, self.longest)}
            (scratch / "trie.json").write_text(json.dumps(about), encoding="utf-8")
            try:
                scratch.rename(folder)
            except OSError:
                if not (folder / "trie.json").exists():  # else another writer was first, with the same arrays
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> ItemTrie:
        """Map the arrays that `save` wrote into memory, read-only, shared between processes.

        All bytes are read once and compared with their checksums.

        Raises:
            OSError, ValueError: The folder is not there, not whole, changed since it was written, or of another format.
        """
        stored = json.loads((folder / "trie.json").read_text(encoding="utf-8"))
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise ValueError(f"{folder} holds a trie of another format: {stored}")
        kept, found = stored.get("crc32"), _checksums(folder, stored.get("longest"))
        if kept != found:
            kept = kept if isinstance(kept, dict) else {}
            broken = [name for name, value in found.items() if kept.get(name) != value]
            raise ValueError(f"{folder} is not as it was written: {', '.join(broken) or 'trie.json'}")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        return cls(**arrays, longest=stored["longest"])

    @classmethod
    def cached(cls, folder: Path, key: Sequence[str], paths: Callable[[], Sequence[Sequence[int]]]) -> ItemTrie:
        """The trie stored below a folder under a key, built and stored first where it is not there yet.

        Args:
            folder: Where tries are kept.
            key: Everything that decides the paths: digests of the catalog and of the tokenizer.
            paths: Called only when the trie must be built; see `build`.
        """
        name = hashlib.sha256(os.fsencode("\0".join(key))).hexdigest()[:24]
        target = folder / name
        try:
            return cls.load(target)
        except (OSError, ValueError) as error:
            if target.exists():
                logger.warning("the stored trie %s is broken and is built again: %s", target, error)
                target.unlink() if target.is_file() else shutil.rmtree(target)
        cls.build(paths()).save(target)
        return cls.load(target)


def _checksums(folder: Path, longest: object) -> dict[str, int]:
    """CRC-32 of each file of arrays, and of the length in trie.json: finds every flipped bit."""
    found = {"longest": zlib.crc32(str(longest).encode())}
    for name in ARRAYS:
        with (folder / f"{name}.npy").open("rb") as file:
            value = 0
            while part := file.read(PART):
                value = zlib.crc32(part, value)
        found[name] = value
    return found


def _sorted(tokens: Int32Array, base: int) -> IndexArray:
    """Order of paths, [depth, path] with -1 behind their ends, equal ones as they came in.

    As many tokens as fit are packed into one number; where paths are equal so far, the next ones decide.
    """
    depths, count = tokens.shape
    packed = int(62 // np.log2(base))

    def keys(depth: int, paths: IndexArray | slice) -> IndexArray:
        key = np.zeros(count, np.int64)[paths]
        for row in tokens[depth : depth + packed]:
            key = key * base + (row[paths] + 1)
        return key

    order = keys(0, slice(None)).argsort(kind="stable")
    key = keys(0, order)
    begins = np.append(True, key[1:] != key[:-1])
    places = np.arange(count)  # in the order, of the paths that are not told apart yet; `begins` marks runs of these
    for depth in range(packed, depths, packed):
        several = ~(begins & np.append(begins[1:], True))
        places, run = places[several], begins.cumsum()[several]
        key = keys(depth, order[places])
        if not key.any():  # all others are equal
            break
        by = np.lexsort((key, run))
        order[places] = order[places][by]
        key, run = key[by], run[by]
        begins = np.append(True, (key[1:] != key[:-1]) | (run[1:] != run[:-1]))
    return order


def _shared(tokens: Int32Array, order: IndexArray) -> IndexArray:
    """How many tokens each path, in their order, has in common with the one before it."""
    shared = np.zeros(len(order), np.int64)
    place = np.arange(1, len(order))  # of the paths that go with the one before so far
    for row in tokens:
        if 2 * len(place) > len(order):  # to read all in order is cheaper than to read most of them twice
            in_order = row[order]
            left, right = in_order[place - 1], in_order[place]
        else:
            left, right = row[order[place - 1]], row[order[place]]
        place = place[(left == right) & (left >= 0)]
        shared[place] += 1
    return shared


def _branched(lo: Int32Array, levels: IndexArray, paths: IndexArray, depths: IndexArray) -> Int32Array:
    """The nodes, so many tokens below the root, that paths branch off at."""
    nodes = np.zeros(len(paths), np.int32)
    for depth in range(1, len(levels) - 1):
        here = np.flatnonzero(depths == depth)
        begin, end = levels[depth - 1], levels[depth]
        nodes[here] = begin + np.searchsorted(lo[begin:end], paths[here].astype(np.int32), side="right") - 1
    return nodes


def _ends(lo: Int32Array, parent: Int32Array, levels: IndexArray, num_items: int) -> Int32Array:
    """One past the last item below each node: the first of the next sibling, or else what it is for the parent."""
    hi = np.append(lo[1:], np.int32(num_items))
    hi[0] = num_items
    last = 1 + np.flatnonzero(np.append(parent[1:-1] != parent[2:], True))
    for some in np.split(last, np.searchsorted(last, levels[1:-1])):
        hi[some] = hi[parent[some]]
    return hi
