"""Batcher: requests of many users, gathered within milliseconds and worked on together, one batch at a time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from llmgen.errors import ArgumentError, EngineError, EngineUnavailableError, LLMGenError
from llmgen.isolation import isolate
from llmgen.transport import until

Work = TypeVar("Work")
Answer = TypeVar("Answer")
Run = Callable[[Sequence[Any]], Sequence[Any]]

AHEAD_S, AHEAD = 0.25, 0.1
"""So long before a deadline, and at most this share of the time left, an engine's server is no longer waited for."""


class QueueFullError(Exception):
    """As many requests as may wait are waiting."""


class DeadlineError(Exception):
    """The time that a request had is over."""


@dataclass(eq=False, slots=True)
class _Job:
    group: Hashable
    work: Any
    run: Run
    answer: asyncio.Future[Any]
    asked_at: float
    until: float


class Batcher:
    """Runs jobs of one kind together, in one worker thread, so that an engine is never asked by two at once.

    A batch starts as soon as the worker is free. Where it was idle and the batch before had several jobs, it waits for
    `gather_s` after the first job, so that those that come at the same time come along; a single client never waits.
    Meanwhile others wait, in their order, at most `max_queue` of them.

    Args:
        max_batch: Jobs of one batch at most, 1 or more.
        gather_s: Seconds to wait for company where there has been some and nothing else is to be done.
        max_queue: Jobs that may wait, 1 or more; a job of a batch that runs does not wait.
        on_batch: Told the size of each batch and how many seconds each of its jobs had waited.
        on_engine: Told after each batch how the engine failed, or None, also where nobody waits for the answers.
    """

    def __init__(
        self,
        *,
        max_batch: int = 64,
        gather_s: float = 0.002,
        max_queue: int = 1024,
        on_batch: Callable[[Sequence[float]], None] = lambda waits: None,
        on_engine: Callable[[str | None], None] = lambda error: None,
    ) -> None:
        if max_batch < 1 or max_queue < 1:
            raise ArgumentError(f"max_batch and max_queue must be 1 or more, not {max_batch} and {max_queue}")
        if not gather_s >= 0:
            raise ArgumentError(f"gather_s must be 0 or more, not {gather_s}")
        self.max_batch, self.gather_s, self.max_queue = max_batch, gather_s, max_queue
        self._on_batch = on_batch
        self._on_engine = on_engine
        self._waiting: dict[Hashable, deque[_Job]] = {}
        self._size = 0
        self._wake = asyncio.Event()
        self._thread: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._busy_since: float | None = None

    def __len__(self) -> int:
        """How many jobs wait."""
        return self._size

    @property
    def busy_s(self) -> float:
        """For how long the running batch has been running; 0 if none is."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    @property
    def failure(self) -> str | None:
        """Why nothing is worked on any more, a mistake of ours; None while all is well."""
        if self._task is None or not self._task.done() or self._task.cancelled():
            return None
        return repr(self._task.exception())

    def start(self) -> None:
        """Begin to work; inside a running event loop."""
        self._thread = ThreadPoolExecutor(1, "llmgen-batch")
        self._task = asyncio.create_task(self._work(), name="llmgen-batcher")

    async def close(self) -> None:
        """Finish what waits, and stop."""
        while self._task is not None and not self._task.done() and (self._size or self._busy_since is not None):
            await asyncio.sleep(0.01)
        if self._task is not None and self._thread is not None:
            self._task.cancel()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def ask(
        self,
        group: Hashable,
        work: Work,
        run: Callable[[Sequence[Work]], Sequence[Answer | LLMGenError]],
        *,
        timeout_s: float,
    ) -> Answer:
        """The answer to one piece of work; if this is cancelled, the place in the queue is free at once.

        Args:
            group: Jobs with equal groups are run together, by the `run` of the first.
            work: What is asked.
            run: Answers several pieces of work, in their order; an error may stand in the place of one. If it raises an
                error of llmgen for one of several, each of them gets its own answer or error all the same.
            timeout_s: Seconds from now.

        Raises:
            QueueFullError: At once.
            DeadlineError: There is no answer yet; if the work waits still, it is never done.
        """
        if self._size >= self.max_queue:
            raise QueueFullError(f"{self._size} requests are waiting already")
        loop = asyncio.get_running_loop()
        job = _Job(group, work, run, loop.create_future(), time.monotonic(), time.monotonic() + timeout_s)
        self._waiting.setdefault(group, deque()).append(job)
        self._size += 1
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                answer: Answer = await job.answer
                return answer
        except TimeoutError:
            raise DeadlineError(f"there was no answer within {timeout_s:g} s") from None
        finally:
            self._forget(job)

    def _forget(self, job: _Job) -> None:
        """Take a job out of the queue, if it waits there still."""
        jobs = self._waiting.get(job.group)
        if jobs is not None and job in jobs:
            jobs.remove(job)
            self._size -= 1
            if not jobs:
                del self._waiting[job.group]

    def _take(self) -> list[_Job]:
        """The next batch: the group whose first job has waited longest."""
        jobs = min(self._waiting.values(), key=lambda waiting: waiting[0].asked_at)
        batch = [jobs.popleft() for _ in range(min(self.max_batch, len(jobs)))]
        self._size -= len(batch)
        if not jobs:
            del self._waiting[batch[0].group]
        return batch

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        company = True
        while True:
            if not self._size:
                self._wake.clear()
                await self._wake.wait()
                await asyncio.sleep(self.gather_s if company else 0)
                if not self._size:  # whoever woke us has gone
                    continue
            batch = self._take()
            company = len(batch) > 1
            self._busy_since = time.monotonic()
            self._on_batch([self._busy_since - job.asked_at for job in batch])
            try:
                answers = await loop.run_in_executor(self._thread, _in_time, batch)
            finally:
                self._busy_since = None
            away = [answer for answer in answers if isinstance(answer, EngineError | DeadlineError)]
            self._on_engine(str(away[0]) if away else None)
            for job, answer in zip(batch, answers, strict=True):
                if job.answer.done():  # its asker has gone
                    continue
                if isinstance(answer, BaseException):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)


def _in_time(batch: Sequence[_Job]) -> list[Any]:
    """The answers of a batch; what it asks of a server ends when nobody waits for it any more.

    It ends shortly before the last deadline, so that who waits learns that the engine is away, and the worker is free
    for what comes next.
    """
    last = max(job.until for job in batch)
    stop = last - min(AHEAD_S, AHEAD * (last - time.monotonic()))

    with until(lambda: -math.inf if all(job.answer.done() for job in batch) else stop):
        answers = _answers(batch[0].run, [job.work for job in batch])
    if time.monotonic() < stop:
        return answers
    late = "there was no answer in time, and the engine is why"
    return [DeadlineError(f"{late}: {one}") if isinstance(one, EngineUnavailableError) else one for one in answers]


def _answers(run: Run, works: Sequence[Any]) -> list[Any]:
    """An answer or an exception for each piece of work; one that fails harms no other."""
    try:
        return list(isolate(run, works))
    except Exception as error:  # a mistake of ours; whoever asked learns of it, and the worker goes on
        return [error] * len(works)
