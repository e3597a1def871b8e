"""Vectors on the disk: what `ItemVectors.make` keeps in a folder, and files of vectors that come from elsewhere.

A folder holds `vectors.json` and the files that it names:

    KEY.vectors.npy   float32 [n, d], row by row as in the catalog that they were made for
    KEY.contents.npy  uint64 [n, 2], what each row was made of: 16 bytes that tell contents apart
    KEY.ids.json      the ids of the items
    KEY.faiss         the index of a large catalog, once it was needed; KEY.faiss.json, what it finds

All are written before `vectors.json`, so a reader sees the old vectors or the new ones. While new ones are made they
are in `KEY.part.*`, and what is done of them is not done again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmgen.errors import ConfigError, DataError
from llmgen.vectors.encoders import Float32Array

RECORD = "vectors.json"
FORMAT = 1
KeyArray = NDArray[np.uint64]


class Stored(NamedTuple):
    """Vectors of a folder.

    Attributes:
        key: Of the files.
        encoder: Name of the encoder.
        probe: float32 [d], what the encoder made of a fixed text.
        content: How contents were written, see `ItemVectors.make`; None for llmgen's own way.
        catalog: Digest of the catalog.
        vectors: float32 [n, d], memory-mapped.
        contents: uint64 [n, 2], memory-mapped.
    """

    key: str
    encoder: str
    probe: Float32Array
    content: str | None
    catalog: str
    vectors: Float32Array
    contents: KeyArray


def read_folder(folder: Path) -> Stored | None:
    """The vectors of a folder; None where it has none.

    Raises:
        DataError: They are damaged.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}, and this version reads {FORMAT}")
        vectors = np.load(folder / f"{record['key']}.vectors.npy", mmap_mode="r")
        contents = np.load(folder / f"{record['key']}.contents.npy", mmap_mode="r")
        probe = np.array(record["probe"], np.float32)
        if vectors.shape != (len(contents), len(probe)) or vectors.dtype != np.float32:
            raise ValueError(f"vectors {vectors.shape}, {vectors.dtype}, beside {len(contents)} contents")
        return Stored(record["key"], record["encoder"], probe, record["content"], record["catalog"], vectors, contents)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the vectors in {folder} are damaged ({error}); delete the folder to make them anew"
        ) from error


class Making:
    """Vectors that are being made in a folder, a row after the other; what a stopped process has done is found again.

    Args:
        folder: Exists.
        key: Of what is made: the same for the same contents and the same encoder.
        n: Rows.
        d: Dimensions.
    """

    def __init__(self, folder: Path, key: str, n: int, d: int) -> None:
        self._folder, self._key, self._n = folder, key, n
        self._path, self._done = folder / f"{key}.part.npy", folder / f"{key}.part.json"
        self.done = 0
        try:
            self.vectors: Any = np.lib.format.open_memmap(self._path, "r+")
            self.done = int(json.loads(self._done.read_text(encoding="utf-8")))
            if self.vectors.shape != (n, d) or not 0 <= self.done <= n:
                raise ValueError("made of something else")
        except (OSError, ValueError):
            self.done = 0
            self.vectors = np.lib.format.open_memmap(self._path, "w+", np.float32, (n, d))

    def tell(self, done: int) -> None:
        """So many rows are on the disk."""
        self.vectors.flush()
        part = self._done.with_suffix(".new")
        part.write_text(str(done), encoding="utf-8")
        part.replace(self._done)
        self.done = done

    def finish(self, contents: KeyArray, ids: Sequence[str], record: dict[str, Any]) -> None:
        """Make what is done the folder's vectors, in the place of older ones."""
        self.vectors.flush()
        np.save(self._folder / f"{self._key}.contents.npy", contents)
        (self._folder / f"{self._key}.ids.json").write_text(json.dumps(list(ids), ensure_ascii=False), encoding="utf-8")
        self._path.replace(self._folder / f"{self._key}.vectors.npy")
        part = self._folder / f".{RECORD}.part"
        part.write_text(json.dumps({"format": FORMAT, "key": self._key, **record}), encoding="utf-8")
        part.replace(self._folder / RECORD)
        for path in self._folder.iterdir():
            of_others = path.name.partition(".")[0] not in (self._key, RECORD.partition(".")[0])
            if of_others and path.suffix in (".npy", ".json", ".faiss"):
                path.unlink(missing_ok=True)
        self._done.unlink(missing_ok=True)


def read_vectors(path: Path, ids: Sequence[str], id_column: str, vector_column: str) -> Float32Array:
    """Vectors of a file, put in the order of some ids; rows of 0 for those that the file lacks.

    Args:
        path: `.npy`, whose rows are in the order of the ids; or a table (`.parquet`) with a column of ids and one of
            lists of numbers.
        ids: Of the items.
        id_column: Of the table.
        vector_column: Of the table.

    Raises:
        ConfigError: Another kind of file.
        DataError: It cannot be read, is of another length, or a column is missing or of another kind.
    """
    try:
        if path.suffix == ".npy":
            found = np.load(path, mmap_mode="r", allow_pickle=False)
            if found.ndim != 2 or len(found) != len(ids):
                raise DataError(
                    f"{path} has an array {found.shape}; the catalog's {len(ids)} items need one row each, in its order"
                )
            return np.asarray(found, np.float32)
        if path.suffix != ".parquet":
            raise ConfigError(f"vectors are read from .npy and .parquet, not from {path.name!r}")
        table = pl.read_parquet(path)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read vectors from {path}: {error}") from error
    if missing := [name for name in (id_column, vector_column) if name not in table.columns]:
        raise DataError(f"{path} has no column {missing[0]!r}; it has {', '.join(table.columns)}")
    table = table.select(pl.col(id_column).cast(pl.String), pl.col(vector_column)).drop_nulls()
    if twice := table[id_column].filter(table[id_column].is_duplicated()).to_list():
        raise DataError(f"{path} has {twice[0]!r} twice in the column {id_column!r}; keep one")
    try:
        rows = np.stack(table[vector_column].to_list()).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the column {vector_column!r} of {path} must hold lists of numbers, all as long ({error})"
        ) from error
    place = {item_id: number for number, item_id in enumerate(table[id_column].to_list())}
    made = np.zeros((len(ids), rows.shape[1]), np.float32)
    for number, item_id in enumerate(ids):
        if item_id in place:
            made[number] = rows[place[item_id]]
    return made
