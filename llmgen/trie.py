"""ItemTrie: the token paths of a catalog's items as flat arrays, with the interval of items below each node.

Nodes are numbered breadth-first in sorted order, so the children of a node are contiguous and so are the items below
it. There is no Python object for a node; a node is an int, the root is 0.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Int32Array = NDArray[np.int32]
IndexArray = NDArray[np.int64]
ARRAYS = ("first", "token", "lo", "hi", "parent", "order", "position", "leaf")
FORMAT = 2


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
        token: int32 [num_nodes]; token on the edge into each node; -1 for the root.
        lo: int32 [num_nodes]; first item position below each node.
        hi: int32 [num_nodes]; one past the last item position below each node.
        parent: int32 [num_nodes]; -1 for the root.
        order: int32 [num_items]; catalog index of the item at each position. Items that share a path share a leaf and
            stand there in catalog order.
        position: int32 [num_items]; position of the item at each catalog index, the inverse of `order`.
        leaf: int32 [num_items]; the leaf that each position belongs to.
    """

    first: Int32Array
    token: Int32Array
    lo: Int32Array
    hi: Int32Array
    parent: Int32Array
    order: Int32Array
    position: Int32Array
    leaf: Int32Array

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
        lengths = np.fromiter((len(path) for path in paths), dtype=np.int64, count=len(paths))
        if not lengths.all():
            raise ValueError(f"path {int(np.argmin(lengths))} is empty; every item needs at least one token")
        tokens = np.full((int(lengths.max()), len(paths)), -1, dtype=np.int32)  # one row a depth: columns of the sort
        flat = np.fromiter((token for path in paths for token in path), dtype=np.int64, count=int(lengths.sum()))
        if flat.min() < 0:
            raise ValueError(f"token ids are 0 or more, not {int(flat.min())}")
        owner = np.repeat(np.arange(len(paths)), lengths)
        tokens[np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths), owner] = flat

        order = np.lexsort(tokens[::-1])
        tokens, lengths = tokens[:, order], lengths[order]
        num_items = len(order)
        differs = tokens[:, 1:] != tokens[:, :-1]
        equal = ~differs.any(axis=0)
        shared = np.zeros(num_items, dtype=np.int64)  # tokens that a path has in common with the path before it
        shared[1:] = np.where(equal, lengths[1:], differs.argmax(axis=0))
        prefix = np.flatnonzero((shared[1:] == lengths[:-1]) & (lengths[1:] > lengths[:-1]))
        if len(prefix):
            short, long = int(order[prefix[0]]), int(order[prefix[0] + 1])
            raise ValueError(f"path {short} is the beginning of path {long}; end every path with the same end token")

        los, his, edges = [np.zeros(1, np.int64)], [np.full(1, num_items)], [np.full(1, -1, np.int64)]
        parents, counts = [np.full(1, -1, np.int64)], []
        offset = 0  # number of the first node of the level above
        for depth in range(len(tokens)):
            starts = np.flatnonzero((shared <= depth) | (np.arange(num_items) == 0))
            ends = np.append(starts[1:], num_items)
            inside = lengths[starts] > depth
            lo, hi = starts[inside], ends[inside]
            above = np.searchsorted(los[-1], lo, side="right") - 1
            counts.append(np.bincount(above, minlength=len(los[-1])))
            parents.append(above + offset)
            offset += len(los[-1])
            los.append(lo)
            his.append(hi)
            edges.append(tokens[depth, lo].astype(np.int64))
        counts.append(np.zeros(len(los[-1]), dtype=np.int64))
        first = np.concatenate([[1], 1 + np.cumsum(np.concatenate(counts))])
        edge, lo, hi, parent = (np.concatenate(parts) for parts in (edges, los, his, parents))
        leaves = np.flatnonzero(first[1:] == first[:-1])
        position = np.empty(num_items, np.int64)
        position[order] = np.arange(num_items)
        leaves = leaves[np.argsort(lo[leaves])]  # each position is below one leaf
        leaf = np.repeat(leaves, hi[leaves] - lo[leaves])
        arrays = (first, edge, lo, hi, parent, order, position, leaf)
        return cls(*(array.astype(np.int32) for array in arrays))

    @property
    def num_nodes(self) -> int:
        """Nodes, the root included."""
        return len(self.token)

    @property
    def num_items(self) -> int:
        """Items, those that share a path each counted."""
        return len(self.order)

    def is_leaf(self, nodes: IndexArray) -> NDArray[np.bool_]:
        """Whether each of some nodes ends a path."""
        leaf: NDArray[np.bool_] = self.first[nodes] == self.first[nodes + 1]
        return leaf

    def children(self, nodes: IndexArray) -> Children:
        """Children of several nodes at once."""
        begin = self.first[nodes].astype(np.int64)
        counts = self.first[nodes + 1] - begin
        splits = np.concatenate([[0], np.cumsum(counts)])
        return Children(np.arange(splits[-1]) + np.repeat(begin - splits[:-1], counts), splits)

    def spelling(self, node: int) -> tuple[int, ...]:
        """Tokens from the root to a node."""
        spelled = []
        while node:
            spelled.append(int(self.token[node]))
            node = int(self.parent[node])
        return tuple(reversed(spelled))

    def path(self, item: int) -> tuple[int, ...]:
        """Token path of the item with a catalog index."""
        return self.spelling(int(self.leaf[self.position[item]]))

    def save(self, folder: Path) -> None:
        """Write the arrays into a new folder; it is there whole or not at all, also with several writers."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name in ARRAYS:
                np.save(scratch / f"{name}.npy", getattr(self, name))
            (scratch / "trie.json").write_text(json.dumps({"format": FORMAT}), encoding="utf-8")
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

        Raises:
            OSError, ValueError: The folder is not there, not whole, or of another format.
        """
        stored = json.loads((folder / "trie.json").read_text(encoding="utf-8"))
        if stored != {"format": FORMAT}:
            raise ValueError(f"{folder} holds a trie of another format: {stored}")
        return cls(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS))

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
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("the stored trie %s is broken and is built again: %s", target, error)
            shutil.rmtree(target)
        cls.build(paths()).save(target)
        return cls.load(target)
