"""Training that leaves items out, and training that goes on from an earlier adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")
pytest.importorskip("trl", reason="needs llmgen[train]")

from safetensors.torch import load_file

from llmgen.adapters import AdapterRecord
from llmgen.datasets.splits import histories, random_split
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.experiment import from_log
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.run import evaluate
from llmgen.recommend.recommender import Recommender
from llmgen.training import sft
from llmgen.training.data import Mixture, TrainingTask
from llmgen.training.recipe import Recipe
from tests.training.conftest import REAL_RUNS

pytestmark = REAL_RUNS

LEAVE_OUT = {"share": 0.25, "last": 0.3}
LORA = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """40 films with names like no other text, of which everybody takes ten."""
    folder = tmp_path_factory.mktemp("tables")
    pl.DataFrame(
        [{"item_id": str(number), "title": f"Zq{number:02}x", "year": 1960 + number} for number in range(40)]
    ).write_csv(folder / "items.csv")
    pl.DataFrame(
        [
            {"user_id": f"u{user}", "item_id": str((7 * user + 3 * place) % 40), "timestamp": place, "rating": 3.0}
            for user in range(24)
            for place in range(10)
        ]
    ).write_csv(folder / "log.csv")
    return {
        "items": str(folder / "items.csv"),
        "interactions": str(folder / "log.csv"),
        "columns": {"rating": "rating"},
        "attributes": ["year"],
    }


def recipe_of(data: dict[str, Any], **changes: Any) -> Recipe:
    settings = {"data": data, "leave_out": LEAVE_OUT, "loss": "catalog", "priors": {}, **changes}
    return Recipe.parse(
        **{name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    )


def left_in(data: dict[str, Any]) -> tuple[set[str], set[tuple[str, str]]]:
    """The new items, and all that each user took late."""
    dataset = Protocol.model_validate({"data": data}).load()
    left = Protocol.model_validate({"data": data, "split": "new_items", "leave_out": LEAVE_OUT}).left_out(dataset)
    late = dataset.interactions.filter(pl.col("timestamp") >= 7)  # the last three of ten
    return set(left.items), set(late.select("user_id", "item_id").rows())


@pytest.mark.parametrize("learn_from", ["train", "train+validation"])
def test_the_run_sees_no_new_item_and_nothing_late(data: dict[str, Any], learn_from: str) -> None:
    new, late = left_in(data)
    assert 4 < len(new) < 16
    found = sft.load(recipe_of(data, learn_from=learn_from))
    assert set(found.dataset.catalog.ids) == {str(number) for number in range(40)} - new
    for log in (found.known, found.dataset.interactions):
        assert not set(log["item_id"]) & new
        assert not set(log.select("user_id", "item_id").rows()) & late
    assert bool(found.queries) == (learn_from == "train")
    assert not set(zip([query.user_id for query in found.queries], found.held_out, strict=True)) & late
    assert not set(found.held_out) & new


def test_the_run_sees_nothing_that_is_held_out_at_random_nor_anybodys_last_two(data: dict[str, Any]) -> None:
    found = sft.load(recipe_of(data, leave_out={}, hold_out={"share": 0.2, "validation_share": 0.1}))
    whole = found.dataset.interactions
    split = random_split(whole, share=0.2, validation_share=0.1)
    drawn = set(pl.concat([split.validation, split.test]).select("user_id", "item_id").rows())
    last = set(whole.filter(pl.col("timestamp") >= 8).select("user_id", "item_id").rows())
    learned = set(found.known.select("user_id", "item_id").rows())
    assert len(drawn) > 20
    assert learned == set(whole.select("user_id", "item_id").rows()) - drawn - last
    assert not {(str(query.user_id), item.id) for query in found.queries for item in query.history} - learned


def test_no_task_names_a_new_item(data: dict[str, Any]) -> None:
    found = sft.load(recipe_of(data))
    catalog = found.dataset.catalog
    tasks = {
        "list": TrainingTask(("next_item_list",), 1.0, 8),
        "next": TrainingTask(("next_item",), 1.0, 8),
        "wish": TrainingTask(("cold_start",)),
        "describe": TrainingTask(("describe",)),
        "rank": TrainingTask(("rerank",), 1.0, 8),
        "rate": TrainingTask(("rate",), 1.0, 8),
    }
    recommender = Recommender(catalog, FakeEngine(), max_history=8)
    mixture = Mixture(recommender, histories(found.known, catalog=catalog), tasks)
    examples = [mixture[number] for number in range(300)]
    text = "\n".join(bytes(token for token in one.input_ids if token < 256).decode() for one in examples)
    assert {one.task for one in examples} == set(tasks)
    named = {number for number in range(40) if f"Zq{number:02}x" in text}
    assert named == {int(item) for item in catalog.ids}  # all of the others, and none of the new ones


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learn_from": "all"}, "learn_from: all would learn what leave_out holds out"),
        ({"leave_out": {"share": 1.5}}, r"leave_out: share must be between 0 and 1, not 1.5; it takes share"),
        ({"leave_out": {"part": 0.5}}, r"leave_out: .*part.*; it takes share, seed and last"),
        ({"leave_out": "{"}, "leave_out must be JSON"),
        ({"hold_out": {"share": 0.2}}, r"hold_out goes with learn_from: train and without leave_out"),
        ({"hold_out": {"share": 2}, "leave_out": {}}, r"hold_out: share must be above 0.*; it takes share"),
        (
            {"hold_out": {"part": 0.2}, "leave_out": {}},
            r"hold_out: .*part.*; it takes share, validation_share and seed",
        ),
    ],
)
def test_wrong_settings_say_what_is_wrong(data: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sft.load(recipe_of(data, **changes))


@pytest.fixture
def settings(data: dict[str, Any], tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_model),
        "data": data,
        "loss": "catalog",
        "priors": {},
        "peft": LORA,
        "tasks": {"list": {"prompts": ["next_item_list"], "max_history": 6}},
        "validation_users": "0",
        "output_dir": str(tmp_path / "run"),
        "max_steps": "2",
        "per_device_train_batch_size": "2",
        "disable_tqdm": "true",
        "learning_rate": "0.01",
        "warmup_steps": "0",
    }


def train(settings: dict[str, Any], **changes: Any) -> AdapterRecord:
    given = {**settings, **changes}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in given.items()}
    return sft.run(*sft.parse([part for name, text in texts.items() for part in (f"--{name}", text)]))


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "adapter_model.safetensors")


def test_an_evaluation_takes_the_adapter_that_left_them_out_and_no_other(
    settings: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    train(settings, leave_out=LEAVE_OUT)
    train(settings, output_dir=str(tmp_path / "whole"), max_steps="1")
    train(settings, leave_out={**LEAVE_OUT, "last": 0.2}, output_dir=str(tmp_path / "later"), max_steps="1")
    asked = {"data": data, "split": "new_items", "leave_out": LEAVE_OUT}

    def config(folder: str) -> RunConfig:
        arms = {"tuned": {"adapter": str(tmp_path / folder), "engine": f"hf:{settings['model']}"}}
        return RunConfig.model_validate({"protocol": asked, "arms": arms, "classics": "none", "draws": 100})

    experiment = from_log(config("run"))
    assert len(experiment.final) > 2
    found = evaluate(config("run").model_copy(update={"latency_users": 0}), tmp_path / "out", command="test")
    assert not any("may do badly" in note for note in found.notes)  # another catalog is what was asked for
    for folder in ("whole", "later"):
        with pytest.raises(ConfigError, match="may know the new items"):
            from_log(config(folder))


def test_an_adapter_is_asked_about_another_domain(
    settings: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Films that were tuned on, with years in their names, and a shop that has none and sells the same again."""
    train(settings, data={**settings["data"], "label": "{title} ({year})", "noun": "film"})
    goods = [f"{colour} {thing}" for colour in ("Red", "Blue", "Gold") for thing in ("Mug", "Lamp", "Clock", "Tray")]
    (tmp_path / "goods.csv").write_text("\n".join(["item_id,title", *(f"p{n},{name}" for n, name in enumerate(goods))]))
    rows = [f"c{buyer},p{(buyer * 5 + place % 3) % 12},{place}" for buyer in range(8) for place in range(7)]
    (tmp_path / "sales.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows]))
    shop = {"items": str(tmp_path / "goods.csv"), "interactions": str(tmp_path / "sales.csv"), "noun": "product"}
    arm = {"adapter": str(tmp_path / "run"), "engine": f"hf:{settings['model']}"}
    config = {"protocol": {"data": shop, "seen": "kept", "k": 3}, "arms": {"films": arm}, "classics": "defaults"}
    out = tmp_path / "shop"
    found = evaluate(RunConfig.model_validate({**config, "latency_users": 0, "draws": 100}), out, command="test")
    films, repeat = (next(one for one in found.arms if one.name == name) for name in ("films", "repeat_last"))
    assert films.lists["route_trie"] == 1.0
    assert films.prompt.startswith("next_item_list@")
    assert repeat.metrics["hr@3"].mean == 1.0  # of three goods in turn, the next is the third last
    answers = pl.concat(pl.read_parquet(path) for path in (out / "answers").glob("films-*/*.parquet"))
    assert {len(set(items)) for items in answers["items"].to_list()} == {3}
    warning = "may do badly: it was tuned on the catalog"
    assert any(note.startswith("films: the adapter") and warning in note for note in found.notes)
    assert warning in caplog.text


def test_training_goes_on_from_an_adapter(settings: dict[str, Any], tmp_path: Path) -> None:
    train(settings)
    stored = weights(tmp_path / "run")
    assert any(value.abs().sum() > 0 for name, value in stored.items() if "lora_B" in name)
    recipe = Recipe.parse(model=settings["model"], adapter=str(tmp_path / "run"))
    model = sft.wrap(sft.load_model(recipe)[0], recipe)
    there = {name.replace(".default", ""): value for name, value in model.named_parameters() if "lora" in name}
    assert there.keys() == stored.keys()
    for name, value in stored.items():
        assert torch.equal(there[name].detach(), value)
        assert there[name].requires_grad
    assert not [name for name, value in model.named_parameters() if value.requires_grad and "lora" not in name]

    more = {"adapter": str(tmp_path / "run"), "max_steps": "1"}
    train(settings, **more, learning_rate="0", output_dir=str(tmp_path / "still"))
    train(settings, **more, output_dir=str(tmp_path / "moved"))
    for name, value in stored.items():
        assert torch.equal(weights(tmp_path / "still")[name], value)
        assert not torch.equal(weights(tmp_path / "moved")[name], value)


@pytest.mark.parametrize("what", ["nowhere", "empty", "other model", "broken"])
def test_a_folder_that_is_no_adapter_is_named(settings: dict[str, Any], tmp_path: Path, what: str) -> None:
    folder = tmp_path / "adapter"
    if what != "nowhere":
        folder.mkdir()
    if what in ("other model", "broken"):
        from peft import LoraConfig, get_peft_model
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(vocab_size=20, hidden_size=32, intermediate_size=32, num_hidden_layers=2)
        config.num_attention_heads = config.num_key_value_heads = 2
        get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules=["q_proj", "v_proj"])).save_pretrained(
            folder
        )
    if what == "broken":
        (folder / "adapter_model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match=f"cannot go on from the adapter {str(folder)!r}: "):
        train(settings, adapter=str(folder))


def test_an_adapter_that_may_have_seen_the_new_items_is_not_gone_on_with(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    train(settings, max_steps="1")
    train(settings, max_steps="1", leave_out=LEAVE_OUT, output_dir=str(tmp_path / "clean"))
    out = str(tmp_path / "next")
    with pytest.raises(ConfigError, match="may have seen what leave_out takes out"):
        train(settings, adapter=str(tmp_path / "run"), leave_out=LEAVE_OUT, output_dir=out)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="may have seen what leave_out takes out"):
        train(settings, adapter=str(tmp_path / "nothing"), leave_out=LEAVE_OUT, output_dir=out)
    with pytest.raises(ConfigError, match="may have seen what hold_out takes out"):
        train(settings, adapter=str(tmp_path / "run"), hold_out={"share": 0.2}, output_dir=out)
    record = train(settings, adapter=str(tmp_path / "clean"), leave_out=LEAVE_OUT, output_dir=out, max_steps="1")
    assert record.data == AdapterRecord.read(tmp_path / "clean").data  # type: ignore[union-attr]
    train(settings, adapter=str(tmp_path / "run"), output_dir=str(tmp_path / "free"), max_steps="1")
    written = {**settings["data"], "label": "a {title}"}  # the same items, written in another way
    again = {"adapter": str(tmp_path / "clean"), "leave_out": LEAVE_OUT, "output_dir": str(tmp_path / "written")}
    assert train({**settings, "data": written}, **again, max_steps="1").recommender.label == "a {title}"


def test_the_questions_are_of_users_the_run_has_seen_earlier(data: dict[str, Any]) -> None:
    """Training and evaluation know the same log, row for row."""
    protocol = Protocol.model_validate({"data": data, "split": "new_items", "leave_out": LEAVE_OUT})
    tuning, final = samples(protocol, protocol.load())
    assert sft.load(recipe_of(data)).known.equals(tuning.known)
    assert sft.load(recipe_of(data, learn_from="train+validation")).known.equals(final.known)
