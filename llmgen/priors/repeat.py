"""Repeat: what the user took before."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.priors.base import FLOOR
from llmgen.priors.collaborative import ItemToItem
from llmgen.priors.item_matrices import (
    identity_matrix,
)
from llmgen.types import IntArray


@dataclass(frozen=True, eq=False)
class Repeat(ItemToItem):
    """What the user took before, the newer and the more often the more: S is the identity.

    For shops and music, where people take things again; it needs queries with `exclude_seen=False` to say anything.
    """

    name: str = "repeat"

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame | None,
        catalog: Catalog,
        *,
        weight: float = 1.0,
        decay: float = 0.98,
        floor: float = FLOOR,
    ) -> Repeat:
        """Nothing is learned.

        Args:
            interactions: Not looked at.
            catalog: All items.
            weight: Exponent of the factor.
            decay: In (0, 1], of the history with age.
            floor: See `log_lift`.

        Raises:
            ValueError: A setting is out of range.
        """
        return cls(catalog, identity_matrix(len(catalog)), decay, floor, weight)

    def on_catalog(self, catalog: Catalog, before: IntArray) -> Repeat:
        """See `Movable`."""
        return dataclasses.replace(self, catalog=catalog, similarity=identity_matrix(len(catalog)))
