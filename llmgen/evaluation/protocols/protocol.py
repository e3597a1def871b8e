"""Protocol: how a log becomes samples of held-out users."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.datasets.splits import History, ItemsLeftOut, Ties, global_time, histories, leave_items_out, leave_one_out
from llmgen.errors import ConfigError, DataError
from llmgen.evaluation.protocols.sample import Sample
from llmgen.types import Query
from llmgen.workspace.core import DataSettings


class Protocol(BaseModel):
    """How a log becomes samples of held-out users.

    Attributes:
        data: Fields of `llmgen.workspace.core.DataSettings`.
        split: `leave_one_out`: the last item of each user is looked for, the one before is for choosing settings.
            `time`: what each user took in the last part of the log is looked for, with all before as the history.
            `new_items`: items that are taken out of the log before anything is fitted are looked for, among what each
            user took in the last part of the user's own log; the history is what was taken before the first of them.
        ties: What orders interactions of equal time, not for `time`.
        test_share: Share of the log that the last part is, `time` only; the part for choosing is as large again.
        leave_out: `share`, `seed` and `last` of `llmgen.datasets.splits.leave_items_out`, `new_items` only.
        among: What is ranked: the whole `catalog`, or the `new` items alone, `new_items` only.
        users: How many are asked, drawn at random; None for all.
        seed: Seed of this draw and of all others in a run.
        k: Length of the answers, and cut-off of the metrics.
        seen: `removed`: items of the history are no answer, as for films. `kept`: they are, as where people buy again.
        newest: So many of the newest items are known of each user, as if the user were new; None for all. What is
            fitted knows the whole log before.
        candidates: How many items each user gets to choose from, the held-out ones among them and the others drawn
            at random from what the user never took, in random order; None for the whole catalog.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Mapping[str, Any] = {"dataset": "movielens-100k"}
    split: Literal["leave_one_out", "time", "new_items"] = "leave_one_out"
    ties: Ties = "file"
    test_share: float = Field(0.1, gt=0, lt=0.5)
    leave_out: Mapping[str, float] = {"share": 0.1}
    among: Literal["catalog", "new"] = "catalog"
    users: int | None = Field(None, ge=2)
    seed: int = 0
    k: int = Field(10, ge=1)
    seen: Literal["removed", "kept"] = "removed"
    newest: int | None = Field(None, ge=0)
    candidates: int | None = Field(None, ge=2)

    def load(self) -> Dataset:
        """The data.

        Raises:
            ConfigError: A setting of `data` that there is not.
            DataError: See `llmgen.datasets`.
        """
        return self.data_settings().load()

    def data_settings(self) -> DataSettings:
        """What `data` says.

        Raises:
            ConfigError: A setting of `data` that there is not.
        """
        return DataSettings.parse(self.data)

    def left_out(self, dataset: Dataset) -> ItemsLeftOut:
        """The parts of the log where items are new.

        Raises:
            ConfigError: A setting of `leave_out` that there is not, or one out of range.
            DataError: See `llmgen.datasets.splits.leave_items_out`.
        """
        try:
            return leave_items_out(dataset.interactions, dataset.catalog.ids, ties=self.ties, **self.leave_out)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"leave_out: {error}; it takes share, seed and last") from None


def samples(protocol: Protocol, dataset: Dataset) -> tuple[Sample, Sample]:
    """What settings are chosen on, of all users, and what is measured on, of the users that the protocol draws.

    Raises:
        ConfigError: `among: new` without new items, and see `Protocol.left_out`.
        DataError: The split leaves nobody to ask.
    """
    tuning, everyone = _everyone(protocol, dataset)
    return tuning, everyone if protocol.users is None else everyone.drawn(protocol.users, protocol.seed)


def not_drawn(protocol: Protocol, dataset: Dataset) -> Sample | None:
    """What would be measured on, of the users whom the protocol does not draw; None where it draws all.

    Raises:
        LLMGenError: See `samples`.
    """
    if protocol.users is None:
        return None
    _, everyone = _everyone(protocol, dataset)
    drawn = set(everyone.drawn(protocol.users, protocol.seed).users)
    others = [row for row, user in enumerate(everyone.users) if user not in drawn]
    return everyone.rows(others) if others else None


def _everyone(protocol: Protocol, dataset: Dataset) -> tuple[Sample, Sample]:
    recent, among, tie_seed = [], None, None
    if protocol.among == "new" and protocol.split != "new_items":
        raise ConfigError(f"among: new needs split: new_items, not {protocol.split}: no item is new there")
    if protocol.split == "leave_one_out":
        train, validation, test, *_ = leave_one_out(dataset.interactions, ties=protocol.ties)
    elif protocol.split == "time":
        share = protocol.test_share
        train, validation, test, *_ = global_time(dataset.interactions, test_share=share, validation_share=share)
    else:
        left = protocol.left_out(dataset)
        train, validation, test, recent = left.train, left.validation, left.test, [left.recent]
        tie_seed = protocol.seed
        if protocol.among == "new":
            among = tuple(item for item in dataset.catalog.ids if item in left.items)
    tuning = replace(_sample(protocol, dataset.catalog, [train], validation), tie_seed=tie_seed)
    final = _sample(protocol, dataset.catalog, [train, validation], test, recent)
    final = replace(final, among=among, tie_seed=tie_seed)
    return tuning, final


def _sample(
    protocol: Protocol,
    catalog: Catalog,
    before: Sequence[pl.DataFrame],
    held: pl.DataFrame,
    recent: Sequence[pl.DataFrame] = (),
) -> Sample:
    past = histories(*before, *recent, catalog=catalog)
    removed = protocol.seen == "removed"
    queries, held_out, times, candidates = [], [], [], []
    unasked = 0
    columns = held.select("user_id", "item_id", "timestamp").iter_rows()
    for user, group in itertools.groupby(columns, key=lambda row: row[0]):
        items, ratings = past.get(user, History((), None))
        taken = {item.id for item in items}
        rows = [row for row in group if not (removed and row[1] in taken)]
        if not rows:
            unasked += 1
            continue
        targets = tuple(dict.fromkeys(item for _, item, _ in rows))
        if protocol.newest is not None:
            shown = slice(max(0, len(items) - protocol.newest), None)
            items, ratings = items[shown], None if ratings is None else ratings[shown]
        queries.append(Query(items, None, user, k=protocol.k, ratings=ratings, exclude_seen=removed))
        held_out.append(targets)
        times.append(float(rows[0][2]))
        if protocol.candidates is not None:
            candidates.append(_candidates(catalog, user, targets, taken, protocol))
    if not queries:
        raise DataError("the split leaves no user with an item to look for; hold out more, or keep seen items")
    return Sample(
        catalog,
        pl.concat(list(before)),
        tuple(queries),
        tuple(held_out),
        tuple(times),
        candidates=tuple(candidates) if protocol.candidates is not None else None,
        unasked=unasked,
    )


def _candidates(
    catalog: Catalog, user: str, targets: Sequence[str], taken: Collection[str], protocol: Protocol
) -> tuple[str, ...]:
    rng = np.random.default_rng([protocol.seed, *user.encode()])
    others = [item for item in catalog.ids if item not in taken and item not in set(targets)]
    count = min(len(others), max(0, (protocol.candidates or 0) - len(targets)))
    chosen = [*targets, *(others[number] for number in rng.choice(len(others), count, replace=False))]
    return tuple(chosen[number] for number in rng.permutation(len(chosen)))
