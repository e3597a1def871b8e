"""Client and AsyncClient: a recommender that runs elsewhere, with the methods, the types and the errors of one here."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Literal, Self, TypedDict, TypeVar, Unpack, overload
from urllib.parse import quote

from llmgen import errors
from llmgen.diversity import Diversity
from llmgen.errors import APIStatusError, APITimeoutError, LLMGenError, TemplateNotFoundError
from llmgen.events import Event
from llmgen.http.event_schemas import EventBody, EventsStoredBody, ForgottenBody, UserBody
from llmgen.http.list_schemas import RerankBody, RerankedBody, SimilarBody
from llmgen.http.schemas import (
    CatalogBody,
    ErrorBody,
    ExplainBody,
    ExplanationBody,
    ItemBody,
    PromptsBody,
    QueryBody,
    RankBody,
    RateBody,
    RatingsBody,
    RecommendationsBody,
    StatusBody,
    to_json,
)
from llmgen.http.transport import AsyncTransport, Response, Retry, Transport
from llmgen.isolation import check_on_error
from llmgen.progress import Stage
from llmgen.types import (
    RATINGS,
    Answers,
    Attribute,
    Explanation,
    Item,
    OnError,
    Query,
    RatingPrediction,
    Recommendations,
    Relevance,
)

Answer = TypeVar("Answer")
Result = TypeVar("Result")
Work = TypeVar("Work")

AT_ONCE = 32
"""Requests of `recommend_many` and the like under way at once: the service works on many users together then."""


class QueryFields(TypedDict, total=False):
    """A query by its fields."""

    history: Sequence[Item | str]
    ratings: Sequence[float]
    text: str
    user_id: str
    k: int
    exclude_seen: bool
    filters: dict[str, Attribute]
    exclude: Sequence[Item | str]
    boosts: dict[str, dict[str, float]]
    diversity: Diversity


@dataclass(frozen=True)
class _Call(Generic[Answer]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[bytes], Answer]
    body: bytes | None = None


class _Calls:
    """The requests of both clients; `prompt` is the template that a task should use."""

    @staticmethod
    def recommend(
        query: Query | None, prompt: str | None, fields: QueryFields, user: str | None = None
    ) -> _Call[Recommendations]:
        body = _body(QueryBody, query, fields, prompt=prompt, user=user)
        return _Call("POST", "/v1/recommend", lambda b: RecommendationsBody.model_validate_json(b).value(), body)

    @staticmethod
    def rank(query: Query, candidates: Sequence[Item | str], prompt: str | None) -> _Call[Recommendations]:
        body = _body(RankBody, query, {}, prompt=prompt, candidates=[_id(one) for one in candidates])
        return _Call("POST", "/v1/rank", lambda b: RecommendationsBody.model_validate_json(b).value(), body)

    @staticmethod
    def similar(item: Item | str, query: Query | None) -> _Call[Recommendations]:
        body = _body(SimilarBody, query, {}, item=_id(item))
        return _Call("POST", "/v1/similar", lambda b: RecommendationsBody.model_validate_json(b).value(), body)

    @staticmethod
    def rerank(query: Query, documents: Sequence[Item | str]) -> _Call[list[Relevance]]:
        body = RerankBody.of(query, documents).model_dump_json(exclude_unset=True).encode()
        return _Call("POST", "/v1/rerank", lambda b: RerankedBody.model_validate_json(b).value(), body)

    @staticmethod
    def rate(query: Query, item: Item | str, labels: Sequence[str], prompt: str | None) -> _Call[RatingPrediction]:
        body = _body(RateBody, query, {}, prompt=prompt, items=[_id(item)], labels=list(labels))
        return _Call("POST", "/v1/rate", lambda b: RatingsBody.model_validate_json(b).ratings[0].value(), body)

    @staticmethod
    def explain(query: Query, item: Item | str, max_new_tokens: int, prompt: str | None) -> _Call[Explanation]:
        body = _body(ExplainBody, query, {}, prompt=prompt, item=_id(item), max_new_tokens=max_new_tokens)
        return _Call("POST", "/v1/explain", lambda b: ExplanationBody.model_validate_json(b).value(), body)

    @staticmethod
    def item(item_id: str) -> _Call[Item]:
        return _Call("GET", f"/v1/items/{quote(item_id, safe='')}", lambda b: ItemBody.model_validate_json(b).value())

    @staticmethod
    def put_items(items: Iterable[Item]) -> _Call[CatalogBody]:
        body = to_json({"items": [ItemBody.dump(item) for item in items]})
        return _Call("PUT", "/v1/items", CatalogBody.model_validate_json, body)

    @staticmethod
    def delete_item(item_id: str) -> _Call[CatalogBody]:
        return _Call("DELETE", f"/v1/items/{quote(item_id, safe='')}", CatalogBody.model_validate_json)

    @staticmethod
    def add_events(events: Iterable[Event]) -> _Call[EventsStoredBody]:
        body = to_json({"events": [EventBody.dump(event) for event in events]})
        return _Call("POST", "/v1/events", EventsStoredBody.model_validate_json, body)

    @staticmethod
    def user_events(user: str) -> _Call[list[Event]]:
        return _Call("GET", f"/v1/users/{quote(user, safe='')}", lambda b: UserBody.model_validate_json(b).made())

    @staticmethod
    def forget(user: str) -> _Call[int]:
        return _Call(
            "DELETE", f"/v1/users/{quote(user, safe='')}", lambda b: ForgottenBody.model_validate_json(b).deleted
        )

    prompts = _Call("GET", "/v1/prompts", PromptsBody.model_validate_json)
    status = _Call("GET", "/health", StatusBody.model_validate_json)


class Client:
    """A recommender behind `llmgen serve`, asked over kept connections; may be used by several threads at once.

    Args:
        base_url: Of the service, such as `http://localhost:8000`.
        api_key: Where the service wants one.
        timeout_s: For an answer; the service stops working on what is asked for longer.
        retry: When to ask again after a lost connection or an answer that says so.
        transport: Sends the requests; made from the other arguments by default.

    Raises:
        ValueError: A URL that is none, a time limit out of range, or a key that cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._headers = _headers(api_key, timeout_s)
        self._transport = transport or Transport(_service(base_url), timeout_s=timeout_s, retry=retry)
        self._names: tuple[str, ...] = ()
        self._by_task: dict[str, str] | None = None

    def with_prompt(self, *names: str) -> Client:
        """The same client, over the same connections, with other prompts for the tasks of the named templates.

        Raises:
            TemplateNotFoundError: With the first request: the service has no such prompt.
        """
        made: Client = object.__new__(type(self))
        made._transport, made._headers = self._transport, self._headers
        made._names, made._by_task = (*self._names, *names), None
        return made

    def recommend(
        self, query: Query | None = None, *, user: str | None = None, **fields: Unpack[QueryFields]
    ) -> Recommendations:
        """See `Recommender.recommend`; instead of a query, its fields may be given, with ids for the history.

        Args:
            query: What to recommend for.
            user: A user of the service's log or store, whose history it knows: in the place of a history.
            fields: Of the query, where it is not given.

        Raises:
            UnknownItemError, CatalogError, SearchError: As in process.
            EngineUnavailableError: The service's language model is down.
            APIConnectionError, APITimeoutError, APIStatusError: The service could not be asked, or did not answer.
        """
        return self._send(_Calls.recommend(query, self._prompt("recommend"), fields, user))

    @overload
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["raise"] = "raise"
    ) -> Answers[Recommendations]: ...
    @overload
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["return"]
    ) -> Answers[Recommendations | LLMGenError]: ...
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: OnError = "raise"
    ) -> Answers[Recommendations] | Answers[Recommendations | LLMGenError]:
        """See `Recommender.recommend_many`."""
        prompt, queries = self._prompt("recommend"), list(queries)
        answers = self._all(lambda one: _Calls.recommend(one, prompt, {}), queries, on_error, progress)
        return Answers(answers, queries)

    def recommend_stream(self, queries: Iterable[Query], *, at_once: int = AT_ONCE) -> Iterator[Recommendations]:
        """The best items of each query, in order of the queries, each as soon as it and those before it are there.

        Args:
            queries: Any number, taken one by one as answers come.
            at_once: Requests under way at the same time, 1 or more.
        """
        prompt = self._prompt("recommend")
        for answer in self._answers(lambda query: _Calls.recommend(query, prompt, {}), queries, at_once, "raise"):
            assert not isinstance(answer, LLMGenError)  # it was raised
            yield answer

    def _all(
        self, call: Callable[[Work], _Call[Result]], works: Sequence[Work], on_error: OnError, progress: bool = False
    ) -> list[Result | LLMGenError]:
        check_on_error(on_error)
        answers: list[Result | LLMGenError] = []
        with _bar(len(works), progress) as advance:
            for answer in self._answers(call, works, AT_ONCE, on_error):
                answers.append(answer)
                advance()
        return answers

    def _answers(
        self, call: Callable[[Work], _Call[Result]], works: Iterable[Work], at_once: int, on_error: OnError
    ) -> Iterator[Result | LLMGenError]:
        waiting: deque[Future[Result | LLMGenError]] = deque()

        def ask(work: Work) -> Result | LLMGenError:
            try:
                return self._send(call(work))
            except LLMGenError as error:
                if on_error == "raise":
                    raise
                return error

        with ThreadPoolExecutor(at_once, "llmgen-client") as pool:
            try:
                for work in works:
                    waiting.append(pool.submit(ask, work))
                    while len(waiting) >= 2 * at_once or (waiting and waiting[0].done()):
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def rank(self, query: Query, candidates: Sequence[Item | str]) -> Recommendations:
        """See `Recommender.rank`."""
        return self._send(_Calls.rank(query, candidates, self._prompt("rank")))

    def similar(self, item: Item | str, query: Query | None = None) -> Recommendations:
        """See `Recommender.similar`."""
        return self._send(_Calls.similar(item, query))

    def rerank(self, query: Query, documents: Sequence[Item | str]) -> list[Relevance]:
        """See `Recommender.rerank`; an item is sent by its id."""
        return self._send(_Calls.rerank(query, documents))

    def rate(self, query: Query, item: Item | str, *, labels: Sequence[str] = RATINGS) -> RatingPrediction:
        """See `Recommender.rate`."""
        return self._send(_Calls.rate(query, item, labels, self._prompt("rate")))

    def explain(self, query: Query, item: Item | str, *, max_new_tokens: int = 80) -> Explanation:
        """See `Recommender.explain`."""
        return self._send(_Calls.explain(query, item, max_new_tokens, self._prompt("explain")))

    @overload
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["raise"] = "raise"
    ) -> list[Recommendations]: ...
    @overload
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["return"]
    ) -> list[Recommendations | LLMGenError]: ...
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: OnError = "raise"
    ) -> list[Recommendations] | list[Recommendations | LLMGenError]:
        """See `Recommender.rank_many`."""
        prompt = self._prompt("rank")
        return self._all(lambda pair: _Calls.rank(*pair, prompt), pairs, on_error)

    @overload
    def rate_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        labels: Sequence[str] = RATINGS,
        on_error: Literal["raise"] = "raise",
    ) -> list[RatingPrediction]: ...
    @overload
    def rate_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, labels: Sequence[str] = RATINGS, on_error: Literal["return"]
    ) -> list[RatingPrediction | LLMGenError]: ...
    def rate_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, labels: Sequence[str] = RATINGS, on_error: OnError = "raise"
    ) -> list[RatingPrediction] | list[RatingPrediction | LLMGenError]:
        """See `Recommender.rate_many`."""
        prompt = self._prompt("rate")
        return self._all(lambda pair: _Calls.rate(*pair, labels, prompt), pairs, on_error)

    @overload
    def explain_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        max_new_tokens: int = 80,
        on_error: Literal["raise"] = "raise",
    ) -> list[Explanation]: ...
    @overload
    def explain_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, max_new_tokens: int = 80, on_error: Literal["return"]
    ) -> list[Explanation | LLMGenError]: ...
    def explain_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, max_new_tokens: int = 80, on_error: OnError = "raise"
    ) -> list[Explanation] | list[Explanation | LLMGenError]:
        """See `Recommender.explain_many`."""
        prompt = self._prompt("explain")
        return self._all(lambda pair: _Calls.explain(*pair, max_new_tokens, prompt), pairs, on_error)

    def item(self, item_id: str) -> Item:
        """One item of the service's catalog.

        Raises:
            UnknownItemError: It has no such item.
        """
        return self._send(_Calls.item(item_id))

    def put_items(self, items: Iterable[Item]) -> CatalogBody:
        """Insert items, or replace those with known ids; they can be recommended when this returns."""
        return self._send(_Calls.put_items(items))

    def delete_item(self, item_id: str) -> CatalogBody:
        """Take an item out of the service's catalog.

        Raises:
            UnknownItemError: It has no such item, or has it no more: what was sent twice succeeds once.
        """
        return self._send(_Calls.delete_item(item_id))

    def add_events(self, events: Iterable[Event]) -> EventsStoredBody:
        """Store what users did, in a service with a store; the next request of these users knows it.

        An event whose id is known is not stored again: after an error the same events may be sent again.

        Raises:
            APIStatusError: The service has no store (404), or cannot read an event (422).
            APIConnectionError, APITimeoutError: The events may be stored or not.
        """
        return self._send(_Calls.add_events(events))

    def user_events(self, user: str) -> list[Event]:
        """The latest events of a user in the service's store, oldest first; none for a user who has none."""
        return self._send(_Calls.user_events(user))

    def forget(self, user: str) -> int:
        """Delete all events of a user in the service's store; how many there were, 0 for who has none."""
        return self._send(_Calls.forget(user))

    def prompts(self) -> PromptsBody:
        """All prompt templates of the service."""
        return self._send(_Calls.prompts)

    def status(self) -> StatusBody:
        """What the service is."""
        return self._send(_Calls.status)

    def close(self) -> None:
        """Close all connections, also those of clients made by `with_prompt`."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _prompt(self, task: str) -> str | None:
        if self._names and self._by_task is None:
            self._by_task = _by_task(self._names, self.prompts())
        return (self._by_task or {}).get(task)

    def _send(self, call: _Call[Result]) -> Result:
        return _read(call, self._transport.request(call.method, call.path, body=call.body, headers=self._headers))


class AsyncClient:
    """The same as `Client`, for asyncio."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        transport: AsyncTransport | None = None,
    ) -> None:
        self._headers = _headers(api_key, timeout_s)
        self._transport = transport or AsyncTransport(_service(base_url), timeout_s=timeout_s, retry=retry)
        self._names: tuple[str, ...] = ()
        self._by_task: dict[str, str] | None = None

    def with_prompt(self, *names: str) -> AsyncClient:
        """See `Client.with_prompt`."""
        made: AsyncClient = object.__new__(type(self))
        made._transport, made._headers = self._transport, self._headers
        made._names, made._by_task = (*self._names, *names), None
        return made

    async def recommend(
        self, query: Query | None = None, *, user: str | None = None, **fields: Unpack[QueryFields]
    ) -> Recommendations:
        """See `Client.recommend`."""
        return await self._send(_Calls.recommend(query, await self._prompt("recommend"), fields, user))

    @overload
    async def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["raise"] = "raise"
    ) -> Answers[Recommendations]: ...
    @overload
    async def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["return"]
    ) -> Answers[Recommendations | LLMGenError]: ...
    async def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: OnError = "raise"
    ) -> Answers[Recommendations] | Answers[Recommendations | LLMGenError]:
        """See `Client.recommend_many`."""
        prompt, queries = await self._prompt("recommend"), list(queries)
        answers = await self._all(lambda one: _Calls.recommend(one, prompt, {}), queries, on_error, progress)
        return Answers(answers, queries)

    async def recommend_stream(
        self, queries: Iterable[Query], *, at_once: int = AT_ONCE
    ) -> AsyncIterator[Recommendations]:
        """See `Client.recommend_stream`."""
        prompt = await self._prompt("recommend")
        async for answer in self._answers(lambda query: _Calls.recommend(query, prompt, {}), queries, at_once, "raise"):
            assert not isinstance(answer, LLMGenError)  # it was raised
            yield answer

    async def _all(
        self, call: Callable[[Work], _Call[Result]], works: Sequence[Work], on_error: OnError, progress: bool = False
    ) -> list[Result | LLMGenError]:
        check_on_error(on_error)
        answers: list[Result | LLMGenError] = []
        with _bar(len(works), progress) as advance:
            async for answer in self._answers(call, works, AT_ONCE, on_error):
                answers.append(answer)
                advance()
        return answers

    async def _answers(
        self, call: Callable[[Work], _Call[Result]], works: Iterable[Work], at_once: int, on_error: OnError
    ) -> AsyncIterator[Result | LLMGenError]:
        waiting: deque[asyncio.Task[Result | LLMGenError]] = deque()

        async def ask(work: Work) -> Result | LLMGenError:
            try:
                return await self._send(call(work))
            except LLMGenError as error:
                if on_error == "raise":
                    raise
                return error

        try:
            for work in works:
                waiting.append(asyncio.ensure_future(ask(work)))
                while len(waiting) >= at_once or (waiting and waiting[0].done()):
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()

    async def rank(self, query: Query, candidates: Sequence[Item | str]) -> Recommendations:
        """See `Recommender.rank`."""
        return await self._send(_Calls.rank(query, candidates, await self._prompt("rank")))

    async def similar(self, item: Item | str, query: Query | None = None) -> Recommendations:
        """See `Recommender.similar`."""
        return await self._send(_Calls.similar(item, query))

    async def rerank(self, query: Query, documents: Sequence[Item | str]) -> list[Relevance]:
        """See `Client.rerank`."""
        return await self._send(_Calls.rerank(query, documents))

    async def rate(self, query: Query, item: Item | str, *, labels: Sequence[str] = RATINGS) -> RatingPrediction:
        """See `Recommender.rate`."""
        return await self._send(_Calls.rate(query, item, labels, await self._prompt("rate")))

    async def explain(self, query: Query, item: Item | str, *, max_new_tokens: int = 80) -> Explanation:
        """See `Recommender.explain`."""
        return await self._send(_Calls.explain(query, item, max_new_tokens, await self._prompt("explain")))

    @overload
    async def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["raise"] = "raise"
    ) -> list[Recommendations]: ...
    @overload
    async def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["return"]
    ) -> list[Recommendations | LLMGenError]: ...
    async def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: OnError = "raise"
    ) -> list[Recommendations] | list[Recommendations | LLMGenError]:
        """See `Recommender.rank_many`."""
        prompt = await self._prompt("rank")
        return await self._all(lambda pair: _Calls.rank(*pair, prompt), pairs, on_error)

    @overload
    async def rate_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        labels: Sequence[str] = RATINGS,
        on_error: Literal["raise"] = "raise",
    ) -> list[RatingPrediction]: ...
    @overload
    async def rate_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, labels: Sequence[str] = RATINGS, on_error: Literal["return"]
    ) -> list[RatingPrediction | LLMGenError]: ...
    async def rate_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, labels: Sequence[str] = RATINGS, on_error: OnError = "raise"
    ) -> list[RatingPrediction] | list[RatingPrediction | LLMGenError]:
        """See `Recommender.rate_many`."""
        prompt = await self._prompt("rate")
        return await self._all(lambda pair: _Calls.rate(*pair, labels, prompt), pairs, on_error)

    @overload
    async def explain_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        max_new_tokens: int = 80,
        on_error: Literal["raise"] = "raise",
    ) -> list[Explanation]: ...
    @overload
    async def explain_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, max_new_tokens: int = 80, on_error: Literal["return"]
    ) -> list[Explanation | LLMGenError]: ...
    async def explain_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, max_new_tokens: int = 80, on_error: OnError = "raise"
    ) -> list[Explanation] | list[Explanation | LLMGenError]:
        """See `Recommender.explain_many`."""
        prompt = await self._prompt("explain")
        return await self._all(lambda pair: _Calls.explain(*pair, max_new_tokens, prompt), pairs, on_error)

    async def item(self, item_id: str) -> Item:
        """See `Client.item`."""
        return await self._send(_Calls.item(item_id))

    async def put_items(self, items: Iterable[Item]) -> CatalogBody:
        """See `Client.put_items`."""
        return await self._send(_Calls.put_items(items))

    async def delete_item(self, item_id: str) -> CatalogBody:
        """See `Client.delete_item`."""
        return await self._send(_Calls.delete_item(item_id))

    async def add_events(self, events: Iterable[Event]) -> EventsStoredBody:
        """See `Client.add_events`."""
        return await self._send(_Calls.add_events(events))

    async def user_events(self, user: str) -> list[Event]:
        """See `Client.user_events`."""
        return await self._send(_Calls.user_events(user))

    async def forget(self, user: str) -> int:
        """See `Client.forget`."""
        return await self._send(_Calls.forget(user))

    async def prompts(self) -> PromptsBody:
        """See `Client.prompts`."""
        return await self._send(_Calls.prompts)

    async def status(self) -> StatusBody:
        """See `Client.status`."""
        return await self._send(_Calls.status)

    async def aclose(self) -> None:
        """See `Client.close`."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _prompt(self, task: str) -> str | None:
        if self._names and self._by_task is None:
            self._by_task = _by_task(self._names, await self.prompts())
        return (self._by_task or {}).get(task)

    async def _send(self, call: _Call[Result]) -> Result:
        return _read(call, await self._transport.request(call.method, call.path, body=call.body, headers=self._headers))


def _service(base_url: str) -> str:
    """The address of the service, of which its own paths, that begin with /v1, are no part."""
    return base_url.rstrip("/").removesuffix("/v1")


def _headers(api_key: str | None, timeout_s: float) -> dict[str, str]:
    headers = {"content-type": "application/json", "x-timeout": str(timeout_s)}
    if api_key is not None:
        if not re.fullmatch(r"[!-~]+", api_key):  # the key itself stays out of the message
            raise ValueError("an API key is made of visible ASCII characters, without spaces; this one is not")
        headers["authorization"] = f"Bearer {api_key}"
    return headers


def _body(kind: type[QueryBody], query: Query | None, fields: QueryFields, **more: object) -> bytes:
    if query is None:
        query = Query(**fields)
    elif fields:
        raise ValueError(f"give a query or its fields, not both: {', '.join(fields)}")
    body = kind.of(query, **more)
    return body.model_dump_json(exclude_defaults=True).encode()


def _id(item: Item | str) -> str:
    return item if isinstance(item, str) else item.id


def _by_task(names: Sequence[str], prompts: PromptsBody) -> dict[str, str]:
    tasks = {prompt.name: prompt.answers for prompt in prompts.prompts}
    for name in names:
        if name not in tasks:
            raise TemplateNotFoundError(f"the service has no prompt {name!r}; it has {', '.join(sorted(tasks))}")
    return {tasks[name]: name for name in names}


def _read(call: _Call[Result], response: Response) -> Result:
    """The answer, or the error that it stands for."""
    if response.status == 200:
        return call.read(response.body)
    try:
        problem = ErrorBody.model_validate_json(response.body)
    except ValueError:
        text = response.body[:200].decode(errors="replace")
        raise APIStatusError(f"{call.path} answered {response.status}: {text}", status=response.status) from None
    kind = getattr(errors, problem.error, None)
    if problem.error == "ValueError":
        raise ValueError(problem.message)
    if problem.error == "DeadlineError":
        raise APITimeoutError(problem.message)
    if isinstance(kind, type) and issubclass(kind, LLMGenError):
        raise kind(problem.message)
    message = f"{call.path} answered {response.status}: {problem.message}"
    raise APIStatusError(message, status=response.status, request_id=problem.request_id)


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], object]]:
    with Stage("Recommending", total, shown=shown) as stage:
        yield stage.advance
