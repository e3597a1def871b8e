"""Items, events and the settings of a catalog as rows of a database, and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import Row

from llmgen.catalog.core import Catalog
from llmgen.errors import CatalogError
from llmgen.events import Event
from llmgen.types import Attribute, Item, has_half

Work = TypeVar("Work")

PIECE = 1_000
"""Ids in one statement; SQLite takes some 32,000."""


def pieces(work: Sequence[Work]) -> Iterator[Sequence[Work]]:
    """As many as one statement takes, one after the other."""
    for start in range(0, len(work), PIECE):
        yield work[start : start + PIECE]


def can_hold(item_id: str) -> bool:
    """Whether both databases take an id, and can be asked for it."""
    return "\0" not in item_id and not has_half(item_id)


def check_held(given: Sequence[Item]) -> None:
    """Refuse items that cannot be in a catalog, or that have an id that a database does not take.

    Raises:
        CatalogError: There is one.
    """
    if given:
        Catalog(given)
    for item in given:
        if not can_hold(item.id):
            raise CatalogError(f"the id {item.id!r} of an item has the character 0, which no store takes; leave it out")


def attributes_of(item: Item) -> str:
    """The attributes of an item as JSON; several words become a list."""
    return json.dumps(dict(item.attributes), ensure_ascii=False)


def item_row(item: Item) -> dict[str, Any]:
    """Columns of an item."""
    return {"id": item.id, "title": item.title, "attributes": attributes_of(item)}


def item_of(row: Row[Any]) -> Item:
    """The item of a row."""
    read: dict[str, Attribute | list[str]] = json.loads(row.attributes)
    return Item(row.id, row.title, {name: tuple(v) if isinstance(v, list) else v for name, v in read.items()})


def event_row(event: Event, user: str, now: float) -> dict[str, Any]:
    """Columns of an event of a user, who has this id or pseudonym."""
    return {
        "id": event.id,
        "user_id": user,
        "item_id": event.item,
        "kind": event.kind,
        "value": event.value,
        "time": now if event.time is None else event.time,
    }


def settings_rows(catalog: Catalog) -> dict[str, str]:
    """How a catalog writes its items: name -> JSON."""
    values = {"noun": catalog.noun, "label": catalog.label_format, "shown": list(catalog.shown)}
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


DEFAULTS: Mapping[str, str] = settings_rows(Catalog([Item("1", "-")]))
"""Of a store that no catalog was imported into."""


def catalog_of(items: Sequence[Item], settings: Mapping[str, str]) -> Catalog:
    """The catalog of items, written as the settings say."""
    return Catalog(items, **{name: json.loads(settings[name]) for name in ("noun", "label", "shown")})
