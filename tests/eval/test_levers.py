"""The study of training losses: its own arithmetic, and one run on a small log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")
pytest.importorskip("trl", reason="needs llmgen[train]")

import typer
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from eval import levers
from eval.levers import Found, cool, crossed, table
from llmgen.training.parsing import parse
from tests.conftest import films
from tests.training.conftest import REAL_RUNS


def test_the_weight_of_one_half_is_chosen_on_the_other() -> None:
    """Row 0 is best for the users 1 and 3, row 1 for the users 0 and 2."""
    assert crossed(np.array([[9.0, 1.0, 9.0, 1.0], [2.0, 5.0, 2.0, 5.0]])) == (0, 1)


def test_seeds_are_averaged_by_user_and_their_range_is_told() -> None:
    def found(*nats: float) -> Found:
        return Found({name: list(nats) for name in levers.MEASURES}, (0.1, 0.4), (7.0, 0.5), 5, 500, 1.0)

    told = table({"catalog": [found(1, 2, 3), found(3, 4, 5)], "lm": [found(2, 4, 3), found(4, 5, 8)]})
    rows = [line for line in told.splitlines() if line.startswith("| lm")]
    assert rows[0] == "| lm | 5 | 500 | 1 | 0.1, 0.4 | 7.000 | 0.5000 |"
    assert rows[1].startswith("| lm | 4.3333 [")  # of 3, 4.5 and 5.5
    assert "| 3.0000 to 5.6667 | +1.3333 [" in rows[1]
    assert told.count("| catalog | 3.0000 [") == 4 and told.count("| 2.0000 to 4.0000 | – | – |") == 4


def test_a_cooled_model_has_its_logits_divided(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = model(ids).logits
        cool(model, 4.0)
        torch.testing.assert_close(4.0 * model(ids).logits, before)


def test_the_settings_of_every_arm_are_those_of_a_recipe() -> None:
    for arm in levers.ARMS:
        recipe, args = parse(levers.flags(levers.settings_of(arm, 5, "{}", "", Path("runs"), 4, 1e-3, {"peft": "{}"})))
        assert (recipe.loss, args.seed, recipe.peft) == (levers.ARMS[arm].get("loss", "catalog"), 5, {})


class TestRuns:
    pytestmark = REAL_RUNS

    def test_arms_read_as_many_tokens_and_are_asked_the_same(self, tmp_path: Path) -> None:
        pl.DataFrame([{"item_id": one.id, "title": one.title} for one in films(60)]).write_csv(tmp_path / "items.csv")
        log_ = [
            (f"u{user}", 1 + (7 * user + (1 + user % 3) * place) % 60, place)
            for user in range(12)
            for place in range(8)
        ]
        pl.DataFrame(log_, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(tmp_path / "log.csv")
        data = json.dumps({"items": str(tmp_path / "items.csv"), "interactions": str(tmp_path / "log.csv")})
        out, app = tmp_path / "out", typer.Typer()
        app.command()(levers.main)
        arms = ("catalog", "temperature-2", "soft-text", "soft-mix", "lm")
        asked = f"--out {out} --model new --tokens 1500 --seeds 1 --batch 2 --arms".split()
        ran = CliRunner().invoke(app, [*asked, ",".join(arms), "--data", data])
        assert ran.exit_code == 0, ran.output
        first = {}
        for arm in arms:
            first[arm] = json.loads((out / f"{arm}-0" / "found.json").read_text())
            assert first[arm]["tokens"] == pytest.approx(1500, rel=0.2)
            assert all(len(first[arm]["users"][name]) == 12 for name in levers.MEASURES)
            assert f"| {arm} | " in ran.output
        a_step = {arm: found["tokens"] / found["steps"] for arm, found in first.items()}
        assert a_step["soft-text"] > a_step["catalog"]  # branches are tokens too
        card = (out / "soft-text-0" / "README.md").read_text()
        assert "| loss | `catalog`, soft targets by text (share 0.3, " in card
        (out / "lm-0" / "found.json").unlink()
        again = CliRunner().invoke(app, [*asked, "catalog,lm", "--data", data])
        assert again.exit_code == 0, again.output
        stored = json.loads((out / "catalog-0" / "found.json").read_text())
        assert stored == first["catalog"]

    def test_an_arm_that_there_is_not_is_told(self, tmp_path: Path) -> None:
        app = typer.Typer()
        app.command()(levers.main)
        ran = CliRunner().invoke(app, ["--out", str(tmp_path), "--arms", "catlog"])
        assert (ran.exit_code, "no arm is called 'catlog'" in ran.output) == (2, True)
