"""Batcher: requests of many users, gathered within milliseconds and worked on together."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from llmgen.errors import ArgumentError, EngineError, EngineUnavailableError, LLMGenError
from llmgen.http.transport import until
from llmgen.isolation import isolate

Work = TypeVar("Work")
Answer = TypeVar("Answer")
Run = Callable[[Sequence[Any]], Sequence[Any]]

AHEAD_S, AHEAD = 0.25, 0.1
"""So long before a deadline, and at most this share of the time left, an engine's server is no longer waited for."""
LATE_S = 0.1
"""A batch that has been running for longer keeps what waits from another worker no more."""
APART_S, APART = 1.0, 4.0
"""After so many seconds, and so many times what a batch takes in the middle, its jobs are asked again, each alone."""
REMEMBERED = 15
"""Batches whose times say what one takes in the middle."""


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
    on_begin: Callable[[], None]
    alone: bool = False


@dataclass(eq=False, slots=True)
class _Batch:
    """Jobs that are worked on together.

    Attributes:
        jobs: At least one.
        began: In the time of `time.monotonic`.
        late: Whether it keeps what waits from other workers no more.
        timers: What happens if it goes on.
    """

    jobs: list[_Job]
    began: float
    late: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)


class Batcher:
    """Runs jobs of one kind together, in worker threads.

    With one worker an engine is never asked by two at once. A batch starts as soon as the worker is free. Where it was
    idle and the batch before had several jobs, it waits for `gather_s` after the first job, so that those that come at
    the same time come along; a single client never waits. Meanwhile others wait, in their order, at most `max_queue`
    of them.

    More workers are for engines that wait for a server. The next one begins with what waits only when all batches
    have been running for `LATE_S`: what comes at the same time is still worked on together, and a server that hangs
    on one request holds up no other for longer. Who is in the same batch as that one is asked again alone when the
    batch takes far longer than batches do, and has the answer that is there first.

    Args:
        max_batch: Jobs of one batch at most, 1 or more.
        gather_s: Seconds to wait for company where there has been some and nothing else is to be done.
        max_queue: Jobs that may wait, 1 or more; a job of a batch that runs does not wait.
        workers: Batches that may run at once, 1 or more.
        on_batch: Told the size of each batch and how many seconds each of its jobs had waited.
        on_engine: Told after each batch how the engine failed, or None, also where nobody waits for the answers.
    """

    def __init__(
        self,
        *,
        max_batch: int = 64,
        gather_s: float = 0.002,
        max_queue: int = 1024,
        workers: int = 1,
        on_batch: Callable[[Sequence[float]], None] = lambda waits: None,
        on_engine: Callable[[str | None], None] = lambda error: None,
    ) -> None:
        for name, number in (("max_batch", max_batch), ("max_queue", max_queue), ("workers", workers)):
            if number < 1:
                raise ArgumentError(f"{name} must be 1 or more, not {number}")
        if not gather_s >= 0:
            raise ArgumentError(f"gather_s must be 0 or more, not {gather_s}")
        self.max_batch, self.gather_s, self.max_queue, self.workers = max_batch, gather_s, max_queue, workers
        self._on_batch = on_batch
        self._on_engine = on_engine
        self._waiting: dict[Hashable, deque[_Job]] = {}
        self._size = 0
        self._wake = asyncio.Event()
        self._threads: ThreadPoolExecutor | None = None
        self._task: asyncio.Task[None] | None = None
        self._running: dict[asyncio.Task[None], _Batch] = {}
        self._took: deque[float] = deque(maxlen=REMEMBERED)
        self._broken: BaseException | None = None

    def __len__(self) -> int:
        """How many jobs wait."""
        return self._size

    @property
    def busy_s(self) -> float:
        """For how long the batch that began first has been running; 0 if none is."""
        return time.monotonic() - min(one.began for one in self._running.values()) if self._running else 0.0

    @property
    def failure(self) -> str | None:
        """Why nothing is worked on any more, a mistake of ours; None while all is well."""
        return None if self._broken is None else repr(self._broken)

    def start(self) -> None:
        """Begin to work; inside a running event loop."""
        self._threads = ThreadPoolExecutor(self.workers, "llmgen-batch")
        self._task = asyncio.create_task(self._work(), name="llmgen-batcher")

    async def close(self) -> None:
        """Finish what waits, and stop."""
        while self._broken is None and (self._size or self._running):
            await asyncio.sleep(0.01)
        if self._task is not None and self._threads is not None:
            self._task.cancel()
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def ask(
        self,
        group: Hashable,
        work: Work,
        run: Callable[[Sequence[Work]], Sequence[Answer | LLMGenError]],
        *,
        timeout_s: float,
        on_begin: Callable[[], None] = lambda: None,
    ) -> Answer:
        """The answer to one piece of work; if this is cancelled, the place in the queue is free at once.

        Args:
            group: Jobs with equal groups are run together, by the `run` of the first.
            work: What is asked.
            run: Answers several pieces of work, in their order; an error may stand in the place of one. If it raises an
                error of llmgen for one of several, each of them gets its own answer or error all the same.
            timeout_s: Seconds from now.
            on_begin: Told when the work begins; again, where it is begun again.

        Raises:
            QueueFullError: At once.
            DeadlineError: There is no answer yet; if the work waits still, it is never done.
        """
        if self._size >= self.max_queue:
            raise QueueFullError(f"{self._size} requests are waiting already")
        loop = asyncio.get_running_loop()
        job = _Job(group, work, run, loop.create_future(), time.monotonic(), time.monotonic() + timeout_s, on_begin)
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

    def _may_begin(self) -> bool:
        """Whether something waits, and a worker is there for it."""
        return self._size > 0 and len(self._running) < self.workers and all(b.late for b in self._running.values())

    async def _work(self) -> None:
        company = True
        try:
            while True:
                idle = not self._size
                while not self._may_begin():
                    self._wake.clear()
                    await self._wake.wait()
                if idle and not self._running:
                    await asyncio.sleep(self.gather_s if company else 0)
                    if not self._may_begin():  # whoever woke us has gone
                        continue
                batch = _Batch(self._take(), time.monotonic())
                if not batch.jobs[0].alone:
                    company = len(batch.jobs) > 1
                    self._on_batch([batch.began - job.asked_at for job in batch.jobs])
                for job in batch.jobs:
                    job.on_begin()
                task = asyncio.create_task(self._run(batch), name="llmgen-batch")
                self._running[task] = batch
                task.add_done_callback(self._done)
                if self.workers > 1:
                    self._watch(batch)
        except Exception as error:  # a mistake of ours, which /health tells
            self._broken = error
            raise

    def _watch(self, batch: _Batch) -> None:
        """See to it that a batch that takes long holds up neither what waits nor, for ever, those who are in it."""
        loop = asyncio.get_running_loop()

        def late() -> None:
            batch.late = True
            self._wake.set()

        def apart() -> None:
            for job in batch.jobs:
                if not job.answer.done():
                    job.group, job.alone = object(), True
                    self._waiting[job.group] = deque([job])
                    self._size += 1
            self._wake.set()

        batch.timers.append(loop.call_later(LATE_S, late))
        if len(batch.jobs) > 1:
            usual = statistics.median(self._took) if self._took else 0.0
            batch.timers.append(loop.call_later(max(APART_S, APART * usual), apart))

    def _done(self, task: asyncio.Task[None]) -> None:
        """A batch has ended."""
        batch = self._running.pop(task)
        for timer in batch.timers:
            timer.cancel()
        self._took.append(time.monotonic() - batch.began)
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()
        self._wake.set()

    async def _run(self, batch: _Batch) -> None:
        jobs = batch.jobs
        answers = await asyncio.get_running_loop().run_in_executor(self._threads, _in_time, jobs)
        away = [answer for answer in answers if isinstance(answer, EngineError | DeadlineError)]
        self._on_engine(str(away[0]) if away else None)
        for job, answer in zip(jobs, answers, strict=True):
            if job.answer.done():  # its asker has gone, or has its answer
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
