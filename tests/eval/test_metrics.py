from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2, sqrt

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.metrics import (
    coverage_at_k,
    duplicate_rate,
    fallback_rate,
    gini_at_k,
    hit_rate_at_k,
    mae,
    mrr_at_k,
    ndcg_at_k,
    recall_at_k,
    rmse,
    valid_rate,
)
from llmgen.types import Grounding, Item, Method, Recommendation, Recommendations

RANKING = (recall_at_k, hit_rate_at_k, ndcg_at_k, mrr_at_k)


def test_first_place_gives_one() -> None:
    assert all(metric(["a", "b"], {"a"}, k=10) == 1 for metric in RANKING)


def test_below_the_cut_off_gives_nothing() -> None:
    assert all(metric(["a", "b", "c"], {"c"}, k=2) == 0 for metric in RANKING)


def test_an_empty_list_gives_nothing() -> None:
    assert all(metric([], {"c"}, k=2) == 0 for metric in RANKING)


def test_third_place() -> None:
    ranked = ["a", "b", "c"]
    assert recall_at_k(ranked, {"c"}, k=3) == 1
    assert hit_rate_at_k(ranked, {"c"}, k=3) == 1
    assert ndcg_at_k(ranked, {"c"}, k=3) == 1 / log2(4)
    assert mrr_at_k(ranked, {"c"}, k=3) == 1 / 3


def test_several_held_out_items() -> None:
    ranked, relevant = ["a", "x", "b"], {"a", "b", "c"}
    assert recall_at_k(ranked, relevant, k=3) == 2 / 3
    assert hit_rate_at_k(ranked, relevant, k=3) == 1
    assert ndcg_at_k(ranked, relevant, k=3) == (1 + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4))
    assert mrr_at_k(ranked, relevant, k=3) == 1


def test_ndcg_is_one_when_k_places_are_all_relevant() -> None:
    assert ndcg_at_k(["a", "b"], {"a", "b", "c"}, k=2) == 1


@pytest.mark.parametrize("metric", RANKING)
def test_wrong_arguments(metric: Callable[[Sequence[str], set[str], int], float]) -> None:
    with pytest.raises(ValueError, match="k is a cut-off"):
        metric(["a"], {"a"}, 0)
    with pytest.raises(ValueError, match="relevant is empty"):
        metric(["a"], set(), 1)
    with pytest.raises(ValueError, match="'a' is ranked twice"):
        metric(["a", "b", "a"], {"b"}, 1)


@settings(deadline=None)  # the machine may be busy
@given(
    order=st.permutations([f"i{n}" for n in range(12)]),
    length=st.integers(1, 12),
    relevant=st.sets(st.sampled_from([f"i{n}" for n in range(12)]), min_size=1),
    k=st.integers(1, 14),
)
def test_ir_measures_agrees(order: list[str], length: int, relevant: set[str], k: int) -> None:
    ranked = order[:length]
    qrels = {"q": dict.fromkeys(relevant, 1)}
    run = {"q": {item_id: float(-place) for place, item_id in enumerate(ranked)}}
    measures = [ir_measures.R @ k, ir_measures.Success @ k, ir_measures.nDCG @ k, ir_measures.RR @ k]
    theirs = ir_measures.calc_aggregate(measures, qrels, run)
    for metric, measure in zip(RANKING, measures, strict=True):
        assert metric(ranked, relevant, k) == pytest.approx(theirs[measure]), measure


def test_coverage_counts_each_item_once() -> None:
    assert coverage_at_k([["a", "b"], ["b", "c"], []], n_items=6, k=2) == 3 / 6
    assert coverage_at_k([], n_items=6, k=2) == 0
    with pytest.raises(ValueError, match="2 different ids"):
        coverage_at_k([["a", "b"]], n_items=1, k=2)
    with pytest.raises(ValueError, match="cut-off"):
        coverage_at_k([["a", "b"]], n_items=2, k=0)


def test_gini_of_equal_and_of_single_exposure() -> None:
    assert gini_at_k([["a"], ["b"]], n_items=2, k=1) == 0
    assert gini_at_k([["a"], ["a"], ["a"]], n_items=10, k=1) == 9 / 10
    with pytest.raises(ValueError, match="nothing is shown"):
        gini_at_k([[]], n_items=2, k=1)


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True, min_size=1), min_size=1))
def test_gini_is_half_the_mean_difference_over_the_mean(rankings: list[list[str]]) -> None:
    shown = np.array([sum(item_id in ranked[:3] for ranked in rankings) for item_id in "abcdef"])
    differences = np.abs(shown[:, None] - shown[None, :]).mean()
    assert gini_at_k(rankings, n_items=6, k=3) == pytest.approx(differences / (2 * shown.mean()))


def test_errors_of_ratings() -> None:
    assert rmse([1.0, 2.0, 5.0], [1.0, 4.0, 4.0]) == sqrt(5 / 3)
    assert mae([1.0, 2.0, 5.0], [1.0, 4.0, 4.0]) == 1
    for metric in (rmse, mae):
        with pytest.raises(ValueError, match="1 predictions for 2"):
            metric([1.0], [1.0, 2.0])
        with pytest.raises(ValueError, match="at least one"):
            metric([], [])


def answer(placed: Sequence[Method], dropped: Sequence[Method] = ()) -> Recommendations:
    places = tuple(
        Recommendation(Item(str(n), "T"), n + 1, 0.0, 0.1, {}, Grounding(method, 1.0), "p@0")
        for n, method in enumerate(placed)
    )
    return Recommendations(places, False, "p@0", dropped=tuple(Grounding(method, 0.0, "text") for method in dropped))


def test_rates_of_a_repaired_answer() -> None:
    repaired = answer(["exact", "normalised", "bm25", "prior"], dropped=["none", "exact"])
    assert valid_rate(repaired) == 2 / 5  # five lines were written; the exact one twice
    assert duplicate_rate(repaired) == 1 / 5
    assert fallback_rate(repaired) == 1 / 4


def test_rates_of_a_constrained_answer() -> None:
    constrained = answer(["trie", "trie"])
    assert (valid_rate(constrained), duplicate_rate(constrained), fallback_rate(constrained)) == (1, 0, 0)


def test_rates_where_nothing_was_generated() -> None:
    assert (valid_rate(answer([])), duplicate_rate(answer([])), fallback_rate(answer([]))) == (0, 0, 0)
    assert (valid_rate(answer(["prior"])), fallback_rate(answer(["prior"]))) == (0, 1)
