"""Codes of items as tokens of a model: put in, trained with a LoRA, saved, served, merged, and refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs llmgen[train]")
peft = pytest.importorskip("peft", reason="needs llmgen[train]")

from transformers import AutoModelForCausalLM, AutoTokenizer

from llmgen.adapters import AdapterRecord
from llmgen.catalog.core import Catalog
from llmgen.engines.chat import ChatTokenizer
from llmgen.engines.hf import HFEngine
from llmgen.engines.own_tokens import has_own_tokens
from llmgen.errors import ConfigError
from llmgen.identifiers import Codes, Words, load_identifier
from llmgen.recommend.recommender import Recommender
from llmgen.training.item_tokens import add_item_tokens, head_rows, with_item_tokens
from llmgen.types import Query
from llmgen.vectors import ItemVectors
from tests.training.conftest import REAL_RUNS, flags_of

VECTORS = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def coded(catalog: Catalog) -> Catalog:
    """The films, spelled by codes of vectors of one's own."""
    return catalog.identified(Codes.fit(ItemVectors.of(catalog, VECTORS), size=8, depth=2))


def loaded(folder: Path):  # type: ignore[no-untyped-def]
    """A model and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_each_code_is_one_token_and_ordinary_text(coded: Catalog, tiny_model: Path) -> None:
    model, tokenizer = loaded(tiny_model)
    before = len(tokenizer)
    ids = add_item_tokens(model, tokenizer, coded)
    assert ids == list(range(before, before + 8 + 8 + 256))
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)
    chat = ChatTokenizer(tokenizer, model.get_input_embeddings().weight.shape[0])
    (path,) = chat.spell([coded.spellings[0]])
    assert len(path) == 4  # three places, and the end
    assert set(path[:-1]) <= set(ids)
    assert chat.control_tokens.isdisjoint(coded.identifier.tokens)
    assert chat.decode(path[:-1]) == coded.spellings[0]


def test_a_catalog_of_titles_changes_nothing(catalog: Catalog, tiny_model: Path) -> None:
    model, tokenizer = loaded(tiny_model)
    before = len(tokenizer)
    assert add_item_tokens(model, tokenizer, catalog) == []
    assert len(tokenizer) == before


def test_embeddings_start_where_the_centroids_lie(catalog: Catalog, tiny_model: Path) -> None:
    """Vectors that are a turned copy of the mean embeddings of titles: the regression finds the turn back."""
    model, tokenizer = loaded(tiny_model)
    table = model.get_input_embeddings().weight.detach().numpy()
    read = tokenizer(list(catalog.labels), add_special_tokens=False)["input_ids"]
    means = np.stack([table[ids].mean(axis=0) for ids in read])
    groups = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
    codes = Codes.fit(ItemVectors.of(catalog, groups), size=4, depth=1)
    ids = add_item_tokens(model, tokenizer, catalog.identified(codes))
    rows = model.get_input_embeddings().weight.detach().numpy()[ids[:4]]
    mean = table.mean(axis=0)
    apart = np.linalg.norm(table - mean, axis=1).mean()
    np.testing.assert_allclose(np.linalg.norm(rows - mean, axis=1), apart, rtol=1e-4)
    for group in range(4):
        code = int(codes.codes([catalog[50 * group]])[0, 0])
        wanted = means[50 * group : 50 * group + 50].mean(axis=0) - means.mean(axis=0)
        got = rows[code] - mean
        others = [rows[other] - mean for other in range(4) if other != code]
        # the ridge takes the mean of all groups off, so a group's own direction is the nearest one
        assert got @ wanted > max(other @ wanted for other in others)


def test_only_the_tokens_of_items_are_trained_beside_the_lora(coded: Catalog, tiny_model: Path) -> None:
    model, tokenizer = loaded(tiny_model)
    ids = add_item_tokens(model, tokenizer, coded)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear")
    tuned = with_item_tokens(model, config, ids)
    shapes = {tuple(one.shape) for name, one in tuned.named_parameters() if one.requires_grad and "lora" not in name}
    assert shapes == {(len(ids), 64)}
    head = tuned.get_output_embeddings()
    tokens = torch.tensor([3, ids[0], 5, ids[-1]])
    with torch.no_grad():
        for one in tuned.parameters():
            if one.requires_grad:
                one.normal_()
    torch.testing.assert_close(head_rows(head, tokens), head.weight[tokens])
    head_rows(head, tokens).sum().backward()
    grads = [one.grad for one in tuned.parameters() if one.grad is not None]
    assert [int(grad.abs().sum(dim=1).bool().sum()) for grad in grads] == [2]


def test_a_method_that_trains_no_embeddings_is_refused(coded: Catalog, tiny_model: Path) -> None:
    model, tokenizer = loaded(tiny_model)
    ids = add_item_tokens(model, tokenizer, coded)
    with pytest.raises(ConfigError, match="PROMPT_TUNING trains no embeddings"):
        with_item_tokens(model, peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), ids)


@pytest.fixture(params=["tied", "apart"])
def base(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> Path:
    """The model, whose output layer is that of its embeddings or one of its own."""
    if request.param == "apart":
        return tiny_model
    model, tokenizer = loaded(tiny_model)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path / "tied")
    tokenizer.save_pretrained(tmp_path / "tied")
    return tmp_path / "tied"


@pytest.fixture
def adapter(coded: Catalog, base: Path, tmp_path: Path) -> Path:
    """An adapter with random weights, and random embeddings of the codes."""
    torch.manual_seed(0)
    model, tokenizer = loaded(base)
    ids = add_item_tokens(model, tokenizer, coded)
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear", init_lora_weights=False)
    tuned = with_item_tokens(model, config, ids)
    with torch.no_grad():
        for name, one in tuned.named_parameters():
            if one.requires_grad and "lora" not in name:
                one.normal_()
    folder = tmp_path / "adapter"
    tuned.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_served_adapter_has_the_embeddings_that_were_trained(
    dtype: str, adapter: Path, coded: Catalog, base: Path
) -> None:
    assert has_own_tokens(adapter)
    assert not has_own_tokens(base)
    assert (
        adapter / "adapter_model.safetensors"
    ).stat().st_size < 400_000  # not the embeddings of the whole vocabulary
    engine = HFEngine.load(str(base), adapter=str(adapter), dtype=dtype)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    plain.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    direct = peft.PeftModel.from_pretrained(plain, adapter).eval()
    prompt = tuple(tokenizer("Recommend films.")["input_ids"])
    wanted = np.array(tokenizer.convert_tokens_to_ids(list(coded.identifier.tokens[:8])), np.int64)
    from llmgen.engines import Step

    (found,) = engine.next_logprobs([Step(prompt, (int(wanted[0]),), wanted, full=True)])
    with torch.no_grad():
        logits = direct(input_ids=torch.tensor([[*prompt, int(wanted[0])]])).logits[0, -1].double()
    expected = logits.log_softmax(-1)[torch.from_numpy(wanted)].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3 if dtype == "float32" else 0.6)
    answer = Recommender(coded, engine).recommend(Query(history=["1", "2"], k=5))
    assert len(answer) == 5
    assert all(not place.item.title.startswith("<") for place in answer)


@pytest.mark.parametrize("setting", ["words", "codes"])
class TestRuns:
    pytestmark = REAL_RUNS

    def test_a_run_records_how_items_are_spelled_and_is_served_that_way_only(
        self, setting: str, settings: dict[str, str], tables: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        from llmgen.training.merge import merge
        from llmgen.training.sft import parse, run
        from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace

        np.save(tmp_path / "vectors.npy", VECTORS[:40])
        size = "branches=3" if setting == "words" else "size=4"
        data = json.loads(settings["data"])
        name = f"{setting}:vectors={tmp_path / 'vectors.npy'},encoder=,depth=2,{size}"
        coded = {**data, "identifier": name}
        record = run(*parse(flags_of(settings, data=json.dumps(coded), nats_users="8", validation_users="2")))
        folder = Path(settings["output_dir"])
        identifier = load_identifier(folder / "identifier")
        assert isinstance(identifier, Words if setting == "words" else Codes)
        assert (record.identifier, record.identifier_digest) == (setting, identifier.digest)
        assert AdapterRecord.read(folder) == record
        assert np.isfinite(record.metrics["eval_nats"])

        asked = RecommenderSettings(engine=f"hf:{settings['model']}", adapter=str(folder), lm_weight=1.0)
        given = DataSettings(**data)
        work = Workspace(asked.written(given).load())  # the adapter says how
        assert work.catalog.identifier.digest == identifier.digest
        query = Query(history=[work.catalog["1"], work.catalog["2"]], k=5)
        served = work.recommender(asked, query).recommend(query)
        assert "tokenizer" not in caplog.text
        title = Workspace(DataSettings(**data, identifier="title").load())
        with pytest.raises(ConfigError, match=rf"spelled by {setting} .* here they are spelled by title"):
            title.recommender(asked, query)
        with pytest.raises(ConfigError, match=rf"spelled by {setting} .* here they are spelled by title"):
            run(*parse(flags_of(settings, adapter=str(folder), output_dir=str(tmp_path / "more"))))

        merge(folder, tmp_path / "merged")
        assert load_identifier(tmp_path / "merged" / "identifier").digest == identifier.digest
        engine = HFEngine.load(str(tmp_path / "merged"))
        alone = work.recommender(asked, query)
        asked_as = {"prompt": record.recommender.prompts[0], "max_history": record.recommender.max_history}
        again = Recommender(work.catalog, engine, **asked_as)
        mine = Recommender(work.catalog, alone.engine, **asked_as)
        pairs = zip(again.recommend(query), mine.recommend(query), strict=True)
        assert all(one.item == other.item and abs(one.score - other.score) < 1e-3 for one, other in pairs)
        assert len(served) == 5


class TestResumed:
    pytestmark = REAL_RUNS

    def test_a_stopped_run_with_codes_ends_as_one_that_was_not_stopped(
        self, settings: dict[str, str], tables: Path, tmp_path: Path
    ) -> None:
        from safetensors.numpy import load_file

        from llmgen.training.sft import parse, run

        np.save(tmp_path / "vectors.npy", VECTORS[:40])
        name = f"codes:vectors={tmp_path / 'vectors.npy'},encoder=,depth=2,size=4"
        data = json.dumps({**json.loads(settings["data"]), "identifier": name})
        plain = {**settings, "data": data, "lr_scheduler_type": "constant", "loss": "catalog"}
        run(*parse(flags_of(plain, output_dir=str(tmp_path / "whole"), max_steps="4")))
        run(*parse(flags_of(plain, output_dir=str(tmp_path / "parts"), max_steps="2")))
        record = run(*parse(flags_of(plain, output_dir=str(tmp_path / "parts"), max_steps="4")))
        assert record.steps == 4
        whole, parts = (load_file(tmp_path / one / "adapter_model.safetensors") for one in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert any("token_adapter" in key for key in whole)
        for key, values in whole.items():
            np.testing.assert_allclose(parts[key], values, atol=1e-5, err_msg=key)
