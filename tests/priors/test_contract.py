"""Every prior of this package keeps the contract that other packages' priors are held to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.evaluation.baselines.classics import Among, RepeatLast
from llmgen.priors import AttributeFilter, ExcludeSeen, Prior, only
from llmgen.priors.kinds import OURS, kind
from llmgen.testing import PriorContract
from llmgen.types import FloatArray, Query

SETTINGS: dict[str, dict[str, object]] = {
    "sasrec": {"dim": 8, "layers": 1, "heads": 1, "epochs": 1, "max_length": 8},
    "item_knn": {"neighbours": 5},
}

FLOAT32 = ("sasrec", "history_vectors", "wish_vectors")
"""What computes in it, so that sums in another order differ."""


class TestKinds(PriorContract):
    """What settings may name."""

    @pytest.fixture(params=[one.name for one in OURS])
    def prior(self, request: pytest.FixtureRequest, catalog: Catalog, log: pl.DataFrame, tmp_path: Path) -> Prior:
        settings = dict(SETTINGS.get(request.param, {}))
        if request.param in FLOAT32:
            self.tolerance = 1e-4
        if request.param == "scores":
            table = log.select("user_id", "item_id", score=pl.col("rating"))
            settings["path"] = tmp_path / "scores.parquet"
            table.write_parquet(tmp_path / "scores.parquet")
        return kind(request.param).fit(log, catalog, weight=0.7, **settings)


class TestFilters(PriorContract):
    """What removes items."""

    removes = True

    @pytest.fixture(params=["seen", "where", "among"])
    def prior(self, request: pytest.FixtureRequest, catalog: Catalog) -> Prior:
        made = {
            "seen": ExcludeSeen,
            "where": AttributeFilter,
            "among": lambda items: Among(only(items, items.ids[::2])),
        }
        return made[request.param](catalog)  # type: ignore[no-any-return]

    @pytest.fixture
    def queries(self, catalog: Catalog) -> list[Query]:
        filters = {"year": "1965..1990", "genres": ("War", "Drama")}
        return [Query(), Query(history=catalog[:4], filters=filters), Query(filters={"year": "..1980"})]


class TestRepeatLast(PriorContract):
    """A classic that an evaluation has beside them."""

    @pytest.fixture
    def prior(self, catalog: Catalog) -> Prior:
        return RepeatLast(catalog)


@dataclass
class Broken:
    """Says 0 of everything, but for one fault."""

    catalog: Catalog
    fault: str
    weight: float = 1.0
    name: str = "broken"
    asked: int = 0

    def log_weights(self, queries: list[Query]) -> FloatArray:
        self.asked += 1
        found = np.zeros((len(queries), len(self.catalog)))
        if self.fault == "type":
            return found.astype(np.float32)
        if self.fault == "shape":
            return found[:, 1:]
        if self.fault == "nan" and len(found):
            found[-1, 2] = np.nan
        elif self.fault == "infinite" and len(found):
            found[0, 0] = np.inf
        elif self.fault == "removed" and len(found):
            found[0, 0] = -np.inf
        elif self.fault == "company":
            found += len(queries)
        elif self.fault == "shared":
            self.kept = getattr(self, "kept", found)
            return self.kept[: len(queries)] if len(queries) <= len(self.kept) else found
        elif self.fault == "one row":
            return np.zeros((max(len(queries), 1), len(self.catalog)))
        return found


@pytest.mark.parametrize(
    ("fault", "test", "says"),
    [
        ("type", "test_log_weights_are_one_number_a_query_and_item", "float32, not float64"),
        ("shape", "test_log_weights_are_one_number_a_query_and_item", r"\(7, 59\) for 7 queries"),
        ("nan", "test_log_weights_are_one_number_a_query_and_item", r"NaN in the rows \[6\]"),
        ("infinite", "test_log_weights_are_one_number_a_query_and_item", r"\+inf in the rows \[0\]"),
        ("removed", "test_log_weights_are_one_number_a_query_and_item", "say `removes = True`"),
        ("company", "test_answers_do_not_depend_on_the_company", "differ by 6 when asked together and alone"),
        ("shared", "test_an_answer_is_the_askers_own", "differ by 99 when asked again"),
        ("one row", "test_no_query_no_row", r"\(1, 60\) for no query"),
    ],
)
def test_a_fault_is_found(fault: str, test: str, says: str) -> None:
    contract = PriorContract()
    catalog = PriorContract.catalog.__wrapped__(contract)  # type: ignore[attr-defined]
    queries = PriorContract.queries.__wrapped__(contract, catalog)  # type: ignore[attr-defined]
    given = {"prior": Broken(catalog, fault), "catalog": catalog, "queries": queries}
    method = getattr(contract, test)
    needed = method.__code__.co_varnames[1 : method.__code__.co_argcount]
    with pytest.raises(AssertionError, match=says):
        method(**{name: given[name] for name in needed})
