"""Merging an adapter into its base."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")
peft = pytest.importorskip("peft", reason="needs llmgen[train]")

from transformers import AutoModelForCausalLM, AutoTokenizer

from llmgen.adapters import AdapterRecord
from llmgen.errors import ConfigError
from llmgen.models import NAME
from llmgen.training import merge as merging
from llmgen.training.merge import merge
from llmgen.training.shrink import shrink

RECORD = AdapterRecord(
    base_model=NAME, loss="catalog", prompts=("next_item@1",), catalog="c", tokenizer="t", data="d", seed=0
)


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_the_merged_model_says_what_base_and_adapter_say(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "merged"
    merge(adapter, target)
    ids = torch.arange(5, 25)[None]
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        plain = base(ids).logits
        tuned = peft.PeftModel.from_pretrained(base, adapter)(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(target)(ids).logits
    torch.testing.assert_close(merged, tuned, atol=1e-4, rtol=1e-4)
    assert (merged - plain).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(target).chat_template
    assert [path.name for path in target.parent.iterdir()] == ["merged"]


def test_nothing_is_written_over_or_left_behind(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        merge(adapter, adapter)
    with pytest.raises(ConfigError, match="dtype must be"):
        merge(adapter, tmp_path / "a", dtype="int4")
    with pytest.raises(ConfigError, match="holds no adapter of PEFT"):
        merge(tmp_path, tmp_path / "b")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="cannot load the adapter"):
        merge(adapter, tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_what_was_shrunk_is_merged_with_the_base_that_is_named(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    RECORD.model_copy(update={"base_model": "tiny"}).write(adapter)
    shrink(adapter, tmp_path / "small", dtype="float32")  # the same numbers, another folder
    with pytest.raises(ConfigError, match=r"cannot load 'tiny', the base model of .*small; .* with --base"):
        merge(tmp_path / "small", tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "small"]
    merge(tmp_path / "small", tmp_path / "merged", base=str(tiny_model))
    merge(adapter, tmp_path / "as-before")
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("merged", "as-before"))
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "merged", tiny_model)]
    assert tokenizers[0].chat_template == tokenizers[1].chat_template
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    assert AdapterRecord.read(tmp_path / "merged") == AdapterRecord.read(adapter)


def test_the_demo_model_is_known_by_its_name(
    adapter: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RECORD.write(adapter)
    shrink(adapter, tmp_path / "small")
    monkeypatch.setattr(merging, "demo_model", lambda: tiny_model)  # the real one is fetched, 93 MB
    merge(tmp_path / "small", tmp_path / "merged")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").num_parameters() > 0
