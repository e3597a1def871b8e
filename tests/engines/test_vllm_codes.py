"""Codes of items in vLLM: refused as an adapter, served as a merged model with the lists of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.engines import load_engine
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError
from llmgen.identifiers import Codes
from llmgen.recommend.recommender import Recommender
from llmgen.types import Query
from llmgen.vectors import ItemVectors
from tests.engines.test_vllm import pytestmark, small_model  # noqa: F401


def test_an_adapter_with_codes_is_refused_at_once_and_its_merged_model_recommends_as_transformers_does(
    catalog: Catalog,
    small_model: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    import peft
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmgen.training.item_tokens import add_item_tokens, with_item_tokens
    from llmgen.training.merge import merge

    vectors = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    coded = catalog.identified(Codes.fit(ItemVectors.of(catalog, vectors), size=8, depth=2))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(small_model), AutoTokenizer.from_pretrained(small_model)
    ids = add_item_tokens(model, tokenizer, coded)
    torch.manual_seed(0)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    with_item_tokens(model, settings, ids).save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")

    with pytest.raises(ConfigError, match="merge it first: llmgen merge"):
        load_engine(f"vllm:{small_model}", adapter=str(tmp_path / "adapter"))
    merge(tmp_path / "adapter", tmp_path / "merged")
    engine = load_engine(f"vllm:{tmp_path / 'merged'}", kv_cache_memory_bytes=2**28)
    try:
        query = Query(history=["1", "2", "3"], k=5)
        served = Recommender(coded, engine).recommend(query)
        plain = Recommender(coded, HFEngine.load(str(small_model), adapter=str(tmp_path / "adapter"))).recommend(query)
    finally:
        engine.close()
    assert [place.item.id for place in served] == [place.item.id for place in plain]
    assert all(abs(one.score - other.score) < 1e-3 for one, other in zip(served, plain, strict=True))
