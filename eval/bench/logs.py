"""Made-up users: logs to fit on and queries to ask."""

from __future__ import annotations

import numpy as np
import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.datasets import INTERACTIONS
from llmgen.types import IntArray, Query

POPULARITY = 2
"""Items are drawn as u^2 of the catalog, u uniform: a tenth of them has 32 % of what is drawn so, and the first of a
million 0.1 %. A request costs what its items touch, and with a larger power the first ones touch everything."""
NEAR = 0.5
"""How often a user goes on to an item that stands near the one before."""
REACH = 20
"""How far on, at most."""


def log(num_items: int, num_users: int, each: int, *, seed: int = 0) -> pl.DataFrame:
    """Interactions: popular items are taken more often, and what stands close together is taken together.

    Args:
        num_items: Ids are `0` to `num_items - 1`, as in `eval.bench.catalogs.catalog_of`.
        num_users: Ids are numbers as well.
        each: How many items each takes, one a second.
        seed: Of all that is random.

    Returns:
        As `llmgen.datasets` gives it, sorted by user and time.
    """
    items = _sequences(num_items, num_users, each, np.random.default_rng(seed)).ravel()
    columns = {
        "user_id": pl.Series(np.repeat(np.arange(num_users), each)).cast(pl.String),
        "item_id": pl.Series(items).cast(pl.String),
        "timestamp": np.tile(np.arange(each, dtype=np.float64), num_users),
        "rating": pl.Series([None], dtype=pl.Float64).extend_constant(None, num_users * each - 1),
    }
    return pl.DataFrame(columns, schema=dict(INTERACTIONS))


def queries(catalog: Catalog, count: int, length: int, *, k: int = 10, seed: int = 0) -> list[Query]:
    """Histories of made-up users, as `log` draws them, each with a wish of the words of two titles.

    What was seen may be recommended, so that decoders that know nothing of histories can give the same answers.
    """
    drawn = _sequences(len(catalog), count, length + 2, np.random.default_rng([seed, 1])).tolist()
    return [
        Query(
            [catalog[place] for place in places[:length]],
            " ".join(catalog[place].title for place in places[length:]),
            k=k,
            exclude_seen=False,
        )
        for places in drawn
    ]


def _sequences(num_items: int, num_users: int, each: int, rng: np.random.Generator) -> IntArray:
    shape = (num_users, each)
    items = (num_items * rng.random(shape) ** POPULARITY).astype(np.int64)
    steps, near = rng.integers(1, REACH + 1, size=shape), rng.random(shape) < NEAR
    for place in range(1, each):
        beside = (items[:, place - 1] + steps[:, place]) % num_items
        items[:, place] = np.where(near[:, place], beside, items[:, place])
    return items
