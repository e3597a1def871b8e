"""Lists for all users of a shop: what `llmgen batch` costs beside `recommend_many`, its memory, and a killed run.

    python -m eval.batch ../shared/data/video-games --users 50000 --out runs/batch

Both arms do the same users, a shard after the other and in turn; CPU time is compared, which other work on the machine
changes little. Then the command itself runs once from start to end, and once more with `kill -9` in the middle.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.console import Console

from eval.serving import ratio
from llmgen.cli.batch import SHARD, made_here, write_lists
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace

K = 20
MEGABYTE = 1_000_000


class Ended(NamedTuple):
    """What a process of the command took.

    Attributes:
        status: As `os.waitstatus_to_exitcode` gives it.
        cpu_s: CPU time of all its threads.
        peak_mb: Most memory that it had, 10^6 bytes.
    """

    status: int
    cpu_s: float
    peak_mb: float


def command(folder: Path, users: Path, out: Path, *, killed_at: int | None = None) -> Ended:
    """Run `llmgen batch`, and kill it once so many files are there."""
    tables = ["--items", str(folder / "items.csv.gz"), "--interactions", str(folder / "log.csv.gz")]
    options = ["--column", "timestamp=position", "--engine", "none", "-k", str(K), "--users", str(users)]
    process = subprocess.Popen([sys.executable, "-m", "llmgen", "batch", *tables, *options, "--out", str(out)])
    while killed_at is not None and len(list(out.glob("part-*.parquet"))) < killed_at:
        time.sleep(0.01)
    if killed_at is not None:
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / MEGABYTE)


def digests(out: Path) -> dict[str, str]:
    """Name of each file of lists -> SHA-256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("part-*.parquet"))}


def main(
    folder: Annotated[Path, typer.Argument(help="With items.csv.gz and log.csv.gz, as eval.shop reads them.")],
    users: Annotated[int, typer.Option(min=1, help="The first of the log.")] = 50_000,
    out: Annotated[Path, typer.Option(help="Folder for the lists; it must not be there.")] = Path("runs/batch"),
) -> None:
    """Measure and print."""
    console = Console(width=120, highlight=False)
    out.mkdir(parents=True)
    data = DataSettings(
        items=folder / "items.csv.gz", interactions=folder / "log.csv.gz", columns={"timestamp": "position"}
    )
    workspace = Workspace(data.load())
    ids = list(workspace.histories)[:users]
    settings = RecommenderSettings(engine="none")
    recommender = workspace.recommender(settings, workspace.query(user=ids[0], k=K))
    many = partial(recommender.recommend_many, on_error="return")
    query = partial(workspace.query, k=K)
    alone_s, written_s = [], []
    for number, start in enumerate(range(0, len(ids), SHARD)):
        some = ids[start : start + SHARD]
        arms = ["alone", "written"] if number % 2 else ["written", "alone"]
        for arm in arms:
            began = time.process_time()
            if arm == "alone":
                many([query(user=user) for user in some])
                alone_s.append(time.process_time() - began)
            else:
                make = made_here(many, lambda user: query(user=user))
                write_lists(make, some, out / f"{number}", about="", progress=False)
                written_s.append(time.process_time() - began)
    speed = ratio(alone_s, written_s)
    console.print(
        f"{len(ids):,} users, k={K}: recommend_many {sum(alone_s):.1f} s CPU, with the writing of lists "
        f"{sum(written_s):.1f} s; its speed is {speed.value:.1%} ({speed.low:.1%}-{speed.high:.1%})"
    )
    named = out / "users.txt"
    named.write_text("\n".join(ids) + "\n", encoding="utf-8")
    whole = command(folder, named, out / "whole")
    console.print(f"llmgen batch: {whole.cpu_s:.1f} s CPU with its start, at most {whole.peak_mb:.0f} MB")
    files = len(digests(out / "whole"))
    killed = command(folder, named, out / "killed", killed_at=max(1, files // 2))
    left = len(digests(out / "killed"))
    again = command(folder, named, out / "killed")
    equal = digests(out / "killed") == digests(out / "whole")
    console.print(
        f"killed at {left} of {files} files (status {killed.status}), gone on with {again.cpu_s:.1f} s CPU: "
        f"files {'equal' if equal else 'DIFFERENT'}"
    )
    if whole.status or again.status or not equal:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
