"""The content prior: what items have in common, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.errors import UnknownItemError
from llmgen.priors import Content
from llmgen.types import Item, Query

FILMS = Catalog(
    [
        Item("a", "Star Wars", {"genres": ("Sci-Fi", "War"), "year": 1977}),
        Item("b", "Star Trek", {"genres": ("Sci-Fi",), "year": 1979}),
        Item("c", "Platoon", {"genres": ("War",), "year": 1986}),
        Item("d", "Clueless", {"genres": ("Comedy",), "year": 1995}),
        Item("e", "Swingers", {"genres": ("Comedy",), "year": 1996}),
        Item("f", "Untitled"),
    ]
)


def plain(*items: Item) -> Catalog:
    return Catalog([Item(item.id, item.title, {"genres": item.attributes.get("genres", ())}) for item in items])


def test_the_cosine_by_hand() -> None:
    catalog = plain(*FILMS)  # features that two items have: star, Sci-Fi, War, Comedy; each of two, so of one weight
    scores = Content(catalog).scores([Query([catalog["a"]]), Query([catalog["c"], catalog["a"]]), Query()]).toarray()
    first = [1, 2 / np.sqrt(6), 1 / np.sqrt(3), 0, 0, 0]  # a has three of them, b two, c one
    assert scores[0] == pytest.approx(first)
    assert scores[1] == pytest.approx(np.array(first) + 0.95 * np.array([1 / np.sqrt(3), 0, 1, 0, 0, 0]))
    assert not scores[2].any()


def test_rarer_features_weigh_more() -> None:
    items = [("1", ("x", "y")), ("2", ("x", "z")), ("3", ("y", "w")), ("4", ("x", "v")), ("5", ("u",))]
    catalog = Catalog([Item(name, f"T{name}", {"tags": tags}) for name, tags in items])
    (scores,) = Content(catalog).scores([Query([catalog["1"]])]).toarray()
    x, y = np.log(5 / 3), np.log(5 / 2)  # the others stand in one item each
    assert scores == pytest.approx([1, x / np.hypot(x, y), y / np.hypot(x, y), x / np.hypot(x, y), 0])


def test_numbers_are_alike_in_one_range() -> None:
    catalog = Catalog([Item(str(year), f"T{year}", {"year": year}) for year in range(1980, 1996)])
    (scores,) = Content(catalog).scores([Query([catalog["1984"]])]).toarray()
    near = [year for year in range(1980, 1996) if scores[year - 1980] > 0]
    assert 1984 in near
    assert 2 <= len(near) <= 3
    assert max(near) - min(near) == len(near) - 1


def test_an_item_that_nobody_took_is_known_by_what_it_says() -> None:
    prior = Content(FILMS)
    grown = FILMS.with_items([Item("g", "Solaris", {"genres": ("Sci-Fi",), "year": 1972})])
    moved = prior.on_catalog(grown, np.array([0, 1, 2, 3, 4, 5, -1]))
    (log_w,) = moved.log_weights([Query([FILMS["b"]])])
    assert log_w[6] > log_w[3] == log_w[5] == np.log(prior.floor)
    (old,) = prior.log_weights([Query([FILMS["b"]])])
    assert (np.argsort(-log_w[:6], kind="stable") == np.argsort(-old, kind="stable")).all()


def test_a_changed_catalog_is_counted_anew() -> None:
    fewer = FILMS.without(["b"])
    moved = Content(FILMS).on_catalog(fewer, np.array([0, 2, 3, 4, 5]))
    assert moved.scores([Query([FILMS["a"]])]).toarray() == pytest.approx(
        Content(fewer).scores([Query([FILMS["a"]])]).toarray()
    )


def test_evidence_sums_to_the_score() -> None:
    prior, query = Content(FILMS), Query([FILMS["a"], FILMS["c"], FILMS["d"], FILMS["a"]])
    found = prior.evidence(query, FILMS["b"])
    assert [entry.item.id for entry in found] == ["a"]
    assert sum(entry.score for entry in found) == pytest.approx(prior.scores([query]).toarray()[0, 1])
    with pytest.raises(UnknownItemError):
        prior.evidence(query, Item("z", "Nowhere"))


@pytest.mark.parametrize(("settings", "message"), [({"decay": 0}, "decay"), ({"floor": 0}, "floor")])
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Content(FILMS, **settings)  # type: ignore[arg-type]


def test_a_catalog_without_anything_in_common_says_nothing() -> None:
    catalog = Catalog([Item("1", "One"), Item("2", "Two")])
    assert not Content(catalog).log_weights([Query([catalog["1"]])]).any()
