"""The demo on real films, with the engine that has no model: every section, and places that agree with its words."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from llmgen.cli.demo import run
from llmgen.errors import DataError


@pytest.mark.slow
@pytest.mark.network
def test_every_section_is_printed() -> None:
    page = io.StringIO()
    run(user="196", engine="fake", console=Console(file=page, width=120))
    text = page.getvalue()
    for heading in (
        "the last films seen",
        "Ten films by the language model alone",
        "Ten recommendations",
        "who says only",
        "20 candidates",
        "5 ratings",
        "One reason",
    ):
        assert heading in text
    assert len(re.findall(r"certified", text)) == 4
    assert "-0.00" not in text
    assert "tuned on this catalog" not in text  # the fake engine takes no adapter
    assert "The film seen next was Operation Dumbo Drop (1995): not among these." in text
    told = re.search(r"Operation Dumbo Drop \(1995\) is number (\d+) of 20", text)
    shown = re.findall(r"^│ +(\d+) │ Operation Dumbo Drop \(1995\)", text, re.MULTILINE)
    assert told is not None and told.group(1) in shown
    ranks = [int(rank) for rank in re.findall(r"^│ +(\d+) │ .*│ trie", text, re.MULTILINE)]
    assert ranks == [*range(1, 11), *range(1, 6), *range(1, 21)]


@pytest.mark.slow
@pytest.mark.network
def test_an_unknown_user_is_named() -> None:
    with pytest.raises(DataError, match="no user 'nobody'"):
        run(user="nobody", engine="fake", console=Console(file=io.StringIO()))
