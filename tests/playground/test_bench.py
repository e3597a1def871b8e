"""What the page shows, beside what the recommender itself says."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, ConfigError, DataError, TemplateError
from llmgen.playground.bench import Bench
from llmgen.playground.bodies import Arm, Question
from llmgen.playground.models import settings_of
from llmgen.playground.people import Finder, filterable
from llmgen.priors import Transition
from llmgen.types import Item, Query
from tests.playground.conftest import HOSTILE, USERS, Shop

NEXT = Arm(template="next_item")


def text(bench: Bench, name: str = "next_item") -> str:
    return bench.recommender.prompts[name].path.read_text(encoding="utf-8")


def test_the_last_item_of_each_user_is_held_out_and_nothing_is_learned_of_it(bench: Bench, shop: Shop) -> None:
    log = shop.workspace.data.interactions
    last = {row["user_id"]: row["item_id"] for row in log.sort("timestamp").iter_rows(named=True)}
    assert {user: person.held_out for user, person in bench.people.persons.items()} == last
    known = bench.people.known.interactions
    assert len(known) == len(log) - USERS
    assert not set(last.items()) & set(known.select("user_id", "item_id").iter_rows())
    assert all(len(person.history.items) == 6 for person in bench.people.persons.values())
    asked = [Query(bench.people.persons["u3"].history.items)]
    (mine,) = [prior for prior in bench.recommender.priors if prior.name == "transition"]
    without, whole = (Transition.fit(part, bench.catalog, window=5).log_weights(asked) for part in (known, log))
    assert np.array_equal(mine.log_weights(asked), without)
    assert not np.allclose(without, whole)


def test_users_are_found_and_follow_each_other(bench: Bench) -> None:
    assert bench.people.search("u1")[:3] == ["u1", "u10", "u11"]
    assert bench.people.search("3") == ["u3", "u13", "u23"]
    assert bench.people.search("U2", limit=1) == ["u2"]
    assert bench.people.search("nobody") == []
    users = list(bench.people.persons)
    assert bench.people.following(None, 2) == users[:2]
    assert bench.people.following(users[-1], 2) == users[:2]  # from the first on
    assert len(bench.people.following(None, 100)) == USERS


def test_items_are_found_by_the_beginnings_of_their_words(bench: Bench) -> None:
    def found(words: str) -> list[str]:
        return [item.title for item in bench.finder.find(words)]

    assert found("ali") == ["Alien", "Aliens", "The Alien Queen"]  # those that begin so first, the shortest first
    assert found("queen ALI") == ["The Alien Queen"]
    assert found("lien") == []
    assert found("m (19") == ["M (1931)"]  # no pattern
    assert found("七") == ["七人の侍"]
    assert found("  ") == []
    assert found("<script") == [HOSTILE]


def test_a_finder_knows_where_lines_end() -> None:
    finder = Finder(Catalog([Item("1", "Red"), Item("2", "Blue\nSea"), Item("3", "Sea")]))
    assert [item.id for item in finder.find("sea")] == ["3", "2"]
    assert [item.id for item in finder.find("red blue")] == []


def test_filters_are_offered(bench: Bench) -> None:
    found = filterable(bench.catalog)
    assert found["year"] == {"low": 1960, "high": 1989}
    assert set(found["genres"]["values"]) == {"War", "Drama", "Comedy"}


def test_an_answer_is_the_recommenders_own(bench: Bench) -> None:
    body = bench.answer(Question(arm=NEXT, user="u3", k=5))
    past = bench.people.persons["u3"].history
    query = Query(past.items, k=5, ratings=past.ratings, user_id="u3")
    answer = bench.recommender.recommend(query)
    assert [row["item"]["id"] for row in body["list"]["recommendations"]] == [place.item.id for place in answer]
    assert [row["score"] for row in body["list"]["recommendations"]] == [place.score for place in answer]
    assert body["list"]["exact"] == answer.exact
    fitted = bench.recommender.messages(query)
    assert body["prompt"]["messages"] == [{"role": one.role, "content": one.content} for one in fitted.messages]
    assert body["prompt"]["tokens"] == fitted.num_tokens and body["prompt"]["shown"] == 6
    first = answer[0].item
    (transition,) = [prior for prior in bench.recommender.priors if prior.name == "transition"]
    reasons = [bench.catalog.label(one.item) for one in transition.evidence(query, first)[:3]]
    assert body["evidence"][first.id] == reasons


def test_the_held_out_item_is_marked_with_its_place(bench: Bench) -> None:
    body = bench.answer(Question(arm=NEXT, user="u0", k=30))
    rows = [row["item"]["id"] for row in body["list"]["recommendations"]]
    assert len(rows) == 24  # all but the history
    assert body["held_out"]["id"] == "0" and body["held_out"]["rank"] == rows.index("0") + 1
    assert bench.answer(Question(arm=NEXT, history=["1"]))["held_out"] is None
    short = bench.answer(Question(arm=NEXT, user="u0", k=rows.index("0")))
    assert short["held_out"]["rank"] is None


def test_twice_the_weight_of_the_model_is_twice_its_part_of_the_score(bench: Bench) -> None:
    arms = [Arm(template="next_item", lm_weight=weight, priors={"transition": 0.0}) for weight in (0.5, 1.0)]
    once, twice = (bench.answer(Question(arm=arm, user="u3", k=30)) for arm in arms)
    parts = [{row["item"]["id"]: row["terms"] for row in body["list"]["recommendations"]} for body in (once, twice)]
    assert len(parts[0]) == 24
    for item, terms in parts[0].items():
        assert parts[1][item]["lm"] == pytest.approx(2 * terms["lm"])
        assert terms["transition"] == 0


def test_a_wording_of_the_page_is_what_the_model_reads_and_stands_in_no_file(bench: Bench) -> None:
    before = text(bench)
    mine = before.replace("Predict what", "Say, in capitals, what")
    body = bench.answer(Question(arm=Arm(template="next_item", text=mine), user="u3"))
    assert "Say, in capitals, what this person chooses next." in body["prompt"]["messages"][1]["content"]
    assert body["prompt"]["ref"] != bench.answer(Question(arm=NEXT, user="u3"))["prompt"]["ref"]
    assert text(bench) == before


def test_fewer_items_of_the_history_are_read_where_the_arm_says_so(bench: Bench) -> None:
    body = bench.answer(Question(arm=Arm(template="next_item", max_history=2), user="u3"))
    assert (body["prompt"]["shown"], body["prompt"]["most"], body["history"]["length"]) == (2, 2, 6)


def test_the_problems_of_a_wording_have_lines(bench: Bench) -> None:
    good = text(bench)
    assert bench.problems("next_item", good) == []
    bad = good.replace("{{ listing(history) }}", "{{ listing(histroy) }}")
    number = 1 + bad[: bad.index("histroy")].count("\n")
    (problem,) = bench.problems("next_item", bad)
    assert problem["line"] == number
    assert str(problem["message"]).startswith("'histroy' is not a variable of the task next_item")
    (unclosed,) = bench.problems("next_item", good + "{% if %}")
    assert unclosed["line"] == good.count("\n") + 1
    (other,) = bench.problems("next_item", good.replace("name: next_item", "name: another"))
    assert "must be the file's" in str(other["message"])
    (only_learned,) = bench.problems("describe", text(bench, "describe"))
    assert "take another one" in str(only_learned["message"])
    with pytest.raises(TemplateError, match="histroy"):
        bench.answer(Question(arm=Arm(template="next_item", text=bad), user="u3"))


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"user": "nobody"}, DataError, "no user 'nobody'"),
        ({"user": "u1", "history": ["1"]}, ConfigError, "not both"),
        ({"arm": Arm(template="next_item", priors={"ease": 1.0})}, ConfigError, "without the prior 'ease'"),
        ({"arm": Arm(template="rerank"), "user": "u1"}, ArgumentError, "add one"),
    ],
)
def test_what_cannot_be_asked_is_said(
    bench: Bench, asked: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        bench.answer(Question.model_validate({"arm": NEXT, **asked}))


def test_the_other_tasks_are_answered(bench: Bench) -> None:
    ranked = bench.answer(Question(arm=Arm(template="rerank"), user="u3", items=["5", "9", "12"]))
    assert sorted(row["item"]["id"] for row in ranked["list"]["recommendations"]) == ["12", "5", "9"]
    rated = bench.answer(Question(arm=Arm(template="rate_list"), user="u3", items=["5", "9"]))
    assert [row["item"]["id"] for row in rated["ratings"]] == ["5", "9"]
    assert all(sum(row["distribution"].values()) == pytest.approx(1) for row in rated["ratings"])
    told = bench.answer(Question(arm=Arm(template="explain"), user="u3", items=["5"]))
    assert (told["reason"]["text"], told["reason"]["source"]) == ("It fits what was taken before.", "model")
    wished = bench.answer(Question(arm=Arm(template="cold_start"), wish="alien", k=3))
    assert "Request: alien" in wished["prompt"]["messages"][1]["content"]


def test_models_are_named_as_options(shop: Shop) -> None:
    served = shop.settings.replace(adapter="runs/served")
    for text, engine, adapter in (
        ("hf:Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B", None),
        ("--adapter 'runs/my films'", "fake", "runs/my films"),
        ("--engine none", "none", None),
        ("--engine hf:M --adapter=runs/x", "hf:M", "runs/x"),
    ):
        made = settings_of(text, served)
        assert (made.engine, made.adapter, made.priors) == (engine, adapter, served.priors)
    for text, said in (
        ("--prompt next_item", "takes --engine and --adapter, not --prompt"),
        ("--engine", "has no value"),
        ("hf:M runs/x", "belongs to no option"),
        ("", "names a model"),
        ("'", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=said):
            settings_of(text, served)


def test_a_model_that_was_not_loaded_is_said_and_none_is_named_twice(bench: Bench, shop: Shop) -> None:
    with pytest.raises(ConfigError, match="without the model 'hf'; it has fake"):
        bench.answer(Question(arm=Arm(template="next_item", model="hf"), user="u3"))
    with pytest.raises(ConfigError, match="'fake' is named twice"):
        Bench.of(shop.workspace, shop.settings, shop.recommender(), [(shop.settings.replace(lm_weight=1), None)])


def test_without_a_model_the_priors_answer_and_nothing_is_read(shop: Shop) -> None:
    priors = shop.workspace.priors(shop.settings)
    alone = Bench.of(
        shop.workspace, shop.settings, type(shop.recommender())(shop.workspace.catalog, None, priors=priors)
    )
    body = alone.answer(Question(arm=NEXT, user="u3"))
    assert "prompt" not in body and body["list"]["exact"]
    assert alone.about()["engine"] is None
