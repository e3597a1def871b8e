"""How often people took an item."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.priors.base import Saving
from llmgen.priors.interactions import sequences
from llmgen.priors.sparse import SparseRow
from llmgen.types import FloatArray, IntArray, Query


@dataclass(frozen=True, eq=False)
class Popularity(Saving):
    """The share of all interactions that an item has.

    Give it a negative weight to lessen popularity bias. That corrects what other priors make of a history; of somebody
    who took nothing it then says nothing, where it would put first what nobody wants.

    Attributes:
        log_shares: float64 [n_items], natural logarithm of (count + 1) / (sum of counts + n_items).
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    log_shares: FloatArray = field(repr=False)
    weight: float = 1.0
    name: str = "popularity"

    @classmethod
    def fit(cls, interactions: pl.DataFrame, catalog: Catalog, *, weight: float = 1.0) -> Popularity:
        """Count the interactions of each item; an item that nobody took counts as taken once, like all others more.

        Args:
            interactions: Columns `user_id`, `item_id`, `timestamp`; every row counts, repeats too.
            catalog: The items that are counted.
            weight: Exponent; negative prefers what fewer people took.

        Raises:
            UnknownItemError: An interaction with an item that the catalog does not have.
            DataError: A column is missing or has nulls.
        """
        counts = np.bincount(sequences(interactions, catalog).items, minlength=len(catalog)) + 1.0
        return cls(np.log(counts / counts.sum()), weight)

    def on_catalog(self, catalog: Catalog, before: IntArray) -> Popularity:
        """See `Movable`; a new item is as rare as the rarest, and the shares sum to 1 again."""
        shares = np.where(before >= 0, self.log_shares[before], self.log_shares.min())
        return dataclasses.replace(self, log_shares=shares - np.log(np.exp(shares).sum()))

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; 0 everywhere for a query without history, where the weight is negative."""
        speaks = np.array([self._speaks(query) for query in queries], dtype=bool)
        return np.where(speaks[:, None], self.log_shares, 0.0)

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`."""
        return [SparseRow(self.log_shares) if self._speaks(query) else SparseRow() for query in queries]

    def _speaks(self, query: Query) -> bool:
        return self.weight >= 0 or bool(query.history)
