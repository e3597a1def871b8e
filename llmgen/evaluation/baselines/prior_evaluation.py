"""Priors measured on held-out items, and halving: few users first, all users for the best settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmgen.catalog.core import Catalog
from llmgen.priors import (
    Prior,
    SharedWeights,
    multiply,
)
from llmgen.recommend.tuning import REMOVED
from llmgen.types import FloatArray, IntArray, Item, Query

Settings = Mapping[str, float]


ALL_USERS = 5_000
"""Up to so many validation users settings are chosen on all of them, and every setting is tried on all."""


class Halving(NamedTuple):
    """Successive halving of a grid (Jamieson & Talwalkar, AISTATS 2016).

    Attributes:
        users: Validation users of each round, rising; the users of a round are part of the next one's.
        kept: Share of the settings that goes on to the next round.
        items: EASE's ridge is chosen among so many items, those taken most, where more were taken; only the chosen one
            is fitted on all.
        mix_users: Users that the weights of the mix are chosen on; its floor on a quarter of them.
    """

    users: Sequence[int] = (300, 1_000, 4_000)
    kept: float = 0.25
    items: int = 5_000
    mix_users: int = 1_000


HALVING = Halving()


class Estimate(NamedTuple):
    """A mean of users with its standard error."""

    mean: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The ranks of the held-out items, one a query, the whole catalog ranked.

    Attributes:
        ranks: int64 [n_queries], 1 for the best; the largest int64 where the item was removed.
        k: Cut-off of the metrics.
    """

    ranks: IntArray
    k: int

    @property
    def hit_rates(self) -> FloatArray:
        """HR@k of each query, float64 [n_queries]; equals recall with one item held out."""
        return (self.ranks <= self.k).astype(np.float64)

    @property
    def ndcgs(self) -> FloatArray:
        """NDCG@k of each query, float64 [n_queries]."""
        result: FloatArray = self.hit_rates / np.log2(1.0 + self.ranks)
        return result

    @property
    def hit_rate(self) -> Estimate:
        """Mean HR@k."""
        return _estimate(self.hit_rates)

    @property
    def ndcg(self) -> Estimate:
        """Mean NDCG@k."""
        return _estimate(self.ndcgs)


def evaluate_priors(
    priors: Sequence[Prior],
    queries: Sequence[Query],
    held_out: Sequence[str | Item],
    *,
    catalog: Catalog,
    k: int = 10,
    batch_size: int = 1024,
) -> Evaluation:
    """Rank the whole catalog by the product of priors, and find each query's held-out item.

    Args:
        priors: No name twice; without `ExcludeSeen`, items of the history stay in.
        queries: Any number, at least one.
        held_out: The item, or its id, that each query should find.
        catalog: The items that are ranked.
        k: Cut-off, 1 or more.
        batch_size: Queries scored at once, 1 or more; decides memory only.

    Raises:
        ValueError: Lengths that do not agree, or an argument out of range.
        UnknownItemError: A held-out item is not in the catalog.
    """
    if len(queries) != len(held_out) or not queries:
        raise ValueError(
            f"{len(queries)} queries and {len(held_out)} held-out items; give one item a query, at least one"
        )
    if k < 1 or batch_size < 1:
        raise ValueError(f"k and batch_size must be 1 or more, not {k} and {batch_size}")
    targets = np.array([catalog.index(item) for item in held_out], dtype=np.int64)
    ranks, shared = [], SharedWeights(len(catalog))
    for start in range(0, len(queries), batch_size):
        batch = slice(start, start + batch_size)
        found = multiply(priors, queries[batch], len(catalog), shared)
        places = [row.rank(target) for row, target in zip(found.rows, targets[batch].tolist(), strict=True)]
        ranks.append(np.array([REMOVED if place is None else place for place in places], np.int64))
    return Evaluation(np.concatenate(ranks), k)


def _estimate(values: FloatArray) -> Estimate:
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Estimate(float(values.mean()), spread / len(values) ** 0.5)
