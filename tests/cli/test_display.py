"""Tables for people."""

from __future__ import annotations

import io

from rich.console import Console

from llmgen.catalog.core import Catalog
from llmgen.cli.display import lists_table
from llmgen.types import Grounding, Item, Recommendation, Recommendations

FILMS = [Item("a", "Alien"), Item("b", "Contact"), Item("c", "Solaris")]


def answer(*items: Item, exact: bool) -> Recommendations:
    found = Grounding("trie", 1.0)
    places = tuple(Recommendation(item, rank, 0.0, 0.5, {}, found, "p@1") for rank, item in enumerate(items, 1))
    return Recommendations(places, exact, "p@1")


def shown(**answers: Recommendations) -> str:
    page = io.StringIO()
    Console(file=page, width=80).print(lists_table(Catalog(FILMS), answers))
    return page.getvalue()


def test_lists_stand_beside_each_other_and_a_shorter_one_ends_earlier() -> None:
    one, two = answer(FILMS[0], FILMS[2], exact=True), answer(FILMS[1], exact=True)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown(tuned=one, untuned=two).splitlines()]
    assert [row for row in rows if row] == [["1", "Alien", "Contact"], ["2", "Solaris", ""]]


def test_what_is_not_proven_is_named() -> None:
    one = answer(FILMS[0], exact=True)
    assert "certified: no other item scores higher" in shown(tuned=one, untuned=one)
    said = shown(tuned=one, untuned=answer(FILMS[1], exact=False))
    assert "not certified to be the exact best: untuned" in said
    assert "no other item" not in said
