"""`llmgen serve` as a supervisor runs it: started again whenever it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import psutil

from llmgen.errors import LLMGenError

FITTER = "llmgen.server.refitting"
GRACE_S = 90.0


class Service:
    """One service on a port of its own.

    Args:
        options: Of `llmgen serve`, but for host and port.
        log: Where it writes what it says; all its lives in one file.
    """

    def __init__(self, options: Sequence[str], log: Path) -> None:
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._command = [sys.executable, "-m", "llmgen", "serve", "--port", str(self.port), *options]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0
        self._seen: set[psutil.Process] = set()

    def keep_up(self) -> None:
        """Start it, where it does not run."""
        if self._process is None or self._process.poll() is not None:
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
            self.starts += 1

    def end(self) -> int:
        """Ask it to end, and wait; its exit status.

        Raises:
            LLMGenError: It does not end.
        """
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise LLMGenError(
                f"the service on port {self.port} did not end in {GRACE_S:.0f} s; see {self._log}"
            ) from None

    def watchers(self) -> list[psutil.Process]:
        """The process that was started, as long as it runs."""
        return [] if self._process is None or self._process.poll() is not None else [psutil.Process(self._process.pid)]

    def workers(self) -> list[psutil.Process]:
        """Those that answer."""
        found = [one for watcher in self.watchers() for one in _children(watcher) if FITTER not in _command(one)]
        self._seen |= set(found)
        return found

    def fitters(self) -> list[psutil.Process]:
        """Those that fit priors."""
        found = [one for worker in self.workers() for one in _children(worker) if FITTER in _command(one)]
        self._seen |= set(found)
        return found

    def left(self) -> list[psutil.Process]:
        """Those of all lives that run still."""
        return [one for one in self._seen if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def kill(process: psutil.Process) -> bool:
    """`kill -9`; whether it was there."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
