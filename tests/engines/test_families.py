"""Every kind of causal LM that transformers has gives what transformers gives, or is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[hf]")
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llmgen.engines import GenerationConfig, Step
from llmgen.engines.hf import HFEngine
from llmgen.engines.packed import pack
from llmgen.errors import ConfigError
from tests.engines.tiny import VOCABULARY, tiny_config

# of models that are hardly used any more, about their own code
pytestmark = pytest.mark.filterwarnings("ignore")

OFTEN = {
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "phi", "phi3", "olmo2", "stablelm", "granite", "cohere",
    "gpt2", "gpt_neox", "gptj", "opt", "bloom", "falcon", "codegen", "starcoder2", "smollm3", "mamba",
}  # fmt: skip
"""Looked at with the fast tests; the others take half a minute more."""
UNMADE = {
    "gemma3n": "its vision tower needs timm; its text model is looked at as gemma3n_text",
    "gemma4_assistant": "drafts for another model, whose hidden states it reads",
    "gemma4_unified_assistant": "drafts for another model, whose hidden states it reads",
    "musicgen": "writes audio codes, several at a time",
    "musicgen_melody": "writes audio codes, several at a time",
}
"""Kinds that are no language models by themselves, or cannot be made here, and why."""
REFUSED = {
    "cpmant": "no causal LM",  # reads all of its text in both directions
    "prophetnet": "no causal LM",  # foretells several tokens at a time
    "xlnet": "no causal LM",  # reads in both directions, and predicts tokens in any order
}
"""Kinds that are refused, and in what words."""
KINDS = [
    pytest.param(kind, marks=() if kind in OFTEN else pytest.mark.slow)
    for kind in sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(UNMADE))
]
TEXT = (5, 6, 7, 8, 9, 10)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model)
    assert len(loaded) == VOCABULARY
    return loaded


def made(kind: str, **changes: object) -> torch.nn.Module:
    """A tiny model with random weights, whose logits differ clearly."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, **changes)).eval()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_every_kind_give_what_transformers_gives(kind: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Whatever the layers are called and however they are run."""
    model = made(kind)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0]
    expected = logits.double().log_softmax(-1).numpy()
    assert expected.std() > 0.05
    pack(model)
    if kind in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[kind]):
            HFEngine(model, tokenizer)  # type: ignore[arg-type]
        return
    wanted = np.arange(VOCABULARY, dtype=np.int64)
    steps = [Step(TEXT[:3], TEXT[3:end], wanted, full=True) for end in (3, 4, 6)]
    engine = HFEngine(model, tokenizer)  # type: ignore[arg-type]
    for step, answer in zip(steps, engine.next_logprobs(steps), strict=True):
        assert answer == pytest.approx(expected[len(step.prompt) + len(step.suffix) - 1][wanted], abs=1e-3, rel=0)


WRITING = [
    *(
        pytest.param(kind, marks=() if kind in ("llama", "gemma2", "mamba") else pytest.mark.slow)
        for kind in sorted(OFTEN)
    ),
    *("rwkv", "roberta", "pegasus", "xlm", "xlstm"),
]
"""Those of the last line are not written as they are read by `generate`: they take no padding, or other positions."""


@pytest.mark.parametrize("kind", WRITING)
def test_texts_are_what_whole_passes_would_write(kind: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = made(kind)
    engine = HFEngine(model, tokenizer)  # type: ignore[arg-type]
    prompts = [tuple(range(20, 25)), tuple(range(30, 47)), tuple(range(60, 69))]
    expected = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(6):
            with torch.inference_mode():
                ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
        expected.append(ids[len(prompt) :])
    end = expected[1][3]  # which ends that text
    written = engine._write(prompts, GenerationConfig(max_new_tokens=6), frozenset({end}))
    assert written == [(ids[: ids.index(end)], True) if end in ids else (ids, False) for ids in expected]
    assert engine._fault_of_batches is None or kind not in OFTEN
    samples = [engine._write(prompts, GenerationConfig(6, 100.0, seed), frozenset()) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma2", {"final_logit_softcapping": 2.0}),
        ("nanochat", {}),
        ("cohere", {"logit_scale": 0.5}),
        ("granite", {"logits_scaling": 4.0}),
        ("granitemoe", {"logits_scaling": 4.0}),
    ],
)
def test_logits_that_are_scaled_behind_the_output_layer_are_no_hindrance(
    kind: str, changes: dict[str, object], tokenizer: PreTrainedTokenizerBase
) -> None:
    """All three ways in which wanted tokens are looked up: all, few, and many."""
    model = made(kind, **changes)
    engine = HFEngine(model, tokenizer)  # type: ignore[arg-type]
    assert engine._tree_works
    everything, few, many = (np.arange(count, dtype=np.int64) for count in (VOCABULARY, 10, 200))
    steps = [Step(TEXT[:3], TEXT[3:], everything, full=True)]
    steps += [Step(TEXT[:3], TEXT[3:], few), Step(TEXT[:3], TEXT[3:], many)]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0, -1].double()
    expected = logits.log_softmax(-1).numpy()
    whole, *parts = engine.next_logprobs(steps)
    assert whole == pytest.approx(expected, abs=1e-3, rel=0)
    for part in parts:
        own = expected[: len(part)]
        assert part - part.mean() == pytest.approx(own - own.mean(), abs=1e-3, rel=0)


def test_what_is_listed_is_there() -> None:
    assert (OFTEN | UNMADE.keys() | REFUSED.keys()) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize(("kind", "changes"), [("bert", {"is_decoder": False}), ("xlm", {"causal": False})])
def test_a_model_that_reads_what_stands_behind_is_refused(
    kind: str, changes: dict[str, object], tokenizer: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(ConfigError, match=r"is no causal LM: its logits after a token differ by [\d.]+ with"):
        HFEngine(made(kind, **changes), tokenizer)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "longest"), [("llama", 128), ("mpt", 96), ("mamba", 4096)]
)  # mamba has no longest text
def test_the_longest_text_is_the_models_own(kind: str, longest: int, tokenizer: PreTrainedTokenizerBase) -> None:
    model = made(kind, **({"max_seq_len": 96, "logit_scale": "inv_sqrt_d_model"} if kind == "mpt" else {}))
    assert HFEngine(model, tokenizer).max_tokens == longest  # type: ignore[arg-type]


LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("mistral", {"sliding_window": 16}),
        ("gpt_oss", {"sliding_window": 16}),
        ("gpt_neo", {"window_size": 16}),
        ("doge", {"keep_window_size": 16}),
        ("llama4_text", {"attention_chunk_size": 16}),
        ("minimax_m3_vl_text", {"index_block_size": 4, "index_topk_blocks": 2}),
        ("phi3", {"original_max_position_embeddings": 16, "rope_parameters": LONG_ROPE}),
    ],
)
def test_texts_beyond_a_window_are_what_transformers_makes_of_them(
    kind: str, changes: dict[str, object], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Where the model sees or turns tokens otherwise than behind a short prompt."""
    model = made(kind, **changes)
    text = tuple(np.random.default_rng(0).integers(5, VOCABULARY, size=40).tolist())
    wanted = np.arange(VOCABULARY, dtype=np.int64)
    engine = HFEngine(model, tokenizer, max_tokens=64)  # type: ignore[arg-type]
    for length in (12, 15, 32):
        steps = [Step(text[:length], text[length:end], wanted, full=True) for end in (length, length + 1, length + 6)]
        for step, answer in zip(steps, engine.next_logprobs(steps), strict=True):
            with torch.inference_mode():
                ids = torch.tensor([step.prompt + step.suffix])
                expected = model(input_ids=ids, use_cache=False).logits[0, -1].double().log_softmax(-1).numpy()
            assert answer == pytest.approx(expected, abs=1e-3, rel=0), (length, len(step.suffix))
