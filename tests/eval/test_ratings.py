"""Predicted ratings by hand, and the whole program with an engine that says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer import Typer
from typer.testing import CliRunner

import eval.ratings
from eval.ratings import Biases, Neighbours, blend
from llmgen.catalog import Catalog
from llmgen.types import Item

LOG = pl.DataFrame(
    {
        "user_id": ["u", "u", "v", "v", "w", "w", "w"],
        "item_id": ["a", "b", "a", "b", "a", "b", "c"],
        "rating": [5.0, 4.0, 1.0, 2.0, 3.0, 3.0, 3.0],
    }
)
CATALOG = Catalog([Item(one, one.upper()) for one in "abcd"])


def test_biases_are_damped_means() -> None:
    found = Biases.fit(LOG, damping=1.0)
    assert found.mean == 3.0
    assert found.items == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert found.user(["a", "b"], [5.0, 4.0]) == pytest.approx(3 / 3)  # 2 and 1 above, and one rating at the mean
    assert found.predict(["a"], [5.0], "d") == 3 + 2 / 2
    assert found.predict([], [], "a") == 3.0


def test_neighbours_add_what_was_rated_alike() -> None:
    biases = Biases.fit(LOG, damping=1.0)
    found = Neighbours(LOG, CATALOG, biases)
    # residuals of u: a 5 - 3 - 1 = 1, b 0; of v: a -1, b 0: nothing in common between a and b but zeros
    assert found.similarity[0, 1] == 0
    assert found.predict(["a"], [5.0], "b") == biases.predict(["a"], [5.0], "b")
    rng = np.random.default_rng(0)
    taste = rng.normal(size=200)
    rows = [
        (f"u{user}", item, 3 + sign * taste[user] + 0.1 * rng.normal())
        for user in range(200)
        for item, sign in (("a", 1), ("b", 1), ("c", -1), ("d", -1))
    ]
    log = pl.DataFrame(rows, schema=["user_id", "item_id", "rating"], orient="row")
    biases = Biases.fit(log, damping=1.0)
    found = Neighbours(log, CATALOG, biases)
    assert found.similarity[0, 1] > 0.5 > -0.5 > found.similarity[0, 2]
    history, ratings = ["a", "c"], [4.0, 2.0]
    assert found.predict(history, ratings, "b") > biases.predict(history, ratings, "b") + 0.5
    assert found.predict(history, ratings, "d") < biases.predict(history, ratings, "d") - 0.5


def test_a_blend_finds_the_weights() -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 50))
    assert blend([one, other], 0.3 * one + 2 * other - 1) == pytest.approx([0.3, 2.0, -1.0])


def test_the_program_measures_what_it_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    folder = tmp_path / "ml-small"
    folder.mkdir()
    films = ["movieId,title,genres", *(f"{film},Film {film} (1990),War" for film in range(1, 16))]
    ratings = ["userId,movieId,rating,timestamp"]
    for user in range(1, 41):
        for place, film in enumerate(rng.permutation(15)[:8]):
            ratings.append(f"{user},{film + 1},{rng.integers(1, 6)}.0,{place}")
    (folder / "movies.csv").write_text("\n".join(films))
    (folder / "ratings.csv").write_text("\n".join(ratings))
    app = Typer()
    app.command()(eval.ratings.main)
    out = tmp_path / "ratings.json"
    arguments = ["--dataset", str(folder), "--engine", "fake", "--json", str(out), "--tuning-users", "20"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert found["users"] == 40
    assert sum(part["count"] for part in found["reliability"]) == 40
    assert rows["mean"]["rmse"][0] == pytest.approx(2**0.5, abs=0.3)  # of five equally likely ratings
    assert found["reference"] in ("mean", "user + item bias", "ItemKNN", "blend without the LM")
    assert rows[found["reference"]]["mse_difference"] == [0.0, 0.0, 0.0]
    assert list(rows) == [
        "mean", "user + item bias", "ItemKNN", "LM", "blend without the LM", "blend with the LM"
    ]  # fmt: skip
