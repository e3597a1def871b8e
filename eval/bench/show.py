"""The tables of a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from eval.bench.baseline import Change
from eval.bench.rows import Record, Row
from eval.bench.targets import Outcome

COLUMNS = ("arm", "runs", "p50", "p95", "CPU", "rate", "peak MB", "size MB", "subject / arm [95 %]", "equal")
UNITS = ((1.0, "s"), (1e-3, "ms"), (0.0, "µs"))


def show(rows: Sequence[Row], console: Console) -> None:
    """A table a case; its first arm is the subject."""
    for (_, case), group in groupby(rows, key=lambda row: (row.part, row.case)):
        members = list(group)
        measured = [row for row in members if row.p50_s is not None]
        if measured:
            table = Table(title=_title(case, measured[0]), title_justify="left")
            for column in COLUMNS:
                table.add_column(column, justify="left" if column == "arm" else "right")
            for row in measured:
                table.add_row(*_cells(row))
            console.print(table)
        for row in members:
            if row.note:
                console.print(f"{case}, {row.arm}: {row.note}", highlight=False, markup=False, soft_wrap=True)


def show_targets(found: Sequence[Outcome], console: Console) -> None:
    """What was to be reached, and what was."""
    if not found:
        return
    table = Table(title="Targets", title_justify="left")
    for column in ("part", "case", "arm", "figure", "at most", "measured", ""):
        table.add_column(column)
    for outcome in found:
        part, case, arm, figure, most = outcome.target
        table.add_row(
            part, case, arm, figure, f"{most:.3g}", f"{outcome.value:.3g}", "met" if outcome.met else "[red]missed[/]"
        )
    console.print(table)


def show_changes(found: Sequence[Change], bound: float, console: Console) -> None:
    """Ratios then and now."""
    table = Table(title=f"Beside the baseline, bound {bound:g}", title_justify="left")
    for column in ("part", "case", "arm", "before", "now", "times"):
        table.add_column(column)
    for change in found:
        factor = f"{change.factor:.2f}"
        cells = (
            f"{change.before:.3g}",
            f"{change.now:.3g}",
            f"[red]{factor}[/]" if change.is_beyond(bound) else factor,
        )
        table.add_row(change.row.part, change.row.case, change.row.arm, *cells)
    console.print(table)


def show_environment(record: Record, console: Console) -> None:
    """Where, and with what."""
    about = record.environment
    packages = ", ".join(f"{package} {number}" for package, number in about.versions.items())
    console.print(f"{about.hardware}; commit {about.commit}; {packages}", highlight=False, soft_wrap=True)
    console.print(f"{record.seconds:.0f} s in all", highlight=False)


def _title(case: str, row: Row) -> str:
    parts = [f"{row.part}: {case}"]
    if row.prompt_tokens is not None:
        parts.append(f"prompts of {row.prompt_tokens} tokens")
    if row.threads is not None:
        parts.append(f"{row.threads} thread{'' if row.threads == 1 else 's'}")
    return ", ".join(parts)


def _cells(row: Row) -> list[str]:
    rate = "" if row.unit == "runs" or row.rate is None else f"{row.rate:,.3g} {row.unit}/s"
    against = ""
    if row.ratio is not None:
        against = f"{row.ratio:.3g}"
    if row.ratio_low is not None and row.ratio_high is not None:
        against += f" [{row.ratio_low:.3g}, {row.ratio_high:.3g}]"
    equal = {None: "", True: "yes", False: "[red]NO[/]"}[row.equal]
    times = [_seconds(value) for value in (row.p50_s, row.p95_s, row.cpu_s)]
    sizes = ["" if value is None else f"{value:,.1f}" for value in (row.peak_mb, row.size_mb)]
    return [row.arm, str(row.runs), *times, rate, *sizes, against, equal]


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    size, unit = next((size, unit) for size, unit in UNITS if value >= size)
    return f"{value / (size or 1e-6):.3g} {unit}"
