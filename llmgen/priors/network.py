"""The network of `llmgen.priors.SASRec` and its training; what needs torch of the sequence prior is in this file.

A causal transformer over the items of a history, whose last state times the embedding of an item is that item's logit.
Sequences are padded behind their last item, and a state sees only what stands before it, so padding changes nothing.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from llmgen.errors import ConfigError
from llmgen.types import IntArray

logger = logging.getLogger(__name__)

CELLS = {"cpu": 1 << 20, "cuda": 1 << 27}
"""Logits that are held at once: what a processor's cache holds, and half a GiB of a card."""
FULL_ITEMS = 100_000
"""Up to so many items the loss is the softmax over all of them, unless a number of drawn ones is given."""
NEGATIVES = 8_192
"""Items that are drawn above, unless another number is given."""
SPREAD = 0.02
"""Standard deviation of the first weights and embeddings."""


@dataclass(frozen=True)
class Settings:
    """What the training depends on; see `llmgen.priors.SASRec.fit`."""

    dim: int
    layers: int
    heads: int
    max_length: int
    dropout: float
    lr: float
    weight_decay: float
    epochs: int
    patience: int
    batch_size: int
    validation_users: int
    negatives: int
    seed: int


class Network(nn.Module):
    """SASRec: item and place embeddings, causal transformer layers, and the item embeddings again as the output.

    Args:
        items: How many there are.
        settings: Sizes and dropout.
    """

    def __init__(self, items: int, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.items = nn.Embedding(items, settings.dim)
        self.places = nn.Embedding(settings.max_length, settings.dim)
        self.norm, self.dropout = nn.LayerNorm(settings.dim), nn.Dropout(settings.dropout)
        layer = nn.TransformerEncoderLayer(
            settings.dim,
            settings.heads,
            4 * settings.dim,
            settings.dropout,
            "gelu",
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(settings.dim)
        self.layers = nn.TransformerEncoder(layer, settings.layers, norm, enable_nested_tensor=False)
        for name, weights in self.named_parameters():
            if weights.ndim > 1:  # small, so that at first a state is little but its own item
                nn.init.normal_(weights, std=SPREAD)
            elif name.endswith("bias"):
                nn.init.zeros_(weights)

    def forward(self, taken: Tensor) -> Tensor:
        """States after each item.

        Args:
            taken: int64 [n, length], rows of items, oldest first, padded at the end with any; at most `max_length`.

        Returns:
            float32 [n, length, dim].
        """
        length = taken.shape[1]
        found = self.dropout(self.norm(self.items(taken) + self.places.weight[:length]))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=taken.device, dtype=found.dtype)
        result: Tensor = self.layers(found, mask=mask, is_causal=True)
        return result

    def last_states(self, histories: list[IntArray]) -> Tensor:
        """The state after the last item of each history, float32 [n, dim]; no history is empty or too long."""
        device = self.items.weight.device
        ends = torch.tensor([len(taken) - 1 for taken in histories], device=device)
        states: Tensor = self(torch.from_numpy(padded(histories)).to(device))
        return states[torch.arange(len(histories), device=device), ends]


class _SampledSoftmax(torch.autograd.Function):
    """See `softmax_loss`: the loss and, in the same pass, its gradients, some rows at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        own: Tensor,
        candidates: Tensor,
        targets: Tensor,
        drawn: Tensor | None,
        shift: Tensor | None,
    ) -> Tensor:
        """The sum of the rows' losses."""
        to_states, to_own, to_candidates = (torch.zeros_like(one) for one in (states, own, candidates))
        total = states.new_zeros(())
        at_once = max(1, CELLS[states.device.type] // len(candidates))
        for start in range(0, len(states), at_once):
            rows = slice(start, start + at_once)
            state, right, target = states[rows], own[rows], targets[rows]
            logits = state @ candidates.T
            if drawn is None:
                logits[torch.arange(len(state), device=state.device), target] = -torch.inf
            else:
                assert shift is not None
                logits.sub_(shift).masked_fill_(target[:, None] == drawn, -torch.inf)
            logit = (state * right).sum(dim=1)
            top = torch.maximum(logits.amax(dim=1), logit)
            odds, odd = logits.sub_(top[:, None]).exp_(), (logit - top).exp()
            sums = odds.sum(dim=1) + odd
            total += (top + sums.log() - logit).sum()
            slope = (odd / sums - 1.0)[:, None]
            to_states[rows] = torch.addcmul((odds @ candidates).div_(sums[:, None]), slope, right)
            to_own[rows] = slope * state
            to_candidates.addmm_(odds.T, state / sums[:, None])
        ctx.save_for_backward(to_states, to_own, to_candidates)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> tuple[Tensor | None, ...]:
        """The gradients, which are there already."""
        return (*(slopes[0] * one for one in ctx.saved_tensors), None, None, None)


def softmax_loss(
    states: Tensor, table: Tensor, targets: Tensor, drawn: Tensor | None = None, log_counts: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the softmax over all items, or over drawn ones in their place; summed over the rows.

    The sum over all items Z = sum_j exp(s_j) is estimated without bias from m items drawn from q with replacement, by
    exp(s_target) + sum over the drawn other ones of exp(s_j) / (m q_j); the target is always there, so its own logit is
    not corrected. Memory is bounded: the logits of some rows are made at a time, and no graph of them is kept.

    Args:
        states: float32 [n, dim].
        table: float32 [items, dim].
        targets: int64 [n], a row of the table each.
        drawn: int64 [m], rows of the table, any number of times; all items once without.
        log_counts: float32 [m], log(m q) of each.

    Source: Bengio & Senecal, IEEE Trans. Neural Networks 2008, for the correction.
    """
    candidates = table if drawn is None else table[drawn]
    apply: Callable[..., Tensor] = _SampledSoftmax.apply  # which torch leaves without types
    return apply(states, table[targets], candidates, targets, drawn, log_counts)


class Window(NamedTuple):
    """A part of a sequence that is learned at once.

    Attributes:
        start: Place of its first item in the log.
        end: One past its last item.
        first: Place of the first item that is a target; those before it only tell what came before.
    """

    start: int
    end: int
    first: int


def windows(starts: IntArray, ends: IntArray, max_length: int) -> list[Window]:
    """The sequences, long ones in windows that overlap by half; every item but the first is a target just once.

    Args:
        starts: int64 [n], place of the first item of each sequence.
        ends: int64 [n], one past its last item.
        max_length: Most items that are told before a target.

    >>> windows(np.array([0]), np.array([7]), 4)
    [Window(start=0, end=5, first=1), Window(start=2, end=7, first=5)]
    """
    found = []
    step = max(1, max_length // 2)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        first = start + 1
        while first < end:
            stop = min(end, start + max_length + 1)
            found.append(Window(start, stop, first))
            first = stop
            start = max(start, min(start + step, end - max_length - 1))
    return found


def read(path: Path) -> tuple[Network, Mapping[str, Any]]:
    """The network of a training that ended, and what its file has beside it.

    Raises:
        ConfigError: There is no such file, it is another one, or its training has not ended.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
        network = Network(len(found["best_weights"]["items.weight"]), Settings(**found["settings"]))
        network.load_state_dict(found["best_weights"])
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; SASRec.fit(checkpoint=...) writes such a file") from None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} is no file of SASRec.fit(checkpoint=...): {error}") from None
    if not found["done"]:
        raise ConfigError(f"the training of {path} has not ended; fit with it as the checkpoint, and it goes on")
    return network.eval(), found


def write(network: Network, path: Path) -> None:
    """Write a trained network into a file that `read` reads."""
    about = {"settings": asdict(network.settings), "best_weights": network.state_dict(), "done": True}
    torch.save(about, path)


def padded(sequences: list[IntArray]) -> IntArray:
    """int64 [n, longest], zeros behind each sequence."""
    rows = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    for row, one in zip(rows, sequences, strict=True):
        row[: len(one)] = one
    return rows
