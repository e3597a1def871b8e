"""Requests and answers as JSON: one pydantic model each, shared by the command line, the service and its client.

More than 400 lines: the bodies of the routes refer to one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal, Self

import pydantic_core
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from llmgen.diversity import Diversity
from llmgen.types import (
    RATINGS,
    Answer,
    Attribute,
    Explanation,
    Grounding,
    Item,
    Method,
    Place,
    Query,
    RatingPrediction,
    Recommendation,
    Recommendations,
    WrittenRecommendation,
    WrittenRecommendations,
    has_half,
)

if TYPE_CHECKING:
    from llmgen.templates.library import PromptTemplate

LONGEST_HISTORY = 10_000
MOST_CANDIDATES = 1_000
LARGEST_K = 1_000
LONGEST_TEXT = 10_000

ItemId = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Number = Annotated[float, Field(allow_inf_nan=False)]


def _whole(text: object) -> object:
    if has_half(text):
        raise ValueError(f"text has half a character: {text!r}; cut texts between characters, or take it out")
    return text


def _writable(value: bool | int | float | str | list[str]) -> bool | int | float | str | list[str]:
    for text in value if isinstance(value, list) else (value,):
        _whole(text)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(
            f"an integer has 64 bits with its sign, and this one needs {value.bit_length() + 1}; write it as text"
        )
    return value


AttributeValue = Annotated[
    bool | int | Number | str | list[str],
    AfterValidator(_writable),
    Field(description="A word, a number, a boolean, or several words."),
]
AttributeName = Annotated[str, AfterValidator(_whole)]
Factor = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=32)]


Document = dict[str, object]
"""Plain values that `to_json` writes as one of the bodies below: several times faster than building the body itself."""


def to_json(document: Document, *, indent: int | None = None) -> bytes:
    """A document as JSON in UTF-8; NaN, which JSON does not have, becomes null."""
    return pydantic_core.to_json(document, indent=indent, inf_nan_mode="null")


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ItemBody(_Body):
    """One item of the catalog."""

    id: ItemId
    title: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_TEXT)]
    attributes: dict[AttributeName, AttributeValue] = Field(
        {}, description="Anything else known, such as year or genres."
    )

    @staticmethod
    def dump(item: Item) -> Document:
        """From the library's own type."""
        return {"id": item.id, "title": item.title, "attributes": dict(item.attributes)}

    def value(self) -> Item:
        """As the library's own type."""
        return Item(self.id, self.title, {name: _attribute(value) for name, value in self.attributes.items()})


def _addressable(item: ItemBody) -> ItemBody:
    """An item whose id can stand in a path, so that what was put can be read and deleted."""
    if "\n" in item.id or item.id in (".", ".."):
        raise ValueError(f"the id {item.id!r} cannot stand in a URL; use one without line breaks that is not . or ..")
    return item


class NewItemsBody(_Body):
    """Items to put into the catalog: an item with a known id takes that item's place."""

    items: list[Annotated[ItemBody, AfterValidator(_addressable)]] = Field(min_length=1, max_length=10_000)


class CatalogBody(_Body):
    """What a change left the catalog as."""

    items: int = Field(description="How many there are now.")
    catalog: str = Field(description="Digest of the catalog; answers name the one they are from in X-Catalog.")


class DiversityBody(_Body):
    """How much an answer may have of the same; see `llmgen.Diversity`."""

    by: AttributeName = Field(description="Name of an attribute.")
    most: int | None = Field(None, ge=1, description="Items with the same value at most.")
    penalty: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Taken off the score of an item as far as it is like one above it."
    )

    def value(self) -> Diversity:
        """As the library's own type."""
        return Diversity(self.by, self.most, self.penalty)

    @model_validator(mode="after")
    def _says_something(self) -> DiversityBody:
        self.value()
        return self


class QueryBody(_Body):
    """Who asks, and for what; see `llmgen.Query`. Cold start is a query with less in it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"history": ["50", "181"], "k": 5}, {"text": "slow science fiction", "k": 5}]}
    )
    history: list[ItemId] = Field([], max_length=LONGEST_HISTORY, description="Ids of items taken, oldest first.")
    ratings: list[Number] | None = Field(None, description="The user's ratings of the history, one an item.")
    text: Annotated[str, StringConstraints(max_length=LONGEST_TEXT)] | None = Field(
        None, description="A wish in the user's words."
    )
    user_id: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="The caller's id of the user; it never enters a prompt or a log."
    )
    user: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = Field(
        None,
        description="A user of the service's own log or store, whose history it knows; in the place of `history`. Who "
        "is not known there has none.",
    )
    k: int = Field(10, ge=1, le=LARGEST_K, description="How many items to return at most.")
    exclude_seen: bool = Field(True, description="Whether items of the history are left out of the answer.")
    filters: dict[AttributeName, AttributeValue] = Field(
        {}, max_length=32, description="Attribute -> the value or values allowed; a range is written 1990..1999."
    )
    exclude: list[ItemId] = Field(
        [],
        max_length=LONGEST_HISTORY,
        description="Ids left out of the answer; those of earlier pages give the next page, without repeats.",
    )
    boosts: dict[AttributeName, dict[AttributeName, Factor]] = Field(
        {},
        max_length=32,
        description="Attribute -> value -> factor by which the weight of items with that value is multiplied.",
    )
    diversity: DiversityBody | None = Field(None, description="How much an answer may have of the same.")
    prompt: Annotated[str, StringConstraints(max_length=256)] | None = Field(
        None, description="Name of a prompt template for this task; see /v1/prompts."
    )

    @model_validator(mode="after")
    def _one_rating_an_item(self) -> QueryBody:
        if self.user is not None and (self.history or self.ratings is not None):
            raise ValueError("a user has a history; give user, or history and ratings, not both")
        if self.ratings is not None and len(self.ratings) != len(self.history):
            raise ValueError(f"{len(self.ratings)} ratings for a history of {len(self.history)}; give one an item")
        return self

    @classmethod
    def of(cls, query: Query, **more: object) -> Self:
        """From the library's own type; `more` are `prompt` and the further fields of the task's body."""
        return cls.model_validate(
            {
                "history": [taken if isinstance(taken, str) else taken.id for taken in query.history],
                "ratings": None if query.ratings is None else list(query.ratings),
                "text": query.text,
                "user_id": query.user_id,
                "k": query.k,
                "exclude_seen": query.exclude_seen,
                "filters": {
                    name: list(value) if isinstance(value, tuple) else value for name, value in query.filters.items()
                },
                "exclude": [one if isinstance(one, str) else one.id for one in query.exclude],
                "boosts": {name: dict(factors) for name, factors in query.boosts.items()},
                "diversity": None if query.diversity is None else asdict(query.diversity),
                **more,
            }
        )

    def value(self, history: list[Item], ratings: Sequence[float] | None = None) -> Query:
        """As the library's own type, for the items that the ids of the history, or the user's own, stand for."""
        return Query(
            history,
            self.text,
            self.user_id or self.user,
            self.k,
            self.exclude_seen,
            self.ratings if ratings is None else ratings,
            {name: _attribute(value) for name, value in self.filters.items()},
            self.exclude,
            self.boosts,
            None if self.diversity is None else self.diversity.value(),
        )


class RankBody(QueryBody):
    """A query with candidates to put in order; all of them are returned."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": ["50"], "candidates": ["181", "94"]}]})
    candidates: list[ItemId] = Field(min_length=1, max_length=MOST_CANDIDATES)


class RateBody(QueryBody):
    """A query with items to rate."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": ["50"], "ratings": [5], "items": ["181"]}]})
    items: list[ItemId] = Field(min_length=1, max_length=MOST_CANDIDATES)
    labels: list[Label] = Field(list(RATINGS), min_length=2, max_length=100, description="The possible ratings.")


class ExplainBody(QueryBody):
    """A query with an item to explain."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": ["50"], "item": "181"}]})
    item: ItemId
    max_new_tokens: int = Field(80, ge=1, le=1_000)


class GroundingBody(_Body):
    """How an item was found in the catalog."""

    method: Method
    score: float
    text: str | None

    @staticmethod
    def dump(grounding: Grounding) -> Document:
        """From the library's own type."""
        return {"method": grounding.method, "score": grounding.score, "text": grounding.text}

    def value(self) -> Grounding:
        """As the library's own type."""
        return Grounding(self.method, self.score, self.text)


class RecommendationBody(_Body):
    """One place of an answer."""

    item: ItemBody
    label: str = Field(description="As the catalog writes the item in prompts and answers.")
    rank: int = Field(ge=1)
    probability: float | None = Field(
        description="exp(score) over its sum for all eligible items; null in a list that a model wrote."
    )
    score: float = Field(
        description="Natural logarithm; the sum of the terms. In a list that a model wrote no item is scored: there it "
        "is minus the logarithm of the rank, for readers of before, until the next release."
    )
    terms: dict[str, float] = Field(description="Part of the score by name: lm, and each prior.")
    grounding: GroundingBody
    rank_before: int | None = Field(
        None, description="Where the item would be without the query's diversity; missing where it asked for none."
    )

    @staticmethod
    def dump(place: Place, label: str) -> Document:
        """From the library's own types; `label` is how the catalog writes the item."""
        if isinstance(place, Recommendation):
            numbers: Document = {"probability": place.probability, "score": place.score, "terms": dict(place.terms)}
        else:
            numbers = {"probability": None, "score": place.order, "terms": {"order": place.order}}
        moved = {} if place.rank_before is None else {"rank_before": place.rank_before}
        return {
            "item": ItemBody.dump(place.item),
            "label": label,
            "rank": place.rank,
            **numbers,
            "grounding": GroundingBody.dump(place.grounding),
            **moved,
        }


class RecommendationsBody(_Body):
    """What /v1/recommend and /v1/rank answer, and what `llmgen recommend --json` and `llmgen rank --json` print."""

    recommendations: list[RecommendationBody]
    exact: bool = Field(description="Whether these are proven to be the best of all eligible items.")
    prompt: str = Field(description="name@digest of the prompt template; empty where no model was asked.")
    prompt_tokens: int
    history_used: int = Field(description="How many items of the history stood in the prompt.")
    num_rounds: int = Field(description="How often the model was asked.")
    dropped: list[GroundingBody] = Field(description="Lines of free text that gave no further item.")
    warnings: list[str] = Field(
        [], description="What free text lacks: it ended by the token budget, or named no item. Else empty."
    )
    lm_weight: float | None = Field(
        None, description="Weight of the model in the scores of this request; 0: not asked. Null: it wrote the list."
    )

    @staticmethod
    def dump(answer: Answer, labels: Sequence[str]) -> Document:
        """From the library's own types; `labels` are how the catalog writes the items, one a place."""
        places: Sequence[Place] = answer.places
        return {
            "recommendations": [RecommendationBody.dump(*pair) for pair in zip(places, labels, strict=True)],
            "exact": answer.exact,
            "prompt": answer.prompt,
            "prompt_tokens": answer.prompt_tokens,
            "history_used": answer.history_used,
            "num_rounds": answer.num_rounds,
            "dropped": [GroundingBody.dump(line) for line in answer.dropped],
            "warnings": list(answer.warnings),
            "lm_weight": answer.lm_weight,
        }

    def value(self) -> Answer:
        """As the library's own type; a model wrote the list where a place has no probability."""
        return self._written() if any(place.probability is None for place in self.recommendations) else self.scored()

    def scored(self) -> Recommendations:
        """As the library's own type, of a list that no model wrote.

        Raises:
            ValueError: A model wrote it.
        """
        places = []
        for place in self.recommendations:
            if place.probability is None:
                raise ValueError(f"{place.label!r} has no probability in a list whose items are scored")
            found = place.grounding.value()
            numbers = (place.score, place.probability, place.terms)
            places.append(
                Recommendation(place.item.value(), place.rank, *numbers, found, self.prompt, place.rank_before)
            )
        cost = self.prompt_tokens, self.num_rounds, self.history_used
        return Recommendations(tuple(places), self.exact, self.prompt, *cost, tuple(self.warnings), self.lm_weight)

    def _written(self) -> WrittenRecommendations:
        places = tuple(
            WrittenRecommendation(
                place.item.value(), place.rank, place.grounding.value(), self.prompt, place.rank_before
            )
            for place in self.recommendations
        )
        cost = self.prompt_tokens, self.num_rounds, self.history_used
        dropped = tuple(line.value() for line in self.dropped)
        return WrittenRecommendations(places, self.prompt, *cost, dropped, tuple(self.warnings))


class RatingBody(_Body):
    """One predicted rating."""

    item: ItemBody
    label: str = Field(description="As the catalog writes the item in prompts and answers.")
    mean: float
    mode: float
    distribution: dict[str, float]
    label_mass: float | None = Field(
        description="Probability that the model gave to the labels before they were normalised; null in free text, "
        "and where no model was asked."
    )
    prompt: str
    parts: dict[str, dict[str, float]] = Field(
        default={}, description="What each factor says by itself: the model (lm) and the rating priors."
    )

    @staticmethod
    def dump(rating: RatingPrediction, label: str) -> Document:
        """From the library's own type; `label` is how the catalog writes the item."""
        return {
            "item": ItemBody.dump(rating.item),
            "label": label,
            "mean": rating.mean,
            "mode": rating.mode,
            "distribution": dict(rating.distribution),
            "label_mass": rating.label_mass,
            "prompt": rating.prompt,
            "parts": {name: dict(part) for name, part in rating.parts.items()},
        }

    def value(self) -> RatingPrediction:
        """As the library's own type."""
        mass = math.nan if self.label_mass is None else self.label_mass
        return RatingPrediction(
            self.item.value(), self.distribution, self.mean, self.mode, mass, self.prompt, self.parts
        )


class RatingsBody(_Body):
    """What /v1/rate answers and `llmgen rate --json` prints."""

    ratings: list[RatingBody]

    @staticmethod
    def dump(ratings: Sequence[RatingPrediction], labels: Sequence[str]) -> Document:
        """From the library's own type; `labels` are how the catalog writes the items, one a rating."""
        return {"ratings": [RatingBody.dump(*pair) for pair in zip(ratings, labels, strict=True)]}


class ExplanationBody(_Body):
    """What /v1/explain answers and `llmgen explain --json` prints."""

    item: ItemBody
    label: str = Field(description="As the catalog writes the item in prompts and answers.")
    text: str
    evidence: list[ItemBody] = Field(description="The history's items that speak most for the item, strongest first.")
    prompt: str
    source: Literal["model", "template"] = Field(
        "model", description="`template`: a plain sentence of the prompt, as the model said what it was not told."
    )
    unfounded: list[str] = Field([], description="What the model said that it was not told, as it wrote it.")

    @staticmethod
    def dump(explanation: Explanation, label: str) -> Document:
        """From the library's own type; `label` is how the catalog writes the item."""
        return {
            "item": ItemBody.dump(explanation.item),
            "label": label,
            "text": explanation.text,
            "evidence": [ItemBody.dump(item) for item in explanation.evidence],
            "prompt": explanation.prompt,
            "source": explanation.source,
            "unfounded": list(explanation.unfounded),
        }

    def value(self) -> Explanation:
        """As the library's own type."""
        evidence = tuple(item.value() for item in self.evidence)
        return Explanation(self.item.value(), self.text, evidence, self.prompt, self.source, tuple(self.unfounded))


class PromptBody(_Body):
    """One prompt template."""

    name: str
    version: int
    digest: str
    task: str
    answers: str = Field(description="What it is for: recommend, rank, rate or explain.")
    language: str
    variables: list[str]
    description: str

    @classmethod
    def of(cls, template: PromptTemplate, answers: str) -> PromptBody:
        """From the library's own type."""
        return cls(
            name=template.name,
            version=template.version,
            digest=template.digest,
            task=template.task,
            answers=answers,
            language=template.language,
            variables=list(template.variables),
            description=template.description,
        )


class PromptsBody(_Body):
    """What /v1/prompts answers; `used` tells which template each task uses where a request names none."""

    prompts: list[PromptBody]
    used: dict[str, str]


class StatusBody(_Body):
    """What /health and /ready answer."""

    status: str = Field(description="ok, or what is wrong.")
    version: str
    engine: str
    catalog: str = Field(description="Digest of the catalog.")
    items: int


class ErrorBody(_Body):
    """Every answer that is not a success."""

    error: str = Field(description="Kind of the error: a class of llmgen.errors, or an HTTP phrase.")
    message: str = Field(description="What was wrong, with the value, and what to do.")
    request_id: str


def _attribute(value: bool | int | float | str | list[str]) -> Attribute:
    return tuple(value) if isinstance(value, list) else value
