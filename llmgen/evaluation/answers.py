"""Answers of a run: asked for, written as they come, and found again after a stop.

A run's folder holds `answers/<arm>-<digest>/`, one Parquet file a batch of users, and a lock. The digest stands for the
sample, the arm and the code, so an answer is only ever used again for the very request that it answered.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import polars as pl
from filelock import FileLock, Timeout

import llmgen
from llmgen.errors import ConfigError, DataError
from llmgen.evaluation.arms.core import Arm
from llmgen.evaluation.metrics.measures import Latencies
from llmgen.evaluation.protocols.sample import Sample
from llmgen.progress import Stage
from llmgen.types import Answer

_COLUMNS: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "items": pl.List(pl.String()),
    "methods": pl.List(pl.String()),
    "dropped": pl.List(pl.String()),
    "exact": pl.Boolean(),
    "rounds": pl.Int32(),
    "prompt_tokens": pl.Int32(),
    "history_used": pl.Int32(),
    "seconds": pl.Float64(),
}
SCHEMA = pl.Schema(_COLUMNS)
"""Columns of an answer: recommended ids, best first; how each was found; how each further line of a free text was; the
user's share of the seconds that the batch took; the others as `Recommendations` has them."""
BATCH = 16
"""Users asked together: so many prompts stay in the engine while every arm answers."""
PRIOR_BATCH = 1_024
"""The same of arms without a model, in a catalog of up to `PRIOR_CELLS` cells in a batch."""
PRIOR_CELLS = 4_000_000
"""Users times items that arms without a model look at together: a large catalog must not need more memory."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, for this process alone.

    Raises:
        ConfigError: Another process has it, or it is no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and results need a folder; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"another process is working in {folder}; wait for it, or give another --out") from None
    try:
        yield
    finally:
        lock.release()


class Store:
    """The answers of one arm for one sample.

    Args:
        folder: Of the run.
        arm: Who answers.
        sample: Who is asked.
    """

    def __init__(self, folder: Path, arm: Arm, sample: Sample) -> None:
        whole = hashlib.sha256(f"{arm.digest} {sample.digest} {code_digest()}".encode()).hexdigest()[:12]
        name = re.sub(r"[^\w.-]+", "_", arm.name)
        self.folder = folder / "answers" / f"{name}-{whole}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._rows: list[pl.DataFrame] = []
        self._place: dict[str, int] = {}  # of each user, in all rows
        for path in sorted(self.folder.glob("*.parquet")):
            self._remember(_read(path))

    def __contains__(self, user: str) -> bool:
        return user in self._place

    def add(self, users: Sequence[str], answers: Sequence[Answer], seconds: float) -> None:
        """Remember and write the answers of some users; a stop in between loses this batch and nothing else."""
        rows = rows_of(users, answers, seconds)
        path = self.folder / f"{len(self._place):08}.parquet"
        part = path.with_suffix(f".{os.getpid()}.part")
        rows.write_parquet(part)
        part.replace(path)
        self._remember(rows)

    def table(self, users: Sequence[str]) -> pl.DataFrame:
        """The answers of some users, in their order, columns as in `SCHEMA`."""
        return pl.concat([pl.DataFrame(schema=SCHEMA), *self._rows])[[self._place[user] for user in users]]

    def _remember(self, rows: pl.DataFrame) -> None:
        first = sum(map(len, self._rows))
        self._place.update((user, first + number) for number, user in enumerate(rows["user_id"].to_list()))
        self._rows.append(rows)


def ask(
    arms: Sequence[Arm],
    sample: Sample,
    stores: Sequence[Store],
    title: str,
    *,
    enough: Callable[[int], bool] | None = None,
    progress: bool = True,
) -> int:
    """Let every arm answer for the users that its store lacks.

    The arms take turns at each batch of users, another one first each time. Those whose prompts are the same share the
    cost of reading them, which falls on whoever is first.

    Args:
        arms: Who answers.
        sample: Who is asked.
        stores: One an arm.
        title: Of the progress bar.
        enough: Given how many users have been answered, whether that will do; asked after each batch.
        progress: Whether to show a bar.

    Returns:
        How many users have been answered, from the first on.
    """
    size = BATCH
    if all(arm.recommender.engine is None for arm in arms):
        size = max(BATCH, min(PRIOR_BATCH, PRIOR_CELLS // len(sample.catalog)))
    starts = range(0, len(sample), size)
    done = 0
    with Stage(title, len(sample), shown=progress) as stage:
        for turn, start in enumerate(starts):
            numbers = range(start, min(start + size, len(sample)))
            for place in range(len(arms)):
                which = (place + turn) % len(arms)
                missing = [number for number in numbers if sample.users[number] not in stores[which]]
                if missing:
                    _ask(arms[which], sample.rows(missing), stores[which])
            stage.advance(len(numbers))
            done = numbers.stop
            if enough is not None and enough(done):
                break
    return done


def latencies(arm: Arm, sample: Sample, users: int) -> Latencies:
    """Of some users, evenly spread, each asked alone, twice in a row.

    Before the first asking the engine forgets all prompts, those of other users too, so what they have in common with
    this one is read as well. One user is asked before anything is timed: a first request costs what no other does.
    """
    chosen, engine = sample.spread(users), arm.recommender.engine
    answers_of(arm, chosen.rows([0]))
    cold: list[float] = []
    warm: list[float] = []
    for number in range(len(chosen)):
        forgot = engine is None or engine.forget()
        first, again = (_seconds(arm, chosen.rows([number])) for _ in range(2))
        warm.append(again)
        if forgot:
            cold.append(first)
    return Latencies(cold, warm)


def answers_of(arm: Arm, sample: Sample) -> Sequence[Answer]:
    """The arm's answers, in order of the queries."""
    queries = [arm.asked(query) for query in sample.queries]
    if sample.candidates is None:
        return arm.recommender.recommend_many(queries)
    return arm.recommender.rank_many(list(zip(queries, sample.candidates, strict=True)))


def rows_of(users: Sequence[str], answers: Sequence[Answer], seconds: float = 0.0) -> pl.DataFrame:
    """Answers as a table, columns as in `SCHEMA`; `seconds` is what they took together."""
    rows = [
        {
            "user_id": user,
            "items": [place.item.id for place in answer],
            "methods": [place.grounding.method for place in answer],
            "dropped": [line.method for line in answer.dropped],
            "exact": answer.exact,
            "rounds": answer.num_rounds,
            "prompt_tokens": answer.prompt_tokens,
            "history_used": answer.history_used,
            "seconds": seconds / len(users),
        }
        for user, answer in zip(users, answers, strict=True)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


@cache
def code_digest() -> str:
    """SHA-256 of the sources that an answer can depend on, 12 hex digits."""
    hashed = hashlib.sha256()
    for path in sorted(Path(llmgen.__file__).parent.rglob("*.py")):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:12]


def _seconds(arm: Arm, sample: Sample) -> float:
    started = time.perf_counter()
    answers_of(arm, sample)
    return time.perf_counter() - started


def _ask(arm: Arm, sample: Sample, store: Store) -> None:
    started = time.perf_counter()
    answers = answers_of(arm, sample)
    store.add(sample.users, answers, time.perf_counter() - started)


def _read(path: Path) -> pl.DataFrame:
    try:
        found = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"cannot read the answers in {path}: {error}; remove the file to ask again") from None
    if found.schema != SCHEMA:
        raise DataError(f"{path} holds other columns than answers have; it was not written by this version: remove it")
    return found
