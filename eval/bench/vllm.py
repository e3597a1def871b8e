"""The search on vLLM beside vLLM's own ways: `eval.serving` in a process of its own."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval import serving
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, skipped
from eval.bench.timing import Measured, fresh

USERS, TOGETHER = 5, 4
TIMEOUT_S = 500


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    if find_spec("vllm") is None:
        yield skipped("search", "vLLM, 1 user", "beam_search", "vLLM is not installed")
        return
    if plan.quick:
        yield skipped("search", "vLLM, 1 user", "beam_search", "takes minutes; leave out --quick")
        return
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "serving.json"
        sizes = ["--users", str(USERS), "--together", str(TOGETHER), "--repeats", "2", "--default-blocks", "2"]
        fresh(["-m", "eval.serving", *sizes, "--out", str(out)], timeout_s=TIMEOUT_S)
        yield from rows(json.loads(out.read_text(encoding="utf-8")))


def rows(record: Mapping[str, Any]) -> list[Row]:
    """What `eval.serving` wrote, as rows; the subject is its narrow search."""
    found = []
    for key, users in (("alone", 1), ("batch", int(record["together"]))):
        if not record[key]:
            continue
        about = Row(
            part="search",
            case=f"vLLM, {users} user{'' if users == 1 else 's'}",
            arm="",
            items=record["num_items"],
            prompt_tokens=round(record["prompt_tokens"]),
            width=serving.K,
            k=serving.K,
            threads=record["machine"]["cores"],
            amount=users,
            unit="users",
            versions=record["machine"]["versions"],
        )
        arms = {name: Measured[None](wall_s=entry["seconds"]) for name, entry in record[key].items()}
        found += rows_of(about, {serving.NARROW: arms.pop(serving.NARROW), **arms})
    return found
