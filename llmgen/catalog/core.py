"""Catalog: the items that can be recommended, immutable, by id and by position.

More than 400 lines: the catalog, its file and the rules of what an item may be belong together, as each checks the
others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from operator import attrgetter, is_
from pathlib import Path
from typing import Any, Protocol, overload
from weakref import ref

import numpy as np

from llmgen.catalog.lineage import GROWING, Change, Lineage
from llmgen.errors import ArgumentError, CatalogError, DataError, UnknownItemError
from llmgen.text.normalization import plain
from llmgen.types import Attribute, IntArray, Item, Query, has_half

logger = logging.getLogger(__name__)

LONGEST_LABEL = 500
"""Characters of an item in prompts and answers; a context of 1,024 tokens holds it."""
SPELLING = 2
"""To be raised where items are written in another way than before: tries in the cache go by it."""


def read_json(text: str) -> Any:
    """The value that a JSON text writes, in which no object has two values of one name.

    Raises:
        json.JSONDecodeError: It is not JSON.
        TwiceError: A name stands twice in one object; JSON readers take the last one, and nobody is told.
    """
    return json.loads(text, object_pairs_hook=_object)


class TwiceError(ValueError):
    """A name stands twice in one JSON object."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise TwiceError(f"{twice!r} stands twice in one object")
    return made


class Identifier(Protocol):
    """How a model reads and writes items, where it is not by their labels; see `llmgen.identifiers`."""

    @property
    def kind(self) -> str:
        """What it is, for people and records: words, codes."""

    @property
    def digest(self) -> str:
        """16 hex digits that change whenever `spell` would."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Tokens that a model's tokenizer must have for it; none where it is spelled in plain words."""

    def spell(self, items: Sequence[Item], labels: Sequence[str]) -> list[str]:
        """How each item is spelled, not blank; of one item and label always the same, whatever stands beside it."""


class Catalog(Sequence[Item]):
    """Items in a fixed order; an item's position is its index in every array that llmgen makes.

    Args:
        items: At least one; ids unique and not empty, titles not blank. Their texts are cleaned, see `clean_item`.
        noun: What one item is called in a prompt, singular: film, product, song, article.
        label: How an item is written in prompts and answers, a format string over `title` and the attributes, those
            with several values with commas. An item that lacks an attribute of it is written by its title alone. What
            is longer than `LONGEST_LABEL` characters, such as a description in the place of a title, is cut behind a
            word and ends in a mark, eight digits of its own SHA-256: items that begin alike are written apart.
        shown: Attributes that prompts may show beside a title, in this order, cut to as many characters together.
            Anything else stays out of prompts.
        identifier: How the model reads and writes items: in prompts, training targets and answers. People read labels
            all the same. None, the default, for labels here too.

    Raises:
        CatalogError: No items, an id twice, an empty id, a blank title, half a character in a setting.
        ArgumentError: A label that is no format string.

    >>> films = Catalog([Item("1", "Alien", {"year": 1979})], noun="film", label="{title} ({year})")
    >>> films.label(films["1"])
    'Alien (1979)'
    """

    def __init__(
        self,
        items: Iterable[Item],
        *,
        noun: str = "item",
        label: str = "{title}",
        shown: Sequence[str] = (),
        identifier: Identifier | None = None,
    ) -> None:
        for name, text in (("noun", noun), ("label", label), *(("shown", one) for one in shown)):
            if has_half(text):
                raise CatalogError(f"{name} of the catalog has half a character, {text!r}; take it out")
        self.noun = noun
        self.label_format = label
        self.shown = tuple(shown)
        self.identifier = identifier
        self._shelf = Lineage([], [], {}, [])
        self._came: Change | None = None
        cleaned = 0
        for position, given in enumerate(items):
            item = clean_item(given)
            cleaned += item is not given
            if not item.id:
                raise CatalogError(f"item {position} ({item.title!r}) has an empty id; give it one")
            if not item.title.strip():
                raise CatalogError(f"item {item.id!r} has a blank title; give it one or leave it out")
            known = self._shelf.index.setdefault(item.id, position)
            if known != position:
                raise CatalogError(f"id {item.id!r} stands twice, at items {known} and {position}")
            self._shelf.items.append(item)
        self._shelf.spellings.extend(self._spelled(self._shelf.items))
        self._length = len(self._shelf.items)
        if not self._length:
            raise CatalogError("a catalog needs at least one item, and this one has none")
        if cleaned:
            logger.info("HTML entities, control characters or odd spaces in %d of %d items", cleaned, self._length)

    @overload
    def __getitem__(self, key: int | str) -> Item: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, key: int | str | slice) -> Item | tuple[Item, ...]:
        """The item at a position, or with an id; several of a slice of positions."""
        place = self.index(key) if isinstance(key, str) else range(self._length)[key]
        if isinstance(place, range):
            return tuple(self._shelf.items[position] for position in place)
        return self._shelf.items[place]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        return islice(self._shelf.items, self._length)

    def __contains__(self, key: object) -> bool:
        """Whether an id, or an item with that id, is in the catalog."""
        item_id = key.id if isinstance(key, Item) else key
        return isinstance(item_id, str) and self._position(item_id) is not None

    def index(self, key: str | Item) -> int:  # type: ignore[override]
        """Position of an id or an item.

        Raises:
            UnknownItemError: It is not in the catalog.
        """
        item_id = key.id if isinstance(key, Item) else key
        position = self._position(item_id)
        if position is None:
            example = ", ".join(repr(item.id) for item in islice(self, 3))
            raise UnknownItemError(
                f"no item has the id {item_id!r}; this catalog of {len(self)} has ids such as {example}"
            )
        return position

    def positions(self, items: Iterable[Item | str]) -> list[int]:
        """Positions of items or ids in their order, without those that are not in the catalog."""
        positions = (self._position(item if isinstance(item, str) else item.id) for item in items)
        return [position for position in positions if position is not None]

    def resolved(self, query: Query) -> Query:
        """A query with items of this catalog in the place of the ids in its history.

        Raises:
            UnknownItemError: An id is not in the catalog.
        """
        if all(isinstance(taken, Item) for taken in query.history):
            return query
        return replace(query, history=[self[taken] if isinstance(taken, str) else taken for taken in query.history])

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """All ids, in order."""
        return tuple(map(attrgetter("id"), self))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """How people read each item, in order; not necessarily unique."""
        return self.spellings if self.identifier is None else tuple(map(self.label, self))

    def label(self, item: Item) -> str:
        """How people read one item."""
        position = self._position(item.id)
        if position is None or self.identifier is not None:
            return label_of(item if position is None else self._shelf.items[position], self.label_format)
        return self._shelf.spellings[position]

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """How the model reads and writes each item, in order; not necessarily unique."""
        return tuple(islice(self._shelf.spellings, self._length))

    def spelling(self, item: Item) -> str:
        """How the model reads and writes one item: in prompts, training targets and answers, and in the trie."""
        position = self._position(item.id)
        return self._spelled([item])[0] if position is None else self._shelf.spellings[position]

    def with_items(self, items: Iterable[Item]) -> Catalog:
        """The same catalog with these items: one with a known id takes that item's place, others come at the end.

        Raises:
            CatalogError: See the class; an id twice among `items`.
        """
        changed: dict[str, Item] = {}
        for item in items:
            if item.id in changed:
                raise CatalogError(f"id {item.id!r} stands twice among the items to put; give it once")
            changed[item.id] = item
        if not changed:
            return self
        if all(self._position(item_id) is None for item_id in changed):
            return self._followed_by(self.like(changed.values()))
        more = self.like(changed.values())._shelf
        shelf = self._shelf.beginning(self._length)
        same = np.append(np.arange(self._length), np.full(len(more.items), -1))
        before, end = same.copy(), self._length
        for item, spelling in zip(more.items, more.spellings, strict=True):
            position = shelf.position(item.id)
            if position is None:
                position, end = end, end + 1
                shelf.take_in([item.id], position)
            elif (
                shelf.items[position] != item or shelf.spellings[position] != spelling
            ):  # 1 and True are equal, and read apart
                same[position] = -1
            shelf.items[position : position + 1] = [item]  # at the end where it is new
            shelf.spellings[position : position + 1] = [spelling]
            if position < len(shelf.lines):
                shelf.lines[position] = _line(item).encode()
                shelf.forget_states(position)
        return self._changed(shelf, before[:end], same[:end])

    def begins_with(self, other: Catalog) -> bool:
        """Whether the items of another catalog stand first in this one, the very same and written alike."""
        if self._came is not None and self._came.of() is other:
            return bool(np.array_equal(self._came.same[: len(other)], np.arange(len(other))))
        return (
            self.settings == other.settings
            and len(self) >= len(other)
            and (self._shelf is other._shelf or all(a is b or a == b for a, b in zip(self, other, strict=False)))
        )

    def without(self, ids: Iterable[str]) -> Catalog:
        """The same catalog without some items.

        Raises:
            UnknownItemError: An id is not in the catalog.
            CatalogError: No item would be left.
        """
        removed = {self.index(item_id) for item_id in ids}
        if not removed:
            return self
        if len(removed) == len(self):
            raise CatalogError(f"a catalog needs at least one item, and this removes all {len(self)}")
        keep = np.ones(self._length, bool)
        keep[list(removed)] = False
        before = np.flatnonzero(keep)
        return self._changed(self._shelf.chosen(keep), before, before)

    def positions_before(self, other: Catalog) -> IntArray:
        """Positions in another catalog, int64 [n_items], of the ids of this one; -1 where it lacks one."""
        if self._came is not None and self._came.of() is other:
            return self._came.before
        found = other._shelf.positions(self.ids)
        found[found >= len(other)] = -1  # what another catalog has put on the same shelf
        return found

    def unchanged_since(self, other: Catalog, before: IntArray | None = None) -> IntArray:
        """Positions in another catalog, int64 [n_items], of the items of this one that are the very same; else -1.

        Args:
            other: Costs little where this catalog was made of it by `with_items` or `without`.
            before: What `positions_before` gives, where it is known already.
        """
        if self._came is not None and self._came.of() is other:
            return self._came.same
        before = self.positions_before(other) if before is None else before
        places = np.flatnonzero(before >= 0)
        there = list(map(other._shelf.items.__getitem__, before[places].tolist()))
        here = list(map(self._shelf.items.__getitem__, places.tolist()))
        same = np.full(len(before), -1)
        same[places] = before[places]
        for place in np.flatnonzero(~np.fromiter(map(is_, there, here), bool, len(places))).tolist():
            if there[place] != here[place]:
                same[places[place]] = -1
        return same

    def labelled(self, label: str) -> Catalog:
        """The same items, written in another way; see `label` of the class."""
        return Catalog(self, noun=self.noun, label=label, shown=self.shown, identifier=self.identifier)

    def identified(self, identifier: Identifier | None) -> Catalog:
        """The same items, spelled in another way; see `identifier` of the class."""
        if digest_of(identifier) == digest_of(self.identifier):
            return self
        return Catalog(self, noun=self.noun, label=self.label_format, shown=self.shown, identifier=identifier)

    @property
    def hides_titles(self) -> bool:
        """Whether the model reads codes in the place of titles."""
        return self.identifier is not None and bool(self.identifier.tokens)

    def like(self, items: Iterable[Item]) -> Catalog:
        """Other items, written and spelled as these are."""
        return Catalog(items, noun=self.noun, label=self.label_format, shown=self.shown, identifier=self.identifier)

    @property
    def settings(self) -> dict[str, object]:
        """How items are written and spelled, as the first line of the file that `save` writes."""
        settings: dict[str, object] = {"noun": self.noun, "label": self.label_format, "shown": list(self.shown)}
        if self.identifier is not None:
            settings["identifier"] = self.identifier.digest
        return settings

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what is recommended and how it is written, 16 hex digits."""
        return self._sha256.hexdigest()[:16]

    def save(self, path: Path | str) -> None:
        """Write one JSON line of settings, then one a item; a file that is there is replaced whole or not at all."""
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_bytes(b"".join((self._first_line(), *self._lines())))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def from_jsonl(cls, path: Path | str, **settings: object) -> Catalog:
        """Read what `save` wrote, or plain lines of `{"id": ..., "title": ..., any attributes}`.

        Attributes may stand in an object of their own, `{"id": ..., "title": ..., "attributes": {...}}`; one that is
        called `id` or `title` must.

        Args:
            path: The file, UTF-8.
            settings: `noun`, `label`, `shown`: used instead of the file's own. `identifier`: that of the catalog which
                was saved, where it had one; the file holds its digest only.

        Raises:
            DataError: A line is not such an object, the message names file and line; or the identifier is another one.
            CatalogError: See the class.
        """
        path = Path(path)
        stored: dict[str, object] = {}
        items = []
        try:
            text = path.read_text(encoding="utf-8-sig")  # with or without the mark that spreadsheets write
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = read_json(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error.msg})") from None
            except TwiceError as error:
                raise DataError(f"{path}, line {number}: {error}; take one out") from None
            if (
                number == 1
                and isinstance(record, dict)
                and record.keys() - {"identifier"} == {"noun", "label", "shown"}
            ):
                stored = record
            else:
                items.append(_item(record, path, number))
        wanted = stored.pop("identifier", "")
        made = cls(items, **{**stored, **settings})  # type: ignore[arg-type]
        chosen = made.identifier is None and "identifier" in settings
        if wanted and not chosen and digest_of(made.identifier) != wanted:
            raise DataError(
                f"{path} is a catalog whose items are spelled by the identifier {wanted}, which is no part of the "
                f"file, and not by {digest_of(made.identifier) or 'titles'}; give it: from_jsonl(path, "
                "identifier=load_identifier(folder)), or identifier=None for titles; --identifier on the command line"
            )
        return made

    def _followed_by(self, more: Catalog) -> Catalog:
        """With the items of another catalog of the same settings, none of whose ids is known here."""
        with GROWING:
            shelf = self._shelf
            if len(shelf.items) > self._length:  # another catalog has grown from this one
                shelf = shelf.beginning(self._length)
            shelf.append(more._shelf)
        made = self._on(shelf)
        made._length = self._length + len(more)
        if "_sha256" in self.__dict__:
            made._sha256 = self._sha256.copy()
            made._write_lines()
            made._sha256.update(b"".join(shelf.lines[self._length : made._length]))
        return made

    def _on(self, shelf: Lineage) -> Catalog:
        """With what stands on a shelf; what was checked and written once is not again: this must not take long."""
        made = Catalog.__new__(Catalog)
        made.noun, made.label_format, made.shown = self.noun, self.label_format, self.shown
        made.identifier = self.identifier
        made._shelf, made._length, made._came = shelf, len(shelf.items), None
        return made

    def _changed(self, shelf: Lineage, before: IntArray, same: IntArray) -> Catalog:
        """With a shelf that was made of this one's; for `before` and `same` see `Change`."""
        for array in (before, same):
            array.setflags(write=False)
        made = self._on(shelf)
        made._came = Change(ref(self), before, same)
        return made

    def _position(self, item_id: str) -> int | None:
        position = self._shelf.position(item_id)
        return None if position is None or position >= self._length else position

    @cached_property
    def _sha256(self) -> hashlib._Hash:
        self._write_lines()
        return self._shelf.hashed(self._first_line(), self._length)

    def _first_line(self) -> bytes:
        return (json.dumps(self.settings, ensure_ascii=False) + "\n").encode()

    def _lines(self) -> list[bytes]:
        """The line of each item in the file that `save` writes; written once, for all catalogs of a shelf."""
        self._write_lines()
        return self._shelf.lines[: self._length]

    def _write_lines(self) -> None:
        shelf = self._shelf
        with GROWING:
            shelf.lines.extend(_line(item).encode() for item in shelf.items[len(shelf.lines) : self._length])

    def _spelled(self, items: Sequence[Item]) -> list[str]:
        labels = [label_of(item, self.label_format) for item in items]
        return labels if self.identifier is None or not items else self.identifier.spell(items, labels)


def digest_of(identifier: Identifier | None) -> str:
    """The digest of an identifier; empty for labels."""
    return "" if identifier is None else identifier.digest


def label_of(item: Item, label: str) -> str:
    """How an item is written by a format string, see `label` of `Catalog`.

    Raises:
        ArgumentError: It is no format string.
    """
    # several values of one attribute are written with commas between them
    shown = {name: _written(value) for name, value in item.attributes.items()}
    try:
        return _label(label.format(**{**shown, "title": item.title}).strip())
    except KeyError:
        return _label(item.title.strip())
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"the label {label!r} cannot write {item.title!r}: {error}; write it like {{title}} ({{year}})"
        ) from error


def clean_item(item: Item) -> Item:
    """An item as a reader sees it: what every item of a catalog has gone through, from wherever it comes.

    HTML entities in title and attributes are decoded, control characters taken out, and the words of the title stand
    one space apart. The id stays as it is. An item without any of this comes back itself.
    """
    title = " ".join(plain(item.title).text.split())
    attributes = {name: _plain(value) for name, value in item.attributes.items()}
    if title == item.title and attributes == item.attributes:
        return item
    return Item(item.id, title, attributes)


def _plain(value: Attribute) -> Attribute:
    if isinstance(value, tuple):
        return tuple(plain(part).text for part in value)
    return plain(value).text if isinstance(value, str) else value


def cut(text: str, length: int = LONGEST_LABEL) -> str:
    """A text of at most so many characters, cut behind a word where there is one in its second half."""
    if len(text) <= length:
        return text
    start = text[: length + 1]
    end = max(start.rfind(space) for space in (" ", "\n", "\t"))
    return text[: end if end > length // 2 else length].rstrip()


def _label(text: str) -> str:
    """How a text is written as a label: one that is too long is cut, and a mark tells it from others cut alike."""
    if len(text) <= LONGEST_LABEL:
        return text
    mark = f" … {hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return cut(text, LONGEST_LABEL - len(mark)) + mark


def _written(value: Attribute) -> Attribute:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value  # a year is 1979, not 1979.0


def _line(item: Item) -> str:
    record: dict[str, object] = {"id": item.id, "title": item.title}
    # side by side, as long as no attribute has the name of what stands there: that is how digests have always been
    clash = not record.keys().isdisjoint(item.attributes)
    record |= {"attributes": dict(item.attributes)} if clash else item.attributes
    return json.dumps(record, ensure_ascii=False) + "\n"


def _item(record: object, path: Path, number: int) -> Item:
    where = f"{path}, line {number}"
    if not isinstance(record, dict):
        raise DataError(f"{where}: wanted an object with id and title, not {record!r}")
    for name in ("id", "title"):
        if not isinstance(record.get(name), str):
            raise DataError(f"{where}: {name!r} must be a string, not {record.get(name)!r}")
    given = {name: value for name, value in record.items() if name not in ("id", "title")}
    if given.keys() == {"attributes"} and isinstance(given["attributes"], dict):
        given = given["attributes"]
    attributes: dict[str, Attribute] = {}
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            attributes[name] = tuple(value)
        elif isinstance(value, str | int | float | bool):
            attributes[name] = value
        else:
            raise DataError(f"{where}: {name!r} must be a string, a number, a boolean or a list of strings")
    try:
        return Item(record["id"], record["title"], attributes)
    except ArgumentError as error:
        raise DataError(f"{where}: {error}") from None
