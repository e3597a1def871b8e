"""What a neural sequence model adds to the priors: each alone, and mixes with it and without, on held-out items.

    python -m eval.neural --config eval/configs/neural-ml-100k.yaml --out runs/neural-ml-100k

Leave-one-out, the whole catalog ranked, seen items removed. The settings of the priors stand in the file, as validation
chose them. With the priors fitted on train alone, one floor for all is that of the largest likelihood of the validation
items, and the weights of each mix are those of the best `weigh_by`, likelihood or NDCG; then everything is fitted again
on train + validation, and the test items are asked, once. All of this is chosen with the first of `seeds`. Then the
neural model is trained once for each seed, as many epochs as were best before, and holds no user out; a user's value is
the mean over the seeds, and so are the rows of which it is a part. Trainings are kept in the folder, and gone on with
where they were stopped.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import polars as pl
import typer
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.table import Table

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.evaluation.baselines.prior_evaluation import Evaluation
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.protocols.slices import by_history_length, by_popularity
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.significance import permutation_test
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import ExcludeSeen, Prior
from llmgen.priors.kinds import kind, wrong
from llmgen.priors.network import read
from llmgen.progress import Stage
from llmgen.recommend.tuning import GRID, Metric, target_ranks, tune_weights
from llmgen.types import FloatArray
from llmgen.workspace.core import DataSettings

FLOORS = (0.003, 0.01, 0.03, 0.1)
AT_ONCE = 64
"""Queries: their rows of a catalog of some ten thousand items stay in the processor's cache."""
K = 10
LIKELIHOOD: Metric = "log_likelihood"
NEURAL = "sasrec"

Weights = Mapping[str, float]


class Study(BaseModel):
    """The YAML file.

    Attributes:
        data: Fields of `llmgen.workspace.core.DataSettings`.
        users: So many test users from the first on, or those from a number to another; all by default.
        validation_users: So many from the first on are what the column of validation is made of; all by default.
        weighing_users: So many validation users, drawn at random, choose floor and weights.
        weigh_by: What the weights of the mixes are best by.
        grid: Weights that are tried for each prior of a mix, see `tune_weights`.
        seeds: Of the neural model's trainings; floor, weights and epochs are chosen with the first.
        priors: Name -> settings of its kind, which is that of this name or the one that `prior` names.
        mixes: Name -> names of its priors.
        pairs: Names of two priors or mixes whose difference is tested.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Mapping[str, Any]
    users: int | tuple[int, int] | None = None
    validation_users: int | None = Field(None, ge=1)
    weighing_users: int = Field(ge=1)
    weigh_by: Metric = LIKELIHOOD
    grid: tuple[float, ...] = Field(GRID, min_length=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    priors: Mapping[str, Mapping[str, Any]]
    mixes: Mapping[str, tuple[str, ...]] = {}
    pairs: Sequence[tuple[str, str]] = ()

    @classmethod
    def read(cls, path: Path) -> Study:
        """A file's settings.

        Raises:
            ConfigError: It cannot be read, or what it says cannot be done; one line a mistake.
        """
        try:
            made = cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {error}") from None
        except ValidationError as error:
            told = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}, not {one['input']!r}" for one in error.errors())
            raise ConfigError("\n".join(f"{path}, {line}" for line in told)) from None
        if mistakes := list(made._mistakes()):
            raise ConfigError("\n".join(f"{path}, {line}" for line in mistakes))
        return made

    def kind_of(self, name: str) -> tuple[str, Mapping[str, Any]]:
        """The kind of a prior and the settings of its fit."""
        settings = dict(self.priors[name])
        return str(settings.pop("prior", name)), settings

    def _mistakes(self) -> Iterator[str]:
        if len(set(self.seeds)) < len(self.seeds):
            yield f"seeds: {list(self.seeds)} has one twice; name each once"
        for name in self.priors:
            of, settings = self.kind_of(name)
            yield from (f"priors: {line}" for line in wrong({of: settings}))
            if (of == NEURAL) != (name == NEURAL):
                yield f"priors: {name} is a {of}; one neural model is trained, and it is called {NEURAL}"
            if of == NEURAL and (unfit := {"seed", "checkpoint", "trained"} & set(settings)):
                yield f"priors: {NEURAL} has {min(unfit)}; leave it out: seeds names the seeds, and files are in --out"
        for name, names in self.mixes.items():
            if name in self.priors:
                yield f"mixes: {name} is a prior too; call it otherwise"
            for unknown in sorted(set(names) - set(self.priors)):
                yield f"mixes: {name} has {unknown}, which is none of the priors {', '.join(self.priors)}"
        for unknown in sorted({name for pair in self.pairs for name in pair} - {*self.priors, *self.mixes}):
            yield f"pairs: {unknown} is none of the priors and mixes {', '.join([*self.priors, *self.mixes])}"


class Row(NamedTuple):
    """What the test users got by one prior or mix.

    Attributes:
        hit_rates: float64 [n_users], of each; mean over the seeds.
        ndcgs: The same of NDCG.
        by_seed: Name of the ranks of each seed; a single name, of the row itself, where nothing in it was drawn.
    """

    hit_rates: FloatArray
    ndcgs: FloatArray
    by_seed: Sequence[str]


def fitted(study: Study, sample: Sample, catalog: Catalog, out: Path, *, final: bool) -> list[Prior]:
    """The priors of a sample, by the names of the file; the neural one with a file of its own in the folder.

    For the tuning it is trained with the first seed and calls itself by its name; at the end with each, see `of_seed`.
    """
    priors: list[Prior] = []
    for name in study.priors:
        of, given = study.kind_of(name)
        if of != NEURAL:
            priors.append(replaced(kind(of).fit(sample.known, catalog, **given), name=name))
            continue
        tuned = out / f"{NEURAL}-tuning.pt"
        if not final:
            priors.append(kind(of).fit(sample.known, catalog, **given, seed=study.seeds[0], checkpoint=tuned))
            continue
        given = {**given, "epochs": int(read(tuned)[1]["best_epoch"]), "validation_users": 0}
        for seed in study.seeds:
            file = out / f"{NEURAL}-final-{seed}.pt"
            trained = kind(of).fit(sample.known, catalog, **given, seed=seed, checkpoint=file)
            priors.append(replaced(trained, name=of_seed(NEURAL, seed)))
    return priors


def replaced(prior: Prior, **fields: Any) -> Prior:
    """The same prior with other values of some fields."""
    result: Prior = dataclasses.replace(cast(Any, prior), **fields)
    return result


def of_seed(name: str, seed: int) -> str:
    """What a prior or mix is called where the neural model is that of one seed."""
    return f"{name}, seed {seed}"


def each_seed(products: Mapping[str, Weights], seeds: Sequence[int]) -> dict[str, dict[str, Weights]]:
    """Products of priors -> the same by name for each seed, where the neural model is in it; else the product itself.

    >>> each_seed({"a": {"a": 1.0}, "mix": {"a": 1.0, "sasrec": 0.5}}, [3])
    {'a': {'a': {'a': 1.0}}, 'mix': {'mix, seed 3': {'a': 1.0, 'sasrec, seed 3': 0.5}}}
    """
    found: dict[str, dict[str, Weights]] = {}
    for name, weights in products.items():
        if NEURAL not in weights:
            found[name] = {name: weights}
            continue
        found[name] = {
            of_seed(name, seed): {of_seed(one, seed) if one == NEURAL else one: value for one, value in weights.items()}
            for seed in seeds
        }
    return found


def span(users: int | tuple[int, int] | None) -> slice:
    """So many users from the first on, or those from a number to another; all for None."""
    return slice(*users) if isinstance(users, tuple) else slice(0, users)


def with_floor(prior: Prior, floor: float) -> Prior:
    """The same prior with another floor, where it has one."""
    return replaced(prior, floor=floor) if hasattr(prior, "floor") else prior


def ranks(
    priors: Sequence[Prior], products: Mapping[str, Weights], sample: Sample, catalog: Catalog
) -> dict[str, Evaluation]:
    """Ranks of the held-out items by each product of priors; what a prior says is computed once."""
    targets = np.array([catalog.index(item) for item in sample.targets])
    found: dict[str, list[Any]] = {name: [] for name in products}
    seen = ExcludeSeen(catalog)
    with Stage("ranking", len(sample)) as stage:
        for start in range(0, len(sample), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            said = {prior.name: prior.log_weights(sample.queries[some]) for prior in priors}
            removed = seen.log_weights(sample.queries[some])
            for name, weights in products.items():
                total = removed.copy()
                for one, weight in weights.items():
                    total += weight * said[one]
                found[name].append(target_ranks(total, targets[some]))
            stage.advance(len(sample.queries[some]))
    return {name: Evaluation(np.concatenate(rows), K) for name, rows in found.items()}


def weighed(
    study: Study, priors: Sequence[Prior], names: Sequence[str], sample: Sample, metric: Metric
) -> tuple[Weights, float]:
    """The weights that are best for the held-out items of some users, and the metric there."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(sample))[: study.weighing_users])
    asked = sample.rows(chosen.tolist())
    some = [ExcludeSeen(sample.catalog), *(prior for prior in priors if prior.name in names)]
    tuned = tune_weights(some, asked.queries, asked.targets, catalog=sample.catalog, grid=study.grid, metric=metric)
    return {prior.name: prior.weight for prior in tuned.priors[1:]}, tuned.score


class Chosen(NamedTuple):
    """What the validation items chose.

    Attributes:
        floor: Of all priors.
        weights: Of each mix.
        reached: What the mixes reached by `weigh_by` on the users that chose the weights.
        ndcg: Mean NDCG of each prior and mix on the users of the validation.
    """

    floor: float
    weights: Mapping[str, Weights]
    reached: Mapping[str, float]
    ndcg: Mapping[str, float]


def choose(study: Study, priors: Sequence[Prior], sample: Sample, catalog: Catalog) -> Chosen:
    """Floor and weights, with priors that were fitted on train alone."""
    names = [prior.name for prior in priors]
    with Stage("weighing", len(FLOORS) + len(study.mixes)) as stage:
        likely = {}
        for floor in FLOORS:
            floored = [with_floor(prior, floor) for prior in priors]
            _, likely[floor] = weighed(study, floored, names, sample, LIKELIHOOD)
            stage.advance()
        floor = max(likely, key=likely.__getitem__)
        priors = [with_floor(prior, floor) for prior in priors]
        weights: dict[str, Weights] = {}
        reached: dict[str, float] = {}
        for name, its_priors in study.mixes.items():
            weights[name], reached[name] = weighed(study, priors, its_priors, sample, study.weigh_by)
            stage.advance()
    asked = sample.rows(range(len(sample))[: study.validation_users])
    found = ranks(priors, {name: {name: 1.0} for name in names} | weights, asked, catalog)
    return Chosen(floor, weights, reached, {name: one.ndcg.mean for name, one in found.items()})


def told(study: Study, chosen: Chosen, rows: Mapping[str, Row], ranked: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Values of each row, with its seeds, and the tests of the pairs."""
    alone: dict[str, Any] = {}
    for name, row in rows.items():
        spread = interval_of_mean(row.ndcgs, seed=0)
        alone[name] = {
            "validation_ndcg": chosen.ndcg[name],
            "hr": float(row.hit_rates.mean()),
            "ndcg": spread.mean,
            "low": spread.low,
            "high": spread.high,
            "seeds": {
                one: {"hr": ranked[one].hit_rate.mean, "ndcg": ranked[one].ndcg.mean}
                for one in row.by_seed
                if one != name
            },
        }
    pairs: dict[str, Any] = {}
    for one, other in study.pairs:
        a, b = rows[one], rows[other]
        gap, p = paired_difference(a.ndcgs, b.ndcgs, seed=0), permutation_test(a.ndcgs, b.ndcgs, seed=0).p
        most = max(len(a.by_seed), len(b.by_seed))
        by_seed = [
            float((ranked[x].ndcgs - ranked[y].ndcgs).mean())
            for x, y in zip(_of_each(a.by_seed, most), _of_each(b.by_seed, most), strict=True)
        ]
        pairs[f"{one} - {other}"] = {"mean": gap.mean, "low": gap.low, "high": gap.high, "p": p, "by_seed": by_seed}
    return {"alone": alone, "pairs": pairs}


def _of_each(names: Sequence[str], seeds: int) -> Sequence[str]:
    """A name for each seed; the one that there is again for each."""
    return names if len(names) == seeds else [names[0]] * seeds


def groups(asked: Sample, rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Mean NDCG of thirds of the users, by the length of the history and by how often the target was taken."""
    return [
        {
            "by": one.by,
            "value": one.value,
            "users": len(one.rows),
            "ndcg": {name: float(row.ndcgs[one.rows].mean()) for name, row in rows.items()},
        }
        for one in (*by_history_length(asked), *by_popularity(asked))
    ]


def printed(name: str, results: Mapping[str, Any]) -> None:
    """The tables."""
    console = Console(width=160)
    table = Table("", "validation NDCG", "HR", "NDCG", title=f"{name}, {results['users']:,} users, k = {K}")
    for row, values in results["alone"].items():
        interval = f"{values['ndcg']:.4f} [{values['low']:.4f}, {values['high']:.4f}]"
        table.add_row(row, f"{values['validation_ndcg']:.4f}", f"{values['hr']:.4f}", interval)
        for one, of_it in values["seeds"].items():
            table.add_row(f"  {one}", "", f"{of_it['hr']:.4f}", f"{of_it['ndcg']:.4f}")
    console.print(table)
    for pair, gap in results["pairs"].items():
        seeds = ", ".join(f"{one:+.4f}" for one in gap["by_seed"])
        print(
            f"{pair}: {gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}], p = {gap['p']:.4f}; by seed {seeds}"
        )
    table = Table("NDCG", *(f"{one['by']}: {one['value']}, {one['users']:,} users" for one in results["groups"]))
    for row in results["alone"]:
        table.add_row(row, *(f"{one['ndcg'][row]:.4f}" for one in results["groups"]))
    console.print(table)


def main(
    config: Annotated[Path, typer.Option(help="YAML, the fields of `Study`.")],
    out: Annotated[Path, typer.Option(help="Folder of trainings and of results.json.")],
) -> None:
    """Fit, weigh, measure, compare."""
    with exit_on_error():
        study = Study.read(config)
        data = DataSettings.parse(study.data).load()
        out.mkdir(parents=True, exist_ok=True)
        catalog = data.catalog
        tuning, final = samples(Protocol.model_validate({}), data)
        chosen = choose(study, fitted(study, tuning, catalog, out, final=False), tuning, catalog)
        priors = [with_floor(prior, chosen.floor) for prior in fitted(study, final, catalog, out, final=True)]
        asked = final.rows(range(len(final))[span(study.users)])
        products = each_seed({name: {name: 1.0} for name in study.priors} | dict(chosen.weights), study.seeds)
        ranked = ranks(priors, {name: one for each in products.values() for name, one in each.items()}, asked, catalog)
    rows = {
        name: Row(
            np.mean([ranked[one].hit_rates for one in each], axis=0),
            np.mean([ranked[one].ndcgs for one in each], axis=0),
            list(each),
        )
        for name, each in products.items()
    }
    results: dict[str, Any] = {"config": str(config), "users": len(asked), "seeds": study.seeds, "floor": chosen.floor}
    results |= {"weights": chosen.weights, "weighed_by": study.weigh_by, "reached": chosen.reached}
    results |= told(study, chosen, rows, ranked) | {"groups": groups(asked, rows)}
    printed(data.name, results)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    pl.DataFrame({name: one.ranks for name, one in ranked.items()}).write_parquet(out / "ranks.parquet")


if __name__ == "__main__":
    typer.run(main)
