"""The search: the best items of a catalog under LM x prior, with a proof where there is one.

The score of item i for a request with prompt x and item prior w is

    score(i) = lm_weight * log P_LM(i | x) + log w(i)

where `lm_weight` is one number for all items of a request.

`P_LM` depends on the mode. In `trie` mode it is a probability over the catalog: at every node of the trie the model's
next-token distribution is renormalised over the node's children, so forced tokens cost nothing, and items that share a
leaf share its probability equally. In `raw` mode it is the product of the model's own next-token probabilities over
its whole vocabulary, as most published decoders have it.

`log P_LM` only falls along a path, so `lm_weight * log P_LM(node) + max of log w below the node` bounds every item
below the node. A beam that has pruned nothing with a bound above its k-th score has therefore found the exact top k,
and says so; `exact=True` goes on until that is the case.

`probability` is `exp(score)` over its sum for all eligible items. Below nodes that were not opened, the model's
probability is taken as spread evenly over the items there: that makes the sum exact where everything was opened, where
`lm_weight` is 0, and where it is 1 and the prior is flat below every node that was not opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from llmgen.engines import Engine, Step
from llmgen.errors import ArgumentError, GenerationError, SearchError
from llmgen.trie.branching import Branching, EligibleOverVocabulary, OverCatalog, OverEligible, OverVocabulary
from llmgen.trie.core import ItemTrie
from llmgen.trie.mass import Weighed, mass_of
from llmgen.trie.paths import Paths
from llmgen.trie.weights import ItemWeights, weights_of
from llmgen.types import FloatArray, IntArray

Mode = Literal["trie", "raw"]
Normalise = Literal["catalog", "eligible"]
BRANCHINGS: Mapping[tuple[Mode, Normalise], type[Branching]] = {
    ("trie", "catalog"): OverCatalog,
    ("trie", "eligible"): OverEligible,
    ("raw", "catalog"): OverVocabulary,
    ("raw", "eligible"): EligibleOverVocabulary,
}
"""How a node's probability is divided among its children."""


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How to search.

    Attributes:
        mode: See the module.
        normalise: Outside `raw` mode, whether a node's probability is shared among all of its children, or only among
            those that lead to an item with a weight above 0.
        lm_weight: Weight of the language model's log-probability, 0 or more, for requests without one of their own.
            With 0 it is not asked.
        num_beams: Nodes opened a round; `max(4 * k, 32)` by default.
        exact: Go on until the answer is proven.
    """

    mode: Mode = "trie"
    normalise: Normalise = "catalog"
    lm_weight: float = 1.0
    num_beams: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ArgumentError(f"mode must be 'trie' or 'raw', not {self.mode!r}")
        if self.normalise not in ("catalog", "eligible"):
            raise ArgumentError(f"normalise must be 'catalog' or 'eligible', not {self.normalise!r}")
        _check_lm_weight(self.lm_weight)
        if self.num_beams is not None and self.num_beams < 1:
            raise ArgumentError(f"num_beams must be 1 or more, not {self.num_beams}")


@dataclass(frozen=True, slots=True)
class Request:
    """One search.

    Attributes:
        prompt: Token ids after which an item is spelled.
        log_prior: Natural log of the item prior; -inf removes an item: float64 [num_items] in catalog order, or
            `ItemWeights`.
        k: How many items are wanted, 1 or more.
        tie_order: float64 [num_items]: of items with equal scores those with the smaller number come first; by default
            those that stand first in the catalog. It changes no score, and the proof is of scores.
        lm_weight: Instead of the one of `SearchConfig`.
    """

    prompt: tuple[int, ...]
    log_prior: FloatArray | ItemWeights
    k: int
    tie_order: FloatArray | None = None
    lm_weight: float | None = None


class SearchResult(NamedTuple):
    """Items of one search, best first; all arrays have one entry an item."""

    items: IntArray
    """Catalog indices, none twice, at most k; fewer only where fewer are eligible."""
    scores: FloatArray
    lm_logprobs: FloatArray
    """log P_LM of each item, not weighted; NaN where the model was not asked."""
    probabilities: FloatArray
    exact: bool
    num_rounds: int
    """How often the model was asked."""


def search(
    trie: ItemTrie, engine: Engine, requests: Sequence[Request], config: SearchConfig, *, end: int | None = None
) -> list[SearchResult]:
    """The best items of each request.

    Requests are worked on together, as many at a time as the engine's `batch_tokens` allow; those with the same prompt
    share its cost. No answer depends on the company.

    Args:
        trie: Of the catalog.
        engine: Whose tokens the trie and the prompts are made of.
        requests: At least one.
        config: How to search.
        end: The token with which an item ends behind these prompts, such as a line break in a list that goes on; by
            default the one with which the trie's paths end.

    Raises:
        SearchError: No item of a request has a weight above 0.
        ValueError: A prior of the wrong length, or with NaN or +inf in it; a weight of the model below 0.
    """
    weights = [weights_of(request.log_prior) for request in requests]
    lm_weights = np.array([config.lm_weight if one.lm_weight is None else one.lm_weight for one in requests])
    for number, (request, one) in enumerate(zip(requests, weights, strict=True)):
        _check(one, request.k, trie.num_items, f" in request {number}" if len(requests) > 1 else "")
        _check_lm_weight(float(lm_weights[number]))
    results: dict[int, SearchResult] = {}
    for number in np.flatnonzero(lm_weights == 0).tolist():
        results[number] = rank_by_prior(weights[number], requests[number].k, requests[number].tie_order)
    asking = np.flatnonzero(lm_weights).tolist()
    paths = Paths.of(trie, end)
    for numbers in _batches(requests, engine.batch_tokens, asking):
        own = [weights[number] for number in numbers]
        batch = _Batch(trie, [requests[number] for number in numbers], own, lm_weights[numbers], config, paths)
        while len((chosen := batch.choose()).node):
            batch.open(chosen, engine)
        results.update(zip(numbers, batch.results(), strict=True))
    return [results[number] for number in range(len(requests))]


def rank_by_prior(log_prior: FloatArray | ItemWeights, k: int, tie_order: FloatArray | None = None) -> SearchResult:
    """The search without a language model: the k largest weights, ties as in `Request`.

    Raises:
        SearchError: No item has a weight above 0.
    """
    weights = weights_of(log_prior)
    _check(weights, k, weights.num_items)
    items, scores, total = weights.top(k, tie_order)
    return SearchResult(items, scores, np.full(len(items), np.nan), np.exp(scores - total), True, 0)


class _Nodes(NamedTuple):
    """Some nodes of the trie with what is known of each; sorted by owner, and those of one owner as they came in."""

    owner: IntArray
    """Number of the request in the batch."""
    node: IntArray
    lm: FloatArray
    """log P_LM of the node."""
    bound: FloatArray
    """No item below scores more."""
    share: FloatArray
    """Log of the sum of exp(score) over the items below, if the model's probability is spread evenly over them."""

    def take(self, which: IntArray | NDArray[np.bool_]) -> _Nodes:
        return _Nodes._make(array[which] for array in self)

    @staticmethod
    def join(parts: Sequence[_Nodes]) -> _Nodes:
        joined = _Nodes._make(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return joined.take(joined.owner.argsort(kind="stable"))


class _Found(NamedTuple):
    """Items that were reached, of all requests."""

    owner: IntArray
    position: IntArray
    lm: FloatArray
    score: FloatArray


class _Batch:
    """Some requests that are worked on together; their number among them is the `owner` of what is theirs."""

    def __init__(
        self,
        trie: ItemTrie,
        requests: Sequence[Request],
        weights: Sequence[ItemWeights],
        lm_weights: FloatArray,
        config: SearchConfig,
        paths: Paths,
    ) -> None:
        self.trie = trie
        self.lm_weights = lm_weights
        self.config = config
        self.paths = paths
        self.prompts = [request.prompt for request in requests]
        self.tie_orders = {n: request.tie_order for n, request in enumerate(requests) if request.tie_order is not None}
        self.mass = mass_of(trie, weights)
        self.branching = BRANCHINGS[config.mode, config.normalise](trie, paths, self.mass)
        self.need = np.minimum([request.k for request in requests], self.mass.count)
        self.width = np.array([config.num_beams or max(4 * request.k, 32) for request in requests])
        self.owners = np.arange(len(requests))
        self.best = np.full((len(requests), self.need.max()), -np.inf)  # scores of the best items found, rising
        self.kth = np.full(len(requests), -np.inf)  # score of the k-th best item found
        none = np.zeros(0, np.int64)
        self.found = [_Found(none, none, np.zeros(0), np.zeros(0))]
        self.num_found, self.num_rounds = np.zeros_like(self.owners), np.zeros_like(self.owners)
        self.working = np.ones(len(requests), dtype=bool)
        self.reserve: list[_Nodes] = []  # nodes that were not chosen
        self.dropped: list[_Nodes] = []  # nodes that can't matter any more
        root, lm = np.zeros_like(self.owners), np.zeros(len(requests))
        self.pool = self._enter(self.owners, root, lm, self.mass.below(self.owners, root))

    def choose(self) -> _Nodes:
        """Choose the nodes to open next; none if all searches are over."""
        chosen = self._widest(self._drop(self.pool))
        idle, self.working = self.working, np.zeros_like(self.working)
        self.working[chosen.owner] = True
        idle &= ~self.working
        if not self.config.exact:
            idle &= self.num_found < self.need
        if self.reserve and idle.any():
            waiting = _Nodes.join(self.reserve)
            again = idle[waiting.owner]
            self.reserve = [waiting.take(~again)]
            chosen = _Nodes.join([chosen, self._widest(self._drop(waiting.take(again)))])
            self.working[chosen.owner] = True
        return chosen

    def open(self, chosen: _Nodes, engine: Engine) -> None:
        """Ask the model about the chosen nodes, and put their children where they belong."""
        self.num_rounds += self.working
        opened = self.branching.open(chosen.owner, chosen.node)
        spellings = map(self.paths.spelling, opened.node.tolist())
        prompts = [self.prompts[owner] for owner in chosen.owner.tolist()]
        whole = repeat(self.branching.whole_vocabulary)
        lm = np.concatenate(engine.next_logprobs(list(map(Step, prompts, spellings, opened.tokens, whole))))
        if not (lm < np.inf).all():  # NaN is not below it either; -inf is a token that the model rules out
            broken = np.unique(chosen.owner[opened.asked[~(lm < np.inf)]]).tolist()
            raise GenerationError(
                f"{engine.name} gave log-probabilities that are NaN or +inf after {len(broken)} of "
                f"{len(self.prompts)} prompts (numbers {', '.join(map(str, broken[:5]))} of the batch, from 0); its "
                "weights are damaged, or too large for its dtype: try float32"
            )
        lm = chosen.lm[opened.parent] + self.branching.children_logprobs(opened, lm)
        self.pool = self._enter(chosen.owner[opened.parent], opened.child, lm, opened.below)

    def results(self) -> list[SearchResult]:
        """The answers, once nothing is chosen any more."""
        owner, position, lm, score = (np.concatenate(arrays) for arrays in zip(*self.found, strict=True))
        rest = [*self.reserve, *self.dropped]
        sharing = np.concatenate([owner, *(nodes.owner for nodes in rest)])
        by_owner = np.argsort(sharing, kind="stable")
        share = np.concatenate([score, *(nodes.share for nodes in rest)])[by_owner]
        total = np.logaddexp.reduceat(share, np.searchsorted(sharing[by_owner], self.owners))
        exact = np.ones_like(self.working)
        for nodes in self.reserve:
            exact[nodes.owner[nodes.bound > self.kth[nodes.owner]]] = False

        among = np.flatnonzero(score >= self.kth[owner])
        item = self.trie.order[position[among]].astype(np.int64)
        second = item.astype(np.float64)
        for request, tie_order in self.tie_orders.items():
            own = owner[among] == request
            second[own] = tie_order[item[own]]
        order = np.lexsort((second, -score[among], owner[among]))
        among, item = among[order], item[order]
        owner, lm, score = owner[among], lm[among], score[among]
        probability = np.exp(score - total[owner])
        first = np.searchsorted(owner, self.owners)
        last = np.minimum(first + self.need, np.searchsorted(owner, self.owners, side="right"))
        return [
            SearchResult(item[a:b], score[a:b], lm[a:b], probability[a:b], proven, rounds)
            for a, b, proven, rounds in zip(
                first.tolist(), last.tolist(), exact.tolist(), self.num_rounds.tolist(), strict=True
            )
        ]

    def _enter(self, owner: IntArray, node: IntArray, lm: FloatArray, below: Weighed) -> _Nodes:
        """Add nodes that have eligible items: leaves to what is found; the others are returned."""
        node, leaf, size = self.branching.enter(owner, node, below)
        which = np.flatnonzero(leaf)
        if len(which):
            self._find(owner[which], lm[which], node[which], size[which])
        which = np.flatnonzero(~leaf)
        owner, lm, size, log_mass = owner[which], lm[which], size[which], below.log_mass[which]
        score = self.lm_weights[owner] * lm
        share = score + log_mass - self.lm_weights[owner] * np.log(size)
        return _Nodes(owner, node[which], lm, score + below.best[which], share)

    def _find(self, owner: IntArray, lm: FloatArray, node: IntArray, size: IntArray) -> None:
        """Add the eligible items of leaves; `size` items share the leaf's probability evenly."""
        before = self.lm_weights[owner] * lm - self.lm_weights[owner] * np.log(size)
        lm = lm - np.log(size)
        leaf, position, log_weight = self.mass.items(owner, node)
        owner, lm = owner[leaf], lm[leaf]
        score = before[leaf] + log_weight
        self.found.append(_Found(owner, position, lm, score))
        table, counts = _table(owner, score, len(self.owners), -np.inf)
        self.num_found += counts
        most = self.best.shape[1]
        self.best = np.sort(np.concatenate([self.best, table], axis=1), axis=1)[:, -most:]
        self.kth = self.best[self.owners, most - self.need]

    def _widest(self, nodes: _Nodes) -> _Nodes:
        """The nodes with the largest bounds, as many as a beam of each request holds, ties as they came in."""
        table, counts = _table(nodes.owner, -nodes.bound, len(self.owners), np.inf)
        most = int(self.width.max())
        if table.shape[1] > most:  # a look at all is cheaper than sorting all
            last = np.partition(table, most - 1, axis=1)[:, most - 1]
            near = -nodes.bound <= last[nodes.owner]
            self.reserve.append(nodes.take(~near))
            nodes = nodes.take(near)
            table, counts = _table(nodes.owner, -nodes.bound, len(self.owners), np.inf)
        first = np.cumsum(counts) - counts
        within = np.arange(table.shape[1]) < np.minimum(counts, self.width)[:, None]
        chosen = (table.argsort(axis=1, kind="stable") + first[:, None])[within]
        if len(chosen) < len(nodes.owner):
            rest = np.ones(len(nodes.owner), dtype=bool)
            rest[chosen] = False
            self.reserve.append(nodes.take(rest))
        return nodes.take(chosen)

    def _drop(self, nodes: _Nodes) -> _Nodes:
        """Without the nodes below which no item can enter the answer any more."""
        matters = nodes.bound > self.kth[nodes.owner]
        if matters.all():
            return nodes
        self.dropped.append(nodes.take(~matters))
        return nodes.take(matters)


def _table(owner: IntArray, values: FloatArray, num_owners: int, fill: float) -> tuple[FloatArray, IntArray]:
    """Values as one row an owner, filled up at the end, and how many each has; they must be sorted by owner."""
    counts = np.bincount(owner, minlength=num_owners)
    table = np.full((num_owners, counts.max()), fill)
    table[owner, np.arange(len(owner)) - (counts.cumsum() - counts)[owner]] = values
    return table, counts


def _check(weights: ItemWeights, k: int, num_items: int, where: str = "") -> None:
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k}")
    shape = weights.shared.log_weights.shape
    if shape != (num_items,):
        raise ValueError(f"the prior has the shape {shape}; this catalog wants ({num_items},)")
    if not weights.any:
        raise SearchError(
            f"no item is eligible{where}: all {num_items} were seen already or are filtered out; loosen "
            "the filters, or allow seen items"
        )


def _check_lm_weight(lm_weight: float) -> None:
    if not 0 <= lm_weight < float("inf"):
        raise ArgumentError(f"lm_weight must be 0 or more and finite, not {lm_weight}")


def _batches(requests: Sequence[Request], batch_tokens: int, numbers: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of requests, those with the same prompt side by side."""
    batch: list[int] = []
    total = 0
    previous: tuple[int, ...] | None = None
    for number in sorted(numbers, key=lambda n: (len(requests[n].prompt), requests[n].prompt)):
        prompt = requests[number].prompt
        tokens = 0 if prompt == previous else len(prompt)
        if batch and total + tokens > batch_tokens:
            yield batch
            batch, total, tokens = [], 0, len(prompt)
        batch.append(number)
        total += tokens
        previous = prompt
    if batch:
        yield batch
