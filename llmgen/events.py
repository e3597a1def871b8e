"""Event: one user did something with one item."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from typing import NamedTuple

from llmgen.errors import ArgumentError
from llmgen.types import has_half

LONGEST_ID = 512
LONGEST_KIND = 64
INTERACTION = "interaction"
EARLIEST_S, LATEST_S = -1e11, 1e11  # some 3,000 years around 1970; more is milliseconds or a mistake


@dataclass(frozen=True, slots=True)
class Event:
    """One user did something with one item.

    Attributes:
        id: The caller's own id of the event. An event whose id is known already is not stored again: what was sent
            twice counts once.
        user: Id of the user.
        item: Id of the item. A store takes events of items that it does not hold (yet).
        kind: What was done, such as `view`, `buy` or `rating`.
        value: A number that belongs to it, such as the rating; None where there is none.
        time: When, in seconds since 1970 UTC; None for when it is stored.

    Raises:
        ArgumentError: An id or the kind is no text, is empty, too long, or has control characters; a number is not
            finite, or the time cannot be in seconds.
    """

    id: str
    user: str
    item: str
    kind: str = INTERACTION
    value: float | None = None
    time: float | None = None

    def __post_init__(self) -> None:
        check_id("id", self.id)
        check_id("user", self.user)
        check_id("item", self.item)
        check_id("kind", self.kind, LONGEST_KIND)
        for name, number in (("value", self.value), ("time", self.time)):
            if number is not None and not (isinstance(number, int | float) and math.isfinite(number)):
                raise ArgumentError(f"{name} of the event {self.id!r} is a finite number, not {number!r}")
        if self.time is not None and not EARLIEST_S < self.time < LATEST_S:
            raise ArgumentError(
                f"time of the event {self.id!r} is in seconds since 1970, and {self.time!r} is not; divide "
                "milliseconds by 1000"
            )


class Interaction(NamedTuple):
    """What a fit reads of an event.

    Attributes:
        user: Id, or pseudonym.
        item: Id; the catalog may lack it.
        time: When, in seconds since 1970; orders the events of a user.
    """

    user: str
    item: str
    time: float


def check_id(name: str, text: object, longest: int = LONGEST_ID) -> None:
    """Refuse what cannot be an id in a database, a URL and a line of a file.

    Raises:
        ArgumentError: It is no text, is empty, too long, or has control characters or half a character.
    """
    if not isinstance(text, str) or not text:
        raise ArgumentError(f"{name} of an event is text that is not empty, not {text!r}")
    if len(text) > longest:
        raise ArgumentError(f"{name} of an event has at most {longest} characters, and {text[:40]!r}… has {len(text)}")
    if has_half(text) or (not text.isprintable() and any(unicodedata.category(sign) == "Cc" for sign in text)):
        raise ArgumentError(f"{name} of an event, {text!r}, has control characters or half a character; take them out")


def can_be_id(text: str) -> bool:
    """Whether an event could have this id of a user or an item; who asks for another one asks for nobody."""
    try:
        check_id("id", text)
    except ArgumentError:
        return False
    return True
