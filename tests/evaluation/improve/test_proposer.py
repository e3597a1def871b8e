"""Proposals by a language model: what it is told, what is dropped, and that nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmgen.errors import ConfigError, DataError, EngineUnavailableError
from llmgen.evaluation.improve.budget import Budget
from llmgen.evaluation.improve.proposer import FILE, Proposed, Proposer, Shown
from llmgen.templates.library import PromptLibrary
from tests.engines.serving import Asked, Reply, Stub

LIBRARY = PromptLibrary.default()
ITEM = LIBRARY["next_item"]
TEXT = ITEM.path.read_text(encoding="utf-8")
TRIED = {"the newest 3 items of the history": -0.0125}
SHOWN = [Shown(["Alien", "Heat"], "Ran", {"now": ["Casino"], "next_item_list": ["Ran", "Ikiru"]})]


def chat(text: str, read: int = 700, written: int = 300) -> Reply:
    usage = {"prompt_tokens": read, "completion_tokens": written}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply(body=json.dumps({"choices": [choice], "usage": usage}).encode())


def block(text: str) -> Reply:
    return chat(f"Here it is:\n```jinja\n{text}\n```\nIt may do better.")


GOOD = TEXT.replace("Predict what", "Say what").replace("name: next_item", "name: anything")
ANSWERS = [
    block(GOOD),
    block(TEXT.replace("listing(history)", "listing(histroy)")),
    chat("I would rather not."),
    block(TEXT),
    Reply(body=b"<html>busy</html>"),
    block(GOOD.replace("name: anything", "name: next_item_lm6").replace("version: 1", "version: 4")),
    block((LIBRARY["cold_start"]).path.read_text(encoding="utf-8")),
    block(TEXT.replace("Predict what", "Tell what")),
]


@pytest.fixture
def served() -> Iterator[Stub]:
    """A server with two models, whose answers to chats are put into its turns."""

    def answer(asked: Asked) -> Reply:
        if asked.path == "/v1/models":
            return Reply(body=json.dumps({"data": [{"id": "small"}, {"id": "large"}]}).encode())
        return chats.pop(0)

    chats = list(ANSWERS)
    with Stub(answer) as stub:
        yield stub


def proposed(stub: Stub, folder: Path, number: int = 8, users: int = 0, **bounds: Any) -> Proposed:
    made = Proposer(f"openai:{stub.url}:large", number, users, Budget(**bounds))
    return made.propose(ITEM, LIBRARY, TRIED, SHOWN, folder)


def bodies(stub: Stub) -> list[Any]:
    return [json.loads(one.body) for one in stub.asked if one.path == "/v1/chat/completions"]


def test_what_passes_the_check_is_proposed_and_the_rest_dropped(served: Stub, tmp_path: Path) -> None:
    made = proposed(served, tmp_path)
    assert [one.name for one in made.proposals] == ["next_item_lm1", "next_item_lm8"]
    for one, words in zip(made.proposals, ("Say what", "Tell what"), strict=True):
        template = LIBRARY.with_text(one.name, one.text or "")[one.name]
        assert words in template.render({"nouns": "films", "history": (), "k": 2})[1].content
    said = {name.removeprefix("next_item_"): why for name, why in made.dropped.items()}
    assert "'histroy' is not a variable" in said["lm2"]
    assert "no template" in said["lm3"]
    assert said["lm4"] == "the same as next_item"
    assert "cannot be read" in said["lm5"]
    assert said["lm6"] == "the same as next_item_lm1"
    assert "for the task cold_start" in said["lm7"]
    assert (made.requests, len(made.dropped)) == (8, 6)
    asked = bodies(served)
    assert {body["model"] for body in asked} == {"large"}
    first, last = asked[0]["messages"][1]["content"], asked[-1]["messages"][1]["content"]
    assert TEXT.strip() in first and "- -0.0125: the newest 3 items of the history" in first
    assert "- wish: the user's words, or None" in first and "candidates" not in first
    assert "Say what" in last and "Say what" not in first  # what was proposed already


def test_a_search_that_goes_on_asks_nothing_twice(served: Stub, tmp_path: Path) -> None:
    first = proposed(served, tmp_path)
    asked = len(served.asked)
    again = proposed(served, tmp_path)
    assert len(served.asked) == asked
    assert (again.proposals, again.dropped, again.seconds) == (first.proposals, first.dropped, first.seconds)
    with (tmp_path / FILE).open("a") as file:
        file.write("{}\n")
    with pytest.raises(DataError, match="line 9 is no answer"):
        proposed(served, tmp_path)


def test_what_was_answered_before_the_server_failed_is_kept(served: Stub, tmp_path: Path) -> None:
    models = served.answer(Asked("GET", "/v1/models", {}, b""))
    served.turns.extend([models, block(GOOD), chat("No."), Reply(status=401)])
    with pytest.raises(EngineUnavailableError, match="wants another key"):
        proposed(served, tmp_path, 3)
    asked = len(bodies(served))
    served.turns.extend([models, block(TEXT.replace("Predict what", "Tell what"))])
    made = proposed(served, tmp_path, 3)
    assert len(bodies(served)) == asked + 1
    assert [one.name for one in made.proposals] == ["next_item_lm1", "next_item_lm3"]


def test_users_are_shown_only_where_that_is_asked_for(served: Stub, tmp_path: Path) -> None:
    proposed(served, tmp_path, 1)
    (tmp_path / "shown").mkdir()
    proposed(served, tmp_path / "shown", 1, users=1)
    without, shown = (body["messages"][1]["content"] for body in bodies(served))
    assert not any(title in without for title in ("Alien", "Heat", "Ran", "Ikiru", "Casino"))
    assert "User 1 took: Alien; Heat\nThen took: Ran\nnow ranks first: Casino\nnext_item_list ranks first: Ran" in shown


def test_money_ends_the_asking(served: Stub, tmp_path: Path) -> None:
    """700 tokens read at 2 a million and 300 written at 10: .0044 an answer; the third passes .01."""
    made = proposed(served, tmp_path, money=0.01, price_per_hour=1.0, read_price=2.0, written_price=10.0)
    assert made.requests == 3 and made.money == pytest.approx(0.0132)


def test_the_key_is_its_own(served: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-engine")
    monkeypatch.setenv("LLMGEN_PROPOSER_KEY", "of-the-proposer")
    proposed(served, tmp_path, 1)
    assert {one.headers["authorization"] for one in served.asked} == {"Bearer of-the-proposer"}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Proposer("hf:model", 1, 0, Budget()), "openai:URL"),
        (lambda: Proposer("openai:nowhere", 1, 0, Budget()), "a server's URL"),
        (lambda: Proposer("openai:http://h", 1, 0, Budget(money=1, price_per_hour=1)), "--read-price"),
        (lambda: Budget(money=1), "--price-per-hour"),
        (lambda: Budget(hours=0), "hours must be above 0"),
        (lambda: Budget(requests=-3), "requests must be above 0, not -3"),
    ],
)
def test_what_cannot_be_is_said(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_a_model_that_the_server_lacks_is_said(served: Stub, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model 'huge'; it has small, large"):
        Proposer(f"openai:{served.url}:huge", 1, 0, Budget()).propose(ITEM, LIBRARY, TRIED, SHOWN, tmp_path)


def test_a_budget_is_what_its_tightest_bound_allows() -> None:
    assert Budget().most_requests(1.0, 5, 0.0, 0.0) is None
    assert Budget(requests=100).most_requests(1.0, 5, 0.0, 0.0) == 95
    assert Budget(hours=1).most_requests(2.0, 5, 0.0, 600.0) == 1500  # 3,000 seconds are left
    both = Budget(requests=100, money=3.0, price_per_hour=4.0, read_price=0.0, written_price=0.0)
    assert both.most_requests(30.0, 0, 1.0, 0.0) == 60  # half an hour
    assert both.most_requests(3.0, 0, 1.0, 0.0) == 100
