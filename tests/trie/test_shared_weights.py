"""Log weights that requests share: what is derived from them where all items weigh the same, some, or none."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.trie.weights import ItemWeights, Shared


@pytest.mark.parametrize(
    ("log_weights", "ranking", "mass"),
    [
        ([-3.0] * 4, [0, 1, 2, 3], 4.0),  # in units of the largest
        ([0.0, np.log(0.5), 0.0], [0, 2, 1], 2.5),
        ([-1.0, -np.inf, -1.0], [0, 2], 2.0),
        ([-np.inf] * 3, [], 0.0),
        ([-7.0], [0], 1.0),
    ],
)
def test_ranking_and_mass_by_hand(log_weights: list[float], ranking: list[int], mass: float) -> None:
    shared = Shared(np.array(log_weights))
    assert shared.ranking.tolist() == ranking
    assert shared.ranked.tolist() == [log_weights[item] for item in ranking]
    assert shared.mass == pytest.approx(mass)


def test_the_best_of_equal_items_and_a_few_others() -> None:
    weights = ItemWeights(Shared(np.full(6, -2.0)), 0.5, np.array([1, 4]), np.array([1.0, -np.inf]))
    items, values, total = weights.top(3)
    assert items.tolist() == [1, 0, 2]
    assert values.tolist() == [1.0, -1.5, -1.5]
    assert total == pytest.approx(np.log(np.exp(1.0) + 4 * np.exp(-1.5)))
