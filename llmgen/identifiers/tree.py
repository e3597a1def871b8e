"""A tree over vectors: each node is split by k-means into nodes of vectors that are near one another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmgen.identifiers.kmeans import kmeans, nearest_centroid
from llmgen.types import IntArray
from llmgen.vectors.encoders import Float32Array


@dataclass(frozen=True, eq=False)
class Tree:
    """Nodes below a root that has no number.

    Attributes:
        centroids: float32 [n_nodes, d].
        parents: int64 [n_nodes], -1 for the root; parents stand before their children, siblings side by side.
    """

    centroids: Float32Array
    parents: IntArray

    @classmethod
    def grow(cls, vectors: Float32Array, *, branches: int, depth: int, seed: int) -> Tree:
        """Split vectors again and again.

        Args:
            vectors: float32 [n, d], n >= 1.
            branches: Children of a node at most. A node of so many vectors or fewer is not split; one of few more gets
                fewer children, so that each has some `branches` vectors.
            depth: Levels below the root at most.
            seed: See `kmeans`.
        """
        centroids: list[Float32Array] = []
        parents: list[int] = []
        level = [(-1, np.arange(len(vectors)))]
        for _ in range(depth):
            below = []
            for node, rows in level:
                if len(rows) <= branches:
                    continue
                made = kmeans(vectors[rows], min(branches, math.ceil(len(rows) / branches)), seed=seed)
                if len(made) < 2:
                    continue
                labels = nearest_centroid(vectors[rows], made)
                below += [(len(parents) + number, rows[labels == number]) for number in range(len(made))]
                parents += [node] * len(made)
                centroids.append(made)
            level = below
        if not parents:  # too few to be split, or all alike
            return cls(np.zeros((0, vectors.shape[1]), np.float32), np.zeros(0, np.int64))
        return cls(np.concatenate(centroids), np.array(parents, np.int64))

    def place(self, vectors: Float32Array) -> IntArray:
        """The deepest node of each vector, int64 [n]: from the root on the child with the nearest centroid.

        It is -1 for the root, where a vector of length 0 stands too: nothing is known of it.
        """
        nodes = np.full(len(vectors), -1)
        going = np.flatnonzero(np.asarray(vectors).any(axis=1))
        while len(going):
            for node in np.unique(nodes[going]).tolist():
                begin, end = self.children(node)
                here = going[nodes[going] == node]
                if begin == end:
                    going = going[~np.isin(going, here)]
                else:
                    nodes[here] = begin + nearest_centroid(vectors[here], self.centroids[begin:end])
        return nodes

    def children(self, node: int) -> tuple[int, int]:
        """The first child of a node, -1 for the root, and one past the last."""
        begin, end = np.searchsorted(self.parents, [node, node + 1])
        return int(begin), int(end)

    def path(self, node: int) -> tuple[int, ...]:
        """The nodes from the root's child down to a node; none for -1."""
        return self._paths[node] if node >= 0 else ()

    @cached_property
    def _paths(self) -> list[tuple[int, ...]]:
        paths: list[tuple[int, ...]] = []
        for node, parent in enumerate(self.parents.tolist()):
            paths.append((*(paths[parent] if parent >= 0 else ()), node))
        return paths
