"""Items as templates see them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llmgen.catalog.core import Catalog, cut
from llmgen.templates.files import (
    number,
)
from llmgen.types import Attribute, Item


@dataclass(frozen=True, slots=True)
class ItemView:
    """What a template sees of an item: never its id, and no attribute that the catalog does not show.

    Attributes:
        title: How the catalog spells the item, such as "Alien (1979)".
        details: The attributes that the catalog shows, as text, and before them what people read where codes stand in
            the title's place; empty if there are none.
        rating: The user's rating of it, or None.
    """

    title: str
    details: str = ""
    rating: float | None = None

    def __str__(self) -> str:
        return self.title


def views(
    catalog: Catalog, items: Iterable[Item], ratings: Sequence[float] | None = None, *, spelled: bool = True
) -> tuple[ItemView, ...]:
    """Items as templates see them, in the same order.

    Args:
        catalog: Says how items are spelled and which attributes may be shown.
        items: Not necessarily items of the catalog.
        ratings: One an item, or None.
        spelled: Whether titles are what the model reads and writes, see `Catalog.spelling`; otherwise what people read.

    Raises:
        ValueError: Not as many ratings as items.

    >>> films = Catalog([Item("7", "Alien", {"year": 1979, "genres": ("horror", "space")})], shown=["genres", "year"])
    >>> views(films, films)
    (ItemView(title='Alien', details='horror, space; year 1979', rating=None),)
    """
    items = tuple(items)
    if ratings is not None and len(ratings) != len(items):
        raise ValueError(f"{len(ratings)} ratings for {len(items)} items; give one an item")
    return tuple(
        ItemView(
            catalog.spelling(item) if spelled else catalog.label(item),
            _details(catalog, item, hidden=spelled and catalog.hides_titles),
            None if ratings is None else float(ratings[position]),
        )
        for position, item in enumerate(items)
    )


def plural(noun: str) -> str:
    """The simple English plural of a noun; a noun that does not end in a Latin letter stays as it is.

    >>> [plural(noun) for noun in ("film", "story", "toy", "box", "电影")]
    ['films', 'stories', 'toys', 'boxes', '电影']
    """
    if not re.search(r"[A-Za-z]\Z", noun):
        return noun
    if re.search(r"[^aeiou]y\Z", noun):
        return noun[:-1] + "ies"
    return noun + ("es" if re.search(r"(s|x|z|ch|sh)\Z", noun) else "s")


def _details(catalog: Catalog, item: Item, *, hidden: bool) -> str:
    """What is shown beside the title, with the title if it is hidden; never so much that no prompt holds the item."""
    shown = [(name.replace("_", " "), item.attributes[name]) for name in catalog.shown if name in item.attributes]
    texts = [catalog.label(item)] if hidden else []
    return cut("; ".join(text for text in (*texts, *(_detail(name, value) for name, value in shown)) if text))


def _detail(name: str, value: Attribute) -> str:
    if isinstance(value, bool):
        return name if value else ""
    if isinstance(value, int | float):
        return f"{name} {number(value) if isinstance(value, float) else value}"
    return value.strip() if isinstance(value, str) else ", ".join(value)
