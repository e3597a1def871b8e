"""How many users a difference needs: power, detectable differences and sample sizes of paired tests."""

from __future__ import annotations

from math import isfinite, sqrt

from scipy.optimize import brentq
from scipy.special import ncfdtr, stdtrit

from llmgen.evaluation.stats.bootstrap import check_above_zero, check_at_least_one, check_share


def power_of(sd: float, n: int, difference: float, *, alpha: float = 0.05, comparisons: int = 1) -> float:
    """Chance that a two-sided paired t-test of n users finds a mean difference.

    Args:
        sd: Standard deviation of the users' differences, above 0.
        n: Users, 2 or more.
        difference: The true mean difference, of either sign.
        alpha: Of all comparisons together.
        comparisons: Tests that share alpha equally (Bonferroni), which is Holm's first and hardest step.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Cohen, Statistical Power Analysis (1988), chapter 2. The square of a noncentral t is a noncentral F,
    which is computed more reliably, and holds both tails.

    >>> round(power_of(sd=1.0, n=34, difference=0.5), 3)
    0.808
    """
    check_above_zero("sd", sd)
    if not isfinite(difference):
        raise ValueError(f"difference must be finite, not {difference}")
    return _power(difference / sd * sqrt(n), _degrees(n), _alpha(alpha, comparisons))


def detectable_difference(sd: float, n: int, *, power: float = 0.8, alpha: float = 0.05, comparisons: int = 1) -> float:
    """Smallest mean difference that n users show with the wanted power; see `power_of` for the arguments.

    >>> round(detectable_difference(sd=0.19, n=943), 4)
    0.0174
    """
    check_above_zero("sd", sd)
    degrees, alpha = _degrees(n), _alpha(alpha, comparisons)
    _reachable(power, alpha)
    high = 1.0
    while _power(high, degrees, alpha) < power:
        high *= 2
    return float(brentq(lambda shift: _power(shift, degrees, alpha) - power, 0.0, high)) * sd / sqrt(n)


def users_needed(sd: float, difference: float, *, power: float = 0.8, alpha: float = 0.05, comparisons: int = 1) -> int:
    """Fewest users that show a mean difference with the wanted power; see `power_of` for the arguments.

    >>> users_needed(sd=1.0, difference=0.5)
    34
    """
    check_above_zero("difference", abs(difference))
    _reachable(power, _alpha(alpha, comparisons))
    few, enough = 1, 2
    while power_of(sd, enough, difference, alpha=alpha, comparisons=comparisons) < power:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        if power_of(sd, middle, difference, alpha=alpha, comparisons=comparisons) < power:
            few = middle
        else:
            enough = middle
    return enough


def _power(shift: float, degrees: int, alpha: float) -> float:
    """Two-sided power of a t-test whose noncentrality is the shift."""
    critical = float(stdtrit(degrees, 1 - alpha / 2))
    return 1 - float(ncfdtr(1, degrees, shift**2, critical**2))


def _degrees(n: int) -> int:
    if n < 2:
        raise ValueError(f"n must be 2 users or more, not {n}")
    return n - 1


def _alpha(alpha: float, comparisons: int) -> float:
    check_at_least_one("comparisons", comparisons)
    return check_share("alpha", alpha) / comparisons


def _reachable(power: float, alpha: float) -> None:
    if not alpha < power < 1:
        raise ValueError(f"power must lie between alpha, {alpha:g}, and 1, not {power}")
