"""How results are named and read: labels of metrics, units, and what is best."""

from __future__ import annotations

from math import isfinite

from llmgen.evaluation.report.svg import Mark
from llmgen.evaluation.results import ArmSummary, Cost, Difference, Results

ALPHA = 0.05


SHORT = {"hr", "ndcg", "mrr", "map", "rmse", "mae", "auc"}


RATINGS = {"rmse", "mae"}  # measured in stars, not in shares of 1


LOWER_IS_BETTER = RATINGS | {"fallback_rate", "duplicate_rate"}


NEITHER_IS_BETTER = {"position_bias"}


def sample_line(results: Results) -> str:
    """Who was asked, in one line."""
    sample = results.sample
    who = f"{sample.users:,} users of {sample.dataset}, {sample.items:,} items in the catalog"
    return f"{who}; main metric {metric_label(results.metric)}"


def metric_label(name: str) -> str:
    """How people write a metric.

    >>> metric_label("ndcg@10"), metric_label("valid_rate")
    ('NDCG@10', 'Valid rate')
    """
    base, at, k = name.partition("@")
    return (base.upper() if base in SHORT else base.replace("_", " ").capitalize()) + at + k


def best(results: Results) -> dict[str, set[str]]:
    """Metric -> names of the arms and baselines with the best mean, as it is printed; of one alone nobody's."""
    found: dict[str, set[str]] = {}
    for metric in shown_metrics(results):
        means = {arm.name: round(arm.metrics[metric].mean, 4) for arm in results.arms if metric in arm.metrics}
        finite = [mean for mean in means.values() if isfinite(mean)]
        target = (min if base_metric(metric) in LOWER_IS_BETTER else max)(finite, default=None)
        marked = len(means) > 1 and base_metric(metric) not in NEITHER_IS_BETTER
        found[metric] = {name for name, mean in means.items() if mean == target and marked}
    return found


def mark_of(row: Difference) -> Mark:
    """What a difference says, after Holm's correction; `plain` where it is described and not tested."""
    if row.p_holm is None:
        return "plain"
    if not row.p_holm < ALPHA:
        return "unclear"
    if base_metric(row.metric) in NEITHER_IS_BETTER:
        return "differs"
    return "better" if (row.mean > 0) != (base_metric(row.metric) in LOWER_IS_BETTER) else "worse"


def reading_of(row: Difference) -> str:
    """How a difference is read; one that was not tested is described."""
    return "described" if row.p_holm is None else mark_of(row)


def shown_metrics(results: Results) -> list[str]:
    """The main one first."""
    found = dict.fromkeys(name for arm in results.arms for name in arm.metrics)
    return sorted(found, key=lambda name: name != results.metric)


def base_metric(metric: str) -> str:
    """The name without its cut-off."""
    return metric.partition("@")[0]


def unit_of(metric: str, results: Results) -> str:
    """Differences of one unit share an axis: shares of 1, stars, or what only this metric is measured in."""
    if base_metric(metric) in RATINGS:
        return "stars"
    bounds = [v for arm in results.arms if (m := arm.metrics.get(metric)) for v in (m.low, m.mean, m.high)]
    return "share" if all(0 <= value <= 1 for value in bounds) else metric


def cost_of(arm: ArmSummary, name: str) -> float | None:
    """A cost of an arm; None where it was not measured."""
    found: float | None = getattr(arm.cost, name) if isinstance(arm.cost, Cost) else None
    return found
