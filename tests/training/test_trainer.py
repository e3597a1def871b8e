"""Training runs with a small Llama of random weights: TRL, PEFT, the loss, checkpoints and records are real."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")
pytest.importorskip("trl", reason="needs llmgen[train]")

from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from llmgen.adapters import AdapterRecord
from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.datasets.splits import History
from llmgen.engines import Step
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError, TrainingError
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.request_weight import RequestWeight
from llmgen.recommend.settings import GivenSettings
from llmgen.training import sft
from llmgen.training.answers import _logits, losses
from llmgen.training.batches import Batches
from llmgen.training.data import Mixture, TrainingTask
from llmgen.training.loss import ItemPaths
from llmgen.training.trainer import WHOLE, CatalogTrainer, _as_served, last_checkpoint
from llmgen.types import Message, Query
from tests.conftest import films
from tests.training.conftest import REAL_RUNS, flags_of

ROOT = Path(__file__).parents[2]

pytestmark = REAL_RUNS


def train(settings: dict[str, str], **changes: str) -> AdapterRecord:
    return sft.run(*sft.parse(flags_of(settings, **changes)))


def weights(folder: Path | str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "adapter_model.safetensors")


def test_a_run_leaves_adapter_record_card_and_settings(
    settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    record = train(settings, validation_users="6", lm_weights="0.3,1")
    folder = Path(settings["output_dir"])
    assert re.search(r"^ +4 +0\.\d{4} +0\.\d{4}", capsys.readouterr().out, re.MULTILINE)
    assert AdapterRecord.read(folder) == record
    assert (record.loss, record.steps) == ("residual", 4)
    asked = record.recommender
    assert (asked.prompt, asked.max_history, asked.priors) == ("next_item_list", 6, {"transition": {}})
    assert record.recommender.lm_weight in (0.3, 1.0)
    assert set(record.metrics) >= {"eval_ndcg", "eval_ndcg_lm", "eval_ndcg_prior", "eval_lm_weight"}
    assert {path.name for path in folder.iterdir()} >= {"adapter_model.safetensors", "README.md", "settings.yaml"}
    assert "next_item_list@" in (folder / "README.md").read_text()
    step = Step((5, 6, 7), (8,), np.arange(50))
    plain, tuned = (
        HFEngine.load(settings["model"], adapter=adapter).next_logprobs([step])[0] for adapter in (None, str(folder))
    )
    assert np.abs(plain - tuned).max() > 1e-4


def test_a_weight_for_each_request_is_fitted_in_the_end_and_recorded(settings: dict[str, str]) -> None:
    record = train(settings, validation_users="24", lm_weights="0.3", request_weight="true", max_steps="1")
    weight = record.recommender.lm_weight
    assert isinstance(weight, RequestWeight)
    assert AdapterRecord.read(settings["output_dir"]) == record
    assert record.metrics["request_weight_nats"] <= record.metrics["request_weight_nats_constant"] + 1e-6
    assert record.metrics["request_weight_nats_constant"] <= record.metrics["request_weight_nats_prior"] + 1e-3
    assert weight.prior_entropy.low < weight.prior_entropy.high  # all histories are equally long here
    assert f"{weight.usual:g}" in (Path(settings["output_dir"]) / "README.md").read_text()


def test_likelihood_on_validation_chooses_the_checkpoint(
    settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"eval_strategy": "steps", "load_best_model_at_end": "true", "metric_for_best_model": "nats"}
    record = train(
        settings,
        nats_users="24",
        lm_weight="0.7",
        lm_weights="0.3,1",
        max_steps="6",
        eval_steps="2",
        learning_rate="1",  # wild, so that later is not better
        greater_is_better="false",
        **chosen,
    )
    states = Path(settings["output_dir"]).glob("checkpoint-*/trainer_state.json")
    history = max((json.loads(state.read_text())["log_history"] for state in states), key=len)
    measured = {entry["step"]: entry for entry in history if "eval_nats" in entry}
    assert sorted(measured) == [2, 4, 6]
    assert len({entry["eval_nats_prior"] for entry in measured.values()}) == 1
    assert not any("eval_ndcg" in entry for entry in measured.values())
    best = min(measured, key=lambda step: measured[step]["eval_nats"])
    assert record.metrics["eval_nats"] == measured[best]["eval_nats"]
    # chosen by the product at every node, the weight is no choice for the search of an adapter served with the trie
    assert record.recommender.decoding is None
    assert measured[best]["eval_nats_weight"] in (0.3, 1.0)
    assert record.recommender.lm_weight == pytest.approx(0.7)
    printed, card = capsys.readouterr().out, (Path(settings["output_dir"]) / "README.md").read_text()
    for step, entry in measured.items():
        assert re.search(rf"^ +{step} +{entry['eval_nats']:.4f} +{entry['eval_nats_weight']:g} ", printed, re.MULTILINE)
        assert re.search(rf"^\| {step} .*\| {entry['eval_nats_lm']:.4f} \|", card, re.MULTILINE)
    kept = weights(Path(settings["output_dir"]) / f"checkpoint-{best}")
    for name, value in weights(settings["output_dir"]).items():
        assert torch.equal(value, kept[name])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_in_the_precision_that_is_asked_for(settings: dict[str, str], dtype: str) -> None:
    recipe, _ = sft.parse(flags_of(settings, dtype=dtype))
    assert sft.load_model(recipe)[0].dtype == getattr(torch, dtype)


def test_logits_of_a_bfloat16_model_are_not_rounded_to_bfloat16() -> None:
    head = torch.nn.Linear(64, 9, bias=False, dtype=torch.bfloat16)
    hidden = 10 * torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    tokens = torch.tensor([7, 2])
    exact = hidden.double() @ head.weight[tokens].double().T
    assert (_logits(head, hidden, tokens) - exact).abs().max() < 1e-4
    assert (head(hidden)[:, tokens] - exact).abs().max() > 1e-3


def test_a_stopped_run_ends_where_an_unbroken_one_does(settings: dict[str, str], tmp_path: Path) -> None:
    train(settings)
    whole = weights(settings["output_dir"])
    other = {**settings, "output_dir": str(tmp_path / "other"), "lm_weight_rate": "0.0"}
    train(other)
    shutil.rmtree(tmp_path / "other" / "checkpoint-4")
    for name in ("adapter_model.safetensors", "llmgen.json"):
        (tmp_path / "other" / name).unlink()
    train(other)
    again = weights(tmp_path / "other")
    for name, value in whole.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5)


def test_the_lm_weight_is_learned_and_goes_on_from_a_checkpoint(settings: dict[str, str], tmp_path: Path) -> None:
    record = train(settings, lm_weight_rate="0.05")
    assert 0 < record.recommender.lm_weight != pytest.approx(0.3, abs=1e-4)
    stored = torch.load(tmp_path / "run" / "checkpoint-4" / WHOLE, weights_only=True)
    assert float(stored.exp()) == pytest.approx(record.recommender.lm_weight)
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    assert train(settings, lm_weight_rate="0.05").recommender.lm_weight == pytest.approx(
        record.recommender.lm_weight, rel=1e-5
    )


def test_a_checkpoint_that_was_cut_short_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert last_checkpoint(tmp_path) is None
    for step in (2, 4, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "llmgen.json").write_text("{}")
        if step != 10:
            (folder / WHOLE).write_text("")
    with caplog.at_level(logging.WARNING):
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    assert "checkpoint-10 was not finished" in caplog.text
    assert not (tmp_path / "checkpoint-10").exists()


@pytest.mark.parametrize(
    "method",
    [
        {"peft_type": "ADALORA", "init_r": 6, "target_r": 4, "total_step": 4, "target_modules": ["q_proj", "v_proj"]},
        {"peft_type": "LORA", "r": 4, "use_dora": True, "use_rslora": True, "target_modules": "all-linear"},
        {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
    ],
    ids=lambda method: method["peft_type"],
)
def test_other_methods_of_peft_learn(settings: dict[str, str], method: dict[str, object]) -> None:
    record = train(settings, peft=json.dumps(method), max_steps="3", warmup_steps="0")
    assert record.steps == 3
    moved = weights(settings["output_dir"])
    assert any(value.abs().sum() > 0 for value in moved.values())


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_an_adapter_learns_beside_a_quantized_model(settings: dict[str, str], bits: str) -> None:
    pytest.importorskip("bitsandbytes", reason="needs llmgen[qlora]")
    recipe, args = sft.parse(flags_of(settings, quantize=bits, max_steps="3", warmup_steps="0"))
    model = sft.load_model(recipe)[0]
    kinds = {type(module).__name__ for module in model.modules()}
    assert {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits] in kinds
    sft.run(recipe, args)
    moved = weights(settings["output_dir"])
    assert any(value.abs().sum() > 0 for name, value in moved.items() if "lora_B" in name)
    served = HFEngine.load(settings["model"], adapter=settings["output_dir"])  # beside the weights as they were
    prompt = served.tokenize([Message("user", "Which films?")])
    assert np.isfinite(served.next_logprobs([Step(prompt, (), np.arange(5))])[0]).all()


def test_quantized_weights_are_not_tuned_themselves(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="quantize must be 4bit or 8bit, or empty for neither, not '3bit'"):
        sft.parse(flags_of(settings, quantize="3bit"))
    with pytest.raises(ConfigError, match="weights that are quantized cannot be tuned themselves"):
        sft.parse(flags_of(settings, quantize="4bit", peft="{}"))


def test_what_quantizing_needs_is_said(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **options: object) -> None:
        assert options["device_map"]
        raise ImportError("bitsandbytes is not there")

    monkeypatch.setattr(sft.AutoModelForCausalLM, "from_pretrained", missing)
    with pytest.raises(ConfigError, match=r"quantize: 4bit needs bitsandbytes; install llmgen\[qlora\]"):
        sft.load_model(sft.parse(flags_of(settings, quantize="4bit"))[0])


@pytest.mark.parametrize("loss", ["catalog", "lm"])
def test_other_losses_and_tasks(settings: dict[str, str], loss: str) -> None:
    tasks = {
        "next": {"prompts": ["next_item", "next_item_taste"], "max_history": 4},
        "wish": {"prompts": ["cold_start"]},
        "describe": {"prompts": ["describe"]},
        "rate": {"prompts": ["rate"], "max_history": 4},
        "rank": {"prompts": ["rerank"], "max_history": 4},
    }
    record = train(settings, loss=loss, tasks=json.dumps(tasks), max_steps="6", learn_from="all", item_dropout="0.2")
    assert record.loss == loss
    assert len(record.prompts) == 6


def test_all_weights_can_be_tuned(settings: dict[str, str]) -> None:
    train(settings, peft="{}", max_steps="2", learning_rate="0.001")
    folder = Path(settings["output_dir"])
    assert (folder / "model.safetensors").exists()
    assert AdapterRecord.read(folder) is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "msl"}, "loss must be catalog, residual, lm, not 'msl'"),
        ({"tasks": "{"}, "tasks must be JSON"),
        ({"tasks": '{"list": {"prompt": "x"}}'}, "the task 'list' has no setting 'prompt'"),
        ({"tasks": "{}"}, "give at least one task"),
        ({"priors": '{"als": {}}'}, "no prior is called 'als'"),
        ({"priors": '{"transition": {"steps": 1}}'}, "prior transition: there is no setting 'steps'"),
        ({"priors": '{"transition": {"window": 0}}'}, "prior transition: window must be 1 or more, not 0"),
        ({"priors": '{"wish": {}}'}, "nobody in a log wishes"),
        ({"priors": "{}"}, "the residual loss needs a prior"),
        ({"peft": '{"peft_type": "LORO"}'}, "peft: .*LORO"),
        ({"data": '{"itms": "x"}'}, "data: .*itms"),
        ({"model": "/nowhere/at/all"}, "model: there is no folder /nowhere/at/all"),
        ({"model": "nowhere-at-all"}, "cannot load the model 'nowhere-at-all'"),
        ({"data": '{"dataset": "movielens-1k"}'}, "no data set is called movielens-1k"),
        ({"learn_from": "test"}, "learn_from must be"),
        ({"dtype": "float8"}, "dtype must be float32 or bfloat16"),
        ({"folds": "1"}, "too few for 1 folds"),
        ({"lm_weights": "a"}, "lm_weights are numbers"),
        ({"request_weight": "true", "validation_users": "0"}, "request_weight is fitted on validation users"),
        ({"output_dir": "pyproject.toml"}, "is a file"),
    ],
)
def test_wrong_settings_say_what_is_wrong(settings: dict[str, str], changes: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(settings, **({"validation_users": "1", **changes} if "lm_weights" in changes else changes))


def test_all_that_is_wrong_is_told_before_any_data_is_read(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "load", lambda recipe: pytest.fail("data were read"))
    wrong = {
        "data": '{"items": "nowhere.csv", "interactions": "neither.csv"}',
        "priors": '{"als": {}, "transition": {"steps": 1}}',
        "tasks": '{"lst": {"prompts": ["x"]}, "next": {"prompts": ["nxt"]}, "list": {"prompts": ["next_item"]}}',
        "prompt": "gone",
        "peft": '{"peft_type": "LORO"}',
        "lm_weights": "a",
    }
    with pytest.raises(ConfigError) as error:
        train(settings, **wrong)
    told = str(error.value).splitlines()
    parts = [
        "lm_weights are numbers",
        "there is no file nowhere.csv",
        "there is no file neither.csv",
        "no prior is called 'als'",
        "there is no setting 'steps'",
        "no task is called 'lst'",
        "no prompt is called 'nxt'",
        "'list' needs a prompt for next_item that continues its answer, and 'next_item' is none",
        "prompt: none is called 'gone'",
        "LORO",
    ]
    assert len(told) == len(parts)
    for line, part in zip(told, parts, strict=True):
        assert part in line


def test_settings_of_the_wrong_kind_are_told_together_with_all_others(
    settings: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the file, of the flags, of the recipe itself, of what it names and of TRL, in one message."""
    monkeypatch.setattr(sft, "load", lambda recipe: pytest.fail("data were read"))
    recipe = tmp_path / "recipe.yaml"
    kinds = "folds: [1]\nlm_wheight: 1\nmax_steps: many\nbf16: 3\nlm_weights: [0.3, a]\n"
    recipe.write_text(f"{kinds}loss: msl\nprompt: gone\n")
    given = {name: settings[name] for name in ("model", "data", "tasks")}
    wrong = {"learning_rate": "fast", "prior_dropout": "2", "leave_out": "{", "lr_scheduler_type": "zigzag"}
    assert sft.main(["--config", str(recipe), *flags_of(given, **wrong), "--no_such_flag", "1", "loose"]) == 2
    told = capsys.readouterr().err.removeprefix("error: ").splitlines()
    parts = [
        "folds must be a whole number, not [1]",
        "there is no setting 'lm_wheight'; did you mean 'lm_weight'?",
        "bf16 must be true or false, not 3",
        "lr_scheduler_type",
        "learning_rate must be a number, not 'fast'",
        "max_steps must be a whole number, not 'many'",
        "there is no setting 'no_such_flag'",
        "'loose' belongs to no setting",
        "leave_out must be JSON",
        "loss must be",
        "prior_dropout is a share, from 0 to 1, not 2.0",
        "prompt: none is called 'gone'",
        "lm_weights are numbers separated by commas, not '0.3,a'",
    ]
    for part in parts:
        assert len([line for line in told if part in line]) == 1, part
    assert len(told) == len(parts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config"], "--config needs the file of a recipe"),
        (["--config", "nowhere.yaml"], "cannot read nowhere.yaml: No such file"),
        (["--config", "open.yaml"], "open.yaml is not YAML"),
        (["--config", "list.yaml"], "list.yaml must hold settings by name, not [1]"),
        (["--max_steps"], "expected one argument"),
    ],
)
def test_a_recipe_that_cannot_be_read_says_so(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.yaml").write_text("- 1")
    Path("open.yaml").write_text("folds: [1")
    assert sft.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_command_tells_errors_and_returns_2(settings: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert sft.main(flags_of(settings, loss="msl")) == 2
    assert "loss must be" in capsys.readouterr().err


def test_a_run_minimises_the_temperature_times_its_nats_and_its_card_tells_what_changed_the_loss(
    settings: dict[str, str],
) -> None:
    soft = '{"source": "priors", "share": 0.4, "neighbours": 2}'
    train(settings, loss="catalog", loss_temperature="3", soft_targets=soft, max_steps="2", logging_steps="1")
    state = json.loads((Path(settings["output_dir"]) / "checkpoint-2" / "trainer_state.json").read_text())
    steps = [entry for entry in state["log_history"] if "nats_item" in entry]
    assert len(steps) == 2
    for entry in steps:
        assert entry["loss"] == pytest.approx(3 * entry["nats_item"], rel=1e-3)
    told = (
        "| loss | `catalog`, temperature 3, soft targets by priors (share 0.4, half of it for items taken 20 times, 2 n"
    )
    assert told in (Path(settings["output_dir"]) / "README.md").read_text()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoints(settings: dict[str, str]) -> None:
    def telling() -> int:
        return sum("tell_now_and_then" in thread.name for thread in threading.enumerate())

    before = telling()
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d"):
        train(settings, learning_rate="1e30", max_grad_norm="0", warmup_steps="0", max_steps="20", save_steps="1")
    kept = last_checkpoint(Path(settings["output_dir"]))
    assert kept is not None
    assert kept.name.startswith("checkpoint-")
    assert telling() == before, "how far it is would be told for ever"


def small(
    tiny_model: Path, catalog: Catalog, histories: dict[str, History], tasks: dict[str, TrainingTask], **more: Any
) -> Any:
    """A model with everything that trains it, without files."""
    torch.manual_seed(0)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tiny_model)
    recommender = Recommender(catalog, HFEngine(model, tokenizer), max_history=8)
    mixture = Mixture(recommender, histories, tasks, group=8)
    return model, tokenizer, Batches(mixture, ItemPaths(recommender.trie), "catalog", **more)


def record_of(catalog: Catalog) -> AdapterRecord:
    return AdapterRecord(
        base_model="tiny",
        loss="catalog",
        recommender=GivenSettings(lm_weight=1.0, prompt="next_item_list", max_history=8),
        prompts=(),
        catalog=catalog.digest,
        tokenizer="t",
        data="d",
        seed=0,
    )


def test_gradient_flows_only_into_what_a_target_can_see(tiny_model: Path) -> None:
    """Of the input embeddings: none behind the last target, and none at all where nothing is a target."""
    catalog = films(40)
    histories = {"a": History(tuple(catalog[place] for place in (3, 12, 20)), None)}
    model, _, batches = small(tiny_model, catalog, histories, {"list": TrainingTask(("next_item_list",), 1.0, 8)})
    example = batches.mixture[0]
    batch = batches.batch([example], [False])
    given: list[Any] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, ids, made: given.append(made.requires_grad_().retain_grad() or made) or made
    )
    (found,) = losses(model, batch["input_ids"], [(batch["plan"], 1.0)])
    hook.remove()
    found.items[0].backward(retain_graph=True)  # the first target only
    reached = given[0].grad[0].abs().sum(dim=1)
    first = example.targets[0]
    assert (reached[: first.start] > 0).all()
    assert (reached[first.end :] == 0).all()
    assert len(found.items) == 2


class _Stop(TrainerCallback):
    """Ends a run when the loss is small."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        if logs and logs.get("loss", 1.0) < 0.02:
            control.should_training_stop = True


def test_a_tiny_model_learns_ten_users_by_heart(tiny_model: Path, tmp_path: Path) -> None:
    catalog, rng = films(200), np.random.default_rng(0)
    histories = {
        f"u{user}": History(tuple(catalog[int(place)] for place in rng.permutation(200)[:5]), None)
        for user in range(10)
    }
    model, tokenizer, batches = small(
        tiny_model, catalog, histories, {"list": TrainingTask(("next_item_list",), 1.0, 5)}
    )
    flags = ["--output_dir", str(tmp_path), "--max_steps", "400", "--learning_rate", "3e-3", "--save_strategy", "no"]
    flags += ["--disable_tqdm", "true", "--lr_scheduler_type", "constant"]
    args = sft.parse(flags)[1]
    CatalogTrainer(model, args, batches, tokenizer, record_of(catalog), callbacks=[_Stop()]).train()
    recommender = Recommender(catalog, HFEngine(model, tokenizer), prompt="next_item_list")
    queries = [Query(history.items[:-1], k=1) for history in histories.values()]
    found = [answer[0].item for answer in recommender.recommend_many(queries)]
    assert (
        np.mean([item.id == history.items[-1].id for item, history in zip(found, histories.values(), strict=True)])
        >= 0.95
    )


def test_a_model_that_says_nothing_gains_nothing_over_the_prior(
    settings: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With a weight near 0 the residual loss is the prior's own."""
    train(settings, lm_weight="1e-9", prior_dropout="0", max_steps="1", logging_steps="1")
    (logged,) = re.findall(r"'gain_over_prior': '(\S+)'", capsys.readouterr().out)
    assert float(logged) == pytest.approx(0, abs=1e-4)


def test_cross_fitted_priors_do_not_know_their_users(settings: dict[str, str]) -> None:
    recipe, _ = sft.parse(flags_of(settings))
    data = sft.load(recipe)
    users = sorted(set(data.known["user_id"]))
    fold_of = {user: number % 3 for number, user in enumerate(users)}
    crossed = sft.cross_fit(recipe, data, fold_of, [])
    for fold in range(3):
        others = data.known.filter(~pl.col("user_id").is_in([user for user in users if fold_of[user] == fold]))
        expected = sft.fit(recipe.priors, others, Dataset.of(data.dataset.catalog))
        query = Query(tuple(data.dataset.catalog[place] for place in (0, 5)))
        assert np.array_equal(crossed[fold][-1].log_weights([query]), expected[0].log_weights([query]))


def test_a_validation_sees_the_model_without_the_wrapping_of_training() -> None:
    model = torch.nn.Linear(2, 2)
    plain = model.forward
    model.forward = lambda given: plain(given) + 100  # type: ignore[method-assign]
    with _as_served(model):
        assert model(torch.zeros(1, 2)).abs().max() < 50
    assert model(torch.zeros(1, 2)).min() > 50
    untouched = torch.nn.Linear(2, 2)
    with _as_served(untouched):
        pass
    assert "forward" not in untouched.__dict__


def test_two_processes_learn_what_one_with_two_batches_a_step_does(settings: dict[str, str], tmp_path: Path) -> None:
    """On CPUs, by gloo; `accelerate launch` starts several processes on GPUs alone."""
    learned = {"loss": "residual", "lm_weight_rate": "0.05"}
    one = train(settings, **learned, gradient_accumulation_steps="2", output_dir=str(tmp_path / "one"))
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        "-m",
        "llmgen",
        "train",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = tmp_path / "two"
    ended = subprocess.run(
        [*launch, *flags_of(settings, **learned, output_dir=str(two))],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    record = AdapterRecord.read(two)
    assert record is not None
    assert record.steps == one.steps == 4
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "one", two)]
    assert record.recommender.lm_weight == pytest.approx(one.recommender.lm_weight, abs=1e-5)
    assert one.recommender.lm_weight != pytest.approx(0.3, abs=1e-3)  # where it started
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)
