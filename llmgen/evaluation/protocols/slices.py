"""Slices of a sample: users by the length of their history, and by popularity, time and attributes of what is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llmgen.catalog.core import Catalog
from llmgen.evaluation.protocols.sample import Sample
from llmgen.types import FloatArray

GROUPS = 3
"""Of users, by the length of their histories, the popularity of the held-out item and the time."""
NAMES = {2: ("early", "late"), 3: ("early", "middle", "late")}
GENRES = 8
"""Attribute values that have a slice: the most frequent ones among the held-out items."""


class Slice(NamedTuple):
    """Rows of a sample that have something in common.

    Attributes:
        by: What the rows are divided by, such as `history length`.
        value: What they have in common, such as `1 to 5 items`.
        rows: Their numbers in the sample, rising.
    """

    by: str
    value: str
    rows: list[int]


def slices(sample: Sample) -> Iterator[Slice]:
    """All slices of a sample; those with fewer than two rows are left out."""
    yield from by_history_length(sample)
    yield from by_popularity(sample)
    yield from by_time(sample)
    yield from by_attribute(sample)


def by_history_length(sample: Sample) -> Iterator[Slice]:
    """Thirds by the number of items in the history."""
    return _ranges("history length", "items", [len(query.history) for query in sample.queries])


def by_popularity(sample: Sample) -> Iterator[Slice]:
    """Thirds by how often the target was taken in what is known."""
    counts = Counter(sample.known["item_id"].to_list())
    return _ranges("popularity of the held-out item", "times taken", [counts[item] for item in sample.targets])


def by_time(sample: Sample) -> Iterator[Slice]:
    """Thirds by the time of the target."""
    thirds = list(_thirds(np.array(sample.times)))
    for name, (_, _, rows) in zip(NAMES.get(len(thirds), ()), thirds, strict=False):
        yield Slice("time of the held-out item", name, rows)


def by_attribute(sample: Sample) -> Iterator[Slice]:
    """One a value of an attribute that targets share, such as a genre."""
    values = shared_values(sample.catalog)
    of_targets = [values[item] for item in sample.targets]
    common = Counter(value for one in of_targets for value in one).most_common(GENRES)
    for value, _ in sorted(common):
        rows = [number for number, one in enumerate(of_targets) if value in one]
        if len(rows) > 1:
            yield Slice("attribute of the held-out item", value, rows)


def shared_values(catalog: Catalog) -> dict[str, frozenset[str]]:
    """What items can have in common: item id -> values of its attributes that are lists or words, such as genres.

    Words that nearly every item has its own of, such as a description, do not count: an attribute of words counts where
    half of the items that have it share it with others.
    """
    words: dict[str, Counter[str]] = {}
    for item in catalog:
        for name, value in item.attributes.items():
            if isinstance(value, str):
                words.setdefault(name, Counter())[value] += 1
    shared = {
        name
        for name, counts in words.items()
        if 2 * sum(count for count in counts.values() if count > 1) >= counts.total()
    }
    found = {}
    for item in catalog:
        own: set[str] = set()
        for name, value in item.attributes.items():
            if isinstance(value, tuple):
                own.update(value)
            elif isinstance(value, str) and name in shared:
                own.add(value)
        found[item.id] = frozenset(own)
    return found


def _ranges(by: str, unit: str, numbers: Sequence[int]) -> Iterator[Slice]:
    for low, high, rows in _thirds(np.array(numbers)):
        yield Slice(by, f"{low:.0f} to {high:.0f} {unit}" if low < high else f"{low:.0f} {unit}", rows)


def _thirds(numbers: FloatArray) -> Iterator[tuple[float, float, list[int]]]:
    """Groups of nearly equal size, equal numbers never divided: smallest and largest of each, and its rows."""
    edges = np.unique(np.quantile(numbers, np.arange(1, GROUPS) / GROUPS, method="lower"))
    group = np.searchsorted(edges, numbers, side="left")
    groups = [rows for number in range(len(edges) + 1) if len(rows := np.flatnonzero(group == number)) > 1]
    for rows in groups if len(groups) > 1 else ():
        yield float(numbers[rows].min()), float(numbers[rows].max()), rows.tolist()
