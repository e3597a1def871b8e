"""Catalogs to measure on: real ones, and made-up titles in any number that begin alike as often as real ones do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmgen.catalog.core import Catalog
from llmgen.datasets import load_dataset
from llmgen.errors import DataError
from llmgen.types import IntArray, Item

MAX_WORDS = 16
SURPRISE = 0.1
"""How often a word of a made-up title is drawn from all words, not from those that follow the one before."""
START, END = 0, 1
PIECE = 5
"""Characters of a word that one token spells; so a title of MovieLens-100K has about as many as SmolLM2 gives it."""
RETAIL = ("InvoiceNo", "StockCode", "Description", "Quantity", "CustomerID")


def read(source: str) -> Catalog:
    """A real catalog.

    Args:
        source: A named data set, or a folder or zip of MovieLens; `.jsonl` as `Catalog.save` writes it; `.csv` or
            `.csv.gz` with the columns `item_id` and `title`, or as UCI's Online Retail is published.

    Raises:
        DataError: It is none of these.
    """
    if source.endswith(".jsonl"):
        return Catalog.from_jsonl(source)
    if source.endswith((".csv", ".csv.gz")):
        return _of_table(Path(source))
    return load_dataset(source).catalog


def catalog_of(titles: Sequence[str]) -> Catalog:
    """Items with these titles; their ids are numbers from 0."""
    return Catalog(Item(str(number), title) for number, title in enumerate(titles))


def made_up(titles: Sequence[str], count: int, *, seed: int = 0) -> list[str]:
    """Titles that look like those given: each word follows the one before as it does in some of them.

    One word in ten is any word of theirs instead, so that there is no end of titles. How many titles share a beginning
    is thus like in the catalog that they are drawn from.

    Args:
        titles: At least one that is not blank.
        count: How many to make.
        seed: The same titles, count and seed give the same made-up titles.

    Returns:
        None twice.

    Raises:
        ValueError: So many different ones cannot be made of these words.

    >>> made_up(["Toy Story", "Toy Soldiers"], 3) == made_up(["Toy Story", "Toy Soldiers"], 3)
    True
    """
    words = ["", ""]
    number: dict[str, int] = {}
    pairs: list[tuple[int, int]] = []
    for title in titles:
        before = START
        for word in title.split():
            known = number.setdefault(word, len(words))
            if known == len(words):
                words.append(word)
            pairs.append((before, known))
            before = known
        pairs.append((before, END))
    before_each, after_each = np.array(sorted(pairs)).T
    first = np.searchsorted(before_each, np.arange(len(words) + 1))
    rng = np.random.default_rng(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        known = len(made)
        rows = _walk(first, after_each, count - known + 1000, rng)
        for row, length in zip(rows.tolist(), np.count_nonzero(rows > END, axis=1).tolist(), strict=True):
            if length:
                made[" ".join([words[place] for place in row[:length]])] = None
        if len(made) == known:
            raise ValueError(f"{count} different titles cannot be made of the words of these {len(titles)}")
    return list(made)[:count]


def spelled(titles: Sequence[str]) -> list[tuple[int, ...]]:
    """Token paths of titles without a model's tokenizer: a token for every five characters of a word, 0 at the end."""
    numbers: dict[str, int] = {}
    known: dict[str, tuple[int, ...]] = {}

    def tokens(word: str) -> tuple[int, ...]:
        if word not in known:
            pieces = [" " + word[:PIECE], *(word[place : place + PIECE] for place in range(PIECE, len(word), PIECE))]
            known[word] = tuple(numbers.setdefault(piece, len(numbers) + 1) for piece in pieces)
        return known[word]

    return [(*chain.from_iterable(map(tokens, title.split())), 0) for title in titles]


def codes(count: int, *, levels: int = 4, seed: int = 0) -> NDArray[np.int32]:
    """Ids of several levels, such as codes from residual k-means.

    Returns:
        int32 [count, levels], no row twice, in random order; each level has tokens of its own, as few as are enough
        for three times as many ids.
    """
    size = int(np.ceil((3 * count) ** (1 / levels)))
    rng = np.random.default_rng(seed)
    chosen = rng.choice(size**levels, count, replace=False)
    digits = [chosen // size**level % size + level * size for level in range(levels)]
    return np.stack(digits, axis=1).astype(np.int32)


def _walk(first: IntArray, after: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Words of `count` titles, int64 [count, MAX_WORDS], END and what stands behind it as END."""
    return np.stack(list(_steps(first, after, count, rng)), axis=1)


def _steps(first: IntArray, after: IntArray, count: int, rng: np.random.Generator) -> Iterator[IntArray]:
    word = np.full(count, START)
    for _ in range(MAX_WORDS):
        choices = first[word + 1] - first[word]
        place = first[word] + (rng.random(count) * choices).astype(np.int64)
        anywhere = rng.random(count) < SURPRISE
        place[anywhere] = rng.integers(len(after), size=int(anywhere.sum()))
        going = word != END
        word = np.where(going, after[np.where(going, place, 0)], END)
        yield word


def _of_table(path: Path) -> Catalog:
    """Items by id and title; or the products of Online Retail by their most frequent description, of what was kept."""
    try:
        frame = pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if {"item_id", "title"} <= set(frame.columns):
        return Catalog(
            [Item(*row) for row in frame.select("item_id", "title").drop_nulls().iter_rows()], noun="product"
        )
    if missing := [column for column in RETAIL if column not in frame.columns]:
        raise DataError(f"{path} is not Online Retail as UCI publishes it: there is no column {missing[0]}")
    bought = frame.with_columns(pl.col("Description").str.strip_chars()).filter(
        pl.col("CustomerID").is_not_null()
        & pl.col("Description").is_not_null()
        & ~pl.col("InvoiceNo").str.starts_with("C")
        & (pl.col("Quantity").cast(pl.Int64, strict=False) > 0)
        & pl.col("StockCode").str.contains(r"^\d{5}")
    )
    names = (
        bought.group_by("StockCode", "Description")
        .len()
        .sort(["StockCode", "len", "Description"], descending=[False, True, False])
        .unique("StockCode", keep="first", maintain_order=True)
    )
    items = [Item(code, title) for code, title in names.select("StockCode", "Description").iter_rows()]
    return Catalog(items, noun="product")
