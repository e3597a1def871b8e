"""Asks arms about the first users of some samples, for a search; answers are kept in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from llmgen.evaluation.answers import Store, ask
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.arms.core import Arm, Engines, build
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.improve.proposer import Shown
from llmgen.evaluation.metrics.measures import Measures
from llmgen.evaluation.protocols.sample import Sample
from llmgen.types import FloatArray
from llmgen.workspace.core import library_of

TOLD = 20
"""Newest items of a history that a proposer is shown."""
LISTED = 5


class Asker:
    """Asks arms about the first users.

    Args:
        samples: Of the same users in the same order, each with another target.
        config: The metric and the length of the lists.
        out: Folder of the answers.

    Attributes:
        arms: Name -> settings, of all that were added.
        engines: That answer.
    """

    def __init__(self, samples: Sequence[Sample], config: RunConfig, out: Path) -> None:
        self.arms: dict[str, ArmConfig] = {}
        self.engines = Engines()
        self._made: dict[str, list[Arm]] = {}
        self._samples, self._out = samples, out
        self._metric, self._k = config.main_metric, config.protocol.k
        self._answers: dict[str, list[pl.DataFrame]] = {}

    def add(self, arms: Mapping[str, ArmConfig]) -> None:
        """Arms that can be asked, their templates in files."""
        libraries = {one.prompt_folder: library_of(one) for one in arms.values()}
        for name, one in arms.items():
            library = libraries[one.prompt_folder]
            self._made[name] = [
                build(name, one, sample, [], self.engines, tuning=True, library=library) for sample in self._samples
            ]
        self.arms |= arms

    def __call__(self, names: Sequence[str], users: int) -> dict[str, FloatArray]:
        """Of some arms, the mean over the samples of each user's values, one a user."""
        self._answers |= {name: [] for name in names}
        found = [self._asked(number, names, users) for number in range(len(self._samples))]
        return {name: np.mean([values[name] for values in found], axis=0) for name in names}

    @property
    def seconds(self) -> float:
        """That all answers took, those of earlier starts included."""
        return sum(float(table["seconds"].sum()) for tables in self._answers.values() for table in tables)

    def each(self, names: Sequence[str] | None = None) -> float:
        """Seconds that an answer took, of some arms or of all."""
        tables = [table for name in names or self._answers for table in self._answers[name]]
        return max(1e-6, sum(float(table["seconds"].sum()) for table in tables) / sum(map(len, tables)))

    def most_different(self, original: str, values: Mapping[str, FloatArray], count: int) -> list[Shown]:
        """Users on whom arms differ most in the metric, and then in the first titles.

        Args:
            original: Name of an arm whose list is shown beside the best one of each user.
            values: What the last call gave.
            count: Of users at most.
        """
        sample, names = self._samples[-1], list(values)
        tables = {name: self._answers[name][-1]["items"].to_list() for name in names}
        by_user = np.stack([values[name] for name in names])
        first = [
            len({item for name in names for item in tables[name][user][:LISTED]}) for user in range(by_user.shape[1])
        ]
        order = np.lexsort((np.negative(first), -np.ptp(by_user, axis=0)))[:count]
        shown = []
        for user in order.tolist():
            best = names[int(np.argmax(by_user[:, user]))]
            query = sample.queries[user]
            lists = {name: self._titles(tables[name][user][:LISTED]) for name in dict.fromkeys((original, best))}
            history = [sample.catalog.label(item) for item in query.items[-TOLD:]]
            shown.append(Shown(history, self._titles([sample.targets[user]])[0], lists))
        return shown

    def _titles(self, ids: Sequence[str]) -> list[str]:
        catalog = self._samples[-1].catalog
        return [catalog.label(catalog[catalog.index(one)]) for one in ids]

    def _asked(self, number: int, names: Sequence[str], users: int) -> dict[str, FloatArray]:
        sample = self._samples[number]
        some = sample.rows(range(users))
        made = [self._made[name][number] for name in names]
        stores = [Store(self._out, arm, sample) for arm in made]
        ask(made, some, stores, f"{len(names)} prompts, {users} users")
        measures = Measures(some, self._k)
        found = {}
        for arm, store in zip(made, stores, strict=True):
            table = store.table(some.users)
            self._answers[arm.name].append(table)
            found[arm.name] = measures.per_user(table)[self._metric]
        return found
