"""Compare two stored runs later, without asking anyone again.

    llmgen compare runs/one runs/other

Every arm of the second run against one of the first, paired by user. The main metric of the first run is tested, the
others are described. The runs must have asked the same users for the same items of the same data; where one of them
could stop early, intervals and p-values are those that hold whenever one stops.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import polars as pl
import typer
from rich.console import Console
from rich.table import Table

from llmgen.errors import ConfigError, DataError
from llmgen.evaluation.metrics.measures import span
from llmgen.evaluation.report.svg import p_value
from llmgen.evaluation.results import Results
from llmgen.evaluation.stats.pairwise import Comparison
from llmgen.evaluation.stats.pairwise import compare as pairwise
from llmgen.evaluation.summary import USERS
from llmgen.evaluation.terminal import exit_on_error


def compare(
    one: Path, other: Path, *, baseline: str | None = None, arm: str | None = None, draws: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Arms of a run against one of another.

    Args:
        one: Folder of the run with the baseline.
        other: Folder of the run that is compared with it.
        baseline: Arm of `one`; its first by default.
        arm: Arm of `other`; all that are no classic baselines by default.
        draws: See `llmgen.evaluation.stats.compare`.
        seed: See there.

    Raises:
        DataError: A folder without results, or results that do not belong together.
        ConfigError: An arm that there is not.
    """
    first, second = Results.read(one), Results.read(other)
    compatible(first, second)
    baseline = baseline or first.arms[0].name
    arms = [arm] if arm else [one.name for one in second.arms if one.kind == "arm"]
    for name, run, folder in ((baseline, first, one), *((name, second, other) for name in arms)):
        if name not in (there := [arm.name for arm in run.arms]):
            raise ConfigError(f"{folder} has no arm {name!r}; there are {', '.join(there)}")
    mine, theirs = _values(one), _values(other)
    shared = [column for column in mine.columns if column in theirs.columns and column not in ("arm", "user_id")]
    users = mine.filter(pl.col("arm") == baseline)["user_id"]

    def columns(table: pl.DataFrame, name: str) -> dict[str, pl.Series]:
        rows = pl.DataFrame({"user_id": users}).join(
            table.filter(pl.col("arm") == name), on="user_id", how="left", maintain_order="left"
        )
        return {column: rows[column] for column in shared}

    values = {f"{baseline} (baseline)": columns(mine, baseline), **{name: columns(theirs, name) for name in arms}}
    hits = [column for column in shared if column.startswith("hr@")]
    if first.metric not in shared:
        raise DataError(f"{other} does not have {first.metric}, the main metric of {one}; it has {', '.join(shared)}")
    spans = {column: span(column) for column in shared} if first.anytime or second.anytime else None
    return pairwise(
        values, baseline=f"{baseline} (baseline)", metric=first.metric, hits=hits, draws=draws, seed=seed, anytime=spans
    )


def compatible(one: Results, other: Results) -> None:
    """Make sure that two runs asked the same.

    Raises:
        DataError: They did not.
    """
    if one.sample.data != other.sample.data:
        raise DataError(f"the runs are of other data: {one.sample.data} and {other.sample.data}")
    if one.sample.digest != other.sample.digest:
        raise DataError(
            f"the runs asked other users, or for other items: {one.sample.users} users, sample {one.sample.digest}, "
            f"and {other.sample.users}, sample {other.sample.digest}; run one of them again with the other's protocol"
        )


def main(
    one: Annotated[Path, typer.Argument(help="Folder of the run with the baseline.")],
    other: Annotated[Path, typer.Argument(help="Folder of the run that is compared with it.")],
    baseline: Annotated[str | None, typer.Option(help="Arm of the first run; its first.")] = None,
    arm: Annotated[str | None, typer.Option(help="Arm of the second run; all.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare and print."""
    with exit_on_error():
        rows = compare(one, other, baseline=baseline, arm=arm)
        if json_output:
            typer.echo(
                json.dumps([{**row._asdict(), "difference": row.difference._asdict()} for row in rows], indent=1)
            )
            return
        table = Table(title=f"{other} against {baseline or Results.read(one).arms[0].name} of {one}")
        for heading in ("arm", "metric", "difference", "95 %", "p", "Holm p", "wins/ties/losses"):
            table.add_column(heading)
        for row in rows:
            found = row.difference
            table.add_row(
                row.arm,
                row.metric,
                f"{found.mean:+.4f}",
                f"[{found.low:+.4f}, {found.high:+.4f}]",
                p_value(row.p),
                p_value(row.p_holm),
                f"{found.wins}/{found.ties}/{found.losses}",
            )
        Console().print(table)


def _values(folder: Path) -> pl.DataFrame:
    path = folder / USERS
    try:
        found = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read each user's values from {path}: {error}") from None
    if missing := {"arm", "user_id"} - set(found.columns):
        raise DataError(f"{path} has no column {min(missing)}: it was not written by llmgen evaluate")
    return found
