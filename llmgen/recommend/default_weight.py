"""The weight of the language model where nobody gives one."""

from __future__ import annotations

from collections.abc import Sequence

from llmgen.priors import Prior
from llmgen.priors.kinds import kinds
from llmgen.types import Query

LM_WEIGHT_BESIDE_A_PRIOR = 0.03
"""Of a model that was not tuned on the catalog, where a prior knows the user or the wish; see eval/RESULTS.md."""


def default_lm_weight(priors: Sequence[Prior], query: Query) -> float:
    """1 where no prior knows the user or the wish; beside one that does, small.

    A model that was not tuned on the catalog knows less than such a prior, and at weight 1 its log-probabilities, which
    differ by far more than those of the prior, would decide alone.
    """
    return LM_WEIGHT_BESIDE_A_PRIOR if answered(priors, [query]) else 1.0


def answered(priors: Sequence[Prior], queries: Sequence[Query]) -> bool:
    """Whether a prior goes by what one of some queries tells: a history or a wish.

    What a prior of a class without a `PriorKind` goes by is not known; it is taken to go by both.
    """
    given = {"text": any(one.text for one in queries), "history": any(one.history for one in queries), "": False}
    known = kinds()
    return any(
        given[known[prior.name].reads] if prior.name in known else given["text"] or given["history"] for prior in priors
    )
