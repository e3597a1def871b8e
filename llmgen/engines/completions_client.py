"""The API of an OpenAI-compatible server: its answers read, its refusals turned into llmgen's errors."""

from __future__ import annotations

import json
import logging
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import numpy as np

from llmgen.engines import Usage
from llmgen.engines.chat import ended_thoughts, without_thoughts
from llmgen.errors import APIError, ConfigError, EngineError, EngineUnavailableError, GenerationError
from llmgen.http.transport import Response, Retry, StoppableTransport
from llmgen.types import Completion

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

KEY = "OPENAI_API_KEY"
IDS = 128  # tokens whose log-probabilities vLLM gives in one request, at most
# `vllm serve` takes what a request leaves out from the model's generation_config.json.
NEUTRAL = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
BEGUN: Mapping[str, object] = {"continue_final_message": True, "add_generation_prompt": False}
"""That the last message is the beginning of the answer, as vLLM and SGLang want to be told; others see it."""
CUT_OFF = ("length", "max_tokens", "content_filter")
"""Reasons for an end that is not the model's own."""
LESSONS = {
    "max_tokens": "takes max_completion_tokens in the place of max_tokens; thoughts may use up what it allows",
    "temperature": "takes no temperature: it samples as it likes, and answers may differ from one time to the next",
    "seed": "takes no seed: answers may differ from one time to the next",
    "system": "takes no system message: it stands at the head of the user's",
    "continue_final_message": "may begin anew where thoughts that took too long are ended and the answer is asked for",
}
"""What a server may refuse, and what is done then."""
_NOT_TAKEN = re.compile(
    "unsupported|not support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed|extra_forbidden",
    re.IGNORECASE,
)


class Written(NamedTuple):
    """What a model wrote in a chat.

    Attributes:
        answer: Without thoughts.
        thoughts: Before it, ended; empty where the server keeps them to itself, or there were none.
        thought_tokens: Of them; None where the server does not say.
        prompt_tokens: That were read; None where the server does not say.
    """

    answer: Completion
    thoughts: str
    thought_tokens: int | None
    prompt_tokens: int | None


class Card(NamedTuple):
    """What a server says of a model; None where it does not."""

    name: str
    root: str | None
    parent: str | None
    max_tokens: int | None


class Server:
    """The API of one server, its answers read and its refusals turned into llmgen's errors.

    Args:
        url: See `OpenAIEngine.load`.
        key: The API key, or nothing.
        timeout_s: See `Transport`.
        retry: See `Transport`.
        connections: At once.

    Attributes:
        model: Which model of the server is asked.
        usage: Counts prompt tokens.
    """

    def __init__(self, url: str, key: str, timeout_s: float, retry: Retry | None, *, connections: int) -> None:
        base = url.rstrip("/")
        root = base.removesuffix("/v1")
        self._api = "/v1" if root != base or not urlsplit(base).path else ""
        self._key = key.strip()
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        self._transport = StoppableTransport(
            root, timeout_s=timeout_s, headers=headers, retry=retry, max_connections=connections
        )
        self.model = ""
        self.usage = Usage()
        self._lessons: frozenset[str] = frozenset()
        self._counting = threading.Lock()

    def send(self, method: str, path: str, fields: bytes | dict[str, object] | None = None) -> Response:
        """One request to a path below the server's root, with whatever status its answer has."""
        body = json.dumps({"model": self.model, **fields}).encode() if isinstance(fields, dict) else fields
        try:
            return self._transport.request(method, path, body=body)
        except APIError as error:
            raise EngineUnavailableError(f"the engine's server is not there: {error}") from error

    def cards(self) -> dict[str, Card]:
        """What the server runs, by name, in its own order.

        Raises:
            EngineUnavailableError: No server of this kind is there.
        """

        def read(answer: Any) -> dict[str, Card]:
            cards = [
                Card(str(card["id"]), card.get("root"), card.get("parent"), card.get("max_model_len"))
                for card in answer["data"]
            ]
            return {card.name: card for card in cards}

        path = f"{self._api}/models"
        try:
            return self._read(path, self.send("GET", path), read, GenerationError)
        except GenerationError as error:
            raise EngineUnavailableError(f"{error}; is that an OpenAI-compatible server?") from error

    def ask(
        self,
        path: str,
        fields: bytes | dict[str, object],
        read: Callable[[Any], Answer],
        refused: type[EngineError] = GenerationError,
    ) -> Answer:
        """Send a question to a path of the API, and read its answer.

        Raises:
            EngineUnavailableError: No answer, or one that says that asking again may help.
            EngineError: `refused`, if the server finds the question wrong, with the server's own words.
            GenerationError: An answer that cannot be read.
        """
        path = self._api + path
        return self._read(path, self.send("POST", path, fields), read, refused)

    def logprobs(self, prompts: Sequence[str], ids: Sequence[int]) -> list[dict[int, float]]:
        """Log-probabilities of the tokens after each prompt; a prompt is a JSON list of token ids."""

        def read(answer: Any) -> list[dict[int, float]]:
            self._count(answer.get("usage") or {})
            rows = sorted(answer["choices"], key=lambda choice: choice["index"])
            tables = [row["logprobs"]["top_logprobs"][0] for row in rows]
            if [row["index"] for row in rows] != list(range(len(prompts))):
                raise ValueError(f"answers {[row['index'] for row in rows][:10]} to {len(prompts)} prompts")
            values = [{token: float(table[name]) for token, name in names.items()} for table in tables]
            for row in values:
                for token, value in row.items():
                    if not math.isfinite(value):
                        raise ValueError(f"token {token} has the log-probability {value}")
            return values

        names = {token: f"token_id:{token}" for token in ids}
        fields = {
            "model": self.model,
            "max_tokens": 1,
            "temperature": 0,
            **NEUTRAL,
            "logprobs": 1,
            "logprob_token_ids": list(ids),
            "return_tokens_as_token_ids": True,
        }
        body = f'{json.dumps(fields)[:-1]},"prompt":[{",".join(prompts)}]}}'
        return self.ask("/completions", body.encode(), read, EngineError)

    def write(
        self, turns: Sequence[dict[str, str]], sampling: Mapping[str, object], max_tokens: int, think_tokens: int = 0
    ) -> Completion:
        """What the model answers in a chat.

        Nobody can end its thoughts while it writes them. Where they took more than `think_tokens` and no room was left
        for the answer, they are ended, and the model is asked for its answer behind them. That cannot be done where the
        server keeps thoughts to itself.

        Args:
            turns: Role and content of each message.
            sampling: Temperature and seed, which may be left out.
            max_tokens: Of the answer.
            think_tokens: Of the thoughts before it.

        Raises:
            EngineUnavailableError, GenerationError: See `ask`.
        """
        first = self.written(turns, {**sampling, "max_tokens": max_tokens + think_tokens})
        had_room = first.thought_tokens is not None and first.thought_tokens <= think_tokens
        if not think_tokens or first.answer.finished or not first.thoughts or had_room:
            return first.answer
        behind = [*turns, {"role": "assistant", "content": first.thoughts}]
        answer = self.written(behind, {**sampling, **BEGUN, "max_tokens": max_tokens}).answer
        return Completion(answer.text, first.answer.num_tokens + answer.num_tokens, answer.finished)

    def written(self, turns: Sequence[dict[str, str]], sampling: dict[str, object]) -> Written:
        """What the model writes in a chat.

        Where the server refuses a field by name, or a system message, it is asked again in the way that it takes; what
        was learned so holds for all later questions.

        Args:
            turns: Role and content of each message.
            sampling: `max_tokens`, and what may be left out.

        Raises:
            EngineUnavailableError, GenerationError: See `ask`.
        """
        path = f"{self._api}/chat/completions"
        lessons = self._lessons
        while True:
            response = self.send("POST", path, _as_taken(turns, sampling, lessons))
            lesson = _lesson(response, turns, lessons)
            if lesson is None:
                break
            lessons |= {lesson}
        answer = self._read(path, response, read_chat, GenerationError)
        for lesson in sorted(lessons - self._lessons):
            logger.warning("%s %s", self.model, LESSONS[lesson])
        with self._counting:
            self._lessons |= lessons
        return answer

    def gives_logprobs(self) -> bool:
        """Whether the server answers what a search asks; tried, as many pass over an option they do not know.

        Raises:
            EngineUnavailableError: It does not answer now.
            ConfigError: It answers with logits.
        """
        try:
            rows = self.logprobs(["[1,2,3]", "[1,2]"], range(IDS))
        except EngineUnavailableError:
            raise
        except EngineError as error:
            logger.info("the server gives no log-probabilities of chosen tokens: %s", error)
            return False
        if max(np.logaddexp.reduce(list(row.values())) for row in rows) > 1e-3:
            raise ConfigError(
                "the server gives logits as log-probabilities; start it with --logprobs-mode raw_logprobs"
            )
        return True

    def tokenized(self, text: str) -> list[int] | None:
        """Token ids of a text by the server's own tokenizer; None where it does not say: the API has no such path."""
        response = self.send("POST", "/tokenize", {"prompt": text, "add_special_tokens": False})
        try:
            return list(json.loads(response.body)["tokens"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return None

    def cache(self) -> dict[str, int]:
        """What vLLM's metrics say of its KV cache, the numbers among it; empty where there are none."""
        metrics = self.send("GET", "/metrics").body.decode(errors="replace")
        line = re.search(r"^vllm:cache_config_info\{(.*)\}", metrics, re.MULTILINE)
        labels = dict(re.findall(r'(\w+)="([^"]*)"', line[1])) if line else {}
        if labels.get("enable_prefix_caching") == "False":
            labels["block_size"] = "1"  # every path is read from the start, so no length of a prompt is better
        return {name: int(value) for name, value in labels.items() if value.isdecimal()}

    def _count(self, used: dict[str, Any]) -> None:
        """Add up what an answer says was read.

        What was kept is told by `vllm serve --enable-prompt-tokens-details`, and of several prompts in one request by
        vLLM 0.32 for the last one only: so it is at least as much.
        """
        kept = int((used.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        with self._counting:
            self.usage.cached_tokens += kept
            self.usage.read_tokens += int(used.get("prompt_tokens") or 0) - kept

    def _said(self, response: Response) -> str:
        """The server's own words of why it refuses, without the key."""
        text = response.body.decode(errors="replace")
        try:
            error = json.loads(text)
            error = error.get("error", error)
            text = str(error if isinstance(error, str) else error["message"])
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            pass  # not in OpenAI's form: shown as it is
        text = " ".join(text.split())[:500]
        return text.replace(self._key, "***") if self._key else text

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _read(self, path: str, response: Response, read: Callable[[Any], Answer], refused: type[EngineError]) -> Answer:
        url, status = f"{self._transport.base_url}{path}", response.status
        if status in (401, 403):
            raise EngineUnavailableError(f"{url} wants another key (HTTP {status}): set {KEY}, or give api_key")
        if status in (408, 429) or (status >= 500 and status != 501):
            raise EngineUnavailableError(f"{url} could not answer (HTTP {status}): {self._said(response)}")
        if status != 200:
            hint = "; if the server runs another model now, load the engine again"
            hint = hint if status == 404 and self.model else ""
            raise refused(f"{url} refuses (HTTP {status}): {self._said(response)}{hint}")
        try:
            return read(json.loads(response.body))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
            raise GenerationError(
                f"{url} answered what cannot be read ({type(error).__name__}: {error}): {self._said(response)[:200]}"
            ) from error


def read_ids(answer: Any) -> tuple[list[int], bool]:
    """Token ids that a model wrote, without the one that ended it, and whether it ended by itself."""
    choice = answer["choices"][0]
    finished = choice["finish_reason"] == "stop"
    return choice["token_ids"][:-1] if finished else choice["token_ids"], finished


def read_chat(answer: Any) -> Written:
    """What a model wrote as the assistant; where the server counts no tokens, bytes are counted.

    Servers send the content as a text, as a list of parts, or as nothing where only thoughts were written, or where the
    model refuses and says so elsewhere. Thoughts are part of it, or stand in a field of their own.
    """
    choice = answer["choices"][0]
    message = choice["message"]
    content = _text(message.get("content")) or _text(message.get("refusal"))
    apart = _text(message.get("reasoning_content") or message.get("reasoning")).strip()
    text = without_thoughts(content)
    usage = answer.get("usage") or {}
    count = usage.get("completion_tokens")
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
    finished = choice.get("finish_reason") not in CUT_OFF
    completion = Completion(text, len(text.encode()) if count is None else int(count), finished)
    return Written(
        completion,
        ended_thoughts(f"<think>\n{apart}" if apart else content),
        None if thought is None else int(thought),
        None if (read := usage.get("prompt_tokens")) is None else int(read),
    )


def _text(content: Any) -> str:
    """The text of a content: a string, parts of one, or nothing."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list):
        return "".join(map(_text, content))
    if isinstance(content, dict):  # thoughts, images and the like have no text
        return _text(content.get("text", content.get("value")))
    raise ValueError(f"the content {content!r} is no text")


def _as_taken(
    turns: Sequence[dict[str, str]], sampling: dict[str, object], lessons: frozenset[str]
) -> dict[str, object]:
    """A question as a server takes it of which these lessons were learned."""
    left_out = {*lessons, *(BEGUN if "continue_final_message" in lessons else ())}
    fields = {name: value for name, value in sampling.items() if name not in left_out}
    if "max_tokens" in lessons:
        fields["max_completion_tokens"] = sampling["max_tokens"]
    if "system" in lessons and turns[0]["role"] == "system":
        head = "\n\n".join(turn["content"] for turn in turns[:2])
        turns = [{**turns[1], "content": head}, *turns[2:]]
    return {"messages": list(turns), **fields}


def _lesson(response: Response, turns: Sequence[dict[str, str]], known: frozenset[str]) -> str | None:
    """What a refusal tells of the server's ways that is not known yet."""
    if response.status not in (400, 422):
        return None
    said = response.body.decode(errors="replace")
    if _NOT_TAKEN.search(said):
        for name in ("max_tokens", "temperature", "seed", "continue_final_message"):
            if name not in known and re.search(rf"\b{name}\b", said):
                return name
    if (
        "system" not in known
        and turns[0]["role"] == "system"
        and re.search(r"\b(system|roles?)\b", said, re.IGNORECASE)
    ):
        return "system"
    return None
