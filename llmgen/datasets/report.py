"""What loading gives: a data set, and a report of every row that was changed or left out on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import polars as pl

from llmgen.catalog.core import Catalog

Table = Literal["items", "interactions"]
Effect = Literal["dropped", "changed", "noted"]

EXAMPLES = 3
INTERACTIONS = MappingProxyType(
    {"user_id": pl.String(), "item_id": pl.String(), "timestamp": pl.Float64(), "rating": pl.Float64()}
)


@dataclass(frozen=True, slots=True)
class RuleCount:
    """How often one cleaning rule applied.

    Attributes:
        rule: Its name.
        table: The table whose rows it concerns.
        effect: What it did to them: `dropped`, `changed`, or only `noted`.
        count: Rows; for duplicate titles, titles.
        examples: At most three, readable.
    """

    rule: str
    table: Table
    effect: Effect
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CleaningReport:
    """Rows in and out, and why they differ: rows in minus the rows of each `dropped` rule are the rows out.

    Attributes:
        source: The data set or file.
        items_in: Rows of the item file.
        items_out: Items of the catalog.
        interactions_in: Rows of the interaction file.
        interactions_out: Rows of `Dataset.interactions`.
        users: Users in them.
        tied_users: Users with two or more interactions at their last timestamp; there the tie rule of a
            leave-one-out split decides which item is held out.
        repeats: Rows whose user took the same item before; many mean that seen items must not be removed.
        rules: The rules that applied, in order.
    """

    source: str
    items_in: int
    items_out: int
    interactions_in: int
    interactions_out: int
    users: int
    tied_users: int
    repeats: int
    rules: tuple[RuleCount, ...]

    def count(self, rule: str) -> int:
        """How often a rule applied; 0 if never."""
        return sum(found.count for found in self.rules if found.rule == rule)

    def table(self) -> str:
        """The report as plain text, one rule a line."""
        lines = [
            self.source,
            f"  items         {self.items_in:>11,} -> {self.items_out:,}",
            f"  interactions  {self.interactions_in:>11,} -> {self.interactions_out:,} of {self.users:,} users",
            f"  users tied on their last timestamp: {self.tied_users:,}; repeated user-item rows: {self.repeats:,}",
        ]
        width = max((len(found.rule) for found in self.rules), default=0)
        for found in self.rules:
            lines.append(f"  {found.effect:<7} {found.count:>9,}  {found.rule:<{width}}  {'; '.join(found.examples)}")
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, object]:
        """The report as plain values, ready for JSON."""
        rules = [
            {
                "rule": found.rule,
                "table": found.table,
                "effect": found.effect,
                "count": found.count,
                "examples": list(found.examples),
            }
            for found in self.rules
        ]
        return {
            "source": self.source,
            "items_in": self.items_in,
            "items_out": self.items_out,
            "interactions_in": self.interactions_in,
            "interactions_out": self.interactions_out,
            "users": self.users,
            "tied_users": self.tied_users,
            "repeats": self.repeats,
            "rules": rules,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A catalog and who took what from it.

    Attributes:
        name: What it is called in reports.
        catalog: The items, in the order of their file.
        interactions: Columns as in `INTERACTIONS`, rows in the order of their file, every item in the catalog.
        report: What cleaning changed.
        known_as: A user's id -> what the log calls the user, where that is another.
    """

    name: str
    catalog: Catalog
    interactions: pl.DataFrame
    report: CleaningReport
    known_as: Callable[[str], str] = str

    @classmethod
    def of(cls, catalog: Catalog) -> Dataset:
        """A catalog of which no log exists."""
        size = len(catalog)
        report = CleaningReport("catalog", size, size, 0, 0, 0, 0, 0, ())
        return cls("catalog", catalog, pl.DataFrame(schema=INTERACTIONS), report)


@dataclass(slots=True)
class Tally:
    """Counts rules while a table is cleaned."""

    found: dict[tuple[str, Table, Effect], tuple[int, list[str]]] = field(default_factory=dict)

    def add(self, rule: str, table: Table, effect: Effect, example: str) -> None:
        """Count one row."""
        count, examples = self.found.setdefault((rule, table, effect), (0, []))
        if len(examples) < EXAMPLES:
            examples.append(example)
        self.found[rule, table, effect] = (count + 1, examples)

    def add_many(self, rule: str, table: Table, effect: Effect, count: int, examples: Iterable[str]) -> None:
        """Count several rows; none counts nothing."""
        if count:
            self.found[rule, table, effect] = (count, list(examples)[:EXAMPLES])

    def report(
        self, source: str, items_in: int, catalog: Catalog, interactions_in: int, log: pl.DataFrame
    ) -> CleaningReport:
        """The finished report about the cleaned catalog and log."""
        return CleaningReport(
            source=source,
            items_in=items_in,
            items_out=len(catalog),
            interactions_in=interactions_in,
            interactions_out=log.height,
            users=log["user_id"].n_unique(),
            tied_users=_tied_users(log),
            repeats=log.height - log.select("user_id", "item_id").n_unique(),
            rules=tuple(RuleCount(*rule, count, tuple(examples)) for rule, (count, examples) in self.found.items()),
        )


def _tied_users(log: pl.DataFrame) -> int:
    at_last = pl.col("timestamp") == pl.col("timestamp").max()
    return int(log.group_by("user_id").agg(at_last.sum().alias("last")).select((pl.col("last") > 1).sum()).item())
