"""Merging an adapter into its base."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")
peft = pytest.importorskip("peft", reason="needs llmgen[train]")

from transformers import AutoModelForCausalLM, AutoTokenizer

from llmgen.errors import ConfigError
from llmgen.training.merge import merge


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
    with pytest.raises(ConfigError, match="cannot load the adapter"):
        merge(tmp_path, tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
