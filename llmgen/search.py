"""The search: the best items of a catalog under LM x prior, with a proof where there is one.

The score of item i for a request with prompt x and item prior w is

    score(i) = lm_weight * log P_LM(i | x) + log w(i)

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from llmgen.engines import Engine, Step
from llmgen.errors import SearchError
from llmgen.trie import ItemTrie
from llmgen.types import FloatArray, IntArray

Mode = Literal["trie", "raw"]
Normalise = Literal["catalog", "eligible"]


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How to search.

    Attributes:
        mode: See the module.
        normalise: In `trie` mode, whether a node's probability is shared among all of its children, or only among
            those that lead to an item with a weight above 0.
        lm_weight: Weight of the language model's log-probability, 0 or more. With 0 it is not asked.
        num_beams: Nodes opened a round; `max(4 * k, 32)` by default.
        exact: Go on until the answer is proven.
    """

    mode: Mode = "trie"
    normalise: Normalise = "catalog"
    lm_weight: float = 1.0
    num_beams: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("trie", "raw"):
            raise ValueError(f"mode must be 'trie' or 'raw', not {self.mode!r}")
        if self.normalise not in ("catalog", "eligible"):
            raise ValueError(f"normalise must be 'catalog' or 'eligible', not {self.normalise!r}")
        if not 0 <= self.lm_weight < float("inf"):
            raise ValueError(f"lm_weight must be 0 or more and finite, not {self.lm_weight}")
        if self.num_beams is not None and self.num_beams < 1:
            raise ValueError(f"num_beams must be 1 or more, not {self.num_beams}")


@dataclass(frozen=True, slots=True)
class Request:
    """One search.

    Attributes:
        prompt: Token ids after which an item is spelled.
        log_prior: float64 [num_items], natural log of the item prior in catalog order; -inf removes an item.
        k: How many items are wanted, 1 or more.
    """

    prompt: tuple[int, ...]
    log_prior: FloatArray
    k: int


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


def search(trie: ItemTrie, engine: Engine, requests: Sequence[Request], config: SearchConfig) -> list[SearchResult]:
    """The best items of each request.

    Requests are worked on together, as many at a time as the engine's `batch_tokens` allow; those with the same prompt
    share its cost.

    Raises:
        SearchError: No item of a request has a weight above 0.
        ValueError: A prior of the wrong length, or with NaN or +inf in it.
    """
    results: list[SearchResult | None] = [None] * len(requests)
    asked = []
    for number, request in enumerate(requests):
        _check(request, trie.num_items, number)
        if config.lm_weight == 0:
            results[number] = rank_by_prior(request.log_prior, request.k)
        else:
            asked.append(number)
    wanted: dict[int, IntArray] = {}
    for numbers in _batches(asked, requests, engine.batch_tokens):
        beams = {number: _Beam(trie, requests[number], config, wanted) for number in numbers}
        while working := {number: beam for number, beam in beams.items() if beam.advance()}:
            questions = {number: beam.questions() for number, beam in working.items()}
            answers = iter(engine.next_logprobs([step for steps in questions.values() for step in steps]))
            for number, steps in questions.items():
                working[number].answer([next(answers) for _ in steps])
        for number, beam in beams.items():
            results[number] = beam.result()
    return [result for result in results if result is not None]


def rank_by_prior(log_prior: FloatArray, k: int) -> SearchResult:
    """The search without a language model: the k largest weights, ties in catalog order.

    Raises:
        SearchError: No item has a weight above 0.
    """
    _check(Request((), log_prior, k), len(log_prior), 0)
    eligible = np.flatnonzero(log_prior > -np.inf)
    if len(eligible) > k:
        kth = np.partition(log_prior[eligible], len(eligible) - k)[len(eligible) - k]
        eligible = eligible[log_prior[eligible] >= kth]
    items = eligible[np.argsort(-log_prior[eligible], kind="stable")][:k]
    total = np.logaddexp.reduce(log_prior[log_prior > -np.inf])
    scores = log_prior[items]
    return SearchResult(items, scores, np.full(len(items), np.nan), np.exp(scores - total), True, 0)


class _Nodes(NamedTuple):
    """Some nodes of the trie with what is known of each."""

    node: IntArray
    lm: FloatArray
    """log P_LM of the node."""
    bound: FloatArray
    """No item below scores more."""
    share: FloatArray
    """Log of the sum of exp(score) over the items below, if the model's probability is spread evenly over them."""

    def take(self, which: IntArray) -> _Nodes:
        return _Nodes(self.node[which], self.lm[which], self.bound[which], self.share[which])

    @staticmethod
    def join(parts: Sequence[_Nodes]) -> _Nodes:
        node, lm, bound, share = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return _Nodes(node, lm, bound, share)


class _Beam:
    """The state of one request."""

    def __init__(self, trie: ItemTrie, request: Request, config: SearchConfig, wanted: dict[int, IntArray]) -> None:
        self.trie = trie
        self.request = request
        self.config = config
        self.wanted = wanted  # tokens of all children of a node, shared by all requests of a search
        self.width = config.num_beams or max(4 * request.k, 32)
        self.num_rounds = 0
        log_weight = request.log_prior[trie.order]
        self.log_weight = np.append(log_weight, -np.inf)  # one more, so that an interval may end behind the last item
        self.top = float(log_weight.max())
        self.mass = np.concatenate([[0.0], np.cumsum(np.exp(log_weight - self.top))])
        self.count = np.concatenate([[0], np.cumsum(log_weight > -np.inf)])
        self.need = min(request.k, int(self.count[-1]))
        self.found_position: list[IntArray] = [np.empty(0, np.int64)]
        self.found_lm: list[FloatArray] = [np.empty(0)]
        self.kth = -np.inf  # score of the k-th best item found
        self.unopened = -np.inf  # log of the sum of exp(share) over nodes that can't matter
        empty = self._describe(np.empty(0, np.int64), np.empty(0))
        self.pool = [empty]
        self.reserve = [empty]
        self._enter(np.zeros(1, np.int64), np.zeros(1))

    def advance(self) -> bool:
        """Choose the nodes to open next; False if the search is over."""
        pool = self._drop(_Nodes.join(self.pool))
        order = np.argsort(-pool.bound, kind="stable")
        self.pool = [pool.take(order[: self.width])]
        self.reserve.append(pool.take(order[self.width :]))
        if len(self.pool[0].node):
            return True
        if not self.config.exact and len(self._scores()) >= self.need:
            return False
        reserve = self._drop(_Nodes.join(self.reserve))
        order = np.argsort(-reserve.bound, kind="stable")
        self.pool = [reserve.take(order[: self.width])]
        self.reserve = [reserve.take(order[self.width :])]
        return len(self.pool[0].node) > 0

    def questions(self) -> list[Step]:
        """One step a chosen node."""
        self.num_rounds += 1
        chosen = self.pool[0]
        children, splits = self.trie.children(chosen.node)
        eligible = self._eligible(children) > 0
        steps = []
        asks_all = self.config.mode == "trie" and self.config.normalise == "catalog"
        for i, node in enumerate(chosen.node.tolist()):
            own = children[splits[i] : splits[i + 1]]
            if asks_all:
                if node not in self.wanted:
                    self.wanted[node] = self.trie.token[own].astype(np.int64)
                wanted = self.wanted[node]
            else:
                wanted = self.trie.token[own[eligible[splits[i] : splits[i + 1]]]].astype(np.int64)
            steps.append(Step(self.request.prompt, self.trie.spelling(node), wanted, full=self.config.mode == "raw"))
        return steps

    def answer(self, answers: Sequence[FloatArray]) -> None:
        """Take the log-probabilities for the last questions."""
        chosen = self.pool.pop()
        children, splits = self.trie.children(chosen.node)
        eligible = self._eligible(children) > 0
        nodes, lms = [], []
        for i, logprobs in enumerate(answers):
            own = slice(splits[i], splits[i + 1])
            alive = eligible[own]
            if self.config.mode == "trie":
                logprobs = logprobs - np.logaddexp.reduce(logprobs)
                if self.config.normalise == "catalog":
                    logprobs = logprobs[alive]
            nodes.append(children[own][alive])
            lms.append(chosen.lm[i] + logprobs)
        self._enter(np.concatenate(nodes), np.concatenate(lms))

    def result(self) -> SearchResult:
        """The answer, once `advance` has said that the search is over."""
        scores, positions, lm = self._scores(), np.concatenate(self.found_position), np.concatenate(self.found_lm)
        items = self.trie.order[positions].astype(np.int64)
        best = np.lexsort((items, -scores))[: self.request.k]
        rest = _Nodes.join(self.reserve)
        total = np.logaddexp.reduce(np.concatenate([scores, rest.share, [self.unopened]]))
        exact = not bool((rest.bound > self.kth).any())
        return SearchResult(items[best], scores[best], lm[best], np.exp(scores[best] - total), exact, self.num_rounds)

    def _enter(self, nodes: IntArray, lm: FloatArray) -> None:
        """Add nodes that have eligible items: leaves to what is found, the others to the pool."""
        if self.config.mode == "trie":
            nodes = self._follow(nodes)
        leaf = self.trie.is_leaf(nodes)
        if self.config.mode == "trie" and self.config.normalise == "eligible":
            leaf |= self._eligible(nodes) == 1  # nothing is left to choose
        lo, hi = self.trie.lo[nodes[leaf]].astype(np.int64), self.trie.hi[nodes[leaf]].astype(np.int64)
        owner = np.repeat(np.arange(len(lo)), hi - lo)
        position = np.arange(len(owner)) + (lo - np.cumsum(hi - lo) + (hi - lo))[owner]
        alive = self.log_weight[position] > -np.inf
        owner, position = owner[alive], position[alive]
        item_lm = lm[leaf][owner]
        if self.config.mode == "trie":
            sharing = hi - lo if self.config.normalise == "catalog" else self.count[hi] - self.count[lo]
            item_lm = item_lm - np.log(sharing)[owner]
        self.found_position.append(position)
        self.found_lm.append(item_lm)
        scores = self._scores()
        if len(scores) >= self.need:
            self.kth = float(np.partition(scores, len(scores) - self.need)[len(scores) - self.need])
        self.pool.append(self._describe(nodes[~leaf], lm[~leaf]))

    def _follow(self, nodes: IntArray) -> IntArray:
        """Go down while there is no choice."""
        nodes = nodes.copy()
        while True:
            children, splits = self.trie.children(nodes)
            if self.config.normalise == "eligible":
                alive = self._eligible(children) > 0
                splits = np.concatenate([[0], np.cumsum(alive)])[splits]
                children = children[alive]
            forced = np.diff(splits) == 1
            if not forced.any():
                return nodes
            nodes[forced] = children[splits[:-1][forced]]

    def _describe(self, nodes: IntArray, lm: FloatArray) -> _Nodes:
        lo, hi = self.trie.lo[nodes].astype(np.int64), self.trie.hi[nodes].astype(np.int64)
        if not len(nodes):
            return _Nodes(nodes, lm, np.empty(0), np.empty(0))
        best = np.maximum.reduceat(self.log_weight, np.column_stack([lo, hi]).ravel())[::2]
        weighted = self.config.lm_weight * lm
        sharing = self.count[hi] - self.count[lo] if self.config.normalise == "eligible" else hi - lo
        with np.errstate(divide="ignore"):  # weights too small beside the others: they add nothing to a sum
            mass = np.log(np.maximum(self.mass[hi] - self.mass[lo], 0)) + self.top
        return _Nodes(nodes, lm, weighted + best, weighted + mass - self.config.lm_weight * np.log(sharing))

    def _drop(self, nodes: _Nodes) -> _Nodes:
        """Without the nodes below which no item can enter the answer any more."""
        matters = nodes.bound > self.kth
        self.unopened = float(np.logaddexp.reduce(np.append(nodes.share[~matters], self.unopened)))
        return nodes.take(np.flatnonzero(matters))

    def _eligible(self, nodes: IntArray) -> IntArray:
        count: IntArray = self.count[self.trie.hi[nodes]] - self.count[self.trie.lo[nodes]]
        return count

    def _scores(self) -> FloatArray:
        positions, lm = np.concatenate(self.found_position), np.concatenate(self.found_lm)
        scores: FloatArray = self.config.lm_weight * lm + self.log_weight[positions]
        return scores


def _check(request: Request, num_items: int, number: int) -> None:
    if request.k < 1:
        raise ValueError(f"k must be 1 or more, not {request.k}")
    if request.log_prior.shape != (num_items,):
        raise ValueError(f"the prior has the shape {request.log_prior.shape}; this catalog wants ({num_items},)")
    if np.isnan(request.log_prior).any() or (request.log_prior == np.inf).any():
        raise ValueError("a prior's logarithm must not be NaN or +inf")
    if not (request.log_prior > -np.inf).any():
        raise SearchError(
            f"no item is eligible in request {number}: all {num_items} were seen already or are filtered out; loosen "
            "the filters, or allow seen items"
        )


def _batches(numbers: Sequence[int], requests: Sequence[Request], batch_tokens: int) -> Iterator[list[int]]:
    batch: list[int] = []
    prompts: set[tuple[int, ...]] = set()
    total = 0
    for number in sorted(numbers, key=lambda n: (len(requests[n].prompt), requests[n].prompt)):
        prompt = requests[number].prompt
        tokens = 0 if prompt in prompts else len(prompt)
        if batch and total + tokens > batch_tokens:
            yield batch
            batch, prompts, total, tokens = [], set(), 0, len(prompt)
        batch.append(number)
        prompts.add(prompt)
        total += tokens
    if batch:
        yield batch
