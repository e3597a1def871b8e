"""ChatTokenizer: a model's tokenizer and chat template, the same for every engine that runs such a model.

More than 400 lines: one class and the checks that a tokenizer and its chat template must pass.
"""

from __future__ import annotations

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from llmgen.engines import GenerationConfig
from llmgen.errors import ConfigError, EngineUnavailableError, LLMGenError
from llmgen.text.sanitize import sanitize
from llmgen.types import Completion, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

THOUGHTLESS: dict[str, Any] = {"enable_thinking": False, "thinking_budget": 0}
"""Read by the chat templates of models that can think first (Qwen3, Seed-OSS and others), ignored by all others: a
title is scored where an answer begins, and thoughts would use up the tokens of a list."""
SYSTEM, USER, ANSWER = "llmgen-system-probe", "llmgen-user-probe", "llmgen-answer-probe"
"""What is looked for in a rendered chat, to see whether a template drops a message's words."""
TODAY = datetime(2024, 7, 26)
"""What templates that ask for the date are told, which Llama's say themselves where there is no clock: a prompt is the
same every day, and so is what was read of it and what an adapter was tuned on."""
_FINAL = "<|channel|>final<|message|>"
"""Where an answer begins in harmony, the format of gpt-oss."""
_MARKS = {
    **{f"<{name}>": f"</{name}>" for name in ("think", "thinking", "thought", "reasoning", "seed:think", "mm:think")},
    "[THINK]": "[/THINK]",
    "<|begin_of_thought|>": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "◁think▷": "◁/think▷",
    "<|channel>thought": "<channel|>",
}
"""What begins thoughts -> what ends them: Qwen, DeepSeek and many others, Seed-OSS, MiniMax, Magistral, Sky-T1,
Command A, Kimi, Gemma 4."""
_OPENS = "|".join(
    (
        *map(re.escape, _MARKS),
        r"<\|channel\|>(?:analysis|commentary)[^<]*<\|message\|>",  # harmony
        r"\AHere(?:'s| is) my thought process:",  # Granite 3
    )
)
_CLOSES = "|".join(
    (
        *map(re.escape, _MARKS.values()),
        r"<\|channel\|>final[^<]*<\|message\|>",
        r"Here(?:'s| is) my response:",
    )
)
_THOUGHT = re.compile(rf"(?:{_OPENS}).*?(?:{_CLOSES})", re.DOTALL | re.IGNORECASE)
_OPENED = re.compile(rf"(?:{_OPENS}).*\Z", re.DOTALL | re.IGNORECASE)
_CLOSED = re.compile(rf"\A.*(?:{_CLOSES})", re.DOTALL | re.IGNORECASE)
_LEFT_OPEN = re.compile(rf"({'|'.join(map(re.escape, _MARKS))})\s*\Z")
_BARE_HARMONY = re.compile(r"\Aanalysis(?=\S).*?assistantfinal", re.DOTALL)
"""Harmony from a server that leaves out control tokens."""


def without_thoughts(text: str) -> str:
    r"""An answer without what a model thought before it, also where the thoughts began in the prompt or never ended.

    >>> without_thoughts("<think>Not this one: Brazil</think>\n\nSolaris")
    'Solaris'
    >>> without_thoughts("rather not Brazil</think>Solaris"), without_thoughts("<think>Brazil, or")
    ('Solaris', '')
    """
    text = _BARE_HARMONY.sub("", text)
    if not (re.search(_OPENS, text, re.IGNORECASE) or re.search(_CLOSES, text, re.IGNORECASE)):
        return text
    return _OPENED.sub("", _CLOSED.sub("", _THOUGHT.sub("", text))).strip()


def ended_thoughts(text: str) -> str:
    r"""The thoughts that a text begins with, ended, with the marks that it has; empty where none are marked.

    >>> ended_thoughts("<think>Brazil, or")
    '<think>Brazil, or\n</think>\n\n'
    >>> ended_thoughts("rather not Brazil</think>Solaris"), ended_thoughts("Solaris")
    ('<think>rather not Brazil\n</think>\n\n', '')
    """
    for begin, end in _MARKS.items():
        before, begun, rest = text.partition(begin)
        thoughts = rest if begun and not before.strip() else text if end in text else ""
        if thoughts:
            return f"{begin}{thoughts.partition(end)[0].rstrip()}\n{end}\n\n"
    return ""


NO_LINES = (
    "the model's tokenizer has no line break of its own between two lines, so a prompt cannot begin a list that goes "
    "on (`continues`): use prompts such as next_item and rate"
)
LINES = (("A", "5"), ("film", "Be"), ("9", "a"))
"""Lines whose tokens in a text tell which ones a line break has."""
SIGNS = ")]!?.…\"'»"
"""Ends of titles that many tokenizers (those of Llama 3 and Qwen) write together with a line break as one token."""

PROBE = (
    "Alien³ (1979)\n\n  l'été, straße, ﬁne NAÏVE ½ 12345.67%\t'don't' <b>—…</b> [x_y]/z@q.com #1!?\r\n"
    "七人の侍、기생충 Сталкер كفرناحوم שלום नमस्ते ไทย e\u0301 \u200b 👩‍👩‍👧🎬 𝒜 \\ ~^`|"
)
"""What tokenizers read in different ways: spaces, digits, accents, ligatures, scripts, signs, breaks."""


class Thoughts(NamedTuple):
    """How a model that can think marks its thoughts.

    Attributes:
        begin: Stands before them.
        mark: With this the model ends them.
        close: `mark` and all that stands between them and an answer.
    """

    begin: str
    mark: str
    close: str


def _thoughts(template: str) -> Thoughts | None:
    """The marks of thoughts that a chat template writes, or looks for in earlier answers."""
    analysis = "<|channel|>analysis<|message|>"
    if analysis in template:
        return Thoughts(analysis, "<|end|>", f"<|end|><|start|>assistant{_FINAL}")
    for begin, mark in _MARKS.items():
        if begin in template or mark in template:
            return Thoughts(f"{begin}\n", mark, f"\n{mark}\n\n")
    return None


class ChatTokenizer:
    """What engines ask of a tokenizer.

    Args:
        tokenizer: The model's own.
        rows: Of the model's embedding, one a token; None where the model runs elsewhere.

    Attributes:
        end: The token with which an answer ends.
        thoughts: How the model marks its thoughts; None where its chat template knows none.
        thought_ends: The token with which it ends them, where that is one token.
        control_tokens: Strings that the tokenizer reads as control tokens: special tokens, and added ones that the
            chat template writes. Other added tokens, such as item tokens that a model was tuned on, are ordinary text.
        joins: See `llmgen.engines.Joining`.
        digest: SHA-256 of vocabulary, end token, the tokens of a probe, and whether the tokenizer joins, 16 hex digits.
            Not of the tokenizer's file, which versions of transformers write in different ways for the same tokens.

    Raises:
        ConfigError: The tokenizer has no end token, or tokens that the embedding has no rows for, or its chat template
            cannot be rendered or drops what users say.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rows: int | None = None) -> None:
        self.tokenizer = tokenizer
        self._knows_system, self._closing = (False, ()) if tokenizer.chat_template is None else self._tried()
        self.end = self._end_of_turn()
        template = str(tokenizer.chat_template or "")
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
        controls = {content for content, special in added.items() if special or content in template}
        self.control_tokens = frozenset({*tokenizer.all_special_tokens, *controls})
        self.thoughts = _thoughts(template)
        marked = () if self.thoughts is None else self._ids(self.thoughts.mark)
        self.thought_ends = frozenset(marked if len(marked) == 1 else ())
        self._beginning = self._begins_with()
        self._quick = self._reads_quickly()
        self.joins, self._line_break = False, self._between_lines()
        if self._line_break is None:
            logger.warning("%s", NO_LINES)
        else:
            self.joins = not all(map(self._are_of_a_text, SIGNS))
        probe = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        more = (*sorted(added.keys() - self.control_tokens), *(("lines",) if self.joins else ()))
        known = repr((sorted(tokenizer.get_vocab().items()), probe, self.end, *more))
        self.digest = hashlib.sha256(known.encode()).hexdigest()[:16]
        if rows is not None:
            self._check_rows(rows)

    @classmethod
    def load(cls, source: str) -> ChatTokenizer:
        """The tokenizer of a folder or of a hub name.

        Raises:
            EngineUnavailableError: It cannot be loaded here, or transformers is not installed.
        """
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise EngineUnavailableError(
                f"a model's tokenizer needs transformers ({error}); install llmgen[hf], or llmgen[openai] for a server"
            ) from error
        try:
            return cls(AutoTokenizer.from_pretrained(source))
        except LLMGenError:
            raise
        except Exception as error:  # a damaged file: whatever transformers, tokenizers or jinja raise
            raise EngineUnavailableError(
                f"cannot load the tokenizer of {source!r}: {error}\nName a folder with a transformers model, or a "
                "model of the hub where that can be reached."
            ) from error

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The model's own chat template, up to where the assistant answers.

        Models whose template knows no system role, or drops its words, get them at the head of the first user message;
        models without a template get `role: content` paragraphs. Models that think first are told not to; where the
        template begins thoughts all the same, they are ended at once.

        Where the last message is the assistant's, it is the beginning of the answer: whole lines, each spelled as an
        answer would be and followed by a line break, so that it does not matter how the lines came to stand there.
        """
        if messages[-1].role == "assistant":
            return (*self.tokenize(messages[:-1]), *self.lines(messages[-1].content.split("\n")))
        chat = self._turns(messages)
        if self.tokenizer.chat_template is None:
            text = "".join(f"{turn['role'].capitalize()}: {turn['content']}\n\n" for turn in chat) + "Assistant:"
            return (*self._beginning, *self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return (*self._chat_ids(chat), *self._closing)

    def thinking(self, messages: Sequence[Message], budget: int) -> tuple[int, ...]:
        """Token ids of a chat up to where the model thinks before it answers, for so many tokens.

        Raises:
            ConfigError: The chat template knows no thoughts.
        """
        if self.thoughts is None:
            raise ConfigError(
                f"the model's chat template knows no thoughts, so think_tokens must be 0, not {budget}; "
                "or take a model that thinks"
            )
        chat = self._turns(messages[:-1] if messages[-1].role == "assistant" else messages)
        switches: dict[str, Any] = {"enable_thinking": True, "thinking": True, "thinking_budget": budget}
        begun = self._applied(chat, **switches).rstrip().endswith(self.thoughts.begin.rstrip())
        ids = self._applied(chat, tokenize=True, **switches)
        return (*ids, *(() if begun else self._behind(self.thoughts.begin)))

    def thought(self, messages: Sequence[Message], prompt: tuple[int, ...], ids: Sequence[int]) -> tuple[int, ...]:
        """The prompt of `thinking` and the thoughts that a model wrote behind it, ended, up to where its answer begins.

        Where the last message is the beginning of the answer, up to where that goes on.
        """
        assert self.thoughts is not None  # `thinking` has looked
        written = str(self.tokenizer.decode(list(ids), skip_special_tokens=False)).partition(self.thoughts.mark)[0]
        begun = self.lines(messages[-1].content.split("\n")) if messages[-1].role == "assistant" else ()
        return (*prompt, *self._behind(f"{written.rstrip()}{self.thoughts.close}"), *begun)

    def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, control tokens in it sanitized, and the end token."""
        safe = [sanitize(text, self.control_tokens) for text in texts]
        encoded = self.tokenizer(safe, add_special_tokens=False)["input_ids"] if safe else []
        return [(*ids, self.end) for ids in encoded]

    def spell_lines(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text as a line of an answer, with its line break.

        One after the other they are the tokens of a text: of the lines as they are, or, where the tokenizer puts a
        space before every text (SentencePiece: Llama 2, Mistral, Phi-3), of lines with a space before all but the
        first. So a line is spelled alike wherever it stands, and as `spell` does it, but for a last sign that the
        tokenizer writes as one token with the line break.

        Raises:
            ConfigError: This tokenizer cannot do so.
        """
        if self._line_break is None:
            raise ConfigError(NO_LINES)
        if not self.joins:
            return [(*path[:-1], *self._line_break) for path in self.spell(texts)]
        safe = [f"{sanitize(' '.join(text.splitlines()), self.control_tokens)}\n" for text in texts]
        return [tuple(ids) for ids in self.tokenizer(safe, add_special_tokens=False)["input_ids"]] if safe else []

    def lines(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Token ids of some lines of an answer, one after the other; see `spell_lines`."""
        return tuple(chain.from_iterable(self.spell_lines(texts)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of what a model wrote, without control tokens and thoughts."""
        plain, whole = (str(self.tokenizer.decode(list(ids), skip_special_tokens=skip)) for skip in (True, False))
        answer = without_thoughts(whole)  # of the whole text: what marks thoughts may be a control token
        if answer == whole:
            return plain
        for token in self.tokenizer.added_tokens_decoder.values():
            answer = answer.replace(token.content, "" if token.special else token.content)
        return answer.strip()

    def ends(self, *of_the_model: int | Sequence[int] | None) -> frozenset[int]:
        """All tokens that end an answer: the chat's own and those of a model's configurations, one or several each."""
        listed = ((ids,) if isinstance(ids, int) else ids or () for ids in of_the_model)
        return frozenset({self.end, *(token for ids in listed for token in ids)})

    def _turns(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        """Messages as a chat template takes them; the system's words with the user's where it drops them."""
        chat = [{"role": message.role, "content": message.content} for message in messages]
        if self.tokenizer.chat_template is not None and chat[0]["role"] == "system" and not self._knows_system:
            return [{"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}, *chat[2:]]
        return chat

    def _check_rows(self, rows: int) -> None:
        """Refuse an embedding without rows for what prompts and answers hold; control tokens that neither has may lack.

        Raises:
            ConfigError: A token has none.
        """
        vocabulary = self.tokenizer.get_vocab()
        text = (number for token, number in vocabulary.items() if token not in self.control_tokens)
        chat = self.tokenize([Message("system", SYSTEM), Message("user", USER)])
        last = max(self.end, *chat, *text)
        if last >= rows:
            raise ConfigError(
                f"the tokenizer has the token {self.tokenizer.convert_ids_to_tokens(last)!r} ({last}), and the model's "
                f"embedding has {rows} rows: take the model's own tokenizer, or resize the model's embedding"
            )

    def _begins_with(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text; what it puts behind one has no place in a prompt."""
        bare, whole = (list(self.tokenizer("a", add_special_tokens=add)["input_ids"]) for add in (False, True))
        before = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
        return tuple(whole[: next(before, 0)])

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _chat_ids(self, chat: list[dict[str, str]]) -> tuple[int, ...]:
        """Token ids of a rendered chat."""
        return self._quick_ids(self._applied(chat)) if self._quick else tuple(self._applied(chat, tokenize=True))

    def _quick_ids(self, text: str) -> tuple[int, ...]:
        """Token ids of a text in half the time, by tokenizers itself, which need not say where each token begins."""
        backend: Any = self.tokenizer
        (read,) = backend.backend_tokenizer.encode_batch_fast([text], add_special_tokens=False)
        return tuple(read.ids)

    def _reads_quickly(self) -> bool:
        """Whether `_quick_ids` of a rendered chat are its token ids; a tokenizer of transformers may do more."""
        if self.tokenizer.chat_template is None or not self.tokenizer.is_fast:
            return False
        chat = [{"role": "user", "content": PROBE}]
        return self._quick_ids(self._applied(chat)) == tuple(self._applied(chat, tokenize=True))

    def _behind(self, text: str) -> tuple[int, ...]:
        """Token ids of a text behind another one, where SentencePiece puts no space before it."""
        before, whole = self._ids("x"), self._ids(f"x{text}")
        return whole[len(before) :] if whole[: len(before)] == before else self._ids(text)

    def _between_lines(self) -> tuple[int, ...] | None:
        """What stands behind each line of a text whose lines are spelled as they are alone; None where none is so."""
        for space in ("", " "):
            found = set()
            for first, second in LINES:
                one, two, whole = self._ids(first), self._ids(second), self._ids(f"{first}\n{space}{second}\n")
                between = whole[len(one) + (len(whole) - len(one) - len(two)) // 2 + len(two) :]
                found.add(between if whole == (*one, *between, *two, *between) else ())
            if len(found) == 1 and "\n" in str(self.tokenizer.decode(list(between))):
                return between
        return None

    def _are_of_a_text(self, sign: str) -> bool:
        """Whether lines of which one ends with a sign have the tokens of a text."""
        first, second = f"x{sign}", "x"
        return self.lines([first, second]) in (self._ids(f"{first}\n{space}{second}\n") for space in ("", " "))

    def _end_of_turn(self) -> int:
        """The token with which an answer ends: the control token that the chat template puts behind it, else eos."""
        if self.tokenizer.chat_template is not None:
            behind = self._answered().partition(ANSWER)[2]
            for token in self.tokenizer(behind, add_special_tokens=False)["input_ids"]:
                if token in self.tokenizer.added_tokens_decoder:
                    return int(token)
        if self.tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-sequence token; set its eos_token")
        return int(self.tokenizer.eos_token_id)

    def _tried(self) -> tuple[bool, tuple[int, ...]]:
        """Whether the chat template renders a system message, and what stands between its end and an answer.

        That is what ends thoughts that it begins, or names the channel of the answer.

        Raises:
            ConfigError: It cannot be rendered, or a user's words are not in what it renders.
        """
        user = {"role": "user", "content": USER}
        try:
            alone = str(self._applied([user]))
        except Exception as error:  # templates raise whatever jinja raises; what it means is the same
            raise ConfigError(f"the model's chat template cannot be rendered: {error}; mend or replace it") from error
        if USER not in alone:
            raise ConfigError(
                "the model's chat template leaves out what the user says, perhaps since it reads lists of parts only: "
                f"it rendered {alone[-200:]!r}: give the tokenizer another chat_template"
            )
        try:
            both = str(self._applied([{"role": "system", "content": SYSTEM}, user]))
            knows = SYSTEM in both and USER in both
        except Exception as error:  # as above
            logger.debug("the chat template takes no system message: %s", error)
            knows = False
        begun = _LEFT_OPEN.search(alone)
        if begun is not None:
            text = f"{'' if alone.endswith(chr(10)) else chr(10)}{_MARKS[begun[1]]}\n\n"
        elif self._answered().startswith(alone + _FINAL):
            text = _FINAL
        else:
            return knows, ()
        return knows, self._behind(text)

    def _answered(self) -> str:
        """A chat with an answer, as it is rendered."""
        chat = [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER}]
        try:
            return str(self._applied(chat, add_generation_prompt=False))
        except Exception as error:  # as above
            raise ConfigError(
                f"the model's chat template cannot render an assistant's message: {error}; mend or replace it"
            ) from error

    def _applied(self, chat: list[dict[str, str]], **switches: Any) -> Any:
        """The chat template's text or, with `tokenize`, token ids; by default up to the answer, without thoughts."""
        settings = {"add_generation_prompt": True, "tokenize": False, "return_dict": False, **THOUGHTLESS}
        if "strftime_now" in str(self.tokenizer.chat_template):
            settings["strftime_now"] = TODAY.strftime
        return self.tokenizer.apply_chat_template(chat, **{**settings, **switches})


class Writer(ABC):
    """What engines have in common that write token ids behind prompts: texts, and thoughts before them."""

    chat_tokenizer: ChatTokenizer
    _ends: frozenset[int]

    @property
    def joins(self) -> bool:
        """See `Joining`."""
        return self.chat_tokenizer.joins

    def spell_lines(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """See `Joining`."""
        return self.chat_tokenizer.spell_lines(texts)

    @abstractmethod
    def _write(
        self, prompts: Sequence[tuple[int, ...]], config: GenerationConfig, ends: frozenset[int]
    ) -> list[tuple[list[int], bool]]:
        """What the model writes behind each prompt up to one of the tokens `ends`, and whether it came to one."""

    def generate(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[Completion]:
        """See `Engine`."""
        prompts = (
            self.think(chats, config) if config.think_tokens else [self.chat_tokenizer.tokenize(chat) for chat in chats]
        )
        written = self._write(prompts, config, self._ends)
        return [Completion(self.chat_tokenizer.decode(ids), len(ids), ended) for ids, ended in written]

    def think(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[tuple[int, ...]]:
        """See `Engine`."""
        prompts = [self.chat_tokenizer.thinking(chat, config.think_tokens) for chat in chats]
        written = self._write(prompts, config.of_thoughts, self._ends | self.chat_tokenizer.thought_ends)
        return [
            self.chat_tokenizer.thought(chat, prompt, ids)
            for chat, prompt, (ids, _) in zip(chats, prompts, written, strict=True)
        ]
