"""The nearest of some vectors, exactly: all are looked at, block by block."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmgen.types import IntArray
from llmgen.vectors.encoders import Float32Array

BLOCK = 1 << 24
"""Cosines that are worked on at once; 64 MB."""


def nearest(
    vectors: Float32Array, queries: Float32Array, k: int, gone: NDArray[np.bool_] | None = None
) -> tuple[IntArray, Float32Array]:
    """The k vectors with the largest inner product with each query, in no order.

    Args:
        vectors: float32 [n, d], n >= 1; memory-mapped where you like.
        queries: float32 [n_queries, d].
        k: 1 or more.
        gone: bool [n], rows that are not wanted; None where all are.

    Returns:
        int64 and float32 [n_queries, min(k, n)]: rows, and the products. Where fewer are wanted, the rest of the rows
        is -1, and of the products -inf.
    """
    size = max(1, BLOCK // max(1, len(queries)))
    rows, products = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(vectors), size):
        block = queries @ np.asarray(vectors[start : start + size]).T
        own = np.arange(start, start + block.shape[1])
        if gone is not None:
            here = gone[start : start + size]
            block[:, here] = -np.inf
            own[here] = -1
        found, best = best_of(np.broadcast_to(own, block.shape), block, k)
        rows, products = best_of(np.concatenate([rows, found], axis=1), np.concatenate([products, best], axis=1), k)
    return rows, products


def best_of(rows: IntArray, products: Float32Array, k: int) -> tuple[IntArray, Float32Array]:
    """Of each query the k rows with the largest products, in no order, and these products; [n_queries, at most k]."""
    if products.shape[1] <= k:
        return rows, products
    places = np.argpartition(-products, k - 1, axis=1)[:, :k]
    return np.take_along_axis(rows, places, axis=1), np.take_along_axis(products, places, axis=1)
