"""The engine for a server: exact answers in few requests, servers that can only write, and all that goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.catalog.core import Catalog
from llmgen.engines import Engine, GenerationConfig, Step, Usage, load_engine
from llmgen.engines.completions_client import read_chat
from llmgen.engines.openai import IDS, PROMPTS, SPARE, OpenAIEngine, _pack
from llmgen.errors import ConfigError, EngineError, EngineUnavailableError, GenerationError
from llmgen.http.transport import MAX_BODY, Retry
from llmgen.recommend.recommender import Recommender
from llmgen.types import Completion, FloatArray, Message, Query
from tests.conftest import films
from tests.engines.contract import CHATS
from tests.engines.serving import Asked, Reply, Stub

pytest.importorskip("transformers", reason="needs llmgen[openai]")

SOON = Retry(attempts=3, pause_s=0.01)
KEY = "sk-nobody-may-see-this"
VOCABULARY = 437


def model_logprobs(ids: tuple[int, ...]) -> FloatArray:
    """The stub's language model: made up, but always the same."""
    seed = hashlib.sha256(repr(ids).encode()).digest()[:8]
    logits = 3 * np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(VOCABULARY)
    return logits - np.logaddexp.reduce(logits)


class Api:
    """What a stub answers: as `vllm serve` does, or as servers that know less.

    Attributes:
        kind: `vllm`; `ignores` and `refuses` the option; `lacks` completions and says so; knows `chats` only.
        cards: What it runs.
        metrics: What `/metrics` says.
        written: What the assistant writes.
        tokens: What `/tokenize` answers; where it is None, that is `no_such_path`.
    """

    def __init__(self, model: Path) -> None:
        self.kind = "vllm"
        self.cards: list[dict[str, Any]] = [
            {"id": "tiny", "root": str(model), "parent": None, "max_model_len": 2048},
            {"id": "films", "root": "/somewhere/films", "parent": "tiny", "max_model_len": None},
        ]
        self.metrics = (
            'vllm:cache_config_info{block_size="32",kv_cache_size_tokens="4096",enable_prefix_caching="True"} 1.0'
        )
        self.written: dict[str, Any] = {"message": {"content": "Alien"}, "finish_reason": "stop"}
        self.tokens: list[int] | None = None
        self.no_such_path = refusal(404, "Not Found")

    def __call__(self, asked: Asked) -> Reply:
        route = asked.path.rpartition("/")[2] if asked.path != "/v1/chat/completions" else "chat"
        if route == "models":
            return answer({"data": self.cards})
        if route == "metrics":
            return Reply(200, self.metrics.encode())
        if route == "tokenize":
            return answer({"tokens": self.tokens}) if self.tokens is not None else self.no_such_path
        body = json.loads(asked.body)
        if body["model"] not in [card["id"] for card in self.cards]:
            return refusal(404, f"The model `{body['model']}` does not exist.")
        if route == "chat":
            return answer({"choices": [self.written], "usage": {"completion_tokens": 7}})
        if self.kind == "lacks":
            return refusal(501, "Not Implemented")
        if self.kind == "chats":
            return Reply(404, b"404 page not found")
        if "logprob_token_ids" not in body:
            return answer({"choices": [{"token_ids": body["stop_token_ids"], "finish_reason": "stop"}]})
        if self.kind == "refuses":
            return refusal(422, "Extra inputs are not permitted")
        if len(body["logprob_token_ids"]) > IDS or len(body["prompt"]) > PROMPTS:
            return refusal(400, "too many")
        rows = [self.row(*one, body) for one in enumerate(body["prompt"])]
        read = {"prompt_tokens": sum(map(len, body["prompt"])), "prompt_tokens_details": {"cached_tokens": 2}}
        return answer({"choices": rows[::-1], "usage": read})  # nothing says that they come in order

    def row(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        logprobs = model_logprobs(tuple(prompt))
        likeliest = int(logprobs.argmax())
        ids = [likeliest, *(body["logprob_token_ids"] if self.kind == "vllm" else ())]
        table = {f"token_id:{token}": float(logprobs[token]) for token in ids}
        return {"index": index, "text": "x", "logprobs": {"top_logprobs": [table]}, "finish_reason": "length"}


def answer(content: object) -> Reply:
    return Reply(200, json.dumps(content).encode())


def refusal(status: int, message: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message, "code": status}}).encode())


@pytest.fixture
def api(tiny_model: Path) -> Api:
    return Api(tiny_model)


@pytest.fixture
def stub(api: Api) -> Iterator[Stub]:
    with Stub(api) as running:
        yield running


@pytest.fixture
def load(stub: Stub) -> Iterator[Callable[..., OpenAIEngine]]:
    """Loads engines for the stub, and closes them."""
    made: list[OpenAIEngine] = []

    def load(model: str = "", **options: Any) -> OpenAIEngine:
        engine = load_engine(f"openai:{stub.url}{model}", **{"retry": SOON, **options})
        assert isinstance(engine, OpenAIEngine)
        made.append(engine)
        stub.asked.clear()
        return engine

    yield load
    for engine in made:
        engine.close()


@pytest.fixture
def engine(load: Callable[..., OpenAIEngine]) -> OpenAIEngine:
    return load()


STEP = Step((1, 2, 3), (4,), np.arange(5))


def check(engine: Engine, steps: list[Step]) -> None:
    for step, row in zip(steps, engine.next_logprobs(steps), strict=True):
        assert row.tolist() == model_logprobs(step.prompt + step.suffix)[step.wanted].tolist()


# --- what is asked, and in how many requests -------------------------------------------------------------------------


def test_answers_are_the_servers_to_the_last_bit(engine: OpenAIEngine) -> None:
    rng = np.random.default_rng(0)
    wanted = [rng.choice(VOCABULARY, size=size, replace=False) for size in (1, 3, 127, 128, 129, 300, VOCABULARY)]
    prompts = [tuple(rng.integers(0, VOCABULARY, size=size).tolist()) for size in (1, 40)]
    check(engine, [Step(prompt, suffix, ids) for prompt in prompts for suffix in ((), (5,), (5, 6)) for ids in wanted])


def test_wide_nodes_are_asked_in_parts_that_steps_share(engine: OpenAIEngine, stub: Stub) -> None:
    check(engine, [Step((1, number), (), np.arange(400)) for number in range(20)])
    assert len(stub.asked) == 4  # 128 + 128 + 128 + 16 tokens


def test_narrow_nodes_share_requests(engine: OpenAIEngine, stub: Stub) -> None:
    rng = np.random.default_rng(0)
    check(engine, [Step((1, 2, 3), (node,), rng.choice(VOCABULARY, size=3, replace=False)) for node in range(32)])
    assert 2 <= len(stub.asked) <= 5


@given(st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=300, unique=True), max_size=100))
def test_packing_leaves_nothing_out_and_keeps_the_limits(wanted: list[list[int]]) -> None:
    seen: list[tuple[int, int]] = []
    for batch in _pack([np.array(ids, dtype=np.int64) for ids in wanted]):
        assert 1 <= len(batch.ids) <= IDS
        assert len(batch.parts) <= PROMPTS
        asked_for = [wanted[number][start : start + IDS] for number, start in batch.parts]
        assert all(set(ids) <= set(batch.ids) for ids in asked_for)
        assert len(batch.ids) * len(batch.parts) - sum(map(len, asked_for)) <= SPARE
        seen += batch.parts
    assert sorted(seen) == [(number, start) for number, ids in enumerate(wanted) for start in range(0, len(ids), IDS)]


def test_equal_steps_of_many_users_fill_requests() -> None:
    sizes = [len(batch.parts) for batch in _pack([np.arange(9)] * 150)]
    assert sorted(sizes) == [22, 64, 64]


def test_requests_ask_for_the_model_itself(engine: OpenAIEngine, stub: Stub) -> None:
    engine.next_logprobs([STEP])
    body = json.loads(stub.asked[0].body)
    assert (body["prompt"], body["logprob_token_ids"], body["max_tokens"]) == ([[1, 2, 3, 4]], [0, 1, 2, 3, 4], 1)
    assert (body["temperature"], body["top_p"], body["repetition_penalty"]) == (0, 1, 1)


def test_the_server_is_tried_once(engine: OpenAIEngine, stub: Stub) -> None:
    for _ in range(3):
        engine.next_logprobs([STEP])
    assert len(stub.asked) == 3


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_urls_with_and_without_the_apis_path_are_the_same(stub: Stub, ending: str) -> None:
    engine = OpenAIEngine.load(stub.url + ending)
    engine.next_logprobs([STEP])
    engine.close()
    paths = {asked.path for asked in stub.asked}
    assert paths == {"/v1/models", "/v1/completions", "/tokenize", "/metrics"}


def test_another_path_is_the_apis_own(stub: Stub) -> None:
    OpenAIEngine.load(f"{stub.url}/team/api").close()
    assert {"/team/api/models", "/team/api/completions"} <= {asked.path for asked in stub.asked}


def test_threads_and_a_running_event_loop_may_ask(engine: OpenAIEngine) -> None:
    steps = [Step((number, 2), (), np.arange(200)) for number in range(30)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: check(engine, steps), range(12)))

    async def inside() -> None:
        check(engine, steps)

    asyncio.run(inside())


def test_closing_ends_the_threads(load: Callable[..., OpenAIEngine]) -> None:
    engine = load(concurrency=4)
    engine.next_logprobs([Step((1,), (), np.arange(VOCABULARY))])
    assert any(thread.name.startswith("llmgen-openai") for thread in threading.enumerate())
    engine.close()
    assert not any(thread.name.startswith("llmgen-openai") for thread in threading.enumerate())
    with pytest.raises(EngineUnavailableError, match="closed"):
        engine.next_logprobs([STEP])


def test_what_the_server_reads_is_counted(engine: OpenAIEngine) -> None:
    assert engine.usage == Usage(0, 0)
    engine.next_logprobs([STEP])
    engine.next_logprobs([STEP, Step((1, 2, 3, 4, 5), (6,), np.arange(5))])
    assert engine.usage == Usage(read_tokens=4 + 10 - 2 * 2, cached_tokens=2 * 2)


# --- what the server says of itself ----------------------------------------------------------------------------------


def test_limits_are_the_servers(engine: OpenAIEngine) -> None:
    assert (engine.name, engine.constrained) == ("openai:tiny", True)
    assert (engine.max_tokens, engine.block_tokens, engine.batch_tokens) == (2048, 32, 2048)


def test_without_its_word_limits_are_the_usual_ones(api: Api, load: Callable[..., OpenAIEngine]) -> None:
    api.metrics = "nothing"
    api.cards[0]["max_model_len"] = None
    engine = load()
    assert (engine.max_tokens, engine.block_tokens, engine.batch_tokens) == (8192, 16, 65536)


def test_without_a_prefix_cache_every_length_is_as_good(api: Api, load: Callable[..., OpenAIEngine]) -> None:
    api.metrics = api.metrics.replace("True", "False")
    assert load().block_tokens == 1


def test_limits_may_be_given(load: Callable[..., OpenAIEngine]) -> None:
    engine = load(max_tokens=7, block_tokens=8, batch_tokens=9)
    assert (engine.max_tokens, engine.block_tokens, engine.batch_tokens) == (7, 8, 9)


@pytest.mark.parametrize("option", ["max_tokens", "block_tokens", "batch_tokens", "concurrency", "timeout_s"])
def test_limits_out_of_range_are_refused(load: Callable[..., OpenAIEngine], option: str) -> None:
    with pytest.raises(ValueError, match=option):
        load(**{option: 0})


def test_an_adapter_is_a_model_with_its_bases_tokenizer(load: Callable[..., OpenAIEngine], stub: Stub) -> None:
    engine, base = load(adapter="films"), load()
    assert (engine.name, engine.max_tokens) == ("openai:tiny+films", 2048)
    assert engine.tokenizer_digest == base.tokenizer_digest
    engine.next_logprobs([STEP])
    assert json.loads(stub.asked[0].body)["model"] == "films"
    assert load(":tiny", adapter="films").name == "openai:tiny+films"
    assert load(":films").name == "openai:films"


@pytest.mark.parametrize(
    ("model", "adapter", "message"),
    [
        (":large", None, "no model 'large'; it has tiny, films"),
        ("", "songs", "no adapter 'songs'; it has tiny, films"),
        (":large", "films", "no model 'large'"),
        ("", "tiny", "'tiny' is no adapter but a model"),
        (":other", "films", "'films' is one of 'tiny', not of 'other'"),
    ],
)
def test_models_that_do_not_fit_are_refused(
    api: Api, load: Callable[..., OpenAIEngine], model: str, adapter: str | None, message: str
) -> None:
    if model == ":other":
        api.cards.append({"id": "other", "root": "/other"})
    with pytest.raises(ConfigError, match=message):
        load(model, adapter=adapter)


def test_a_server_without_models_is_refused(api: Api, load: Callable[..., OpenAIEngine]) -> None:
    api.cards.clear()
    with pytest.raises(ConfigError, match="runs no model"):
        load()


@pytest.mark.parametrize(
    "reply", [Reply(200, b"<html>"), Reply(404, b"no"), Reply(200, b"[]"), Reply(200, b'{"data": 1}')]
)
def test_what_is_no_such_server_is_told(stub: Stub, load: Callable[..., OpenAIEngine], reply: Reply) -> None:
    stub.turns.append(reply)
    with pytest.raises(EngineUnavailableError, match="is that an OpenAI-compatible server"):
        load()


def test_logits_are_refused(api: Api, load: Callable[..., OpenAIEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "model_logprobs", lambda ids: np.linspace(-1, 9, VOCABULARY))
    with pytest.raises(ConfigError, match="--logprobs-mode raw_logprobs"):
        load()


def test_the_tokenizer_is_needed(api: Api, load: Callable[..., OpenAIEngine], tiny_model: Path) -> None:
    api.cards[0]["root"] = "/nowhere/llama"
    with pytest.raises(EngineUnavailableError, match=r"name it with tokenizer=.*/nowhere/llama"):
        load()
    assert load(tokenizer=str(tiny_model)).constrained


def test_another_models_tokenizer_is_refused(api: Api, load: Callable[..., OpenAIEngine]) -> None:
    api.tokens = [1, 2, 3]
    with pytest.raises(ConfigError, match=r"another tokenizer than the server's model 'tiny'"):
        load()


@pytest.mark.parametrize("reply", [Reply(200, b"{}"), Reply(200, b"[]"), Reply(405, b"<html>")])
def test_servers_need_not_say_how_they_tokenize(api: Api, load: Callable[..., OpenAIEngine], reply: Reply) -> None:
    api.no_such_path = reply
    assert load().constrained


# --- writing ---------------------------------------------------------------------------------------------------------


def test_prompts_and_texts_travel_as_token_ids(engine: OpenAIEngine, stub: Stub, tiny_model: Path) -> None:
    alien = list(engine.spell(["Alien"])[0])
    stub.turns.append(answer({"choices": [{"token_ids": alien, "finish_reason": "stop"}]}))
    stub.turns.append(answer({"choices": [{"token_ids": alien[:1], "finish_reason": "length"}]}))
    config = GenerationConfig(max_new_tokens=9, temperature=0.5, seed=3)
    (whole,), (cut,) = engine.generate(CHATS[:1], config), engine.generate(CHATS[:1], config)
    assert (whole.text, whole.num_tokens, whole.finished) == ("Alien", len(alien) - 1, True)
    assert (cut.num_tokens, cut.finished) == (1, False)
    body = json.loads(stub.asked[0].body)
    assert (body["prompt"], body["stop_token_ids"]) == (list(engine.tokenize(CHATS[0])), alien[-1:])
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 3, 9)


def test_thoughts_are_asked_for_first_with_their_own_budget(
    api: Api, stub: Stub, tiny_model: Path, load: Callable[..., OpenAIEngine], tmp_path: Path
) -> None:
    folder = tmp_path / "thinking"
    shutil.copytree(tiny_model, folder)
    template = "{% for m in messages %}{{ m.content }}|{% endfor %}<think>{{ '\\n' }}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    engine = load(tokenizer=str(folder))

    def ids(text: str) -> list[int]:
        return list(engine.chat_tokenizer.tokenizer(text, add_special_tokens=False)["input_ids"])

    stub.turns.append(answer({"choices": [{"token_ids": ids("Hm"), "finish_reason": "length"}]}))
    stub.turns.append(
        answer({"choices": [{"token_ids": [*ids("Alien"), engine.chat_tokenizer.end], "finish_reason": "stop"}]})
    )
    (written,) = engine.generate([[Message("user", "a")]], GenerationConfig(max_new_tokens=9, think_tokens=5))
    assert (written.text, written.finished) == ("Alien", True)
    first, second = (json.loads(asked.body) for asked in stub.asked)
    assert (first["prompt"], first["max_tokens"]) == (ids("a|<think>\n"), 5)
    assert (second["prompt"], second["max_tokens"]) == (ids("a|<think>\nHm\n</think>\n\n"), 9)


def said(content: str | None, end: str, tokens: int, thought: int | None = None, **more: object) -> Reply:
    usage = {"completion_tokens": tokens, "completion_tokens_details": {"reasoning_tokens": thought}}
    return answer({"choices": [{"message": {"content": content, **more}, "finish_reason": end}], "usage": usage})


@pytest.mark.parametrize(
    ("first", "thoughts"),
    [
        (said("<think>Brazil, or", "length", 14), "<think>Brazil, or\n</think>\n\n"),
        (said("[THINK]Brazil[/THINK]So", "length", 14), "[THINK]Brazil\n[/THINK]\n\n"),
        (said("Brazil</think>So", "length", 14, 12), "<think>Brazil\n</think>\n\n"),
        (said(None, "length", 14, reasoning_content="Brazil, or"), "<think>\nBrazil, or\n</think>\n\n"),
        (said("", "length", 14, reasoning="Brazil, or"), "<think>\nBrazil, or\n</think>\n\n"),
    ],
)
def test_thoughts_that_use_up_both_budgets_are_ended_and_the_answer_is_asked_for(
    api: Api, stub: Stub, load: Callable[..., OpenAIEngine], first: Reply, thoughts: str
) -> None:
    api.kind = "chats"
    engine = load()
    stub.asked.clear()
    stub.turns.extend([first, said("Solaris", "stop", 4)])
    (written,) = engine.generate(CHATS[:1], GenerationConfig(max_new_tokens=9, think_tokens=5))
    assert (written.text, written.num_tokens, written.finished) == ("Solaris", 18, True)
    one, two = (json.loads(asked.body) for asked in stub.asked)
    assert (one["max_tokens"], two["max_tokens"]) == (14, 9)
    assert two["messages"] == [*one["messages"], {"role": "assistant", "content": thoughts}]
    assert two["continue_final_message"] is True and two["add_generation_prompt"] is False


@pytest.mark.parametrize(
    "first",
    [
        said("<think>Brazil</think>Solaris", "stop", 9),  # done
        said("<think>Brazil</think>Solaris, or", "length", 14, 5),  # the answer had its room
        said("", "length", 14, 14),  # what was thought is not told
    ],
)
def test_an_answer_that_had_its_room_or_whose_thoughts_are_not_told_is_asked_for_once(
    api: Api, stub: Stub, load: Callable[..., OpenAIEngine], first: Reply
) -> None:
    api.kind = "chats"
    engine = load()
    stub.asked.clear()
    stub.turns.append(first)
    engine.generate(CHATS[:1], GenerationConfig(max_new_tokens=9, think_tokens=5))
    assert len(stub.asked) == 1


def test_a_server_that_does_not_know_how_to_go_on_with_an_answer_is_asked_without(
    api: Api, stub: Stub, load: Callable[..., OpenAIEngine], caplog: pytest.LogCaptureFixture
) -> None:
    api.kind = "chats"
    engine = load()
    stub.asked.clear()
    refusal = Reply(400, b'{"error": {"message": "Unrecognized request argument supplied: continue_final_message"}}')
    stub.turns.extend([said("<think>Hm", "length", 14), refusal, said("Solaris", "stop", 4)])
    (written,) = engine.generate(CHATS[:1], GenerationConfig(max_new_tokens=9, think_tokens=5))
    assert written.text == "Solaris"
    last = json.loads(stub.asked[-1].body)
    assert not {"continue_final_message", "add_generation_prompt"} & set(last)
    assert last["messages"][-1]["role"] == "assistant"
    assert "may begin anew" in caplog.text


def test_a_server_that_only_writes_has_the_two_budgets_together(
    api: Api, stub: Stub, load: Callable[..., OpenAIEngine]
) -> None:
    api.kind = "chats"
    engine = load()
    stub.asked.clear()
    engine.generate(CHATS[:1], GenerationConfig(max_new_tokens=9, think_tokens=5))
    assert json.loads(stub.asked[0].body)["max_tokens"] == 14
    with pytest.raises(ConfigError, match="can only write text, and nobody can end its thoughts"):
        engine.think(CHATS[:1], GenerationConfig(think_tokens=5))


KNOWS_LESS = pytest.mark.parametrize("kind", ["ignores", "refuses", "lacks", "chats"])


@KNOWS_LESS
def test_a_server_that_knows_less_writes(api: Api, stub: Stub, load: Callable[..., OpenAIEngine], kind: str) -> None:
    api.kind = kind
    engine = load()
    assert not engine.constrained
    (written,) = engine.generate(CHATS[:1], GenerationConfig(temperature=0.5, seed=3, max_new_tokens=9))
    assert (written.text, written.num_tokens, written.finished) == ("Alien", 7, True)
    body = json.loads(stub.asked[0].body)
    assert [turn["role"] for turn in body["messages"]] == ["system", "user"]
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 3, 9)
    with pytest.raises(EngineError, match="can only write"):
        engine.next_logprobs([STEP])


@KNOWS_LESS
def test_what_it_writes_is_looked_up(
    api: Api,
    load: Callable[..., OpenAIEngine],
    kind: str,
    catalog: Catalog,
    caplog: pytest.LogCaptureFixture,
) -> None:
    api.kind = kind
    films = list(catalog)
    api.written["message"]["content"] = (
        f"1. {catalog.labels[30]}\n2. {films[40].title.upper()}\n3. Nothing like it at all"
    )
    recommender = Recommender(catalog, load())
    assert "can only write free text" in caplog.text
    places = recommender.recommend(Query(history=films[50:55], k=3))
    assert (places[0].item, places[0].grounding.method) == (films[30], "exact")
    assert places[1].item.title == films[40].title
    assert places[2].grounding.method in ("bm25", "prior")


@pytest.mark.parametrize("kind", ["vllm", "chats"])
def test_a_pipe_gets_one_json_object_and_nothing_else(api: Api, stub: Stub, tmp_path: Path, kind: str) -> None:
    """Whatever the server can, and whatever is to be said of it: that goes to stderr."""
    api.kind = kind
    (tmp_path / "films.csv").write_text("item_id,title\na,Alien\nb,Brazil\n")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,a,1\n1,b,2\n")
    tables = ["--items", str(tmp_path / "films.csv"), "--interactions", str(tmp_path / "log.csv")]
    asked = ["--json", "--engine", f"openai:{stub.url}", "--history", "b", "-k", "1"]
    program = [sys.executable, "-m", "llmgen", "recommend", *asked, *tables]
    ran = subprocess.run(program, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert ran.returncode == 0, ran.stderr
    assert [place["item"]["id"] for place in json.loads(ran.stdout)["recommendations"]] == ["a"]
    assert ("can only write" in ran.stderr) == (kind == "chats")


def test_without_a_tokenizer_prompts_are_measured_in_bytes(
    api: Api, load: Callable[..., OpenAIEngine], catalog: Catalog
) -> None:
    api.kind = "chats"
    api.cards[:] = [{"id": "llama3.2:3b", "object": "model"}]
    engine = load(":llama3.2:3b", max_tokens=700)  # 716 bytes tell all twenty films
    assert engine.tokenizer_digest == "utf-8"
    assert engine.spell(["é"]) == [(0xC3, 0xA9, 256)]
    assert (
        len(engine.tokenize([Message("user", "七")]))
        == len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n") + 3
    )
    answered = Recommender(catalog, engine).recommend(Query(history=list(catalog)[:20], k=3))
    assert 0 < answered.history_used < 20
    assert answered.prompt_tokens <= 1200


def test_a_named_tokenizer_measures_where_it_is_not_needed(
    api: Api, load: Callable[..., OpenAIEngine], tiny_model: Path
) -> None:
    api.kind = "chats"
    api.cards[:] = [{"id": "hosted"}]
    assert load(tokenizer=str(tiny_model)).tokenizer_digest != "utf-8"
    with pytest.raises(EngineUnavailableError, match="tokenizer="):
        load(tokenizer="/nowhere")
    api.cards[:] = [{"id": "hosted", "root": "/nowhere"}]
    assert load().tokenizer_digest == "utf-8"


def test_nothing_written_is_an_empty_text(api: Api, load: Callable[..., OpenAIEngine]) -> None:
    api.kind = "chats"
    api.written = {"message": {"content": None}, "finish_reason": "length"}
    (written,) = load().generate(CHATS[:1], GenerationConfig())
    assert (written.text, written.finished) == ("", False)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_what_is_lost_is_asked_again_as_it_was(load: Callable[..., OpenAIEngine], stub: Stub) -> None:
    engine = load(retry=Retry(attempts=6, pause_s=0.01))
    stub.turns += [
        Reply(429, headers={"retry-after": "0.05"}),
        Reply(500),
        Reply(503),
        Reply(status=0),
        Reply(body=b"x" * 100, cut=True),
    ]
    check(engine, [STEP])
    assert len(stub.asked) == 6
    assert len({asked.body for asked in stub.asked}) == 1


@pytest.mark.parametrize("status", [429, 500, 503, 504])
def test_a_server_that_keeps_failing_is_unavailable(engine: OpenAIEngine, stub: Stub, status: int) -> None:
    stub.turns += [refusal(status, "EngineCore died")] * 3
    with pytest.raises(EngineUnavailableError, match=f"HTTP {status}.*EngineCore died"):
        engine.next_logprobs([STEP])
    stub.turns.clear()
    check(engine, [STEP])


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_refusals_carry_the_servers_words_and_are_not_repeated(engine: OpenAIEngine, stub: Stub, status: int) -> None:
    stub.turns += [refusal(status, "too long"), Reply(status, b"plain words")]
    with pytest.raises(EngineError, match=f"HTTP {status}.*too long") as caught:
        engine.next_logprobs([STEP])
    assert not isinstance(caught.value, EngineUnavailableError)
    with pytest.raises(GenerationError, match="plain words"):
        engine.generate(CHATS[:1], GenerationConfig())
    assert len(stub.asked) == 2


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>"),
        Reply(200, b""),
        answer({}),
        answer({"choices": []}),
        answer({"choices": [{"index": 0, "logprobs": None}]}),
        answer({"choices": [{"index": 0, "logprobs": {"top_logprobs": [{"token_id:0": -1.0}]}}]}),
    ],
)
def test_answers_that_cannot_be_read_are_told(engine: OpenAIEngine, stub: Stub, reply: Reply) -> None:
    stub.turns += [reply, reply]
    with pytest.raises(GenerationError, match="cannot be read"):
        engine.next_logprobs([STEP])
    with pytest.raises(GenerationError, match="cannot be read"):
        engine.generate(CHATS[:1], GenerationConfig())


def row(index: int, *, value: float = -1.0) -> dict[str, Any]:
    """One that a server may answer to a question about the tokens 0 to 4."""
    table = {f"token_id:{token}": value if token == 3 else -1.0 for token in range(5)}
    return {"index": index, "logprobs": {"top_logprobs": [table]}}


@pytest.mark.parametrize(
    "choices",
    [
        [row(0), row(0)],
        [row(1), row(2)],
        [row(0)],
        [row(0), row(1), row(2)],
        [row(0), row(1, value=float("nan"))],
        [row(0), row(1, value=float("inf"))],
        [row(0), row(1, value=float("-inf"))],
    ],
    ids=["one twice", "another", "too few", "too many", "nan", "inf", "-inf"],
)
def test_rows_that_are_no_answer_are_refused(engine: OpenAIEngine, stub: Stub, choices: list[dict[str, Any]]) -> None:
    stub.turns += [answer({"choices": [row(1), row(0)]}), answer({"choices": choices})]
    assert [found.tolist() for found in engine.next_logprobs([STEP, STEP])] == [[-1.0] * 5] * 2
    with pytest.raises(GenerationError, match="cannot be read"):
        engine.next_logprobs([STEP, STEP])


def test_a_body_of_any_depth_or_size_is_refused(engine: OpenAIEngine, stub: Stub) -> None:
    stub.turns += [Reply(200, b"[" * 100_000), Reply(200, b" " * (MAX_BODY + 1))]
    with pytest.raises(GenerationError, match="cannot be read"):
        engine.next_logprobs([STEP])
    with pytest.raises(EngineUnavailableError, match=f"more than {MAX_BODY:,} bytes"):
        engine.next_logprobs([STEP])


def twisted(change: Callable[[dict[str, Any]], object]) -> Callable[[Api, Asked], Reply]:
    """Answers as a server does, but for a change of the answers to what a search asks."""

    def fault(api: Api, asked: Asked) -> Reply:
        reply = api(asked)
        if not asked.path.endswith("/completions"):
            return reply
        content = json.loads(reply.body)
        change(content)
        return answer(content)

    return fault


def every_value(value: object) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for choice in content["choices"]:
            choice["logprobs"]["top_logprobs"] = [dict.fromkeys(choice["logprobs"]["top_logprobs"][0], value)]

    return change


def always(reply: Reply) -> Callable[[Api, Asked], Reply]:
    return lambda api, asked: reply


FAULTS: dict[str, Callable[[Api, Asked], Reply]] = {
    "hangs": always(Reply(delay_s=60)),
    "drips": always(Reply(200, b" " * 1_000, drip_s=0.1)),
    "drips before the body": always(Reply(200, drips_head=True, drip_s=0.1)),
    "closes": always(Reply(status=0)),
    "breaks off": always(Reply(200, b"x" * 1_000, cut=True)),
    "429": always(Reply(429, headers={"retry-after": "0"})),
    "500": always(refusal(500, "out of memory")),
    "503": always(Reply(503)),
    "400": always(refusal(400, "no such thing")),
    "401": always(refusal(401, "another key")),
    "html": always(Reply(200, b"<html>")),
    "no utf-8": always(Reply(200, b"\xff\xfe\x00")),
    "brackets": always(Reply(200, b"[" * 100_000)),
    "another object": always(answer({"object": "list"})),
    "null": always(answer(None)),
    "huge": always(Reply(200, b" " * 2_000_000)),
    "no rows": twisted(lambda content: content.update(choices=[])),
    "too few rows": twisted(lambda content: content["choices"].pop()),
    "too many rows": twisted(lambda content: content["choices"].append({**content["choices"][0], "index": 99})),
    "a row twice": twisted(lambda content: content["choices"].append(content["choices"][0])),
    "nan": twisted(every_value(float("nan"))),
    "inf": twisted(every_value(float("inf"))),
    "-inf": twisted(every_value(float("-inf"))),
    "a text": twisted(every_value("likely")),
    "no value": twisted(every_value(None)),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_faulty_server_is_told_holds_up_nothing_else_and_may_come_back(
    load: Callable[..., OpenAIEngine],
    api: Api,
    stub: Stub,
    fault: Callable[[Api, Asked], Reply],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With retries for minutes and waits of minutes, a deadline of two seconds is what counts, and who waits."""
    pytest.importorskip("fastapi", reason="needs llmgen[serve]")
    from llmgen.server import create_app
    from tests.server.conftest import running

    monkeypatch.setattr("llmgen.http.transport.MAX_BODY", 1_000_000)  # quickly sent; the real one has a test of its own
    engine = load(retry=Retry(attempts=1_000, pause_s=0.1, longest_pause_s=0.2), timeout_s=120.0)
    with running(create_app(Recommender(films(20), engine))) as url:

        def ask(seconds: float) -> httpx2.Response:
            return httpx2.post(f"{url}/v1/recommend", json={"k": 1}, headers={"x-timeout": str(seconds)}, timeout=60)

        def gone(seconds: float) -> None:
            """Ask for an answer within half a minute, and hang up after so many seconds."""
            with contextlib.suppress(httpx2.ReadTimeout):  # some faults are answered before
                httpx2.post(f"{url}/v1/recommend", json={"k": 1}, timeout=seconds)

        assert ask(20).status_code == 200
        stub.answer = lambda asked: fault(api, asked)
        start = time.monotonic()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(ask, 2)
            time.sleep(0.2)
            others = time.monotonic()
            assert httpx2.get(f"{url}/v1/items/1").status_code == 200
            assert httpx2.put(f"{url}/v1/items", json={"items": [{"id": "n", "title": "New"}]}).status_code == 200
            assert httpx2.get(f"{url}/health").status_code == 200
            assert time.monotonic() - others < 8  # also on a busy machine; what was held up was so for minutes
            failed = asked.result()
        assert failed.status_code in (502, 503, 504)
        assert stub.url in failed.json()["message"]
        assert time.monotonic() - start < 10
        ready = httpx2.get(f"{url}/ready", timeout=60)
        assert ready.status_code == 503
        assert "the engine is down" in ready.json()["status"]
        assert httpx2.get(f"{url}/health").status_code == 200
        gone(0.5)
        time.sleep(0.3)
        asked_before = len(stub.asked)
        time.sleep(0.4)
        assert len(stub.asked) == asked_before, "it is asked for nobody"
        stub.answer = api
        start = time.monotonic()
        assert ask(20).status_code == 200
        assert time.monotonic() - start < 5  # .1 s on a machine that does nothing else
        assert httpx2.get(f"{url}/ready", timeout=60).status_code == 200


@pytest.mark.parametrize("together", [False, True], ids=["before the others", "among the others"])
def test_a_server_that_hangs_on_one_prompt_holds_up_no_other_request(
    load: Callable[..., OpenAIEngine], api: Api, stub: Stub, together: bool
) -> None:
    """Who waits for what hangs has 30 s. One worker held up all others for these."""
    pytest.importorskip("fastapi", reason="needs llmgen[serve]")
    from llmgen.server import AppSettings, Limits, create_app
    from tests.server.conftest import running

    engine = load()
    hung, let_go = threading.Event(), threading.Event()
    assert engine.chat_tokenizer is not None
    decode = engine.chat_tokenizer.tokenizer.decode

    def hangs_on_zebras(asked: Asked) -> Reply:
        prompts = json.loads(asked.body).get("prompt", []) if asked.body else []
        if any("zebra" in str(decode(prompt)) for prompt in prompts):
            hung.set()
            assert let_go.wait(60)
        return api(asked)

    stub.answer = hangs_on_zebras
    gather_s = 0.5 if together else 0.002  # the first batch waits for company
    app = create_app(Recommender(films(20), engine, prompt="cold_start"), AppSettings(limits=Limits(gather_s=gather_s)))
    with running(app) as url, ThreadPoolExecutor(9) as pool:

        def ask(text: str, seconds: float) -> tuple[int, float]:
            start = time.monotonic()
            headers = {"x-timeout": str(seconds)}
            answer = httpx2.post(f"{url}/v1/recommend", json={"k": 1, "text": text}, headers=headers, timeout=60)
            return answer.status_code, time.monotonic() - start

        first = pool.submit(ask, "zebra", 30)
        if not together:
            assert hung.wait(20)
        others = [pool.submit(ask, f"film {number}", 30) for number in range(8)]
        found = [future.result() for future in others]
        assert not first.done()
        let_go.set()
        assert [status for status, _ in found] == [200] * 8
        assert max(seconds for _, seconds in found) < 10, found  # .3 s and 1.7 s where nothing else is done
        assert first.result()[0] == 200


def test_ready_asks_a_server_that_a_request_waits_for(load: Callable[..., OpenAIEngine], api: Api, stub: Stub) -> None:
    """Before that request's deadline, half a minute, nothing else would tell that the server hangs."""
    pytest.importorskip("fastapi", reason="needs llmgen[serve]")
    from llmgen.server import create_app
    from llmgen.server.routes import READY_S
    from tests.server.conftest import running

    with running(create_app(Recommender(films(20), load()))) as url, ThreadPoolExecutor(1) as pool:
        for hangs, expected in (("/v1/completions", 200), ("", 503)):  # the first is busy, and the other is away
            stub.answer = lambda asked, hangs=hangs: Reply(delay_s=4) if hangs in asked.path else api(asked)
            asked = pool.submit(
                httpx2.post, f"{url}/v1/recommend", json={"k": 1}, headers={"x-timeout": "10"}, timeout=60
            )
            time.sleep(READY_S + 0.2)
            start = time.monotonic()
            ready = httpx2.get(f"{url}/ready", timeout=60)
            assert (ready.status_code, time.monotonic() - start < READY_S + 3) == (expected, True), ready.text
            stub.answer = api
            asked.result(30)


def test_a_wait_that_runs_out_is_no_hang(load: Callable[..., OpenAIEngine], stub: Stub) -> None:
    engine = load(timeout_s=0.2)
    stub.turns += [Reply(delay_s=9)] * 4
    start = time.monotonic()
    with pytest.raises(EngineUnavailableError, match=r"did not answer within 0\.2 s"):
        engine.next_logprobs([Step((1,), (), np.arange(VOCABULARY))])
    assert time.monotonic() - start < 3


def test_a_server_that_dies_is_unavailable_until_it_is_back(
    api: Api, load: Callable[..., OpenAIEngine], stub: Stub
) -> None:
    engine = load()
    stub.answer = lambda asked: Reply(delay_s=30)
    threading.Timer(0.3, stub.stop).start()
    start = time.monotonic()
    with pytest.raises(EngineUnavailableError, match="server"):
        engine.next_logprobs([Step((1,), (), np.arange(VOCABULARY))])
    with pytest.raises(EngineUnavailableError, match="is the server up"):
        engine.generate(CHATS, GenerationConfig())
    assert time.monotonic() - start < 5
    with Stub(api, port=stub.port):
        check(engine, [STEP])
        api.cards[0]["id"] = "another"
        with pytest.raises(EngineError, match=r"`tiny` does not exist.*load the engine again"):
            engine.next_logprobs([STEP])


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_names_the_variable(stub: Stub, load: Callable[..., OpenAIEngine], status: int) -> None:
    stub.turns.append(refusal(status, f"Incorrect API key provided: {KEY}"))
    with pytest.raises(EngineUnavailableError, match="OPENAI_API_KEY") as caught:
        load(api_key=KEY)
    assert KEY not in str(caught.value)


def test_the_key_is_sent_and_never_shown(
    stub: Stub, load: Callable[..., OpenAIEngine], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")  # as it comes out of a file
    engine = load()
    stub.turns += [refusal(400, f"cannot use {KEY}"), Reply(200, f'{{"echo": "{KEY}"}}'.encode()), *[Reply(0)] * 3]
    for _ in range(3):
        with pytest.raises(EngineError) as caught:
            engine.next_logprobs([STEP])
        chain = [caught.value, caught.value.__cause__, caught.value.__context__]
        assert KEY not in "".join(map(repr, chain))
    assert KEY not in caplog.text
    assert KEY not in repr(engine) + repr(vars(engine))
    assert {asked.headers["authorization"] for asked in stub.asked} == {f"Bearer {KEY}"}
    with pytest.raises(ValueError, match="no header may hold") as refused:
        load(api_key="sk-schlüssel")
    assert "schlüssel" not in str(refused.value)


def test_without_a_key_none_is_sent(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    OpenAIEngine.load(stub.url).close()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    OpenAIEngine.load(stub.url, api_key="").close()
    assert not any("authorization" in asked.headers for asked in stub.asked)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Solaris"}, "Solaris"),
        ({"content": None, "reasoning_content": "Brazil?"}, ""),
        ({}, ""),
        ({"content": [{"type": "text", "text": "Sol"}, {"type": "text", "text": "aris"}]}, "Solaris"),
        ({"content": [{"type": "text", "text": {"value": "Solaris", "annotations": []}}]}, "Solaris"),
        ({"content": ["Sol", {"type": "image_url", "image_url": {}}, "aris", None]}, "Solaris"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Brazil?"}]}, "Solaris"]}, "Solaris"),
        ({"content": {"type": "text", "text": "Solaris"}}, "Solaris"),
        ({"content": "<think>Brazil?</think>\n\nSolaris"}, "Solaris"),
        ({"content": None, "refusal": "I may not."}, "I may not."),
    ],
)
def test_content_in_every_form_that_servers_send(message: dict[str, Any], text: str) -> None:
    answer = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}
    assert read_chat(answer).answer == Completion(text, 3, True)


@pytest.mark.parametrize("message", [None, "Solaris", {"content": 7}, {"content": [7]}])
def test_content_that_is_no_text_is_refused(
    api: Api, load: Callable[..., OpenAIEngine], message: object, catalog: Catalog
) -> None:
    api.kind = "chats"
    api.written = {"message": message, "finish_reason": "stop"}
    with pytest.raises(GenerationError, match="cannot be read"):
        load().generate(CHATS[:1], GenerationConfig())


@pytest.mark.parametrize(
    ("reason", "finished"),
    [("stop", True), ("eos_token", True), (None, True), ("length", False), ("content_filter", False)],
)
def test_how_a_text_ended_is_read(reason: str | None, finished: bool) -> None:
    assert read_chat({"choices": [{"message": {"content": "x"}, "finish_reason": reason}]}).answer.finished is finished
    assert read_chat({"choices": [{"message": {"content": "x"}}]}).answer.finished


def test_a_server_that_writes_nothing_is_told_of(api: Api, load: Callable[..., OpenAIEngine], catalog: Catalog) -> None:
    """Else a list that comes from the prior alone looks like one of the model."""
    api.kind = "chats"
    api.written = {"message": {"content": None}, "finish_reason": "stop"}
    recommender = Recommender(catalog, load())
    assert recommender.recommend(Query(k=3)).warnings == ("the model wrote nothing: 3 of 3 places come from the prior",)
    with pytest.raises(GenerationError, match="the model wrote nothing"):
        recommender.explain(Query(history=list(catalog)[:3]), catalog[5])
    api.written["message"] = {"content": [{"type": "text", "text": "As you liked Alien."}]}
    assert recommender.explain(Query(history=list(catalog)[:3]), catalog[5]).text == "As you liked Alien."


TAKES: dict[str, tuple[Callable[[dict[str, Any]], bool], int, str]] = {
    "OpenAI's models that think": (
        lambda body: "max_tokens" in body,
        400,
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    ),
    "their temperature": (
        lambda body: body.get("temperature", 1) != 1,
        400,
        "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) is supported.",
    ),
    "seed": (lambda body: "seed" in body, 400, "Unrecognized request argument supplied: seed"),
    "seed, by pydantic": (lambda body: "seed" in body, 422, "body.seed: Extra inputs are not permitted"),
    "Gemma": (lambda body: body["messages"][0]["role"] == "system", 400, "System role not supported"),
    "Mistral": (
        lambda body: body["messages"][0]["role"] == "system",
        400,
        "After the optional system message, conversation roles must alternate user/assistant/user/assistant/...",
    ),
    "o1": (
        lambda body: body["messages"][0]["role"] == "system",
        400,
        "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
    ),
}


@pytest.mark.parametrize(
    "names", [*([name] for name in TAKES), ["OpenAI's models that think", "their temperature", "o1"]]
)
def test_what_a_server_does_not_take_is_learned_once(
    api: Api, stub: Stub, load: Callable[..., OpenAIEngine], names: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    api.kind = "chats"
    engine = load()

    def takes(asked: Asked) -> Reply:
        body = json.loads(asked.body)
        wrong = [refusal(status, words) for refuses, status, words in map(TAKES.get, names) if refuses(body)]
        return wrong[0] if wrong else api(asked)

    stub.answer = takes
    config = GenerationConfig(temperature=0.0, seed=3, max_new_tokens=9)
    for _ in range(2):
        assert [written.text for written in engine.generate(CHATS[:1], config)] == ["Alien"]
    assert len(stub.asked) == len(names) + 2
    body = json.loads(stub.asked[-1].body)
    assert body.get("max_completion_tokens", body.get("max_tokens")) == 9
    words = "\n\n".join(message.content for message in CHATS[0])
    assert "\n\n".join(turn["content"] for turn in body["messages"]) == words
    assert sum("takes" in record.message for record in caplog.records) == len(names)
    assert ("seed" in body) is not any("seed" in name for name in names)
    assert ("temperature" in body) is ("their temperature" not in names)


@pytest.mark.parametrize(
    "words",
    [
        "'max_tokens' is too large: 9. This model's maximum context length is 8 tokens",
        "temperature must be between 0 and 2",
        "The model has no chat template",
    ],
)
def test_other_refusals_teach_nothing(api: Api, stub: Stub, load: Callable[..., OpenAIEngine], words: str) -> None:
    api.kind = "chats"
    engine = load()
    stub.answer = lambda asked: refusal(400, words)
    with pytest.raises(GenerationError, match="HTTP 400"):
        engine.generate(CHATS[:1], GenerationConfig(max_new_tokens=9))
    assert len(stub.asked) == 1


def test_a_lesson_that_helps_nothing_is_not_kept(api: Api, stub: Stub, load: Callable[..., OpenAIEngine]) -> None:
    api.kind = "chats"
    engine = load()
    stub.answer = lambda asked: refusal(400, "max_tokens is unsupported, and so is everything else")
    with pytest.raises(GenerationError, match="everything else"):
        engine.generate(CHATS[:1], GenerationConfig(max_new_tokens=9))
    stub.answer = api
    stub.asked.clear()
    engine.generate(CHATS[:1], GenerationConfig(max_new_tokens=9))
    assert json.loads(stub.asked[0].body)["max_tokens"] == 9
