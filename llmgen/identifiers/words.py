"""Words before a title, from the general to the particular: `strategy > turn-based > fantasy: Fire Emblem`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from llmgen.errors import ArgumentError
from llmgen.identifiers.naming import name_nodes, terms_of
from llmgen.identifiers.reading import Reading
from llmgen.identifiers.tree import Tree
from llmgen.types import IntArray, Item
from llmgen.vectors import ItemVectors
from llmgen.vectors.encoders import Float32Array

BRANCHES, DEPTH = 12, 3
BETWEEN, BEFORE_TITLE = " > ", ": "


@dataclass(frozen=True, eq=False)
class Words:
    """Spells an item as the names of the nodes above it in a tree, and its label; make it with `fit`.

    It needs no new tokens, any model can read it, and an item that comes later stands where its vector belongs. One of
    which nothing is known is spelled by its label alone.

    Attributes:
        tree: Over the items' vectors.
        names: Of its nodes; no two siblings have the same.
        reading: How items are known.
    """

    kind: ClassVar[str] = "words"
    tokens: ClassVar[tuple[str, ...]] = ()

    tree: Tree
    names: tuple[str, ...]
    reading: Reading

    @classmethod
    def fit(cls, vectors: ItemVectors, *, branches: int = BRANCHES, depth: int = DEPTH, seed: int = 0) -> Words:
        """Grow a tree over the vectors of a catalog, and name its nodes by words of titles and attributes.

        Args:
            vectors: Of the catalog.
            branches: Children of a node at most, 2 or more; nodes of so many items are not split.
            depth: Names before a title at most, 1 or more.
            seed: Of k-means.

        Raises:
            ArgumentError: A number is out of range.
        """
        if branches < 2 or depth < 1:
            raise ArgumentError(f"branches must be 2 or more and depth 1 or more, not {branches} and {depth}")
        points = vectors.at(np.arange(len(vectors.catalog)))
        known = points[points.any(axis=1)]
        tree = Tree.grow(known if len(known) else points, branches=branches, depth=depth, seed=seed)
        nodes = tree.place(points)
        names = name_nodes(tree, nodes, [terms_of(item) for item in vectors.catalog])
        return cls(tree, tuple(names), Reading.of(vectors, nodes[:, None]))

    @cached_property
    def digest(self) -> str:
        """See `llmgen.catalog.core.Identifier`."""
        told = json.dumps([self.kind, self.names, self.reading.label, self.reading.content]).encode()
        arrays = (self.tree.centroids, self.tree.parents, self.reading.keys, self.reading.places)
        return hashlib.sha256(b"\0".join([told, *(array.tobytes() for array in arrays)])).hexdigest()[:16]

    def path(self, item: Item) -> tuple[str, ...]:
        """The names above an item, from the general to the particular; none where nothing is known of it."""
        return self._named(int(self.reading.find([item], self._place)[0, 0]))

    def spell(self, items: Sequence[Item], labels: Sequence[str]) -> list[str]:
        """See `llmgen.catalog.core.Identifier`."""
        nodes = self.reading.find(items, self._place)[:, 0].tolist()
        return [f"{self._before(node)}{label}" for node, label in zip(nodes, labels, strict=True)]

    def _place(self, vectors: Float32Array) -> IntArray:
        return self.tree.place(vectors)[:, None]

    def _named(self, node: int) -> tuple[str, ...]:
        return tuple(self.names[above] for above in self.tree.path(node))

    def _before(self, node: int) -> str:
        return BETWEEN.join(self._named(node)) + BEFORE_TITLE if node >= 0 else ""
