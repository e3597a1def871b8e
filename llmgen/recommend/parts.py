"""Parts: what a recommender is made of, and the prompts and weights that every kind of answer starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import History
from llmgen.engines import Engine, GenerationConfig
from llmgen.errors import ConfigError
from llmgen.priors import Prior, Product, RatingPrior, multiply
from llmgen.priors.base import check_priors
from llmgen.recommend.config import Decoding, RecommenderConfig
from llmgen.recommend.default_weight import default_lm_weight
from llmgen.recommend.index import CatalogIndex
from llmgen.recommend.prompting import Prompt, Prompter, Task, templates_for
from llmgen.recommend.request_weight import RequestWeight, features_of
from llmgen.templates.library import PromptLibrary, PromptTemplate
from llmgen.types import FloatArray, Item, Query

TieOrder = Callable[[Query], FloatArray]
"""Query -> float64 [n_items]: of items with equal scores those with the smaller number come first."""

TOKENS_OF_MARKS = 32  # of thoughts: what begins and ends them


@dataclass(frozen=True, eq=False)
class Parts:
    """What a recommender is made of; `dataclasses.replace` makes one with other parts.

    Attributes:
        index: Of the catalog.
        engine: The language model; None leaves all to the priors.
        config: Every setting that is no object.
        priors: Factors beside the language model, without those that are always in force.
        rating_priors: Factors on ratings.
        prompts: Where templates are looked up.
        histories: User id -> what the user took, where a log is known.
        tie_order: Which of the items with equal scores come first; by default those that stand first in the catalog.
            It is for evaluation, and is not saved.

    Raises:
        TemplateNotFoundError, TemplateError: A prompt is not there or wrong.
        ConfigError: Two prompts for one task, or a weight for each request that reads a log which is not there.
    """

    index: CatalogIndex
    engine: Engine | None
    config: RecommenderConfig
    priors: tuple[Prior, ...]
    rating_priors: tuple[RatingPrior, ...]
    prompts: PromptLibrary
    histories: Mapping[str, History] = field(default_factory=dict)
    tie_order: TieOrder | None = None

    def __post_init__(self) -> None:
        _ = self.templates  # a prompt that is wrong is told at once
        weight = self.config.lm_weight
        if isinstance(weight, RequestWeight) and weight.reads_log and not self.histories:
            raise ConfigError(
                "lm_weight goes by the share of items that nobody took (cold_share), and this recommender has no log: "
                "make it with histories=..., or fit the weight without a log, so that cold_share has the slope 0"
            )

    @property
    def catalog(self) -> Catalog:
        """What can be recommended."""
        return self.index.catalog

    @cached_property
    def factors(self) -> tuple[Prior, ...]:
        """All priors: the filters that are always in force, but for those that are given by their names, and ours."""
        given = {prior.name for prior in self.priors}
        filters: tuple[Prior, ...] = (self.index.seen, self.index.where)
        return (*(prior for prior in filters if prior.name not in given), *self.priors)

    @cached_property
    def templates(self) -> dict[Task, PromptTemplate]:
        """The prompt template of each task."""
        return templates_for(self.config.prompt, self.prompts, self.engine)

    @cached_property
    def prompter(self) -> Prompter:
        """Makes the prompts."""
        return Prompter(self.catalog, self.engine, self.config.max_history, self.config.align_prompts)

    @property
    def asks_model(self) -> bool:
        """Whether recommending asks the language model."""
        return self.engine is not None and self.config.asks_model

    @property
    def only_writes(self) -> bool:
        """Whether the model is asked and can only write text, which is looked up in the catalog."""
        return self.engine is not None and self.asks_model and not self.engine.constrained

    @property
    def decoding(self) -> Decoding:
        """How lists are made: at weight 0 nothing is written, and an engine that can only write is asked to write."""
        if self.config.decoding == "free":
            return "free" if self.config.asks_model else "trie"
        return "free" if self.only_writes else self.config.decoding

    def ordered(self, query: Query) -> FloatArray | None:
        """The order of items with equal scores for a query; None for that of the catalog."""
        return None if self.tie_order is None else self.tie_order(query)

    def multiplied(self, queries: Sequence[Query]) -> Product:
        """The product of all priors for some queries, and of their own boosts."""
        factors = self.factors
        if any(query.boosts for query in queries):
            check_priors(self.priors, taken=(self.index.boosts.name,))
            factors = (*factors, self.index.boosts)
        return multiply(factors, queries, len(self.catalog), self.index.shared)

    @cached_property
    def taken(self) -> NDArray[np.bool_] | None:
        """Whether anybody of the log took each item, bool [n_items]; None without a log."""
        if not self.histories:
            return None
        known = {item.id for history in self.histories.values() for item in history.items}
        return np.array([item_id in known for item_id in self.catalog.ids], dtype=bool)

    def lm_weights(self, queries: Sequence[Query], factors: Product) -> list[float]:
        """The weight of the language model for each query; `factors` are the priors' product for them."""
        weight = self.config.lm_weight
        if weight is None:
            return [default_lm_weight(self.priors, query) for query in queries]
        if not isinstance(weight, RequestWeight):
            return [weight] * len(queries)
        taken = self.taken if weight.reads_log else None
        rows = (factors.row(number).dense() if weight.reads_prior else None for number in range(len(queries)))
        return [weight.at(features_of(query, row, taken)) for query, row in zip(queries, rows, strict=True)]

    def prompt(self, task: Task, query: Query, room: int = 0, **variables: object) -> Prompt:
        """The prompt of a query; `room` tokens are kept free for the answer, by default those of the longest item."""
        template = self.templates[task]
        return self.prompter.prompt(template, query, self._room(template, room), **variables)

    def prompts_of(
        self, task: Task, queries: Sequence[Query], candidates: Sequence[Sequence[Item]], room: int = 0
    ) -> list[Prompt]:
        """The prompts of several queries, each with its own candidates where there are any."""
        template = self.templates[task]
        return self.prompter.prompts(template, queries, candidates, self._room(template, room))

    def thought_about(self, engine: Engine, prompts: list[Prompt]) -> list[Prompt]:
        """The same prompts, where the model may think with its thoughts behind each."""
        think_tokens = self.config.think_tokens
        if not think_tokens:
            return prompts
        thoughts = engine.think([prompt.messages for prompt in prompts], GenerationConfig(think_tokens=think_tokens))
        return [replace(prompt, token_ids=ids) for prompt, ids in zip(prompts, thoughts, strict=True)]

    def _room(self, template: PromptTemplate, room: int) -> int:
        thoughts = self.config.think_tokens + TOKENS_OF_MARKS if self.config.think_tokens else 0
        return (room or self.index.trie_of(continues=template.continues).longest) + thoughts
