"""Files of tables -> columns: CSV, TSV, RecBole, JSON and Parquet, whole or refused with the place that is wrong."""

from __future__ import annotations

import bz2
import csv
import difflib
import gzip
import importlib
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import polars as pl

from llmgen.catalog.core import TwiceError, read_json
from llmgen.errors import DataError
from llmgen.types import HALF

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".inter": "\t", ".item": "\t"}
"""What stands between the cells, unless the header has the wanted columns only with another one of `OTHERS`."""
OTHERS = (",", "\t", ";", "|")
JSON_LINES = (".jsonl", ".ndjson", ".json")
FORMATS = (*SEPARATORS, *JSON_LINES, ".parquet")
PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zip": "zip", ".zst": "zstd"}
KINDS = ("token", "token_seq", "float", "float_seq")  # RecBole writes one behind the name of each column


class MissingColumnError(DataError):
    """A file lacks columns.

    Attributes:
        missing: Those of the wanted ones that it lacks.
        found: Those that it has.
    """

    def __init__(self, message: str, missing: Sequence[str], found: Sequence[str]) -> None:
        super().__init__(message)
        self.missing, self.found = tuple(missing), tuple(found)

    def naming(self, ours: Mapping[str, str], table: str = "items") -> DataError:
        """The error with what to say for columns of other names; `ours` has our name for each wanted column."""
        names = [ours[column] for column in self.missing if column in ours]
        if not names:
            return self
        log = table == "interactions"
        said = ", ".join(f"{'interactions_' if log and name == 'item_id' else ''}{name}='...'" for name in names)
        options = " ".join(
            f"--{'interactions-' if log and name == 'item_id' else ''}column {name}=..." for name in names
        )
        return DataError(f"{self}; name yours: load_tables({said}), or {options}")


class Columns(NamedTuple):
    """A file's wanted columns as Python or polars values.

    Attributes:
        frame: The columns, for JSON lines as objects; ids and all of CSV as strings.
        rows: How many rows there are.
        is_text: Whether every cell came as text and its type is ours to find.
        broken: Row (from 0) -> why it could not be read at all.
        of_lines: Row (from 0) -> the lines of the file that it takes, where these are several.
        separator: What stands between the cells; None where there are none, as in JSON.
        kinds: Column -> its kind, `token_seq` for example, where the header names kinds as RecBole does.
    """

    frame: pl.DataFrame
    rows: int
    is_text: bool
    broken: dict[int, str]
    of_lines: Mapping[int, str] = MappingProxyType({})
    separator: str | None = None
    kinds: Mapping[str, str] = MappingProxyType({})


def form(path: Path) -> str:
    """The suffix that says how a file is read, that of packing left out."""
    return (path.with_suffix("") if path.suffix.lower() in PACKED else path).suffix.lower()


def read_columns(
    path: Path,
    wanted: Sequence[str],
    *,
    ids: Sequence[str],
    separator: str | None = None,
    encoding: str | None = None,
) -> Columns:
    """The wanted columns of a file, ids as strings.

    Args:
        path: The file.
        wanted: Names of columns.
        ids: Those among them that are ids.
        separator: Between cells of a file of text; None where the header tells.
        encoding: Of a file of text or JSON; None for UTF-8, or UTF-16 with its mark.

    Raises:
        DataError: The file is missing, empty, not readable or lacks a column.
    """
    packed, suffix = path.suffix.lower() in PACKED, form(path)
    if suffix not in FORMATS or (packed and suffix == ".parquet"):
        raise DataError(
            f"{path}: cannot read {path.suffix or 'a file without suffix'}; wanted {', '.join(FORMATS)}, all but the "
            f"last also packed as {', '.join(PACKED)}"
        )
    wanted = list(dict.fromkeys(wanted))
    try:
        if suffix == ".parquet":
            table = _parquet(path, wanted, ids)
        elif suffix in SEPARATORS:
            table = _csv(path, _bytes(path, encoding), SEPARATORS[suffix], wanted, separator)
        else:
            table = _json_lines(path, _bytes(path, encoding), wanted, ids)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if table.rows == 0:
        raise DataError(f"{path} has no rows")
    return table


def _bytes(path: Path, encoding: str | None) -> bytes:
    """What stands in a file, in UTF-8."""
    content = _unpacked(path, path.read_bytes())
    if encoding is not None:
        try:
            content = content.decode(encoding).encode("utf-8", "surrogatepass")
        except UnicodeError as error:
            where, shown = _place(content, getattr(error, "start", 0))
            raise DataError(f"{path}, line {where}: not {encoding}: {shown!r}; name the encoding that it has") from None
    elif content.startswith((b"\xff\xfe", b"\xfe\xff")):  # spreadsheets save "Unicode text" so
        content = content.decode("utf-16", "surrogatepass").encode("utf-8", "surrogatepass")
    content = content.removeprefix(b"\xef\xbb\xbf")  # spreadsheets write it
    if not content.strip():
        raise DataError(f"{path} is empty")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        where, shown = _place(content, error.start)
        hint = "name its encoding (--encoding)"
        if _is_cp1252(content):  # what Windows writes in western Europe and America
            read = content.decode("cp1252").split("\n")[where - 1][:80].rstrip()
            hint = f"encoding='cp1252' (--encoding cp1252) reads {read!r}"
        raise DataError(f"{path}, line {where}: not UTF-8: {shown!r}; save the file as UTF-8, or {hint}") from None
    return content


def _place(content: bytes, position: int) -> tuple[int, str]:
    """The line of a byte, counted from 1, and the beginning of that line."""
    start = content.rfind(b"\n", 0, position) + 1
    shown = content[start:].split(b"\n", 1)[0][:80].decode("utf-8", "backslashreplace")
    return content.count(b"\n", 0, position) + 1, shown.rstrip()


def _is_cp1252(content: bytes) -> bool:
    try:
        content.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True


def _unpacked(path: Path, content: bytes) -> bytes:
    kind = PACKED.get(path.suffix.lower())
    try:
        if kind == "gzip":
            return gzip.decompress(content)
        if kind == "bzip2":
            return bz2.decompress(content)
        if kind == "xz":
            return lzma.decompress(content)
        if kind == "zip":
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/")]
                if len(names) != 1:
                    raise DataError(f"{path} holds {len(names)} files; wanted a zip of one table")
                return archive.read(names[0])
        if kind == "zstd":
            return _unpacked_zstd(path, content)
    except (EOFError, OSError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not an intact {kind} file: {error}") from error
    return content


def _unpacked_zstd(path: Path, content: bytes) -> bytes:
    """By Python's own module, which it has from 3.14 on, or by the package zstandard."""
    for name in ("compression.zstd", "zstandard"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        try:
            if name != "zstandard":
                return bytes(module.decompress(content))
            made = b""
            while content:  # one frame, or several one behind the other
                frame = module.ZstdDecompressor().decompressobj()
                made += frame.decompress(content)
                if not frame.eof:  # the package gives what it has, and says nothing
                    raise ValueError("it ends in the middle")
                content = frame.unused_data
            return made
        except module.ZstdError as error:
            raise ValueError(str(error)) from error
    raise DataError(
        f"{path} is packed by zstd, which Python reads from 3.14 on; unpack it (zstd -d {path.name}), or pip install "
        "zstandard"
    )


def _csv(path: Path, content: bytes, usual: str, wanted: Sequence[str], given: str | None) -> Columns:
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").lstrip(b"\n")
    first, _, rest = content.partition(b"\n")
    possible = (usual, *OTHERS) if given is None else (given,)
    cells_by = {one: next(csv.reader([first.decode()], delimiter=one)) for one in possible}
    separator = next((one for one, cells in cells_by.items() if set(wanted) <= set(_names(cells))), possible[0])
    if (
        len(cells_by[separator]) == 1
    ):  # another separator finds more: what lacks is told by the names that a reader sees
        separator = max(cells_by, key=lambda one: len(cells_by[one]))
    header, kinds = _names(cells_by[separator]), _kinds(cells_by[separator])
    _check_columns(path, header, wanted)
    return _cells(path, content, rest, separator, header, wanted)._replace(separator=separator, kinds=kinds)


def _cells(
    path: Path, content: bytes, rest: bytes, separator: str, header: Sequence[str], wanted: Sequence[str]
) -> Columns:
    # polars is many times faster, but reads a stray quote (12" vinyl) as the start of a cell of several lines.
    if b'"' in content:
        return _quoted(path, content, separator, header, wanted)
    try:
        schema = {str(place): pl.String for place in range(len(header))}
        frame = pl.read_csv(io.BytesIO(rest), separator=separator, schema=schema, quote_char=None, has_header=False)
    except pl.exceptions.NoDataError:
        return _columns([], header, wanted)
    except pl.exceptions.PolarsError:  # a row has more cells than the header; which one, the slow way tells
        lines = (line.split(separator) for line in rest.decode().split("\n"))
        return _columns([cells for cells in lines if any(cells)], header, wanted)
    frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    frame = frame.select(pl.col(str(header.index(column))).alias(column) for column in wanted)
    return Columns(frame, frame.height, is_text=True, broken={})


def _names(header: Sequence[str]) -> list[str]:
    """The names of columns, without the kinds that RecBole writes behind them."""
    names = [name.strip() for name in header]
    return [name.rpartition(":")[0] for name in names] if _kinds(header) else names


def _kinds(header: Sequence[str]) -> dict[str, str]:
    """The kind of each column, where the header writes one behind every name, as RecBole does."""
    parts = [name.strip().rpartition(":") for name in header]
    return {name: kind for name, _, kind in parts} if all(kind in KINDS for _, _, kind in parts) else {}


def _quoted(path: Path, content: bytes, separator: str, header: Sequence[str], wanted: Sequence[str]) -> Columns:
    text = content.decode()
    lines = text.split("\n")
    rows: list[list[str]] = []
    broken: dict[int, str] = {}
    of_lines: dict[int, str] = {}
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        next(reader)
        if reader.line_num > 1:
            raise DataError(f"{path}: a quote in the header is not closed: {lines[0][:80]!r}; close it or double it")
        first = 2  # the line of the file on which a row begins
        for cells in reader:
            last = reader.line_num
            if any(cells):
                if last > first:
                    of_lines[len(rows)] = f"lines {first} to {last}"
                    if _all_look_like_rows(lines[first - 1 : last], separator, len(header)):
                        joined = " / ".join(lines[first - 1 : last])
                        broken[len(rows)] = (
                            f"lines {first} to {last} of the file, joined by a quote that is not closed: {joined[:200]}"
                        )
                rows.append(cells)
            first = last + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, row {len(rows) + 1}: {error}; a cell that holds quotes stands in quotes, its own doubled"
        ) from None
    table = _columns(rows, header, wanted)
    kept = {row: told for row, told in of_lines.items() if row not in broken}
    return table._replace(broken={**table.broken, **broken}, of_lines=kept)


def _all_look_like_rows(lines: Sequence[str], separator: str, width: int) -> bool:
    """Whether each line has as many cells as the header, and none begins with a space, as words behind a comma do."""
    return all(
        len(cells := line.split(separator)) == width and not any(cell.startswith(" ") for cell in cells)
        for line in lines
    )


def _columns(rows: Sequence[Sequence[str]], header: Sequence[str], wanted: Sequence[str]) -> Columns:
    broken = {
        row: f"{len(cells)} cells under a header of {len(header)}: {list(cells)!r}; quote what holds the separator"
        for row, cells in enumerate(rows)
        if len(cells) > len(header)
    }
    cells_of = {column: header.index(column) for column in wanted}
    columns = {
        column: [cells[place] or None if place < len(cells) else None for cells in rows]
        for column, place in cells_of.items()
    }
    frame = pl.DataFrame(columns, schema=dict.fromkeys(wanted, pl.String))
    return Columns(frame, frame.height, is_text=True, broken=broken)


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
    text = content.decode()
    if text.lstrip().startswith("["):  # the whole file is one list
        try:
            text = "\n".join(json.dumps(record) for record in read_json(text))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from None
        except TwiceError as error:
            raise DataError(f"{path}: {error}; take one out") from None
    lines = [line for line in text.split("\n") if line.strip()]
    for row, line in enumerate(lines):
        record: object = None
        try:
            record = read_json(line)
        except json.JSONDecodeError as error:
            broken[row] = f"not JSON ({error.msg}): {line[:80]}"
        except TwiceError as error:
            broken[row] = f"{error}: {line[:80]}"
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
            if "\\u" in line and HALF.search(json.dumps(cell, ensure_ascii=False)):
                broken.setdefault(row, f"{column} has half a character: {cell!r}")
                cell = None
            cells[column].append(cell)
    if lines and len(broken) < len(lines):
        _check_columns(path, list(seen), wanted)
    frame = pl.DataFrame(
        {name: pl.Series(name, values, pl.String if name in ids else pl.Object) for name, values in cells.items()}
    )
    return Columns(frame, len(lines), is_text=False, broken=broken)


def _check_columns(path: Path, found: Sequence[str], wanted: Sequence[str]) -> None:
    if missing := list(dict.fromkeys(column for column in wanted if column not in found)):
        free = [name for name in found if name not in wanted]  # a column that is another wanted one is not meant
        near = difflib.get_close_matches(missing[0], free, 1, 0.5)
        hint = f"; perhaps {near[0]!r} is meant" if near else ""
        lacks = f"column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}"
        raise MissingColumnError(f"{path} has no {lacks} but {', '.join(map(repr, found[:12]))}{hint}", missing, found)
    for column in wanted:
        places = [_ordinal(place) for place, name in enumerate(found, start=1) if name == column]
        if len(places) > 1:
            which = f"{', '.join(places[:-1])} and {places[-1]}"
            raise DataError(f"{path} has {len(places)} columns {column!r}, the {which}; rename all but one")


def _ordinal(number: int) -> str:
    endings = {1: "st", 2: "nd", 3: "rd"}
    return f"{number}{'th' if number % 100 in (11, 12, 13) else endings.get(number % 10, 'th')}"
