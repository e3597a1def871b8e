"""Events and users as JSON: one pydantic model each, shared by the service and its client."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from llmgen.events import Event
from llmgen.http.schemas import Document

MOST_EVENTS = 10_000
"""In one request, and of one user in an answer."""
Number = Annotated[float, Field(allow_inf_nan=False)]


class Body(BaseModel):
    """Frozen, and with no other fields than these."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EventBody(Body):
    """One user did something with one item; see `llmgen.store.Event`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "order-7", "user": "196", "item": "50"}]})
    id: str = Field(description="The caller's own id of the event; what is sent twice counts once.")
    user: str
    item: str
    kind: str = Field("interaction", description="What was done, such as view, buy or rating.")
    value: Number | None = Field(None, description="A number that belongs to it, such as the rating.")
    time: Number | None = Field(None, description="Seconds since 1970 UTC; when it is stored, where it is not given.")

    @staticmethod
    def dump(event: Event) -> Document:
        """From the library's own type."""
        return {name: getattr(event, name) for name in ("id", "user", "item", "kind", "value", "time")}

    def made(self) -> Event:
        """As the library's own type.

        Raises:
            ArgumentError: See `Event`.
        """
        return Event(self.id, self.user, self.item, self.kind, self.value, self.time)


class EventsBody(Body):
    """Events to store, all of them or none."""

    events: list[EventBody] = Field(min_length=1, max_length=MOST_EVENTS)


class EventsStoredBody(Body):
    """What became of the events of a request; they are durable."""

    new: int = Field(description="How many were stored.")
    known: int = Field(description="How many were stored before, by their ids.")
    unknown_items: list[str] = Field(description="Items that the new ones name and the catalog does not have.")


class UserBody(Body):
    """All that is known of a user."""

    user: str
    events: list[EventBody] = Field(description="Oldest first.")

    def made(self) -> list[Event]:
        """As the library's own type."""
        return [event.made() for event in self.events]


class ForgottenBody(Body):
    """What was forgotten of a user."""

    deleted: int = Field(description="How many events there were.")
