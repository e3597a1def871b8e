"""The adapter that comes with llmgen: small, whole, described, and of use on the catalog that it is shown with."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest

from llmgen.adapters import AdapterRecord
from llmgen.datasets.splits import histories, leave_one_out, log_digest
from llmgen.models import NAME, demo_adapter
from llmgen.templates.library import PromptLibrary
from llmgen.types import Query
from llmgen.workspace.core import DataSettings, RecommenderSettings

WEIGHTS = "adapter_model.safetensors"
FOLDER = demo_adapter()


@pytest.fixture(scope="module")
def record() -> AdapterRecord:
    found = AdapterRecord.read(FOLDER)
    assert found is not None
    return found


def test_it_is_small_and_holds_what_serving_needs_and_its_card() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sorted(sizes) == ["README.md", "adapter_config.json", WEIGHTS, "llmgen.json"]
    assert sum(sizes.values()) <= 3_000_000


def test_its_weights_are_lora_matrices_of_rank_4_in_half_precision() -> None:
    content = (FOLDER / WEIGHTS).read_bytes()
    head = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # the format of safetensors
    head.pop("__metadata__", None)
    assert {one["dtype"] for one in head.values()} == {"F16"}
    assert all(re.search(r"\.lora_[AB]\.weight$", name) for name in head)
    assert {min(one["shape"]) for one in head.values()} == {4}
    assert len(head) == 30 * 7 * 2  # layers, linear maps of a layer, A and B


def test_the_card_names_the_file_and_the_terms_of_the_data(record: AdapterRecord) -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256((FOLDER / WEIGHTS).read_bytes()).hexdigest() in card
    said = " ".join(card.split())
    for words in ("MovieLens-100K", "Harper", "not be used commercially", "demonstration and research", "Apache-2.0"):
        assert words in said
    assert f"seed {record.seed}" in said
    assert f"{record.steps} steps" in said


def test_no_path_of_the_machine_that_tuned_it_is_in_it() -> None:
    config = json.loads((FOLDER / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == NAME
    for name in ("README.md", "adapter_config.json", "llmgen.json"):
        assert not re.search(r"(?<![\w.])/(home|root|tmp|work)/", (FOLDER / name).read_text(encoding="utf-8"))


def test_it_was_tuned_on_the_prompts_that_are_here(record: AdapterRecord) -> None:
    library = PromptLibrary.default()
    used = ("cold_start", "next_item_list", "rate_list", "rerank")
    assert record.prompts == tuple(library[name].ref for name in used)
    assert record.recommender.prompts == ("next_item_list",)


@pytest.mark.slow
@pytest.mark.network
def test_it_finds_what_five_users_took_next_likelier_than_the_untuned_model(record: AdapterRecord) -> None:
    """On the very films and tokens that it learned, of whose test items it has seen none."""
    pytest.importorskip("trl", reason="needs llmgen[train]")
    from llmgen.engines.hf import HFEngine
    from llmgen.recommend.recommender import Recommender
    from llmgen.training.validation import ALONE, nats

    settings = RecommenderSettings(adapter=str(FOLDER))
    data = settings.written(DataSettings()).load()
    split = leave_one_out(data.interactions)
    assert record.data == log_digest(split.train)
    assert record.catalog == data.catalog.digest
    past = histories(split.train, split.validation, catalog=data.catalog)
    users = split.test.head(5)
    queries = [Query(past[user].items, user_id=user) for user in users["user_id"]]
    found = []
    for adapter in (None, str(FOLDER)):
        engine = HFEngine.load(adapter=adapter)
        assert engine.tokenizer_digest == record.tokenizer
        asked = Recommender(data.catalog, engine, prompt="next_item_list", max_history=40)
        held_out = users["item_id"].to_list()
        found.append(
            nats(engine.model, asked, queries, held_out, (), prompt="next_item_list", weights=[ALONE], quiet=True)[0]
        )
    untuned, tuned = np.array(found).mean(axis=1)
    assert tuned < untuned - 0.5
