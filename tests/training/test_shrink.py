"""An adapter in half precision, without what only its training needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")
peft = pytest.importorskip("peft", reason="needs llmgen[train]")

from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmgen.adapters import AdapterRecord
from llmgen.errors import ConfigError
from llmgen.training.shrink import shrink

RECORD = AdapterRecord(
    base_model="tiny", loss="catalog", prompts=("next_item@1",), catalog="c", tokenizer="t", data="d", seed=0
)


@pytest.fixture
def adapter(tiny_model: Path, tmp_path: Path) -> Path:
    """Folder as a run leaves it: with a checkpoint, a tokenizer and the machine's own path of the base model."""
    torch.manual_seed(0)
    folder = tmp_path / "run"
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).save_pretrained(folder)
    RECORD.write(folder)
    (folder / "README.md").write_text("the card")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "optimizer.pt").write_bytes(b"0" * 1000)
    return folder


def test_it_says_what_the_adapter_says_in_half_the_bytes(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "small"
    shrink(adapter, target)
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "llmgen.json",
    ]
    assert (target / "adapter_model.safetensors").stat().st_mode == (target / "llmgen.json").stat().st_mode
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, target))
    assert before.keys() == after.keys()
    for name, weight in after.items():
        assert weight.dtype == torch.float16
        # float16 keeps 11 bits: rounding moves a value by 2**-11 of itself, or by 2**-25 near zero
        torch.testing.assert_close(weight.float(), before[name], rtol=2**-11, atol=2**-25)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        logits = [
            peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)(ids).logits
            for folder in (adapter, target)
        ]
    torch.testing.assert_close(logits[0], logits[1], atol=0.02, rtol=0.02)
    assert [path.name for path in target.parent.iterdir()] == ["small"]


def test_no_path_of_this_machine_goes_with_it(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    before = json.loads((adapter / "adapter_config.json").read_text())
    assert before["base_model_name_or_path"] == str(tiny_model)
    shrink(adapter, tmp_path / "small")
    after = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
    assert after == {**before, "base_model_name_or_path": "tiny"}
    assert AdapterRecord.read(tmp_path / "small") == RECORD


def test_what_cannot_be_written_is_said_and_nothing_is_left_behind(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists; name a new folder"):
        shrink(adapter, adapter)
    with pytest.raises(ConfigError, match="dtype must be float32, bfloat16 or float16, not 'int4'"):
        shrink(adapter, tmp_path / "a", dtype="int4")
    with pytest.raises(ConfigError, match="holds no adapter of PEFT"):
        shrink(tmp_path, tmp_path / "b")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = min(weights)
    weights[name][0, 0] = 70_000.0  # the largest float16 is 65,504
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=f"{name} has values that float16 cannot hold; take --dtype bfloat16"):
        shrink(adapter, tmp_path / "c")
    shrink(adapter, tmp_path / "d", dtype="bfloat16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d", "run"]
