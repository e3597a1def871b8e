"""A running OpenAI-compatible server, best `vllm serve`.

A search asks `/v1/completions` for one token after each prompt + path, given as token ids, and for the
log-probabilities of up to 128 tokens by their ids (`logprob_token_ids`): exact, over the whole vocabulary, in float32.
What a round of the search asks is packed into few requests: paths with the same wanted tokens share one, and so do
paths with few of them, since one request costs a server as much time as some 200 log-probabilities that nobody wants.

A server that knows no such option is found out when the engine is made. It can only write: `constrained` is False, and
its text is looked up in the catalog.

More than 400 lines: one engine, its packing of requests, and its check of what a server can do.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from llmgen.engines import CALLERS, GenerationConfig, Step, Usage
from llmgen.engines.chat import ChatTokenizer
from llmgen.engines.completions_client import IDS, KEY, NEUTRAL, Card, Server, read_ids
from llmgen.errors import ConfigError, EngineError, EngineUnavailableError
from llmgen.http.transport import Retry
from llmgen.types import Completion, FloatArray, IntArray, Message

logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")

PROMPTS = 64  # of one request: more are hardly faster, and all of them are asked again after a lost connection
SPARE = 192  # unwanted log-probabilities in a request: take vLLM 0.32 as long as a request more (13 us each, 2.4 ms)
BATCH_TOKENS = 65_536  # where the server does not say how many it can keep
BLOCK_TOKENS = 16  # where the server does not say: vLLM's default on a GPU
MAX_TOKENS = 8_192  # where the server does not say: most models of today take more
END = 256  # stands behind the bytes of a text, where there is no tokenizer
TONGUES = "Amélie (2001), 七人の侍, Сталкер 🎬 and  two blanks"


class OpenAIEngine:
    """A model that a server runs; `load` finds out what the server can do.

    The methods block, and may be called from any thread. A failure leaves nothing behind: when the server is back, so
    is the engine.

    Args:
        server: The server, and the model or adapter that is asked.
        chat: The model's tokenizer; where there is none, texts are measured in bytes, and only `generate` works.
        name: For people.
        constrained: Whether the server answers `logprob_token_ids`; needs `chat`.
        max_tokens: See `Engine`.
        batch_tokens: See `Engine`.
        block_tokens: See `Engine`.
        concurrency: Requests under way at once for one caller: what one waits for holds up no other.
    """

    def __init__(
        self,
        server: Server,
        chat: ChatTokenizer | None,
        *,
        name: str,
        constrained: bool,
        max_tokens: int,
        batch_tokens: int,
        block_tokens: int,
        concurrency: int,
    ) -> None:
        numbers = {"max_tokens": max_tokens, "batch_tokens": batch_tokens, "block_tokens": block_tokens}
        for what, value in numbers.items():
            if value < 1:
                raise ValueError(f"{what} must be 1 or more, not {value}")
        self._server = server
        self.usage = server.usage
        self.chat_tokenizer = chat
        self.name = name
        self.constrained = constrained
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.block_tokens = block_tokens
        self.tokenizer_digest = "utf-8" if chat is None else chat.digest
        self.control_tokens: frozenset[str] = frozenset() if chat is None else chat.control_tokens
        self._concurrency = concurrency
        self._pool = ThreadPoolExecutor(CALLERS * concurrency, "llmgen-openai")  # threads start when there is work
        self._closed = False

    @classmethod
    def load(
        cls,
        url: str,
        model: str | None = None,
        *,
        adapter: str | None = None,
        tokenizer: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retry: Retry | None = None,
        concurrency: int = 32,
        max_tokens: int | None = None,
        batch_tokens: int | None = None,
        block_tokens: int | None = None,
    ) -> OpenAIEngine:
        """Ask a server what it runs and what it can do.

        Args:
            url: Such as `http://localhost:8000`, with or without `/v1`. If it has another path, that is the API's.
            model: As the server calls it; the first one it names by default.
            adapter: Name of a LoRA adapter that the server was started with: `--enable-lora --lora-modules NAME=PATH`.
            tokenizer: Folder or hub name. By default the model's `root`, from where the server says it loaded the
                model, else the model's name.
            api_key: By default the environment's OPENAI_API_KEY; none where that is not set.
            timeout_s: For each wait for an answer; a busy server lets requests wait.
            retry: When to ask again; see `Retry`.
            concurrency: Requests under way at once for one caller, 1 or more.
            max_tokens: The server's `max_model_len` by default, else 8192.
            batch_tokens: Half of what the server's KV cache holds by default, as others use it too.
            block_tokens: Of the server's KV cache; what it says by default, else 16.

        Raises:
            EngineUnavailableError: The server cannot be reached, or wants another key, or the tokenizer cannot be
                loaded here.
            ConfigError: The server has no such model or adapter, the tokenizer is another model's, or the server gives
                logits instead of log-probabilities.
            ValueError: A URL that is none, or a number out of range.
        """
        if concurrency < 1:
            raise ValueError(f"concurrency must be 1 or more, not {concurrency}")
        key = os.environ.get(KEY, "") if api_key is None else api_key
        server = Server(url, key, timeout_s, retry, connections=CALLERS * concurrency)
        try:
            card, base = _choose(server, model, adapter)
            server.model = card.name
            constrained = server.gives_logprobs()
            server.usage = Usage()  # without what was tried
            chat = _tokenizer(server, tokenizer, base, constrained)
            cache = server.cache() if constrained else {}
            if max_tokens is None:
                max_tokens = base.max_tokens or MAX_TOKENS
            if batch_tokens is None:
                batch_tokens = cache.get("kv_cache_size_tokens", 2 * BATCH_TOKENS) // 2
            if block_tokens is None:
                block_tokens = cache.get("block_size", BLOCK_TOKENS)
            return cls(
                server,
                chat,
                name=f"openai:{base.name}+{adapter}" if adapter else f"openai:{card.name}",
                constrained=constrained,
                max_tokens=max_tokens,
                batch_tokens=batch_tokens,
                block_tokens=block_tokens,
                concurrency=concurrency,
            )
        except BaseException:
            server.close()
            raise

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """See `Engine`; without a tokenizer the bytes of the chat in ChatML: hardly any tokenizer makes more tokens."""
        if self.chat_tokenizer is not None:
            return self.chat_tokenizer.tokenize(messages)
        turns = "".join(f"<|im_start|>{message.role}\n{message.content}<|im_end|>\n" for message in messages)
        return tuple(f"{turns}<|im_start|>assistant\n".encode())

    def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """See `Engine`; without a tokenizer the bytes of each text and an end token."""
        if self.chat_tokenizer is not None:
            return self.chat_tokenizer.spell(texts)
        return [(*text.encode(), END) for text in texts]

    @property
    def joins(self) -> bool:
        """See `Joining`."""
        return self.chat_tokenizer is not None and self.chat_tokenizer.joins

    def spell_lines(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """See `Joining`; without a tokenizer the bytes of each line."""
        return (
            [(*f"{text}\n".encode(),) for text in texts]
            if self.chat_tokenizer is None
            else self.chat_tokenizer.spell_lines(texts)
        )

    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        """See `Engine`; always normalised over the whole vocabulary. A token that cannot come has -9999.

        Raises:
            EngineUnavailableError: The server is down or too busy; asking again may help.
            EngineError: The server refuses, as it does if it runs another model now, or can only write.
        """
        if not self.constrained:
            raise EngineError(f"{self.name} can only write text: its server does not answer `logprob_token_ids`")
        answers = [np.empty(len(step.wanted)) for step in steps]
        prompts = {id(step.prompt): step.prompt for step in steps}
        written = {key: _written(prompt) for key, prompt in prompts.items()}

        def ask(batch: _Batch) -> None:
            asked = []
            for number, _ in batch.parts:
                step = steps[number]
                both = (written[id(step.prompt)], _written(step.suffix))
                asked.append(f"[{','.join(part for part in both if part)}]")
            rows = self._server.logprobs(asked, list(batch.ids))
            for (number, start), row in zip(batch.parts, rows, strict=True):
                wanted = steps[number].wanted[start : start + IDS].tolist()
                answers[number][start : start + IDS] = [row[token] for token in wanted]

        self._each(ask, list(_pack([step.wanted for step in steps])))
        return answers

    def generate(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[Completion]:
        """See `Engine`. Each chat is sampled with the same seed, so its answer does not depend on the others.

        A server that only writes gets both budgets together, and where thoughts use up both, the answer's once more;
        see `Server.write`.

        Raises:
            EngineUnavailableError: The server is down or too busy; asking again may help.
            GenerationError: The server refuses, or its answer is none.
        """
        chat = self.chat_tokenizer
        if chat is None or not self.constrained:
            sampling = {"temperature": config.temperature, "seed": config.seed}

            def write(messages: Sequence[Message]) -> Completion:
                if messages[-1].role == "assistant":
                    raise ConfigError(
                        f"{self.name} can only begin an answer, and this prompt begins it already (`continues`); "
                        "use a prompt such as next_item"
                    )
                turns = [{"role": message.role, "content": message.content} for message in messages]
                return self._server.write(turns, sampling, config.max_new_tokens, config.think_tokens)

            return self._each(write, chats)
        prompts = self.think(chats, config) if config.think_tokens else [self.tokenize(messages) for messages in chats]
        written = self._write(prompts, config, [chat.end])
        return [Completion(chat.decode(ids), len(ids), finished) for ids, finished in written]

    def think(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[tuple[int, ...]]:
        """See `Engine`.

        Raises:
            EngineUnavailableError, GenerationError: As `generate`.
        """
        chat = self.chat_tokenizer
        if chat is None or not self.constrained:
            raise ConfigError(f"{self.name} can only write text, and nobody can end its thoughts; use decoding='free'")
        prompts = [chat.thinking(messages, config.think_tokens) for messages in chats]
        written = self._write(prompts, config.of_thoughts, [chat.end, *chat.thought_ends])
        return [
            chat.thought(messages, prompt, ids)
            for messages, prompt, (ids, _) in zip(chats, prompts, written, strict=True)
        ]

    def _write(
        self, prompts: Sequence[tuple[int, ...]], config: GenerationConfig, ends: Sequence[int]
    ) -> list[tuple[list[int], bool]]:
        """What the model writes behind each prompt up to one of the tokens `ends`, and whether it came to one.

        Token ids both ways: prompt and text are then those of an engine that runs the model itself.
        """
        sampling = {"temperature": config.temperature, "seed": config.seed, "max_tokens": config.max_new_tokens}
        fields = {"stop_token_ids": list(ends), "return_token_ids": True, **sampling, **NEUTRAL}

        def write(prompt: tuple[int, ...]) -> tuple[list[int], bool]:
            return self._server.ask("/completions", {"prompt": prompt, **fields}, read_ids)

        return self._each(write, prompts)

    def forget(self) -> bool:
        """What a server keeps is its own business: False."""
        return False

    def check(self) -> None:
        """See whether the server is there, whatever else it is asked at the same time.

        Raises:
            EngineUnavailableError: It is not.
        """
        self._server.cards()

    def close(self) -> None:
        """Close the connections; nothing can be asked afterwards."""
        self._closed = True
        self._pool.shutdown()
        self._server.close()

    def _each(self, ask: Callable[[Thing], Answer], things: Sequence[Thing]) -> list[Answer]:
        """The answers to some questions, asked side by side; the first error ends them all."""
        self._check_open()
        if len(things) < 2:
            return [ask(thing) for thing in things]
        waiting = deque(enumerate(things))
        answers: dict[int, Answer] = {}

        def some() -> None:
            while waiting and not self._closed:
                try:
                    number, thing = waiting.popleft()
                except IndexError:  # another thread was quicker
                    return
                try:
                    answers[number] = ask(thing)
                except BaseException:
                    waiting.clear()  # what waits is not sent
                    raise

        # a context says until when an answer is waited for
        asking = [self._pool.submit(copy_context().run, some) for _ in range(min(self._concurrency, len(things)))]
        for one in wait(asking, return_when=FIRST_EXCEPTION).done:
            one.result()
        if len(answers) < len(things):
            self._check_open()
        return [answers[number] for number in range(len(things))]

    def _check_open(self) -> None:
        if self._closed:
            raise EngineUnavailableError(f"{self.name} was closed; load the engine again")


def _choose(server: Server, model: str | None, adapter: str | None) -> tuple[Card, Card]:
    """The model that is asked, and the one whose tokenizer it has: the same, but for an adapter."""
    cards = server.cards()
    asked = adapter or model or next(iter(cards), None)
    for name in (asked, model):
        if name is not None and name not in cards:
            what = "adapter" if name == adapter else "model"
            raise ConfigError(f"the server has no {what} {name!r}; it has {', '.join(list(cards)[:20]) or 'none'}")
    if asked is None:
        raise ConfigError("the server runs no model; start it with one")
    card = cards[asked]
    base = cards.get(card.parent or "", card)
    if adapter is not None and base is card:
        raise ConfigError(f"{adapter!r} is no adapter but a model of the server; name it behind the URL")
    if adapter is not None and model is not None and cards[model].root != base.root:
        raise ConfigError(f"the adapter {adapter!r} is one of {base.name!r}, not of {model!r}")
    return card, base


def _tokenizer(server: Server, given: str | None, base: Card, needed: bool) -> ChatTokenizer | None:
    """The tokenizer of the server's model, or None where it may be missing and nothing says where it is."""
    if not (needed or given or base.root):
        return None
    source = given or base.root or base.name
    try:
        chat = ChatTokenizer.load(source)
    except EngineUnavailableError as error:
        if not (needed or given):
            logger.info("prompts are measured in bytes: %s", error)
            return None
        raise EngineUnavailableError(
            f"the tokenizer of the server's model is needed here too; name it with tokenizer=...: {error}"
        ) from error
    theirs = server.tokenized(TONGUES) if needed else None
    ours = chat.tokenizer(TONGUES, add_special_tokens=False)["input_ids"]
    if theirs is not None and theirs != ours:
        raise ConfigError(
            f"{source!r} has another tokenizer than the server's model {base.name!r}; name the right one with "
            "tokenizer=..."
        )
    return chat


@dataclass
class _Batch:
    """One request: the tokens asked about, and the steps to whose prompts they are asked."""

    ids: dict[int, None] = field(default_factory=dict)  # a set in order
    parts: list[tuple[int, int]] = field(default_factory=list)  # number of the step, start within its wanted tokens
    num_wanted: int = 0

    @property
    def size(self) -> int:
        return len(self.ids) * len(self.parts)

    def fits(self) -> bool:
        return len(self.ids) <= IDS and len(self.parts) <= PROMPTS and self.size - self.num_wanted <= SPARE

    def __or__(self, other: _Batch) -> _Batch:
        return _Batch(self.ids | other.ids, self.parts + other.parts, self.num_wanted + other.num_wanted)


def _pack(wanted: Sequence[IntArray]) -> Iterator[_Batch]:
    """Requests that together ask about all wanted tokens of all steps; wide steps are spread over several."""
    alike: dict[bytes, list[tuple[int, int]]] = {}
    for number, ids in enumerate(wanted):
        for start in range(0, len(ids), IDS):
            alike.setdefault(ids[start : start + IDS].tobytes(), []).append((number, start))
    waiting = _Batch()
    for key, parts in alike.items():
        tokens: dict[int, None] = dict.fromkeys(np.frombuffer(key, dtype=np.int64).tolist())
        for first in range(0, len(parts), PROMPTS):
            some = parts[first : first + PROMPTS]
            batch = _Batch(tokens, some, len(tokens) * len(some))
            if (both := waiting | batch).fits():
                waiting = both
                continue
            waiting, full = sorted((waiting, batch), key=lambda one: one.size)
            yield full
    if waiting.parts:
        yield waiting


def _written(ids: Sequence[int]) -> str:
    """Token ids in JSON, without the brackets: written once for the many paths behind one prompt."""
    return ",".join(map(str, ids))
