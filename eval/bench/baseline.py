"""A run beside a stored one. Only ratios within one run are compared: they survive another machine, times do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.bench.rows import Row
from llmgen.errors import DataError


@dataclass(frozen=True)
class Change:
    """The ratio of one row, then and now.

    Attributes:
        row: Of this run.
        before: Ratio in the stored run.
        now: Ratio in this one; lower is better.
    """

    row: Row
    before: float
    now: float

    @property
    def factor(self) -> float:
        """How many times the ratio of before."""
        return self.now / self.before

    def is_beyond(self, bound: float) -> bool:
        """Whether the ratio grew by more than a factor, and not by the chance of these runs."""
        low = self.now if self.row.ratio_low is None else self.row.ratio_low
        return self.factor > bound and low > self.before


def changes(rows: Sequence[Row], stored: Sequence[Row]) -> list[Change]:
    """The rows that have a ratio in both runs.

    Raises:
        DataError: There are none, so the comparison would pass without looking at anything.
    """
    before = {row.key: row.ratio for row in stored}
    found = []
    for row in rows:
        then = before.get(row.key)
        if row.ratio is not None and then:
            found.append(Change(row, then, row.ratio))
    if not found:
        raise DataError("this run and the baseline have no ratio in common; measure the same parts, both quick or not")
    return found


def regressions(found: Sequence[Change], bound: float) -> list[str]:
    """A sentence for each ratio that grew beyond `bound` times what it was, with all of its interval above that."""
    return [
        f"{change.row.part}, {change.row.case}, beside {change.row.arm}: {change.now:.3g} instead of "
        f"{change.before:.3g}, {change.factor:.2f} times as much (bound {bound:g})"
        for change in found
        if change.is_beyond(bound)
    ]
