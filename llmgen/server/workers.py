"""Workers: several processes that answer on one socket, and the one that watches over them.

Each worker is a fork of the watcher, made before anything was loaded, and loads everything itself. The first comes
alone, so that what is wrong is told once and what is cached on the disk is there for the others. When the watcher is
killed, they answer what is under way, and end.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from llmgen.errors import ConfigError
from llmgen.server.orphans import end_with

logger = logging.getLogger(__name__)

PAUSE_S = 1.0
"""Before a worker is started in the place of one that died soon after its start."""

Ready = Callable[[], None]
"""A worker calls it once it listens."""
Serve = Callable[[int, Ready], None]
"""What a worker does, given its number, until it gets SIGTERM; what it raises is told and ends it."""


class Watcher:
    """Starts workers, starts those anew that die, and passes on the signals that a service gets.

    Args:
        count: How many workers, 1 or more.
        serve: What each does.
        grace_s: Seconds that workers get to end when they are asked to; those that go on are killed.
    """

    def __init__(self, count: int, serve: Serve, *, grace_s: float) -> None:
        self._count, self._serve, self._grace_s = count, serve, grace_s
        self._numbers: dict[int, int] = {}  # process -> number of the worker
        self._started: dict[int, float] = {}
        self._stopping = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT; then the workers answer what is under way, and end.

        Raises:
            ConfigError: A worker ended before it listened; it has said why.
        """
        passed_on = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._pass_on}
        before = {number: signal.signal(number, handler) for number, handler in passed_on.items()}
        try:
            self._start_first()
            for number in range(1, self._count):
                self._start(number)
            self._watch()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start_first(self) -> None:
        told, tell = os.pipe()
        process = self._start(0, tell)
        os.close(tell)
        with os.fdopen(told, "rb") as pipe:
            listening = pipe.read(1)  # nothing, where the process ended
        if not listening and not self._stopping:
            os.waitpid(process, 0)
            del self._numbers[process]
            raise ConfigError("the first worker could not start; the line before says why")

    def _start(self, number: int, tell: int | None = None) -> int:
        watcher = os.getpid()
        process = os.fork()
        if process == 0:
            self._work(number, watcher, tell)
        self._numbers[process], self._started[number] = number, time.monotonic()
        return process

    def _work(self, number: int, watcher: int, tell: int | None) -> None:
        """The life of a worker; never returns."""
        code = 1
        try:
            for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(one, signal.SIG_DFL)
            end_with(watcher)  # or the port would stay taken, and no service could be started in the place of this one
            self._serve(number, lambda: None if tell is None else _say(tell))
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)  # what the watcher would do at its end is not a worker's to do

    def _watch(self) -> None:
        while self._numbers and not self._stopping:
            try:
                process, status = os.wait()
            except InterruptedError:
                continue
            if process not in self._numbers:  # in a container the watcher is process 1, to which all orphans come
                continue
            number = self._numbers.pop(process)
            if self._stopping:
                return
            logger.error("worker %d ended (%s); it is started anew", number, _how(status))
            if time.monotonic() - self._started[number] < PAUSE_S:
                time.sleep(PAUSE_S)
            self._start(number)

    def _end(self) -> None:
        self._pass_on(signal.SIGTERM, None)
        until = time.monotonic() + self._grace_s
        while self._numbers:
            process, _ = os.waitpid(-1, os.WNOHANG)
            self._numbers.pop(process, None)
            if process == 0:
                if time.monotonic() > until:
                    self._pass_on(signal.SIGKILL, None)
                time.sleep(0.02)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._pass_on(signal.SIGTERM, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        for process in list(self._numbers):
            with suppress(ProcessLookupError):
                os.kill(process, number)


def _say(tell: int) -> None:
    os.write(tell, b".")
    os.close(tell)


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"by signal {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit code {os.WEXITSTATUS(status)}"
