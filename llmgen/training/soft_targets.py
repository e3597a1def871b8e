"""Soft targets: a share of what a target counts goes to other items that could have been taken in its place.

The target of an answer is then a distribution over items, q, and its loss the expected one,

    sum over j of q(j) * -log P(j)

The other items are the target's nearest ones by their texts, or those that the priors find likeliest next; of items
that are seldom taken more is given away, since one user's choice says little of them:

    q(others) = share * rare / (rare + n)        n: how often the log has the target

Among the others the mass is divided as their similarities or prior weights are. What the user took before is never
among them. Source: similarity targets for rare items, SimRec (Brody & Lagziel, arXiv 2410.22136); a teacher's
distribution as target, Hinton et al., arXiv 1503.02531.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.priors import Prior, combine
from llmgen.priors.words import text_neighbours
from llmgen.training.data import Example, Target
from llmgen.types import IntArray

TASKS = ("list", "next")
"""Tasks that ask what was taken next; in others only one item is right."""
SPARE = 20
"""More text neighbours are kept than are used, for those that the user took before."""


@dataclass(frozen=True)
class SoftTargetSettings:
    """Settings of soft targets.

    Attributes:
        source: Where other items come from: `text`, words of titles and attributes, or `priors`, those of the recipe,
            cross-fitted.
        share: Of the mass of a target that the log does not have at all, what other items get; in (0, 1).
        rare: Items that were taken so often give away half of that; above 0.
        neighbours: Other items of a target at most, 1 or more. Each costs the tokens in which it differs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    source: Literal["text", "priors"]
    share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    rare: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    neighbours: Annotated[int, Field(ge=1)] = 3

    def __str__(self) -> str:
        return (
            f"soft targets by {self.source} (share {self.share:g}, half of it for items taken {self.rare:g} times, "
            f"{self.neighbours} neighbours)"
        )


class SoftTargets:
    """Finds other items for targets.

    Args:
        settings: See there.
        catalog: The items.
        counts: int64 [n_items], how often the log has each.
        priors: Fold -> priors that do not know its users' sequences, for the source `priors`.
    """

    def __init__(
        self,
        settings: SoftTargetSettings,
        catalog: Catalog,
        counts: IntArray,
        priors: Mapping[int, Sequence[Prior]] | None = None,
    ) -> None:
        self.settings, self.catalog, self.priors = settings, catalog, priors or {}
        self.shares = settings.share * settings.rare / (settings.rare + counts)
        self._alike: sparse.csr_array | None = None
        if settings.source == "text":
            self._alike = text_neighbours(catalog, settings.neighbours + SPARE)

    def others(self, example: Example, targets: Sequence[Target]) -> list[list[tuple[int, float]]]:
        """Other items for some targets of an example, with the mass that each gets.

        Returns:
            For each target catalog indices and masses above 0, the largest first; the target keeps the rest of 1. None
            where the task asks for one item, or where there is nothing to tell other items by.
        """
        if example.task not in TASKS or not targets:
            return [[] for _ in targets]
        weights = self._weights(example, targets)
        return [self._divided(target, *row) for target, row in zip(targets, weights, strict=True)]

    def _weights(self, example: Example, targets: Sequence[Target]) -> list[tuple[IntArray, list[float]]]:
        """Candidates of each target, and how likely they are in its place."""
        if self._alike is not None:
            rows = [slice(self._alike.indptr[one.item], self._alike.indptr[one.item + 1]) for one in targets]
            return [(self._alike.indices[row].astype(np.int64), self._alike.data[row].tolist()) for row in rows]
        total = combine(self.priors[example.fold], [one.query for one in targets], len(self.catalog)).total
        most = min(self.settings.neighbours + 1, len(self.catalog))
        found = []
        for row in total:
            best = np.argpartition(-row, most - 1)[:most]
            found.append((best, np.exp(row[best] - row[best].max()).tolist()))
        return found

    def _divided(self, target: Target, items: IntArray, weights: Sequence[float]) -> list[tuple[int, float]]:
        gone = {target.item, *self.catalog.positions(target.query.items)}
        likely = sorted(zip(weights, items.tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))
        kept = [(item, weight) for weight, item in likely if weight > 0 and item not in gone]
        kept = kept[: self.settings.neighbours]
        share, total = float(self.shares[target.item]), sum(weight for _, weight in kept)
        return [(item, share * weight / total) for item, weight in kept]
