"""Splits: every row exactly once, the tie rules, nothing from the future."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import COLUMNS, Ties, global_time, histories, leave_one_out, random_split
from llmgen.errors import DataError, UnknownItemError
from llmgen.types import Item, Query

Row = tuple[str, str, float, float | None]


def log(*rows: Row) -> pl.DataFrame:
    kinds = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64, "rating": pl.Float64}
    return pl.DataFrame(list(rows), schema=kinds, orient="row")


def items_of(frame: pl.DataFrame) -> list[str]:
    return frame["item_id"].to_list()


CATALOG = Catalog([Item(str(number), f"Film {number}") for number in range(1, 31)])

# Few users, items and times, so that ties, repeats and short users are common.
rows = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "w"]),
        st.integers(1, 30).map(str),
        st.integers(0, 4).map(float),
        st.none() | st.integers(1, 5).map(float),
    ),
    min_size=1,
    max_size=25,
)
both_ties = st.sampled_from(["file", "item_id"])


def test_last_is_test_and_last_but_one_is_validation() -> None:
    split = leave_one_out(log(("u", "3", 30, 5), ("u", "1", 10, 4), ("u", "4", 40, 3), ("u", "2", 20, None)))
    assert items_of(split.train) == ["1", "2"]
    assert split.validation.rows() == [("u", "3", 30.0, 5.0)]
    assert split.test.rows() == [("u", "4", 40.0, 3.0)]
    assert (split.short_users, split.ties) == (0, "file")


def test_user_with_two_interactions_stays_in_train_and_is_counted() -> None:
    split = leave_one_out(log(("v", "1", 2, None), ("v", "2", 1, None), *(("u", str(n), n, None) for n in (1, 2, 3))))
    assert split.train.rows() == [("u", "1", 1.0, None), ("v", "2", 1.0, None), ("v", "1", 2.0, None)]
    assert split.short_users == 1


def test_tied_times_follow_the_file_by_default() -> None:
    split = leave_one_out(log(("u", "9", 1, None), ("u", "10", 1, None), ("u", "2", 1, None)))
    assert (items_of(split.train), items_of(split.validation), items_of(split.test)) == (["9"], ["10"], ["2"])


def test_tied_times_follow_numeric_ids_by_value() -> None:
    split = leave_one_out(log(("u", "10", 1, None), ("u", "9", 1, None), ("u", "02", 1, None)), ties="item_id")
    assert (items_of(split.train), items_of(split.validation), items_of(split.test)) == (["02"], ["9"], ["10"])


def test_tied_times_follow_other_ids_by_character() -> None:
    split = leave_one_out(log(("u", "9", 1, None), ("u", "b", 1, None), ("u", "10", 1, None)), ties="item_id")
    assert (items_of(split.train), items_of(split.validation), items_of(split.test)) == (["10"], ["9"], ["b"])


def test_ids_of_any_length_are_compared_by_value() -> None:
    large = "9" * 40
    split = leave_one_out(
        log(("u", large, 1, None), ("u", "3", 1, None), ("u", "1" + "0" * 38, 1, None)), ties="item_id"
    )
    assert items_of(split.test) == [large]


@settings(deadline=None, max_examples=60)
@given(rows, both_ties)
def test_leave_one_out_holds_every_row_once(given: list[Row], ties: Ties) -> None:
    split = leave_one_out(log(*given), ties=ties)
    parts = [*split.train.rows(), *split.validation.rows(), *split.test.rows()]
    assert sorted(parts, key=repr) == sorted(given, key=repr)
    sizes = {user: sum(row[0] == user for row in given) for user, *_ in given}
    long = sorted(user for user, size in sizes.items() if size >= 3)
    assert split.test["user_id"].to_list() == split.validation["user_id"].to_list() == long
    assert split.short_users == len(sizes) - len(long)


@settings(deadline=None, max_examples=60)
@given(rows, both_ties)
def test_leave_one_out_equals_a_plain_sort(given: list[Row], ties: Ties) -> None:
    split = leave_one_out(log(*given), ties=ties)
    train, validation, test = [], [], []
    for user in sorted({row[0] for row in given}):
        own = [row for row in given if row[0] == user]
        own.sort(key=lambda row: (row[2], int(row[1])) if ties == "item_id" else (row[2], 0))
        cut = len(own) if len(own) < 3 else len(own) - 2
        train += own[:cut]
        validation += own[cut : cut + 1]
        test += own[cut + 1 :]
    assert (split.train.rows(), split.validation.rows(), split.test.rows()) == (train, validation, test)


@settings(deadline=None, max_examples=60)
@given(rows, both_ties)
def test_histories_of_a_split_keep_its_tie_rule(given: list[Row], ties: Ties) -> None:
    split = leave_one_out(log(*given), ties=ties)
    known = histories(split.train, split.validation, catalog=CATALOG)
    assert set(known) == {row[0] for row in given}
    for user, history in known.items():
        own = [row for row in split.train.rows() + split.validation.rows() if row[0] == user]
        assert [item.id for item in history.items] == [row[1] for row in own]
        test_time = split.test.filter(user_id=user)["timestamp"].to_list()
        assert all(row[2] <= time for row in own for time in test_time)


def test_history_goes_into_a_query_and_keeps_repeats() -> None:
    known = histories(log(("u", "2", 5, 1), ("u", "1", 4, 2), ("u", "2", 6, 3)), catalog=CATALOG)
    query = Query(history=known["u"].items, ratings=known["u"].ratings, user_id="u")
    assert [item.id for item in query.history] == ["1", "2", "2"]
    assert query.ratings == (2.0, 1.0, 3.0)


def test_history_with_one_unknown_rating_has_none() -> None:
    assert histories(log(("u", "2", 5, 1), ("u", "1", 4, None)), catalog=CATALOG)["u"].ratings is None


def test_history_with_an_item_outside_the_catalog_is_an_error() -> None:
    with pytest.raises(UnknownItemError, match="'99'"):
        histories(log(("u", "99", 5, 1)), catalog=CATALOG)


def test_histories_of_nothing_are_empty() -> None:
    assert histories(catalog=CATALOG) == {} == histories(log(), catalog=CATALOG)


TEN = log(*(("u" if time % 2 else "v", str(time), time, None) for time in range(1, 11)))


def test_test_part_starts_at_its_moment() -> None:
    split = global_time(TEN, test_from=9.0, validation_from=7.0)
    assert sorted(split.train["timestamp"]) == [1, 2, 3, 4, 5, 6]
    assert sorted(split.validation["timestamp"]) == [7, 8]
    assert sorted(split.test["timestamp"]) == [9, 10]


def test_shares_are_of_all_rows() -> None:
    split = global_time(TEN, test_share=0.2, validation_share=0.3)
    assert (split.validation_from, split.test_from) == (6.0, 9.0)
    assert (split.train.height, split.validation.height, split.test.height) == (5, 3, 2)


def test_a_share_is_rounded_up_to_rows_but_not_by_float_noise() -> None:
    assert global_time(TEN, test_share=0.25).test.height == 3
    hundred = log(*(("u", "1", time, None) for time in range(100)))
    assert 0.07 * 100 > 7
    assert global_time(hundred, test_share=0.07).test.height == 7


def test_a_share_never_divides_a_moment() -> None:
    tied = log(*(("u", str(number), time, None) for number, time in enumerate([1, 1, 2, 2, 2], start=1)))
    assert global_time(tied, test_share=0.2).test.height == 3


def test_without_validation_its_part_is_empty() -> None:
    split = global_time(TEN, test_from=datetime(1970, 1, 1, 0, 0, 10))
    assert (split.test_from, split.validation_from, split.validation.height, split.train.height) == (10.0, None, 0, 9)


def test_case_knows_only_strictly_earlier_interactions() -> None:
    data = log(("u", "1", 1, 4), ("u", "2", 5, 3), ("u", "3", 5, 2), ("u", "4", 6, 1), ("v", "5", 7, None))
    split = global_time(data, test_from=5)
    cases = {case.item.id: case for case in split.cases("test", catalog=CATALOG)}
    assert {target: [item.id for item in case.history.items] for target, case in cases.items()} == {
        "2": ["1"],  # item 3 is of the same second: which came first cannot be known
        "3": ["1"],
        "4": ["1", "2", "3"],
        "5": [],
    }
    assert cases["4"].history.ratings == (4.0, 3.0, 2.0)
    assert (cases["4"].user_id, cases["4"].timestamp, cases["4"].rating) == ("u", 6.0, 1.0)


@settings(deadline=None, max_examples=60)
@given(rows, st.integers(0, 4), st.integers(0, 4))
def test_time_split_holds_every_row_once_and_no_future(given: list[Row], first: int, second: int) -> None:
    validation_from, test_from = sorted((first, second))
    times = [row[2] for row in given]
    parts = [
        sum(time < validation_from for time in times),
        sum(validation_from <= time < test_from for time in times),
        sum(time >= test_from for time in times),
    ]
    if 0 in parts:
        with pytest.raises(DataError, match="part is empty"):
            global_time(log(*given), test_from=test_from, validation_from=validation_from)
        return
    split = global_time(log(*given), test_from=test_from, validation_from=validation_from)
    assert [split.train.height, split.validation.height, split.test.height] == parts
    held_together = [*split.train.rows(), *split.validation.rows(), *split.test.rows()]
    assert sorted(held_together, key=repr) == sorted(given, key=repr)
    for part in ("validation", "test"):
        cases = split.cases(part, catalog=CATALOG)
        assert len(cases) == getattr(split, part).height
        for case in cases:
            earlier = sorted(row[1] for row in given if row[0] == case.user_id and row[2] < case.timestamp)
            assert sorted(item.id for item in case.history.items) == earlier


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one of test_from and test_share"),
        ({"test_from": 1.0, "test_share": 0.5}, "one of test_from and test_share"),
        ({"test_share": 1.0}, "between 0 and 1"),
        ({"test_share": 0.1, "validation_share": 0.0}, "between 0 and 1"),
        ({"test_from": 5.0, "validation_from": 1.0, "validation_share": 0.5}, "or neither"),
        ({"test_from": 5.0, "validation_from": 6.0}, "must not be after"),
    ],
)
def test_impossible_moments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        global_time(TEN, **arguments)


def test_no_row_left_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match="5 of 5 rows leaves none to train on"):
        global_time(TEN, test_share=0.5, validation_share=0.5)


def test_a_random_split_holds_every_row_once_and_pairs_together() -> None:
    rows = [(f"u{user}", str(item), float(user * item % 7), 3.0) for user in range(60) for item in range(1, 31)]
    whole = log(*rows, *rows[:200])  # some pairs twice
    split = random_split(whole, share=0.2, validation_share=0.1)
    assert pl.concat(split).sort(COLUMNS).equals(whole.sort(COLUMNS))
    pairs = [set(part.select("user_id", "item_id").rows()) for part in split]
    assert not pairs[0] & pairs[1] | pairs[0] & pairs[2] | pairs[1] & pairs[2]
    for part, share in zip(pairs, (0.7, 0.1, 0.2), strict=True):  # of 1,800 pairs, four standard deviations
        assert abs(len(part) - share * 1800) < 4 * (1800 * share * (1 - share)) ** 0.5
    assert split.train.equals(split.train.sort("user_id", "timestamp", maintain_order=True))
    half = random_split(whole[::2], share=0.2, validation_share=0.1)
    for part, of_half in zip(pairs, half, strict=True):  # what is drawn does not depend on what else there is
        assert set(of_half.select("user_id", "item_id").rows()) <= part
    less = random_split(whole, share=0.05, validation_share=0)
    assert set(less.test.select("user_id", "item_id").rows()) <= pairs[2]
    assert less.validation.is_empty()
    assert not random_split(whole, seed=1).test.equals(random_split(whole).test)


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.2, -0.1), (0.9, 0.1), (1.2, 0.0), (float("nan"), 0.1)])
def test_shares_that_leave_nothing_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="share must be above 0, validation_share 0 or more and both below 1 together"):
        random_split(log(("u", "1", 1, 3)), share=shares[0], validation_share=shares[1])


def test_a_log_too_short_for_a_random_split_is_an_error() -> None:
    with pytest.raises(DataError, match=r"the \w+ part of 1 interactions is empty"):
        random_split(log(("u", "1", 1, 3)))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (TEN.drop("rating"), "'rating'"),
        (TEN.with_columns(pl.col("item_id").cast(pl.Int64)), "'item_id' of String, found Int64"),
        (log(("u", "1", 1, None), ("u", "2", float("nan"), None)), "row 2, timestamp: nan"),
        (TEN.with_columns(user_id=pl.lit(None, pl.String)), "row 1, user_id: None"),
    ],
)
def test_logs_that_cannot_be_ordered_are_refused(frame: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        leave_one_out(frame)


def test_unknown_tie_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="'random'"):
        leave_one_out(TEN, ties="random")  # type: ignore[arg-type]


def test_further_columns_are_left_out_and_the_input_is_unchanged() -> None:
    more = TEN.with_columns(basket=pl.lit(1))
    assert tuple(leave_one_out(more).train.columns) == COLUMNS
    assert more.columns == [*COLUMNS, "basket"]
