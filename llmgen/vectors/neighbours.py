"""The nearest of many vectors: exactly, block by block, or by an index of faiss where they are too many for that."""

from __future__ import annotations

import logging
import math
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmgen.types import IntArray
from llmgen.vectors.encoders import Float32Array

logger = logging.getLogger(__name__)

EXACT = 200_000
"""Up to so many vectors all are looked at; 384 numbers each, that takes some 50 ms a query."""
BLOCK = 1 << 24
"""Cosines that are worked on at once; 64 MB."""
SHARE = 8
"""A query looks through one in so many lists of the index; see eval/RESULTS.md for the recall."""


def nearest(vectors: Float32Array, queries: Float32Array, k: int) -> tuple[IntArray, Float32Array]:
    """The k vectors with the largest inner product with each query, in no order.

    Args:
        vectors: float32 [n, d], n >= 1; memory-mapped where you like.
        queries: float32 [n_queries, d].
        k: 1 or more.

    Returns:
        int64 and float32 [n_queries, min(k, n)]: rows, and the products.
    """
    size = max(1, BLOCK // max(1, len(queries)))
    rows, products = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(vectors), size):
        block = queries @ np.asarray(vectors[start : start + size]).T
        own, best = _best(block, k)
        rows = np.concatenate([rows, own + start], axis=1)
        products = np.concatenate([products, best], axis=1)
        kept, products = _best(products, k)
        rows = np.take_along_axis(rows, kept, axis=1)
    return rows, products


def _best(products: Float32Array, k: int) -> tuple[IntArray, Float32Array]:
    if products.shape[1] <= k:
        return np.broadcast_to(np.arange(products.shape[1]), products.shape), products
    places = np.argpartition(-products, k - 1, axis=1)[:, :k]
    return places, np.take_along_axis(products, places, axis=1)


class Neighbours:
    """Finds the nearest of some vectors.

    Args:
        vectors: float32 [n, d], of length 1 or 0.
        path: Where an index is kept; None keeps it in memory only.
    """

    def __init__(self, vectors: Float32Array, path: Path | None = None) -> None:
        self.vectors = vectors
        self._path = path

    def nearest(self, queries: Float32Array, k: int) -> tuple[IntArray, Float32Array]:
        """See the function `nearest`; above `EXACT` vectors some are missed, and their rows are -1."""
        if len(self.vectors) <= EXACT or self.index is None:
            return nearest(self.vectors, queries, k)
        products, rows = self.index.search(np.ascontiguousarray(queries, np.float32), k)
        return rows, products

    @cached_property
    def index(self) -> Any:
        """An inverted file of faiss (Jégou et al., TPAMI 2011) with whole vectors; None where faiss is not installed.

        Of n vectors it makes some 2·sqrt(n) lists; a query looks through the nearest of them, one in `SHARE`.
        """
        try:
            import faiss
        except ImportError:
            logger.warning(
                "faiss is not installed, so each request looks at all %s vectors: pip install 'llmgen[vectors]'",
                f"{len(self.vectors):,}",
            )
            return None
        n, d = self.vectors.shape
        if self._path is not None and self._path.exists():
            index = faiss.read_index(str(self._path))
        else:
            count = 1 << round(math.log2(2 * math.sqrt(n)))
            logger.info("making an index of %s vectors with %d lists", f"{n:,}", count)
            index = faiss.index_factory(d, f"IVF{count},Flat", faiss.METRIC_INNER_PRODUCT)
            sample = np.sort(np.random.default_rng(0).choice(n, min(n, 40 * count), replace=False))
            index.train(np.ascontiguousarray(self.vectors[sample]))
            for start in range(0, n, 65_536):
                index.add(np.ascontiguousarray(self.vectors[start : start + 65_536]))
            if self._path is not None:
                part = self._path.with_suffix(".part")
                faiss.write_index(index, str(part))
                part.replace(self._path)
        lists = faiss.extract_index_ivf(index)
        lists.nprobe = max(1, lists.nlist // SHARE)
        return index
