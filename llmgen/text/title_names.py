"""Names, years and numbers that titles hold, and the lines of a completion that may be titles."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from llmgen.text.normalization import TitleYear, normalise_text, split_key, split_year
from llmgen.types import Item

MAX_CHARACTERS = 500  # of a line; the longest of 9,742 MovieLens titles has 158


MAX_LINES = 1_000


_ROMAN = {"ii": "2", "iii": "3", "iv": "4", "v": "5", "vi": "6", "vii": "7", "viii": "8", "ix": "9"}


_PARENTHESES = re.compile(r"^(.*\S)\s*\(([^()]+)\)$")


_ALSO_KNOWN_AS = re.compile(r"^a\.?k\.?a\.?\s+", re.I)


_DIGITS = re.compile(r"\d+")


_TITLE_KEYS = ("title", "name", "label", "item", "film", "movie", "product", "song", "book", "标题", "名称")


_YEAR = re.compile(r"(?:1[89]|20)\d\d")


_RULE = re.compile(r"^\s*(?:```\w*|[-=*_~#]{2,}|\|(?:\s*:?-+:?\s*\|)+)\s*$")


class Names(NamedTuple):
    """Normalised names of an item: those that are surely its own, and those that are if nobody else's."""

    own: tuple[str, ...]
    others: tuple[str, ...]


def names_of(item: Item) -> Names:
    """The names that an item's title holds.

    >>> names_of(Item("11", "Seven (Se7en) (1995)"))
    Names(own=('seven se7en',), others=('seven', 'se7en'))
    """
    title = split_year(item.title, bare=False).title
    parts = _PARENTHESES.match(title)
    others = (parts.group(1), _ALSO_KNOWN_AS.sub("", parts.group(2))) if parts else ()
    return Names(
        (normalise_text(title),), tuple(dict.fromkeys(name for part in others if (name := normalise_text(part))))
    )


class Called(NamedTuple):
    """What an item is called, as far as that can be said without looking at other items.

    Attributes:
        spellings: Exactly so.
        own: Normalised names of its own, the title's first; see `Names`.
        others: See `Names`.
        year: Of the item, where it has one.
    """

    spellings: tuple[str, ...]
    own: tuple[str, ...]
    others: tuple[str, ...]
    year: int | None


def called(item: Item, label: str, spelling: str | None = None) -> Called:
    """What an item is called.

    Args:
        item: Of a catalog.
        label: How people read it.
        spelling: How the model spells it, where that is another thing than the label.
    """
    names = names_of(item)
    spelled = () if spelling is None else (spelling.strip(),)
    normal = () if spelling is None else (normalise_text(spelling),)
    own = (*names.own, normalise_text(split_year(label, bare=False).title), *normal)
    exact = (*(spelled or (label.strip(),)), label, item.title.strip())
    return Called(tuple(dict.fromkeys(exact)), tuple(dict.fromkeys(own)), names.others, year_of(item))


def owners_of(all_called: Sequence[Called]) -> dict[str, list[int]]:
    """Name -> positions of the items that go by it, those whose own name it is first."""
    own: dict[str, list[int]] = {}
    others: dict[str, list[int]] = {}
    for position, one in enumerate(all_called):
        for name in one.own:
            own.setdefault(name, []).append(position)
        for name in one.others:
            others.setdefault(name, []).append(position)
    own.pop("", None)
    for name, positions in others.items():
        if name in own:
            own[name] += [position for position in positions if position not in own[name]]
        elif len({all_called[position].own[0] for position in positions}) == 1:
            own[name] = positions  # "Shirt" of "Shirt (red)" and "Shirt (blue)" would name neither
    return own


def year_of(item: Item) -> int | None:
    """The year of an item, where it has one."""
    year = item.attributes.get("year")
    return year if isinstance(year, int) and not isinstance(year, bool) else split_year(item.title, bare=False).year


def readings_of(text: str) -> list[TitleYear]:
    """A text as title and year: as it stands, and with its last number taken for a year."""
    split = split_year(text)
    return [TitleYear(text, None)] + ([split] if split.year is not None else [])


def numbers_of(key: str) -> Counter[str]:
    """The numbers of a key, Roman ones of two letters or more and V included."""
    return Counter(
        chain.from_iterable([_ROMAN[word]] if word in _ROMAN else _DIGITS.findall(word) for word in key.split())
    )


def numbered_words(key: str) -> list[str]:
    """Words of a key with their repeats told apart, so that `New York` is not all of `New York, New York`."""
    seen: Counter[str] = Counter()
    words = []
    for word in split_key(key):
        seen[word] += 1
        words.append(word if seen[word] == 1 else f"{word} {seen[word]}")
    return words


@lru_cache(maxsize=4_096)
def letters_of(key: str) -> Counter[str]:
    """Letters and pairs of neighbouring letters of each word, its beginning and end included."""
    padded = [f" {word} " for word in key.split()]
    letters = Counter(key.replace(" ", ""))
    letters.update(word[i : i + 2] for word in padded for i in range(len(word) - 1))
    return letters


def trigrams_of(key: str) -> list[str]:
    """Groups of three letters."""
    return [padded[i : i + 3] for word in key.split() for padded in [f" {word} "] for i in range(len(padded) - 2)]


def lines_of(completion: str) -> list[str]:
    """Lines that may be titles."""
    for opening, closing in ("[]", "{}"):
        start, end = completion.find(opening), completion.rfind(closing)
        if 0 <= start < end and (listed := _listed(completion[start : end + 1])):
            return listed
    lines: list[str] = []
    for line in completion.splitlines():
        if line.strip() and not _RULE.match(line):
            lines += (_listed(line.strip().rstrip(",")) if line.lstrip().startswith("{") else []) or [line]
    return lines


def _listed(text: str) -> list[str]:
    """The titles in JSON, or none where it is no JSON, or one of something else."""
    try:
        return _titles(json.loads(text))
    except (ValueError, RecursionError):
        return []


def _titles(value: object) -> list[str]:
    """Titles in order: strings of lists, and what objects call by one of `_TITLE_KEYS`, with their year."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if isinstance(value, list):
        return [title for entry in value for title in _titles(entry)]
    if not isinstance(value, dict):
        return []
    keyed = {str(key).lower(): entry for key, entry in value.items()}
    for key in _TITLE_KEYS:
        title = keyed.get(key)
        if isinstance(title, str) and title.strip():
            year = str(keyed.get("year", ""))
            return [f"{title} ({year})" if _YEAR.fullmatch(year) and year not in title else title]
    return [title for entry in value.values() if isinstance(entry, list | dict) for title in _titles(entry)]
