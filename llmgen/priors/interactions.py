"""A log and histories as arrays of catalog positions, and what each item of a history speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.errors import DataError, UnknownItemError
from llmgen.types import FloatArray, IntArray, Item, Query

COLUMNS = ("user_id", "item_id", "timestamp")
INDEX = np.int32
"""Of positions in sparse matrices: scipy keeps the type that it is given, and copies the smaller where two differ."""


class Evidence(NamedTuple):
    """How much one item of a history speaks for another item.

    Attributes:
        item: Of the history.
        score: Its part of the raw score, above 0.
    """

    item: Item
    score: float


class Sequences(NamedTuple):
    """Every interaction, grouped by user and oldest first.

    Attributes:
        users: int64 [n], a number for each user, from 0 without gaps, not falling.
        items: int64 [n], catalog position.
    """

    users: IntArray
    items: IntArray


def sequences(interactions: pl.DataFrame, catalog: Catalog) -> Sequences:
    """Sort a log by user, then by time; equal times stay in the order of the rows.

    Args:
        interactions: Columns `user_id`, `item_id`, `timestamp`, in the order of the file; others are not read.
        catalog: Gives the positions; items that nobody took are fine.

    Raises:
        DataError: A column is missing or holds a null or NaN.
        UnknownItemError: An interaction with an item that the catalog does not have.
    """
    if missing := [name for name in COLUMNS if name not in interactions.columns]:
        raise DataError(f"interactions need the columns {', '.join(COLUMNS)}; {missing[0]!r} is missing")
    for name in COLUMNS:
        if nulls := interactions[name].null_count():
            raise DataError(f"{nulls} of {len(interactions)} interactions have no {name}; drop or fill them")
    times = interactions["timestamp"].cast(pl.Float64).to_numpy()
    if np.isnan(times).any():
        raise DataError(
            f"{int(np.isnan(times).sum())} of {len(times)} interactions have timestamp NaN; drop or fill them"
        )
    ids = interactions.select(pl.col("item_id").cast(pl.String))
    table = pl.DataFrame({"item_id": list(catalog.ids), "position": np.arange(len(catalog), dtype=np.int64)})
    found = ids.join(table, on="item_id", how="left", maintain_order="left")["position"]
    if unknown := found.null_count():
        row = int(found.is_null().arg_max() or 0)
        raise UnknownItemError(
            f"{unknown} of {len(interactions)} interactions have an item that the catalog lacks, first "
            f"{ids['item_id'][row]!r} in row {row}; add these items to the catalog or drop the rows"
        )
    users = interactions["user_id"].rank("dense").cast(pl.Int64).to_numpy() - 1
    order = np.lexsort((times, users))  # a stable sort: ties keep the order of the rows
    return Sequences(users[order], found.to_numpy()[order])


def histories_of(catalog: Catalog, queries: Sequence[Query], decay: float) -> sparse.csr_array:
    """float64 [len(queries), n_items], what each item of each history counts: decay^age, age 0 being the newest."""
    taken = [catalog.positions(query.items) for query in queries]
    weights = [np.empty(0), *[recency(len(indices), decay) for indices in taken]]
    indices = np.fromiter(chain.from_iterable(taken), INDEX)
    ends = np.cumsum([0, *map(len, taken)], dtype=INDEX)
    return sparse.csr_array((np.concatenate(weights), indices, ends), shape=(len(queries), len(catalog)))


def recency(length: int, decay: float) -> FloatArray:
    """float64 [length], what the items of a history count, oldest first."""
    return decay ** np.arange(length - 1.0, -1.0, -1.0)
