"""Commands tell all that is wrong with their settings together, before data or a model is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmgen.cli import store as storing
from llmgen.errors import ConfigError
from llmgen.server.run import ServeSettings, run
from llmgen.workspace.checks import check
from llmgen.workspace.core import DataSettings, RecommenderSettings
from llmgen.workspace.fitted import fit, open_workspace

WRONG = RecommenderSettings(
    engine="hg",
    priors={"als": 1.0, "transition": {"steps": 1}},
    rating_priors={"rating_als": 1.0},
    prompt=("gone", "next_item"),
)
TABLES = DataSettings(items=Path("nowhere.csv"), interactions=Path("neither.csv"))
PARTS = [
    "there is no file nowhere.csv",
    "there is no file neither.csv",
    "no engine is of the kind 'hg'",
    "no prior is called 'als'",
    "prior transition: there is no setting 'steps'",
    "no rating prior is called 'rating_als'",
    "no prompt is called 'gone'",
]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(lambda folder: open_workspace(TABLES, WRONG), id="recommend, batch"),
        pytest.param(lambda folder: fit(TABLES, WRONG, folder / "fitted"), id="fit"),
        pytest.param(lambda folder: run(TABLES, WRONG, ServeSettings(port=0)), id="serve, playground"),
    ],
)
def test_all_that_is_wrong_is_told_before_any_data_is_read(
    command: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DataSettings, "load", lambda *_, **__: pytest.fail("data were read"))
    with pytest.raises(ConfigError, match=rf"^{len(PARTS)} settings are wrong: ") as error:
        command(tmp_path)
    told = str(error.value).partition(": ")[2].split("; ")
    for part in PARTS:
        assert sum(part in line for line in told) == 1, part
    assert not (tmp_path / "fitted").exists()


def test_a_single_mistake_is_told_where_it_is_met() -> None:
    check(DataSettings(), WRONG.replace(engine="none", priors=None, rating_priors=None))
    check(None, RecommenderSettings())


def test_two_prompts_for_one_task_count_and_a_folder_has_its_own_priors(tmp_path: Path) -> None:
    both = RecommenderSettings(engine="hg", prompt=("next_item", "cold_start"))
    with pytest.raises(ConfigError, match=r"2 settings are wrong: .*'next_item' and 'cold_start' are both for"):
        check(None, both)
    check(None, WRONG.replace(folder=tmp_path, engine="none", rating_priors=None, prompt="next_item"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "import --items nowhere.csv --interactions neither.csv --pseudonyms none.key mysql://host/shop",
            ["no file nowhere.csv", "no file neither.csv", "not in mysql", "none.key: No such file"],
        ),
        ("stats --pseudonyms none.key mysql://host/shop", ["not in mysql", "none.key: No such file"]),
        ("export --out tables --pseudonyms none.key shop.db", ["no address of a store", "none.key: No such file"]),
        ("forget --pseudonyms none.key sqlite:// anna", ["lost with its process", "none.key: No such file"]),
    ],
)
def test_the_commands_of_a_store_tell_all_that_is_wrong_too(words: str, told: list[str]) -> None:
    ran = CliRunner().invoke(storing.app, words.split())
    assert isinstance(ran.exception, ConfigError)
    count, _, rest = str(ran.exception).partition(" settings are wrong: ")
    assert int(count) == len(told)
    assert re.search(".*; .*".join(map(re.escape, told)), rest)


def test_a_store_that_cannot_be_is_told_before_tables_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataSettings, "load", lambda *_, **__: pytest.fail("data were read"))
    ran = CliRunner().invoke(storing.app, ["import", "--dataset", str(tmp_path), "mysql://host/shop"])
    assert isinstance(ran.exception, ConfigError) and "not in mysql" in str(ran.exception)
