"""What a log says of the rating that a user will give: a factor on the possible ratings, as an item prior is on items.

Sources: biases and neighbourhood as in Koren, KDD 2008, equations 1 and 3, with biases as damped means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import numpy as np
import polars as pl
from scipy import sparse

from llmgen.errors import ArgumentError, DataError
from llmgen.priors.base import Saving, check_priors
from llmgen.types import FloatArray, IntArray, Item, Query

COLUMNS = ("user_id", "item_id", "rating")
STEPS = 60
"""Of bisection: more than a float64 has digits."""


class RatingPrior(Protocol):
    """One factor on the possible ratings.

    Attributes:
        name: Key in `RatingPrediction.parts`; one of a kind in a recommender.
        weight: Exponent of the factor.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102

    def log_probabilities(self, pairs: Sequence[tuple[Query, Item]], values: FloatArray) -> FloatArray:
        """What the factor says by itself, before its weight.

        Args:
            pairs: Who rates what; `Query.ratings` are those of the history, None where they are not known.
            values: float64 [n_labels], the possible ratings, in any order, none twice.

        Returns:
            float64 [len(pairs), n_labels], natural logarithms of probabilities that sum to 1, finite.
        """
        ...


@dataclass(frozen=True, eq=False)
class RatingKNN(Saving):
    """ItemKNN for ratings: mean, bias of the item, bias of the user, and what the user's ratings of like items add.

    Items are alike where the same users rated both above, or both below, what the biases say: the cosine of what the
    biases leave over of the ratings of n users of both, times n / (n + shrinkage). An item that nobody rated has no
    bias and no neighbours. Similarities are worked out when they are asked for, so a fit is one pass over the log and
    takes the memory of the log.

    Attributes:
        mean: Of all ratings.
        columns: Item id -> column of `residuals`.
        biases: float64 [n_items], of the items.
        residuals: float64 [n_users, n_items], what the biases leave over of each rating.
        spread: Standard deviation of what the biases leave over.
        damping: So many ratings at the mean are added to those of a user or an item, before its bias is taken.
        neighbours: Most alike items of a history that count; 0 for the biases alone.
        shrinkage: See above.
        weight: Exponent.
        name: Key in `RatingPrediction.parts`.
    """

    mean: float
    columns: Mapping[str, int] = field(repr=False)
    biases: FloatArray = field(repr=False)
    residuals: sparse.csc_array = field(repr=False)
    spread: float
    damping: float = 5.0
    neighbours: int = 40
    shrinkage: float = 100.0
    weight: float = 1.0
    name: str = "rating_knn"

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        *,
        damping: float = 5.0,
        neighbours: int = 40,
        shrinkage: float = 100.0,
        weight: float = 1.0,
        name: str = "rating_knn",
    ) -> RatingKNN:
        """Learn from all ratings of a log.

        Args:
            interactions: Columns `user_id`, `item_id`, `rating`; rows without a rating are passed over. Where a user
                rated an item several times, the mean counts.
            damping: See the class, 0 or more.
            neighbours: See the class, 0 or more.
            shrinkage: See the class, 0 or more.
            weight: Exponent.
            name: Key in `RatingPrediction.parts`.

        Raises:
            DataError: A column is missing, there is no rating, or one is not finite.
            ArgumentError: An argument out of range.
        """
        for what, value in (("damping", damping), ("neighbours", neighbours), ("shrinkage", shrinkage)):
            if not (math.isfinite(value) and value >= 0):
                raise ArgumentError(f"{what} must be 0 or more, not {value}")
        rated = _rated(interactions)
        ratings = rated["rating"].to_numpy()
        users, items = (rated[column].rank("dense").cast(pl.Int64).to_numpy() - 1 for column in COLUMNS[:2])
        mean = float(ratings.mean())
        biases = _damped(items, ratings - mean, damping)
        left = ratings - mean - biases[items]
        left -= _damped(users, left, damping)[users]
        residuals = sparse.csc_array((left, (users, items)))
        residuals.sort_indices()
        ids = rated["item_id"].unique().sort().to_list()
        columns = {item_id: column for column, item_id in enumerate(ids)}
        spread = math.sqrt(float(np.mean(left**2)))
        return cls(mean, columns, biases, residuals, spread, damping, neighbours, shrinkage, weight, name)

    def log_probabilities(self, pairs: Sequence[tuple[Query, Item]], values: FloatArray) -> FloatArray:
        """See `RatingPrior`; the mean of each distribution is `means`, cut to the possible ratings."""
        return log_normal_around(self.means(pairs), values, self.spread)

    def means(self, pairs: Sequence[tuple[Query, Item]]) -> FloatArray:
        """The predicted ratings, float64 [len(pairs)], not cut to a scale."""
        found: list[float] = []
        for _, group in groupby(pairs, key=lambda pair: id(pair[0])):  # what a user is asked together is looked up once
            some = list(group)
            found += self._means(some[0][0], [item for _, item in some])
        return np.array(found)

    def _means(self, query: Query, items: Sequence[Item]) -> list[float]:
        places = [self.columns.get(item.id, -1) for item in items]
        base = self.mean + np.where(np.array(places) >= 0, self.biases[places], 0.0)
        if not query.ratings:
            result: list[float] = base.tolist()
            return result
        taken = np.array([self.columns.get(item.id, -1) for item in query.items])
        left = np.array(query.ratings) - self.mean - np.where(taken >= 0, self.biases[taken], 0.0)
        bias = left.sum() / (self.damping + len(left))
        base += bias
        known = taken >= 0
        if self.neighbours and known.any():
            theirs = self.residuals[:, taken[known]]
            for number, place in enumerate(places):
                if place >= 0:
                    base[number] += self._from_neighbours(theirs, (left - bias)[known], place)
        result = base.tolist()
        return result

    def _from_neighbours(self, theirs: sparse.csc_array, left: FloatArray, place: int) -> float:
        """What the ratings of like items add.

        Args:
            theirs: float64 [n_users, n_history], columns of `residuals`.
            left: float64 [n_history], what the biases leave over of the user's own ratings.
            place: Column of the item.
        """
        alike = self._similarities(theirs, place)
        nearest = np.argsort(-alike, kind="stable")[: self.neighbours]
        nearest = nearest[alike[nearest] > 0]
        return float(alike[nearest] @ left[nearest] / alike[nearest].sum()) if len(nearest) else 0.0

    def _similarities(self, theirs: sparse.csc_array, place: int) -> FloatArray:
        """float64 [n_history]: of an item and those of a history; 0 where no user rated both."""
        start, end = self.residuals.indptr[place : place + 2]
        raters, own = self.residuals.indices[start:end], self.residuals.data[start:end]
        at = np.minimum(np.searchsorted(raters, theirs.indices), len(raters) - 1)
        both = raters[at] == theirs.indices
        size = theirs.shape[1]
        which = np.repeat(np.arange(size), np.diff(theirs.indptr))[both]
        x, y = own[at[both]], theirs.data[both]
        products, ours, others = (np.bincount(which, part, size) for part in (x * y, x * x, y * y))
        common = np.bincount(which, minlength=size)
        lengths = np.sqrt(ours * others)
        cosine = np.divide(products, lengths, out=np.zeros(size), where=lengths > 0)
        result: FloatArray = cosine * common / np.maximum(common + self.shrinkage, 1)
        return result


def check_rating_priors(priors: Sequence[RatingPrior]) -> None:
    """Raise ValueError where two priors have one name, one is called as the model is, or a weight is not finite."""
    check_priors(priors, kind="rating prior", several="two parts of a rating", taken=("lm",))


def rating_terms(
    priors: Sequence[RatingPrior], pairs: Sequence[tuple[Query, Item]], values: FloatArray
) -> dict[str, FloatArray]:
    """What each prior says by itself: name -> float64 [len(pairs), n_labels]; see `RatingPrior`.

    Raises:
        ValueError: A prior answers with the wrong shape, NaN or an infinity.
    """
    terms = {}
    for prior in priors:
        found = np.asarray(prior.log_probabilities(pairs, values), dtype=np.float64)
        if found.shape != (len(pairs), len(values)):
            wanted = (len(pairs), len(values))
            raise ValueError(f"rating prior {prior.name!r} gave an array {found.shape}, not {wanted}")
        if not np.isfinite(found).all():
            raise ValueError(f"rating prior {prior.name!r} gave NaN or an infinity; a log-probability here is finite")
        terms[prior.name] = found
    return terms


def log_normal_around(means: FloatArray, values: FloatArray, spread: float) -> FloatArray:
    """Distributions over given values that are shaped as a normal one and have given means.

    p(v) is proportional to exp(-(v - m)^2 / (2 spread^2)), with m such that the mean of v is the one asked for; at the
    ends of the scale m lies beyond them.

    Args:
        means: float64 [n]; those beyond the values count as a thousandth of the scale inside them.
        values: float64 [n_values], at least two, none twice.
        spread: Above 0; less than a tenth of the least distance between two values counts as that.

    Returns:
        float64 [n, n_values], natural logarithms, finite.

    >>> p = np.exp(log_normal_around(np.array([4.0, 5.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 1.0))
    >>> p.round(3).tolist()
    [[0.003, 0.041, 0.219, 0.429, 0.309], [0.0, 0.0, 0.0, 0.004, 0.996]]
    """
    low, high, least = values.min(), values.max(), np.diff(np.sort(values)).min()
    inside = np.clip(means, low + (high - low) / 1000, high - (high - low) / 1000)
    variance = max(spread, least / 10) ** 2
    beyond = (high - low) + 40 * variance / least  # there the value next to the last has less than e^-40 of its share
    below, above = np.full(len(means), low - beyond), np.full(len(means), high + beyond)
    for _ in range(STEPS):
        middle = (below + above) / 2
        too_low = np.exp(_log_normal(middle, values, variance)) @ values < inside
        below, above = np.where(too_low, middle, below), np.where(too_low, above, middle)
    return _log_normal((below + above) / 2, values, variance)


def _log_normal(at: FloatArray, values: FloatArray, variance: float) -> FloatArray:
    logits = -((values - at[:, None]) ** 2) / (2 * variance)
    logits -= logits.max(axis=1, keepdims=True)
    result: FloatArray = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return result


def _damped(groups: IntArray, values: FloatArray, damping: float) -> FloatArray:
    """The damped mean of each group."""
    result: FloatArray = np.bincount(groups, values) / (damping + np.bincount(groups))
    return result


def _rated(interactions: pl.DataFrame) -> pl.DataFrame:
    """A row for each user and item that has a rating."""
    if missing := [name for name in COLUMNS if name not in interactions.columns]:
        raise DataError(f"ratings need the columns {', '.join(COLUMNS)}; {missing[0]!r} is missing")
    rated = interactions.select(COLUMNS).drop_nulls("rating")
    if rated.is_empty():
        raise DataError(f"none of {len(interactions)} interactions has a rating; leave the rating prior out")
    bad = rated.filter(~pl.col("rating").is_finite())
    if len(bad):
        raise DataError(f"the rating of {bad['item_id'][0]!r} by user {bad['user_id'][0]!r} is {bad['rating'][0]}")
    return rated.group_by("user_id", "item_id", maintain_order=True).agg(pl.col("rating").cast(pl.Float64).mean())
