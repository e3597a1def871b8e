"""What goes on in a shop: people who take things, tables that are sent in bulk, and items that come and go."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.shop.http import FAILURES, Answer, Line
from eval.shop.ledger import Ledger, Versions
from llmgen.types import Item

AGAIN_S = 0.05
"""Before a request that failed is sent again."""
TRIES = 6_000
"""Of one request; five minutes and more."""
K = 10


@dataclass(frozen=True)
class Row:
    """One event of a log.

    Attributes:
        user: Id.
        item: Id.
        kind: What was done.
        time: Seconds since 1970.
    """

    user: str
    item: str
    kind: str
    time: float


class Traffic:
    """All that is asked of some services.

    Args:
        ports: Of the services.
        versions: Of the catalog.
        ledger: Where everything is noted.
        end: In the time of `time.monotonic`.
        seed: Of all choices.
    """

    def __init__(self, ports: Sequence[int], versions: Versions, ledger: Ledger, end: float, seed: int) -> None:
        self._ports, self._versions, self._ledger, self._end, self._seed = ports, versions, ledger, end, seed

    async def person(self, number: int, users: Mapping[str, Sequence[str]], pause_s: float) -> None:
        """Look at a list, take something, look at the next list, for one user after the other.

        Half of what is taken is the first of the list, which must not be in the next one; the rest is what the log has.

        Args:
            number: Of this one; nobody else acts for the same users.
            users: Id -> items that they take, by the log.
            pause_s: Mean time between two events.
        """
        rng = random.Random(f"{self._seed} {number}")
        lines = [Line("127.0.0.1", port) for port in self._ports]
        left = {user: list(items) for user, items in users.items()}
        count = 0
        while time.monotonic() < self._end:
            user = rng.choice(list(left))
            shown, _ = await self._list(lines, rng, user)
            if not shown:
                continue
            item = left[user].pop(0) if left[user] and rng.random() < 0.5 else shown[0]
            event_id = f"person-{number}-{count}"
            count += 1
            self._ledger.sent[event_id] = (user, item)
            event = {"id": event_id, "user": user, "item": item, "kind": "buy"}
            await self._until_done(lines, rng, "POST", "/v1/events", event)
            self._ledger.acknowledged.add(event_id)
            acknowledged = time.perf_counter()
            then, tries = await self._list(lines, rng, user)
            taken = 1000 * (time.perf_counter() - acknowledged)
            (self._ledger.next_ms if tries == 1 else self._ledger.disturbed_ms).append(taken)
            self._ledger.counts["next answers"] += 1
            self._ledger.counts["next answers to what stood first"] += item == shown[0]
            if item in then:
                self._ledger.fault("next answer that does not know the event", f"{user} took {item}")
            await asyncio.sleep(rng.expovariate(1 / pause_s) if pause_s else 0)
        for line in lines:
            line.close()

    async def bulk(self, rows: Sequence[Row], at_once: int, seconds: float) -> int:
        """Send a log in lines, evenly over a time; how many events were acknowledged when the day was over."""
        rng = random.Random(f"{self._seed} bulk")
        lines = [Line("127.0.0.1", port) for port in self._ports]
        began = time.monotonic()
        for start in range(0, len(rows), at_once):
            if time.monotonic() > self._end:
                break
            events = {f"log-{number}": row for number, row in enumerate(rows[start : start + at_once], start)}
            self._ledger.sent.update((event_id, (row.user, row.item)) for event_id, row in events.items())
            body = b"\n".join(
                json.dumps({"id": i, "user": e.user, "item": e.item, "kind": e.kind, "time": e.time}).encode()
                for i, e in events.items()
            )
            await self._until_done(lines, rng, "POST", "/v1/events", body)
            self._ledger.acknowledged |= events.keys()
            self._ledger.counts["events in bulk"] += len(events)
            ahead = began + seconds * (start + at_once) / len(rows) - time.monotonic()
            await asyncio.sleep(max(0.0, ahead))
        for line in lines:
            line.close()
        return self._ledger.counts["events in bulk"]

    async def items(self, arriving: Sequence[Item], pause_s: float) -> None:
        """Put new items, take some out, let some come back, and write some titles anew; one change at a time."""
        rng = random.Random(f"{self._seed} items")
        lines = [Line("127.0.0.1", port) for port in self._ports]
        new, gone = list(arriving), list[Item]()
        while time.monotonic() < self._end:
            what = rng.random()
            some = self._versions.now[rng.randrange(len(self._versions.now))]
            if what < 0.3 and new:
                await self._put(lines, rng, new.pop())
            elif what < 0.5 and gone:
                await self._put(lines, rng, gone.pop(rng.randrange(len(gone))))
            elif what < 0.7:
                gone.append(some)
                self._versions.change(None, some.id)
                await self._until_done(lines, rng, "DELETE", f"/v1/items/{some.id}", b"", fine=(200, 404))
                self._versions.done()
            else:
                title = f"{some.title.split(' [')[0]} [{len(self._versions.acknowledged_at)}]"
                await self._put(lines, rng, Item(some.id, title, some.attributes))
            self._ledger.counts["changes of the catalog"] += 1
            await asyncio.sleep(rng.expovariate(1 / pause_s))
        for line in lines:
            line.close()

    async def _put(self, lines: Sequence[Line], rng: random.Random, item: Item) -> None:
        self._versions.change(item, item.id)
        document = {"id": item.id, "title": item.title, "attributes": dict(item.attributes)}
        await self._until_done(lines, rng, "PUT", "/v1/items", {"items": [document]})
        self._versions.done()

    async def _list(self, lines: Sequence[Line], rng: random.Random, user: str) -> tuple[list[str], int]:
        """A user's list, and at which try it came."""
        asked_at = time.monotonic()
        answer, tries = await self._until_done(lines, rng, "POST", "/v1/recommend", {"user": user, "k": K})
        return self._versions.check(answer, asked_at, self._ledger), tries

    async def _until_done(
        self,
        lines: Sequence[Line],
        rng: random.Random,
        method: str,
        path: str,
        document: Mapping[str, Any] | bytes,
        *,
        fine: Sequence[int] = (200,),
    ) -> tuple[Answer, int]:
        """Ask any of the services until one answers; what is cut off goes to another one at once, the first time.

        That is what a load balancer does.

        Returns:
            The answer, and at which try it came.
        """
        failed: Line | None = None
        for number in range(1, TRIES):
            line = rng.choice([one for one in lines if one is not failed] or lines)
            try:
                answer = await line.ask(method, path, document)
            except FAILURES:
                self._ledger.counts["requests cut off"] += 1
                first, failed = failed is None, line
                if first:
                    continue
            else:
                self._ledger.counts["requests"] += 1
                if answer.status in fine:
                    return answer, number
                if answer.status != 503:
                    self._ledger.fault(
                        "answer with an error", f"{method} {path}: {answer.status} {answer.body[:300]!r}"
                    )
                self._ledger.counts["answers 503"] += 1
                failed = None
            await asyncio.sleep(AGAIN_S)
        raise TimeoutError(f"{method} {path} was not answered at {TRIES} tries")
