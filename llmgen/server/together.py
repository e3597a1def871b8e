"""What several workers of one service share: their counters, and priors that one of them has fitted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from filelock import FileLock, Timeout
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from llmgen.recommend.parts import Parts
from llmgen.recommend.saving import load_parts
from llmgen.saved_folders import MANIFEST

SUMMED = ("counter", "histogram")
WRITE_S = 1.0
"""A worker writes down its counters so often."""
LOOK_S = 0.1
"""A worker looks so often whether another one has ended its fit."""
Sample = tuple[str, tuple[tuple[str, str], ...]]


class SharedMetrics:
    """The counters of all workers as one text: whichever is asked tells of all of them.

    Counters of workers that died are counted on, so that no sum ever falls.

    Args:
        folder: Of this service; each worker has a file in it, named after its process.
        own: The text of this worker.
    """

    def __init__(self, folder: Path, own: Callable[[], bytes]) -> None:
        self._folder, self._own = folder, own
        self._path = folder / f"{os.getpid()}.prom"

    def write(self) -> None:
        """Write down this worker's."""
        part = self._path.with_suffix(".part")
        part.write_bytes(self._own())
        part.replace(self._path)

    async def keep_written(self) -> None:
        """Write them down for ever."""
        while True:
            self.write()
            await asyncio.sleep(WRITE_S)

    def text(self) -> bytes:
        """Of all workers; of others as they were a second ago at most."""
        self.write()
        alive: list[str] = []
        dead: list[str] = []
        for path in sorted(self._folder.glob("*.prom")):
            (alive if _runs(int(path.stem)) else dead).append(path.read_text())
        return merged(alive, dead).encode()


def merged(alive: Iterable[str], dead: Iterable[str] = ()) -> str:
    """Expositions of several processes as one.

    Counters and histograms are summed. Of gauges, which are of those alive alone, times (`_seconds`, `_created`) are
    the earliest, and others are summed.

    Args:
        alive: Of processes that run.
        dead: Of those that have ended.
    """
    families: dict[str, Metric] = {}
    values: dict[str, dict[Sample, float]] = {}
    for runs, texts in ((True, alive), (False, dead)):
        for text in texts:
            for family in text_string_to_metric_families(text):
                if not runs and family.type not in SUMMED:
                    continue
                families.setdefault(family.name, family)
                kept = values.setdefault(family.name, {})
                earliest = family.type not in SUMMED and family.name.endswith(("_seconds", "_created"))
                for sample in family.samples:
                    key = sample.name, tuple(sorted(sample.labels.items()))
                    if earliest:
                        kept[key] = min(kept.get(key, sample.value), sample.value)
                    else:
                        kept[key] = kept.get(key, 0.0) + sample.value
    lines = []
    for name, family in families.items():
        shown = f"{name}_total" if family.type == "counter" else name
        lines += [f"# HELP {shown} {family.documentation}", f"# TYPE {shown} {family.type}"]
        for (sample_name, labels), value in values[name].items():
            written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
            lines.append(f"{sample_name}{{{written}}} {value}" if written else f"{sample_name} {value}")
    return "\n".join(lines) + "\n"


async def fit_for_all(folder: Path, fit: Callable[[Path], Awaitable[None]], known: list[float]) -> Parts:
    """Priors that one worker fits and all take.

    Args:
        folder: Where they come.
        fit: Saves a recommender in a folder.
        known: The time of the one that this worker has, one number; changed.
    """
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    while not _taken(lock):  # a thread that waited for it would be missing to those who ask, for as long as a fit takes
        await asyncio.sleep(LOOK_S)
    try:
        if _made_at(folder) <= known[0]:
            await fit(folder)
        known[0] = _made_at(folder)
        return (await asyncio.to_thread(load_parts, folder, None)).parts
    finally:
        lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _made_at(folder: Path) -> float:
    path = folder / MANIFEST
    return path.stat().st_mtime if path.exists() else 0.0


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
