"""Priors that remove items, exactly: what was seen, and what a filter does not allow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
from numpy.typing import NDArray

from llmgen.catalog.core import Catalog
from llmgen.errors import CatalogError
from llmgen.lru import Recent
from llmgen.priors.base import Saving, unchanged
from llmgen.priors.sparse import SparseRow
from llmgen.types import Attribute, FloatArray, IntArray, Item, Query

FEW = 0.05
"""A filter that allows, or removes, a smaller share of the items is a list of these, a larger one an array."""
FILTERS_KEPT = 8


@dataclass(frozen=True, eq=False)
class ExcludeSeen(Saving):
    """Removes the items of a query's own history, where the query asks for that (`exclude_seen`), and of its `exclude`.

    Items that the catalog no longer has are passed over: they cannot be recommended anyway.
    """

    catalog: Catalog
    weight: float = 1.0
    name: str = "seen"

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`: -inf for an item of the history or one that is excluded, 0 for any other."""
        log_w = np.zeros((len(queries), len(self.catalog)))
        for row, query in zip(log_w, queries, strict=True):
            row[self._out(query)] = -np.inf
        return log_w

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`."""
        out = [self._out(query) for query in queries]
        return [removing(np.unique(np.array(items, np.int64))) if items else SparseRow() for items in out]

    def _out(self, query: Query) -> list[int]:
        excluded = self.catalog.positions(query.exclude)
        return [*self.catalog.positions(query.items), *excluded] if query.exclude_seen else excluded

    def on_catalog(self, catalog: Catalog, before: IntArray) -> ExcludeSeen:
        """See `Movable`."""
        return dataclasses.replace(self, catalog=catalog)


def chosen(catalog: Catalog, items: Iterable[Item | str]) -> IntArray:
    """Positions of candidates, int64, in their order; one that stands twice counts once.

    Args:
        catalog: Where they stand.
        items: Items or their ids, at least one.

    Raises:
        UnknownItemError: A candidate is not in the catalog.
        ValueError: No candidates: that would leave nothing to recommend.
    """
    positions = np.array(list(dict.fromkeys(catalog.index(item) for item in items)), np.int64)
    if not len(positions):
        raise ValueError("no candidates were given; leave them out to choose from the whole catalog")
    return positions


def only(catalog: Catalog, items: Iterable[Item | str]) -> FloatArray:
    """Log weights that leave nothing but these candidates.

    Returns:
        float64 [n_items], 0 for a candidate and -inf for any other item.

    Raises:
        UnknownItemError, ValueError: As `chosen`.
    """
    log_w = np.full(len(catalog), -np.inf)
    log_w[chosen(catalog, items)] = 0.0
    return log_w


@dataclass(frozen=True, eq=False)
class _Values:
    """The values of one attribute: numbers by item, and the items of each word."""

    numbers: FloatArray  # [n_items], NaN where the item has no number
    words: Mapping[str, IntArray]
    spelling: Mapping[str, str]


class AttributeIndex:
    """What can be filtered on in a catalog, by attribute; read when it is first asked for.

    Args:
        catalog: The items.
        values: Where they are known already.
    """

    def __init__(self, catalog: Catalog, values: Mapping[str, _Values] | None = None) -> None:
        self.catalog = catalog
        self._values = values

    @property
    def is_read(self) -> bool:
        """Whether the catalog was read already."""
        return self._values is not None

    @property
    def values(self) -> Mapping[str, _Values]:
        """The values of each attribute."""
        if self._values is None:
            self._values = _index(self.catalog, range(len(self.catalog)))
        return self._values

    def on_catalog(self, catalog: Catalog, before: IntArray) -> AttributeIndex:
        """The same of a changed catalog, see `Movable`; of what was read, only what is new is read again."""
        if self._values is None:
            return AttributeIndex(catalog)
        if catalog.begins_with(self.catalog):
            added = _index(catalog, range(len(self.catalog), len(catalog)))
            return AttributeIndex(catalog, _joined(self._values, added, len(self.catalog), len(catalog)))
        same = unchanged(self.catalog, catalog, before)
        new = np.flatnonzero(same < 0).tolist()
        return AttributeIndex(catalog, _followed(self._values, same, _index(catalog, new), new))


@dataclass(frozen=True, eq=False)
class AttributeFilter(Saving):
    """Removes the items that do not match `Query.filters`: attribute name -> the value, or a tuple of values, allowed.

    An item stays if, for every attribute of the filter, it has at least one of the values allowed:

    - words match whole, whatever their case; an attribute that is a tuple (`genres`) matches with any of its words;
    - numbers match if equal, or inside a range written as a string, ends included: "1990..1999", "..1980", "2000..";
      the string "1999" is the number as well; text, also text that spells a number, is in no range;
    - booleans match themselves and the words "true" and "false".

    An item without the attribute does not match. Filters that no item can match are errors rather than empty answers,
    so that a wrong spelling does not look like an empty shelf; each of several values must exist, for the same reason.
    """

    catalog: Catalog
    weight: float = 1.0
    name: str = "where"
    rows: Recent[str, SparseRow] = field(default_factory=lambda: Recent(FILTERS_KEPT), repr=False)
    index: AttributeIndex | None = field(default=None, repr=False)

    @property
    def values(self) -> Mapping[str, _Values]:
        """What can be filtered on, by attribute; read when it is first asked for."""
        return self._index.values

    def prepare(self) -> None:
        """Read what can be filtered on; the first filter does it otherwise."""
        _ = self.values

    def __post_init__(self) -> None:
        if self.index is None:
            object.__setattr__(self, "index", AttributeIndex(self.catalog))

    @property
    def _index(self) -> AttributeIndex:
        assert self.index is not None  # made in __post_init__
        return self.index

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`: 0 for an item that matches, -inf for any other.

        Raises:
            CatalogError: No item has an attribute of that name, or none has a value that was asked for.
        """
        log_w = np.zeros((len(queries), len(self.catalog)))
        known: dict[tuple[str, str], NDArray[np.bool_]] = {}
        for row, query in zip(log_w, queries, strict=True):
            for attribute, wanted in query.filters.items():
                key = (attribute, repr(wanted))  # not the value itself: True == 1
                if key not in known:
                    known[key] = self.matches(attribute, wanted)
                row[~known[key]] = -np.inf
        return log_w

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`; the rows of the last filters are kept, so only a new filter looks at the whole catalog.

        Raises:
            CatalogError: As `log_weights`.
        """
        return [self._row(query.filters) if query.filters else SparseRow() for query in queries]

    def on_catalog(self, catalog: Catalog, before: IntArray) -> AttributeFilter:
        """See `Movable`."""
        index = self._index.on_catalog(catalog, before)
        return dataclasses.replace(self, catalog=catalog, rows=Recent(FILTERS_KEPT), index=index)

    def _row(self, filters: Mapping[str, Attribute]) -> SparseRow:
        key = repr(sorted((name, repr(wanted)) for name, wanted in filters.items()))
        return self.rows.get(key, lambda: self._made(filters))

    def _made(self, filters: Mapping[str, Attribute]) -> SparseRow:
        matches = np.all([self.matches(name, wanted) for name, wanted in filters.items()], axis=0)
        allowed = np.flatnonzero(matches)
        if len(allowed) < FEW * len(matches):
            return SparseRow(-np.inf, allowed, np.zeros(len(allowed)))
        if len(allowed) > (1 - FEW) * len(matches):
            return removing(np.flatnonzero(~matches))
        return SparseRow(np.where(matches, 0.0, -np.inf))

    def check(self, attribute: str) -> _Values:
        """What is known of an attribute.

        Raises:
            CatalogError: No item has one of that name.
        """
        values = self.values.get(attribute)
        if values is None:
            names = ", ".join(repr(name) for name in sorted(self.values)) or "no attributes at all"
            kept = "columns of your own table are kept by --attribute, or attributes= of load_tables"
            raise CatalogError(f"no item has an attribute {attribute!r} to filter on; there are: {names}; {kept}")
        return values

    def matches(self, attribute: str, wanted: Attribute) -> NDArray[np.bool_]:
        """Which items have one of some values of an attribute, bool [n_items].

        Raises:
            CatalogError: As `log_weights`.
        """
        values = self.check(attribute)
        allowed = wanted if isinstance(wanted, tuple | list) else (wanted,)
        if not allowed:
            raise CatalogError(f"the filter on {attribute!r} allows no value at all; leave it out to allow every one")
        matches = np.zeros(len(self.catalog), dtype=bool)
        for value in allowed:
            found = _match(values, value)
            if not found.any():
                raise CatalogError(f"no item has {attribute} = {value!r}; {_hint(attribute, values, value)}")
            matches |= found
        return matches


def _index(catalog: Catalog, positions: Sequence[int]) -> dict[str, _Values]:
    """The attributes of the items at some positions; the arrays of numbers have an element for each of these."""
    numbers: dict[str, FloatArray] = {}
    words: dict[str, dict[str, list[int]]] = {}
    spelling: dict[str, dict[str, str]] = {}
    for place, position in enumerate(positions):
        for name, value in catalog[position].attributes.items():
            if name not in numbers:
                numbers[name], words[name], spelling[name] = np.full(len(positions), np.nan), {}, {}
            if isinstance(value, int | float) and not isinstance(value, bool):
                numbers[name][place] = value
                continue
            for word in value if isinstance(value, tuple) else (str(value),):
                words[name].setdefault(_fold(word), []).append(position)
                spelling[name].setdefault(_fold(word), word)
    return {
        name: _Values(
            numbers[name], {word: np.array(at, dtype=np.int64) for word, at in words[name].items()}, spelling[name]
        )
        for name in numbers
    }


def _joined(old: Mapping[str, _Values], new: Mapping[str, _Values], start: int, end: int) -> dict[str, _Values]:
    """The attributes of the items before a position and from it on."""
    made = {}
    for name in {**old, **new}:
        first = old.get(name) or _Values(np.full(start, np.nan), {}, {})
        second = new.get(name) or _Values(np.full(end - start, np.nan), {}, {})
        words = {**first.words}
        for word, at in second.words.items():
            words[word] = np.append(words[word], at) if word in words else at
        made[name] = _Values(np.append(first.numbers, second.numbers), words, {**second.spelling, **first.spelling})
    return made


def _followed(
    old: Mapping[str, _Values], same: IntArray, new: Mapping[str, _Values], positions: Sequence[int]
) -> dict[str, _Values]:
    """The attributes in a changed catalog.

    Args:
        old: Of the catalog before.
        same: int64, of each item its position there; -1 where it is not the same.
        new: Of the items at `positions`, those that are not the same.
        positions: Where those stand.
    """
    kept = np.flatnonzero(same >= 0)
    in_order = bool((np.diff(same[kept]) > 0).all())
    made = {}
    for name in {**old, **new}:
        numbers = np.full(len(same), np.nan)
        words: dict[str, IntArray] = {}
        spelling: dict[str, str] = {}
        if (first := old.get(name)) is not None:
            numbers[kept] = first.numbers[same[kept]]
            after = np.full(len(first.numbers), -1)
            after[same[kept]] = kept
            flat = after[np.concatenate([*first.words.values(), np.zeros(0, np.int64)])]
            ends = np.append(0, (flat >= 0).cumsum())[np.cumsum([0, *map(len, first.words.values())])]
            flat = flat[flat >= 0]
            for word, start, end in zip(first.words, ends[:-1].tolist(), ends[1:].tolist(), strict=True):
                if start < end:
                    words[word] = flat[start:end] if in_order else np.sort(flat[start:end])
                    spelling[word] = first.spelling[word]
        if (second := new.get(name)) is not None:
            numbers[positions] = second.numbers
            for word, at in second.words.items():
                words[word] = np.sort(np.append(words[word], at)) if word in words else at
            spelling = {**second.spelling, **spelling}
        if words or not np.isnan(numbers).all():
            made[name] = _Values(numbers, words, spelling)
    return made


def _fold(word: str) -> str:
    return word.strip().casefold()


def _match(values: _Values, value: str | int | float | bool) -> NDArray[np.bool_]:
    found = np.zeros(len(values.numbers), dtype=bool)
    interval = _interval(value)
    if interval is not None:
        found |= (values.numbers >= interval[0]) & (values.numbers <= interval[1])  # NaN is in no interval
    found[values.words.get(_fold(str(value)), [])] = True
    return found


def _interval(value: str | int | float | bool) -> tuple[float, float] | None:
    """The numbers a value stands for, ends included, or None where it is just a word."""
    if isinstance(value, bool):
        return None
    low, dots, high = str(value).partition("..")
    try:
        if not dots:
            return float(low), float(low)
        if not low.strip() and not high.strip():
            return None
        return (float(low) if low.strip() else -np.inf), (float(high) if high.strip() else np.inf)
    except ValueError:
        return None


def _hint(attribute: str, values: _Values, value: str | int | float | bool) -> str:
    interval, no_numbers = _interval(value), bool(np.isnan(values.numbers).all())
    if interval is not None and interval[0] != interval[1] and no_numbers:
        some = ", ".join(repr(word) for word in list(values.spelling.values())[:3])
        return (
            f"{attribute!r} is text, such as {some}, and a range finds numbers only; write its cells as numbers or "
            "leave them empty ('llmgen data' names those that are not numbers)"
        )
    parts = []
    near = get_close_matches(_fold(str(value)), list(values.words), n=3, cutoff=0.6)
    if near:
        parts.append("near: " + ", ".join(repr(values.spelling[word]) for word in near))
    elif values.words:
        some = ", ".join(repr(values.spelling[word]) for word in sorted(values.words)[:10])
        parts.append(f"there are {len(values.words)} such as {some}")
    if not no_numbers:
        low, high = np.nanmin(values.numbers), np.nanmax(values.numbers)
        parts.append(f'its numbers run from {low:g} to {high:g} (ranges are written "{low:g}..{high:g}")')
    return "; ".join(parts)


def removing(items: IntArray) -> SparseRow:
    """A row that removes some items, rising, and says nothing of the others."""
    return SparseRow(0.0, items, np.full(len(items), -np.inf))
