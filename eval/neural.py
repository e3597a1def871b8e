"""What a neural sequence model adds to the priors: each alone, and mixes with it and without, on held-out items.

    python -m eval.neural --config eval/configs/neural-ml-100k.yaml --out runs/neural-ml-100k

Leave-one-out, the whole catalog ranked, seen items removed. The settings of the priors stand in the file, as validation
chose them. With the priors fitted on train alone, one floor for all is that of the largest likelihood of the validation
items, and the weights of each mix are those of the best `weigh_by`, likelihood or NDCG; then everything is fitted again
on train + validation, and the test items are asked, once. The neural model is then trained as many epochs as were best
before, and holds no user out. Trainings are kept in the folder, and gone on with where they were stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import polars as pl
import typer
import yaml
from rich.console import Console
from rich.table import Table

from llmgen.catalog.core import Catalog
from llmgen.evaluation.baselines.prior_evaluation import Evaluation
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.significance import permutation_test
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import ExcludeSeen, Prior
from llmgen.priors.kinds import kind
from llmgen.priors.network import read
from llmgen.progress import Stage
from llmgen.recommend.tuning import Metric, target_ranks, tune_weights
from llmgen.workspace.core import DataSettings

FLOORS = (0.003, 0.01, 0.03, 0.1)
AT_ONCE = 64
"""Queries: their rows of a catalog of some ten thousand items stay in the processor's cache."""
K = 10
LIKELIHOOD: Metric = "log_likelihood"

Weights = Mapping[str, float]


def fitted(
    settings: Mapping[str, Mapping[str, Any]], sample: Sample, catalog: Catalog, out: Path, name: str
) -> list[Prior]:
    """The priors of a sample, `tuning` or `final`; `sasrec` with a file of its own in the folder."""
    priors = []
    for one, given in settings.items():
        if one == "sasrec":
            file = out / f"sasrec-{name}.pt"
            if name == "final":
                epochs = int(read(out / "sasrec-tuning.pt")[1]["best_epoch"])
                given = {**given, "epochs": epochs, "validation_users": 0}
            given = {**given, "checkpoint": file}
        priors.append(kind(one).fit(sample.known, catalog, **given))
    return priors


def span(users: int | Sequence[int] | None) -> slice:
    """So many users from the first on, or those from a number to another; all for None."""
    return slice(*users) if isinstance(users, Sequence) else slice(0, users)


def with_floor(prior: Prior, floor: float) -> Prior:
    """The same prior with another floor, where it has one."""
    return dataclasses.replace(cast(Any, prior), floor=floor) if hasattr(prior, "floor") else prior


def ranks(
    priors: Sequence[Prior], mixes: Mapping[str, Weights], sample: Sample, users: slice, catalog: Catalog
) -> dict[str, Evaluation]:
    """Ranks of the held-out items by each prior alone and by each mix; what a prior says is computed once."""
    queries = sample.queries[users]
    targets = np.array([catalog.index(item) for item in sample.targets[users]])
    products: dict[str, Weights] = {prior.name: {prior.name: 1.0} for prior in priors} | dict(mixes)
    found: dict[str, list[Any]] = {name: [] for name in products}
    seen = ExcludeSeen(catalog)
    with Stage("ranking", len(queries)) as stage:
        for start in range(0, len(queries), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            said = {prior.name: prior.log_weights(queries[some]) for prior in priors}
            removed = seen.log_weights(queries[some])
            for name, weights in products.items():
                total = removed.copy()
                for one, weight in weights.items():
                    total += weight * said[one]
                found[name].append(target_ranks(total, targets[some]))
            stage.advance(len(queries[some]))
    return {name: Evaluation(np.concatenate(rows), K) for name, rows in found.items()}


def weighed(
    priors: Sequence[Prior], names: Sequence[str], sample: Sample, users: int, catalog: Catalog, metric: Metric
) -> tuple[Weights, float]:
    """The weights that are best for the held-out items of some users, and the metric there."""
    chosen = sample.rows(np.sort(np.random.default_rng(0).permutation(len(sample))[:users]).tolist())
    some = [prior for prior in priors if prior.name in names]
    tuned = tune_weights([ExcludeSeen(catalog), *some], chosen.queries, chosen.targets, catalog=catalog, metric=metric)
    return {prior.name: prior.weight for prior in tuned.priors[1:]}, tuned.score


def main(
    config: Annotated[
        Path, typer.Option(help="YAML: data, users, validation_users, weighing_users, weigh_by, priors, mixes, pairs.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of trainings and of results.json.")],
) -> None:
    """Fit, weigh, measure, compare."""
    with exit_on_error():
        chosen = yaml.safe_load(config.read_text(encoding="utf-8"))
        out.mkdir(parents=True, exist_ok=True)
        data = DataSettings.parse(chosen["data"]).load()
        catalog, users = data.catalog, span(chosen.get("users"))
        tuning, final = samples(Protocol.model_validate({}), data)
        before = fitted(chosen["priors"], tuning, catalog, out, "tuning")
        everything = [prior.name for prior in before]
        mixes: Mapping[str, Sequence[str]] = chosen["mixes"]
        with Stage("weighing", len(FLOORS) + len(mixes)) as stage:
            scores = {}
            for floor in FLOORS:
                floored = [with_floor(prior, floor) for prior in before]
                _, scores[floor] = weighed(floored, everything, tuning, chosen["weighing_users"], catalog, LIKELIHOOD)
                stage.advance()
            floor = max(scores, key=scores.__getitem__)
            before = [with_floor(prior, floor) for prior in before]
            weights: dict[str, Weights] = {}
            reached: dict[str, float] = {}
            metric: Metric = chosen.get("weigh_by", LIKELIHOOD)
            for name, parts_of_it in mixes.items():
                weights[name], reached[name] = weighed(
                    before, parts_of_it, tuning, chosen["weighing_users"], catalog, metric
                )
                stage.advance()
        validation = ranks(before, weights, tuning, slice(0, chosen.get("validation_users")), catalog)
        del before
        after = [with_floor(prior, floor) for prior in fitted(chosen["priors"], final, catalog, out, "final")]
        test = ranks(after, weights, final, users, catalog)

    results: dict[str, Any] = {"config": str(config), "users": len(next(iter(test.values())).ranks), "floor": floor}
    results |= {"weights": weights, "weighed_by": metric, "reached": reached, "alone": {}, "pairs": {}}
    table = Table("", "validation NDCG", "HR", "NDCG", title=f"{data.name}, {results['users']:,} users, k = {K}")
    for name, one in test.items():
        spread = interval_of_mean(one.ndcgs, seed=0)
        values = {
            "validation_ndcg": validation[name].ndcg.mean,
            "hr": one.hit_rate.mean,
            "ndcg": spread.mean,
            "low": spread.low,
            "high": spread.high,
        }
        results["alone"][name] = values
        interval = f"{spread.mean:.4f} [{spread.low:.4f}, {spread.high:.4f}]"
        table.add_row(name, f"{values['validation_ndcg']:.4f}", f"{values['hr']:.4f}", interval)
    Console().print(table)
    for one, other in chosen["pairs"]:
        a, b = test[one].ndcgs, test[other].ndcgs
        gap, p = paired_difference(a, b, seed=0), permutation_test(a, b, seed=0).p
        results["pairs"][f"{one} - {other}"] = {"mean": gap.mean, "low": gap.low, "high": gap.high, "p": p}
        print(f"{one} - {other}: {gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], p = {p:.4f}")
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    pl.DataFrame({name: one.ranks for name, one in test.items()}).write_parquet(out / "ranks.parquet")


if __name__ == "__main__":
    typer.run(main)
