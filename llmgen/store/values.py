"""What a store gives back: changes of items and events, and what was stored."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from llmgen.catalog.core import Catalog
from llmgen.events import Interaction
from llmgen.types import Item


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """What happened to the items since a change.

    Attributes:
        put: Items that are new or have changed, in the order of the catalog.
        removed: Ids of items that are there no more, or that were and came back: they stand in `put` then, and their
            place is at the end.
        version: Number of the last change that is in here.
    """

    put: tuple[Item, ...]
    removed: tuple[str, ...]
    version: int

    def apply(self, catalog: Catalog) -> Catalog:
        """A catalog as it was at the earlier change -> as it is at this one."""
        ids: Container[object] = catalog
        known = [item_id for item_id in self.removed if item_id in ids]
        if len(known) == len(catalog):  # a catalog is never empty, not even for a moment
            return catalog.like(self.put)
        if known:
            catalog = catalog.without(known)
        return catalog.with_items(self.put)


@dataclass(frozen=True, slots=True)
class Added:
    """What became of some events.

    Attributes:
        new: How many were stored.
        known: How many had the id of an event that is stored already, or of an earlier one among them.
        unknown_items: Items that the new ones name and the store does not hold.
        version: Number of the last change of the events.
    """

    new: int
    known: int
    unknown_items: frozenset[str]
    version: int


@dataclass(frozen=True, slots=True)
class EventChanges:
    """What happened to the events since a change.

    Attributes:
        new: Events since then, in the order in which they were stored; users by their pseudonyms, where there are such.
        whole: Whether `new` has all events there are, since earlier ones are gone: a user was forgotten.
        version: Number of the last change that is in here.
    """

    new: tuple[Interaction, ...]
    whole: bool
    version: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """How much a store holds.

    Attributes:
        items: Items of the catalog.
        events: Events of each kind.
        users: Users with an event.
        first: Time of the earliest event, seconds since 1970; None where there is none.
        last: Of the latest one.
    """

    items: int
    events: Mapping[str, int]
    users: int
    first: float | None
    last: float | None
