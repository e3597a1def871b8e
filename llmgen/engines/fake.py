"""FakeEngine: an engine without a model, for documentation and tests. Its tokens are the bytes of UTF-8."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from llmgen.engines import GenerationConfig, Step, Usage
from llmgen.text.sanitize import sanitize
from llmgen.types import Completion, FloatArray, IntArray, Message

END = 256
ROLES = {"system": 257, "user": 258, "assistant": 259}
VOCABULARY = 260
THOUGHT = "What would they like? "

Logits = Callable[[tuple[int, ...], tuple[int, ...]], FloatArray]


class FakeEngine:
    """Scripted completions, and next-token probabilities that are made up but always the same.

    Args:
        completions: What `generate` answers, in turn, again from the start when they are used up.
        logits: (prompt token ids, suffix token ids) -> float64 [260], any real numbers; by default a hash of the two
            and the token, so equal questions have equal answers.
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
        self.usage = Usage()
        self._completions = tuple(completions)
        self._turn = 0
        self._logits = logits
        self._seed = seed
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.constrained = constrained

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Each message as its role's token and the bytes of its content; then the assistant's token.

        An answer that is begun stands behind the assistant's token, each line with its line break.
        """
        begun = messages[-1].content + "\n" if messages[-1].role == "assistant" else ""
        ids: list[int] = []
        for message in messages[:-1] if begun else messages:
            ids += [ROLES[message.role], *message.content.encode(), END]
        return (*ids, ROLES["assistant"], *begun.encode())

    def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The bytes of each text, as a prompt would show it, and the end token."""
        return [(*sanitize(text).encode(), END) for text in texts]

    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        """See `Engine`; with scripted `logits`, always normalised over all 260 tokens."""
        if not steps:
            return []
        if self._logits is not None:
            scripted = (self._logits(step.prompt, step.suffix) for step in steps)
            return [
                logits[step.wanted] - np.logaddexp.reduce(logits) for step, logits in zip(steps, scripted, strict=True)
            ]
        keys, counts = self._keys(steps), [len(step.wanted) for step in steps]
        logits = _made_up(keys.repeat(counts), np.concatenate([step.wanted for step in steps]))
        answers = [logits[start:end] for start, end in pairwise(accumulate(counts, initial=0))]
        for number, step in enumerate(steps):
            if step.full:
                answers[number] = answers[number] - np.logaddexp.reduce(_made_up(keys[number], np.arange(VOCABULARY)))
        return answers

    def forget(self) -> bool:
        """Nothing is kept."""
        return True

    def think(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[tuple[int, ...]]:
        """The same thought always, cut at `think_tokens` bytes, behind the assistant's token."""
        thought = f"<think>{THOUGHT[: config.think_tokens]}</think>".encode()
        answers = []
        for ids in map(self.tokenize, chats):
            start = len(ids) - ids[::-1].index(ROLES["assistant"])
            answers.append((*ids[:start], *thought, *ids[start:]))
        return answers

    def close(self) -> None:
        """Nothing is held."""

    def generate(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[Completion]:
        """The next scripted completions, cut at `max_new_tokens` bytes."""
        answers = []
        for _ in chats:
            written = self._completions[self._turn % len(self._completions)].encode()
            self._turn += 1
            kept = written[: config.max_new_tokens]
            answers.append(Completion(kept.decode(errors="ignore"), len(kept), len(kept) == len(written)))
        return answers

    def _keys(self, steps: Sequence[Step]) -> NDArray[np.uint64]:
        """One number for the prompt and suffix of each step. Python does not salt the hashes of integers."""
        prompts = {id(step.prompt): step.prompt for step in steps}  # long, and most steps share theirs
        hashes = {key: hash((self._seed, prompt)) for key, prompt in prompts.items()}
        return np.array([hash((hashes[id(step.prompt)], step.suffix)) for step in steps]).astype(np.uint64)


def _made_up(keys: NDArray[np.uint64], tokens: IntArray) -> FloatArray:
    """A logit for each key and token: logistic values, of standard deviation 3, from the bits that splitmix64 mixes.

    Source: Steele et al., OOPSLA 2014, the finalizer's constants of variant 13.
    """
    bits = keys + tokens.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) / 2**52
    logits: FloatArray = np.log(uniform / (1 - uniform)) * (3 * math.sqrt(3) / math.pi)
    return logits
