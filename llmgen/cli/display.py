"""Answers as tables for people, in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llmgen.catalog.core import Catalog
from llmgen.text.normalization import without_controls
from llmgen.types import Answer, Explanation, Item, Message, Place, RatingPrediction, Recommendation, Recommendations

CERTIFIED = "certified: no other item scores higher"


def answer_table(catalog: Catalog, answer: Answer, *, title: str, scores: bool) -> RenderableType:
    """Ranked items; with `scores` one column a term, where items were scored. Below it, what is to be said of all."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("#", justify="right")
    table.add_column(plain_text(catalog.noun.capitalize()), overflow="fold")
    table.add_column("Probability", justify="right")
    scores = scores and isinstance(answer, Recommendations)
    names = list(answer[0].terms) if scores else []
    for name in names:
        table.add_column(name, justify="right")
    if scores:
        table.add_column("Score", justify="right")
    table.add_column("Route")
    for place in answer:
        probability, terms = "", []
        if isinstance(place, Recommendation):
            probability = f"{place.probability:.2%}"
            terms = [f"{place.terms.get(name, math.nan):+z.2f}" for name in names]
            terms += [f"{place.score:+z.2f}"] if scores else []
        method = place.grounding.method
        route = f"bm25 {place.grounding.score:.2f}" if method == "bm25" else method
        row: list[RenderableType] = [str(place.rank), plain_text(catalog.label(place.item)), probability]
        table.add_row(*row, *terms, route)
    return Group(table, plain_text(_verdict(answer), style="dim"))


def lists_table(catalog: Catalog, answers: Mapping[str, Answer]) -> RenderableType:
    """The items of several answers beside each other, a column each, by name. Below them, whether they are proven."""
    table = Table()
    table.add_column("#", justify="right")
    for name in answers:
        table.add_column(plain_text(name.capitalize()), overflow="fold")
    columns: list[Sequence[Place]] = [answer.places for answer in answers.values()]
    for rank, places in enumerate(zip_longest(*columns), 1):
        table.add_row(str(rank), *(plain_text("" if one is None else catalog.label(one.item)) for one in places))
    open_ = [name for name, answer in answers.items() if not answer.exact]
    said = f"not certified to be the exact best: {', '.join(open_)}" if open_ else CERTIFIED
    return Group(table, plain_text(said, style="dim"))


def ratings_table(
    catalog: Catalog, ratings: Sequence[RatingPrediction], truths: Sequence[float] = (), *, parts: bool = False
) -> Table:
    """Predicted ratings, with the probability of each label, and the true ratings where they are known.

    With `parts` also the mean that each factor has by itself.
    """
    table = Table(box=box.SIMPLE, padding=0)  # ten half stars fit into 80 columns, beside a title
    table.add_column(plain_text(catalog.noun.capitalize()), overflow="fold")
    table.add_column("Mean", justify="right", no_wrap=True)
    if truths:
        table.add_column("Truth", justify="right", no_wrap=True)
    names = list(ratings[0].parts) if ratings and parts else []
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for label in ratings[0].distribution if ratings else ():
        table.add_column(plain_text(label), justify="right", no_wrap=True)
    asked = any(rating.prompt for rating in ratings)
    if asked:
        table.add_column("Label mass", justify="right")
    for number, rating in enumerate(ratings):
        shares = [f"{share:.0%}" for share in rating.distribution.values()]
        truth = [f"{truths[number]:g}"] if truths else []
        title = plain_text(catalog.label(rating.item))
        table.add_row(
            title,
            f"{rating.mean:.2f}",
            *truth,
            *(f"{rating.mean_of(name):.2f}" for name in names),
            *shares,
            *(["" if math.isnan(rating.label_mass) else f"{rating.label_mass:.0%}"] if asked else []),
        )
    return table


def items_table(catalog: Catalog, items: Sequence[Item], *, title: str) -> Table:
    """Items with the attributes that the catalog shows."""
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("Id", justify="right")
    table.add_column(plain_text(catalog.noun.capitalize()), overflow="fold")
    for name in catalog.shown:
        table.add_column(plain_text(name.capitalize()), overflow="fold")
    for item in items:
        shown = [item.attributes.get(name, "") for name in catalog.shown]
        words = [", ".join(value) if isinstance(value, tuple) else str(value) for value in shown]
        table.add_row(plain_text(item.id), plain_text(catalog.label(item)), *map(plain_text, words))
    return table


def explanation_text(catalog: Catalog, explanation: Explanation) -> RenderableType:
    """A reason, the items of the history behind it, and why it is not in the model's words where it is not."""
    evidence = ", ".join(catalog.label(item) for item in explanation.evidence) or "nothing in the history"
    lines = [
        plain_text(catalog.label(explanation.item), style="bold"),
        plain_text(explanation.text),
        plain_text(f"Speaks most for it: {evidence}", style="dim"),
    ]
    if explanation.unfounded:
        said = "The model's own words are left out. It" if explanation.source == "template" else "The model"
        lines.append(plain_text(f"{said} was not told: {', '.join(explanation.unfounded)}", style="dim"))
    return Group(*lines)


def messages_text(messages: Sequence[Message]) -> RenderableType:
    """Rendered chat messages, one panel each."""
    return Group(*(Panel(plain_text(message.content), title=message.role, title_align="left") for message in messages))


def _verdict(answer: Answer) -> str:
    words = [CERTIFIED if answer.exact else "not certified to be the exact best"]
    if answer.prompt:
        rounds = f"{answer.num_rounds} model round{'' if answer.num_rounds == 1 else 's'}"
        words += [f"prompt {answer.prompt}", f"{answer.prompt_tokens} tokens", rounds]
    if answer.dropped:
        words.append(f"{len(answer.dropped)} lines dropped")
    words += answer.warnings
    return "; ".join(words)


def plain_text(text: str, style: str = "") -> Text:
    """Words from data or a model: no markup of rich, and no control characters that a terminal would obey."""
    return Text(without_controls(text), style=style)
