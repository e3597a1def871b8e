"""One vector an item: made by an encoder or given, kept on the disk, grown with the catalog, searched."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, DataError
from llmgen.types import IntArray, Item
from llmgen.vectors.contents import item_content
from llmgen.vectors.encoders import Encoder, Float32Array
from llmgen.vectors.exact import best_of, nearest
from llmgen.vectors.files import Making, read_folder, read_vectors
from llmgen.vectors.making import PROBE, encoded, fill, keys_of, read_items, same, unit
from llmgen.vectors.neighbours import Neighbours

MOST_ASKED = 4096
"""Vectors of words that are kept, the last ones asked for."""


@dataclass(frozen=True, eq=False)
class ItemVectors:
    """The vectors of a catalog's items; make them with `make`, `of` or `read`.

    Attributes:
        catalog: The items.
        base: float32 [m, d], length 1, or 0 where nothing is known of an item; memory-mapped where it is on the disk.
        encoder: What made them and reads words; None for vectors that were given without one.
        content: What is read of an item, see `item_content`.
        extra: float32 [e, d], of items that came later.
        rows: int64 [n_items], the row of each item, first those of `base` and then those of `extra`; None where item i
            has row i.
        known: bool [n_items], of which items something is known; None where of all.
    """

    catalog: Catalog = field(repr=False)
    base: Float32Array = field(repr=False)
    encoder: Encoder | None = None
    content: str | None = None
    extra: Float32Array = field(default_factory=lambda: np.zeros((0, 0), np.float32), repr=False)
    rows: IntArray | None = field(default=None, repr=False)
    known: NDArray[np.bool_] | None = field(default=None, repr=False)
    _neighbours: Neighbours | None = field(default=None, repr=False)
    _asked: OrderedDict[tuple[str, str], Float32Array] = field(default_factory=OrderedDict, repr=False)
    _moved: list[ItemVectors] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self._neighbours is None:
            object.__setattr__(self, "_neighbours", Neighbours(self.base))
        if not self.extra.shape[1]:
            object.__setattr__(self, "extra", np.zeros((0, self.base.shape[1]), np.float32))

    @classmethod
    def make(
        cls,
        catalog: Catalog,
        encoder: Encoder,
        folder: Path | str | None = None,
        *,
        content: str | None = None,
        progress: bool = True,
    ) -> ItemVectors:
        """Encode the items of a catalog; those of which a folder has vectors already are not encoded again.

        Equal contents are encoded once, and blank ones not at all: nothing is known of an item without a picture. A run
        that was stopped goes on where it was.

        Args:
            catalog: The items.
            encoder: Of contents and of words.
            folder: Where the vectors are kept; it is made if missing. None keeps them in memory only.
            content: What is read of an item, see `item_content`.
            progress: Whether to tell how far it is, see `llmgen.progress`.

        Raises:
            DataError: The folder is damaged, or an encoder gave numbers that are not finite, or the wrong number of
                vectors.
        """
        contents = [item_content(catalog, item, content) for item in catalog]
        keys = keys_of(encoder, contents)
        there = np.array([bool(one.strip()) for one in contents])
        which = None if there.all() else there
        probe = encoded(encoder.queries, [PROBE], encoder.name)[0]
        if folder is None:
            vectors = np.empty((len(contents), len(probe)), np.float32)
            fill(vectors, contents, keys, encoder, None, progress)
            return cls(catalog, vectors, encoder, content, known=which)
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            known = same(read_folder(folder), encoder, probe, content)
            if known is None or known.contents.shape != keys.shape or not (known.contents == keys).all():
                digest = hashlib.sha256(keys.tobytes() + probe.round(2).tobytes()).hexdigest()[:16]
                making = Making(folder, digest, len(contents), len(probe))
                fill(making.vectors, contents, keys, encoder, known, progress, making)
                record = {"encoder": encoder.name, "probe": probe.tolist(), "content": content}
                making.finish(keys, catalog.ids, {**record, "catalog": catalog.digest})
                known = read_folder(folder)
        assert known is not None  # just written
        found = Neighbours(known.vectors, folder / f"{known.key}.faiss")
        return cls(catalog, known.vectors, encoder, content, known=which, _neighbours=found)

    @classmethod
    def of(
        cls, catalog: Catalog, vectors: NDArray[np.floating], encoder: Encoder | None = None, content: str | None = None
    ) -> ItemVectors:
        """Vectors of your own: from pictures, sound, a collaborative model.

        Args:
            catalog: The items.
            vectors: [n_items, d], in the catalog's order, finite; they are brought to length 1. A row of 0 says that
                nothing is known of an item.
            encoder: One that reads words, and items that come later, in the same space; None where there is none.
            content: What it reads of items that come later, see `item_content`.

        Raises:
            DataError: Another shape, or numbers that are not finite.
        """
        made = np.asarray(vectors, np.float32)
        if made.ndim != 2 or len(made) != len(catalog) or not made.shape[1]:
            raise DataError(f"vectors have the shape {made.shape}; {len(catalog)} items need one row each")
        made = unit(made, "the vectors given")
        known: NDArray[np.bool_] = (made != 0).any(axis=1)
        return cls(catalog, made, encoder, content, known=None if known.all() else known)

    @classmethod
    def read(
        cls,
        catalog: Catalog,
        path: Path | str,
        encoder: Encoder | None = None,
        *,
        id_column: str = "item_id",
        vector_column: str = "vector",
        content: str | None = None,
    ) -> ItemVectors:
        """Vectors of your own from a file; see `of`.

        Args:
            catalog: The items.
            path: `.npy`, one row an item in the catalog's order; or `.parquet` with a column of ids and one of lists.
                Of items that the table lacks nothing is known.
            encoder: See `of`.
            id_column: Of the table.
            vector_column: Of the table.
            content: See `of`.

        Raises:
            ConfigError: Another kind of file.
            DataError: It cannot be read, or see `of`.
        """
        return cls.of(catalog, read_vectors(Path(path), catalog.ids, id_column, vector_column), encoder, content)

    @property
    def dimensions(self) -> int:
        """Numbers of a vector."""
        return int(self.base.shape[1])

    def at(self, positions: Sequence[int] | IntArray) -> Float32Array:
        """The vectors of some items, by their positions in the catalog; float32 [len(positions), d]."""
        rows = np.asarray(positions, np.int64)
        if self.rows is not None:
            rows = self.rows[rows]
        made = np.empty((len(rows), self.dimensions), np.float32)
        late = rows >= len(self.base)
        made[~late] = self.base[rows[~late]]
        made[late] = self.extra[rows[late] - len(self.base)]
        return made

    def words(self, texts: Sequence[str]) -> Float32Array:
        """Vectors of words, float32 [len(texts), d], of length 1.

        Raises:
            ArgumentError: The vectors came without an encoder.
        """
        return self._vectors("words", texts, lambda reader: reader.queries)

    def contents(self, items: Sequence[Item]) -> Float32Array:
        """Vectors of items of any catalog, read anew, float32 [len(items), d], of length 1; see `words`."""
        texts = [item_content(self.catalog, item, self.content) for item in items]
        return self._vectors("content", texts, lambda reader: reader.items)

    def nearest(self, queries: Float32Array, k: int, *, words: bool = False) -> tuple[IntArray, Float32Array]:
        """The items with the largest cosine to each query.

        Args:
            queries: float32 [n_queries, d], of length 1.
            k: 1 or more.
            words: Whether they are of words that people ask with: in a large catalog more is looked through for these.

        Returns:
            int64 and float32 [n_queries, at most k]: positions in the catalog, in no order, and cosines. Where an index
            found fewer, the rest is -1.
        """
        assert self._neighbours is not None  # made in __post_init__
        place, gone, first = self._places, self._gone, len(self.base)
        rows, cosines = self._neighbours.nearest(queries, k, None if gone is None else gone[:first], words=words)
        if len(self.extra):
            late, theirs = nearest(self.extra, queries, k, None if gone is None else gone[first:])
            rows = np.concatenate([rows, np.where(late >= 0, late + first, -1)], axis=1)
            cosines = np.concatenate([cosines, theirs], axis=1)
        if place is not None:
            rows = np.where(rows >= 0, place[rows], -1)
        return best_of(rows, cosines, k)

    def prepare(self) -> None:
        """Make what is costly and otherwise waits for its first use: the index of a large catalog."""
        assert self._neighbours is not None  # made in __post_init__
        _ = self._neighbours.index, self._gone

    def on_catalog(self, catalog: Catalog, before: IntArray) -> ItemVectors:
        """The vectors of a changed catalog; only what is new, or has another content, is encoded.

        Without an encoder nothing is known of new items.

        Args:
            catalog: The new one.
            before: See `llmgen.priors.Movable`.
        """
        if self._moved and self._moved[0].catalog is catalog:  # several priors share these vectors
            return self._moved[0]
        grown = catalog.begins_with(self.catalog)
        kept = np.arange(0) if grown else self._kept(catalog, before)
        new = np.arange(len(self.catalog), len(catalog)) if grown else np.flatnonzero(kept < 0)
        vectors = np.zeros((len(new), self.dimensions), np.float32)
        if len(new) and self.encoder is not None:
            contents = [item_content(catalog, catalog[place], self.content) for place in new.tolist()]
            vectors = read_items(self.encoder, contents, self.dimensions)
        late = len(self.base) + len(self.extra) + np.arange(len(new))  # their rows
        there = vectors.any(axis=1)
        if grown:  # at a million items, each array as long as the catalog is a millisecond or more
            rows = None if self.rows is None else np.append(self.rows, late)
        else:
            rows = np.where(kept >= 0, kept if self.rows is None else self.rows[kept], -1)
            rows[new] = late
        known = None
        if self.known is not None or not there.all():
            whole = np.ones(len(self.catalog), bool) if self.known is None else self.known
            if grown:
                known = np.append(whole, there)
            else:
                known = np.where(kept >= 0, whole[kept], False)
                known[new] = there
        extra = np.concatenate([self.extra, vectors])
        made = ItemVectors(
            catalog, self.base, self.encoder, self.content, extra, rows, known, self._neighbours, self._asked
        )
        self._moved[:] = [made]
        return made

    def _kept(self, catalog: Catalog, before: IntArray) -> IntArray:
        """Positions here, int64, of the items of a changed catalog whose contents are the same; -1 of the others."""
        alike = catalog.label_format == self.catalog.label_format
        same = catalog.unchanged_since(self.catalog, before) if alike else np.full(len(catalog), -1)
        kept = np.array(before, np.int64)
        for place in np.flatnonzero((same < 0) & (kept >= 0)).tolist():
            old = item_content(self.catalog, self.catalog[int(kept[place])], self.content)
            if item_content(catalog, catalog[place], self.content) != old:
                kept[place] = -1
        return kept

    @cached_property
    def _places(self) -> IntArray | None:
        """int64 [m + e], the item of each row, -1 for none; None where row i is item i."""
        if self.rows is None:
            return None
        places = np.full(len(self.base) + len(self.extra), -1)
        places[self.rows] = np.arange(len(self.rows))
        return None if len(places) == len(self.rows) and (places == np.arange(len(places))).all() else places

    @cached_property
    def _gone(self) -> NDArray[np.bool_] | None:
        """Which rows are no item's, bool [m + e]; None where each is one's."""
        gone = None if self._places is None else self._places < 0
        return gone if gone is not None and gone.any() else None

    def _vectors(
        self, kind: str, texts: Sequence[str], reads: Callable[[Encoder], Callable[[Sequence[str]], Float32Array]]
    ) -> Float32Array:
        if self.encoder is None:
            raise ArgumentError(
                "these vectors came without an encoder, so words and items of other catalogs cannot be read; give one "
                "that makes vectors in the same space: ItemVectors.read(catalog, path, encoder)"
            )
        new = [text for text in dict.fromkeys(texts) if (kind, text) not in self._asked]
        if new:
            for text, vector in zip(new, encoded(reads(self.encoder), new, self.encoder.name), strict=True):
                self._asked[kind, text] = vector
        made = np.stack([self._asked[kind, text] for text in texts]) if texts else np.zeros((0, self.dimensions))
        while len(self._asked) > MOST_ASKED:
            self._asked.popitem(last=False)
        return made.astype(np.float32, copy=False)
