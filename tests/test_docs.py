"""The documentation's examples run as they stand, page by page, and print what the pages say.

Blocks of a page run in order, in one folder, with one set of names. `python` blocks are run here; lines `$ llmgen ...`
of `console` blocks by the command line's own function, lines that end in `&` beside the page, others by a shell, as are
`sh` blocks. An `output` block behind one is what it prints; `...` there stands for anything. `text` blocks are not run.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import llmgen
from tests.store.conftest import postgres  # noqa: F401

DOCS = Path(__file__).parent.parent / "docs"
NEEDS = "<!-- needs: the demo model, MovieLens-100K -->"
"""The first line of a page whose examples need more than a second, and a network or a cache."""
POSTGRES = "<!-- needs: PostgreSQL -->"
"""The first line of a page whose examples name the database `DATABASE`."""
DATABASE = "postgresql://shop:secret@localhost/shop"
LANGUAGES = ("python", "console", "sh", "output", "text", "json", "yaml", "jinja")


class Block(NamedTuple):
    line: int
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [Block(text[: one.start()].count("\n") + 1, one[1], one[2]) for one in found]


PAGES = sorted(DOCS.rglob("*.md"))
RUN = [
    pytest.param(
        page,
        id=page.relative_to(DOCS).as_posix(),
        marks=[pytest.mark.slow, pytest.mark.network] if page.read_text(encoding="utf-8").startswith(NEEDS) else [],
    )
    for page in PAGES
    if any(block.language in ("python", "console", "sh") for block in blocks(page))
]


class Services:
    """What a page starts with `&`, on a free port in the place of the one that it names."""

    def __init__(self) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self.ports: dict[str, str] = {}
        self.database = DATABASE

    def start(self, command: str) -> None:
        words = shlex.split(command)
        assert words[:2] == ["llmgen", "serve"] and words[-2] == "--port", command
        process = subprocess.Popen(
            [sys.executable, "-m", "llmgen", *words[1:-1], "0"], stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        assert process.stderr is not None
        said = ""
        while not (found := re.search(r"on http://127.0.0.1:(\d+)", said)):
            more = process.stderr.readline()
            assert more, said
            said += more
        self.ports[words[-1]] = found[1]

    def there(self, text: str) -> str:
        """The text with the ports that are really listened on, and the database that is really there."""
        text = text.replace(DATABASE, self.database)
        for named, real in self.ports.items():
            text = text.replace(f"localhost:{named}", f"127.0.0.1:{real}")
        return text

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture
def services() -> Iterator[Services]:
    made = Services()
    try:
        yield made
    finally:
        made.stop()


def command(line: str) -> str:
    """What a `llmgen` command prints, run in this process, so that a model is loaded once for all of them."""
    from llmgen.cli import main as cli

    output, told = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(told),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main(shlex.split(line)[1:])
    output.seek(0)
    printed = output.read()
    assert stop.value.code == 0, f"{line}\n{printed}{told.getvalue()}"
    assert printed, line
    return printed


def shell(script: str) -> str:
    ran = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"
    return ran.stdout


def run(block: Block, names: dict[str, object], services: Services, page: str) -> str:
    if block.language == "python":
        printed = io.StringIO()
        code = "\n" * block.line + services.there(block.text)
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page, "exec"), names)
        return printed.getvalue()
    if block.language == "sh":
        return shell(block.text)
    said = ""
    for line in block.text.replace("\\\n", " ").splitlines():
        assert line.startswith("$ "), f"{page}, line {block.line}: write output in a block of its own: {line}"
        line = services.there(line[2:])
        if line.endswith("&"):
            services.start(line[:-1])
        elif line.startswith("llmgen train "):  # TRL warns, and is to have a process of its own
            said += shell(f"{shlex.quote(sys.executable)} -m {line}")
        elif line.startswith("llmgen ") and not re.search("[|>]", line):
            said += command(line)
        elif line.startswith("curl "):
            said += shell(line.replace("curl ", "curl --fail-with-body ", 1)) + "\n"
        else:
            said += shell(line)
    return said


def fits(printed: str, wanted: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in wanted.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@pytest.mark.parametrize("page", RUN)
def test_examples_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: Services, request: pytest.FixtureRequest
) -> None:
    from llmgen.workspace import core as workspace

    if page.read_text(encoding="utf-8").startswith(POSTGRES):
        services.database = request.getfixturevalue("postgres").database()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setattr(workspace, "load_engine", cache(workspace.load_engine))
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))  # the command line gives it one
    names: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        if block.language == "output":
            assert fits(printed, block.text), f"{page}, line {block.line}: printed was\n{printed}"
        elif block.language in ("python", "console", "sh"):
            printed = run(block, names, services, str(page))


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(DOCS).as_posix() for page in PAGES])
def test_every_block_says_what_it_is(page: Path) -> None:
    """A language that is not known here would not be run, and nobody would be told."""
    assert {block.language for block in blocks(page)} <= set(LANGUAGES)
    fences = re.findall(r"^\s*```", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page)), "a fence that is not closed, or not at the beginning of a line"


def test_json_answers_fit_the_schema() -> None:
    from llmgen.http.schemas import RecommendationsBody

    answers = [block.text for page in PAGES for block in blocks(page) if block.language == "json"]
    assert answers
    for answer in answers:
        RecommendationsBody.model_validate_json(answer)


def test_every_public_name_has_its_reference() -> None:
    reference = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    told = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", reference, re.MULTILINE)}
    assert set(llmgen.__all__) <= told


def test_every_page_is_in_the_navigation() -> None:
    settings = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page for page in PAGES if page.relative_to(DOCS).as_posix() not in settings] == []


def test_output_fits() -> None:
    assert fits("a\nb\nc\n", "a\n...\nc")
    assert fits("['Hurt', 'Blue']", "['Hurt', ...]")
    assert not fits("a\nb", "a")
    assert not fits("a.c", "abc")
