"""The priors alone, as recommenders: popularity, ItemKNN, EASE, transition and their mix, tuned on validation.

    llmgen tune --dataset movielens-100k --ties file

No result of a language model stands without these beside it. The protocol, leave-one-out a user:

1. Fit on the train part with every hyper-parameter of `default_grids`; history = train; rank the whole catalog without
   the items of the history; keep what has the best mean NDCG@k on the validation item. Above `ALL_USERS` users, by
   successive halving: all settings on a few users, drawn at random, the best quarter of them on more, see `Halving`.
2. The mix: the kept models with one floor for all out of `FLOORS`, weights by
   `llmgen.recommend.tuning.tune_weights`, also on validation.
3. Fit again on train + validation with what was kept; history = both; rank for the test item, once.

An item that ties with others ranks behind all of them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast, get_args

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import Ties, histories, leave_one_out
from llmgen.errors import CatalogTooLargeError
from llmgen.evaluation.matrix_factorization import Als, Bpr
from llmgen.evaluation.memory import GIB, budget, rows_within
from llmgen.priors import (
    ExcludeSeen,
    ItemKNN,
    ItemToItem,
    Prior,
    SASRec,
    SharedWeights,
    Transition,
    multiply,
    reweighted,
)
from llmgen.priors.kinds import kind, kinds
from llmgen.priors.sparse import LARGE_CATALOG
from llmgen.progress import Stage
from llmgen.recommend.tuning import REMOVED, Trial, tune_weights
from llmgen.types import FloatArray, IntArray, Item, Query
from llmgen.workspace.core import DataSettings
from llmgen.workspace.options import data_settings, with_options

logger = logging.getLogger(__name__)

Settings = Mapping[str, float]

FACTORS: Mapping[str, Callable[..., Prior]] = {"als": Als.fit, "bpr": Bpr.fit}
"""What needs the extra `llmgen[factors]`."""
Grids = Mapping[str, Mapping[str, Sequence[float]]]


def default_grids() -> Grids:
    """Hyper-parameters that are tried, every combination: of `llmgen.priors.kinds`, other packages' too."""
    first = ("popularity", "item_knn", "ease", "transition")
    order = [*first, *(name for name in kinds() if name not in first)]
    return {name: grid for name in order if (grid := kinds()[name].grid) is not None}


REPEAT_GRID: Grids = {"repeat": {"decay": (0.9, 0.95, 0.98, 1.0)}}
"""The same, where items of the history may be taken again."""
FACTOR_GRIDS: Grids = {
    "als": {"factors": (16, 32, 64, 128), "regularization": (0.1, 1.0), "alpha": (1.0, 4.0, 16.0)},
    "bpr": {"factors": (32, 64, 128), "learning_rate": (0.02, 0.05), "regularization": (0.003, 0.01, 0.03)},
}
"""The same of those that need the extra `llmgen[factors]`; they are never part of the mix."""
NEURAL_GRIDS: Grids = {"sasrec": {}}
"""The same of what needs the extra `llmgen[hf]` and long to train: one training, which stops by its own validation."""
WITH_FLOOR = (ItemToItem, SASRec)
FLOORS = (0.01, 0.03, 0.1, 0.3)
"""Floors of the collaborative factors that are tried in the mix; alone, a floor does not change a ranking."""


ALL_USERS = 5_000
"""Up to so many validation users settings are chosen on all of them, and every setting is tried on all."""


class Halving(NamedTuple):
    """Successive halving of a grid (Jamieson & Talwalkar, AISTATS 2016).

    Attributes:
        users: Validation users of each round, rising; the users of a round are part of the next one's.
        kept: Share of the settings that goes on to the next round.
        items: EASE's ridge is chosen among so many items, those taken most, where more were taken; only the chosen one
            is fitted on all.
        mix_users: Users that the weights of the mix are chosen on; its floor on a quarter of them.
    """

    users: Sequence[int] = (300, 1_000, 4_000)
    kept: float = 0.25
    items: int = 5_000
    mix_users: int = 1_000


HALVING = Halving()


class Estimate(NamedTuple):
    """A mean of users with its standard error."""

    mean: float
    standard_error: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The ranks of the held-out items, one a query, the whole catalog ranked.

    Attributes:
        ranks: int64 [n_queries], 1 for the best; the largest int64 where the item was removed.
        k: Cut-off of the metrics.
    """

    ranks: IntArray
    k: int

    @property
    def hit_rates(self) -> FloatArray:
        """HR@k of each query, float64 [n_queries]; equals recall with one item held out."""
        return (self.ranks <= self.k).astype(np.float64)

    @property
    def ndcgs(self) -> FloatArray:
        """NDCG@k of each query, float64 [n_queries]."""
        return cast(FloatArray, self.hit_rates / np.log2(1.0 + self.ranks))

    @property
    def hit_rate(self) -> Estimate:
        """Mean HR@k."""
        return _estimate(self.hit_rates)

    @property
    def ndcg(self) -> Estimate:
        """Mean NDCG@k."""
        return _estimate(self.ndcgs)


@dataclass(frozen=True, eq=False)
class Result:
    """One baseline, tuned on validation and measured on test.

    Attributes:
        name: Of the prior, or `mix`.
        settings: What was chosen: hyper-parameters, or the floor and the weights of the mix.
        priors: Fitted on train + validation, `ExcludeSeen` first where seen items are left out.
        tuned: The same as they were on validation: fitted on train; empty where they were not kept.
        validation: NDCG@k of the choice on the validation items; optimistic, as it was chosen for.
        test: The measurement.
    """

    name: str
    settings: Settings
    priors: tuple[Prior, ...]
    tuned: tuple[Prior, ...]
    validation: float
    test: Evaluation


class Part(NamedTuple):
    """One step of the protocol.

    Attributes:
        known: Interactions to fit on, and to take the histories from.
        queries: One a user.
        held_out: The id of each user's held-out item.
    """

    known: pl.DataFrame
    queries: list[Query]
    held_out: list[str]


def evaluate_priors(
    priors: Sequence[Prior],
    queries: Sequence[Query],
    held_out: Sequence[str | Item],
    *,
    catalog: Catalog,
    k: int = 10,
    batch_size: int = 1024,
) -> Evaluation:
    """Rank the whole catalog by the product of priors, and find each query's held-out item.

    Args:
        priors: No name twice; without `ExcludeSeen`, items of the history stay in.
        queries: Any number, at least one.
        held_out: The item, or its id, that each query should find.
        catalog: The items that are ranked.
        k: Cut-off, 1 or more.
        batch_size: Queries scored at once, 1 or more; decides memory only.

    Raises:
        ValueError: Lengths that do not agree, or an argument out of range.
        UnknownItemError: A held-out item is not in the catalog.
    """
    if len(queries) != len(held_out) or not queries:
        raise ValueError(
            f"{len(queries)} queries and {len(held_out)} held-out items; give one item a query, at least one"
        )
    if k < 1 or batch_size < 1:
        raise ValueError(f"k and batch_size must be 1 or more, not {k} and {batch_size}")
    targets = np.array([catalog.index(item) for item in held_out], dtype=np.int64)
    ranks, shared = [], SharedWeights(len(catalog))
    for start in range(0, len(queries), batch_size):
        batch = slice(start, start + batch_size)
        found = multiply(priors, queries[batch], len(catalog), shared)
        places = [row.rank(target) for row, target in zip(found.rows, targets[batch].tolist(), strict=True)]
        ranks.append(np.array([REMOVED if place is None else place for place in places], np.int64))
    return Evaluation(np.concatenate(ranks), k)


def parts(
    interactions: pl.DataFrame, catalog: Catalog, *, ties: Ties = "file", exclude_seen: bool = True
) -> tuple[Part, Part]:
    """The two steps of the protocol: what is tuned on, and what is measured on."""
    split = leave_one_out(interactions, ties=ties)
    both = pl.concat([split.train, split.validation])
    return (
        _part(split.train, split.validation, catalog, exclude_seen),
        _part(both, split.test, catalog, exclude_seen),
    )


def run_baselines(
    interactions: pl.DataFrame,
    catalog: Catalog,
    *,
    ties: Ties = "file",
    k: int = 10,
    exclude_seen: bool = True,
    grids: Grids | None = None,
    halving: Halving | None = None,
    memory: int | None = None,
) -> list[Result]:
    """Tune and measure every baseline; the protocol stands in the module's docstring.

    Args:
        interactions: Columns `user_id`, `item_id`, `timestamp`, in the order of the file.
        catalog: All items.
        ties: What orders interactions of equal time, see `llmgen.datasets.splits.leave_one_out`.
        k: Cut-off of the metric that is tuned for and measured.
        exclude_seen: Whether items of the history are left out; False where people take things again.
        grids: Name of a model -> hyper-parameter -> values; those of `default_grids` by default.
        halving: How few users settings are tried on; by default all, and `HALVING` above `ALL_USERS`.
        memory: Bytes that may be taken; a quarter of the machine's by default.

    Returns:
        One result a name of `grids`, in that order, then the mix of them all; without those, and without the mix, for
        which the catalog is too large, which is logged.
    """
    tuning, final = parts(interactions, catalog, ties=ties, exclude_seen=exclude_seen)
    return tune_baselines(
        tuning, final, catalog, k=k, exclude_seen=exclude_seen, grids=grids, halving=halving, memory=memory
    )


def tune_baselines(
    tuning: Part,
    final: Part,
    catalog: Catalog,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    grids: Grids | None = None,
    mixed: bool = True,
    keep: bool = True,
    beside: Grids | None = None,
    halving: Halving | None = None,
    memory: int | None = None,
) -> list[Result]:
    """Steps 1 to 3 of the protocol, on any two parts; see `run_baselines`.

    Step 2 only if `mixed`. What the grids of `beside` have is tuned after the others and is no part of their mix; a
    second mix, which has its name too (`mix+sasrec`), shows what it adds. Without `keep`, what was fitted for
    validation in a large catalog is not kept as `tuned`: it takes as much memory as what is measured.
    """
    large = len(catalog) > LARGE_CATALOG
    memory, beside = memory or budget(), beside or {}
    if halving is None and len(tuning.queries) > ALL_USERS:
        halving = HALVING
    seen: list[Prior] = [ExcludeSeen(catalog)] if exclude_seen else []
    trial = Trials(tuning, catalog, seen, k, memory, halving)
    logger.info("tuning keeps to %.1f GiB of memory", memory / GIB)

    results: list[Result] = []
    for name, grid in {**(default_grids() if grids is None else grids), **beside}.items():
        try:
            settings, prior, score = trial.choose(name, grid)
            earlier = (*seen, prior) if keep or not large else ()
            del prior  # which makes room, where it is not kept
            with Stage(f"{name}: the chosen one, for the test", 0):
                refitted = _fit(name, settings, final.known, catalog, memory)
                measured = evaluate_priors(
                    [*seen, refitted], final.queries, final.held_out, catalog=catalog, k=k, batch_size=trial.batch
                )
        except CatalogTooLargeError as error:
            logger.warning("%s is left out: %s", name, error)
            continue
        results.append(Result(name, settings, (*seen, refitted), earlier, score, measured))
        logger.info("%s: %s, validation NDCG@%d %.4f", name, settings, k, score)

    if not mixed:
        return results
    if large:
        logger.warning("the mix is left out: its weights are chosen with one number an item, and there are too many")
        return results
    classic = [result for result in results if result.name not in beside]
    mixes = [_mixed("mix", classic, trial, final)]
    if len(classic) < len(results):
        name = "+".join(["mix", *(result.name for result in results if result.name in beside)])
        mixes.append(_mixed(name, results, trial, final))
    return [*results, *mixes]


def _mixed(name: str, results: Sequence[Result], trial: Trials, final: Part) -> Result:
    """Step 2 and 3 of the protocol for the product of some results."""
    seen, catalog, k, halving = trial.seen, trial.catalog, trial.k, trial.halving
    kept = [result.tuned[-1] for result in results]
    floors: Sequence[float] = FLOORS if any(isinstance(prior, WITH_FLOOR) for prior in kept) else FLOORS[:1]
    # the product, each factor's terms and leads, what is removed, and what a step of the search makes
    fit = rows_within(trial.memory // 4, len(catalog), 3 * (len(kept) + len(seen)) + 4, len(trial.order))
    some = trial.users(min(fit, halving.mix_users) if halving else fit)
    few = trial.users(max(2, len(some.queries) // 4)) if halving else some
    floor, best = 0.0, Trial((), -1.0)
    with Stage(f"{name}: floors", len(floors)) as stage:
        for tried in floors:
            mix = [*seen, *(_with_floor(prior, tried) for prior in kept)]
            tuned = tune_weights(mix, few.queries, few.held_out, catalog=catalog, k=k)
            if tuned.score > best.score:
                floor, best = tried, Trial(tuple(prior.weight for prior in tuned.priors), tuned.score)
            stage.advance()
    mix = [*seen, *(_with_floor(prior, floor) for prior in kept)]
    if few is not some:
        with Stage(f"{name}: weights", 0):
            tuned = tune_weights(mix, some.queries, some.held_out, catalog=catalog, k=k)
        weighed = [reweighted(prior, one.weight) for prior, one in zip(mix, tuned.priors, strict=True)]
        best = Trial(tuple(prior.weight for prior in tuned.priors), trial.score(weighed, trial.last))
    weights = best.weights[len(seen) :]
    weighted = list(zip(results, weights, strict=True))
    priors = [reweighted(_with_floor(result.priors[-1], floor), weight) for result, weight in weighted]
    fitted = [reweighted(_with_floor(result.tuned[-1], floor), weight) for result, weight in weighted]
    with Stage(f"{name}: the chosen one, for the test", 0):
        measured = evaluate_priors(
            [*seen, *priors], final.queries, final.held_out, catalog=catalog, k=k, batch_size=trial.batch
        )
    settings = {"floor": floor, **{one.name: weight for one, weight in weighted}}
    return Result(name, settings, (*seen, *priors), (*seen, *fitted), best.score, measured)


@with_options(data=data_settings)
def main(
    data: DataSettings,
    ties: Annotated[str, typer.Option(help="What orders interactions of equal time: file or item_id.")] = "file",
    k: Annotated[int, typer.Option(min=1, help="Cut-off.")] = 10,
    memory: Annotated[float | None, typer.Option(help="GiB to keep to; a quarter of the machine's by default.")] = None,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Rank items of the history too.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write settings, metrics and ranks here.")
    ] = None,
) -> None:
    """Tune the baselines on validation, measure them on test, and show the table."""
    if ties not in get_args(Ties):
        raise typer.BadParameter(f"ties are broken by file or item_id, not {ties!r}", param_hint="--ties")
    read = data.load()
    results = run_baselines(
        read.interactions,
        read.catalog,
        ties=cast(Ties, ties),
        k=k,
        exclude_seen=not keep_seen,
        memory=budget(memory),
    )
    n_users = len(results[0].test.ranks)
    title = f"{read.name}, leave-one-out, ties by {ties}: {n_users} users, {len(read.catalog)} items, ± standard error"
    Console().print(_table(results, title, k))
    if json_file is not None:
        record = {
            "dataset": read.name,
            "ties": ties,
            "k": k,
            "exclude_seen": not keep_seen,
            "n_users": n_users,
            "n_items": len(read.catalog),
            "results": [_record(result) for result in results],
        }
        json_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _part(known: pl.DataFrame, held_out: pl.DataFrame, catalog: Catalog, exclude_seen: bool) -> Part:
    past = histories(known, catalog=catalog)
    queries = [
        Query(history=past[user].items if user in past else (), user_id=user, exclude_seen=exclude_seen)
        for user in held_out["user_id"]
    ]
    return Part(known, queries, held_out["item_id"].to_list())


class Trials:
    """Settings tried on validation.

    Args:
        part: What is fitted and asked.
        catalog: All items.
        seen: What stands beside every model.
        k: Cut-off of NDCG.
        memory: Bytes that may be taken.
        halving: How few users settings are tried on; None for all.
    """

    def __init__(
        self, part: Part, catalog: Catalog, seen: Sequence[Prior], k: int, memory: int, halving: Halving | None
    ) -> None:
        self.part, self.catalog, self.seen, self.k = part, catalog, seen, k
        self.memory, self.halving = memory, halving
        self.order = np.random.default_rng(0).permutation(len(part.queries)).tolist()
        self.batch = rows_within(memory // 8, len(catalog), 8, 1024)
        sizes = [min(size, len(self.order)) for size in halving.users] if halving else [len(self.order)]
        self.rounds = [self.users(size) for size in dict.fromkeys(sizes)]
        self._counts: tuple[tuple[tuple[str, float], ...], Any] = (), None

    @property
    def last(self) -> Part:
        """The users that what was chosen is measured on."""
        return self.rounds[-1]

    def users(self, number: int) -> Part:
        """So many of the users, the same ones always; all in their own order."""
        if number >= len(self.order):
            return self.part
        some = self.order[:number]
        queries, held_out = self.part.queries, self.part.held_out
        return Part(self.part.known, [queries[place] for place in some], [held_out[place] for place in some])

    def score(self, priors: Sequence[Prior], part: Part) -> float:
        """NDCG of a product."""
        found = evaluate_priors(
            priors, part.queries, part.held_out, catalog=self.catalog, k=self.k, batch_size=self.batch
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
        for number, part in enumerate(rounds, 1):
            last = number == len(rounds) or len(tried) == 1
            if last:
                part = self.last
            label = f"{name}: settings, round {number} of {len(rounds)}, {len(part.queries):,} users"
            scores = [-1.0] * len(tried)
            best: tuple[float, int] = (-1.0, 0)
            chosen: Prior | None = None
            with Stage(label, len(tried)) as stage:
                for place, prior in self._fitted(name, tried):
                    scores[place] = self.score([*self.seen, prior], part)
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
        taken = self.part.known["item_id"].value_counts(sort=True).sort(["count", "item_id"], descending=[True, False])
        if len(taken) <= self.halving.items:
            return tried
        known = self.part.known.join(taken.head(self.halving.items), on="item_id", how="semi")
        past = set(known["item_id"])
        catalog = Catalog(item for item in self.catalog if item.id in past)
        inside = Part(known, [], [])
        for query, item in zip(self.last.queries, self.last.held_out, strict=True):
            if item in past:
                history = tuple(one for one in query.items if one.id in past)
                inside.queries.append(dataclasses.replace(query, history=history, ratings=None))
                inside.held_out.append(item)
        if not inside.queries:
            return tried
        seen = [ExcludeSeen(catalog)] if self.seen else []
        grid = {key: list(dict.fromkeys(one[key] for one in tried)) for key in tried[0]}
        settings, _, _ = Trials(inside, catalog, seen, self.k, self.memory, None).choose("ease", grid)
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
            return _fit(name, settings, self.part.known, self.catalog, self.memory)
        shared = {key: settings[key] for key in ("window", "step_decay") if key in settings}
        key = tuple(shared.items())
        if self._counts[1] is None or self._counts[0] != key:
            self._counts = key, Transition.count(self.part.known, self.catalog, **cast(dict[str, Any], shared))
        rest = cast(dict[str, Any], settings)
        return Transition.fit(self.part.known, self.catalog, counts=self._counts[1], **rest)


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


def _fit(name: str, settings: Settings, known: pl.DataFrame, catalog: Catalog, memory: int) -> Prior:
    limited = {"max_bytes": memory // 3} if name == "ease" else {}  # what is chosen, what is tried, and all else
    fit = FACTORS[name] if name in FACTORS else kind(name).fit
    return fit(known, catalog, **cast(dict[str, Any], {**settings, **limited}))


def _with_floor(prior: Prior, floor: float) -> Prior:
    return dataclasses.replace(prior, floor=floor) if isinstance(prior, WITH_FLOOR) else prior


def _estimate(values: FloatArray) -> Estimate:
    spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    return Estimate(float(values.mean()), spread / len(values) ** 0.5)


def _table(results: Sequence[Result], title: str, k: int) -> Table:
    table = Table(title=title)
    for heading in ("prior", "validation", f"HR@{k}", f"NDCG@{k}", "chosen on validation"):
        table.add_column(heading, justify="left" if heading in ("prior", "chosen on validation") else "right")
    for result in results:
        hits, ndcg = result.test.hit_rate, result.test.ndcg
        table.add_row(
            result.name,
            f"{result.validation:.4f}",
            f"{hits.mean:.4f} ± {hits.standard_error:.4f}",
            f"{ndcg.mean:.4f} ± {ndcg.standard_error:.4f}",
            ", ".join(f"{key} {value:g}" for key, value in result.settings.items()),
        )
    return table


def _record(result: Result) -> dict[str, object]:
    return {
        "name": result.name,
        "settings": dict(result.settings),
        "validation_ndcg": result.validation,
        "hit_rate": result.test.hit_rate._asdict(),
        "ndcg": result.test.ndcg._asdict(),
        "ranks": [int(rank) for rank in result.test.ranks],
    }
