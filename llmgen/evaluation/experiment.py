"""Experiment: a data set, its samples, and the classic baselines that stand beside every arm."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llmgen.adapters import AdapterRecord
from llmgen.datasets import Dataset
from llmgen.datasets.splits import log_digest
from llmgen.errors import ConfigError
from llmgen.evaluation.arms.arm_config import CHOSEN
from llmgen.evaluation.arms.core import Arm, classics
from llmgen.evaluation.baselines.core import Result
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.memory import budget
from llmgen.evaluation.protocols.protocol import Protocol, not_drawn, samples
from llmgen.evaluation.protocols.sample import Sample

logger = logging.getLogger(__name__)

LARGE = frozenset({"bm25", "content", "ease", "mix"})
"""Classics that a run is too large for at times."""


@dataclass(frozen=True, eq=False)
class Experiment:
    """What a run measures on.

    Attributes:
        dataset: Where from.
        tuning: What settings are chosen on.
        final: What is measured on.
        classics: Arms that stand beside those of the run.
        baselines: The classics that an arm's priors may name.
        notes: What a reader must know of all this.
        weighing: What the LM's weight is chosen on, where that is not `tuning`: new items, asked of other users. A
            weight that is right for items that the model has learned is too much for those that it has not.
    """

    dataset: Dataset
    tuning: Sample
    final: Sample
    classics: Sequence[Arm]
    baselines: Sequence[Result]
    notes: tuple[str, ...]
    weighing: Sample | None = None

    @property
    def best(self) -> str:
        """Name of the classic that was best on validation; empty where none was measured there."""
        return max(self.baselines, key=lambda result: result.validation).name if self.baselines else ""


def from_log(config: RunConfig) -> Experiment:
    """What people took next, by the protocol of a run.

    Raises:
        LLMGenError: Settings or data are not what they should be.
    """
    dataset = config.protocol.load()
    tuning, final = samples(config.protocol, dataset)
    weighing, notes = None, list[str]()
    if config.protocol.split == "new_items":
        _refuse_adapters_that_know_them(config, dataset, tuning, final)
        weighing = not_drawn(config.protocol, dataset)
    else:
        notes += _unsure(config, dataset, tuning, final)
        _refuse_weights_on_learned_items(config, tuning, final)
    keep = any(arm.lm_weight in CHOSEN for arm in config.arms.values())
    standing, baselines = classics(
        config.classics, config.protocol, tuning, final, config.also, keep=keep, memory=budget(config.memory)
    )
    notes = [*_notes(config, config.protocol, baselines), *notes]
    if final.unasked:
        notes.append(
            f"{final.unasked} users are not asked: all that is looked for stands in their history already, and seen "
            "items are removed. With seen: kept they are asked."
        )
    if config.classics != "none" and (missing := sorted(LARGE.difference(arm.name for arm in standing))):
        notes.append(f"Too large for {', '.join(missing)}, which are left out.")
    if weighing is not None:
        notes.append("An LM's weight is chosen on new items too, which users who are not asked here took.")
    return Experiment(dataset, tuning, final, standing, baselines, tuple(notes), weighing)


def _refuse_adapters_that_know_them(config: RunConfig, dataset: Dataset, tuning: Sample, final: Sample) -> None:
    """An adapter must have learned from nothing but the log and the catalog without the new items.

    Raises:
        ConfigError: The record of an arm's adapter does not say so.
    """
    catalog = dataset.catalog.without(config.protocol.left_out(dataset).items)
    logs = {log_digest(one.known) for one in (tuning, final)}
    for name, adapter in _adapters(config):
        record = AdapterRecord.read(adapter)
        if record is not None and record.data in logs:
            written = record.written(catalog, adapter)
            if record.catalog == written.digest:
                continue
        settings = ", ".join(f"{key}: {value}" for key, value in config.protocol.leave_out.items())
        raise ConfigError(
            f"arm {name!r}: the adapter {adapter} may know the new items: its record does not say that it was "
            f"tuned on this log and catalog without them; tune it with the recipe's leave_out: {{{settings}}}, "
            f"ties: {config.protocol.ties}, and the same data"
        )


def _unsure(config: RunConfig, dataset: Dataset, tuning: Sample, final: Sample) -> list[str]:
    """Whose adapters may know the held-out items, of those that were tuned on this catalog.

    Raises:
        ConfigError: One does: it learned from the whole log.
    """
    adapters = list(_adapters(config))
    clean = {log_digest(one.known) for one in (tuning, final)} if adapters else set()
    found = []
    for name, adapter in adapters:
        record = AdapterRecord.read(adapter)
        if record is None or record.data in clean:
            continue
        refuse_whole_log(f"arm {name!r}: the adapter {adapter}", record, dataset)
        written = record.written(dataset.catalog, adapter)
        if record.catalog == written.digest:
            found.append(
                f"{name}: the adapter {adapter} may know the items that are looked for: it was tuned on this "
                "catalog, and not on this log without them."
            )
            logger.warning(found[-1])
    return found


def _adapters(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Name of the arm and adapter, of all that a run asks."""
    return ((name, adapter) for name, arm in config.arms.items() for adapter in arm.adapters)


def _refuse_weights_on_learned_items(config: RunConfig, tuning: Sample, final: Sample) -> None:
    """The adapter that a weight is chosen with must not have learned the items that it is chosen on.

    Raises:
        ConfigError: One has: of the log it knows more than what was there before them.
    """
    for name, arm in config.arms.items():
        adapter = arm.tuning_adapter or arm.adapter
        record = AdapterRecord.read(adapter) if adapter and arm.lm_weight in CHOSEN else None
        if record is not None and record.data == log_digest(final.known) != log_digest(tuning.known):
            raise ConfigError(
                f"arm {name!r}: the adapter {adapter} has learned the validation items, and lm_weight would be chosen "
                "on them; give tuning_adapter, one of the same recipe with learn_from: train, or a number"
            )


def refuse_whole_log(who: str, record: AdapterRecord | None, dataset: Dataset) -> None:
    """An adapter must not have learned from all of a data set if it is asked for a part of it.

    Raises:
        ConfigError: It has.
    """
    if record is not None and record.data == log_digest(dataset.interactions):
        raise ConfigError(
            f"{who} learned from the whole log, what it would be asked for among it; tune it with the recipe's "
            "learn_from: train"
        )


def _notes(config: RunConfig, protocol: Protocol, baselines: Sequence[Result]) -> Iterator[str]:
    if protocol.split == "leave_one_out":
        yield (
            "Leave-one-out: the last item of each user is looked for; settings are chosen on the one before. Equal "
            f"times are ordered by {'the file' if protocol.ties == 'file' else 'item id'}."
        )
    elif protocol.split == "new_items":
        taken = {"last": 0.2, **protocol.leave_out}
        yield (
            f"New items: {taken['share']:.0%} of the items, drawn by their ids, were taken out of the log before "
            "anything was fitted or tuned. Looked for are those of them that each user took in the last "
            f"{taken['last']:.0%} of the user's log, of which nothing was learned; the history is what the user took "
            "before the first of them. Settings of the baselines are chosen on items that are not new. Equal times are "
            f"ordered by {'the file' if protocol.ties == 'file' else 'item id'}, equal scores at random."
        )
    else:
        yield f"Split in time: what each user took in the last {protocol.test_share:.0%} of the log is looked for."
    yield (
        "Items of the history are removed from the answers."
        if protocol.seen == "removed"
        else "Items of the history may be recommended again."
    )
    if protocol.newest is not None:
        yield f"Of each user only the newest {protocol.newest} items are known."
    if protocol.among == "new":
        yield "The new items alone are ranked."
    elif protocol.candidates is None:
        yield "The whole catalog is ranked."
    else:
        yield f"Each user chooses from {protocol.candidates} candidates drawn at random."
    if baselines:
        best = max(baselines, key=lambda result: result.validation)
        yield f"Classic baselines, {config.classics}: {best.name} was best on validation ({best.validation:.4f})."
