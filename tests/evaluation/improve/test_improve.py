"""The search for a better prompt: its rounds, its proposals, what it finds and what it claims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from eval.improve import PLANTED, simulated
from llmgen.cli.main import app
from llmgen.errors import ConfigError
from llmgen.evaluation.arms import core as arms
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.improve.budget import Budget
from llmgen.evaluation.improve.core import Improved, divided, improve
from llmgen.evaluation.improve.edits import proposals
from llmgen.evaluation.improve.halving import by_lot, claims, first_round, halving, requests, search
from llmgen.evaluation.improve.proposer import Proposer
from llmgen.evaluation.protocols.protocol import samples
from llmgen.templates.library import PromptLibrary
from tests.engines.serving import Asked, Reply, Stub
from tests.evaluation.test_ab import Reads, log  # noqa: F401  # a fixture

SIMULATED = {"arms": 30, "users": 943, "limit": 9267, "survivors": 2, "changed": 0.15, "draws": 500}


def test_rounds_halve_the_arms_and_double_the_users() -> None:
    assert halving(30, 400, 100, 2) == [(30, 100), (15, 200), (8, 400)]
    assert halving(5, 1000, 100, 2) == [(5, 100), (3, 200), (2, 400)]  # two are left: no more is asked
    assert halving(2, 100, 500, 2) == [(2, 100)]
    # 31 arms for 100 users, 16 for 100 more, 9 for 200 more, two questions each, and 3 for one of 50 others
    assert requests(30, 400, 100, 2, 50) == 2 * (3100 + 1600 + 1800) + 150
    assert first_round(30, 400, 50, 2, None) == 50  # 30, 15, 8, 4 arms for 50, 100, 200, 400 users
    assert requests(30, 400, 50, 2, 50) == 2 * (31 * 50 + 16 * 50 + 9 * 100 + 5 * 200) + 150 == 8650
    assert first_round(30, 400, 50, 2, 8650) == 50 and first_round(30, 400, 50, 2, 8649) < 50
    assert first_round(30, 400, 50, 2, requests(30, 400, 16, 2, 50) - 1) is None


def test_only_what_is_better_is_claimed_and_all_claims_share_an_error() -> None:
    # one-sided p .02 and .02, weights 4 to 1: .02 / .8 is the smaller one, then the other has all of the error
    assert claims(["a", "b"], {"a": (0.1, 0.04), "b": (0.1, 0.04)}) == pytest.approx({"a": 0.025, "b": 0.025})
    # the search's second must have a p of a fifth
    assert claims(["a", "b"], {"a": (-0.1, 0.04), "b": (0.1, 0.04)}) == pytest.approx({"a": 0.98, "b": 0.1})
    assert claims(["a", "b"], {"a": (-0.1, 0.04), "b": (0.1, 0.02)}) == pytest.approx({"a": 0.98, "b": 0.05})
    assert claims(["a"], {"a": (0.1, 0.1)}) == pytest.approx({"a": 0.05})  # alone it has all of it
    assert claims([], {}) == {}


def test_claims_keep_to_their_error_whichever_arms_are_equal() -> None:
    """Uniform, independent p-values of three equal arms, 20,000 times: with a bound of 5 %, 5 % of them pass it."""
    rng = np.random.default_rng(0)
    names = ["a", "b", "c"]
    wrong = 0
    for two_sided, up in zip(rng.random((20_000, 3)), rng.random((20_000, 3)) < 0.5, strict=True):
        tests = {name: (1.0 if sign else -1.0, p) for name, p, sign in zip(names, two_sided, up, strict=True)}
        wrong += min(claims(names, tests).values()) <= 0.05
    assert wrong / 20_000 == pytest.approx(0.05, abs=0.006)  # four standard errors


def test_the_search_leaves_out_the_worse_half_and_keeps_none_that_is_not_better() -> None:
    worth = {"original": 0.4, "best": 0.6, "good": 0.5, "same": 0.4, "bad": 0.1}
    asked: list[tuple[tuple[str, ...], int]] = []

    def ask(names: Sequence[str], users: int) -> Mapping[str, Any]:
        asked.append((tuple(names), users))
        return {name: np.full(users, worth[name]) for name in names}

    rounds = search(["bad", "same", "good", "best"], "original", 80, ask, start=20, survivors=1)
    assert [(names[1:], users) for names, users in asked] == [
        (("bad", "same", "good", "best"), 20),
        (("best", "good"), 40),
        (("best",), 80),
    ]
    assert [one.arm for one in rounds[0].standings] == ["best", "good", "same", "bad"]
    assert rounds[-1].standings[0].mean == pytest.approx(0.2) and rounds[-1].standings[0].kept
    equal = search(["same"], "original", 80, ask, start=20, survivors=1)
    assert not equal[-1].standings[0].kept
    (surely,) = search(["bad", "same"], "original", 400, ask, start=400, survivors=2)
    assert [one.kept for one in surely.standings] == [False, False]
    assert surely.standings[1].high < 0  # it would not go on either


def test_what_is_left_out_by_lot_is_counted() -> None:
    def ask(names: Sequence[str], users: int) -> Mapping[str, Any]:
        return {name: np.full(users, 0.5 if name == "a" else 0.25) for name in names}

    rounds = search(["a", "b", "c", "d"], "original", 80, ask, start=20, survivors=1)
    # a is better; b, c and d stand level: b is kept, the other two are left out by lot; then a goes on alone
    assert [[one.arm for one in each.standings if one.kept] for each in rounds] == [["a", "b"], ["a"], ["a"]]
    assert by_lot(rounds) == 2
    assert by_lot(search(["a"], "original", 80, ask, start=20, survivors=1)) == 0


def test_every_proposal_passes_the_check_and_differs_in_what_it_says() -> None:
    library = PromptLibrary.default()
    found = {one.name: one for one in proposals(ArmConfig(prompt="next_item"), library, detailed=True, rated=True)}
    assert {
        "next_item_last5",
        "next_item_short",
        "next_item_no_system",
        "next_item_details",
        "next_item_ratings",
    } <= set(found)
    assert {"next_item_newest_first", "next_item_list"} <= set(found)
    assert "next_item_last20" not in found and "next_item_zh" not in found  # as it is; another language
    item = library["next_item"]
    given = {"nouns": "films", "history": (), "k": 2}
    for one in found.values():
        if one.text is not None:
            template = library.with_text(one.name, one.text)[one.name]
            assert template.render(given) != item.render(given) or one.name.endswith(("details", "ratings"))
    assert [m.role for m in library.with_text("next_item_no_system", found["next_item_no_system"].text or "")[
        "next_item_no_system"].render(given)] == ["user"]  # fmt: skip
    plain = {one.name for one in proposals(ArmConfig(prompt="next_item"), library, detailed=False, rated=False)}
    assert set(found) - plain == {"next_item_details", "next_item_ratings"}
    with pytest.raises(ConfigError, match="only prompts for next_item"):
        proposals(ArmConfig(prompt="rerank"), library, detailed=False, rated=False)


def test_edits_that_a_template_has_no_place_for_are_not_proposed(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(
        "---\nname: mine\nversion: 1\ndescription: Mine.\ntask: next_item\nvariables: [nouns, history]\n---\n"
        "{% block user %}{{ nouns }}: {{ history | map(attribute='title') | join }}{% endblock %}"
    )
    found = proposals(ArmConfig(prompt="mine"), PromptLibrary.default(tmp_path), detailed=True, rated=True)
    texts = {one.name for one in found if one.text is not None}
    assert texts == {"mine_no_system", "mine_expert"} or texts == {"mine_expert"}
    assert {"mine_last5", "next_item"} <= {one.name for one in found}


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """What every arm is answered by: it believes that people take again what stands last in the prompt."""
    made = Reads()
    monkeypatch.setattr(arms, "load_engine", lambda name, adapter=None: made)
    return made


def config(log: dict[str, Any], prompt: str) -> RunConfig:  # noqa: F811
    folder = log["data"]["items"].parent / "prompts"
    arm = {"prompt": prompt, "prompt_folder": folder}
    settings = {"classics": "none", "draws": 500, "latency_users": 0, "metric": "ndcg@3"}
    return RunConfig.model_validate({"protocol": log, "arms": {"now": arm}, **settings})


def test_a_better_prompt_is_found_and_confirmed_on_other_users(
    log: dict[str, Any], engine: Reads, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    """The original lists the history from the newest to the oldest, so that the engine reads the oldest."""
    found = improve(config(log, "backwards"), tmp_path)
    assert isinstance(found, Improved)
    assert found.winner in {"next_item", "next_item_taste"}  # what lists the newest last
    assert f"{found.winner} is better than now" in found.said
    assert found.results is not None and found.results.sample.users == 42  # 60 less the three in ten
    (row,) = [row for row in found.results.differences if (row.arm, row.metric) == (found.winner, "ndcg@3")]
    assert row.mean > 0.3 and row.p < 0.05
    searched = {user for path in tmp_path.glob("answers/*/*.parquet") for user in pl.read_parquet(path)["user_id"]}
    met = set(pl.read_parquet(tmp_path / "confirmed" / "users.parquet")["user_id"])
    assert (len(searched), len(met)) == (18, 42) and not searched & met
    assert (tmp_path / "confirmed" / "report.html").exists()
    stored = json.loads((tmp_path / "improve.json").read_text())
    assert stored["winner"] == found.winner and len(stored["proposals"]) == len(found.tried)
    before = engine.asked
    again = improve(config(log, "backwards"), tmp_path)
    assert engine.asked == before and again.said == found.said  # all answers are there


def test_users_to_search_on_are_asked_twice_and_the_others_once(log: dict[str, Any]) -> None:  # noqa: F811
    chosen = config(log, "next_item").protocol
    tuning, final = samples(chosen, chosen.load())
    (before, last), others = divided(tuning, final, seed=0)
    assert before.users == last.users and len(last.users) == 18 and len(others.users) == 42
    assert set(last.users) | set(others.users) == set(final.users)
    for user, query, item, next_query in zip(last.users, before.queries, before.targets, last.queries, strict=True):
        assert str(query.user_id) == user
        assert [one.id for one in next_query.history] == [*(one.id for one in query.history), item]
    again, _ = divided(tuning, final, seed=1)
    assert again[0].users != before.users


def test_nothing_is_claimed_where_nothing_is_better(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:  # noqa: F811
    found = improve(config(log, "next_item"), tmp_path)
    assert found.winner is None and found.said.startswith("Nothing better was found")
    if found.confirmed:
        assert found.results is not None
        largest = max(row.detectable or 0 for row in found.results.differences if row.metric == "ndcg@3")
        assert f"a gain in ndcg@3 of {largest:.4f} is found in about four of five" in found.said


def test_what_cannot_be_searched_is_said(log: dict[str, Any], engine: Reads, tmp_path: Path) -> None:  # noqa: F811
    chosen = config(log, "next_item")
    with pytest.raises(ConfigError, match="allows 100 requests, too few"):
        improve(chosen, tmp_path, budget=Budget(requests=100))
    with pytest.raises(ConfigError, match="one arm is improved, and there are 2"):
        improve(chosen.model_copy(update={"arms": {**chosen.arms, "b": ArmConfig()}}), tmp_path)
    with pytest.raises(ConfigError, match="give lm_weight a number"):
        improve(chosen.model_copy(update={"arms": {"a": ArmConfig(lm_weight="tuned")}}), tmp_path)
    few = chosen.protocol.model_copy(update={"users": 20})
    with pytest.raises(ConfigError, match="needs 32 users"):
        improve(chosen.model_copy(update={"protocol": few}), tmp_path)
    assert engine.asked == 0


def test_a_model_proposes_too_and_the_budget_counts_what_it_is_asked(
    log: dict[str, Any], engine: Reads, tmp_path: Path  # noqa: F811
) -> None:  # fmt: skip
    chosen = config(log, "backwards")
    (folder,) = {arm.prompt_folder for arm in chosen.arms.values()}
    assert folder is not None
    better = (folder / "backwards.jinja").read_text().replace("listing(history|reverse|list)", "listing(history)")
    answers = [f"```jinja\n{better}\n```", "No."]

    def answer(asked: Asked) -> Reply:
        if asked.method == "GET":
            return Reply(body=json.dumps({"data": [{"id": "small"}]}).encode())
        return Reply(body=json.dumps({"choices": [{"message": {"content": answers.pop(0)}}]}).encode())

    with Stub(answer) as stub:
        budget = Budget(requests=1300)
        found = improve(chosen, tmp_path, budget=budget, proposer=Proposer(f"openai:{stub.url}", 2, 3, budget))
        asked = [json.loads(one.body)["messages"][1]["content"] for one in stub.asked if one.method == "POST"]
    assert found.rounds[0].users == 16 and found.winner is not None
    assert list(found.dropped) == ["backwards_lm2"]
    assert {one.arm for one in found.rounds[0].standings} == {one.name for one in found.tried} > {"backwards_lm1"}
    assert len(list(tmp_path.glob("answers/backwards_lm1-*"))) == 2  # of both questions
    answered = sum(len(pl.read_parquet(path)) for path in tmp_path.rglob("answers/*/*.parquet"))
    assert answered + 2 <= 1300
    assert all("User 3 took: " in text and "User 4" not in text and "now ranks first: " in text for text in asked)
    assert not any(f"u{number}" in text.split() for text in asked for number in range(60))


def test_hours_that_are_up_leave_fewer_users_to_confirm_on(
    log: dict[str, Any], engine: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch  # noqa: F811
) -> None:  # fmt: skip
    chosen = config(log, "backwards")
    first = improve(chosen, tmp_path)  # all users; its answers and their seconds are found again
    seconds = {
        where: sum(
            float(pl.read_parquet(path)["seconds"].sum()) for path in tmp_path.glob(f"{where}answers/*/*.parquet")
        )
        for where in ("", "confirmed/")
    }
    assert first.results is not None and first.results.sample.users == 42
    hours = (seconds[""] + seconds["confirmed/"] / 2) / 3600
    monkeypatch.setattr(
        "llmgen.evaluation.improve.core.first_round", lambda *_: first.rounds[0].users
    )  # the same search
    again = improve(chosen, tmp_path, budget=Budget(hours=hours))
    assert again.confirmed == first.confirmed
    assert again.results is not None and 16 <= again.results.sample.users < 42


def test_the_command_line_knows_it() -> None:
    said = CliRunner().invoke(app, ["prompts", "improve", "--help"])
    assert said.exit_code == 0 and "--requests" in said.output and "--show-users" in said.output
    both = CliRunner().invoke(app, ["prompts", "improve", "--arm", "now=next_item", "--show-users", "3"])
    assert both.exit_code == 2 and "are for a --proposer" in both.output


def test_simulations_find_the_planted_prompt_and_claim_no_equal_one() -> None:
    """Hundreds of each are in eval/RESULTS.md; these tell that it still is so."""
    planted = [simulated(seed, gain=0.03, **SIMULATED).winner for seed in range(20)]
    assert planted.count(PLANTED) >= 16
    equal = [simulated(seed, gain=0.0, **SIMULATED).winner for seed in range(30)]
    assert sum(one is not None for one in equal) <= 4  # with a probability of .05 there are more once in 60
