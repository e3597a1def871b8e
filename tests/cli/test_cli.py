"""The command line on small tables of one's own: what it prints, as JSON and for people, and its exit codes."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from llmgen.catalog.core import Catalog
from llmgen.cli.display import explanation_text
from llmgen.cli.main import main
from llmgen.http import schemas
from llmgen.types import Explanation, Item

SNAPSHOT = Path(__file__).parents[1] / "snapshots" / "schemas.json"
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
    monkeypatch.setattr("llmgen.progress._told_at", None)  # else a line may be due, of what other tests took
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
        "recommendations", "exact", "prompt", "prompt_tokens", "history_used", "num_rounds", "dropped", "warnings",
        "lm_weight",
    }  # fmt: skip
    first, second = ran.json["recommendations"]
    assert set(first) == {"item", "label", "rank", "probability", "score", "terms", "grounding"}
    assert {first["item"]["id"], second["item"]["id"]} == {"b", "c"}
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
    assert ran.json["recommendations"][0]["item"]["id"] == "c"


def test_a_history_can_be_given_by_hand(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --history a --history b --json")
    assert {place["item"]["id"] for place in ran.json["recommendations"]} == {"c", "d"}
    assert ran.json["history_used"] == 2


def test_filters_given_twice_allow_either_value(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --json --filter genres=Horror --filter genres=War")
    assert {place["item"]["id"] for place in ran.json["recommendations"]} == {"a", "c"}
    ran = llmgen("recommend --json --filter genres=Horror --filter genres=War --filter year=1940..1950")
    assert [place["item"]["id"] for place in ran.json["recommendations"]] == ["c"]


def test_priors_are_named_with_weights(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --user 1 --json --prior transition=1.0 --prior popularity=-0.5")
    assert set(ran.json["recommendations"][0]["terms"]) == {"lm", "transition", "popularity"}
    ran = llmgen("recommend --user 1 --json --prior none")
    assert set(ran.json["recommendations"][0]["terms"]) == {"lm"}


def test_without_the_model_nothing_is_loaded(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --user 1 --json --lm-weight 0", engine="hf:no/such/model")
    assert ran.code == 0
    assert ran.json["recommendations"][0]["grounding"]["method"] == "prior"


def test_priors_are_named_with_settings(llmgen: Callable[..., Ran], tmp_path: Path) -> None:
    top = tmp_path / "top.csv"
    top.write_text("user_id,item_id,score\n1,c,1\n")
    ran = llmgen(f"recommend --user 1 --json --prior scores:path={top},weight=2 --prior popularity=0")
    assert ran.json["recommendations"][0]["item"]["id"] == "c"
    assert set(ran.json["recommendations"][0]["terms"]) == {"lm", "scores", "popularity"}


def test_free_decoding_fills_from_the_prior(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("recommend --user 1 --json --decoding free")
    assert {place["grounding"]["method"] for place in ran.json["recommendations"]} == {"prior"}
    assert ran.json["recommendations"][0]["probability"] is None
    words = "the model ended its text: 2 of 2 places come from the prior"
    assert ran.json["warnings"] == [words]
    assert words in " ".join(llmgen("recommend --user 1 --decoding free").out.split())


def test_a_model_may_think_first(llmgen: Callable[..., Ran]) -> None:
    plain, thinking = (llmgen(f"recommend --user 1 --json --think-tokens {budget}").json for budget in (0, 5))
    assert thinking["prompt_tokens"] - plain["prompt_tokens"] == len("<think>What </think>")


def test_rank_prints_all_candidates(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("rank --user 1 --candidate c --candidate a --json")
    assert {place["item"]["id"] for place in ran.json["recommendations"]} == {"a", "c"}
    assert "Ranked" in llmgen("rank --user 1 --candidate c --candidate a").out


def test_rate_prints_distributions(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("rate --user 1 --item b --item c --labels 1,2,3 --json")
    assert [rating["item"]["id"] for rating in ran.json["ratings"]] == ["b", "c"]
    assert sum(ran.json["ratings"][0]["distribution"].values()) == pytest.approx(1)
    table = llmgen("rate --user 1 --item b --labels 1,2,3,4,5").out
    assert re.search(r"Film +Mean +1 +2 +3 +4 +5 +Label mass", table)
    with_log = llmgen("rate --user 1 --item b --json").json["ratings"][0]
    assert list(with_log["parts"]) == ["lm", "rating_knn"]
    assert list(with_log["distribution"]) == ["2", "3", "4", "5"]  # those of the log
    for words, parts in {"--rating-prior none": ["lm"], "--rating-lm-weight 0": ["rating_knn"]}.items():
        assert list(llmgen(f"rate --user 1 --item b --json {words}").json["ratings"][0]["parts"]) == parts
    explained = llmgen("rate --user 1 --item b --explain-scores").out
    assert re.search(r"Film +Mean +lm +rating_knn +2 +3 +4 +5 +Label mass", explained)
    without = llmgen("rate --user 1 --item b --rating-lm-weight 0").out
    assert re.search(r"Film +Mean +2 +3 +4 +5 *\n", without)


def test_ten_half_stars_are_readable_at_eighty_columns(
    llmgen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    labels = "0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5"
    lines = llmgen("rate --user 1 --item b --labels", labels).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert labels.replace(",", "").split() == next(line for line in lines if "0.5" in line).split()[2:12]
    (row,) = (line.split() for line in lines if "Brazil" in line)
    assert len(row) == 13  # title, mean, ten labels and the label mass, none cut
    assert sum(int(share.removesuffix("%")) for share in row[2:12]) == pytest.approx(100, abs=5)
    assert "…" not in "".join(lines)


def test_labels_may_be_written_with_spaces(llmgen: Callable[..., Ran]) -> None:
    ran = llmgen("rate --user 1 --item b --json --labels", "1, 2")
    assert list(ran.json["ratings"][0]["distribution"]) == ["1", "2"]


def test_explain_prints_words_and_evidence(llmgen: Callable[..., Ran], tiny_model: Path) -> None:
    ran = llmgen("explain --user 1 --item b --json", engine=f"hf:{tiny_model}")
    assert [item["id"] for item in ran.json["evidence"]] == ["a"]  # user 2 took b after a
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
        ("recommend --filter genres=Sci-Fy", "near: 'Sci-Fi'"),
        ("recommend --filter genres", "--filter wants attribute=value"),
        ("recommend --history a --history b --history c --history d", "all 4 were seen already"),
        ("recommend --user 1 --history a", "not both"),
        ("recommend --prior magic=1", "no prior is called 'magic'"),
        ("recommend --prior transition=much", "must be a number"),
        ("recommend --prior transition=nan", "weight must be a finite number, not nan"),
        ("recommend --prior scores=1", "prior scores needs the setting 'path'"),
        ("recommend --prior ease:l3=1", "prior ease: there is no setting 'l3'"),
        ("recommend --prior ease:l2", "--prior wants name:setting=value,setting=value, not 'l2'"),
        ("recommend --prior scores:path=no.csv", "no.csv does not exist"),
        ("recommend --prompt nope --user 1", "nope"),
        ("recommend --prompt rate --user 1", "'rate' is for the task rate; this command wants one such as next_item"),
        ("rank --prompt next_item --user 1 --candidate a", "wants one such as rerank"),
        ("recommend --prompt-folder no/such/folder", "no folder of prompts at no/such/folder"),
        ("recommend --column colour=red", "not 'colour'"),
        ("recommend --column title=name", "no column 'name'"),
        ("recommend --adapter runs/films", "cannot take the adapter"),
        ("recommend --user 1 --engine vllm-ish:x", "no engine of the kind 'vllm-ish'"),
        ("recommend --user 1 --engine hf:/no/model", "cannot load the model '/no/model'"),
        ("rank --user 1 --candidate zz", "no item has the id 'zz'"),
        ("rate --user 1 --item zz", "no item has the id 'zz'"),
        ("explain --user 1 --item zz", "no item has the id 'zz'"),
        ("prompts show nope --user 1", "no prompt is called 'nope'"),
        ("recommend --prompt nope --user 1", "the folder of your own prompts is named by --prompt-folder"),
    ],
)
def test_a_wrong_request_is_one_line_on_stderr_and_code_1(llmgen: Callable[..., Ran], command: str, words: str) -> None:
    ran = llmgen(command, engine=None if "--engine" in command else "fake")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: ")
    assert words in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("recommend --items nothing.csv --interactions log.csv", "there is no file nothing.csv"),
        ("recommend --items films.csv", "--interactions is missing"),
        ("recommend --interactions log.csv", "--items is missing"),
        ("data --dataset no-such-thing", "no-such-thing"),
    ],
)
def test_missing_data_is_code_1(llmgen: Callable[..., Ran], command: str, words: str) -> None:
    ran = llmgen(command, data=False, engine=None)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("recommend --user 1 --history-typo", "No such option"),
        ("recommend -k 0", "Invalid value for '-k'"),
        ("recommend -k many", "Invalid value for '-k'"),
        ("recommend --decoding beam", "Invalid value for '--decoding'"),
        ("recommend --lm-weight -1", "Invalid value for '--lm-weight'"),
        ("recommend --lm-weight gone.json", "Invalid value for '--lm-weight': lm_weight is a number, or a JSON file"),
        ("recommend --lm-weight nan", "lm-weight"),
        ("recommend --max-history -1", "Invalid value for '--max-history'"),
        ("recommend --num-beams 0", "Invalid value for '--num-beams'"),
        ("recommend --label {titel}", "wants 'titel'"),
        ("recommend --label {title", "label '{title' cannot be read: expected '}'"),
        ("recommend --label {title:zz}", "label '{title:zz}' cannot write 'Alien'"),
        ("rank --user 1", "Missing option '--candidate'"),
        ("rate --user 1 --item b --labels good,bad", "labels must be numbers"),
        ("rate --user 1 --item b --labels 1", "labels must be at least two"),
        ("prompts show", "Missing argument"),
        ("recommned", "No such command"),
    ],
)
def test_wrong_usage_and_bad_values_are_code_2(llmgen: Callable[..., Ran], command: str, words: str) -> None:
    ran = llmgen(command)
    assert (ran.code, ran.out) == (2, "")
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_a_mistake_of_ours_is_not_called_wrong_usage(
    llmgen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object) -> None:
        raise ValueError("zip() argument 2 is shorter than argument 1")

    monkeypatch.setattr("llmgen.engines.fake.FakeEngine.next_logprobs", broken)
    ran = llmgen("recommend --user 1")
    assert (ran.code, ran.out) == (1, "")
    assert "Traceback" in ran.err
    assert "in broken" in ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith(
        "error: this is a bug in llmgen, not in your request (ValueError: zip() argument 2 is shorter"
    )
    assert last.endswith("please report it with the lines above")


@pytest.mark.parametrize("command", ["", "recommend", "rank", "rate", "explain", "data", "demo", "prompts show"])
def test_help_of_every_command_is_code_0(llmgen: Callable[..., Ran], command: str) -> None:
    ran = llmgen(command, "--help", data=False, engine=None)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"Usage: llmgen {command}".rstrip())
    assert ("--interactions" in ran.out) == (command not in ("", "demo"))


@pytest.mark.parametrize("group", ["", "prompts", "store"])
def test_what_each_command_does_fits_into_80_columns(
    llmgen: Callable[..., Ran], group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ran = llmgen(group, "--help", data=False, engine=None)
    lines = ran.out.partition("Commands:\n")[2].splitlines()
    assert len(lines) > 3
    assert [line for line in lines if line.endswith("...")] == []


def test_json_schemas_are_what_they_were() -> None:
    """`python -m tests.cli.test_cli` writes them anew."""
    assert json.loads(SNAPSHOT.read_text(encoding="utf-8")) == current_schemas()


def current_schemas() -> dict[str, object]:
    return {body.__name__: body.model_json_schema() for body in BODIES}


NOISY = """
import ctypes, os, sys
import llmgen.engines.fake as fake
import llmgen.workspace.core as workspace
made, load = fake.FakeEngine.__init__, workspace.DataSettings.load

def noise():
    print("printed")
    os.write(1, b"written\\n")
    ctypes.CDLL(None).puts(b"put by C")

def init(self, *given, **options):
    noise()
    made(self, *given, **options)

def loading(self, *given, **options):
    noise()
    return load(self, *given, **options)

fake.FakeEngine.__init__, workspace.DataSettings.load = init, loading
from llmgen.cli.main import main
main()
"""


@pytest.mark.parametrize(
    ("command", "engine"),
    [
        ("recommend --user 1", "fake"),
        ("recommend --user 1", "none"),
        ("rank --user 1 --candidate b --candidate c", "fake"),
        ("rate --user 1 --item b", "fake"),
        ("rate --user 1 --item b", "none"),
        ("explain --user 1 --item b", "fake"),
        ("prompts show next_item --user 1", "fake"),
        ("prompts list", ""),
        ("data", ""),
    ],
)
def test_the_answer_is_all_that_comes_through_a_pipe(tmp_path: Path, command: str, engine: str) -> None:
    """Whatever libraries print, in Python, to the descriptor or in C."""
    (tmp_path / "films.csv").write_text("item_id,title\na,Alien\nb,Brazil\nc,Casablanca\nd,Dune\n")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp,rating\n1,a,1,4\n1,d,2,5\n2,a,1,3\n2,b,5,2\n")
    tables = ["--items", str(tmp_path / "films.csv"), "--interactions", str(tmp_path / "log.csv")]
    tables += ["--column", "rating=rating"]
    arguments = [*command.split(), "--json", *([] if command == "prompts list" else tables)]
    ran = subprocess.run(
        [sys.executable, "-c", NOISY, *arguments, *(["--engine", engine] if engine else [])],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)
    if command != "prompts list":
        assert {"printed", "written", "put by C"} <= set(ran.stderr.splitlines())


def test_prompts_are_listed_in_80_columns_with_whole_sentences(
    llmgen: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = llmgen("prompts list", data=False, engine=None).out.splitlines()
    assert max(map(len, lines)) <= 80
    descriptions = [line for line in lines if line.startswith("    ")]
    assert descriptions
    assert len(lines) < 4 * sum(not line.startswith(" ") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["recommend --user 1", "rate --user 1 --item b", "explain --user 1 --item b"])
def test_a_real_model_leaves_the_pipe_to_the_answer(tmp_path: Path, tiny_model: Path, command: str) -> None:
    (tmp_path / "films.csv").write_text("item_id,title\na,Alien\nb,Brazil\nc,Casablanca\nd,Dune\n")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,a,1\n1,d,2\n2,a,1\n2,b,5\n")
    tables = ["--items", str(tmp_path / "films.csv"), "--interactions", str(tmp_path / "log.csv")]
    engine = ["--engine", f"hf:{tiny_model}"]
    ran = subprocess.run(
        [sys.executable, "-m", "llmgen", *command.split(), "--json", *tables, *engine],
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(current_schemas(), indent=1) + "\n", encoding="utf-8")


def test_a_file_gives_each_request_its_own_weight(llmgen: Callable[..., Ran], tmp_path: Path) -> None:
    path = tmp_path / "weight.json"
    path.write_text('{"bias": 0, "history_length": {"slope": -1, "low": 0, "high": 9}}')
    for asked, items in (("--user 1", 2), ("--history a", 1)):
        ran = llmgen(f"recommend {asked} --json --lm-weight {path}")
        assert ran.json["lm_weight"] == pytest.approx(1 / (1 + items))  # exp(-log(1 + items))
    assert llmgen("recommend --user 1 --json --lm-weight 0.5").json["lm_weight"] == 0.5


def test_control_characters_do_not_reach_a_terminal(llmgen: Callable[..., Ran], tmp_path: Path) -> None:
    """ESC begins what a terminal obeys, and so does U+009B; titles, ids, words of a model and errors may hold them."""
    bad = "\x1b[31m\x9b32m"
    llmgen("data")
    (tmp_path / "films.csv").write_text(
        f"item_id,title,year,genres\na,Ali{bad}en,1979,Horror\nb{bad},Brazil,1985,War\nd,Dune,1984,War\n"
    )
    (tmp_path / "log.csv").write_text(f"user_id,item_id,timestamp,stars\n1,a,1,4\n1,d,2,5\n2{bad},b{bad},5,2\n")
    for command in ("recommend --user 1", "recommend --user 1 --json", "data", "data --json", "recommend --user x"):
        ran = llmgen(command)
        assert ran.out + ran.err
        assert not set("\x1b\x9b") & set(ran.out + ran.err), command
    assert [place["item"]["id"] for place in llmgen("recommend --user 1 --json").json["recommendations"]] == [f"b{bad}"]
    ran = llmgen("data --items", f"{bad}.csv", "--interactions", "x.csv", data=False, engine=None)
    assert ran.code == 1 and ".csv does not exist" in ran.err
    assert not set("\x1b\x9b") & set(ran.err)


def test_words_of_a_model_are_shown_without_control_characters() -> None:
    page = io.StringIO()
    item = Item("1", "Alien")
    shown = explanation_text(Catalog([item]), Explanation(item, "\x1b[31mred \x9bm", (), ""))
    Console(file=page).print(shown)
    assert page.getvalue().splitlines()[1].rstrip() == "[31mred m"


@pytest.mark.parametrize(("options", "shown"), [([], ["FILE is damaged", "error: stop"]), (["--verbose"], None)])
def test_a_warning_of_llmgen_is_shown_and_those_of_libraries_are_not(
    options: list[str], shown: list[str] | None
) -> None:
    code = f"""import logging
from llmgen import errors
from llmgen.cli import main as cli
from llmgen.workspace import core as workspace

def load(self, **more):
    logging.getLogger("llmgen.downloads").warning("FILE is damaged")
    logging.getLogger("transformers").warning("noise")
    logging.getLogger("llmgen.server.app").warning("hung up")
    logging.getLogger("llmgen.downloads").info("details")
    raise errors.DataError("stop")

workspace.DataSettings.load = load
cli.main([*{options!r}, "data"])"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    everything = ["FILE is damaged", "noise", "hung up", "details", "error: stop"]
    assert (ran.returncode, ran.stderr.splitlines()) == (1, shown or everything)


def test_separator_encoding_and_unit_of_times_can_be_said(llmgen: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "shop.txt").write_bytes("item_id:title\n7:Café, noir\n8:Cup\n".encode("cp1252"))
    (tmp_path / "sales.txt").write_text("user_id:item_id:timestamp\nu:8:100\nu:7:200\n")
    tables = ["--items", str(tmp_path / "shop.txt"), "--interactions", str(tmp_path / "sales.txt")]
    run = partial(llmgen, data=False, engine=None)
    ran = run("data --separator :", *tables)
    assert ran.code == 1 and "--encoding cp1252" in ran.err
    ran = run("data --separator : --encoding cp1252 --time-unit ms", *tables)
    assert ran.code == 0
    for words in ("cells between ':'", "read as cp1252", "timestamp: read as milliseconds"):
        assert words in ran.out
    assert [rule["count"] for rule in run("data --json --separator : --encoding cp1252", *tables).json["rules"]] == [
        2
    ] * 4
    ran = run("data --separator :: --encoding cp1252", *tables)
    assert ran.code == 2 and "not '::'" in ran.err
    ran = run("data --encoding cp1252")
    assert ran.code == 1 and "--encoding is for tables of your own" in ran.err


def test_a_list_may_leave_out_weigh_and_turn_the_page(llmgen: Callable[..., Ran]) -> None:
    def asked(*options: str) -> list[str]:
        answer = llmgen("recommend --user 2 -k 1 --include-seen --json", *options).json
        return [place["item"]["id"] for place in answer["recommendations"]]

    pages = [asked("--page", str(number)) for number in (1, 2, 3, 4)]
    assert sorted(item for page in pages for item in page) == ["a", "b", "c", "d"]
    assert asked("--exclude", pages[0][0]) == pages[1]
    assert asked("--boost", "year=1942:0", "--boost", "genres=Comedy:1e9", "--boost", "year=1980..1990:2") == ["b"]
    diverse = llmgen("recommend --user 2 -k 3 --include-seen --json --diverse-by genres --most 1").json
    places = diverse["recommendations"]
    assert "c" in [place["item"]["id"] for place in places]
    assert len(places) == 2  # of a, b and d, which are all Sci-Fi, one
    assert all(place["rank_before"] >= place["rank"] for place in places)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--boost", "genres=Drama"], "write attribute=value:factor"),
        (["--boost", "genres=Drama:much"], "write attribute=value:factor"),
        (["--most", "2"], "need --diverse-by"),
        (["--boost", "colour=red:2"], "attribute 'colour'"),
    ],
)
def test_what_a_list_cannot_be_is_said(llmgen: Callable[..., Ran], options: list[str], says: str) -> None:
    ran = llmgen("recommend --user 2", *options)
    assert ran.code == 1
    assert says in ran.err


def test_items_like_an_item_and_documents_in_order(llmgen: Callable[..., Ran]) -> None:
    alike = llmgen("similar --item a -k 2 --prior transition=1 --json", engine=None)
    places = alike.json["recommendations"]
    assert [place["item"]["id"] for place in places] == ["b", "d"]  # each was taken after a once
    assert set(places[0]["terms"]) == {"transition"}
    assert "Brazil" in llmgen("similar --item a -k 1 --prior transition=1", engine=None).out
    nothing = llmgen("similar --item c --prior transition=1 --json", engine=None)
    assert (nothing.json["recommendations"], nothing.code) == ([], 0)
    assert "no prior knows anything that is like 'Casablanca'" in nothing.err
    documents = ["--document", "Brazil", "--document", "a war film", "--document", "d"]
    ordered = llmgen("rerank --text war --prior wish=1 --lm-weight 0 --json", *documents).json
    assert ordered["results"][0]["index"] == 1
    items = {one["index"]: one["item"] and one["item"]["id"] for one in ordered["results"]}
    assert items == {0: "b", 1: None, 2: "d"}
    assert "a war film" in llmgen("rerank --text war --prior wish=1 --lm-weight 0", *documents).out.splitlines()[0]


def test_priors_have_settings_wherever_they_are_named(llmgen: Callable[..., Ran]) -> None:
    prior = "--prior transition:weight=1,window=5"
    assert llmgen(f"similar --item a {prior}", engine=None).code == 0
    assert llmgen(f"rerank --document d --history a --lm-weight 0 {prior}").code == 0
