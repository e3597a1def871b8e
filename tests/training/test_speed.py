"""The comparison with plain TRL runs, and measures what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

pytest.importorskip("trl", reason="needs llmgen[train]")

from training.speed import PLAIN, main


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the trainer that is only here to compare with
def test_every_loss_is_timed_on_the_same_batches(settings: dict[str, str], tmp_path: Path) -> None:
    recipe, found = tmp_path / "recipe.yaml", tmp_path / "speed.json"
    validating = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    plain = {name: yaml.safe_load(value) for name, value in settings.items() if name not in ("data", "tasks", "priors")}
    nested = {name: json.loads(settings[name]) for name in ("data", "tasks", "priors")}
    recipe.write_text(yaml.safe_dump({**plain, **nested, **validating}), encoding="utf-8")
    main(recipe, batches=2, json_file=found)
    times = json.loads(found.read_text())
    assert set(times["seconds"]) == {PLAIN, "lm", "catalog", "residual"}
    assert all(len(seconds) == len(times["tokens"]) == 2 for seconds in times["seconds"].values())
