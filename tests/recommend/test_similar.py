"""Items like an item, and documents in order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.diversity import Diversity
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ArgumentError, ConfigError, SearchError, UnknownItemError
from llmgen.priors import Content, ItemToItem, Popularity, Repeat, TextQuery
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query

CATALOG = Catalog(
    [
        Item("a", "Alien", {"genres": ("Horror", "Space")}),
        Item("b", "Brazil", {"genres": ("Satire",)}),
        Item("c", "Contact", {"genres": ("Space",)}),
        Item("d", "Dune", {"genres": ("Space", "Epic")}),
        Item("e", "Emma", {"genres": ("Satire",)}),
    ],
    noun="film",
)
SIMILARITY = np.array(  # of a row to a column; nothing leads to e, and e leads nowhere
    [[0, 1, 3, 2, 0], [1, 0, 0, 0, 0], [3, 0, 0, 1, 0], [2, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=float
)
ITEMS = ItemToItem(CATALOG, SIMILARITY, floor=0.1)


def made(*priors: object) -> Recommender:
    popular = Popularity(np.log([0.01, 0.9, 0.03, 0.03, 0.03]))  # which is no likeness
    return Recommender(CATALOG, FakeEngine(), priors=[popular, *priors])  # type: ignore[list-item]


def ids(answer: object) -> list[str]:
    return [place.item.id for place in answer]  # type: ignore[attr-defined]


def test_items_like_an_item_are_those_it_leads_to() -> None:
    answer = made(ITEMS, Repeat.fit(None, CATALOG)).similar("a", Query(k=3))
    assert ids(answer) == ["c", "d", "e"]  # of b less than by chance is known, of e nothing
    for place, share in zip(answer, (3 / 6, 2 / 6), strict=False):
        assert place.terms == {"item_to_item": pytest.approx(np.log(0.9 * 5 * share + 0.1))}
    assert (answer.exact, answer.prompt, answer.num_rounds) == (True, "", 0)


def test_a_list_of_likeness_keeps_to_the_query() -> None:
    recommender = made(ITEMS)
    asked = Query(["c"], k=2, filters={"genres": "Space"}, boosts={"genres": {"Epic": 0.0}})
    with pytest.raises(SearchError):
        recommender.similar("a", asked)  # c was taken, d is removed
    assert ids(recommender.similar("a", dataclasses.replace(asked, exclude_seen=False))) == ["c"]
    assert ids(recommender.similar("a", Query(k=3, exclude=["c"]))) == ["d", "e", "b"]
    assert ids(recommender.similar("a", Query(k=2, diversity=Diversity("genres", most=1)))) == ["c", "e"]
    pairs = [(Query(k=1), "a"), (Query(k=1), "d"), (Query(k=1), CATALOG["c"])]
    assert [ids(answer) for answer in recommender.similar_many(pairs)] == [["c"], ["a"], ["a"]]


def test_several_priors_are_multiplied_and_new_items_are_known_by_what_they_say() -> None:
    content = Content(CATALOG)
    assert ids(made(content).similar("e", Query(k=1))) == ["b"]  # by the genre
    both = made(content, ITEMS).similar("a", Query(k=4))
    assert all(set(place.terms) == {"content", "item_to_item"} for place in both)


def test_what_nobody_knows_is_like_nothing_and_says_so() -> None:
    answer = made(ITEMS).similar("e")
    assert (len(answer), answer.warnings) == (0, ("no prior knows anything that is like 'Emma' (e)",))
    with pytest.raises(ConfigError, match="there is 'popularity': add transition"):
        made().similar("a")
    with pytest.raises(UnknownItemError, match="'zzz'"):
        made(ITEMS).similar("zzz")


# Documents


def test_documents_are_weighed_by_all_that_is_known_of_them() -> None:
    recommender = Recommender(CATALOG, None, priors=[ITEMS, TextQuery(CATALOG)])
    found = recommender.rerank(Query(["a"]), ["b", "Contact", CATALOG["d"], "a film about a desert"])
    assert [(one.index, one.item and one.item.id) for one in found] == [(1, "c"), (2, "d"), (0, "b"), (3, None)]
    # the shares of what a leads to among the six items: b 1, c 3, d 2; of the text nothing is known
    weights = {1: 0.9 * 6 * 3 / 6 + 0.1, 2: 0.9 * 6 * 2 / 6 + 0.1, 3: 1.0, 0: 0.9 * 6 * 1 / 6 + 0.1}
    total = sum(weights.values())
    assert {one.index: one.score for one in found} == pytest.approx({n: w / total for n, w in weights.items()})
    assert len(recommender.catalog) == len(recommender.recommend(Query(k=9))) == 5  # as it was


def test_items_alone_are_ranked_as_ever() -> None:
    recommender = made(ITEMS)
    query = Query(["a"])
    ranked = recommender.with_priors(*recommender.priors, lm_weight=0.0).rank(query, ["b", "c", "d"])
    found = recommender.with_priors(*recommender.priors, lm_weight=0.0).rerank(query, ["b", "c", "d"])
    assert [one.item for one in found] == [place.item for place in ranked]
    assert [one.score for one in found] == pytest.approx([place.probability for place in ranked])


@pytest.mark.parametrize("engine", [None, FakeEngine()])
def test_the_words_of_a_wish_decide_among_texts(engine: FakeEngine | None) -> None:
    recommender = Recommender(CATALOG, engine, priors=[TextQuery(CATALOG, weight=5.0)], lm_weight=0.01)
    texts = ["a desk", "tall lamp " + "and words " * 200 + "zebra", "a lamp", "a lamp"]
    assert recommender.rerank(Query(text="zebra"), texts)[0].index == 1  # by what stands behind the title's end
    found = recommender.rerank(Query(text="a lamp"), texts)
    assert [one.index for one in found[:2]] == [2, 3]  # the same text twice, and the same score
    assert found[0].score == found[1].score
    assert {one.index for one in found} == {0, 1, 2, 3}


def test_ids_of_documents_never_are_those_of_items() -> None:
    catalog = Catalog([Item("document 1", "One"), Item("x", "X")])
    found = Recommender(catalog, None).rerank(Query(), ["document 1", "another text"])
    assert {one.index: one.item and one.item.id for one in found} == {0: "document 1", 1: None}


@pytest.mark.parametrize(("documents", "says"), [([], "no documents"), (["a", "  "], "document 1 .* is blank")])
def test_what_are_no_documents_is_refused(documents: list[str], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        made(ITEMS).rerank(Query(), documents)


def test_documents_that_a_filter_removes_are_missing() -> None:
    found = made(ITEMS).rerank(Query(["a"], filters={"genres": "Space"}), ["b", "c", "text", "d"])
    assert sorted(one.index for one in found) == [1, 3]
