"""What prompts are for: the tasks of this package, and those that other packages offer.

A package offers a task by an entry point of the group `llmgen.tasks` that is a `TaskKind`, with prompts for it:

    [project.entry-points."llmgen.tasks"]
    gift = "shop.tasks:GIFT"

    GIFT = TaskKind(
        "gift",
        "presents for somebody else",
        variables=("history", "wish", "k", "budget"),
        answers="recommend",
        values={"budget": lambda query: query.filters.get("price", "any price")},
        prompts=Path(__file__).parent / "prompts",
    )

A file `prompts/NAME.jinja` with `task: gift` in its front matter is then a prompt like any other: command line,
service, checks and evaluation know it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from llmgen.errors import ConfigError
from llmgen.plugins import with_offers
from llmgen.types import Query

GROUP = "llmgen.tasks"
"""Of the entry points."""
Answers = Literal["recommend", "rank", "rate", "explain"]
ALWAYS = ("noun", "nouns")
"""Variables of every task: what the catalog calls one item, and several."""
VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "history": "what the user took, oldest first",
        "wish": "the user's words, or None",
        "k": "how many items are wanted",
        "candidates": "the items to put in order",
        "item": "the one item that is asked about",
        "labels": "the possible ratings",
        "evidence": "the items of the history that speak most for the item",
        "common": "the attribute values, as text, that the item has in common with them",
    }
)
"""What llmgen itself can give to a template, beside `ALWAYS`."""
OPTIONAL: Mapping[str, object] = MappingProxyType({"wish": None, "evidence": (), "common": ()})
"""Variables that may be left out when rendering -> what they are then."""


@dataclass(frozen=True)
class TaskKind:
    """What prompts may be for.

    Attributes:
        name: In the front matter of prompt files.
        description: A few words for lists and documentation.
        variables: What its templates may use, of `VARIABLES` and of its own `values`; `ALWAYS` are there too.
        answers: The method of a recommender whose prompts they are; None where they are only to learn from.
        prompt: The prompt that is taken for `answers` where none is named; at most one task of each has one.
        text: An answer such as there might be, where answers are text; empty where they are items.
        values: Variable of its own -> what it is for a query: text, a number, None, or a sequence of them.
        prompts: Folder of the package's prompt files.
    """

    name: str
    description: str
    variables: tuple[str, ...]
    answers: Answers | None = None
    prompt: str = ""
    text: str = ""
    values: Mapping[str, Callable[[Query], object]] = field(default_factory=dict)
    prompts: Path | None = None

    def __post_init__(self) -> None:
        if known := sorted({*self.values} & {*VARIABLES, *ALWAYS, "target"}):
            raise ConfigError(f"the task {self.name!r} cannot give {known[0]!r} a value of its own; take another name")
        if unknown := sorted({*self.variables} - {*VARIABLES, *self.values}):
            raise ConfigError(
                f"the task {self.name!r} has no value for the variable {unknown[0]!r}; llmgen gives "
                f"{', '.join(VARIABLES)}, and all others stand in `values`"
            )

    @property
    def allowed(self) -> frozenset[str]:
        """All that its templates may use."""
        return frozenset({*ALWAYS, *self.variables})


OURS = (
    TaskKind("next_item", "what the user takes next", ("history", "wish", "k"), "recommend", prompt="next_item"),
    TaskKind("cold_start", "what suits a wish in words", ("wish", "k"), "recommend"),
    TaskKind("rerank", "candidates in order", ("history", "candidates", "wish", "k"), "rank", prompt="rerank"),
    TaskKind("rate", "the rating of an item", ("history", "item", "labels"), "rate", prompt="rate_list", text="1"),
    TaskKind("explain", "why an item suits the user", ("history", "item", "evidence", "common", "wish"), "explain",
             prompt="explain", text="text"),
    TaskKind("describe", "what is said of an item; only to learn from", ("item",), text="text"),
)  # fmt: skip
"""Of this package."""


@cache
def kinds() -> Mapping[str, TaskKind]:
    """Name -> the task, this package's first.

    Raises:
        ConfigError: A package offers something else, under a name that is taken, or what cannot be imported.
    """
    return with_offers(OURS, GROUP, "task", TaskKind, _check_prompt)


def _check_prompt(offered: TaskKind, package: str) -> None:
    if offered.prompt:
        raise ConfigError(
            f"the task {offered.name!r} of the package {package} wants {offered.prompt!r} as the prompt for "
            f"{offered.answers}, which has one; leave `prompt` out and name the prompt where you ask"
        )


def answers(name: str) -> Answers | None:
    """What a recommender does with the prompts of a task; None where there is no such task, or one to learn from."""
    kind = kinds().get(name)
    return None if kind is None else kind.answers


def folders() -> tuple[Path, ...]:
    """Where the prompts of other packages' tasks lie."""
    return tuple(kind.prompts for kind in kinds().values() if kind.prompts is not None)
