"""The loss over a catalog: at each place of a title, a softmax over the tokens that keep the path in the catalog.

With a prior, the softmax at node v of the trie over its children c is

    softmax(a * logit(c) + log m(c))        m(c): the prior's mass of the items below c

so a model whose logits say nothing is the prior itself, and learning starts from there; `a` is the LM's weight. Without
one, m is 1 and a is 1: maximum likelihood of the item under the trie-normalised model that `llmgen.search` ranks by.
A node with one child costs nothing and teaches nothing. What the prior removes is no choice.

With a temperature T the softmax without a prior is that of logit(c) / T, and a trainer minimises T times its nats, so
that the gradient by a logit is p_T(c) - y(c), whatever T is: a larger T makes p_T flatter, and the gradient stays where
with T = 1 the taken child is nearly certain already. Beside a prior `a` is the same as 1 / T.

Source: the masked softmax and its temperature are those of MSL (Wang et al., SIGIR 2025, arXiv 2504.04178), which in
its adaptive form multiplies by T as here and chooses T anew at each step between 1.5 and 5; our T is a fixed setting.
The prior inside is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmgen.recommend.index import CatalogIndex
from llmgen.trie.core import ItemTrie
from llmgen.types import FloatArray, IntArray


class Choices(NamedTuple):
    """All choices that some targets make on their way through the trie, as flat arrays.

    A choice is made at a node with several children. Its `place` is how many tokens of the title stand before it. The
    options of all choices stand one after the other; those of choice i have `choice == i`.
    """

    target: IntArray
    """int64 [n]: number of the target that makes each choice; not falling."""
    place: IntArray
    """int64 [n]: 0 for the first token of the title."""
    taken: IntArray
    """int64 [n]: the option that the target takes."""
    choice: IntArray
    """int64 [m]: the choice of each option; not falling."""
    token: IntArray
    """int64 [m]: token of each option."""
    log_mass: FloatArray
    """float64 [m]: natural logarithm of the prior's mass below each option; 0 where there is no prior."""
    has_prior: NDArray[np.bool_]
    """bool [n]: whether a prior speaks at each choice."""


def together(parts: Sequence[tuple[IntArray, Choices]]) -> Choices:
    """The choices of some targets, of which each part knows others, in the order of the targets.

    Args:
        parts: Numbers, int64, that the targets 0, 1, ... of some choices have among all; and these choices.
    """
    number = np.concatenate([numbers[choices.target] for numbers, choices in parts])
    before = np.cumsum([0, *(len(choices.target) for _, choices in parts)])
    options_before = np.cumsum([0, *(len(choices.choice) for _, choices in parts)])
    order = number.argsort(kind="stable")
    place = np.empty(len(order), np.int64)  # of each choice, in that order
    place[order] = np.arange(len(order))
    of = place[np.concatenate([choices.choice + start for (_, choices), start in zip(parts, before, strict=False)])]
    options = of.argsort(kind="stable")
    place_of_option = np.empty(len(options), np.int64)
    place_of_option[options] = np.arange(len(options))
    taken = np.concatenate([choices.taken + start for (_, choices), start in zip(parts, options_before, strict=False)])

    def joined(name: str) -> Any:
        return np.concatenate([getattr(choices, name) for _, choices in parts])

    return Choices(
        number[order],
        joined("place")[order],
        place_of_option[taken][order],
        of[options],
        joined("token")[options],
        joined("log_mass")[options],
        joined("has_prior")[order],
    )


class ItemPaths:
    """Where the items of a trie stand, for looking up many at once.

    Args:
        trie: Over the catalog.
        own_ends: Whether its paths end as the text does: it is one of lines with their line breaks, see
            `llmgen.engines.Joining`.
    """

    def __init__(self, trie: ItemTrie, *, own_ends: bool = False) -> None:
        self.trie = trie
        self._end = None if own_ends else trie.path(0)[-1]
        leaves = np.flatnonzero(trie.first[:-1] == trie.first[1:])
        leaves = leaves[np.argsort(trie.lo[leaves])]
        self._leaf = np.empty(trie.num_items, np.int64)  # by catalog index
        self._leaf[trie.order] = np.repeat(leaves, trie.hi[leaves] - trie.lo[leaves])
        self._position = np.empty(trie.num_items, np.int64)
        self._position[trie.order] = np.arange(trie.num_items)

    @classmethod
    def of_lines(cls, index: CatalogIndex) -> ItemPaths | None:
        """Those of the items as lines of a list, where they are others than those of `index.trie`."""
        trie = index.trie_of(continues=True)
        return None if trie is index.trie else cls(trie, own_ends=True)

    def choices(
        self, items: IntArray, ends: IntArray, log_priors: FloatArray | None = None, rows: IntArray | None = None
    ) -> Choices:
        """The choices on the way to each item.

        Args:
            items: int64 [n_targets], catalog indices.
            ends: int64 [n_targets], the token with which each target ends in the text: that of the trie's paths, or a
                line break in a list that goes on; not looked at where the paths have their own.
            log_priors: float64 [n_rows, num_items] in catalog order; -inf removes an item, and with it the options that
                lead to nothing else.
            rows: int64 [n_targets], the row of each target, -1 for none; all are -1 without priors.

        Raises:
            ValueError: A prior that removes its own target: it would have to be learned against infinity.
        """
        trie = self.trie
        rows = np.full(len(items), -1) if rows is None or log_priors is None else rows
        targets, nodes, taken = [], [], []
        below, going = self._leaf[items], np.arange(len(items))
        while len(going):  # one step a depth, from the leaves up
            above = trie.parent[below].astype(np.int64)
            inside = above >= 0
            going, below, above = going[inside], below[inside], above[inside]
            several = trie.first[above + 1] - trie.first[above] > 1
            targets.append(going[several])
            nodes.append(above[several])
            taken.append(below[several])
            below = above
        target, node, child = (np.concatenate(parts) for parts in (targets, nodes, taken))
        place = self._depth(node)
        order = np.lexsort((place, target))
        target, node, child, place = target[order], node[order], child[order], place[order]
        children, splits = trie.children(node)
        choice = np.repeat(np.arange(len(node)), np.diff(splits))
        option_taken = splits[:-1] + child - trie.first[node]
        log_mass = np.zeros(len(children))
        if log_priors is not None:
            informed = np.flatnonzero(rows >= 0)
            gone = informed[np.isneginf(log_priors[rows[informed], items[informed]])]
            if len(gone):
                raise ValueError(f"the prior of target {gone[0]} removes the item {items[gone[0]]}, its own target")
            row = rows[target[choice]]
            log_mass[row >= 0] = self._log_mass(log_priors, row[row >= 0], children[row >= 0])
            kept = log_mass > -np.inf
            option_taken = (np.cumsum(kept) - 1)[option_taken]
            children, choice, log_mass = children[kept], choice[kept], log_mass[kept]
        tokens = trie.token[children].astype(np.int64)
        if self._end is not None:
            tokens = np.where(tokens == self._end, ends[target[choice]], tokens)
        return Choices(target, place, option_taken, choice, tokens, log_mass, rows[target] >= 0)

    def _depth(self, nodes: IntArray) -> IntArray:
        depth = np.zeros(len(nodes), np.int64)
        above = self.trie.parent[nodes].astype(np.int64)
        while (inside := above >= 0).any():
            depth += inside
            above = np.where(inside, self.trie.parent[above], -1)
        return depth

    def _log_mass(self, log_priors: FloatArray, rows: IntArray, children: IntArray) -> FloatArray:
        """Of the items below each child, by the prior of its row."""
        in_order = log_priors[:, self.trie.order]
        top = in_order.max(axis=1, keepdims=True)
        sums = np.zeros((len(in_order), in_order.shape[1] + 1))
        weights = np.exp(in_order - top)
        np.cumsum(weights, axis=1, out=sums[:, 1:])
        low, high = self.trie.lo[children].astype(np.int64), self.trie.hi[children].astype(np.int64)
        mass = sums[rows, high] - sums[rows, low]
        single = high - low == 1  # as it is: the difference of two sums loses small weights
        mass[single] = weights[rows[single], low[single]]
        with np.errstate(divide="ignore"):
            logs: FloatArray = np.log(np.maximum(mass, 0.0)) + top[rows, 0]
        # A sum of what is left beside much larger weights may round to nothing; what is allowed must stay possible.
        lost = np.isneginf(logs) & ~single
        for option in np.flatnonzero(lost):
            part = in_order[rows[option], low[option] : high[option]]
            logs[option] = np.logaddexp.reduce(part)
        return logs


def catalog_loss(
    choices: Choices,
    num_targets: int,
    logits: Callable[[IntArray], Tensor],
    lm_weight: Tensor | float = 1.0,
    temperature: float = 1.0,
) -> Tensor:
    """Negative log-likelihood of each target.

    Args:
        choices: See `ItemPaths.choices`.
        num_targets: How many targets there are.
        logits: Given the distinct tokens that are asked about, int64 [v], the model's logits at the place of every
            choice, float [n, v].
        lm_weight: `a`, used where there is a prior.
        temperature: T, by which the logits are divided where there is no prior.

    Returns:
        float32 [num_targets], nats; 0 for a target without a choice.
    """
    tokens, column = np.unique(choices.token, return_inverse=True)
    table = logits(tokens).float()
    device = table.device
    choice = torch.from_numpy(choices.choice).to(device)
    informed = torch.from_numpy(choices.has_prior).to(device)
    weight = torch.where(informed, torch.as_tensor(lm_weight, device=device), 1.0 / temperature)
    score = weight[choice] * table[choice, torch.from_numpy(column).to(device)]
    score = score + torch.from_numpy(choices.log_mass).to(device, torch.float32)
    number = len(choices.target)
    top = torch.full((number,), -torch.inf, device=device).scatter_reduce(0, choice, score.detach(), "amax")
    odds = torch.zeros(number, device=device).index_add(0, choice, (score - top[choice]).exp())
    lost = odds.log() + top - score[torch.from_numpy(choices.taken).to(device)]
    return torch.zeros(num_targets, device=device).index_add(0, torch.from_numpy(choices.target).to(device), lost)


def token_loss(logits: Tensor, tokens: NDArray[np.int64], target: IntArray, num_targets: int) -> Tensor:
    """Negative log-likelihood of each target as plain text, over the whole vocabulary.

    Args:
        logits: float [n, vocabulary], at the place before each token of a target.
        tokens: int64 [n].
        target: int64 [n], the target of each token.
        num_targets: How many targets there are.

    Returns:
        float32 [num_targets], nats, summed over the tokens of each.
    """
    device = logits.device
    lost = torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(tokens).to(device), reduction="none")
    return torch.zeros(num_targets, device=device).index_add(0, torch.from_numpy(target).to(device), lost)
