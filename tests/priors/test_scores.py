"""Scores of another model as a prior: a function, and a file of each user's items."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, DataError
from llmgen.priors import Scores, SparsePrior
from llmgen.priors.kinds import kind, wrong
from llmgen.priors.stored import load_prior, save_prior
from llmgen.recommend.recommender import Recommender
from llmgen.types import FloatArray, Item, Query

SONGS = Catalog([Item(letter, letter.upper()) for letter in "abcd"])
ANN = Query(user_id="ann")


def said(scores: Mapping[str, float] | FloatArray | None, **settings: object) -> list[float]:
    """The weights w of the items after a model said something, by the dense form, which the sparse one must equal."""
    prior = Scores(SONGS, lambda query: scores, **settings)  # type: ignore[arg-type]
    assert isinstance(prior, SparsePrior)
    dense = prior.log_weights([ANN])
    assert prior.sparse_log_weights([ANN])[0].at(np.arange(4)).tolist() == pytest.approx(dense[0].tolist(), abs=1e-12)
    return np.exp(dense[0]).round(6).tolist()


def test_scores_are_shares_beside_the_uniform_distribution() -> None:
    # shares 3/4 and 1/4 of 4 items: .9 * 4 * .75 + .1, .9 * 4 * .25 + .1, and twice the floor
    assert said({"c": 3.0, "a": 1.0}) == [1.0, 0.1, 2.8, 0.1]
    assert said({"c": 3.0, "a": 1.0}, floor=0.5) == [1.0, 0.5, 2.0, 0.5]
    assert said(np.array([1.0, 0.0, 3.0, 0.0])) == [1.0, 0.1, 2.8, 0.1]


def test_logits_are_exponents() -> None:
    assert said({"c": np.log(3.0) - 7, "a": -7.0}, logits=True) == [1.0, 0.1, 2.8, 0.1]
    assert said({"c": 2000.0, "a": -np.inf}, logits=True) == [0.1, 0.1, 3.7, 0.1]
    assert said(np.full(4, -800.0), logits=True) == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("nothing", [None, {}, {"a": 0.0}, {"gone": 1.0}, np.zeros(4)])
def test_where_no_item_has_a_score_nothing_is_said(nothing: Mapping[str, float] | FloatArray | None) -> None:
    assert said(nothing) == [1.0, 1.0, 1.0, 1.0]
    assert said({}, logits=True) == said({"gone": -3.0}, logits=True) == [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("scores", "logits", "message"),
    [
        ({"b": -0.5}, False, r"scores gave the item 'b' the score -0\.5; .* say logits=True"),
        ({"b": np.nan}, True, "the item 'b' the score nan"),
        ({"b": np.inf}, True, "the item 'b' the score inf"),
        (np.ones(3), False, r"an array \(3,\) for a catalog of 4 items"),
    ],
)
def test_what_is_no_score_is_told(scores: Mapping[str, float] | FloatArray, logits: bool, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Scores(SONGS, lambda query: scores, logits=logits).log_weights([ANN])
    with pytest.raises(ArgumentError, match=message):
        Scores(SONGS, lambda query: scores, logits=logits).sparse_log_weights([ANN])


def test_a_file_in_the_place_of_a_function_is_told() -> None:
    with pytest.raises(ArgumentError, match=r"not str; of a file use Scores\.read"):
        Scores(SONGS, "top.csv")  # type: ignore[arg-type]


def test_the_model_sees_the_query_and_its_product_ranks() -> None:
    def after(query: Query) -> dict[str, float]:
        return {"b": 1.0} if [item.id for item in query.items] == ["a"] else {"d": 1.0}

    recommender = Recommender(SONGS, None, priors=[Scores(SONGS, after, weight=2.0)])
    assert [recommender.recommend(Query(history=h, k=1))[0].item.id for h in (["a"], ["b"])] == ["b", "d"]
    assert recommender.recommend(Query(history=["a"], k=1))[0].terms["scores"] == pytest.approx(2 * np.log(3.7))


def test_a_new_item_is_known_by_its_id() -> None:
    prior = Scores(SONGS, lambda query: {"e": 1.0})
    assert not prior.log_weights([ANN]).any()
    grown = SONGS.with_items([Item("e", "E")])
    moved = prior.on_catalog(grown, np.array([0, 1, 2, 3, -1]))
    assert np.exp(moved.log_weights([ANN])).round(6).tolist() == [[0.1, 0.1, 0.1, 0.1, 4.6]]


ROWS = "user_id,item_id,score\nann,c,3\nbob,b,1\nann,a,1\nann,gone,9\n"


@pytest.fixture(params=["csv", "csv.gz", "parquet", "jsonl"])
def top(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"top.{request.param}"
    frame = pl.read_csv(ROWS.encode())
    if request.param == "csv":
        path.write_text(ROWS)
    elif request.param == "csv.gz":
        path.write_bytes(gzip.compress(ROWS.encode()))
    elif request.param == "parquet":
        frame.write_parquet(path)
    else:
        frame.write_ndjson(path)
    return path


def test_a_file_has_the_items_of_each_user(top: Path) -> None:
    prior = Scores.read(top, SONGS, weight=0.5)
    assert (prior.weight, prior.name) == (0.5, "scores")
    queries = [ANN, Query(user_id="bob"), Query(user_id="eve"), Query()]
    weights = np.exp(prior.log_weights(queries)).round(6).tolist()
    assert weights == [[1.0, 0.1, 2.8, 0.1], [0.1, 3.7, 0.1, 0.1], [1.0] * 4, [1.0] * 4]
    sparse = [row.at(np.arange(4)).tolist() for row in prior.sparse_log_weights(queries)]
    assert np.exp(sparse).round(6).tolist() == weights


def test_an_item_of_the_file_that_comes_later_has_its_score(top: Path) -> None:
    grown = SONGS.with_items([Item("gone", "Gone")])
    moved = Scores.read(top, SONGS).on_catalog(grown, np.array([0, 1, 2, 3, -1]))
    # 3, 1 and 9 of 13, five items
    assert np.exp(moved.log_weights([ANN])[0, 4]) == pytest.approx(0.9 * 5 * 9 / 13 + 0.1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("user_id,item\nann,a\n", "item_id"),
        ("user_id,item_id,score\nann,a,\n", r"row 1: a score that is no number: .*'item_id': 'a', 'score': None"),
        ("user_id,item_id,score\nann,a,1\nann,b,many\n", r"row 2: a score that is no number: .*'many'"),
        ("user_id,item_id,score\nann,a,-1\nann,b,-2\n", r"row 1: a score out of range.*logits=True \(2 such rows\)"),
        ("user_id,item_id,score\nann,a,nan\n", "row 1: a score out of range"),
        ("user_id,item_id,score\n,a,1\n", "row 1: no user_id"),
        ("user_id,item_id,score\nann,,1\n", "row 1: no item_id"),
        ("user_id,item_id,score\nann,a,1\nbob,a,1\nann,a,2\n", "row 1: a user and item that stand twice"),
        ("user_id,item_id,score\nann,x,1\n", r"no item of this catalog, first 'x'; .*'a', 'b', 'c'"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(rows: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "top.csv"
    path.write_text(rows)
    with pytest.raises(DataError, match=message):
        Scores.read(path, SONGS)


def test_logarithms_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "top.csv"
    path.write_text(f"user_id,item_id,score\nann,c,{np.log(0.6)}\nann,a,{np.log(0.2)}\n")
    weights = np.exp(Scores.read(path, SONGS, logits=True).log_weights([ANN])).round(6).tolist()
    assert weights == [[1.0, 0.1, 2.8, 0.1]]


def test_a_file_is_saved_with_what_was_fitted(tmp_path: Path) -> None:
    path = tmp_path / "top.csv"
    path.write_text(f"user_id,item_id,score\nbob,b,-1\nann,c,{np.log(0.6)}\nann,a,{np.log(0.2)}\nann,gone,-5\n")
    prior = Scores.read(path, SONGS, logits=True, floor=0.2, weight=0.5)
    save_prior(prior, tmp_path / "saved")
    path.unlink()
    loaded = load_prior(tmp_path / "saved", SONGS)
    asked = [ANN, Query(user_id="bob"), Query()]
    assert (loaded.log_weights(asked) == prior.log_weights(asked)).all() and loaded.weight == 0.5
    grown = SONGS.with_items([Item("gone", "Gone")])
    assert loaded.on_catalog(grown, np.array([0, 1, 2, 3, -1])).log_weights([ANN])[0, 4] > np.log(0.2)  # type: ignore[attr-defined]


def test_settings_know_it_by_name(tmp_path: Path) -> None:
    path = tmp_path / "top.csv"
    path.write_text(ROWS)
    prior = kind("scores").fit(None, SONGS, path=str(path), weight=0.3)
    assert isinstance(prior, Scores) and prior.weight == 0.3
    assert kind("scores").settings == ("path", "weight", "floor", "logits")
    assert dataclasses.replace(prior, weight=2.0).weight == 2.0
    assert list(wrong({"scores": {"weight": 1.0}})) == ["prior scores needs the setting 'path'"]
    assert list(wrong({"scores": {"path": "top.csv"}})) == []
