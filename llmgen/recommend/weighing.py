"""Fit a weight of the language model for each request (`RequestWeight`) by the likelihood of held-out items.

For a user with features x the served formula makes the probability of item i

    P(i) = exp(w(x) * log P_LM(i)) * prior(i) / sum of the same over the eligible items,     log w(x) linear in x

and the fit maximises the mean of log P(held-out item), less a ridge on the slopes, so that without evidence the weight
is the same for all. It needs log P_LM of all eligible items. Where a request has more of them than `candidates`, a set
stands in their place: the held-out item and draws with replacement from the prior, each item's weight in the sum being
how often it is in the set (McFadden, 1978; Ben-Akiva and Lerman, 1985, section 9.3: the correction log(n_i / q_i) of
sampled alternatives, in which our q_i, the prior, cancels). The weights so fitted are consistent: with many users they
go where those of the whole catalog go. The nats are then those of choosing among the set, and not of the catalog: they
compare weights on the same set and nothing else. With at most `candidates` eligible items there is no sampling.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from llmgen.errors import ArgumentError, ConfigError
from llmgen.progress import Stage
from llmgen.recommend.lists import lm_logprobs
from llmgen.recommend.parts import Parts
from llmgen.recommend.prompting import needs_engine
from llmgen.recommend.request_weight import Features, RequestWeight, Slope, features_of
from llmgen.types import FloatArray, IntArray, Query

SMALLEST, LARGEST = 1e-4, 10.0
"""Between these lies the weight of a usual request."""
STEEPEST = 3.0
"""Of a slope: the weight changes by a factor of 20 at most for one standard deviation of a feature."""
RIDGE = 1.0
"""Precision of the normal prior on each slope, whose mean is 0."""
CANDIDATES = 200
"""Items that a held-out one was chosen from at most, where nothing else says how many."""
AT_ONCE = 16
"""Requests that are asked together."""
FLOOR = -700.0
"""Log-probability of an item that the model rules out: near the smallest number, so that all stays finite."""


class Choices(NamedTuple):
    """What one held-out item was chosen from.

    Attributes:
        features: Of the request.
        lm: float64 [n], log P_LM of each item, the held-out one first.
        rest: float64 [n], what else is in each item's score: log prior, or the correction of a sampled set.
    """

    features: Features
    lm: FloatArray
    rest: FloatArray


class FittedWeight(NamedTuple):
    """What a fit found; nats are the mean of -log P of the held-out items that were fitted on, so they flatter.

    Attributes:
        weight: For each request.
        constant: The best weight that is the same for all.
        nats: With the weight for each request.
        nats_constant: With the constant.
        nats_prior: Of the prior alone.
        requests: Held-out items that were fitted on.
    """

    weight: RequestWeight
    constant: float
    nats: float
    nats_constant: float
    nats_prior: float
    requests: int


def fit_weight(choices: Sequence[Choices], *, ridge: float = RIDGE) -> FittedWeight:
    """The weight for each request of the largest likelihood, and the best constant beside it.

    Args:
        choices: One a held-out item, at least one.
        ridge: Precision of the prior on the slopes, 0 or more; infinity leaves the constant.

    Raises:
        ArgumentError: Nothing to fit on, or a ridge below 0.
    """
    if not choices:
        raise ArgumentError("no held-out item to fit a weight on; give queries whose held-out item is eligible")
    if not ridge >= 0:
        raise ArgumentError(f"ridge must be 0 or more, not {ridge}")
    values = np.array([one.features for one in choices])
    held = [_slope(column) for column in values.T]
    standard = np.array([[one.standardised(x) for one, x in zip(held, row, strict=True)] for row in values.tolist()])
    likelihood = _Likelihood(choices)
    low, high = math.log(SMALLEST), math.log(LARGEST)

    def of_constant(log_weight: float) -> float:
        return likelihood(np.full(len(choices), math.exp(log_weight)))[0]

    best = minimize_scalar(of_constant, bounds=(low, high), method="bounded", options={"xatol": 1e-7})
    start = min((low, float(best.x)), key=of_constant)  # the search never looks at its ends

    def loss(given: FloatArray) -> tuple[float, FloatArray]:
        slopes = given[1:]
        weight = np.exp(given[0] + standard @ slopes)
        mean, by_weight = likelihood(weight)
        by_log = by_weight * weight
        gradient = np.append(by_log.sum(), by_log @ standard)
        gradient[1:] += ridge / len(choices) * slopes
        return mean + ridge / (2 * len(choices)) * float(slopes @ slopes), gradient

    found = np.append(start, np.zeros(len(held)))
    if math.isfinite(ridge) and standard.any():
        bounds = [(low, high), *[(-STEEPEST, STEEPEST)] * len(held)]
        found = minimize(
            loss, found, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8}
        ).x
    slopes = [one.model_copy(update={"slope": float(b)}) for one, b in zip(held, found[1:], strict=True)]
    weight = RequestWeight(bias=float(found[0]), **dict(zip(Features._fields, slopes, strict=True)))
    own = np.array([weight.at(one.features) for one in choices])
    return FittedWeight(
        weight,
        math.exp(start),
        likelihood(own)[0],
        of_constant(start),
        likelihood(np.zeros(len(choices)))[0],
        len(choices),
    )


def nats_of(weight: float | RequestWeight, choices: Sequence[Choices]) -> FloatArray:
    """-log P of each held-out item under a weight, float64 [len(choices)]: to measure on users of no fit."""
    weights = [weight.at(one.features) if isinstance(weight, RequestWeight) else weight for one in choices]
    return _Likelihood(choices).each(np.array(weights))


def choices_of(
    parts: Parts,
    queries: Sequence[Query],
    held_out: Sequence[str],
    *,
    candidates: int,
    seed: int = 0,
    progress: bool = False,
) -> list[Choices | None]:
    """Ask the model what `fit_weight` needs.

    Args:
        parts: Of the recommender, with the weights of its priors chosen.
        queries: With the history before the held-out item, resolved.
        held_out: Id of the item that each query's user took next.
        candidates: Items of a request at most, 2 or more, see the module.
        seed: Of the sampled sets.
        progress: Whether to tell how far it is.

    Returns:
        One a query; None where the priors remove the held-out item, so that no weight brings it back.

    Raises:
        ArgumentError: `candidates` below 2.
        ConfigError: See `check_fits`.
    """
    check_fits(parts)
    if candidates < 2:
        raise ArgumentError(f"candidates must be 2 or more, not {candidates}: the held-out item and one other")
    found: list[Choices | None] = []
    with Stage("Fitting the LM's weight", len(queries), shown=progress) as stage:
        for start in range(0, len(queries), AT_ONCE):
            some = queries[start : start + AT_ONCE]
            targets = [parts.catalog.index(one) for one in held_out[start : start + AT_ONCE]]
            found += _asked(parts, some, targets, candidates, (seed, start))
            stage.advance(len(some))
    return found


def check_fits(parts: Parts) -> None:
    """Make sure that a weight for each request can be fitted for these parts.

    Raises:
        ConfigError: There is no engine, or one that can only write; or P_LM depends on which items are eligible, so
            that it is another one among the sampled.
    """
    engine = needs_engine(parts.engine, "fitting a weight of the language model")
    if not engine.constrained or parts.config.decoding == "free":
        raise ConfigError("a weight for each request is fitted on log-probabilities, and free decoding has none")
    if parts.config.normalise == "eligible":
        raise ConfigError("a weight for each request is fitted with normalise='catalog', not 'eligible'")


def _asked(
    parts: Parts, queries: Sequence[Query], targets: Sequence[int], candidates: int, seed: tuple[int, int]
) -> list[Choices | None]:
    factors = parts.multiplied(queries)
    rows = [factors.row(number).dense() for number in range(len(queries))]
    findable = [number for number, row in enumerate(rows) if row[targets[number]] > -np.inf]
    found: list[Choices | None] = [None] * len(queries)
    if not findable:
        return found
    sets = [_set(rows[n], targets[n], candidates, np.random.default_rng((*seed, n))) for n in findable]
    asked = lm_logprobs(
        parts,
        [queries[number] for number in findable],
        [factors.row(number) for number in findable],
        [items for items, _ in sets],
    )
    for number, (_, rest), lm in zip(findable, sets, asked, strict=True):
        features = features_of(queries[number], rows[number], parts.taken)
        found[number] = Choices(features, np.maximum(lm, FLOOR), rest)
    return found


def _set(log_prior: FloatArray, target: int, candidates: int, rng: np.random.Generator) -> tuple[IntArray, FloatArray]:
    """The items that one was chosen from, the chosen one first, and what is in their scores beside the model."""
    eligible = np.flatnonzero(log_prior > -np.inf)
    if len(eligible) <= candidates:
        items = np.append(target, eligible[eligible != target])
        return items, log_prior[items]
    weights = np.exp(log_prior[eligible] - log_prior[eligible].max())
    drawn = rng.choice(eligible, candidates - 1, p=weights / weights.sum())
    items, counts = np.unique(np.append(drawn, target), return_counts=True)
    order = np.argsort(items != target, kind="stable")
    rest: FloatArray = np.log(counts[order])
    return items[order], rest


def _slope(values: FloatArray) -> Slope:
    """Where a feature lies, over the requests of a fit."""
    scale = float(values.std())
    if scale <= 1e-9 * max(1.0, float(np.abs(values).max())):  # all alike but for rounding
        middle = float(values.mean())
        return Slope(mean=middle, low=middle, high=middle)
    return Slope(mean=float(values.mean()), scale=scale, low=float(values.min()), high=float(values.max()))


class _Likelihood:
    """Mean nats of held-out items as a function of the weight of each request."""

    def __init__(self, choices: Sequence[Choices]) -> None:
        shape = len(choices), max(len(one.lm) for one in choices)
        self._lm, self._rest = np.zeros(shape), np.full(shape, -np.inf)
        for row, one in enumerate(choices):
            self._lm[row, : len(one.lm)] = one.lm - one.lm[0]
            self._rest[row, : len(one.rest)] = one.rest - one.rest[0]

    def each(self, weights: FloatArray) -> FloatArray:
        """Nats of each request."""
        return self._parts(weights)[0]

    def __call__(self, weights: FloatArray) -> tuple[float, FloatArray]:
        """The mean, and its derivative by each request's weight."""
        nats, shares = self._parts(weights)
        return float(nats.mean()), (shares * self._lm).sum(axis=1) / len(weights)

    def _parts(self, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        ahead = weights[:, None] * self._lm + self._rest  # of the held-out item, which itself is 0
        top = ahead.max(axis=1, keepdims=True)
        shares = np.exp(ahead - top)
        sums = shares.sum(axis=1, keepdims=True)
        return (top + np.log(sums))[:, 0], shares / sums
