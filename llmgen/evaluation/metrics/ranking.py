"""One function a metric. The ranking metrics look at one ranked list, those of generation at one answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from math import log2, nan

from llmgen.types import Answer


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
    held_out = _checked(ranked, relevant, k)
    return len(held_out.intersection(ranked[:k])) / len(held_out)


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
    return float(not _checked(ranked, relevant, k).isdisjoint(ranked[:k]))


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
    held_out = _checked(ranked, relevant, k)
    gained = sum(1 / log2(rank + 1) for rank, item_id in enumerate(ranked[:k], start=1) if item_id in held_out)
    ideal = sum(1 / log2(rank + 1) for rank in range(1, min(k, len(held_out)) + 1))
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
    held_out = _checked(ranked, relevant, k)
    return next((1 / rank for rank, item_id in enumerate(ranked[:k], start=1) if item_id in held_out), 0.0)


def precision_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Share of the first k places that hold a held-out item; an empty place counts as a wrong one.

    Args:
        ranked: Recommended ids, best first, no id twice; may be shorter than k.
        relevant: Held-out ids of the same user, at least one.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1]. With fewer than k held-out items 1 cannot be reached.

    Raises:
        ValueError: If k < 1, relevant is empty, or ranked repeats an id.

    >>> precision_at_k(["b", "a"], {"a"}, k=4)
    0.25
    """
    return len(_checked(ranked, relevant, k).intersection(ranked[:k])) / k


def average_precision_at_k(ranked: Sequence[str], relevant: Collection[str], k: int) -> float:
    """Mean precision at the places of the held-out items; MAP@k is its mean over users.

    Args:
        ranked: Recommended ids, best first, no id twice; may be shorter than k.
        relevant: Held-out ids of the same user, at least one.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1]: the sum of the precisions over the number of held-out items, found or not, as trec_eval has it.

    Raises:
        ValueError: If k < 1, relevant is empty, or ranked repeats an id.

    >>> average_precision_at_k(["a", "x", "b"], {"a", "b"}, k=3) == (1 + 2 / 3) / 2
    True
    """
    held_out = _checked(ranked, relevant, k)
    found, gained = 0, 0.0
    for place, item_id in enumerate(ranked[:k], start=1):
        if item_id in held_out:
            found += 1
            gained += found / place
    return gained / len(held_out)


def repetition_at_k(ranked: Sequence[str], history: Collection[str], k: int) -> float:
    """Share of the first k places that hold something the user took before.

    Args:
        ranked: Recommended ids, best first.
        history: Ids that the user took.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1]; 0 for an empty list.

    >>> repetition_at_k(["a", "b"], {"a"}, k=2)
    0.5
    """
    _cut_off(k)
    shown, taken = ranked[:k], set(history)
    return sum(item_id in taken for item_id in shown) / len(shown) if shown else 0.0


def novelty_at_k(ranked: Sequence[str], shares: Mapping[str, float], k: int) -> float:
    """How little known the first k places are: the mean of -log2 of each item's share of the users who took it.

    Args:
        ranked: Recommended ids, best first.
        shares: Id -> share of the users who took it, in (0, 1]; an item that nobody took counts as if one user had.
        k: Cut-off, 1 or more.

    Returns:
        Bits, 0 or more; 0 for an empty list.

    Raises:
        ValueError: If k < 1, or an id has no share.

    Source: Zhou et al., PNAS 2010 (mean self-information).

    >>> novelty_at_k(["a", "b"], {"a": 0.5, "b": 0.125}, k=2)
    2.0
    """
    _cut_off(k)
    if unknown := [item_id for item_id in ranked[:k] if not shares.get(item_id, 0) > 0]:
        raise ValueError(f"{unknown[0]!r} has no share above 0; give every item of the catalog one")
    return -sum(log2(shares[item_id]) for item_id in ranked[:k]) / len(ranked[:k]) if ranked else 0.0


def popularity_lift_at_k(ranked: Sequence[str], history: Sequence[str], counts: Mapping[str, float], k: int) -> float:
    """How much more popular the first k places are than what the user took.

    Args:
        ranked: Recommended ids, best first.
        history: Ids that the user took.
        counts: Id -> how often it was taken; 0 where it is missing.
        k: Cut-off, 1 or more.

    Returns:
        Mean count of the list over mean count of the history, minus 1: 0 for the user's own taste, above 0 where the
        list is more popular. NaN without a list, or without a history that anybody took.

    Source: Abdollahpouri et al., The Unfairness of Popularity Bias in Recommendation, 2019.

    >>> popularity_lift_at_k(["a"], ["b", "c"], {"a": 6, "b": 3, "c": 1}, k=1)
    2.0
    """
    _cut_off(k)
    shown = [counts.get(item_id, 0) for item_id in ranked[:k]]
    taken = [counts.get(item_id, 0) for item_id in history]
    if not shown or not sum(taken):
        return nan
    return (sum(shown) / len(shown)) / (sum(taken) / len(taken)) - 1


def diversity_at_k(ranked: Sequence[str], attributes: Mapping[str, Collection[str]], k: int) -> float:
    """How different the items of one list are: the mean of 1 - Jaccard similarity over its pairs.

    Args:
        ranked: Recommended ids, best first.
        attributes: Id -> attribute values, such as genres; two items without any are alike.
        k: Cut-off, 1 or more.

    Returns:
        In [0, 1]; 0 for a list of fewer than two items.

    Source: Ziegler et al., WWW 2005 (intra-list similarity).

    >>> diversity_at_k(["a", "b"], {"a": {"Comedy"}, "b": {"Comedy", "Crime"}}, k=2)
    0.5
    """
    _cut_off(k)
    sets = [frozenset(attributes.get(item_id, ())) for item_id in ranked[:k]]
    pairs = list(combinations(sets, 2))
    alike = [len(one & other) / len(one | other) if one | other else 1.0 for one, other in pairs]
    return 1 - sum(alike) / len(pairs) if pairs else 0.0


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


def position_bias(shown: Sequence[str], ranked: Sequence[str]) -> float:
    """Spearman's correlation between the place where candidates stood in a prompt and the place they were given.

    Args:
        shown: Candidates in the order of the prompt, at least two, none twice.
        ranked: The same in the order of the answer.

    Returns:
        In [-1, 1]; 1 where the order was copied, near 0 over many users where it does not matter.

    Raises:
        ValueError: If they are not the same candidates, or fewer than two.

    >>> position_bias(["a", "b", "c"], ["c", "b", "a"])
    -1.0
    """
    place = {item_id: number for number, item_id in enumerate(shown)}
    count = len(place)
    if count < 2 or not len(shown) == len(ranked) == len(set(ranked)) == count or set(ranked) != set(place):
        raise ValueError("the answer must hold the candidates of the prompt, each once, at least two")
    apart = sum((place[item_id] - number) ** 2 for number, item_id in enumerate(ranked))
    return 1 - 6 * apart / (count * (count**2 - 1))


def valid_rate(answer: Answer) -> float:
    """Share of the generated lines that name a catalog item as it is written, before any repair.

    A line counts if it was decoded under the trie or is a title exactly; one that only normalisation or BM25 could
    place does not. A title that the answer repeats is valid here, and counts for `duplicate_rate`.

    Returns:
        In [0, 1]; 0 if nothing was generated.
    """
    lines = _lines(answer)
    return sum(method in ("trie", "exact") for method in lines) / len(lines) if lines else 0.0


def fallback_rate(answer: Answer) -> float:
    """Share of the places that the generated text left empty, so that the item prior filled them.

    Returns:
        In [0, 1]; 0 for an answer without places.
    """
    return sum(place.grounding.method == "prior" for place in answer) / len(answer) if len(answer) else 0.0


def duplicate_rate(answer: Answer) -> float:
    """Share of the generated lines that name an item which an earlier line of the same answer named.

    Returns:
        In [0, 1]; 0 if nothing was generated.
    """
    lines = _lines(answer)
    return sum(line.method != "none" for line in answer.dropped) / len(lines) if lines else 0.0


def _lines(answer: Answer) -> list[str]:
    """How each generated line was grounded."""
    placed = [place.grounding.method for place in answer if place.grounding.method != "prior"]
    return [*placed, *(line.method for line in answer.dropped)]


def _checked(ranked: Sequence[str], relevant: Collection[str], k: int) -> frozenset[str]:
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
