"""Tokens a second of a training step beside plain TRL: `training.speed` in a process of its own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, skipped, versions
from eval.bench.timing import Measured, fresh

PLAIN = "plain TRL"
NEEDED = ("torch", "trl", "peft", "datasets")
TIMEOUT_S = 500


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    if missing := [package for package in NEEDED if find_spec(package) is None]:
        yield skipped("training", "a step", PLAIN, f"{missing[0]} is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "speed.json"
        batches = 2 if plan.quick else 3
        fresh(["-m", "training.speed", "--batches", str(batches), "--json", str(out)], timeout_s=TIMEOUT_S)
        record = json.loads(out.read_text(encoding="utf-8"))
    yield from rows(record["tokens"], record["seconds"])


def rows(tokens: Sequence[int], seconds: Mapping[str, Sequence[float]]) -> list[Row]:
    """What `training.speed` wrote, as rows: a case for each loss of ours, beside TRL's own.

    Args:
        tokens: Of each batch.
        seconds: Loss -> of each batch; TRL's is called `plain TRL`.
    """
    found = []
    for loss, taken in seconds.items():
        if loss == PLAIN:
            continue
        about = Row(
            part="training",
            case=f"a step, loss {loss}",
            arm="",
            prompt_tokens=round(float(np.mean(tokens))),
            threads=os.cpu_count(),
            amount=float(np.mean(tokens)),
            unit="tokens",
            versions=versions("torch", "transformers", "trl", "peft"),
        )
        arms = {"llmgen": Measured[None](wall_s=list(taken)), PLAIN: Measured[None](wall_s=list(seconds[PLAIN]))}
        found += rows_of(about, arms)
    return found
