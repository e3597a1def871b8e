"""What a neural sequence model adds: several seeds, choices made with the first, rows that are means over the seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from typer import Typer
from typer.testing import CliRunner, Result

import eval.neural
from eval.neural import Study, each_seed
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.priors import ExcludeSeen, SASRec
from llmgen.priors.network import read
from llmgen.workspace.core import DataSettings

ITEMS, USERS, LENGTH = 40, 90, 8
SMALL = {"dim": 8, "layers": 1, "heads": 1, "lr": 0.01, "batch_size": 16, "epochs": 3, "validation_users": 20}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Users go through the items in steps of one to three, from places of their own."""
    folder = tmp_path_factory.mktemp("shop")
    items = [(f"i{number}", f"Song {number} of {number % 7}") for number in range(ITEMS)]
    pl.DataFrame(items, schema=["item_id", "title"], orient="row").write_csv(folder / "items.csv")
    log = [
        (f"u{user}", f"i{(user * 7 + place * (1 + user % 3)) % ITEMS}", place)
        for user in range(USERS)
        for place in range(LENGTH)
    ]
    pl.DataFrame(log, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(folder / "log.csv")
    return {"items": str(folder / "items.csv"), "interactions": str(folder / "log.csv")}


def study(data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = {
        "data": data,
        "weighing_users": 50,
        "weigh_by": "ndcg",
        "seeds": [5, 2],
        "priors": {
            "popularity": {},
            "transition": {"window": 2},
            "with words": {"prior": "transition", "window": 2, "words": 10},
            "sasrec": SMALL,
        },
        "mixes": {"mix": ["popularity", "transition"], "mix with sasrec": ["transition", "sasrec"]},
        "pairs": [["sasrec", "transition"], ["mix with sasrec", "sasrec"], ["with words", "transition"]],
    }
    return {name: value for name, value in (made | changes).items() if value is not None}


def run(folder: Path, settings: dict[str, Any]) -> Result:
    (folder / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    app = Typer()
    app.command()(eval.neural.main)
    return CliRunner().invoke(app, ["--config", str(folder / "study.yaml"), "--out", str(folder / "out")])


@pytest.fixture(scope="module")
def done(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("neural")
    result = run(folder, study(data))
    assert result.exit_code == 0, result.output
    return folder / "out"


@pytest.fixture(scope="module")
def results(done: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((done / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def gains(done: Path) -> dict[str, np.ndarray[Any, Any]]:
    """NDCG@10 of each user by the ranks that were written."""
    table = pl.read_parquet(done / "ranks.parquet")
    return {
        one.name: np.array([1 / np.log2(1 + rank) if rank <= 10 else 0.0 for rank in one.to_list()]) for one in table
    }


def test_the_model_is_trained_once_a_seed_and_its_row_is_their_mean(
    results: dict[str, Any], gains: dict[str, np.ndarray[Any, Any]]
) -> None:
    assert list(gains) == [
        "popularity", "transition", "with words", "sasrec, seed 5", "sasrec, seed 2", "mix", "mix with sasrec, seed 5",
        "mix with sasrec, seed 2"
    ]  # fmt: skip
    assert (gains["sasrec, seed 5"] != gains["sasrec, seed 2"]).any()
    for name in ("sasrec", "mix with sasrec"):
        row = results["alone"][name]
        each = {f"{name}, seed {seed}": gains[f"{name}, seed {seed}"].mean() for seed in (5, 2)}
        assert {one: of_it["ndcg"] for one, of_it in row["seeds"].items()} == pytest.approx(each)
        assert row["ndcg"] == pytest.approx(np.mean(list(each.values())))
        assert row["low"] <= row["ndcg"] <= row["high"]
    assert results["alone"]["transition"]["ndcg"] == pytest.approx(gains["transition"].mean())
    assert results["alone"]["transition"]["seeds"] == {}


def test_the_ranks_of_a_seed_are_those_of_a_training_by_hand(data: dict[str, Any], done: Path) -> None:
    """With that seed, on train and validation, for as many epochs as were best on train alone with the first seed."""
    shop = DataSettings.parse(data).load()
    _, final = samples(Protocol.model_validate({}), shop)
    best = read(done / "sasrec-tuning.pt")[1]
    assert best["settings"]["seed"] == 5
    given = SMALL | {"epochs": best["best_epoch"], "validation_users": 0}
    prior = SASRec.fit(final.known, shop.catalog, **given, seed=2)
    scores = prior.log_weights(final.queries) + ExcludeSeen(shop.catalog).log_weights(final.queries)
    wanted = np.array([shop.catalog.index(item) for item in final.targets])
    ranks = (scores >= np.take_along_axis(scores, wanted[:, None], axis=1)).sum(axis=1)
    assert pl.read_parquet(done / "ranks.parquet")["sasrec, seed 2"].to_list() == ranks.tolist()


def test_pairs_are_of_the_means_over_the_seeds(results: dict[str, Any], gains: dict[str, np.ndarray[Any, Any]]) -> None:
    mixed, alone = (
        np.array([gains[f"{name}, seed {seed}"] for seed in (5, 2)]) for name in ("mix with sasrec", "sasrec")
    )
    against = results["pairs"]["sasrec - transition"]
    assert against["by_seed"] == pytest.approx((alone - gains["transition"]).mean(axis=1))
    assert against["mean"] == pytest.approx((alone.mean(axis=0) - gains["transition"]).mean())
    both = results["pairs"]["mix with sasrec - sasrec"]
    assert both["by_seed"] == pytest.approx((mixed - alone).mean(axis=1))
    assert both["mean"] == pytest.approx((mixed - alone).mean())
    assert results["pairs"]["with words - transition"]["by_seed"] == pytest.approx(
        [(gains["with words"] - gains["transition"]).mean()]
    )


def test_groups_divide_the_users(results: dict[str, Any]) -> None:
    """All histories are of one length here, so only the popularity of the target divides them."""
    groups = results["groups"]
    assert {one["by"] for one in groups} == {"popularity of the held-out item"}
    sizes = [one["users"] for one in groups]
    assert sum(sizes) == results["users"] == USERS
    for name, row in results["alone"].items():
        assert np.average([one["ndcg"][name] for one in groups], weights=sizes) == pytest.approx(row["ndcg"])


def test_some_users_one_seed_and_weights_within_the_grid(data: dict[str, Any], tmp_path: Path) -> None:
    """What comes next is sure here, so likelihood gives transitions the largest weight that the grid allows."""
    mixes = {"mix": ["popularity", "transition"]}
    given = study(data, seeds=None, users=[10, 40], weigh_by=None, grid=[0.0, 1.25], mixes=mixes, pairs=None)
    result = run(tmp_path, given)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert found["users"] == 30 and list(found["alone"]["sasrec"]["seeds"]) == ["sasrec, seed 0"]
    assert found["weights"]["mix"]["transition"] == 1.25
    ranks = pl.read_parquet(tmp_path / "out" / "ranks.parquet")
    assert ranks.columns == ["popularity", "transition", "with words", "sasrec, seed 0", "mix"]


def test_weights_follow_the_neural_model_of_each_seed() -> None:
    made = each_seed({"sasrec": {"sasrec": 1.0}, "mix": {"a": 2.0, "sasrec": 0.5}, "a": {"a": 1.0}}, [3, 4])
    assert made["sasrec"] == {"sasrec, seed 3": {"sasrec, seed 3": 1.0}, "sasrec, seed 4": {"sasrec, seed 4": 1.0}}
    assert made["mix"]["mix, seed 4"] == {"a": 2.0, "sasrec, seed 4": 0.5}
    assert made["a"] == {"a": {"a": 1.0}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": [1, 1]}, "seeds: [1, 1] has one twice"),
        ({"seeds": []}, "seeds: "),
        ({"weighing_users": 0}, "weighing_users: "),
        ({"grid": []}, "grid: "),
        ({"wishes": 3}, "wishes: "),
        ({"priors": {"sasrec": {**SMALL, "seed": 1}}, "mixes": {}, "pairs": []}, "sasrec has seed"),
        ({"priors": {"other": {"prior": "sasrec"}}, "mixes": {}, "pairs": []}, "other is a sasrec"),
        ({"priors": {"transition": {"windows": 2}}, "mixes": {}, "pairs": []}, "there is no setting 'windows'"),
        ({"mixes": {"mix": ["eas"], "mix with sasrec": ["sasrec"]}}, "mix has eas, which is none of the priors"),
        ({"mixes": {"transition": ["popularity"], "mix with sasrec": ["sasrec"]}}, "transition is a prior too"),
        ({"pairs": [["sasrec", "mixed"]]}, "pairs: mixed is none of the priors and mixes"),
    ],
)
def test_a_mistake_is_told_before_any_work(
    data: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    result = run(tmp_path, study(data, **changes))
    assert result.exit_code == 2 and said in result.output
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [")
    app = Typer()
    app.command()(eval.neural.main)
    for name, said in (("none.yaml", "cannot read"), ("bad.yaml", "is not YAML")):
        result = CliRunner().invoke(app, ["--config", str(tmp_path / name), "--out", str(tmp_path / "out")])
        assert result.exit_code == 2 and said in result.output


@pytest.mark.parametrize("path", sorted(Path("eval/configs").glob("neural-*.yaml")), ids=lambda path: path.stem)
def test_the_studies_of_the_project_can_be_read(path: Path) -> None:
    assert "sasrec" in Study.read(path).priors
