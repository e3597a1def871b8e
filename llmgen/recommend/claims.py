"""Claims: what a text says of items that its writer was not told, as far as a catalog can show it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from llmgen.catalog.core import Catalog
from llmgen.text.normalization import split_year

LONGEST = 12
"""Words; a longer title is recognised by so many at its beginning."""
SHORTEST = 4
"""Letters of a title of one word, and it must be written with a capital inside a sentence."""
VALUE_WORDS = 4
"""Attribute values of more words are descriptions, which no text repeats word for word."""

MANY = 0.25
"""Share of words with capitals above which a capital says nothing."""

_IDEOGRAMS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # each is a word of its own
_WORD = re.compile(rf"[{_IDEOGRAMS}]|[^\W_{_IDEOGRAMS}]+(?:['’][^\W\d_]+)*")
_SENTENCE = re.compile(r"(?:\A|[.!?。\n]['\"’”)]*\s*|[-*•]\s+)['\"‘“(]*\Z")
_BEGINS = re.compile(rf"(?:{_SENTENCE.pattern}|[:;]\s*['\"‘“(]*\Z)")
_DECADE = re.compile(r"(\d\d|\d{4})(?:['’]?s)")
_TAKEN = re.compile(
    r"\byou(?:['’]ve| have| had)?(?: \w+ly| also| already)? "
    r"(?:liked|enjoyed|loved|watched|saw|seen|read|played|bought|heard|rated)(?: (?-i:[a-z]+)){0,3}[\s'\"‘“(]*\Z",
    re.IGNORECASE,
)


class _Word(NamedTuple):
    text: str
    start: int
    end: int


class Claims:
    """What texts may be checked for: the titles and the shown attribute values of a catalog.

    Args:
        catalog: Whose items the texts are about. Titles are kept as hashes, 8 bytes and a set's place each.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._titles: set[int] = set()
        self._values: set[tuple[str, ...]] = set()
        for item in catalog:
            for title in {item.title, split_year(item.title).title}:
                self._titles.add(hash(tuple(word.text for word in _words(title)[:LONGEST])))
            for name in catalog.shown:
                value = item.attributes.get(name)
                for part in value if isinstance(value, tuple) else (value,):
                    if isinstance(part, str) and len(words := _folded(part)) <= VALUE_WORDS:
                        self._values.add(words)
        self._values.discard(())

    def unfounded(self, text: str, told: str, title: str = "") -> tuple[str, ...]:
        """What the text says that it was not told, as it is written there, in order, each once.

        Found are titles of the catalog, values of its shown attributes, numbers (also decades), names, and the claim
        that the user took the item itself. A name is a word with a capital inside a sentence; in a language that writes
        many words so, such as German, two of them side by side. Everything that stands in `told` is founded. Judgements
        ("a classic") cannot be checked.

        Args:
            text: To check.
            told: All that its writer was told.
            title: Of the item that the text recommends: that the user took it is a claim too.
        """
        words, known = _words(text), _Told(told)
        found = dict.fromkeys(
            text[words[start].start : words[end - 1].end] for start, end in self._claims(text, words, known)
        )
        own = split_year(title).title
        for place in re.finditer(re.escape(own), text) if own else ():
            if claim := _TAKEN.search(text[: place.start()]):
                found[text[claim.start() : place.end()]] = None
        return tuple(found)

    def _claims(self, text: str, words: Sequence[_Word], known: _Told) -> Iterator[tuple[int, int]]:
        """Places of words, from and to, that were not told."""
        start, alone = 0, not _has_many_capitals(text, words, known)
        while start < len(words):
            first, end = start, self._title_at(text, words, start) or self._value_at(words, start)
            if not end:
                first, end = _name_at(text, words, start, alone=alone)
            if end:
                if not known.has([word.text for word in words[first:end]]):
                    yield first, end
                start = end
                continue
            word = words[start].text
            if any(sign.isdigit() for sign in word) and not known.has_number(word):
                yield start, start + 1
            start += 1

    def _title_at(self, text: str, words: Sequence[_Word], start: int) -> int:
        """Where the longest title ends that begins here; 0 if none does."""
        for end in range(min(start + LONGEST, len(words)), start, -1):
            if hash(tuple(word.text for word in words[start:end])) in self._titles:
                alone = words[start]
                if end > start + 1 or (
                    len(alone.text) >= SHORTEST
                    and alone.text[0].isupper()
                    and not _SENTENCE.search(text[: alone.start])
                ):
                    return end
        return 0

    def _value_at(self, words: Sequence[_Word], start: int) -> int:
        for end in range(min(start + VALUE_WORDS, len(words)), start, -1):
            if tuple(_singular(word.text.casefold()) for word in words[start:end]) in self._values:
                return end
        return 0


class _Told:
    """What may be said."""

    def __init__(self, told: str) -> None:
        words = [word.text.casefold() for word in _words(told)]
        self._text = f" {' '.join(map(_singular, words))} "
        self._years = [word for word in words if len(word) == 4 and word.isdigit()]

    def has(self, words: Sequence[str]) -> bool:
        return f" {' '.join(_singular(word.casefold()) for word in words)} " in self._text

    def has_number(self, word: str) -> bool:
        decade = _DECADE.fullmatch(word)
        if decade is None:
            return self.has([word])
        return any(year[:3].endswith(decade[1][:-1]) for year in self._years) and decade[1].endswith("0")


def _has_many_capitals(text: str, words: Sequence[_Word], known: _Told) -> bool:
    """Whether more than a quarter of the words that were not told, inside sentences, have capitals."""
    inside = [word.text for word in words if not known.has([word.text]) and not _BEGINS.search(text[: word.start])]
    return sum(map(_is_name, inside)) > MANY * len(inside)


def _name_at(text: str, words: Sequence[_Word], start: int, *, alone: bool) -> tuple[int, int]:
    """Where a name begins and ends, if words with capitals begin here; else an end of 0.

    The first word of a sentence has a capital anyway: it counts as no part of a name. Where `alone`, one other word
    with a capital is a name, unless it is all capitals, as abbreviations are.
    """
    end = start
    while (
        end < len(words)
        and _is_name(words[end].text)
        and (end == start or text[words[end - 1].end : words[end].start] == " ")
    ):
        end += 1
    if end - start < 2:
        word = words[start].text
        name = alone and end > start and not word.isupper() and not _BEGINS.search(text[: words[start].start])
        return start, end if name else 0
    return (start + 1 if _SENTENCE.search(text[: words[start].start]) else start), end


def _stands_out(text: str, word: _Word) -> bool:
    """Whether one word is written as a title is."""
    inside = not _SENTENCE.search(text[: word.start])
    return len(word.text) >= SHORTEST and word.text[0].isupper() and inside


def _is_name(word: str) -> bool:
    return word[0].isupper() and word[1:2] not in ("'", "’") and word != "I"


def _words(text: str) -> list[_Word]:
    return [_Word(match[0], *match.span()) for match in _WORD.finditer(text)]


def _folded(text: str) -> tuple[str, ...]:
    return tuple(_singular(word.text.casefold()) for word in _words(text))


def _singular(word: str) -> str:
    """Of an English noun, roughly; both sides of each comparison go through it."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
