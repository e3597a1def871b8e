"""The values that travel through llmgen: frozen, plain, without behaviour of their own.

More than 400 lines: the values that travel refer to one another.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from llmgen.errors import ArgumentError, LLMGenError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from llmgen.diversity import Diversity

Attribute = str | int | float | bool | tuple[str, ...]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Role = Literal["system", "user", "assistant"]
Method = Literal["trie", "exact", "normalised", "bm25", "prior", "none"]

Value = TypeVar("Value")
PlaceT = TypeVar("PlaceT", covariant=True)

HALF = re.compile("[\ud800-\udfff]")
"""One of the two halves by which UTF-16 writes a character, alone: no file or answer can hold it."""
NOTHING: Mapping[str, Attribute] = MappingProxyType({})


def has_half(value: object) -> bool:
    """Whether a value is text with half a character (a lone surrogate), as a text cut at a number of bytes may have."""
    return isinstance(value, str) and not value.isascii() and HALF.search(value) is not None


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that can be recommended.

    Attributes:
        id: The caller's own id, unique in the catalog.
        title: What people call it; not empty. Two items may share a title.
        attributes: Anything else known, such as `year` (int) or `genres` (tuple of strings).

    Raises:
        ArgumentError: Id or title is no string, or a text has half a character (a lone surrogate).
    """

    id: str
    title: str
    attributes: Mapping[str, Attribute] = field(default_factory=lambda: NOTHING, hash=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.id, str) and isinstance(self.title, str)):
            raise ValueError(f"id and title of an item are strings, not {self.id!r} and {self.title!r}; write str(id)")
        for name, value in (("id", self.id), ("title", self.title), *self.attributes.items()):
            for text in (name, *value) if isinstance(value, tuple) else (name, value):
                if isinstance(text, str) and not text.isascii() and has_half(text):
                    raise ArgumentError(
                        f"item {self.id!r}: {name!r} has half a character, {text!r}; cut texts between characters, or "
                        "take it out"
                    )


@dataclass(frozen=True, slots=True)
class Query:
    """What one request wants. Cold start is not a mode: it is a query with less in it.

    Attributes:
        history: Items already taken, oldest first. Ids may stand for items of the catalog that is asked: a
            `Recommender` and a `Client` know it, `Catalog.resolved` puts the items in their place.
        ratings: The user's ratings of `history`, in the same order, or None where they are not known.
        text: A wish in the user's words, or None.
        user_id: The caller's id of the user; it never enters a prompt.
        k: How many items to return at most, 1 or more.
        exclude_seen: Whether items of the history are left out of the answer.
        filters: Attribute name -> the values allowed (one, or several of which one must match).
        exclude: Items or ids that are left out of the answer; those that the catalog lacks are passed over.
        boosts: Attribute name -> value -> factor, 0 or more, by which the weight of the items with that value is
            multiplied; values as in `filters`. It is the term `boosts` of the score.
        diversity: How much an answer may have of the same; see `llmgen.Diversity`.
    """

    history: Sequence[Item | str] = ()
    text: str | None = None
    user_id: str | None = None
    k: int = 10
    exclude_seen: bool = True
    ratings: Sequence[float] | None = None
    filters: Mapping[str, Attribute] = field(default_factory=lambda: NOTHING, hash=False)
    exclude: Sequence[Item | str] = ()
    boosts: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    diversity: Diversity | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ArgumentError(f"k is the length of the answer and must be 1 or more, not {self.k}")
        if isinstance(self.history, str):
            raise ArgumentError(f"a history is a list of items or ids, not the text {self.history!r}; write [...]")
        for taken in self.history:
            if not isinstance(taken, Item | str):
                raise ArgumentError(
                    f"a history holds items or their ids, which are strings, not {taken!r}; write str(id)"
                )
        if self.ratings is not None and len(self.ratings) != len(self.history):
            raise ValueError(f"{len(self.ratings)} ratings for a history of {len(self.history)}; give one an item")
        if isinstance(self.exclude, str):
            raise ArgumentError(f"exclude is a list of items or ids, not the text {self.exclude!r}; write [...]")
        for name, factors in self.boosts.items():
            for value, factor in factors.items():
                if not 0 <= factor < math.inf:
                    raise ArgumentError(f"the boost of {name} = {value!r} must be 0 or more and finite, not {factor}")

    def after(self, answer: Answer) -> Query:
        """The query for the next page: the same, without the items that an answer has.

        As an answer has the best of what is eligible, pages are pieces of one list, and no item is on two of them; also
        where the catalog changes in between.
        """
        return replace(self, exclude=(*self.exclude, *(place.item.id for place in answer)))

    @property
    def items(self) -> Sequence[Item]:
        """The history, where it holds no ids.

        Raises:
            ArgumentError: It does, and nobody here knows the catalog that they are from.
        """
        items = [taken for taken in self.history if isinstance(taken, Item)]
        if len(items) < len(self.history):
            first = next(taken for taken in self.history if isinstance(taken, str))
            raise ArgumentError(
                f"the history holds the id {first!r}, and only who knows the catalog can tell its item; write "
                f"catalog[{first!r}], or ask a Recommender"
            )
        return items


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Completion:
    """Free text that a model wrote.

    Attributes:
        text: Without the end-of-turn token.
        num_tokens: How many tokens were generated.
        finished: Whether the model ended by itself (False: it ran into `max_new_tokens`).
    """

    text: str
    num_tokens: int
    finished: bool

    @property
    def end(self) -> str:
        """How the text came to its end, in words, for messages."""
        if self.finished:
            return "the model ended its text" if self.text.strip() else "the model wrote nothing"
        where = "in its answer" if self.text.strip() else "before an answer began, perhaps in thoughts"
        return f"the model's text was cut off after {self.num_tokens} tokens, {where}"


@dataclass(frozen=True, slots=True)
class Grounding:
    """How an item of an answer was found in the catalog.

    Attributes:
        method: `trie` (constrained decoding), `exact`, `normalised` or `bm25` (free text), `prior` (an empty
            place of a free-text answer, filled from the item prior) or `none` (free text that matched nothing).
        score: 1 for `trie`, `exact` and `normalised`; for `bm25` the share of the text's own best possible score,
            in (0, 1]; 0 for `prior` and `none`.
        text: The text that was grounded, or None where there was none.
    """

    method: Method
    score: float
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Recommendation:
    """One place of a list that was scored: by model and priors, or by the priors alone.

    Attributes:
        item: The item.
        rank: 1 for the best.
        score: Sum of `terms`; natural logarithm, higher is better.
        probability: In [0, 1], `exp(score)` over its sum for all eligible items; see `llmgen.search`.
        terms: Name -> part of the score: `lm`, and one a prior.
        grounding: `trie` where the model was asked, else `prior`.
        prompt: `name@digest` of the prompt template.
        rank_before: Where the item would be without the query's diversity; None where it asked for none.
    """

    item: Item
    rank: int
    score: float
    probability: float
    terms: Mapping[str, float] = field(hash=False)
    grounding: Grounding
    prompt: str
    rank_before: int | None = None


@dataclass(frozen=True, slots=True)
class WrittenRecommendation:
    """One place of a list that a model wrote: a line of its text, or of a place that it left empty, the prior's choice.

    Nothing was scored, so there is neither a score nor a probability. For one release `score`, `probability` and
    `terms` give what they gave before, with a DeprecationWarning: minus the logarithm of the rank, and NaN.

    Attributes:
        item: The item.
        rank: 1 for the best.
        grounding: The line, which way it was found in the catalog, and how well it matches; `prior` where the model
            named no item.
        prompt: `name@digest` of the prompt template.
        rank_before: Where the item would be without the query's diversity; None where it asked for none.
    """

    item: Item
    rank: int
    grounding: Grounding
    prompt: str
    rank_before: int | None = None

    @property
    def order(self) -> float:
        """Minus the logarithm of the rank that the model gave: what a penalty for likeness is taken off."""
        return -math.log(self.rank if self.rank_before is None else self.rank_before)

    @property
    def score(self) -> float:
        """What stood in the place of a score before; see the class."""
        return _not_scored("score", self.order)

    @property
    def probability(self) -> float:
        """NaN; see the class."""
        return _not_scored("probability", math.nan)

    @property
    def terms(self) -> Mapping[str, float]:
        """What stood in the place of the terms before; see the class."""
        return _not_scored("terms", {"order": self.order})


def _not_scored(name: str, was: Value) -> Value:
    warnings.warn(
        f"a list that a model wrote has no {name}, since no item was scored; use rank and grounding, or look whether "
        f"an answer is WrittenRecommendations; {name} goes with the next release",
        DeprecationWarning,
        stacklevel=3,
    )
    return was


class _Places(Sequence[PlaceT]):
    """The places of an answer, best first."""

    __slots__ = ()
    places: tuple[PlaceT, ...]

    @overload
    def __getitem__(self, index: int) -> PlaceT: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[PlaceT, ...]: ...
    def __getitem__(self, index: int | slice) -> PlaceT | tuple[PlaceT, ...]:
        return self.places[index]

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[PlaceT]:
        return iter(self.places)


@dataclass(frozen=True, slots=True)
class Recommendations(_Places[Recommendation]):
    """An answer whose items were scored, best first.

    Attributes:
        places: At most k recommendations, no item twice.
        exact: Whether these are proven to be the best of all eligible items under the scoring formula.
        prompt: `name@digest` of the prompt template.
        prompt_tokens: Length of the rendered prompt in tokens.
        num_rounds: How often the language model was called for this answer.
        history_used: How many items of the history stood in the prompt, counted from the newest.
        warnings: Sentences on what the answer lacks.
        lm_weight: Weight of the model's log-probability in the scores, which may differ between requests; 0 where it
            was not asked, None where the server is older than this field.
    """

    places: tuple[Recommendation, ...]
    exact: bool
    prompt: str
    prompt_tokens: int = 0
    num_rounds: int = 0
    history_used: int = 0
    warnings: tuple[str, ...] = ()
    lm_weight: float | None = None

    @property
    def dropped(self) -> tuple[Grounding, ...]:
        """No lines: nothing was written."""
        return ()


@dataclass(frozen=True, slots=True)
class WrittenRecommendations(_Places[WrittenRecommendation]):
    """An answer that a model wrote as text, line by line, each looked up in the catalog.

    Attributes:
        places: At most k, no item twice; those behind the model's own are filled from the item prior.
        prompt: `name@digest` of the prompt template.
        prompt_tokens: Length of the rendered prompt in tokens.
        num_rounds: How often the language model was called for this answer.
        history_used: How many items of the history stood in the prompt, counted from the newest.
        dropped: Lines that matched no item, or one already in the list.
        warnings: Sentences on what the answer lacks: that its text ended by the token budget, inside thoughts or in the
            list, or that it named no item. Empty where the model named an item for every place.
    """

    places: tuple[WrittenRecommendation, ...]
    prompt: str
    prompt_tokens: int = 0
    num_rounds: int = 1
    history_used: int = 0
    dropped: tuple[Grounding, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def lm_weight(self) -> None:
        """None: a written list has no scores."""
        return None

    @property
    def exact(self) -> bool:
        """False: nothing proves that these are the best."""
        return False


Place = Recommendation | WrittenRecommendation
"""Both have `item`, `rank`, `grounding`, `prompt` and `rank_before`."""
Answer = Recommendations | WrittenRecommendations
"""A list of either kind. Both are sequences of their places, with `exact`, `prompt`, `prompt_tokens`, `num_rounds`,
`history_used`, `dropped`, `warnings` and `lm_weight`; items of the first alone have scores."""
AnswerT = TypeVar("AnswerT", bound="Answer | LLMGenError")


class Answers(list[AnswerT]):
    """A list of answers, in the order of their queries, which can be had as a table.

    Attributes:
        users: Id of each query's user; None where the query names none.
    """

    def __init__(self, answers: Iterable[AnswerT], queries: Iterable[Query]) -> None:
        super().__init__(answers)
        self.users = tuple(query.user_id for query in queries)

    def to_polars(self) -> pl.DataFrame:
        """A row a recommendation, in order; a query that has an error has none.

        Returns:
            `query` (its number from 0), `user_id` (null where the query names no user), `item_id`, `rank` (from 1) and
            `score` (null in a list that a model wrote).
        """
        import polars as pl

        rows = [
            (number, user, place.item.id, place.rank, place.score if isinstance(place, Recommendation) else None)
            for number, (user, answer) in enumerate(zip(self.users, self, strict=True))
            if not isinstance(answer, LLMGenError)
            for place in answer
        ]
        columns = {
            "query": pl.Int64,
            "user_id": pl.String,
            "item_id": pl.String,
            "rank": pl.Int64,
            "score": pl.Float64,
        }
        return pl.DataFrame(rows, schema=columns, orient="row")

    def to_pandas(self) -> pd.DataFrame:
        """The same as a frame of pandas, which must be installed, and pyarrow with it."""
        return self.to_polars().to_pandas()


OnError = Literal["raise", "return"]
"""Whether a request that fails among many stops them all, or gives its error in its place."""
RATINGS = ("1", "2", "3", "4", "5")
"""The possible ratings where nothing else is said."""


@dataclass(frozen=True, slots=True)
class RatingPrediction:
    """A predicted rating as a whole distribution.

    Attributes:
        item: The item.
        distribution: Label -> probability, summing to 1, in the order of the labels.
        mean: Expected rating; this is what RMSE wants.
        mode: The most probable rating.
        label_mass: Probability, in [0, 1], that the model gave to the labels before they were normalised. Low means
            that the prompt does not fit the model. NaN where the engine could only write a rating, or was not asked.
        prompt: `name@digest` of the prompt template; empty where no model was asked.
        parts: What each factor says by itself, as a distribution: `lm` and the rating priors by their names.
    """

    item: Item
    distribution: Mapping[str, float] = field(hash=False)
    mean: float
    mode: float
    label_mass: float
    prompt: str
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)

    def mean_of(self, part: str) -> float:
        """The rating that one factor expects by itself."""
        return sum(float(label) * share for label, share in self.parts[part].items())


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item suits a user.

    Attributes:
        item: The item.
        text: The model's words, or where they say what the model was not told, a plain sentence of the prompt.
        evidence: Items of the user's own history that speak most for the item, strongest first: by the first prior
            that can say so, else the newest ones.
        prompt: `name@digest` of the prompt template.
        source: `model`, or `template` where the model's words were left out.
        unfounded: What the model said of titles, attribute values, numbers and names that it was not told, as it
            wrote it; see `llmgen.recommend.claims`. With the source `model` only if the prompt has no plain sentence.
    """

    item: Item
    text: str
    evidence: tuple[Item, ...]
    prompt: str
    source: Literal["model", "template"] = "model"
    unfounded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Relevance:
    """One document of an answer.

    Attributes:
        index: Its place among the documents that were given, from 0.
        score: In [0, 1]: its probability among these documents; where a model only wrote a list, 1 / rank.
        item: The item of the catalog that it is; None for any other text.
    """

    index: int
    score: float
    item: Item | None


class Recommends(Protocol):
    """What recommends: a `Recommender` in this process, or a `Client` of one elsewhere."""

    def with_prompt(self, *names: str) -> Recommends:
        """The same with other prompts for the tasks of the named templates."""
        ...

    def recommend(self, query: Query) -> Answer:
        """The best `query.k` items."""
        ...

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
        """The best items of each query, in order of the queries; or its error in a query's place."""
        ...

    def rank(self, query: Query, candidates: Sequence[Item | str]) -> Answer:
        """The candidates in order, all of them."""
        ...

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
        """The candidates of each query in order; or its error in a pair's place."""
        ...

    def rate(self, query: Query, item: Item | str, *, labels: Sequence[str] = ...) -> RatingPrediction:
        """The rating that the user would give to an item."""
        ...

    @overload
    def rate_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        labels: Sequence[str] = ...,
        on_error: Literal["raise"] = "raise",
    ) -> list[RatingPrediction]: ...
    @overload
    def rate_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, labels: Sequence[str] = ..., on_error: Literal["return"]
    ) -> list[RatingPrediction | LLMGenError]: ...
    def rate_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, labels: Sequence[str] = ..., on_error: OnError = "raise"
    ) -> list[RatingPrediction] | list[RatingPrediction | LLMGenError]:
        """The rating of each query and item; or its error in a pair's place."""
        ...

    def explain(self, query: Query, item: Item | str, *, max_new_tokens: int = ...) -> Explanation:
        """Why an item suits a user."""
        ...

    @overload
    def explain_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        max_new_tokens: int = ...,
        on_error: Literal["raise"] = "raise",
    ) -> list[Explanation]: ...
    @overload
    def explain_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, max_new_tokens: int = ..., on_error: Literal["return"]
    ) -> list[Explanation | LLMGenError]: ...
    def explain_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, max_new_tokens: int = ..., on_error: OnError = "raise"
    ) -> list[Explanation] | list[Explanation | LLMGenError]:
        """Why each item suits its user; or its error in a pair's place."""
        ...
