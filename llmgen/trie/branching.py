"""How the model's probability of a node of the trie is divided among its children: one class for each way to do it.

* `OverCatalog`: among all children. What the model says of an item does not depend on who may be recommended.
* `OverEligible`: among the children that lead to an item that one request may be answered with.
* `OverVocabulary`: among all tokens that the model knows. Tokens of no item keep their part, so the sum is below 1.

The search chooses one of them at its start, and asks it three things: what to ask the model about the nodes that it
opens, which log-probabilities follow from the answer, and which of the children are leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llmgen.trie.core import ItemTrie
from llmgen.trie.mass import Mass, Weighed, intervals
from llmgen.trie.paths import Paths
from llmgen.types import FloatArray, IntArray


class Opened(NamedTuple):
    """Nodes that are opened, and their children that have eligible items.

    Attributes:
        node: int64 [n_opened], where the model is asked.
        tokens: What it is asked for: an array of tokens an opened node.
        asked: int64 [n_tokens], the opened node of each token, rising.
        answers: int64 [n_children], which of these tokens leads to each child.
        parent: int64 [n_children], the opened node of each child, rising.
        child: int64 [n_children], nodes of the trie.
        below: Of each child.
    """

    node: IntArray
    tokens: Iterable[IntArray]
    asked: IntArray
    answers: IntArray
    parent: IntArray
    child: IntArray
    below: Weighed


class Entered(NamedTuple):
    """What is to be known of nodes that the search reached.

    Attributes:
        node: int64, each node, or the one below it that it leads to without a choice.
        leaf: bool, whether nothing is left to choose.
        size: int64, how many items the node's probability is spread over.
    """

    node: IntArray
    leaf: NDArray[np.bool_]
    size: IntArray


class Branching(Protocol):
    """A way to divide probability.

    Attributes:
        whole_vocabulary: Whether the model's log-probabilities must be normalised over its vocabulary; else any
            constant may be missing.
    """

    whole_vocabulary: bool

    def __init__(self, trie: ItemTrie, paths: Paths, mass: Mass) -> None: ...

    def open(self, owner: IntArray, node: IntArray) -> Opened:
        """The children of nodes.

        Args:
            owner: int64 [n], the request of each node.
            node: int64 [n], each with a choice below it.
        """
        ...

    def children_logprobs(self, opened: Opened, logprobs: FloatArray) -> FloatArray:
        """Log-probability of each child, given its node, float64 [n_children]; `logprobs` are the model's answers."""
        ...

    def enter(self, owner: IntArray, node: IntArray, below: Weighed) -> Entered:
        """What is to be known of nodes that have eligible items; the array `node` may be changed."""
        ...


class OverCatalog:
    """See the module. All children of a node are asked for, so its tokens are one array for all requests."""

    whole_vocabulary = False

    def __init__(self, trie: ItemTrie, paths: Paths, mass: Mass) -> None:
        self.trie, self.paths, self.mass = trie, paths, mass

    def open(self, owner: IntArray, node: IntArray) -> Opened:
        """See `Branching`."""
        node = np.array(list(map(self.paths.end, node.tolist())))  # go down while there is no choice
        child, asked = intervals(self.trie.first[node], self.trie.first[node + 1])
        below = self.mass.below(owner[asked], child)
        alive = np.flatnonzero(below.best > -np.inf)
        tokens = map(self.paths.below, node.tolist())
        return Opened(node, tokens, asked, alive, asked[alive], child[alive], _take(below, alive))

    def children_logprobs(self, opened: Opened, logprobs: FloatArray) -> FloatArray:
        """See `Branching`."""
        return _normalised(logprobs, opened.asked)[opened.answers]

    def enter(self, owner: IntArray, node: IntArray, below: Weighed) -> Entered:
        """See `Branching`."""
        first, last = self.trie.lo[node], self.trie.hi[node] - 1
        return Entered(node, self.trie.leaf[first] == self.trie.leaf[last], (last - first + 1).astype(np.int64))


class OverEligible:
    """See the module."""

    whole_vocabulary = False

    def __init__(self, trie: ItemTrie, paths: Paths, mass: Mass) -> None:
        self.trie, self.paths, self.mass = trie, paths, mass

    def open(self, owner: IntArray, node: IntArray) -> Opened:
        """See `Branching`."""
        child, parent = intervals(self.trie.first[node], self.trie.first[node + 1])
        return _alive(self.paths, node, child, parent, self.mass.below(owner[parent], child))

    def children_logprobs(self, opened: Opened, logprobs: FloatArray) -> FloatArray:
        """See `Branching`."""
        return _normalised(logprobs, opened.asked)

    def enter(self, owner: IntArray, node: IntArray, below: Weighed) -> Entered:
        """See `Branching`."""
        leaf = below.size == 1
        several = np.flatnonzero(~leaf)
        node[several] = self._follow(node[several], owner[several])
        leaf[several] = self.trie.is_leaf(node[several])
        return Entered(node, leaf, below.size)

    def _follow(self, node: IntArray, owner: IntArray) -> IntArray:
        """Go down while there is no choice but items that are not eligible."""
        going = np.arange(len(node))
        while len(going):
            children, parent = intervals(self.trie.first[node[going]], self.trie.first[node[going] + 1])
            alive = self.mass.below(owner[going][parent], children).size > 0
            children, parent = children[alive], parent[alive]
            forced = np.bincount(parent, minlength=len(going))[parent] == 1
            going = going[parent[forced]]
            node[going] = children[forced]
        return node


class OverVocabulary:
    """See the module. Every token counts, also where nothing is left to choose; items of one leaf have all of it."""

    whole_vocabulary = True

    def __init__(self, trie: ItemTrie, paths: Paths, mass: Mass) -> None:
        self.trie, self.paths, self.mass = trie, paths, mass

    def open(self, owner: IntArray, node: IntArray) -> Opened:
        """See `Branching`."""
        child, splits = self.trie.children(node)
        parent = np.arange(len(node)).repeat(np.diff(splits))
        return _alive(self.paths, node, child, parent, self.mass.below(owner[parent], self.trie.node_of(child)))

    def children_logprobs(self, opened: Opened, logprobs: FloatArray) -> FloatArray:
        """See `Branching`."""
        return logprobs

    def enter(self, owner: IntArray, node: IntArray, below: Weighed) -> Entered:
        """See `Branching`."""
        real = self.trie.node_of(node)
        leaf = np.diff(self.trie.children(node).splits) == 0
        return Entered(np.where(leaf, real, node), leaf, np.where(leaf, 1, self._size(real, below)))

    def _size(self, node: IntArray, below: Weighed) -> IntArray:
        return (self.trie.hi[node] - self.trie.lo[node]).astype(np.int64)


class EligibleOverVocabulary(OverVocabulary):
    """The same, but a node that is not opened is taken to spread its probability over its eligible items alone."""

    def _size(self, node: IntArray, below: Weighed) -> IntArray:
        return below.size


def _alive(paths: Paths, node: IntArray, child: IntArray, parent: IntArray, below: Weighed) -> Opened:
    """Nodes where the model is asked for nothing but the children that have eligible items."""
    alive = np.flatnonzero(below.best > -np.inf)
    child, parent = child[alive], parent[alive]
    tokens = np.split(paths.tokens(child), _starts(parent)[1:])
    return Opened(node, tokens, parent, np.arange(len(child)), parent, child, _take(below, alive))


def _take(below: Weighed, which: IntArray) -> Weighed:
    return Weighed._make(array[which] for array in below)


def _normalised(logprobs: FloatArray, asked: IntArray) -> FloatArray:
    """Log-probabilities of tokens as shares of those that were asked for at the same node."""
    shares: FloatArray = logprobs - np.logaddexp.reduceat(logprobs, _starts(asked))[asked]
    return shares


def _starts(which: IntArray) -> IntArray:
    """Where the run of each number begins, of the numbers from 0 on, rising, each once at least."""
    counts = np.bincount(which)
    starts: IntArray = counts.cumsum() - counts
    return starts
