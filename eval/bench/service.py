"""Requests a second and their latency over HTTP: `eval.load`, whose clients check every answer."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import typer

from eval import load
from eval.bench.plan import Plan
from eval.bench.rows import Row, versions

K = 10


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    yield from served("fake", plan, clients="1,4,16", requests=300 if plan.quick else 2_000, users=100)
    if not plan.quick:
        yield from served("hf", plan, clients="1,16", requests=48, users=48)


def served(engine: str, plan: Plan, *, clients: str, requests: int, users: int) -> list[Row]:
    """A row for each number of clients."""
    dataset = plan.catalogs[0]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "load.json"
        with suppress(typer.Exit):  # it ends so for lost or wrong answers, of which the file says how many
            load.main(engine=engine, dataset=dataset, clients=clients, requests=requests, users=users, k=K, out=out)
        record = json.loads(out.read_text(encoding="utf-8"))
    rows = []
    for run in record["runs"]:
        one = "client" if run["clients"] == 1 else "clients"
        wrong = run["lost"] + run["wrong"]
        rows.append(
            Row(
                part="service",
                case=f"{engine} engine over HTTP",
                arm=f"{run['clients']} {one}",
                items=len(plan.sample),
                k=K,
                threads=os.cpu_count(),
                amount=1,
                unit="requests",
                runs=run["requests"],
                p50_s=run["p50_ms"] / 1000,
                p95_s=run["p95_ms"] / 1000,
                wall_s=run["seconds"] / run["requests"],
                cpu_s=run["cpu_ms"] / 1000,
                size_mb=run["memory_mb"][-1],
                equal=not wrong,
                versions=versions("torch", "transformers", "fastapi", "uvicorn"),
                note=f"p99 {run['p99_ms']:.1f} ms" + (f", {wrong} of {run['requests']} lost or wrong" if wrong else ""),
            )
        )
    return rows
