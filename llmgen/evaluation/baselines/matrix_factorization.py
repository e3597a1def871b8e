"""Matrix factorisation as a baseline: ALS and BPR by the library `implicit`, which is an extra (`llmgen[factors]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.priors.interactions import sequences
from llmgen.types import FloatArray, Query


def _implicit() -> Any:
    try:
        import implicit
    except ImportError as error:
        raise ConfigError(f"als and bpr need implicit ({error}); pip install 'llmgen[factors]'") from None
    return implicit


@dataclass(frozen=True, eq=False)
class Als:
    """Weighted matrix factorisation (Hu, Koren & Volinsky 2008); a user's vector is computed from the history.

    Attributes:
        model: `implicit.cpu.als.AlternatingLeastSquares`, fitted.
        catalog: The items.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    model: Any = field(repr=False)
    catalog: Catalog = field(repr=False)
    weight: float = 1.0
    name: str = "als"

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        catalog: Catalog,
        *,
        factors: int = 64,
        regularization: float = 0.1,
        alpha: float = 10.0,
        seed: int = 0,
    ) -> Als:
        """Fit on a log.

        Args:
            interactions: Columns `user_id`, `item_id`, `timestamp`.
            catalog: All items.
            factors: Length of the vectors.
            regularization: Of their squares.
            alpha: How much more an interaction counts than that there is none.
            seed: Of the first vectors.

        Raises:
            ConfigError: `implicit` is not installed.
        """
        library = _implicit()
        from threadpoolctl import threadpool_limits  # which comes with it

        with threadpool_limits(1, user_api="blas"):  # its own threads are enough, and it warns of more
            model = library.cpu.als.AlternatingLeastSquares(
                factors=int(factors), regularization=regularization, alpha=alpha, random_state=seed, num_threads=1
            )
            model.fit(_matrix(interactions, catalog)[1], show_progress=False)
        return cls(model, catalog)

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; the scores as they are, which only order the items."""
        if not queries:
            return np.empty((0, len(self.catalog)))
        columns = [np.unique(self.catalog.positions(query.items)) for query in queries]
        ends = np.cumsum([0, *map(len, columns)])
        ones = np.ones(int(ends[-1]), np.float32)
        shape = len(queries), len(self.catalog)
        taken = sparse.csr_matrix((ones, np.concatenate(columns), ends), shape=shape)
        vectors = self.model.recalculate_user(np.arange(len(queries)), taken)
        scores: FloatArray = (vectors @ self.model.item_factors.T).astype(np.float64)
        return scores


@dataclass(frozen=True, eq=False)
class Bpr:
    """Bayesian personalised ranking (Rendle et al. 2009); knows the users of its log, and no others.

    Attributes:
        vectors: User id -> float32 [factors + 1].
        items: float32 [n_items, factors + 1].
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    vectors: Mapping[str, FloatArray] = field(repr=False)
    items: FloatArray = field(repr=False)
    weight: float = 1.0
    name: str = "bpr"

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        catalog: Catalog,
        *,
        factors: int = 64,
        learning_rate: float = 0.05,
        regularization: float = 0.01,
        iterations: int = 100,
        seed: int = 0,
    ) -> Bpr:
        """Fit on a log; see `Als`.

        Args:
            interactions: Columns `user_id`, `item_id`, `timestamp`.
            catalog: All items.
            factors: Length of the vectors, but for the bias.
            learning_rate: Of each step.
            regularization: Of the squares of the vectors.
            iterations: Passes over the log.
            seed: Of the first vectors and of what is drawn.

        Raises:
            ConfigError: `implicit` is not installed.
        """
        model = _implicit().cpu.bpr.BayesianPersonalizedRanking(
            factors=int(factors),
            learning_rate=learning_rate,
            regularization=regularization,
            iterations=int(iterations),
            random_state=seed,
            num_threads=1,  # more are quicker, and give another model each time
        )
        users, matrix = _matrix(interactions, catalog)
        model.fit(matrix, show_progress=False)
        return cls(dict(zip(users, model.user_factors, strict=True)), model.item_factors)

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; the scores as they are, and the items' biases for a user whom the log does not have."""
        if not queries:
            return np.empty((0, len(self.items)))
        unknown = np.append(np.zeros(self.items.shape[1] - 1, np.float32), np.float32(1.0))
        vectors = np.stack([self.vectors.get(str(query.user_id), unknown) for query in queries])
        scores: FloatArray = (vectors @ self.items.T).astype(np.float64)
        return scores


def _matrix(interactions: pl.DataFrame, catalog: Catalog) -> tuple[list[str], sparse.csr_matrix[np.float32]]:
    """Users, and who took what: float32 [n_users, n_items]; several times count once."""
    log = sequences(interactions, catalog)
    users = [str(user) for user in interactions["user_id"].unique().sort()]
    ones = np.ones(len(log.items), np.float32)
    matrix = sparse.csr_matrix((ones, (log.users, log.items)), shape=(len(users), len(catalog)))
    matrix.data[:] = 1.0  # entries that stand twice were summed
    return users, matrix
