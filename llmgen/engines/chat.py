"""ChatTokenizer: a model's tokenizer and chat template, the same for every engine that runs such a model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmgen.defuse import defuse
from llmgen.errors import ConfigError, EngineUnavailableError
from llmgen.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


PROBE = (
    "Alien³ (1979)\n\n  l'été, straße, ﬁne NAÏVE ½ 12345.67%\t'don't' <b>—…</b> [x_y]/z@q.com #1!?\r\n"
    "七人の侍、기생충 Сталкер كفرناحوم שלום नमस्ते ไทย e\u0301 \u200b 👩‍👩‍👧🎬 𝒜 \\ ~^`|"
)
"""What tokenizers read in different ways: spaces, digits, accents, ligatures, scripts, signs, breaks."""


class ChatTokenizer:
    """What engines ask of a tokenizer.

    Args:
        tokenizer: The model's own.

    Attributes:
        end: The token with which an answer ends.
        control_tokens: Strings that the tokenizer reads as control tokens: special tokens, and added ones that the
            chat template writes. Other added tokens, such as item tokens that a model was tuned on, are ordinary text.
        digest: SHA-256 of vocabulary, end token and the tokens of a probe, 16 hex digits. Not of the tokenizer's file,
            which versions of transformers write in different ways for the same tokens.

    Raises:
        ConfigError: The tokenizer has no end token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.end = self._end_of_turn()
        template = str(tokenizer.chat_template or "")
        added = {token.content: token.special for token in tokenizer.added_tokens_decoder.values()}
        controls = {content for content, special in added.items() if special or content in template}
        self.control_tokens = frozenset({*tokenizer.all_special_tokens, *controls})
        probe = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
        ordinary = sorted(added.keys() - self.control_tokens)
        known = repr((sorted(tokenizer.get_vocab().items()), probe, self.end, *ordinary))
        self.digest = hashlib.sha256(known.encode()).hexdigest()[:16]
        self._beginning = self._begins_with()
        self._line_break = tuple(tokenizer("\n", add_special_tokens=False)["input_ids"])
        self._knows_system = tokenizer.chat_template is not None and self._takes_system_message()

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
        except (OSError, ValueError) as error:
            raise EngineUnavailableError(
                f"cannot load the tokenizer of {source!r}: {error}\nName a folder with a transformers model, or a "
                "model of the hub where that can be reached."
            ) from error

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The model's own chat template, up to where the assistant answers.

        Models whose template knows no system role get its words at the head of the first user message; models without
        a template get `role: content` paragraphs.

        Where the last message is the assistant's, it is the beginning of the answer: whole lines, each spelled as an
        answer would be and followed by a line break, so that it does not matter how the lines came to stand there.
        """
        if messages[-1].role == "assistant":
            return (*self.tokenize(messages[:-1]), *self.lines(messages[-1].content.split("\n")))
        chat = [{"role": message.role, "content": message.content} for message in messages]
        if self.tokenizer.chat_template is None:
            text = "".join(f"{turn['role'].capitalize()}: {turn['content']}\n\n" for turn in chat) + "Assistant:"
            return (*self._beginning, *self.tokenizer(text, add_special_tokens=False)["input_ids"])
        if chat[0]["role"] == "system" and not self._knows_system:
            chat = [{"role": "user", "content": f"{chat[0]['content']}\n\n{chat[1]['content']}"}, *chat[2:]]
        ids = self.tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
        return tuple(ids)

    def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Token ids of each text, control tokens in it defused, and the end token."""
        safe = [defuse(text, self.control_tokens) for text in texts]
        encoded = self.tokenizer(safe, add_special_tokens=False)["input_ids"] if safe else []
        return [(*ids, self.end) for ids in encoded]

    def lines(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Token ids of some lines of an answer, one after the other, each with its line break."""
        return tuple(token for path in self.spell(texts) for token in (*path[:-1], *self._line_break))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of what a model wrote, without control tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def ends(self, *of_the_model: int | Sequence[int] | None) -> frozenset[int]:
        """All tokens that end an answer: the chat's own and those of a model's configurations, one or several each."""
        listed = ((ids,) if isinstance(ids, int) else ids or () for ids in of_the_model)
        return frozenset({self.end, *(token for ids in listed for token in ids)})

    def _begins_with(self) -> tuple[int, ...]:
        """What the tokenizer itself puts before a text; what it puts behind one has no place in a prompt."""
        bare, whole = (list(self.tokenizer("a", add_special_tokens=add)["input_ids"]) for add in (False, True))
        before = (place for place in range(len(whole)) if whole[place : place + len(bare)] == bare)
        return tuple(whole[: next(before, 0)])

    def _end_of_turn(self) -> int:
        """The token with which an answer ends: the control token that the chat template puts behind it, else eos."""
        if self.tokenizer.chat_template is not None:
            mark = "answer"
            chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": mark}]
            behind = str(self.tokenizer.apply_chat_template(chat, tokenize=False)).rpartition(mark)[2]
            for token in self.tokenizer(behind, add_special_tokens=False)["input_ids"]:
                if token in self.tokenizer.added_tokens_decoder:
                    return int(token)
        if self.tokenizer.eos_token_id is None:
            raise ConfigError("the tokenizer has no end-of-sequence token; set its eos_token")
        return int(self.tokenizer.eos_token_id)

    def _takes_system_message(self) -> bool:
        chat = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
        try:
            self.tokenizer.apply_chat_template(chat, tokenize=False)
        except Exception as error:  # templates raise whatever jinja raises; what it means is the same
            logger.debug("the chat template takes no system message: %s", error)
            return False
        return True
