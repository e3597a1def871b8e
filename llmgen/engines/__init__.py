"""Engines: what a language model must be able to do for llmgen, and how to get one by name."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import NamedTuple, Protocol, runtime_checkable

from llmgen.errors import ConfigError, EngineUnavailableError
from llmgen.types import Completion, FloatArray, IntArray, Message


class Step(NamedTuple):
    """One question to a language model: how likely is each of some tokens next?

    Attributes:
        prompt: Token ids of the rendered prompt. Steps that share a prompt should share the tuple.
        suffix: Token ids after the prompt: the path so far; may be empty.
        wanted: int64 [n]; the next tokens asked about, n >= 1, none twice.
        full: Whether the answer must be normalised over the whole vocabulary. If not, an engine may add any one
            constant to all of the answer, which saves it most of the output layer.
    """

    prompt: tuple[int, ...]
    suffix: tuple[int, ...]
    wanted: IntArray
    full: bool = False


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How free text is generated.

    Attributes:
        max_new_tokens: At most this many tokens, 1 or more.
        temperature: 0 takes the likeliest token each time; above 0 samples.
        seed: Of the sampling.
        think_tokens: So many tokens the model may think for before its answer, for which it has `max_new_tokens` still;
            0 or more. At 0 it is told not to think.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    think_tokens: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, not {self.max_new_tokens}")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or more, not {self.temperature}")
        if self.think_tokens < 0:
            raise ValueError(f"think_tokens must be 0 or more, not {self.think_tokens}")

    @property
    def of_thoughts(self) -> GenerationConfig:
        """How the thoughts are generated: as the answer, but for their length."""
        return replace(self, max_new_tokens=self.think_tokens, think_tokens=0)


@dataclass(slots=True)
class Usage:
    """What an engine has read since it was made.

    Attributes:
        read_tokens: Prompt tokens that went through the model.
        cached_tokens: Prompt tokens that were asked about again, and were still known from before.
    """

    read_tokens: int = 0
    cached_tokens: int = 0


class Engine(Protocol):
    """A causal language model with its tokenizer."""

    @property
    def usage(self) -> Usage:
        """Counts what is read; the same object always."""

    @property
    def name(self) -> str:
        """What the engine is, for people: kind, model, adapter."""

    @property
    def tokenizer_digest(self) -> str:
        """Changes whenever `spell` would; part of the key under which tries are stored."""

    @property
    def max_tokens(self) -> int:
        """Longest prompt and answer together, in tokens."""

    @property
    def batch_tokens(self) -> int:
        """How many prompt tokens one search batch may hold, so that memory stays within the engine's budget."""

    @property
    def block_tokens(self) -> int:
        """Prompts whose length is a multiple of this are read once for all paths; 1 where every length is as good."""

    @property
    def constrained(self) -> bool:
        """Whether `next_logprobs` can be asked; if not, answers are free text that is looked up in the catalog."""

    @property
    def control_tokens(self) -> frozenset[str]:
        """Strings that the tokenizer reads as control tokens; no value in a prompt may spell one."""

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of a chat up to where the assistant's answer begins.

        Where the last message is the assistant's, its lines are the beginning of the answer, and the ids end where the
        next line begins; no message stands behind it then.
        """

    def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text as an answer, the end token included; training targets are spelled the same way."""

    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        """Log-probabilities, float64 [n], of the wanted next tokens after each prompt + suffix; in order of `steps`."""

    def generate(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[Completion]:
        """The assistant's answer to each chat as free text, in order of `chats`."""

    def think(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[tuple[int, ...]]:
        """Token ids as of `tokenize`, with thoughts of at most `config.think_tokens`, 1 or more, before the answer.

        Raises:
            ConfigError: The model is none that thinks, or the engine has no way to end its thoughts.
        """

    def forget(self) -> bool:
        """Drop what is kept of prompts, so that the next one is read whole; whether that is sure to be done."""

    def close(self) -> None:
        """Free what the engine holds; it is not asked afterwards."""


CALLERS = 8
"""Threads that may ask an engine at once which others run."""


@runtime_checkable
class Checkable(Protocol):
    """An engine that others run: it waits for a server, may be asked by several threads at once, and may be away."""

    def check(self) -> None:
        """See whether it is there; quick, and at any time.

        Raises:
            EngineUnavailableError: It is not.
        """


@runtime_checkable
class Joining(Protocol):
    """An engine whose tokenizer may write the last sign of a line and its line break as one token.

    Where it does, the lines of a list have other tokens than the same texts as answers of their own. An engine without
    these two is taken for one that does not: its lines are what `spell` gives, with the line break for the end token.
    """

    @property
    def joins(self) -> bool:
        """Whether it does."""

    def spell_lines(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text as a line of an answer, with its line break; one after the other those of a list."""


def joins(engine: Engine) -> bool:
    """Whether lines of a list must be spelled with their line breaks; see `Joining`."""
    return isinstance(engine, Joining) and engine.joins


def spell_lines(engine: Engine, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Token ids of each text as a line of an answer that a prompt begins, with its line break; see `Joining`."""
    if isinstance(engine, Joining):
        return engine.spell_lines(texts)
    end = line_break(engine)
    return [(*path[:-1], *end) for path in engine.spell(texts)]


def line_break(engine: Engine) -> tuple[int, ...]:
    """The tokens between two lines of an answer that a prompt begins, the first of which ends in a letter."""
    asked = (Message("user", "x"),)
    begun = engine.tokenize((*asked, Message("assistant", "x")))
    return begun[len(engine.tokenize(asked)) + len(engine.spell(["x"])[0]) - 1 :]


GROUP = "llmgen.engines"
"""Of the entry points by which other packages offer engines."""


class EngineKind(Protocol):
    """How an engine of another package is made: by an entry point of the group `llmgen.engines`, named as its kind."""

    def __call__(self, model: str | None, *, adapter: str | None = None, **options: object) -> Engine:
        """The engine of a model: what stands behind the kind and a colon, None where nothing does."""


def kinds() -> tuple[str, ...]:
    """Kinds of engines that settings may name; `none` is the priors alone, and no engine."""
    return ("hf", "vllm", "openai", "fake", "none", *(entry.name for entry in entry_points(group=GROUP)))


def load_engine(name: str, *, adapter: str | None = None, **options: object) -> Engine:
    """The engine that a name stands for.

    Args:
        name: `hf:MODEL` (run by transformers) or `vllm:MODEL` (by vLLM in this process), where MODEL is a folder or a
            hub name, and SmolLM2-135M-Instruct where it is left out; `openai:URL` or `openai:URL:MODEL` (a running
            OpenAI-compatible server, best `vllm serve`; its first model by default); or `fake` (made-up probabilities,
            no model: for tests and documentation); or a kind that another package offers, see `EngineKind`.
        adapter: Folder or hub name of a PEFT adapter, for engines that have weights.
        options: Passed to the engine's constructor.

    Raises:
        ConfigError: No engine of that kind, or an option it does not know.
        EngineUnavailableError: Its packages or its model are not installed here.

    >>> load_engine("fake").name
    'fake'
    """
    kind, _, model = name.partition(":")
    if kind == "fake":
        from llmgen.engines.fake import FakeEngine

        if adapter is not None:
            raise ConfigError(f"the fake engine has no weights, so it cannot take the adapter {adapter!r}")
        return _made(FakeEngine, **options)
    if kind == "hf":
        from llmgen.engines.hf import HFEngine

        return _made(HFEngine.load, model or None, adapter=adapter, **options)
    if kind == "vllm":
        from llmgen.engines.vllm import VLLMEngine

        return VLLMEngine.load(model or None, adapter=adapter, **options)
    if kind == "openai":
        from llmgen.engines.openai import OpenAIEngine

        url, served = server_of(model)
        return _made(OpenAIEngine.load, url, served, adapter=adapter, **options)
    for entry in entry_points(group=GROUP, name=kind):
        try:
            make: EngineKind = entry.load()
        except ImportError as error:
            raise EngineUnavailableError(f"the engine {kind!r} cannot be loaded: {error}") from error
        return make(model or None, adapter=adapter, **options)
    more = "".join(f", {name}" for name in kinds()[5:])
    raise ConfigError(f"no engine of the kind {kind!r}; use hf, hf:MODEL, vllm, vllm:MODEL, openai:URL, fake{more}")


def _made(load: Callable[..., Engine], *given: object, **options: object) -> Engine:
    """An engine of options that are not looked at here; `load` refuses what it does not know."""
    return load(*given, **options)


def server_of(text: str) -> tuple[str, str | None]:
    """What `URL` or `URL:MODEL` names, where the URL may have a port and a path, and the model slashes and colons.

    Raises:
        ConfigError: It is neither.
    """
    parts = re.fullmatch(r"(https?://(?:\[[^]/]+\]|[^][:/\s]+)(?::\d+)?(?:/[^:\s]*)?)(?::(\S*[^:\s]))?", text)
    if parts is None:
        raise ConfigError(f"openai: wants a server's URL such as openai:http://localhost:8000, not {text!r}")
    return parts[1].rstrip("/"), parts[2]
