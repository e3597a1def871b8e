"""A pass of a model's body over tokens behind kept keys and values: transformers' own, and a short one.

transformers does much around each layer, whatever the model: for the few tokens of a round it takes as long as the
layers' own products. Models built as Llama is (Llama, Mistral, Qwen2) run here in a loop of six lines over the same
modules; with queries, keys and values projected at once, and keys shared by several heads not copied for each of
them, a round of 14 tokens takes four fifths of the time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from transformers import DynamicCache

from llmgen.engines.blocks import Past

if TYPE_CHECKING:
    from torch import Tensor

LIKE_LLAMA = ("LlamaAttention", "MistralAttention", "Qwen2Attention")


class Forward(Protocol):
    """A pass over some tokens."""

    def __call__(self, ids: Tensor, positions: Tensor, past: Past, mask: Tensor | None = None) -> Tensor:
        """Run the tokens; their keys and values are put into `past`.

        Args:
            ids: int64 [batch, tokens].
            positions: int64 [batch, tokens].
            past: What stands before.
            mask: Added to the attention's logits, [batch, 1, tokens, tokens before and these]; without one, a token
                sees all that stands before and the tokens up to itself.

        Returns:
            Last hidden states, [batch, tokens, hidden size].
        """
        ...


def by_transformers(body: Callable[..., Any]) -> Forward:
    """The pass that transformers has for every model."""

    def forward(ids: Tensor, positions: Tensor, past: Past, mask: Tensor | None = None) -> Tensor:
        output = body(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=DynamicCache(past.known()),
            use_cache=True,
        )
        for number, layer in enumerate(output.past_key_values.layers):
            past.extend(number, layer.keys[:, :, past.before :], layer.values[:, :, past.before :])
        hidden: Tensor = output.last_hidden_state
        return hidden

    return forward


def short(body: Any) -> Forward | None:
    """The short pass, where `packed.pack` has fused the attention of all of a body's layers; None elsewhere."""
    layers = getattr(body, "layers", [])
    if not layers or not all(isinstance(getattr(layer, "self_attn", None), FusedAttention) for layer in layers):
        return None

    def forward(ids: Tensor, positions: Tensor, past: Past, mask: Tensor | None = None) -> Tensor:
        if mask is None and past.before:
            seen = torch.ones(ids.shape[1], past.before + ids.shape[1], dtype=torch.bool, device=ids.device)
            mask = seen.tril(past.before)
        states = body.embed_tokens(ids)
        cos, sin = body.rotary_emb(states, position_ids=positions)
        for number, layer in enumerate(layers):
            extend = partial(past.extend, number)
            states = states + layer.self_attn.attend(layer.input_layernorm(states), cos, sin, mask, extend)
            states = states + layer.mlp(layer.post_attention_layernorm(states))
        hidden: Tensor = body.norm(states)
        return hidden

    return forward


class FusedAttention(nn.Module):
    """The attention of a layer like Llama's, with one product for queries, keys and values.

    Args:
        attention: Of transformers, one of `LIKE_LLAMA`; not changed.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.layer_idx, self.scaling, self.head_dim = attention.layer_idx, attention.scaling, attention.head_dim
        self.num_heads, self.num_keys = (part.out_features // self.head_dim for part in parts[:2])
        biased, size = parts[0].bias is not None, sum(part.out_features for part in parts)
        self.qkv_proj = nn.Linear(parts[0].in_features, size, bias=biased, device="meta")
        for name in ("weight", "bias") if biased else ("weight",):
            joined = torch.cat([getattr(part, name).detach() for part in parts])
            setattr(self.qkv_proj, name, nn.Parameter(joined, requires_grad=False))
        self.o_proj = attention.o_proj

    def attend(
        self,
        states: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        extend: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """What the tokens get from what they see.

        Args:
            states: [batch, tokens, hidden size].
            cos: Of the angles of the tokens' positions, [batch, tokens, head size].
            sin: Of the same.
            mask: See `Forward`; or bool, what may be seen. None: all tokens up to each, of which none stands before.
            extend: Puts keys and values behind those of the tokens before, and returns all.
        """
        batch, tokens, _ = states.shape
        heads = self.qkv_proj(states).view(batch, tokens, -1, self.head_dim).transpose(1, 2)
        count = self.num_heads + self.num_keys
        turned, values = heads[:, :count], heads[:, count:]
        first, second = turned.chunk(2, dim=-1)
        turned = torch.addcmul(turned * cos[:, None], torch.cat([-second, first], dim=-1), sin[:, None])
        queries, keys = turned[:, : self.num_heads], turned[:, self.num_heads :]
        keys, values = extend(keys, values)
        attended = nn.functional.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=mask is None and tokens > 1,
            scale=self.scaling,
            enable_gqa=True,
        )
        gained: Tensor = self.o_proj(attended.transpose(1, 2).reshape(batch, tokens, -1))
        return gained

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """As a layer of transformers calls it."""

        def extend(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            if past_key_values is None:
                return keys, values
            both: tuple[Tensor, Tensor] = past_key_values.update(keys, values, self.layer_idx)
            return both

        return self.attend(hidden_states, *position_embeddings, attention_mask, extend), None
