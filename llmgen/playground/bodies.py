"""What the page asks, as JSON."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from llmgen.http.schemas import AttributeName, AttributeValue, ItemId, Number

LONGEST_TEMPLATE = 20_000
LARGEST_K = 100
MOST_ITEMS = 100
MOST_USERS = 1_000_000
NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"

Name = Annotated[str, StringConstraints(pattern=NAME)]
TemplateText = Annotated[str, StringConstraints(max_length=LONGEST_TEMPLATE)]
Words = Annotated[str, StringConstraints(max_length=10_000)]


class Asked(BaseModel):
    """The base of all."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Asked):
    """How to recommend; what A and B may differ in.

    Attributes:
        template: Name of the prompt template.
        text: Its wording, where that is not the file's.
        lm_weight: Of the model.
        priors: Name -> weight, of the priors that the service was started with; those that are not named have theirs.
        max_history: Newest items of the history in the prompt; None as the service has it.
        model: Of those that the service was started with, see `llmgen.playground.bench.Model`; None for its own.
    """

    template: Name
    text: TemplateText | None = None
    lm_weight: float | None = Field(None, ge=0, allow_inf_nan=False)
    priors: dict[str, Number] = {}
    max_history: int | None = Field(None, ge=0, le=10_000)
    model: str | None = Field(None, max_length=2_000)


class Question(Asked):
    """One question to one arm: the arm's template says what for.

    Attributes:
        arm: Who answers.
        user: Of the log; or else `history`.
        history: Ids, oldest first.
        wish: In words.
        k: Length of the list.
        filters: See `llmgen.Query`.
        include_seen: Whether items of the history may come again.
        items: To rank or to rate; the first one to explain.
    """

    arm: Arm
    user: str | None = None
    history: list[ItemId] = Field([], max_length=1_000)
    wish: Words | None = None
    k: int = Field(10, ge=1, le=LARGEST_K)
    filters: dict[AttributeName, AttributeValue] = Field({}, max_length=32)
    include_seen: bool = False
    items: list[ItemId] = Field([], max_length=MOST_ITEMS)


class Draft(Asked):
    """A template to check."""

    name: Name
    text: TemplateText


class Pictured(Asked):
    """The item whose picture is wanted."""

    id: ItemId


class Search(Asked):
    """Words to find users or items by."""

    text: Words = ""


class NextUsers(Asked):
    """The users behind one, in the order of the log's ids."""

    user: str | None = None
    count: int = Field(10, ge=1, le=100)


class Pair(Asked):
    """Two arms to save, or to compare on users of the log.

    Attributes:
        name: Of the folder that is written.
        a: The baseline.
        b: The other.
        k: Length of the lists.
        users: How many are asked at most; None for all.
    """

    name: Name
    a: Arm
    b: Arm
    k: int = Field(10, ge=1, le=LARGEST_K)
    users: int | None = Field(None, ge=2, le=MOST_USERS)
