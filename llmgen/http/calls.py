"""The requests of both clients: what is sent, how an answer is read, and the errors that it may stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypedDict, TypeVar
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
from llmgen.http.transport import Response
from llmgen.progress import Stage
from llmgen.types import (
    Answer,
    Attribute,
    Explanation,
    Item,
    Query,
    RatingPrediction,
    Recommendations,
    Relevance,
)

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
class Call(Generic[Result]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[bytes], Result]
    body: bytes | None = None


class Calls:
    """The requests of both clients; `prompt` is the template that a task should use."""

    @staticmethod
    def recommend(
        query: Query | None, prompt: str | None, fields: QueryFields, user: str | None = None
    ) -> Call[Answer]:
        """See `Client.recommend`."""
        body = _body(QueryBody, query, fields, prompt=prompt, user=user)
        return Call("POST", "/v1/recommend", lambda b: RecommendationsBody.model_validate_json(b).value(), body)

    @staticmethod
    def rank(query: Query, candidates: Sequence[Item | str], prompt: str | None) -> Call[Answer]:
        """See `Client.rank`."""
        body = _body(RankBody, query, {}, prompt=prompt, candidates=[_id(one) for one in candidates])
        return Call("POST", "/v1/rank", lambda b: RecommendationsBody.model_validate_json(b).value(), body)

    @staticmethod
    def similar(item: Item | str, query: Query | None) -> Call[Recommendations]:
        """See `Client.similar`."""
        body = _body(SimilarBody, query, {}, item=_id(item))
        return Call("POST", "/v1/similar", lambda b: RecommendationsBody.model_validate_json(b).scored(), body)

    @staticmethod
    def rerank(query: Query, documents: Sequence[Item | str]) -> Call[list[Relevance]]:
        """See `Client.rerank`."""
        body = RerankBody.of(query, documents).model_dump_json(exclude_unset=True).encode()
        return Call("POST", "/v1/rerank", lambda b: RerankedBody.model_validate_json(b).value(), body)

    @staticmethod
    def rate(query: Query, item: Item | str, labels: Sequence[str], prompt: str | None) -> Call[RatingPrediction]:
        """See `Client.rate`."""
        body = _body(RateBody, query, {}, prompt=prompt, items=[_id(item)], labels=list(labels))
        return Call("POST", "/v1/rate", lambda b: RatingsBody.model_validate_json(b).ratings[0].value(), body)

    @staticmethod
    def explain(query: Query, item: Item | str, max_new_tokens: int, prompt: str | None) -> Call[Explanation]:
        """See `Client.explain`."""
        body = _body(ExplainBody, query, {}, prompt=prompt, item=_id(item), max_new_tokens=max_new_tokens)
        return Call("POST", "/v1/explain", lambda b: ExplanationBody.model_validate_json(b).value(), body)

    @staticmethod
    def item(item_id: str) -> Call[Item]:
        """See `Client.item`."""
        return Call("GET", f"/v1/items/{quote(item_id, safe='')}", lambda b: ItemBody.model_validate_json(b).value())

    @staticmethod
    def put_items(items: Iterable[Item]) -> Call[CatalogBody]:
        """See `Client.put_items`."""
        body = to_json({"items": [ItemBody.dump(item) for item in items]})
        return Call("PUT", "/v1/items", CatalogBody.model_validate_json, body)

    @staticmethod
    def delete_item(item_id: str) -> Call[CatalogBody]:
        """See `Client.delete_item`."""
        return Call("DELETE", f"/v1/items/{quote(item_id, safe='')}", CatalogBody.model_validate_json)

    @staticmethod
    def add_events(events: Iterable[Event]) -> Call[EventsStoredBody]:
        """See `Client.add_events`."""
        body = to_json({"events": [EventBody.dump(event) for event in events]})
        return Call("POST", "/v1/events", EventsStoredBody.model_validate_json, body)

    @staticmethod
    def user_events(user: str) -> Call[list[Event]]:
        """See `Client.user_events`."""
        return Call("GET", f"/v1/users/{quote(user, safe='')}", lambda b: UserBody.model_validate_json(b).made())

    @staticmethod
    def forget(user: str) -> Call[int]:
        """See `Client.forget`."""
        return Call(
            "DELETE", f"/v1/users/{quote(user, safe='')}", lambda b: ForgottenBody.model_validate_json(b).deleted
        )

    prompts = Call("GET", "/v1/prompts", PromptsBody.model_validate_json)
    status = Call("GET", "/health", StatusBody.model_validate_json)


def service_address(base_url: str) -> str:
    """The address of the service, of which its own paths, that begin with /v1, are no part."""
    return base_url.rstrip("/").removesuffix("/v1")


def headers_of(api_key: str | None, timeout_s: float) -> dict[str, str]:
    """What every request says.

    Raises:
        ValueError: A key that cannot be sent.
    """
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


def prompts_by_task(names: Sequence[str], prompts: PromptsBody) -> dict[str, str]:
    """Task -> the prompt of these that is for it.

    Raises:
        TemplateNotFoundError: The service has no such prompt.
    """
    tasks = {prompt.name: prompt.answers for prompt in prompts.prompts}
    for name in names:
        if name not in tasks:
            raise TemplateNotFoundError(f"the service has no prompt {name!r}; it has {', '.join(sorted(tasks))}")
    return {tasks[name]: name for name in names}


def read_answer(call: Call[Result], response: Response) -> Result:
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
def progress_bar(total: int, shown: bool) -> Iterator[Callable[[], object]]:
    """A bar on the terminal, where it is shown; what is given goes on by one."""
    with Stage("Recommending", total, shown=shown) as stage:
        yield stage.advance
