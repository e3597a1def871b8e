"""Client: a recommender that runs elsewhere, with the methods, the types and the errors of one here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
from llmgen.http.transport import Retry, Transport
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
        self._headers = headers_of(api_key, timeout_s)
        self._transport = transport or Transport(service_address(base_url), timeout_s=timeout_s, retry=retry)
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
    ) -> Answer:
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
        return self._send(Calls.recommend(query, self._prompt("recommend"), fields, user))

    @overload
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["raise"] = "raise"
    ) -> Answers[Answer]: ...
    @overload
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["return"]
    ) -> Answers[Answer | LLMGenError]: ...
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: OnError = "raise"
    ) -> Answers[Answer] | Answers[Answer | LLMGenError]:
        """See `Recommender.recommend_many`."""
        prompt, queries = self._prompt("recommend"), list(queries)
        answers = self._all(lambda one: Calls.recommend(one, prompt, {}), queries, on_error, progress)
        return Answers(answers, queries)

    def recommend_stream(self, queries: Iterable[Query], *, at_once: int = AT_ONCE) -> Iterator[Answer]:
        """The best items of each query, in order of the queries, each as soon as it and those before it are there.

        Args:
            queries: Any number, taken one by one as answers come.
            at_once: Requests under way at the same time, 1 or more.
        """
        prompt = self._prompt("recommend")
        for answer in self._answers(lambda query: Calls.recommend(query, prompt, {}), queries, at_once, "raise"):
            assert not isinstance(answer, LLMGenError)  # it was raised
            yield answer

    def _all(
        self, call: Callable[[Work], Call[Result]], works: Sequence[Work], on_error: OnError, progress: bool = False
    ) -> list[Result | LLMGenError]:
        check_on_error(on_error)
        answers: list[Result | LLMGenError] = []
        with progress_bar(len(works), progress) as advance:
            for answer in self._answers(call, works, AT_ONCE, on_error):
                answers.append(answer)
                advance()
        return answers

    def _answers(
        self, call: Callable[[Work], Call[Result]], works: Iterable[Work], at_once: int, on_error: OnError
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

    def rank(self, query: Query, candidates: Sequence[Item | str]) -> Answer:
        """See `Recommender.rank`."""
        return self._send(Calls.rank(query, candidates, self._prompt("rank")))

    def similar(self, item: Item | str, query: Query | None = None) -> Recommendations:
        """See `Recommender.similar`."""
        return self._send(Calls.similar(item, query))

    def rerank(self, query: Query, documents: Sequence[Item | str]) -> list[Relevance]:
        """See `Recommender.rerank`; an item is sent by its id."""
        return self._send(Calls.rerank(query, documents))

    def rate(self, query: Query, item: Item | str, *, labels: Sequence[str] = RATINGS) -> RatingPrediction:
        """See `Recommender.rate`."""
        return self._send(Calls.rate(query, item, labels, self._prompt("rate")))

    def explain(self, query: Query, item: Item | str, *, max_new_tokens: int = 80) -> Explanation:
        """See `Recommender.explain`."""
        return self._send(Calls.explain(query, item, max_new_tokens, self._prompt("explain")))

    @overload
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["raise"] = "raise"
    ) -> list[Answer]: ...
    @overload
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["return"]
    ) -> list[Answer | LLMGenError]: ...
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: OnError = "raise"
    ) -> list[Answer] | list[Answer | LLMGenError]:
        """See `Recommender.rank_many`."""
        prompt = self._prompt("rank")
        return self._all(lambda pair: Calls.rank(*pair, prompt), pairs, on_error)

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
        return self._all(lambda pair: Calls.rate(*pair, labels, prompt), pairs, on_error)

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
        return self._all(lambda pair: Calls.explain(*pair, max_new_tokens, prompt), pairs, on_error)

    def item(self, item_id: str) -> Item:
        """One item of the service's catalog.

        Raises:
            UnknownItemError: It has no such item.
        """
        return self._send(Calls.item(item_id))

    def put_items(self, items: Iterable[Item]) -> CatalogBody:
        """Insert items, or replace those with known ids; they can be recommended when this returns."""
        return self._send(Calls.put_items(items))

    def delete_item(self, item_id: str) -> CatalogBody:
        """Take an item out of the service's catalog.

        Raises:
            UnknownItemError: It has no such item, or has it no more: what was sent twice succeeds once.
        """
        return self._send(Calls.delete_item(item_id))

    def add_events(self, events: Iterable[Event]) -> EventsStoredBody:
        """Store what users did, in a service with a store; the next request of these users knows it.

        An event whose id is known is not stored again: after an error the same events may be sent again.

        Raises:
            APIStatusError: The service has no store (404), or cannot read an event (422).
            APIConnectionError, APITimeoutError: The events may be stored or not.
        """
        return self._send(Calls.add_events(events))

    def user_events(self, user: str) -> list[Event]:
        """The latest events of a user in the service's store, oldest first; none for a user who has none."""
        return self._send(Calls.user_events(user))

    def forget(self, user: str) -> int:
        """Delete all events of a user in the service's store; how many there were, 0 for who has none."""
        return self._send(Calls.forget(user))

    def prompts(self) -> PromptsBody:
        """All prompt templates of the service."""
        return self._send(Calls.prompts)

    def status(self) -> StatusBody:
        """What the service is."""
        return self._send(Calls.status)

    def close(self) -> None:
        """Close all connections, also those of clients made by `with_prompt`."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _prompt(self, task: str) -> str | None:
        if self._names and self._by_task is None:
            self._by_task = prompts_by_task(self._names, self.prompts())
        return (self._by_task or {}).get(task)

    def _send(self, call: Call[Result]) -> Result:
        return read_answer(call, self._transport.request(call.method, call.path, body=call.body, headers=self._headers))
