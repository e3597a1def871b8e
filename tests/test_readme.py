"""The README is short, what it links to is there, and its examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_docs import Services, blocks, services  # noqa: F401
from tests.test_docs import test_examples_run as run_examples

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"


@pytest.mark.slow
@pytest.mark.network
def test_examples_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    services: Services,  # noqa: F811
    request: pytest.FixtureRequest,
) -> None:
    assert [block.language for block in blocks(README)].count("python") == 4
    run_examples(README, tmp_path, monkeypatch, services, request)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_file_that_it_links_to_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    assert [link for link in linked if not (ROOT / link).exists()] == []


def test_the_examples_are_short() -> None:
    for block in blocks(README):
        assert len([line for line in block.text.splitlines() if line.strip()]) <= 8, block.text
