"""Linear layers whose weights lie in memory as the CPU reads them, for a model that is only asked.

A search runs the model on few tokens at a time, and torch's plain product reads a weight matrix slowly then. oneDNN,
which comes with torch, reorders weights once into blocks: on two AVX-512 cores the linear layers of SmolLM2-135M take
half the time for 6 to 14 tokens, and four fifths of it for a prompt of 195.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from llmgen.engines.forward import LIKE_LLAMA, FusedAttention

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

TOKENS = 16  # a pass of so many tokens decides the blocks; right for rounds of a search, no worse for prompts
ALLOWED = {torch.float32: 5e-4, torch.bfloat16: 0.25}
"""Root mean square of the difference of logits, which rounding alone may make."""


class PackedLinear(nn.Module):
    """A linear layer that can be asked and nothing else: its weights cannot be read, changed or trained.

    Args:
        linear: On a CPU, in float32 or bfloat16; not changed.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        reorder: Any = torch.ops.mkldnn._reorder_linear_weight
        self.register_buffer("weight", reorder(linear.weight.detach(), TOKENS), persistent=False)
        self.bias = linear.bias

    def forward(self, states: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
        return product


@torch.inference_mode()
def pack(model: PreTrainedModel) -> bool:
    """Fuse attention layers like Llama's and pack the linear layers of a model's body, in place.

    The output layer stays, since a search reads single rows of it. Whether the answers stay the same is tried on a
    few tokens; if they do not, or this torch cannot pack, the model is left as it was.

    Args:
        model: On a CPU, in float32 or bfloat16, in evaluation mode.

    Returns:
        Whether it was packed.
    """
    size = model.config.get_text_config().vocab_size
    probe = torch.randint(size, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    before = model(input_ids=probe, use_cache=False).logits
    output = model.get_output_embeddings()
    changed: list[tuple[nn.Module, str, nn.Module]] = []

    def replace(new: Callable[[Any], nn.Module], wanted: Callable[[nn.Module], bool]) -> None:
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if wanted(child):
                    changed.append((parent, name, child))
                    setattr(parent, name, new(child))

    try:
        replace(FusedAttention, lambda module: type(module).__name__ in LIKE_LLAMA)
        replace(PackedLinear, lambda module: type(module) is nn.Linear and module is not output)
        off = float((model(input_ids=probe, use_cache=False).logits - before).float().square().mean().sqrt())
        if off <= ALLOWED[before.dtype]:
            return True
        reason = f"logits differ by {off:.2g}"
    except (AttributeError, NotImplementedError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
    for parent, name, child in reversed(changed):
        setattr(parent, name, child)
    logger.info("layers stay as they are, which is slower: %s", reason)
    return False
