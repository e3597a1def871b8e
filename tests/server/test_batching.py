"""The batcher: who is run with whom, what is lost and what is not."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any

import pytest

from llmgen.errors import EngineUnavailableError, SearchError
from llmgen.server import batching
from llmgen.server.batching import LATE_S, Batcher, DeadlineError, QueueFullError


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@asynccontextmanager
async def started(**settings: Any) -> AsyncIterator[Batcher]:
    batcher = Batcher(**settings)
    batcher.start()
    try:
        yield batcher
    finally:
        await batcher.close()


class Doubling:
    """Answers with the double, and keeps what it was asked together."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def __call__(self, works: Sequence[int]) -> list[int]:
        self.batches.append(list(works))
        self.threads.add(threading.get_ident())
        return [2 * work for work in works]


class Blocking(Doubling):
    """Waits for a sign first."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.sign = threading.Event(), threading.Event()

    def __call__(self, works: Sequence[int]) -> list[int]:
        self.begun.set()
        assert self.sign.wait(10)
        return super().__call__(works)

    async def until_begun(self) -> None:
        while not self.begun.is_set():
            await asyncio.sleep(0.001)


@asynchronous
async def test_what_comes_at_the_same_time_is_run_together() -> None:
    run = Doubling()
    async with started() as batcher:
        answers = await asyncio.gather(*[batcher.ask("a", number, run, timeout_s=5) for number in range(10)])
    assert answers == [2 * number for number in range(10)]
    assert run.batches == [list(range(10))]
    assert threading.get_ident() not in run.threads


@asynchronous
async def test_a_batch_is_no_larger_than_it_may_be_and_all_run_in_one_thread() -> None:
    run = Doubling()
    async with started(max_batch=4) as batcher:
        await asyncio.gather(*[batcher.ask("a", number, run, timeout_s=5) for number in range(10)])
    assert run.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(run.threads) == 1


@asynchronous
async def test_groups_are_not_mixed_and_the_one_that_waits_longest_is_next() -> None:
    run = Doubling()
    async with started() as batcher:
        await asyncio.gather(*[batcher.ask("ab"[n % 2], n, run, timeout_s=5) for n in (1, 2, 3, 4, 5)])
    assert run.batches == [[1, 3, 5], [2, 4]]


@asynchronous
async def test_one_that_fails_harms_no_other() -> None:
    def run(works: Sequence[int]) -> list[int]:
        if 3 in works:
            raise SearchError("no 3")
        return list(works)

    async with started() as batcher:
        asked = [batcher.ask("a", number, run, timeout_s=5) for number in range(8)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [answer for answer in answers if isinstance(answer, int)] == [0, 1, 2, 4, 5, 6, 7]
    assert isinstance(answers[3], SearchError)


@pytest.mark.parametrize("error", [EngineUnavailableError("down"), ZeroDivisionError("a mistake")])
def test_what_is_nobodys_fault_is_not_tried_again(error: Exception) -> None:
    calls = 0

    def run(works: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        raise error

    async def ask() -> None:
        async with started() as batcher:
            asked = [batcher.ask("a", number, run, timeout_s=5) for number in range(4)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert answers == [error] * 4
            assert calls == 1
            assert await batcher.ask("b", 5, Doubling(), timeout_s=5) == 10  # the worker lives

    asyncio.run(ask())


@asynchronous
async def test_a_full_queue_refuses_at_once_and_what_was_in_it_is_answered() -> None:
    run = Blocking()
    async with started(max_queue=3) as batcher:
        first = asyncio.ensure_future(batcher.ask("a", 0, run, timeout_s=10))
        await run.until_begun()  # it runs, and waits no more
        waiting = [asyncio.ensure_future(batcher.ask("a", number, run, timeout_s=10)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match="3 requests are waiting"):
            await batcher.ask("a", 4, run, timeout_s=10)
        run.sign.set()
        assert await first == 0
        assert await asyncio.gather(*waiting) == [2, 4, 6]


@asynchronous
async def test_who_goes_away_leaves_a_place_in_the_queue_and_is_never_worked_on() -> None:
    run = Blocking()
    async with started(max_queue=2) as batcher:
        first = asyncio.ensure_future(batcher.ask("a", 0, run, timeout_s=10))
        await run.until_begun()
        gone = asyncio.ensure_future(batcher.ask("a", 1, run, timeout_s=10))
        stays = asyncio.ensure_future(batcher.ask("b", 2, run, timeout_s=10))
        await asyncio.sleep(0)
        assert len(batcher) == 2
        gone.cancel()
        await asyncio.sleep(0)
        assert len(batcher) == 1
        late = asyncio.ensure_future(batcher.ask("b", 3, run, timeout_s=10))
        await asyncio.sleep(0)
        run.sign.set()
        assert await asyncio.gather(first, stays, late) == [0, 4, 6]
    assert run.batches == [[0], [2, 3]]


@asynchronous
async def test_a_deadline_ends_waiting_and_running_work_alike() -> None:
    run = Blocking()
    async with started() as batcher:
        running = asyncio.ensure_future(batcher.ask("a", 0, run, timeout_s=0.05))
        await run.until_begun()
        waiting = asyncio.ensure_future(batcher.ask("a", 1, run, timeout_s=0.01))
        for asked in (running, waiting):
            with pytest.raises(DeadlineError, match=r"no answer within 0\.0"):
                await asked
        assert len(batcher) == 0
        assert batcher.busy_s > 0
        run.sign.set()
        assert await batcher.ask("a", 2, run, timeout_s=5) == 4  # whose turn comes after the one that nobody awaits
    assert run.batches == [[0], [2]]


@asynchronous
async def test_closing_finishes_what_waits() -> None:
    run = Doubling()
    batcher = Batcher()
    batcher.start()
    asked = [asyncio.ensure_future(batcher.ask("a", number, run, timeout_s=5)) for number in range(3)]
    await asyncio.sleep(0)
    await batcher.close()
    assert await asyncio.gather(*asked) == [0, 2, 4]


@asynchronous
async def test_an_idle_batcher_waits_as_long_as_it_was_told() -> None:
    waits: list[float] = []
    async with started(gather_s=0.05, on_batch=waits.extend) as batcher:
        began = time.monotonic()
        first = asyncio.ensure_future(batcher.ask("a", 1, Doubling(), timeout_s=5))
        await asyncio.sleep(0.02)
        await asyncio.gather(first, batcher.ask("a", 2, Doubling(), timeout_s=5))
        assert 0.05 <= time.monotonic() - began < 1
    assert len(waits) == 2
    assert waits[0] > waits[1]


@asynchronous
async def test_a_batch_that_is_late_leaves_what_comes_to_another_worker() -> None:
    run, quick = Blocking(), Doubling()
    async with started(workers=2) as batcher:
        first = asyncio.ensure_future(batcher.ask("a", 1, run, timeout_s=10))
        await run.until_begun()
        began = time.monotonic()
        waiting = [asyncio.ensure_future(batcher.ask("b", number, quick, timeout_s=10)) for number in (2, 3, 4)]
        await asyncio.sleep(LATE_S / 2)
        assert quick.batches == []  # not yet, so that they come together
        assert await asyncio.gather(*waiting) == [4, 6, 8]
        assert time.monotonic() - began >= LATE_S / 2
        assert not first.done()
        assert batcher.busy_s > LATE_S
        run.sign.set()
        assert await first == 2
    assert quick.batches == [[2, 3, 4]]


@asynchronous
async def test_who_is_in_a_batch_that_hangs_is_asked_again_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "APART_S", 0.3)
    sign, asked = threading.Event(), []

    def run(works: Sequence[int]) -> list[int]:
        asked.append(list(works))
        if 3 in works:
            assert sign.wait(10)
        return [2 * work for work in works]

    waits: list[float] = []
    async with started(workers=4, on_batch=waits.extend) as batcher:
        hangs, *others = [asyncio.ensure_future(batcher.ask("a", number, run, timeout_s=10)) for number in (3, 1, 2)]
        assert await asyncio.gather(*others) == [2, 4]
        assert not hangs.done()
        sign.set()
        assert await hangs == 6
        assert len(batcher) == 0
    assert asked == [[3, 1, 2], [3], [1], [2]]
    assert len(waits) == 3  # each is counted once


@asynchronous
async def test_one_worker_asks_nobody_again_and_nothing_beside_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its engine may not be asked by two at once."""
    monkeypatch.setattr(batching, "APART_S", 0.01)
    monkeypatch.setattr(batching, "LATE_S", 0.01)
    run, quick = Blocking(), Doubling()
    async with started() as batcher:
        first = [asyncio.ensure_future(batcher.ask("a", number, run, timeout_s=10)) for number in (1, 2)]
        await run.until_begun()
        other = asyncio.ensure_future(batcher.ask("b", 3, quick, timeout_s=10))
        await asyncio.sleep(0.1)
        assert quick.batches == []
        run.sign.set()
        assert await asyncio.gather(*first, other) == [2, 4, 6]
    assert run.batches == [[1, 2]]


@pytest.mark.parametrize("settings", [{"max_batch": 0}, {"max_queue": 0}, {"gather_s": -1.0}, {"workers": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        Batcher(**settings)
