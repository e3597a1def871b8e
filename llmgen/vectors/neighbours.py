"""The nearest of many vectors: exactly, or by an index where they are too many for that."""

from __future__ import annotations

import logging
from pathlib import Path
from threading import Lock

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from llmgen.types import IntArray
from llmgen.vectors.encoders import Float32Array
from llmgen.vectors.exact import nearest
from llmgen.vectors.index import Index

logger = logging.getLogger(__name__)

EXACT = 20_000
"""Up to so many vectors all are looked at; 384 numbers each, that takes some 3 ms a query."""


class Neighbours:
    """Finds the nearest of some vectors.

    Attributes:
        vectors: float32 [n, d], of length 1 or 0.
        path: Where an index is kept; None keeps it in memory only.
    """

    def __init__(self, vectors: Float32Array, path: Path | None = None) -> None:
        self.vectors, self.path = vectors, path
        self._index: Index | None = None
        self._exact = len(vectors) <= EXACT
        self._making = Lock()

    def nearest(
        self, queries: Float32Array, k: int, gone: NDArray[np.bool_] | None = None, *, words: bool = False
    ) -> tuple[IntArray, Float32Array]:
        """See `llmgen.vectors.exact.nearest`, and above `EXACT` vectors `Index.nearest`: a few are missed."""
        index = self.index
        if index is None:
            return nearest(self.vectors, queries, k, gone)
        return index.nearest(queries, k, gone, words=words)

    @property
    def index(self) -> Index | None:
        """Read or made when it is first asked for; None for few vectors, and where faiss is not installed."""
        if not self._exact and self._index is None:
            with self._making:
                if not self._exact and self._index is None:  # no other thread has made it meanwhile
                    try:
                        self._index = self._made()
                    except ImportError:
                        self._exact = True
                        logger.warning(
                            "faiss is not installed, so each request looks at all %s vectors: "
                            "pip install 'llmgen[vectors]'",
                            f"{len(self.vectors):,}",
                        )
        return self._index

    def _made(self) -> Index:
        if self.path is None:
            return Index.make(self.vectors)
        if (found := Index.read(self.path, self.vectors)) is not None:
            return found
        with FileLock(self.path.parent / ".lock"):  # of several processes one makes it
            found = Index.read(self.path, self.vectors)
            if found is None:
                found = Index.make(self.vectors)
                found.write(self.path)
        return found
