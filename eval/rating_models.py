"""What predicts ratings without a language model: biases of users and items, ItemKNN, blends.

Sources: biases and neighbourhood as in Koren, KDD 2008, equations 1 and 3, biases by damped means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl

from llmgen.catalog import Catalog
from llmgen.types import FloatArray

DAMPING = (1.0, 3.0, 5.0, 10.0, 25.0)
"""Ratings at the mean that are added to those of a user or an item, before its bias is taken."""
NEIGHBOURS, SHRINKAGE = 40, 100.0


@dataclass(frozen=True, eq=False)
class Biases:
    """Mean + bias of the user + bias of the item.

    Attributes:
        mean: Of all ratings.
        items: Id -> bias; 0 for others.
        damping: See `DAMPING`.
    """

    mean: float
    items: Mapping[str, float]
    damping: float

    @classmethod
    def fit(cls, known: pl.DataFrame, damping: float) -> Biases:
        """Of a log with ratings."""
        mean = float(cast(float, known["rating"].mean()))
        rows = known.group_by("item_id").agg((pl.col("rating") - mean).sum().alias("sum"), pl.len().alias("count"))
        items = {item: total / (damping + count) for item, total, count in rows.iter_rows()}
        return cls(mean, items, damping)

    def user(self, history: Sequence[str], ratings: Sequence[float]) -> float:
        """The bias of a user who gave these ratings; 0 for none."""
        left = sum(
            rating - self.mean - self.items.get(item, 0.0) for item, rating in zip(history, ratings, strict=True)
        )
        return left / (self.damping + len(history))

    def predict(self, history: Sequence[str], ratings: Sequence[float], item: str) -> float:
        """The user's rating of an item, not cut to the scale."""
        return self.mean + self.user(history, ratings) + self.items.get(item, 0.0)


class Neighbours:
    """What the biases leave over, from the items of the user's history that were rated most alike.

    Args:
        known: A log with ratings.
        catalog: Its items.
        biases: Fitted on it.
    """

    def __init__(self, known: pl.DataFrame, catalog: Catalog, biases: Biases) -> None:
        self.catalog, self.biases = catalog, biases
        users = {user: number for number, user in enumerate(known["user_id"].unique(maintain_order=True))}
        residuals = np.zeros((len(users), len(catalog)))
        for user, rows in known.group_by("user_id"):
            items, ratings = rows["item_id"].to_list(), rows["rating"].to_list()
            bias = biases.user(items, ratings)
            for item, rating in zip(items, ratings, strict=True):
                residuals[users[cast(str, user[0])], catalog.index(item)] = (
                    rating - biases.mean - bias - biases.items.get(item, 0.0)
                )
        there = (residuals != 0).astype(np.float64)
        common = there.T @ there
        lengths = np.sqrt((residuals**2).T @ there * ((residuals**2).T @ there).T)  # over the users of both
        with np.errstate(divide="ignore", invalid="ignore"):
            alike = np.where(lengths > 0, residuals.T @ residuals / lengths, 0.0)
        self.similarity = alike * common / (common + SHRINKAGE)

    def predict(self, history: Sequence[str], ratings: Sequence[float], item: str) -> float:
        """The user's rating of an item, not cut to the scale."""
        base = self.biases.predict(history, ratings, item)
        if not history:
            return base
        taken = np.array(self.catalog.positions(self.catalog[one] for one in history))
        alike = self.similarity[self.catalog.index(item), taken]
        nearest = np.argsort(-alike, kind="stable")[:NEIGHBOURS]
        nearest = nearest[alike[nearest] > 0]
        if not len(nearest):
            return base
        bias = self.biases.user(history, ratings)
        left = np.array(
            [ratings[one] - self.biases.mean - bias - self.biases.items.get(history[one], 0.0) for one in nearest]
        )
        return base + float(alike[nearest] @ left / alike[nearest].sum())


def blend(columns: Sequence[FloatArray], truth: FloatArray) -> FloatArray:
    """Weights of predictions by least squares, the last one of a constant."""
    table = np.column_stack([*columns, np.ones(len(truth))])
    return cast(FloatArray, np.linalg.lstsq(table, truth, rcond=None)[0])
