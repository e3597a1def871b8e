"""Options of `llmgen recommend` on what a list may hold: what is left out, weighed more or less, or not repeated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from llmgen.errors import ConfigError
from llmgen.workspace.options import pair

if TYPE_CHECKING:
    from llmgen.diversity import Diversity
    from llmgen.types import Answer, Query


@dataclass(frozen=True)
class ListOptions:
    """What a list may hold.

    Attributes:
        exclude: Ids that are left out.
        boosts: See `llmgen.Query`.
        diversity: See `llmgen.Query`.
        page: Which page of `k` items, 1 for the first.
    """

    exclude: tuple[str, ...]
    boosts: dict[str, dict[str, float]]
    diversity: Diversity | None
    page: int

    def answer(self, query: Query, recommend: Callable[[Query], Answer]) -> Answer:
        """The answer to a query with all of it.

        Raises:
            SearchError: No item is left for that page.
        """
        query = replace(query, exclude=self.exclude, boosts=self.boosts, diversity=self.diversity)
        for _ in range(self.page - 1):
            query = query.after(recommend(query))
        return recommend(query)


def list_options(
    exclude: Annotated[list[str] | None, typer.Option(help="Item id to leave out. Repeatable.")] = None,
    boost: Annotated[
        list[str] | None,
        typer.Option(help="attribute=value:factor multiplies the weight of such items; 0 removes them. Repeatable."),
    ] = None,
    diverse_by: Annotated[str | None, typer.Option(help="Attribute whose values should differ within a list.")] = None,
    most: Annotated[
        int | None, typer.Option(min=1, help="At most so many items of a list have the same value of --diverse-by.")
    ] = None,
    penalty: Annotated[
        float,
        typer.Option(
            min=0,
            help="Subtracted from the score of an item as far as it shares values of --diverse-by with one above it.",
        ),
    ] = 0.0,
    page: Annotated[int, typer.Option(min=1, help="Page of the list; no item is on two pages.")] = 1,
) -> ListOptions:
    """What a list may hold.

    Raises:
        ConfigError: A boost that is none, or `most` or `penalty` without `diverse_by`.
    """
    from llmgen.diversity import Diversity

    boosts: dict[str, dict[str, float]] = {}
    for words in boost or []:
        name, rest = pair(words, "--boost", "attribute=value:factor")
        value, _, factor = rest.rpartition(":")
        try:
            boosts.setdefault(name, {})[value] = float(factor)
        except ValueError:
            value = ""
        if not value:
            raise ConfigError(f"--boost {words}: write attribute=value:factor, such as genres=Drama:2")
    if diverse_by is None and (most is not None or penalty):
        raise ConfigError("--most and --penalty need --diverse-by, the attribute that they are about")
    diversity = None if diverse_by is None else Diversity(diverse_by, most, penalty)
    return ListOptions(tuple(exclude or ()), boosts, diversity, page)
