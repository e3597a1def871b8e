"""AsyncClient: a recommender that runs elsewhere, for asyncio; see `llmgen.http.client`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from types import TracebackType
from typing import Literal, Self, Unpack, overload

from llmgen.errors import LLMGenError
from llmgen.events import Event
from llmgen.http.calls import (
    AT_ONCE,
    Call,
    Calls,
    QueryFields,
    Result,
    Work,
    headers_of,
    progress_bar,
    prompts_by_task,
    read_answer,
    service_address,
)
from llmgen.http.event_schemas import EventsStoredBody
from llmgen.http.schemas import (
    CatalogBody,
    PromptsBody,
    StatusBody,
)
from llmgen.http.transport import AsyncTransport, Retry
from llmgen.isolation import check_on_error
from llmgen.types import (
    RATINGS,
    Answer,
    Answers,
    Explanation,
    Item,
    OnError,
    Query,
    RatingPrediction,
    Recommendations,
    Relevance,
)


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
        self._headers = headers_of(api_key, timeout_s)
        self._transport = transport or AsyncTransport(service_address(base_url), timeout_s=timeout_s, retry=retry)
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
    ) -> Answer:
        """See `Client.recommend`."""
        return await self._send(Calls.recommend(query, await self._prompt("recommend"), fields, user))

    @overload
    async def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["raise"] = "raise"
    ) -> Answers[Answer]: ...
    @overload
    async def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["return"]
    ) -> Answers[Answer | LLMGenError]: ...
    async def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: OnError = "raise"
    ) -> Answers[Answer] | Answers[Answer | LLMGenError]:
        """See `Client.recommend_many`."""
        prompt, queries = await self._prompt("recommend"), list(queries)
        answers = await self._all(lambda one: Calls.recommend(one, prompt, {}), queries, on_error, progress)
        return Answers(answers, queries)

    async def recommend_stream(self, queries: Iterable[Query], *, at_once: int = AT_ONCE) -> AsyncIterator[Answer]:
        """See `Client.recommend_stream`."""
        prompt = await self._prompt("recommend")
        async for answer in self._answers(lambda query: Calls.recommend(query, prompt, {}), queries, at_once, "raise"):
            assert not isinstance(answer, LLMGenError)  # it was raised
            yield answer

    async def _all(
        self, call: Callable[[Work], Call[Result]], works: Sequence[Work], on_error: OnError, progress: bool = False
    ) -> list[Result | LLMGenError]:
        check_on_error(on_error)
        answers: list[Result | LLMGenError] = []
        with progress_bar(len(works), progress) as advance:
            async for answer in self._answers(call, works, AT_ONCE, on_error):
                answers.append(answer)
                advance()
        return answers

    async def _answers(
        self, call: Callable[[Work], Call[Result]], works: Iterable[Work], at_once: int, on_error: OnError
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

    async def rank(self, query: Query, candidates: Sequence[Item | str]) -> Answer:
        """See `Recommender.rank`."""
        return await self._send(Calls.rank(query, candidates, await self._prompt("rank")))

    async def similar(self, item: Item | str, query: Query | None = None) -> Recommendations:
        """See `Recommender.similar`."""
        return await self._send(Calls.similar(item, query))

    async def rerank(self, query: Query, documents: Sequence[Item | str]) -> list[Relevance]:
        """See `Client.rerank`."""
        return await self._send(Calls.rerank(query, documents))

    async def rate(self, query: Query, item: Item | str, *, labels: Sequence[str] = RATINGS) -> RatingPrediction:
        """See `Recommender.rate`."""
        return await self._send(Calls.rate(query, item, labels, await self._prompt("rate")))

    async def explain(self, query: Query, item: Item | str, *, max_new_tokens: int = 80) -> Explanation:
        """See `Recommender.explain`."""
        return await self._send(Calls.explain(query, item, max_new_tokens, await self._prompt("explain")))

    @overload
    async def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["raise"] = "raise"
    ) -> list[Answer]: ...
    @overload
    async def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["return"]
    ) -> list[Answer | LLMGenError]: ...
    async def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: OnError = "raise"
    ) -> list[Answer] | list[Answer | LLMGenError]:
        """See `Recommender.rank_many`."""
        prompt = await self._prompt("rank")
        return await self._all(lambda pair: Calls.rank(*pair, prompt), pairs, on_error)

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
        return await self._all(lambda pair: Calls.rate(*pair, labels, prompt), pairs, on_error)

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
        return await self._all(lambda pair: Calls.explain(*pair, max_new_tokens, prompt), pairs, on_error)

    async def item(self, item_id: str) -> Item:
        """See `Client.item`."""
        return await self._send(Calls.item(item_id))

    async def put_items(self, items: Iterable[Item]) -> CatalogBody:
        """See `Client.put_items`."""
        return await self._send(Calls.put_items(items))

    async def delete_item(self, item_id: str) -> CatalogBody:
        """See `Client.delete_item`."""
        return await self._send(Calls.delete_item(item_id))

    async def add_events(self, events: Iterable[Event]) -> EventsStoredBody:
        """See `Client.add_events`."""
        return await self._send(Calls.add_events(events))

    async def user_events(self, user: str) -> list[Event]:
        """See `Client.user_events`."""
        return await self._send(Calls.user_events(user))

    async def forget(self, user: str) -> int:
        """See `Client.forget`."""
        return await self._send(Calls.forget(user))

    async def prompts(self) -> PromptsBody:
        """See `Client.prompts`."""
        return await self._send(Calls.prompts)

    async def status(self) -> StatusBody:
        """See `Client.status`."""
        return await self._send(Calls.status)

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
            self._by_task = prompts_by_task(self._names, await self.prompts())
        return (self._by_task or {}).get(task)

    async def _send(self, call: Call[Result]) -> Result:
        return read_answer(
            call, await self._transport.request(call.method, call.path, body=call.body, headers=self._headers)
        )
