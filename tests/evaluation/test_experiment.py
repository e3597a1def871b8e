"""An adapter that knows the answers is not asked; one that may know them is told of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from llmgen.adapters import AdapterRecord
from llmgen.datasets.splits import global_time, leave_one_out, log_digest
from llmgen.errors import ConfigError
from llmgen.evaluation import evaluate
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.experiment import Experiment, from_log


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    items = ["item_id,title", *(f"i{number},Film {number}" for number in range(20))]
    rows = [f"u{user},i{(user + 3 * place) % 20},{10 * place + user}" for user in range(8) for place in range(6)]
    (tmp_path / "items.csv").write_text("\n".join(items))
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    return {"items": str(tmp_path / "items.csv"), "interactions": str(tmp_path / "log.csv")}


def config(data: dict[str, str], split: str, adapter: Path, **arm: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "protocol": {"data": data, "split": split},
            "classics": "none",
            "arms": {"tuned": ArmConfig(adapter=str(adapter), **arm)},
        }
    )


def record(folder: Path, log: pl.DataFrame, **changes: Any) -> Path:
    """The folder of an adapter that has nothing but a record."""
    folder.mkdir()
    settings = {"base_model": "b", "loss": "lm", "lm_weight": 1.0, "prompt": "next_item", "max_history": 5, "seed": 0}
    made = {**settings, "prompts": (), "tokenizer": "t", "data": log_digest(log), **changes}
    AdapterRecord.model_validate(made).write(folder)
    return folder


def test_the_old_name_of_what_is_measured_on_is_there_for_a_release(data: dict[str, str], tmp_path: Path) -> None:
    settings = {"protocol": {"data": data, "k": 3}, "classics": "defaults", "draws": 200, "latency_users": 0}
    run = RunConfig.model_validate(settings)

    def first_three(config: RunConfig) -> Experiment:
        found = from_log(config)
        return replace(found, final=found.final.rows(range(3)))

    assert evaluate(run, tmp_path / "new", experiment=first_three).sample.users == 3
    with pytest.warns(DeprecationWarning, match=r"evaluate\(questions=\.\.\.\) is now called experiment"):
        assert evaluate(run, tmp_path / "old", questions=first_three).sample.users == 3


@pytest.mark.parametrize("split", ["leave_one_out", "time"])
def test_an_adapter_may_have_learned_what_came_before(data: dict[str, str], split: str, tmp_path: Path) -> None:
    dataset = config(data, split, tmp_path).protocol.load()
    log, catalog = dataset.interactions, dataset.catalog.digest
    train, validation, *_ = (
        leave_one_out(log) if split == "leave_one_out" else global_time(log, test_share=0.1, validation_share=0.1)
    )
    said = {}
    for name, learned in {"a": train, "b": pl.concat([train, validation]), "c": log.head(20)}.items():
        said[name] = from_log(config(data, split, record(tmp_path / name, learned, catalog=catalog))).notes
    elsewhere = from_log(config(data, split, record(tmp_path / "d", log.head(20), catalog="another"))).notes
    assert said["a"] == said["b"] == elsewhere
    (warned,) = set(said["c"]) - set(said["a"])
    assert warned.startswith(f"tuned: the adapter {tmp_path / 'c'} may know the items that are looked for")
    with pytest.raises(ConfigError, match=r"arm 'tuned': the adapter .* learned from the whole log"):
        from_log(config(data, split, record(tmp_path / "e", log, catalog=catalog)))


@pytest.mark.parametrize("split", ["leave_one_out", "time"])
def test_a_weight_is_not_chosen_on_items_that_the_adapter_learned(
    data: dict[str, str], split: str, tmp_path: Path
) -> None:
    dataset = config(data, split, tmp_path).protocol.load()
    log, catalog = dataset.interactions, dataset.catalog.digest
    train, validation, *_ = (
        leave_one_out(log) if split == "leave_one_out" else global_time(log, test_share=0.1, validation_share=0.1)
    )
    before = record(tmp_path / "before", train, catalog=catalog)
    after = record(tmp_path / "after", pl.concat([train, validation]), catalog=catalog)
    from_log(config(data, split, before, lm_weight="tuned"))
    from_log(config(data, split, after, lm_weight=0.1))
    from_log(config(data, split, after, lm_weight="tuned", tuning_adapter=str(before)))
    for settings in ({}, {"tuning_adapter": str(after)}):
        with pytest.raises(ConfigError, match=r"adapter .*after has learned the validation items, .* tuning_adapter"):
            from_log(config(data, split, after, lm_weight="tuned", **settings))
    whole = record(tmp_path / "whole", log, catalog=catalog)
    with pytest.raises(ConfigError, match=r"adapter .*whole learned from the whole log"):
        from_log(config(data, split, before, lm_weight="tuned", tuning_adapter=str(whole)))
    with pytest.raises(
        ConfigError, match=r"arm 'a', tuning_adapter: tuning_adapter goes with lm_weight: tuned, not without lm_weight"
    ):
        ArmConfig.of("a", {"adapter": str(after), "tuning_adapter": str(before)})
