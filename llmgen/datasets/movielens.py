"""MovieLens, by name or from the files that GroupLens publishes.

The users' age, sex, occupation and zip code are quasi-identifiers and are never read.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import polars as pl

from llmgen.datasets.cleaning import Film, clean_films
from llmgen.datasets.report import INTERACTIONS, Dataset, Table, Tally
from llmgen.downloads import cache_dir, cached_member
from llmgen.errors import DataError

Files = Mapping[str, Callable[[], bytes]]

# RecBole's wheel carries ML-100K in its original order. It is a mirror of data here: never installed nor imported.
RECBOLE = ("recbole", "1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
RECBOLE_FOLDER = "recbole/dataset_example/ml-100k/"
RECBOLE_FILES = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
}
"""File -> its SHA-256."""
NAMES = ("movielens-100k",)

# The 19 flags at the end of a line of u.item, in their order there (README of ML-100K).
GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


class Layout(NamedTuple):
    """How one release of MovieLens writes its files.

    Attributes:
        log: Name of the interaction file.
        items: Name of the film file.
        separator: Between columns.
        header: Whether the first line names the columns.
        quoted: Whether a column may stand in double quotes.
        latin: Whether films may be in ISO 8859-1, as 100K and 1M were published; all others are in UTF-8.
    """

    log: str
    items: str
    separator: str
    header: bool
    quoted: bool
    latin: bool


LAYOUTS = (
    Layout("u.data", "u.item", "\t", header=False, quoted=False, latin=True),  # 100K of 1998
    Layout(
        "ratings.csv", "movies.csv", ",", header=True, quoted=True, latin=False
    ),  # 20M and later, latest, latest-small
    Layout("ratings.dat", "movies.dat", "::", header=False, quoted=False, latin=True),  # 1M, 10M
    Layout("ml-100k.inter", "ml-100k.item", "\t", header=True, quoted=False, latin=False),  # RecBole's copy of 100K
)


def load_dataset(
    source: str | Path,
    *,
    noun: str = "film",
    label: str = "{title} ({year})",
    shown: Sequence[str] = ("genres",),
    progress: bool = True,
) -> Dataset:
    """A MovieLens data set, by name or from a folder or zip as GroupLens ships it.

    Args:
        source: `movielens-100k` (fetched once, 2 MB; GroupLens' terms: research, no redistribution), or the path of a
            folder or zip with the files of 100K, 1M, 10M, 20M, 25M, 32M, latest or latest-small.
        noun: What the catalog calls one item in prompts.
        label: How it writes an item.
        shown: Attributes that prompts may show; there are `year` (int) and `genres` (tuple of strings).
        progress: Whether a download shows its progress on stderr.

    Returns:
        Films with cleaned titles; interactions in the order of the file.

    Raises:
        DataError: No such name or path, no MovieLens files there, or a line that cannot be read (file and row named).
        DownloadError: It could not be fetched.
    """
    if source in NAMES:
        name, path = str(source), _fetch_100k(progress=progress)
    else:
        path = Path(source).expanduser()
        name = path.stem if path.suffix == ".zip" else path.name
    files = _open(path, source)
    for layout in LAYOUTS:
        if layout.log in files and layout.items in files:
            tally = Tally()
            log, films = _log(files, layout, tally), _films(files, layout, tally)
            cleaned = clean_films(name, films, log, noun=noun, label=label, shown=shown, tally=tally)
            return Dataset(name, *cleaned)
    pairs = ", ".join(f"{layout.log} + {layout.items}" for layout in LAYOUTS[:-1])
    raise DataError(
        f"{path} holds no MovieLens files ({pairs}) but {', '.join(sorted(files)[:8]) or 'nothing'}; "
        "tables of your own are read by load_tables"
    )


def _fetch_100k(*, progress: bool) -> Path:
    folder = cache_dir() / "datasets" / NAMES[0]
    for name, sha256 in RECBOLE_FILES.items():
        cached_member(RECBOLE, RECBOLE_FOLDER + name, folder / name, sha256, progress=progress)
    return folder


def _open(path: Path, source: str | Path) -> Files:
    """File name -> a function that reads it; in a zip, at any depth, the highest of one name."""
    if path.is_dir():
        return {file.name: file.read_bytes for file in path.iterdir() if file.is_file()}
    if not path.exists():
        raise DataError(f"{str(source)!r} is neither a data set ({', '.join(NAMES)}) nor an existing folder or zip")
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(archive.namelist(), key=lambda name: -name.count("/"))
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is neither a folder nor an intact zip ({error}); fetch it again") from error
    return {PurePosixPath(name).name: _member(path, name) for name in members if not name.endswith("/")}


def _member(path: Path, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, EOFError, OSError) as error:
            raise DataError(f"{name} in {path} is damaged ({error}); fetch it again") from error

    return read


def _log(files: Files, layout: Layout, tally: Tally) -> pl.DataFrame:
    text = _text(files[layout.log](), layout.log, layout, "interactions", tally)
    frame = _table(text, layout.log, layout, ("user_id", "item_id", "rating", "timestamp"))
    for column in ("rating", "timestamp"):
        numbers = frame[column].cast(pl.Float64, strict=False)
        bad = numbers.is_null() | ~numbers.is_finite()
        _refuse(frame, column, bad, layout.log, "a number")
        frame = frame.with_columns(numbers)
    for column in ("user_id", "item_id"):
        _refuse(frame, column, frame[column].is_null(), layout.log, "an id")
    return frame.select(*INTERACTIONS)


def _films(files: Files, layout: Layout, tally: Tally) -> list[Film]:
    text = _text(files[layout.items](), layout.items, layout, "items", tally)
    if layout.log == "u.data":
        columns = ("id", "title", "released", "on_video", "url", *(f"genre {genre}" for genre in GENRES_100K))
        frame = _table(text, layout.items, layout._replace(separator="|"), columns)
    elif layout.log == "ml-100k.inter":
        frame = _table(text, layout.items, layout, ("id", "title", "year", "genres"))
    else:
        frame = _table(text, layout.items, layout, ("id", "title", "genres"))
    for column in ("id", "title"):
        _refuse(frame, column, frame[column].is_null(), layout.items, f"a film's {column}")
    return [_film(row, layout) for row in frame.iter_rows(named=True)]


def _film(row: dict[str, str | None], layout: Layout) -> Film:
    year: str | None = None
    if layout.log == "u.data":
        genres = [genre for genre in GENRES_100K if row[f"genre {genre}"] == "1"]
    elif layout.log == "ml-100k.inter":
        genres = (row["genres"] or "").split(" ")
        year = row["year"] or ""
    else:
        genres = (row["genres"] or "").split("|")
    return Film(row["id"] or "", row["title"] or "", year, genres)


def _text(content: bytes, name: str, layout: Layout, table: Table, tally: Tally) -> str:
    """A file's text, of ISO 8859-1 where it is not UTF-8 and the release may be in that; the report says so."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        lines = content.decode("iso-8859-1").split("\n")
        if not layout.latin:
            number = content.count(b"\n", 0, error.start) + 1
            raise DataError(
                f"{name}, line {number}: not UTF-8, as this release is published: {lines[number - 1][:80]!r}; "
                "fetch it again"
            ) from None
        odd = [f"line {number}: {line.rstrip()!r}" for number, line in enumerate(lines, start=1) if not line.isascii()]
        tally.add_many(f"{name} is not UTF-8: read as ISO 8859-1", table, "noted", len(odd), odd)
        return content.decode("iso-8859-1")


def _table(text: str, name: str, layout: Layout, columns: Sequence[str]) -> pl.DataFrame:
    """A file as a frame of strings, its first columns under the given names."""
    if layout.separator == "::":  # polars separates at one byte; no file of MovieLens holds a tab
        text = text.replace("::", "\t")
    try:
        frame = pl.read_csv(
            io.BytesIO(text.replace("\r\n", "\n").encode()),
            separator="\t" if layout.separator == "::" else layout.separator,
            has_header=layout.header,
            quote_char='"' if layout.quoted else None,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{name}: not a table of {len(columns)} columns ({error}); fetch it again") from error
    if frame.width < len(columns):
        raise DataError(f"{name}: {frame.width} columns instead of {len(columns)}; fetch it again")
    return frame.select(pl.nth(index).alias(column) for index, column in enumerate(columns))


def _refuse(frame: pl.DataFrame, column: str, bad: pl.Series, name: str, wanted: str) -> None:
    if bad.any():
        row = bad.arg_true()[0]
        raise DataError(f"{name}, row {row + 1}, {column}: wanted {wanted}, not {frame[column][row]!r}; fetch it again")
