"""Items like an item, and documents in order, as JSON; shared by the command line, the service and its client.

Reranking has the shape that Jina, Cohere and vLLM share, so that whoever has a reranker configured changes one address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from llmgen.http.schemas import (
    LONGEST_HISTORY,
    LONGEST_TEXT,
    MOST_CANDIDATES,
    AttributeName,
    AttributeValue,
    Document,
    ItemBody,
    ItemId,
    QueryBody,
)
from llmgen.types import Item, Query, Relevance, has_half


class SimilarBody(QueryBody):
    """An item, and what a list of items like it may hold; a history is left out of it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item": "50", "k": 5}]})
    item: ItemId


def _readable(text: str) -> str:
    if not text.strip():
        raise ValueError("a document is blank; leave it out")
    if has_half(text):
        raise ValueError("a document has half a character; cut texts between characters")
    return text


DocumentText = Annotated[str, AfterValidator(_readable)]


def _listed(documents: object) -> object:
    """One document as a list of one, as vLLM takes it."""
    return [documents] if isinstance(documents, str | dict) else documents


class DocumentBody(BaseModel):
    """A document as an object."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    text: DocumentText


class RerankBody(BaseModel):
    """A query and documents to put in order; fields that other services know as well are passed over."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        json_schema_extra={"examples": [{"query": "space opera", "documents": ["Star Wars (1977)", "50"], "top_n": 1}]},
    )
    query: Annotated[str, StringConstraints(max_length=LONGEST_TEXT)] = Field(
        description="A wish in words; may be empty."
    )
    documents: Annotated[
        list[DocumentText | DocumentBody], Field(min_length=1, max_length=MOST_CANDIDATES), BeforeValidator(_listed)
    ] = Field(
        description="Texts, or objects with `text`; or one of them without a list. The id, label or title of an item "
        "stands for that item, and is weighed by all priors.",
    )
    top_n: int | None = Field(None, ge=0, description="How many results at most; 0, as by default, for all of them.")
    return_documents: bool = Field(False, description="Whether each result has its document.")
    model: str | None = Field(None, description="Not looked at.")
    user: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None, description="As in /v1/recommend."
    )
    history: list[ItemId] = Field([], max_length=LONGEST_HISTORY, description="Ids of items taken, oldest first.")
    filters: dict[AttributeName, AttributeValue] = Field({}, max_length=32, description="As in /v1/recommend.")

    @model_validator(mode="after")
    def _can_be_asked(self) -> RerankBody:
        self.asked()  # raises what a query must not have
        return self

    @classmethod
    def of(cls, query: Query, documents: Sequence[Item | str]) -> Self:
        """From the library's own types."""
        asked = QueryBody.of(query)
        texts = [one if isinstance(one, str) else one.id for one in documents]
        own = {"query": query.text or "", "documents": texts}
        return cls.model_validate({**own, "history": asked.history, "filters": asked.filters})

    @property
    def texts(self) -> list[str]:
        """The documents."""
        return [one if isinstance(one, str) else one.text for one in self.documents]

    def asked(self) -> QueryBody:
        """Who asks, and for what."""
        asked = {"text": self.query or None, "user": self.user, "history": self.history, "filters": self.filters}
        return QueryBody.model_validate(asked)


class RelevanceBody(BaseModel):
    """One document of an answer."""

    index: int = Field(description="Its place among the documents that were given, from 0.")
    relevance_score: float = Field(description="In [0, 1]: its probability among all documents that were given.")
    item: ItemBody | None = Field(None, description="The item of the catalog that it is.")
    document: DocumentBody | None = None


class UsageBody(BaseModel):
    """Tokens that are billed: none. Other services bill by the token, and their clients look for the field."""

    total_tokens: int = 0
    prompt_tokens: int = 0


class RerankedBody(BaseModel):
    """What /v1/rerank answers and `llmgen rerank --json` prints."""

    id: str = Field(description="Of the request.")
    model: str = Field(description="What put them in order.")
    results: list[RelevanceBody] = Field(description="Best first.")
    usage: UsageBody = UsageBody()

    @staticmethod
    def dump(
        found: Sequence[Relevance], *, request_id: str, model: str, texts: Sequence[str] = (), top_n: int | None = None
    ) -> Document:
        """From the library's own type; with `texts`, each result has its document."""
        results: list[Document] = []
        for one in found[: top_n or None]:
            item = None if one.item is None else ItemBody.dump(one.item)
            result: Document = {"index": one.index, "relevance_score": one.score, "item": item}
            results.append({**result, "document": {"text": texts[one.index]}} if texts else result)
        return {"id": request_id, "model": model, "results": results, "usage": UsageBody().model_dump()}

    def value(self) -> list[Relevance]:
        """As the library's own type."""
        return [
            Relevance(one.index, one.relevance_score, None if one.item is None else one.item.value())
            for one in self.results
        ]
