"""A neural sequence model as a factor on the items: what comes next, by all that was taken before and its order."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import polars as pl
from scipy import sparse
from scipy.sparse.linalg import eigsh

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, ConfigError
from llmgen.priors.base import FLOOR, Saving, check_floor, log_lift
from llmgen.priors.interactions import Sequences, sequences
from llmgen.priors.item_matrices import negative_power
from llmgen.priors.sparse import SparseRow, lifted
from llmgen.priors.transition import transitions
from llmgen.types import FloatArray, IntArray, Query

if TYPE_CHECKING:
    from llmgen.priors.network import Network

Start = Literal["log", "random"]
WINDOW = 10
"""Places further that a next item may stand, in the transitions that the first embeddings are made of."""
SMALL = 500
"""Up to so many items all directions are computed."""
NETWORK, ROWS, FIELDS = "network.pt", "rows.npy", "fields.json"
"""Files of a folder that a prior is saved in."""
CELLS = 1 << 24
"""Logits that are held at once where queries are answered: 64 MiB."""


@dataclass(frozen=True, eq=False)
class SASRec(Saving):
    """Self-attentive sequential recommendation, trained with the softmax over all items.

    A causal transformer reads the newest items of the history; its last state times the embedding of an item is the
    item's logit. The `top` most probable items of a query keep their probabilities, which become log weights by
    `log_lift`; all others get the floor. An item that the log of the training does not have gets 0: nothing is known
    of it. So does every item for a query whose history has no known item.

    Attributes:
        catalog: The items.
        network: Trained, `llmgen.priors.network.Network` in evaluation mode on the CPU; None where the log had no
            two items in a row.
        rows: int64 [n_items], the row of the network's table that stands for each item; -1 for none.
        max_length: Newest items of a history that are read.
        top: How many items keep a probability of their own, 1 or more.
        floor: In (0, 1], see `log_lift`.
        weight: Exponent.
        name: Key in `Recommendation.terms`.

    Source: Kang & McAuley, ICDM 2018; with the full softmax in place of one drawn negative, Klenitskiy & Vasilev,
    RecSys 2023.
    """

    catalog: Catalog = field(repr=False)
    network: Network | None = field(repr=False)
    rows: IntArray = field(repr=False)
    max_length: int = 50
    top: int = 1_000
    floor: float = FLOOR
    weight: float = 1.0
    name: str = "sasrec"

    def __post_init__(self) -> None:
        check_floor(self.floor)
        _check(self.top >= 1, "top", self.top, "1 or more")
        if self.rows.shape != (len(self.catalog),):
            raise ValueError(f"rows is {self.rows.shape}, and the catalog has {len(self.catalog)} items")

    @classmethod
    def fit(
        cls,
        interactions: pl.DataFrame,
        catalog: Catalog,
        *,
        weight: float = 1.0,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        max_length: int = 50,
        dropout: float = 0.3,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        epochs: int = 30,
        patience: int = 4,
        batch_size: int = 256,
        validation_users: int = 5_000,
        negatives: int = 0,
        top: int = 1_000,
        floor: float = FLOOR,
        seed: int = 0,
        start: Start = "log",
        vectors: FloatArray | None = None,
        checkpoint: str | Path | None = None,
        device: str = "",
    ) -> SASRec:
        """Train on a log, with AdamW and early stopping on the NDCG@10 of held-out items.

        Held out is the last item of some users with three or more, drawn at random; nothing else is lost to training.
        The same arguments on the same machine give the same model. Progress and the time left are told on stderr, the
        loss of each epoch in the log.

        Args:
            interactions: Columns `user_id`, `item_id`, `timestamp`; equal times keep the order of the rows.
            catalog: All items; those that nobody took are not learned.
            weight: Exponent of the factor.
            dim: Length of the embeddings, a multiple of `heads`.
            layers: Of the transformer, 1 or more.
            heads: Of its attention, 1 or more.
            max_length: Newest items that are read, 1 or more. Longer sequences are learned in windows.
            dropout: In [0, 1), of embeddings, attention and layers; more for small logs.
            lr: Largest learning rate, above 0; it falls linearly to 0 until the last of `epochs`.
            weight_decay: 0 or more, of AdamW, for matrices and item embeddings.
            epochs: At most, 1 or more.
            patience: The training ends after so many epochs without a better NDCG, 1 or more. The best one is kept; of
                equal ones that with the largest likelihood.
            batch_size: Sequences of a step, 1 or more.
            validation_users: Whose last item is held out, at most, and at most half of those with three; 0 for none,
                and the last epoch is kept.
            negatives: The loss is the softmax over so many items, drawn at each step by their frequency and corrected
                for it; 0 for all items, and for 8,192 drawn ones above 100,000 items.
            top: How many items keep a probability of their own, 1 or more: what a request costs beside the floor.
            floor: See `log_lift`.
            seed: Of all that is drawn.
            start: First embeddings of the items: the strongest directions of the transitions in the log, `log`, with
                which a few epochs are enough; or drawn, `random`.
            vectors: float [n_items, any], first embeddings of one's own, of item texts for example, beside those of
                `start: log`; cut to their `dim` strongest directions.
            checkpoint: A file that is written after each epoch, and that the training goes on from where it is there;
                where it is of a training that ended, nothing is trained.
            device: `cpu` or `cuda`; a card where there is one.

        Raises:
            ConfigError: torch is not installed, or the file is of another training.
            UnknownItemError: An interaction with an item that the catalog does not have.
            DataError: A column is missing or has nulls.
            ValueError: A hyper-parameter is out of range.
        """
        for name, number in (
            ("dim", dim),
            ("layers", layers),
            ("heads", heads),
            ("max_length", max_length),
            ("epochs", epochs),
            ("patience", patience),
            ("batch_size", batch_size),
            ("top", top),
        ):
            _check(number >= 1, name, number, "1 or more")
        check_floor(floor)
        _check(dim % heads == 0, "dim", dim, f"a multiple of heads={heads}")
        _check(0 <= dropout < 1, "dropout", dropout, "in [0, 1)")
        _check(lr > 0, "lr", lr, "above 0")
        _check(weight_decay >= 0, "weight_decay", weight_decay, "0 or more")
        _check(validation_users >= 0, "validation_users", validation_users, "0 or more")
        _check(negatives >= 0, "negatives", negatives, "0 or more")
        if start not in get_args(Start):
            raise ArgumentError(f"start must be one of {', '.join(get_args(Start))}, not {start!r}")
        if vectors is not None and (vectors.ndim != 2 or len(vectors) != len(catalog)):
            raise ArgumentError(f"vectors must be [{len(catalog)}, any], one an item, not {vectors.shape}")
        network = _network()
        log = sequences(interactions, catalog)
        rows = np.full(len(catalog), -1)
        if not (log.users[1:] == log.users[:-1]).any():  # nothing comes after anything
            return cls(catalog, None, rows, max_length, top, floor, weight)
        known = np.unique(log.items)
        rows[known] = np.arange(len(known))
        log = Sequences(log.users, rows[log.items])
        settings = network.Settings(
            dim, layers, heads, max_length, dropout, lr, weight_decay, epochs, patience, batch_size, validation_users,
            negatives, seed
        )  # fmt: skip
        given = [] if vectors is None else [np.asarray(vectors, np.float64)[known]]
        if given and not np.isfinite(given[0]).all():
            raise ArgumentError("vectors have NaN or infinity; give finite numbers")
        if start == "log":
            given.append(_directions(log, len(known), dim, seed))
        first = _first(given, dim, network.SPREAD) if given else None
        ids = [catalog[place].id for place in known.tolist()]
        hashed = hashlib.sha256(repr((settings, ids)).encode())
        for array in (log.users, log.items, *(() if first is None else (first,))):
            hashed.update(np.ascontiguousarray(array).tobytes())
        from llmgen.priors import network_training  # it needs torch, which is there

        trained = network_training.train(
            log,
            len(known),
            settings,
            vectors=first,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            about={"digest": hashed.hexdigest(), "ids": ids},
            device=device,
        )
        return cls(catalog, trained, rows, max_length, top, floor, weight)

    @classmethod
    def load(
        cls, path: str | Path, catalog: Catalog, *, weight: float = 1.0, top: int = 1_000, floor: float = FLOOR
    ) -> SASRec:
        """What a training has left in its checkpoint, without the log; it knows its items by their ids.

        Args:
            path: The `checkpoint` of a `fit` that ended.
            catalog: All items; those that the file does not have are new.
            weight: Exponent of the factor.
            top: See `fit`.
            floor: See `log_lift`.

        Raises:
            ConfigError: torch is not installed, there is no such file, or its training has not ended.
        """
        network, found = _network().read(Path(path))
        number = {item: row for row, item in enumerate(found["ids"])}
        rows = np.array([number.get(item.id, -1) for item in catalog], dtype=np.int64)
        return cls(catalog, network, rows, found["settings"]["max_length"], top, floor, weight)

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; finite always."""
        odds = np.zeros((len(queries), len(self.catalog)))
        for row, (items, values) in zip(odds, self._likely(queries), strict=True):
            row[items] = values
        lifts = log_lift(odds, self.floor)
        lifts[:, self.rows < 0] = 0.0
        return lifts

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`."""
        return [lifted(items, odds, self._floors, len(self.catalog)) for items, odds in self._likely(queries)]

    def on_catalog(self, catalog: Catalog, before: IntArray) -> SASRec:
        """See `Movable`; a new item has no probability until the model is trained again."""
        return dataclasses.replace(self, catalog=catalog, rows=np.where(before >= 0, self.rows[before], -1))

    @cached_property
    def _floors(self) -> FloatArray:
        """[n_items], log weights beside others that have a probability."""
        return np.where(self.rows < 0, 0.0, np.log(self.floor))

    @cached_property
    def _here(self) -> IntArray:
        """Rising positions of the items that the network knows."""
        return np.flatnonzero(self.rows >= 0)

    def _likely(self, queries: Sequence[Query]) -> Iterator[tuple[IntArray, FloatArray]]:
        """The most probable items of each query, rising, and how probable each is beside the first of them."""
        histories = [self._known(query) for query in queries]
        found = [(np.zeros(0, np.int64), np.zeros(0))] * len(queries)
        asked = sorted((place for place, taken in enumerate(histories) if len(taken)), key=lambda p: len(histories[p]))
        if not asked or self.network is None:
            return iter(found)
        import torch

        here = torch.from_numpy(self._here)
        with torch.inference_mode():
            table = self.network.items.weight
            if len(here) < len(table) or not (self.rows[self._here] == np.arange(len(here))).all():
                table = table[torch.from_numpy(self.rows[self._here])]
            at_once = max(1, CELLS // len(table))
            for start in range(0, len(asked), at_once):
                places = asked[start : start + at_once]
                logits = self.network.last_states([histories[place] for place in places]) @ table.T
                best = logits.topk(min(self.top, len(table)))
                order = best.indices.argsort(dim=1)
                items = here[best.indices.gather(1, order)].numpy()
                odds = (best.values - best.values[:, :1]).gather(1, order).double().exp().numpy()
                for place, row, values in zip(places, items, odds, strict=True):
                    found[place] = row, values
        return iter(found)

    def _known(self, query: Query) -> IntArray:
        """Rows of the newest items of a history that the network knows, oldest first."""
        rows = self.rows[np.array(self.catalog.positions(query.items), dtype=np.int64)]
        return rows[rows >= 0][-self.max_length :]


def save_sasrec(prior: SASRec, folder: Path) -> None:
    """Write a prior into an empty folder, as files that `load_sasrec` reads."""
    if prior.network is not None:
        _network().write(prior.network, folder / NETWORK)
    np.save(folder / ROWS, prior.rows)
    fields = {name: getattr(prior, name) for name in ("max_length", "top", "floor", "weight", "name")}
    (folder / FIELDS).write_text(json.dumps(fields) + "\n", encoding="utf-8")


def load_sasrec(folder: Path, catalog: Catalog) -> SASRec:
    """The prior of a folder, with the catalog that it was saved with.

    Raises:
        ConfigError: torch is not installed.
    """
    network = _network().read(folder / NETWORK)[0] if (folder / NETWORK).exists() else None
    fields = json.loads((folder / FIELDS).read_text(encoding="utf-8"))
    return SASRec(catalog, network, np.load(folder / ROWS), **fields)


def _network() -> ModuleType:
    """The module that needs torch.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from llmgen.priors import network
    except ImportError as error:
        raise ConfigError(f"the prior sasrec needs torch ({error}); pip install 'llmgen[hf]'") from None
    return network


def _directions(log: Sequences, n_items: int, dim: int, seed: int) -> FloatArray:
    """The strongest directions of the transitions between items, float64 [n_items, dim or fewer].

    Of the square roots of the counts in both directions, each divided by the roots of its row's and column's sum.
    """
    counts = transitions(log, n_items, WINDOW, 1.0)
    counts = sparse.csr_array(counts + counts.T)
    scale = negative_power(np.asarray(counts.sum(axis=0), dtype=np.float64), 0.5)
    counts.data = np.sqrt(counts.data * np.repeat(scale, np.diff(counts.indptr)) * scale[counts.indices])
    if n_items <= SMALL:
        values, vectors = np.linalg.eigh(counts.toarray())
    else:
        first = np.random.default_rng(seed).normal(size=n_items)
        values, vectors = eigsh(counts, k=dim, v0=first)
    strongest = np.argsort(-np.abs(values), kind="stable")[:dim]
    result: FloatArray = vectors[:, strongest] * np.sqrt(np.abs(values[strongest]))
    return result


def _first(given: Sequence[FloatArray], dim: int, spread: float) -> FloatArray:
    """Vectors as first embeddings, float64 [n, dim]: side by side, in their strongest directions, of one spread."""
    alike = [one / scale for one in given if (scale := one.std()) > 0]
    found = np.zeros((len(given[0]), dim))
    if not alike:
        return found
    beside = np.concatenate([one - one.mean(axis=0) for one in alike], axis=1)
    if beside.shape[1] > dim:
        _, directions = np.linalg.eigh(beside.T @ beside)
        beside = beside @ directions[:, ::-1][:, :dim]
    found[:, : beside.shape[1]] = beside
    result: FloatArray = found * (spread / found.std())
    return result


def _check(fine: bool, name: str, value: float, wanted: str) -> None:
    if not fine:
        raise ArgumentError(f"{name} must be {wanted}, not {value}")
