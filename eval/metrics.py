"""One function a metric. The ranking metrics look at one ranked list, those of generation at one answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import log2, sqrt

from llmgen.types import Recommendations


def recall_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of the held-out items that stand in the first k places.

    Args:
        ranked: Recommended ids, best first, no id twice; may be shorter than k.
        relevant: Held-out ids of the same user, at least one.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1]. With more than k held-out items 1 cannot be reached.

    Raises:
        ValueError: If k < 1, relevant is empty, or ranked repeats an id.

    >>> recall_at_k(["b", "a"], {"a", "c"}, k=2)
    0.5
    """
    wanted = _wanted(ranked, relevant, k)
    return len(wanted.intersection(ranked[:k])) / len(wanted)


def hit_rate_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Whether any held-out item stands in the first k places; equals recall where one item is held out.

    Args:
        ranked: Recommended ids, best first, no id twice; may be shorter than k.
        relevant: Held-out ids of the same user, at least one.
        k: Cut-off, 1 or more.

    Returns:
        0 or 1.

    Raises:
        ValueError: If k < 1, relevant is empty, or ranked repeats an id.

    >>> hit_rate_at_k(["b", "a"], {"a"}, k=1)
    0.0
    """
    return float(not _wanted(ranked, relevant, k).isdisjoint(ranked[:k]))


def ndcg_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Normalised discounted cumulative gain of one ranked list, binary relevance.

    Args:
        ranked: Recommended ids, best first, no id twice; may be shorter than k.
        relevant: Held-out ids of the same user, at least one.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1]; 1 if the first min(k, len(relevant)) places are all relevant.

    Raises:
        ValueError: If k < 1, relevant is empty, or ranked repeats an id.

    Source: Burges et al., ICML 2005, gain 2^rel - 1, discount log2(rank + 1).

    >>> ndcg_at_k(["b", "a"], {"a"}, k=2) == 1 / log2(3)
    True
    """
    wanted = _wanted(ranked, relevant, k)
    gained = sum(1 / log2(rank + 1) for rank, item_id in enumerate(ranked[:k], start=1) if item_id in wanted)
    ideal = sum(1 / log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
    return gained / ideal


def mrr_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Reciprocal rank of the first held-out item in the first k places.

    Args:
        ranked: Recommended ids, best first, no id twice; may be shorter than k.
        relevant: Held-out ids of the same user, at least one.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1]; 0 if none is there.

    Raises:
        ValueError: If k < 1, relevant is empty, or ranked repeats an id.

    >>> mrr_at_k(["b", "a"], {"a"}, k=2)
    0.5
    """
    wanted = _wanted(ranked, relevant, k)
    return next((1 / rank for rank, item_id in enumerate(ranked[:k], start=1) if item_id in wanted), 0.0)


def coverage_at_k(rankings: Sequence[Sequence[str]], n_items: int, k: int) -> float:
    """Share of the catalog that stands in the first k places of anybody's list.

    Args:
        rankings: One list of ids a user, best first.
        n_items: Size of the catalog, 1 or more, and not below the number of ids in the lists.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1]; 0 without lists.

    Raises:
        ValueError: If k < 1, n_items < 1, or the lists hold more ids than the catalog.

    Source: Ge et al., RecSys 2010, catalog coverage.

    >>> coverage_at_k([["a", "b"], ["a", "c"]], n_items=4, k=1)
    0.25
    """
    _cut_off(k)
    shown = {item_id for ranked in rankings for item_id in ranked[:k]}
    if n_items < 1 or len(shown) > n_items:
        raise ValueError(
            f"n_items is {n_items}, and the lists hold {len(shown)} different ids; give the catalog's size"
        )
    return len(shown) / n_items


def gini_at_k(rankings: Sequence[Sequence[str]], n_items: int, k: int) -> float:
    """How unevenly the first k places of all users fall on the items of the catalog.

    Args:
        rankings: One list of ids a user, best first.
        n_items: Size of the catalog, 1 or more, and not below the number of ids in the lists.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1): 0 if every item is shown equally often, near 1 if one item fills all places.

    Raises:
        ValueError: If k < 1, n_items < 1, the lists hold more ids than the catalog, or nothing at all is shown.

    Source: Gini coefficient sum_i (2 i - n - 1) x_i / (n sum_i x_i), x sorted upwards.

    >>> gini_at_k([["a"], ["a"]], n_items=4, k=1)
    0.75
    """
    coverage_at_k(rankings, n_items, k)  # checks the arguments
    counts: dict[str, int] = {}
    for ranked in rankings:
        for item_id in ranked[:k]:
            counts[item_id] = counts.get(item_id, 0) + 1
    if not counts:
        raise ValueError("nothing is shown, so nothing is uneven; give at least one list that is not empty")
    upwards = enumerate(sorted(counts.values()), start=n_items - len(counts) + 1)
    return sum((2 * place - n_items - 1) * count for place, count in upwards) / (n_items * sum(counts.values()))


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


def valid_rate(answer: Recommendations) -> float:
    """Share of the generated lines that name a catalog item as it is written, before any repair.

    A line counts if it was decoded under the trie or is a title exactly; one that only normalisation or BM25 could
    place does not. A title that the answer repeats is valid here, and counts for `duplicate_rate`.

    Returns:
        In [0, 1]; 0 if nothing was generated.
    """
    lines = _lines(answer)
    return sum(method in ("trie", "exact") for method in lines) / len(lines) if lines else 0.0


def fallback_rate(answer: Recommendations) -> float:
    """Share of the places that the generated text left empty, so that the item prior filled them.

    Returns:
        In [0, 1]; 0 for an answer without places.
    """
    return sum(place.grounding.method == "prior" for place in answer) / len(answer) if len(answer) else 0.0


def duplicate_rate(answer: Recommendations) -> float:
    """Share of the generated lines that name an item which an earlier line of the same answer named.

    Returns:
        In [0, 1]; 0 if nothing was generated.
    """
    lines = _lines(answer)
    return sum(line.method != "none" for line in answer.dropped) / len(lines) if lines else 0.0


def _lines(answer: Recommendations) -> list[str]:
    """How each generated line was grounded."""
    placed = [place.grounding.method for place in answer if place.grounding.method != "prior"]
    return [*placed, *(line.method for line in answer.dropped)]


def _wanted(ranked: Sequence[str], relevant: Collection[str], k: int) -> frozenset[str]:
    _cut_off(k)
    if not relevant:
        raise ValueError("relevant is empty: a user without a held-out item has no score; leave the user out")
    if len(set(ranked)) != len(ranked):
        twice = next(item_id for place, item_id in enumerate(ranked) if item_id in ranked[:place])
        raise ValueError(f"{twice!r} is ranked twice; a metric does not repair a list")
    return frozenset(relevant)


def _cut_off(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is a cut-off and must be 1 or more, not {k}")


def _errors(predicted: Sequence[float], actual: Sequence[float]) -> list[float]:
    if len(predicted) != len(actual) or not actual:
        raise ValueError(f"{len(predicted)} predictions for {len(actual)} ratings; give one each, at least one")
    return [guess - truth for guess, truth in zip(predicted, actual, strict=True)]
