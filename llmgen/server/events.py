"""Events over HTTP: what users did goes into the store, many requests in one transaction."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from llmgen.catalog.core import TwiceError, read_json
from llmgen.errors import ArgumentError
from llmgen.events import Event
from llmgen.http.event_schemas import MOST_EVENTS, EventBody, EventsBody, EventsStoredBody, ForgottenBody, UserBody
from llmgen.http.schemas import to_json
from llmgen.server.tracing import Tracing

if TYPE_CHECKING:
    from llmgen.store import Added, Store

JSON, LINES = "application/json", "application/x-ndjson"
_EVENTS: TypeAdapter[EventsBody | EventBody] = TypeAdapter(EventsBody | EventBody)


class Writer:
    """Stores the events of requests that come at the same time in one transaction: a disk is slow to say "durable".

    Args:
        store: Where they go.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[tuple[Sequence[Event], asyncio.Future[Added]]] = deque()
        self._at_work: asyncio.Task[None] | None = None

    async def add(self, events: Sequence[Event]) -> Added:
        """Store events; they are durable when this returns.

        Raises:
            StoreError: They may be stored or not; send them again.
        """
        answer: asyncio.Future[Added] = asyncio.get_running_loop().create_future()
        self._waiting.append((events, answer))
        if self._at_work is None:
            self._at_work = asyncio.ensure_future(self._work())
        return await asyncio.shield(answer)  # who hangs up takes nothing back that others are stored with

    async def _work(self) -> None:
        try:
            while self._waiting:
                together = list(self._waiting)
                self._waiting.clear()
                try:
                    added = await asyncio.to_thread(self._store.add_batches, [events for events, _ in together])
                except Exception as error:  # whatever it is, those who wait are told
                    for _, answer in together:
                        answer.set_exception(error)
                        answer.exception()  # nobody may wait any more
                    continue
                for (_, answer), one in zip(together, added, strict=True):
                    answer.set_result(one)
        finally:
            self._at_work = None


def add_events(app: FastAPI, store: Store, tracing: Tracing) -> None:
    """The routes of events and users."""
    writer = Writer(store)
    described = {
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": {"anyOf": [EventBody.model_json_schema(), EventsBody.model_json_schema()]}},
                LINES: {"schema": {"type": "string", "description": "One event a line."}},
            },
        }
    }

    @app.post("/v1/events", response_model=EventsStoredBody, tags=["events"], openapi_extra=described)
    async def events(request: Request) -> Response:
        """Store what users did: one event, several in `events`, or lines of them (application/x-ndjson).

        They are durable when this answers, and the next request of these users knows them. An event whose id is known
        is not stored again, so what was answered by an error, or not at all, can be sent again. Items need not be in
        the catalog; those that are not are named in the answer.
        """
        given = _read(await request.body(), request.headers.get("content-type", JSON))
        with tracing.span("store"):
            added = await writer.add(given)
        body = {"new": added.new, "known": added.known, "unknown_items": sorted(added.unknown_items)}
        return Response(to_json(body), media_type=JSON)

    @app.get("/v1/users/{user:path}", response_model=UserBody, tags=["events"])
    async def user_events(user: str) -> Response:
        """The latest events of a user, oldest first: all that is known of the user. None for who is not known."""
        with tracing.span("store"):
            found = await asyncio.to_thread(store.history, user, most=MOST_EVENTS)
        return Response(to_json({"user": user, "events": [EventBody.dump(one) for one in found]}), media_type=JSON)

    @app.delete("/v1/users/{user:path}", tags=["events"])
    async def forget_user(user: str) -> ForgottenBody:
        """Forget a user: delete all events. What is fitted after that knows nothing of them."""
        with tracing.span("store"):
            return ForgottenBody(deleted=await asyncio.to_thread(store.forget, user))


def _read(body: bytes, kind: str) -> list[Event]:
    """The events of a request.

    Raises:
        HTTPException: What cannot be read, with its place.
    """
    lines = kind.split(";")[0].strip().lower() == LINES
    documents = [line for line in body.split(b"\n") if line.strip()] if lines else [body]
    if len(documents) > MOST_EVENTS:
        raise HTTPException(413, f"{len(documents)} events in one request; send at most {MOST_EVENTS}")
    given: list[EventBody] = []
    for number, document in enumerate(documents, start=1):
        where = f"line {number}: " if lines else ""
        try:
            read: Any = read_json(document.decode())
            one = EventBody.model_validate(read) if lines else _EVENTS.validate_python(read)
        except (json.JSONDecodeError, TwiceError, UnicodeDecodeError) as error:
            raise HTTPException(422, f"{where}not JSON: {error}") from None
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
            raise HTTPException(422, where + "; ".join(problems[:10])) from None
        given += one.events if isinstance(one, EventsBody) else [one]
    try:
        return [one.made() for one in given]
    except ArgumentError as error:
        raise HTTPException(422, str(error)) from None
