"""What prompts are for: one list, of which checks, commands and documentation are made."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError, TemplateError
from llmgen.recommend.prompting import task_of, templates_for
from llmgen.recommend.recommender import Recommender
from llmgen.templates import tasks
from llmgen.templates.library import PromptLibrary
from llmgen.templates.tasks import OURS, TaskKind
from llmgen.testing import films
from llmgen.types import Query

ROOT = Path(__file__).parents[2]
PROMPT = """---
name: gift_note
version: 1
description: Presents.
task: gift
variables: [day]
---
{% block user %}Something for {{ day or "any day" }}{% endblock %}
"""


def gift(folder: Path) -> TaskKind:
    values = {"day": lambda query: query.filters.get("day")}
    return TaskKind("gift", "presents", ("history", "day"), answers="recommend", values=values, prompts=folder)


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """Name -> what other packages offer under it."""
    found: dict[str, object] = {}

    class Offered(EntryPoint):
        def load(self) -> object:
            return found[self.name]

    def entries(group: str) -> list[EntryPoint]:
        return [Offered(name, "shop:X", group) for name in found]

    monkeypatch.setattr("llmgen.plugins.entry_points", entries)
    tasks.kinds.cache_clear()
    yield found
    tasks.kinds.cache_clear()


def test_a_task_of_another_package_is_one_like_any_other(tmp_path: Path, offered: dict[str, object]) -> None:
    (tmp_path / "gift_note.jinja").write_text(PROMPT)
    offered["gift"] = gift(tmp_path)
    library = PromptLibrary.default()
    assert library.names("gift") == ("gift_note",)
    assert library.check() == []
    assert task_of(library["gift_note"]) == "recommend"
    assert templates_for(["gift_note"], library, None)["recommend"].name == "gift_note"
    assert templates_for([], library, None)["recommend"].name == "next_item"
    recommender = Recommender(films(20), FakeEngine(), prompt="gift_note")
    said = [recommender.messages(Query(filters=chosen)).messages[-1].content for chosen in ({}, {"day": "Monday"})]
    assert said == ["Something for any day", "Something for Monday"]
    assert len(recommender.recommend(Query(k=3))) == 3


def test_a_template_may_use_what_its_task_has_and_nothing_else(tmp_path: Path, offered: dict[str, object]) -> None:
    (tmp_path / "gift_note.jinja").write_text(PROMPT.replace("day", "labels"))
    offered["gift"] = gift(tmp_path)
    with pytest.raises(TemplateError, match="'labels' is not a variable of the task gift, which has day, history"):
        PromptLibrary.default()["gift_note"]


@pytest.mark.parametrize(
    ("name", "what", "says"),
    [
        ("gift", "a word", "that is no TaskKind of this name"),
        ("present", gift(Path()), "that is no TaskKind of this name"),
        ("rate", TaskKind("rate", "mine", ()), "there is one already"),
        ("gift", TaskKind("gift", "mine", (), answers="recommend", prompt="x"), "leave `prompt` out"),
    ],
)
def test_what_cannot_be_a_task_is_told(offered: dict[str, object], name: str, what: object, says: str) -> None:
    offered[name] = what
    with pytest.raises(ConfigError, match=says):
        tasks.kinds()


def test_variables_need_a_value() -> None:
    with pytest.raises(ConfigError, match="no value for the variable 'day'; llmgen gives history, wish"):
        TaskKind("gift", "presents", ("day",))
    with pytest.raises(ConfigError, match="cannot give 'history' a value of its own"):
        TaskKind("gift", "presents", ("history",), values={"history": lambda query: 1})


def test_each_use_has_one_default_whose_prompt_is_there() -> None:
    library = PromptLibrary.default()
    defaults = {kind.answers: kind.prompt for kind in OURS if kind.prompt}
    assert defaults == {"recommend": "next_item", "rank": "rerank", "rate": "rate_list", "explain": "explain"}
    assert sum(bool(kind.prompt) for kind in OURS) == len(defaults)
    assert all(tasks.answers(library[prompt].task) == use for use, prompt in defaults.items())
    assert {library[name].task for name in library} == {kind.name for kind in OURS}


def test_the_tutorial_names_every_task_with_its_variables() -> None:
    page = (ROOT / "docs" / "tutorials" / "prompts.md").read_text(encoding="utf-8")
    table = page.partition("| Task | Variables |\n")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|$", table, re.MULTILINE))
    assert rows.keys() == {kind.name for kind in OURS}
    for kind in OURS:
        named = re.findall(r"[a-z_]+", re.sub(r"\(.*?\)|;.*", "", rows[kind.name]))
        assert named == list(kind.variables)
