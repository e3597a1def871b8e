"""The core of a data set: what is left without the users and items that occur too seldom."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from llmgen.datasets.report import EXAMPLES, Dataset, Tally
from llmgen.errors import DataError


def k_core(data: Dataset, k: int) -> Dataset:
    """Leave out users and items with fewer than k interactions, until every one that is left has as many.

    Published results on sparse data are mostly of the 5-core. Repeats count.

    Args:
        data: With a log.
        k: 1 or more; 1 leaves out the items that nobody took.

    Returns:
        The same rows and items in the same order, without the others; the report counts them.

    Raises:
        ValueError: If k < 1.
        DataError: Nothing is left.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k}")
    log = data.interactions
    while True:
        enough = (pl.len().over("user_id") >= k) & (pl.len().over("item_id") >= k)
        kept = log.filter(enough)
        if kept.height == log.height:
            break
        log = kept
    if log.is_empty():
        raise DataError(f"{data.name}: no user and item are left that occur {k} times; take a smaller core")
    taken = set(log["item_id"])
    rare = [item for item in data.catalog if item.id not in taken]
    catalog = data.catalog.without(item.id for item in rare)
    before = data.report
    tally = Tally({(one.rule, one.table, one.effect): (one.count, list(one.examples)) for one in before.rules})
    rule = f"outside the {k}-core"
    tally.add_many(rule, "items", "dropped", len(rare), [f"{item.id} {item.title!r}" for item in rare[:EXAMPLES]])
    tally.add_many(rule, "interactions", "dropped", data.interactions.height - log.height, ())
    report = tally.report(before.source, before.items_in, catalog, before.interactions_in, log)
    return replace(data, catalog=catalog, interactions=log, report=report)
