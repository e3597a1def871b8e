"""Validation of a model in training: NDCG on held-out items, through the search that serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llmgen.catalog import Catalog
from llmgen.engines.hf import HFEngine
from llmgen.priors import Prior
from llmgen.recommender import Recommender
from llmgen.types import Query

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 16
"""Users whose prompts stay in the engine while every arm answers."""


class Validation:
    """Asks a model for some users' next items, alone and beside the priors.

    Args:
        catalog: What is ranked.
        priors: Fitted on what was there before the held-out items.
        queries: One a user.
        held_out: Id of each user's held-out item.
        tokenizer: Of the model.
        prompt: Name of the template.
        max_history: Items in a prompt at most.
        lm_weights: Tried beside the priors.
        users: How many users are asked, evenly spread over all.
        k: Cut-off.
    """

    def __init__(
        self,
        catalog: Catalog,
        priors: Sequence[Prior],
        queries: Sequence[Query],
        held_out: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt: str,
        max_history: int,
        lm_weights: Sequence[float],
        users: int,
        k: int = 10,
    ) -> None:
        sample = np.unique(np.linspace(0, len(queries) - 1, min(users, len(queries))).round().astype(int))
        self.queries = [replace(queries[number], k=k) for number in sample]
        self.held_out = [held_out[number] for number in sample]
        self.catalog, self.priors, self.tokenizer = catalog, tuple(priors), tokenizer
        self.prompt, self.max_history, self.lm_weights = prompt, max_history, tuple(lm_weights)

    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        """Mean NDCG@k.

        Returns:
            `ndcg`: of LM x priors at the best of the weights; `lm_weight`: that weight; `ndcg_lm`: of the LM alone;
            `ndcg_prior`: of the priors alone. Without priors `ndcg` is the LM's.
        """
        engine = HFEngine(model, self.tokenizer)
        alone = self._recommender(engine, (), 1.0)
        weights = self.lm_weights if self.priors else ()
        arms = {weight: self._recommender(engine, self.priors, weight) for weight in weights}
        lm_gains: list[float] = []
        gains: dict[float, list[float]] = {weight: [] for weight in arms}
        for start in range(0, len(self.queries), CHUNK):
            chunk = slice(start, start + CHUNK)
            lm_gains += self._gains(alone, chunk)
            for weight, arm in arms.items():
                gains[weight] += self._gains(arm, chunk)
        found = {"ndcg_lm": float(np.mean(lm_gains))}
        if not arms:
            return {"ndcg": found["ndcg_lm"], "lm_weight": 1.0, **found}
        prior = self._gains(self._recommender(None, self.priors, 0.0), slice(None))
        best = max(arms, key=lambda weight: np.mean(gains[weight]))
        found |= {f"ndcg_at_{weight:g}": float(np.mean(gains[weight])) for weight in arms}
        return {"ndcg": float(np.mean(gains[best])), "lm_weight": best, "ndcg_prior": float(np.mean(prior)), **found}

    def _recommender(self, engine: HFEngine | None, priors: Sequence[Prior], weight: float) -> Recommender:
        return Recommender(
            self.catalog,
            engine,
            prompt=self.prompt,
            priors=priors,
            lm_weight=weight,
            max_history=self.max_history,
        )

    def _gains(self, recommender: Recommender, chunk: slice) -> list[float]:
        answers = recommender.recommend_many(self.queries[chunk])
        return [
            sum(1 / float(np.log2(place.rank + 1)) for place in answer if place.item.id == wanted)
            for answer, wanted in zip(answers, self.held_out[chunk], strict=True)
        ]
