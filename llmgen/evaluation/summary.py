"""From answers to results: means, differences, slices, examples and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from llmgen.datasets.splits import log_digest
from llmgen.errors import ConfigError
from llmgen.evaluation.arms.core import Arm
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.experiment import Experiment
from llmgen.evaluation.metrics.measures import Latencies, Measures, span
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.protocols.slices import slices
from llmgen.evaluation.results import (
    ArmSummary,
    Difference,
    Environment,
    Example,
    Interval,
    Results,
    SampleSummary,
    Shown,
    SliceRow,
)
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.pairwise import compare
from llmgen.evaluation.stats.power import detectable_difference
from llmgen.templates.views import views
from llmgen.types import FloatArray

EXAMPLES = 20
"""Users in the report's row explorer."""
USERS = "users.parquet"
"""In a run's folder: columns `arm`, `user_id`, and one a metric; for `llmgen compare` and for your own questions."""
SHOWN_HISTORY = 30
"""Items of a history that it shows."""


@dataclass(frozen=True, eq=False)
class Asked:
    """Arms with their answers, measured.

    Attributes:
        arms: The arms in order, then the classics.
        sample: Who was asked.
        answers: Arm -> one row a user; see `llmgen.evaluation.answers.SCHEMA`.
        values: Arm -> metric -> one value a user.
    """

    arms: Sequence[Arm]
    sample: Sample
    answers: Mapping[str, pl.DataFrame]
    values: Mapping[str, Mapping[str, FloatArray]]

    def write(self, folder: Path) -> None:
        """Put every user's values into a folder, whole or not at all."""
        tables = [
            pl.DataFrame({"arm": [name] * len(self.sample.users), "user_id": self.sample.users, **columns})
            for name, columns in self.values.items()
        ]
        part = folder / f"{USERS}.part"
        pl.concat(tables).write_parquet(part)
        part.replace(folder / USERS)


def summarise(
    config: RunConfig,
    experiment: Experiment,
    asked: Asked,
    baseline: str,
    latency: Mapping[str, Latencies],
    environment: Environment,
) -> Results:
    """Everything that `results.json` says.

    Args:
        config: Of the run.
        experiment: What was measured on.
        asked: The answers.
        baseline: Arm or classic that the others are compared with.
        latency: Arm -> those of users who were asked alone.
        environment: Where it ran.

    Raises:
        ConfigError: The main metric is none of those measured.
    """
    protocol, metric, seed = config.protocol, config.main_metric, config.protocol.seed
    measures = Measures(asked.sample, protocol.k)
    names = list(asked.values[baseline])
    if metric not in names:
        raise ConfigError(f"there is no metric {metric!r}; there are {', '.join(names)}")
    compared = [arm.name for arm in asked.arms if arm.kind == "arm" or arm.name == baseline or not config.arms]
    rows = []
    if len(compared) > 1:
        hits = [name for name in names if name in measures.hits]
        values = {name: asked.values[name] for name in compared}
        spans = {name: span(name) for name in names} if config.stop_early else None
        rows = compare(
            values, baseline=baseline, metric=metric, hits=hits, draws=config.draws, seed=seed, anytime=spans
        )
    others = [name for name in compared if name != baseline]
    differences = tuple(
        Difference(
            arm=row.arm,
            metric=row.metric,
            mean=row.difference.mean,
            low=row.difference.low,
            high=row.difference.high,
            p=row.p,
            p_holm=row.p_holm,
            test=row.test,
            effect=float(np.clip(row.difference.effect, -99, 99)),
            wins=row.difference.wins,
            ties=row.difference.ties,
            losses=row.difference.losses,
            detectable=None
            if config.stop_early
            else _detectable(asked.values[row.arm][row.metric] - asked.values[baseline][row.metric], len(others)),
        )
        for row in rows
    )
    early: tuple[str, ...] = ()
    if config.stop_early:
        early = (
            f"{len(asked.sample)} users were asked, in random order, until the sign of every difference in "
            f"{_spoken(metric)} was certain, nobody was left, or the asking was ended. All intervals and p-values hold "
            "whenever one stops (confidence sequences by betting; those of differences hold for all arms together).",
        )
    dataset = experiment.dataset
    return Results(
        verdict=verdict(differences, metric, baseline, len(asked.sample)) + _beaten(asked, config, baseline),
        metric=metric,
        baseline=baseline,
        sample=SampleSummary(
            dataset=dataset.name,
            users=len(asked.sample),
            items=len(dataset.catalog),
            digest=asked.sample.digest,
            catalog=dataset.catalog.digest,
            data=log_digest(dataset.interactions),
            protocol=protocol.model_dump(mode="json"),
        ),
        environment=environment,
        anytime=config.stop_early,
        arms=tuple(_arm_summary(arm, asked, measures, latency, config) for arm in asked.arms),
        differences=differences,
        slices=tuple(_slices(asked, compared, baseline, metric, config)),
        per_user={
            name: sorted((asked.values[name][metric] - asked.values[baseline][metric]).tolist()) for name in others
        },
        examples=tuple(_examples(asked, compared, baseline, metric)),
        notes=experiment.notes + early,
    )


def verdict(differences: Sequence[Difference], metric: str, baseline: str, users: int) -> str:
    """The one sentence."""
    rows = [row for row in differences if row.metric == metric]
    if not rows:
        return f"{users} users were asked; there is nothing to compare with."
    name = _spoken(metric)
    certain = [row for row in rows if row.p_holm is not None and row.p_holm < 0.05]
    told = [
        f"{row.arm} is {'better' if row.mean > 0 else 'worse'} than {baseline}: {row.mean:+.4f} {name} "
        f"[{row.low:+.4f}, {row.high:+.4f}]"
        for row in sorted(certain, key=lambda row: -abs(row.mean))
    ]
    if not told and not any(row.wins or row.losses for row in rows):
        return f"Every arm gave every user the same {name} as {baseline}: {users} users, nothing differs."
    if not told:
        shown = [row.detectable for row in rows if row.detectable is not None]
        who = rows[0].arm if len(rows) == 1 else "any arm"
        row = max(rows, key=lambda row: abs(row.mean))
        return (
            f"No difference between {who} and {baseline} can be seen: {row.mean:+.4f} {name} "
            f"[{row.low:+.4f}, {row.high:+.4f}] for {row.arm}, "
            + (f"and these {users} users would show one of {max(shown):.4f}." if shown else f"{users} users.")
        )
    rest = len(rows) - len(told)
    others = f"{rest} other{'s' if rest > 1 else ''}"
    return "; ".join(told) + (f"; {others} cannot be told apart from {baseline}." if rest else ".")


def _beaten(asked: Asked, config: RunConfig, baseline: str) -> str:
    """A sentence where a classic baseline has a higher mean than every arm, unless they are compared with it."""
    metric, kinds = config.main_metric, {arm.name: arm.kind for arm in asked.arms}
    means = {name: float(values[metric].mean()) for name, values in asked.values.items()}
    arms = [name for name in means if kinds[name] == "arm"]
    classics = [name for name in means if kinds[name] != "arm"]
    if not arms or not classics:
        return ""
    arm, classic = max(arms, key=means.__getitem__), max(classics, key=means.__getitem__)
    if means[classic] <= means[arm] or classic == baseline:
        return ""
    found = paired_difference(
        asked.values[classic][metric],
        asked.values[arm][metric],
        level=1 - 0.05 / len(classics),
        draws=config.draws,
        seed=config.protocol.seed,
        anytime=span(metric) if config.stop_early else None,
    )
    chosen = f", corrected for the choice among {len(classics)}" if len(classics) > 1 else ""
    return (
        f" The classic baseline {classic} has a higher mean than every arm: {means[classic]:.4f} {_spoken(metric)}, "
        f"and the best arm, {arm}, {means[arm]:.4f}; {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]{chosen}"
        f"{'' if found.low > 0 else ', which may be chance'}."
    )


def _spoken(metric: str) -> str:
    name, at, k = metric.partition("@")
    return f"{name.upper()}{at}{k}"


def _detectable(differences: FloatArray, comparisons: int) -> float:
    sd = float(differences.std(ddof=1))
    return detectable_difference(sd, len(differences), comparisons=comparisons) if sd > 0 else 0.0


def _arm_summary(
    arm: Arm, asked: Asked, measures: Measures, latency: Mapping[str, Latencies], config: RunConfig
) -> ArmSummary:
    answers = asked.answers[arm.name]
    means = {
        name: interval_of_mean(
            values,
            draws=config.draws,
            seed=config.protocol.seed,
            anytime=1.0 if config.stop_early else None,  # no metric leaves [-1, 1]
        )
        for name, values in asked.values[arm.name].items()
    }
    cost = None
    if arm.kind == "arm":
        cost = measures.cost(answers, latency.get(arm.name, Latencies()), config.price_per_hour)
    return ArmSummary(
        name=arm.name,
        kind=arm.kind,
        settings=arm.settings,
        prompt=arm.prompt,
        metrics={name: Interval(mean=one.mean, low=one.low, high=one.high) for name, one in means.items()},
        lists=measures.lists(answers),
        cost=cost,
    )


def _slices(asked: Asked, compared: Sequence[str], baseline: str, metric: str, config: RunConfig) -> Iterable[SliceRow]:
    for one in slices(asked.sample):
        for name in compared:
            mine, theirs = asked.values[name][metric][one.rows], asked.values[baseline][metric][one.rows]
            difference = None
            if name != baseline:
                found = paired_difference(
                    mine,
                    theirs,
                    draws=min(config.draws, 2_000),
                    seed=config.protocol.seed,
                    anytime=span(metric) if config.stop_early else None,
                )
                difference = Interval(mean=found.mean, low=found.low, high=found.high)
            yield SliceRow(
                by=one.by,
                value=one.value,
                users=len(one.rows),
                arm=name,
                metric=metric,
                arm_mean=float(mine.mean()),
                difference=difference,
            )


def _examples(asked: Asked, compared: Sequence[str], baseline: str, metric: str) -> Iterable[Example]:
    if len(compared) < 2:
        return
    table = np.stack([asked.values[name][metric] for name in compared])
    spread = table.max(axis=0) - table.min(axis=0)
    by_name = {arm.name: arm for arm in asked.arms}
    for number in np.argsort(-spread, kind="stable")[:EXAMPLES].tolist():
        if not spread[number] > 0:
            return
        query, held_out = asked.sample.queries[number], asked.sample.held_out[number]
        catalog = asked.sample.catalog
        answers = {}
        for row, name in enumerate(compared):
            recommender, items = by_name[name].recommender, asked.answers[name]["items"][number].to_list()
            prompt = ""
            if by_name[name].prompt:
                shown: dict[str, Any] = {}
                if asked.sample.candidates is not None:
                    candidates = [recommender.catalog[item] for item in asked.sample.candidates[number]]
                    shown["candidates"] = views(recommender.catalog, candidates)
                template = by_name[name].prompt.partition("@")[0]
                messages = recommender.messages(by_name[name].asked(query), prompt=template, **shown).messages
                prompt = "\n\n".join(f"{message.role}: {message.content}" for message in messages)
            answers[name] = Shown(
                prompt=prompt,
                items=tuple(recommender.catalog.label(catalog[item]) for item in items),
                hits=tuple(item in held_out for item in items),
                value=float(table[row, number]),
            )
        yield Example(
            user=str(query.user_id),
            history=tuple(catalog.label(item) for item in query.items[-SHOWN_HISTORY:]),
            held_out=tuple(catalog.label(catalog[item]) for item in held_out),
            answers=answers,
        )
