"""What a model in training says at the places that count, and nothing else of its output layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from llmgen.errors import ConfigError
from llmgen.training.batches import Plan, on
from llmgen.training.item_tokens import head_rows
from llmgen.training.loss import catalog_loss, token_loss


class Losses(NamedTuple):
    """Nats of each target: those that are items, and those that are text."""

    items: Tensor
    texts: Tensor


def losses(
    model: nn.Module, input_ids: Tensor, plans: Sequence[tuple[Plan, Tensor | float]], *, inner: nn.Module | None = None
) -> list[Losses]:
    """Nats of each target of a batch, under several plans for the same tokens, from one forward pass.

    Of a target that other items share in, these are the expected nats, see `SoftTargets`.

    Args:
        model: What is called; it may be wrapped for several devices.
        input_ids: int64 [batch, length]; moved to where the model is.
        plans: With the LM's weight beside the prior for each; what the tokens see is the same in all.
        inner: The model inside, whose output layer is used; `model` by default.
    """

    def decide(head: nn.Module, hidden: Tensor) -> list[Losses]:
        # virtual tokens of a prompt-tuned model stand before the batch's own
        rows = hidden[:, hidden.shape[1] - input_ids.shape[1] :].reshape(-1, hidden.shape[-1])
        return [_decided(head, rows, plan, weight) for plan, weight in plans]

    device, seen = next(model.parameters()).device, plans[0][0].branches
    given: dict[str, Tensor] = {}
    if seen is not None:
        given = {"attention_mask": seen.mask(device), "position_ids": on(device, seen.positions)}
    with _handed(inner or model, decide) as found:
        model(input_ids=input_ids.to(device), **given, use_cache=False)
    return found[0]


def check_head(model: PreTrainedModel) -> None:
    """Make sure that the output layer's logits are the model's.

    Raises:
        ConfigError: They are not.
    """
    ids = torch.arange(3, 7, device=next(model.parameters()).device)[None]
    head = model.get_output_embeddings()
    kept: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, given, made: kept.append(made))
    was_training = model.training
    try:
        with torch.no_grad():
            model.eval()
            logits = model(input_ids=ids, use_cache=False).logits
    finally:
        hook.remove()
        model.train(was_training)
    if not torch.allclose(logits[:, -4:].float(), kept[0][:, -4:].float(), atol=1e-3):
        raise ConfigError(
            f"{type(model).__name__} changes its logits behind the output layer, so it cannot be tuned here: the loss "
            "looks at the output layer alone"
        )


def _decided(head: nn.Module, rows: Tensor, plan: Plan, lm_weight: Tensor | float) -> Losses:
    device = rows.device
    items = texts = rows.new_zeros(0, dtype=torch.float32)
    if plan.items is not None:
        at = rows[on(device, plan.item_places)]
        count = len(plan.answer_targets)
        items = catalog_loss(
            plan.items, count, lambda ids: _logits(head, at, on(device, ids)), lm_weight, plan.temperature
        )
        if count > plan.num_items:
            weighted = items * torch.from_numpy(plan.answer_shares).to(items)
            items = items.new_zeros(plan.num_items).index_add(0, on(device, plan.answer_targets), weighted)
    if plan.num_texts:
        logits = _logits(head, rows[on(device, plan.token_places)], None)
        texts = token_loss(logits, plan.tokens, plan.token_targets, plan.num_texts)
    return Losses(items, texts)


@contextmanager
def _handed(model: nn.Module, decide: Callable[[nn.Module, Tensor], list[Losses]]) -> Iterator[list[list[Losses]]]:
    """While it lasts, the output layer hands its input to `decide` instead of making logits for a whole vocabulary.

    Inside the model's own forward pass, so that it works however the model is wrapped and its weights are sharded.
    """
    head = cast(nn.Module, cast(Any, model).get_output_embeddings())
    plain = head.forward
    found: list[list[Losses]] = []

    def forward(hidden: Tensor) -> Tensor:
        head.forward = plain
        found.append(decide(head, hidden))
        return hidden[..., :1]

    head.forward = forward
    try:
        yield found
    finally:
        head.forward = plain


def _logits(head: nn.Module, hidden: Tensor, tokens: Tensor | None) -> Tensor:
    """Logits of some tokens, or of all; only their rows of the output layer are used where it is a plain one.

    Rows are multiplied in float32, as the search does: bfloat16 cannot tell apart logits near 20 by less than .1. All
    of a vocabulary are in the precision of the weights, also under autocast.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        rows = None if tokens is None else head_rows(head, tokens)
        if rows is not None:
            bias = getattr(head, "bias", None)
            return linear(hidden.float(), rows.float(), None if bias is None else bias[tokens].float())
        logits: Tensor = head(hidden.to(head.weight.dtype) if isinstance(head.weight, Tensor) else hidden)
        return logits if tokens is None else logits[:, tokens]
