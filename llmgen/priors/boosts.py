"""What a request itself asks for more or less of, by the values of attributes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmgen.priors.filters import FEW, AttributeFilter
from llmgen.priors.sparse import SparseRow
from llmgen.types import FloatArray, Query

NAME = "boosts"


@dataclass(frozen=True, eq=False)
class Boosts:
    """Multiplies the items that match `Query.boosts`: attribute name -> value -> factor.

    A value is found as in a filter, ranges too, see `AttributeFilter`. An item that matches several values, of one
    attribute or of several, gets the product of their factors; one that matches none keeps its weight; a factor of 0
    removes.

    Attributes:
        where: Finds the items of a value.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    where: AttributeFilter = field(repr=False)
    weight: float = 1.0
    name: str = NAME

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`: 0 for an item that matches no boost.

        Raises:
            CatalogError: No item has an attribute of that name, or none has a value that was asked for.
        """
        rows = [self._row(query) for query in queries]
        return np.array(rows).reshape(len(queries), len(self.where.catalog))

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`; a query with boosts looks at the whole catalog.

        Raises:
            CatalogError: As `log_weights`.
        """
        return [self._sparse_row(query) if query.boosts else SparseRow() for query in queries]

    def _sparse_row(self, query: Query) -> SparseRow:
        row = self._row(query)
        items = np.flatnonzero(row)
        return SparseRow(0.0, items, row[items]) if len(items) < FEW * len(row) else SparseRow(row)

    def _row(self, query: Query) -> FloatArray:
        row = np.zeros(len(self.where.catalog))
        for attribute, factors in query.boosts.items():
            for value, factor in factors.items():
                matches = self.where.matches(attribute, value)
                row[matches] += math.log(factor) if factor > 0 else -math.inf
        return row
