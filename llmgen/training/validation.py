"""What a model says of held-out items: how likely they are to it, and NDCG through the search that serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.progress import track

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import History
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError
from llmgen.priors import ExcludeSeen, Prior
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.weighing import CANDIDATES, FittedWeight, choices_of, fit_weight
from llmgen.training.answers import losses
from llmgen.training.batches import Planner
from llmgen.training.data import ahead
from llmgen.training.loss import ItemPaths
from llmgen.types import FloatArray, Query

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 16
"""Users whose prompts stay in the engine while every arm answers."""
ALONE = -1.0
"""Stands for the model without a prior, among the LM's weights of `nats`."""


def nats(
    model: torch.nn.Module,
    recommender: Recommender,
    queries: Sequence[Query],
    held_out: Sequence[str],
    priors: Sequence[Prior],
    *,
    prompt: str,
    weights: Sequence[float],
    temperature: float = 1.0,
    batch: int = 8,
    quiet: bool = False,
) -> FloatArray:
    """Negative log-likelihood of each user's held-out item, as the residual loss has it (`llmgen.training.loss`).

    Args:
        model: Of the recommender's engine.
        recommender: Renders the prompts.
        queries: One a user.
        held_out: Id of the item that each took next.
        priors: Fitted on what was there before.
        prompt: Name of the template.
        weights: Of the LM beside the priors; `ALONE` for the model without.
        temperature: Of the model without priors, see `catalog_loss`; what serves has 1.
        batch: Users of one forward pass.
        quiet: Without a progress bar.

    Returns:
        float64 [len(weights), users].
    """
    catalog = recommender.catalog
    paths, lines = ItemPaths(recommender.trie), ItemPaths.of_lines(recommender.parts.index)
    known = {-1: (ExcludeSeen(catalog), *priors)}
    planner = Planner(paths, "residual", lines=lines, priors=known, temperature=temperature)
    found = np.empty((len(weights), len(queries)))
    numbers = sorted(range(len(queries)), key=lambda number: len(queries[number].history))
    for start in track(range(0, len(numbers), batch), "Reading users", disable=quiet):
        chunk = numbers[start : start + batch]
        examples = [ahead(recommender, prompt, queries[one], catalog[held_out[one]]) for one in chunk]
        informed, alone = (planner.batch(examples, [speaks] * len(examples)) for speaks in (True, False))
        plans = [((alone if weight == ALONE else informed)["plan"], abs(weight)) for weight in weights]
        with torch.no_grad():
            answers = losses(model, informed["input_ids"], plans)
        for row, answer in zip(found, answers, strict=True):
            row[chunk] = answer.items.cpu().numpy()
    return found


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
        users: How many users are asked for a ranking, evenly spread over all; 0 for none.
        nats_users: Of how many the likelihood is measured, likewise; a fraction of the work of a ranking.
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
        nats_users: int = 0,
        k: int = 10,
    ) -> None:
        sample, read = (_spread(len(queries), count) for count in (users, nats_users))
        self.queries = [replace(queries[number], k=k) for number in sample]
        self.held_out = [held_out[number] for number in sample]
        self.read = [(queries[number], held_out[number]) for number in read]
        self.catalog, self.priors, self.tokenizer = catalog, tuple(priors), tokenizer
        self.prompt, self.max_history, self.lm_weights = prompt, max_history, tuple(lm_weights)

    def __call__(self, model: PreTrainedModel) -> dict[str, float]:
        """Mean NDCG@k, and mean nats an item.

        Returns:
            `ndcg`: of LM x priors at the best of the weights; `lm_weight`: that weight; `ndcg_lm`: of the LM alone;
            `ndcg_prior`: of the priors alone. Without priors `ndcg` is the LM's. `nats`, `nats_weight`, `nats_lm` and
            `nats_prior` likewise, if they are asked for.
        """
        engine = HFEngine(model, self.tokenizer)
        return {**(self._ranked(engine) if self.queries else {}), **(self._read(model, engine) if self.read else {})}

    def request_weight(self, model: PreTrainedModel, log: Mapping[str, History]) -> FittedWeight:
        """A weight of the model for each request, fitted on the users who are asked for a ranking.

        Args:
            model: As it will be served.
            log: What was known before the held-out items, by user.

        Raises:
            ConfigError: No held-out item is eligible.
        """
        made = self._recommender(HFEngine(model, self.tokenizer), self.priors, 1.0).with_histories(log)
        asked = choices_of(made.parts, self.queries, self.held_out, candidates=CANDIDATES)
        choices = [one for one in asked if one is not None]
        if not choices:
            raise ConfigError("no weight for each request can be fitted, since no validation item is eligible")
        return fit_weight(choices)

    def _read(self, model: PreTrainedModel, engine: HFEngine) -> dict[str, float]:
        queries, held_out = zip(*self.read, strict=True)
        weights = [0.0, *self.lm_weights, ALONE] if self.priors else [ALONE]
        found = nats(
            model,
            self._recommender(engine, (), 1.0),
            queries,
            held_out,
            self.priors,
            prompt=self.prompt,
            weights=weights,
            batch=CHUNK,
            quiet=True,
        )
        means = {weight: float(mean) for weight, mean in zip(weights, found.mean(axis=1), strict=True)}
        if not self.priors:
            return {"nats": means[ALONE], "nats_lm": means[ALONE]}
        best = min(self.lm_weights, key=means.__getitem__)
        return {"nats": means[best], "nats_weight": best, "nats_prior": means[0.0], "nats_lm": means[ALONE]}

    def _ranked(self, engine: HFEngine) -> dict[str, float]:
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


def _spread(number: int, count: int) -> list[int]:
    """So many places, evenly over `number` of them."""
    chosen: list[int] = np.unique(np.linspace(0, number - 1, min(count, number)).round().astype(int)).tolist()
    return chosen
