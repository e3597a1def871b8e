"""Lists with less of the same: so many items of an attribute's value at most, or a penalty for items that are alike.

Both look at the items of the list in its order, and say of each where it stood before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from llmgen.errors import ArgumentError
from llmgen.types import (
    Item,
    Place,
    Query,
    Recommendation,
    Recommendations,
    WrittenRecommendation,
    WrittenRecommendations,
)

POOL = 4
"""So many times `k` items are looked at first, and as many times more where these do not suffice."""
LARGEST_POOL = 1_000

ListT = TypeVar("ListT", Recommendations, WrittenRecommendations)
OneT = TypeVar("OneT", Recommendation, WrittenRecommendation)


@dataclass(frozen=True, slots=True)
class Diversity:
    """How much an answer may have of the same.

    The list is filled place by place with the item that has the largest score less `penalty` times its likeness to
    the one that is most like it among those above: maximal marginal relevance. Likeness is the share of the values of
    the attribute that two items have in common, in [0, 1] (Jaccard); items without the attribute are like no other.

    Attributes:
        by: Name of the attribute.
        most: Items with the same value at most; an item with several values counts for each. None for any number.
        penalty: In units of the score (natural logarithm), 0 or more: 0.7 halves the weight of an item that is quite
            like one above it.

    Raises:
        ArgumentError: A number out of range, or neither of the two.

    Source: Carbonell & Goldstein, The Use of MMR, SIGIR 1998.
    """

    by: str
    most: int | None = None
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.most is not None and self.most < 1:
            raise ArgumentError(f"most must be 1 or more, not {self.most}")
        if not 0 <= self.penalty < math.inf:
            raise ArgumentError(f"penalty must be 0 or more and finite, not {self.penalty}")
        if self.most is None and self.penalty == 0:
            raise ArgumentError(f"diversity by {self.by!r} says nothing; give most, or a penalty above 0")


def diversified(
    queries: Sequence[Query], listed: Callable[[Sequence[Query], Sequence[int]], list[ListT]]
) -> list[ListT]:
    """Answers in which the diversity of each query is kept.

    `exact` then says that the list is proven to be the one that choosing among all eligible items gives: an item
    beyond those looked at has no larger score than the last of them, and so would have been chosen nowhere. Where a
    model wrote the list, minus the logarithm of the rank is in the place of the score.

    Args:
        queries: Some with `diversity`.
        listed: The best items of queries, so many each; it does not look at their diversity.
    """
    sizes = [min(POOL * query.k, max(LARGEST_POOL, query.k)) if query.diversity else query.k for query in queries]
    answers = listed(queries, sizes)
    for number, query in enumerate(queries):
        while query.diversity is not None:
            answer, size = answers[number], sizes[number]
            chosen, certain = _chosen(answer, query.k, query.diversity, whole=len(answer) < size)
            if certain or size >= max(LARGEST_POOL, query.k):
                places = tuple(
                    replace(place, rank=rank, rank_before=place.rank) for rank, place in enumerate(chosen, start=1)
                )
                answers[number] = replace(answer, places=places)
                if isinstance(answer, Recommendations):
                    answers[number] = replace(answer, places=places, exact=answer.exact and certain)
                break
            sizes[number] = min(POOL * size, max(LARGEST_POOL, query.k))
            answers[number] = listed([query], [sizes[number]])[0]
    return answers


def _chosen(pool: Sequence[OneT], k: int, diversity: Diversity, *, whole: bool) -> tuple[list[OneT], bool]:
    """At most k places of a list, and whether no item beyond it could have been among them.

    Args:
        pool: Best first.
        k: How many are wanted.
        diversity: What to keep to.
        whole: Whether there is no item beyond it.
    """
    left = list(pool)
    values = {place.item.id: _values(place.item, diversity.by) for place in pool}
    likeness = dict.fromkeys(values, 0.0)
    counts: Counter[object] = Counter()
    chosen: list[OneT] = []
    certain = True
    while left and len(chosen) < k:
        if diversity.most is not None:
            left = [place for place in left if all(counts[one] < diversity.most for one in values[place.item.id])]
            if not left:
                break
        worth = [_score(place) - diversity.penalty * likeness[place.item.id] for place in left]
        best = max(range(len(left)), key=lambda place: (worth[place], -place))
        certain = certain and (whole or worth[best] >= _score(pool[-1]))
        taken = left.pop(best)
        own = values[taken.item.id]
        counts.update(own)
        chosen.append(taken)
        for place in left:
            other = values[place.item.id]
            if own and other:
                alike = len(own & other) / len(own | other)
                likeness[place.item.id] = max(likeness[place.item.id], alike)
    return chosen, whole or (certain and len(chosen) == k)


def _score(place: Place) -> float:
    return place.score if isinstance(place, Recommendation) else place.order


def _values(item: Item, name: str) -> frozenset[object]:
    value = item.attributes.get(name)
    if value is None:
        return frozenset()
    return frozenset(value) if isinstance(value, tuple) else frozenset((value,))
