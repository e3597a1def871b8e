"""Recent: the last few values that were made, each made once, for any number of threads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Keeps the values that were asked for last.

    Args:
        most: How many are kept, 1 or more.

    >>> squares = Recent(most=2)
    >>> [squares.get(number, lambda: number * number) for number in (3, 4, 3, 5)], len(squares)
    ([9, 16, 9, 25], 2)
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key, the very same object as long as it is kept; made where it is not there.

        While one is made, other threads wait, so that none is made twice.

        Args:
            key: What decides the value.
            make: Makes it; may not ask this object. What it raises is raised, and nothing is kept.
        """
        with self._lock:
            if key not in self._kept:
                self._kept[key] = make()
                if len(self._kept) > self._most:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return self._kept[key]
