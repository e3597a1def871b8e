"""State: what the routes of a service share, and the limits of what a client may ask."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import Request
from starlette.exceptions import HTTPException

from llmgen.engines import CALLERS, Checkable, Engine
from llmgen.errors import (
    ArgumentError,
    ConfigError,
    LLMGenError,
)
from llmgen.http.schemas import (
    LONGEST_HISTORY,
    QueryBody,
)
from llmgen.recommend.recommender import Choice
from llmgen.server.batching import Batcher, QueueFullError
from llmgen.server.metrics import Metrics
from llmgen.server.served import Choose, ServedRecommender, Snapshot
from llmgen.server.tracing import Tracing
from llmgen.server.users import Users
from llmgen.types import Query

if TYPE_CHECKING:
    pass


Answer = TypeVar("Answer")


SHORTEST_TIMEOUT_S = 0.01


STUCK_AFTER_S = 300.0
"""A batch that runs for longer will not end: /health fails, so that a supervisor starts the service anew."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, and all of them together, may take.

    Attributes:
        timeout_s: For a body to arrive, and for an answer; a request asks for less with `X-Timeout`, in seconds.
        max_batch: Requests worked on together at most.
        gather_s: How long a batch waits for company where nothing else is to be done.
        max_queue: Requests that may wait; one more is answered 503.
        max_body: Bytes of a body.
        headers_s: For the headers to arrive; `llmgen serve` keeps this and the next, another ASGI server has its own.
        max_headers: Bytes of all headers of a request together, with its first line.
        max_batches: Batches under way at once; by default 1, and 8 where the engine waits for a server, so that a
            request on which that hangs holds up no other. A model in this process is asked by one batch at a time.
        read_s: For a client to read its answer; `llmgen serve` keeps this, another ASGI server has its own.
        rate: Requests a second of one key, or of one address where there are no keys; None for any number. As many as
            one second allows may come at once.
    """

    timeout_s: float = 30.0
    max_batch: int = 64
    gather_s: float = 0.002
    max_queue: int = 1024
    max_body: int = 1_000_000
    headers_s: float = 10.0
    max_headers: int = 65_536
    max_batches: int | None = None
    read_s: float = 30.0
    rate: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < STUCK_AFTER_S:
            raise ArgumentError(f"timeout_s must be above 0 and below {STUCK_AFTER_S:g}, not {self.timeout_s}")
        if self.max_body < 1_000:
            raise ArgumentError(f"max_body must be 1,000 bytes or more, not {self.max_body}")
        for name, seconds in (("headers_s", self.headers_s), ("read_s", self.read_s)):
            if not 0 < seconds < STUCK_AFTER_S:
                raise ArgumentError(f"{name} must be above 0 and below {STUCK_AFTER_S:g}, not {seconds}")
        if self.max_headers < 1_000:
            raise ArgumentError(f"max_headers must be 1,000 bytes or more, not {self.max_headers}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise ArgumentError(f"rate must be above 0, not {self.rate}; leave it out for any number of requests")
        if self.max_batches is not None and self.max_batches < 1:
            raise ArgumentError(f"max_batches must be 1 or more, not {self.max_batches}")


class State:
    """What the routes share."""

    def __init__(
        self, live: ServedRecommender, limits: Limits, choose: Choose, users: Users | None, tracing: Tracing
    ) -> None:
        self.live = live
        self.users = users
        self.limits = limits
        self.choose = choose
        self.tracing = tracing
        self.draining = False
        self.engine_error: str | None = None
        self.metrics = Metrics(lambda: len(self.batcher), self._usage)
        self.batcher = Batcher(
            max_batch=limits.max_batch,
            gather_s=limits.gather_s,
            max_queue=limits.max_queue,
            workers=batches_at_once(live.now.recommender.engine, limits),
            on_batch=self.metrics.batch,
            on_engine=self._engine,
        )

    async def ask(
        self,
        request: Request,
        group: Hashable,
        work: Any,
        run: Callable[[Sequence[Any]], Sequence[Answer | LLMGenError]],
        *,
        at_most_s: float = math.inf,
    ) -> Answer:
        """The batcher's answer, unless the client hangs up first."""
        allowed = min(timeout_of(request) or self.limits.timeout_s, self.limits.timeout_s, at_most_s)
        steps = self.tracing.steps("queue", "search")
        job = asyncio.ensure_future(self.batcher.ask(group, work, run, timeout_s=allowed, on_begin=steps.next))
        gone = asyncio.ensure_future(hung_up(request))
        try:
            await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                self.metrics.disconnects.inc()
                raise ClientGoneError
            answer = job.result()
        except Exception as error:
            if isinstance(error, QueueFullError):
                self.metrics.refused.inc()
            steps.fail(error)
            raise
        finally:
            steps.end()
            job.cancel()
            gone.cancel()
        return answer

    async def query(self, body: QueryBody, snapshot: Snapshot) -> Query:
        """What a request asks, with the history of the user that it names."""
        if body.user is None:
            return body.value(snapshot.history(body.history))
        if self.users is None:
            raise HTTPException(422, "this service knows no users: it has no log and no store; give a history")
        with self.tracing.span("store"):
            taken = await asyncio.to_thread(self.users.taken, body.user, LONGEST_HISTORY)
        return body.value(*snapshot.taken(taken))

    def choice(self, snapshot: Snapshot, query: Query, prompt: str | None) -> Choice:
        """Prompt and weight of a query, with the prompt that it names."""
        chosen = self.choose(snapshot.recommender, query)
        return chosen if prompt is None else chosen._replace(prompt=prompt)

    def _engine(self, error: str | None) -> None:
        self.engine_error = error

    def _usage(self) -> tuple[int, int]:
        engine = self.live.now.recommender.engine
        return (0, 0) if engine is None else (engine.usage.read_tokens, engine.usage.cached_tokens)


def batches_at_once(engine: Engine | None, limits: Limits) -> int:
    """How many batches may run at once.

    Raises:
        ConfigError: Several with a model in this process.
    """
    waits = isinstance(engine, Checkable)
    if engine is not None and not waits and (limits.max_batches or 1) > 1:
        raise ConfigError(
            f"{engine.name} runs in this process and is asked by one batch at a time, so max_batches must be 1, not "
            f"{limits.max_batches}; more are for a model behind openai:"
        )
    return limits.max_batches or (CALLERS if waits else 1)


def timeout_of(request: Request) -> float | None:
    """What the header of that name says. FastAPI would read it too, in a tenth of the time that a request takes."""
    given = request.headers.get("x-timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not SHORTEST_TIMEOUT_S <= seconds < math.inf:
        raise HTTPException(422, f"X-Timeout is a number of seconds from {SHORTEST_TIMEOUT_S} up, not {given[:40]!r}")
    return seconds


class ClientGoneError(Exception):
    """The client hung up."""


async def hung_up(request: Request) -> None:
    """Returns when the client is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
