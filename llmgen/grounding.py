"""Grounder: free text that a model wrote -> the catalog item it names, and by which method it was found."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from math import inf
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmgen.catalog.core import Catalog
from llmgen.text.bm25 import BM25Index, top_of
from llmgen.text.corruption import KINDS, corrupt
from llmgen.text.normalization import clean_line, cleaned, normalise_text
from llmgen.text.title_names import (
    MAX_CHARACTERS,
    MAX_LINES,
    Called,
    called,
    letters_of,
    lines_of,
    names_of,
    numbered_words,
    numbers_of,
    owners_of,
    readings_of,
    trigrams_of,
)
from llmgen.types import Grounding, IntArray, Item, Method

DEFAULT_THRESHOLD = 0.7  # what calibration finds on MovieLens; used where a catalog is too small to calibrate on
SMALL = 20
KEPT = 10
"""A calibrated threshold is kept until one in so many items has changed."""
YEAR_TOLERANCE = 1  # festival and cinema release, or two countries' releases, are often a year apart

_CANDIDATES = 12
_SAMPLE = 400
_DAMAGES_PER_TITLE = 2


class Match(NamedTuple):
    """The item that a text names, or None, and how it was found."""

    item: Item | None
    grounding: Grounding


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the threshold of a catalog rests on, counted over texts that only BM25 could find.

    Half of the texts name an item of the catalog, damaged on purpose; the other half are the same texts with the item
    they name hidden, so that the right answer is none.

    Attributes:
        threshold: Smallest score whose matches have the wanted precision; infinity where no score has it.
        precision: Right matches / all matches at that threshold; 1 without a match.
        recall: Right matches / texts that name an item.
        num_titles: Titles damaged.
        num_present: Texts that name an item and that neither exact nor normalised match found.
        num_absent: Texts that name no item and that neither found.
        num_right: Of `num_present`, matched to the right title.
        num_wrong: Of `num_present`, matched to another title.
        num_false: Of `num_absent`, matched.
    """

    threshold: float
    precision: float
    recall: float
    num_titles: int
    num_present: int
    num_absent: int
    num_right: int
    num_wrong: int
    num_false: int


class Found(NamedTuple):
    """Items of one title that a text may mean, best first, and the score of the match."""

    items: list[int]
    score: float


Outcome = Literal["right", "wrong", "false"]


class Grounder:
    """Finds the catalog item that a text names.

    In this order:

    1. `exact`: the text is a label or a title of the catalog.
    2. `normalised`: it is one up to `llmgen.text.normalization.normalise_text`. A title with a second one in
       parentheses, `Seven (Se7en)`, goes by both, if no other item does.
    3. `bm25`: BM25 over words and over letter trigrams proposes items; the one that shares most with the text wins if
       its score reaches the threshold. The share is the larger of two, each twice what is common over the sum of
       both sides, so words missing from either side count: BM25 weight of the words (finds other orders, extra words)
       and letters with letter pairs (finds typos). The score is this share less a fifth of the share of the runner-up
       with another title, because a text that fits two titles names neither. Numbers must agree: `Die Hard` is not
       `Die Hard 2`, nor is `Rocky II` `Rocky III`.
    4. `none`.

    A year in the text decides between items of one title. It may be one off; further off it names another item (a
    remake), so nothing is matched, except where the item has no year. Without a year the first item of that title in
    catalog order is taken. The year of an item is its attribute `year`, or the bracketed one at the end of its title.

    Args:
        catalog: Where to find items.
        threshold: Smallest score of a `bm25` match, or None to calibrate it on the catalog at first use.
        precision: Wanted share of right ones among `bm25` matches, when every second text names nothing in the
            catalog; in (0, 1]. Unused with a threshold.
        seed: Decides which titles are damaged, and how.

    Raises:
        ValueError: `threshold` or `precision` is out of range.

    >>> from llmgen.types import Item
    >>> films = Catalog([Item("1", "The Matrix", {"year": 1999}), Item("2", "Heat", {"year": 1995})])
    >>> match = Grounder(films).ground("Matrix, The (1999)")
    >>> match.item.id, match.grounding.method
    ('1', 'normalised')
    """

    # Part of the runner-up's share that is taken off the best one. Texts that only BM25 can find and does find, at
    # precision .98, on MovieLens-100K (on 4,000 titles of ml-latest-small): 0 -> 62 % (49 %), 0.2 -> 68 % (66 %),
    # 1/3 -> 65 % (51 %), 0.5 -> 60 % (30 %). 1,000 titles each.
    _runner_up = 0.2

    def __init__(
        self, catalog: Catalog, *, threshold: float | None = None, precision: float = 0.98, seed: int = 0
    ) -> None:
        if threshold is not None and not threshold >= 0:
            raise ValueError(f"threshold must be 0 or more, not {threshold}")
        if not 0 < precision <= 1:
            raise ValueError(f"precision must be in (0, 1], not {precision}")
        self._given = threshold
        self._precision = precision
        self._seed = seed
        self._changes = 0  # of items, since the threshold was calibrated
        apart = catalog.identifier is not None
        named = zip(catalog, catalog.labels, catalog.spellings, strict=True)
        self._know(catalog, [called(item, label, spelled if apart else None) for item, label, spelled in named])

    def _know(self, catalog: Catalog, all_called: list[Called]) -> None:
        """Make what texts are looked up in of what each item is called."""
        self.catalog, self._called = catalog, all_called
        self._exact: dict[str, list[int]] = {}
        for position, one in enumerate(all_called):
            for spelling in one.spellings:
                self._exact.setdefault(spelling, []).append(position)
        self._owners = owners_of(all_called)
        self._names = list(self._owners)

    def on_catalog(self, catalog: Catalog, before: IntArray) -> Grounder:
        """The same for a changed catalog; only the names of new and changed items are read.

        It finds what one made of the new catalog finds at the same threshold. A calibrated threshold is kept until a
        tenth of the items have changed since: one item more or less does not change what is a good one.

        Args:
            catalog: The new one.
            before: See `llmgen.priors.Movable`.
        """
        alike = catalog.settings == self.catalog.settings
        same = catalog.unchanged_since(self.catalog, before) if alike else np.full(len(catalog), -1)
        read = list(map(self._called.__getitem__, same.tolist()))  # those at -1 are replaced
        new = np.flatnonzero(same < 0).tolist()
        for position in new:
            item = catalog[position]
            spelled = None if catalog.identifier is None else catalog.spelling(item)
            read[position] = called(item, catalog.label(item), spelled)
        made = copy(self)
        made._changes = self._changes + len(new) + len(self.catalog) - (len(catalog) - len(new))
        made._know(catalog, read)
        kept = vars(made)
        if kept.get("calibration") is None or made._changes * KEPT > len(catalog):
            kept.pop("calibration", None)
            made._changes = 0
        number = {name: place for place, name in enumerate(self._names)}
        places = [number.get(name, -1) for name in made._names]
        names = [name for name in made._names if name not in number]
        for index in kept.keys() & {"_words", "_trigrams"}:
            kept[index] = kept[index].changed(places, names)
        return made

    @property
    def threshold(self) -> float:
        """Smallest score of a `bm25` match: the one given, calibrated, or 0.7 for fewer than 20 items."""
        if self._given is not None:
            return self._given
        return DEFAULT_THRESHOLD if self.calibration is None else self.calibration.threshold

    @cached_property
    def calibration(self) -> Calibration | None:
        """What the threshold rests on; None if it was given, or for fewer than 20 items.

        At most 400 titles are damaged twice each; about a second at 1,700 items, whatever the catalog's size the same
        number of queries.
        """
        if self._given is not None or len(self.catalog) < SMALL:
            return None
        return self._calibrate()

    def ground(self, text: str, *, allowed: NDArray[np.bool_] | None = None) -> Match:
        """The item that a text names.

        Args:
            text: A title as a model wrote it, perhaps numbered, quoted or followed by a comment; only the first 500
                characters are read.
            allowed: bool [n_items], or None for all. It never changes what the text means: a text that names an item
                which is not allowed gets another item of the same title (and a fitting year), or none.

        Raises:
            ValueError: `allowed` has another shape.
        """
        if allowed is not None and allowed.shape != (len(self.catalog),):
            raise ValueError(f"allowed must have shape ({len(self.catalog)},), one place an item, not {allowed.shape}")
        text = text[:MAX_CHARACTERS].strip()
        spellings = tuple(dict.fromkeys((text, *cleaned(text))))
        for spelling in spellings:
            if spelling in self._exact:
                return self._match(self._exact[spelling], "exact", 1.0, text, allowed)
        for spelling in spellings:
            owners = self._look_up(spelling)
            if owners:
                return self._match(owners, "normalised", 1.0, text, allowed)
        found = self._best(self._search(spellings[-1]))
        if found is not None and found.score >= self.threshold:
            return self._match(found.items, "bm25", found.score, text, allowed)
        return Match(None, Grounding("none", 0.0, text))

    def ground_lines(self, completion: str, *, allowed: NDArray[np.bool_] | None = None) -> list[Match]:
        """The items that the lines of an answer name, in order, one match a line, repeats kept.

        Blank lines, rules and code fences are skipped. An answer that holds JSON is read as one line a title: strings
        of a list, or `title`, `name` and the like of objects, also nested ones. Only the first 1,000 lines are read.

        Raises:
            ValueError: `allowed` has another shape.
        """
        return [self.ground(line, allowed=allowed) for line in lines_of(completion)[:MAX_LINES]]

    def _match(
        self, items: Sequence[int], method: Method, score: float, text: str, allowed: NDArray[np.bool_] | None
    ) -> Match:
        for position in items:
            if allowed is None or allowed[position]:
                return Match(self.catalog[position], Grounding(method, score, text))
        return Match(None, Grounding("none", 0.0, text))

    def _look_up(self, text: str) -> list[int]:
        """Items of which the text is a name, best first."""
        for title, year in readings_of(text):
            owners = self._of_year(normalise_text(title), year)
            if owners:
                return owners
        return []

    def _of_year(self, name: str, year: int | None) -> list[int]:
        """Items of a name and a year: those of that year first, then those without one, then those one off."""
        items = self._owners.get(name, [])
        if year is None:
            return items
        rated = []
        for position in items:
            own = self._called[position].year
            distance = 0.5 if own is None else abs(own - year)
            if distance <= YEAR_TOLERANCE:
                rated.append((distance, position))
        return [position for _, position in sorted(rated, key=lambda pair: pair[0])]

    # ------------------------------------------------------------------ BM25

    # bm25s for both at any size: a calibration asks some 800 times, with 15 trigrams a title, and rank-bm25 walks over
    # all documents for each.
    @cached_property
    def _words(self) -> BM25Index:
        # Length is left to the shares (b = 0).
        return BM25Index(self._names, b=0.0, tokenise=numbered_words, backend="bm25s")

    @cached_property
    def _trigrams(self) -> BM25Index:
        return BM25Index(self._names, tokenise=trigrams_of, backend="bm25s")

    def _search(self, text: str) -> list[list[Found]]:
        """For each reading of a cleaned text, what BM25 proposes, best first, scored by share."""
        ranked = []
        for title, year in readings_of(text):
            shares = self._shares(normalise_text(title))
            ranked.append([Found(items, share) for share, name in shares if (items := self._of_year(name, year))])
        return ranked

    def _best(self, readings: Iterable[Sequence[Found]], hidden: Collection[int] = ()) -> Found | None:
        """The best proposal of all readings, its score lessened by its runner-up; None without one.

        Args:
            readings: Proposals of each reading, best first.
            hidden: Items to leave out, as if the catalog lacked them.
        """
        best: Found | None = None
        for proposals in readings:
            left = [one for one in proposals if one.items[0] not in hidden]
            if left:
                rivals = (one.score for one in left[1:] if set(one.items).isdisjoint(left[0].items))
                score = left[0].score - self._runner_up * next(rivals, 0.0)
                if best is None or score > best.score:
                    best = Found(left[0].items, score)
        return best

    def _shares(self, key: str) -> list[tuple[float, str]]:
        """The names that BM25 proposes for a key, with their shares, largest first."""
        by_words = self._words.scores(key)
        proposed = {place.index for place in top_of(by_words, _CANDIDATES)} if by_words.any() else set()
        proposed.update(place.index for place in self._trigrams.top(key, _CANDIDATES))
        numbers, letters, best = numbers_of(key), letters_of(key), self._words.best_possible(key)
        rated = []
        for index in sorted(proposed):
            name = self._names[index]
            if numbers_of(name) != numbers:
                continue
            shared_words = 2 * float(by_words[index]) / (best + self._words.best_possible(name))
            own = letters_of(name)
            shared_letters = 2 * (own & letters).total() / (own.total() + letters.total())
            rated.append((min(1.0, max(shared_words, shared_letters)), name))
        return sorted(rated, key=lambda pair: -pair[0])

    def _calibrate(self) -> Calibration:
        rng = random.Random(self._seed)
        sample = rng.sample(range(len(self.catalog)), k=min(_SAMPLE, len(self.catalog)))
        rated: list[tuple[float, Outcome]] = []
        present = absent = 0
        for number, position in enumerate(sample):
            item = self.catalog[position]
            same = self._same_title(item)
            for offset in range(_DAMAGES_PER_TITLE):
                kind = KINDS[(number * _DAMAGES_PER_TITLE + offset) % len(KINDS)]
                whole = self.catalog.labels[position] if rng.random() < 0.5 else item.title
                text = clean_line(corrupt(whole, kind, rng))
                owners = set(self._look_up(text))
                if not owners <= same:
                    continue
                proposed = self._search(text)
                absent += 1
                found = self._best(proposed, hidden=same)
                if found is not None:
                    rated.append((found.score, "false"))
                if not owners:
                    present += 1
                    found = self._best(proposed)
                    if found is not None:
                        rated.append((found.score, "right" if found.items[0] in same else "wrong"))
        threshold = choose_threshold([(score, outcome == "right") for score, outcome in rated], self._precision)
        counts = Counter(outcome for score, outcome in rated if score >= threshold)
        return Calibration(
            threshold=threshold,
            precision=counts["right"] / counts.total() if counts else 1.0,
            recall=counts["right"] / present if present else 1.0,
            num_titles=len(sample),
            num_present=present,
            num_absent=absent,
            num_right=counts["right"],
            num_wrong=counts["wrong"],
            num_false=counts["false"],
        )

    def _same_title(self, item: Item) -> set[int]:
        names = names_of(item)
        return {position for name in (*names.own, *names.others) for position in self._owners.get(name, ())}


def choose_threshold(scored: Iterable[tuple[float, bool]], precision: float) -> float:
    """The smallest score such that, of all matches with at least that score, the wanted share is right.

    Args:
        scored: Score of each match and whether it is right.
        precision: In (0, 1].

    Returns:
        One of the scores, or infinity where none has that precision.

    >>> choose_threshold([(0.9, True), (0.8, True), (0.7, False), (0.6, True)], precision=0.75)
    0.6
    """
    ordered = sorted(scored, reverse=True)
    chosen, right = inf, 0
    for number, (score, is_right) in enumerate(ordered, start=1):
        right += is_right
        last_of_score = number == len(ordered) or ordered[number][0] < score
        if last_of_score and right >= precision * number:
            chosen = score
    return chosen
