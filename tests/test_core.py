"""The core of a data set."""

from __future__ import annotations

import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.datasets import INTERACTIONS, Dataset, k_core
from llmgen.errors import DataError
from llmgen.types import Item


def data(*taken: str) -> Dataset:
    """Users and what each took, `u:abc`; the catalog has an item z that nobody took."""
    pairs = [(user, item) for user, _, items in (text.partition(":") for text in taken) for item in items]
    ids = [*dict.fromkeys(item for _, item in pairs), "z"]
    rows = [(user, item, float(place), None) for place, (user, item) in enumerate(pairs)]
    log = pl.DataFrame(rows, schema=dict(INTERACTIONS), orient="row")
    whole = Dataset.of(Catalog([Item(item, f"Title {item}") for item in ids], noun="song", label="<{title}>"))
    return Dataset("tiny", whole.catalog, log, whole.report)


def test_one_removal_leads_to_the_next() -> None:
    """c is taken once, so v has a alone, so a is taken once; d and e are left to w and x."""
    found = k_core(data("v:ca", "u:ad", "w:ed", "x:ed"), 2)
    assert found.interactions.select("user_id", "item_id").rows() == [("w", "e"), ("w", "d"), ("x", "e"), ("x", "d")]
    assert found.catalog.ids == ("d", "e")
    assert (found.catalog.noun, found.catalog.labels[0]) == ("song", "<Title d>")
    rule = "outside the 2-core"
    assert [(one.table, one.count) for one in found.report.rules if one.rule == rule] == [
        ("items", 3),
        ("interactions", 4),
    ]
    assert (found.report.items_out, found.report.interactions_out, found.report.users) == (2, 4, 2)


def test_a_core_of_1_leaves_out_what_nobody_took_and_repeats_count() -> None:
    assert k_core(data("u:ab"), 1).catalog.ids == ("a", "b")
    assert k_core(data("u:aab"), 2).interactions["item_id"].to_list() == ["a", "a"]


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(DataError, match="tiny: no user and item are left that occur 3 times"):
        k_core(data("u:ab", "v:ab"), 3)
    with pytest.raises(ValueError, match="k must be 1 or more, not 0"):
        k_core(data("u:ab"), 0)
