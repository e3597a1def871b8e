"""What a search asks about nodes of a trie again and again, each looked up once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from llmgen.trie.core import ItemTrie
from llmgen.types import IntArray


class Paths(NamedTuple):
    """Functions of nodes that remember what they found."""

    spelling: Callable[[int], tuple[int, ...]]
    """Tokens from the root to a node or a place in a tail."""
    below: Callable[[int], IntArray]
    """Tokens of all children of a node; always the same array, so that engines need look at it only once."""
    end: Callable[[int], int]
    """The first node, from this one on downwards, that has not just one child."""
    tokens: Callable[[IntArray], IntArray]
    """Tokens on the edges into some nodes and places, as the model is asked for them."""

    @staticmethod
    def of(trie: ItemTrie, ending: int | None) -> Paths:
        """Of a trie.

        Args:
            trie: Of the catalog.
            ending: The token that the model is asked for where a path of the trie ends; None for the trie's own.
        """
        own = trie.path(0)[-1]

        def tokens(nodes: IntArray) -> IntArray:
            found = trie.token[nodes].astype(np.int64)
            return found if ending is None else np.where(found == own, ending, found)

        # element by element, a memoryview is three times as quick as an array
        token, parent, first, num_nodes = trie.token.data, trie.parent.data, trie.first.data, trie.num_nodes
        spelled: dict[int, tuple[int, ...]] = {0: ()}

        @cache
        def spelling(node: int) -> tuple[int, ...]:
            if node >= num_nodes:
                return trie.spelling(node)
            rest, above = [], node
            while above not in spelled:
                rest.append(token[above])
                above = parent[above]
            spelled[node] = (*spelled[above], *reversed(rest))
            return spelled[node]

        @cache
        def below(node: int) -> IntArray:
            return tokens(np.arange(first[node], first[node + 1]))

        @cache
        def end(node: int) -> int:
            while first[node + 1] - first[node] == 1:
                node = first[node]
            return node

        return Paths(spelling, below, end, tokens)
