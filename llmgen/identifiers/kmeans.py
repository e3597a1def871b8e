"""k-means: centroids of vectors, and which of them is nearest."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from llmgen.types import IntArray
from llmgen.vectors.encoders import Float32Array

ROUNDS = 30
PER_CENTROID = 256
"""Vectors that a centroid is made of at most, on average; more make it hardly better, and take longer."""
BLOCK = 1 << 24
"""Distances that are worked on at once; 64 MB."""


def kmeans(vectors: Float32Array, k: int, *, seed: int) -> Float32Array:
    """Centroids of vectors, so that the sum of squared distances to the nearest one is small.

    Args:
        vectors: float32 [n, d], n >= 1.
        k: 1 or more.
        seed: Of the first centroids, and of the vectors that are looked at where there are very many.

    Returns:
        float32 [at most k, d]; fewer where fewer vectors differ.

    Source: Lloyd, IEEE Transactions on Information Theory 1982; first centroids by k-means++ (Arthur & Vassilvitskii,
    SODA 2007).
    """
    rng = np.random.default_rng(seed)
    if len(vectors) > PER_CENTROID * k:
        vectors = vectors[np.sort(rng.choice(len(vectors), PER_CENTROID * k, replace=False))]
    vectors = np.asarray(vectors, np.float32)
    centroids = _first(vectors, k, rng)
    before = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        labels, distances = _assigned(vectors, centroids)
        if (labels == before).all():
            break
        before = labels
        sizes = np.bincount(labels, minlength=len(centroids))
        ones, shape = np.ones(len(labels), np.float32), (len(centroids), len(labels))
        members = sparse.csr_array((ones, (labels, np.arange(len(labels)))), shape=shape)
        centroids = (members @ vectors / np.maximum(sizes, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(sizes == 0)
        centroids[empty] = vectors[np.argsort(-distances, kind="stable")[: len(empty)]]
    return centroids


def nearest_centroid(vectors: Float32Array, centroids: Float32Array) -> IntArray:
    """The nearest centroid of each vector, int64 [n]; the first of equally near ones."""
    return _assigned(vectors, centroids)[0]


def _first(vectors: Float32Array, k: int, rng: np.random.Generator) -> Float32Array:
    """Vectors far from one another: each drawn in proportion to its squared distance to the nearest one before."""
    chosen = [int(rng.integers(len(vectors)))]
    distances = _distances(vectors, vectors[chosen[0]])
    while len(chosen) < k and distances.sum() > 0:
        chosen.append(int(rng.choice(len(vectors), p=distances / distances.sum())))
        distances = np.minimum(distances, _distances(vectors, vectors[chosen[-1]]))
    return vectors[chosen]


def _distances(vectors: Float32Array, centroid: Float32Array) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found: np.ndarray[tuple[int], np.dtype[np.float64]] = ((vectors - centroid).astype(np.float64) ** 2).sum(axis=1)
    return found


def _assigned(vectors: Float32Array, centroids: Float32Array) -> tuple[IntArray, Float32Array]:
    """The nearest centroid of each vector, and the squared distance to it."""
    labels = np.zeros(len(vectors), np.int64)
    distances = np.zeros(len(vectors), np.float32)
    size = max(1, BLOCK // len(centroids))
    lengths = (centroids**2).sum(axis=1)
    for start in range(0, len(vectors), size):
        block = np.asarray(vectors[start : start + size], np.float32)
        apart = lengths - 2 * block @ centroids.T
        best = apart.argmin(axis=1)
        labels[start : start + size] = best
        distances[start : start + size] = apart[np.arange(len(block)), best] + (block**2).sum(axis=1)
    return labels, distances
