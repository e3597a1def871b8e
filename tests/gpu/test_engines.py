"""On a CUDA device: the engines' contract, and that transformers and vLLM give the same numbers there.

bfloat16 has three decimal digits, and sums come in another order for every batch, so log-probabilities of the same
question differ by some tenths; the wide tolerance still tells a wrong token, prompt or adapter, which differ by more.
"""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmgen.engines import Engine, GenerationConfig, Step, load_engine
from llmgen.models import demo_model
from tests.engines.contract import CHATS, EngineContract, largest_difference

if TYPE_CHECKING:
    from llmgen.engines.hf import HFEngine
    from llmgen.engines.vllm import VLLMEngine

torch = pytest.importorskip("torch", reason="needs llmgen[hf]")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("default"),  # of whatever else runs on this machine; this is no check of style
]
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: llmgen[vllm]")
BFLOAT16 = 1.0


@pytest.fixture(scope="session")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter for SmolLM2 with weights large enough to change its answers, and small enough to leave it sane."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(0)
    folder = tmp_path_factory.mktemp("adapter") / "films"
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(demo_model()), LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    )
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.02)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exact() -> HFEngine:
    return load_engine("hf", device="cuda", dtype="float32")  # type: ignore[return-value]


@pytest.fixture(scope="session")
def plain() -> HFEngine:
    return load_engine("hf")  # type: ignore[return-value]


@pytest.fixture(scope="session")
def vllm(adapter: Path) -> Iterator[VLLMEngine]:
    engine = load_engine(
        "vllm", adapter=str(adapter), gpu_memory_utilization=0.3, max_model_len=4096, enforce_eager=True
    )
    yield engine  # type: ignore[misc]
    engine.close()  # type: ignore[attr-defined]


class TestTransformersFloat32(EngineContract):
    tolerance = 5e-3

    @pytest.fixture
    def engine(self, exact: HFEngine) -> Engine:
        return exact


class TestTransformers(EngineContract):
    """As it is loaded by default."""

    tolerance = BFLOAT16

    @pytest.fixture
    def engine(self, plain: HFEngine) -> Engine:
        return plain

    @pytest.fixture(autouse=True)
    def _adapter(self, adapter: Path) -> None:
        self.folder = str(adapter)

    def adapted(self, engine: Engine) -> Engine:
        return load_engine("hf", adapter=self.folder)

    def test_it_is_on_the_device(self, engine: HFEngine) -> None:
        assert engine._device.type == "cuda"


@needs_vllm
class TestVLLM(EngineContract):
    tolerance = BFLOAT16

    @pytest.fixture
    def engine(self, vllm: VLLMEngine) -> Engine:
        return vllm.with_adapter(None)

    @pytest.fixture(autouse=True)
    def _adapter(self, adapter: Path) -> None:
        self.folder = str(adapter)

    def adapted(self, engine: Engine) -> Engine:
        return engine.with_adapter(self.folder)  # type: ignore[attr-defined,no-any-return]

    def interrupt(self, engine: Engine) -> None:
        (core,) = engine.llm.llm_engine.engine_core.resources.engine_manager.processes  # type: ignore[attr-defined]
        os.kill(core.pid, signal.SIGKILL)


@needs_vllm
def test_both_engines_agree(vllm: VLLMEngine, exact: HFEngine, adapter: Path) -> None:
    wanted = np.arange(len(exact.chat_tokenizer.tokenizer), dtype=np.int64)
    paths = [(), *(path[:depth] for path in exact.spell(["Alien (1979)", "The Matrix (1999)"]) for depth in (1, 3))]
    steps = [Step(prompt, path, wanted, full=True) for prompt in map(exact.tokenize, CHATS) for path in paths]
    pairs = (
        (vllm.with_adapter(None), exact),
        (vllm, load_engine("hf", adapter=str(adapter), device="cuda", dtype="float32")),
    )
    for ours, reference in pairs:
        answers, expected = ours.next_logprobs(steps), reference.next_logprobs(steps)
        for one, other in zip(answers, expected, strict=True):
            likely = np.argsort(-other)[:100]
            assert np.abs(one[likely] - other[likely]).mean() < 0.1
        assert largest_difference(answers, expected) < 2 * BFLOAT16


@needs_vllm
def test_blocks_on_a_gpu(vllm: VLLMEngine) -> None:
    assert vllm.block_tokens % 16 == 0  # 16, unless the attention of this card wants larger ones
    assert vllm.batch_tokens > vllm.max_tokens
    assert len(vllm.generate(CHATS, GenerationConfig(max_new_tokens=4))) == len(CHATS)
