"""create_app: a recommender as an HTTP service. Routes and nothing else: what they do is done elsewhere."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from llmgen import __version__
from llmgen.catalog.core import Catalog
from llmgen.engines import CALLERS, Checkable, Engine
from llmgen.errors import (
    ArgumentError,
    CatalogError,
    ConfigError,
    EngineError,
    EngineUnavailableError,
    LLMGenError,
    SearchError,
    StoreError,
    TemplateError,
    UnknownItemError,
)
from llmgen.http.schemas import (
    LONGEST_HISTORY,
    CatalogBody,
    Document,
    ErrorBody,
    ExplainBody,
    ExplanationBody,
    ItemBody,
    NewItemsBody,
    PromptBody,
    PromptsBody,
    QueryBody,
    RankBody,
    RateBody,
    RatingsBody,
    RecommendationsBody,
    StatusBody,
    to_json,
)
from llmgen.http.transport import until
from llmgen.recommend.rating import rating_values
from llmgen.recommend.recommender import Choice, Recommender
from llmgen.server.auth import AuthMiddleware
from llmgen.server.batching import Batcher, DeadlineError, QueueFullError
from llmgen.server.events import add_events
from llmgen.server.following import StoreFollower
from llmgen.server.learning import Learning
from llmgen.server.lists import add_lists
from llmgen.server.metrics import Metrics
from llmgen.server.rates import Rates
from llmgen.server.refitting import Fit, Refitting
from llmgen.server.served import Choose, ServedRecommender, Snapshot
from llmgen.server.together import SharedMetrics
from llmgen.server.tracing import Tracing, TracingMiddleware
from llmgen.server.users import Users, UsersOfStore
from llmgen.templates.tasks import answers
from llmgen.types import Query, Recommendations

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from llmgen.store import Store

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

STATUS: tuple[tuple[type[Exception], int], ...] = (
    (EngineUnavailableError, 503),
    (EngineError, 502),
    (StoreError, 503),
    (QueueFullError, 503),
    (DeadlineError, 504),
    (SearchError, 422),
    (CatalogError, 422),
    (TemplateError, 422),
    (ConfigError, 422),
)
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "The body is no text in UTF-8.",
        401: "No key, or a wrong one.",
        408: "The headers or the body did not arrive in time.",
        413: "The body is too large.",
        422: "The request cannot be served as it is: an unknown item, prompt or filter, or a value out of range.",
        429: "More requests than this key may make, or many wrong keys: Retry-After tells when to ask again.",
        431: "The headers are too large.",
        502: "The language model gave no usable answer.",
        503: "Too many requests wait, or the language model is down: Retry-After tells when to ask again.",
        504: "There was no answer within the time allowed.",
    }.items()
}
JSON = "application/json"
SHORTEST_TIMEOUT_S = 0.01
READY_S = 2.0
"""For an engine that was away to answer /ready: who asks that waits for seconds only."""
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


def create_app(
    recommender: Recommender,
    *,
    keys: Collection[str] = (),
    limits: Limits | None = None,
    choose: Choose = lambda recommender, query: Choice(),
    reload: Callable[[], Catalog] | None = None,
    save: Path | None = None,
    users: Users | None = None,
    store: Store | None = None,
    version: int = 0,
    refit: Fit | None = None,
    refit_every_s: float = math.inf,
    learn: Callable[[ServedRecommender], Learning] | None = None,
    read_only: str = "",
    share: Path | None = None,
    tracer: Tracer | None = None,
) -> FastAPI:
    """The service, for any ASGI server, in one process.

    Args:
        recommender: Answers; its catalog can be changed while it does.
        keys: API keys; none lets everybody in.
        limits: See `Limits`.
        choose: Prompt and LM weight of a query that names no prompt; by default the recommender's own.
        reload: Reads the catalog anew; called on SIGHUP.
        save: Where each changed catalog is written before it is used.
        users: Where the history of a `user` is looked up that a request names; by default nobody is known, or the
            users of the store.
        store: Its catalog is followed, changes of the catalog go there, and so do events; with its routes.
        version: Number of a change of the store's items that the recommender's catalog has.
        refit: Fits the priors anew, see `llmgen.server.refitting`.
        refit_every_s: Seconds from the end of one fit to the next, above 0.
        learn: Counts transitions by each event, see `Learning`.
        read_only: Why the catalog cannot be changed, where it cannot.
        tracer: Of OpenTelemetry, see `llmgen.server.tracing`; None for no spans.
        share: Folder in which the workers of one service put their counters, see `llmgen.server.together`.

    Raises:
        ConfigError: `limits` allow several batches at once, and the model runs in this process.
    """
    limits = limits or Limits()
    live = ServedRecommender(recommender, save=save) if store is None else StoreFollower(recommender, store, version)
    state = State(live, limits, choose, users or (None if store is None else UsersOfStore(store)), Tracing(tracer))

    refitting = None if refit is None else Refitting(live, refit, refit_every_s)
    if refitting is not None:
        state.metrics.fitted(lambda: refitting.fitted_at)

    learning = None if learn is None else learn(live)
    shared = None if share is None else SharedMetrics(share, state.metrics.text)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.draining = False
        state.batcher.start()
        if reload is not None:
            _on_hangup(state, reload)
        background = [asyncio.ensure_future(live.follow())] if isinstance(live, StoreFollower) else []
        if refitting is not None:
            background.append(asyncio.ensure_future(refitting.keep_up()))
        if learning is not None:
            background.append(asyncio.ensure_future(learning.keep_up()))
        if shared is not None:
            background.append(asyncio.ensure_future(shared.keep_written()))
        yield
        state.draining = True
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await state.batcher.close()

    app = FastAPI(
        title="llmgen",
        version=__version__,
        description="A generative LLM recommender: the language model's probability times an item prior, on one trie.",
        lifespan=lifespan,
        redoc_url=None,
        responses=PROBLEMS,
    )
    app.state.llmgen = state
    app.add_middleware(
        AuthMiddleware,
        keys=keys,
        max_body=limits.max_body,
        body_s=limits.timeout_s,
        metrics=state.metrics,
        rates=None if limits.rate is None else Rates(limits.rate),
    )
    if tracer is not None:
        app.add_middleware(TracingMiddleware, tracer=tracer)
    _add_errors(app)
    _add_answers(app, state)
    _add_catalog(app, state, read_only)
    _add_status(app, state, state.metrics.text if shared is None else shared.text)
    if store is not None:
        add_events(app, store, state.tracing)
    return app


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
            workers=_workers(live.now.recommender.engine, limits),
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
        allowed = min(_timeout(request) or self.limits.timeout_s, self.limits.timeout_s, at_most_s)
        steps = self.tracing.steps("queue", "search")
        job = asyncio.ensure_future(self.batcher.ask(group, work, run, timeout_s=allowed, on_begin=steps.next))
        gone = asyncio.ensure_future(_hung_up(request))
        try:
            await asyncio.wait((job, gone), return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                self.metrics.disconnects.inc()
                raise _GoneError
            answer = job.result()
        except QueueFullError:
            self.metrics.refused.inc()
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


def _workers(engine: Engine | None, limits: Limits) -> int:
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


TIMEOUT = {
    "parameters": [
        {
            "name": "X-Timeout",
            "in": "header",
            "description": "Seconds that the answer may take, up to the service's own limit.",
            "schema": {"type": "number", "minimum": SHORTEST_TIMEOUT_S},
        }
    ]
}


def _timeout(request: Request) -> float | None:
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


def _add_answers(app: FastAPI, state: State) -> None:
    def answered(snapshot: Snapshot, body: Document) -> Response:
        return Response(to_json(body), media_type=JSON, headers={"X-Catalog": snapshot.digest})

    def listed(snapshot: Snapshot, answer: Recommendations) -> Response:
        state.metrics.answer(answer)
        catalog = snapshot.recommender.catalog
        return answered(snapshot, RecommendationsBody.dump(answer, [catalog.label(place.item) for place in answer]))

    @app.post("/v1/recommend", response_model=RecommendationsBody, tags=["answers"], openapi_extra=TIMEOUT)
    async def recommend(body: QueryBody, request: Request) -> Response:
        """The best items for a user, a history, or a wish in words."""
        snapshot = state.live.now
        query = await state.query(body, snapshot)
        chosen = snapshot.variant("recommend", state.choice(snapshot, query, body.prompt))
        answer = await state.ask(
            request, (chosen, "recommend"), query, partial(chosen.recommend_many, on_error="return")
        )
        return listed(snapshot, answer)

    @app.post("/v1/rank", response_model=RecommendationsBody, tags=["answers"], openapi_extra=TIMEOUT)
    async def rank(body: RankBody, request: Request) -> Response:
        """Candidates, all of them, in order."""
        snapshot = state.live.now
        query = await state.query(body, snapshot)
        weight = state.choice(snapshot, query, None).lm_weight
        chosen = snapshot.variant("rank", Choice(body.prompt, weight))
        work = (query, snapshot.items(body.candidates))
        return listed(
            snapshot, await state.ask(request, (chosen, "rank"), work, partial(chosen.rank_many, on_error="return"))
        )

    @app.post("/v1/rate", response_model=RatingsBody, tags=["answers"], openapi_extra=TIMEOUT)
    async def rate(body: RateBody, request: Request) -> Response:
        """The ratings that a user would give, as distributions."""
        snapshot = state.live.now
        labels = tuple(body.labels)
        try:
            rating_values(labels)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        query = await state.query(body, snapshot)
        chosen = snapshot.variant("rate", Choice(body.prompt))

        def run(works: Sequence[list[tuple[Query, Any]]]) -> list[list[Any] | LLMGenError]:
            together = [pair for pairs in works for pair in pairs]
            rated = iter(chosen.rate_many(together, labels=labels, on_error="return"))
            ratings = [[next(rated) for _ in pairs] for pairs in works]
            # of a request with several items, the first that failed is its error
            return [next((one for one in rows if isinstance(one, LLMGenError)), rows) for rows in ratings]

        pairs = [(query, item) for item in snapshot.items(body.items)]
        ratings = await state.ask(request, (chosen, "rate", labels), pairs, run)
        catalog = snapshot.recommender.catalog
        return answered(snapshot, RatingsBody.dump(ratings, [catalog.label(rating.item) for rating in ratings]))

    @app.post("/v1/explain", response_model=ExplanationBody, tags=["answers"], openapi_extra=TIMEOUT)
    async def explain(body: ExplainBody, request: Request) -> Response:
        """Why an item suits a user, from the user's own history."""
        snapshot = state.live.now
        query = await state.query(body, snapshot)
        chosen = snapshot.variant("explain", Choice(body.prompt))
        most = body.max_new_tokens

        run = partial(chosen.explain_many, max_new_tokens=most, on_error="return")
        work = (query, snapshot.items([body.item])[0])
        explanation = await state.ask(request, (chosen, "explain", most), work, run)
        return answered(
            snapshot, ExplanationBody.dump(explanation, snapshot.recommender.catalog.label(explanation.item))
        )

    add_lists(app, state, listed, answered, TIMEOUT)


def _add_catalog(app: FastAPI, state: State, read_only: str) -> None:
    def check_changeable() -> None:
        if read_only:
            raise HTTPException(409, read_only)

    @app.get(
        "/v1/items/{item_id:path}", tags=["catalog"], response_model=ItemBody, responses={404: {"model": ErrorBody}}
    )
    async def item(item_id: str) -> Response:
        """One item."""
        try:
            return Response(to_json(ItemBody.dump(state.live.now.recommender.catalog[item_id])), media_type=JSON)
        except UnknownItemError as error:
            raise _NoItemError(404, str(error)) from None

    @app.put("/v1/items", tags=["catalog"])
    async def put_items(body: NewItemsBody) -> CatalogBody:
        """Put items into the catalog; they can be recommended when this answers.

        A title may have 10,000 characters, of which prompts and answers write 500.
        """
        check_changeable()
        with state.tracing.span("store"):
            return changed(await state.live.put([item.value() for item in body.items]))

    @app.delete("/v1/items/{item_id:path}", tags=["catalog"], responses={404: {"model": ErrorBody}})
    async def delete_item(item_id: str) -> CatalogBody:
        """Take an item out of the catalog; no answer that begins later holds it."""
        check_changeable()
        try:
            with state.tracing.span("store"):
                return changed(await state.live.remove(item_id))
        except UnknownItemError as error:
            raise _NoItemError(404, str(error)) from None

    def changed(snapshot: Snapshot) -> CatalogBody:
        state.metrics.swaps.inc()
        return CatalogBody(items=len(snapshot.recommender.catalog), catalog=snapshot.digest)

    @app.get("/v1/prompts", tags=["catalog"])
    async def prompts() -> PromptsBody:
        """The prompt templates that can be asked with, and which one each task uses where a request names none."""
        recommender = state.live.now.recommender
        templates = [
            (recommender.prompts[name], answers(recommender.prompts[name].task)) for name in recommender.prompts
        ]
        return PromptsBody(
            prompts=[PromptBody.of(template, used) for template, used in templates if used is not None],
            used={task: recommender.template(task).name for task in ("recommend", "rank", "rate", "explain")},
        )


def _add_status(app: FastAPI, state: State, metrics_text: Callable[[], bytes]) -> None:
    def status(problem: str | None) -> Response:
        recommender = state.live.now.recommender
        body = StatusBody(
            status=problem or "ok",
            version=__version__,
            engine="none" if recommender.engine is None else recommender.engine.name,
            catalog=state.live.now.digest,
            items=len(recommender.catalog),
        )
        return Response(body.model_dump_json(), 503 if problem else 200, media_type=JSON)

    not_ok: dict[int | str, dict[str, Any]] = {503: {"model": StatusBody, "description": "Not ok; `status` tells why."}}

    @app.get("/health", response_model=StatusBody, tags=["status"], responses=not_ok)
    async def health() -> Response:
        """Whether the process works; if not, start it anew."""
        if (failure := state.batcher.failure) is not None:
            return status(f"requests are worked on no more: {failure}")
        busy = state.batcher.busy_s
        return status(f"a batch has been running for {busy:.0f} s" if busy > STUCK_AFTER_S else None)

    @app.get("/ready", response_model=StatusBody, tags=["status"], responses=not_ok)
    async def ready(request: Request) -> Response:
        """Whether requests should be sent here; after a failure of the engine, or a long wait for it, this asks it."""
        if state.draining:
            return status("shutting down")
        if len(state.batcher) >= state.limits.max_queue:
            return status("the queue is full")
        if isinstance(state.live, StoreFollower) and state.live.problem is not None:
            return status(f"the catalog is not that of the store: {state.live.problem}")
        recommender = state.live.now.recommender
        try:
            if state.engine_error is not None:
                run = recommender.recommend_many
                await state.ask(request, (recommender, "ready"), Query(k=1), run, at_most_s=READY_S)
            elif state.batcher.busy_s > READY_S and isinstance(recommender.engine, Checkable):
                await asyncio.to_thread(_check, recommender.engine)
        except (LLMGenError, QueueFullError, DeadlineError) as error:
            return status(f"the engine is down: {error}")
        return status(None)

    @app.get("/metrics", tags=["status"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return PlainTextResponse(metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _check(engine: Checkable) -> None:
    end = time.monotonic() + READY_S
    with until(lambda: end):
        engine.check()


def _add_errors(app: FastAPI) -> None:
    def problem(request: Request, status: int, kind: str, message: str) -> Response:
        body = ErrorBody(error=kind, message=message, request_id=request.state.request_id)
        headers = {"Retry-After": "1"} if status == 503 else {}
        return Response(body.model_dump_json(), status, headers, JSON)

    async def ours(request: Request, error: Exception) -> Response:
        status = next(status for kind, status in STATUS if isinstance(error, kind))
        if status >= 500:
            logger.warning("%s: %s", request.state.request_id, error)
        return problem(request, status, type(error).__name__, str(error))

    for kind, _ in STATUS:
        app.add_exception_handler(kind, ours)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return problem(request, 422, "ValueError", "; ".join(found[:10]))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = "UnknownItemError" if isinstance(error, _NoItemError) else "HTTPException"
        if error.status_code == 422:
            kind = "ValueError"
        answer = problem(request, error.status_code, kind, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    async def gone(request: Request, error: Exception) -> Response:
        return problem(request, 499, "ClientClosedRequest", "the client hung up")

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(_GoneError, gone)


class _NoItemError(HTTPException):
    """The catalog has no such item: another 404 than that of a path that is not there."""


class _GoneError(Exception):
    """The client hung up."""


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _on_hangup(state: State, reload: Callable[[], Catalog]) -> None:
    async def again() -> None:
        try:
            # items that came with the file are spelled as the others are, and those others as they were
            snapshot = await state.live.change(lambda catalog: reload().identified(catalog.identifier))
            logger.info("reloaded the catalog: %d items, %s", len(snapshot.recommender.catalog), snapshot.digest)
        except (LLMGenError, OSError) as error:
            logger.error("the catalog was not reloaded, and the old one stays: %s", error)

    tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no reference

    def start() -> None:
        task = asyncio.ensure_future(again())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, start)
