"""Where and with what a run is made."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import llmgen
from llmgen.evaluation.answers import code_digest
from llmgen.evaluation.results import Environment

PACKAGES = ("torch", "transformers", "vllm", "peft", "numpy", "scipy", "polars")


def environment(command: str, started: str) -> Environment:
    """Where and with what this process runs."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions |= {"python": platform.python_version(), "llmgen sources": code_digest()}
    return Environment(
        command=command,
        commit=_commit(Path(llmgen.__file__).parents[1]),
        started=started,
        hardware=hardware(),
        versions=versions,
    )


def _commit(folder: Path) -> str:
    """Of a checkout; where this is an installed package, its version, whatever checkout lies around it."""
    if (folder / ".git").exists():
        described = ["git", "describe", "--always", "--dirty"]
        done = subprocess.run(described, capture_output=True, text=True, check=False, cwd=folder)
        if commit := done.stdout.strip():
            return commit
    return f"llmgen {llmgen.__version__}"


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
