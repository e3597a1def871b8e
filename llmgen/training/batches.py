"""Batches: examples side by side, with what the loss needs to know of each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from llmgen.adapters import Loss
from llmgen.priors import Prior, combine
from llmgen.training.branches import Branch, Branches, laid
from llmgen.training.data import Example, Mixture, Target
from llmgen.training.loss import Choices, ItemPaths, together
from llmgen.training.soft_targets import SoftTargets
from llmgen.types import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class Plan:
    """Where the answers of a batch are decided. Places are counted over the rows joined, [batch * length].

    A target that is an item has one answer, that item, or several that share its mass, see `SoftTargets`.

    Attributes:
        items: Choices of the answers that are items; None in a batch without any, or with the loss `lm`.
        item_places: int64 [number of choices], where the model decides each.
        num_items: How many targets are items.
        answer_targets: int64 [number of answers], the target of each; not falling.
        answer_shares: float64 [number of answers], share of the target's mass; those of a target sum to 1.
        prior_nats: float64 [num_items], what each costs the prior alone; NaN where it does not speak.
        token_places: int64 [n], where the model decides each token of the targets that are learned as text.
        tokens: int64 [n], these tokens.
        token_targets: int64 [n], the target of each, from 0.
        num_texts: How many targets are learned as text.
        num_tokens: Tokens of the batch, without padding.
        temperature: Of the softmax over a node's children where no prior speaks.
        branches: What each token sees, where titles of other items are read; None where none are.
    """

    items: Choices | None
    item_places: IntArray
    num_items: int
    answer_targets: IntArray
    answer_shares: FloatArray
    prior_nats: FloatArray
    token_places: IntArray
    tokens: IntArray
    token_targets: IntArray
    num_texts: int
    num_tokens: int
    temperature: float
    branches: Branches | None


class Batch(TypedDict):
    """What a model and the loss are given.

    Attributes:
        input_ids: int64 [batch, length].
        plan: Where the answers are decided.
    """

    input_ids: Tensor
    plan: Plan


class Answer(NamedTuple):
    """An item that counts as the answer of a target.

    Attributes:
        row: Of its example in the batch.
        target: Where the answer stands in the example.
        number: Of the target, among the items of the batch.
        item: Catalog index, the target's or another.
        share: Of the target's mass.
        prior: Row of the prior's weights for the target; -1 where it does not speak.
        end: Token with which the target ends in the text.
    """

    row: int
    target: Target
    number: int
    item: int
    share: float
    prior: int
    end: int


class Planner:
    """Puts examples side by side.

    Args:
        paths: Of the catalog's trie.
        loss: See `AdapterRecord`.
        lines: Of the trie of items that are lines of a list, where that is another one, see `CatalogIndex.trie_of`.
        priors: Fold -> priors that do not know its users' sequences; -1 are those for an example without a user.
        temperature: See `Plan`.
        soft: Says which other items share in the mass of a target; without it none do.
        pad: Token that fills up a row; nothing is asked behind a row's end, so it does not matter which.
    """

    def __init__(
        self,
        paths: ItemPaths,
        loss: Loss,
        *,
        lines: ItemPaths | None = None,
        priors: Mapping[int, Sequence[Prior]] | None = None,
        temperature: float = 1.0,
        soft: SoftTargets | None = None,
        pad: int = 0,
    ) -> None:
        self.paths, self.lines, self.loss, self.priors, self.pad = paths, lines or paths, loss, priors or {}, pad
        self.temperature, self.soft = temperature, soft

    def batch(self, examples: Sequence[Example], informed: Sequence[bool]) -> Batch:
        """The batch of some examples.

        Args:
            examples: At least one.
            informed: Whether the prior speaks, one an example.
        """
        answers, log_priors = self._answers(examples, informed)
        choices = self._choices(answers, log_priors) if answers else None
        shared, branches = self._branches(examples, answers, choices)
        ids, starts, seen = laid([example.input_ids for example in examples], list(branches.values()), self.pad)
        places = np.zeros(0, np.int64)
        if choices is not None:
            rows = np.array([answer.row for answer in answers]) * ids.shape[1]
            text = rows + [answer.target.start - 1 for answer in answers]
            branch = rows.copy()
            branch[list(branches)] += starts
            of, beyond = choices.target, choices.place - shared[choices.target]
            places = np.where(beyond > 0, branch[of] + beyond - 1, text[of] + choices.place)
        prior_nats = self._prior_nats(answers, log_priors)
        texts = [
            (number * ids.shape[1] + target.start - 1, example.input_ids[target.start : target.end])
            for number, example in enumerate(examples)
            for target in example.targets
            if not self._is_item(target)
        ]
        sizes = [len(tokens) for _, tokens in texts]
        plan = Plan(
            choices,
            places,
            len(prior_nats),
            np.array([answer.number for answer in answers], np.int64),
            np.array([answer.share for answer in answers]),
            prior_nats,
            np.concatenate([np.zeros(0, np.int64), *(place + np.arange(len(tokens)) for place, tokens in texts)]),
            np.array([token for _, tokens in texts for token in tokens], np.int64),
            np.repeat(np.arange(len(texts)), sizes),
            len(texts),
            sum(len(example.input_ids) for example in examples) + sum(len(one.tokens) for one in branches.values()),
            self.temperature,
            seen if branches else None,
        )
        return {"input_ids": ids, "plan": plan}

    def _is_item(self, target: Target) -> bool:
        return target.item >= 0 and self.loss != "lm"

    def _answers(self, examples: Sequence[Example], informed: Sequence[bool]) -> tuple[list[Answer], FloatArray | None]:
        """The items that count as answers, and the prior's weights, float64 [targets of which it speaks, n_items]."""
        answers: list[Answer] = []
        log_priors: list[FloatArray] = []
        known = number = 0
        for row, example in enumerate(examples):
            mine = [target for target in example.targets if self._is_item(target)]
            speaks = bool(mine) and informed[row] and self.loss == "residual"
            if speaks:
                chosen = self.priors[example.fold]
                log_priors.append(combine(chosen, [target.query for target in mine], self.paths.trie.num_items).total)
            others = self.soft.others(example, mine) if self.soft else [[] for _ in mine]
            for place, (target, beside) in enumerate(zip(mine, others, strict=True)):
                if speaks:  # what the prior removes is no answer
                    beside = [one for one in beside if log_priors[-1][place, one[0]] > -np.inf]
                rest = 1.0 - sum(share for _, share in beside)
                prior, end = known if speaks else -1, example.input_ids[target.end - 1]
                answers += [
                    Answer(row, target, number, item, share, prior, end)
                    for item, share in [(target.item, rest), *beside]
                ]
                known += speaks
                number += 1
        return answers, np.concatenate(log_priors) if log_priors else None

    def _choices(self, answers: Sequence[Answer], log_priors: FloatArray | None) -> Choices:
        """The choices on the way to the items of some answers; see `ItemPaths.choices`."""
        items, ends, rows = (
            np.array(column) for column in zip(*((one.item, one.end, one.prior) for one in answers), strict=True)
        )
        lines = np.array([self._is_line(answer) for answer in answers])
        parts = []
        for paths, some in ((self.paths, np.flatnonzero(~lines)), (self.lines, np.flatnonzero(lines))):
            if len(some):
                parts.append((some, paths.choices(items[some], ends[some], log_priors, rows[some])))
        return parts[0][1] if len(parts) == 1 else together(parts)

    def _is_line(self, answer: Answer) -> bool:
        return answer.target.in_list and self.lines is not self.paths

    def _branches(
        self, examples: Sequence[Example], answers: Sequence[Answer], choices: Choices | None
    ) -> tuple[IntArray, dict[int, Branch]]:
        """What is to be read for other items than the targets, beside the texts of the examples.

        Returns:
            int64 [number of answers], with how many tokens of the text each begins, as far as it is read; and the
            number of an answer -> its branch.
        """
        read = np.zeros(len(answers), np.int64)  # tokens before the last choice of each
        if choices is not None:
            np.maximum.at(read, choices.target, choices.place)
        shared, branches = read.copy(), dict[int, Branch]()
        for number, answer in enumerate(answers):
            target = answer.target
            if answer.item == target.item:
                continue
            trie = (self.lines if self._is_line(answer) else self.paths).trie
            path = trie.path(answer.item)[: read[number]]
            text = examples[answer.row].input_ids[target.start : target.end - 1]
            begins = next((place for place, token in enumerate(path) if text[place : place + 1] != (token,)), len(path))
            if begins < len(path):
                shared[number] = begins
                branches[number] = Branch(answer.row, target.start + begins, path[begins:])
        return shared, branches

    def _prior_nats(self, answers: Sequence[Answer], log_priors: FloatArray | None) -> FloatArray:
        """What each target costs the prior alone, float64 [targets]; NaN where it does not speak."""
        found = np.zeros(answers[-1].number + 1 if answers else 0)
        if log_priors is None:
            return np.full_like(found, np.nan)
        sums = np.logaddexp.reduce(log_priors, axis=1)
        for answer in answers:
            nats = sums[answer.prior] - log_priors[answer.prior, answer.item] if answer.prior >= 0 else np.nan
            found[answer.number] += answer.share * nats
        return found


class Batches(Planner):
    """Makes batches of example numbers; a collator.

    Args:
        mixture: The examples.
        paths: See `Planner`.
        loss: See `Planner`.
        lines: See `Planner`.
        priors: See `Planner`.
        prior_dropout: Share of examples without a prior.
        temperature: See `Planner`.
        soft: See `Planner`.
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
        temperature: float = 1.0,
        soft: SoftTargets | None = None,
        pad: int = 0,
    ) -> None:
        super().__init__(paths, loss, lines=lines, priors=priors, temperature=temperature, soft=soft, pad=pad)
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
