"""Commands tell all that is wrong with their settings together, before data or a model is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
