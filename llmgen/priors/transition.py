"""Transition: what people took next."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.priors.base import FLOOR
from llmgen.priors.collaborative import ItemToItem
from llmgen.priors.interactions import INDEX, Sequences, sequences
from llmgen.priors.item_matrices import (
    LIKE,
    ROWS_AT_ONCE,
    check_setting,
    compact,
    negative_power,
    strongest_entries,
)
from llmgen.priors.words import text_neighbours


@dataclass(frozen=True, eq=False)
class Transition(ItemToItem):
    """What people took next: decayed transitions from each item to the ones after it.

    N[i, j] is the sum, over all places of all sequences where j follows i by `gap` <= window places, of
    step_decay^(gap - 1). Turned round it counts `backward` as much: C = N + backward * N'. A popular item is met from
    everywhere and leads everywhere, so

        S[i, j] = C[i, j] / (row sum i of C)^row_power / (column sum j of C)^column_power

    The order of a log is partly accident: 415 of the 943 users of MovieLens-100K tie on their last timestamp. Choosing
    `backward` too lifts validation NDCG@10 there from .124 to .135 with ties in the order of the file, and from .117 to
    .119 with ties by item id, where the order among ties is a pattern of its own.

    Source: the sequential rules of Ludewig & Jannach, UMUAI 2018, with geometric weights, both
    directions, and both margins damped.
    """

    name: str = "transition"

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        catalog: Catalog,
        *,
        weight: float = 1.0,
        window: int = 20,
        step_decay: float = 0.9,
        backward: float = 0.5,
        row_power: float = 0.5,
        column_power: float = 0.4,
        neighbours: int = 2_000,
        words: float = 0.0,
        decay: float = 0.8,
        floor: float = FLOOR,
        counts: sparse.csr_array | None = None,
    ) -> Transition:
        """Count the transitions of a log.

        Time grows with interactions * window; memory with the pairs that occur, never with n_items^2.

        Args:
            interactions: Columns `user_id`, `item_id`, `timestamp`; equal times keep the order of the rows.
            catalog: All items; those that nobody took have no transitions.
            weight: Exponent of the factor.
            window: How many places further a next item may stand, 1 or more.
            step_decay: In (0, 1]: a transition counts this much less for each place further.
            backward: 0 or more: what the step from the later item to the earlier one counts; 0 for logs whose order is
                all that matters, 1 where it means nothing.
            row_power: 0 or more; 1 turns the rows into probabilities.
            column_power: 0 or more; more prefers rarer items.
            neighbours: How many items one leads to at most, the strongest, 1 or more: what a popular item of a large
                catalog costs a request.
            words: 0 or more: so many transitions more are counted from and to each item, as those of the 20 items
                whose titles and attributes are most like its own go. It speaks for items that few people took, and
                for those that nobody took.
            decay: In (0, 1], of the history with age.
            floor: See `log_lift`.
            counts: What `count` gives for the same log, window and step_decay, where several fits share it.

        Raises:
            UnknownItemError: An interaction with an item that the catalog does not have.
            DataError: A column is missing or has nulls.
            ValueError: A hyper-parameter is out of range.
        """
        check_setting(window >= 1, "window", window, "1 or more")
        check_setting(0 < step_decay <= 1, "step_decay", step_decay, "in (0, 1]")
        check_setting(backward >= 0, "backward", backward, "0 or more")
        check_setting(row_power >= 0, "row_power", row_power, "0 or more")
        check_setting(column_power >= 0, "column_power", column_power, "0 or more")
        check_setting(neighbours >= 1, "neighbours", neighbours, "1 or more")
        check_setting(words >= 0, "words", words, "0 or more")
        if counts is None:
            counts = cls.count(interactions, catalog, window=window, step_decay=step_decay)
        counts = (counts + backward * counts.T).tocsr() if backward > 0 else counts.copy()
        if words > 0:
            counts = _smoothed(counts, text_neighbours(catalog, LIKE), words, neighbours)
        rows = negative_power(np.asarray(counts.sum(axis=1), dtype=np.float64), row_power)
        columns = negative_power(np.asarray(counts.sum(axis=0), dtype=np.float64), column_power)
        counts.data *= np.repeat(rows, np.diff(counts.indptr)) * columns[counts.indices]
        return cls(catalog, compact(strongest_entries(counts, neighbours)), decay, floor, weight)

    @staticmethod
    def count(
        interactions: pl.DataFrame, catalog: Catalog, *, window: int = 20, step_decay: float = 0.9
    ) -> sparse.csr_array:
        """N of the class's docstring, float64 [n_items, n_items]; see `fit` for the arguments."""
        return transitions(sequences(interactions, catalog), len(catalog), window, step_decay)


def transitions(log: Sequences, n_items: int, window: int, step_decay: float) -> sparse.csr_array:
    """Counts of what follows what, float64 [n_items, n_items]; N of `Transition`."""
    counts = sparse.csr_array((n_items, n_items), dtype=np.float64)
    for gap in range(1, min(window, len(log.users) - 1) + 1):
        same = log.users[gap:] == log.users[:-gap]
        if not same.any():  # no sequence is this long, so none is longer
            break
        pairs = (log.items[:-gap][same].astype(INDEX), log.items[gap:][same].astype(INDEX))
        values = np.full(len(pairs[0]), step_decay ** (gap - 1))
        counts = counts + sparse.coo_array((values, pairs), shape=(n_items, n_items)).tocsr()
    result: sparse.csr_array = counts.tocsr()
    return result


def _smoothed(counts: sparse.csr_array, alike: sparse.csr_array, more: float, most: int) -> sparse.csr_array:
    """Counts with `more` transitions from each item, shared as those of its neighbours are, and so many to each.

    Args:
        counts: float64 [n_items, n_items].
        alike: float64 [n_items, n_items], the share of each neighbour of a row's item.
        more: Above 0.
        most: Cells that a row gets from its neighbours at most.
    """
    found = counts
    for one in (counts, counts.T.tocsr()):
        shares = one.copy()
        shares.data *= np.repeat(negative_power(np.asarray(one.sum(axis=1)), 1.0), np.diff(one.indptr))
        blocks = [
            strongest_entries((alike[start : start + ROWS_AT_ONCE] @ shares).tocsr(), most)
            for start in range(0, one.shape[0], ROWS_AT_ONCE)
        ]
        added = more * sparse.csr_array(sparse.vstack(blocks))
        found = found + (added if one is counts else added.T)
    return found.tocsr()
