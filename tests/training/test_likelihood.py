"""`eval.likelihood` on adapters of real runs: what is measured, and that nothing is chosen on what was learned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("trl", reason="needs llmgen[train]")

import typer
from typer.testing import CliRunner

from eval import likelihood
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.priors import ExcludeSeen, Transition, combine
from llmgen.recommend.settings import GivenSettings
from llmgen.training import sft
from llmgen.workspace.core import DataSettings
from tests.training.conftest import REAL_RUNS, flags_of

pytestmark = REAL_RUNS


def measured(adapter: str, *flags: str) -> tuple[int, str, dict[str, object]]:
    app = typer.Typer()
    app.command()(likelihood.main)
    written = Path(adapter) / "likelihood.json"
    written.unlink(missing_ok=True)
    ran = CliRunner().invoke(app, [adapter, "--json", str(written), *flags])
    return ran.exit_code, ran.output, json.loads(written.read_text()) if written.exists() else {}


def test_the_prior_alone_costs_what_it_says_and_the_weight_is_the_best_on_validation(settings: dict[str, str]) -> None:
    sft.run(*sft.parse(flags_of(settings)))
    code, said, found = measured(settings["output_dir"])
    assert code == 0
    assert "chosen on validation items" in said
    curve = found["validation"]
    assert isinstance(curve, dict)
    assert f"{found['weight']:g}" == min((name for name in curve if name not in ("0", "alone")), key=curve.__getitem__)

    data = DataSettings(**json.loads(settings["data"])).load()
    _, test = samples(Protocol(), data)
    total = combine([ExcludeSeen(data.catalog), Transition.fit(test.known, data.catalog)], test.queries).total
    wanted = [data.catalog.index(item) for item in test.targets]
    expected = np.logaddexp.reduce(total, axis=1) - total[np.arange(len(wanted)), wanted]
    users = found["users"]
    assert isinstance(users, list)
    assert users[0] == pytest.approx(expected.tolist(), rel=1e-5)
    assert found["rows"][0]["both"][0] == pytest.approx(np.mean(users[1]))  # type: ignore[index]


def test_no_weight_is_chosen_on_items_that_the_adapter_learned(settings: dict[str, str]) -> None:
    sft.run(*sft.parse(flags_of(settings, learn_from="train+validation")))
    code, said, found = measured(settings["output_dir"])
    assert (code, found) == (2, {})
    assert "has learned the validation items" in said
    assert "--weight" in said
    code, said, found = measured(settings["output_dir"], "--weight", "0.3")
    assert (code, found["weight"], found["validation"]) == (0, 0.3, {})
    assert "weight 0.3 as given" in said
    sft.run(*sft.parse(flags_of(settings, learn_from="all", output_dir=f"{settings['output_dir']}-all")))
    code, said, found = measured(f"{settings['output_dir']}-all", "--weight", "0.3")
    assert (code, found) == (2, {})
    assert "learned from the whole log" in said


def test_all_that_is_wrong_is_told_before_any_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DataSettings, "load", lambda self: pytest.fail("data was read"))
    code, said, _ = measured(str(tmp_path), "--ties", "dice", "--dtype", "int3")
    ties, dtype, record, written = said.removeprefix("error: ").splitlines()
    assert code == 2
    assert ties == "--ties is file or item_id, not 'dice'"
    assert dtype == "--dtype is float32, bfloat16 or float16, not 'int3'"
    assert "has no llmgen.json" in record and "cannot read" in written and "settings.yaml" in written

    asked = GivenSettings(prompt="next_itm", max_history=5)
    about = {"base_model": "b", "loss": "lm", "catalog": "", "tokenizer": "", "data": "", "seed": 0, "prompts": ()}
    likelihood.AdapterRecord.model_validate({**about, "recommender": asked}).write(tmp_path)
    settings = {"data": {"dataset": "nowhere"}, "priors": {"transitoin": {}}, "model": ""}
    (tmp_path / "settings.yaml").write_text(json.dumps(settings))
    code, said, _ = measured(str(tmp_path))
    data, prior, prompt = said.removeprefix("error: ").splitlines()
    assert code == 2
    assert "no data set is called nowhere" in data
    assert "no prior is called 'transitoin'" in prior
    assert "the prompt 'next_itm'" in prompt
    (tmp_path / "settings.yaml").write_text("[1, 2]")
    code, said, _ = measured(str(tmp_path))
    assert code == 2 and "does not hold data, priors and model" in said
