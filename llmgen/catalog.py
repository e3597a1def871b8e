"""Catalog: the items that can be recommended, immutable, by id and by position."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import cached_property
from pathlib import Path

from llmgen.errors import CatalogError, DataError, UnknownItemError
from llmgen.types import Attribute, Item


class Catalog(Sequence[Item]):
    """Items in a fixed order; an item's position is its index in every array that llmgen makes.

    Args:
        items: At least one; ids unique and not empty, titles not blank.
        noun: What one item is called in a prompt, singular: film, product, song, article.
        label: How an item is written in prompts and answers, a format string over `title` and the attributes, those
            with several values with commas. An item that lacks an attribute of it is written by its title alone.
        shown: Attributes that prompts may show beside a title, in this order. Anything else stays out of prompts.

    Raises:
        CatalogError: No items, an id twice, an empty id, a blank title.

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
    ) -> None:
        self._items = tuple(items)
        self._begins: tuple[Item, ...] = ()  # the items of the catalog that this one grew from
        self.noun = noun
        self.label_format = label
        self.shown = tuple(shown)
        if not self._items:
            raise CatalogError("a catalog needs at least one item, and this one has none")
        self._index: dict[str, int] = {}
        for position, item in enumerate(self._items):
            if not item.id:
                raise CatalogError(f"item {position} ({item.title!r}) has an empty id; give it one")
            if not item.title.strip():
                raise CatalogError(f"item {item.id!r} has a blank title; give it one or leave it out")
            if item.id in self._index:
                raise CatalogError(f"id {item.id!r} stands twice, at items {self._index[item.id]} and {position}")
            self._index[item.id] = position
        self._labels = tuple(self._spell(item) for item in self._items)

    def __getitem__(self, key: int | str) -> Item:  # type: ignore[override]
        """The item at a position, or with an id."""
        return self._items[self.index(key) if isinstance(key, str) else key]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __contains__(self, key: object) -> bool:
        """Whether an id, or an item with that id, is in the catalog."""
        return (key.id if isinstance(key, Item) else key) in self._index

    def index(self, key: str | Item) -> int:  # type: ignore[override]
        """Position of an id or an item.

        Raises:
            UnknownItemError: It is not in the catalog.
        """
        item_id = key.id if isinstance(key, Item) else key
        try:
            return self._index[item_id]
        except KeyError:
            example = ", ".join(repr(item.id) for item in self._items[:3])
            raise UnknownItemError(
                f"no item has the id {item_id!r}; this catalog of {len(self)} has ids such as {example}"
            ) from None

    def positions(self, items: Iterable[Item]) -> list[int]:
        """Positions of items in their order, without those that are not in the catalog."""
        known = self._index
        return [known[item.id] for item in items if item.id in known]

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, in order."""
        return tuple(self._index)

    @property
    def labels(self) -> tuple[str, ...]:
        """How each item is written in prompts and answers, in order; not necessarily unique."""
        return self._labels

    def label(self, item: Item) -> str:
        """How one item is written in prompts and answers."""
        position = self._index.get(item.id)
        return self._spell(item) if position is None else self._labels[position]

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
        if self._index.keys().isdisjoint(changed):
            return self._followed_by(self._like(changed.values()))
        kept = [changed.pop(item.id, item) for item in self]
        return self._like([*kept, *changed.values()])

    def begins_with(self, other: Catalog) -> bool:
        """Whether the items of another catalog stand first in this one, the very same and written alike."""
        return (
            (self.noun, self.label_format, self.shown) == (other.noun, other.label_format, other.shown)
            and len(self) >= len(other)
            and (self._begins is other._items or self._items[: len(other)] == other._items)
        )

    def without(self, ids: Iterable[str]) -> Catalog:
        """The same catalog without some items.

        Raises:
            UnknownItemError: An id is not in the catalog.
            CatalogError: No item would be left.
        """
        removed = {self.index(item_id) for item_id in ids}
        if len(removed) == len(self):
            raise CatalogError(f"a catalog needs at least one item, and this removes all {len(self)}")
        return self._like([item for position, item in enumerate(self) if position not in removed])

    def labelled(self, label: str) -> Catalog:
        """The same items, written in another way; see `label` of the class."""
        return Catalog(self, noun=self.noun, label=label, shown=self.shown)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides what is recommended and how it is written, 16 hex digits."""
        return self._sha256.hexdigest()[:16]

    def save(self, path: Path | str) -> None:
        """Write one JSON line of settings, then one a item; a file that is there is replaced whole or not at all."""
        path = Path(path)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            part.write_text(self._dump(), encoding="utf-8", newline="\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def from_jsonl(cls, path: Path | str, **settings: object) -> Catalog:
        """Read what `save` wrote, or plain lines of `{"id": ..., "title": ..., any attributes}`.

        Args:
            path: The file, UTF-8.
            settings: `noun`, `label`, `shown`: used instead of the file's own.

        Raises:
            DataError: A line is not such an object; the message names file and line.
            CatalogError: See the class.
        """
        path = Path(path)
        stored: dict[str, object] = {}
        items = []
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error.msg})") from None
            if number == 1 and isinstance(record, dict) and record.keys() == {"noun", "label", "shown"}:
                stored = record
            else:
                items.append(_item(record, path, number))
        return cls(items, **{**stored, **settings})  # type: ignore[arg-type]

    def _like(self, items: Iterable[Item]) -> Catalog:
        return Catalog(items, noun=self.noun, label=self.label_format, shown=self.shown)

    def _followed_by(self, more: Catalog) -> Catalog:
        """With the items of another catalog of the same settings, none of whose ids is known here."""
        made = copy(self)  # what was checked and written once is not again: this must not take long
        made._items, made._begins = self._items + more._items, self._items
        made._labels = self._labels + more._labels
        made._index = self._index.copy()
        made._index.update((item_id, len(self) + position) for position, item_id in enumerate(more._index))
        if "_sha256" in self.__dict__:
            made._sha256 = self._sha256.copy()
            made._sha256.update("".join(_lines(more)).encode())
        return made

    @cached_property
    def _sha256(self) -> hashlib._Hash:
        return hashlib.sha256(self._dump().encode())

    def _spell(self, item: Item) -> str:
        # several values of one attribute are written with commas between them
        shown = {name: ", ".join(map(str, v)) if isinstance(v, tuple) else v for name, v in item.attributes.items()}
        try:
            return self.label_format.format(title=item.title, **shown).strip()
        except KeyError:
            return item.title.strip()

    def _dump(self) -> str:
        settings = {"noun": self.noun, "label": self.label_format, "shown": list(self.shown)}
        return "".join((json.dumps(settings, ensure_ascii=False) + "\n", *_lines(self)))


def _lines(items: Iterable[Item]) -> Iterator[str]:
    for item in items:
        yield json.dumps({"id": item.id, "title": item.title, **item.attributes}, ensure_ascii=False) + "\n"


def _item(record: object, path: Path, number: int) -> Item:
    where = f"{path}, line {number}"
    if not isinstance(record, dict):
        raise DataError(f"{where}: wanted an object with id and title, not {record!r}")
    for name in ("id", "title"):
        if not isinstance(record.get(name), str):
            raise DataError(f"{where}: {name!r} must be a string, not {record.get(name)!r}")
    attributes: dict[str, Attribute] = {}
    for name, value in record.items():
        if name in ("id", "title") or value is None:
            continue
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            attributes[name] = tuple(value)
        elif isinstance(value, str | int | float | bool):
            attributes[name] = value
        else:
            raise DataError(f"{where}: {name!r} must be a string, a number, a boolean or a list of strings")
    return Item(record["id"], record["title"], attributes)
