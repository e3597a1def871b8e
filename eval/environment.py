"""Where and with what a run is made."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from eval.answers import code_digest
from eval.results import Environment

PACKAGES = ("torch", "transformers", "vllm", "peft", "numpy", "scipy", "polars")


def environment(command: str, started: str) -> Environment:
    """Where and with what this process runs."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions |= {"python": platform.python_version(), "llmgen sources": code_digest()}
    return Environment(
        command=command,
        commit=done.stdout.strip() or "unknown",
        started=started,
        hardware=hardware(),
        versions=versions,
    )


def hardware() -> str:
    """The processor and, where there is one, the device."""
    model = ""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
        cores = sum(line.startswith("processor") for line in lines)
    except OSError:
        cores = 0
    found = f"{model or platform.machine()}, {cores} cores" if cores else platform.machine()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if torch.cuda.is_available():
            found += f", {torch.cuda.get_device_name()}"
    return found
