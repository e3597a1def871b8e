"""The command line on small tables of one's own: what it prints, as JSON and for people, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from llmgen import schemas
from llmgen.cli import main

SNAPSHOT = Path(__file__).parent / "snapshots" / "schemas.json"
BODIES = (schemas.RecommendationsBody, schemas.RatingsBody, schemas.ExplanationBody)


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:  # type: ignore[type-arg]
        return json.loads(self.out)  # type: ignore[no-any-return]


@pytest.fixture
def llmgen(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Runs one command on three films and two users, with the engine that has no model."""
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "films.csv").write_text(
        "item_id,title,year,genres\na,Alien,1979,Horror|Sci-Fi\nb,Brazil,1985,Comedy|Sci-Fi\n"
        "c,Casablanca,1942,Drama|War\nd,Dune,1984,Sci-Fi|Adventure\n"
    )
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,stars\n1,a,1,4\n1,d,2,5\n2,a,1,3\n2,b,5,2\n")

    def run(command: str, *arguments: str, data: bool = True, engine: str | None = "fake") -> Ran:
        tables = ["--items", str(tmp_path / "films.csv"), "--interactions", str(tmp_path / "log.csv")]
        tables += ["--column", "rating=stars", "--attribute", "year", "--attribute", "genres", "--noun", "film"]
        with pytest.raises(SystemExit) as stop:
            main([*command.split(), *arguments, *(tables if data else []), *(["--engine", engine] if engine else [])])
        printed = capsys.readouterr()
        return Ran(int(stop.value.code or 0), printed.out, printed.err)

    return run


def test_recommend_prints_a_stable_object(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --user 1 -k 2 --json")
    assert ran.code == 0
    assert set(ran.json) == {
        "recommendations", "exact", "prompt", "prompt_tokens", "history_used", "num_rounds", "dropped",
    }  # fmt: skip
    first, second = ran.json["recommendations"]
    assert set(first) == {"item_id", "title", "rank", "probability", "score", "terms", "grounding"}
    assert {first["item_id"], second["item_id"]} == {"b", "c"}
    assert (first["rank"], first["grounding"]["method"], ran.json["exact"]) == (1, "trie", True)
    assert first["score"] == pytest.approx(sum(first["terms"].values()))
    schemas.RecommendationsBody.model_validate_json(ran.out)


def test_recommend_shows_a_table_with_each_term(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --user 1 --explain-scores")
    for word in ("Film", "Brazil", "Casablanca", "Probability", "lm", "transition", "Score", "trie", "certified"):
        assert word in ran.out
    assert "Alien" not in ran.out


def test_a_wish_alone_takes_the_cold_start_prompt(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --json -k 1 --text", "a film about war")
    assert ran.json["prompt"].startswith("cold_start@")
    assert ran.json["recommendations"][0]["item_id"] == "c"


def test_a_history_can_be_given_by_hand(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --history a --history b --json")
    assert {place["item_id"] for place in ran.json["recommendations"]} == {"c", "d"}
    assert ran.json["history_used"] == 2


def test_filters_given_twice_allow_either_value(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --json --filter genres=Horror --filter genres=War --filter year=1940..1950")
    assert [place["item_id"] for place in ran.json["recommendations"]] == ["c"]


def test_priors_are_named_with_weights(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --user 1 --json --prior transition=1.0 --prior popularity=-0.5")
    assert set(ran.json["recommendations"][0]["terms"]) == {"lm", "transition", "popularity"}
    ran = llmgen("recommend --user 1 --json --prior none")
    assert set(ran.json["recommendations"][0]["terms"]) == {"lm"}


def test_without_the_model_nothing_is_loaded(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --user 1 --json --lm-weight 0", engine="hf:no/such/model")
    assert ran.code == 0
    assert ran.json["recommendations"][0]["grounding"]["method"] == "prior"


def test_free_decoding_fills_from_the_prior(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --user 1 --json --decoding free")
    assert {place["grounding"]["method"] for place in ran.json["recommendations"]} == {"prior"}
    assert ran.json["recommendations"][0]["probability"] is None


def test_rank_prints_all_candidates(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("rank --user 1 --candidate c --candidate a --json")
    assert {place["item_id"] for place in ran.json["recommendations"]} == {"a", "c"}
    assert "Ranked" in llmgen("rank --user 1 --candidate c --candidate a").out


def test_rate_prints_distributions(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("rate --user 1 --item b --item c --labels 1,2,3 --json")
    assert [rating["item_id"] for rating in ran.json["ratings"]] == ["b", "c"]
    assert sum(ran.json["ratings"][0]["distribution"].values()) == pytest.approx(1)
    table = llmgen("rate --user 1 --item b").out
    assert "P(5)" in table and "Label mass" in table


def test_explain_prints_words_and_evidence(llmgen: Callable[..., Ran], tiny_model: Path) -> None:
    ran = llmgen("explain --user 1 --item b --json", engine=f"hf:{tiny_model}")
    assert ran.json["evidence"] == ["a"]  # user 2 took b after a
    assert ran.json["text"]
    assert "Speaks most for it: Alien" in llmgen("explain --user 1 --item b", engine=f"hf:{tiny_model}").out


def test_data_reports_what_was_cleaned(llmgen: Callable[..., Ran]) -> None:
    assert "4 -> 4" in llmgen("data", engine=None).out
    assert llmgen("data --json", engine=None).json["items_out"] == 4


def test_prompts_are_listed_and_checked(llmgen: Callable[..., Ran], tmp_path: Path) -> None:
    assert "cold_start_zh" in llmgen("prompts list", data=False, engine=None).out
    names = [prompt["name"] for prompt in json.loads(llmgen("prompts list --json", data=False, engine=None).out)]
    assert {"next_item", "next_item_taste", "cold_start", "rerank", "rate", "explain"} <= set(names)
    assert "no problems" in llmgen("prompts check", data=False, engine=None).out
    (tmp_path / "broken.jinja").write_text("no front matter")
    ran = llmgen(f"prompts check --prompt-folder {tmp_path}", data=False, engine=None)
    assert (ran.code, "broken" in ran.err) == (1, True)


@pytest.mark.parametrize("name", ["next_item", "next_item_zh", "cold_start", "rerank", "rate", "explain"])
def test_prompts_show_renders_any_template_for_a_user(llmgen: Callable[..., Ran], name: str) -> None:
    ran = llmgen(f"prompts show {name} --user 1 --json")
    assert ran.code == 0
    assert [message["role"] for message in ran.json["messages"]] == ["system", "user"]
    assert ran.json["tokens"] > 0
    assert f"{name}@" in llmgen(f"prompts show {name} --user 1").out


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("recommend --user 99", "no user '99'"),
        ("recommend --history zz", "no item has the id 'zz'"),
        ("recommend --filter colour=red", "no item has an attribute 'colour'"),
        ("recommend --filter genres", "--filter wants attribute=value"),
        ("recommend --user 1 --history a", "not both"),
        ("recommend --prior magic=1", "no prior is called 'magic'"),
        ("recommend --prior transition=much", "must be a number"),
        ("recommend --prompt nope --user 1", "nope"),
        ("rank --user 1 --candidate zz", "no item has the id 'zz'"),
        ("recommend --user 1 --history-typo", "No such option"),
        ("recommend -k 0", "greater than or equal to 1"),
        ("rate --user 1 --item b --labels good,bad", "labels must be numbers"),
    ],
)
def test_what_is_wrong_is_said_on_stderr(llmgen: Callable[..., Ran], command: str, words: str) -> None:
    ran = llmgen(command)
    assert ran.code in (1, 2)
    assert words in ran.err
    assert not ran.out
    assert "Traceback" not in ran.err


def test_errors_of_data_and_usage_have_their_own_codes(llmgen: Callable[..., Ran]) -> None:
    assert llmgen("recommend --user 99").code == 1
    assert llmgen("recommend -k 0").code == 2
    assert llmgen("data --dataset no-such-thing", data=False, engine=None).code == 1


def test_json_schemas_are_what_they_were() -> None:
    """`python -m tests.test_cli` writes them anew."""
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == current_schemas()


def current_schemas() -> dict[str, object]:
    return {body.__name__: body.model_json_schema() for body in BODIES}


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(current_schemas(), indent=1) + "\n", encoding="utf-8")
