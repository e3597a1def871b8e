"""Packed layers answer as plain ones do, or the model is left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[hf]")
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from llmgen.engines import packed
from llmgen.engines.blocks import Block, Past
from llmgen.engines.forward import FusedAttention, by_transformers, short
from llmgen.engines.hf import HFEngine
from llmgen.engines.packed import PackedLinear, pack
from llmgen.models import demo_model

TINY = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {**TINY, "num_key_value_heads": 2}


def made(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def layers(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(type(module) is kind for module in model.modules())


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(**GROUPED, tie_word_embeddings=True),
        LlamaConfig(**GROUPED, tie_word_embeddings=False, mlp_bias=True),
        MistralConfig(**GROUPED),
        Qwen2Config(**GROUPED),  # with biases
        Qwen3Config(**GROUPED, head_dim=8),
    ],
    ids=lambda config: config.model_type,
)
@torch.inference_mode()
def test_logits_stay_the_same(config: Any) -> None:
    model, expected = made(config), made(config)
    assert pack(model)
    assert layers(model, nn.Linear) == 1  # the output layer
    assert layers(model, FusedAttention) == (2 if config.model_type != "qwen3" else 0)
    assert layers(model, PackedLinear) == 2 * (5 if config.model_type != "qwen3" else 7)
    for shape in ((1, 1), (1, 7), (3, 40)):
        ids = torch.randint(0, 97, shape)
        assert torch.allclose(model(input_ids=ids).logits, expected(input_ids=ids).logits, atol=1e-5)


@pytest.mark.parametrize("biased", [False, True])
@torch.inference_mode()
def test_the_short_pass_is_that_of_transformers(biased: bool) -> None:
    config = (Qwen2Config if biased else LlamaConfig)(**GROUPED)
    model, expected = made(config), made(config)
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            module.bias.normal_()
    expected.load_state_dict(model.state_dict())
    assert short(expected.get_decoder()) is None
    assert pack(model)
    one, other = short(model.get_decoder()), by_transformers(expected.get_decoder())
    assert one is not None
    blocks = Block(2, 19), Block(2, 19)
    before = 0
    for tokens, masked in ((9, False), (5, False), (1, False), (4, True)):
        ids, positions = torch.randint(0, 97, (2, tokens)), torch.arange(before, before + tokens).expand(2, -1)
        mask = None
        if masked:
            unseen = torch.rand(2, 1, tokens, before + tokens) < 0.5
            unseen[..., 0] = False
            mask = torch.zeros(unseen.shape).masked_fill(unseen, torch.finfo(torch.float32).min)
        pasts = [Past(block, slice(0, 2), before) for block in blocks]
        done = one(ids, positions, pasts[0], mask), other(ids, positions, pasts[1], mask)
        assert torch.allclose(*done, atol=1e-5)
        for mine, theirs in zip(blocks[0].layers, blocks[1].layers, strict=True):
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, theirs, strict=True))
        before += tokens
    assert before == 19


@torch.inference_mode()
def test_generation_stays_the_same() -> None:
    model, expected = made(LlamaConfig(**GROUPED)), made(LlamaConfig(**GROUPED))
    assert pack(model)
    ids = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    kwargs = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert model.generate(ids, **kwargs).tolist() == expected.generate(ids, **kwargs).tolist()


@torch.inference_mode()
def test_in_bfloat16_logits_stay_the_same_to_its_rounding() -> None:
    model, expected = made(LlamaConfig(**GROUPED)).bfloat16(), made(LlamaConfig(**GROUPED)).float()
    pack(model)  # or not, on a CPU that does not know bfloat16
    ids = torch.randint(0, 97, (3, 40))
    assert torch.allclose(model(input_ids=ids).logits.float(), expected(input_ids=ids).logits, atol=0.02)


@torch.inference_mode()
def test_a_model_without_plain_linear_layers_is_left_alone() -> None:
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4)
    model, expected = made(config), made(config)
    pack(model)
    ids = torch.arange(20)[None]
    assert torch.equal(model(input_ids=ids).logits, expected(input_ids=ids).logits)


@pytest.mark.parametrize("failure", ["is wrong", "fails"])
@torch.inference_mode()
def test_a_model_that_packing_would_change_is_as_before(failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(PackedLinear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            if failure == "fails":
                raise RuntimeError("no such operator")
            return super().forward(states) * 2

    model, expected = made(LlamaConfig(**GROUPED)), made(LlamaConfig(**GROUPED))
    monkeypatch.setattr(packed, "PackedLinear", Broken)
    assert not pack(model)
    assert layers(model, nn.Linear) == layers(expected, nn.Linear)
    assert not layers(model, FusedAttention)
    ids = torch.arange(20)[None]
    assert torch.equal(model(input_ids=ids).logits, expected(input_ids=ids).logits)


def test_what_is_loaded_is_packed_and_what_is_given_is_not(tiny_model: Path) -> None:
    loaded = HFEngine.load(str(tiny_model), device="cpu")
    assert layers(loaded.model, PackedLinear) > 0
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    HFEngine(model, loaded.chat_tokenizer.tokenizer)
    assert layers(model, PackedLinear) == 0  # may be in training


@pytest.mark.slow
@torch.inference_mode()
def test_logits_of_smollm2_stay_the_same() -> None:
    torch.manual_seed(0)
    expected: Any = AutoModelForCausalLM.from_pretrained(demo_model(), dtype=torch.float32).eval()
    model: Any = AutoModelForCausalLM.from_pretrained(demo_model(), dtype=torch.float32).eval()
    assert pack(model)
    for count in (1, 14, 200):
        ids = torch.randint(0, 40_000, (1, count))
        off = (model(input_ids=ids).logits - expected(input_ids=ids).logits).abs().max()
        assert float(off) < 1e-3
