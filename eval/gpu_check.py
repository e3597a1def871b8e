"""What can only be checked on a CUDA machine, in one command that needs nobody: `make gpu-check`.

    python -m eval.gpu_check --out runs/gpu-check.json

In this order, most telling first, and the report is written anew after each:

1. Where vLLM is installed: requests a second beside prefill, greedy decoding, `LLM.beam_search`, our engine on
   transformers and transformers' own constrained beam search (`eval.bench.gpu speed`).
2. Likewise: top tens and log-probabilities beside transformers in float32 (`eval.bench.gpu equal`).
3. The tests that are marked `gpu`: the contract of the engines on the device, for transformers and, where it is
   installed, for vLLM, that both give the same numbers, and a run of training.

Each runs in a process of its own with a time limit, under eight minutes in all; what a benchmark found before its limit
counts. The exit code is 0 if nothing failed, also where there is no device: what was skipped is then listed with its
reason. It is 1 if something failed.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval import serving
from eval.bench import gpu

SPEED_S = 180
EQUAL_S = 110
TESTS_S = 180
PARALLEL_USERS = 16
BEAM_SEARCH_TIMES = 7.0
"""How many times as long `LLM.beam_search` of the same width is to take for `PARALLEL_USERS` users."""
SAME_LISTS = 50
"""Top tens in float32 that are to be those of transformers, all of them."""
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
        # warnings of what else runs on such a machine, also of what pytest finds while it ends, are not failures
        command = [sys.executable, "-m", "pytest", *marked, "-q", "-W", "default", f"--junitxml={report}"]
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


def findings(what: str, timeout_s: int, *options: str) -> tuple[list[dict[str, Any]], str]:
    """What `eval.bench.gpu` found before its time was up, and why it did not come to its end; empty if it did."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "findings.jsonl"
        command = [sys.executable, "-m", "eval.bench.gpu", what, "--out", str(out), *options]
        try:
            ended = subprocess.run(command, cwd=ROOT, timeout=timeout_s, check=False).returncode
            reason = f"eval.bench.gpu {what} ended with {ended}" if ended else ""
        except subprocess.TimeoutExpired:
            reason = f"not done after {timeout_s} s"
        lines = out.read_text(encoding="utf-8").splitlines() if out.exists() else []
        return [json.loads(line) for line in lines], reason


def speed_checks(found: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Requests a second as `eval.bench.gpu speed` found them, a line a catalog and number of users.

    The state is of `BEAM_SEARCH_TIMES`; where `LLM.beam_search` was not timed a line is there to be read.
    """
    timed: dict[tuple[str, int], dict[str, Mapping[str, Any]]] = {}
    for row in found:
        if row["stage"] == "speed":
            timed.setdefault((row["catalog"], row["users"]), {})[row["arm"]] = row
    checks = []
    for (catalog, users), arms in timed.items():
        if gpu.OURS not in arms:
            continue
        ours = arms[gpu.OURS]
        ratios = {name: arm["p50_s"] / ours["p50_s"] for name, arm in arms.items() if name != gpu.OURS}
        told = [f"{ours['requests_s']:.0f} requests/s"]
        told += [f"{name} takes {ratio:.2f} times as long" for name, ratio in ratios.items()]
        missed = users == PARALLEL_USERS and ratios.get(gpu.BEAM, BEAM_SEARCH_TIMES) < BEAM_SEARCH_TIMES
        wanted = f" (wanted {BEAM_SEARCH_TIMES:g})" if missed else ""
        checks.append(Check(f"{catalog}, {users} users", "failed" if missed else "passed", ", ".join(told) + wanted))
    return checks


def equality_checks(found: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Top tens beside transformers as `eval.bench.gpu equal` found them; in float32 all are to be the same."""
    checks = []
    for row in found:
        if row["stage"] == "equal":
            missed = row["dtype"] == "float32" and row["same_lists"] < row["users"]
            told = (
                f"{row['same_lists']} of {row['users']} top tens the same, {row['same_sets']} with the same items, "
                f"overlap {row['overlap']:.3f}, largest difference of a log-probability "
                f"{row['largest_logprob_difference']:.2g}"
            )
            checks.append(Check(f"vLLM in {row['dtype']}", "failed" if missed else "passed", told))
    return checks


def on_vllm() -> Iterator[tuple[list[Check], list[dict[str, Any]]]]:
    """Both benchmarks, one after the other: their lines and what they found."""
    if importlib.util.find_spec("vllm") is None:
        reason = "vLLM is not installed: pip install 'llmgen[vllm]'"
        yield [Check(name, "skipped", reason) for name in ("speed on vLLM", "equality on vLLM")], []
        return
    # both engines on one card, so vLLM must not take nearly all of its memory
    both = ("--dtype", "bfloat16", "--transformers", "--option", "gpu_memory_utilization=0.6")
    for what, timeout_s, read, options in (
        ("speed", SPEED_S, speed_checks, both),
        ("equal", EQUAL_S, equality_checks, ("--users", str(SAME_LISTS))),
    ):
        found, reason = findings(what, timeout_s, *options)
        checks = read(found)
        yield checks + ([Check(f"{what} on vLLM", "failed", reason)] if reason else []), found


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print a table, write JSON; 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m eval.gpu_check", description="What needs a CUDA device.")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/gpu-check.json"), metavar="FILE", help="default %(default)s"
    )
    options = parser.parse_args(arguments)
    start = time.monotonic()
    checks: list[Check] = []
    found: list[dict[str, Any]] = []

    def write() -> None:
        written = {
            "machine": serving.machine(),
            "seconds": time.monotonic() - start,
            "checks": [asdict(check) for check in checks],
            "findings": found,
        }
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")

    if reason := missing():
        names = ("speed on vLLM", "equality on vLLM", "tests on the device")
        checks += [Check(name, "skipped", reason) for name in names]
    else:
        for lines, rows in on_vllm():
            checks += lines
            found += rows
            write()
        checks += tests()
    write()
    about = serving.machine()
    table = Table(title=f"{about['cuda'] or 'no CUDA device'}, commit {about['commit']}")
    for column in ("check", "state", "detail"):
        table.add_column(column)
    for check in checks:
        table.add_row(check.name, check.state, Text(check.detail))  # a reason may name llmgen[vllm], which is no markup
    console = Console(width=140)
    console.print(table)
    console.print(", ".join(f"{package} {number}" for package, number in about["versions"].items()), highlight=False)
    return int(any(check.state == "failed" for check in checks))


if __name__ == "__main__":
    sys.exit(main())
