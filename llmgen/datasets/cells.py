"""Cells of a user's tables -> attributes, times and ratings."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import NamedTuple

import polars as pl

from llmgen.errors import DataError
from llmgen.types import Attribute


def typed(cells: Sequence[str | None], separator: str) -> list[Attribute | None]:
    """A column of text cells by the one type that all of them have."""
    filled = [cell.strip() if cell is not None and cell.strip() else None for cell in cells]
    present = [cell for cell in filled if cell is not None]
    if separator and any(separator in cell for cell in present):
        return [None if cell is None else _parts(cell, separator) for cell in filled]
    if present and all(re.fullmatch(r"-?(0|[1-9][0-9]*)", cell) for cell in present):
        return [None if cell is None else int(cell) for cell in filled]
    if present and all(re.fullmatch(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", cell) for cell in present):
        return [None if cell is None else float(cell) for cell in filled]
    return list(filled)


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


def seconds(column: pl.Series, name: str, path: Path) -> pl.Series:
    """Seconds since 1970 UTC; null where a cell is no time."""
    kind = column.dtype
    if kind.is_numeric():
        return column.cast(pl.Float64)
    if kind == pl.Date or isinstance(kind, pl.Datetime):
        return column.dt.epoch("us").cast(pl.Float64) / 1e6
    if kind not in (pl.String, pl.Object):
        raise DataError(f"{path}, column {name!r}: a time is a number, a date or text, not {kind}; cast the column")
    if kind == pl.Object:
        return pl.Series(name, [_moment(cell) for cell in column], pl.Float64)
    found = column.str.strip_chars().cast(pl.Float64, strict=False)
    others = column.filter(found.is_null() & column.is_not_null()).unique()
    if others.is_empty():
        return found
    moments = pl.Series([_moment(text) for text in others], dtype=pl.Float64)
    return found.fill_null(column.replace_strict(others, moments, default=None, return_dtype=pl.Float64))


def _moment(cell: object) -> float | None:
    number = _number(cell)
    if number is not None or not isinstance(cell, str):
        return number
    try:
        moment = datetime.fromisoformat(cell.strip())
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
