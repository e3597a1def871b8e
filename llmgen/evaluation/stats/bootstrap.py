"""Bootstrap samples of means over users, and the checks of what tests and intervals are given."""

from __future__ import annotations

from math import frexp, inf, ldexp
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from llmgen.types import FloatArray

Method = Literal["bca", "percentile", "betting"]


CELLS = 1 << 22  # random numbers held at once: 32 MB of doubles, whatever the number of users and draws


Seed = int | np.random.Generator


EXACT = 14  # users who differ, up to which all sign patterns (2^14) cost about what 10,000 random ones do


class Units(NamedTuple):
    """What is drawn and flipped: users, each with the sum and the number of its rows, float64 [users]."""

    sums: FloatArray
    sizes: FloatArray


class _Bootstrap(NamedTuple):
    """Means of resamples, and how BCa corrects their quantiles; without correction both numbers are 0."""

    means: FloatArray
    bias: float
    acceleration: float
    method: Method


def bootstrapped(units: Units, draws: int, seed: Seed) -> _Bootstrap:
    """Draw users with replacement: how often each kind of user turns up is multinomial."""
    check_at_least_one("draws", draws)
    n, mean = len(units.sums), mean_of(units)
    check_several(n)
    kinds, counts = np.unique(np.column_stack(units), axis=0, return_counts=True)
    rng, means_of_chunks = np.random.default_rng(seed), list[FloatArray]()
    for count in chunks(draws, len(kinds)):
        totals = rng.multinomial(n, counts / n, size=count) @ kinds
        means_of_chunks.append(totals[:, 0] / totals[:, 1])
    means: FloatArray = np.concatenate(means_of_chunks)
    left_out: FloatArray = (units.sums.sum() - units.sums) / (units.sizes.sum() - units.sizes)
    below = float((means < mean).mean() + (means <= mean).mean()) / 2
    if np.ptp(left_out) == 0 or not 0 < below < 1:
        return _Bootstrap(means, 0.0, 0.0, "percentile")
    spread = left_out.mean() - left_out
    acceleration = float((spread**3).sum() / (6 * (spread**2).sum() ** 1.5))
    return _Bootstrap(means, float(ndtri(below)), acceleration, "bca")


def check_several(n: int) -> None:
    """Fewer than two users have no spread."""
    if n < 2:
        raise ValueError(f"{n} user has no spread; an interval needs two or more")


def quantile_of(resampled: _Bootstrap, share: float) -> float:
    """Efron & Tibshirani, An Introduction to the Bootstrap (1993), equation 14.10."""
    z = resampled.bias + ndtri(share)
    return float(np.quantile(resampled.means, ndtr(resampled.bias + z / (1 - resampled.acceleration * z))))


def level_at(resampled: _Bootstrap, value: float) -> float:
    """The share whose quantile is the value: `quantile_of`, solved for its argument."""
    draws = len(resampled.means)
    w = ndtri((np.count_nonzero(resampled.means <= value) + 1) / (draws + 2)) - resampled.bias
    return float(ndtr(w / (1 + resampled.acceleration * w) - resampled.bias))


def mean_of(units: Units) -> float:
    """The mean of all rows."""
    return float(units.sums.sum() / units.sizes.sum())


def chunks(draws: int, width: int) -> list[int]:
    """Sizes of the chunks of draws that are each held at once."""
    chunk = max(1, CELLS // width)
    return [min(chunk, draws - start) for start in range(0, draws, chunk)]


def paired_differences(a: ArrayLike, b: ArrayLike) -> FloatArray:
    """A - b of each row, where both are as long and finite."""
    left, right = checked_pair(a, b)
    return rounded(left - right, max(np.abs(left).max(), np.abs(right).max()))


def units_of(values: FloatArray, clusters: ArrayLike | None) -> Units:
    """Sums and numbers of rows of each user."""
    if clusters is None:
        return Units(values, np.ones(len(values)))
    labels = np.asarray(clusters)
    if labels.shape != values.shape:
        raise ValueError(f"clusters has shape {labels.shape}; give one label for each of the {len(values)} rows")
    _, user = np.unique(labels, return_inverse=True)
    sums: FloatArray = np.bincount(user, values).astype(np.float64)
    return Units(sums, np.bincount(user).astype(np.float64))


def checked_pair(a: ArrayLike, b: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Two columns of one length."""
    left, right = checked_column("a", a), checked_column("b", b)
    if len(left) != len(right):
        raise ValueError(f"a has {len(left)} rows and b {len(right)}; pair them by user")
    return left, right


def checked_column(name: str, values: ArrayLike) -> FloatArray:
    """Finite values, float64 [n].

    Raises:
        ValueError: None, another shape, or values that are not finite.
    """
    column: FloatArray = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or not len(column):
        raise ValueError(f"{name} has shape {column.shape}; give one value a row, at least one row")
    if len(wrong := np.flatnonzero(~np.isfinite(column))):
        raise ValueError(f"{name}[{wrong[0]}] is {column[wrong[0]]}; a metric is finite for every user")
    return column


def check_share(name: str, value: float) -> float:
    """A share lies between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")
    return value


def check_above_zero(name: str, value: float) -> None:
    """A number must be above 0."""
    if not 0 < value < inf:
        raise ValueError(f"{name} must be above 0 and finite, not {value}")


def check_at_least_one(name: str, value: int) -> None:
    """A number must be 1 or more."""
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")


FRACTION_BITS = 30


def rounded(values: FloatArray, largest: float) -> FloatArray:
    """Values on a grid of 2^-30 of the largest one (1e-9).

    Then what only rounding tells apart is equal, and sums of up to 2^23 values are exact in float64, in whatever
    order: ties are ties.
    """
    grid = ldexp(1.0, frexp(largest)[1] - FRACTION_BITS)
    on_grid: FloatArray = np.rint(values / grid) * grid
    return on_grid
