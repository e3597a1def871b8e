"""Which items are alike by their texts, for models that learn from a log and know little of rare items."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.priors.content import Features
from llmgen.priors.interactions import INDEX

CELLS = 1 << 24
"""Cosines that are held at once."""


def text_neighbours(catalog: Catalog, most: int) -> sparse.csr_array:
    """The items whose titles and attributes are most alike, by the cosine that `Content` scores with.

    Memory is bounded; time grows with the pairs of items that share a word.

    Args:
        catalog: The items.
        most: Neighbours of an item at most, 1 or more; of equally similar ones the first of the catalog.

    Returns:
        float64 [n_items, n_items], row = item, column = neighbour, never the item itself; cosines divided by their sum,
        so that a row sums to 1, or to 0 for an item that is like no other.
    """
    vectors = Features.of(list(catalog)).vectors(list(catalog))
    turned = vectors.T.tocsr()
    blocks = []
    at_once = max(1, CELLS // len(catalog))
    for start in range(0, len(catalog), at_once):
        block = (vectors[start : start + at_once] @ turned).tocsr()
        rows = np.repeat(np.arange(start, start + block.shape[0]), np.diff(block.indptr))
        others = block.indices != rows
        rows, columns, cosines = rows[others], block.indices[others], block.data[others]
        order = np.lexsort((columns, -cosines, rows))
        rows = rows[order]
        order = order[np.arange(len(order)) - np.searchsorted(rows, rows) < most]
        kept = np.searchsorted(rows, np.arange(start, start + block.shape[0] + 1))
        sizes = np.minimum(np.diff(kept), most)
        data, owner = cosines[order], np.repeat(np.arange(block.shape[0]), sizes)
        sums = np.bincount(owner, data, minlength=block.shape[0])
        ends = np.append(0, sizes.cumsum()).astype(INDEX)
        arrays = (data / sums[owner], columns[order].astype(INDEX), ends)
        blocks.append(sparse.csr_array(arrays, shape=block.shape))
    found = sparse.csr_array(sparse.vstack(blocks))
    found.sort_indices()
    return found
