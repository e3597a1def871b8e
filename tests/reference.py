"""Slow, obvious versions of the trie's and the search's mathematics, to compare the real ones with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

# (suffix) -> log-probabilities of the whole vocabulary
NextLogprobs = Callable[[tuple[int, ...]], np.ndarray]


def item_logprobs(
    paths: Sequence[Sequence[int]],
    next_logprobs: NextLogprobs,
    mode: str = "trie",
    normalise: str = "catalog",
    log_prior: np.ndarray | None = None,
) -> np.ndarray:
    """log P_LM of every item, straight from the definition: token by token, looking at all paths each time."""
    eligible = [True] * len(paths) if log_prior is None else [bool(w > -np.inf) for w in log_prior]
    counted = [tuple(p) for p, e in zip(paths, eligible, strict=True) if normalise == "catalog" or e]
    answers: dict[tuple[int, ...], np.ndarray] = {}
    result = np.full(len(paths), -np.inf)
    for item, path in enumerate(map(tuple, paths)):
        if not eligible[item]:
            continue
        total = 0.0
        for depth, token in enumerate(path):
            prefix = path[:depth]
            if mode == "trie":
                siblings = sorted({p[depth] for p in counted if len(p) > depth and p[:depth] == prefix})
                if len(siblings) == 1:
                    continue
            if prefix not in answers:
                answers[prefix] = next_logprobs(prefix)
            if mode == "trie":
                total += answers[prefix][token] - math.log(sum(math.exp(answers[prefix][s]) for s in siblings))
            else:
                total += answers[prefix][token]
        result[item] = total - (math.log(counted.count(path)) if mode == "trie" else 0.0)
    return result
