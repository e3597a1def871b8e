"""A log as files, and the settings of a run on it that takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.conftest import films

REAL_RUNS = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
]
"""Of a file whose tests run TRL and PEFT, whose warnings are not ours."""


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The films and a log of 24 users as files: everybody goes through the films in an order of their own."""
    folder = tmp_path_factory.mktemp("tables")
    catalog, rng = films(40), np.random.default_rng(0)
    pl.DataFrame(
        [{"item_id": one.id, "title": one.title, "year": one.attributes["year"]} for one in catalog]
    ).write_csv(folder / "items.csv")
    rows = []
    for user in range(24):
        start, step = rng.integers(40), 1 + user % 3
        rows += [
            {"user_id": f"u{user}", "item_id": str(1 + (start + step * place) % 40), "timestamp": place, "rating": 3.0}
            for place in range(8)
        ]
    pl.DataFrame(rows).write_csv(folder / "log.csv")
    return folder


@pytest.fixture
def settings(tables: Path, tiny_model: Path, tmp_path: Path) -> dict[str, str]:
    data = {
        "items": str(tables / "items.csv"),
        "interactions": str(tables / "log.csv"),
        "columns": {"rating": "rating"},
        "attributes": ["year"],
        "noun": "film",
        "label": "{title} ({year})",
    }
    return {
        "model": str(tiny_model),
        "data": json.dumps(data),
        "tasks": json.dumps({"list": {"prompts": ["next_item_list"], "max_history": 6}}),
        "priors": json.dumps({"transition": {}}),
        "validation_users": "0",
        "output_dir": str(tmp_path / "run"),
        "max_steps": "4",
        "save_steps": "2",
        "per_device_train_batch_size": "4",
        "disable_tqdm": "true",
        "learning_rate": "0.01",
    }


def flags_of(settings: dict[str, str], **changes: str) -> list[str]:
    """Settings and changes to them, as flags of `llmgen.training.sft`."""
    return [part for name, value in {**settings, **changes}.items() for part in (f"--{name}", value)]
