"""Files stay short enough to be read at once; one that needs more says why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST, WHY = 400, "More than 400 lines:"
FILES = sorted(
    path.relative_to(ROOT) for folder in ("llmgen", "eval", "training") for path in (ROOT / folder).rglob("*.py")
)


def says_why(source: str) -> bool:
    """Whether a file is short, or its docstring says why it is not."""
    said = (ast.get_docstring(ast.parse(source)) or "").partition(WHY)[2]
    return len(source.splitlines()) <= MOST or len(said.split()) >= 5


def test_a_long_file_without_a_sentence_is_found() -> None:
    lines = "\n" * (MOST + 1)
    assert says_why('"""Short."""') and says_why('"""As long as it may be."""' + lines[1:])
    assert not says_why('"""Long."""' + lines)
    assert not says_why(f'"""Long. {WHY} so."""{lines}')
    assert says_why(f'"""Long. {WHY} one class that holds one state."""{lines}')


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_of_more_than_400_lines_says_why(path: Path) -> None:
    assert says_why((ROOT / path).read_text(encoding="utf-8")), f"split {path} by subject, or write {WHY} and why"
