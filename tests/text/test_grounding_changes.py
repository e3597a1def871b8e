"""A grounder follows its catalog: it finds what one made anew would, and reads only what is new."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen import grounding
from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.grounding import Grounder
from llmgen.identifiers import Words
from llmgen.recommend.recommender import Recommender
from llmgen.text.title_names import Called
from llmgen.types import Item, Query
from tests.identifiers.shelves import read, shop

TITLES = (
    "Alien", "Aliens", "Alien 3", "Heat", "Seven (Se7en)", "Se7en", "Seven", "Shirt (red)", "Shirt (blue)", "Shirt",
    "The Matrix", "Matrix", "A Streetcar Named Desire", "New York, New York", "!!!",
)  # fmt: skip
ASKED = (
    "Alien", "Aliens (1979)", "seven", "Shirt", "Streetcar Named Desire", "Matrx", "The Matirx (1999)", "New York",
    "Alein 3", "!!!", "Sevn", "Shirt red",
)  # fmt: skip
YEARS = st.sampled_from([None, 1979, 1980, 1999])
THINGS = st.tuples(st.sampled_from(TITLES), YEARS)


def thing(number: int, about: tuple[str, int | None]) -> Item:
    title, year = about
    return Item(str(number), title, {} if year is None else {"year": year})


@settings(deadline=None, max_examples=60)
@given(st.lists(THINGS, min_size=3, max_size=8), st.data())
def test_what_is_found_after_changes_is_what_a_new_one_finds(
    shelf: list[tuple[str, int | None]], data: st.DataObject
) -> None:
    catalog = Catalog([thing(number, about) for number, about in enumerate(shelf)], label="{title} ({year})")
    grounder, number = Grounder(catalog, threshold=0.4), len(shelf)
    for _ in range(3):
        if data.draw(st.booleans()):  # what BM25 looks up is there, or not
            grounder.ground("Matrx")
        ids = data.draw(st.lists(st.sampled_from(catalog.ids), unique=True, max_size=2))
        change = data.draw(st.sampled_from(["put", "replace", "delete", "turn"]))
        before = catalog
        if change == "put":
            catalog = catalog.with_items([thing(number, data.draw(THINGS))])
            number += 1
        elif change == "replace":
            catalog = catalog.with_items([thing(int(name), data.draw(THINGS)) for name in ids])
        elif change == "delete" and len(ids) < len(catalog):
            catalog = catalog.without(ids)
        elif change == "turn":
            catalog = Catalog(reversed(catalog), label=catalog.label_format)
        grounder = grounder.on_catalog(catalog, catalog.positions_before(before))
        anew = Grounder(catalog, threshold=0.4)
        for text in ASKED:
            assert grounder.ground(text) == anew.ground(text)


def test_only_what_is_new_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    films = Catalog([Item(str(number), title) for number, title in enumerate(TITLES)])
    old = Grounder(films, threshold=0.5)
    seen: list[str] = []

    def noting(item: Item, label: str, spelling: str | None = None) -> Called:
        seen.append(item.title)
        return original(item, label, spelling)

    original = grounding.called
    monkeypatch.setattr(grounding, "called", noting)
    changed = films.with_items([Item("3", "Cold"), Item("new", "Solaris")]).without(["0"])
    made = old.on_catalog(changed, changed.positions_before(films))
    assert seen == ["Cold", "Solaris"]
    assert made.ground("Solaris").item == Item("new", "Solaris")
    assert made.ground("Heat").item is None
    assert old.ground("Heat").item == Item("3", "Heat")  # who holds the old one sees the old catalog


def test_items_spelled_in_words_are_found_by_them_after_a_change() -> None:
    things = shop().identified(Words.fit(read(shop()), branches=2, depth=2))
    grown = things.with_items([Item("x", "Tiny sloop")])
    made = Grounder(things, threshold=0.5).on_catalog(grown, np.append(np.arange(12), -1))
    assert made.ground(grown.spelling(grown["x"])).item == grown["x"]
    assert made.ground("tiny sloop").grounding.method == "normalised"


def test_a_calibrated_threshold_is_kept_until_a_tenth_has_changed() -> None:
    films = Catalog([Item(str(number), f"{'abcde'[number % 5] * 4} {number}") for number in range(40)])
    grounder = Grounder(films)
    first = grounder.calibration
    assert first is not None
    for number in range(4):
        grown = grounder.catalog.with_items([Item(f"n{number}", f"Novel {number}")])
        grounder = grounder.on_catalog(grown, np.append(np.arange(len(grown) - 1), -1))
        assert grounder.calibration is first
    grown = grounder.catalog.with_items([Item("n4", "Novel 4")])  # the fifth of 45
    grounder = grounder.on_catalog(grown, np.append(np.arange(len(grown) - 1), -1))
    assert grounder.calibration is not first
    assert grounder.calibration == Grounder(grown).calibration


def test_a_recommender_that_lets_the_model_write_finds_an_item_that_came() -> None:
    films = Catalog([Item(str(number), title) for number, title in enumerate(TITLES)])
    made = Recommender(films, FakeEngine(["1. Solars\n2. Heat"]), decoding="free")
    made.prepare()
    grown = made.with_catalog(films.with_items([Item("new", "Solaris")]))
    answer = grown.recommend(Query(k=2))
    assert [place.item.title for place in answer][:2] == ["Solaris", "Heat"]
    assert grown.grounder is not made.grounder
