"""Metrics of predicted ratings, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt


def rmse(predicted: Sequence[float], actual: Sequence[float]) -> float:
    """Root of the mean squared error of predicted ratings.

    Args:
        predicted: Expected ratings (`RatingPrediction.mean`), at least one.
        actual: The ratings given, in the same order.

    Returns:
        0 or more.

    Raises:
        ValueError: If there is none, or the lengths differ.

    >>> rmse([3.0, 5.0], [3.0, 3.0]) == sqrt(2)
    True
    """
    return sqrt(sum(error**2 for error in _errors(predicted, actual)) / len(actual))


def mae(predicted: Sequence[float], actual: Sequence[float]) -> float:
    """Mean absolute error of predicted ratings.

    Args:
        predicted: Predicted ratings, at least one.
        actual: The ratings given, in the same order.

    Returns:
        0 or more.

    Raises:
        ValueError: If there is none, or the lengths differ.

    >>> mae([3.0, 5.0], [3.0, 3.0])
    1.0
    """
    return sum(abs(error) for error in _errors(predicted, actual)) / len(actual)


def auc(scores: Sequence[float], liked: Sequence[bool]) -> float:
    """Probability that something liked has a higher score than something that is not; ties count half.

    Args:
        scores: One a rating.
        liked: Whether each was liked, in the same order; both kinds at least once.

    Returns:
        In [0, 1]; .5 for scores that say nothing.

    Raises:
        ValueError: If the lengths differ or a kind is missing.

    Source: Mann & Whitney 1947: (rank sum of the liked - n (n + 1) / 2) / (n m).

    >>> auc([0.9, 0.1, 0.4], [True, False, True])
    1.0
    """
    if len(scores) != len(liked) or not any(liked) or all(liked):
        raise ValueError(f"{len(scores)} scores for {len(liked)} ratings, {sum(liked)} of them liked; give both kinds")
    count = sum(liked)
    ranks = sum(rank for rank, good in zip(_mean_ranks(scores), liked, strict=True) if good)
    return (ranks - count * (count + 1) / 2) / (count * (len(liked) - count))


def calibration_error(probabilities: Sequence[float], came_true: Sequence[bool], bins: int = 10) -> float:
    """Mean gap between what a model says and what happens, over bins of equal width.

    Args:
        probabilities: In [0, 1], at least one.
        came_true: In the same order.
        bins: 1 or more.

    Returns:
        In [0, 1]; 0 where in each bin the mean probability is the share that came true.

    Raises:
        ValueError: If the lengths differ, there is none, a probability is outside [0, 1], or bins < 1.

    Source: Naeini et al., AAAI 2015 (expected calibration error).

    >>> calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
    0.0
    """
    if len(probabilities) != len(came_true) or not probabilities or bins < 1:
        raise ValueError(f"{len(probabilities)} probabilities for {len(came_true)} events in {bins} bins")
    if wrong := [value for value in probabilities if not 0 <= value <= 1]:
        raise ValueError(f"a probability lies in [0, 1], not {wrong[0]}")
    gaps = [0.0] * bins
    for value, happened in zip(probabilities, came_true, strict=True):
        gaps[min(int(value * bins), bins - 1)] += value - happened
    return sum(map(abs, gaps)) / len(probabilities)


def _mean_ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1 for the smallest; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=lambda number: values[number])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for number in order[start:end]:
            ranks[number] = (start + 1 + end) / 2
        start = end
    return ranks


def _errors(predicted: Sequence[float], actual: Sequence[float]) -> list[float]:
    if len(predicted) != len(actual) or not actual:
        raise ValueError(f"{len(predicted)} predictions for {len(actual)} ratings; give one each, at least one")
    return [guess - truth for guess, truth in zip(predicted, actual, strict=True)]
