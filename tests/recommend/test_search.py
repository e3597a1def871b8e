"""The search finds what scoring every item would find, and its certificate never lies."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.engines import Step
from llmgen.engines.fake import VOCABULARY, FakeEngine
from llmgen.errors import SearchError
from llmgen.search import Request, SearchConfig, SearchResult, rank_by_prior, search
from llmgen.trie.core import ItemTrie
from llmgen.trie.mass import DenseMass, mass_of
from llmgen.trie.weights import ItemWeights, Shared
from tests.reference import item_logprobs

PROMPT = (9,)
MODES = list(product(("trie", "raw"), ("catalog", "eligible")))


def level(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> np.ndarray:
    """Logits of a model without any preference."""
    return np.zeros(VOCABULARY)


def true_scores(
    paths: list[tuple[int, ...]],
    engine: FakeEngine,
    log_prior: np.ndarray,
    config: SearchConfig,
    prompt: tuple[int, ...] = PROMPT,
) -> tuple[np.ndarray, np.ndarray]:
    """Score and log P_LM of every item by brute force."""

    def next_logprobs(suffix: tuple[int, ...]) -> np.ndarray:
        return engine.next_logprobs([Step(prompt, suffix, np.arange(VOCABULARY), full=True)])[0]

    mode = "raw" if config.mode == "raw" else "trie"
    lm = item_logprobs(paths, next_logprobs, mode, config.normalise, log_prior)
    return np.where(log_prior > -np.inf, config.lm_weight * np.where(np.isneginf(lm), 0, lm) + log_prior, -np.inf), lm


def one(
    paths: list[tuple[int, ...]], engine: FakeEngine, log_prior: np.ndarray, k: int, c: SearchConfig
) -> SearchResult:
    return search(ItemTrie.build(paths), engine, [Request(PROMPT, log_prior, k)], c)[0]


@st.composite
def log_priors(draw: st.DrawFn, num_items: int) -> np.ndarray:
    weight = st.one_of(st.just(-np.inf), st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-5, 5))  # some of them tie
    log_prior = np.array(draw(st.lists(weight, min_size=num_items, max_size=num_items)))
    log_prior[draw(st.integers(0, num_items - 1))] = 0.0  # one at least is eligible
    return log_prior


@st.composite
def batches(draw: st.DrawFn, most: int = 6) -> tuple[list[tuple[int, ...]], FakeEngine, list[Request], SearchConfig]:
    token = st.integers(1, 4)
    path = st.lists(token, min_size=1, max_size=5).map(lambda tokens: (*tokens, 0))
    paths = draw(st.lists(path, min_size=1, max_size=30))
    mode, normalise = draw(st.sampled_from(MODES))
    config = SearchConfig(
        mode,
        normalise,
        lm_weight=draw(st.sampled_from([0.0, 0.3, 1.0, 2.0])),
        num_beams=draw(st.integers(1, 6)),
        exact=draw(st.booleans()),
    )
    prompts = st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple) if most > 1 else st.just(PROMPT)
    own = st.sampled_from([None, None, 0.0, 0.2, 1.7])  # a weight of the model for this request
    request = st.builds(Request, prompts, log_priors(len(paths)), st.sampled_from([1, 2, 3, 8, 40]), lm_weight=own)
    requests = draw(st.lists(request, min_size=1, max_size=most))
    logits = draw(st.sampled_from([None, None, level]))
    engine = FakeEngine(logits=logits, seed=draw(st.integers(0, 1000)), batch_tokens=draw(st.sampled_from([1, 4, 99])))
    return paths, engine, requests, config


def check(
    paths: list[tuple[int, ...]], engine: FakeEngine, request: Request, config: SearchConfig, result: SearchResult
) -> None:
    """That a result agrees with scoring every item."""
    config = config if request.lm_weight is None else replace(config, lm_weight=request.lm_weight)
    scores, lm = true_scores(paths, engine, request.log_prior, config, request.prompt)
    assert len(result.items) == min(request.k, int((request.log_prior > -np.inf).sum()))
    assert len(set(result.items.tolist())) == len(result.items)
    assert result.scores == pytest.approx(scores[result.items])
    places = [(-score, item) for score, item in zip(result.scores.tolist(), result.items.tolist(), strict=True)]
    assert places == sorted(places)
    if config.lm_weight:
        assert result.lm_logprobs == pytest.approx(lm[result.items])
    if config.exact:
        assert result.exact
    if result.exact:
        assert result.scores == pytest.approx(np.sort(scores)[::-1][: len(result.items)])


@st.composite
def sparse_forms(draw: st.DrawFn, log_priors: list[np.ndarray]) -> list[ItemWeights]:
    """The same weights, written beside one or two arrays that say something else of the requests' own items."""
    num_items = len(log_priors[0])
    weight = st.sampled_from([-np.inf, -2.0, 0.0, 3.0])
    arrays = st.lists(weight, min_size=num_items, max_size=num_items).map(np.array)
    shared = draw(st.lists(st.builds(Shared, arrays), min_size=1, max_size=2))
    forms = []
    for log_prior in log_priors:
        chosen = draw(st.sampled_from(shared))
        rest = draw(st.sampled_from([0.0, -0.7, 2.0]))
        says_so = chosen.log_weights + rest == log_prior
        more = np.array(draw(st.lists(st.booleans(), min_size=num_items, max_size=num_items)))
        items = np.flatnonzero(~says_so | more)
        forms.append(ItemWeights(chosen, rest, items, log_prior[items]))
    return forms


@settings(max_examples=150, deadline=None)
@given(st.data(), batches())
def test_weights_beside_shared_ones_find_the_same(
    data: st.DataObject, problem: tuple[list[tuple[int, ...]], FakeEngine, list[Request], SearchConfig]
) -> None:
    paths, engine, requests, config = problem
    forms = data.draw(sparse_forms([request.log_prior for request in requests]))
    trie = ItemTrie.build(paths)
    results = search(trie, engine, [replace(r, log_prior=f) for r, f in zip(requests, forms, strict=True)], config)
    for request, form, result in zip(requests, forms, results, strict=True):
        np.testing.assert_array_equal(form.dense(), request.log_prior)
        check(paths, engine, request, config, result)
        dense = rank_by_prior(request.log_prior, request.k)
        for one_field, other_field in zip(dense, rank_by_prior(form, request.k), strict=True):
            np.testing.assert_allclose(one_field, other_field, rtol=0, atol=1e-9)


@settings(max_examples=150, deadline=None)
@given(st.data(), batches())
def test_both_forms_weigh_every_node_alike(
    data: st.DataObject, problem: tuple[list[tuple[int, ...]], FakeEngine, list[Request], SearchConfig]
) -> None:
    paths, _, requests, _ = problem
    trie = ItemTrie.build(paths)
    log_priors = [request.log_prior for request in requests]
    dense, sparse = DenseMass(trie, log_priors), mass_of(trie, data.draw(sparse_forms(log_priors)))
    np.testing.assert_array_equal(dense.count, sparse.count)
    start, end = 0, 1
    while start < end:  # level by level: there no item is below two nodes
        nodes = np.arange(start, end)
        owner, node = np.repeat(np.arange(len(requests)), len(nodes)), np.tile(nodes, len(requests))
        one, other = dense.below(owner, node), sparse.below(owner, node)
        np.testing.assert_array_equal(one.size, other.size)
        np.testing.assert_allclose(one.log_mass, other.log_mass, rtol=0, atol=1e-9)
        assert (other.best >= one.best).all()
        np.testing.assert_array_equal(np.isneginf(other.best), np.isneginf(one.best))
        for these, those in zip(dense.items(owner, node), sparse.items(owner, node), strict=True):
            np.testing.assert_array_equal(these, those)
        start, end = end, int(trie.first[end])


def test_a_sum_of_few_small_weights_beside_large_ones_of_others_is_not_lost() -> None:
    trie = ItemTrie.build([(1, 0), (2, 0), (3, 0)])
    shared = Shared(np.array([0.0, -60.0, -900.0]))
    mass = mass_of(trie, [ItemWeights(shared, 0.0, np.array([0]), np.array([-np.inf]))])
    root, node = mass.below(np.array([0]), np.array([0])), mass.below(np.array([0]), np.array([3]))
    assert [*root.log_mass, *node.log_mass] == pytest.approx([-60.0, -900.0])


@settings(max_examples=400, deadline=None)
@given(batches(most=1))
def test_scores_are_right_and_the_certificate_never_lies(
    problem: tuple[list[tuple[int, ...]], FakeEngine, list[Request], SearchConfig],
) -> None:
    paths, engine, (request,), config = problem
    check(paths, engine, request, config, search(ItemTrie.build(paths), engine, [request], config)[0])


@settings(max_examples=200, deadline=None)
@given(batches(most=1))
def test_an_item_may_end_with_another_token_than_the_paths_of_the_trie(
    problem: tuple[list[tuple[int, ...]], FakeEngine, list[Request], SearchConfig],
) -> None:
    paths, engine, (request,), config = problem
    broken = 10  # in no path
    result = search(ItemTrie.build(paths), engine, [request], config, end=broken)[0]
    check([(*path[:-1], broken) for path in paths], engine, request, config, result)


@settings(max_examples=200, deadline=None)
@given(batches())
def test_no_answer_depends_on_the_company_and_all_are_right(
    problem: tuple[list[tuple[int, ...]], FakeEngine, list[Request], SearchConfig],
) -> None:
    paths, engine, requests, config = problem
    trie = ItemTrie.build(paths)
    for request, result in zip(requests, search(trie, engine, requests, config), strict=True):
        check(paths, engine, request, config, result)
        (alone,) = search(trie, engine, [request], config)
        for one_field, other_field in zip(alone, result, strict=True):
            np.testing.assert_array_equal(one_field, other_field)


def test_equal_scores_stand_in_catalog_order_wherever_the_trie_has_them() -> None:
    result = one([(3, 0), (4, 0), (1, 0), (2, 0)], FakeEngine(logits=level), np.zeros(4), 3, SearchConfig())
    assert result.items.tolist() == [0, 1, 2]
    assert result.exact


def test_of_two_equal_nodes_the_first_in_the_trie_is_opened() -> None:
    paths = [(2, 1, 0), (2, 2, 0), (1, 1, 0), (1, 2, 0)]
    result = one(paths, FakeEngine(logits=level), np.zeros(4), 1, SearchConfig(num_beams=1))
    assert result.items.tolist() == [2]
    assert not result.exact


def test_of_two_equal_nodes_the_child_of_the_better_one_is_opened() -> None:
    paths = [(top, middle, last, 0) for top in (1, 2) for middle in (1, 2) for last in (1, 2)] + [(1, 3, 0), (2, 3, 0)]
    log_prior = np.array([0.0] * 8 + [-9.0, 1.0])  # so that node 2 is better than node 1, their other children are not
    result = one(paths, FakeEngine(logits=level), log_prior, 3, SearchConfig(num_beams=2))
    assert result.items.tolist() == [9, 4, 5]
    assert (result.exact, result.num_rounds) == (False, 3)


def test_a_node_that_can_only_tie_is_not_opened() -> None:
    paths = [(1, 0), (2, 1, 0), (2, 2, 0)]
    result = one(paths, FakeEngine(logits=level), np.zeros(3), 1, SearchConfig(exact=True))
    assert result.items.tolist() == [0]
    assert (result.exact, result.num_rounds) == (True, 1)


@pytest.mark.parametrize("config", [SearchConfig(exact=True), SearchConfig(num_beams=4)])
def test_proven_answers_of_close_races_are_the_best(config: SearchConfig) -> None:
    rng = np.random.default_rng(7)
    proven = 0
    for seed in range(15):
        paths = [(*map(int, rng.integers(1, 4, size=5)), 0) for _ in range(80)]
        priors = rng.normal(size=(3, 80)) * [[0.01], [0.3], [2.0]]
        requests = [Request((i,), prior, 4 + i) for i, prior in enumerate(priors)]
        engine = FakeEngine(seed=seed)
        for request, result in zip(requests, search(ItemTrie.build(paths), engine, requests, config), strict=True):
            check(paths, engine, request, config, result)
            proven += result.exact
    assert proven == 45 if config.exact else 5 < proven < 40


def test_requests_that_need_more_rounds_go_on_without_the_others() -> None:
    rng = np.random.default_rng(5)
    paths = [(*map(int, rng.integers(1, 6, size=4)), 0) for _ in range(300)]
    requests = [Request((i,), np.where(rng.random(300) < share, 0.0, -np.inf), 5) for i, share in enumerate((1, 0.02))]
    asked: list[set[tuple[int, ...]]] = []

    class Listening(FakeEngine):
        def next_logprobs(self, steps):  # type: ignore[no-untyped-def]
            asked.append({step.prompt for step in steps})
            return super().next_logprobs(steps)

    results = search(ItemTrie.build(paths), Listening(), requests, SearchConfig(num_beams=2))
    for request, result in zip(requests, results, strict=True):
        assert result.num_rounds == sum(request.prompt in prompts for prompts in asked)
    assert results[0].num_rounds != results[1].num_rounds


@pytest.mark.parametrize("exact", [False, True])
def test_requests_that_ask_about_one_node_share_the_array_of_its_tokens(exact: bool) -> None:
    arrays: dict[tuple[int, ...], set[int]] = {}
    kept = []

    class Listening(FakeEngine):
        def next_logprobs(self, steps):  # type: ignore[no-untyped-def]
            kept.extend(steps)
            for step in steps:
                arrays.setdefault(step.suffix, set()).add(id(step.wanted))
            return super().next_logprobs(steps)

    rng = np.random.default_rng(6)
    paths = [(*map(int, rng.integers(1, 4, size=4)), 0) for _ in range(60)]
    requests = [Request((i,), rng.normal(size=60), 3) for i in range(5)]
    search(ItemTrie.build(paths), Listening(batch_tokens=2), requests, SearchConfig(num_beams=3, exact=exact))
    assert {len(ids) for ids in arrays.values()} == {1}


@pytest.mark.parametrize(("mode", "normalise"), MODES)
def test_opening_everything_gives_probabilities_that_sum_to_one(mode: str, normalise: str) -> None:
    rng = np.random.default_rng(0)
    paths = [(*map(int, rng.integers(1, 5, size=4)), 0) for _ in range(30)]
    log_prior = np.where(rng.random(30) < 0.3, -np.inf, rng.normal(size=30))
    result = one(paths, FakeEngine(), log_prior, 30, SearchConfig(mode, normalise))
    assert result.probabilities.sum() == pytest.approx(1)
    assert result.probabilities == pytest.approx(np.exp(result.scores) / np.exp(result.scores).sum())


def test_with_a_flat_prior_the_probability_is_the_models_own_over_the_catalog() -> None:
    rng = np.random.default_rng(1)
    paths = [(*map(int, rng.integers(1, 5, size=5)), 0) for _ in range(200)]
    result = one(paths, FakeEngine(), np.zeros(200), 3, SearchConfig(num_beams=3))
    assert result.probabilities == pytest.approx(np.exp(result.lm_logprobs))


def test_probabilities_of_all_items_sum_to_one_without_any_softmax() -> None:
    rng = np.random.default_rng(2)
    paths = [(*map(int, rng.integers(1, 4, size=3)), 0) for _ in range(50)]  # 27 paths at most: titles repeat
    result = one(paths, FakeEngine(), np.zeros(50), 50, SearchConfig())
    assert np.exp(result.lm_logprobs).sum() == pytest.approx(1)


def test_forced_tokens_cost_nothing() -> None:
    engine = FakeEngine()
    result = one([(1, 2, 3, 4, 0), (5, 0)], engine, np.zeros(2), 2, SearchConfig())
    logits = engine.next_logprobs([Step(PROMPT, (), np.array([1, 5]))])[0]
    by_item = dict(zip(result.items.tolist(), result.lm_logprobs.tolist(), strict=True))
    assert by_item[0] == pytest.approx(logits[0] - np.logaddexp(*logits))
    assert result.num_rounds == 1


@pytest.mark.parametrize(("normalise", "num_rounds"), [("catalog", 3), ("eligible", 2)])
def test_tokens_that_several_items_share_are_followed_to_where_they_part(normalise: str, num_rounds: int) -> None:
    paths = [(1, 2, 3, 4, 0), (1, 2, 3, 5, 0), (1, 2, 6, 0), (7, 8, 0), (7, 8, 0)]  # the last two never part
    log_prior = np.array([0, 0, -np.inf, 0, 0])  # where only eligible items count, the third parts from nothing
    result = one(paths, FakeEngine(), log_prior, 4, SearchConfig(normalise=normalise))
    assert sorted(result.items.tolist()) == [0, 1, 3, 4]
    assert result.num_rounds == num_rounds


def test_one_item_is_certain_without_asking_the_model() -> None:
    result = one([(1, 2, 0)], FakeEngine(), np.zeros(1), 10, SearchConfig())
    assert result.items.tolist() == [0]
    assert result.lm_logprobs.tolist() == [0.0]
    assert result.probabilities.tolist() == [1.0]
    assert (result.exact, result.num_rounds) == (True, 0)


def test_a_batch_of_unequal_prompts_gives_what_each_gives_alone() -> None:
    rng = np.random.default_rng(3)
    paths = [(*map(int, rng.integers(1, 6, size=4)), 0) for _ in range(100)]
    trie = ItemTrie.build(paths)
    requests = [Request((9,) * (1 + i % 5), rng.normal(size=100), 1 + i) for i in range(12)]
    together = search(trie, FakeEngine(batch_tokens=7), requests, SearchConfig())
    for request, result in zip(requests, together, strict=True):
        (alone,) = search(trie, FakeEngine(), [request], SearchConfig())
        for one_field, other_field in zip(alone, result, strict=True):
            np.testing.assert_array_equal(one_field, other_field)


def test_a_short_answer_in_company_of_a_long_one_opens_no_more_nodes_than_alone() -> None:
    rng = np.random.default_rng(8)
    paths = [(*map(int, rng.integers(1, 90, size=3)), 0) for _ in range(2000)]
    trie = ItemTrie.build(paths)
    requests = [Request((k,), rng.normal(size=2000), k) for k in (1, 40)]
    together = search(trie, FakeEngine(), requests, SearchConfig())
    alone = [search(trie, FakeEngine(), [request], SearchConfig())[0] for request in requests]
    for one_result, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one_result.probabilities, other.probabilities)


def test_a_batch_holds_no_more_prompt_tokens_than_the_engine_allows() -> None:
    class Counting(FakeEngine):
        most = 0

        def next_logprobs(self, steps):  # type: ignore[no-untyped-def]
            self.most = max(self.most, sum(map(len, {step.prompt for step in steps})))
            return super().next_logprobs(steps)

    engine = Counting(batch_tokens=10)
    requests = [Request((i, i, i), np.zeros(3), 2) for i in range(20)]
    search(ItemTrie.build([[1, 0], [2, 0], [3, 0]]), engine, requests, SearchConfig())
    assert engine.most == 9


def test_ten_thousand_random_requests_give_no_invalid_no_double_and_no_filtered_item() -> None:
    rng = np.random.default_rng(4)
    paths = [(*map(int, rng.integers(1, 7, size=rng.integers(1, 5))), 0) for _ in range(150)]
    trie = ItemTrie.build(paths)
    table = 3 * rng.standard_normal((97, VOCABULARY))  # quicker than the default, and no less arbitrary
    engine = FakeEngine(logits=lambda prompt, suffix: table[hash((prompt, suffix)) % 97])
    invalid = double = filtered = wrong_length = 0
    for _ in range(10):
        priors = np.where(rng.random((1000, 150)) < rng.random((1000, 1)), -np.inf, rng.normal(size=(1000, 150)))
        priors[np.arange(1000), rng.integers(0, 150, size=1000)] = 0.0
        requests = [Request((i % 89,), prior, int(rng.integers(1, 12))) for i, prior in enumerate(priors)]
        for request, result in zip(requests, search(trie, engine, requests, SearchConfig()), strict=True):
            items = result.items.tolist()
            invalid += sum(not 0 <= item < 150 for item in items)
            double += len(items) - len(set(items))
            filtered += int(np.isneginf(request.log_prior[items]).sum())
            wrong_length += len(items) != min(request.k, int((request.log_prior > -np.inf).sum()))
    assert (invalid, double, filtered, wrong_length) == (0, 0, 0, 0)


def test_without_a_model_the_largest_weights_win_and_ties_stay_in_catalog_order() -> None:
    result = rank_by_prior(np.log([0.2, 0.4, 0.2, 0.2]), 3)
    assert result.items.tolist() == [1, 0, 2]
    assert result.probabilities == pytest.approx([0.4, 0.2, 0.2])
    assert result.exact


def test_a_tie_order_decides_between_equal_weights_and_changes_no_score() -> None:
    log_prior, order = np.log([0.2, 0.4, 0.2, 0.2, 0.1, 1e-300]), np.array([3.0, 9.0, 1.0, 2.0, 0.0, 0.5])
    log_prior[5] = -np.inf  # removed, and so nowhere
    forms = [
        log_prior,
        ItemWeights(Shared(np.full(6, np.log(0.2) - 1)), 1.0, np.array([1, 4, 5]), log_prior[[1, 4, 5]]),
    ]
    for form in forms:
        for k, items in ((1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 3, 0]), (6, [1, 2, 3, 0, 4])):
            result, before = rank_by_prior(form, k, order), rank_by_prior(form, k)
            assert result.items.tolist() == items
            assert result.scores == pytest.approx(before.scores.tolist())
            assert result.probabilities == pytest.approx(before.probabilities.tolist())


def test_a_tie_order_decides_between_items_of_one_spelling_for_each_request_alone() -> None:
    paths = [(1, 0), (2, 0), (2, 0), (2, 0)]
    orders = [None, np.array([0.0, 3.0, 1.0, 2.0]), np.array([9.0, 2.0, 3.0, 1.0])]
    likes_two = np.zeros(VOCABULARY)
    likes_two[2] = 5.0
    engine = FakeEngine(logits=lambda prompt, suffix: likes_two)
    requests = [Request(PROMPT, np.zeros(4), 4, order) for order in orders]
    results = search(ItemTrie.build(paths), engine, requests, SearchConfig())
    assert [result.items.tolist() for result in results] == [[1, 2, 3, 0], [2, 3, 1, 0], [3, 1, 2, 0]]
    assert len({tuple(result.scores) for result in results}) == 1
    assert all(result.exact for result in results)


def test_weight_zero_does_not_ask_the_model() -> None:
    def never(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> np.ndarray:
        raise AssertionError("asked")

    result = one([(1, 0), (2, 0)], FakeEngine(logits=never), np.array([0.0, 1.0]), 2, SearchConfig(lm_weight=0))
    assert result.items.tolist() == [1, 0]


def test_no_eligible_item_is_an_error_and_not_anything_goes() -> None:
    with pytest.raises(SearchError, match="all 2 were seen already or are filtered out"):
        one([(1, 0), (2, 0)], FakeEngine(), np.full(2, -np.inf), 1, SearchConfig())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_prior_that_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN"):
        one([(1, 0), (2, 0)], FakeEngine(), np.array([0.0, bad]), 1, SearchConfig())


def test_a_prior_of_another_catalog_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        one([(1, 0), (2, 0)], FakeEngine(), np.zeros(3), 1, SearchConfig())


@pytest.mark.parametrize("settings_", [{"mode": "beam"}, {"normalise": "all"}, {"lm_weight": -1.0}, {"num_beams": 0}])
def test_settings_out_of_range_are_refused(settings_: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(settings_)))):
        SearchConfig(**settings_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("log_weights", "rest", "items", "values", "expected"),
    [
        ([100.0, 0.0, 0.0], 0.0, [0], [-np.inf], np.log(2)),  # what is left is e^-100 of what was there
        ([100.0, 0.0, 0.0], -3.0, [0], [1.0], np.log(2 * np.exp(-3) + np.e)),
        ([800.0, 1.0], 0.0, [0], [-np.inf], 1.0),
        ([0.0, -np.inf], 0.0, [0], [-np.inf], -np.inf),
        ([1.0, 2.0], 0.0, [0], [3.0], np.log(np.exp(3) + np.exp(2))),
    ],
)
def test_what_is_left_of_a_shared_sum_is_not_lost_in_rounding(
    log_weights: list[float], rest: float, items: list[int], values: list[float], expected: float
) -> None:
    weights = ItemWeights(Shared(np.array(log_weights)), rest, np.array(items), np.array(values))
    assert weights._log_total() == pytest.approx(expected)
