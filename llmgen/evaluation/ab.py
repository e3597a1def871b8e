"""A/B: which prompt, model or setting is better on the same users, by how much, how sure, and at what cost.

    llmgen ab --config eval/configs/ml-100k.yaml --arm A=next_item --arm B=next_item_taste --plan
    llmgen ab --config eval/configs/ml-100k.yaml --arm A=next_item --arm B=next_item_taste --out runs/ab

The first arm is the baseline. Differences are paired by user, with intervals. One metric is tested, with Holm's
correction over the arms; the others are described. `--plan` says beforehand how large a difference the sample can show.
`--fail-if "ndcg@10 < -0.005"` ends with exit code 1 where an arm is surely that much worse: the upper end of its
interval is below; `ndcg@10.low < -0.005` already where it may be: the lower end is. Exit code 2 is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmgen.errors import ConfigError
from llmgen.evaluation.answers import answers_of, rows_of
from llmgen.evaluation.arms.core import classics
from llmgen.evaluation.checks import check
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.metrics.measures import Measures
from llmgen.evaluation.protocols.protocol import samples
from llmgen.evaluation.results import Results
from llmgen.evaluation.run import command_line, evaluate, shown
from llmgen.evaluation.stats.power import detectable_difference
from llmgen.evaluation.terminal import exit_on_error
from llmgen.templates.library import PromptLibrary
from llmgen.workspace.options import data_given, with_options

Read = TypeVar("Read")


class FailCondition(NamedTuple):
    """A limit on the differences of a metric.

    Attributes:
        metric: Its name.
        bound: `low` or `high`: which end of the interval counts.
        limit: What it must not be below.
    """

    metric: str
    bound: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> FailCondition:
        """A gate from the command line.

        Raises:
            ConfigError: Another form.
        """
        found = re.fullmatch(r"\s*([\w@]+?)(?:\.(low|high))?\s*<\s*([-+]?\d*\.?\d+)\s*", text)
        if found is None:
            raise ConfigError(f"--fail-if is METRIC < NUMBER or METRIC.low < NUMBER, not {text!r}")
        return cls(found[1], found[2] or "high", float(found[3]))

    def failures(self, results: Results) -> list[str]:
        """What is below the limit, one sentence each.

        Raises:
            ConfigError: The results do not have the metric.
        """
        rows = [row for row in results.differences if row.metric == self.metric]
        if not rows:
            there = sorted({row.metric for row in results.differences})
            raise ConfigError(f"--fail-if: there is no difference in {self.metric!r}; there are {', '.join(there)}")
        return [
            f"{row.arm}: {self.metric} {row.mean:+.4f} [{row.low:+.4f}, {row.high:+.4f}] against {results.baseline}, "
            f"and the {'upper' if self.bound == 'high' else 'lower'} end is below {self.limit:g}"
            for row in rows
            if getattr(row, self.bound) < self.limit
        ]


@with_options(data=data_given)
def main(
    data: Mapping[str, object],
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
    prompts: Annotated[str | None, typer.Option(help="An arm for every template of this task, as next_item.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of this run; a stopped run continues in its folder.")] = Path(
        "runs/ab"
    ),
    users: Annotated[int | None, typer.Option(help="Ask so many users, drawn at random. Default: all.")] = None,
    k: Annotated[int | None, typer.Option(help="Length of each list. Default: 10.")] = None,
    newest: Annotated[
        int | None, typer.Option(help="Only so many of the newest items of each history are known. Default: all.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random draws.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="The metric that is tested. Default: NDCG at k, as ndcg@10.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Arm or classic baseline that the others are compared with. Default: the first arm."),
    ] = None,
    classic: Annotated[
        str | None,
        typer.Option(
            "--classics", help="Classic baselines in the report: tuned on validation, with their defaults, or none."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how small a difference so many users can show; nobody is asked.")
    ] = False,
    stop_early: Annotated[
        bool, typer.Option("--stop-early", help="Stop once it is certain which arm is better.")
    ] = False,
    fail_if: Annotated[
        list[str] | None,
        typer.Option(help='End with exit code 1 where this holds of a difference, as "ndcg@10 < -0.005". Repeatable.'),
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Plan, or run, write and print."""
    failed: list[str] = []
    with exit_on_error():
        gates, wrong = _collected(fail_if or (), FailCondition.parse)
        every, unknown = _collected([prompts] if prompts else [], _every)
        chosen, settings = RunConfig.parsed(
            config,
            [*(arm or ()), *(one for names in every for one in names)],
            data=data,
            users=users,
            k=k,
            newest=newest,
            seed=seed,
            metric=metric,
            baseline=baseline,
            classics=classic,
            stop_early=stop_early or None,
        )
        wrong += unknown
        sure = not (unknown or settings.settings & {"arms", "baseline"})
        if len(chosen.arms) < 2 and chosen.baseline in ("", *chosen.arms) and sure:
            wrong.append(
                "an A/B needs two arms; give --arm A=PROMPT --arm B=PROMPT, or `llmgen evaluate` for one alone"
            )
        asked_for = [gate.metric for gate in gates]
        check(chosen, gates=asked_for, wrong=settings.and_more(wrong))
        if plan:
            Console().print(planned(chosen))
            return
        results = evaluate(chosen, out, command=command_line("llmgen ab"), gates=asked_for)
        shown(results, out, json_output)
        failed = [line for gate in gates for line in gate.failures(results)]
    for line in failed:
        Console(stderr=True).print(Text.assemble(("failed: ", "red"), line), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def planned(config: RunConfig) -> Table:
    """The smallest difference that the sample shows with a power of .8 at alpha = .05, before any model is asked.

    The spread of the users' differences is taken from pairs of classic baselines with their default settings: the
    closest and the farthest pair, since arms may be as alike as the former or as unlike as the latter.
    """
    dataset = config.protocol.load()
    tuning, final = samples(config.protocol, dataset)
    standing, _ = classics("defaults", config.protocol, tuning, final)
    measures = Measures(final, config.protocol.k)
    values = {arm.name: measures.per_user(rows_of(final.users, answers_of(arm, final))) for arm in standing}
    names = list(next(iter(values.values())))
    comparisons = max(1, len(config.arms) - 1)
    number = len(final)
    table = Table(
        title=f"{dataset.name}: what {number} users can show, power .8, alpha .05, "
        f"{comparisons} arm{'s' if comparisons > 1 else ''} against the baseline"
    )
    for heading in ("metric", "arms much alike", "arms quite different"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    tried = [name for name in values if name != "random"]
    for name in names:
        spreads = [
            float((values[one][name] - values[other][name]).std(ddof=1))
            for place, one in enumerate(tried)
            for other in tried[place + 1 :]
        ]
        spreads = [spread for spread in spreads if spread > 0]
        if spreads:
            cells = [
                f"±{detectable_difference(sd, number, comparisons=comparisons):.4f}"
                for sd in (min(spreads), max(spreads))
            ]
            table.add_row(name + (", tested" if name == config.main_metric else ""), *cells)
    return table


def _collected(texts: Sequence[str], read: Callable[[str], Read]) -> tuple[list[Read], list[str]]:
    """What is read of some texts, and what is wrong with those that cannot be read."""
    found, wrong = list[Read](), list[str]()
    for text in texts:
        try:
            found.append(read(text))
        except ConfigError as error:
            wrong.append(str(error))
    return found, wrong


def _every(task: str) -> Sequence[str]:
    library = PromptLibrary.default()
    found = [name for name in library if library[name].task == task]
    if not found:
        tasks = sorted({library[name].task for name in library})
        raise ConfigError(f"no template is for the task {task!r}; there are {', '.join(tasks)}")
    return [f"{name}={name}" for name in found]
