"""Choose the weights of several priors on held-out items.

The priors' product is a log-linear model: score = sum of weight * log w. The likelihood of the held-out items is
concave in its weights, so its maximum is found exactly; the ranking metrics are steps, and are climbed by coordinate
search over a small grid. Both are deterministic and need each prior's log weights only once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.optimize import minimize

from llmgen.catalog.core import Catalog
from llmgen.priors import Prior, combine, reweighted
from llmgen.progress import Stage
from llmgen.types import Answer, FloatArray, IntArray, Item, Query

Metric = Literal["ndcg", "hit_rate", "mrr", "log_likelihood"]
GRID = (-0.5, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""Weights that are tried for each prior."""
LM_WEIGHTS = (0.05, 0.1, 0.2, 0.35, 0.5, 1.0)
"""Weights that are tried for the language model, 0 beside them."""
USERS_AT_ONCE = 16
"""Users whose prompts stay in the engine while all weights of the model are tried."""
REMOVED = np.iinfo(np.int64).max
"""The rank of an item that is removed."""


class Trial(NamedTuple):
    """One set of weights that was better than all before it, from one start.

    Attributes:
        weights: In the order of the priors.
        score: The metric, mean of the queries.
    """

    weights: tuple[float, ...]
    score: float


class TunedWeights(NamedTuple):
    """What `tune_weights` chose.

    Attributes:
        priors: Those given, in their order, with the chosen weights.
        score: The metric on the held-out items, mean of the queries; an optimistic number, since it was chosen for.
        trace: Each start and each improvement on it, in the order of the search.
    """

    priors: tuple[Prior, ...]
    score: float
    trace: tuple[Trial, ...]


def tune_lm_weight(
    recommend: Callable[[float, Sequence[Query]], Sequence[Answer]],
    queries: Sequence[Query],
    held_out: Sequence[str],
    *,
    k: int,
    weights: Sequence[float],
    most: int,
    progress: bool = False,
) -> dict[float, float]:
    """NDCG@k of the held-out items for several weights of the language model, through the real search.

    Args:
        recommend: Weight and queries -> their answers.
        queries: With the history before the held-out item.
        held_out: Id of the item that each query's user took next.
        k: Cut-off.
        weights: To try, none twice.
        most: How many of the queries are asked, evenly spread over them.
        progress: Whether to tell how far it is.

    Returns:
        Weight -> mean NDCG@k.
    """
    sample = spread(len(queries), most)
    gains: dict[float, list[float]] = {weight: [] for weight in weights}
    with Stage("Tuning the LM's weight", len(sample), shown=progress) as stage:
        for start in range(0, len(sample), USERS_AT_ONCE):
            numbers = sample[start : start + USERS_AT_ONCE]
            chunk = [replace(queries[number], k=k) for number in numbers]
            for weight, found in gains.items():
                for number, answer in zip(numbers, recommend(weight, chunk), strict=True):
                    rank = next((place.rank for place in answer if place.item.id == held_out[number]), 0)
                    found.append(1 / math.log2(rank + 1) if rank else 0.0)
            stage.advance(len(numbers))
    return {weight: float(np.mean(values)) for weight, values in gains.items()}


def spread(number: int, most: int) -> IntArray:
    """Places of so many at most, evenly over `number` of them, rising; int64."""
    places: IntArray = np.unique(np.linspace(0, number - 1, min(most, number)).round().astype(np.int64))
    return places


def target_ranks(scores: FloatArray, targets: IntArray) -> IntArray:
    """Rank of one item in each row, the whole catalog ranked; ties are counted against it.

    Args:
        scores: float64 [n_rows, n_items]; -inf removes an item.
        targets: int64 [n_rows], the item's position.

    Returns:
        int64 [n_rows], 1 for the best; the largest int64 where the item itself is removed.

    >>> target_ranks(np.array([[0.5, 0.5, 0.1], [0.5, 0.5, -np.inf]]), np.array([0, 2])).tolist() == [2, REMOVED]
    True
    """
    wanted = np.take_along_axis(scores, targets[:, None], axis=1)
    ranks = (scores >= wanted).sum(axis=1, dtype=np.int64)
    result: IntArray = np.where(np.isneginf(wanted[:, 0]), REMOVED, ranks)
    return result


def tune_weights(
    priors: Sequence[Prior],
    queries: Sequence[Query],
    held_out: Sequence[str | Item],
    *,
    catalog: Catalog,
    k: int = 10,
    grid: Sequence[float] = GRID,
    metric: Metric = "ndcg",
    rounds: int = 5,
) -> TunedWeights:
    """The weights that rank the held-out items best.

    For a ranking metric: from every start, one weight after the other is set to the value of the grid that is best with
    all others held; values already in place win ties. The starts are the weights given, all 1 alike, each prior alone
    at 1, and the weights of the largest likelihood. A prior that only removes items (`ExcludeSeen`, `AttributeFilter`)
    has no weight to choose and keeps its own.

    Memory: len(queries) * n_items numbers for each prior; give a sample of the users where that is too much.

    Args:
        priors: Dataclasses with a `weight`, no name twice.
        queries: Each with the history before the held-out item; filters and seen items are honoured.
        held_out: The item, or its id, that each query should find.
        catalog: The items that are ranked.
        k: Cut-off of `ndcg`, `hit_rate` and `mrr`, 1 or more.
        grid: Weights to try for each prior, at least one.
        metric: What to maximise; ties of an item with others are counted against it. `log_likelihood` is the mean
            natural logarithm of exp(score) / sum of exp(score) of all items left; its maximum is found without the
            grid, between the grid's ends, to three decimals. It chooses the scale of the weights
            too, to which the others are blind, and leaves out queries whose item is removed.
        rounds: Most passes over the priors from one start, 1 or more.

    Returns:
        The best weights of all starts; of equally good ones the first found.

    Raises:
        ValueError: Nothing to tune or to tune on, lengths that do not agree, or an argument out of range.
        UnknownItemError: A held-out item is not in the catalog.
        TypeError: A prior is not a dataclass, see `llmgen.priors.reweighted`.
    """
    targets = np.array([catalog.index(item) for item in held_out], dtype=np.int64)
    if len(targets) != len(queries) or not len(targets):
        raise ValueError(
            f"{len(queries)} queries and {len(targets)} held-out items; give one item a query, at least one"
        )
    if k < 1 or rounds < 1 or not len(grid):
        raise ValueError(f"k and rounds must be 1 or more and the grid not empty, not k={k}, rounds={rounds}, {grid}")
    if metric not in get_args(Metric):
        raise ValueError(f"no metric {metric!r} to tune for; there are {', '.join(get_args(Metric))}")
    mix = _Mix([reweighted(prior, 1.0) for prior in priors], queries, targets, k, metric)
    given = tuple(float(prior.weight) for prior in priors)
    likely = mix.most_likely(given, min(grid), max(grid))
    starts = [given, likely]
    if metric != "log_likelihood":
        starts += [mix.start(given, mix.tunable)] + [mix.start(given, [place]) for place in mix.tunable]
    trace = []
    for start in dict.fromkeys(starts):
        weights, best = start, mix.score(start)
        trace.append(Trial(weights, best))
        for _ in range(rounds if metric != "log_likelihood" else 0):
            before = best
            for place in mix.tunable:
                for value in grid:
                    tried = (*weights[:place], float(value), *weights[place + 1 :])
                    score = mix.score(tried)
                    if score > best:
                        weights, best = tried, score
                        trace.append(Trial(weights, best))
            if best == before:
                break
    chosen = max(trace, key=lambda trial: trial.score)
    tuned = tuple(reweighted(prior, weight) for prior, weight in zip(priors, chosen.weights, strict=True))
    return TunedWeights(tuned, chosen.score, tuple(trace))


class _Mix:
    """The metric as a function of the weights; what does not depend on them is computed once."""

    def __init__(
        self, priors: Sequence[Prior], queries: Sequence[Query], targets: IntArray, k: int, metric: Metric
    ) -> None:
        combined = combine(priors, queries)
        removed = np.isneginf(combined.total)
        self.open = np.where(removed, -np.inf, 0.0)
        self.findable = ~np.take_along_axis(removed, targets[:, None], axis=1)[:, 0]
        self.k, self.metric = k, metric
        self.leads: dict[int, FloatArray] = {}  # how far an item is ahead of the target, by place of the prior
        for place, term in enumerate(combined.terms.values()):
            finite = np.where(removed, 0.0, np.nan_to_num(term, neginf=0.0))
            if finite.any():
                lead = finite - np.take_along_axis(finite, targets[:, None], axis=1)
                lead[removed] = 0.0
                self.leads[place] = lead
        self.tunable = list(self.leads)
        if not self.tunable:
            raise ValueError("none of the priors has a weight to choose: each only removes items or says nothing here")
        if metric == "log_likelihood" and not self.findable.any():
            raise ValueError("every held-out item is removed by the priors, so none has a likelihood")
        self.known: dict[tuple[float, ...], float] = {}

    def start(self, given: tuple[float, ...], alone: Sequence[int]) -> tuple[float, ...]:
        """Weight 1 for some priors and 0 for the other tunable ones."""
        return tuple(
            (1.0 if place in alone else 0.0) if place in self.leads else weight for place, weight in enumerate(given)
        )

    def most_likely(self, given: tuple[float, ...], low: float, high: float) -> tuple[float, ...]:
        """The weights of the largest likelihood of the held-out items that are not removed; `given` without any."""
        if not self.findable.any():
            return given

        def loss(values: FloatArray) -> tuple[float, FloatArray]:
            log_odds = self._ahead(dict(zip(self.leads, values.tolist(), strict=True)))[self.findable]
            top = log_odds.max(axis=1, keepdims=True)  # finite: the target itself is left
            odds = np.exp(log_odds - top)
            sums = odds.sum(axis=1, keepdims=True)
            odds /= sums
            slopes = [float((odds * lead[self.findable]).sum()) / len(odds) for lead in self.leads.values()]
            return float((top + np.log(sums)).mean()), np.array(slopes)

        start = np.clip(np.ones(len(self.leads)), low, high)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(low, high)] * len(start)).x
        chosen = dict(zip(self.leads, found.tolist(), strict=True))
        return tuple(round(chosen[place], 3) if place in chosen else weight for place, weight in enumerate(given))

    def score(self, weights: tuple[float, ...]) -> float:
        if weights not in self.known:
            self.known[weights] = self._score(weights)
        return self.known[weights]

    def _score(self, weights: tuple[float, ...]) -> float:
        ahead = self._ahead({place: weights[place] for place in self.leads})
        if self.metric == "log_likelihood":
            ahead = ahead[self.findable]
            top = ahead.max(axis=1)  # finite: the target itself is left
            return float(-(top + np.log(np.exp(ahead - top[:, None]).sum(axis=1))).mean())
        ranks = np.where(self.findable, (ahead >= 0.0).sum(axis=1), REMOVED)
        hits = ranks <= self.k
        if self.metric == "hit_rate":
            return float(hits.mean())
        gains = 1.0 / ranks if self.metric == "mrr" else 1.0 / np.log2(1.0 + ranks)
        return float(np.where(hits, gains, 0.0).mean())

    def _ahead(self, weights: Mapping[int, float]) -> FloatArray:
        """How far each item's score is above the target's; -inf for an item that is removed."""
        ahead = self.open.copy()
        for place, lead in self.leads.items():
            if weights[place] != 0.0:
                ahead += weights[place] * lead
        return ahead
