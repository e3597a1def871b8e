"""A user's own tables: CSV, TSV, JSON lines or Parquet -> a catalog and its interactions.

Every row is read, or refused with file, row and column, or dropped and counted; none is guessed at.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import polars as pl

from llmgen.catalog.core import LONGEST_LABEL, Catalog
from llmgen.datasets.cells import (
    TIME_UNITS,
    attribute,
    blank,
    has_comma,
    is_filled,
    is_like_number,
    is_number,
    odd_ones,
    ratings,
    times,
    typed,
    whole,
    with_points,
    with_points_each,
)
from llmgen.datasets.files import SEPARATORS, Columns, MissingColumnError, form, read_columns
from llmgen.datasets.report import EXAMPLES, INTERACTIONS, Dataset, Table, Tally
from llmgen.errors import ArgumentError, DataError
from llmgen.text.normalization import plain
from llmgen.types import Attribute, Item

LATEST_S = 1e11  # the year 5138; a larger number of seconds is really of milliseconds or smaller


def load_tables(
    items: str | Path,
    interactions: str | Path,
    *,
    item_id: str = "item_id",
    title: str = "title",
    user_id: str = "user_id",
    timestamp: str | None = "timestamp",
    rating: str | None = None,
    interactions_item_id: str | None = None,
    attributes: Sequence[str] = (),
    list_separator: str = "|",
    noun: str = "item",
    label: str = "{title}",
    shown: Sequence[str] = (),
    on_bad: Literal["error", "drop"] = "error",
    separator: str | None = None,
    encoding: str | None = None,
    time_unit: Literal["s", "ms", "us", "ns"] | None = None,
    name: str | None = None,
) -> Dataset:
    """A data set from a table of items and a table of who took what when.

    Files are `.csv`, `.tsv` or `.txt` (cells between commas, tabs, semicolons or bars: whichever finds the columns in
    the header), RecBole's `.inter` and `.item`, `.jsonl`, `.ndjson` or `.json` (lines, or one list), each also packed
    as `.gz`, `.bz2`, `.xz`, `.zip` or (with the package zstandard) `.zst`, or `.parquet`; text is UTF-8, or UTF-16
    with its mark. Ids are strings, as written: `007` stays `007`. One user may take one item many times. Between
    semicolons, numbers may have decimal commas; where a header names kinds as RecBole does, `token_seq` and `float_seq`
    are lists between spaces, but for the title.

    Args:
        items: File with one row an item: its id, its title, attributes.
        interactions: File with one row an interaction, in an order that means something where times are equal.
        item_id: Column of the item's id, in both files; see `interactions_item_id`.
        title: Column of its title.
        user_id: Column of the user's id.
        timestamp: Column of the time, all cells of one kind: seconds since 1970 UTC, or milli-, micro- or nanoseconds,
            or ISO 8601 (without an offset it is taken as UTC), or dates such as 20111209; the report says which.
            None where the file has no times: then its order says what came first. So it does, and the report says so,
            where the file has nothing but the other columns.
        rating: Column of a number, or None where there are no ratings; an empty cell is no rating.
        interactions_item_id: Column of the item's id in the file of interactions, where it has another name there.
        attributes: Columns of the item file to keep; an empty cell is an attribute that the item lacks. In CSV and
            TSV a column becomes tuples of strings if any of its cells holds the list separator or all are lists such
            as `['a', 'b']`, else whole numbers (`1979.0` is one) or numbers if all its cells are such (`007` is
            not), else strings; where most cells of a column of strings are numbers, the report names the others.
        list_separator: Between the values of one CSV or TSV cell.
        noun: What the catalog calls one item in prompts, singular.
        label: How it writes an item: a format string over `title` and `attributes`.
        shown: Which attributes prompts may show.
        on_bad: What a bad row does: `error` stops at the first one, `drop` leaves it out and counts it.
        separator: One ASCII character between the cells of files of text, or `tab`; None where the headers tell.
        encoding: Of files of text and JSON, such as `cp1252`, by Python's names of them; None for the above.
        time_unit: What the numbers in the column of times are: `s`, `ms`, `us` or `ns` since 1970 UTC; None where they
            tell by their size. What was given of these three stands in the report.
        name: What the data set is called; the name of the interaction file if None.

    Raises:
        DataError: A file is missing, empty, not readable or lacks a column; with `on_bad="error"` also the first bad
            row: an id that is empty or stands twice, an empty title, an item that the item file does not have, a
            time, rating or attribute that cannot be read, lines that a quote which is not closed makes one row of.
            Rows are counted from 1, without the header and blank lines. A wanted column that stands twice.
        ValueError: `label` or `shown` names an attribute that is not in `attributes`.
    """
    _check_names(label, shown, attributes, on_bad)
    items, interactions = Path(items).expanduser(), Path(interactions).expanduser()
    separator = {"tab": "\t", "\\t": "\t"}.get(separator or "", separator)
    _check_form((items, interactions), separator, encoding)
    if time_unit is not None and time_unit not in TIME_UNITS:
        raise ArgumentError(f"time_unit is s, ms, us or ns, not {time_unit!r}")
    if time_unit is not None and timestamp is None:
        raise ArgumentError("time_unit is given, and timestamp=None says that there are no times; leave one out")
    tally = Tally()

    def read(path: Path, table: Table, columns: Sequence[str], ids: Sequence[str]) -> Columns:
        found = read_columns(path, columns, ids=ids, separator=separator, encoding=encoding)
        if separator is not None and found.separator is not None:
            tally.add_many(f"cells between {separator!r}", table, "noted", found.rows, ())
        if encoding is not None and form(path) != ".parquet":
            tally.add_many(f"read as {encoding}", table, "noted", found.rows, ())
        return found

    try:
        item_table = read(items, "items", [item_id, title, *attributes], (item_id,))
    except MissingColumnError as error:
        raise error.naming({item_id: "item_id", title: "title"}) from None
    judge = _Judge("items", items, on_bad, tally)
    catalog = _catalog(item_table, judge, item_id, title, attributes, list_separator, noun, label, shown)

    columns = {"user_id": user_id, "item_id": interactions_item_id or item_id}
    ids = tuple(columns.values())
    columns |= {} if timestamp is None else {"timestamp": timestamp}
    columns |= {} if rating is None else {"rating": rating}
    try:
        log_table = read(interactions, "interactions", list(columns.values()), ids)
    except MissingColumnError as error:
        if error.missing != (timestamp,):
            raise error.naming({theirs: ours for ours, theirs in columns.items()}, "interactions") from None
        del columns["timestamp"]
        if not set(error.found) <= set(columns.values()):
            more = "name the column of the times, or say timestamp=None (--column timestamp=none) where there is none"
            raise DataError(f"{error}; {more}") from None
        log_table = read(interactions, "interactions", list(columns.values()), ids)
    log = _log(log_table, _Judge("interactions", interactions, on_bad, tally), columns, catalog, time_unit)

    source = f"{items.name} + {interactions.name}"
    report = tally.report(source, item_table.rows, catalog, log_table.rows, log)
    return Dataset(name or interactions.name.split(".")[0], catalog, log, report)


class _Judge:
    """Refuses or drops bad rows of one file, as the caller asked."""

    def __init__(self, table: Table, path: Path, on_bad: str, tally: Tally) -> None:
        self.table, self.path, self.on_bad, self.tally = table, path, on_bad, tally

    def judge(self, rule: str, column: str, bad: Sequence[int], value: Callable[[int], object], hint: str = "") -> None:
        """Deal with rows (from 0, ascending) that broke one rule.

        Raises:
            DataError: There is one and the caller did not ask to drop it.
        """
        if not bad:
            return
        if self.on_bad == "error":
            more = f" (and {len(bad) - 1:,} more such rows)" if len(bad) > 1 else ""
            raise DataError(
                f"{self.path}, row {bad[0] + 1}, column {column!r}: {rule}: {value(bad[0])!r}{more}"
                f"{'; ' + hint if hint else ''}; correct it, or leave such rows out with on_bad='drop'"
            )
        examples = [f"row {row + 1}: {value(row)!r}" for row in bad[:3]]
        self.tally.add_many(f"{column}: {rule}", self.table, "dropped", len(bad), examples)

    def reasons(self) -> str:
        """Why rows of this file were dropped, with examples."""
        dropped = [one for one in self.tally.found.items() if one[0][1:] == (self.table, "dropped")]
        return "; ".join(f"{count:,} times {rule} ({examples[0]})" for (rule, *_), (count, examples) in dropped)


def _catalog(
    table: Columns,
    judge: _Judge,
    item_id: str,
    title: str,
    attributes: Sequence[str],
    list_separator: str,
    noun: str,
    label: str,
    shown: Sequence[str],
) -> Catalog:
    ids, titles = table.frame[item_id].to_list(), _plain(table.frame[title].to_list(), title, judge.tally)
    good = _without_broken(table, judge)
    good = _sift(good, judge, "no id", item_id, ids, lambda row: not is_filled(ids[row]))
    first: dict[str, int] = {}
    for row in good:
        first.setdefault(ids[row], row)
    good = _sift(good, judge, "an id that an earlier row has", item_id, ids, lambda row: first[ids[row]] != row)
    good = _sift(good, judge, "empty or not text", title, titles, lambda row: not is_filled(titles[row]))
    kept: dict[str, list[Attribute | None]] = {}
    for column in attributes:
        cells = _plain(table.frame[column].to_list(), column, judge.tally)
        if table.kinds.get(column) in ("token_seq", "float_seq"):
            kept[column] = [tuple(cell.split()) or None if cell else None for cell in cells]
            continue
        if table.is_text:
            if table.separator == ";":
                _note_points(judge.tally, column, cells)
                cells, commas = with_points(cells)
                judge.tally.add_many(f"{column}: decimal commas read", "items", "noted", commas, ())
            kept[column] = [None] * len(cells)
            found_types = typed([cells[row] for row in good], list_separator)  # what is left out decides on no type
            for row, value in zip(good, found_types, strict=True):
                kept[column][row] = value
            _note_text(judge.tally, column, kept[column], cells, table)
            continue
        read = [attribute(cell) for cell in cells]
        kept[column] = whole([found.value for found in read])
        rule = "neither text, number, boolean nor list of texts"
        good = _sift(good, judge, rule, column, cells, [not found.fine for found in read].__getitem__)
        odd = odd_ones(kept[column])
        good = _sift(good, judge, "of another type than the rows before", column, cells, odd.__getitem__)
        _note_text(judge.tally, column, kept[column], cells, table)
    if not good:
        raise DataError(f"{judge.path}: none of {table.rows} rows is an item: {judge.reasons()}")
    made = []
    for row in good:
        known = {column: value for column in attributes if (value := kept[column][row]) is not None}
        made.append(Item(ids[row], " ".join(titles[row].split()), known))
    long = [f"item {item.id}: {item.title[:40]!r}…" for item in made if len(item.title) > LONGEST_LABEL]
    rule = f"{title}: cut to {LONGEST_LABEL} characters in prompts and answers, with a mark of their own"
    judge.tally.add_many(rule, "items", "noted", len(long), long)
    return Catalog(made, noun=noun, label=label, shown=shown)


def _note_text(
    tally: Tally, column: str, kept: Sequence[Attribute | None], cells: Sequence[object], table: Columns
) -> None:
    """Tell of a column of text most of whose cells are numbers: a filter with a range finds none of its items."""
    texts = {row: value for row, value in enumerate(kept) if isinstance(value, str)}
    numbers = [row for row, value in texts.items() if is_like_number(value)]
    if 2 * len(numbers) < len(texts):
        return
    if table.is_text:
        odd = [row for row, value in texts.items() if not is_number(value)]
        if table.separator == ";":  # those with decimal commas are fine, unless they are all there is
            odd = [row for row in odd if not has_comma(texts[row])] or odd
        found, rule = odd, "read as text, since these cells are not numbers"
    else:
        found, rule = numbers, "numbers written as text, which a range does not find"
    examples = [f"row {row + 1}: {cells[row]!r}" for row in found[:EXAMPLES]]
    tally.add_many(f"{column}: {rule}", "items", "noted", len(found), examples)


def _note_points(tally: Tally, column: str, cells: Sequence[str | None]) -> None:
    """Tell of numbers such as `1.299`, where files between semicolons often have a point between thousands."""
    filled = {row: cell for row, cell in enumerate(cells) if cell is not None and cell.strip()}
    if all(map(has_comma, filled.values())) and not any("," in cell for cell in filled.values()):
        found = [f"row {row + 1}: {cell!r}" for row, cell in filled.items() if "." in cell]
        rule = "the point read as a decimal point, not as one between thousands"
        tally.add_many(f"{column}: {rule}", "items", "noted", len(found), found)


def _plain(cells: Sequence[object], column: str, tally: Tally) -> list[Any]:
    """The cells as `plain` text where they are text or lists of it, counted."""
    made: list[Any] = list(cells)
    for row, cell in enumerate(cells):
        parts = [cell] if isinstance(cell, str) else cell
        if not isinstance(parts, list | pl.Series) or not all(isinstance(part, str) for part in parts):
            continue
        read = [plain(part) for part in parts]
        example = f"row {row + 1}: {cell!r}"
        if any(part.decoded for part in read):
            tally.add(f"{column}: HTML entities decoded", "items", "changed", example)
        if any(part.stripped for part in read):
            tally.add(f"{column}: control characters taken out", "items", "changed", example)
        texts = [part.text for part in read]
        made[row] = texts[0] if isinstance(cell, str) else texts
    return made


def _log(
    table: Columns, judge: _Judge, columns: dict[str, str], catalog: Catalog, time_unit: str | None
) -> pl.DataFrame:
    frame, path = table.frame, judge.path
    for name in ("timestamp", "rating") if table.separator == ";" else ():
        if name in columns:
            read, commas = with_points_each(frame[columns[name]])
            frame = frame.with_columns(read)
            rule = f"{columns[name]}: decimal commas read"
            judge.tally.add_many(rule, "interactions", "noted", commas, ())
    good = pl.Series([True]).new_from_index(0, frame.height)
    _without_broken(table, judge)
    if table.broken:
        good = ~pl.int_range(frame.height, eager=True).is_in(list(table.broken))

    def sift(rule: str, column: str, bad: pl.Series, hint: str = "") -> None:
        nonlocal good
        rows = (bad & good).arg_true().to_list()
        judge.judge(rule, column, rows, lambda row: frame[column][row], hint)
        good &= ~bad

    user_id, item_id = columns["user_id"], columns["item_id"]
    for column in (user_id, item_id):
        sift("no id", column, blank(frame[column]))
    hint = f"the catalog has ids such as {', '.join(repr(one) for one in catalog.ids[:3])}"
    known = frame[item_id].is_in(list(catalog.ids)).fill_null(False)
    sift("an item that the item file does not have", item_id, ~known, hint)
    if "timestamp" in columns:
        timestamp = columns["timestamp"]
        moments, read_as = times(frame[timestamp], timestamp, path, time_unit)
        if read_as is not None:
            judge.tally.add_many(f"{timestamp}: read as {read_as}", "interactions", "noted", frame.height, ())
        sift("no time", timestamp, blank(frame[timestamp]))
        hint = "wanted seconds since 1970, or ISO 8601 such as 2011-12-09T12:50:00"
        sift("not a time", timestamp, ~moments.is_finite().fill_null(False), hint)
        hint = "other rows are in seconds, and this looks like milliseconds; divide it by 1000"
        sift("not seconds since 1970", timestamp, moments.abs().fill_null(0.0) >= LATEST_S, hint)
    else:
        moments = pl.Series(range(frame.height), dtype=pl.Float64)
        judge.tally.add_many("no times: the order of the file", "interactions", "noted", frame.height, ())
    values = pl.Series([None], dtype=pl.Float64).new_from_index(0, frame.height)
    if "rating" in columns:
        values = ratings(frame[columns["rating"]], path)
        unread = ~blank(frame[columns["rating"]]) & ~values.is_finite().fill_null(False)
        sift("not a rating", columns["rating"], unread)
    made = {"user_id": frame[user_id], "item_id": frame[item_id], "timestamp": moments, "rating": values}
    log = pl.DataFrame(made, schema=dict(INTERACTIONS)).filter(good)
    if log.is_empty():
        raise DataError(f"{path}: none of {table.rows} rows is an interaction: {judge.reasons()}")
    return log


def _check_names(label: str, shown: Sequence[str], attributes: Sequence[str], on_bad: str) -> None:
    if on_bad not in ("error", "drop"):
        raise ArgumentError(f"on_bad must be 'error' or 'drop', not {on_bad!r}")
    for reserved in {"id", "title"} & set(attributes):
        raise ArgumentError(
            f"an attribute cannot be called {reserved!r}: every item has one already; rename the column"
        )
    try:
        parts = list(string.Formatter().parse(label))
    except ValueError as error:
        raise ArgumentError(
            f"the label {label!r} cannot be read: {error}; write it like {{title}} ({{year}})"
        ) from error
    for _, field, _, _ in parts:
        if field is not None and field != "title" and field not in attributes:
            raise ArgumentError(f"label {label!r} wants {field!r}, which is not in attributes {tuple(attributes)}")
    for name in shown:
        if name not in attributes:
            raise ArgumentError(f"shown names {name!r}, which is not in attributes {tuple(attributes)}")


def _check_form(paths: Sequence[Path], separator: str | None, encoding: str | None) -> None:
    forms = {form(path) for path in paths}
    if separator is not None:
        if not (len(separator) == 1 and separator.isascii()) or separator in '"\r\n':
            raise ArgumentError(
                f"separator is one ASCII character between cells, such as ';' or 'tab', not {separator!r}"
            )
        if forms.isdisjoint(SEPARATORS):
            raise ArgumentError(f"separator is for {', '.join(SEPARATORS)}, and neither file is one; leave it out")
    if encoding is not None:
        try:
            b"ab".decode(encoding, "replace")
        except (LookupError, ValueError):
            raise ArgumentError(
                f"no encoding is called {encoding!r}; there are utf-8, cp1252, iso-8859-1 and others"
            ) from None
        if forms == {".parquet"}:
            raise ArgumentError("encoding is for files of text and JSON, and neither file is one; leave it out")


def _without_broken(table: Columns, judge: _Judge) -> list[int]:
    judge.judge("unreadable row", "(all)", sorted(table.broken), table.broken.__getitem__)
    examples = [f"row {row + 1}: {lines}" for row, lines in table.of_lines.items()]
    rule = "rows of several lines, as one cell has line breaks"
    judge.tally.add_many(rule, judge.table, "noted", len(examples), examples)
    return [row for row in range(table.rows) if row not in table.broken]


def _sift(
    rows: Iterable[int],
    judge: _Judge,
    rule: str,
    column: str,
    cells: Sequence[object],
    is_bad: Callable[[int], bool],
) -> list[int]:
    """The rows that pass."""
    good: list[int] = []
    bad: list[int] = []
    for row in rows:
        (bad if is_bad(row) else good).append(row)
    judge.judge(rule, column, bad, cells.__getitem__)
    return good
