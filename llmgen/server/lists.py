"""Routes of lists that are no recommendations: items like an item, and documents in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response

from llmgen.errors import EngineUnavailableError, LLMGenError
from llmgen.http.list_schemas import RerankBody, RerankedBody, SimilarBody
from llmgen.http.schemas import Document, RecommendationsBody
from llmgen.types import Answer, Item, Query, Relevance

if TYPE_CHECKING:
    from llmgen.server.served import Snapshot
    from llmgen.server.state import State

RERANK = ("/v1/rerank", "/v2/rerank", "/rerank")
"""Jina and vLLM ask the first, Cohere's newer clients the second, and vLLM knows the third."""


def add_lists(
    app: FastAPI,
    state: State,
    listed: Callable[[Snapshot, Answer], Response],
    answered: Callable[[Snapshot, Document], Response],
    extra: dict[str, Any],
) -> None:
    """Add the routes.

    Args:
        app: Gets them.
        state: What all routes share.
        listed: Makes the answer of a list.
        answered: Makes an answer.
        extra: For the schema of each route.
    """
    from llmgen.recommend.recommender import Choice

    @app.post("/v1/similar", response_model=RecommendationsBody, tags=["answers"], openapi_extra=extra)
    async def similar(body: SimilarBody, request: Request) -> Response:
        """Items like an item, for the page of a product; the language model is not asked."""
        snapshot = state.live.now
        query = await state.query(body, snapshot)
        recommender = snapshot.recommender
        work = (query, snapshot.items([body.item])[0])
        run = partial(recommender.similar_many, on_error="return")
        return listed(snapshot, await state.ask(request, (recommender, "similar"), work, run))

    async def rerank(body: RerankBody, request: Request) -> Response:
        """Documents in order, in the shape that Jina, Cohere and vLLM share; by user or history too."""
        snapshot = state.live.now
        query = await state.query(body.asked(), snapshot)
        weight = state.choice(snapshot, query, None)
        chosen = snapshot.variant("recommend", Choice(weight.prompt, weight.lm_weight))

        def run(works: Sequence[tuple[Query, Sequence[Item | str]]]) -> list[list[Relevance] | LLMGenError]:
            answers: list[list[Relevance] | LLMGenError] = []
            for asked, documents in works:
                try:
                    answers.append(chosen.rerank(asked, documents))
                except EngineUnavailableError:
                    raise
                except LLMGenError as error:  # of this one alone
                    answers.append(error)
            return answers

        found = await state.ask(request, (chosen, "rerank"), (query, body.texts), run)
        engine = snapshot.recommender.engine
        named: dict[str, Any] = {"request_id": request.state.request_id, "model": engine.name if engine else "none"}
        texts = body.texts if body.return_documents else ()
        return answered(snapshot, RerankedBody.dump(found, texts=texts, top_n=body.top_n, **named))

    for path in RERANK:
        first = path == RERANK[0]
        app.post(
            path,
            response_model=RerankedBody,
            response_model_exclude_none=True,
            tags=["answers"],
            openapi_extra=extra,
            include_in_schema=first,
        )(rerank)
