"""The study of what vectors add: its own arithmetic, and its commands on a small release."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from eval.meaning import app, best, combinations, exchanged, weights_of


def test_lists_are_of_the_product_and_ties_stay_in_order() -> None:
    ids = np.array(["a", "b", "c"])
    said = [np.array([[0.0, 1.0, 1.0]]), np.array([[3.0, 0.0, 0.0]])]
    assert best(said, (1.0, 0.0), ids) == [["b", "c", "a"]]
    assert best(said, (1.0, 1.0), ids) == [["a", "b", "c"]]
    order = np.array([[0.9, 0.5, 0.1]])  # c before b before a, where they tie
    assert best(said, (1.0, 0.0), ids, order) == [["c", "b", "a"]]
    assert best([], (), ids, order) == [["c", "b", "a"]]


def test_the_ten_best_of_many_are_those_of_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    ids = np.array([str(number) for number in range(60)])
    scores, order = (
        rng.integers(0, 6, (20, 60)).astype(float),
        rng.random((20, 60)),
    )  # about ten items a score: many ties
    full = [
        sorted(range(60), key=lambda item: (-row[item], ties[item]))[:10]
        for row, ties in zip(scores, order, strict=True)
    ]
    assert best([scores], (1.0,), ids, order) == [[str(item) for item in row] for row in full]


def test_the_weight_that_finds_most_is_taken_and_of_equal_ones_the_smallest() -> None:
    ids = np.array([str(number) for number in range(20)])
    words = np.zeros((1, 20))
    words[0, :10] = 1.0
    meaning = np.zeros((1, 20))
    meaning[0, 15] = 3.0
    assert weights_of([words, meaning], ids, [("15",)]) == (1.0, 0.5)  # .25 * 3 < 1 < .5 * 3: first of the list
    assert weights_of([words], ids, [("15",)]) == (1.0,)
    assert combinations(("x", "y")) == [("x",), ("y",), ("x", "y")]


def test_lists_that_were_made_for_others() -> None:
    own, others = exchanged([["a"], ["b"], ["a"]], [("a",), ("a",), ("b",)])
    assert own.tolist() == [1.0, 0.0, 0.0]
    assert others.tolist() == [0.5, 1.0, 0.5]


def test_the_studies_run_on_a_small_release(tagged_release: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    beside = ["--vectors", str(tmp_path / "vectors"), "--encoder", str(tiny_encoder)]
    data = ["--data", json.dumps({"dataset": str(tagged_release)})]
    small = json.dumps({"transition": {"window": 5}})
    said = {}
    for arguments in (
        ["wishes", str(tagged_release)],
        ["new", *data, "--users", "4"],
        ["warm", *data, "--users", "20", "--chosen", small],
    ):
        done = CliRunner().invoke(app, [*arguments, *beside])
        assert done.exit_code == 0, done.output
        said[arguments[0]] = done.output
    assert "| bm25 x vectors x popularity |" in said["wishes"]
    assert re.search(r"Of the [34] tags of which no word stands in any title", said["wishes"])
    assert "| content x texts x vectors |" in said["new"]
    assert said["warm"].count("on the part for choosing") == 4
    assert "| mix x vectors |" in said["warm"]
