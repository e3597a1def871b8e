"""Rows of the benchmark, and the file that holds them.

A case is one task that several arms do side by side. Its first arm is the subject: llmgen, or llmgen on the largest
size. The other arms are yardsticks, and each of their rows says how the subject's time compares: `ratio` is the
subject's time over this arm's, so lower is better everywhere, and below 1 the subject is the faster one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from eval.bench.timing import Measured
from eval.serving import ratio
from llmgen.errors import DataError
from llmgen.evaluation.results import Environment

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one arm took in one case.

    Attributes:
        part: Of the benchmark: search, trie, ...
        case: The task; with `part` and `arm` it is the row's key in a stored run.
        arm: Who did it.
        items: N, size of the catalog.
        prompt_tokens: Mean length of the prompts.
        width: Beams.
        k: Items asked for.
        threads: That the arm could use.
        amount: How much one run works through, in `unit`.
        unit: users, requests, items, tokens, ...
        runs: How often it was timed.
        p50_s, p95_s, wall_s, cpu_s: Seconds a run: median, 95 % quantile, mean, and mean CPU time of all threads.
        peak_mb: Most memory that a run took on top of what was there before, 10^6 bytes; None where it is not known.
        size_mb: Memory of what was made.
        ratio: The subject's total time over this arm's, in the runs that both did; None for the subject itself.
        ratio_low, ratio_high: Ends of its 95 % interval, by bootstrap over the runs; None of a single run.
        equal: Whether the subject's answers were checked to be right beside this arm's; None where nothing is to be
            compared.
        versions: Of the packages that did the work.
        note: Why there are no figures, or what to know about them.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    part: str
    case: str
    arm: str
    items: int | None = None
    prompt_tokens: int | None = None
    width: int | None = None
    k: int | None = None
    threads: int | None = None
    amount: float = 1
    unit: str = "runs"
    runs: int = 0
    p50_s: float | None = None
    p95_s: float | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    peak_mb: float | None = None
    size_mb: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    equal: bool | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What is the same in every run of the benchmark."""
        return self.part, self.case, self.arm

    @property
    def rate(self) -> float | None:
        """`unit` a second."""
        return self.amount / self.wall_s if self.wall_s else None


@dataclass(frozen=True)
class Record:
    """A stored run.

    Attributes:
        environment: Where and with what.
        quick: Whether sizes were small.
        seconds: Of the whole run.
        rows: In the order in which they were measured.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    environment: Environment
    quick: bool
    seconds: float
    rows: Sequence[Row]

    def save(self, path: Path) -> None:
        """Write JSON; what is in the file is replaced."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TypeAdapter(Record).dump_json(self, indent=1) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read what `save` wrote.

        Raises:
            DataError: There is no such file, or it holds something else.
        """
        try:
            return TypeAdapter(Record).validate_json(path.read_bytes())
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise DataError(f"{path} is no run of the benchmark: {place}: {first['msg']}") from error


def rows_of(
    about: Row,
    measured: Mapping[str, Measured[T]],
    *,
    equal: Mapping[str, bool] | None = None,
    sizes_mb: Mapping[str, float] | None = None,
) -> list[Row]:
    """One row an arm, the subject's first.

    Args:
        about: What all have in common; its `arm` is not looked at.
        measured: Of each arm, the subject's first.
        equal: Arm -> whether the answers were right beside its.
        sizes_mb: Arm -> memory of what it made.
    """
    subject, *_ = measured.values()
    rows = []
    for name, arm in measured.items():
        runs = min(len(arm.wall_s), len(subject.wall_s))
        against = None if arm is subject else ratio(subject.wall_s[:runs], arm.wall_s[:runs])
        rows.append(
            replace(
                about,
                arm=name,
                runs=len(arm.wall_s),
                p50_s=float(np.median(arm.wall_s)),
                p95_s=float(np.quantile(arm.wall_s, 0.95)),
                wall_s=float(np.mean(arm.wall_s)),
                cpu_s=float(np.mean(arm.cpu_s)) if arm.cpu_s else None,
                peak_mb=arm.peak_mb,
                size_mb=(sizes_mb or {}).get(name),
                ratio=against and against.value,
                ratio_low=against.low if against and runs > 1 else None,
                ratio_high=against.high if against and runs > 1 else None,
                equal=(equal or {}).get(name),
            )
        )
    return rows


def skipped(part: str, case: str, arm: str, reason: str) -> Row:
    """A row without figures."""
    return Row(part=part, case=case, arm=arm, note=f"skipped: {reason}")


def versions(*packages: str) -> dict[str, str]:
    """The installed version of each package that is installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def unequal(rows: Iterable[Row]) -> list[str]:
    """A sentence for each row whose answers were not right."""
    return [f"{row.part}, {row.case}: other answers than {row.arm}" for row in rows if row.equal is False]
