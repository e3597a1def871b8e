"""Collaborative filtering: what people took together, or one after another, as a factor on the items.

All three models score item j for a user as a sum over the history, sum_i decay^age(i) * S[i, j], where age 0 is the
newest item; they differ in S. They need no training loop and no random numbers: one pass over a log makes each.
The scores become log weights by `llmgen.priors.log_lift`.

The defaults have the best NDCG@10 on the validation items of MovieLens-100K, mean of both tie rules, out of the grids
of `llmgen tune`; Transition's are the second, .0002 below, with half the window.

More than 400 lines: three models that share one way of scoring.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.errors import CatalogTooLargeError
from llmgen.priors.base import FLOOR, Saving, check_floor, log_lift
from llmgen.priors.interactions import INDEX, Evidence, histories_of, recency, sequences
from llmgen.priors.item_matrices import (
    DENSE_SHARE,
    LIKE,
    ROWS_AT_ONCE,
    among_all,
    binary_matrix,
    check_setting,
    compact,
    gram_matrix,
    invert,
    nearest_items,
    renumbered,
    spread_columns,
)
from llmgen.priors.sparse import SparseRow, lifted, rows_of
from llmgen.priors.words import text_neighbours
from llmgen.types import FloatArray, IntArray, Item, Query

MOST_GONE = 2_000
"""Rows of items that are gone, before a sparse matrix is made anew without them."""
DOUBLE_ITEMS = 10_000
"""EASE of more items is computed and kept in float32, half the memory and twice as fast."""


@dataclass(frozen=True, eq=False)
class ItemToItem(Saving):
    """A factor from similarities between items; `Transition`, `Ease` and `ItemKNN` fit them.

    Attributes:
        catalog: The items.
        similarity: float64 or float32 [n_items, n_items], dense or CSR; row = item of the history, column = candidate.
            After changes of the catalog rows and columns of a CSR matrix may be those of `rows`.
        decay: In (0, 1]: an item of the history counts this much less for each newer one.
        floor: In (0, 1], see `log_lift`.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
        unknown: bool [n_items], the items that nothing leads to; found where it is not given.
        rows: int64 [n_items], the row and the column of each item in `similarity`, -1 where it has none; None where
            that is its position.
        counts: int64, entries of each column of `similarity` in rows of items that are there; found where not given.
    """

    catalog: Catalog = field(repr=False)
    similarity: FloatArray | sparse.csr_array = field(repr=False)
    decay: float = 0.8
    floor: float = FLOOR
    weight: float = 1.0
    name: str = "item_to_item"
    unknown: NDArray[np.bool_] | None = field(default=None, repr=False)
    rows: IntArray | None = field(default=None, repr=False)
    counts: IntArray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_floor(self.floor)
        check_setting(self.decay > 0 and self.decay <= 1, "decay", self.decay, "in (0, 1]")
        n_items = len(self.catalog)
        if self.rows is not None and len(self.rows) != n_items:
            raise ValueError(f"rows are of {len(self.rows)} items, and the catalog has {n_items}")
        if self.rows is None and self.similarity.shape != (n_items, n_items):
            raise ValueError(f"similarity is {self.similarity.shape}, and the catalog has {n_items} items")

    def scores(self, queries: Sequence[Query]) -> FloatArray:
        """Raw scores of any sign.

        Items of a history that the catalog does not have add nothing.

        Returns:
            float64 [len(queries), n_items]; zeros for a query without history.
        """
        scores = self._found(queries)
        result: FloatArray = scores.toarray() if sparse.issparse(scores) else scores
        return result

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; finite always, and 0 where the model knows nothing.

        That is everywhere for a query whose history says nothing, and for an item that nothing leads to, such as a new
        one: it is not known to fit badly, as one with a score of 0 is.
        """
        lifts = log_lift(self.scores(queries), self.floor)
        lifts[:, self._unknown] = 0.0
        return lifts

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`."""
        found = self._found(queries)
        if not sparse.issparse(found):
            everything = np.arange(len(self.catalog))
            return [lifted(everything, row, self._floors, len(self.catalog)) for row in found]
        rows = rows_of(found)
        return [lifted(items, values, self._floors, len(self.catalog)) for items, values in rows]

    def _found(self, queries: Sequence[Query]) -> FloatArray | sparse.csr_array:
        histories = histories_of(self.catalog, queries, self.decay)
        if self.rows is not None:
            histories = renumbered(histories, self.rows, self.similarity.shape[0])
        if self.similarity.dtype == np.float32:  # else a float64 copy of it is made each time
            found = (histories.astype(np.float32) @ self.similarity).astype(np.float64)
        else:
            found = histories @ self.similarity
        if self.rows is None:
            return cast(FloatArray, found)
        return renumbered(cast(sparse.csr_array, found), self._positions, len(self.catalog))

    def evidence(self, query: Query, item: Item) -> list[Evidence]:
        """The items of the history that speak for an item, strongest first.

        Args:
            query: Its history is looked at.
            item: Of the catalog.

        Returns:
            One entry an item of the history whose part of the score is above 0; equal parts newest first. With the
            parts below 0, which are not listed, they sum to the item's raw score.

        Raises:
            UnknownItemError: `item` is not in the catalog.
        """
        candidate = self.catalog.index(item)
        taken = np.array(self.catalog.positions(query.items), dtype=np.int64)[::-1]
        parts = recency(len(taken), self.decay)[::-1] * self._column(candidate)[taken]
        sums: dict[int, float] = {}
        for position, part in zip(taken.tolist(), parts.tolist(), strict=True):
            sums[position] = sums.get(position, 0.0) + part
        found = [Evidence(self.catalog[position], part) for position, part in sums.items() if part > 0]
        return sorted(found, key=lambda entry: -entry.score)

    def on_catalog(self, catalog: Catalog, before: IntArray) -> ItemToItem:
        """See `Movable`; a new item is like no other until the model is fitted again.

        A sparse matrix is taken over as it is, and made anew without the items that are gone once there are many.
        """
        n_items = len(catalog)
        kept = np.flatnonzero(before >= 0)
        if isinstance(self.similarity, np.ndarray):
            similarity = np.zeros((n_items, n_items), self.similarity.dtype)
            similarity[np.ix_(kept, kept)] = self.similarity[np.ix_(before[kept], before[kept])]
            return dataclasses.replace(self, catalog=catalog, similarity=similarity, unknown=None)
        old = np.arange(len(self.catalog)) if self.rows is None else self.rows
        if np.array_equal(kept, np.arange(len(old))) and np.array_equal(before[kept], kept):  # new items at the end
            new = n_items - len(old)
            unknown, rows = np.append(self._unknown, np.ones(new, bool)), np.append(old, np.full(new, -1))
            return dataclasses.replace(self, catalog=catalog, unknown=unknown, rows=rows, counts=self._counts)
        rows = np.full(n_items, -1)
        rows[kept] = old[before[kept]]
        there, known = np.zeros((2, self.similarity.shape[0]), bool)
        there[old[old >= 0]], known[rows[rows >= 0]] = True, True
        if len(known) - np.count_nonzero(known) > MOST_GONE:
            kept = np.flatnonzero(rows >= 0)
            block = self.similarity[rows[kept]][:, rows[kept]].tocoo()
            whole = sparse.coo_array((block.data, (kept[block.row], kept[block.col])), shape=(n_items, n_items)).tocsr()
            return dataclasses.replace(self, catalog=catalog, similarity=whole, unknown=None, rows=None, counts=None)
        counts = self._counts
        if len(gone := np.flatnonzero(there & ~known)):
            columns = self.similarity[gone].indices
            counts = counts - np.bincount(columns, minlength=len(counts))
        unknown = np.ones(n_items, bool)
        unknown[rows >= 0] = counts[rows[rows >= 0]] == 0
        return dataclasses.replace(self, catalog=catalog, unknown=unknown, rows=rows, counts=counts)

    @cached_property
    def _unknown(self) -> NDArray[np.bool_]:
        """[n_items], the items that nothing leads to."""
        if self.unknown is not None:
            return self.unknown
        if isinstance(self.similarity, np.ndarray):
            return ~np.asarray(self.similarity.any(axis=0))
        unknown: NDArray[np.bool_] = self._counts == 0
        return unknown

    @cached_property
    def _counts(self) -> IntArray:
        """Of each column of a sparse matrix."""
        if self.counts is not None:
            return self.counts
        matrix = cast(sparse.csr_array, self.similarity)
        return np.bincount(matrix.indices, minlength=matrix.shape[1])

    @cached_property
    def _positions(self) -> IntArray:
        """Of each row and column of `similarity` the position of its item; -1 where that is gone."""
        assert self.rows is not None
        positions = np.full(self.similarity.shape[0], -1)
        positions[self.rows[self.rows >= 0]] = np.flatnonzero(self.rows >= 0)
        return positions

    @cached_property
    def _floors(self) -> FloatArray:
        """[n_items], log weights beside others that have a score."""
        return np.where(self._unknown, 0.0, np.log(self.floor))

    def _column(self, candidate: int) -> FloatArray:
        if isinstance(self.similarity, np.ndarray):
            return self.similarity[:, candidate]
        if self.rows is None:
            result: FloatArray = self.similarity[:, [candidate]].toarray()[:, 0]
            return result
        column = np.zeros(len(self.catalog))
        if self.rows[candidate] >= 0:
            known = self.rows >= 0
            column[known] = self.similarity[:, [self.rows[candidate]]].toarray()[self.rows[known], 0]
        return column


@dataclass(frozen=True, eq=False)
class Ease(ItemToItem):
    """Embarrassingly shallow autoencoder: the linear item-to-item model with zero diagonal, in closed form.

    Minimises |X - X B|^2 + l2 |B|^2 subject to diag(B) = 0, X binary [users, items]; with P = (X'X + l2 I)^-1 the
    solution is B[i, j] = -P[i, j] / P[j, j] off the diagonal. Histories are weighted by recency when scoring, which
    the published model does not do.

    With `words` there is + words |B - S|^2 too, S[i, j] the share of item i among the 20 items whose texts are most
    like that of j. Then P = (X'X + (l2 + words) I)^-1, D = words P S, and off the diagonal
    B[i, j] = D[i, j] - P[i, j] (1 + D[j, j]) / P[j, j].

    Source: Steck, WWW 2019, equation 8; for `words` the form of L3AE (Moon et al., CIKM 2025), with cosines of words in
    the place of a language model's vectors.
    """

    name: str = "ease"

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        catalog: Catalog,
        *,
        weight: float = 1.0,
        l2: float = 300.0,
        words: float = 0.0,
        decay: float = 0.9,
        floor: float = FLOOR,
        max_items: int = 20_000,
        max_bytes: int | None = None,
    ) -> Ease:
        """Invert the Gram matrix of a log, by Cholesky and in place.

        Above `DOUBLE_ITEMS` items in float32, whose rounding does not show in the ranking.

        Items that nobody took get similarity 0 and are left out of the inverse, so `max_items` counts only those taken.

        Args:
            interactions: Columns `user_id`, `item_id`, `timestamp`; a repeated item counts once a user.
            catalog: All items.
            weight: Exponent of the factor.
            l2: Above 0; the strength of the ridge, in users.
            words: 0 or more, in users as `l2`: how strongly B is drawn to the similarity of the items' texts. Items
                that nobody took are then scored by their texts, and twice the memory is held.
            decay: In (0, 1], of the history with age.
            floor: See `log_lift`.
            max_items: Most items to invert: n^2 numbers are held (20,000 items: 1.6 GB), n^3 steps made.
            max_bytes: Most memory of the fit, where that is limited.

        Raises:
            CatalogTooLargeError: More than `max_items` items were taken, or `max_bytes` is too little.
            UnknownItemError: An interaction with an item that the catalog does not have.
            DataError: A column is missing or has nulls.
            ValueError: A hyper-parameter is out of range.
        """
        check_setting(l2 > 0, "l2", l2, "above 0")
        check_setting(words >= 0, "words", words, "0 or more")
        taken, gram = gram_matrix(sequences(interactions, catalog), len(catalog))
        if words > 0:
            taken, gram = np.arange(len(catalog)), among_all(gram, taken, len(catalog))
        if len(taken) > max_items:
            raise CatalogTooLargeError(
                f"EASE inverts a matrix of {len(taken)} x {len(taken)} items, above max_items={max_items}; "
                "use Transition or ItemKNN, which stay sparse, or raise max_items if there is memory"
            )
        single = len(taken) > DOUBLE_ITEMS
        needed = cls.bytes_of(len(taken), len(catalog)) * (2 if words > 0 else 1)
        if max_bytes is not None and needed > max_bytes:
            raise CatalogTooLargeError(
                f"EASE of {len(taken)} items needs {needed / 2**30:.1f} GiB, above the {max_bytes / 2**30:.1f} GiB "
                "left to it; use Transition or ItemKNN, which stay sparse, or give more memory"
            )
        if single and len(taken) ** 2 > DENSE_SHARE * len(catalog) ** 2:  # so that it need not be spread afterwards
            gram = among_all(gram, taken, len(catalog))
            taken = np.arange(len(catalog))
        weights = gram.astype(np.float32 if single else np.float64).toarray(order="C")
        weights.flat[:: len(weights) + 1] += l2 + words
        invert(weights)
        scale = -np.diag(weights).copy()
        if words > 0:
            alike = (words * text_neighbours(catalog, LIKE).T).tocsr().astype(weights.dtype)  # column = candidate
            drawn = weights @ alike
            scale /= 1.0 + np.diag(drawn)
        for start in range(0, len(weights), ROWS_AT_ONCE):  # in pieces: no second matrix
            weights[start : start + ROWS_AT_ONCE] /= scale
        if words > 0:
            weights += drawn
        np.fill_diagonal(weights, 0.0)
        return cls(catalog, spread_columns(weights, taken, len(catalog)), decay, floor, weight)

    @staticmethod
    def bytes_of(taken: int, n_items: int) -> int:
        """Bytes that a fit holds at once, with so many items that somebody took."""
        single, whole = taken > DOUBLE_ITEMS, taken**2 > DENSE_SHARE * n_items**2
        if whole:
            return 4 * n_items**2 if single else 8 * (taken**2 + n_items**2 * (taken < n_items))
        return (4 + 8) * taken**2 if single else 8 * 2 * taken**2


@dataclass(frozen=True, eq=False)
class ItemKNN(ItemToItem):
    """Cosine between the users of two items, for the nearest neighbours of each candidate.

    S[i, j] = n_ij / (sqrt(n_i * n_j) + shrinkage) if i is one of the `neighbours` most similar items of j, else 0;
    n_i users took i, n_ij took both.

    Source: Deshpande & Karypis, TOIS 2004; shrinkage as in Ferrari Dacrema et al., RecSys 2019.
    """

    name: str = "item_knn"

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        catalog: Catalog,
        *,
        weight: float = 1.0,
        neighbours: int = 200,
        shrinkage: float = 10.0,
        decay: float = 0.7,
        floor: float = FLOOR,
    ) -> ItemKNN:
        """Find the neighbours in a log.

        Args:
            interactions: Columns `user_id`, `item_id`, `timestamp`; a repeated item counts once a user.
            catalog: All items.
            weight: Exponent of the factor.
            neighbours: How many an item keeps, 1 or more; of equally similar ones the first of the catalog.
            shrinkage: 0 or more; pairs with few users in common count less.
            decay: In (0, 1], of the history with age.
            floor: See `log_lift`.

        Raises:
            UnknownItemError: An interaction with an item that the catalog does not have.
            DataError: A column is missing or has nulls.
            ValueError: A hyper-parameter is out of range.
        """
        check_setting(neighbours >= 1, "neighbours", neighbours, "1 or more")
        check_setting(shrinkage >= 0, "shrinkage", shrinkage, "0 or more")
        n_items = len(catalog)
        users_items = binary_matrix(sequences(interactions, catalog), n_items)
        items_users = users_items.T.tocsr()
        sizes = np.sqrt(np.diff(items_users.indptr).astype(np.float64))
        blocks = []
        for start in range(0, n_items, ROWS_AT_ONCE):
            block = (items_users[start : start + ROWS_AT_ONCE] @ users_items).tocsr()
            rows = np.repeat(np.arange(start, start + block.shape[0]), np.diff(block.indptr))
            similar = block.data / (sizes[rows] * sizes[block.indices] + shrinkage)
            others = block.indices != rows
            blocks.append(nearest_items(rows[others], block.indices[others], similar[others], neighbours))
        return cls(catalog, cls._of_columns(blocks, n_items), decay, floor, weight)

    def nearest(self, neighbours: int) -> ItemKNN:
        """The same with fewer neighbours: what `fit` gives with that many, without looking at the log again.

        Args:
            neighbours: As in `fit`; where the fit had no more, nothing changes.

        Raises:
            ValueError: Below 1.
        """
        check_setting(neighbours >= 1, "neighbours", neighbours, "1 or more")
        columns = sparse.csc_array(self.similarity)
        columns.sort_indices()
        candidates = np.repeat(np.arange(len(self.catalog)), np.diff(columns.indptr))
        kept = nearest_items(candidates, columns.indices.astype(np.int64), columns.data, neighbours)
        return dataclasses.replace(self, similarity=self._of_columns([kept], len(self.catalog)))

    @staticmethod
    def _of_columns(
        blocks: Sequence[tuple[FloatArray, IntArray, IntArray]], n_items: int
    ) -> FloatArray | sparse.csr_array:
        """S from similarities, neighbours and candidates."""
        data, neighbour, candidate = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        cells = (data, (neighbour.astype(INDEX), candidate.astype(INDEX)))
        return compact(sparse.coo_array(cells, shape=(n_items, n_items)).tocsr())
