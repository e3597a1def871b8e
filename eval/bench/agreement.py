"""Whether two constrained searches agree."""

from __future__ import annotations

from collections.abc import Mapping

TOLERANCE = 0.01
"""Of the sum of a path's log-probabilities; what two ways to the same sum differ by in float32 is a tenth of it."""

Found = dict[tuple[int, ...], float]
"""Token paths of items, and the sum of the log-probabilities of their tokens over the whole vocabulary."""


def is_as_good(ours: Mapping[tuple[int, ...], float], theirs: Mapping[tuple[int, ...], float]) -> bool:
    """Whether our search is as good as theirs: two beams may prune differently, but ours may not be the worse one.

    Returns:
        True if both give the same score to the paths that both have, and theirs has no other path that is better than
        the worst of ours.
    """
    same = all(abs(theirs[path] - score) < TOLERANCE for path, score in ours.items() if path in theirs)
    worst = min(ours.values(), default=float("-inf"))
    return same and all(score < worst + TOLERANCE for path, score in theirs.items() if path not in ours)
