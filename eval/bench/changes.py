"""Changes of a catalog that is served: what a deleted item, a new one and a replaced one cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from eval.bench.catalogs import catalog_of
from eval.bench.logs import log
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, versions
from eval.bench.timing import Arm, interleave
from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.priors import Popularity, Prior, TextQuery, Transition
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item

SIZES, QUICK_SIZES = (10_000, 100_000), (4_000,)
EACH = 5
"""Interactions of a user; there are as many users as items."""
TURNS = 15


class Changing:
    """A recommender whose catalog is changed again and again.

    Args:
        recommender: The first; not changed.
        change: (catalog, number of the change) -> the next catalog.
    """

    def __init__(self, recommender: Recommender, change: Callable[[Catalog, int], Catalog]) -> None:
        self._recommender, self._change, self._number = recommender, change, 0

    def __call__(self, turn: int) -> Catalog:
        """Change it once, and make it ready to be asked."""
        catalog = self._change(self._recommender.catalog, self._number)
        self._recommender, self._number = ready(self._recommender.with_catalog(catalog)), self._number + 1
        return catalog


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    for size in plan.sizes or (QUICK_SIZES if plan.quick else SIZES):
        yield from changed(plan.titles(size + TURNS + 1), size, plan.seed)


def changed(titles: list[str], size: int, seed: int) -> list[Row]:
    """One size: the first titles are the catalog, the others come to it."""
    catalog = catalog_of(titles[:size])
    taken = log(size, size, EACH, seed=seed)
    priors: list[Prior] = [
        Transition.fit(taken, catalog),
        Popularity.fit(taken, catalog, weight=-0.2),
        TextQuery(catalog),
    ]
    made = ready(Recommender(catalog, FakeEngine(), priors=priors, lm_weight=0.1))
    ids = list(map(str, np.random.default_rng(seed).permutation(size)))

    def delete(old: Catalog, number: int) -> Catalog:
        return old.without([ids[number]])

    def put(old: Catalog, number: int) -> Catalog:
        return old.with_items([Item(f"new {number}", titles[size + number])])

    def replace(old: Catalog, number: int) -> Catalog:
        return old.with_items([Item(ids[-1 - number], titles[size + number])])

    arms = [Arm(change.__name__, Changing(made, change)) for change in (delete, put, replace)]
    measured = interleave(arms, TURNS, label=f"{size:,} items")
    right = {name: one.answers[-1].digest == _anew(one.answers[-1]).digest for name, one in measured.items()}
    about = Row(part="changes", case=f"{size:,} items", arm="", items=size, unit="changes", versions=versions("numpy"))
    return rows_of(about, measured, equal={name: right[name] and right["delete"] for name in ("put", "replace")})


def ready(made: Recommender) -> Recommender:
    """With all made that a service makes before it answers."""
    made.prepare()
    _ = made.catalog.digest
    return made


def _anew(catalog: Catalog) -> Catalog:
    """The same items in a catalog that knows of no other."""
    return Catalog(catalog, noun=catalog.noun, label=catalog.label_format, shown=catalog.shown)
