"""Progress of long work: a bar on a terminal, and a line now and then where the output is no terminal."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY_S = 30.0
"""Seconds between two lines at most, of however many stages, also while one step takes longer."""
_LOCK = threading.Lock()
_told_at: float | None = None
"""When the last line was written, or the first stage begun."""


class Stage:
    """One stage of some work, told on stderr while it lasts.

    Args:
        label: What is done.
        total: Of how many steps; 0 where that is not known.
        shown: Whether anything is told.
    """

    def __init__(self, label: str, total: int, *, shown: bool = True) -> None:
        self.label, self.total, self.shown, self.done = label, total, shown, 0
        self._bar: Progress | None = None
        self._over = threading.Event()
        self._teller: threading.Thread | None = None
        self._started = 0.0

    def __enter__(self) -> Stage:
        self._started = time.monotonic()
        if not self.shown:
            return self
        if sys.stderr.isatty():
            console = Console(stderr=True)
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
            self._bar.start()
            self._bar.add_task(self.label, total=self.total or None)
        else:
            _tell(None)
            self._teller = threading.Thread(target=self._tell_now_and_then, daemon=True)
            self._teller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._bar is not None:
            self._bar.stop()
        if self._teller is not None:
            self._teller.join()

    def advance(self, steps: int = 1) -> None:
        """Some steps are done."""
        self.done += steps
        if self._bar is not None:
            self._bar.advance(self._bar.task_ids[0], steps)

    def line(self) -> str:
        """The stage, its share and the time left, by the pace so far."""
        took = time.monotonic() - self._started
        if not self.total:
            return f"{self.label}: {_spoken(took)} so far"
        left = _spoken(took / self.done * (self.total - self.done)) if self.done else "not known yet"
        return f"{self.label}: {self.done:,} of {self.total:,} ({self.done / self.total:.0%}), time left: {left}"

    def _tell_now_and_then(self) -> None:
        while not self._over.wait(_tell(self)):
            pass


def _tell(stage: Stage | None) -> float:
    """Write a stage's line if one is due; seconds until the next one is."""
    global _told_at
    with _LOCK:
        now = time.monotonic()
        if _told_at is None:
            _told_at = now
        if stage is not None and now >= _told_at + EVERY_S:
            _told_at = now
            print(stage.line(), file=sys.stderr, flush=True)
        return max(0.0, _told_at + EVERY_S - now)


def _spoken(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
