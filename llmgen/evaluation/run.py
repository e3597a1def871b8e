"""Evaluate recommenders on a data set: metrics with intervals, cost, slices, beside the classic baselines.

    llmgen evaluate --arm "tuned=--adapter runs/ml-100k --priors-of best --lm-weight tuned" --out runs/eval
    llmgen evaluate --config eval/configs/new-items.yaml --among new --out runs/new-items

Every answer is written as it comes; the same command goes on after a stop. The folder ends up with `results.json`
(`llmgen.evaluation.results`), `report.html`, the resolved `config.yaml` and the answers. Two arms against each other:
`llmgen ab`.
"""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml
from rich.console import Console

from llmgen.adapters import AdapterRecord
from llmgen.errors import ConfigError, renamed
from llmgen.evaluation.answers import Store, ask, latencies, locked
from llmgen.evaluation.arms.arm_config import CHOSEN, ArmConfig
from llmgen.evaluation.arms.core import Arm, Engines, build
from llmgen.evaluation.checks import check
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.environment import environment
from llmgen.evaluation.experiment import Experiment, from_log
from llmgen.evaluation.metrics.measures import Measures, span
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.report import page
from llmgen.evaluation.report.terminal_report import show
from llmgen.evaluation.results import Results
from llmgen.evaluation.stats.sequential import Sequential
from llmgen.evaluation.summary import Asked, summarise
from llmgen.evaluation.terminal import exit_on_error
from llmgen.progress import Stage
from llmgen.recommend.weighing import CANDIDATES, FittedWeight, choices_of, fit_weight
from llmgen.workspace.options import data_given, with_options

logger = logging.getLogger(__name__)

Look = Callable[[int, Mapping[str, Sequential]], bool]


def evaluate(
    config: RunConfig,
    out: Path,
    *,
    command: str = "llmgen.evaluation.evaluate",
    against_classic: bool = False,
    gates: Sequence[str] = (),
    experiment: Callable[[RunConfig], Experiment] = from_log,
    engines: Engines | None = None,
    look: Look = lambda done, watched: False,
    questions: Callable[[RunConfig], Experiment] | None = None,
) -> Results:
    """Ask, measure, compare, and write everything into a folder.

    Args:
        config: What to run.
        out: The folder; a run that was stopped continues in its folder.
        command: For the record.
        against_classic: Whether the arms are compared with the best classic instead of the first arm.
        gates: Metrics of which differences are wanted, whatever comes of it.
        experiment: Who is asked about what, from the settings; the users of the log by default.
        engines: Where models come from; each is loaded where it is first needed by default.
        look: With `stop_early`, called after each batch of users with how many have been asked, and the confidence
            sequence of each arm's difference to the baseline; true ends the asking, and the report is of those asked.
        questions: The old name of `experiment`, which goes with the next release.

    Raises:
        LLMGenError: Settings, data, models or files are not what they should be.
    """
    if questions is not None:
        experiment = renamed("evaluate(questions=...)", "experiment", questions)
    check(config, gates=gates, from_log=experiment is from_log)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with locked(out):
        settings = config.model_dump(mode="json")
        (out / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), "utf-8")
        found = experiment(config)
        final, standing = found.final, found.classics
        if config.stop_early:
            order = np.random.default_rng(config.protocol.seed).permutation(len(final))
            final = final.rows(order.tolist())
        engines = engines or Engines()
        arms = [_arm(name, one, config, found, final, engines, out) for name, one in config.arms.items()]
        if taken := {arm.name for arm in arms} & {arm.name for arm in standing}:
            raise ConfigError(f"an arm may not be called {min(taken)!r}: that is a classic baseline's name")
        everyone = [*arms, *standing]
        baseline = config.baseline or (found.best if found.best and (against_classic or not arms) else everyone[0].name)
        if baseline not in {arm.name for arm in everyone}:
            raise ConfigError(f"the baseline {baseline!r} is no arm; there are {', '.join(a.name for a in everyone)}")
        warned = tuple(_warnings(config, arms))
        for text in warned:
            logger.warning(text)
        found = replace(found, notes=(*found.notes, *warned))
        asked = _ask_all(config, everyone, final, baseline, out, look)
        costs = {arm.name: latencies(arm, asked.sample, config.latency_users) for arm in arms if config.latency_users}
        results = summarise(config, found, asked, baseline, costs, environment(command, started))
        asked.write(out)
        results.write(out)
        page.write(results, out)
    return results


@with_options(data=data_given)
def main(
    data: Mapping[str, object],
    out: Annotated[Path, typer.Option(help="Folder of this run; a stopped run continues in its folder.")],
    config: Annotated[
        Path | None, typer.Option(help="YAML file with all settings of the run; options override it.")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="One recommender to compare: NAME=PROMPT, or 'NAME=--prompt X --prior Y=1' with options of "
            "`llmgen recommend`. Repeatable."
        ),
    ] = None,
    users: Annotated[int | None, typer.Option(help="Ask so many users, drawn at random. Default: all.")] = None,
    k: Annotated[int | None, typer.Option(help="Length of each list. Default: 10.")] = None,
    newest: Annotated[
        int | None, typer.Option(help="Only so many of the newest items of each history are known. Default: all.")
    ] = None,
    among: Annotated[
        str | None,
        typer.Option(help="With new items: rank them among the whole catalog, or among the new ones: catalog or new."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random draws.")] = None,
    classic: Annotated[
        str | None,
        typer.Option(
            "--classics", help="Classic baselines in the report: tuned on validation, with their defaults, or none."
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="More baselines: als or bpr (extra llmgen[factors]), sasrec (extra llmgen[hf]). Repeatable."),
    ] = None,
    memory: Annotated[
        float | None, typer.Option(help="Memory to use at most, in GiB. Default: a quarter of the machine's.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Run, write and print."""
    with exit_on_error():
        chosen, wrong = RunConfig.parsed(
            config,
            arm or (),
            users=users,
            k=k,
            newest=newest,
            among=among,
            data=data,
            seed=seed,
            classics=classic,
            also=also or None,
            memory=memory,
        )
        check(chosen, wrong=wrong)
        results = evaluate(chosen, out, command=command_line("llmgen evaluate"), against_classic=True)
        shown(results, out, json_output)


def shown(results: Results, out: Path, json_output: bool) -> None:
    """Print results for people, or for programs."""
    if json_output:
        typer.echo(results.model_dump_json(indent=1))
    else:
        show(results, Console())
        typer.echo(f"report: {out / 'report.html'}")


def command_line(command: str) -> str:
    """How this process was called, for one who wants to do it again.

    Args:
        command: What the arguments are given to, such as `llmgen evaluate`.
    """
    given = sys.argv[1:]
    own = given[0] if given and command == f"llmgen {given[0]}" else None
    return f"{command} {shlex.join(given[1:] if own else given)}".rstrip()


def _arm(
    name: str,
    settings: ArmConfig,
    config: RunConfig,
    experiment: Experiment,
    final: Sample,
    engines: Engines,
    out: Path,
) -> Arm:
    if settings.lm_weight not in CHOSEN:
        return build(name, settings, final, experiment.baselines, engines)
    before = experiment.weighing is None  # what is fitted then knows no more than the sample to choose on
    some = replace((experiment.weighing or experiment.tuning).spread(config.tuning_users), candidates=None)
    measures = Measures(some, config.protocol.k)
    sibling = settings.model_copy(update={"adapter": settings.tuning_adapter or settings.adapter})
    if settings.lm_weight == "fitted":
        asked = build(name, sibling, some, experiment.baselines, engines, lm_weight=1.0, tuning=before)
        fitted = _fitted(asked, some)
        arm = build(name, settings, final, experiment.baselines, engines, lm_weight=fitted.weight)
        return replace(arm, settings={**arm.settings, "fitted_lm_weight": _told(fitted)})
    tried = [
        build(f"{name} {weight:g}", sibling, some, experiment.baselines, engines, lm_weight=weight, tuning=before)
        for weight in config.lm_weights
    ]
    stores = [Store(out, arm, some) for arm in tried]
    ask(tried, some, stores, f"{name}: choosing the LM's weight")
    scores = [measures.per_user(store.table(some.users))[f"ndcg@{config.protocol.k}"].mean() for store in stores]
    chosen = config.lm_weights[int(np.argmax(scores))]
    arm = build(name, settings, final, experiment.baselines, engines, lm_weight=chosen)
    curve = {f"{weight:g}": round(float(score), 4) for weight, score in zip(config.lm_weights, scores, strict=True)}
    return replace(arm, settings={**arm.settings, "validation_by_lm_weight": curve})


def _fitted(arm: Arm, sample: Sample) -> FittedWeight:
    """The weight for each request of an arm, fitted on a sample.

    Raises:
        ConfigError: No held-out item is eligible.
    """
    parts = arm.recommender.parts
    queries = [parts.catalog.resolved(arm.asked(query)) for query in sample.queries]
    found = choices_of(parts, queries, sample.targets, candidates=CANDIDATES, progress=True)
    choices = [one for one in found if one is not None]
    if not choices:
        raise ConfigError(f"arm {arm.name!r}: no weight can be fitted, since no validation item is eligible")
    return fit_weight(choices)


def _told(fitted: FittedWeight) -> dict[str, float]:
    """What the results say of a fit."""
    told = {"constant": fitted.constant, "nats": fitted.nats, "nats_constant": fitted.nats_constant}
    told |= {"nats_prior": fitted.nats_prior, "requests": fitted.requests}
    return {name: round(float(value), 4) for name, value in told.items()}


def _warnings(config: RunConfig, arms: Sequence[Arm]) -> Iterator[str]:
    """What is not as it was when an arm's adapter was tuned, such as the catalog in zero-shot use."""
    for arm in arms:
        adapter, engine = config.arms[arm.name].adapter, arm.recommender.engine
        record = AdapterRecord.read(adapter) if adapter is not None and engine is not None else None
        if record is not None and engine is not None:
            # that it was tuned without the new items is made sure of before
            known = config.protocol.split == "new_items"
            catalog = record.catalog if known else arm.recommender.catalog.digest
            used = {"catalog": catalog, "tokenizer": engine.tokenizer_digest}
            for difference in record.differences(**used, prompts=[arm.prompt]):
                yield f"{arm.name}: the adapter {adapter} may do badly: {difference}."


def _ask_all(config: RunConfig, arms: Sequence[Arm], sample: Sample, baseline: str, out: Path, look: Look) -> Asked:
    stores = {arm.name: Store(out, arm, sample) for arm in arms}
    slow = [arm for arm in arms if arm.recommender.engine is not None]
    quick = [arm for arm in arms if arm.recommender.engine is None]
    if quick:
        ask(quick, sample, [stores[arm.name] for arm in quick], "Baselines")
    done = len(sample)
    for arm in slow:
        with Stage(f"{arm.name}: making the trie", 0):
            _ = arm.recommender.trie  # made once, and no part of what an answer takes
    if slow:
        names = [arm.name for arm in arms if arm.kind == "arm"]
        enough = _watch(config, names, stores, sample, baseline, look) if config.stop_early else None
        done = ask(slow, sample, [stores[arm.name] for arm in slow], "Asking", enough=enough)
    sample = sample.rows(range(done))
    measures = Measures(sample, config.protocol.k)
    answers = {name: store.table(sample.users) for name, store in stores.items()}
    return Asked(arms, sample, answers, {name: measures.per_user(table) for name, table in answers.items()})


def _watch(
    config: RunConfig, names: Sequence[str], stores: Mapping[str, Store], sample: Sample, baseline: str, look: Look
) -> Callable[[int], bool]:
    """After each batch: is the sign of every arm's difference certain? The arms share an error of .05."""
    others = [name for name in names if name != baseline]
    watched = {name: Sequential(1 - 0.05 / len(others), largest=span(config.main_metric)) for name in others}
    seen = 0

    def enough(done: int) -> bool:
        nonlocal seen
        fresh = sample.rows(range(seen, done))
        measures = Measures(fresh, config.protocol.k)
        values = {
            name: measures.per_user(stores[name].table(fresh.users))[config.main_metric] for name in {*names, baseline}
        }
        seen = done
        for name, watch in watched.items():
            watch.add(values[name] - values[baseline])
        if look(done, watched):
            return True
        return bool(watched) and all(watch.decided for watch in watched.values())

    return enough
