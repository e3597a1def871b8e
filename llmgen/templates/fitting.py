"""Prompts cut to a model's context, by whole items of the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llmgen.errors import TemplateError
from llmgen.types import Message


class Fitted(NamedTuple):
    """A prompt that fits.

    Attributes:
        messages: The rendered messages.
        num_items: How many of the newest items stand in it.
        token_ids: The same as tokens.
    """

    messages: tuple[Message, ...]
    num_items: int
    token_ids: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Its length."""
        return len(self.token_ids)


def fit(
    render: Callable[[int], Sequence[Message]],
    tokenize: Callable[[Sequence[Message]], tuple[int, ...]],
    num_items: int,
    max_tokens: int,
    *,
    block: int = 1,
) -> Fitted:
    """The prompt with as many whole items of the history as fit, the newest ones.

    Takes one rendering where everything fits, else about log2(num_items). The returned number fits and one more does
    not: both are counted, not assumed.

    Args:
        render: Messages with that many of the newest items, from 0 to `num_items`.
        tokenize: Token ids of a prompt; their number should not fall when an item is added.
        num_items: Length of the history.
        max_tokens: The longest prompt allowed.
        block: Engines that keep what they read of a prompt in whole blocks read the rest again for every path. Of the
            lengths of the history down to three quarters of what fits, the one with the smallest rest is taken, the
            longest of equal ones.

    Raises:
        TemplateError: The prompt is too long even without any item.
        ValueError: `num_items` is negative.
    """
    if num_items < 0:
        raise ValueError(f"num_items is the length of a history and cannot be {num_items}")

    def attempt(number: int) -> Fitted:
        messages = tuple(render(number))
        return Fitted(messages, number, tokenize(messages))

    best = _longest(attempt, num_items, max_tokens)
    fewest = best.num_items - best.num_items // 4
    for fewer in range(best.num_items - 1, fewest - 1, -1) if block > 1 else ():
        if best.num_tokens % block == 0:
            break
        shorter = attempt(fewer)
        if shorter.num_tokens % block < best.num_tokens % block:
            best = shorter
    return best


def _longest(attempt: Callable[[int], Fitted], num_items: int, max_tokens: int) -> Fitted:
    best = attempt(num_items)
    if best.num_tokens <= max_tokens:
        return best
    too_many = num_items
    if num_items > 0:
        best = attempt(0)
    if best.num_tokens > max_tokens:
        raise TemplateError(
            f"the prompt has {best.num_tokens} tokens without any item of the history, and only {max_tokens} are "
            "allowed; use a shorter prompt or wish, or allow more"
        )
    while too_many - best.num_items > 1:
        middle = attempt((best.num_items + too_many) // 2)
        if middle.num_tokens <= max_tokens:
            best = middle
        else:
            too_many = middle.num_items
    return best
