"""Results for people: one HTML page to look at, and a short form for the terminal.

    llmgen report runs/ab            # renders runs/ab/results.json again, into runs/ab/report.html

The page is one file without scripts or anything to fetch; `charts` draws its charts, `report.html.jinja` is its text.
Everything that comes from results is escaped: titles and prompts are data of users.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from rich.console import Console

from llmgen.errors import ConfigError
from llmgen.evaluation.report import charts
from llmgen.evaluation.report.charts import Point, Row
from llmgen.evaluation.report.result_texts import (
    LOWER_IS_BETTER,
    NEITHER_IS_BETTER,
    base_metric,
    best,
    cost_of,
    mark_of,
    metric_label,
    reading_of,
    shown_metrics,
    unit_of,
)
from llmgen.evaluation.report.svg import MISSING, Scale, amount, number, p_value, signed
from llmgen.evaluation.report.terminal_report import show
from llmgen.evaluation.results import FILE, Results, SliceRow
from llmgen.evaluation.terminal import exit_on_error

PAGE = "report.html"
SLICES, DIVISIONS = 12, 8  # of the users; more would be scrolled past, and every one is another chance to be fooled
MEANINGS: Mapping[str, str] = {
    "coverage": "share of the catalog that stands in anybody's list",
    "gini": "0 where all items are shown equally often, near 1 where one item fills all places",
    "novelty": "how little known the items are, in bits: 1 more where half as many users took them",
    "popularity_lift": "how much more popular the items are than what the same user took; 0 for as popular",
    "diversity": "how different the items of one list are: 0 for all alike, 1 for nothing in common",
    "repetition": "share of places with something that the user took before",
    "exact": "share of answers that are proven to be the exact best",
    "valid": "share of generated lines that are titles of the catalog as they stand",
    "duplicates": "share of generated lines that name an item, but one that was given already or is not allowed",
    "route": "share of places by the way in which an answer became an item",
}
COSTS: Mapping[str, str] = {
    "prompt_tokens": "Prompt tokens",
    "rounds": "Model rounds",
    "cold_p50_s": "Latency cold, median, s",
    "cold_p95_s": "Latency cold, 95th percentile, s",
    "warm_p50_s": "Latency warm, median, s",
    "warm_p95_s": "Latency warm, 95th percentile, s",
    "seconds_per_1000": "Seconds per 1,000 users",
    "money_per_1000": "Money per 1,000 users",
}

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class Division(NamedTuple):
    """The users divided by one property.

    Attributes:
        by: The property.
        rows: Value of the slice -> arm -> its row, at most `SLICES` of them.
        left_out: How many smaller slices are not among them.
    """

    by: str
    rows: Mapping[str, Mapping[str, SliceRow]]
    left_out: int


class Panel(NamedTuple):
    """A chart and what stands above it."""

    heading: str
    chart: Markup


def render(results: Results) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        amount=amount,
        breakable=_breakable,
        label=metric_label,
        number=number,
        p_value=p_value,
        settings=_flat,
        signed=signed,
    )
    divisions, more = _divisions(results)
    return environment.get_template("report.html.jinja").render(
        results=results,
        groups=[
            ("Arms", [arm for arm in results.arms if arm.kind == "arm"]),
            ("Classic baselines", [arm for arm in results.arms if arm.kind == "baseline"]),
        ],
        metrics=shown_metrics(results),
        lists=list(dict.fromkeys(name for arm in results.arms for name in arm.lists)),
        meanings=_meanings(results),
        costs={
            name: text for name, text in COSTS.items() if any(cost_of(arm, name) is not None for arm in results.arms)
        },
        best=best(results),
        lower=LOWER_IS_BETTER.intersection(base_metric(metric) for metric in shown_metrics(results)),
        spark=_sparks(results),
        reading=reading_of,
        tests=sum(row.p_holm is not None for row in results.differences),
        described=any(row.p_holm is None for row in results.differences),
        forests=_forests(results),
        cost=_cost_chart(results),
        classic=any(arm.kind == "baseline" for arm in results.arms),
        lower_main=base_metric(results.metric) in LOWER_IS_BETTER,
        front=front(results),
        divisions=divisions,
        more_divisions=more,
        slices=_slice_forests(results, divisions),
        histograms=_histograms(results),
        most_slices=SLICES,
        file=FILE,
    )


def write(results: Results, folder: Path) -> Path:
    """Put `report.html` into a folder, whole or not at all."""
    return _put(render(results), Path(folder) / PAGE)


def front(results: Results) -> set[str]:
    """Names of the arms that no other beats in seconds and main metric both."""
    points = _points(results)
    lower = base_metric(results.metric) in LOWER_IS_BETTER
    places = charts.pareto([(point.cost, point.mean) for point in points], lower_is_better=lower)
    return {points[place].label for place in places}


def _forests(results: Results) -> list[Panel]:
    panels: list[Panel] = []
    for place, metric in enumerate(shown_metrics(results)):
        rows = [
            Row(
                row.arm,
                signed(row.mean) + ("" if row.p_holm is None else f"  p {p_value(row.p)}  Holm {p_value(row.p_holm)}"),
                row.mean,
                row.low,
                row.high,
                mark_of(row),
                row.detectable or 0.0,
            )
            for row in results.differences
            if row.metric == metric
        ]
        unit = unit_of(metric, results)
        alike = [row for row in results.differences if unit_of(row.metric, results) == unit]
        ends = [end for row in alike for end in (row.low, row.high, row.detectable or 0.0, -(row.detectable or 0.0))]
        if rows:
            title = f"{metric_label(metric)}: difference to {results.baseline}"
            chart = charts.forest(f"forest-{place}", title, rows, charts.scale_of(ends), ends=_ends(metric))
            panels.append(Panel(metric_label(metric), chart))
    return panels


def _slice_forests(results: Results, divisions: Sequence[Division]) -> dict[str, list[Panel]]:
    """Arm -> a forest for each division of the users, all on one scale."""
    rows = [row for division in divisions for by_arm in division.rows.values() for row in by_arm.values()]
    known = [row.difference for row in rows if row.difference]
    scale = charts.scale_of(value for found in known for value in (found.low, found.high))
    metric = rows[0].metric if rows else results.metric
    panels: dict[str, list[Panel]] = {}
    for number_of_arm, arm in enumerate(dict.fromkeys(row.arm for row in rows if row.difference)):
        for place, division in enumerate(divisions):
            lines = [
                Row(value, f"{signed(found.mean)}  {row.users:,} users", found.mean, found.low, found.high)
                for value, by_arm in division.rows.items()
                if (row := by_arm.get(arm)) and (found := row.difference)
            ]
            if lines:
                title = f"{arm}, {metric_label(metric)} by {division.by}: difference to {results.baseline}"
                chart = charts.forest(f"slices-{number_of_arm}-{place}", title, lines, scale, ends=_ends(metric))
                panels.setdefault(arm, []).append(Panel(division.by, chart))
    return panels


def _divisions(results: Results) -> tuple[list[Division], int]:
    """What is shown of the slices, in the order of the results, and how many divisions are not."""
    metrics = {row.metric for row in results.slices}
    metric = results.metric if results.metric in metrics else next((row.metric for row in results.slices), "")
    found: dict[str, dict[str, dict[str, SliceRow]]] = {}
    for row in results.slices:
        if row.metric == metric:
            found.setdefault(row.by, {}).setdefault(row.value, {})[row.arm] = row
    divisions: list[Division] = []
    for by, of_values in list(found.items())[:DIVISIONS]:
        sizes = {value: max(row.users for row in rows.values()) for value, rows in of_values.items()}
        kept = set(sorted(sizes, key=lambda value: -sizes[value])[:SLICES])
        shown = {value: rows for value, rows in of_values.items() if value in kept}
        divisions.append(Division(by, shown, len(of_values) - len(shown)))
    return divisions, len(found) - len(divisions)


def _histograms(results: Results) -> list[tuple[str, Markup, int, float]]:
    """Arm, chart, users, and the share of them without any difference."""
    values = {arm: [v for v in found if isfinite(v)] for arm, found in results.per_user.items()}
    widest = max((abs(v) for found in values.values() for v in found), default=0.0) or 1.0
    scale = Scale(-widest, widest, charts.LEFT, charts.RIGHT)
    tallest = max((max(charts.counts(found, scale)) for found in values.values()), default=1)
    return [
        (
            arm,
            charts.histogram(f"users-{place}", f"{arm}: differences of single users", found, scale, tallest),
            len(found),
            sum(v == 0 for v in found) / len(found),
        )
        for place, (arm, found) in enumerate(values.items())
        if found
    ]


def _cost_chart(results: Results) -> Markup | None:
    points = _points(results)
    if len(points) < 2:
        return None
    lower = base_metric(results.metric) in LOWER_IS_BETTER
    classics = [
        (found.mean, arm.name)
        for arm in results.arms
        if arm.kind == "baseline" and (found := arm.metrics.get(results.metric)) and isfinite(found.mean)
    ]
    value, name = (min if lower else max)(classics, default=(0.0, ""))
    metric = metric_label(results.metric)
    return charts.cost_quality(
        "cost",
        f"{metric} and seconds per 1,000 users",
        points,
        axes=("seconds per 1,000 users →", metric + (" (lower is better)" if lower else "")),
        reference=(name, value) if classics else None,
        lower_is_better=lower,
    )


def _points(results: Results) -> list[Point]:
    return [
        Point(arm.name, arm.cost.seconds_per_1000, found.mean, found.low, found.high)
        for arm in results.arms
        if arm.cost and (found := arm.metrics.get(results.metric))
        if all(map(isfinite, (arm.cost.seconds_per_1000, found.mean, found.low, found.high)))
    ]


def _sparks(results: Results) -> dict[tuple[str, str], Markup]:
    """(Arm, metric) -> its interval, drawn on the scale of the metric."""
    against = {arm.name: arm.metrics for arm in results.arms}.get(results.baseline, {})
    drawn: dict[tuple[str, str], Markup] = {}
    for metric in shown_metrics(results):
        known = {arm.name: arm.metrics[metric] for arm in results.arms if metric in arm.metrics}
        ends = [end for found in known.values() for end in (found.low, found.mean, found.high)]
        scale = charts.scale_of(ends, 0, 88, zero=False)
        reference = against[metric].mean if metric in against else None
        for name, found in known.items():
            drawn[name, metric] = charts.spark(found.mean, found.low, found.high, scale, reference)
    return drawn


def _meanings(results: Results) -> list[tuple[str, str]]:
    """What the columns about lists measure, where it is known."""
    names = dict.fromkeys(base_metric(name) for arm in results.arms for name in arm.lists)
    bases = dict.fromkeys("route" if name.startswith("route_") else name for name in names)
    return [(metric_label(name), MEANINGS[name]) for name in bases if name in MEANINGS]


def _ends(metric: str) -> tuple[str, str]:
    if base_metric(metric) in NEITHER_IS_BETTER:
        return ("← lower", "higher →")
    return ("← better", "worse →") if base_metric(metric) in LOWER_IS_BETTER else ("← worse", "better →")


def _flat(settings: Mapping[str, object], before: str = "") -> Iterator[tuple[str, str]]:
    """Settings as pairs of text, nested ones with dots in their names."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", _words(value)


def _breakable(name: str) -> Markup:
    """A name that may be broken after its underscores and slashes."""
    return Markup(re.sub(r"([_/@])", r"\1<wbr>", str(escape(name))))


def _words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if isfinite(value) else MISSING
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(one)}" for name, one in value.items()) or MISSING
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or MISSING
    return MISSING if value is None or value == "" else str(value)


def _put(page: str, path: Path) -> Path:
    part = path.with_name(path.name + ".part")
    part.write_text(page, encoding="utf-8")
    part.replace(path)
    return path


@app.command()
def main(
    results: Annotated[Path, typer.Argument(help="A file of results, or the folder that holds results.json.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html beside the results by default.")] = None,
) -> None:
    """Render stored results again."""
    with exit_on_error():
        found = Results.read(results)
        out = out or (results if results.is_dir() else results.parent) / PAGE
        try:
            _put(render(found), out)
        except OSError as error:
            raise ConfigError(f"cannot write {out}: {error.strerror}; give another --out") from None
    show(found, Console())
    typer.echo(f"The page: {out}")
