"""What the shop was told and what it answered: the truth that the store is held against."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.shop.http import Answer
from llmgen.catalog.core import Catalog
from llmgen.store import Event
from llmgen.types import Item

SHOWN = 5
"""Of each kind of fault, so many are told word for word."""
SECOND = 1.0
"""All services have a change of the catalog after so long."""


@dataclass
class Ledger:
    """Counts and faults.

    Attributes:
        sent: Event id -> its user and item, of all that were sent.
        acknowledged: Ids of events that a service said were stored.
        counts: Requests, retries, and whatever else is counted, by name.
        faults: Kind -> how many.
        told: Some of the faults.
        next_ms: From the acknowledgement of an event to the user's next answer.
        disturbed_ms: The same where the first try failed.
    """

    sent: dict[str, tuple[str, str]] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)
    next_ms: list[float] = field(default_factory=list)
    disturbed_ms: list[float] = field(default_factory=list)

    def fault(self, kind: str, what: str) -> None:
        """Write one down."""
        self.faults[kind] += 1
        if self.faults[kind] <= SHOWN:
            self.told.append(f"{kind}: {what}")

    def hold_against(self, stored: Sequence[Event]) -> None:
        """Compare the events of the store with those that were sent; events of before the day are not given."""
        found = Counter(one.id for one in stored)
        for event_id in self.acknowledged - found.keys():
            self.fault("lost event", event_id)
        for event_id, times in found.items():
            if times > 1:
                self.fault("doubled event", f"{event_id} {times} times")
        for one in stored:
            if self.sent.get(one.id) != (one.user, one.item):
                self.fault("event that was not sent so", repr(one))


class Versions:
    """The catalog as it changes, one change at a time, and what each of its states holds.

    Args:
        catalog: The first.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.now = catalog
        self.numbers = {catalog.digest: 0}
        self.acknowledged_at: list[float] = [0.0]
        self._first = {item.id: item.title for item in catalog}
        self._titles: dict[str, tuple[list[int], list[str | None]]] = {}

    def change(self, put: Item | None, removed: str) -> None:
        """Note a change that is about to be asked for: one item put, or one removed."""
        self.now = self.now.without([removed]) if put is None else self.now.with_items([put])
        number = len(self.acknowledged_at)
        self.acknowledged_at.append(float("inf"))
        self.numbers[self.now.digest] = number
        item_id = removed if put is None else put.id
        numbers, titles = self._titles.setdefault(item_id, ([], []))
        numbers.append(number)
        titles.append(None if put is None else put.title)

    def done(self) -> None:
        """The last change was acknowledged."""
        self.acknowledged_at[-1] = time.monotonic()

    def title(self, item_id: str, number: int) -> str | None:
        """The title of an item in a state of the catalog; None where it does not hold it."""
        numbers, titles = self._titles.get(item_id, ([], []))
        place = bisect_right(numbers, number)
        return titles[place - 1] if place else self._first.get(item_id)

    def check(self, answer: Answer, asked_at: float, ledger: Ledger) -> list[str]:
        """The ids of a list, after seeing that all its items are of the state of the catalog that it names."""
        document: dict[str, Any] = answer.read()
        items = [place["item"] for place in document["recommendations"]]
        number = self.numbers.get(answer.catalog)
        if number is None:
            ledger.fault("answer of no version", f"catalog {answer.catalog}")
        else:
            for item in items:
                if item["title"] != self.title(item["id"], number):
                    ledger.fault("answer of two versions", f"{item['title']!r} is not of version {number}")
            behind = sum(at < asked_at - SECOND for at in self.acknowledged_at[number + 1 :])
            if behind:
                ledger.counts["answers more than a second behind the catalog"] += 1
                late = asked_at - self.acknowledged_at[number + 1]
                ledger.counts["most seconds behind"] = max(ledger.counts["most seconds behind"], round(late))
        if len({item["id"] for item in items}) < len(items):
            ledger.fault("an item twice in a list", repr([item["id"] for item in items]))
        return [item["id"] for item in items]
