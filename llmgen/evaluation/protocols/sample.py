"""Sample: held-out users, and what is right for each. All of evaluation, tuning and the studies of `eval/` share it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.types import Item, Query


@dataclass(frozen=True, eq=False)
class Sample:
    """Held-out users: what is known of each, and what each took next.

    The tuples have one entry a row. A row is a user, but for predicted ratings: there it is one held-out rating, and
    the rows of a user follow one another. A rating is a row's `ratings` and no type of its own: who is asked, what is
    known and what is held out are the same, and only the metrics differ.

    Attributes:
        catalog: What can be answered.
        known: Interactions to fit on; the queries' histories are theirs.
        queries: What is asked.
        held_out: Ids that the user took next, in order of time, none twice, at least one.
        times: When the user took the first of them, seconds since 1970; 0 where that is not known.
        ratings: What the user gave to the first of them; None where ratings are not asked for.
        candidates: Ids that the user has the choice of; None for the whole catalog.
        among: Ids that everybody has the choice of, and no prompt lists; None for the whole catalog.
        tie_seed: Seed of each user's own random order of the items that an arm scores alike, as it does all of which
            it knows nothing; None for the order of the catalog. No score depends on it.
        unasked: Users who are not among them, since all that they took next stands in their history.
    """

    catalog: Catalog
    known: pl.DataFrame
    queries: tuple[Query, ...]
    held_out: tuple[tuple[str, ...], ...]
    times: tuple[float, ...]
    ratings: tuple[float, ...] | None = None
    candidates: tuple[tuple[str, ...], ...] | None = None
    among: tuple[str, ...] | None = None
    tie_seed: int | None = None
    unasked: int = 0

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.queries)

    @property
    def users(self) -> list[str]:
        """Ids, in order of the queries."""
        return [str(query.user_id) for query in self.queries]

    @property
    def targets(self) -> list[str]:
        """The first item that each user took next."""
        return [items[0] for items in self.held_out]

    @property
    def pairs(self) -> list[tuple[Query, Item]]:
        """Each query with its target."""
        return [
            (query, self.catalog[self.catalog.index(item)])
            for query, item in zip(self.queries, self.targets, strict=True)
        ]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of users, histories, held-out items and what they are ranked among, 16 hex digits."""
        hashed = hashlib.sha256()
        choices = self.candidates or ((),) * len(self)
        for query, items, candidates in zip(self.queries, self.held_out, choices, strict=True):
            history = [item.id for item in query.items]
            fields = [str(query.user_id), *("\1".join(ids) for ids in (history, items, candidates))]
            hashed.update(("\0".join([*fields, str(query.k), str(query.exclude_seen)]) + "\n").encode())
        if self.among is not None:
            hashed.update("\1".join(self.among).encode())
        if self.tie_seed is not None:
            hashed.update(f"\2{self.tie_seed}".encode())
        return hashed.hexdigest()[:16]

    def rows(self, numbers: Iterable[int]) -> Sample:
        """Some of the rows, in the order given."""
        chosen = list(numbers)
        return replace(
            self,
            queries=tuple(self.queries[number] for number in chosen),
            held_out=tuple(self.held_out[number] for number in chosen),
            times=tuple(self.times[number] for number in chosen),
            ratings=None if self.ratings is None else tuple(self.ratings[number] for number in chosen),
            candidates=None if self.candidates is None else tuple(self.candidates[number] for number in chosen),
        )

    def spread(self, users: int) -> Sample:
        """At most so many of the users, evenly spread over all, with all their rows."""
        names = list(dict.fromkeys(self.users))
        last = len(names) - 1
        chosen = {names[place] for place in np.linspace(0, last, min(users, last + 1)).round().astype(int)}
        return self.rows(number for number, user in enumerate(self.users) if user in chosen)

    def drawn(self, rows: int, seed: int) -> Sample:
        """At most so many of the rows, drawn at random, in their order."""
        if rows >= len(self):
            return self
        chosen = np.random.default_rng(seed).choice(len(self), rows, replace=False)
        return self.rows(sorted(chosen.tolist()))
