"""Tests of paired differences: permutation, McNemar, non-inferiority, and Holm's correction for several."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr

from llmgen.evaluation.stats.bootstrap import (
    EXACT,
    Seed,
    bootstrapped,
    check_above_zero,
    check_at_least_one,
    check_share,
    checked_pair,
    chunks,
    level_at,
    mean_of,
    paired_differences,
    quantile_of,
    units_of,
)
from llmgen.types import FloatArray


class PermutationTest(NamedTuple):
    """Two-sided p of a mean difference."""

    p: float
    exact: bool
    """All sign patterns were counted, not a sample of them."""


class McNemarTest(NamedTuple):
    """Exact two-sided p of a difference in hits, and the users it rests on."""

    only_a: int
    only_b: int
    p: float


class NonInferiority(NamedTuple):
    """Whether a is worse than b by less than the margin."""

    mean: float
    low: float
    """One-sided bound: the interval is [low, infinity)."""
    p: float
    """Of the hypothesis that a is worse by the margin or more."""
    holds: bool


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
) -> PermutationTest:
    """Two-sided p of the mean difference: how often do flipped signs of the users' differences give one as large?

    What is tested is that the arms are exchangeable for each user: differences lie evenly around 0, not just on
    average.

    Args:
        a: One value a row.
        b: The same rows in the same order.
        draws: Random sign patterns, where more than 14 users differ; with fewer all patterns are counted.
        seed: Of the random patterns. The order of the rows and of the arms changes nothing.
        clusters: See the module.

    Returns:
        p is at least 1 / (draws + 1), and 1 if nobody differs.

    Raises:
        ValueError: If the rows do not pair or a value is not finite.

    Sources: Fisher, The Design of Experiments (1935), section 21; Phipson & Smyth, SAGMB 2010: (r + 1) / (draws + 1).

    >>> permutation_test([1.0, 1.0, 1.0], [0.0, 0.0, 0.5], seed=0).p == 2 / 2**3
    True
    """
    check_at_least_one("draws", draws)
    sums = units_of(paired_differences(a, b), clusters).sums
    observed = abs(sums.sum())
    sizes: FloatArray = np.sort(np.abs(sums[sums != 0]))
    if len(sizes) <= EXACT:
        patterns = np.arange(1 << len(sizes))[:, None] >> np.arange(len(sizes)) & 1
        return PermutationTest(float((_flipped(sizes, patterns) >= observed).mean()), True)
    rng, as_large = np.random.default_rng(seed), 0
    for count in chunks(draws, len(sizes)):
        as_large += int((_flipped(sizes, rng.integers(2, size=(count, len(sizes)), dtype=np.int8)) >= observed).sum())
    return PermutationTest((as_large + 1) / (draws + 1), False)


def mcnemar(a_hit: ArrayLike, b_hit: ArrayLike) -> McNemarTest:
    """Exact test of a difference in hits: of the users whom one arm alone hits, are half a's?

    Args:
        a_hit: 0 or 1 (or booleans), one a user.
        b_hit: The same users in the same order.

    Returns:
        p is 1 if no user is hit by one arm alone.

    Raises:
        ValueError: If the rows do not pair or a value is neither 0 nor 1.

    Source: McNemar, Psychometrika 1947; the exact p is the sign test's, 2 P(Bin(n, 1/2) <= the smaller count).

    >>> mcnemar([1, 1, 1, 0], [0, 0, 0, 0])
    McNemarTest(only_a=3, only_b=0, p=0.25)
    """
    a, b = checked_pair(a_hit, b_hit)
    both = np.concatenate([a, b])
    if len(wrong := both[(both != 0) & (both != 1)]):
        raise ValueError(f"a hit is 0 or 1, not {wrong[0]}; for graded metrics there is permutation_test")
    only_a, only_b = int((a > b).sum()), int((a < b).sum())
    p = min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    return McNemarTest(only_a, only_b, p)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down p-values: all at or below alpha are significant, with one false one at most alpha often.

    Args:
        p_values: In any order, each in [0, 1]; may be empty.

    Returns:
        float64, in the order given; none below its own p-value or above 1.

    Raises:
        ValueError: If a p-value is outside [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 1979.

    >>> [round(float(p), 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p: FloatArray = np.asarray(p_values, dtype=np.float64)
    if len(wrong := p[~((p >= 0) & (p <= 1))]):
        raise ValueError(f"a p-value lies in [0, 1], not {wrong[0]}")
    upwards = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[upwards] = np.minimum(1.0, np.maximum.accumulate(p[upwards] * np.arange(len(p), 0, -1)))
    return adjusted


def non_inferior(
    a: ArrayLike,
    b: ArrayLike,
    margin: float,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
) -> NonInferiority:
    """Is a worse than b by less than the margin? One-sided: a cheaper arm only has to be good enough.

    Args:
        a: One value a row.
        b: The same rows in the same order.
        margin: The loss that would not matter, above 0, chosen before looking.
        level: Of the one-sided bound; 0.95 gives the lower end of a two-sided 90 % interval.
        draws: See `interval_of_mean`.
        seed: See `interval_of_mean`.
        clusters: See the module.

    Returns:
        p is the error at which the same bootstrap bound would lie at -margin, so p and bound agree to 1 / draws.

    Raises:
        ValueError: If the margin is not above 0, the rows do not pair, or there are fewer than two users.

    Source: Efron & Tibshirani (1993), equation 14.10 (BCa), solved for the level; Piaggio et al., JAMA 2012, on
    margins.
    """
    check_above_zero("margin", margin)
    units = units_of(paired_differences(a, b), clusters)
    check_share("level", level)
    resampled = bootstrapped(units, draws, seed)
    low = quantile_of(resampled, 1 - level)
    return NonInferiority(mean_of(units), low, level_at(resampled, -margin), low > -margin)


def _flipped(sizes: FloatArray, patterns: np.ndarray[tuple[int, int], np.dtype[np.integer]]) -> FloatArray:
    """Absolute sums under sign patterns, 0 and 1 [patterns, users]."""
    totals: FloatArray = np.abs(2 * (patterns.astype(np.float64) @ sizes) - sizes.sum())
    return totals
