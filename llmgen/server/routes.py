"""The routes of a service: answers, the catalog and its status."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException

from llmgen import __version__
from llmgen.engines import Checkable
from llmgen.errors import (
    LLMGenError,
    UnknownItemError,
)
from llmgen.http.schemas import (
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
from llmgen.recommend.recommender import Choice
from llmgen.server.batching import DeadlineError, QueueFullError
from llmgen.server.following import StoreFollower
from llmgen.server.lists import add_lists
from llmgen.server.problems import JSON, NoItemError
from llmgen.server.served import Snapshot
from llmgen.server.state import SHORTEST_TIMEOUT_S, STUCK_AFTER_S, State
from llmgen.templates.tasks import answers
from llmgen.types import Answer, Query

if TYPE_CHECKING:
    pass


READY_S = 2.0
"""For an engine that was away to answer /ready: who asks that waits for seconds only."""


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


def add_answers(app: FastAPI, state: State) -> None:
    """Recommend, rank, rate and explain."""

    def answered(snapshot: Snapshot, body: Document) -> Response:
        return Response(to_json(body), media_type=JSON, headers={"X-Catalog": snapshot.digest})

    def listed(snapshot: Snapshot, answer: Answer) -> Response:
        state.metrics.answer(answer)
        catalog = snapshot.recommender.catalog
        return answered(snapshot, RecommendationsBody.dump(answer, [catalog.label(place.item) for place in answer]))

    @app.post("/v1/recommend", response_model=RecommendationsBody, tags=["answers"], openapi_extra=TIMEOUT)
    async def recommend(body: QueryBody, request: Request) -> Response:
        """The best items for a user, a history, or a wish in words."""
        snapshot = state.live.now
        query = await state.query(body, snapshot)
        chosen = snapshot.variant("recommend", state.choice(snapshot, query, body.prompt))
        answer: Answer = await state.ask(
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


def add_catalog(app: FastAPI, state: State, read_only: str) -> None:
    """Items, changes of them, and prompts."""

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
            raise NoItemError(404, str(error)) from None

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
            raise NoItemError(404, str(error)) from None

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


def add_status(app: FastAPI, state: State, metrics_text: Callable[[], bytes]) -> None:
    """Health, readiness and metrics."""

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
                await asyncio.to_thread(check_engine, recommender.engine)
        except (LLMGenError, QueueFullError, DeadlineError) as error:
            return status(f"the engine is down: {error}")
        return status(None)

    @app.get("/metrics", tags=["status"], response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return PlainTextResponse(metrics_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def check_engine(engine: Checkable) -> None:
    """Ask an engine that runs elsewhere whether it is there."""
    end = time.monotonic() + READY_S
    with until(lambda: end):
        engine.check()
