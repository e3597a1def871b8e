"""The digest of a tokenizer is that of what it does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="needs llmgen[hf]")

from llmgen.engines.chat import ChatTokenizer


def changed(model: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """Digest of a tokenizer whose file was changed."""
    shutil.copytree(model, folder)
    file = folder / "tokenizer.json"
    definition = json.loads(file.read_text(encoding="utf-8"))
    change(definition)
    file.write_text(json.dumps(definition), encoding="utf-8")
    return ChatTokenizer.load(str(folder)).digest


def test_a_digest_is_of_tokens_and_not_of_how_a_version_writes_them(tiny_model: Path, tmp_path: Path) -> None:
    def written_anew(definition: dict[str, Any]) -> None:
        definition["normalizer"] = {"type": "Sequence", "normalizers": []}
        definition["model"]["fuse_unk"] = True

    assert changed(tiny_model, tmp_path / "a", written_anew) == ChatTokenizer.load(str(tiny_model)).digest


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda definition: definition["model"]["merges"].clear(), id="merges"),
        pytest.param(lambda definition: definition.update(normalizer={"type": "Lowercase"}), id="normalizer"),
        pytest.param(lambda definition: definition["pre_tokenizer"].update(add_prefix_space=True), id="spaces"),
    ],
)
def test_other_tokens_are_another_digest(
    tiny_model: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    assert changed(tiny_model, tmp_path / "a", change) != ChatTokenizer.load(str(tiny_model)).digest


def test_another_end_is_another_digest(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }}<|endoftext|>{% endfor %}", encoding="utf-8"
    )
    assert ChatTokenizer.load(str(folder)).digest != ChatTokenizer.load(str(tiny_model)).digest
