"""The loss over a catalog, against its definition written out in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs llmgen[train]")

from llmgen.training.loss import ItemPaths, catalog_loss, token_loss
from llmgen.trie.core import ItemTrie

END = 0
VOCABULARY = 8
BREAK = VOCABULARY
"""A token that stands for the end of a title in a list, and in no title."""
titles = st.lists(st.lists(st.integers(1, VOCABULARY - 1), min_size=1, max_size=4), min_size=1, max_size=12)


def naive(paths, item, logits, log_prior=None, weight=1.0, end=END, temperature=1.0):  # type: ignore[no-untyped-def]
    """Walk down the title; at each token a softmax over the tokens that some item of the catalog has there."""
    lost = 0.0
    paths = [(*path[:-1], end) for path in paths]
    for place, token in enumerate(paths[item]):
        below = {}
        for other, path in enumerate(paths):
            if path[:place] == paths[item][:place]:
                below.setdefault(path[place], []).append(other)
        scores = {}
        for option, items in below.items():
            mass = 1.0 if log_prior is None else sum(math.exp(log_prior[one]) for one in items)
            if mass > 0:
                scores[option] = (weight if log_prior is not None else 1 / temperature) * logits[place][
                    option
                ] + math.log(mass)
        if len(below) > 1:
            lost += math.log(sum(math.exp(score) for score in scores.values())) - scores[token]
    return lost


@given(titles=titles, seed=st.integers(0, 10**6), informed=st.booleans(), temperature=st.sampled_from([1.0, 0.5, 4.0]))
def test_loss_is_the_one_written_out(titles: list[list[int]], seed: int, informed: bool, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    paths = [(*title, END) for title in titles]
    trie = ItemTrie.build(paths)
    items = rng.integers(len(paths), size=5)
    ends = rng.choice([END, BREAK], size=5)
    logits = rng.normal(size=(5, 6, VOCABULARY + 1)) * 3
    priors = rng.normal(size=(5, len(paths))) * 2
    priors[rng.random(priors.shape) < 0.3] = -np.inf
    priors[np.arange(5), items] = 0.5
    rows = np.where(rng.random(5) < 0.5, -1, np.arange(5)) if informed else None
    choices = ItemPaths(trie).choices(items, ends, priors if informed else None, rows)

    def ask(tokens):  # type: ignore[no-untyped-def]
        return torch.tensor(logits[choices.target, choices.place][:, tokens])

    found = catalog_loss(choices, 5, ask, torch.tensor(0.3), temperature)
    expected = [
        naive(
            paths,
            item,
            logits[number],
            priors[number] if rows is not None and rows[number] >= 0 else None,
            0.3,
            ends[number],
            temperature,
        )
        for number, item in enumerate(items)
    ]
    assert found.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_a_model_that_says_nothing_is_the_prior() -> None:
    paths = [(1, 2, END), (1, 3, END), (4, END)]
    prior = np.log(np.array([[0.2, 0.5, 0.3]] * 3))
    choices = ItemPaths(ItemTrie.build(paths)).choices(np.arange(3), np.full(3, END), prior, np.arange(3))
    found = catalog_loss(choices, 3, lambda tokens: torch.zeros(len(choices.target), len(tokens)), torch.tensor(0.7))
    assert found.tolist() == pytest.approx([-math.log(share) for share in (0.2, 0.5, 0.3)], rel=1e-6)


def test_small_weights_are_not_lost_beside_large_ones() -> None:
    paths = [(1, END), (2, END), (3, 4, END), (3, 5, END)]
    prior = np.array([[0.0, -60.0, -60.0, -60.0]])
    choices = ItemPaths(ItemTrie.build(paths)).choices(np.array([2]), np.array([END]), prior, np.array([0]))
    found = catalog_loss(choices, 1, lambda tokens: torch.zeros(len(choices.target), len(tokens)), torch.tensor(1.0))
    assert found.tolist() == pytest.approx([60.0], rel=1e-6)


def test_a_prior_that_removes_its_target_is_an_error() -> None:
    paths = ItemPaths(ItemTrie.build([(1, END), (2, END)]))
    with pytest.raises(ValueError, match=r"target 0 removes the item 1"):
        paths.choices(np.array([1]), np.array([END]), np.array([[0.0, -np.inf]]), np.array([0]))


def test_one_item_costs_nothing() -> None:
    choices = ItemPaths(ItemTrie.build([(1, 2, END)])).choices(np.array([0]), np.array([END]))
    assert len(choices.token) == 0
    assert catalog_loss(choices, 1, lambda tokens: torch.zeros(0, len(tokens))).tolist() == [0.0]


def test_gradient_reaches_only_the_options() -> None:
    paths = [(1, 2, END), (3, END)]
    choices = ItemPaths(ItemTrie.build(paths)).choices(np.array([0]), np.array([END]))
    logits = torch.zeros(len(choices.target), VOCABULARY, requires_grad=True)
    catalog_loss(choices, 1, lambda tokens: logits[:, torch.from_numpy(tokens)]).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0, -0.5, 0, 0.5, 0, 0, 0, 0])


class TestTemperature:
    """Items 1 and 2 behind the root with logits log 9 and 0, then 3 and 4 below item 1's token with log 16 and 0.

    By hand, at T = 2: the root's children have sqrt(9) : 1, so .75 and .25; the others sqrt(16) : 1, so .8 and .2.
    """

    paths = ((1, 3, END), (1, 4, END), (2, END))
    logits = ((0, math.log(9), 0, 0, 0), (0, 0, 0, math.log(16), 0))

    def loss(self, logits, item: int, temperature: float):  # type: ignore[no-untyped-def]
        choices = ItemPaths(ItemTrie.build(self.paths)).choices(np.array([item]), np.array([END]))
        ask = lambda tokens: logits[torch.from_numpy(choices.place)][:, torch.from_numpy(tokens)]  # noqa: E731
        return catalog_loss(choices, 1, ask, 1.0, temperature)[0]

    def test_logits_are_divided_by_it(self) -> None:
        logits = torch.tensor(self.logits)
        assert float(self.loss(logits, 1, 2.0)) == pytest.approx(-math.log(0.75) - math.log(0.2))
        assert float(self.loss(logits, 1, 1.0)) == pytest.approx(-math.log(0.9) - math.log(1 / 17))

    def test_times_the_temperature_its_gradient_is_what_the_softmax_lacks(self) -> None:
        logits = torch.tensor(self.logits, requires_grad=True)
        (2.0 * self.loss(logits, 1, 2.0)).backward()
        assert logits.grad is not None
        assert logits.grad[0].tolist() == pytest.approx([0, 0.75 - 1, 0.25, 0, 0])
        assert logits.grad[1].tolist() == pytest.approx([0, 0, 0, 0.8, 0.2 - 1])

    def test_the_gradient_is_that_of_finite_differences(self) -> None:
        point, step = np.array(self.logits), 1e-3
        logits = torch.tensor(point, dtype=torch.float32, requires_grad=True)
        self.loss(logits, 0, 3.0).backward()
        assert logits.grad is not None
        for place in np.ndindex(point.shape):
            moved = [point.copy(), point.copy()]
            moved[0][place] += step
            moved[1][place] -= step
            above, below = (float(self.loss(torch.tensor(one, dtype=torch.float32), 0, 3.0)) for one in moved)
            assert (above - below) / (2 * step) == pytest.approx(float(logits.grad[place]), abs=1e-3)


def test_text_is_learned_over_the_whole_vocabulary() -> None:
    logits = torch.zeros(3, VOCABULARY)
    found = token_loss(logits, np.array([1, 2, 3]), np.array([0, 0, 1]), 2)
    assert found.tolist() == pytest.approx([2 * math.log(VOCABULARY), math.log(VOCABULARY)])


def test_paths_with_ends_of_their_own_keep_them() -> None:
    """Two lines that begin alike: 8 ends the one, 9 the other, and none of them is taken for the end of both."""
    trie = ItemTrie.build([(1, 8), (1, 2, 9)])
    choices = ItemPaths(trie, own_ends=True).choices(np.array([1]), np.array([9]))
    assert (choices.token.tolist(), choices.taken.tolist(), choices.place.tolist()) == ([2, 8], [0], [1])
