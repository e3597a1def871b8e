"""Runs and A/B tests from end to end, with an engine that reads its prompt."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer import Typer
from typer.testing import CliRunner

import llmgen.evaluation.ab
import llmgen.evaluation.checks
import llmgen.evaluation.run
from llmgen.catalog.core import Catalog
from llmgen.engines.fake import END, VOCABULARY, FakeEngine
from llmgen.errors import ConfigError, DataError
from llmgen.evaluation import answers
from llmgen.evaluation.ab import FailCondition, planned
from llmgen.evaluation.answers import locked
from llmgen.evaluation.arms import core as arms
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.arms.core import Engines, build, classics
from llmgen.evaluation.comparison import compare, compatible
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.experiment import from_log
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.protocols.slices import shared_values
from llmgen.evaluation.results import Difference, Results
from llmgen.evaluation.stats.intervals import paired_difference
from llmgen.evaluation.stats.sequential import Sequential
from llmgen.evaluation.summary import verdict
from llmgen.recommend.request_weight import RequestWeight
from llmgen.types import Item

TITLES = [f"{first}{second}" for first in ("Red", "Blue", "Gold", "Grey") for second in (" Sun", " Sea", " Fox")]
USERS = 60


class Reads(FakeEngine):
    """Believes that people take again what stands last in the prompt."""

    asked = 0

    def __init__(self, die_after: int | None = None) -> None:
        super().__init__(logits=self._says)
        self.die_after = die_after

    def next_logprobs(self, steps: Any) -> Any:
        """Counts the prompts."""
        self.asked += len({step.prompt for step in steps})
        if self.die_after is not None and self.asked > self.die_after:
            raise KeyboardInterrupt
        return super().next_logprobs(steps)

    @staticmethod
    def _says(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> np.ndarray:
        text = bytes(token for token in prompt if token < 256).decode()
        last = max(TITLES, key=text.rfind)
        path = (*last.encode(), END)
        logits = np.zeros(VOCABULARY)
        if path[: len(suffix)] == suffix:
            logits[path[len(suffix)]] = 8.0
        return logits


class Follows(Reads):
    """Believes that the first of the candidates is taken."""

    @staticmethod
    def _says(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> np.ndarray:
        text = bytes(token for token in prompt if token < 256).decode().rpartition("Candidates:")[2]
        first = min((title for title in TITLES if title in text), key=text.find)
        return Reads._says(tuple(first.encode()), suffix)


@pytest.fixture
def log(tmp_path: Path) -> dict[str, Any]:
    """Protocol of people of whom most take their last item again."""
    rng = np.random.default_rng(0)
    with (tmp_path / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title"), *((f"i{n}", title) for n, title in enumerate(TITLES))])
    rows: list[tuple[object, ...]] = [("user_id", "item_id", "timestamp")]
    for user in range(USERS):
        items = rng.permutation(len(TITLES))[:5].tolist()
        rows += [(f"u{user}", f"i{item}", 100 * user + place) for place, item in enumerate(items)]
        again = items[-1] if rng.random() < 0.7 else int(rng.integers(len(TITLES)))
        rows.append((f"u{user}", f"i{again}", 100 * user + 9))
    with (tmp_path / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    prompts = tmp_path / "prompts"
    prompts.mkdir()
    original = (Path(__file__).parents[2] / "prompts" / "next_item.jinja").read_text()
    assert "listing(history)" in original
    for name, listed in (("backwards", "listing(history|reverse|list)"), ("titleless", "history|length")):
        text = original.replace("listing(history)", listed).replace("name: next_item", f"name: {name}")
        (prompts / f"{name}.jinja").write_text(text)
    text = (Path(__file__).parents[2] / "prompts" / "rerank.jinja").read_text()
    assert "listing(candidates," in text
    for name, listed in (("as_given", "candidates"), ("shuffled", 'candidates|sort(attribute="title")')):
        changed = text.replace("listing(candidates,", f"listing({listed},").replace("name: rerank", f"name: {name}")
        (prompts / f"{name}.jinja").write_text(changed)
    data = {"items": tmp_path / "items.csv", "interactions": tmp_path / "log.csv"}
    return {"data": data, "seen": "kept", "k": 3}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """What every arm is answered by."""
    made = Reads()
    monkeypatch.setattr(arms, "load_engine", lambda name, adapter=None: made)
    return made


def config(log: dict[str, Any], **changes: Any) -> RunConfig:
    folder = log["data"]["items"].parent / "prompts"
    there = {"next_item": {"prompt": "next_item"}}
    there |= {name: {"prompt": name, "prompt_folder": folder} for name in ("backwards", "titleless")}
    names = changes.pop("arms", ("next_item", "backwards"))
    settings = {"classics": "none", "draws": 500, "latency_users": 2, "metric": "ndcg@3", **changes}
    return RunConfig.model_validate({"protocol": log, "arms": {name: there[name] for name in names}, **settings})


def evaluate(settings: RunConfig, out: Path) -> Results:
    return llmgen.evaluation.run.evaluate(settings, out, command="test")


def test_a_planted_regression_is_found(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    found = evaluate(config(log, arms=("next_item", "backwards", "titleless")), tmp_path / "out")
    by_arm = {row.arm: row for row in found.differences if row.metric == "ndcg@3"}
    for name in ("backwards", "titleless"):
        assert by_arm[name].high < -0.3
        assert by_arm[name].p_holm < 0.05  # 500 draws can show no less than 1 in 501, times six
    means = {arm.name: arm.metrics["hr@3"].mean for arm in found.arms}
    assert means["next_item"] > 0.65
    assert "worse than next_item" in found.verdict
    (gate,) = FailCondition.parse("ndcg@3 < -0.05").failures(found)[:1]
    assert gate.startswith("backwards: ndcg@3 -0.")
    assert FailCondition.parse("ndcg@3 < -0.99").failures(found) == []
    assert found.examples[0].answers["next_item"].prompt.startswith("system: ")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "worse than next_item" in page
    assert Results.read(tmp_path / "out") == found


def test_the_verdict_names_a_baseline_that_beats_every_arm(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    poor = evaluate(config(log, arms=("titleless", "backwards"), classics="defaults"), tmp_path / "poor")
    means = {
        kind: {a.name: a.metrics["ndcg@3"].mean for a in poor.arms if a.kind == kind} for kind in ("arm", "baseline")
    }
    classic = max(means["baseline"], key=means["baseline"].__getitem__)
    assert means["baseline"][classic] > max(means["arm"].values())
    assert (
        f"The classic baseline {classic} has a higher mean than every arm: {means['baseline'][classic]:.4f} NDCG@3"
        in poor.verdict
    )
    assert poor.verdict in (tmp_path / "poor" / "report.html").read_text()
    good = evaluate(config(log, arms=("next_item", "backwards"), classics="defaults"), tmp_path / "good")
    assert max(a.metrics["ndcg@3"].mean for a in good.arms) == good.arms[0].metrics["ndcg@3"].mean
    assert "higher mean than every arm" not in good.verdict


def test_all_that_is_wrong_is_told_before_any_data_is_read(log: dict[str, Any], tmp_path: Path) -> None:
    data = {**log, "data": {**log["data"], "items": tmp_path / "nowhere.csv"}}
    wrong = RunConfig.model_validate(
        {
            "protocol": data,
            "metric": "ndgc@3",
            "baseline": "gone",
            "arms": {
                "A": {"prompt": "nxt_item", "engine": "vlm"},
                "B": {"priors": {"transitoin": {}}},
                "C": {"priors": {"transition": {"decy": 1}}},
                "D": {"priors": "esae"},
                "E": {"prompt": "rerank"},
                "ease": {},
            },
        }
    )
    with pytest.raises(ConfigError) as error:
        llmgen.evaluation.checks.check(wrong, gates=["hr@5"])
    told = str(error.value).splitlines()
    for number, part in enumerate(
        [
            "there is no metric 'ndgc@3'; there are hr@3, ndcg@3, mrr@3",
            "--fail-if: there is no difference in 'hr@5'",
            "an arm may not be called 'ease'",
            "the baseline 'gone' is no arm",
            "nowhere.csv",
            "arm 'A': no engine is of the kind 'vlm'",
            "'nxt_item'",
            "arm 'B': no prior is called 'transitoin'",
            "arm 'C': prior transition: there is no setting 'decy'",
            "arm 'D': no classic baseline is called 'esae'",
            "arm 'E': the prompt 'rerank' is for the task rerank",
        ]
    ):
        assert part in told[number]
    assert len(told) == 11
    with pytest.raises(ConfigError, match=r"nowhere\.csv"):
        evaluate(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_of_the_wrong_kind_are_all_told_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "protocol: {k: 0, split: thrice}\nmetrc: hr@5\nlatency_users: -1\n"
        "arms: {A: {promt: x, max_history: -1}, B: {prompt: next_item}, C: {lm_weight: much}}\n"
    )
    with pytest.raises(ConfigError) as error:
        RunConfig.read(path)
    told = str(error.value).splitlines()
    parts = ("max_history", "promt", "lm_weight", "lm_weight", "protocol.k", "protocol.split", "latency_users", "metrc")
    for part in parts:
        assert any(part in line for line in told), part
    assert len(told) == len(parts)
    with pytest.raises(ConfigError, match=r"arm is NAME=PROMPT(.|\n)*two arms are called 'B'"):
        RunConfig.read(None, ["A", "B=next_item", "B=next_item"])


@pytest.mark.parametrize("command", ["ab", "evaluate"])
def test_mistakes_of_every_kind_are_told_in_one_message(log: dict[str, Any], tmp_path: Path, command: str) -> None:
    path = tmp_path / "config.yaml"
    arms = "{A: {max_history: -1, engine: vlm}, B: {prompt: nxt_item, think_tokens: 5, engine: none}}"
    path.write_text(f"tuning_users: few\nmetric: ndgc@3\nprotocol: {{data: {{dataset: nowhere}}}}\narms: {arms}\n")
    more = ["--fail-if", "ndcg@3 > 1", "--fail-if", "hr@77 < 0"] if command == "ab" else []
    main = llmgen.evaluation.ab.main if more else llmgen.evaluation.run.main
    ended = cli(main, "--config", str(path), "--k", "3", "--out", str(tmp_path / "out"), *more)
    assert ended.exit_code == 2
    told = ended.stderr
    parts = [
        "arm 'A', max_history",
        "tuning_users: Input should be a valid integer",
        *(["--fail-if is METRIC < NUMBER", "--fail-if: there is no difference in 'hr@77'"] if more else []),
        "there is no metric 'ndgc@3'; there are hr@3",
        "no data set is called nowhere",
        "arm 'A': no engine is of the kind 'vlm'",
        "arm 'B': the engine is none, so nothing can think for think_tokens: 5",
        "'nxt_item'",
    ]
    for part in parts:
        assert part in told, part
    assert len(told.splitlines()) == len(parts)
    assert not (tmp_path / "out").exists()


def test_nothing_is_said_of_what_depends_on_a_setting_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("protocol: {split: weekly, candidates: none, data: {dataset: movielens-100k}}\nmetric: recall@10\n"
                    "arms: {A: {prompt: rerank}}\n")  # fmt: skip
    config, wrong = RunConfig.parsed(path, k=10)
    with pytest.raises(ConfigError) as error:
        llmgen.evaluation.checks.check(config, wrong=wrong)
    split, candidates = str(error.value).splitlines()
    assert "protocol.split" in split and "protocol.candidates" in candidates


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("arms: [A, B]", "arms: must hold settings by name, not ['A', 'B']"),
        ("protocol: 5", "protocol: must hold settings by name, not 5"),
        ("arms: {A: next_item}", "arm 'A': must hold settings such as prompt: next_item, not 'next_item'"),
        ("arms: {A: {tuning_adapter: x}}", "tuning_adapter goes with lm_weight: tuned, not without"),
    ],
)
def test_settings_in_another_form_are_told(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        RunConfig.read(path)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_an_arm_may_let_its_model_think(log: dict[str, Any], tmp_path: Path) -> None:
    _, arm = ArmConfig.parse("A=engine:fake,think_tokens:7")
    _, final = samples(Protocol.model_validate(log), Protocol.model_validate(log).load())
    made = build("A", arm, final, [], Engines())
    assert made.recommender.config.think_tokens == 7
    assert made.digest != build("A", ArmConfig(engine="fake"), final, [], Engines()).digest
    with pytest.raises(ConfigError, match="think_tokens: Input should be greater than or equal to 0"):
        ArmConfig.of("A", {"think_tokens": -1})


def test_memory_prompt_and_adapter_of_an_arm_are_told_together(log: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "llmgen.json").write_text("{")
    arm = {"prompt": "nxt_item", "adapter": str(tmp_path), "engine": "none", "lm_weight": "tuned"}
    wrong = RunConfig.model_validate({"protocol": log, "arms": {"A": arm}, "metric": "ndcg@3", "memory": 1e9})
    with pytest.raises(ConfigError) as error:
        llmgen.evaluation.checks.check(wrong)
    memory, weight, adapter, prompt = str(error.value).splitlines()
    assert "no model whose weight" in weight
    assert "this machine's" in memory and "no record of an adapter" in adapter and "nxt_item" in prompt


def test_an_arm_may_do_without_a_model(log: dict[str, Any], tmp_path: Path) -> None:
    arms = {
        "A": {"engine": "none", "priors": {"popularity": {}}},
        "B": {"engine": "none", "priors": {"transition": {}}},
    }
    settings = {"protocol": log, "arms": arms, "classics": "defaults", "draws": 100}
    found = {arm.name: arm for arm in evaluate(RunConfig.model_validate(settings), tmp_path / "out").arms}
    assert found["A"].metrics == found["popularity"].metrics
    assert found["A"].settings["lm_weight"] == 0


def test_an_arm_against_itself_shows_nothing(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    settings = config(log).model_copy(update={"arms": {"A": ArmConfig(prompt="next_item"), "B": ArmConfig()}})
    found = evaluate(settings, tmp_path)
    assert {row.mean for row in found.differences} == {0.0}
    assert {row.p for row in found.differences} == {1.0}
    assert "every user the same" in found.verdict


def test_a_stopped_run_goes_on_and_ends_as_the_whole_one(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    whole = evaluate(config(log), tmp_path / "whole")
    engine.asked, engine.die_after = 0, 200
    with pytest.raises(KeyboardInterrupt):
        evaluate(config(log), tmp_path / "parts")
    engine.asked, engine.die_after = 0, None
    again = evaluate(config(log), tmp_path / "parts")
    asked = engine.asked
    engine.asked = 0
    evaluate(config(log), tmp_path / "other")
    assert 0 < asked < engine.asked
    for one, other in zip(whole.arms, again.arms, strict=True):
        assert (one.metrics, one.lists) == (other.metrics, other.lists)
    assert (whole.differences, whole.slices, whole.examples) == (again.differences, again.slices, again.examples)


def test_two_processes_do_not_share_a_folder(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    with locked(tmp_path / "out"), pytest.raises(ConfigError, match="another process is working in"):
        evaluate(config(log), tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        evaluate(config(log), tmp_path / "file")


def test_answers_that_are_broken_are_named(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    evaluate(config(log), tmp_path)
    path = next((tmp_path / "answers").glob("next_item-*/*.parquet"))
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"cannot read the answers in .*remove the file"):
        evaluate(config(log), tmp_path)
    pl.DataFrame({"user_id": ["u1"]}).write_parquet(path)
    with pytest.raises(DataError, match="other columns"):
        evaluate(config(log), tmp_path)


def test_a_template_that_changes_is_asked_again(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    settings = config(log, latency_users=0)
    evaluate(settings, tmp_path)
    asked = engine.asked
    evaluate(settings, tmp_path)
    assert engine.asked == asked
    path = log["data"]["items"].parent / "prompts" / "backwards.jinja"
    path.write_text(path.read_text().replace("history|reverse|list", "history"))
    again = evaluate(settings, tmp_path)
    assert {row.mean for row in again.differences} == {0.0}


def test_what_a_run_is_too_large_for_is_named(
    log: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = RunConfig.model_validate({"protocol": log, "classics": "defaults", "draws": 100, "latency_users": 0})
    names = {arm.name for arm in evaluate(settings, tmp_path / "small").arms}
    assert {"bm25", "content", "ease", "mix"} <= names
    monkeypatch.setattr(arms, "MOST_READ", USERS * len(TITLES) - 1)
    found = evaluate(settings, tmp_path / "large")
    assert {arm.name for arm in found.arms} == names - {"bm25", "content"}
    assert "Too large for bm25, content, which are left out." in found.notes
    assert "bm25 and content are left out: a common word leads to most of 12 items, for each of 60 users" in caplog.text


@pytest.mark.parametrize("seen", ["kept", "removed"])
def test_a_model_that_is_told_of_others_knows_nobody(
    log: dict[str, Any], engine: Reads, tmp_path: Path, seen: str
) -> None:
    """The model names the last item of the prompt; the prior, what the user took last: .7 of them take it again."""
    repeat = {"repeat": {"decay": 0.1, "weight": 50.0}}
    made = {
        "model": ArmConfig(prompt="next_item"),
        "control": ArmConfig(prompt="next_item", exchanged=True),
        "beside": ArmConfig(prompt="next_item", priors=repeat, lm_weight=0.001),
        "control beside": ArmConfig(prompt="next_item", priors=repeat, lm_weight=0.001, exchanged=True),
    }
    protocol = {**log, "seen": seen, "k": 1}
    settings = config(protocol, metric="hr@1", latency_users=0).model_copy(update={"arms": made})
    found = evaluate(settings, tmp_path)
    rates = {arm.name: arm.metrics["hr@1"].mean for arm in found.arms}
    answers = {
        name: pl.concat(pl.read_parquet(path) for path in (tmp_path / "answers").glob(f"{name.replace(' ', '_')}-*/*"))
        for name in made
    }
    items = {name: table.sort("user_id")["items"].to_list() for name, table in answers.items()}
    for example in found.examples:  # the report shows what the model was told
        other = example.answers["control"].prompt
        assert other != example.answers["model"].prompt
        assert other == example.answers["control beside"].prompt
    if seen == "kept":
        assert found.examples
        assert items["beside"] == items["control beside"]  # of what is the user's own nothing is exchanged
        assert rates["model"] > 0.6
        assert rates["control"] < 0.25
        assert rates["beside"] == rates["control beside"] > 0.6
    else:  # what the user took is removed, not what the other one took
        final = from_log(settings).final
        for user, (item,) in zip(sorted(final.users), items["control"], strict=True):
            query = final.queries[final.users.index(user)]
            assert item not in {one.id for one in query.history}


def test_the_verdict_says_nothing_twice_of_the_baseline_that_arms_are_compared_with(
    log: dict[str, Any], engine: Reads, tmp_path: Path
) -> None:
    settings = config(log, arms=("titleless",), classics="defaults", baseline="repeat_last")
    found = evaluate(settings, tmp_path)
    assert "worse than repeat_last" in found.verdict and "higher mean than every arm" not in found.verdict


def test_users_who_are_not_asked_are_counted_in_the_notes(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    kept = evaluate(config(log), tmp_path / "kept")
    assert not any("not asked" in note for note in kept.notes)
    removed = evaluate(config({**log, "seen": "removed"}), tmp_path / "removed")
    again = USERS - removed.sample.users  # those who took their last item again
    assert 0 < again < USERS
    assert any(note.startswith(f"{again} users are not asked:") for note in removed.notes)


def test_a_prior_that_is_no_classic_is_named_where_it_can_be_fitted(log: dict[str, Any]) -> None:
    arm = ArmConfig(engine="none", priors_of="history_text")
    wrong = config(log).model_copy(update={"arms": {"A": arm}})
    with pytest.raises(ConfigError, match=r"give priors: \{history_text: 1.0\} to fit it"):
        llmgen.evaluation.checks.check(wrong)


def test_what_items_have_in_common() -> None:
    """Lists and words that others have too; not words of an item's own, nor numbers."""
    rows = [("Cups", "a small cup"), ("Cups", "a large cup"), ("Bowls", "a bowl"), ("Cups", "blue")]
    items = [
        Item(str(number), "x", {"group": group, "text": text, "price": 3, "tags": ("new",)})
        for number, (group, text) in enumerate(rows)
    ]
    assert shared_values(Catalog(items))["0"] == {"Cups", "new"}
    assert shared_values(Catalog([Item("a", "x", {"text": "one"}), Item("b", "x", {"text": "two"})])) == {
        "a": set(),
        "b": set(),
    }


def test_diversity_is_not_told_where_nothing_says_what_items_are(
    log: dict[str, Any], engine: Reads, tmp_path: Path
) -> None:
    assert "diversity@3" not in evaluate(config(log), tmp_path).arms[0].lists


def test_a_run_can_be_looked_at_and_ended_after_each_batch(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    looks: list[tuple[int, float, float]] = []

    def look(done: int, watched: Any) -> bool:
        looks.append((done, watched["as_well"].low, watched["as_well"].high))
        return done >= 32

    class Shared(arms.Engines):
        def get(self, name: str, adapter: str | None) -> Any:
            return shared

    shared = Reads()
    there = {name: ArmConfig(prompt="next_item", max_history=length) for name, length in (("a", 20), ("as_well", 19))}
    chosen = config(log, stop_early=True).model_copy(update={"arms": there})
    found = llmgen.evaluation.run.evaluate(chosen, tmp_path, command="test", engines=Shared(), look=look)
    assert [done for done, *_ in looks] == [16, 32] and found.sample.users == 32
    (row,) = [row for row in found.differences if row.metric == "ndcg@3"]
    assert (row.low, row.high) == looks[-1][1:]  # of arms that do not differ: 0, and all else is the interval
    assert row.mean == 0 and row.low < 0 < row.high
    assert shared.asked > 0 and engine.asked == 0
    assert "or the asking was ended" in next(note for note in found.notes if note.startswith("32 users were asked"))


def test_stopping_early_asks_fewer_users_and_says_so(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    found = evaluate(config(log, stop_early=True), tmp_path)
    assert found.sample.users < USERS
    assert any(note.startswith(f"{found.sample.users} users were asked") for note in found.notes)
    assert found.per_user["backwards"][0] < 0
    # all that is said afterwards holds whenever one stops, and is wider than what a fixed sample would say
    watch = Sequential()
    watch.add(found.per_user["backwards"])
    tested, *others = [row for row in found.differences if row.metric == "ndcg@3"] + [
        row for row in found.differences if row.metric != "ndcg@3"
    ]
    assert (tested.low, tested.high, tested.p, tested.test) == pytest.approx(
        (watch.low, watch.high, watch.p, "betting")
    )
    assert tested.p_holm == tested.p < 0.05
    assert {row.test for row in others} == {"betting"}
    assert found.anytime and Results.read(tmp_path) == found
    fixed = paired_difference(found.per_user["backwards"], [0.0] * found.sample.users, seed=0)
    assert tested.low < fixed.low and fixed.high < tested.high
    assert FailCondition("ndcg@3", "high", tested.high - 1e-6).failures(found) == []
    assert len(FailCondition("ndcg@3", "high", tested.high + 1e-6).failures(found)) == 1
    assert "hold whenever one stops" in (tmp_path / "report.html").read_text()


class Remembers(Reads):
    """Takes .2 s to read a prompt that it has not kept."""

    forgets = True

    def __init__(self) -> None:
        super().__init__()
        self.kept: set[tuple[int, ...]] = set()

    def next_logprobs(self, steps: Any) -> Any:
        fresh = {step.prompt for step in steps} - self.kept
        time.sleep(0.2 * len(fresh))
        self.kept |= fresh
        return super().next_logprobs(steps)

    def forget(self) -> bool:
        if self.forgets:
            self.kept.clear()
        return self.forgets


@pytest.mark.parametrize("forgets", [True, False])
def test_latency_is_cold_and_warm_apart(
    log: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, forgets: bool
) -> None:
    engine = Remembers()
    engine.forgets = forgets
    monkeypatch.setattr(arms, "load_engine", lambda name, adapter=None: engine)
    found = evaluate(config({**log, "users": 6}, arms=("next_item",), latency_users=3), tmp_path)
    cost = found.arms[0].cost
    assert cost is not None and cost.warm_p50_s is not None and cost.warm_p95_s is not None
    assert 0 < cost.warm_p50_s <= cost.warm_p95_s < 0.2  # every user had been asked before
    if forgets:
        assert cost.cold_p50_s is not None and cost.cold_p50_s > 0.2
    else:
        assert cost.cold_p50_s is None is cost.cold_p95_s
    page = (tmp_path / "report.html").read_text()
    assert "Latency warm, median, s" in page
    assert ("Latency cold, median, s" in page) == forgets


def test_results_of_version_1_are_read_without_their_latencies(
    log: dict[str, Any], engine: Reads, tmp_path: Path
) -> None:
    found = evaluate(config({**log, "users": 6}), tmp_path)
    old = json.loads((tmp_path / "results.json").read_text())
    del old["anytime"]
    old["version"] = 1
    for arm in old["arms"]:
        for name in ("cold_p50_s", "cold_p95_s", "warm_p50_s", "warm_p95_s"):
            del arm["cost"][name]
        arm["cost"] |= {"latency_p50_s": 0.0056, "latency_p95_s": 0.4}
    (tmp_path / "results.json").write_text(json.dumps(old))
    read = Results.read(tmp_path)
    assert read.differences == found.differences
    assert read.arms[0].cost is not None and read.arms[0].cost.cold_p50_s is None is read.arms[0].cost.warm_p50_s


def test_a_weight_is_tuned_on_validation_users(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    arm = ArmConfig(prompt="next_item", priors={"popularity": {"weight": 3.0}}, lm_weight="tuned")
    settings = config(log, lm_weights=(0.0, 1.0), tuning_users=30).model_copy(update={"arms": {"tuned": arm}})
    found = evaluate(settings, tmp_path)
    # on validation, the last of five different items, what stands last in the prompt is never taken: weight 0
    assert found.arms[0].settings["lm_weight"] == 0.0
    assert set(found.arms[0].settings["validation_by_lm_weight"]) == {"0", "1"}


def test_a_weight_for_each_request_is_fitted_on_validation_users(
    log: dict[str, Any], engine: Reads, tmp_path: Path
) -> None:
    arm = ArmConfig(prompt="next_item", priors={"popularity": {"weight": 1.0}}, lm_weight="fitted")
    settings = config(log, tuning_users=30).model_copy(update={"arms": {"fitted": arm}})
    found = evaluate(settings, tmp_path / "out").arms[0].settings
    # on validation, the last of five different items, what stands last in the prompt is never taken
    assert found["fitted_lm_weight"]["constant"] < 0.01
    assert found["fitted_lm_weight"]["requests"] == 30
    assert found["fitted_lm_weight"]["nats"] <= found["fitted_lm_weight"]["nats_constant"]
    weight = RequestWeight.model_validate(found["lm_weight"])
    again = ArmConfig.of(
        "again", {"prompt": "next_item", "priors": {"popularity": 1.0}, "lm_weight": weight.model_dump()}
    )
    settings = settings.model_copy(update={"arms": {"again": again}})
    assert evaluate(settings, tmp_path / "again").arms[0].settings["lm_weight"] == found["lm_weight"]


def test_candidates_are_ranked_and_their_order_is_looked_at(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    settings = config({**log, "candidates": 5}).model_copy(
        update={
            "arms": {"last": ArmConfig(prompt="rerank"), "prior": ArmConfig(priors={"popularity": {}}, lm_weight=0)}
        }
    )
    found = evaluate(settings, tmp_path)
    # what stands last of five comes first in the answer, the others anywhere: 1 - 6 (16 + 4 * 3.5) / (5 * 24)
    assert found.arms[0].metrics["position_bias"].mean == pytest.approx(-0.5, abs=0.15)
    assert found.arms[0].metrics["hr@3"].mean == pytest.approx(0.6, abs=0.2)
    assert found.arms[0].prompt.startswith("rerank@")
    assert found.arms[1].prompt == ""
    early = evaluate(settings.model_copy(update={"metric": "position_bias", "stop_early": True}), tmp_path / "early")
    assert early.sample.users < USERS  # its differences lie in [-2, 2]
    shown = found.examples[0].answers["last"]
    assert all(label in shown.prompt for label in shown.items)
    with pytest.raises(ConfigError, match="'next_item' is for the task next_item, and this run wants rerank"):
        evaluate(config({**log, "candidates": 5}), tmp_path / "other")


@pytest.mark.parametrize(("template", "code"), [("shuffled", 1), ("as_given", 0)])
def test_candidates_in_another_order_than_was_asked_fail_a_build(
    log: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, template: str, code: int
) -> None:
    """The order of the protocol is random, so the hits stay; what shows is that the answers no longer follow it."""
    monkeypatch.setattr(arms, "load_engine", lambda name, adapter=None: Follows())
    data = {name: str(path) for name, path in log["data"].items()}
    path = tmp_path / "config.yaml"
    settings = {"protocol": {**log, "data": data, "candidates": 5}, "classics": "none", "latency_users": 0}
    path.write_text(json.dumps(settings))
    other = f"B=prompt:{template},prompt_folder:{log['data']['items'].parent / 'prompts'}"
    run = ("--config", str(path), "--out", str(tmp_path / "out"), "--arm", "A=rerank", "--arm", other)
    done = cli(llmgen.evaluation.ab.main, *run, "--fail-if", "position_bias < -0.25")
    assert done.exit_code == code, done.output
    assert ("failed: B: position_bias -0." in done.output) == bool(code)
    assert cli(llmgen.evaluation.ab.main, *run, "--fail-if", "hr@3 < -0.15").exit_code == 0
    bias = {arm.name: arm.metrics["position_bias"].mean for arm in Results.read(tmp_path / "out").arms}
    # the first of five stays first, the others stand anywhere: 1 - 6 (0 + 4 * 2.5) / (5 * 24); without a bond it is 0
    assert bias == pytest.approx({"A": 0.5, "B": 0.0 if code else 0.5}, abs=0.15)


def test_classics_stand_beside_the_arms(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    settings = config(log, classics="defaults", arms=("next_item",))
    found = llmgen.evaluation.run.evaluate(settings, tmp_path, command="test", against_classic=True)
    names = [arm.name for arm in found.arms if arm.kind == "baseline"]
    assert names == [
        "random",
        "bm25",
        "content",
        "repeat_last",
        "popularity",
        "item_knn",
        "ease",
        "transition",
        "repeat",
        "mix",
    ]
    assert found.baseline in names
    assert {row.arm for row in found.differences} == {"next_item"}
    repeat = next(arm for arm in found.arms if arm.name == "repeat_last")
    mine = found.arms[0]
    assert repeat.metrics["mrr@3"].mean == pytest.approx(mine.metrics["mrr@3"].mean, abs=0.1)


def test_classics_alone_are_compared_with_the_best_of_them(log: dict[str, Any], tmp_path: Path) -> None:
    settings = config(log, classics="defaults", arms=())
    found = evaluate(settings, tmp_path)
    assert found.baseline == from_log(settings).best
    assert {row.arm for row in found.differences} == {arm.name for arm in found.arms} - {found.baseline}
    with pytest.raises(ConfigError, match="there is nothing to run; give --arm"):
        evaluate(config(log, arms=()), tmp_path)


def test_the_plan_shrinks_with_the_sample(log: dict[str, Any]) -> None:
    def first(users: int) -> float:
        table = planned(config({**log, "users": users}))
        return float(next(iter(table.columns[1].cells)).removeprefix("±"))

    assert 1.5 < first(15) / first(60) < 5  # the root of 4, and fewer users to know the spread from


def test_stored_results_are_compared_later(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    one = evaluate(config(log, arms=("next_item",)), tmp_path / "one")
    other = evaluate(config(log, arms=("backwards",)), tmp_path / "other")
    both = evaluate(config(log), tmp_path / "both")
    rows = compare(tmp_path / "one", tmp_path / "other")
    (later,) = [row for row in rows if row.metric == "ndcg@3"]
    (at_once,) = [row for row in both.differences if row.metric == "ndcg@3"]
    assert later.difference.mean == pytest.approx(at_once.mean)
    compatible(one, other)
    assert [row.metric for row in rows if row.p_holm is not None] == ["ndcg@3"]
    assert {row.test for row in rows} == {"permutation", "McNemar"}
    (tmp_path / "one" / "results.json").write_text(one.model_copy(update={"anytime": True}).model_dump_json())
    assert {row.test for row in compare(tmp_path / "one", tmp_path / "other")} == {"betting"}
    elsewhere = evaluate(config({**log, "users": 20}, arms=("next_item",)), tmp_path / "elsewhere")
    with pytest.raises(DataError, match="other users"):
        compatible(one, elsewhere)


def cli(main: Callable[..., None], *arguments: str) -> Any:
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(app, list(arguments))


def test_exit_codes(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    data = {name: str(path) for name, path in log["data"].items()}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"protocol": {**log, "data": data}, "classics": "none", "latency_users": 0}))
    folder = log["data"]["items"].parent / "prompts"
    both = ("--arm", "A=next_item", "--arm", f"B=prompt:backwards,prompt_folder:{folder}")
    rest = ("--config", str(path), "--out", str(tmp_path / "out"), "--metric", "ndcg@3")
    failed = cli(llmgen.evaluation.ab.main, *both, *rest, "--fail-if", "ndcg@3 < -0.1")
    assert failed.exit_code == 1
    assert "failed:" in failed.output
    assert cli(llmgen.evaluation.ab.main, *both, *rest, "--fail-if", "ndcg@3 < -0.99").exit_code == 0
    printed = cli(llmgen.evaluation.ab.main, *both, *rest, "--json")
    assert json.loads(printed.stdout[printed.stdout.index("{") :])["metric"] == "ndcg@3"
    for wrong in (["--arm", "A"], ["--arm", "A=next_item"], [*both, "--fail-if", "ndcg"], ["--arm", "A=x:1", *both]):
        found = cli(llmgen.evaluation.ab.main, *wrong, *rest)
        assert found.exit_code == 2, found.output
        assert "error:" in found.output


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("ndcg@10 < -0.005", FailCondition("ndcg@10", "high", -0.005)),
        ("hr@5.low<-.01", FailCondition("hr@5", "low", -0.01)),
        (" mrr@10.high < 0 ", FailCondition("mrr@10", "high", 0.0)),
    ],
)
def test_gates_are_read(text: str, gate: FailCondition) -> None:
    assert FailCondition.parse(text) == gate


def row(arm: str, mean: float, p: float) -> Difference:
    return Difference(
        arm=arm, metric="ndcg@10", mean=mean, low=mean - 0.01, high=mean + 0.01, p=p, p_holm=p, test="permutation",
        effect=0.1, wins=5, ties=3, losses=2, detectable=0.015,
    )  # fmt: skip


def test_the_verdict_says_what_is_known_and_what_is_not() -> None:
    told = verdict([row("B", 0.02, 0.001), row("C", -0.001, 0.9)], "ndcg@10", "A", 100)
    assert told == "B is better than A: +0.0200 NDCG@10 [+0.0100, +0.0300]; 1 other cannot be told apart from A."
    told = verdict([row("B", 0.002, 0.6)], "ndcg@10", "A", 100)
    assert told.startswith("No difference between B and A can be seen: +0.0020 NDCG@10")
    assert told.endswith("these 100 users would show one of 0.0150.")
    assert "nothing to compare" in verdict([], "ndcg@10", "A", 100)


def test_a_store_answers_only_its_own_question(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:
    settings = config(log)
    evaluate(settings, tmp_path)
    shorter = config({**log, "k": 2}, metric="ndcg@2")
    found = evaluate(shorter, tmp_path)
    assert {len(shown.items) for example in found.examples for shown in example.answers.values()} == {2}
    assert len(list((tmp_path / "answers").iterdir())) == 4


def test_arms_of_which_one_is_stopped_early_share_the_error(
    log: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[float] = []

    class Watched(llmgen.evaluation.run.Sequential):
        def __init__(self, level: float = 0.95, *, largest: float = 1.0) -> None:
            levels.append(level)
            super().__init__(level, largest=largest)

    monkeypatch.setattr(llmgen.evaluation.run, "Sequential", Watched)
    nobody: Any = None
    llmgen.evaluation.run._watch(
        config(log, stop_early=True), ["A", "B", "C", "D"], {}, nobody, "A", lambda done, watched: False
    )
    assert levels == [1 - 0.05 / 3] * 3


def test_priors_of_one_name_and_other_settings_are_another_arm(log: dict[str, Any]) -> None:
    """Else a run that goes on in a folder would take the lists of the first fit for its own."""
    chosen = config(log)
    dataset = chosen.protocol.load()
    tuning, final = samples(chosen.protocol, dataset)
    _, results = classics("defaults", chosen.protocol, tuning, final)
    first = next(result for result in results if result.settings)
    changed = replace(first, settings={name: value + 1 for name, value in first.settings.items()})
    one, other = (
        arms.build(
            "A", ArmConfig(prompt="next_item", priors_of=first.name, engine="fake"), final, [result], arms.Engines()
        )
        for result in (first, changed)
    )
    assert one.digest != other.digest


def test_the_digest_of_the_code_covers_what_makes_an_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "eval"
    folder.mkdir()
    (folder / "arms.py").write_text("a = 1")
    monkeypatch.setattr(answers.llmgen, "__file__", str(folder / "__init__.py"))
    digest = answers.code_digest.__wrapped__  # computed anew, not remembered
    before = digest()
    (folder / "arms.py").write_text("a = 2")
    assert digest() != before
