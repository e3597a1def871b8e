"""Speed and size, side by side with what people use today.

    python -m eval.bench                                  # everything, under 20 minutes on two cores
    python -m eval.bench trie priors --quick --json new.json
    python -m eval.bench trie priors --quick --baseline old.json --bound 1.3
    python -m eval.bench vectors --sizes 10000,100000,1000000 --catalog ml-latest-small.zip --catalog items.csv.gz

Arms that are compared are timed in turn in one process, so that a ratio of theirs holds on another machine and another
day; seconds do not. A fast wrong answer fails: wherever two arms should agree, they are held against each other.
Ends with 0, with 1 where an answer was wrong or a ratio grew beyond the bound, and with 2 after an error that was told.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Annotated, cast

import typer
from rich.console import Console
from rich.text import Text

from eval.bench.baseline import changes, regressions
from eval.bench.plan import Part, Plan
from eval.bench.rows import Record, Row, skipped, unequal
from eval.bench.show import show, show_changes, show_environment, show_targets
from eval.bench.targets import outcomes
from eval.bench.timing import BenchError
from llmgen.errors import ConfigError, EngineUnavailableError
from llmgen.evaluation.environment import environment
from llmgen.evaluation.terminal import exit_on_error

WIDTH = 150
PARTS = ("search", "trie", "priors", "changes", "many", "service", "training", "start")
LONG = ("vectors", "host", "evaluation", "page")
"""Parts that run only where they are asked for; `page` needs Chromium, `vectors` 5 GB of memory."""


def main(
    parts: Annotated[
        list[str] | None, typer.Argument(help=f"{', '.join(PARTS)}, which is the default, or {', '.join(LONG)}.")
    ] = None,
    catalogs: Annotated[
        list[str] | None,
        typer.Option(
            "--catalog",
            help="A data set's name, a folder or zip of MovieLens, Online Retail's csv(.gz), a catalog's jsonl; several"
            " times for several. [default: movielens-100k]",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Small sizes, a minute or two.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write all rows here.")] = None,
    baseline: Annotated[Path | None, typer.Option(help="A run's --json file to compare ratios with.")] = None,
    bound: Annotated[float, typer.Option(min=1.0, help="How many times its old value a ratio may be.")] = 1.3,
    seed: Annotated[int, typer.Option(help="Of titles, logs and users.")] = 0,
    sizes: Annotated[
        str, typer.Option(help="Numbers of items for changes and vectors, with commas, in the place of their own.")
    ] = "",
) -> None:
    """Measure, print and write."""
    console, began = Console(width=WIDTH), time.perf_counter()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with exit_on_error():
        chosen = _chosen(parts or PARTS)
        stored = None if baseline is None else Record.load(baseline)
        plan = Plan(quick, tuple(catalogs or ("movielens-100k",)), seed, _numbers(sizes))
        rows: list[Row] = []
        broken: list[str] = []

        def told_so_far() -> Record:
            show(rows, console)
            about = environment(" ".join(["python -m eval.bench", *sys.argv[1:]]), started)
            record = Record(about, quick, time.perf_counter() - began, rows)
            if json_file is not None:
                record.save(json_file)
            return record

        for part in chosen:
            console.print(Text(f"{part}: measuring", "bold"))
            try:
                for row in measured(part, plan):
                    if not rows or rows[-1].key[:2] != row.key[:2]:
                        console.print(f"  {time.perf_counter() - began:4.0f} s  {row.case}", highlight=False)
                    rows.append(row)
            except BenchError as error:  # what was measured so far is still told
                broken.append(f"{part}: {error}")
            except Exception:  # a mistake of the benchmark itself: half an hour of measuring is not lost to it
                told_so_far()
                raise
        record = told_so_far()
        show_targets(outcomes(rows), console)
        show_environment(record, console)
        failed = unequal(rows)
        if stored is not None:
            found = changes(rows, stored.rows)
            show_changes(found, bound, console)
            failed += regressions(found, bound)
        for line in failed:
            Console(stderr=True).print(Text.assemble(("failed: ", "red"), line), soft_wrap=True)
        if broken:
            raise BenchError("; ".join(broken))
    if failed:
        raise typer.Exit(1)


def measured(name: str, plan: Plan) -> Iterator[Row]:
    """The rows of one part; where its packages or its model are missing, one that says so."""
    try:
        part = cast(Part, import_module(f"eval.bench.{name}").run)
        yield from part(plan)
    except (ImportError, EngineUnavailableError) as error:
        yield skipped(name, "all", "llmgen", str(error))


def _numbers(sizes: str) -> tuple[int, ...]:
    """Numbers of items, from a text with commas."""
    texts = [text.strip() for text in sizes.split(",")] if sizes else []
    if wrong := [text for text in texts if not text.isdecimal() or int(text) < 1]:
        raise ConfigError(f"--sizes has {wrong[0]!r}; write numbers of items with commas, such as 10000,100000")
    return tuple(map(int, texts))


def _chosen(parts: Sequence[str]) -> list[str]:
    known = (*PARTS, *LONG)
    if unknown := sorted(set(parts) - set(known)):
        raise ConfigError(f"no part is called {unknown[0]!r}; there are {', '.join(known)}")
    return [part for part in known if part in parts]


if __name__ == "__main__":
    typer.run(main)
