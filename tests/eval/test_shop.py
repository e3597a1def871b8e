"""A small day in a shop: a worker, a fitter and the database are killed while it sells, and nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from eval.shop.__main__ import opened
from eval.shop.day import Plan, growth, pass_day
from eval.shop.http import Answer
from eval.shop.ledger import Ledger, Versions
from eval.shop.postgres import Postgres
from llmgen.datasets import Dataset
from llmgen.store import Event
from llmgen.testing import films, views_of
from llmgen.types import Item
from tests.store.conftest import postgres  # noqa: F401

CATALOG = films(60)


def test_nothing_is_lost_doubled_or_mixed_while_processes_are_killed(postgres: Postgres, tmp_path: Path) -> None:  # noqa: F811
    log = views_of(CATALOG, users=100)
    url = postgres.database()
    shop = opened(replace(Dataset.of(CATALOG), interactions=log), url, persons=10, seed=0)
    plan = Plan(6, kills=3, services=1, persons=2, pause_s=0.05, items_pause_s=0.2, at_once=20, refit_s=0.6)
    day = pass_day(plan, shop, postgres, url, tmp_path, print)
    assert not day.ledger.faults, day.ledger.told
    assert sorted(target for target, _ in day.kills) == ["database", "fitter", "worker"]
    assert day.ledger.acknowledged == day.ledger.sent.keys()
    assert day.stored == 160 + len(day.ledger.sent)
    assert day.ledger.counts["events in bulk"] >= 20
    assert day.ledger.counts["next answers to what stood first"] > 0
    assert day.ledger.counts["changes of the catalog"] > 0


def test_what_is_lost_doubled_or_changed_is_found() -> None:
    ledger = Ledger({"a": ("u", "1"), "b": ("u", "2"), "c": ("u", "3"), "d": ("v", "1")}, {"a", "b", "d"})
    ledger.hold_against([Event("b", "u", "2"), Event("b", "u", "2"), Event("d", "v", "2"), Event("e", "u", "1")])
    assert ledger.faults == {"lost event": 1, "doubled event": 1, "event that was not sent so": 2}


def _answer(digest: str, *items: tuple[str, str]) -> Answer:
    places = ", ".join(f'{{"item": {{"id": "{item_id}", "title": "{title}"}}}}' for item_id, title in items)
    return Answer(200, digest, f'{{"recommendations": [{places}]}}'.encode())


@pytest.mark.parametrize(
    ("items", "faults"),
    [
        ([("1", "New"), ("2", "Aliens")], {}),
        ([("1", "Alien"), ("2", "Aliens")], {"answer of two versions": 1}),
        ([("3", "Alien 3"), ("2", "Aliens")], {"answer of two versions": 1}),
        ([("2", "Aliens"), ("2", "Aliens")], {"an item twice in a list": 1}),
    ],
)
def test_an_answer_is_held_against_the_catalog_that_it_names(items: list[tuple[str, str]], faults: object) -> None:
    versions, ledger = Versions(films(10)), Ledger()
    first = versions.now.digest
    versions.change(Item("1", "New"), "1")
    versions.change(None, "3")
    assert versions.check(_answer(versions.now.digest, *items), 0.0, ledger) == [item_id for item_id, _ in items]
    assert ledger.faults == faults
    versions.check(_answer(first, ("1", "Alien"), ("3", "Alien 3")), 0.0, ledger)
    versions.check(_answer("another"), 0.0, ledger)
    assert ledger.faults == {**faults, "answer of no version": 1}


def test_memory_is_of_workers_that_lived_for_long() -> None:
    long = [(1, float(second), 100.0 + (second >= 75)) for second in range(100)]
    short = [(2, float(second), 500.0) for second in range(20)]
    assert growth([*long, *short]) == [(99.0, 100.0, 101.0)]
