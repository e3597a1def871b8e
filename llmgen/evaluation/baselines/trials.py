"""Trials: settings of baselines tried on validation users, each fitted once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.evaluation.baselines.matrix_factorization import Als, Bpr
from llmgen.evaluation.baselines.prior_evaluation import Halving, Settings, evaluate_priors
from llmgen.evaluation.memory import rows_within
from llmgen.evaluation.protocols.sample import Sample
from llmgen.priors import (
    ExcludeSeen,
    ItemKNN,
    ItemToItem,
    Prior,
    SASRec,
    Transition,
)
from llmgen.priors.kinds import kind
from llmgen.progress import Stage

FACTORS: Mapping[str, Callable[..., Prior]] = {"als": Als.fit, "bpr": Bpr.fit}
"""What needs the extra `llmgen[factors]`."""


WITH_FLOOR = (ItemToItem, SASRec)


class Trials:
    """Settings tried on validation.

    Args:
        sample: What is fitted on, and who is asked.
        seen: What stands beside every model.
        k: Cut-off of NDCG.
        memory: Bytes that may be taken.
        halving: How few users settings are tried on; None for all.
    """

    def __init__(self, sample: Sample, seen: Sequence[Prior], k: int, memory: int, halving: Halving | None) -> None:
        self.sample, self.catalog, self.seen, self.k = sample, sample.catalog, seen, k
        self.memory, self.halving = memory, halving
        self.order = np.random.default_rng(0).permutation(len(sample)).tolist()
        self.batch = rows_within(memory // 8, len(self.catalog), 8, 1024)
        sizes = [min(size, len(self.order)) for size in halving.users] if halving else [len(self.order)]
        self.rounds = [self.users(size) for size in dict.fromkeys(sizes)]
        self._counts: tuple[tuple[tuple[str, float], ...], Any] = (), None

    @property
    def last(self) -> Sample:
        """The users that what was chosen is measured on."""
        return self.rounds[-1]

    def users(self, number: int) -> Sample:
        """So many of the users, the same ones always; all in their own order."""
        return self.sample if number >= len(self.order) else self.sample.rows(self.order[:number])

    def score(self, priors: Sequence[Prior], some: Sample) -> float:
        """NDCG of a product."""
        found = evaluate_priors(
            priors, some.queries, some.targets, catalog=self.catalog, k=self.k, batch_size=self.batch
        )
        return found.ndcg.mean

    def choose(self, name: str, grid: Mapping[str, Sequence[float]]) -> tuple[Settings, Prior, float]:
        """The best of a grid; of equally good settings the first."""
        tried: list[Settings] = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
        if not tried:
            raise ValueError(f"the grid of {name} has a hyper-parameter without values: {dict(grid)}")
        if self.halving and name == "ease" and len(grid.get("l2", ())) > 1:
            tried = self._ridge(tried)
        fits = {tuple(value for key, value in one.items() if key != "decay") for one in tried}
        rounds = self.rounds if len(fits) > 1 else self.rounds[-1:]  # one fit would only be made again
        for number, some in enumerate(rounds, 1):
            last = number == len(rounds) or len(tried) == 1
            if last:
                some = self.last
            title = f"{name}: settings, round {number} of {len(rounds)}, {len(some):,} users"
            scores = [-1.0] * len(tried)
            best: tuple[float, int] = (-1.0, 0)
            chosen: Prior | None = None
            with Stage(title, len(tried)) as stage:
                for place, prior in self._fitted(name, tried):
                    scores[place] = self.score([*self.seen, prior], some)
                    if last and (scores[place], -place) > best:
                        best, chosen = (scores[place], -place), prior
                    stage.advance()
            if chosen is not None:
                return tried[-best[1]], chosen, best[0]
            most = max(1, round(len(tried) * (self.halving.kept if self.halving else 1.0)))
            going_on = sorted(sorted(range(len(tried)), key=lambda place: -scores[place])[:most])
            tried = [tried[place] for place in going_on]
        raise AssertionError("the last round chooses")

    def _ridge(self, tried: list[Settings]) -> list[Settings]:
        """Of EASE's settings those with the ridge that is best among the items taken most: n^3 steps, so few items."""
        assert self.halving is not None
        taken = (
            self.sample.known["item_id"].value_counts(sort=True).sort(["count", "item_id"], descending=[True, False])
        )
        if len(taken) <= self.halving.items:
            return tried
        known = self.sample.known.join(taken.head(self.halving.items), on="item_id", how="semi")
        past = set(known["item_id"])
        catalog = Catalog(item for item in self.catalog if item.id in past)
        inside = self.last.rows(row for row, item in enumerate(self.last.targets) if item in past)
        if not len(inside):
            return tried
        asked = (
            dataclasses.replace(query, history=tuple(one for one in query.items if one.id in past), ratings=None)
            for query in inside.queries
        )
        targets = tuple((item,) for item in inside.targets)
        inside = dataclasses.replace(inside, catalog=catalog, known=known, queries=tuple(asked), held_out=targets)
        seen = [ExcludeSeen(catalog)] if self.seen else []
        grid = {key: list(dict.fromkeys(one[key] for one in tried)) for key in tried[0]}
        settings, _, _ = Trials(inside, seen, self.k, self.memory, None).choose("ease", grid)
        return [one for one in tried if one["l2"] == settings["l2"]]

    def _fitted(self, name: str, tried: Sequence[Settings]) -> Iterator[tuple[int, Prior]]:
        """Place and prior of each of some settings, in an order that needs few fits."""
        keys = [tuple(value for key, value in one.items() if key not in ("decay", "neighbours")) for one in tried]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        order = sorted(range(len(tried)), key=lambda place: (first[keys[place]], -tried[place].get("neighbours", 0)))
        prior: Prior | None = None
        before: Settings = {}
        for place in order:
            settings = tried[place]
            other = None if prior is None else _changed(prior, before, settings)
            prior = None  # which makes room
            prior, before = self._fit(name, settings) if other is None else other, settings
            yield place, prior

    def _fit(self, name: str, settings: Settings) -> Prior:
        if name != "transition":
            return fit_prior(name, settings, self.sample.known, self.catalog, self.memory)
        shared: dict[str, Any] = {key: settings[key] for key in ("window", "step_decay") if key in settings}
        key = tuple(shared.items())
        if self._counts[1] is None or self._counts[0] != key:
            self._counts = key, Transition.count(self.sample.known, self.catalog, **shared)
        rest: Mapping[str, Any] = settings
        return Transition.fit(self.sample.known, self.catalog, counts=self._counts[1], **rest)


def _changed(prior: Prior, before: Settings, settings: Settings) -> Prior | None:
    """The prior of other settings than it was fitted with; None where that takes another fit."""
    differing = {key for key in settings if settings[key] != before[key]}
    if isinstance(prior, ItemKNN) and "neighbours" in differing and settings["neighbours"] < before["neighbours"]:
        differing.remove("neighbours")
        prior = prior.nearest(int(settings["neighbours"])) if not differing - {"decay"} else prior
    if isinstance(prior, ItemToItem) and "decay" in differing:
        differing.remove("decay")
        prior = dataclasses.replace(prior, decay=settings["decay"])
    return None if differing else prior


def fit_prior(name: str, settings: Settings, known: pl.DataFrame, catalog: Catalog, memory: int) -> Prior:
    """A prior with some settings, fitted."""
    limited = {"max_bytes": memory // 3} if name == "ease" else {}  # what is chosen, what is tried, and all else
    fit = FACTORS[name] if name in FACTORS else kind(name).fit
    return fit(known, catalog, **settings, **limited)


def with_floor(prior: Prior, floor: float) -> Prior:
    """The same prior with another floor, where it has one."""
    return dataclasses.replace(prior, floor=floor) if isinstance(prior, WITH_FLOOR) else prior
