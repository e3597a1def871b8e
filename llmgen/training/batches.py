"""Batches: examples side by side, with what the loss needs to know of each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from llmgen.adapters import Loss
from llmgen.priors import Prior, combine
from llmgen.training.data import Example, Mixture, Target
from llmgen.training.loss import Choices, ItemPaths, together
from llmgen.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Plan:
    """Where the answers of a batch are decided. Places are counted over the rows joined, [batch * length].

    Attributes:
        items: Choices of the targets that are items; None in a batch without any, or with the loss `lm`.
        item_places: int64 [number of choices], where the model decides each.
        num_items: How many targets are items.
        prior_nats: float64 [num_items], what each costs the prior alone; NaN where it does not speak.
        token_places: int64 [n], where the model decides each token of the targets that are learned as text.
        tokens: int64 [n], these tokens.
        token_targets: int64 [n], the target of each, from 0.
        num_texts: How many targets are learned as text.
        num_tokens: Tokens of the batch, without padding.
    """

    items: Choices | None
    item_places: IntArray
    num_items: int
    prior_nats: FloatArray
    token_places: IntArray
    tokens: IntArray
    token_targets: IntArray
    num_texts: int
    num_tokens: int


class Batch(TypedDict):
    """What a model and the loss are given.

    Attributes:
        input_ids: int64 [batch, length].
        plan: Where the answers are decided.
    """

    input_ids: Tensor
    plan: Plan


class Planner:
    """Puts examples side by side.

    Args:
        paths: Of the catalog's trie.
        loss: See `AdapterRecord`.
        lines: Of the trie of items that are lines of a list, where that is another one, see `CatalogIndex.trie_of`.
        priors: Fold -> priors that do not know its users' sequences; -1 are those for an example without a user.
        pad: Token that fills up a row; nothing is asked behind a row's end, so it does not matter which.
    """

    def __init__(
        self,
        paths: ItemPaths,
        loss: Loss,
        *,
        lines: ItemPaths | None = None,
        priors: Mapping[int, Sequence[Prior]] | None = None,
        pad: int = 0,
    ) -> None:
        self.paths, self.lines, self.loss, self.priors, self.pad = paths, lines or paths, loss, priors or {}, pad

    def batch(self, examples: Sequence[Example], informed: Sequence[bool]) -> Batch:
        """The batch of some examples.

        Args:
            examples: At least one.
            informed: Whether the prior speaks, one an example.
        """
        length = max(len(example.input_ids) for example in examples)
        ids = torch.full((len(examples), length), self.pad, dtype=torch.int64)
        for row, example in zip(ids, examples, strict=True):
            row[: len(example.input_ids)] = torch.tensor(example.input_ids)
        return {"input_ids": ids, "plan": self._plan(examples, informed, length)}

    def _plan(self, examples: Sequence[Example], informed: Sequence[bool], length: int) -> Plan:
        items: list[tuple[int, Target]] = []  # place before the first token, in the joined rows
        texts: list[tuple[int, Target]] = []
        answers: list[Sequence[int]] = []
        ends: list[int] = []
        rows: list[int] = []
        log_priors: list[FloatArray] = []
        known = 0
        for number, example in enumerate(examples):
            mine = [target for target in example.targets if target.item >= 0 and self.loss != "lm"]
            speaks = bool(mine) and informed[number] and self.loss == "residual"
            if speaks:
                chosen = self.priors[example.fold]
                log_priors.append(combine(chosen, [target.query for target in mine], self.paths.trie.num_items).total)
            for target in example.targets:
                where = number * length + target.start - 1, target
                if target.item < 0 or self.loss == "lm":
                    texts.append(where)
                    answers.append(example.input_ids[target.start : target.end])
                else:
                    items.append(where)
                    ends.append(example.input_ids[target.end - 1])
                    rows.append(known if speaks else -1)
                    known += speaks
        choices, places = None, np.zeros(0, np.int64)
        prior_nats = np.full(len(items), np.nan)
        if items:
            if log_priors:
                weights = np.concatenate(log_priors)
                spoken = np.array(rows) >= 0
                wanted = np.array([target.item for _, target in items])[spoken]
                prior_nats[spoken] = np.logaddexp.reduce(weights, axis=1) - weights[np.arange(len(wanted)), wanted]
            choices = self._choices(
                [target for _, target in items],
                np.array(ends),
                np.concatenate(log_priors) if log_priors else None,
                np.array(rows),
            )
            places = np.array([place for place, _ in items])[choices.target] + choices.place
        sizes = [len(answer) for answer in answers]
        return Plan(
            choices,
            places,
            len(items),
            prior_nats,
            np.concatenate([place + np.arange(size) for (place, _), size in zip(texts, sizes, strict=True)])
            if texts
            else np.zeros(0, np.int64),
            np.array([token for answer in answers for token in answer], np.int64),
            np.repeat(np.arange(len(texts)), sizes),
            len(texts),
            sum(len(example.input_ids) for example in examples),
        )

    def _choices(
        self, targets: Sequence[Target], ends: IntArray, log_priors: FloatArray | None, rows: IntArray
    ) -> Choices:
        """The choices on the way to the items of some targets; see `ItemPaths.choices`."""
        items = np.array([target.item for target in targets])
        lines = np.array([target.in_list and self.lines is not self.paths for target in targets])
        parts = []
        for paths, some in ((self.paths, np.flatnonzero(~lines)), (self.lines, np.flatnonzero(lines))):
            if len(some):
                parts.append((some, paths.choices(items[some], ends[some], log_priors, rows[some])))
        return parts[0][1] if len(parts) == 1 else together(parts)


class Batches(Planner):
    """Makes batches of example numbers; a collator.

    Args:
        mixture: The examples.
        paths: See `Planner`.
        loss: See `Planner`.
        lines: See `Planner`.
        priors: See `Planner`.
        prior_dropout: Share of examples without a prior.
        pad: See `Planner`.
    """

    def __init__(
        self,
        mixture: Mixture,
        paths: ItemPaths,
        loss: Loss,
        *,
        lines: ItemPaths | None = None,
        priors: Mapping[int, Sequence[Prior]] | None = None,
        prior_dropout: float = 0.0,
        pad: int = 0,
    ) -> None:
        super().__init__(paths, loss, lines=lines, priors=priors, pad=pad)
        self.mixture, self.prior_dropout = mixture, prior_dropout

    def __call__(self, features: Sequence[Mapping[str, int]]) -> dict[str, Any]:
        """The batch of the examples `number` of some features."""
        numbers = [int(feature["number"]) for feature in features]
        examples = [self.mixture[number] for number in numbers]
        return {**self.batch(examples, [self._informed(number) for number in numbers])}

    def _informed(self, number: int) -> bool:
        return bool(np.random.default_rng([self.mixture.seed, 2, number]).random() >= self.prior_dropout)


def on(device: torch.device, places: IntArray) -> Tensor:
    """Places as an index tensor."""
    return torch.from_numpy(places).to(device)
