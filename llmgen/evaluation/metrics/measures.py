"""What a run measures: metrics of each user, of all lists together, and of the cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
import polars as pl

from llmgen.evaluation.metrics import ranking
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.protocols.slices import shared_values
from llmgen.evaluation.results import Cost
from llmgen.types import FloatArray


def span(metric: str) -> float:
    """The largest absolute difference that two users' values of a metric of `Measures.per_user` can have."""
    return 2.0 if metric == "position_bias" else 1.0  # in [-1, 1]; all others are in [0, 1]


class Latencies(NamedTuple):
    """Seconds of users asked one at a time, see `llmgen.evaluation.results.Cost`; either may be empty."""

    cold: Sequence[float] = ()
    warm: Sequence[float] = ()


class Measures:
    """Measures answers against a sample.

    Args:
        sample: Who was asked for what.
        k: Cut-off.
    """

    def __init__(self, sample: Sample, k: int) -> None:
        self.sample, self.k = sample, k
        self._counts = Counter(sample.known["item_id"].to_list())
        self._users = max(1, sample.known["user_id"].n_unique())
        self._attributes = shared_values(sample.catalog)

    @cached_property
    def hits(self) -> list[str]:
        """The per-user metrics that are 0 or 1."""
        return [f"hr@{self.k}"]

    def per_user(self, answers: pl.DataFrame) -> dict[str, FloatArray]:
        """Metrics of each user.

        Returns:
            Name -> one value a user: `hr`, `ndcg`, `mrr` at k; `recall`, `precision` and `map` too where users have
            several held-out items; `position_bias` where there were candidates.
        """
        functions = {"hr": ranking.hit_rate_at_k, "ndcg": ranking.ndcg_at_k, "mrr": ranking.mrr_at_k}
        if any(len(items) > 1 for items in self.sample.held_out):
            functions |= {
                "recall": ranking.recall_at_k,
                "precision": ranking.precision_at_k,
                "map": ranking.average_precision_at_k,
            }
        lists = answers["items"].to_list()
        found = {
            f"{name}@{self.k}": np.array(
                [one(ranked, items, self.k) for ranked, items in zip(lists, self.sample.held_out, strict=True)]
            )
            for name, one in functions.items()
        }
        if self.sample.candidates is not None:
            pairs = zip(self.sample.candidates, lists, strict=True)
            found["position_bias"] = np.array([ranking.position_bias(shown, ranked) for shown, ranked in pairs])
        return found

    def lists(self, answers: pl.DataFrame) -> dict[str, float]:
        """Name -> value of all lists together; see `llmgen.evaluation.metrics`."""
        k, lists = self.k, answers["items"].to_list()
        histories = [[item.id for item in query.items] for query in self.sample.queries]
        shares = {item: max(1, self._counts[item]) / self._users for item in self.sample.catalog.ids}
        shares = {item: min(1.0, share) for item, share in shares.items()}
        lifts = [
            ranking.popularity_lift_at_k(ranked, history, self._counts, k)
            for ranked, history in zip(lists, histories, strict=True)
        ]
        pairs = list(zip(lists, histories, strict=True))
        known = [lift for lift in lifts if not np.isnan(lift)]
        found = {
            f"coverage@{k}": ranking.coverage_at_k(lists, len(self.sample.catalog), k),
            f"gini@{k}": ranking.gini_at_k(lists, len(self.sample.catalog), k),
            f"novelty@{k}": _mean([ranking.novelty_at_k(ranked, shares, k) for ranked in lists]),
            f"popularity_lift@{k}": _mean(known),
            f"repetition@{k}": _mean([ranking.repetition_at_k(ranked, history, k) for ranked, history in pairs]),
        }
        if any(self._attributes.values()):  # else all items would count as alike
            found[f"diversity@{k}"] = _mean([ranking.diversity_at_k(one, self._attributes, k) for one in lists])
        found["exact"] = _mean(answers["exact"].to_list())
        places = Counter(method for methods in answers["methods"].to_list() for method in methods)
        found |= {f"route_{name}": count / places.total() for name, count in sorted(places.items())}
        dropped = [method for methods in answers["dropped"].to_list() for method in methods]
        lines = sum(count for name, count in places.items() if name != "prior") + len(dropped)
        if "prior" in places or dropped or places.keys() - {"trie"}:
            good = places["trie"] + places["exact"] + sum(method in ("trie", "exact") for method in dropped)
            found["valid"] = good / lines if lines else 0.0
            found["duplicates"] = sum(method != "none" for method in dropped) / lines if lines else 0.0
        return found

    def cost(self, answers: pl.DataFrame, latencies: Latencies, price: float | None) -> Cost:
        """What the answers cost.

        Args:
            answers: Of one arm.
            latencies: Of users asked alone.
            price: Money for an hour of this machine.
        """
        seconds = 1000 * _mean(answers["seconds"].to_list())
        return Cost(
            prompt_tokens=_mean(answers["prompt_tokens"].to_list()),
            rounds=_mean(answers["rounds"].to_list()),
            cold_p50_s=_percentile(latencies.cold, 50),
            cold_p95_s=_percentile(latencies.cold, 95),
            warm_p50_s=_percentile(latencies.warm, 50),
            warm_p95_s=_percentile(latencies.warm, 95),
            seconds_per_1000=seconds,
            money_per_1000=None if price is None else seconds / 3600 * price,
        )


def _percentile(seconds: Sequence[float], share: float) -> float | None:
    return float(np.percentile(seconds, share)) if seconds else None


def _mean(values: Sequence[float] | Mapping[str, float]) -> float:
    return float(np.mean(list(values))) if len(values) else 0.0
