"""Vectors of up to a million items: encoding, the index, requests by words and by a history, one item more.

Nobody has a million real titles to share, so vectors are made up from those of real ones (`resampled`): they lie as
near to the nearest real one as real ones do to each other, in the directions in which real neighbours differ. What is
asked for are real titles that were held back, by their words and by their vectors.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eval.bench.catalogs import catalog_of
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, versions
from eval.bench.timing import MEGABYTE, Arm, interleave
from llmgen.priors import HistoryVectors, TextQueryVectors
from llmgen.progress import Stage
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query
from llmgen.vectors import Encoder, ItemVectors, load_encoder
from llmgen.vectors.encoders import Float32Array
from llmgen.vectors.exact import nearest
from llmgen.vectors.making import encoded, unit
from llmgen.vectors.neighbours import Neighbours

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (2_000, 30_000)
READ, QUICK_READ = 8_000, 400
"""Real titles that are encoded."""
HELD_BACK = 5
"""One in so many of them is asked for and no item."""
BESIDE = 5
"""Real neighbours that a made-up vector is moved towards or away from."""
BLOCK = 8_192
HISTORY, K = 20, 10
TURNS = 15
RECALL, AT, ASKED = 0.95, 200, 100
"""Share of the exact nearest `AT` that is to be found, and for how many titles it is measured."""


@dataclass(frozen=True)
class Titles:
    """Real titles and their vectors.

    Attributes:
        known: float32 [n, d], of those that vectors are made up from.
        asked: Titles that were held back.
        vectors: float32 [len(asked), d], of these.
    """

    known: Float32Array
    asked: Sequence[str]
    vectors: Float32Array


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    yield from compared(plan, load_encoder(), plan.sizes or (QUICK_SIZES if plan.quick else SIZES))


def compared(plan: Plan, encoder: Encoder, sizes: Sequence[int]) -> Iterator[Row]:
    """All figures of some sizes; the largest is the subject."""
    rows, titles = read(plan, encoder)
    yield from rows
    with tempfile.TemporaryDirectory() as folder:
        made: dict[int, Recommender] = {}
        for size in sorted(sizes, reverse=True):
            vectors = made_up_shop(plan, encoder, titles, size, Path(folder))
            yield from indexed(vectors, titles)
            priors = [TextQueryVectors(vectors), HistoryVectors(vectors)]
            made[size] = Recommender(vectors.catalog, None, priors=priors)
            made[size].prepare()
            _ = vectors.catalog.digest
        yield from requested(made, titles)
        yield from put(made, titles)


def read(plan: Plan, encoder: Encoder) -> tuple[list[Row], Titles]:
    """Encode real titles, drawn from all catalogs that were named."""
    labels = sorted({label for catalog in plan.real.values() for label in catalog.labels})
    count = min(len(labels), QUICK_READ if plan.quick else READ)
    rng = np.random.default_rng(plan.seed)
    some = [labels[place] for place in rng.permutation(len(labels))[:count].tolist()]
    measured = interleave([Arm(encoder.name, lambda turn: encoded(encoder.items, some, encoder.name))], 1, warm=False)
    (vectors,) = measured[encoder.name].answers
    about = _about("encode real titles", None, unit="items", amount=count)
    back = count // HELD_BACK
    return rows_of(about, measured), Titles(vectors[back:], some[:back], vectors[:back])


def made_up_shop(plan: Plan, encoder: Encoder, titles: Titles, size: int, folder: Path) -> ItemVectors:
    """A catalog of made-up titles, and made-up vectors of them in a file."""
    catalog = catalog_of(plan.titles(size))
    path = folder / f"{size}.npy"
    kept = np.lib.format.open_memmap(path, "w+", np.float32, (size, titles.known.shape[1]))
    with Stage(f"Making up {size:,} vectors", size, shown=size > BLOCK) as stage:
        for start, block in resampled(titles.known, size, seed=plan.seed):
            kept[start : start + len(block)] = block
            stage.advance(len(block))
    kept.flush()
    vectors = np.load(path, mmap_mode="r")
    return ItemVectors(catalog, vectors, encoder, _neighbours=Neighbours(vectors, folder / f"{size}.faiss"))


def resampled(real: Float32Array, count: int, *, seed: int) -> Iterator[tuple[int, Float32Array]]:
    """Vectors like real ones, in any number.

    Each is a real one r plus s times the sum over r's nearest `BESIDE` real neighbours n of w_n (n - r), w_n normal
    with variance 1 / `BESIDE`, at length 1: a smoothed bootstrap with the local covariance as its kernel. The scale s
    is the one at which the median cosine of a made-up vector to its nearest real one is that of a real one to its
    nearest other.

    Args:
        real: float32 [n, d], of length 1, n > `BESIDE`.
        count: How many.
        seed: Of all that is drawn.

    Yields:
        Where a block begins, and the block, float32 [at most BLOCK, d].
    """
    rng = np.random.default_rng(seed)
    sample = rng.choice(len(real), min(len(real), 1_000), replace=False)
    rows, cosines = nearest(real, real[sample], 2)
    others = np.where(rows == sample[:, None], -np.inf, cosines).max(axis=1)
    wanted = float(np.median(others))
    beside = _neighbours_of(real)
    drawn = rng.integers(len(real), size=1_000), rng.normal(size=(1_000, BESIDE))
    low, high = 0.0, 4.0
    for _ in range(12):
        scale = (low + high) / 2
        moved = _moved(real, beside, *drawn, scale)
        if float(np.median(nearest(real, moved, 1)[1])) > wanted:
            low = scale
        else:
            high = scale
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        which, weights = rng.integers(len(real), size=size), rng.normal(size=(size, BESIDE))
        yield start, _moved(real, beside, which, weights, (low + high) / 2)


def indexed(vectors: ItemVectors, titles: Titles) -> list[Row]:
    """Making the index, and how many of the exact nearest 200 it finds for titles that were held back.

    These are asked as items are, by their vectors, and as people ask, by their first two words.
    """
    size, found = len(vectors.catalog), vectors._neighbours
    assert found is not None  # given
    built = interleave([Arm("llmgen", lambda turn: found.index is not None)], 1, warm=False)
    if found.index is None or found.path is None:
        return []
    shares = {}
    some = [" ".join(title.split()[:2]) for title in titles.asked[:ASKED]]
    for kind, asked in (("items", titles.vectors[:ASKED]), ("words", vectors.words(some))):
        exact, _ = nearest(vectors.base, asked, AT)
        rows, _ = found.nearest(asked, AT, words=kind == "words")
        hits = sum(len(np.intersect1d(own, best)) for own, best in zip(rows, exact, strict=True))
        shares[kind] = hits / exact.size
    index = found.index
    about = replace(
        _about(f"index of {size:,} vectors", size, unit="items", amount=size),
        note=f"recall@{AT} {shares['items']:.3f} for items, {shares['words']:.3f} for words, {index.recall:.3f} by its"
        f" own measure; {index.probes} of {index.lists.nlist} lists are looked through",
    )
    right = {"llmgen": min(shares.values()) >= RECALL}
    return rows_of(about, built, equal=right, sizes_mb={"llmgen": found.path.stat().st_size / MEGABYTE})


def requested(made: dict[int, Recommender], titles: Titles) -> Iterator[Row]:
    """A request by words, which are encoded, and one by a history of items, at each size; no two by the same words."""

    def by_words(recommender: Recommender, number: int) -> Query:
        return Query(text=f"{titles.asked[number % len(titles.asked)]}, number {number}", k=K)

    def by_history(recommender: Recommender, number: int) -> Query:
        places = np.random.default_rng(number).integers(len(recommender.catalog), size=HISTORY)
        return Query([recommender.catalog[place] for place in places.tolist()], k=K)

    for name, query in (("by words", by_words), (f"by a history of {HISTORY}", by_history)):
        arms = [Arm(_sized(size), Asking(recommender, query)) for size, recommender in made.items()]
        measured = interleave(arms, TURNS, label=f"requests {name}")
        yield from rows_of(_about(f"request {name}, up to {arms[0].name}", None, unit="requests"), measured)


class Asking:
    """Asks a recommender another thing each time.

    Args:
        recommender: Who is asked.
        query: (recommender, number of the request) -> what is asked.
    """

    def __init__(self, recommender: Recommender, query: Callable[[Recommender, int], Query]) -> None:
        self._recommender, self._query, self._number = recommender, query, 0

    def __call__(self, turn: int) -> bool:
        """Whether a whole list came back."""
        self._number += 1
        (found,) = self._recommender.recommend_many([self._query(self._recommender, self._number)])
        return len(found) == K


def put(made: dict[int, Recommender], titles: Titles) -> Iterator[Row]:
    """One item more, ready and found by what it means, again and again."""
    arms = [Arm(_sized(size), Putting(recommender, titles.asked)) for size, recommender in made.items()]
    measured = interleave(arms, TURNS, label="one item more")
    equal = {name: all(one.answers) for name, one in measured.items()}
    case = f"one item more is found by words, up to {arms[0].name}"
    yield from rows_of(_about(case, None, unit="items"), measured, equal=equal)


class Putting:
    """A recommender to which titles come, one after the other.

    Args:
        recommender: The first; not changed.
        titles: That come.
    """

    def __init__(self, recommender: Recommender, titles: Sequence[str]) -> None:
        self._recommender, self._titles, self._number = recommender, titles, 0

    def __call__(self, turn: int) -> bool:
        """Put one, and say whether it is recommended to someone who asks for it in small letters."""
        title, self._number = self._titles[self._number % len(self._titles)], self._number + 1
        item = Item(f"new {self._number}", title)
        catalog = self._recommender.catalog.with_items([item])
        self._recommender = self._recommender.with_catalog(catalog)
        self._recommender.prepare()
        found = self._recommender.recommend(Query(text=title.lower(), k=K))
        return any(place.item is item for place in found)


def _neighbours_of(real: Float32Array) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The nearest `BESIDE` others of each, int64 [n, BESIDE]."""
    rows = np.empty((len(real), BESIDE), np.int64)
    for start in range(0, len(real), BLOCK):
        found, cosines = nearest(real, real[start : start + BLOCK], BESIDE + 1)
        own = np.arange(start, start + len(found))[:, None]
        last = np.argsort(np.where(found == own, np.inf, -cosines), axis=1)[:, :BESIDE]
        rows[start : start + len(found)] = np.take_along_axis(found, last, axis=1)
    return rows


def _moved(
    real: Float32Array,
    beside: np.ndarray[tuple[int, int], np.dtype[np.int64]],
    which: np.ndarray[tuple[int], np.dtype[np.int64]],
    weights: np.ndarray[tuple[int, int], np.dtype[np.float64]],
    scale: float,
) -> Float32Array:
    """See `resampled`."""
    shares = (scale / np.sqrt(BESIDE) * weights).astype(np.float32)
    made = real[which] * (1 - shares.sum(axis=1, keepdims=True))
    for number in range(BESIDE):
        made += shares[:, number, None] * real[beside[which, number]]
    return unit(made, "made-up vectors")


def _sized(size: int) -> str:
    return f"{size:,} items"


def _about(case: str, items: int | None, *, unit: str, amount: float = 1) -> Row:
    used = versions("numpy", "faiss-cpu", "sentence-transformers", "torch")
    return Row(
        part="vectors",
        case=case,
        arm="",
        items=items,
        k=K,
        threads=os.cpu_count(),
        unit=unit,
        amount=amount,
        versions=used,
    )
