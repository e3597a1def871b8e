"""Hand counts, scipy as a second opinion, and experiments whose answer is known because they were made up."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from math import inf, isnan, log, prod, sqrt
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from llmgen.evaluation.stats import bootstrap
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.pairwise import Comparison, compare
from llmgen.evaluation.stats.power import detectable_difference, power_of, users_needed
from llmgen.evaluation.stats.sequential import Sequential
from llmgen.evaluation.stats.significance import holm, mcnemar, non_inferior, permutation_test
from llmgen.types import FloatArray

GAINS = np.append(1 / np.log2(np.arange(2, 12)), 0.0)  # NDCG@10 of ranks 1 to 10, and of a miss
RANKS = np.array([0.1] + [0.05] * 9 + [0.45])
EXPERIMENTS, USERS = 1_000, 200


def arms(experiments: int, users: int, *, seed: int, lift: float = 0.0) -> tuple[FloatArray, FloatArray]:
    """NDCG@10 of two arms [experiments, users] that agree on about 85 % of users, as tuned ones do.

    Without a lift they are exchangeable. A lift is the share of users to whom the first arm gives their item first,
    whatever it did before.
    """
    rng = np.random.default_rng(seed)
    shape = experiments, users
    b = rng.choice(GAINS, p=RANKS, size=shape)
    a = np.where(rng.random(shape) < 0.2, rng.choice(GAINS, p=RANKS, size=shape), b)
    return np.where(rng.random(shape) < lift, 1.0, a), b


def as_often_as(share: float, times: int, found: int) -> bool:
    """Whether a count of independent events is one that a share explains, but for 1 in 5,000."""
    low, high = (scipy_stats.binom.ppf(tail, times, share) for tail in (1e-4, 1 - 1e-4))
    return bool(low <= found <= high)


@pytest.fixture(scope="module")
def same() -> tuple[FloatArray, FloatArray]:
    return arms(EXPERIMENTS, USERS, seed=0)


def test_the_made_up_arms_are_like_real_ones(same: tuple[FloatArray, FloatArray]) -> None:
    differences = same[0] - same[1]
    assert 0.84 < (differences == 0).mean() < 0.87
    assert 0.1 < differences.std() < 0.25


# differences, intervals


def test_a_difference_by_hand() -> None:
    d = paired_difference([1.0, 0.5, 0.25, 0.0], [0.0, 0.5, 0.5, 0.0], seed=0)
    assert d.mean == (1 + 0 - 0.25 + 0) / 4
    assert (d.wins, d.ties, d.losses, d.n) == (1, 2, 1, 4)
    variance = sum((x - d.mean) ** 2 for x in (1, 0, -0.25, 0)) / 3
    assert d.se == pytest.approx(sqrt(variance / 4))
    assert d.effect == pytest.approx(d.mean / sqrt(variance))
    assert -0.25 <= d.low < d.mean < d.high <= 1


def test_users_who_all_differ_by_the_same_have_no_spread() -> None:
    d = paired_difference([0.3, 0.8, 1.1], [0.1, 0.6, 0.9], seed=0)  # 0.3 - 0.1 is not 0.8 - 0.6 in float64
    assert (d.low, d.high, d.se, d.effect) == (d.mean, d.mean, 0.0, inf)
    assert d.mean == pytest.approx(0.2)
    assert d.method == "percentile"
    assert paired_difference([0.1, 0.6], [0.3, 0.8], seed=0).effect == -inf


def test_what_only_rounding_tells_apart_is_a_tie() -> None:
    d = paired_difference([0.1 + 0.2, 0.7], [0.3, 0.1 * 7], seed=0)
    assert (d.mean, d.wins, d.ties, d.losses, d.effect) == (0.0, 0, 2, 0, 0.0)


SKEWED = np.random.default_rng(7).exponential(size=40) ** 2


def test_scipy_gives_the_same_bca_interval() -> None:
    ours = interval_of_mean(SKEWED, draws=50_000, seed=1)
    theirs = scipy_stats.bootstrap((SKEWED,), np.mean, n_resamples=50_000, method="BCa", rng=2)
    plain = scipy_stats.bootstrap((SKEWED,), np.mean, n_resamples=50_000, method="percentile", rng=2)
    assert ours.method == "bca"
    assert ours.se == pytest.approx(scipy_stats.sem(SKEWED))
    limit = 0.12 * ours.se  # five standard errors of a difference between two such quantiles
    assert abs(ours.low - theirs.confidence_interval.low) < limit
    assert abs(ours.high - theirs.confidence_interval.high) < limit
    assert abs(ours.high - plain.confidence_interval.high) > 2 * limit


@pytest.mark.parametrize(("hits", "users"), [(6, 30), (4, 50), (9, 200)])
def test_scipy_gives_the_same_interval_of_hits_whose_resamples_often_tie_with_the_mean(hits: int, users: int) -> None:
    values = np.repeat([1.0, 0.0], [hits, users - hits])
    theirs = scipy_stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    ours = interval_of_mean(values, draws=20_000, seed=1)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize(
    ("rows", "slack"),
    [
        ([1, 2, 3, 4] * 10, 0.05),
        ([31] + [1, 2, 1] * 13, 0.15),  # leaving out the first matters; the linearised error is too small here
    ],
)
def test_scipy_gives_the_same_interval_of_users_with_several_rows(rows: list[int], slack: float) -> None:
    rng = np.random.default_rng(3)
    users = np.repeat(np.arange(40), rows)
    values = 3 + SKEWED[users] + rng.normal(size=len(users)) * 0.1
    sums, sizes = np.bincount(users, values), np.bincount(users)
    theirs = scipy_stats.bootstrap(
        (sums, sizes),
        lambda some, rows, axis=-1: some.sum(axis) / rows.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="BCa",
        rng=2,
    )
    ours = interval_of_mean(values, clusters=[f"user {user}" for user in users], draws=20_000, seed=1)
    assert ours.n == 40
    assert ours.mean == pytest.approx(values.mean())
    assert ours.se == pytest.approx(theirs.standard_error, rel=slack)
    assert abs(ours.low - theirs.confidence_interval.low) < 0.15 * ours.se
    assert abs(ours.high - theirs.confidence_interval.high) < 0.15 * ours.se


def test_rows_that_repeat_their_users_add_no_certainty() -> None:
    a, b = SKEWED, SKEWED[::-1] / 2
    once = paired_difference(a, b, seed=0)
    thrice = paired_difference(np.repeat(a, 3), np.repeat(b, 3), seed=0, clusters=np.repeat(np.arange(40), 3))
    assert thrice[:5] == pytest.approx(once[:5])
    assert thrice[5:] == once[5:]
    assert permutation_test(a, b, seed=0) == permutation_test(
        np.repeat(a, 3), np.repeat(b, 3), seed=0, clusters=np.repeat(np.arange(40), 3)
    )


def test_wins_are_counted_by_user() -> None:
    d = paired_difference([1, 0, 0, 1, 0], [0, 1, 0, 0, 0], seed=0, clusters=["u", "u", "v", "w", "w"])
    assert (d.wins, d.ties, d.losses) == (1, 2, 0)
    assert d.mean == 1 / 5


@pytest.mark.parametrize("cells", [1, 100, 1 << 22])
def test_parts_of_the_draws_change_nothing(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = interval_of_mean(SKEWED, draws=500, seed=5)
    monkeypatch.setattr(bootstrap, "CELLS", cells)
    assert interval_of_mean(SKEWED, draws=500, seed=5) == whole
    balanced = np.array([0.5, -0.5] * 10)  # every pattern is as large as none at all
    assert permutation_test(balanced, np.zeros(20), draws=500, seed=5).p == 1


def test_memory_does_not_grow_with_users_times_draws() -> None:
    a, b = np.random.default_rng(0).random((2, 100_000))
    tracemalloc.start()
    paired_difference(a, b, draws=150, seed=0)
    permutation_test(a, b, draws=300, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6  # 150 draws of 100,000 users are 240 MB, as counts and as float64


METRIC = st.floats(0, 1).map(lambda value: round(value, 6))
VALUES = st.lists(st.tuples(METRIC, METRIC), min_size=2, max_size=20)


@settings(deadline=None)
@given(rows=VALUES, order=st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_that_of_arms_matters(rows: list[tuple[float, float]], order: Random) -> None:
    a, b = zip(*rows, strict=True)
    shuffled = list(rows)
    order.shuffle(shuffled)
    c, d = zip(*shuffled, strict=True)
    there = paired_difference(a, b, draws=60, seed=0)
    back = paired_difference(b, a, draws=60, seed=0)
    again = paired_difference(c, d, draws=60, seed=0)
    assert back.mean == -there.mean
    assert back.se == pytest.approx(there.se)
    assert (back.wins, back.ties, back.losses) == (there.losses, there.ties, there.wins)
    assert back.effect == pytest.approx(-there.effect)
    assert again[:5] == pytest.approx(there[:5])
    assert again[5:] == there[5:]
    p = permutation_test(a, b, draws=60, seed=0)
    assert p == permutation_test(b, a, draws=60, seed=0) == permutation_test(c, d, draws=60, seed=0)
    assert 0 < p.p <= 1


@settings(deadline=None)
@given(rows=VALUES)
def test_rows_with_a_label_each_are_rows_without(rows: list[tuple[float, float]]) -> None:
    a, b = zip(*rows, strict=True)
    labels = [f"{number:02}" for number in range(len(rows))]
    assert paired_difference(a, b, draws=60, seed=0, clusters=labels) == paired_difference(a, b, draws=60, seed=0)


def test_a_swapped_pair_has_the_mirrored_interval() -> None:
    there = paired_difference(SKEWED, np.ones(40), draws=50_000, seed=0)
    back = paired_difference(np.ones(40), SKEWED, draws=50_000, seed=1)
    assert abs(there.low + back.high) < 0.12 * there.se
    assert abs(there.high + back.low) < 0.12 * there.se


# tests


def test_signs_counted_by_hand() -> None:
    # sums of +-1 +-2 +-3: 6 4 2 0 and their negatives; as large as 1 + 2 - 3 = 0 are all, as large as 4 are four
    assert permutation_test([1, 2, 0], [0, 0, 3], seed=0) == (1.0, True)
    assert permutation_test([0, 2, 3], [1, 0, 0], seed=0) == (4 / 8, True)
    assert permutation_test([1, 2, 3, 9], [0, 0, 0, 9], seed=0) == (2 / 8, True)


def test_nobody_differs() -> None:
    assert permutation_test([0.3, 0.5], [0.1 + 0.2, 0.5], seed=0) == (1.0, True)
    assert mcnemar([1, 0], [1, 0]) == (0, 0, 1.0)


def test_ties_up_to_rounding_count() -> None:
    # +-0.1 three times: as large as the sum of + + - are all eight patterns
    assert permutation_test([0.3, 0.8, 0.0], [0.2, 0.7, 0.1], seed=0).p == 1


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("users", [5, 10])
def test_scipy_counts_the_same_patterns(users: int, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 6, size=(2, users)) / 4
    theirs = scipy_stats.permutation_test(
        (a, b),
        lambda x, y, axis=-1: (x - y).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=1 << users,
    )
    ours = permutation_test(a, b, seed=0)
    assert ours.exact
    assert ours.p == pytest.approx(theirs.pvalue)


def test_sampled_patterns_agree_with_all_of_them() -> None:
    differences = np.random.default_rng(4).normal(0.25, 1, size=16)
    patterns = np.arange(1 << 16)[:, None] >> np.arange(16) & 1
    exact = (abs((2 * patterns - 1) @ differences) >= abs(differences.sum()) - 1e-9).mean()
    sampled = permutation_test(differences, np.zeros(16), draws=9_999, seed=0)
    assert not sampled.exact
    assert 0.05 < exact < 0.95
    assert as_often_as(exact, 9_999, round(sampled.p * 10_000) - 1)


def test_no_sampled_p_is_zero() -> None:
    assert permutation_test(np.ones(40), np.zeros(40), draws=999, seed=0) == (1 / 1_000, False)


def test_many_users_give_the_p_of_a_t_test() -> None:
    a, b = np.random.default_rng(8).normal(size=(2, 2_000))
    expected = scipy_stats.ttest_rel(a + 0.04, b).pvalue
    assert permutation_test(a + 0.04, b, draws=10_000, seed=0).p == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 1), (3, 3), (2, 9), (40, 61)])
def test_mcnemar_is_the_sign_test(only_a: int, only_b: int) -> None:
    a = np.repeat([1, 0, 1, 0], [only_a, only_b, 5, 7])
    b = np.repeat([0, 1, 1, 0], [only_a, only_b, 5, 7])
    expected = scipy_stats.binomtest(only_a, only_a + only_b).pvalue
    assert mcnemar(a, b.astype(bool)) == pytest.approx((only_a, only_b, expected))


def test_signs_flipped_on_hits_are_mcnemar() -> None:
    a, b = np.repeat([1, 0, 1], [9, 3, 8]), np.repeat([0, 1, 1], [9, 3, 8])
    assert permutation_test(a, b, seed=0).p == pytest.approx(mcnemar(a, b).p)


def test_the_usual_example_of_holm() -> None:
    # https://en.wikipedia.org/wiki/Holm-Bonferroni_method: H4 and H1 are rejected at 0.05, H3 and H2 are not
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == [0.01 * 3, 0.03 * 2, 0.03 * 2, 0.005 * 4]
    assert holm([]).tolist() == []


@given(p_values=st.lists(st.floats(0, 1), min_size=1, max_size=12), alpha=st.floats(0.001, 0.999))
def test_holm_rejects_step_by_step(p_values: list[float], alpha: float) -> None:
    adjusted = holm(p_values)
    assert all(p <= more <= 1 for p, more in zip(p_values, adjusted, strict=True))
    left = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    while left and p_values[left[0]] * len(left) <= alpha:
        rejected.add(left.pop(0))
    assert rejected == {i for i, p in enumerate(adjusted) if p <= alpha}


# power


@pytest.mark.parametrize(("d_z", "users"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_users_of_g_power(d_z: float, users: int) -> None:
    # G*Power 3.1, matched pairs, two tails, alpha 0.05, power 0.8: Cohen's small, medium and large effect
    assert users_needed(1.0, d_z) == users
    assert users_needed(3.0, -3 * d_z) == users
    assert power_of(1.0, users - 1, d_z) < 0.8 <= power_of(1.0, users, d_z)


@pytest.mark.parametrize("n", [3, 20, 943])
def test_power_is_both_tails_of_a_noncentral_t(n: int) -> None:
    sd, difference = 0.19, 0.02
    critical, shift = scipy_stats.t.isf(0.025 / 3, n - 1), difference / sd * sqrt(n)
    expected = scipy_stats.nct.sf(critical, n - 1, shift) + scipy_stats.nct.cdf(-critical, n - 1, shift)
    assert power_of(sd, n, difference, comparisons=3) == pytest.approx(expected, rel=1e-6)
    assert power_of(sd, n, 0.0, alpha=0.01) == pytest.approx(0.01)


@pytest.mark.parametrize("n", [2, 3, 30, 943, 1_000_000])
@pytest.mark.parametrize("comparisons", [1, 40])
def test_the_detectable_difference_has_the_wanted_power(n: int, comparisons: int) -> None:
    difference = detectable_difference(0.2, n, power=0.9, comparisons=comparisons)
    assert power_of(0.2, n, difference, comparisons=comparisons) == pytest.approx(0.9)
    assert users_needed(0.2, difference * (1 + 1e-9), power=0.9, comparisons=comparisons) == n


def test_few_users_need_more_than_the_normal_shortcut_says() -> None:
    shortcut = (scipy_stats.norm.isf(0.025) + scipy_stats.norm.isf(0.2)) / sqrt(5)
    assert detectable_difference(1.0, 5) > 1.3 * shortcut


# non-inferiority


def test_the_bound_is_the_lower_end_of_a_two_sided_interval() -> None:
    a, b = SKEWED, np.full(40, SKEWED.mean())
    one_sided, two_sided = non_inferior(a, b, 0.5, seed=0), paired_difference(a, b, level=0.9, seed=0)
    assert one_sided.low == pytest.approx(two_sided.low)
    assert one_sided.mean == two_sided.mean


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_p_and_bound_agree(level: float) -> None:
    a, b = SKEWED, np.full(40, SKEWED.mean())
    bound = -non_inferior(a, b, 1.0, level=level, seed=0).low
    assert non_inferior(a, b, bound, seed=0).p == pytest.approx(1 - level, abs=0.001)
    assert non_inferior(a, b, bound + 0.01, level=level, seed=0).holds
    assert not non_inferior(a, b, bound - 0.01, level=level, seed=0).holds


def test_many_users_give_the_p_of_a_shifted_t_test() -> None:
    a, b = np.random.default_rng(8).normal(size=(2, 2_000))
    expected = scipy_stats.ttest_rel(a + 0.05, b, alternative="greater").pvalue
    assert non_inferior(a, b, 0.05, seed=0).p == pytest.approx(expected, abs=0.01)


def test_an_arm_is_not_inferior_to_itself() -> None:
    result = non_inferior(SKEWED, SKEWED, 0.01, draws=998, seed=0)
    assert result == pytest.approx((0.0, 0.0, 1 / 1_000, True))


# sequential


def test_the_bounds_are_where_somebody_has_won_two_over_alpha() -> None:
    differences = [0.5, 0.0, -0.25, 0.0, 1.0, 0.0, 0.0, 0.75, 0.0, -0.5] * 4
    watch = Sequential(level=0.9)
    watch.add(differences)

    def capital(mean: float, side: int) -> float:
        bets = [j / 20 * side / (1 + side * mean) for j in range(1, 20)]
        return sum(prod(1 + bet * (x - mean) for x in differences) for bet in bets) / len(bets)

    assert capital(watch.low, 1) == pytest.approx(2 / (1 - 0.9))
    assert capital(watch.high, -1) == pytest.approx(2 / (1 - 0.9))
    assert watch.low < watch.mean < watch.high
    assert watch.n == 40
    assert watch.mean == pytest.approx(sum(differences) / 40)


def test_nothing_is_known_before_the_first_user() -> None:
    watch = Sequential()
    assert (watch.n, watch.low, watch.high, watch.decided) == (0, -1.0, 1.0, False)
    assert isnan(watch.mean)


def test_p_is_two_over_what_the_richer_one_has() -> None:
    watch = Sequential()
    assert watch.p == 1.0
    watch.add([1.0, 1.0, 0.5])
    won = sum((1 + j / 20) ** 2 * (1 + j / 40) for j in range(1, 20)) / 19
    assert watch.p == pytest.approx(2 / won)
    watch.add([1.0])
    assert not watch.decided and watch.p > 0.05
    watch.add([1.0] * 5)
    assert watch.decided and watch.p < 0.05


@pytest.mark.parametrize("sign", [1, -1])
def test_differences_at_the_edge(sign: int) -> None:
    watch = Sequential()
    watch.add([sign] * 30)
    assert watch.mean == sign
    assert max(watch.high, -watch.low) == 1.0
    assert 0.5 < min(abs(watch.high), abs(watch.low)) < 1
    assert watch.decided


@settings(deadline=None)
@given(
    differences=st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    cut=st.integers(1, 30),
    shift=st.floats(-1, 1),
)
def test_neither_order_nor_batches_matter_and_decided_means_zero_is_outside(
    differences: list[float], cut: int, shift: float
) -> None:
    values = np.clip(np.array(differences) * 0.3 + shift, -1, 1)
    whole, parts, mirrored = Sequential(), Sequential(), Sequential()
    whole.add(values)
    mirrored.add(-values)
    for start in range(0, len(values), cut):
        parts.add(values[::-1][start : start + cut])
    assert parts.n == whole.n
    assert parts.mean == pytest.approx(whole.mean)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-8)
    assert (mirrored.low, mirrored.high) == pytest.approx((-whole.high, -whole.low), abs=1e-8)
    assert -1 <= whole.low <= whole.mean + 1e-9
    assume(min(abs(whole.low), abs(whole.high)) > 1e-6)
    assert whole.decided == (whole.low > 0 or whole.high < 0) == (whole.p <= 1 - whole.level)


def empirical_bernstein(differences: FloatArray, alpha: float = 0.05) -> float:
    """Half the width of the predictable plug-in confidence sequence (Waudby-Smith & Ramdas 2024, theorem 2)."""
    y, t = (differences + 1) / 2, np.arange(1, len(differences) + 1)
    means = (0.5 + np.cumsum(y)) / (t + 1)
    variances = (0.25 + np.cumsum((y - means) ** 2)) / (t + 1)
    before, spread = np.append(0.5, means[:-1]), np.append(0.25, variances[:-1])
    bets = np.minimum(0.5, np.sqrt(2 * log(2 / alpha) / (spread * t * np.log(1 + t))))
    cost = (4 * (y - before) ** 2 * (-np.log1p(-bets) - bets) / 4).sum()
    return 2 * float((log(2 / alpha) + cost) / bets.sum())


@pytest.mark.parametrize("users", [200, 943, 5_000])
def test_betting_is_narrower_than_empirical_bernstein_and_wider_than_a_single_look(users: int) -> None:
    a, b = arms(1, users, seed=6)
    watch = Sequential()
    watch.add((a - b)[0])
    half = (watch.high - watch.low) / 2
    assert half < 0.95 * empirical_bernstein((a - b)[0])
    assert 1.96 * float((a - b).std()) / sqrt(users) < half


# the table


def test_a_table_of_two_arms_tests_one_metric_and_describes_the_other() -> None:
    (a, b), (c, _) = arms(1, USERS, seed=1), arms(1, USERS, seed=1, lift=0.4)
    values = {
        name: {"ndcg@10": arm[0], "hit_rate@10": (arm[0] > 0).astype(float)}
        for name, arm in {"base": b, "same": a, "better": c}.items()
    }
    rows = compare(values, baseline="base", metric="ndcg@10", hits=["hit_rate@10"], draws=500, seed=3)
    assert [(row.arm, row.metric, row.test) for row in rows] == [
        ("same", "ndcg@10", "permutation"),
        ("same", "hit_rate@10", "McNemar"),
        ("better", "ndcg@10", "permutation"),
        ("better", "hit_rate@10", "McNemar"),
    ]
    assert rows[2].difference == paired_difference(c[0], b[0], draws=500, seed=3)
    assert rows[2].p == permutation_test(c[0], b[0], draws=500, seed=3).p
    assert rows[3].p == mcnemar(c[0] > 0, b[0] > 0).p
    assert [row.p_holm for row in rows[::2]] == holm([rows[0].p, rows[2].p]).tolist()  # of two tests, not of four
    assert [row.p_holm for row in rows[1::2]] == [None, None]
    assert max(row.p for row in rows[2:]) < 0.005 < min(row.p for row in rows[:2])


def test_hits_of_users_with_several_rows_get_the_permutation_test() -> None:
    values = {"a": {"hit": [1, 1, 0, 1]}, "b": {"hit": [0, 0, 0, 0]}}
    (row,) = compare(values, baseline="b", metric="hit", hits={"hit"}, seed=0, clusters=[1, 1, 2, 2])
    assert (row.test, row.p, row.p_holm) == ("permutation", 2 / 2**2, 2 / 2**2)


def test_what_could_be_stopped_has_intervals_and_p_that_hold_whenever_one_stops() -> None:
    (a, b), (c, _) = arms(1, USERS, seed=1), arms(1, USERS, seed=1, lift=0.4)
    values = {"base": {"bias": 2 * b[0] - 1}, "same": {"bias": 2 * a[0] - 1}, "better": {"bias": 2 * c[0] - 1}}
    same, better = compare(values, baseline="base", metric="bias", seed=0, anytime={"bias": 2.0})
    for row, arm in ((same, a), (better, c)):
        watch = Sequential(0.975)  # two arms share .05
        watch.add((arm - b)[0])
        assert (row.test, row.difference.method) == ("betting", "betting")
        assert row.difference.mean == pytest.approx(2 * watch.mean)  # differences in [-2, 2] are twice those in [-1, 1]
        assert (row.difference.low, row.difference.high) == pytest.approx((2 * watch.low, 2 * watch.high), abs=1e-6)
        assert row.p == pytest.approx(watch.p)
    assert better.p < 1e-6 < 0.05 < same.p
    assert [same.p_holm, better.p_holm] == holm([same.p, better.p]).tolist()


def table(values: dict[str, dict[str, list[float]]], **more: object) -> list[Comparison]:
    return compare(values, baseline="a", metric="m", seed=0, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_difference([1, 2], [1], seed=0), "a has 2 rows and b 1"),
        (lambda: paired_difference([], [], seed=0), r"a has shape \(0,\)"),
        (lambda: paired_difference([1], [0], seed=0), "1 user has no spread"),
        (lambda: paired_difference([1, 2], [0, np.nan], seed=0), r"b\[1\] is nan"),
        (lambda: paired_difference([1, 2], [0, 0], seed=0, clusters=["u"]), r"clusters has shape \(1,\)"),
        (lambda: paired_difference([1, 2], [0, 0], seed=0, clusters=["u", "u"]), "1 user has no spread"),
        (lambda: paired_difference([1, 2], [0, 0], seed=0, level=95), "level must lie between 0 and 1, not 95"),
        (lambda: interval_of_mean([[1, 2]], seed=0), r"values has shape \(1, 2\)"),
        (lambda: interval_of_mean([1, 2], seed=0, draws=0), "draws must be 1 or more, not 0"),
        (lambda: permutation_test([1, 2], [0, 0], seed=0, draws=0), "draws must be 1 or more, not 0"),
        (lambda: mcnemar([1, 0.5], [0, 1]), "a hit is 0 or 1, not 0.5"),
        (lambda: holm([0.1, 1.5]), r"\[0, 1\], not 1.5"),
        (lambda: holm([np.nan]), r"\[0, 1\], not nan"),
        (lambda: non_inferior([1, 2], [0, 0], 0, seed=0), "margin must be above 0 and finite, not 0"),
        (lambda: non_inferior([1, 2], [0, 0], 1, seed=0, level=0), "level must lie between 0 and 1, not 0"),
        (lambda: power_of(0, 10, 0.1), "sd must be above 0 and finite, not 0"),
        (lambda: power_of(1, 1, 0.1), "n must be 2 users or more, not 1"),
        (lambda: power_of(1, 10, inf), "difference must be finite, not inf"),
        (lambda: power_of(1, 10, 0.1, alpha=5), "alpha must lie between 0 and 1, not 5"),
        (lambda: power_of(1, 10, 0.1, comparisons=0), "comparisons must be 1 or more, not 0"),
        (lambda: users_needed(1, 0), "difference must be above 0 and finite, not 0"),
        (lambda: users_needed(0, 1), "sd must be above 0 and finite, not 0"),
        (lambda: users_needed(1, 1, power=80), "power must lie between alpha, 0.05, and 1, not 80"),
        (lambda: detectable_difference(-1, 10), "sd must be above 0 and finite, not -1"),
        (lambda: detectable_difference(1, 10, power=0.01), "power must lie between alpha, 0.05, and 1, not 0.01"),
        (lambda: Sequential(level=5), "level must lie between 0 and 1, not 5"),
        (lambda: Sequential().add([0.5, -1.5]), r"\[-1, 1\], not -1.5"),
        (lambda: Sequential().add([]), r"differences has shape \(0,\)"),
        (lambda: Sequential(largest=0), "largest must be above 0 and finite, not 0"),
        (lambda: Sequential(largest=2).add([-2.5]), r"\[-2, 2\], not -2.5"),
        (lambda: table({"a": {"m": [1, 2]}}), "'a' and another arm are compared"),
        (lambda: table({"c": {"m": [1]}, "b": {"m": [1]}}), "'a' and another arm"),
        (lambda: table({"a": {"m": [1]}, "b": {"k": [1]}}), "'b' has the metrics"),
        (
            lambda: table({"a": {"m": [1]}, "b": {"m": [1]}}, hits=["h"]),
            r"'h': not among the metrics, which are \['m'\]",
        ),
        (lambda: table({"a": {"k": [1]}, "b": {"k": [1]}}), r"'m': not among the metrics, which are \['k'\]"),
        (
            lambda: table({"a": {"m": [1, 0, 1]}, "b": {"m": [0, 0, 0]}}, clusters=[1, 1, 2], anytime={"m": 1}),
            "a user has several rows, and with anytime it must be one",
        ),
        (lambda: interval_of_mean([0.5], seed=0, anytime=1), "1 user has no spread"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# experiments whose answer is known


def test_arms_that_do_not_differ_are_seldom_told_apart(same: tuple[FloatArray, FloatArray]) -> None:
    found = {"permutation": 0, "McNemar": 0, "interval": 0, "non-inferior": 0}
    for number, (a, b) in enumerate(zip(*same, strict=True)):
        found["permutation"] += int(permutation_test(a, b, draws=499, seed=number).p <= 0.05)
        found["McNemar"] += int(mcnemar(a > 0, b > 0).p <= 0.05)
        d = paired_difference(a, b, draws=500, seed=number)
        found["interval"] += not d.low <= 0 <= d.high
        found["non-inferior"] += non_inferior(a - 0.05, b, 0.05, draws=500, seed=number).holds
    assert as_often_as(0.05, EXPERIMENTS, found["permutation"]), found
    assert found["McNemar"] <= scipy_stats.binom.ppf(1 - 1e-4, EXPERIMENTS, 0.05), found
    # 30 users who differ are few for a bootstrap: 95 % intervals cover 91 to 95 %
    assert 0.05 <= found["interval"] / EXPERIMENTS <= 0.09, found
    assert 0.04 <= found["non-inferior"] / EXPERIMENTS <= 0.09, found


def looks_that_decide(watch: Sequential, differences: FloatArray) -> bool:
    """Whether any look after any user decides; a difference of 0 changes no capital, so those looks are skipped."""
    start = 0
    for end in (np.flatnonzero(differences) + 1).tolist():
        watch.add(differences[start:end])
        start = end
        if watch.decided:
            return True
    return False


def test_looking_after_every_user_tells_nothing_apart_too_often(same: tuple[FloatArray, FloatArray]) -> None:
    found = sum(looks_that_decide(Sequential(), row) for row in same[0] - same[1])
    assert 0 < found <= scipy_stats.binom.ppf(1 - 1e-4, EXPERIMENTS, 0.05)


@pytest.mark.parametrize("greedy", [True, False])
def test_three_arms_like_the_baseline_are_seldom_told_apart_wherever_one_stops(greedy: bool) -> None:
    """A/A/A/A, looked at after each batch: greedy stops at the first p of a fixed sample that looks good in any arm."""
    found = {"betting": 0, "below": 0, "fixed": 0}
    for number in range(200):
        rng = np.random.default_rng(number)
        base = rng.choice(GAINS, p=RANKS, size=400)
        values = {"base": base}
        for name in ("B", "C", "D"):
            values[name] = np.where(rng.random(400) < 0.2, rng.choice(GAINS, p=RANKS, size=400), base)
        watched = {name: Sequential(1 - 0.05 / 3) for name in ("B", "C", "D")}
        for end in range(16, 401, 16):
            for name, watch in watched.items():
                watch.add(values[name][end - 16 : end] - base[end - 16 : end])
            if greedy:
                apart = [values[name][:end] - base[:end] for name in watched]
                stop = end > 32 and any(abs(one.mean()) * sqrt(end) > 2.4 * one.std() for one in apart)
            else:
                stop = all(watch.decided for watch in watched.values())
            if stop:
                break
        asked = {name: {"ndcg": one[:end]} for name, one in values.items()}
        rows = compare(asked, baseline="base", metric="ndcg", seed=0, anytime={"ndcg": 1.0})
        found["betting"] += any(row.p_holm is not None and row.p_holm < 0.05 for row in rows)
        found["below"] += any(row.difference.high < 0 or row.difference.low > 0 for row in rows)
        if greedy:
            rows = compare(asked, baseline="base", metric="ndcg", seed=0, draws=199)
            found["fixed"] += any(row.p_holm is not None and row.p_holm < 0.05 for row in rows)
    most = scipy_stats.binom.ppf(1 - 1e-4, 200, 0.05)
    assert found["betting"] <= most, found
    assert found["below"] <= most, found
    if greedy:
        assert found["fixed"] > 1.5 * most, found  # what p-values and intervals of a fixed sample would say


def test_planted_effects_are_found_with_the_computed_power() -> None:
    lift = 0.08
    population = np.subtract(*arms(1, 400_000, seed=9, lift=lift))
    a, b = arms(600, USERS, seed=10, lift=lift)
    expected = power_of(float(population.std()), USERS, float(population.mean()))
    assert 0.5 < expected < 0.9
    found = sum(permutation_test(x, y, draws=499, seed=0).p <= 0.05 for x, y in zip(a, b, strict=True))
    assert as_often_as(expected, 600, found), (expected, found / 600)


@pytest.mark.slow
@pytest.mark.parametrize("rare", [-1.0, 0.6, 1.0])
def test_looking_after_every_user_is_safe_with_skewed_differences(rare: float) -> None:
    # a rare large difference against many small ones: what the asymptotic confidence sequence gets wrong half the time
    rng = np.random.default_rng(2)
    chance = rng.random((500, 943))
    differences = np.where(chance < 0.01, rare, np.where(chance < 0.15, -rare * 0.01 / 0.14, 0.0))
    found = sum(looks_that_decide(Sequential(), row) for row in differences)
    assert found <= scipy_stats.binom.ppf(1 - 1e-4, 500, 0.05)


@pytest.mark.slow
def test_intervals_of_943_users_cover_as_stated() -> None:
    a, b = arms(EXPERIMENTS, 943, seed=12)
    missed = 0
    for number in range(EXPERIMENTS):
        d = paired_difference(a[number], b[number], draws=1_000, seed=number)
        missed += not d.low <= 0 <= d.high
    assert 0.04 <= missed / EXPERIMENTS <= 0.075
