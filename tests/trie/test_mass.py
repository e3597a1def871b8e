"""What the items below nodes weigh, where some weigh next to nothing beside others."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.trie.core import ItemTrie
from llmgen.trie.mass import DenseMass

ROOT = 0
HUGE, SMALL = 1, 2  # the children of the root, below which two items are each


def below(*log_weights: float) -> list[float]:
    trie = ItemTrie.build([(1, 1, 0), (1, 2, 0), (2, 1, 0), (2, 2, 0)])
    mass = DenseMass(trie, [np.array(log_weights)])
    return mass.below(np.zeros(3, np.int64), np.array([ROOT, HUGE, SMALL])).log_mass.tolist()


def test_two_equal_weights_weigh_twice_one_of_them_beside_a_huge_one() -> None:
    root, huge, small = below(0.0, -np.inf, -40.0, -40.0)  # exp(-40) is less than the last digit of 1
    assert (root, huge) == (0.0, 0.0)
    assert small == pytest.approx(-40 + np.log(2), abs=1e-12)


def test_weights_that_no_float_holds_beside_the_huge_one_are_summed_all_the_same() -> None:
    _, huge, small = below(0.0, 0.0, -5000.0, -5000.0 + np.log(3))
    assert huge == pytest.approx(np.log(2), abs=1e-12)
    assert small == pytest.approx(-5000 + np.log(4), abs=1e-9)


def test_where_nothing_is_eligible_nothing_weighs() -> None:
    assert below(0.0, 0.0, -np.inf, -np.inf)[2] == -np.inf
