"""Predicted ratings, the whole program with an engine that says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner, Result

import eval.ratings
from eval.ratings import around, product, random_ratings
from llmgen.datasets import load_dataset
from llmgen.datasets.splits import History, histories, random_split


def test_the_product_is_itemknns_shares_times_the_models() -> None:
    said = {"ItemKNN": np.array([[0.2, 0.8], [0.5, 0.5]]), "LM": np.array([[0.75, 0.25], [0.9, 0.1]])}
    assert product(said, (1.0, 0.0)) == pytest.approx(said["ItemKNN"])
    half = 0.2 * 0.75**0.5 / (0.2 * 0.75**0.5 + 0.8 * 0.25**0.5)
    assert product(said, (1.0, 0.5))[0] == pytest.approx([half, 1 - half])
    assert product(said, (0.5, 0.0))[0] == pytest.approx([1 / 3, 2 / 3])
    assert product(said, (1.0, 1.0))[1] == pytest.approx([0.9, 0.1])


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """40 users, each of whom rates 8 of 15 films at random."""
    rng = np.random.default_rng(2)
    folder = tmp_path / "ml-small"
    folder.mkdir()
    rows = ["movieId,title,genres", *(f"{film},Film {film} (1990),War" for film in range(1, 16))]
    ratings = ["userId,movieId,rating,timestamp"]
    for user in range(1, 41):
        for place, film in enumerate(rng.permutation(15)[:8]):
            ratings.append(f"{user},{film + 1},{rng.integers(1, 6)}.0,{place}")
    (folder / "movies.csv").write_text("\n".join(rows))
    (folder / "ratings.csv").write_text("\n".join(ratings))
    return folder


def program(*arguments: str) -> Result:
    app = Typer()
    app.command()(eval.ratings.main)
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("split", ["last", "random"])
def test_the_program_measures_what_it_says(split: str, films: Path, tmp_path: Path) -> None:
    out = tmp_path / "ratings.json"
    arguments = ["--dataset", str(films), "--engine", "fake", "--json", str(out), "--tuning-users", "20"]
    done = program(*arguments, "--split", split)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    rows = {row["name"]: row for row in found["rows"]}
    held_out = 40 if split == "last" else random_split(load_dataset(str(films)).interactions).test.height
    assert list(rows) == ["mean", "user + item bias", "ItemKNN", "LM", "LM x ItemKNN"]
    for row in rows.values():
        assert found["ratings"] == sum(part["count"] for part in row["reliability"]) == held_out
        assert len(row["rmse"]) == len(row["mae"]) == len(row["nats"]) == 3
    assert 30 < found["users"] <= 40
    assert rows["mean"]["rmse"][0] == pytest.approx(2**0.5, abs=0.3)  # of five equally likely ratings
    assert rows["mean"]["nats"][0] == pytest.approx(np.log(5), abs=0.05)
    assert found["reference"] in ("mean", "user + item bias", "ItemKNN")
    assert rows[found["reference"]]["mse_difference"] == [0.0, 0.0, 0.0]
    best = min(found["validation_nats"], key=lambda row: row[2])
    assert [found["knn_weight"], found["lm_weight"]] == best[:2]
    questions = found["questions"]
    off = np.array(questions["LM"]) @ np.arange(1, 6) - questions["rating"]
    assert float(np.sqrt((off**2).mean())) == pytest.approx(rows["LM"]["rmse"][0], abs=1e-3)
    few = program(*arguments, "--split", split, "--users", "9", "--prompt", "rate_list")
    assert few.exit_code == 0, few.output
    found = json.loads(out.read_text())
    assert (found["users"], found["prompt"].partition("@")[0]) == (9, "rate_list")


def test_a_random_rating_knows_the_users_other_ratings_and_no_held_out_one(films: Path) -> None:
    dataset = load_dataset(str(films))
    split = random_split(dataset.interactions)
    tuning, final = random_ratings(dataset, None, 0, 3)
    given = {
        (user, item): rating
        for user, item, rating in dataset.interactions.select("user_id", "item_id", "rating").rows()
    }
    for asked, known, held in ((tuning, [split.train], split.validation), (final, split[:2], split.test)):
        before = histories(*known, catalog=dataset.catalog)
        rows = list(zip(asked.users, asked.targets, strict=True))
        assert sorted(rows) == sorted(held.select("user_id", "item_id").rows())
        assert asked.ratings == tuple(given[row] for row in rows)
        for query in asked.queries:
            history = before.get(str(query.user_id), History((), ()))
            known_ratings = list(zip(history.items, history.ratings or (), strict=True))
            asked_with = list(zip(query.history, query.ratings or (), strict=True))
            assert sorted(asked_with, key=str) == sorted(known_ratings, key=str)  # all, in another order
            at = [known_ratings.index(one) for one in asked_with]
            assert at[-3:] == list(range(at[-3], at[-3] + 3))  # that the last three stood side by side
    some = final.spread(5)
    assert len(set(some.users)) == 5
    assert len(some) == sum(user in set(some.users) for user in final.users)
    assert some.ratings == tuple(given[row] for row in zip(some.users, some.targets, strict=True))


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (0, [0, 1, 2, 3]),
        (3, [0, 1, 2, 3]),
        (3.5, [2, 3, 4, 5]),
        (5, [2, 3, 4, 5]),
        (6, [4, 5, 6, 7]),
        (99, [5, 6, 7, 8]),
    ],
)
def test_what_was_rated_about_then_is_shown(time: float, expected: list[int]) -> None:
    assert list(range(9))[around(range(9), time, 4)] == expected
    assert list(range(3))[around(range(3), time, 4)] == [0, 1, 2]
    assert list(range(3))[around(range(3), time, 0)] == []


def test_all_that_is_wrong_is_told_before_any_data_is_read() -> None:
    done = program("--dataset", "nowhere", "--engine", "fke", "--split", "u1", "--prompt", "next_item")
    assert done.exit_code == 2
    for part in (
        "no data set is called nowhere",
        "no engine is of the kind 'fke'",
        "split must be last or random, not 'u1'",
        "no prompt for the task rate is called 'next_item'; there are rate",
    ):
        assert part in " ".join(done.output.split())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*pin_memory.*:UserWarning")
def test_an_adapter_that_may_know_the_ratings_is_refused(films: Path, tiny_model: Path, tmp_path: Path) -> None:
    sft = pytest.importorskip("llmgen.training.sft", reason="needs llmgen[train]")
    settings = {
        "model": str(tiny_model),
        "data": json.dumps({"dataset": str(films)}),
        "tasks": json.dumps({"rates": {"prompts": ["rate_list"], "max_history": 6}}),
        "loss": "catalog",
        "validation_users": "0",
        "max_steps": "2",
        "per_device_train_batch_size": "2",
        "disable_tqdm": "true",
    }
    ask = ["--dataset", str(films), "--engine", f"hf:{tiny_model}", "--tuning-users", "10", "--users", "10"]
    for held, code in (("{}", 2), ('{"share": 0.2}', 0)):
        folder = str(tmp_path / f"adapter{code}")
        given = {**settings, "hold_out": held, "output_dir": folder}
        record = sft.run(*sft.parse([part for name, text in given.items() for part in (f"--{name}", text)]))
        asked = record.recommender
        assert (asked.prompt, asked.max_history) == (
            "next_item",
            6,
        )  # it was tuned on no prompt to recommend with
        done = program(*ask, "--adapter", folder, "--split", "random")
        assert done.exit_code == code, done.output
        assert ("may have learned the ratings" in done.output) == (code == 2)
        assert ("rate_list@" in done.output) == (code == 0)
        assert program(*ask, "--adapter", folder).exit_code == 0
    folder = str(tmp_path / "all")
    given = {**settings, "learn_from": "all", "output_dir": folder}
    sft.run(*sft.parse([part for name, text in given.items() for part in (f"--{name}", text)]))
    done = program(*ask, "--adapter", folder)
    assert (done.exit_code, "learned from the whole log" in done.output) == (2, True)
