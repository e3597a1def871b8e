"""Users: what a user that a request names has taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from llmgen.datasets.splits import History

if TYPE_CHECKING:
    from llmgen.store import Store


class Taken(NamedTuple):
    """What a user took before.

    Attributes:
        ids: Of the items, oldest first.
        ratings: One an item, in the same order; None if any of them is not known.
    """

    ids: Sequence[str]
    ratings: Sequence[float] | None


class Users(Protocol):
    """Where histories are looked up; called from any thread."""

    def taken(self, user: str, most: int) -> Taken:
        """The latest items of a user, at most so many; none for a user who is not known."""
        ...


class UsersOfLog:
    """Those of a log that was read at the start.

    Args:
        histories: User id -> what the user took.
    """

    def __init__(self, histories: Mapping[str, History]) -> None:
        self._histories = histories

    def taken(self, user: str, most: int) -> Taken:
        """See `Users`."""
        found = self._histories.get(user)
        if found is None:
            return Taken((), None)
        return Taken([item.id for item in found.items[-most:]], found.ratings and found.ratings[-most:])


class UsersOfStore:
    """Those of a store, as it is now.

    Args:
        store: With their events.
        kinds: Only events of these kinds; all where none is named.
    """

    def __init__(self, store: Store, kinds: Sequence[str] = ()) -> None:
        self._store, self._kinds = store, kinds

    def taken(self, user: str, most: int) -> Taken:
        """See `Users`."""
        events = self._store.history(user, most=most, kinds=self._kinds)
        values = [event.value for event in events if event.value is not None]
        return Taken([event.item for event in events], values if events and len(values) == len(events) else None)
