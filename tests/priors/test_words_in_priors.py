"""Words inside the models that learn from a log: who is alike by text, EASE and transitions that look at it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, CatalogTooLargeError
from llmgen.priors import Ease, Transition
from llmgen.priors import words as module
from llmgen.priors.words import text_neighbours
from llmgen.types import FloatArray, Item, Query

GAMES = Catalog(
    [
        Item("a", "Zelda Switch"),
        Item("b", "Mario Switch"),
        Item("c", "Halo Xbox"),
        Item("d", "Fable Xbox"),
        Item("n", "New Xbox"),
        Item("o", "Other"),
    ]
)


def log(*sequences: str) -> pl.DataFrame:
    rows = [(f"u{user}", item, float(place)) for user, word in enumerate(sequences) for place, item in enumerate(word)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


LOG = log("acb", "acd", "bca", "dca", "ab", "cd")


def whole(matrix: Any) -> FloatArray:
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix)


@pytest.mark.parametrize("cells", [1, 24, 1_000])
def test_neighbours_share_words(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # only "switch" and "xbox" stand in two titles: the items of one word are alike by 1, and all others by 0
    monkeypatch.setattr(module, "CELLS", cells)
    assert whole(text_neighbours(GAMES, 5)).tolist() == [
        [0, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0.5, 0.5, 0],
        [0, 0, 0.5, 0, 0.5, 0],
        [0, 0, 0.5, 0.5, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert whole(text_neighbours(GAMES, 1))[2:5].argmax(axis=1).tolist() == [3, 2, 2]


def test_ease_is_the_least_of_its_loss() -> None:
    """Beside a numeric search for the least |X - XB|^2 + l2 |B|^2 + words |B - S|^2 with a zero diagonal."""
    l2, words = 2.0, 3.0
    taken = np.zeros((6, 6))
    for user, word in enumerate(("acb", "acd", "bca", "dca", "ab", "cd")):
        taken[user, [GAMES.index(item) for item in word]] = 1
    alike = whole(text_neighbours(GAMES, 20)).T
    off = ~np.eye(6, dtype=bool)

    def loss(cells: FloatArray) -> tuple[float, FloatArray]:
        b = np.zeros((6, 6))
        b[off] = cells
        slope = -2 * taken.T @ (taken - taken @ b) + 2 * l2 * b + 2 * words * (b - alike)
        value = ((taken - taken @ b) ** 2).sum() + l2 * (b**2).sum() + words * ((b - alike) ** 2).sum()
        return float(value), slope[off]

    least = np.zeros((6, 6))
    least[off] = minimize(loss, np.zeros(30), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10}).x
    found = whole(Ease.fit(LOG, GAMES, l2=l2, words=words).similarity)
    assert np.allclose(found, least, atol=1e-5)


def test_an_item_that_nobody_took_is_scored_by_its_text() -> None:
    after_xbox = [Query(history=[GAMES["c"]])]
    plain, worded = (Ease.fit(LOG, GAMES, l2=2.0, words=words).scores(after_xbox)[0] for words in (0.0, 3.0))
    new, other = GAMES.index("n"), GAMES.index("o")
    assert plain[new] == plain[other] == worded[other] == 0 < worded[new]


def test_transitions_are_those_of_the_neighbours_too() -> None:
    """One step from a to c: b, which is like a, goes to c half as often as words=.5 says, and a to what is like c."""
    plain = {"backward": 0.0, "row_power": 0.0, "column_power": 0.0, "window": 1}
    found = whole(Transition.fit(log("ac"), GAMES, words=0.5, **plain).similarity)  # type: ignore[arg-type]
    expected = np.zeros((6, 6))
    expected[0, 2] = 1  # what was counted
    expected[1, 2] = 0.5  # from b as from a
    expected[0, 3] = expected[0, 4] = 0.5 * 0.5  # to d and n as to c, which is one of two neighbours of each
    assert np.allclose(found, expected)


def test_words_are_off_by_default() -> None:
    for fit in (Ease.fit, Transition.fit):
        assert (whole(fit(LOG, GAMES).similarity) == whole(fit(LOG, GAMES, words=0.0).similarity)).all()


def test_wrong_words_are_told() -> None:
    for fit in (Ease.fit, Transition.fit):
        with pytest.raises(ArgumentError, match=r"words must be 0 or more, not -1\.0"):
            fit(LOG, GAMES, words=-1.0)
    with pytest.raises(CatalogTooLargeError, match="6 x 6 items"):  # those that nobody took are in the matrix too
        Ease.fit(LOG, GAMES, words=1.0, max_items=5)
