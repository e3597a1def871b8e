"""Rates: how many requests a second each client may make."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

KNOWN = 10_000
"""Clients that are remembered; one that is forgotten begins anew."""


class Rates:
    """A token bucket a client: requests of one second may come at once, and then as many a second as are allowed.

    Args:
        per_second: Requests of one client, above 0; less than 1 is one request in so many seconds.
        clock: Seconds, never falling.
    """

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def wait_s(self, client: Hashable) -> float:
        """0 for a request that may be answered, and is counted; else the seconds until one may."""
        now = self._clock()
        left, at = self._buckets.pop(client, (self._most, now))
        left = min(self._most, left + (now - at) * self._per_second)
        allowed = left >= 1
        self._buckets[client] = left - 1 if allowed else left, now
        if len(self._buckets) > KNOWN:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_second
