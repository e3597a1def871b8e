from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from inspect import isfunction
from math import log2, sqrt

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.evaluation import metrics
from llmgen.evaluation.metrics import ranking
from llmgen.evaluation.metrics.ranking import (
    average_precision_at_k,
    coverage_at_k,
    diversity_at_k,
    duplicate_rate,
    fallback_rate,
    gini_at_k,
    hit_rate_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    popularity_lift_at_k,
    position_bias,
    precision_at_k,
    recall_at_k,
    repetition_at_k,
    valid_rate,
)
from llmgen.evaluation.metrics.rating_metrics import auc, calibration_error, mae, rmse
from llmgen.types import Grounding, Item, Method, WrittenRecommendation, WrittenRecommendations

RANKING = (recall_at_k, hit_rate_at_k, ndcg_at_k, mrr_at_k, average_precision_at_k)


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
    measures = [
        ir_measures.R @ k,
        ir_measures.Success @ k,
        ir_measures.nDCG @ k,
        ir_measures.RR @ k,
        ir_measures.AP @ k,
    ]
    theirs = ir_measures.calc_aggregate(measures, qrels, run)
    for metric, measure in zip(RANKING, measures, strict=True):
        assert metric(ranked, relevant, k) == pytest.approx(theirs[measure]), measure
    precision = ir_measures.P @ k
    theirs = ir_measures.calc_aggregate([precision], qrels, run)
    assert precision_at_k(ranked, relevant, k) == pytest.approx(theirs[precision])


def test_beyond_accuracy_by_hand() -> None:
    assert repetition_at_k(["a", "b", "c"], ["c", "c"], 3) == pytest.approx(1 / 3)
    assert novelty_at_k(["a", "b"], {"a": 1.0, "b": 0.25}, 2) == 1.0
    with pytest.raises(ValueError, match="'b' has no share"):
        novelty_at_k(["a", "b"], {"a": 1.0}, 2)
    assert popularity_lift_at_k(["a", "b"], ["b"], {"a": 3, "b": 1}, 2) == 1.0
    assert math.isnan(popularity_lift_at_k(["a"], [], {"a": 3}, 1))
    kinds = {"a": {"War"}, "b": {"War"}, "c": {"Comedy"}}
    assert diversity_at_k(["a", "b", "c"], kinds, 3) == pytest.approx(2 / 3)
    assert diversity_at_k(["a"], kinds, 3) == 0
    assert position_bias(["a", "b", "c", "d"], ["b", "a", "d", "c"]) == pytest.approx(0.6)
    for broken in (["a", "b", "c"], ["a", "a", "b", "c"], ["a", "b", "c", "e"]):
        with pytest.raises(ValueError, match="each once"):
            position_bias(["a", "b", "c", "d"], broken)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.1, 0.4, 0.4, 0.9]), st.booleans()), min_size=2))
def test_auc_is_the_share_of_pairs_in_order(rated: list[tuple[float, bool]]) -> None:
    good = [score for score, liked in rated if liked]
    bad = [score for score, liked in rated if not liked]
    scores, liked = [score for score, _ in rated], [one for _, one in rated]
    if not good or not bad:
        with pytest.raises(ValueError, match="both kinds"):
            auc(scores, liked)
        return
    pairs = [1.0 if one > other else 0.5 if one == other else 0.0 for one in good for other in bad]
    assert auc(scores, liked) == pytest.approx(sum(pairs) / len(pairs))


def test_calibration_error_by_hand() -> None:
    assert calibration_error([0.9, 0.9, 0.1], [True, False, False]) == pytest.approx((0.8 + 0.1) / 3)
    assert calibration_error([1.0], [True]) == 0
    with pytest.raises(ValueError, match=r"not 1\.2"):
        calibration_error([1.2], [True])


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


def answer(placed: Sequence[Method], dropped: Sequence[Method] = ()) -> WrittenRecommendations:
    places = tuple(
        WrittenRecommendation(Item(str(n), "T"), n + 1, Grounding(method, 1.0), "p@0")
        for n, method in enumerate(placed)
    )
    return WrittenRecommendations(places, "p@0", dropped=tuple(Grounding(method, 0.0, "text") for method in dropped))


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


def test_every_metric_of_a_list_is_a_name_of_the_folder() -> None:
    defined = [name for name, what in vars(ranking).items() if isfunction(what) and what.__module__ == ranking.__name__]
    public = sorted(name for name in defined if not name.startswith("_"))
    assert public == metrics.__all__
    assert all(getattr(metrics, name) is getattr(ranking, name) for name in public)
