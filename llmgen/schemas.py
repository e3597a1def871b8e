"""Answers as JSON: one pydantic model each, stable, shared by the command line and whoever reads its output."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field

from llmgen.types import Explanation, Grounding, Method, RatingPrediction, Recommendation, Recommendations


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GroundingBody(_Body):
    """How an item was found in the catalog."""

    method: Method
    score: float
    text: str | None

    @classmethod
    def of(cls, grounding: Grounding) -> GroundingBody:
        """From the library's own type."""
        return cls(method=grounding.method, score=grounding.score, text=grounding.text)


class RecommendationBody(_Body):
    """One place of an answer."""

    item_id: str
    title: str = Field(description="As the catalog writes the item in prompts and answers.")
    rank: int = Field(ge=1)
    probability: float | None = Field(description="exp(score) over its sum for all eligible items; null in free text.")
    score: float = Field(description="Natural logarithm; the sum of the terms.")
    terms: dict[str, float] = Field(description="Part of the score by name: lm, and each prior.")
    grounding: GroundingBody


class RecommendationsBody(_Body):
    """What `llmgen recommend --json` and `llmgen rank --json` print."""

    recommendations: list[RecommendationBody]
    exact: bool = Field(description="Whether these are proven to be the best of all eligible items.")
    prompt: str = Field(description="name@digest of the prompt template; empty where no model was asked.")
    prompt_tokens: int
    history_used: int = Field(description="How many items of the history stood in the prompt.")
    num_rounds: int = Field(description="How often the model was asked.")
    dropped: list[GroundingBody] = Field(description="Lines of free text that gave no further item.")

    @classmethod
    def of(cls, answer: Recommendations, labels: list[str]) -> RecommendationsBody:
        """From the library's own type; `labels` are the titles to print, one a place."""
        return cls(
            recommendations=[_place(place, label) for place, label in zip(answer, labels, strict=True)],
            exact=answer.exact,
            prompt=answer.prompt,
            prompt_tokens=answer.prompt_tokens,
            history_used=answer.history_used,
            num_rounds=answer.num_rounds,
            dropped=[GroundingBody.of(line) for line in answer.dropped],
        )


class RatingBody(_Body):
    """One predicted rating."""

    item_id: str
    title: str
    mean: float
    mode: float
    distribution: dict[str, float]
    label_mass: float | None = Field(
        description="Probability that the model gave to the labels before they were normalised; null in free text."
    )
    prompt: str

    @classmethod
    def of(cls, rating: RatingPrediction, label: str) -> RatingBody:
        """From the library's own type; `label` is the title to print."""
        return cls(
            item_id=rating.item.id,
            title=label,
            mean=rating.mean,
            mode=rating.mode,
            distribution=dict(rating.distribution),
            label_mass=None if math.isnan(rating.label_mass) else rating.label_mass,
            prompt=rating.prompt,
        )


class RatingsBody(_Body):
    """What `llmgen rate --json` prints."""

    ratings: list[RatingBody]


class ExplanationBody(_Body):
    """What `llmgen explain --json` prints."""

    item_id: str
    title: str
    text: str
    evidence: list[str] = Field(description="Ids of the history's items that speak most for the item, strongest first.")
    prompt: str

    @classmethod
    def of(cls, explanation: Explanation, label: str) -> ExplanationBody:
        """From the library's own type; `label` is the title to print."""
        return cls(
            item_id=explanation.item.id,
            title=label,
            text=explanation.text,
            evidence=[item.id for item in explanation.evidence],
            prompt=explanation.prompt,
        )


def _place(place: Recommendation, label: str) -> RecommendationBody:
    return RecommendationBody(
        item_id=place.item.id,
        title=label,
        rank=place.rank,
        probability=None if math.isnan(place.probability) else place.probability,
        score=place.score,
        terms=dict(place.terms),
        grounding=GroundingBody.of(place.grounding),
    )
