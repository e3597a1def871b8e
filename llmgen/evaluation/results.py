"""The schema of `results.json`: everything that `llmgen evaluate` or `llmgen ab` found, for programs and the report.

The users' own answers lie beside it, Parquet files of each arm (`answers`), so that any number here can be made again.
Differences are always arm - baseline, paired by user.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llmgen.errors import DataError

FILE = "results.json"
VERSION = 2
READ = (1, 2)
"""Versions that can be read. In version 1, p was corrected over all metrics, and latencies mixed cold and warm."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Interval(_Frozen):
    """A mean over users with its interval of 95 %."""

    mean: float
    low: float
    high: float


class Cost(_Frozen):
    """What an arm's answers cost; means over users.

    Latencies are seconds of users asked one at a time: cold, with nothing of any prompt kept by the engine, and warm,
    the same user asked again at once, whose prompt is kept. None where they were not measured; cold ones too where the
    engine is a server that cannot be told to forget.

    Attributes:
        prompt_tokens: Length of the rendered prompt.
        rounds: Calls of the language model.
        cold_p50_s: Median.
        cold_p95_s: 95th percentile.
        warm_p50_s: Median.
        warm_p95_s: 95th percentile.
        seconds_per_1000: Seconds for 1,000 users in batches, on the machine of `Environment`.
        money_per_1000: `seconds_per_1000` at the price that was given; None without one.
    """

    prompt_tokens: float
    rounds: float
    cold_p50_s: float | None
    cold_p95_s: float | None
    warm_p50_s: float | None
    warm_p95_s: float | None
    seconds_per_1000: float
    money_per_1000: float | None

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, found: Any) -> Any:
        """Without the latencies of version 1, of which nobody can say whether they were cold or warm."""
        if isinstance(found, dict) and "latency_p50_s" in found:
            rest = {name: value for name, value in found.items() if not name.startswith("latency_")}
            return {**dict.fromkeys(("cold_p50_s", "cold_p95_s", "warm_p50_s", "warm_p95_s")), **rest}
        return found


class ArmSummary(_Frozen):
    """One recommender.

    Attributes:
        name: As it was given.
        kind: `arm`, or `baseline` for the classic ones that stand beside every table.
        settings: What it is, as `llmgen.evaluation.ArmConfig` has it, and what was chosen on validation.
        prompt: `name@digest` of its template; empty where no prompt is used.
        metrics: Name -> mean over users. `hr@10`, `ndcg@10`, `mrr@10`, ...
        lists: Name -> value of all lists together, without an interval: `coverage@10`, `gini@10`, ...
        cost: Of its answers; None for a baseline.
    """

    name: str
    kind: Literal["arm", "baseline"]
    settings: Mapping[str, Any]
    prompt: str
    metrics: Mapping[str, Interval]
    lists: Mapping[str, float]
    cost: Cost | None


class Difference(_Frozen):
    """One arm against the baseline arm on one metric; see `llmgen.evaluation.stats.Comparison`.

    Attributes:
        p: Not corrected.
        p_holm: Corrected over the arms; None where the metric is not the main one and only described.
        detectable: The difference that a sample of this size, fixed beforehand, finds with a power of .8 at alpha = .05
            shared by all arms; None where asking could stop early.
    """

    arm: str
    metric: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float | None
    test: str
    effect: float
    wins: int
    ties: int
    losses: int
    detectable: float | None


class SliceRow(_Frozen):
    """The difference in a slice, which is `llmgen.evaluation.protocols.slices.Slice`.

    Attributes:
        by: What the users are divided by: `history length`, `popularity of the held-out item`, `genres`, ...
        value: The slice: `1-20 items`, `head`, `Comedy`.
        users: How many.
        arm: The arm.
        metric: The metric.
        arm_mean: Its mean in the slice.
        difference: Arm - baseline; None for the baseline itself.
    """

    by: str
    value: str
    users: int
    arm: str
    metric: str
    arm_mean: float
    difference: Interval | None


class Shown(_Frozen):
    """One arm's answer to one user, for reading.

    Attributes:
        prompt: The rendered messages, `role: content`, a blank line between them; empty where no prompt is used.
        items: Labels, best first.
        hits: Whether each is a held-out item.
        value: Of the main metric.
    """

    prompt: str
    items: tuple[str, ...]
    hits: tuple[bool, ...]
    value: float


class Example(_Frozen):
    """A user on whom the arms differ much.

    Attributes:
        user: The id.
        history: Labels, oldest first; the newest ones at most.
        held_out: Labels of what the user took.
        answers: Arm -> its answer.
    """

    user: str
    history: tuple[str, ...]
    held_out: tuple[str, ...]
    answers: Mapping[str, Shown]


class Environment(_Frozen):
    """Where and with what the run was made."""

    command: str
    commit: str
    started: str
    hardware: str
    versions: Mapping[str, str]


class SampleSummary(_Frozen):
    """Who was asked about what; two runs with equal digests asked the same users for the same items.

    Attributes:
        dataset: Its name.
        users: How many.
        items: Size of the catalog.
        digest: Of users, histories and held-out items.
        catalog: Digest of the catalog.
        data: Digest of all interactions.
        protocol: The resolved settings, `llmgen.evaluation.Protocol`.
    """

    dataset: str
    users: int
    items: int
    digest: str
    catalog: str
    data: str
    protocol: Mapping[str, Any]


class Results(_Frozen):
    """One run.

    Attributes:
        version: Of this schema.
        verdict: One sentence.
        metric: The main metric, which the verdict, the examples and `per_user` are about.
        baseline: Name of the arm that the others are compared with.
        sample: Who was asked.
        environment: Where.
        arms: Arms in the order given, then the classic baselines.
        anytime: Whether asking could stop early. Intervals and p-values are then those that hold whenever one stops.
        differences: Every other arm, every metric.
        slices: See `SliceRow`.
        per_user: Arm -> the users' differences in the main metric, in ascending order; not of the baseline.
        examples: Users on whom the arms differ most.
        notes: What a reader must know: the tie rule, where seen items went, what was chosen on validation.
    """

    version: int = VERSION
    verdict: str
    metric: str
    baseline: str
    sample: SampleSummary
    environment: Environment
    anytime: bool = False
    arms: tuple[ArmSummary, ...]
    differences: tuple[Difference, ...] = ()
    slices: tuple[SliceRow, ...] = ()
    per_user: Mapping[str, Sequence[float]] = {}
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path | str) -> Results:
        """The results of a file, or of the folder that holds one.

        Raises:
            DataError: There is none, it is broken, or of another version.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read results from {path}: {error.strerror}") from None
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}; it may have been cut short, run again") from None
        if not isinstance(found, dict) or found.get("version") not in READ:
            version = found.get("version") if isinstance(found, dict) else None
            raise DataError(f"{path} has results of version {version}, and this code reads {READ[0]} and {READ[1]}")
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise DataError(f"{path} is no file of results: {error}") from None

    def write(self, folder: Path | str) -> Path:
        """Put `results.json` into a folder, whole or not at all."""
        path = Path(folder) / FILE
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
        return path
