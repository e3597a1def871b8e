"""Errors as answers: which status each kind has, and what its body says."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from llmgen.errors import (
    CatalogError,
    ConfigError,
    EngineError,
    EngineUnavailableError,
    SearchError,
    StoreError,
    TemplateError,
)
from llmgen.http.schemas import (
    ErrorBody,
)
from llmgen.server.batching import DeadlineError, QueueFullError
from llmgen.server.state import ClientGoneError

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)


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


def add_errors(app: FastAPI) -> None:
    """Every error becomes an answer with its status and what to do."""

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
        kind = "UnknownItemError" if isinstance(error, NoItemError) else "HTTPException"
        if error.status_code == 422:
            kind = "ValueError"
        answer = problem(request, error.status_code, kind, str(error.detail))
        answer.headers.update(error.headers or {})
        return answer

    async def gone(request: Request, error: Exception) -> Response:
        return problem(request, 499, "ClientClosedRequest", "the client hung up")

    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(ClientGoneError, gone)


class NoItemError(HTTPException):
    """The catalog has no such item: another 404 than that of a path that is not there."""
