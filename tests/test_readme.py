"""The README's examples run as they stand."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.network
def test_python_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "certified exact: True" in printed
    assert "Terminator 2: Judgment Day" in printed


@pytest.mark.slow
@pytest.mark.network
def test_console_examples_run(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    from llmgen import cli, workspace

    monkeypatch.setattr(workspace, "load_engine", cache(workspace.load_engine))  # once for all of them
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ llmgen")]
    assert len(commands) == 8
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            cli.main(shlex.split(command)[1:])
        assert stop.value.code == 0, command
        assert capsys.readouterr().out


def test_the_prompt_of_the_readme_is_a_prompt(tmp_path: Path) -> None:
    from llmgen.templates import PromptLibrary

    (source,) = blocks("jinja")
    (tmp_path / "next_item_short.jinja").write_text(source, encoding="utf-8")
    assert PromptLibrary.default(tmp_path)["next_item_short"].task == "next_item"


def test_the_json_of_the_readme_fits_the_schema() -> None:
    from llmgen.schemas import RecommendationsBody

    (example,) = blocks("json")
    RecommendationsBody.model_validate_json(example)
