"""Titles damaged on purpose, the way language models damage them: for calibration, evaluation and tests."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable
from typing import Literal, get_args

from llmgen.text.normalization import split_year

Kind = Literal["typo", "article", "year", "case", "accent", "truncated", "word order", "extra words"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_VOWELS = {"a": "áàâä", "e": "éèêë", "i": "íìîï", "o": "óòôö", "u": "úùûü"}
_ARTICLE = re.compile(r"^(the|a|an)\s+(?=\S)", re.I)
_TRAILING = re.compile(r",\s+(the|a|an)$", re.I)
_BEFORE = ("the new", "the original", "the complete", "the official", "my")
_AFTER = (
    "special edition",
    "(remastered)",
    "- director's cut",
    "the movie",
    "(film)",
    "collection",
    "deluxe",
    "in English",
    "- highly recommended",
    "box set",
)


def corrupt(title: str, kind: Kind, rng: random.Random) -> str:
    """A title with one kind of damage; the same title where that kind does not apply to it.

    Args:
        title: With or without a year at its end. The year is kept, except by `year` and `truncated`.
        kind: What happens to it:

            * `typo`: a letter swapped, dropped, doubled or replaced; two of them from 13 characters on.
            * `article`: an English article dropped or moved to the end; put in front where there is none.
            * `year`: the year dropped, written differently, or off by one.
            * `case`: all upper, all lower, or every letter at random.
            * `accent`: accents stripped; put on one or two vowels where there are none.
            * `truncated`: the end cut off, as by a token limit: the year and up to 40 % of the title.
            * `word order`: two words swapped, or the part after a colon, comma or dash put first.
            * `extra words`: one of a few phrases in front or behind.
        rng: Decides everything.

    Raises:
        ValueError: An unknown kind.

    >>> corrupt("The Matrix (1999)", "article", random.Random(0))
    'Matrix, The (1999)'
    """
    if kind not in _DAMAGES:
        raise ValueError(f"no damage is called {kind!r}; there are {', '.join(KINDS)}")
    if kind == "year":
        return _year(title, rng)
    name, _ = split_year(title)
    tail = title.strip()[len(name) :]
    return _DAMAGES[kind](name, rng) + ("" if kind == "truncated" else tail)


def _typo(name: str, rng: random.Random) -> str:
    characters = list(name)
    for _ in range(2 if len(name) > 12 else 1):
        places = [i for i, c in enumerate(characters) if c.isalpha()]
        if len(places) < 3:
            break
        place = rng.choice(places)
        action = rng.randrange(4)
        if action == 0 and place + 1 < len(characters):
            characters[place : place + 2] = reversed(characters[place : place + 2])
        elif action == 1:
            del characters[place]
        elif action == 2:
            characters.insert(place, characters[place].lower())
        else:
            characters[place] = rng.choice(_LETTERS)
    return "".join(characters)


def _article(name: str, rng: random.Random) -> str:
    found = _TRAILING.search(name)
    if found:
        return rng.choice((name[: found.start()], f"{found.group(1)} {name[: found.start()]}"))
    found = _ARTICLE.match(name)
    if found:
        rest = name[found.end() :]
        return rng.choice((rest, f"{rest}, {found.group(1)}"))
    return f"The {name}"


def _year(title: str, rng: random.Random) -> str:
    name, year = split_year(title)
    if year is None:
        return title
    return rng.choice(
        (name, f"{name} {year}", f"{name}, {year}", f"{name} [{year}]", f"{name} ({year + rng.choice((-1, 1))})")
    )


def _case(name: str, rng: random.Random) -> str:
    spell = rng.choice((str.upper, str.lower, lambda text: "".join(rng.choice((c.upper(), c.lower())) for c in text)))
    return str(spell(name))


def _accent(name: str, rng: random.Random) -> str:
    decomposed = unicodedata.normalize("NFD", name)
    stripped = "".join(c for c in decomposed if not unicodedata.combining(c))
    if stripped != decomposed:
        return unicodedata.normalize("NFC", stripped)
    characters = list(name)
    places = [i for i, c in enumerate(characters) if c in _VOWELS]
    for place in rng.sample(places, k=min(len(places), rng.randint(1, 2))):
        characters[place] = rng.choice(_VOWELS[characters[place]])
    return "".join(characters)


def _truncated(name: str, rng: random.Random) -> str:
    return name[: max(3, round(len(name) * rng.uniform(0.6, 0.95)))].rstrip()


def _word_order(name: str, rng: random.Random) -> str:
    parts = [part for part in re.split(r"\s*[:,]\s+|\s+-\s+", name) if part]
    if len(parts) > 1 and rng.random() < 0.5:
        return ": ".join([*parts[1:], parts[0]])
    words = name.split()
    if len(words) < 2:
        return name
    i, j = rng.sample(range(len(words)), k=2)
    words[i], words[j] = words[j], words[i]
    return " ".join(words)


def _extra_words(name: str, rng: random.Random) -> str:
    return f"{rng.choice(_BEFORE)} {name}" if rng.random() < 1 / 3 else f"{name} {rng.choice(_AFTER)}"


_DAMAGES: dict[Kind, Callable[[str, random.Random], str]] = {
    "typo": _typo,
    "article": _article,
    "year": _year,
    "case": _case,
    "accent": _accent,
    "truncated": _truncated,
    "word order": _word_order,
    "extra words": _extra_words,
}
