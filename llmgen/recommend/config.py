"""RecommenderConfig: every setting of a recommender that is no object, in one place, with its default."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from llmgen.errors import ArgumentError
from llmgen.recommend.request_weight import RequestWeight
from llmgen.search import Mode, Normalise, SearchConfig

Decoding = Literal["trie", "raw", "free"]
MAX_HISTORY = 20
"""Newest items of a history that a prompt shows, where nothing else says how many."""


@dataclass(frozen=True)
class RecommenderConfig:
    """How a recommender answers; `replace` makes a copy with other settings.

    Attributes:
        prompt: Names of prompt templates, at most one a task; tasks that are not named keep their default.
        lm_weight: Weight of the LM's log-probability in the score, 0 or more; or one for each request; or None for
            `llmgen.recommend.default_weight`: 1 where no prior knows the user or the wish, else small.
        rating_lm_weight: Weight of the LM's log-probability of a rating, 0 or more.
        decoding: `trie` or `raw` (see `llmgen.search`), or `free`: the model writes a list, and each line is looked up
            in the catalog.
        normalise: See `SearchConfig`.
        num_beams: See `SearchConfig`.
        exact: Whether every answer must be proven to be the best one.
        max_history: Newest items of a history that a prompt shows at most.
        align_prompts: Whether prompts are cut to whole blocks of the engine's KV cache.
        think_tokens: Tokens that a model which can think may think for before each answer, 0 or more.

    Raises:
        ArgumentError: A value out of range.
    """

    prompt: tuple[str, ...] = ()
    lm_weight: float | RequestWeight | None = None
    rating_lm_weight: float = 1.0
    decoding: Decoding = "trie"
    normalise: Normalise = "catalog"
    num_beams: int | None = None
    exact: bool = False
    max_history: int = MAX_HISTORY
    align_prompts: bool = False
    think_tokens: int = 0

    def __post_init__(self) -> None:
        if self.decoding not in get_args(Decoding):
            raise ArgumentError(f"decoding must be 'trie', 'raw' or 'free', not {self.decoding!r}")
        if self.max_history < 0:
            raise ArgumentError(f"max_history must be 0 or more, not {self.max_history}")
        if not (math.isfinite(self.rating_lm_weight) and self.rating_lm_weight >= 0):
            raise ArgumentError(f"rating_lm_weight must be 0 or more, not {self.rating_lm_weight}")
        if self.think_tokens < 0:
            raise ArgumentError(f"think_tokens must be 0 or more, not {self.think_tokens}")
        _ = self.search

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the settings."""
        return tuple(field.name for field in fields(cls))

    def replace(self, **settings: object) -> RecommenderConfig:
        """The same with other settings.

        Raises:
            ArgumentError: There is no such setting, or a value is out of range.
        """
        known = self.names()
        if unknown := sorted(set(settings) - set(known)):
            raise ArgumentError(f"a recommender has no setting {unknown[0]!r}; it has {', '.join(known)}")
        return replace(self, **settings)  # type: ignore[arg-type]  # the names are checked, the values by the class

    @property
    def mode(self) -> Mode:
        """Of the search; where lists are written, of what is searched beside them."""
        return "trie" if self.decoding == "free" else self.decoding

    @property
    def search(self) -> SearchConfig:
        """The part that the search reads; each request may have a weight of its own beside it."""
        return SearchConfig(self.mode, self.normalise, self.usual_lm_weight, self.num_beams, self.exact)

    @property
    def usual_lm_weight(self) -> float:
        """The weight of the LM, for places that have room for one number; see `RequestWeight.usual`. 1 by default."""
        if self.lm_weight is None:
            return 1.0
        return self.lm_weight.usual if isinstance(self.lm_weight, RequestWeight) else self.lm_weight

    @property
    def asks_model(self) -> bool:
        """Whether the LM has a weight in the score."""
        return self.lm_weight is None or isinstance(self.lm_weight, RequestWeight) or self.lm_weight > 0
