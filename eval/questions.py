"""What a run asks: a data set, its questions with known answers, and the classics that stand beside every arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eval.arms import Arm, classics
from eval.baselines import Result
from eval.config import RunConfig
from eval.protocol import Protocol, Sample, samples
from llmgen.datasets import Dataset


@dataclass(frozen=True, eq=False)
class Questions:
    """What a run asks.

    Attributes:
        dataset: Where from.
        tuning: What settings are chosen on.
        final: What is measured on.
        classics: Arms that stand beside those of the run.
        known: The classics that an arm's priors may name.
        notes: What a reader must know of all this.
    """

    dataset: Dataset
    tuning: Sample
    final: Sample
    classics: Sequence[Arm]
    known: Sequence[Result]
    notes: tuple[str, ...]

    @property
    def best(self) -> str:
        """Name of the classic that was best on validation; empty where none was measured there."""
        return max(self.known, key=lambda result: result.validation).name if self.known else ""


def from_log(config: RunConfig) -> Questions:
    """What people took next, by the protocol of a run.

    Raises:
        LLMGenError: Settings or data are not what they should be.
    """
    dataset = config.protocol.load()
    tuning, final = samples(config.protocol, dataset)
    standing, known = classics(config.classics, config.protocol, tuning, final)
    return Questions(dataset, tuning, final, standing, known, tuple(_notes(config, config.protocol, known)))


def _notes(config: RunConfig, protocol: Protocol, known: Sequence[Result]) -> Iterator[str]:
    if protocol.split == "leave_one_out":
        yield (
            "Leave-one-out: the last item of each user is looked for; settings are chosen on the one before. Equal "
            f"times are ordered by {'the file' if protocol.ties == 'file' else 'item id'}."
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
    if protocol.candidates is None:
        yield "The whole catalog is ranked."
    else:
        yield f"Each user chooses from {protocol.candidates} candidates drawn at random."
    if known:
        best = max(known, key=lambda result: result.validation)
        yield f"Classic baselines, {config.classics}: {best.name} was best on validation ({best.validation:.4f})."
