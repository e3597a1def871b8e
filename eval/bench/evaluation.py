"""The classic baselines on many users and a large catalog: `llmgen evaluate` in its own process, and what it takes.

Not among the parts that run by default, since 100,000 users among a million items take more than half an hour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import yaml

from eval.bench.logs import log
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of
from eval.bench.timing import Measured, fresh

EACH = 20
"""Interactions of a user; all but the last two are learned from."""
HOURS = 4


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    users, items = (3_000, 100_000) if plan.quick else (100_000, 1_000_000)  # too many for EASE
    with tempfile.TemporaryDirectory() as folder:
        config = written(plan, users, items, Path(folder))
        command = ["-m", "llmgen", "evaluate", "--config", str(config), "--out", f"{folder}/out"]
        ended = fresh(command, timeout_s=3600 * HOURS)
    measured = Measured[None](wall_s=[ended.wall_s], cpu_s=[ended.cpu_s], peak_mb=ended.peak_mb)
    case = f"baselines, {users:,} users, {items:,} items"
    about = Row(part="evaluation", case=case, arm="", items=items, amount=users, unit="users", k=10)
    yield from rows_of(about, {"llmgen evaluate": measured})


def written(plan: Plan, users: int, items: int, folder: Path) -> Path:
    """Two tables of made-up data, and the settings of a run on them; the path of the settings."""
    titles = plan.titles(items)
    pl.DataFrame({"item_id": [str(number) for number in range(items)], "title": titles}).write_parquet(
        folder / "items.parquet"
    )
    log(items, users, EACH, seed=plan.seed).drop("rating").write_parquet(folder / "log.parquet")
    data = {"items": str(folder / "items.parquet"), "interactions": str(folder / "log.parquet")}
    settings = {"protocol": {"data": data}, "classics": "defaults", "latency_users": 0}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path
