from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.datasets.splits import Ties
from llmgen.errors import ConfigError, UnknownItemError
from llmgen.evaluation.baselines import core as baselines
from llmgen.evaluation.baselines import trials
from llmgen.evaluation.baselines.core import NEURAL_GRIDS, run_baselines, tune_baselines
from llmgen.evaluation.baselines.prior_evaluation import Evaluation, Halving, evaluate_priors
from llmgen.evaluation.memory import budget, rows_within
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.priors import Ease, ExcludeSeen, ItemKNN, Popularity, sparse
from llmgen.priors.kinds import PriorKind
from llmgen.types import Item, Query
from llmgen.workspace.core import DataSettings

N_ITEMS = 30
RING = Catalog(Item(str(n), f"Film {n}") for n in range(N_ITEMS))
GRIDS = {
    "popularity": {},
    "item_knn": {"neighbours": (5,), "decay": (0.5, 1.0)},
    "ease": {"l2": (1.0,), "decay": (0.5, 1.0)},
    "transition": {"window": (1, 3), "backward": (0.0, 1.0), "decay": (0.1, 1.0)},
}


@pytest.fixture(scope="module")
def walks() -> pl.DataFrame:
    """Sixty users who walk round a ring of thirty items, each from another place: the next item is always plus one."""
    starts = np.random.default_rng(0).integers(0, N_ITEMS, size=60)
    rows = [
        (f"u{user}", str((start + step) % N_ITEMS), float(step))
        for user, start in enumerate(starts)
        for step in range(8)
    ]
    log = pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64}, orient="row")
    return log.with_columns(rating=pl.lit(None, dtype=pl.Float64))


def dataset_of(log: pl.DataFrame) -> Dataset:
    return replace(Dataset.of(RING), interactions=log)


def test_metrics_follow_from_ranks() -> None:
    evaluation = Evaluation(np.array([1, 3, 11, np.iinfo(np.int64).max]), k=10)
    assert evaluation.hit_rates.tolist() == [1, 1, 0, 0]
    assert evaluation.ndcgs.tolist() == [1, 1 / 2, 0, 0]
    assert evaluation.hit_rate.mean == 1 / 2
    assert evaluation.ndcg.mean == 3 / 8
    assert evaluation.hit_rate.standard_error == pytest.approx((1 / 3) ** 0.5 / 2)


def test_rank_among_all_items_left() -> None:
    popularity = Popularity(np.log(np.arange(N_ITEMS, 0, -1.0)))  # item 0 is most popular
    queries = [Query(), Query(history=[RING["0"], RING["9"]]), Query(history=[RING["2"]])]
    evaluation = evaluate_priors(
        [ExcludeSeen(RING), popularity], queries, ["2", RING["2"], "2"], catalog=RING, batch_size=2
    )
    assert evaluation.ranks.tolist() == [3, 2, np.iinfo(np.int64).max]


def test_a_neural_model_is_beside_the_mix_and_in_a_second_one(walks: pl.DataFrame) -> None:
    settings = {
        "epochs": (20,),
        "dim": (16,),
        "layers": (1,),
        "lr": (0.01, 1e-6),
        "batch_size": (16,),
        "dropout": (0.0,),
    }
    tuning, final = samples(Protocol(), dataset_of(walks))
    classic = {"item_knn": {"neighbours": (5,)}}
    assert list(NEURAL_GRIDS) == ["sasrec"]
    results = tune_baselines(tuning, final, k=1, grids=classic, beside={"sasrec": settings})
    assert [result.name for result in results] == ["item_knn", "sasrec", "mix", "mix+sasrec"]
    _, sasrec, mix, both = results
    assert sasrec.test.hit_rate.mean > 0.9
    assert sasrec.settings["lr"] == 0.01 and sasrec.settings["epochs"] == 20
    assert [prior.name for prior in mix.priors] == ["seen", "item_knn"]
    assert [prior.name for prior in both.priors] == ["seen", "item_knn", "sasrec"]
    assert set(both.settings) == {"floor", "item_knn", "sasrec"}
    floors = {prior.floor for prior in both.priors if prior.name in ("item_knn", "sasrec")}  # type: ignore[attr-defined]
    assert floors == {both.settings["floor"]}


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="1 queries and 0 held-out"):
        evaluate_priors([], [Query()], [], catalog=RING)
    with pytest.raises(ValueError, match="k and batch_size"):
        evaluate_priors([], [Query()], ["1"], catalog=RING, k=0)
    with pytest.raises(UnknownItemError, match="'z'"):
        evaluate_priors([], [Query()], ["z"], catalog=RING)


@pytest.mark.parametrize("ties", ["file", "item_id"])
def test_transition_learns_the_ring_and_popularity_does_not(walks: pl.DataFrame, ties: Ties) -> None:
    results = run_baselines(walks, RING, ties=ties, k=1, grids=GRIDS)
    by_name = {result.name: result for result in results}
    assert list(by_name) == [*GRIDS, "mix"]
    assert by_name["transition"].settings == {"window": 1, "backward": 0.0, "decay": 0.1}
    assert by_name["transition"].test.hit_rate.mean > 0.95
    assert by_name["popularity"].test.hit_rate.mean < 0.2
    assert by_name["mix"].validation >= max(result.validation for result in results)
    assert set(by_name["mix"].settings) == {"floor", *GRIDS}
    assert all(result.priors[0].name == "seen" and len(result.test.ranks) == 60 for result in results)


def test_the_test_item_is_never_fitted(walks: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Spy(Popularity):
        @classmethod
        def fit(cls, interactions: pl.DataFrame, catalog: Catalog, *, weight: float = 1.0) -> Popularity:
            sizes.append((len(interactions), interactions["timestamp"].max()))
            return Popularity.fit(interactions, catalog, weight=weight)

    monkeypatch.setattr(trials, "kind", lambda name: PriorKind(name, Spy.fit, ""))
    run_baselines(walks, RING, grids={"popularity": {}})
    assert sizes == [(60 * 6, 5.0), (60 * 7, 6.0)]


def test_ties_decide_what_is_held_out() -> None:
    log = pl.DataFrame(
        {
            "user_id": ["u", "u", "u", "u", "v", "v", "v"],
            "item_id": ["7", "10", "9", "8", "1", "2", "3"],
            "timestamp": [0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 2.0],
            "rating": [None] * 7,
        },
        schema_overrides={"rating": pl.Float64},
    )
    for ties, last, order in (("file", "8", ["7", "10", "9"]), ("item_id", "10", ["7", "8", "9"])):
        _, final = samples(Protocol.model_validate({"ties": ties}), dataset_of(log))
        asked = {query.user_id: query for query in final.queries}
        assert dict(zip(asked, final.targets, strict=True)) == {"u": last, "v": "3"}
        assert [item.id for item in asked["u"].history] == order


def test_who_looks_for_a_seen_item_is_asked_only_where_seen_items_are_kept(walks: pl.DataFrame) -> None:
    again = walks.group_by("user_id", maintain_order=True).first().head(7)  # seven take their first item once more
    log = pl.concat([walks, again.with_columns(timestamp=pl.lit(9.0)).select(walks.columns)])
    for exclude_seen, users in ((True, 53), (False, 60)):
        (result, *_) = run_baselines(log, RING, exclude_seen=exclude_seen, grids={"popularity": {}})
        assert len(result.test.ranks) == users


def test_repeats_can_be_kept(walks: pl.DataFrame) -> None:
    results = run_baselines(walks, RING, exclude_seen=False, grids={"popularity": {}})
    assert [prior.name for prior in results[0].priors] == ["popularity"]


def test_unknown_model_and_empty_grid(walks: pl.DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"'svd'; there are transition, ease, item_knn"):
        run_baselines(walks, RING, grids={"svd": {}})
    with pytest.raises(ValueError, match="without values"):
        run_baselines(walks, RING, grids={"ease": {"l2": ()}})


def test_command(walks: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Data(NamedTuple):
        name: str
        catalog: Catalog
        interactions: pl.DataFrame

    monkeypatch.setattr(DataSettings, "load", lambda settings: Data(settings.dataset, RING, walks))
    monkeypatch.setattr(baselines.run_baselines, "__kwdefaults__", {**run_baselines.__kwdefaults__, "grids": GRIDS})
    app = typer.Typer()
    app.command()(baselines.main)
    file = tmp_path / "baselines.json"
    shown = CliRunner().invoke(app, ["--dataset", "ring", "--ties", "file", "--k", "5", "--json", str(file)])
    assert shown.exit_code == 0, shown.output
    assert "transition" in shown.output
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["n_users"] == 60
    assert [result["name"] for result in record["results"]] == [*GRIDS, "mix"]
    assert len(record["results"][0]["ranks"]) == 60
    assert CliRunner().invoke(app, ["--ties", "coin"]).exit_code == 2


def test_a_model_that_the_catalog_is_too_large_for_is_left_out_and_told(
    walks: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    found = run_baselines(walks, RING, grids={"ease": {"max_items": (2,)}, "popularity": {}})
    assert [result.name for result in found] == ["popularity", "mix"]
    assert set(found[-1].settings) == {"floor", "popularity"}
    assert "ease is left out: EASE inverts" in caplog.text


def test_a_broken_log_is_no_reason_to_leave_a_model_out(walks: pl.DataFrame) -> None:
    with pytest.raises(UnknownItemError):
        run_baselines(walks, Catalog([Item("elsewhere", "Elsewhere")]), grids={"popularity": {}})


def test_a_large_catalog_is_ranked_in_few_numbers_and_has_no_mix(
    walks: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    grids = {"popularity": {}, "transition": {}}
    dense = run_baselines(walks, RING, grids=grids)
    monkeypatch.setattr(baselines, "LARGE_CATALOG", 1)
    monkeypatch.setattr(sparse, "LARGE_CATALOG", 1)
    few = run_baselines(walks, RING, grids=grids)
    assert [result.name for result in few] == ["popularity", "transition"]
    for one, other in zip(dense, few, strict=False):
        assert one.test.ranks.tolist() == other.test.ranks.tolist()
    assert "the mix is left out" in caplog.text


def test_a_budget_is_a_quarter_of_the_machine_or_what_is_said() -> None:
    assert budget(1.5) == 3 << 29
    assert 0 < budget() <= budget(budget() * 4 / 2**30) / 4 + 1
    for wrong in (0, -1, 1e9):
        with pytest.raises(ConfigError, match=f"{wrong:g}".replace("+", r"\+")):
            budget(wrong)
    assert rows_within(8 * 100 * 3 * 7, columns=100, arrays=3, most=1024) == 7
    assert rows_within(1, columns=100, arrays=3, most=1024) == 1
    assert rows_within(1 << 40, columns=100, arrays=3, most=1024) == 1024


def test_a_model_that_the_budget_is_too_small_for_is_left_out_with_the_number(
    walks: pl.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    found = run_baselines(walks, RING, grids={"ease": {"l2": (1.0,)}, "popularity": {}}, memory=3 * 8 * N_ITEMS**2 - 3)
    assert [result.name for result in found] == ["popularity", "mix"]
    assert "ease is left out: EASE of 30 items needs 0.0 GiB" in caplog.text
    found = run_baselines(walks, RING, grids={"ease": {"l2": (1.0,)}, "popularity": {}}, memory=3 * 8 * N_ITEMS**2)
    assert [result.name for result in found] == ["ease", "popularity", "mix"]


def test_a_budget_changes_no_answer(walks: pl.DataFrame) -> None:
    grids = {name: grid for name, grid in GRIDS.items() if name != "ease"}
    roomy, tight = (run_baselines(walks, RING, k=1, grids=grids, memory=size) for size in (1 << 30, 1 << 20))
    for one, other in zip(roomy, tight, strict=True):
        assert (one.settings, one.validation) == (other.settings, other.validation)
        assert one.test.ranks.tolist() == other.test.ranks.tolist()


def test_halving_tries_all_on_few_and_the_best_on_more(walks: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def counted(priors, queries, *rest, **more):  # type: ignore[no-untyped-def]
        asked.append(len(queries))
        return evaluate_priors(priors, queries, *rest, **more)

    for module in (baselines, trials):
        monkeypatch.setattr(module, "evaluate_priors", counted)
    grids = {"transition": GRIDS["transition"]}
    halved = run_baselines(walks, RING, k=1, grids=grids, halving=Halving((10, 20, 40), 0.5, mix_users=20))
    assert asked[:15] == [10] * 8 + [20] * 4 + [40] * 2 + [60]  # 8 settings, 4, 2; then the test, of everybody
    whole = run_baselines(walks, RING, k=1, grids=grids)
    assert halved[0].settings == whole[0].settings == {"window": 1, "backward": 0.0, "decay": 0.1}
    assert halved[0].test.ranks.tolist() == whole[0].test.ranks.tolist()


def test_the_ridge_is_chosen_among_the_items_taken_most(walks: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []

    class Spy(Ease):
        @classmethod
        def fit(cls, interactions, catalog, **settings):  # type: ignore[no-untyped-def]
            fitted.append((len(catalog), settings["l2"]))
            return Ease.fit(interactions, catalog, **settings)

    monkeypatch.setattr(trials, "kind", lambda name: PriorKind(name, Spy.fit, ""))
    grids = {"ease": {"l2": (1.0, 1000.0), "decay": (0.5, 1.0)}}
    (result, *_) = run_baselines(walks, RING, k=1, grids=grids, halving=Halving((60,), items=20))
    assert [number for number, _ in fitted] == [20, 20, 30, 30]  # tried, then the chosen one on validation and test
    assert [ridge for _, ridge in fitted] == [1.0, 1000.0, result.settings["l2"], result.settings["l2"]]


def test_neighbours_are_found_once_for_all_settings_that_share_them(
    walks: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"neighbours": (2, 8, 4), "shrinkage": (0.0, 5.0), "decay": (0.5, 1.0)}
    fitted: list[dict[str, float]] = []
    scores: dict[tuple[float, ...], float] = {}

    class Spy(ItemKNN):
        @classmethod
        def fit(cls, interactions, catalog, **settings):  # type: ignore[no-untyped-def]
            fitted.append(settings)
            return ItemKNN.fit(interactions, catalog, **settings)

    tuning, final = samples(Protocol(), dataset_of(walks))
    for settings in product(*grid.values()):
        prior = ItemKNN.fit(tuning.known, RING, **dict(zip(grid, settings, strict=True)))  # type: ignore[arg-type]
        found = evaluate_priors([ExcludeSeen(RING), prior], tuning.queries, tuning.targets, catalog=RING, k=5)
        scores[settings] = found.ndcg.mean
    monkeypatch.setattr(trials, "kind", lambda name: PriorKind(name, Spy.fit, ""))
    (result,) = baselines.tune_baselines(tuning, final, k=5, grids={"item_knn": grid}, mixed=False)
    best = max(scores, key=lambda settings: scores[settings])  # of equally good ones the first
    assert tuple(result.settings.values()) == best
    assert result.validation == scores[best]
    assert [(one["neighbours"], one["shrinkage"]) for one in fitted[:-1]] == [(8, 0.0), (8, 5.0)]
    assert fitted[-1] == result.settings  # for the test


def test_a_decay_that_a_prior_of_another_package_is_fitted_with_is_tried(
    walks: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    def fit(interactions: pl.DataFrame, catalog: Catalog, *, weight: float = 1.0, decay: float = 0.5) -> Popularity:
        fitted.append(decay)
        return Popularity.fit(interactions, catalog, weight=weight)

    monkeypatch.setattr(trials, "kind", lambda name: PriorKind(name, fit, ""))
    run_baselines(walks, RING, grids={"fading": {"decay": (0.2, 0.4, 0.6)}})
    assert fitted == [0.2, 0.4, 0.6, 0.2]  # and the first of three that are equally good, for the test


def test_more_users_than_that_are_halved_without_a_word(walks: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "ALL_USERS", 50)
    monkeypatch.setattr(baselines, "HALVING", Halving((10, 30), 0.5))
    seen = []
    monkeypatch.setattr(baselines.Trials, "_ridge", lambda self, tried: seen.append(len(tried)) or tried)
    run_baselines(walks, RING, grids={"ease": {"l2": (1.0, 2.0)}})
    assert seen == [2]
