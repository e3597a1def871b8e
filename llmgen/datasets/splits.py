"""Splits of a log into training, validation and test, with nothing from the future in a history.

Where timestamps are equal a rule decides, and it decides much: on MovieLens-100K 415 of 943 users have several
interactions at their last timestamp. So the rule is an argument, and every split remembers it.

More than 400 lines: the splits share their rules of order, and of what a history may know.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Literal, NamedTuple

import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError, DataError
from llmgen.types import Item, Query

Ties = Literal["file", "item_id"]

COLUMNS = ("user_id", "item_id", "timestamp", "rating")


class History(NamedTuple):
    """What a user took before.

    Attributes:
        items: Oldest first; an item taken twice stands twice.
        ratings: One an item, in the same order; None if any of them is not known.
    """

    items: tuple[Item, ...]
    ratings: tuple[float, ...] | None


class Case(NamedTuple):
    """One held-out interaction, with what could be known at its time.

    Attributes:
        user_id: The user.
        item: What the user took: the answer.
        timestamp: When, in seconds since 1970.
        rating: The rating given, or None.
        history: Everything the user took strictly earlier; empty for a user whose first interaction this is.
    """

    user_id: str
    item: Item
    timestamp: float
    rating: float | None
    history: History


class LeaveOneOut(NamedTuple):
    """The parts of a leave-one-out split; each is sorted by user, then time, then the tie rule.

    Attributes:
        train: Everything else.
        validation: The last but one interaction of each user with three or more.
        test: The last one of the same users, in the same order.
        short_users: Users with fewer than three interactions; theirs are all in `train`.
        ties: The rule between interactions of one timestamp.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    short_users: int
    ties: Ties


class TimeSplit(NamedTuple):
    """The parts of a split at moments in time; each is sorted by user, then time, then the order of the file.

    Attributes:
        train: Everything before `validation_from`, or before `test_from` where there is no validation.
        validation: From `validation_from` up to `test_from`; without rows where there is none.
        test: At or after `test_from`.
        validation_from: Seconds since 1970, or None.
        test_from: Seconds since 1970.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    validation_from: float | None
    test_from: float

    def cases(self, part: Literal["validation", "test"], *, catalog: Catalog) -> list[Case]:
        """Each held-out interaction of a part with the user's strictly earlier ones, whatever part those are in.

        Raises:
            UnknownItemError: An item is not in the catalog.
        """
        known = [self.train, self.validation] if part == "validation" else [self.train, self.validation, self.test]
        return _cases(getattr(self, part), known, catalog)


class ItemsLeftOut(NamedTuple):
    """A log as it would be had some items not been there yet; each part is sorted by user, time and tie rule.

    Attributes:
        items: Ids of the items that were drawn: the new ones. No other part than `test` has them.
        train: What each user took before the last part of the user's log, but for the last interaction of it.
        validation: That interaction, of each user who has another one before it.
        recent: What each user took after these and before the first row of `test`: for histories, never to learn from.
        test: The new items that each user took in the last part of the user's log.
    """

    items: frozenset[str]
    train: pl.DataFrame
    validation: pl.DataFrame
    recent: pl.DataFrame
    test: pl.DataFrame


class RandomSplit(NamedTuple):
    """The parts of a split at random, as for predicting ratings; each is sorted by user, time and order of the file.

    Attributes:
        train: Everything else.
        validation: Of each user and item that were drawn for it, all interactions.
        test: The same.
    """

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame


def leave_one_out(interactions: pl.DataFrame, *, ties: Ties = "file") -> LeaveOneOut:
    """Hold out each user's last interaction for the test and the one before for validation.

    Args:
        interactions: Columns `user_id`, `item_id`, `timestamp`, `rating`; rows in the order of the file.
        ties: Between interactions of one user and timestamp, `file`: the later row counts as later; `item_id`: the
            larger id does, by value if all ids are digits, else by character; then the later row.

    Returns:
        Three parts that hold every row exactly once.

    Raises:
        DataError: A column is missing or has the wrong type, or a user, item or time is null or not finite.
    """
    ordered = _ordered(interactions, ties)
    place = pl.int_range(pl.len()).over("user_id")
    size = pl.len().over("user_id")
    from_end = pl.when(size >= 3).then(size - 1 - place).otherwise(2).alias("_from_end")
    marked = ordered.with_columns(from_end)
    parts = [
        marked.filter(condition).drop("_from_end")
        for condition in (pl.col("_from_end") >= 2, pl.col("_from_end") == 1, pl.col("_from_end") == 0)
    ]
    short = interactions["user_id"].n_unique() - parts[2].height
    return LeaveOneOut(parts[0], parts[1], parts[2], short, ties)


def global_time(
    interactions: pl.DataFrame,
    *,
    test_from: float | datetime | None = None,
    test_share: float | None = None,
    validation_from: float | datetime | None = None,
    validation_share: float | None = None,
) -> TimeSplit:
    """Hold out everything at or after a moment, as a system that was trained then would meet it.

    Args:
        interactions: Columns `user_id`, `item_id`, `timestamp`, `rating`; rows in the order of the file.
        test_from: The moment, seconds since 1970 or a datetime (without time zone: UTC); or
        test_share: the share of rows, in (0, 1), to hold out: the latest moment that holds out at least as many.
        validation_from: The moment before `test_from` at which validation starts, or None for no validation; or
        validation_share: its share of all rows.

    Returns:
        Three parts that hold every row exactly once; a moment is never divided between two.

    Raises:
        ValueError: Not exactly one of `test_from` and `test_share`, both of the validation's, or a share outside
            (0, 1), or a validation that starts after the test.
        DataError: A part would be empty, or see `leave_one_out`.
    """
    if (test_from is None) == (test_share is None):
        raise ValueError("give one of test_from and test_share")
    if validation_from is not None and validation_share is not None:
        raise ValueError("give one of validation_from and validation_share, or neither")
    ordered = _ordered(interactions, "file")
    times = ordered["timestamp"]
    moment = _moment(times, test_from, _rows(test_share, times))
    assert moment is not None
    start = _moment(times.filter(times < moment), validation_from, _rows(validation_share, times))
    first = moment if start is None else start
    if first > moment:
        raise ValueError(f"validation_from ({start}) must not be after test_from ({moment})")
    time = pl.col("timestamp")
    split = TimeSplit(
        ordered.filter(time < first),
        ordered.filter((time >= first) & (time < moment)),
        ordered.filter(time >= moment),
        start,
        moment,
    )
    for name in ("train", "test") if start is None else ("train", "validation", "test"):
        if getattr(split, name).is_empty():
            raise DataError(
                f"the {name} part is empty: the log lasts from {times.min()!r} to {times.max()!r}, "
                f"validation starts at {start} and test at {moment}"
            )
    return split


def leave_items_out(
    interactions: pl.DataFrame,
    ids: Iterable[str],
    *,
    share: float,
    seed: int = 0,
    last: float = 0.2,
    ties: Ties = "file",
) -> ItemsLeftOut:
    """Take items out of a log as if they were new, and hold out the last part of each user's log to look for them.

    Whether an item is drawn depends on its id and the seed alone, so it stays so in a log that grows, and what is drawn
    with a smaller share is drawn with a larger one too. Nothing of a user after the cut, and nothing of a new item at
    any time, is in `train` and `validation`. New items that were taken before the cut are in no part.

    Args:
        interactions: Columns `user_id`, `item_id`, `timestamp`, `rating`; rows in the order of the file.
        ids: All items that can be drawn, those that nobody took too.
        share: Of the items, in (0, 1).
        seed: Another seed, other items.
        last: Share of each user's log, rounded up, in (0, 1), that is the last part.
        ties: Between interactions of one user and timestamp, see `leave_one_out`.

    Raises:
        ValueError: A share outside (0, 1).
        DataError: No item was drawn or none was left; see also `leave_one_out`.
    """
    for name, value in (("share", share), ("last", last)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, not {value}")
    known = list(ids)
    drawn = frozenset(item for item in known if _uniform(f"{seed}\0{item}") < share)
    if not 0 < len(drawn) < len(known):
        raise DataError(f"a share of {share} draws {len(drawn)} of {len(known)} items; some must be new and some not")
    place, size = pl.int_range(pl.len()).over("user_id"), pl.len().over("user_id")
    marked = _ordered(interactions, ties).with_columns(
        pl.col("item_id").is_in(list(drawn)).alias("_new"),
        (place >= size - (size * last - 1e-9).ceil()).alias("_late"),
    )
    new, late = pl.col("_new"), pl.col("_late")
    before = marked.filter(~new & ~late)
    is_last = pl.int_range(pl.len(), 0, -1).over("user_id") == 1
    held = is_last & (pl.len().over("user_id") > 1)
    parts = (
        before.filter(~held),
        before.filter(held),
        marked.filter(late & ((new & late).cum_sum().over("user_id") == 0)),
        marked.filter(late & new),
    )
    return ItemsLeftOut(drawn, *(part.drop("_new", "_late") for part in parts))


def random_split(
    interactions: pl.DataFrame, *, share: float = 0.2, validation_share: float = 0.08, seed: int = 0
) -> RandomSplit:
    """Hold out interactions at random, whenever they were: for ratings. A history then knows what came later.

    Whether an interaction is held out depends on its user, its item and the seed alone. So it stays so in a log that
    grows or in a part of it, and what is drawn with a smaller share is drawn with a larger one too.

    Args:
        interactions: Columns `user_id`, `item_id`, `timestamp`, `rating`; rows in the order of the file.
        share: Of the pairs of user and item, in (0, 1), for the test.
        validation_share: Of all pairs, in [0, 1), for validation; what of both is left, in (0, 1), is for training.
        seed: Another seed, another draw.

    Raises:
        ValueError: Shares out of range.
        DataError: A part that was asked for is empty, or see `leave_one_out`.
    """
    if not (share > 0 and validation_share >= 0 and share + validation_share < 1):
        raise ValueError(
            f"share must be above 0, validation_share 0 or more and both below 1 together, not {share} and "
            f"{validation_share}"
        )
    ordered = _ordered(interactions, "file")
    pairs = ordered.select("user_id", "item_id").iter_rows()
    drawn = pl.Series([_uniform(f"{seed}\0{user}\0{item}") for user, item in pairs], dtype=pl.Float64)
    split = RandomSplit(
        ordered.filter(drawn >= share + validation_share),
        ordered.filter((drawn >= share) & (drawn < share + validation_share)),
        ordered.filter(drawn < share),
    )
    for name in ("train", "validation", "test") if validation_share else ("train", "test"):
        if getattr(split, name).is_empty():
            raise DataError(
                f"the {name} part of {len(ordered)} interactions is empty; give more of them, or other shares"
            )
    return split


def histories(*frames: pl.DataFrame, catalog: Catalog) -> dict[str, History]:
    """What each user took, oldest first, ready for `Query(history=..., ratings=..., user_id=...)`.

    Rows of one user and timestamp keep their order: first frame first. So `histories(split.train, split.validation,
    catalog=catalog)` follows the split's own tie rule, and a log as loaded follows the order of its file.

    Args:
        frames: Parts of a split in the order of time, or a whole log.
        catalog: Where the items are looked up.

    Returns:
        User id -> history, for every user in the frames; users sorted.

    Raises:
        DataError: See `leave_one_out`.
        UnknownItemError: An item is not in the catalog.
    """
    if not frames:
        return {}
    return {user: log.until(len(log.times)) for user, log in _by_user(frames, catalog).items()}


def query_of(known: Mapping[str, History], user: str, query: Query | None = None) -> Query:
    """The query of a user of a log: with the user's history, and the ratings of it where all are known.

    Args:
        known: User id -> history, see `histories`.
        user: Id of the user.
        query: What else is wanted: `k`, `text`, `filters`, `exclude_seen`.

    Raises:
        DataError: The log has no such user.
        ConfigError: The query has a history of its own.
    """
    query = query or Query()
    if query.history:
        raise ConfigError("give a user or a history, not both: a user of the log has a history")
    if user not in known:
        some = ", ".join(islice(known, 5)) or "none at all"
        raise DataError(f"the log has no user {user!r}; it has users such as {some}")
    items, ratings = known[user]
    return replace(query, history=items, ratings=ratings, user_id=user)


def log_digest(interactions: pl.DataFrame) -> str:
    """SHA-256 of interactions, in their order, 12 hex digits."""
    hashed = hashlib.sha256()
    for column in ("user_id", "item_id", "timestamp"):
        hashed.update("\0".join(map(str, interactions[column].to_list())).encode())
    return hashed.hexdigest()[:12]


class _Log(NamedTuple):
    """One user's rows as columns, oldest first."""

    items: tuple[Item, ...]
    times: tuple[float, ...]
    ratings: tuple[float | None, ...]

    def until(self, end: int) -> History:
        """The history of the first `end` rows."""
        ratings = tuple(rating for rating in self.ratings[:end] if rating is not None)
        return History(self.items[:end], ratings if len(ratings) == end else None)


def _by_user(frames: Sequence[pl.DataFrame], catalog: Catalog) -> dict[str, _Log]:
    ordered = _ordered(pl.concat(frames), "file")
    grouped = ordered.group_by("user_id", maintain_order=True).agg("item_id", "timestamp", "rating")
    return {
        user: _Log(tuple(catalog[item] for item in items), tuple(times), tuple(ratings))
        for user, items, times, ratings in grouped.iter_rows()
    }


def _cases(held_out: pl.DataFrame, known: Sequence[pl.DataFrame], catalog: Catalog) -> list[Case]:
    logs = _by_user(known, catalog)
    cases = []
    for user, item, timestamp, rating in held_out.select(COLUMNS).iter_rows():
        strictly_earlier = bisect_left(logs[user].times, timestamp)
        cases.append(Case(user, catalog[item], timestamp, rating, logs[user].until(strictly_earlier)))
    return cases


def _ordered(interactions: pl.DataFrame, ties: Ties) -> pl.DataFrame:
    """Rows by user, time and tie rule; rows equal in all of these keep their order."""
    _check(interactions)
    keys = [pl.col("user_id"), pl.col("timestamp")]
    if ties == "item_id":
        digits = interactions["item_id"].str.contains(r"^[0-9]+$").all()
        bare = pl.col("item_id").str.strip_chars_start("0")  # by length, then by character, is by value
        keys += [bare.str.len_chars(), bare] if digits else [pl.col("item_id")]
    elif ties != "file":
        raise ValueError(f"ties must be 'file' or 'item_id', not {ties!r}")
    return interactions.select(COLUMNS).sort(keys, maintain_order=True)


def _check(interactions: pl.DataFrame) -> None:
    wanted = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64, "rating": pl.Float64}
    for column, kind in wanted.items():
        found = interactions.schema.get(column)
        if found != kind:
            raise DataError(f"interactions need a column {column!r} of {kind.__name__}, found {found!s}")
        if column == "rating":
            continue
        bad = interactions[column].is_null()
        if column == "timestamp":
            bad |= ~interactions[column].is_finite().fill_null(True)
        if bad.any():
            row = bad.arg_true()[0]
            raise DataError(f"interactions, row {row + 1}, {column}: {interactions[column][row]!r} cannot be ordered")


def _uniform(text: str) -> float:
    """In [0, 1), from nothing but a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _rows(share: float | None, times: pl.Series) -> int | None:
    """A share as a number of rows, rounded up."""
    if share is None:
        return None
    if not 0 < share < 1:
        raise ValueError(f"a share must be between 0 and 1, not {share}")
    return math.ceil(share * len(times) - 1e-9)  # .07 * 100 is a little more than 7


def _moment(times: pl.Series, at: float | datetime | None, rows: int | None) -> float | None:
    """The moment itself, or the latest one that has at least that many rows at or after it."""
    if isinstance(at, datetime):
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if at is not None:
        return float(at)
    if rows is None:
        return None
    if rows >= len(times):
        raise DataError(f"holding out {rows} of {len(times)} rows leaves none to train on; make the shares smaller")
    return float(times.sort()[len(times) - rows])
