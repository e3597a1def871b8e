"""Whom and what the page can ask about: users of a log, items by their words, attributes to filter on."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, islice
from typing import Any, NamedTuple

import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.datasets.splits import History, histories, leave_one_out
from llmgen.types import Item

MOST_VALUES = 60
"""Words of an attribute that are offered for filters."""
LOOKED_AT = 20_000
"""Items that are looked at for them."""


class Person(NamedTuple):
    """A user of the log.

    Attributes:
        history: What the user took before the last item.
        held_out: Id of the last item; None for users with fewer than three items, all of which are known.
    """

    history: History
    held_out: str | None


@dataclass(frozen=True, eq=False)
class People:
    """The users of a log, without the last item of each: a leave-one-out split, ties in the order of the file.

    Attributes:
        known: The data with the log that may be learned from.
        persons: User id -> what is known; sorted by id, numbers in it by value.
    """

    known: Dataset
    persons: Mapping[str, Person]

    @classmethod
    def of(cls, data: Dataset) -> People:
        """From a data set; nobody where it has no log."""
        if data.interactions.is_empty():
            return cls(data, {})
        split = leave_one_out(data.interactions)
        past = histories(split.train, split.validation, catalog=data.catalog)
        last = dict(split.test.select("user_id", "item_id").iter_rows())
        users = sorted(past, key=_natural)
        known = pl.concat([split.train, split.validation])
        persons = {user: Person(past[user], last.get(user)) for user in users}
        return cls(replace(data, interactions=known), persons)

    @cached_property
    def able(self) -> list[str]:
        """Those who have a held-out item."""
        return [user for user, person in self.persons.items() if person.held_out is not None]

    def search(self, text: str, limit: int = 20) -> list[str]:
        """Users whose id begins with a text, then those whose id holds it."""
        wanted = text.strip().casefold()
        folded = [(user, user.casefold()) for user in self.persons]
        first = [user for user, key in folded if key.startswith(wanted)]
        if len(first) < limit:
            first += [user for user, key in folded if wanted in key and not key.startswith(wanted)]
        return first[:limit]

    def following(self, user: str | None, count: int) -> list[str]:
        """The next users who have a held-out item, from the first on behind the last."""
        start = self.able.index(user) + 1 if user in self.able else 0
        number = len(self.able)
        return [self.able[(start + step) % number] for step in range(min(count, number))]


def _natural(text: str) -> list[tuple[int, str]]:
    """So that u2 stands before u10: its parts, numbers by their length first."""
    return [(len(part), part) if part.isdigit() else (0, part) for part in re.split(r"(\d+)", text)]


class Finder:
    """Items by the beginnings of the words of their titles, as one types.

    Args:
        catalog: Where they are looked for.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._labels = [" ".join(label.casefold().split()) for label in catalog.labels]
        self._text = "".join(f"{label}\n" for label in self._labels)  # one text: a million titles in milliseconds
        self._starts = [0, *accumulate(len(label) + 1 for label in self._labels)]

    def find(self, text: str, limit: int = 12) -> list[Item]:
        """The items with a word that begins so, for each word of the text; those whose title begins so first."""
        words = text.casefold().split()
        if not words:
            return []
        begins = [re.compile(rf"(?<!\w){re.escape(word)}") for word in sorted(words, key=len, reverse=True)]
        found: dict[int, None] = {}
        for match in begins[0].finditer(self._text):
            place = bisect_right(self._starts, match.start()) - 1
            if place not in found and all(begin.search(self._labels[place]) for begin in begins[1:]):
                found[place] = None
                if len(found) == LOOKED_AT:
                    break
        whole = " ".join(words)
        labels = self._labels
        best = sorted(found, key=lambda place: (not labels[place].startswith(whole), len(labels[place]), place))
        return [self.catalog[place] for place in best[:limit]]


def filterable(catalog: Catalog) -> dict[str, dict[str, Any]]:
    """Attribute -> what a filter on it can be: `low` and `high` of numbers, or the most frequent `values` of words."""
    words: dict[str, Counter[str]] = {}
    numbers: dict[str, list[float]] = {}
    for item in islice(catalog, LOOKED_AT):
        for name, value in item.attributes.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                numbers.setdefault(name, []).append(value)
            else:
                several = value if isinstance(value, tuple) else (str(value),)
                words.setdefault(name, Counter()).update(several)
    found: dict[str, dict[str, Any]] = {
        name: {"low": min(values), "high": max(values)} for name, values in numbers.items()
    }
    for name, counts in words.items():
        found.setdefault(name, {})["values"] = [word for word, _ in counts.most_common(MOST_VALUES)]
    return dict(sorted(found.items()))
