"""The priors alone, as recommenders: popularity, ItemKNN, EASE, transition and their mix, tuned on validation.

    llmgen tune --dataset movielens-100k --ties file

No result of a language model stands without these beside it. The protocol, leave-one-out a user:

1. Fit on the train part with every hyper-parameter of `default_grids`; history = train; rank the whole catalog without
   the items of the history; keep what has the best mean NDCG@k on the validation item. Above `ALL_USERS` users, by
   successive halving: all settings on a few users, drawn at random, the best quarter of them on more, see `Halving`.
2. The mix: the kept models with one floor for all out of `FLOORS`, weights by
   `llmgen.recommend.tuning.tune_weights`, also on validation.
3. Fit again on train + validation with what was kept; history = both; rank for the test item, once.

Ties are broken against the target: it gets the worst rank of its tie. Where items of the history are left out, a user
whose held-out item stands there is not asked.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, cast, get_args

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.datasets.splits import Ties
from llmgen.errors import CatalogTooLargeError
from llmgen.evaluation.baselines.prior_evaluation import (
    ALL_USERS,
    HALVING,
    Evaluation,
    Halving,
    Settings,
    evaluate_priors,
)
from llmgen.evaluation.baselines.trials import WITH_FLOOR, Trials, fit_prior, with_floor
from llmgen.evaluation.memory import GIB, budget, rows_within
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.priors import (
    ExcludeSeen,
    Prior,
    reweighted,
)
from llmgen.priors.kinds import kinds
from llmgen.priors.sparse import LARGE_CATALOG
from llmgen.progress import Stage
from llmgen.recommend.tuning import Trial, tune_weights
from llmgen.workspace.core import DataSettings
from llmgen.workspace.options import data_settings, with_options

logger = logging.getLogger(__name__)


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
FLOORS = (0.01, 0.03, 0.1, 0.3)
"""Floors of the collaborative factors that are tried in the mix; alone, a floor does not change a ranking."""


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
    protocol = Protocol.model_validate({"ties": ties, "k": k, "seen": "removed" if exclude_seen else "kept"})
    tuning, final = samples(protocol, replace(Dataset.of(catalog), interactions=interactions))
    return tune_baselines(tuning, final, k=k, exclude_seen=exclude_seen, grids=grids, halving=halving, memory=memory)


def tune_baselines(
    tuning: Sample,
    final: Sample,
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
    """Steps 1 to 3 of the protocol, on any two samples; see `run_baselines`.

    Step 2 only if `mixed`. What the grids of `beside` have is tuned after the others and is no part of their mix; a
    second mix, which has its name too (`mix+sasrec`), shows what it adds. Without `keep`, what was fitted for
    validation in a large catalog is not kept as `tuned`: it takes as much memory as what is measured.
    """
    catalog = final.catalog
    large = len(catalog) > LARGE_CATALOG
    memory, beside = memory or budget(), beside or {}
    if halving is None and len(tuning) > ALL_USERS:
        halving = HALVING
    seen: list[Prior] = [ExcludeSeen(catalog)] if exclude_seen else []
    trial = Trials(tuning, seen, k, memory, halving)
    logger.info("tuning keeps to %.1f GiB of memory", memory / GIB)

    results: list[Result] = []
    for name, grid in {**(default_grids() if grids is None else grids), **beside}.items():
        try:
            settings, prior, score = trial.choose(name, grid)
            earlier = (*seen, prior) if keep or not large else ()
            del prior  # which makes room, where it is not kept
            with Stage(f"{name}: the chosen one, for the test", 0):
                refitted = fit_prior(name, settings, final.known, catalog, memory)
                measured = evaluate_priors(
                    [*seen, refitted], final.queries, final.targets, catalog=catalog, k=k, batch_size=trial.batch
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


def _mixed(name: str, results: Sequence[Result], trial: Trials, final: Sample) -> Result:
    """Step 2 and 3 of the protocol for the product of some results."""
    seen, catalog, k, halving = trial.seen, final.catalog, trial.k, trial.halving
    kept = [result.tuned[-1] for result in results]
    floors: Sequence[float] = FLOORS if any(isinstance(prior, WITH_FLOOR) for prior in kept) else FLOORS[:1]
    # the product, each factor's terms and leads, what is removed, and what a step of the search makes
    fit = rows_within(trial.memory // 4, len(catalog), 3 * (len(kept) + len(seen)) + 4, len(trial.order))
    some = trial.users(min(fit, halving.mix_users) if halving else fit)
    few = trial.users(max(2, len(some) // 4)) if halving else some
    floor, best = 0.0, Trial((), -1.0)
    with Stage(f"{name}: floors", len(floors)) as stage:
        for tried in floors:
            mix = [*seen, *(with_floor(prior, tried) for prior in kept)]
            tuned = tune_weights(mix, few.queries, few.targets, catalog=catalog, k=k)
            if tuned.score > best.score:
                floor, best = tried, Trial(tuple(prior.weight for prior in tuned.priors), tuned.score)
            stage.advance()
    mix = [*seen, *(with_floor(prior, floor) for prior in kept)]
    if few is not some:
        with Stage(f"{name}: weights", 0):
            tuned = tune_weights(mix, some.queries, some.targets, catalog=catalog, k=k)
        weighed = [reweighted(prior, one.weight) for prior, one in zip(mix, tuned.priors, strict=True)]
        best = Trial(tuple(prior.weight for prior in tuned.priors), trial.score(weighed, trial.last))
    weights = best.weights[len(seen) :]
    weighted = list(zip(results, weights, strict=True))
    priors = [reweighted(with_floor(result.priors[-1], floor), weight) for result, weight in weighted]
    earlier = [reweighted(with_floor(result.tuned[-1], floor), weight) for result, weight in weighted]
    with Stage(f"{name}: the chosen one, for the test", 0):
        measured = evaluate_priors(
            [*seen, *priors], final.queries, final.targets, catalog=catalog, k=k, batch_size=trial.batch
        )
    settings = {"floor": floor, **{one.name: weight for one, weight in weighted}}
    return Result(name, settings, (*seen, *priors), (*seen, *earlier), best.score, measured)


@with_options(data=data_settings)
def main(
    data: DataSettings,
    ties: Annotated[
        str, typer.Option(help="Order of interactions of equal time: as in the file, or by item_id.")
    ] = "file",
    k: Annotated[int, typer.Option(min=1, help="Length of the lists that metrics look at.")] = 10,
    memory: Annotated[
        float | None, typer.Option(help="Memory to use at most, in GiB. Default: a quarter of the machine's.")
    ] = None,
    keep_seen: Annotated[bool, typer.Option("--keep-seen", help="Also rank items of the history.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for settings, metrics and ranks.")] = None,
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
