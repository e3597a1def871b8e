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
from typing import Literal, NamedTuple

from numpy.typing import ArrayLike

from llmgen.evaluation.stats.bootstrap import Seed, paired_differences
from llmgen.evaluation.stats.intervals import PairedDifference, paired_difference
from llmgen.evaluation.stats.sequential import Sequential
from llmgen.evaluation.stats.significance import holm, mcnemar, permutation_test


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
                watch.add(paired_differences(a, b))
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
