"""Queries in, ranked items out: every route of the recommender, with a scripted or made-up model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmgen import recommender as module
from llmgen.catalog import Catalog
from llmgen.engines import GenerationConfig
from llmgen.engines.fake import ROLES, VOCABULARY, FakeEngine
from llmgen.errors import ConfigError, GenerationError, SearchError, UnknownItemError
from llmgen.priors import Popularity, Transition, Wish
from llmgen.recommender import Recommender
from llmgen.types import Completion, Item, Query

FILMS = Catalog(
    [
        Item("a", "Alien", {"year": 1979, "genres": ("Horror", "Sci-Fi"), "secret": "hidden"}),
        Item("b", "Brazil", {"year": 1985, "genres": ("Comedy", "Sci-Fi")}),
        Item("c", "Casablanca", {"year": 1942, "genres": ("Drama",)}),
        Item("d", "Dune", {"year": 1984, "genres": ("Sci-Fi",)}),
        Item("e", "Dune", {"year": 2021, "genres": ("Sci-Fi",)}),
        Item("f", "Fargo", {"year": 1996, "genres": ("Crime", "Comedy")}),
    ],
    noun="film",
    label="{title} ({year})",
    shown=("genres",),
)
LOG = pl.DataFrame(
    {
        "user_id": ["1", "1", "1", "2", "2"],
        "item_id": ["a", "d", "e", "a", "d"],
        "timestamp": [1.0, 2.0, 3.0, 1.0, 2.0],
        "rating": [4.0, 5.0, 3.0, 4.0, 2.0],
    }
)


def uniform(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> np.ndarray:
    return np.zeros(VOCABULARY)


def ids(answer: Sequence[object]) -> list[str]:
    return [place.item.id for place in answer]  # type: ignore[attr-defined]


@pytest.fixture
def recommender() -> Recommender:
    return Recommender(
        FILMS, FakeEngine(), priors=[Transition.fit(LOG, FILMS), Popularity.fit(LOG, FILMS, weight=-0.3)]
    )


class TestRecommend:
    def test_terms_add_up_to_the_score_and_probability_falls_with_rank(self, recommender: Recommender) -> None:
        answer = recommender.recommend(Query(history=[FILMS["a"]]))
        assert answer.exact
        for place in answer:
            assert place.terms.keys() == {"lm", "transition", "popularity"}
            assert sum(place.terms.values()) == pytest.approx(place.score)
            assert place.grounding.method == "trie"
        assert [place.rank for place in answer] == [1, 2, 3, 4, 5]
        assert sorted((place.probability for place in answer), reverse=True) == [p.probability for p in answer]
        assert sum(place.probability for place in answer) == pytest.approx(1)  # all that are left

    def test_many_are_answered_as_one_by_one_and_in_order(self, recommender: Recommender) -> None:
        queries = [Query(history=[item], k=1 + number) for number, item in enumerate(FILMS)]
        assert recommender.recommend_many(queries, progress=True) == [recommender.recommend(q) for q in queries]

    def test_seen_items_come_again_only_where_asked_for(self, recommender: Recommender) -> None:
        history = [FILMS["a"], FILMS["b"]]
        assert sorted(ids(recommender.recommend(Query(history=history)))) == ["c", "d", "e", "f"]
        assert sorted(ids(recommender.recommend(Query(history=history, exclude_seen=False)))) == list("abcdef")

    def test_filters_are_exact(self, recommender: Recommender) -> None:
        query = Query(filters={"genres": "Sci-Fi", "year": "1980..1990"})
        assert sorted(ids(recommender.recommend(query))) == ["b", "d"]

    def test_nothing_eligible_is_an_error(self, recommender: Recommender) -> None:
        with pytest.raises(SearchError, match="no item is eligible"):
            recommender.recommend(Query(history=list(FILMS)))

    def test_items_of_one_title_are_told_apart_by_year(self) -> None:
        spelled = Recommender(FILMS, FakeEngine()).trie
        assert len({spelled.path(i) for i in range(len(FILMS))}) == 6

    def test_without_an_engine_the_priors_alone_recommend(self) -> None:
        priors = [Transition.fit(LOG, FILMS)]
        answer = Recommender(FILMS, None, priors=priors).recommend(Query(history=[FILMS["a"]], k=2))
        assert ids(answer)[0] == "d"  # what both users took after a
        assert (answer.exact, answer.prompt, answer[0].grounding.method) == (True, "", "prior")
        assert answer[0].terms.keys() == {"transition"}

    def test_weight_zero_asks_no_model(self) -> None:
        def never(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> np.ndarray:
            raise AssertionError("asked")

        recommender = Recommender(FILMS, FakeEngine(logits=never), lm_weight=0.0, priors=[Popularity.fit(LOG, FILMS)])
        assert set(ids(recommender.recommend(Query(k=2)))) == {"a", "d"}

    def test_inputs_are_not_changed_and_answers_are_frozen(self, recommender: Recommender) -> None:
        history = [FILMS["a"]]
        answer = recommender.recommend(Query(history=history))
        assert history == [FILMS["a"]]
        with pytest.raises(AttributeError):
            answer[0].rank = 7  # type: ignore[misc]

    @pytest.mark.parametrize("exclude_seen", [True, False])
    def test_a_thousand_queries_with_filters_break_no_rule(self, recommender: Recommender, exclude_seen: bool) -> None:
        rng = np.random.default_rng(0)
        queries = [
            Query(
                history=[FILMS[int(i)] for i in rng.integers(0, 6, size=rng.integers(0, 3))],
                k=int(rng.integers(1, 8)),
                filters={} if rng.random() < 0.5 else {"genres": ("Sci-Fi", "Drama")},
                exclude_seen=exclude_seen,
            )
            for _ in range(500)
        ]
        for query, answer in zip(queries, recommender.recommend_many(queries), strict=True):
            allowed = {i.id for i in FILMS if not query.filters or {"Sci-Fi", "Drama"} & set(i.attributes["genres"])}  # type: ignore[arg-type]
            allowed -= {item.id for item in query.history} if exclude_seen else set()
            found = ids(answer)
            assert len(found) == len(set(found)) == min(query.k, len(allowed))
            assert set(found) <= allowed


class TestPrompts:
    def text(self, recommender: Recommender, query: Query) -> str:
        return "\n".join(message.content for message in recommender.messages(query).messages)

    def test_ids_and_attributes_that_are_not_shown_stay_out(self, recommender: Recommender) -> None:
        text = self.text(recommender, Query(history=[FILMS["a"]], user_id="user-4711"))
        assert "Alien (1979)" in text
        assert "4711" not in text and "hidden" not in text

    def test_a_long_history_is_cut_at_the_old_end_by_whole_items(self) -> None:
        history = [Item(str(i), f"Film number {i}") for i in range(100)]
        engine = FakeEngine(max_tokens=700)
        recommender = Recommender(FILMS, engine, max_history=100)
        fitted = recommender.messages(Query(history=history))
        shown = [line[2:] for line in fitted.messages[-1].content.splitlines() if line.startswith("- ")]
        assert 0 < len(shown) < 100
        assert shown == [item.title for item in history[-len(shown) :]]
        assert len(engine.tokenize(fitted.messages)) == fitted.num_tokens <= 700
        assert recommender.recommend(Query(history=history)).history_used == len(shown)

    def test_max_history_counts_from_the_newest(self) -> None:
        recommender = Recommender(FILMS, FakeEngine(), max_history=2)
        text = self.text(recommender, Query(history=[FILMS["a"], FILMS["b"], FILMS["c"]]))
        assert "Alien" not in text and "Brazil" in text and "Casablanca" in text

    def test_with_prompt_replaces_the_prompt_of_its_task_alone(self, recommender: Recommender) -> None:
        other = recommender.with_prompt("cold_start")
        assert other.template().name == "cold_start"
        assert other.template("rate").name == "rate"
        assert recommender.template().name == "next_item"
        assert other.recommend(Query(text="space")).prompt == other.template().ref

    def test_two_prompts_for_one_task_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="both for 'recommend'"):
            Recommender(FILMS, FakeEngine(), prompt=("next_item", "cold_start"))

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.sampled_from(["<|im_end|>", "<|im_start|>system\n", "{{ 7*7 }}", "{% raw %}", "a", "\n", "|"])))
    def test_no_title_or_wish_adds_a_control_token(self, tiny_model: Path, pieces: list[str]) -> None:
        engine = hf(tiny_model)
        nasty = "".join(pieces) + "x"
        recommender = Recommender(FILMS, engine)

        def control(title: str, wish: str) -> list[int]:
            fitted = recommender.messages(Query(history=[Item("z", title)], text=wish))
            tokens = engine.tokenize(fitted.messages)
            assert "49" not in fitted.messages[-1].content
            return [token for token in tokens if token in engine._tokenizer.added_tokens_decoder]

        assert control(nasty, nasty) == control("plain", "plain")


def hf(folder: Path, known: dict[Path, object] = {}):  # type: ignore[no-untyped-def]  # noqa: B006
    from llmgen.engines.hf import HFEngine

    if folder not in known:
        known[folder] = HFEngine.load(str(folder))
    return known[folder]


class TestRank:
    def test_every_candidate_comes_once_seen_or_not(self, recommender: Recommender) -> None:
        answer = recommender.rank(Query(history=[FILMS["a"]], k=1), ["a", "c", FILMS["f"], "c"])
        assert sorted(ids(answer)) == ["a", "c", "f"]
        assert answer.exact
        assert answer.prompt == recommender.template("rank").ref

    def test_a_candidate_that_is_not_in_the_catalog_is_named(self, recommender: Recommender) -> None:
        with pytest.raises(UnknownItemError, match="'nope'"):
            recommender.rank(Query(), ["a", "nope"])

    def test_no_candidates_are_refused(self, recommender: Recommender) -> None:
        with pytest.raises(ValueError, match="no candidates"):
            recommender.rank(Query(), [])

    def test_without_an_engine_the_priors_rank(self) -> None:
        recommender = Recommender(FILMS, None, priors=[Transition.fit(LOG, FILMS)])
        assert ids(recommender.rank(Query(history=[FILMS["a"]]), ["c", "d"])) == ["d", "c"]


class TestRate:
    def test_distribution_mean_mode_and_label_mass_by_hand(self) -> None:
        def logits(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> np.ndarray:
            scores = np.full(VOCABULARY, -np.inf)
            scores[[ord("1"), ord("2"), ord("x")]] = np.log([0.1, 0.3, 0.6])  # x is no rating
            return scores

        rating = Recommender(FILMS, FakeEngine(logits=logits)).rate(Query(), "a", labels=("1", "2"))
        assert rating.distribution == pytest.approx({"1": 0.25, "2": 0.75})
        assert rating.mean == pytest.approx(0.25 * 1 + 0.75 * 2)
        assert (rating.mode, rating.label_mass) == (2.0, pytest.approx(0.4))

    def test_labels_that_begin_each_other_are_told_apart_by_the_end(self) -> None:
        labels = tuple(str(i) for i in range(1, 11))
        rating = Recommender(FILMS, FakeEngine(logits=uniform)).rate(Query(), "a", labels=labels)
        assert sum(rating.distribution.values()) == pytest.approx(1)
        # 1/9 for each first digit; after "1" a uniform model ends or goes on with 0 alike
        assert rating.distribution["1"] == pytest.approx(1 / 18)
        assert rating.distribution["10"] == pytest.approx(1 / 18)
        assert rating.distribution["9"] == pytest.approx(1 / 9)

    def test_ratings_of_the_history_stand_in_the_prompt(self) -> None:
        prompts = []

        def logits(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> np.ndarray:
            prompts.append(bytes(token for token in prompt if token < 256).decode())
            return np.zeros(VOCABULARY)

        Recommender(FILMS, FakeEngine(logits=logits)).rate(Query(history=[FILMS["a"]], ratings=[4.0]), "b")
        assert "Alien (1979): 4" in prompts[0]
        assert "Brazil (1985)" in prompts[0]

    @pytest.mark.parametrize("labels", [("1",), ("1", "1"), ("good", "bad")])
    def test_unusable_labels_are_refused(self, labels: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match="labels must be"):
            Recommender(FILMS, FakeEngine()).rate(Query(), "a", labels=labels)

    def test_rating_needs_a_model(self) -> None:
        with pytest.raises(ConfigError, match="without an engine"):
            Recommender(FILMS, None).rate(Query(), "a")


class TestExplain:
    def test_evidence_is_what_the_prior_says_strongest_first(self) -> None:
        recommender = Recommender(FILMS, FakeEngine(["Because."]), priors=[Transition.fit(LOG, FILMS)])
        explanation = recommender.explain(Query(history=[FILMS["c"], FILMS["a"]]), "d")
        assert explanation.text == "Because."
        assert [item.id for item in explanation.evidence] == ["a"]  # nobody took d after c

    def test_without_such_a_prior_the_newest_items_are_the_evidence(self) -> None:
        recommender = Recommender(FILMS, FakeEngine(["Because."]))
        explanation = recommender.explain(Query(history=[FILMS["a"], FILMS["b"], FILMS["c"], FILMS["f"]]), "d")
        assert [item.id for item in explanation.evidence] == ["f", "c", "b"]

    def test_an_unfinished_answer_ends_with_its_last_whole_sentence(self) -> None:
        class Chatty(FakeEngine):
            def generate(self, prompts: Sequence[tuple[int, ...]], config: GenerationConfig) -> list[Completion]:
                return [Completion("You like space. It is also very", 9, finished=False)]

        explanation = Recommender(FILMS, Chatty()).explain(Query(history=[FILMS["a"]]), "d")
        assert explanation.text == "You like space."

    def test_silence_is_an_error(self) -> None:
        with pytest.raises(GenerationError, match="wrote nothing for 'Dune'"):
            Recommender(FILMS, FakeEngine([" \n"])).explain(Query(history=[FILMS["a"]]), "d")


class TestFree:
    LIST = "1. Brazil (1985)\n2. alien\n3. Brazil\n4. The Unheard Of\n5. Casblanca (1942)\n"

    def free(self, text: str) -> Recommender:
        return Recommender(FILMS, FakeEngine([text]), decoding="free", priors=[Popularity.fit(LOG, FILMS)])

    def test_lines_are_grounded_doubles_dropped_and_empty_places_filled_by_the_prior(self) -> None:
        answer = self.free(self.LIST).recommend(Query(history=[FILMS["a"]], k=4))
        assert [(place.item.id, place.grounding.method) for place in answer] == [
            ("b", "exact"),
            ("c", "bm25"),
            ("d", "prior"),  # the most popular one not seen
            ("e", "prior"),
        ]
        assert [line.text for line in answer.dropped] == ["2. alien", "3. Brazil", "4. The Unheard Of"]
        assert not answer.exact

    def test_a_place_has_no_probability_and_scores_fall(self) -> None:
        answer = self.free(self.LIST).recommend(Query(k=3))
        assert all(math.isnan(place.probability) for place in answer)
        assert [place.score for place in answer] == sorted((place.score for place in answer), reverse=True)
        assert [place.score for place in answer] == [sum(place.terms.values()) for place in answer]

    def test_filters_hold(self) -> None:
        answer = self.free(self.LIST).recommend(Query(k=6, filters={"genres": "Sci-Fi"}))
        assert sorted(ids(answer)) == ["a", "b", "d", "e"]

    def test_needs_a_model(self) -> None:
        with pytest.raises(ConfigError, match="free decoding needs an engine"):
            Recommender(FILMS, None, decoding="free")


class TestTune:
    def test_a_prior_that_helps_gets_weight_and_a_model_that_does_not_gets_none(self) -> None:
        recommender = Recommender(FILMS, FakeEngine(), priors=[Transition.fit(LOG, FILMS, weight=0.0)])
        queries = [Query(history=[FILMS["a"]])] * 5
        tuned = recommender.tune(queries, ["d"] * 5, k=1, lm_weights=(5.0,))
        assert tuned.score == 1.0
        assert tuned.recommender.priors[0].weight > 0
        assert tuned.lm_scores[0.0] == 1.0
        assert tuned.recommender.config.lm_weight == 0.0 or tuned.lm_scores[5.0] > 1.0

    def test_without_an_engine_only_the_priors_are_tuned(self) -> None:
        recommender = Recommender(FILMS, None, priors=[Transition.fit(LOG, FILMS), Wish(FILMS)])
        tuned = recommender.tune([Query(history=[FILMS["a"]], text="horror")], ["d"], k=1)
        assert tuned.lm_scores == {}
        assert [prior.name for prior in tuned.recommender.priors] == ["transition", "wish"]


def test_the_trie_of_a_large_catalog_is_stored_and_not_spelled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL_CATALOG", 3)
    first = Recommender(FILMS, FakeEngine(), cache=tmp_path).recommend(Query())

    class Mute(FakeEngine):
        def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
            raise AssertionError("spelled again")

    assert ids(Recommender(FILMS, Mute(), cache=tmp_path).recommend(Query())) == ids(first)


@pytest.mark.parametrize("change", [{"decoding": "beam"}, {"max_history": -1}, {"lm_weight": -0.1}])
def test_settings_out_of_range_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Recommender(FILMS, FakeEngine(), **change)  # type: ignore[arg-type]


def test_roles_are_tokens_that_no_text_spells() -> None:
    assert min(ROLES.values()) > 255
