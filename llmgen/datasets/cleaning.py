"""The cleaning rules for film lists, each a function with a name that the report carries.

A language model knows "The Usual Suspects", of 1995; film lists write "Usual Suspects, The (1995)".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.datasets.report import EXAMPLES, CleaningReport, Tally
from llmgen.errors import DataError
from llmgen.text.normalization import plain
from llmgen.types import Attribute, Item

# As found at the end of MovieLens titles, after a comma. Upper case only: ", a" is no article there.
ARTICLES = (
    "The", "A", "An",
    "Le", "La", "Les", "L'", "Un", "Une",
    "Il", "Lo", "I", "Gli", "Una",
    "El", "Los", "Las",
    "Der", "Die", "Das", "Ein", "Eine",
    "De", "Det", "Den", "En", "Ett",
    "O", "Os", "Da",
)  # fmt: skip
PLACEHOLDERS = frozenset({"unknown", "unkonwn"})
NO_GENRES = frozenset({"unknown", "(no genres listed)", ""})
SPELLED_OUT = {"Sci-Fi": "science fiction", "Children's": "children family", "Children": "children family"}
"""What people write in a wish where a list of genres is terse."""
FIRST_YEAR, LAST_YEAR = 1870, 2100  # the oldest film that survives is of 1888

_ARTICLE = re.compile(rf"(?P<aka>a\.k\.a\. )?(?P<rest>.+), (?P<article>{'|'.join(ARTICLES)})")
_YEAR = re.compile(r"(?P<title>.*\S)\s*\((?P<year>\d{4})(?P<span>[-–]\d{0,4})?\)", re.DOTALL)
_KIND = re.compile(r"(?P<title>.*\S)\s*\((V|TV)\)", re.DOTALL)


class Film(NamedTuple):
    """One row of a film list, as its file has it.

    Attributes:
        id: Its id.
        title: With or without a year at its end.
        year: A year column's value, or None where the file has no such column.
        genres: Genre names, uncleaned.
    """

    id: str
    title: str
    year: str | None
    genres: Sequence[str]


class Cleaned(NamedTuple):
    """A catalog and log after cleaning, and the report."""

    catalog: Catalog
    interactions: pl.DataFrame
    report: CleaningReport


def clean_films(
    source: str,
    films: Sequence[Film],
    interactions: pl.DataFrame,
    *,
    noun: str = "film",
    label: str = "{title} ({year})",
    shown: Sequence[str] = ("genres",),
    tally: Tally | None = None,
) -> Cleaned:
    """Apply every rule to a film list and its log; nothing is merged, and all that changes is counted.

    Args:
        source: Named in the report and in errors.
        films: In the order of the file.
        interactions: Columns as in `INTERACTIONS`, rows in the order of the file.
        noun: For the catalog.
        label: For the catalog.
        shown: For the catalog.
        tally: What was told of the files already.

    Raises:
        DataError: No film or no interaction is left, or an id stands twice.
    """
    tally = Tally() if tally is None else tally
    items: dict[str, Item] = {}
    dropped: list[str] = []
    for film in films:
        item = _film(film, tally)
        if item is None:
            dropped.append(film.id)
        elif item.id in items:
            raise DataError(f"{source}: film id {film.id!r} stands twice; take the file as it was published")
        else:
            items[item.id] = item
    if not items:
        raise DataError(f"{source}: no film is left after cleaning {len(films)} rows")
    _note_duplicates(items, tally)
    catalog = Catalog(items.values(), noun=noun, label=label, shown=shown)

    of_dropped = pl.col("item_id").is_in(dropped)
    unlisted = ~pl.col("item_id").is_in(list(items)) & ~of_dropped
    for rule, condition in (("interaction with a dropped film", of_dropped), ("film not in the list", unlisted)):
        rows = interactions.filter(condition)
        pairs = rows.head(EXAMPLES).select("user_id", "item_id").rows()
        examples = [f"user {user} took {item}" for user, item in pairs]
        tally.add_many(rule, "interactions", "dropped", rows.height, examples)
    log = interactions.filter(pl.col("item_id").is_in(list(items)))
    if log.is_empty():
        raise DataError(f"{source}: no interaction is left after cleaning {interactions.height} rows")
    return Cleaned(catalog, log, tally.report(source, len(films), catalog, interactions.height, log))


def front_articles(title: str) -> str:
    """A title with its trailing articles in front, also those inside parentheses.

    >>> front_articles("City of Lost Children, The (Cité des enfants perdus, La)")
    'The City of Lost Children (La Cité des enfants perdus)'
    >>> front_articles("Enfer, L'"), front_articles("Paris, Texas")
    ("L'Enfer", 'Paris, Texas')
    """
    main, parenthesis, rest = title.partition(" (")
    return _front(main) + re.sub(r"(?<=\()[^()]+(?=\))", lambda part: _front(part[0]), parenthesis + rest)


class Dated(NamedTuple):
    """A title without its year, and the year, or None where the title ended in none."""

    title: str
    year: int | None


def split_year(title: str) -> Dated:
    """Take the year off the end of a title; of a span of years the first counts.

    >>> split_year("Toy Story (1995)")
    Dated(title='Toy Story', year=1995)
    >>> split_year("2001"), split_year("Death Note (2006–2007)")
    (Dated(title='2001', year=None), Dated(title='Death Note', year=2006))
    """
    found = _YEAR.fullmatch(title)
    year = _year(found["year"]) if found else None
    return Dated(found["title"], year) if found and year else Dated(title, None)


def _front(part: str) -> str:
    found = _ARTICLE.fullmatch(part)
    if not found:
        return part
    gap = "" if found["article"].endswith("'") else " "
    return f"{found['aka'] or ''}{found['article']}{gap}{found['rest']}"


def _film(film: Film, tally: Tally) -> Item | None:
    """One film by the rules; None if it is dropped."""
    raw = f"{film.id} {film.title!r}"
    read = plain(film.title)
    if read.decoded:
        tally.add("HTML entities in a title decoded", "items", "changed", raw)
    if read.stripped:
        tally.add("control characters in a title taken out", "items", "changed", raw)
    title = " ".join(read.text.split())
    if title != read.text:
        tally.add("spaces around or doubled in a title", "items", "changed", raw)
    kind = _KIND.fullmatch(title)
    if kind:
        title = kind["title"]
        tally.add("mark (V) or (TV) after the year", "items", "changed", raw)
    title, year = split_year(title)
    if film.year is not None:
        column = _year(film.year)
        if column is None and year is not None:
            tally.add("invalid year, recovered from the title", "items", "changed", f"{raw}: {film.year!r} -> {year}")
        elif column is None and title.casefold() not in PLACEHOLDERS:
            tally.add("invalid year, none left", "items", "changed", f"{raw}: {film.year!r}")
        year = column if column is not None else year
    if not title or (title.casefold() in PLACEHOLDERS and year is None):
        tally.add("placeholder instead of a title", "items", "dropped", raw)
        return None
    if year is None and film.year is None:
        tally.add("no year in the title", "items", "noted", raw)
    fronted = front_articles(title)
    if fronted != title:
        tally.add("article moved to the front", "items", "changed", f"{title} -> {fronted}")
    attributes: dict[str, Attribute] = {}
    if year is not None:
        attributes["year"] = year
    genres = tuple(genre for genre in film.genres if genre not in NO_GENRES)
    if genres:
        attributes["genres"] = genres
        keywords = tuple(SPELLED_OUT[genre] for genre in genres if genre in SPELLED_OUT)
        if keywords:
            attributes["keywords"] = keywords
    else:
        tally.add("no genre", "items", "noted", raw)
    return Item(film.id, fronted, attributes)


def _year(text: str) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"[0-9]{4}", text) and FIRST_YEAR <= int(text) <= LAST_YEAR else None


def _note_duplicates(items: dict[str, Item], tally: Tally) -> None:
    """Two films with one title and year stay two items; the prior or the caller tells them apart."""
    ids: dict[tuple[str, Attribute | None], list[str]] = defaultdict(list)
    for item in items.values():
        ids[item.title, item.attributes.get("year")].append(item.id)
    twins = [f"{title} ({year}): {', '.join(same)}" for (title, year), same in ids.items() if len(same) > 1]
    tally.add_many("title and year of several films, kept apart", "items", "noted", len(twins), twins)
