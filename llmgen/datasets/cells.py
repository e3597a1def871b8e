"""Cells of a user's tables -> attributes, times and ratings."""

from __future__ import annotations

import ast
import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from llmgen.errors import DataError
from llmgen.types import Attribute

EXACT = 2**53  # beyond it a float is not one whole number
COMPACT = ((19000101, 21001231, "%Y%m%d"), (19000101000000, 21001231235959, "%Y%m%d%H%M%S"))
"""Smallest, largest and form of dates that are written as one number."""
TIME_UNITS = {
    "s": (1.0, "seconds"),
    "ms": (1e3, "milliseconds"),
    "us": (1e6, "microseconds"),
    "ns": (1e9, "nanoseconds"),
}
"""How many a second, and the name."""
UNITS = ((1e11, 1e14, 1e3, "milliseconds"), (1e14, 1e17, 1e6, "microseconds"), (1e17, 1e20, 1e9, "nanoseconds"))
"""From, to, how many a second: 1e11 seconds are the year 5138, 1e11 milliseconds the year 1973, and so on."""
BY_CHANCE = 0.2  # of numbers of eight digits in the range of dates one in 27 is a date by chance

_LIKE_NUMBER = re.compile(r"[-+]?([1-9][0-9]{0,2}([.,'\s][0-9]{3})+|0|[1-9][0-9]*)([.,][0-9]+)?")
_WITH_COMMA = re.compile(r"-?([1-9][0-9]{0,2}(\.[0-9]{3})+|0|[1-9][0-9]*)(,[0-9]+)?")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def typed(cells: Sequence[str | None], separator: str) -> list[Attribute | None]:
    """A column of text cells by the one type that all of them have."""
    filled = [cell.strip() if cell is not None and cell.strip() else None for cell in cells]
    present = [cell for cell in filled if cell is not None]
    lists = [None if cell is None else _written_list(cell) for cell in filled]
    if present and all(cell is None or made is not None for cell, made in zip(filled, lists, strict=True)):
        return list(lists)
    if separator and any(separator in cell for cell in present):
        return [None if cell is None else _parts(cell, separator) for cell in filled]
    if present and all(re.fullmatch(r"-?(0|[1-9][0-9]*)", cell) for cell in present):
        return [None if cell is None else int(cell) for cell in filled]
    if present and all(is_number(cell) for cell in present):
        return whole([None if cell is None else float(cell) for cell in filled])
    return list(filled)


def is_number(cell: str) -> bool:
    """Whether a text is a number as data files write it; `007` is none."""
    return _NUMBER.fullmatch(cell.strip()) is not None


def is_like_number(cell: str) -> bool:
    """Whether a text is a number to a reader: also with a currency, %, signs between thousands, a decimal comma.

    >>> [is_like_number(cell) for cell in ("$1,299.00", "10,99 EUR", "7 %", "20-30", "007", "Top 10")]
    [True, True, True, False, False, False]
    """
    plain = "".join(sign for sign in cell if sign != "%" and unicodedata.category(sign) != "Sc").strip()
    return _LIKE_NUMBER.fullmatch(re.sub(r"^[A-Z]{3} ?| ?[A-Z]{3}$", "", plain)) is not None


def has_comma(cell: str) -> bool:
    """Whether a text is a number as those with decimal commas are written, `1.234,5`."""
    return _WITH_COMMA.fullmatch(cell.strip()) is not None


def with_points(cells: Sequence[str | None]) -> tuple[list[str | None], int]:
    """A column of numbers with decimal commas (`1.234,5`), written with points, and how many cells had a comma.

    It stays as it is, and the number is 0, where no cell has a comma or any cell is something else.
    """
    filled = [cell.strip() for cell in cells if cell is not None and cell.strip()]
    commas = sum("," in cell for cell in filled)
    if not commas or not all(map(has_comma, filled)):
        return list(cells), 0
    return [cell if cell is None else cell.replace(".", "").replace(",", ".") for cell in cells], commas


def with_points_each(column: pl.Series) -> tuple[pl.Series, int]:
    """The same for each cell by itself and without points between thousands: `4,5` is 4.5, whatever others are."""
    if column.dtype != pl.String:
        return column, 0
    pattern = r"^(\s*-?[0-9]+),([0-9]+\s*)$"
    return column.str.replace(pattern, "$1.$2"), int(column.str.contains(pattern).sum())


def whole(column: Sequence[Attribute | None]) -> list[Attribute | None]:
    """A column of floats as whole numbers where all of them are.

    Data frames make floats of a column of whole numbers as soon as one cell is empty: a year is then written 1979.0.
    """
    numbers = [value for value in column if isinstance(value, float)]
    if not all(value.is_integer() and abs(value) < EXACT for value in numbers):
        return list(column)
    return [int(value) if isinstance(value, float) else value for value in column]


def _written_list(cell: str) -> tuple[str, ...] | None:
    """The texts of a list as Python and JSON write it; None where a cell is none."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return None
    try:
        parts = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        return None
    return tuple(parts) if isinstance(parts, list) and all(isinstance(part, str) for part in parts) else None


def _parts(cell: str, separator: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in cell.split(separator) if part.strip())


class Read(NamedTuple):
    """An attribute's value, and whether the cell could be one."""

    value: Attribute | None
    fine: bool


def attribute(cell: object) -> Read:
    """A typed cell as an attribute, and whether it can be one; an empty cell is fine and none."""
    if cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell)):
        return Read(None, True)
    if isinstance(cell, str | bool | int | float):
        return Read(cell, True)
    if isinstance(cell, date):
        return Read(cell.isoformat(), True)
    if isinstance(cell, list | pl.Series) and all(isinstance(part, str) for part in cell):
        return Read(tuple(cell), True)
    return Read(None, False)


class Times(NamedTuple):
    """Seconds since 1970 UTC, null where a cell is no time; and what was read, where it was not seconds or ISO 8601."""

    seconds: pl.Series
    read_as: str | None


def times(column: pl.Series, name: str, path: Path, unit: str | None = None) -> Times:
    """A column of times.

    Args:
        column: Of a file.
        name: Its name.
        path: The file.
        unit: Of `TIME_UNITS`, where it is known; None where the numbers tell.

    Raises:
        DataError: The column is of another type, or holds times of more than one kind, which nobody can tell apart; or
            dates, where a unit is given.
    """
    kind = column.dtype
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        if unit is not None:
            raise _no_unit(path, name, column[0])
        return Times(column.dt.epoch("us").cast(pl.Float64) / 1e6, None)
    if kind.is_numeric():
        found = column.cast(pl.Float64)
        return _numbers(found, name, path) if unit is None else _in_unit(found, unit)
    if kind not in (pl.String, pl.Object):
        raise DataError(f"{path}, column {name!r}: a time is a number, a date or text, not {kind}; cast the column")
    if kind == pl.Object:
        column = pl.Series(name, [_text(cell) for cell in column], pl.String)
    column = column.str.strip_chars()
    found = column.cast(pl.Float64, strict=False)
    if unit is not None:
        dated = (text for text in column.drop_nulls() if _moment(text) is not None)
        if found.is_null().all() and (example := next(dated, None)) is not None:
            raise _no_unit(path, name, example)
        return _in_unit(found, unit)
    others = column.filter(found.is_null() & column.is_not_null()).unique(maintain_order=True)
    if others.is_empty():
        return _numbers(found, name, path)
    moments = pl.Series([_moment(text) for text in others], dtype=pl.Float64)
    dates, numbers = others.filter(moments.is_not_null()), column.filter(found.is_finite().fill_null(False))
    if dates.is_empty():
        return _numbers(found, name, path)
    if not numbers.is_empty():
        raise _mixed(path, name, dates[0], numbers[0])
    return Times(column.replace_strict(others, moments, default=None, return_dtype=pl.Float64), None)


def _no_unit(path: Path, name: str, example: object) -> DataError:
    return DataError(
        f"{path}, column {name!r}: dates such as {str(example)!r}, and a unit is for numbers; leave it out"
    )


def _in_unit(found: pl.Series, unit: str) -> Times:
    a_second, name = TIME_UNITS[unit]
    return Times(found / a_second, name)


def _numbers(found: pl.Series, name: str, path: Path) -> Times:
    """Numbers by what all of them are: dates written as one number, or a time in one unit."""
    finite = found.filter(found.is_finite().fill_null(False))
    for smallest, largest, form in COMPACT:
        near = finite.filter((finite >= smallest) & (finite <= largest)).unique()
        moments = {value: moment for value in near if (moment := _compact(value, form)) is not None}
        is_date = finite.is_in(list(moments))
        if is_date.all() and not finite.is_empty():
            seconds = found.replace_strict(moments, default=None, return_dtype=pl.Float64)
            return Times(seconds, f"dates such as {next(iter(moments)):.0f}")
        if is_date.sum() > BY_CHANCE * finite.len():
            raise _mixed(path, name, f"{finite.filter(is_date)[0]:.0f}", f"{finite.filter(~is_date)[0]:.0f}")
    sizes = finite.abs().filter(finite != 0)
    for lowest, highest, a_second, unit in UNITS:
        if not sizes.is_empty() and (sizes >= lowest).all() and (sizes < highest).all():
            return Times(found / a_second, unit)
    return Times(found, None)


def _mixed(path: Path, name: str, one: str, other: str) -> DataError:
    return DataError(
        f"{path}, column {name!r}: times of more than one kind, such as {one!r} and {other!r}; write all of them "
        "alike, as seconds since 1970 or as ISO 8601 such as 2011-12-09T12:50:00"
    )


def _compact(value: float, form: str) -> float | None:
    try:
        return datetime.strptime(f"{value:.0f}", form).replace(tzinfo=UTC).timestamp() if value.is_integer() else None
    except ValueError:
        return None


def _text(cell: object) -> str | None:
    return str(cell) if isinstance(cell, str | int | float) and not isinstance(cell, bool) else None


def _moment(text: str) -> float | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def odd_ones(values: Sequence[Attribute | None]) -> list[bool]:
    """Which values are of another type than the first one; whole numbers and numbers are one type."""
    kinds = [float if type(value) is int else type(value) for value in values]
    first = next((kind for kind, value in zip(kinds, values, strict=True) if value is not None), None)
    return [value is not None and kind is not first for kind, value in zip(kinds, values, strict=True)]


def ratings(column: pl.Series, path: Path) -> pl.Series:
    """Ratings as floats; null where a cell is blank or no number."""
    if column.dtype == pl.String:
        return column.str.strip_chars().cast(pl.Float64, strict=False)
    if column.dtype == pl.Object:
        return pl.Series(column.name, [_number(cell) for cell in column], pl.Float64)
    if not (column.dtype.is_numeric() or column.dtype == pl.Null):
        raise DataError(f"{path}, column {column.name!r}: ratings are numbers, not {column.dtype}; cast the column")
    return column.cast(pl.Float64)


def blank(column: pl.Series) -> pl.Series:
    """Where a column has no value: null, or text of nothing but spaces."""
    if column.dtype == pl.String:
        return column.fill_null("").str.strip_chars() == ""
    if column.dtype == pl.Object:
        return pl.Series(
            column.name, [not is_filled(cell) if isinstance(cell, str) else cell is None for cell in column]
        )
    return column.is_null()


def is_filled(cell: object) -> bool:
    """Whether a cell is text and not only spaces."""
    return isinstance(cell, str) and bool(cell.strip())


def _number(cell: object) -> float | None:
    if isinstance(cell, bool) or not isinstance(cell, str | int | float):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None
