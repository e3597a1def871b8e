"""Matrices between items: counts, likeness, the largest entries of each row, and their inverse."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping

import numpy as np
from scipy import sparse
from scipy.linalg import cython_lapack

from llmgen.errors import ArgumentError
from llmgen.priors.interactions import INDEX, Sequences
from llmgen.types import FloatArray, IntArray

LIKE = 20
"""Items whose texts are most like an item's, where a model looks at texts."""
DENSE_SHARE = 0.2
"""Similarities with more of their cells filled than this are kept dense: a batch then scores several times faster."""


ROWS_AT_ONCE = 2_000
"""Rows of item-item products that are worked on at once."""


def renumbered(matrix: sparse.csr_array, columns: IntArray, width: int) -> sparse.csr_array:
    """A matrix whose columns have other numbers, the entries of each row in the order that they had.

    Args:
        matrix: Not changed.
        columns: int64, of each column its new number; -1 leaves it out.
        width: Columns of the new one.
    """
    indices = columns[matrix.indices].astype(matrix.indices.dtype)
    stays = indices >= 0
    ends = np.append(0, stays.cumsum())[matrix.indptr].astype(matrix.indptr.dtype)
    return sparse.csr_array((matrix.data[stays], indices[stays], ends), shape=(matrix.shape[0], width))


def identity_matrix(size: int) -> sparse.csr_array:
    """Ones on the diagonal."""
    return sparse.csr_array(sparse.eye_array(size, format="csr"))


def check_setting(fine: bool, name: str, value: float, wanted: str) -> None:
    """A setting that is out of range is told."""
    if not fine:
        raise ArgumentError(f"{name} must be {wanted}, not {value}")


def among_all(block: sparse.csr_array, taken: IntArray, n_items: int) -> sparse.csr_array:
    """A matrix of some items as rows and columns of all."""
    cells = block.tocoo()
    places = (taken[cells.row], taken[cells.col])
    return sparse.csr_array(sparse.coo_array((cells.data, places), shape=(n_items, n_items)))


def strongest_entries(matrix: sparse.csr_array, most: int) -> sparse.csr_array:
    """The largest cells of each row, so many at most; of equal ones the first columns."""
    matrix.sort_indices()
    kept = np.ones(len(matrix.data), dtype=bool)
    for row in np.flatnonzero(np.diff(matrix.indptr) > most).tolist():
        start, end = matrix.indptr[row], matrix.indptr[row + 1]
        order = np.argsort(-matrix.data[start:end], kind="stable")
        kept[start + order[most:]] = False
    if kept.all():
        return matrix
    ends = np.append(0, kept.cumsum())[matrix.indptr].astype(matrix.indptr.dtype)
    return sparse.csr_array((matrix.data[kept], matrix.indices[kept], ends), shape=matrix.shape)


def nearest_items(
    candidates: IntArray, neighbours: IntArray, similar: FloatArray, most: int
) -> tuple[FloatArray, IntArray, IntArray]:
    """The most similar cells of each candidate, of equal ones the first neighbours.

    Args:
        candidates: [n], not falling.
        neighbours: [n]
        similar: [n]
        most: Of a candidate.

    Returns:
        Similarities, neighbours and candidates of the cells that are kept.
    """
    order = np.lexsort((neighbours, -similar, candidates))
    sorted_candidates = candidates[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_candidates, sorted_candidates)
    order = order[place < most]
    return similar[order], neighbours[order], candidates[order]


def negative_power(sums: FloatArray, power: float) -> FloatArray:
    """1 / sums^power, and 0 where the sum is 0."""
    result: FloatArray = np.where(sums > 0, np.where(sums > 0, sums, 1.0) ** -power, 0.0)
    return result


def compact(matrix: sparse.csr_array) -> FloatArray | sparse.csr_array:
    """As an array where most entries are there."""
    n_cells = matrix.shape[0] * matrix.shape[1]
    return matrix.toarray() if matrix.nnz > DENSE_SHARE * n_cells else matrix


def _lapack(name: str) -> Callable[..., None]:
    """A routine of LAPACK (uplo, n, a, lda, info); scipy's own wrapper holds up all other threads for minutes."""
    routines: Mapping[str, object] = cython_lapack.__pyx_capi__
    capsule = routines[name]
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", ctypes.pythonapi))
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 5)(pointer_of(capsule, name_of(capsule)))


def invert(matrix: FloatArray) -> None:
    """Invert a symmetric positive definite matrix, C order, in place."""
    if not len(matrix):
        return
    assert matrix.flags.c_contiguous
    size, failed = ctypes.c_int(len(matrix)), ctypes.c_int(0)
    letter = "s" if matrix.dtype == np.float32 else "d"
    for step in ("potrf", "potri"):  # to LAPACK, in Fortran's order, the upper triangle is our lower one
        by = ctypes.byref
        _lapack(letter + step)(ctypes.c_char_p(b"U"), by(size), matrix.ctypes.data, by(size), by(failed))
        if failed.value:
            raise ArgumentError("the matrix of items cannot be inverted in this precision; raise l2")
    for start in range(0, len(matrix), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        corner = matrix[rows, rows]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        matrix[rows, rows.stop :] = matrix[rows.stop :, rows].T


def spread_columns(block: FloatArray, taken: IntArray, n_items: int) -> FloatArray | sparse.csr_array:
    """A block over the items taken as rows and columns of the whole catalog, zero elsewhere."""
    if len(taken) == n_items:
        return block
    if block.size > DENSE_SHARE * n_items**2:
        whole = np.zeros((n_items, n_items), block.dtype)
        for start in range(0, len(taken), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            whole[np.ix_(taken[rows], taken)] = block[rows]
        return whole
    lengths = np.zeros(n_items + 1, dtype=INDEX if block.size < np.iinfo(INDEX).max else np.int64)
    lengths[taken + 1] = len(taken)
    arrays = (block.ravel(), np.tile(taken.astype(lengths.dtype), len(taken)), lengths.cumsum(dtype=lengths.dtype))
    return sparse.csr_array(arrays, shape=(n_items, n_items))


def binary_matrix(log: Sequences, n_items: int) -> sparse.csr_array:
    """Users by items: 1 where taken."""
    n_users = int(log.users[-1]) + 1 if len(log.users) else 0
    pairs = log.users.astype(INDEX), log.items.astype(INDEX)
    taken = sparse.coo_array((np.ones(len(log.items)), pairs), shape=(n_users, n_items)).tocsr()
    taken.data[:] = 1.0  # a repeat counts once
    return taken


def gram_matrix(log: Sequences, n_items: int) -> tuple[IntArray, sparse.csr_array]:
    """Positions of the items that somebody took, and X'X of just these."""
    taken = np.unique(log.items)
    narrow = binary_matrix(Sequences(log.users, np.searchsorted(taken, log.items)), len(taken))
    return taken, (narrow.T @ narrow).tocsr()
