"""Results as tables on the terminal."""

from __future__ import annotations

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmgen.evaluation.report.result_texts import best, mark_of, metric_label, reading_of, sample_line, shown_metrics
from llmgen.evaluation.report.svg import MISSING, amount, fit, number, p_value, signed
from llmgen.evaluation.results import Interval, Results


def show(results: Results, console: Console) -> None:
    """Verdict, arms, differences and cost, for a terminal of 80 columns or more."""
    console.print(Text(results.verdict, style="bold"))
    console.print(Text(sample_line(results), style="dim"))
    metrics, marked = shown_metrics(results), best(results)
    at_once = max(1, (console.width - 14) // 23)
    name = max(12, min(30, console.width - 2 - 23 * min(at_once, len(metrics))))
    for start in range(0, len(metrics), at_once):
        table = _table("Mean [95 %]; * best" if len(results.arms) > 1 else "Mean [95 %]", name)
        shown = metrics[start : start + at_once]
        for metric in shown:
            table.add_column(metric_label(metric), justify="right", no_wrap=True)
        for arm in results.arms:
            cells = [_short(arm.metrics.get(metric), arm.name in marked[metric]) for metric in shown]
            table.add_row(Text(arm.name), *cells, style="dim" if arm.kind == "baseline" else "")
        console.print(table)
    if results.differences:
        wide = console.width >= 100
        width = max(12, min(name, console.width - (80 if wide else 62)))
        table = _table("Difference to " + fit(results.baseline, 2 * width - 14, cell_len), width)
        for heading in ("", "Mean [95 %]", "Holm p", *(["p", "gain/lose"] if wide else []), ""):
            table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
        for row in results.differences:
            mean, reading = f"{signed(row.mean)} [{signed(row.low)}, {signed(row.high)}]", reading_of(row)
            more = [p_value(row.p), f"{row.wins}/{row.losses}"] if wide else []
            told = [metric_label(row.metric), mean, p_value(row.p_holm), *more, reading]
            style = "" if mark_of(row) in ("unclear", "plain") else "bold"
            table.add_row(Text(fit(row.arm, width, cell_len)), *told, style=style)
        console.print(table)
    costs = [f"{arm.name} {amount(arm.cost.seconds_per_1000)}" for arm in results.arms if arm.cost]
    if costs:
        console.print(Text("Seconds per 1,000 users: " + " · ".join(costs)))


def _table(heading: str, name_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column(heading, width=name_width, overflow="fold")
    return table


def _short(found: Interval | None, marked: bool) -> Text:
    if found is None:
        return Text(MISSING)
    low, high = (number(v, 3).removeprefix("0") for v in (found.low, found.high))
    star = "*" if marked else " "
    return Text(f"{star}{number(found.mean)} [{low}, {high}]", style="bold" if marked else "")
