"""What can only be checked on a CUDA machine, in one command that needs nobody: `make gpu-check`.

    python -m eval.gpu_check --out runs/gpu-check.json

1. The tests that are marked `gpu`: the contract of the engines on the device, for transformers and, where it is
   installed, for vLLM, that both give the same numbers, and a run of training.
2. Where vLLM is installed: the search beside vLLM's own beam search and greedy decoding (`eval.serving`).

Each runs in a process of its own with a time limit, under eight minutes in all. The exit code is 0 if nothing failed,
also where there is no device: what was skipped is then listed with its reason. It is 1 if something failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval import serving

TESTS_S = 240
TIMES_S = 220
ROOT = Path(__file__).parent.parent

State = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One line of the report: what was checked, how it went, and why or with which numbers."""

    name: str
    state: State
    detail: str


def missing() -> str:
    """Why nothing can be checked on a device here; empty if it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install 'llmgen[hf]'"
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no CUDA device"
    return ""


def tests() -> list[Check]:
    """The tests for a device, one line a class or lone test."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        marked = ["-m", "gpu", "tests/gpu", "tests/training"]
        command = [sys.executable, "-m", "pytest", *marked, "-q", f"--junitxml={report}"]
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=TESTS_S, check=False)
        except subprocess.TimeoutExpired:
            return [Check("tests", "failed", f"not done after {TESTS_S} s")]
        if not report.exists():
            return [Check("tests", "failed", f"pytest ended with {done.returncode} and without a report")]
        return read_report(report.read_text(encoding="utf-8"))


def read_report(text: str) -> list[Check]:
    """The lines of a JUnit report: failures first in each line's detail, then reasons for skipping."""
    groups: dict[str, list[ET.Element]] = {}
    for case in ET.fromstring(text).iter("testcase"):
        owner = case.get("classname", "").rpartition(".")[2]
        name = owner if owner.startswith("Test") else case.get("name", "")
        groups.setdefault(name, []).append(case)
    checks = []
    for name, cases in groups.items():
        broken = [
            case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None
        ]
        left = [case.find("skipped") for case in cases]
        reasons = sorted({mark.get("message", "") for mark in left if mark is not None})
        passed = len(cases) - len(broken) - sum(mark is not None for mark in left)
        told = f"{passed} of {len(cases)} passed"
        if broken:
            checks.append(Check(name, "failed", f"{told}; failed: {', '.join(broken)}"))
        elif passed:
            checks.append(Check(name, "passed", told + (f"; skipped: {'; '.join(reasons)}" if reasons else "")))
        else:
            checks.append(Check(name, "skipped", "; ".join(reasons)))
    return checks


def times() -> tuple[list[Check], dict[str, Any] | None]:
    """The search beside vLLM's own ways, and the record that `eval.serving` wrote."""
    if importlib.util.find_spec("vllm") is None:
        return [Check("speed on vLLM", "skipped", "vLLM is not installed: pip install 'llmgen[vllm]'")], None
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "serving.json"
        command = [sys.executable, "-m", "eval.serving", "--users", "20", "--together", "32", "--out", str(out)]
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=TIMES_S, check=False)
        except subprocess.TimeoutExpired:
            return [Check("speed on vLLM", "failed", f"not done after {TIMES_S} s")], None
        if done.returncode or not out.exists():
            return [Check("speed on vLLM", "failed", f"eval.serving ended with {done.returncode}")], None
        record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    checks = []
    for name, wanted in serving.TARGETS.items():
        value = record["alone"][name]["ratio"]["value"]
        state: State = "passed" if value >= wanted else "failed"
        checks.append(Check(f"speed against {name}", state, f"{value:.2f} times the search's time, wanted {wanted}"))
    return checks, record


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print a table, write JSON; 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m eval.gpu_check", description="What needs a CUDA device.")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu-check.json"), metavar="FILE", help="default %(default)s"
    )
    options = parser.parse_args(arguments)
    start = time.monotonic()
    record = None
    if reason := missing():
        names = ("transformers on the device", "vLLM on the device", "speed on vLLM")
        checks = [Check(name, "skipped", reason) for name in names]
    else:
        checks = tests()
        timed, record = times()
        checks += timed
    about = serving.machine()
    table = Table(title=f"{about['cuda'] or 'no CUDA device'}, commit {about['commit']}")
    for column in ("check", "state", "detail"):
        table.add_column(column)
    for check in checks:
        table.add_row(check.name, check.state, Text(check.detail))  # a reason may name llmgen[vllm], which is no markup
    console = Console(width=140)
    console.print(table)
    console.print(", ".join(f"{package} {number}" for package, number in about["versions"].items()), highlight=False)
    written = {
        "machine": about,
        "seconds": time.monotonic() - start,
        "checks": [asdict(check) for check in checks],
        "serving": record,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return int(any(check.state == "failed" for check in checks))


if __name__ == "__main__":
    sys.exit(main())
