"""Trial: an A/B test in the background, between the requests of the service, with intervals that hold at any time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

from llmgen.engines import Engine, GenerationConfig, Step, joins, spell_lines
from llmgen.errors import ConfigError, LLMGenError
from llmgen.evaluation.arms.core import Engines
from llmgen.evaluation.report.page import PAGE
from llmgen.evaluation.run import evaluate
from llmgen.evaluation.stats.sequential import Sequential
from llmgen.http.schemas import Document
from llmgen.playground.saving import Saved
from llmgen.server.batching import Batcher, DeadlineError, QueueFullError
from llmgen.types import Completion, FloatArray, Message

Found = TypeVar("Found")
PATIENCE_S = 3600.0
"""For one question to the engine, the wait behind requests of the service included."""


class Submit(Protocol):
    """Runs a call where the engine is asked, and waits for what it returns."""

    def __call__(self, call: Callable[[], Found]) -> Found: ...  # noqa: D102


class BetweenRequests:
    """An engine that belongs to a service, asked by another thread: each call takes its turn among the requests.

    Args:
        engine: Of the service.
        submit: See `Submit`.
    """

    def __init__(self, engine: Engine, submit: Submit) -> None:
        self._engine, self._submit = engine, submit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """See `Engine`."""
        return self._submit(lambda: self._engine.tokenize(messages))

    def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """See `Engine`."""
        return self._submit(lambda: self._engine.spell(texts))

    @property
    def joins(self) -> bool:
        """See `Joining`."""
        return joins(self._engine)

    def spell_lines(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """See `Joining`."""
        return self._submit(lambda: spell_lines(self._engine, texts))

    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        """See `Engine`."""
        return self._submit(lambda: self._engine.next_logprobs(steps))

    def generate(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[Completion]:
        """See `Engine`."""
        return self._submit(lambda: self._engine.generate(chats, config))

    def think(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[tuple[int, ...]]:
        """See `Engine`."""
        return self._submit(lambda: self._engine.think(chats, config))

    def forget(self) -> bool:
        """See `Engine`."""
        return self._submit(self._engine.forget)

    def close(self) -> None:
        """The service closes it."""


class _Shared(Engines):
    """Gives every arm its engine of the service."""

    def __init__(self, engines: Mapping[tuple[str, str | None], BetweenRequests]) -> None:
        super().__init__()
        self._engines = engines

    def get(self, name: str, adapter: str | None) -> Engine:
        """The engine of this name with this adapter."""
        if (name, adapter) not in self._engines:
            raise ConfigError("the service was started without a language model, and an arm has a weight of one")
        result: Engine = self._engines[name, adapter]
        return result


def submitter(batcher: Batcher, loop: asyncio.AbstractEventLoop, closing: Callable[[], bool]) -> Submit:
    """Runs calls as jobs of a batcher, from any thread but the loop's.

    Args:
        batcher: Of the service.
        loop: Where it works.
        closing: Whether the service ends.
    """

    def submit(call: Callable[[], Found]) -> Found:
        if closing():
            raise ConfigError("the service ends; run the saved config to go on")
        job = batcher.ask(object(), call, lambda calls: [one() for one in calls], timeout_s=PATIENCE_S)
        return asyncio.run_coroutine_threadsafe(job, loop).result()

    return submit


class Trial:
    """One A/B test. It starts at once, in a thread of its own.

    Args:
        saved: What is run.
        engines: Name and adapter -> who is asked.
        total: Users that are asked at most.
    """

    def __init__(self, saved: Saved, engines: Mapping[tuple[str, str | None], BetweenRequests], total: int) -> None:
        self.saved, self.total = saved, total
        self.state: Literal["running", "done", "failed"] = "running"
        self.looks: list[Document] = []
        self.verdict: str | None = None
        self.error: str | None = None
        self._stop = threading.Event()
        self._engines = engines
        self._thread = threading.Thread(target=self._run, name="llmgen-trial", daemon=True)
        self._thread.start()

    @property
    def report(self) -> str | None:
        """The report's page; None before the end."""
        path = self.saved.out / PAGE
        return path.read_text(encoding="utf-8") if self.state == "done" else None

    def stop(self) -> None:
        """Ask nobody more; the report is of those who were asked."""
        self._stop.set()

    def wait(self, timeout_s: float) -> None:
        """Until it has ended, or for so long."""
        self._thread.join(timeout_s)

    def told(self) -> Document:
        """How far it is; `looks` are the last of those at the difference B - A, one after each batch of users."""
        return {
            "name": self.saved.folder.name,
            "state": self.state,
            "stopping": self._stop.is_set(),
            "total": self.total,
            "metric": self.saved.config.main_metric,
            "looks": self.looks[-400:],
            "verdict": self.verdict,
            "error": self.error,
            "command": self.saved.command,
            "folder": str(self.saved.folder),
        }

    def _look(self, done: int, watched: Mapping[str, Sequential]) -> bool:
        watch = watched["B"]
        self.looks.append(
            {"users": done, "mean": watch.mean, "low": watch.low, "high": watch.high, "decided": watch.decided}
        )
        return self._stop.is_set()

    def _run(self) -> None:
        try:
            results = evaluate(
                self.saved.config,
                self.saved.out,
                command=self.saved.command,
                engines=_Shared(self._engines),
                look=self._look,
            )
        except (LLMGenError, OSError, QueueFullError, DeadlineError) as error:
            self.error, self.state = str(error), "failed"
        except BaseException as error:
            self.error, self.state = f"a mistake of llmgen: {error!r}", "failed"
            raise
        else:
            self.verdict, self.state = results.verdict, "done"
