"""The README's examples run as they stand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    commands = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ curl")]
    assert len(commands) == 6
    with served() as port:
        for block in blocks("python"):
            exec(compile(block.replace("localhost:8000", f"127.0.0.1:{port}"), "README.md", "exec"), names)
        for command in commands:
            words = shlex.split(command.replace("localhost:8000", f"127.0.0.1:{port}"))
            answered = subprocess.run([*words, "--fail-with-body"], capture_output=True, text=True)
            assert answered.returncode == 0, answered.stdout
            assert answered.stdout
    printed = capsys.readouterr().out
    assert "certified exact: True" in printed
    assert "Terminator 2: Judgment Day" in printed
    assert "First Contact on Europa" in printed


@contextmanager
def served() -> Iterator[str]:
    """The port of the service that the README starts, which is a free one here."""
    (line,) = [line for block in blocks("console") for line in block.splitlines() if line.startswith("$ llmgen serve")]
    words = shlex.split(line)[2:]
    assert words[-2:] == ["--port", "8000"]
    command = [sys.executable, "-m", "llmgen", *words[:-1], "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = ""
        while not (found := re.search(r"on http://127.0.0.1:(\d+)", said)):
            more = process.stderr.readline()
            assert more, said
            said += more
        yield found[1]
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.network
def test_console_examples_run(monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    from llmgen import cli, workspace

    monkeypatch.setattr(workspace, "load_engine", cache(workspace.load_engine))  # once for all of them
    lines = [line[2:] for block in blocks("console") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("llmgen") and not line.startswith("llmgen serve")]
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
