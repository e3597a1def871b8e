"""An index of very many vectors by faiss: few of them are looked at for a query, and how many are missed is measured.

It is an inverted file with product quantisation (Jégou, Douze & Schmid, TPAMI 2011) in the layout that a processor
scans in its registers (André et al., "Quicker ADC", TPAMI 2021): each vector stands in the list of its nearest centroid
as codes of 4 bits for two numbers each, a sixteenth of what it takes itself. Of the lists that are nearest to a query
the codes propose candidates; their cosines are computed from the vectors themselves, which stay where they are, on the
disk as a rule.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmgen.types import IntArray
from llmgen.vectors.encoders import Float32Array
from llmgen.vectors.exact import best_of, nearest

logger = logging.getLogger(__name__)

FORMAT = 1
RECALL, AT = 0.95, 200
"""Share of the exact nearest `AT` that is to be found: how many lists are looked through is chosen by it."""
WORDS = 1.5
"""Times as many lists for words that people ask with, which lie farther from titles than titles from each other: of
100,000 items the same lists find .94 of the neighbours of an item and .90 of a tag's, see eval/RESULTS.md."""
ASKED = 128
"""Vectors of the index that are asked for their neighbours to measure the share."""
CANDIDATES, FEWEST = 2, 500
"""Vectors that the codes propose, by those that are wanted, and at least."""
LEARNT = 40
"""Vectors a list from which the centroids are learnt."""
BLOCK = 65_536


@dataclass(frozen=True, eq=False)
class Index:
    """Finds the nearest of some vectors, nearly all of them; make it with `make` or `read`.

    Attributes:
        vectors: float32 [n, d], of length 1 or 0.
        lists: Of faiss.
        probes: Lists that are looked through for a query.
        recall: Share of the exact nearest `AT` that was found for `ASKED` of the vectors.
    """

    vectors: Float32Array
    lists: Any
    probes: int
    recall: float

    @classmethod
    def make(cls, vectors: Float32Array, *, recall: float | None = None) -> Index:
        """Learn the lists of some vectors, and choose how many a query looks through.

        With 2·sqrt(n) to 4·sqrt(n) lists it takes some two minutes of a core for a million vectors of 384 numbers.

        Args:
            vectors: float32 [n, d], n >= 16; memory-mapped where you like.
            recall: What is wanted, `RECALL` by default; where not even all lists give it, all are looked through, and a
                warning says so.

        Raises:
            ImportError: faiss is not installed.
        """
        import faiss

        recall = RECALL if recall is None else recall
        n, d = vectors.shape
        count = min(1 << math.ceil(math.log2(2 * math.sqrt(n))), n)
        logger.info("making an index of %s vectors with %d lists", f"{n:,}", count)
        numbers = d // 2 if d % 2 == 0 else d
        lists = faiss.index_factory(d, f"IVF{count},PQ{numbers}x4fsr", faiss.METRIC_INNER_PRODUCT)
        rng = np.random.default_rng(0)
        lists.train(np.ascontiguousarray(vectors[_some(rng, n, LEARNT * count)]))
        for start in range(0, n, BLOCK):
            lists.add(np.ascontiguousarray(vectors[start : start + BLOCK]))
        asked = np.ascontiguousarray(vectors[_some(rng, n, ASKED)])
        k = min(AT, n)
        wanted = np.sort(nearest(vectors, asked, k)[0], axis=1)
        found, probes = 0.0, 0
        for step in range(2 * math.ceil(math.log2(count)) + 1):
            probes = min(round(2 ** (step / 2)), count)
            rows, _ = cls(vectors, lists, probes, 0.0).nearest(asked, k)
            hits = sum(len(np.intersect1d(own, exact)) for own, exact in zip(rows, wanted, strict=True))
            found = hits / wanted.size
            if found >= recall:
                break
        else:
            logger.warning(
                "the index finds %.3f of the nearest %d vectors, and %.2f is wanted: there are many alike",
                found,
                k,
                recall,
            )
        return cls(vectors, lists, probes, found)

    @classmethod
    def read(cls, path: Path, vectors: Float32Array) -> Index | None:
        """What `write` wrote of these vectors; None where there is nothing that this version can read.

        Raises:
            ImportError: faiss is not installed.
        """
        import faiss

        about = _about(path)
        if not (path.exists() and about.exists()):
            return None
        try:
            record = json.loads(about.read_text(encoding="utf-8"))
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']}, and this version reads {FORMAT}")
            lists = faiss.read_index(str(path))
            if (lists.ntotal, lists.d) != vectors.shape:
                raise ValueError(f"it is of {lists.ntotal} x {lists.d} numbers, the vectors are {vectors.shape}")
            return cls(vectors, lists, int(record["probes"]), float(record["recall"]))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            logger.warning("the index %s cannot be used (%s); it is made anew", path, error)
            return None

    def write(self, path: Path) -> None:
        """Write it, and beside it how many lists are looked through and what that finds."""
        import faiss

        for whole, save in (
            (path, lambda part: faiss.write_index(self.lists, str(part))),
            (_about(path), lambda part: part.write_text(json.dumps(self._record), encoding="utf-8")),
        ):
            part = whole.with_name(f"{whole.name}.part")
            save(part)
            part.replace(whole)

    @property
    def _record(self) -> dict[str, float]:
        return {"format": FORMAT, "probes": self.probes, "recall": self.recall, "at": AT}

    def nearest(
        self, queries: Float32Array, k: int, gone: NDArray[np.bool_] | None = None, *, words: bool = False
    ) -> tuple[IntArray, Float32Array]:
        """See `llmgen.vectors.exact.nearest`; a few are missed, and where fewer are found, rows are -1.

        Args:
            queries: See there.
            k: See there.
            gone: See there.
            words: Whether they are of words that people ask with, and not of items.
        """
        import faiss

        n, wanted = len(self.vectors), max(CANDIDATES * k, FEWEST)
        enough = min(wanted // 2, n if gone is None else n - int(gone.sum()))  # half of what is proposed may be gone
        asked = np.ascontiguousarray(queries, np.float32)
        silent = ~asked.any(axis=1)  # what means nothing is near nothing
        proposed, probes = min(n, wanted), self.probes
        if words:
            probes = min(self.lists.nlist, round(WORDS * probes))
        while True:
            looking = faiss.SearchParametersIVF()
            looking.nprobe = probes
            _, rows = self.lists.search(asked, proposed, params=looking)
            left = rows >= 0
            if gone is not None:
                left &= ~gone[rows]
            if ((left.sum(axis=1) >= enough) | silent).all() or (proposed == n and probes == self.lists.nlist):
                break
            proposed, probes = min(n, 2 * proposed), min(self.lists.nlist, 2 * probes)
        products = np.full(rows.shape, -np.inf, np.float32)
        for number, (own, there) in enumerate(zip(rows, left, strict=True)):
            products[number, there] = self.vectors[own[there]] @ asked[number]
        return best_of(np.where(left, rows, -1), products, k)


def _some(rng: np.random.Generator, n: int, count: int) -> IntArray:
    """Numbers below n, none twice, rising: what is read of a file in its order."""
    return np.sort(rng.choice(n, min(n, count), replace=False))


def _about(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
