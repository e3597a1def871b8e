"""The scores of any other model as a factor on the items: a function of one's own, or a table of each user's items."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.datasets.files import read_columns
from llmgen.errors import ArgumentError, ConfigError, DataError
from llmgen.priors.base import FLOOR, Saving, check_floor, log_lift
from llmgen.priors.sparse import SparseRow, lifted
from llmgen.trie.weights import NO_ITEMS, NO_VALUES
from llmgen.types import FloatArray, IntArray, Query

COLUMNS = ("user_id", "item_id", "score")
TABLE, FIELDS = "scores.parquet", "fields.json"
"""Files of a folder that a prior is saved in."""

ScoresOf = Callable[[Query], Mapping[str, float] | FloatArray | None]
"""A query -> item id -> score, or float [n_items] in catalog order, or nothing."""


@dataclass(frozen=True, eq=False)
class Scores(Saving):
    """What another model says of the items, as a factor.

    The scores of a query become log weights by `log_lift`: their shares beside the uniform distribution, mixed with a
    floor, which is what an item without a score gets. A query without any score above 0 says nothing: 0 everywhere.

    Attributes:
        catalog: The items.
        scores_of: The model: a query -> item id -> score. Ids that the catalog does not have are passed over. An array
            of all items, float [n_items], works too, as long as the catalog does not change.
        logits: Whether scores are logarithms or logits of any sign, so that exp(score) is what has shares: then the
            factor is the softmax of the scores. Else each is 0 or more: a probability, a count, a similarity.
        floor: In (0, 1], see `log_lift`.
        weight: Exponent.
        name: Key in `Recommendation.terms`; another one for each where there are several.
    """

    catalog: Catalog = field(repr=False)
    scores_of: ScoresOf = field(repr=False)
    logits: bool = False
    floor: float = FLOOR
    weight: float = 1.0
    name: str = "scores"

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if not callable(self.scores_of):
            raise ArgumentError(
                f"scores_of is a function that takes a query, not {type(self.scores_of).__name__}; of a file use "
                "Scores.read"
            )

    @classmethod
    def read(
        cls,
        path: str | Path,
        catalog: Catalog,
        *,
        weight: float = 1.0,
        floor: float = FLOOR,
        logits: bool = False,
        name: str = "scores",
    ) -> Scores:
        """The scores of a file: Parquet, CSV or JSON lines with the columns `user_id`, `item_id` and `score`.

        A few hundred of the best items of each user are enough. Queries are known by their `user_id`; of a user whom
        the file does not have it says nothing. For an evaluation the model must not have learned the held-out items.

        Args:
            path: The file.
            catalog: All items. Those of the file that it does not have are passed over, until they come.
            weight: Exponent of the factor.
            floor: See the class.
            logits: See the class.
            name: See the class.

        Raises:
            DataError: A file that cannot be read, a row without an id or a score, a pair of user and item that stands
                twice, a score below 0 without `logits`, or no item of the catalog at all.
        """
        return cls(catalog, _Table(Path(path), catalog, logits), logits, floor, weight, name)

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; finite always."""
        scores = np.zeros((len(queries), len(self.catalog)))
        for row, query in zip(scores, queries, strict=True):
            items, values = self._found(query)
            row[items] = values
        return log_lift(scores, self.floor)

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`."""
        floor = float(np.log(self.floor))
        return [lifted(*self._found(query), floor, len(self.catalog)) for query in queries]

    def on_catalog(self, catalog: Catalog, before: IntArray) -> Scores:
        """See `Movable`; the model is asked by ids, so it may know a new item."""
        return dataclasses.replace(self, catalog=catalog)

    def _found(self, query: Query) -> tuple[IntArray, FloatArray]:
        """Positions of the items that have a score, rising, and the scores as shares to be."""
        given = self.scores_of(query)
        if given is None:
            return NO_ITEMS, NO_VALUES
        if isinstance(given, Mapping):
            names: list[Any] = list(given)
            known = [item for item in names if item in self.catalog]
            items = np.array([self.catalog.index(item) for item in known], dtype=np.int64)
            scores = np.array([given[item] for item in known], dtype=np.float64)
            order = items.argsort()
            items, scores = items[order], scores[order]
        else:
            scores = np.asarray(given, dtype=np.float64)
            if scores.shape != (len(self.catalog),):
                raise ArgumentError(
                    f"{self.name} gave an array {scores.shape} for a catalog of {len(self.catalog)} items; give one "
                    "number an item, or item id -> score"
                )
            items = np.arange(len(scores))
        fine = (scores < np.inf) & ((scores >= 0) | self.logits & ~np.isnan(scores))
        if not fine.all():
            place = int(fine.argmin())
            raise ArgumentError(
                f"{self.name} gave the item {self.catalog[int(items[place])].id!r} the score {scores[place]}; scores "
                f"are {_wanted(self.logits)}"
            )
        if self.logits and len(scores):
            scores = np.exp(scores - max(float(scores.max()), np.finfo(np.float64).min))
        return items, scores


def save_scores(prior: Scores, folder: Path) -> None:
    """Write a prior into an empty folder, as files that `load_scores` reads.

    Raises:
        ConfigError: Its scores are those of a function, which no file holds.
    """
    if not isinstance(prior.scores_of, _Table):
        raise ConfigError(
            f"the prior {prior.name!r} asks a function, which cannot be saved; read its scores from a file "
            "(Scores.read), or leave this prior out and add it again after loading"
        )
    prior.scores_of.frame.write_parquet(folder / TABLE)
    fields = {name: getattr(prior, name) for name in ("logits", "floor", "weight", "name")}
    (folder / FIELDS).write_text(json.dumps(fields) + "\n", encoding="utf-8")


def load_scores(folder: Path, catalog: Catalog) -> Scores:
    """The prior of a folder."""
    fields = json.loads((folder / FIELDS).read_text(encoding="utf-8"))
    return Scores.read(folder / TABLE, catalog, **fields)


class _Table:
    """A file of scores, by user; called with a query."""

    def __init__(self, path: Path, catalog: Catalog, logits: bool) -> None:
        table = read_columns(path, COLUMNS, ids=("user_id", "item_id"))
        if table.broken:
            row = min(table.broken)
            raise DataError(f"{path}, row {row + 1}: {table.broken[row]}")
        given = table.frame["score"]
        if given.dtype == pl.Object:  # of JSON
            values = [cell if isinstance(cell, int | float) else None for cell in given.to_list()]
            given = pl.Series(values, dtype=pl.Float64, strict=False)
        frame = table.frame.with_columns(score=given.cast(pl.Float64, strict=False))
        frame = frame.select(*COLUMNS).with_row_index("row")
        score = pl.col("score")
        low = pl.lit(False) if logits else score < 0
        rules = (
            (pl.col("user_id").is_null(), "no user_id", "give it one"),
            (pl.col("item_id").is_null(), "no item_id", "give it one"),
            (score.is_null(), "a score that is no number", "give it a number"),
            (score.is_nan() | (score == np.inf) | low, "a score out of range", f"scores are {_wanted(logits)}"),
            (pl.struct("user_id", "item_id").is_duplicated(), "a user and item that stand twice", "keep one score"),
        )
        for rule, wrong, remedy in rules:
            found = frame.filter(rule)
            if len(found):
                first = int(found["row"][0])
                cells = {name: table.frame[name][first] for name in COLUMNS}
                raise DataError(f"{path}, row {first + 1}: {wrong}: {cells}; {remedy} ({len(found):,} such rows)")
        if not any(item in catalog for item in frame["item_id"].unique().to_list()):
            raise DataError(
                f"{path} has no item of this catalog, first {frame['item_id'][0]!r}; the catalog has ids such as "
                f"{', '.join(repr(item.id) for item in catalog[:3])}"
            )
        self.frame = frame.sort("user_id", maintain_order=True).select(COLUMNS)
        users = self.frame["user_id"].rle().struct.unnest()
        ends = users["len"].cast(pl.Int64).cum_sum().to_list()
        self._ends = dict(zip(users["value"].to_list(), zip([0, *ends], ends, strict=False), strict=True))
        self._items, self._scores = self.frame["item_id"], self.frame["score"].to_numpy()

    def __call__(self, query: Query) -> Mapping[str, float] | None:
        if query.user_id not in self._ends:
            return None
        start, end = self._ends[query.user_id]
        items = self._items[start:end].to_list()
        return dict(zip(items, self._scores[start:end].tolist(), strict=True))


def _wanted(logits: bool) -> str:
    if logits:
        return "finite, or -inf for an item of probability 0"
    return "0 or more and finite; where they are logarithms or logits, say logits=True"
