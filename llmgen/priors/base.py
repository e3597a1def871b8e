"""What a prior is, how a score becomes one, and how several become one number an item.

A prior knows something about items that the language model need not learn: what was seen, what a filter allows, what
people took together. Each is a factor w >= 0 on every item of the catalog; the factors of a request are multiplied,
each raised to its weight. Everything here is in natural logarithms, so factors add up and log 0 = -inf removes an item.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError
from llmgen.types import FloatArray, IntArray, Query

FLOOR = 0.1
"""Weight of an item that a model sees nothing in, beside one in which it sees nothing special (1)."""


class Prior(Protocol):
    """One factor on the items of a catalog.

    Attributes:
        name: Key of the factor's part of the score in `Recommendation.terms`; one of a kind in a recommender.
        weight: Exponent of the factor. 0 switches it off, a negative one turns it round; neither brings back an item
            that the factor removes.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """The factor, before its weight.

        Args:
            queries: Any number, none included.

        Returns:
            float64 [len(queries), n_items], natural logarithm of w >= 0, items in catalog order; -inf removes an item.
        """
        ...


class Saving:
    """What llmgen's own priors have: they can be saved."""

    def save(self: Prior, folder: Path | str) -> None:
        """Write the fitted prior into a folder; `llmgen.load_prior` reads it.

        Args:
            folder: Whole or not there at all afterwards. A prior that was saved there before is replaced.

        Raises:
            ConfigError: A part of the prior is a function, or something else is in that place.
        """
        from llmgen.priors.stored import save_prior

        save_prior(self, folder)


@runtime_checkable
class Movable(Protocol):
    """A prior that can follow its catalog when items come and go; all of llmgen's own can."""

    def on_catalog(self, catalog: Catalog, before: IntArray) -> Prior:
        """The same prior for a changed catalog.

        Args:
            catalog: The new one.
            before: int64 [len(catalog)]: where each of its items stood in the old one; -1 for a new item.
        """
        ...


@runtime_checkable
class Preparable(Protocol):
    """A prior with something that is costly to make and otherwise waits for the first request."""

    def prepare(self) -> None:
        """Make it now; `Recommender.prepare` calls this, also after each change of the catalog."""
        ...


def only_appended(before: IntArray, n_items: int) -> bool:
    """Whether a changed catalog is the old one of so many items with new ones after it; see `Movable`."""
    old, new = before[:n_items], before[n_items:]
    return len(old) == n_items and bool((old == np.arange(n_items)).all() and (new == -1).all())


PriorT = TypeVar("PriorT", bound=Prior)


@dataclass(frozen=True, eq=False)
class Combined:
    """The product of several priors.

    Attributes:
        total: float64 [n_queries, n_items], the sum of `terms`; -inf where any factor removes the item.
        terms: Name of the prior -> float64 [n_queries, n_items], its weighted part.
    """

    total: FloatArray
    terms: Mapping[str, FloatArray]

    def term(self, name: str, number: int, index: int) -> float:
        """What one prior adds to the score of the item at a catalog index, for one query."""
        return float(self.terms[name][number, index])


def combine(priors: Sequence[Prior], queries: Sequence[Query], n_items: int | None = None) -> Combined:
    """Multiply priors: the sum of weight * log w, where an item that one factor removes stays removed.

    An item with log w = -inf is out whatever the weight of that factor, 0 and negative ones included, and whatever
    the other factors say. No other infinity and no NaN comes out.

    Args:
        priors: No name twice.
        queries: One row each.
        n_items: Size of the catalog; needed only where `priors` may be empty, which gives a flat product.

    Raises:
        ValueError: A name twice, no prior and no `n_items`, or a prior that answers with the wrong shape, NaN or +inf.
    """
    check_priors(priors)
    total = None if n_items is None else np.zeros((len(queries), n_items))
    terms: dict[str, FloatArray] = {}
    for prior in priors:
        log_w = np.asarray(prior.log_weights(queries), dtype=np.float64)
        total = np.zeros((len(queries), log_w.shape[-1])) if total is None else total
        if log_w.shape != total.shape:
            raise ArgumentError(f"prior {prior.name!r} gave an array {log_w.shape}, not {total.shape}")
        if log_w.size and not (log_w.min() >= -np.inf and log_w.max() < np.inf):  # the minimum of a NaN is NaN
            raise ArgumentError(
                f"prior {prior.name!r} gave NaN or +inf; a log weight is finite, or -inf for an item removed"
            )
        terms[prior.name] = weighted(log_w, prior.weight)
        total += terms[prior.name]
    if total is None:
        raise ValueError("no prior and no n_items: the size of the catalog is not known; give one of them")
    return Combined(total, terms)


def reweighted(prior: PriorT, weight: float) -> PriorT:
    """The same prior with another weight.

    Raises:
        TypeError: The prior is not a dataclass, so it cannot be copied with one field changed.
    """
    if not dataclasses.is_dataclass(prior) or isinstance(prior, type):
        raise TypeError(f"{type(prior).__name__} is not a dataclass instance; its weight cannot be replaced")
    return dataclasses.replace(prior, weight=float(weight))


def weighted(log_weights: FloatArray, weight: float) -> FloatArray:
    """Log weights raised to a weight, in a new array; what is removed stays removed, whatever the weight."""
    if weight > 0:
        return weight * log_weights
    with np.errstate(invalid="ignore"):  # 0 * -inf, which is -inf here
        term: FloatArray = weight * log_weights
    term[np.isneginf(log_weights)] = -np.inf
    return term


def log_lift(scores: FloatArray, floor: float) -> FloatArray:
    """Turn scores of any sign into log weights; the one rule of all scoring priors.

    Scores below 0 count as 0. What is left becomes a share p of its row, is mixed with a small uniform floor, and is
    measured against the uniform distribution over the n items of the row:

        w = (1 - floor) * n * p + floor

    So w = 1 is "knows nothing", and that is what every item of a row without a positive score gets; w = `floor` is
    what an item without a positive score gets beside others that have one. Sorting by w sorts by score wherever the
    score is positive.

    Args:
        scores: [n_rows, n_items], finite.
        floor: In (0, 1]. Above 0, so that the language model can still bring in an item that the factor never met.

    Returns:
        float64 [n_rows, n_items], log w, all finite.

    Raises:
        ValueError: `floor` outside (0, 1].

    >>> np.exp(log_lift(np.array([[3.0, 1.0, 0.0, -2.0]]), floor=0.1)).round(6).tolist()
    [[2.8, 1.0, 0.1, 0.1]]
    """
    check_floor(floor)
    positive = np.maximum(scores, 0.0)
    largest = positive.max(axis=1, keepdims=True)  # divided out first: neither tiny nor huge scores may overflow
    np.divide(positive, largest, out=positive, where=largest > 0)
    sums = positive.sum(axis=1, keepdims=True)
    positive *= np.divide((1.0 - floor) * positive.shape[1], sums, out=np.zeros_like(sums), where=sums > 0)
    positive += np.where(sums > 0, floor, 1.0)
    result: FloatArray = np.log(positive, out=positive)
    return result


class Factor(Protocol):
    """What has a name and a weight: a prior of items, or of ratings."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def weight(self) -> float: ...  # noqa: D102


def check_priors(
    priors: Sequence[Factor], *, kind: str = "prior", several: str = "two priors", taken: Sequence[str] = ()
) -> None:
    """Raise ArgumentError where two priors have one name, one has a name that is taken, or a weight is not finite."""
    names = [*taken, *(prior.name for prior in priors)]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ArgumentError(
            f"{several} are called {repeated[0]!r}; give each its own name (dataclasses.replace(..., name=))"
        )
    for prior in priors:
        if not np.isfinite(prior.weight):
            raise ArgumentError(f"the weight of {kind} {prior.name!r} is {prior.weight}; it must be finite")


def check_floor(floor: float) -> None:
    """Raise ArgumentError unless a floor is in (0, 1]."""
    if not 0.0 < floor <= 1.0:
        raise ArgumentError(f"floor must be in (0, 1], not {floor}: it is the weight of an item without a score")


def unchanged(old: Catalog, new: Catalog, before: IntArray) -> IntArray:
    """Positions in the catalog before, int64, of the items that are the very same; -1 for all others.

    Args:
        old: The catalog before.
        new: The changed one.
        before: See `Movable.on_catalog`.
    """
    return new.unchanged_since(old, before)
