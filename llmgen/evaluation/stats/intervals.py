"""Intervals of means and of paired differences."""

from __future__ import annotations

from math import copysign, inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from llmgen.evaluation.stats.bootstrap import (
    Method,
    Seed,
    Units,
    bootstrapped,
    check_several,
    check_share,
    checked_column,
    mean_of,
    paired_differences,
    quantile_of,
    rounded,
    units_of,
)
from llmgen.evaluation.stats.sequential import Sequential


class MeanInterval(NamedTuple):
    """A mean over users and how well it is known."""

    mean: float
    low: float
    high: float
    se: float
    n: int
    """Users (clusters, where they are given)."""
    method: Method
    """How the interval was made; BCa is undefined where all values are the same, and betting is `Sequential`'s."""


class PairedDifference(NamedTuple):
    """The mean of a - b over users, and how well it is known."""

    mean: float
    low: float
    high: float
    se: float
    effect: float
    """Cohen's d_z: mean over standard deviation of the users' differences; infinite if all differ by the same."""
    wins: int
    """Users to whom a gives more."""
    ties: int
    losses: int
    n: int
    """Users: wins + ties + losses."""
    method: Method


def interval_of_mean(
    values: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
    anytime: float | None = None,
) -> MeanInterval:
    """Mean of one arm over users, with a bootstrap interval, or one that holds whenever asking was stopped.

    Args:
        values: One a row; see the module for rows and clusters.
        level: Of the interval, between 0 and 1.
        draws: Resamples; their cost grows with the number of different values, not of users.
        seed: The same seed and rows give the same interval, in whatever order the rows come.
        clusters: See the module.
        anytime: The largest absolute value that there can be, for the interval of `Sequential` in place of the
            bootstrap's. A user then has one row.

    Raises:
        ValueError: If there are fewer than two users, or a value is not finite.

    Source: Efron, JASA 1987 (BCa). Few values other than 0 make it too short: on differences in NDCG@10, 85 % of them
    0, the 95 % interval missed the mean in 7.5 % of 1,500 samples of 200 users and 6 % of 800 samples of 943.

    >>> interval_of_mean([0.5, 0.5, 0.5], seed=0)
    MeanInterval(mean=0.5, low=0.5, high=0.5, se=0.0, n=3, method='percentile')
    """
    column = checked_column("values", values)
    units = units_of(rounded(column, np.abs(column).max()), clusters)
    return _interval(units, level, draws, seed, anytime)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
    anytime: float | None = None,
) -> PairedDifference:
    """Mean of a - b over users, with an interval as `interval_of_mean` makes it, effect size and wins.

    Args:
        a: One value a row.
        b: The same rows in the same order.
        level: Of the interval, between 0 and 1.
        draws: See `interval_of_mean`, which makes the interval.
        seed: See `interval_of_mean`.
        clusters: See the module. The standard error is then the cluster-robust one of a ratio of means; effect and
            wins are of the users' mean differences.
        anytime: See `interval_of_mean`: the largest absolute difference that there can be.

    Raises:
        ValueError: If the rows do not pair, there are fewer than two users, or a value is not finite.

    >>> d = paired_difference([1.0, 0.5, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0], seed=0)
    >>> d.mean, d.wins, d.ties, d.losses
    (0.375, 2, 2, 0)
    """
    units = units_of(paired_differences(a, b), clusters)
    known = _interval(units, level, draws, seed, anytime)
    sd = float((units.sums / units.sizes).std(ddof=1))
    if sd > 0:
        effect = float((units.sums / units.sizes).mean()) / sd
    else:
        effect = copysign(inf, known.mean) if known.mean else 0.0
    wins, losses = int((units.sums > 0).sum()), int((units.sums < 0).sum())
    return PairedDifference(**known._asdict(), effect=effect, wins=wins, ties=known.n - wins - losses, losses=losses)


def _interval(units: Units, level: float, draws: int, seed: Seed, anytime: float | None) -> MeanInterval:
    check_share("level", level)
    n, mean = len(units.sums), mean_of(units)
    method: Method
    if anytime is None:
        resampled = bootstrapped(units, draws, seed)
        low, high = (quantile_of(resampled, share) for share in ((1 - level) / 2, (1 + level) / 2))
        method = resampled.method
    else:
        if (units.sizes != 1).any():
            raise ValueError("a user has several rows, and with anytime it must be one; give their mean")
        check_several(n)
        watch = Sequential(level, largest=anytime)
        watch.add(units.sums)
        low, high, method = watch.low, watch.high, "betting"
    # linearised ratio of means; without clusters this is sd / sqrt(n)
    residuals = units.sums - mean * units.sizes
    se = sqrt(n / (n - 1) * float(residuals @ residuals)) / float(units.sizes.sum())
    return MeanInterval(mean, low, high, se, n, method)
