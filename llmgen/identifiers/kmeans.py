"""k-means: centroids of vectors by scikit-learn, and which of them is nearest."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import numpy as np

from llmgen.errors import EngineUnavailableError
from llmgen.types import IntArray
from llmgen.vectors.encoders import Float32Array

ROUNDS = 30
PER_CENTROID = 256
"""Vectors that a centroid is made of at most, on average; more make it hardly better, and take longer."""
BLOCK = 1 << 24
"""Distances that are worked on at once; 64 MB."""


def kmeans(vectors: Float32Array, k: int, *, seed: int) -> Float32Array:
    """Centroids of vectors, so that the sum of squared distances to the nearest one is small.

    One thread does it, so that the same numbers come out whatever the machine has.

    Args:
        vectors: float32 [n, d], n >= 1.
        k: 1 or more.
        seed: Of the first centroids, and of the vectors that are looked at where there are very many.

    Returns:
        float32 [at most k, d]; fewer where fewer vectors differ.

    Raises:
        EngineUnavailableError: scikit-learn is not installed.

    Source: Lloyd, IEEE Transactions on Information Theory 1982; first centroids by k-means++ (Arthur & Vassilvitskii,
    SODA 2007).
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning
    except ImportError as error:
        raise EngineUnavailableError(
            f"to fit words or codes on vectors needs scikit-learn ({error}); pip install 'llmgen[vectors]'"
        ) from error
    if len(vectors) > PER_CENTROID * k:
        rng = np.random.default_rng(seed)
        vectors = vectors[np.sort(rng.choice(len(vectors), PER_CENTROID * k, replace=False))]
    vectors = np.asarray(vectors, np.float32)
    made = KMeans(min(k, len(vectors)), n_init=1, max_iter=ROUNDS, random_state=seed)
    with warnings.catch_warnings(), _threads().limit(limits=1, user_api="openmp"):
        warnings.simplefilter("ignore", ConvergenceWarning)  # of vectors that are alike
        made.fit(vectors)
    found: Float32Array = made.cluster_centers_[np.unique(made.labels_)]
    return found


@lru_cache(maxsize=1)
def _threads() -> Any:
    """What sets the number of threads; scikit-learn is loaded. To look for it at each call takes a millisecond."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def nearest_centroid(vectors: Float32Array, centroids: Float32Array) -> IntArray:
    """The nearest centroid of each vector, int64 [n]; the first of equally near ones.

    Not by scikit-learn: items are placed where there is nothing but what was fitted elsewhere.
    """
    labels = np.zeros(len(vectors), np.int64)
    size = max(1, BLOCK // len(centroids))
    lengths = (centroids**2).sum(axis=1)
    for start in range(0, len(vectors), size):
        block = np.asarray(vectors[start : start + size], np.float32)
        labels[start : start + size] = (lengths - 2 * block @ centroids.T).argmin(axis=1)
    return labels
