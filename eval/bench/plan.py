"""What a run of the benchmark is to measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from eval.bench.catalogs import made_up, read
from eval.bench.rows import Row
from llmgen.catalog.core import Catalog


@dataclass(frozen=True)
class Plan:
    """Sizes and data of a run.

    Attributes:
        quick: Small sizes, for a minute or two.
        catalogs: Data sets by name or path, see `eval.bench.catalogs.read`; made-up titles are like those of the first.
        seed: Of all that is made up.
        sizes: Numbers of items for the parts `changes` and `vectors`; empty for their own.
    """

    quick: bool = False
    catalogs: Sequence[str] = ("movielens-100k",)
    seed: int = 0
    sizes: Sequence[int] = ()

    @cached_property
    def real(self) -> dict[str, Catalog]:
        """The catalogs that were named, by name."""
        return {Path(source).name: read(source) for source in self.catalogs}

    @property
    def sample(self) -> Catalog:
        """The catalog that made-up titles are like."""
        return next(iter(self.real.values()))

    def titles(self, count: int) -> list[str]:
        """Made-up titles, none twice; see `eval.bench.catalogs.made_up`."""
        return made_up(self.sample.labels, count, seed=self.seed)


class Part(Protocol):
    """One subject of the benchmark."""

    def __call__(self, plan: Plan) -> Iterator[Row]:
        """Measure, and give the rows of each case as soon as it is done."""
