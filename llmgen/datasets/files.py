"""Files of tables -> columns: CSV, TSV, JSON lines and Parquet, whole or refused with the place that is wrong."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from llmgen.errors import DataError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")
FORMATS = (*SEPARATORS, *JSON_LINES, ".parquet")


class Columns(NamedTuple):
    """A file's wanted columns as Python or polars values.

    Attributes:
        frame: The columns, for JSON lines as objects; ids and all of CSV as strings.
        rows: How many rows there are.
        is_text: Whether every cell came as text and its type is ours to find.
        broken: Row (from 0) -> why it could not be read at all.
    """

    frame: pl.DataFrame
    rows: int
    is_text: bool
    broken: dict[int, str]


def read_columns(path: Path, wanted: Sequence[str], *, ids: Sequence[str]) -> Columns:
    """The wanted columns of a file, ids as strings."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in FORMATS or (path.suffix == ".gz" and suffix == ".parquet"):
        raise DataError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; wanted {', '.join(FORMATS)}")
    wanted = list(dict.fromkeys(wanted))
    try:
        if suffix.lower() == ".parquet":
            table = _parquet(path, wanted, ids)
        elif suffix.lower() in SEPARATORS:
            table = _csv(path, _bytes(path), SEPARATORS[suffix.lower()], wanted)
        else:
            table = _json_lines(path, _bytes(path), wanted, ids)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if table.rows == 0:
        raise DataError(f"{path} has no rows")
    return table


def _bytes(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{path} is not an intact gzip file: {error}") from error
    content = content.removeprefix(b"\xef\xbb\xbf")  # spreadsheets write it
    if not content.strip():
        raise DataError(f"{path} is empty")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        start = content.rfind(b"\n", 0, error.start) + 1
        shown = content[start:].split(b"\n", 1)[0][:80].decode("utf-8", "backslashreplace")
        raise DataError(f"{path}, line {line}: not UTF-8: {shown!r}; save the file as UTF-8") from None
    return content


def _csv(path: Path, content: bytes, separator: str, wanted: Sequence[str]) -> Columns:
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    # polars is many times faster, but reads a stray quote (12" vinyl) as the start of a cell of several lines.
    frame = _quoted(path, content, separator, wanted) if b'"' in content else _plain(path, content, separator, wanted)
    return Columns(frame, frame.height, is_text=True, broken={})


def _plain(path: Path, content: bytes, separator: str, wanted: Sequence[str]) -> pl.DataFrame:
    header = content.split(b"\n", 1)[0].decode().split(separator)
    _check_columns(path, header, wanted)
    try:
        frame = pl.read_csv(io.BytesIO(content), separator=separator, infer_schema=False, quote_char=None)
    except pl.exceptions.PolarsError as error:
        lines = (line.split(separator) for line in content.decode().split("\n"))
        _check_widths(path, [cells for cells in lines if any(cells)])
        raise DataError(f"{path} is not a table: {str(error).splitlines()[0]}") from error
    return frame.filter(~pl.all_horizontal(pl.all().is_null())).select(wanted)


def _quoted(path: Path, content: bytes, separator: str, wanted: Sequence[str]) -> pl.DataFrame:
    rows: list[list[str]] = []
    reader = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=separator, strict=True)
    try:
        rows.extend(cells for cells in reader if any(cells))
    except csv.Error as error:
        raise DataError(
            f"{path}, row {max(len(rows), 1)}: {error}; a cell that holds quotes stands in quotes, its own doubled"
        ) from None
    header = rows[0]
    _check_columns(path, header, wanted)
    _check_widths(path, rows)
    cells_of = {column: header.index(column) for column in wanted}
    columns = {
        column: [cells[place] or None if place < len(cells) else None for cells in rows[1:]]
        for column, place in cells_of.items()
    }
    return pl.DataFrame(columns, schema=dict.fromkeys(wanted, pl.String))


def _check_widths(path: Path, rows: Sequence[Sequence[str]]) -> None:
    for row, cells in enumerate(rows):
        if len(cells) > len(rows[0]):
            raise DataError(
                f"{path}, row {row}: {len(cells)} cells under a header of {len(rows[0])}: {list(cells)!r}; "
                "quote the cell that holds the separator"
            )


def _parquet(path: Path, wanted: Sequence[str], ids: Sequence[str]) -> Columns:
    try:
        schema = pl.read_parquet_schema(path)
        _check_columns(path, list(schema), wanted)
        frame = pl.read_parquet(path, columns=list(wanted))
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} is not an intact Parquet file: {str(error).splitlines()[0]}") from error
    for column in ids:
        kind = frame.schema[column]
        if not (kind == pl.String or kind.is_integer() or kind in (pl.Categorical, pl.Enum)):
            raise DataError(f"{path}, column {column!r}: ids are strings or integers, not {kind}; cast the column")
    return Columns(frame.with_columns(pl.col(*ids).cast(pl.String)), frame.height, is_text=False, broken={})


def _json_lines(path: Path, content: bytes, wanted: Sequence[str], ids: Sequence[str]) -> Columns:
    cells: dict[str, list[object]] = {column: [] for column in wanted}
    broken: dict[int, str] = {}
    seen: dict[str, None] = {}
    lines = [line for line in content.decode().split("\n") if line.strip()]
    for row, line in enumerate(lines):
        record: object = None
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            broken[row] = f"not JSON ({error.msg}): {line[:80]}"
        if not isinstance(record, dict):
            broken.setdefault(row, f"not an object: {line[:80]}")
            record = {}
        seen.update(dict.fromkeys(record))
        for column in wanted:
            cell = record.get(column)
            if column in ids and cell is not None:
                if isinstance(cell, bool) or not isinstance(cell, str | int):
                    broken.setdefault(row, f"{column} must be a string or a whole number, not {cell!r}")
                    cell = None
                cell = None if cell is None else str(cell)
            cells[column].append(cell)
    if lines and len(broken) < len(lines):
        _check_columns(path, list(seen), wanted)
    frame = pl.DataFrame(
        {name: pl.Series(name, values, pl.String if name in ids else pl.Object) for name, values in cells.items()}
    )
    return Columns(frame, len(lines), is_text=False, broken=broken)


def _check_columns(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in found:
            near = difflib.get_close_matches(column, found, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{path} has no column {column!r} but {', '.join(map(repr, found[:12]))}{hint}")
