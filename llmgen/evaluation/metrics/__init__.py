"""Metrics: of ranked lists, of predicted ratings, and all that a run measures (`measures`)."""

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

__all__ = [
    "average_precision_at_k",
    "coverage_at_k",
    "diversity_at_k",
    "duplicate_rate",
    "fallback_rate",
    "gini_at_k",
    "hit_rate_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "novelty_at_k",
    "popularity_lift_at_k",
    "position_bias",
    "precision_at_k",
    "recall_at_k",
    "repetition_at_k",
    "valid_rate",
]
