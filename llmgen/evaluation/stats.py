"""Paired statistics, by user: is one recommender better than another on the same users, and by how much?

    needed = users_needed(sd=0.19, difference=0.02, comparisons=6)        # before anything is run
    for row in compare(values, baseline="popularity", metric="ndcg@10", hits={"hit_rate@10"}, seed=0):
        print(row.arm, row.metric, row.difference.mean, row.difference.low, row.difference.high, row.p, row.p_holm)

    watch = Sequential()                                                  # an arm too slow to run on everybody
    for batch in batches:                                                 # of users in random order
        watch.add(ndcg(arm, batch) - ndcg(baseline, batch))
        if watch.decided:
            break
    compare(values, baseline="popularity", metric="ndcg@10", anytime={"ndcg@10": 1.0}, seed=0)   # and what it found

Values are one a row, in the same order of users for every arm. Where a user has several rows (several seeds, several
held-out items), `clusters` names each row's user: users are drawn, flipped and counted, never rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import copysign, exp, frexp, inf, isfinite, ldexp, log, nan, sqrt
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import bdtr, ncfdtr, ndtr, ndtri, stdtrit

from llmgen.types import FloatArray

Seed = int | np.random.Generator
Method = Literal["bca", "percentile", "betting"]

CELLS = 1 << 22  # random numbers held at once: 32 MB of doubles, whatever the number of users and draws
EXACT = 14  # users who differ, up to which all sign patterns (2^14) cost about what 10,000 random ones do
FRACTION_BITS = 30
BETS: FloatArray = np.arange(1, 20) / 20  # twice as many bets give the same interval to 1 % (100 to 100,000 users)


class MeanInterval(NamedTuple):
    """A mean over users and how well it is known."""

    mean: float
    low: float
    high: float
    se: float
    n: int
    """Users (clusters, where they are given)."""
    method: Method
    """How the interval was made; BCa is undefined where all values are the same, and betting is `Sequential`'s."""


class PairedDifference(NamedTuple):
    """The mean of a - b over users, and how well it is known."""

    mean: float
    low: float
    high: float
    se: float
    effect: float
    """Cohen's d_z: mean over standard deviation of the users' differences; infinite if all differ by the same."""
    wins: int
    """Users to whom a gives more."""
    ties: int
    losses: int
    n: int
    """Users: wins + ties + losses."""
    method: Method


class PermutationTest(NamedTuple):
    """Two-sided p of a mean difference."""

    p: float
    exact: bool
    """All sign patterns were counted, not a sample of them."""


class McNemarTest(NamedTuple):
    """Exact two-sided p of a difference in hits, and the users it rests on."""

    only_a: int
    only_b: int
    p: float


class NonInferiority(NamedTuple):
    """Whether a is worse than b by less than the margin."""

    mean: float
    low: float
    """One-sided bound: the interval is [low, infinity)."""
    p: float
    """Of the hypothesis that a is worse by the margin or more."""
    holds: bool


class Comparison(NamedTuple):
    """One arm against the baseline on one metric."""

    arm: str
    metric: str
    difference: PairedDifference
    """Arm - baseline."""
    test: Literal["McNemar", "permutation", "betting"]
    p: float
    p_holm: float | None
    """Holm's, over all arms, where the metric is the one that is tested; None for the others, which are described."""


def compare(
    values: Mapping[str, Mapping[str, ArrayLike]],
    *,
    baseline: str,
    metric: str,
    hits: Collection[str] = (),
    level: float = 0.95,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
    anytime: Mapping[str, float] | None = None,
) -> list[Comparison]:
    """Every other arm against the baseline: tested on one metric, described on the others.

    Metrics of the same lists rise and fall together, so a correction over all of them costs power and buys nothing:
    Holm's is over the arms, on the one metric that was chosen before.

    Args:
        values: Arm -> metric -> one value a row; the same metrics, and the same rows in the same order, everywhere.
        baseline: The arm that the others are compared with.
        metric: The metric that is tested.
        hits: Metrics that are 0 or 1 and get McNemar's test; the others are graded and get the permutation test.
            With clusters every metric gets the permutation test, since McNemar's takes rows to be independent.
        level: Of the intervals, which are not corrected; with `anytime`, of all arms' intervals together.
        draws: Of each bootstrap and each permutation test.
        seed: With an integer, each row is what `paired_difference` and `permutation_test` say alone.
        clusters: See the module.
        anytime: Metric -> largest absolute difference that it can have, where asking may have been stopped because of
            what was seen. Intervals and p-values are then those of `Sequential`, which hold whenever one stops; those
            of a fixed sample do not. A user then has one row.

    Returns:
        Arms and metrics in the order of `values`.

    Raises:
        ValueError: If the baseline, another arm or a metric is missing, values do not pair, or a user has several rows
            with `anytime`.
    """
    if baseline not in values or len(values) < 2:
        raise ValueError(f"the baseline {baseline!r} and another arm are compared; values has {list(values)}")
    metrics = list(values[baseline])
    if unknown := sorted({metric, *hits, *(anytime or ())} - set(metrics)):
        raise ValueError(f"{', '.join(map(repr, unknown))}: not among the metrics, which are {metrics}")
    rows: list[Comparison] = []
    for arm, measured in values.items():
        if set(measured) != set(metrics):
            raise ValueError(f"{arm!r} has the metrics {list(measured)}, and the baseline {metrics}")
        if arm == baseline:
            continue
        for name in metrics:
            a, b = measured[name], values[baseline][name]
            if anytime is not None:
                shared = 1 - (1 - level) / (len(values) - 1)
                difference = paired_difference(a, b, level=shared, seed=seed, clusters=clusters, anytime=anytime[name])
                watch = Sequential(shared, largest=anytime[name])
                watch.add(_difference(a, b))
                rows.append(Comparison(arm, name, difference, "betting", watch.p, None))
                continue
            difference = paired_difference(a, b, level=level, draws=draws, seed=seed, clusters=clusters)
            if name in hits and clusters is None:
                rows.append(Comparison(arm, name, difference, "McNemar", mcnemar(a, b).p, None))
            else:
                p = permutation_test(a, b, draws=draws, seed=seed, clusters=clusters).p
                rows.append(Comparison(arm, name, difference, "permutation", p, None))
    adjusted = iter(holm([row.p for row in rows if row.metric == metric]))
    return [row._replace(p_holm=float(next(adjusted))) if row.metric == metric else row for row in rows]


def interval_of_mean(
    values: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
    anytime: float | None = None,
) -> MeanInterval:
    """Mean of one arm over users, with a bootstrap interval, or one that holds whenever asking was stopped.

    Args:
        values: One a row; see the module for rows and clusters.
        level: Of the interval, between 0 and 1.
        draws: Resamples; their cost grows with the number of different values, not of users.
        seed: The same seed and rows give the same interval, in whatever order the rows come.
        clusters: See the module.
        anytime: The largest absolute value that there can be, for the interval of `Sequential` in place of the
            bootstrap's. A user then has one row.

    Raises:
        ValueError: If there are fewer than two users, or a value is not finite.

    Source: Efron, JASA 1987 (BCa). Few values other than 0 make it too short: on differences in NDCG@10, 85 % of them
    0, the 95 % interval missed the mean in 7.5 % of 1,500 samples of 200 users and 6 % of 800 samples of 943.

    >>> interval_of_mean([0.5, 0.5, 0.5], seed=0)
    MeanInterval(mean=0.5, low=0.5, high=0.5, se=0.0, n=3, method='percentile')
    """
    column = _column("values", values)
    units = _units(_rounded(column, np.abs(column).max()), clusters)
    return _interval(units, level, draws, seed, anytime)


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
    anytime: float | None = None,
) -> PairedDifference:
    """Mean of a - b over users, with an interval as `interval_of_mean` makes it, effect size and wins.

    Args:
        a: One value a row.
        b: The same rows in the same order.
        level: Of the interval, between 0 and 1.
        draws: See `interval_of_mean`, which makes the interval.
        seed: See `interval_of_mean`.
        clusters: See the module. The standard error is then the cluster-robust one of a ratio of means; effect and
            wins are of the users' mean differences.
        anytime: See `interval_of_mean`: the largest absolute difference that there can be.

    Raises:
        ValueError: If the rows do not pair, there are fewer than two users, or a value is not finite.

    >>> d = paired_difference([1.0, 0.5, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0], seed=0)
    >>> d.mean, d.wins, d.ties, d.losses
    (0.375, 2, 2, 0)
    """
    units = _units(_difference(a, b), clusters)
    known = _interval(units, level, draws, seed, anytime)
    sd = float((units.sums / units.sizes).std(ddof=1))
    if sd > 0:
        effect = float((units.sums / units.sizes).mean()) / sd
    else:
        effect = copysign(inf, known.mean) if known.mean else 0.0
    wins, losses = int((units.sums > 0).sum()), int((units.sums < 0).sum())
    return PairedDifference(**known._asdict(), effect=effect, wins=wins, ties=known.n - wins - losses, losses=losses)


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
) -> PermutationTest:
    """Two-sided p of the mean difference: how often do flipped signs of the users' differences give one as large?

    What is tested is that the arms are exchangeable for each user: differences lie evenly around 0, not just on
    average.

    Args:
        a: One value a row.
        b: The same rows in the same order.
        draws: Random sign patterns, where more than 14 users differ; with fewer all patterns are counted.
        seed: Of the random patterns. The order of the rows and of the arms changes nothing.
        clusters: See the module.

    Returns:
        p is at least 1 / (draws + 1), and 1 if nobody differs.

    Raises:
        ValueError: If the rows do not pair or a value is not finite.

    Sources: Fisher, The Design of Experiments (1935), section 21; Phipson & Smyth, SAGMB 2010: (r + 1) / (draws + 1).

    >>> permutation_test([1.0, 1.0, 1.0], [0.0, 0.0, 0.5], seed=0).p == 2 / 2**3
    True
    """
    _at_least_one("draws", draws)
    sums = _units(_difference(a, b), clusters).sums
    observed = abs(sums.sum())
    sizes: FloatArray = np.sort(np.abs(sums[sums != 0]))
    if len(sizes) <= EXACT:
        patterns = np.arange(1 << len(sizes))[:, None] >> np.arange(len(sizes)) & 1
        return PermutationTest(float((_flipped(sizes, patterns) >= observed).mean()), True)
    rng, as_large = np.random.default_rng(seed), 0
    for count in _chunks(draws, len(sizes)):
        as_large += int((_flipped(sizes, rng.integers(2, size=(count, len(sizes)), dtype=np.int8)) >= observed).sum())
    return PermutationTest((as_large + 1) / (draws + 1), False)


def mcnemar(a_hit: ArrayLike, b_hit: ArrayLike) -> McNemarTest:
    """Exact test of a difference in hits: of the users whom one arm alone hits, are half a's?

    Args:
        a_hit: 0 or 1 (or booleans), one a user.
        b_hit: The same users in the same order.

    Returns:
        p is 1 if no user is hit by one arm alone.

    Raises:
        ValueError: If the rows do not pair or a value is neither 0 nor 1.

    Source: McNemar, Psychometrika 1947; the exact p is the sign test's, 2 P(Bin(n, 1/2) <= the smaller count).

    >>> mcnemar([1, 1, 1, 0], [0, 0, 0, 0])
    McNemarTest(only_a=3, only_b=0, p=0.25)
    """
    a, b = _pair(a_hit, b_hit)
    both = np.concatenate([a, b])
    if len(wrong := both[(both != 0) & (both != 1)]):
        raise ValueError(f"a hit is 0 or 1, not {wrong[0]}; for graded metrics there is permutation_test")
    only_a, only_b = int((a > b).sum()), int((a < b).sum())
    p = min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))
    return McNemarTest(only_a, only_b, p)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's step-down p-values: all at or below alpha are significant, with one false one at most alpha often.

    Args:
        p_values: In any order, each in [0, 1]; may be empty.

    Returns:
        float64, in the order given; none below its own p-value or above 1.

    Raises:
        ValueError: If a p-value is outside [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 1979.

    >>> [round(float(p), 2) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    p: FloatArray = np.asarray(p_values, dtype=np.float64)
    if len(wrong := p[~((p >= 0) & (p <= 1))]):
        raise ValueError(f"a p-value lies in [0, 1], not {wrong[0]}")
    upwards = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[upwards] = np.minimum(1.0, np.maximum.accumulate(p[upwards] * np.arange(len(p), 0, -1)))
    return adjusted


def non_inferior(
    a: ArrayLike,
    b: ArrayLike,
    margin: float,
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: Seed,
    clusters: ArrayLike | None = None,
) -> NonInferiority:
    """Is a worse than b by less than the margin? One-sided: a cheaper arm only has to be good enough.

    Args:
        a: One value a row.
        b: The same rows in the same order.
        margin: The loss that would not matter, above 0, chosen before looking.
        level: Of the one-sided bound; 0.95 gives the lower end of a two-sided 90 % interval.
        draws: See `interval_of_mean`.
        seed: See `interval_of_mean`.
        clusters: See the module.

    Returns:
        p is the error at which the same bootstrap bound would lie at -margin, so p and bound agree to 1 / draws.

    Raises:
        ValueError: If the margin is not above 0, the rows do not pair, or there are fewer than two users.

    Source: Efron & Tibshirani (1993), equation 14.10 (BCa), solved for the level; Piaggio et al., JAMA 2012, on
    margins.
    """
    _above_zero("margin", margin)
    units = _units(_difference(a, b), clusters)
    _share("level", level)
    resampled = _bootstrap(units, draws, seed)
    low = _quantile(resampled, 1 - level)
    return NonInferiority(_mean(units), low, _level_at(resampled, -margin), low > -margin)


def power_of(sd: float, n: int, difference: float, *, alpha: float = 0.05, comparisons: int = 1) -> float:
    """Chance that a two-sided paired t-test of n users finds a mean difference.

    Args:
        sd: Standard deviation of the users' differences, above 0.
        n: Users, 2 or more.
        difference: The true mean difference, of either sign.
        alpha: Of all comparisons together.
        comparisons: Tests that share alpha equally (Bonferroni), which is Holm's first and hardest step.

    Raises:
        ValueError: If an argument is out of its range.

    Source: Cohen, Statistical Power Analysis (1988), chapter 2. The square of a noncentral t is a noncentral F,
    which is computed more reliably, and holds both tails.

    >>> round(power_of(sd=1.0, n=34, difference=0.5), 3)
    0.808
    """
    _above_zero("sd", sd)
    if not isfinite(difference):
        raise ValueError(f"difference must be finite, not {difference}")
    return _power(difference / sd * sqrt(n), _degrees(n), _alpha(alpha, comparisons))


def detectable_difference(sd: float, n: int, *, power: float = 0.8, alpha: float = 0.05, comparisons: int = 1) -> float:
    """Smallest mean difference that n users show with the wanted power; see `power_of` for the arguments.

    >>> round(detectable_difference(sd=0.19, n=943), 4)
    0.0174
    """
    _above_zero("sd", sd)
    degrees, alpha = _degrees(n), _alpha(alpha, comparisons)
    _reachable(power, alpha)
    high = 1.0
    while _power(high, degrees, alpha) < power:
        high *= 2
    return float(brentq(lambda shift: _power(shift, degrees, alpha) - power, 0.0, high)) * sd / sqrt(n)


def users_needed(sd: float, difference: float, *, power: float = 0.8, alpha: float = 0.05, comparisons: int = 1) -> int:
    """Fewest users that show a mean difference with the wanted power; see `power_of` for the arguments.

    >>> users_needed(sd=1.0, difference=0.5)
    34
    """
    _above_zero("difference", abs(difference))
    _reachable(power, _alpha(alpha, comparisons))
    few, enough = 1, 2
    while power_of(sd, enough, difference, alpha=alpha, comparisons=comparisons) < power:
        few, enough = enough, 2 * enough
    while enough - few > 1:
        middle = (few + enough) // 2
        if power_of(sd, middle, difference, alpha=alpha, comparisons=comparisons) < power:
            few = middle
        else:
            enough = middle
    return enough


class Sequential:
    """A confidence sequence for the mean of bounded differences: may be looked at, and stopped, at any time.

    Each candidate mean m is a fair game: bet a share of the capital on every difference being above m, or below it.
    If m is the true mean, the capital ever reaches 2 / alpha with probability alpha / 2 at most (Ville); the interval
    holds the means against which nobody has become that rich. Capital is spread evenly over fixed bets, so only the
    differences count, not their order.

    Users must come in random order. For several arms against a baseline, share the error: level = 1 - 0.05 / arms.

    Args:
        level: Of the interval, between 0 and 1.
        largest: Largest absolute value that a difference can have: 1 for metrics in [0, 1], 2 for those in [-1, 1].

    Chosen by measurement, on differences in NDCG@10 of which 85 % are 0, looking after every one of 943 users: arms
    that do not differ were told apart in 2.4 % of 4,000 runs. Asymptotic confidence sequences (Waudby-Smith et al.,
    Annals of Statistics 2024) are 5 % narrower but did so in 17 %, and with skewed differences in 51 %; predictable
    plug-in empirical Bernstein (Waudby-Smith & Ramdas, theorem 2) is 18 % wider.

    Sources: Waudby-Smith & Ramdas, JRSS-B 2024, section 4 (the capital process, hedged between up and down); Orabona
    & Jun, IEEE Transactions on Information Theory 2024 (a prior over constant bets, Cover's universal portfolio).

    >>> watch = Sequential()
    >>> watch.add([0.0, 0.5, 0.0, 0.3])
    >>> watch.mean, watch.decided
    (0.2, False)
    """

    def __init__(self, level: float = 0.95, *, largest: float = 1.0) -> None:
        _above_zero("largest", largest)
        self.level, self.largest = _share("level", level), largest
        self._threshold = log(2 / (1 - level))
        self._values: FloatArray = np.empty(0)
        self._counts: FloatArray = np.empty(0)

    def add(self, differences: ArrayLike) -> None:
        """Take the differences of more users, a - b, each in [-largest, largest].

        Raises:
            ValueError: If there is none, or one is outside.
        """
        fresh = _column("differences", differences)
        if len(wrong := fresh[np.abs(fresh) > self.largest]):
            raise ValueError(f"a difference lies in [{-self.largest:g}, {self.largest:g}], not {wrong[0]}")
        merged = np.concatenate([self._values, fresh / self.largest])
        counts = np.concatenate([self._counts, np.ones(len(fresh))])
        self._values, kinds = np.unique(merged, return_inverse=True)
        self._counts = np.bincount(kinds, counts).astype(np.float64)

    @property
    def n(self) -> int:
        """Users so far."""
        return int(self._counts.sum())

    @property
    def mean(self) -> float:
        """Of all differences so far; nan before the first."""
        return self.largest * self._mean if self.n else nan

    @property
    def low(self) -> float:
        """Lower bound of the mean now; -largest before the first user."""
        return self.largest * self._bound(1)

    @property
    def high(self) -> float:
        """Upper bound of the mean now; largest before the first user."""
        return self.largest * self._bound(-1)

    @property
    def decided(self) -> bool:
        """The interval leaves out 0 now. Stop here: with more users a close decision may come undone."""
        return self._richest() >= self._threshold

    @property
    def p(self) -> float:
        """Two-sided p-value of a mean of 0, valid whenever one stops: 2 / capital of whoever is richer, at most 1.

        At most 1 - level exactly where the interval leaves out 0. Capital is an e-value at any stopping time, and its
        inverse a p-value (Ramdas et al., Statistical Science 2023); 2, since there are two who bet.
        """
        return min(1.0, 2 * exp(-self._richest()))

    @property
    def _mean(self) -> float:
        """In units of `largest`."""
        return float(self._values @ self._counts) / self.n

    def _richest(self) -> float:
        """Log of the larger capital won against a mean of 0."""
        return max(self._log_capital(0.0, side) for side in (1, -1))

    def _log_capital(self, mean: float, side: int) -> float:
        """Log of the capital won by betting that differences are above (side 1) or below (-1) a mean."""
        if not self.n:
            return 0.0
        returns = side * (self._values - mean) / (1 + side * mean)  # at least -1, so no bet loses everything
        capitals = np.log1p(BETS[:, None] * returns) @ self._counts
        return float(np.logaddexp.reduce(capitals)) - log(len(BETS))

    def _bound(self, side: int) -> float:
        """Where betting on this side stops paying: the capital falls as the candidate mean nears the differences."""
        edge = -side * (1 - 1e-12)
        if self._log_capital(edge, side) <= self._threshold:
            return -float(side)
        return float(brentq(lambda mean: self._log_capital(mean, side) - self._threshold, edge, self._mean, xtol=1e-9))


class _Units(NamedTuple):
    """What is drawn and flipped: users, each with the sum and the number of its rows, float64 [users]."""

    sums: FloatArray
    sizes: FloatArray


class _Bootstrap(NamedTuple):
    """Means of resamples, and how BCa corrects their quantiles; without correction both numbers are 0."""

    means: FloatArray
    bias: float
    acceleration: float
    method: Method


def _interval(units: _Units, level: float, draws: int, seed: Seed, anytime: float | None) -> MeanInterval:
    _share("level", level)
    n, mean = len(units.sums), _mean(units)
    method: Method
    if anytime is None:
        resampled = _bootstrap(units, draws, seed)
        low, high = (_quantile(resampled, share) for share in ((1 - level) / 2, (1 + level) / 2))
        method = resampled.method
    else:
        if (units.sizes != 1).any():
            raise ValueError("a user has several rows, and with anytime it must be one; give their mean")
        _several(n)
        watch = Sequential(level, largest=anytime)
        watch.add(units.sums)
        low, high, method = watch.low, watch.high, "betting"
    # linearised ratio of means; without clusters this is sd / sqrt(n)
    residuals = units.sums - mean * units.sizes
    se = sqrt(n / (n - 1) * float(residuals @ residuals)) / float(units.sizes.sum())
    return MeanInterval(mean, low, high, se, n, method)


def _bootstrap(units: _Units, draws: int, seed: Seed) -> _Bootstrap:
    """Draw users with replacement: how often each kind of user turns up is multinomial."""
    _at_least_one("draws", draws)
    n, mean = len(units.sums), _mean(units)
    _several(n)
    kinds, counts = np.unique(np.column_stack(units), axis=0, return_counts=True)
    rng, parts = np.random.default_rng(seed), []
    for count in _chunks(draws, len(kinds)):
        totals = rng.multinomial(n, counts / n, size=count) @ kinds
        parts.append(totals[:, 0] / totals[:, 1])
    means: FloatArray = np.concatenate(parts)
    left_out: FloatArray = (units.sums.sum() - units.sums) / (units.sizes.sum() - units.sizes)
    below = float((means < mean).mean() + (means <= mean).mean()) / 2
    if np.ptp(left_out) == 0 or not 0 < below < 1:
        return _Bootstrap(means, 0.0, 0.0, "percentile")
    spread = left_out.mean() - left_out
    acceleration = float((spread**3).sum() / (6 * (spread**2).sum() ** 1.5))
    return _Bootstrap(means, float(ndtri(below)), acceleration, "bca")


def _several(n: int) -> None:
    if n < 2:
        raise ValueError(f"{n} user has no spread; an interval needs two or more")


def _quantile(resampled: _Bootstrap, share: float) -> float:
    """Efron & Tibshirani, An Introduction to the Bootstrap (1993), equation 14.10."""
    z = resampled.bias + ndtri(share)
    return float(np.quantile(resampled.means, ndtr(resampled.bias + z / (1 - resampled.acceleration * z))))


def _level_at(resampled: _Bootstrap, value: float) -> float:
    """The share whose quantile is the value: `_quantile`, solved for its argument."""
    draws = len(resampled.means)
    w = ndtri((np.count_nonzero(resampled.means <= value) + 1) / (draws + 2)) - resampled.bias
    return float(ndtr(w / (1 + resampled.acceleration * w) - resampled.bias))


def _flipped(sizes: FloatArray, patterns: np.ndarray[tuple[int, int], np.dtype[np.integer]]) -> FloatArray:
    """Absolute sums under sign patterns, 0 and 1 [patterns, users]."""
    totals: FloatArray = np.abs(2 * (patterns.astype(np.float64) @ sizes) - sizes.sum())
    return totals


def _mean(units: _Units) -> float:
    return float(units.sums.sum() / units.sizes.sum())


def _chunks(draws: int, width: int) -> list[int]:
    """Sizes of parts of the draws that are each held at once."""
    part = max(1, CELLS // width)
    return [min(part, draws - start) for start in range(0, draws, part)]


def _power(shift: float, degrees: int, alpha: float) -> float:
    """Two-sided power of a t-test whose noncentrality is the shift."""
    critical = float(stdtrit(degrees, 1 - alpha / 2))
    return 1 - float(ncfdtr(1, degrees, shift**2, critical**2))


def _rounded(values: FloatArray, largest: float) -> FloatArray:
    """Values on a grid of 2^-30 of the largest one (1e-9).

    Then what only rounding tells apart is equal, and sums of up to 2^23 values are exact in float64, in whatever
    order: ties are ties.
    """
    grid = ldexp(1.0, frexp(largest)[1] - FRACTION_BITS)
    on_grid: FloatArray = np.rint(values / grid) * grid
    return on_grid


def _difference(a: ArrayLike, b: ArrayLike) -> FloatArray:
    left, right = _pair(a, b)
    return _rounded(left - right, max(np.abs(left).max(), np.abs(right).max()))


def _units(values: FloatArray, clusters: ArrayLike | None) -> _Units:
    if clusters is None:
        return _Units(values, np.ones(len(values)))
    labels = np.asarray(clusters)
    if labels.shape != values.shape:
        raise ValueError(f"clusters has shape {labels.shape}; give one label for each of the {len(values)} rows")
    _, user = np.unique(labels, return_inverse=True)
    sums: FloatArray = np.bincount(user, values).astype(np.float64)
    return _Units(sums, np.bincount(user).astype(np.float64))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[FloatArray, FloatArray]:
    left, right = _column("a", a), _column("b", b)
    if len(left) != len(right):
        raise ValueError(f"a has {len(left)} rows and b {len(right)}; pair them by user")
    return left, right


def _column(name: str, values: ArrayLike) -> FloatArray:
    column: FloatArray = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or not len(column):
        raise ValueError(f"{name} has shape {column.shape}; give one value a row, at least one row")
    if len(wrong := np.flatnonzero(~np.isfinite(column))):
        raise ValueError(f"{name}[{wrong[0]}] is {column[wrong[0]]}; a metric is finite for every user")
    return column


def _degrees(n: int) -> int:
    if n < 2:
        raise ValueError(f"n must be 2 users or more, not {n}")
    return n - 1


def _alpha(alpha: float, comparisons: int) -> float:
    _at_least_one("comparisons", comparisons)
    return _share("alpha", alpha) / comparisons


def _reachable(power: float, alpha: float) -> None:
    if not alpha < power < 1:
        raise ValueError(f"power must lie between alpha, {alpha:g}, and 1, not {power}")


def _share(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise ValueError(f"{name} must lie between 0 and 1, not {value}")
    return value


def _above_zero(name: str, value: float) -> None:
    if not 0 < value < inf:
        raise ValueError(f"{name} must be above 0 and finite, not {value}")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be 1 or more, not {value}")
