"""Branches: tokens behind the text of a row that continue it from an earlier place, read in the same forward pass.

Where a target has other items beside it, the model must also be asked along their titles. They begin as the target does
or part from it at some token; from there on their tokens stand behind the row's text, with the positions that they
would have in its place, and a mask lets them see the text before and their own branch. A branch ends where nothing is
left to choose, so most have few tokens. Nothing of a prompt is read twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmgen.errors import ConfigError
from llmgen.types import IntArray


class Branch(NamedTuple):
    """A continuation of a row.

    Attributes:
        row: Of the batch.
        stem: How many tokens of the row's text stand before it.
        tokens: At least one.
    """

    row: int
    stem: int
    tokens: tuple[int, ...]


class Branches(NamedTuple):
    """What the tokens of a batch see, as arrays [batch, length].

    Attributes:
        positions: int64, place of each token in the text that it belongs to.
        numbers: int64, 0 for the text and from 1 on for the branches of a row.
        stems: int64, how many tokens of the text a branch's token sees; 0 in the text.
    """

    positions: IntArray
    numbers: IntArray
    stems: IntArray

    def mask(self, device: torch.device) -> Tensor:
        """Which tokens each token sees, bool [batch, 1, length, length], as `scaled_dot_product_attention` takes it."""
        numbers, stems = (torch.from_numpy(one).to(device) for one in (self.numbers, self.stems))
        place = torch.arange(numbers.shape[1], device=device)
        same = numbers[:, :, None] == numbers[:, None, :]
        before = (numbers[:, None, :] == 0) & (place < stems[:, :, None])
        return ((same & (place <= place[:, None])) | before)[:, None]


def laid(texts: Sequence[Sequence[int]], branches: Sequence[Branch], pad: int) -> tuple[Tensor, IntArray, Branches]:
    """Rows with their branches behind them.

    Args:
        texts: Tokens of each row, without branches.
        branches: In any order.
        pad: Token that fills up a row.

    Returns:
        int64 [batch, length], the tokens; int64 [len(branches)], place of the first token of each branch in its row;
        and what the tokens see.
    """
    ends = np.array([len(text) for text in texts])
    starts = np.zeros(len(branches), np.int64)
    for number, branch in enumerate(branches):
        starts[number] = ends[branch.row]
        ends[branch.row] += len(branch.tokens)
    shape = len(texts), int(ends.max())
    ids = torch.full(shape, pad, dtype=torch.int64)
    positions = np.tile(np.arange(shape[1]), (shape[0], 1))
    numbers, stems = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    counts = [0] * len(texts)
    for start, branch in zip(starts.tolist(), branches, strict=True):
        counts[branch.row] += 1
        span = branch.row, slice(start, start + len(branch.tokens))
        ids[span] = torch.tensor(branch.tokens)
        positions[span] = branch.stem + np.arange(len(branch.tokens))
        numbers[span], stems[span] = counts[branch.row], branch.stem
    return ids, starts, Branches(positions, numbers, stems)


def check_branches(model: PreTrainedModel) -> None:
    """Make sure that a model reads a branch as it would read the same text in one piece.

    Raises:
        ConfigError: It does not, as with recurrent layers or an attention that takes no such mask.
    """
    device = next(model.parameters()).device
    was_training = model.training
    call: Any = model
    ids, _, seen = laid([[3, 4, 5, 6]], [Branch(0, 2, (7, 8))], 0)
    whole = torch.tensor([[3, 4, 7, 8]], device=device)
    try:
        model.eval()
        with torch.no_grad():
            plain = call(input_ids=whole, use_cache=False).logits[0, -1].float()
            positions = torch.from_numpy(seen.positions).to(device)
            branched = call(
                input_ids=ids.to(device), attention_mask=seen.mask(device), position_ids=positions, use_cache=False
            ).logits[0, -1]
        apart = float((branched.float() - plain).abs().max() / plain.abs().max())
        fault = f"they are read {apart:.1%} apart" if apart > (1e-3 if plain_precision(model) else 0.05) else ""
    except (RuntimeError, TypeError, ValueError) as error:
        fault = str(error)
    finally:
        model.train(was_training)
    if fault:
        raise ConfigError(
            f"soft_targets need a model that reads branches of a text in one pass, and {type(model).__name__} does "
            f"not ({fault}); leave soft_targets out, or take a model with plain attention (sdpa)"
        )


def plain_precision(model: PreTrainedModel) -> bool:
    """Whether all weights are float32, so that two ways to the same number end close together."""
    return all(one.dtype == torch.float32 for one in model.parameters() if one.is_floating_point())
