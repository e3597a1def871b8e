"""The models of `llmgen.priors.collaborative` as their papers write them: dense, slow, obvious; the right answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmgen.types import FloatArray, IntArray

WINDOW, STEP_DECAY, BACKWARD, ROW_POWER, COLUMN_POWER = 20, 0.9, 0.5, 0.5, 0.4
L2 = 300.0
NEIGHBOURS, SHRINKAGE = 200, 10.0
DECAY = 0.8


def transition(sequences: IntArray, n_items: int) -> FloatArray:
    """Similarities of `llmgen.priors.Transition`.

    Args:
        sequences: int64 [users, items each], catalog positions, oldest first.
        n_items: Size of the catalog.

    Returns:
        float64 [n_items, n_items], from the item of a history to the candidate.
    """
    counts = np.zeros((n_items, n_items))
    for taken in sequences.tolist():
        for place, item in enumerate(taken):
            for gap, later in enumerate(taken[place + 1 : place + 1 + WINDOW]):
                counts[item, later] += STEP_DECAY**gap
    counts = counts + BACKWARD * counts.T
    rows, columns = counts.sum(axis=1, keepdims=True), counts.sum(axis=0, keepdims=True)
    rows[rows == 0] = columns[columns == 0] = 1
    similarity: FloatArray = counts / rows**ROW_POWER / columns**COLUMN_POWER
    return similarity


def ease(sequences: IntArray, n_items: int) -> FloatArray:
    """Similarities of `llmgen.priors.Ease`; arguments and result as of `transition`."""
    taken = _taken(sequences, n_items)
    inverse = np.linalg.inv(taken.T @ taken + L2 * np.eye(n_items))
    weights: FloatArray = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def item_knn(sequences: IntArray, n_items: int) -> FloatArray:
    """Similarities of `llmgen.priors.ItemKNN`; arguments and result as of `transition`."""
    taken = _taken(sequences, n_items)
    both = taken.T @ taken
    norms = np.sqrt(np.diag(both))
    similar = both / (np.outer(norms, norms) + SHRINKAGE)
    np.fill_diagonal(similar, 0)
    for candidate in range(n_items):
        far = np.argsort(-similar[:, candidate], kind="stable")[NEIGHBOURS:]
        similar[far, candidate] = 0
    return similar


def scores(similarity: FloatArray, history: Sequence[int]) -> FloatArray:
    """Score of each item for a history of positions, oldest first: float64 [n_items]."""
    total = np.zeros(len(similarity))
    for age, item in enumerate(reversed(history)):
        total += DECAY**age * similarity[item]
    return total


def is_best(answer: Sequence[int], scored: FloatArray) -> bool:
    """Whether an answer, best first, holds the best items; of equal scores any will do, and those of 0 or less too."""
    wanted = np.maximum(np.sort(scored)[::-1][: len(answer)], 0)
    given = np.maximum(scored[list(answer)], 0)
    return bool(np.allclose(given, wanted, rtol=1e-6, atol=1e-12)) and len(set(answer)) == len(answer)


def _taken(sequences: IntArray, n_items: int) -> FloatArray:
    taken = np.zeros((len(sequences), n_items))
    for row, items in zip(taken, sequences.tolist(), strict=True):
        row[items] = 1
    return taken
