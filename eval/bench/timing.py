"""Timing of several arms in turn, so that a noisy machine is as bad to all of them.

Absolute times of one run say little about another machine or another hour; ratios of arms that were interleaved do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from rich.console import Console
from rich.progress import track

from llmgen.errors import LLMGenError

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000
SHOWN_S = 2.0
"""A bar is shown where the turns that are left will take longer than this, judged by the first."""


class BenchError(LLMGenError):
    """Something that is to be measured did not run."""


@dataclass(frozen=True)
class Arm(Generic[T]):
    """One way to do a task.

    Attributes:
        name: For people, and in stored runs.
        run: Turn (0, 1, ...) -> answer; this is timed. Equal turns of two arms work on the same input.
        before: Turn -> nothing; done first, and not timed.
        turns: At most so many, for arms that are slow; None for as many as the others do.
    """

    name: str
    run: Callable[[int], T]
    before: Callable[[int], object] | None = None
    turns: int | None = None


@dataclass
class Measured(Generic[T]):
    """What the turns of one arm took.

    Attributes:
        wall_s: Seconds of each turn.
        cpu_s: CPU seconds of each turn, of all threads.
        answers: Of each turn.
        peak_mb: Most memory that a turn took on top of what was there before it, 10^6 bytes; None off Linux.
    """

    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    answers: list[T] = field(default_factory=list)
    peak_mb: float | None = None


def interleave(
    arms: Sequence[Arm[T]], turns: int, *, warm: bool = True, loops: int = 1, label: str = ""
) -> dict[str, Measured[T]]:
    """Time all arms, turn by turn, in an order that moves on by one each turn.

    Args:
        arms: At least one; no name twice.
        turns: 1 or more.
        warm: Whether each arm does turn 0 once before, untimed; arms that do one turn only are not warmed.
        loops: Runs a turn, for what is too quick to be timed alone: the quickest is the turn's time, their mean the
            turn's CPU time.
        label: Of the bar, where one is shown.
    """
    measured = {arm.name: Measured[T]() for arm in arms}
    if warm:
        for arm in arms:
            if arm.turns != 1:
                _prepare(arm, 0)
                arm.run(0)
    bar = Console(stderr=True)
    began = time.perf_counter()
    _turn(arms, 0, loops, measured)
    slow = (time.perf_counter() - began) * (turns - 1) > SHOWN_S
    for turn in track(range(1, turns), f"  {label}", console=bar, transient=True, disable=not slow):
        _turn(arms, turn, loops, measured)
    return measured


@dataclass(frozen=True)
class Ended:
    """What a fresh process took.

    Attributes:
        output: What it printed.
        wall_s: Seconds from its start to its end.
        cpu_s: CPU seconds of all its threads.
        peak_mb: Most memory that it had, 10^6 bytes.
    """

    output: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def fresh(arguments: Sequence[str], *, timeout_s: float = 600) -> Ended:
    """Run `python ARGUMENTS` in a process of its own, in the checkout.

    Raises:
        BenchError: It failed, or was not done in time and was stopped.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.perf_counter()
        process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=output, stderr=errors)
        watch = threading.Timer(timeout_s, process.kill)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)  # tells what this child took; Popen.wait does not
        wall_s = time.perf_counter() - began
        watch.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            told = errors.read().strip().splitlines()
            late = f" after {timeout_s:.0f} s" if wall_s >= timeout_s else ""
            raise BenchError(
                f"python {' '.join(arguments)} ended with {process.returncode}{late}: {told[-1] if told else ''}"
            )
        peak_mb = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
        return Ended(output.read(), wall_s, usage.ru_utime + usage.ru_stime, peak_mb)


def _turn(arms: Sequence[Arm[T]], turn: int, loops: int, measured: dict[str, Measured[T]]) -> None:
    first = turn % len(arms)
    for arm in [*arms[first:], *arms[:first]]:
        if arm.turns is not None and turn >= arm.turns:
            continue
        _prepare(arm, turn)
        peak = _Peak()
        walls = []
        cpu = time.process_time()
        for _ in range(loops):
            began = time.perf_counter()
            answer = arm.run(turn)
            walls.append(time.perf_counter() - began)
        of_arm = measured[arm.name]
        of_arm.cpu_s.append((time.process_time() - cpu) / loops)
        of_arm.wall_s.append(min(walls))
        of_arm.answers.append(answer)
        taken = peak.taken_mb()
        if taken is not None:
            of_arm.peak_mb = max(taken, of_arm.peak_mb or 0.0)


def _prepare(arm: Arm[T], turn: int) -> None:
    if arm.before is not None:
        arm.before(turn)


class _Peak:
    """How far the resident memory of this process rises; only Linux tells and lets its peak be reset."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is what is there now
        except OSError:
            self._before = None
        else:
            self._before = _kilobytes("VmRSS")

    def taken_mb(self) -> float | None:
        """Rise since this was made, 10^6 bytes."""
        if self._before is None:
            return None
        return max(0, _kilobytes("VmHWM") - self._before) * 1024 / MEGABYTE


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
