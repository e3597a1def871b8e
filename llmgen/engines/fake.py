"""FakeEngine: an engine without a model, for documentation and tests. Its tokens are the bytes of UTF-8."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from llmgen.engines import GenerationConfig, Step
from llmgen.types import Completion, FloatArray, Message

END = 256
ROLES = {"system": 257, "user": 258, "assistant": 259}
VOCABULARY = 260

Logits = Callable[[tuple[int, ...], tuple[int, ...]], FloatArray]


class FakeEngine:
    """Scripted completions, and next-token probabilities that are made up but always the same.

    Args:
        completions: What `generate` answers, in turn, again from the start when they are used up.
        logits: (prompt token ids, suffix token ids) -> float64 [260], any real numbers; by default drawn from a
            generator that is seeded with the two, so equal questions have equal answers.
        seed: Of the default `logits`.
        max_tokens: See `Engine`.
        batch_tokens: See `Engine`.
        constrained: See `Engine`.
    """

    name = "fake"
    tokenizer_digest = "utf-8"
    control_tokens: frozenset[str] = frozenset()  # no text spells one: control tokens lie above the bytes
    block_tokens = 1

    def __init__(
        self,
        completions: Sequence[str] = ("A made-up answer.",),
        *,
        logits: Logits | None = None,
        seed: int = 0,
        max_tokens: int = 8192,
        batch_tokens: int = 65536,
        constrained: bool = True,
    ) -> None:
        self._completions = tuple(completions)
        self._turn = 0
        self._logits = logits or self._made_up
        self._seed = seed
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.constrained = constrained

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Each message as its role's token and the bytes of its content; then the assistant's token."""
        ids: list[int] = []
        for message in messages:
            ids += [ROLES[message.role], *message.content.encode(), END]
        return (*ids, ROLES["assistant"])

    def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The bytes of each text and the end token."""
        return [(*text.encode(), END) for text in texts]

    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        """See `Engine`; always normalised over all 260 tokens."""
        answers = []
        for step in steps:
            logits = self._logits(step.prompt, step.suffix)
            answers.append(logits[step.wanted] - np.logaddexp.reduce(logits))
        return answers

    def generate(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[Completion]:
        """The next scripted completions, cut at `max_new_tokens` bytes."""
        answers = []
        for _ in chats:
            written = self._completions[self._turn % len(self._completions)].encode()
            self._turn += 1
            kept = written[: config.max_new_tokens]
            answers.append(Completion(kept.decode(errors="ignore"), len(kept), len(kept) == len(written)))
        return answers

    def _made_up(self, prompt: tuple[int, ...], suffix: tuple[int, ...]) -> FloatArray:
        digest = hashlib.sha256(repr((self._seed, prompt, suffix)).encode()).digest()
        return 3 * np.random.default_rng(int.from_bytes(digest[:8], "little")).standard_normal(VOCABULARY)
