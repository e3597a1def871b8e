"""The item priors from a thousand to a million items: fitting them, and what a request costs without a language model.

At the smallest size each is held against its textbook form, which also gives the right answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import polars as pl

from eval.bench import textbook
from eval.bench.catalogs import catalog_of
from eval.bench.logs import log, queries
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, versions
from eval.bench.timing import Arm, interleave
from llmgen.catalog.core import Catalog
from llmgen.priors import Ease, ItemKNN, Prior, TextQuery, Transition
from llmgen.recommend.recommender import Recommender
from llmgen.text.bm25 import Backend, BM25Index
from llmgen.types import FloatArray, IntArray, Query

Answer = list[int]

SMALLEST = 1_000
SIZES = (SMALLEST, 10_000, 100_000, 1_000_000)
QUICK_SIZES = (SMALLEST, 4_000)
EACH = 10
"""Interactions of a user; there are as many users as items."""
HISTORY, K = 20, 10
REQUESTS, LOOPS = 20, 5
MOST_RANK_BM25 = 10_000


class Model(NamedTuple):
    """A prior of llmgen, and how it is written in a textbook.

    Attributes:
        fit: (log, catalog) -> the prior.
        textbook: (sequences, number of items) -> similarities; None where there is none.
        most: Items that it is fitted for at most.
        once: From so many items on, fitting is timed once.
    """

    fit: Callable[[pl.DataFrame, Catalog], Prior]
    textbook: Callable[[IntArray, int], FloatArray] | None
    most: int
    once: int = 100_000


def _transition(taken: pl.DataFrame, catalog: Catalog) -> Prior:
    return Transition.fit(
        taken,
        catalog,
        window=textbook.WINDOW,
        step_decay=textbook.STEP_DECAY,
        backward=textbook.BACKWARD,
        row_power=textbook.ROW_POWER,
        column_power=textbook.COLUMN_POWER,
        decay=textbook.DECAY,
    )


def _ease(taken: pl.DataFrame, catalog: Catalog) -> Prior:
    return Ease.fit(taken, catalog, l2=textbook.L2, decay=textbook.DECAY)


def _item_knn(taken: pl.DataFrame, catalog: Catalog) -> Prior:
    return ItemKNN.fit(
        taken, catalog, neighbours=textbook.NEIGHBOURS, shrinkage=textbook.SHRINKAGE, decay=textbook.DECAY
    )


def _wish(taken: pl.DataFrame, catalog: Catalog) -> Prior:
    return TextQuery(catalog)


MODELS = {
    "transition": Model(_transition, textbook.transition, 1_000_000),
    "ease": Model(_ease, textbook.ease, 10_000, once=10_000),
    "item_knn": Model(_item_knn, textbook.item_knn, 1_000_000),
    "wish": Model(_wish, None, 1_000_000),
}


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    made: dict[str, dict[int, tuple[Recommender, list[Query]]]] = {name: {} for name in MODELS}
    for count in QUICK_SIZES if plan.quick else SIZES:
        catalog = catalog_of(plan.titles(count))
        taken = log(count, count, EACH, seed=plan.seed)
        asked = queries(catalog, REQUESTS, HISTORY, k=K, seed=plan.seed)
        for name, model in MODELS.items():
            if count > model.most:
                continue
            rows, prior = fitted(name, model, taken, catalog, asked)
            yield from rows
            made[name][count] = Recommender(catalog, None, priors=[prior]), asked
        if count <= MOST_RANK_BM25:
            yield from worded(catalog, asked)
    for name, sizes in made.items():
        yield from requested(name, dict(reversed(sizes.items())))


def fitted(
    name: str, model: Model, taken: pl.DataFrame, catalog: Catalog, asked: Sequence[Query]
) -> tuple[list[Row], Prior]:
    """Fitting, beside the textbook where the catalog is small enough for it; and the prior."""
    count = len(catalog)
    priors: list[Prior] = []

    def ours(turn: int) -> list[FloatArray]:
        priors[:] = [model.fit(taken, catalog)]
        return []

    arms: list[Arm[list[FloatArray]]] = [Arm("llmgen", ours)]
    write = model.textbook
    if write is not None and count <= SMALLEST:
        sequences = taken["item_id"].cast(pl.Int64).to_numpy().reshape(-1, EACH)
        arms.append(Arm("textbook", lambda turn: [write(sequences, count)]))
    few = count >= model.once
    measured = interleave(arms, 1 if few else 3, warm=not few, label=f"fitting {name}, {count:,} items")
    equal = {}
    if len(arms) > 1:
        (similarity,) = measured["textbook"].answers[0]
        recommender = Recommender(catalog, None, priors=priors)
        equal["textbook"] = all(
            textbook.is_best(answer(recommender, query), textbook.scores(similarity, places(catalog, query)))
            for query in asked
        )
    about = _about(f"fit {name}, {count:,} items", count, unit="interactions", amount=taken.height)
    return rows_of(about, measured, equal=equal), priors[0]


def worded(catalog: Catalog, asked: Sequence[Query]) -> list[Row]:
    """BM25 of wishes: index and query with the package for large catalogs, beside the one for small catalogs."""
    titles = catalog.labels
    indices: dict[str, BM25Index] = {}

    def indexing(backend: Backend) -> Callable[[int], Answer]:
        def index(turn: int) -> Answer:
            indices[backend] = BM25Index(titles, backend=backend)
            return []

        return index

    def asking(backend: str) -> Callable[[int], Answer]:
        return lambda turn: [match.index for match in indices[backend].top(asked[turn].text or "", K)]

    names: tuple[Backend, ...] = ("bm25s", "rank-bm25")
    count = len(catalog)
    built = interleave([Arm(name, indexing(name)) for name in names], 3, label=f"BM25, {count:,} items")
    found = interleave([Arm(name, asking(name)) for name in names], REQUESTS, loops=LOOPS)
    same = {"rank-bm25": found["bm25s"].answers == found["rank-bm25"].answers}
    return [
        *rows_of(_about(f"index for BM25, {count:,} items", count, unit="items", amount=count), built),
        *rows_of(_about(f"query of BM25, {count:,} items", count), found, equal=same),
    ]


def requested(name: str, sizes: dict[int, tuple[Recommender, list[Query]]]) -> list[Row]:
    """A request to the priors alone on catalogs of several sizes, the largest first."""

    def asking(recommender: Recommender, asked: Sequence[Query]) -> Callable[[int], Answer]:
        return lambda turn: answer(recommender, asked[turn])

    arms = [Arm(f"{count:,} items", asking(*about)) for count, about in sizes.items()]
    measured = interleave(arms, REQUESTS, loops=LOOPS, label=f"requests to {name}")
    return rows_of(_about(f"request to {name}, up to {arms[0].name}", None), measured)


def answer(recommender: Recommender, query: Query) -> Answer:
    """Positions of the items that are recommended, best first."""
    (found,) = recommender.recommend_many([query])
    return [recommender.catalog.index(place.item) for place in found]


def places(catalog: Catalog, query: Query) -> list[int]:
    """Positions of a history's items."""
    return [catalog.index(item) for item in query.history]


def _about(case: str, items: int | None, *, unit: str = "runs", amount: float = 1) -> Row:
    used = versions("numpy", "scipy", "polars", "rank-bm25", "bm25s")
    return Row(
        part="priors",
        case=case,
        arm="",
        items=items,
        k=K,
        threads=os.cpu_count(),
        unit=unit,
        amount=amount,
        versions=used,
    )
