"""One language: a recommender's settings have the same names, meaning and defaults wherever they are given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from llmgen import Recommender
from llmgen.adapters import FILE, OF_RECOMMENDER, AdapterRecord
from llmgen.cli.main import app
from llmgen.errors import ConfigError
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.config import RunConfig
from llmgen.recommend.config import RecommenderConfig
from llmgen.recommend.default_weight import LM_WEIGHT_BESIDE_A_PRIOR
from llmgen.recommend.saving import SavedRecommender
from llmgen.recommend.settings import GivenSettings, prior_settings
from llmgen.testing import films
from llmgen.training.recipe import Recipe
from llmgen.workspace.core import RecommenderSettings, default_lm_weight
from llmgen.workspace.options import read_options, read_priors

GIVEN: dict[str, Any] = {
    "prompt": "next_item_taste",
    "lm_weight": 0.25,
    "max_history": 7,
    "normalise": "eligible",
    "num_beams": 9,
    "exact": True,
    "think_tokens": 3,
}
WORDS = (
    "--prompt next_item_taste --lm-weight 0.25 --max-history 7 --normalise eligible --num-beams 9 --exact "
    "--think-tokens 3 --prior transition=1.0 --prior ease:l2=30,weight=0.5"
)
PRIORS = {"transition": 1.0, "ease": {"l2": 30, "weight": 0.5}}


def config_of(settings: GivenSettings | ArmConfig) -> RecommenderConfig:
    return settings.config(prompt=settings.prompts)


def test_the_same_settings_mean_the_same_wherever_they_are_given() -> None:
    wanted = RecommenderConfig(**{**GIVEN, "prompt": ("next_item_taste",)})
    told = [
        GivenSettings(**GIVEN, priors=PRIORS),
        RecommenderSettings.model_validate(read_options(WORDS.split(), GivenSettings.flags())),
        ArmConfig.parse(f"A={WORDS}")[1],
        ArmConfig.of("A", yaml.safe_load(json.dumps({**GIVEN, "priors": PRIORS}))),
    ]
    for settings in told:
        assert config_of(settings) == wanted
        assert settings.priors == PRIORS
    assert Recommender(films(10), None, **GIVEN).config == wanted


def test_every_setting_is_an_option_of_the_commands_under_its_name() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    there = {one.name for name in ("recommend", "fit") for one in commands[name].params}
    singular = {"priors": "prior", "rating_priors": "rating_prior"}
    assert {singular.get(name, name) for name in GivenSettings.model_fields} <= there


def test_what_nobody_gives_has_one_default_everywhere() -> None:
    default = RecommenderConfig()
    assert config_of(GivenSettings()) == config_of(ArmConfig()) == config_of(RecommenderSettings()) == default
    assert Recommender(films(10), None).config == default
    recipe = Recipe.parse()
    assert (recipe.max_history, recipe.lm_weight, recipe.prompt) == (None, None, "")


def test_a_setting_that_is_given_comes_before_the_adapters_and_that_before_the_default() -> None:
    tuned = GivenSettings(max_history=5, think_tokens=4)
    assert GivenSettings(max_history=2).config(tuned) == RecommenderConfig(max_history=2, think_tokens=4)
    assert GivenSettings(max_history=0).config(tuned).max_history == 0


def test_priors_are_read_in_every_form() -> None:
    assert read_priors(["transition=2", "ease:l2=30,weight=.5", "scores:path=x.csv,logits=true"]) == {
        "transition": 2.0,
        "ease": {"l2": 30, "weight": 0.5},
        "scores": {"path": "x.csv", "logits": True},
    }
    assert read_priors(["none"]) == {}
    assert prior_settings({"a": 2, "b": {"l2": 1}, "c": None}) == {"a": {"weight": 2}, "b": {"l2": 1}, "c": {}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("A=--prompt", "arm 'A': --prompt has no value; write --prompt value"),
        ("A=--prompt x y", "arm 'A': 'y' belongs to no option"),
        ("A=--promt x", "arm 'A', promt: Extra inputs are not permitted; an arm has engine"),
        ("A=--prior transition", "arm 'A': --prior wants name=weight, not 'transition'"),
        ("A=--prompt 'x", "arm 'A': No closing quotation"),
        ("A=--priors-of best --prior ease=1", "priors_of stands for priors; leave one of them out"),
        ("A=--max-history few", "arm 'A', max_history: Input should be a valid integer"),
    ],
)
def test_an_arm_in_another_form_is_told(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        ArmConfig.parse(text)
    assert says in str(error.value)


def test_arms_of_earlier_files_and_commands_are_read() -> None:
    _, arm = ArmConfig.parse("A=engine:fake,priors:best,lm_weight:tuned,exchanged:true,max_history:3")
    assert arm == ArmConfig(engine="fake", priors_of="best", lm_weight="tuned", exchanged=True, max_history=3)
    assert ArmConfig.of("A", {"priors": "none"}) == ArmConfig()
    assert ArmConfig.of("A", {"priors": "mix"}) == ArmConfig(priors_of="mix")
    assert ArmConfig.of("A", {"priors": {"transition": {}}}).priors == {"transition": {}}
    paths = sorted(Path("eval/configs").glob("*.yaml"))
    runs = [path for path in paths if "protocol" in yaml.safe_load(path.read_text())]
    assert len(runs) > 10
    for path in runs:
        _, wrong = RunConfig.parsed(path)
        assert wrong.lines == (), path


def test_a_record_of_an_earlier_adapter_is_read(tmp_path: Path) -> None:
    """As `llmgen train` wrote them until November 2026."""
    settings = {
        "lm_weight": 0.2,
        "prompt": "next_item_list",
        "max_history": 40,
        "label": "{title}",
        "priors": {"transition": {"window": 20, "weight": 0.5}},
        "decoding": "trie",
    }
    about = {"base_model": "m", "loss": "residual", "prompts": ["next_item_list@1"], "catalog": "c", "tokenizer": "t"}
    about |= {"data": "d", "seed": 1, "steps": 5, "versions": {"torch": "2"}, "metrics": {"eval_ndcg": 0.1}}
    assert set(settings) == set(OF_RECOMMENDER)
    (tmp_path / FILE).write_text(json.dumps({**about, **settings}))
    record = AdapterRecord.read(tmp_path)
    assert record is not None
    assert record.recommender == GivenSettings.model_validate(settings)
    assert record.recommender.config().max_history == 40
    record.write(tmp_path)
    assert AdapterRecord.read(tmp_path) == record
    assert json.loads((tmp_path / FILE).read_text()) == {**about, "recommender": settings}


def test_a_decoding_that_is_gone_is_told_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    about = {"base_model": "m", "loss": "lm", "prompts": [], "catalog": "c", "tokenizer": "t", "data": "d", "seed": 1}
    (tmp_path / FILE).write_text(json.dumps({**about, "lm_weight": 0.5, "decoding": "fused"}))
    record = AdapterRecord.read(tmp_path)
    assert record is not None
    assert (record.recommender.lm_weight, record.recommender.decoding) == (0.5, None)
    assert "decoding 'fused', which is gone" in caplog.text


def test_an_earlier_record_without_priors_or_label_asks_for_none_of_its_own(tmp_path: Path) -> None:
    about = {"base_model": "m", "loss": "lm", "prompts": [], "catalog": "c", "tokenizer": "t", "data": "d", "seed": 1}
    old = {**about, "lm_weight": 1.0, "prompt": "next_item", "max_history": 5, "label": "", "priors": {}}
    (tmp_path / FILE).write_text(json.dumps(old))
    record = AdapterRecord.read(tmp_path)
    assert record is not None
    assert (record.recommender.priors, record.recommender.label) == (None, None)


def test_an_earlier_saved_recommender_is_read() -> None:
    config = {"prompts": ["rate"], "lm_weight": 0.5, "max_history": 3}
    about = {"config": config, "catalog": "c", "priors": [], "rating_priors": [], "default_prompts": True}
    saved = SavedRecommender.model_validate({**about, "templates": {}, "settings": {"prompts": ["rate"]}})
    assert saved.config == RecommenderConfig(prompt=("rate",), lm_weight=0.5, max_history=3)
    assert saved.settings == {"prompt": ["rate"]}


def test_an_arms_model_weighs_what_it_weighs_in_llmgen_recommend() -> None:
    from llmgen import Query, TextQuery

    catalog = films(10)
    known, wish = Query(list(catalog)[:1]), Query(text="slow")
    priors = [TextQuery(catalog)]
    assert default_lm_weight(None, None, priors, [wish]) == LM_WEIGHT_BESIDE_A_PRIOR
    assert default_lm_weight(None, None, priors, [known]) == default_lm_weight(None, None, [], [wish]) == 1.0
    assert default_lm_weight("mine", None, priors, [wish]) == 1.0
