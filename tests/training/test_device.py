"""On a CUDA device: a run trains, validates and ends, and its adapter is the same one on a CPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")
pytest.importorskip("trl", reason="needs llmgen[train]")

from llmgen.engines.hf import HFEngine
from llmgen.recommend.recommender import Recommender
from llmgen.training import sft
from llmgen.training.validation import ALONE, nats
from tests.training.conftest import flags_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("default"),  # of whatever else runs on this machine; this is no check of style
]


@pytest.mark.parametrize("loss", ["lm", "catalog", "residual"])
def test_what_was_learned_on_the_device_holds_on_a_cpu(settings: dict[str, str], loss: str) -> None:
    recipe, args = sft.parse(flags_of(settings, loss=loss, dtype="float32", nats_users="24", lm_weights="0.3"))
    record = sft.run(recipe, args)
    data = sft.load(recipe)
    engine = HFEngine.load(settings["model"], adapter=settings["output_dir"], device="cpu")
    recommender = Recommender(
        data.dataset.catalog, engine, prompt=record.recommender.prompts, max_history=record.recommender.max_history
    )
    found = nats(
        engine.model,
        recommender,
        data.queries,
        data.held_out,
        sft.fit(recipe.priors, data.known, data.dataset),
        prompt=record.recommender.prompt,
        weights=[0.3, ALONE],
        quiet=True,
    ).mean(axis=1)
    assert found[0] == pytest.approx(record.metrics["eval_nats"], abs=1e-3)
    assert found[1] == pytest.approx(record.metrics["eval_nats_lm"], abs=1e-3)
