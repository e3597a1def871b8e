"""Words before titles: a tree over vectors, nodes named by what sets them apart, the same for ever."""

from __future__ import annotations

import sys
from math import log
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ArgumentError, ConfigError, DataError, EngineUnavailableError
from llmgen.grounding import Grounder
from llmgen.identifiers import Words, load_identifier, save_identifier
from llmgen.identifiers.kmeans import kmeans, nearest_centroid
from llmgen.identifiers.naming import name_nodes
from llmgen.identifiers.tree import Tree
from llmgen.priors import Transition
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query
from llmgen.vectors import ItemVectors
from tests.identifiers.shelves import Words2D, read, shop


@pytest.fixture
def words() -> Words:
    return Words.fit(read(shop()), branches=2, depth=2)


def test_k_means_finds_four_heaps_and_their_means() -> None:
    heaps = np.array([[0, 0], [0, 2], [100, 0], [100, 2], [0, 100], [0, 102], [100, 100], [100, 102]], np.float32)
    centroids = kmeans(heaps, 4, seed=0)
    assert sorted(map(tuple, centroids.tolist())) == [(0, 1), (0, 101), (100, 1), (100, 101)]
    assert [tuple(centroids[one]) for one in nearest_centroid(heaps, centroids)][:2] == [(0, 1), (0, 1)]


def test_fewer_vectors_that_differ_than_centroids_give_one_each() -> None:
    assert sorted(kmeans(np.array([[1.0], [1.0], [5.0]], np.float32), 8, seed=0).tolist()) == [[1.0], [5.0]]


def test_the_same_centroids_come_out_whatever_threads_there_are() -> None:
    points = np.random.default_rng(0).standard_normal((6_000, 16)).astype(np.float32)
    with threadpool_limits(1):
        one = kmeans(points, 24, seed=3)
    with threadpool_limits(4):
        many = [kmeans(points, 24, seed=3) for _ in range(3)]
    for made in many:
        np.testing.assert_array_equal(made, one)
    assert one.dtype == np.float32
    assert not np.array_equal(kmeans(points, 24, seed=4), one)


def test_without_scikit_learn_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(EngineUnavailableError, match=r"needs scikit-learn .*; pip install 'llmgen\[vectors\]'"):
        Words.fit(read(shop()), branches=2, depth=2)


def test_a_tree_keeps_siblings_side_by_side_and_places_each_vector_where_it_was_split(words: Words) -> None:
    tree = words.tree
    assert tree.parents.tolist() == [-1, -1, 0, 0, 1, 1]
    assert [tree.children(node) for node in (-1, 0, 1, 2)] == [(0, 2), (2, 4), (4, 6), (6, 6)]
    assert tree.path(5) == (1, 5)
    assert tree.place(np.zeros((1, 3), np.float32)).tolist() == [-1]
    assert tree.place(tree.centroids[2:]).tolist() == [2, 3, 4, 5]


def test_a_node_is_named_by_the_largest_class_tf_idf() -> None:
    """Two siblings: below the first "sea" stands in 2 of 3 items and "old" in 2, below the second "old" in 2 of 3.

    f(sea) = 2, f(old) = 4, A = (4 + 4) / 2 = 4. W(sea, 1) = 2/4 log(1 + 4/2), W(old, 1) = 2/4 log(1 + 4/4).
    """
    tree = Tree(np.array([[0.0], [1.0]], np.float32), np.array([-1, -1]))
    terms = [{"sea", "old"}, {"sea", "old"}, set(), {"old"}, {"old", "hill"}, {"lane"}]
    assert 0.5 * log(3) > 0.5 * log(2)
    # of the second: W(old) = 2/4 log 2 = .35, W(hill) = W(lane) = 1/4 log 5 = .40, and h stands before l
    assert name_nodes(tree, np.array([0, 0, 0, 1, 1, 1]), terms) == ["sea", "hill"]


def test_siblings_that_have_no_word_of_their_own_are_told_apart_all_the_same() -> None:
    tree = Tree(np.zeros((3, 1), np.float32), np.array([-1, -1, -1]))
    assert name_nodes(tree, np.array([0, 1, 2]), [{"red"}, {"red"}, {"red"}]) == ["red", "other", "other 2"]


def test_an_item_is_spelled_from_the_general_to_the_particular(words: Words) -> None:
    catalog = shop().identified(words)
    assert catalog.spelling(catalog["i0"]) == "animal > cat: Fine cat"
    assert catalog.spelling(catalog["i11"]) == "engine > car: Loud car"
    assert words.path(catalog["i3"]) == ("animal", "dog")
    assert catalog.label(catalog["i0"]) == "Fine cat"
    assert catalog.labels == shop().labels
    assert catalog.spellings == tuple(map(catalog.spelling, catalog))


def test_no_two_siblings_are_called_alike(words: Words) -> None:
    for node in (-1, *range(len(words.names))):
        begin, end = words.tree.children(node)
        assert len(set(words.names[begin:end])) == end - begin


def test_items_put_later_get_words_from_the_same_tree_and_the_others_keep_theirs(words: Words) -> None:
    catalog = shop().identified(words)
    grown = catalog.with_items([Item("new", "A kitten"), Item("other", "The sloop")])
    assert grown.spelling(grown["new"]) == "animal > cat: A kitten"
    assert grown.spelling(grown["other"]) == "engine > ship: The sloop"
    assert grown.spellings[:12] == catalog.spellings
    assert grown.identifier is words
    assert grown.without(["i0"]).spellings == grown.spellings[1:]


def test_only_what_is_new_is_read_and_only_once() -> None:
    encoder = Words2D()
    words = Words.fit(read(shop(), encoder), branches=2, depth=2)
    encoder.read.clear()
    catalog = shop().identified(words)
    assert encoder.read == []
    catalog.with_items([Item("new", "A kitten")])
    catalog.with_items([Item("new", "A kitten")])
    assert encoder.read == ["A kitten"]


def test_a_known_item_with_another_title_is_read_again(words: Words) -> None:
    changed = shop().identified(words).with_items([Item("i0", "Fine sloop")])
    assert changed.spelling(changed["i0"]) == "engine > ship: Fine sloop"


def test_an_item_of_which_nothing_is_known_is_spelled_by_its_title() -> None:
    points = np.array([[8, 1], [8, -1], [-8, 1], [-8, -1]], np.float32).repeat(3, axis=0)
    words = Words.fit(ItemVectors.of(shop(), points), branches=2, depth=2)
    catalog = shop().identified(words)
    assert catalog.spellings[0] == "animal > cat: Fine cat"
    assert catalog.with_items([Item("new", "A kitten")]).spellings[-1] == "A kitten"


def test_trie_prompts_and_answers_ask_the_same_function(words: Words) -> None:
    catalog = shop().identified(words)
    engine = FakeEngine()
    recommender = Recommender(catalog, engine)
    assert [recommender.trie.path(number) for number in range(12)] == engine.spell(list(catalog.spellings))
    query = Query(history=["i0", "i11"], k=12)
    text = "\n".join(message.content for message in recommender.messages(query).messages)
    assert "animal > cat: Fine cat" in text
    assert "engine > car: Loud car" in text
    answer = recommender.recommend(query)
    assert {place.item.title for place in answer} == set(shop().labels) - {"Fine cat", "Loud car"}


def test_a_reason_is_asked_for_in_titles(words: Words) -> None:
    class Listening(FakeEngine):
        def generate(self, chats, config):  # type: ignore[no-untyped-def]
            self.heard = chats
            return super().generate(chats, config)

    engine = Listening()
    recommender = Recommender(shop().identified(words), engine)
    recommender.explain(Query(history=["i0"]), "i1")
    text = "\n".join(message.content for message in engine.heard[0])
    assert "Fine cat" in text
    assert "animal" not in text


def test_free_text_is_found_by_its_spelling_and_by_its_title(words: Words) -> None:
    grounder = Grounder(shop().identified(words))
    for text in ("animal > dog: Fine dog", "Fine dog", "1. Animal > Dog: fine dog"):
        match = grounder.ground(text)
        assert match.item is not None
        assert match.item.id == "i3"
        assert match.grounding.method in ("exact", "normalised")


def test_a_grown_catalog_has_the_trie_that_is_built_anew(words: Words) -> None:
    catalog = shop().identified(words)
    engine = FakeEngine()
    before = Recommender(catalog, engine)
    _ = before.trie
    grown = catalog.with_items([Item("new", "A kitten"), Item("i4", "Small sloop")]).without(["i7"])
    after = before.with_catalog(grown)
    assert [after.trie.path(number) for number in range(len(grown))] == engine.spell(list(grown.spellings))


def test_digests_of_catalogs_tell_identifiers_apart_and_titles_have_the_digest_that_they_had(words: Words) -> None:
    plain = shop()
    other = Words.fit(read(plain), branches=3, depth=1)
    digests = {plain.digest, plain.identified(words).digest, plain.identified(other).digest}
    assert len(digests) == 3
    assert plain.identified(words).identified(None).digest == plain.digest
    assert plain.settings.keys() == {"noun", "label", "shown"}


def test_a_saved_identifier_spells_as_it_did(words: Words, tmp_path: Path) -> None:
    points = np.array([[8, 1], [8, -1], [-8, 1], [-8, -1]], np.float32).repeat(3, axis=0)
    own = Words.fit(ItemVectors.of(shop(), points), branches=2, depth=2)
    save_identifier(own, tmp_path / "identifier")
    again = load_identifier(tmp_path / "identifier")
    assert again.digest == own.digest
    assert shop().identified(again).spellings == shop().identified(own).spellings
    with pytest.raises(ConfigError, match="its encoder 'places' has no name"):
        save_identifier(words, tmp_path / "other")


def test_a_damaged_identifier_is_refused(tmp_path: Path) -> None:
    points = np.array([[8, 1], [8, -1], [-8, 1], [-8, -1]], np.float32).repeat(3, axis=0)
    save_identifier(Words.fit(ItemVectors.of(shop(), points), branches=2), tmp_path)
    keys = np.load(tmp_path / "keys.npy")
    np.save(tmp_path / "keys.npy", keys[::-1].copy())
    with pytest.raises(DataError, match="when it was written"):
        load_identifier(tmp_path)
    with pytest.raises(DataError, match="holds no identifier"):
        load_identifier(tmp_path / "nothing")


def test_a_saved_catalog_wants_the_identifier_that_it_had(words: Words, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    catalog = shop().identified(words)
    catalog.save(path)
    assert Catalog.from_jsonl(path, identifier=words).digest == catalog.digest
    assert Catalog.from_jsonl(path, identifier=None).spellings == shop().labels
    for given in ({}, {"identifier": Words.fit(read(shop()), branches=3, depth=1)}):
        with pytest.raises(DataError, match=rf"spelled by the identifier {words.digest}"):
            Catalog.from_jsonl(path, **given)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ArgumentError, match="branches must be 2 or more and depth 1 or more, not 1 and 3"):
        Words.fit(read(shop()), branches=1)


def test_priors_follow_a_catalog_that_is_spelled_otherwise(words: Words) -> None:
    import polars as pl

    log_ = pl.DataFrame(
        {"user_id": ["u", "u"], "item_id": ["i0", "i1"], "timestamp": [1.0, 2.0], "rating": [None, None]},
        schema_overrides={"rating": pl.Float64},
    )
    plain = Recommender(shop(), None, priors=[Transition.fit(log_, shop())])
    query = Query(history=["i0"], k=3)
    spelled = plain.with_catalog(shop().identified(words))
    assert [place.item.id for place in spelled.recommend(query)] == [place.item.id for place in plain.recommend(query)]
