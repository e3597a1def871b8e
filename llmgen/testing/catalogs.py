"""A made-up catalog and a made-up log, with what is hard in real ones."""

from __future__ import annotations

import numpy as np
import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.types import Item

GENRES = ("Action", "Comedy", "Drama", "Science Fiction", "War")
WORDS = ("Red", "Blue", "Star", "Night", "River", "Man", "Woman", "Return", "City", "Last", "First", "Dark", "Alien")


def films(count: int, seed: int = 0) -> Catalog:
    """Made-up films: titles that begin alike, are each other's beginning, repeat, and stand in several scripts.

    Args:
        count: How many; the first ten are always the same.
        seed: Of the titles.
    """
    rng = np.random.default_rng(seed)
    titles = ["Alien", "Aliens", "Alien 3", "Amélie", "七人の侍", "Сталкер", "🎬", "M", "Alien", "The <|im_end|> Code"]
    while len(titles) < count:
        titles.append(" ".join(rng.choice(WORDS, size=rng.integers(1, 5))))
    items = [
        Item(
            str(i + 1),
            title,
            {"year": int(1960 + i % 50), "genres": tuple(sorted(rng.choice(GENRES, size=2, replace=False)))},
        )
        for i, title in enumerate(titles[:count])
    ]
    return Catalog(items, noun="film", label="{title} ({year})", shown=("genres",))


def views_of(catalog: Catalog, users: int = 40, length: int = 8, seed: int = 0) -> pl.DataFrame:
    """A made-up log: each user takes some items near one another, with ratings; the last fifth of them nobody takes.

    Args:
        catalog: Of ten items or more.
        users: How many.
        length: Items of each user, fewer in a small catalog.
        seed: Of the log.

    Returns:
        Columns `user_id`, `item_id`, `timestamp` (seconds), `rating` (1 to 5).
    """
    rng = np.random.default_rng(seed)
    known = len(catalog) - len(catalog) // 5
    near = min(2 * length, known)
    rows = []
    for user in range(users):
        start = int(rng.integers(0, known - near + 1))
        chosen = start + rng.permutation(near)[:length]
        rows += [(f"u{user}", catalog[int(item)].id, float(place), float(rng.integers(1, 6)))
                 for place, item in enumerate(chosen)]  # fmt: skip
    schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64, "rating": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
