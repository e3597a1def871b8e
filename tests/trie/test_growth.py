"""What grew with a catalog is what would have been built."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from llmgen.catalog import core as catalog_module
from llmgen.catalog import lineage
from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.errors import UnknownItemError
from llmgen.priors import AttributeFilter, Content, ItemToItem, Popularity, TextQuery, Transition
from llmgen.priors import collaborative as collaborative_module
from llmgen.priors import content as content_module
from llmgen.priors import sparse as sparse_module
from llmgen.priors import wish as wish_module
from llmgen.recommend import assembled as assembled_module
from llmgen.recommend.recommender import Recommender
from llmgen.text.bm25 import BM25Index
from llmgen.trie import shrinking, weights
from llmgen.trie.core import ARRAYS, ItemTrie
from llmgen.trie.growth import grow
from llmgen.trie.shrinking import renumber, shrink
from llmgen.types import Item, Query

Paths = list[tuple[int, ...]]
PATHS = st.lists(st.lists(st.integers(1, 4), max_size=5).map(lambda tokens: (*tokens, 0)), min_size=1, max_size=12)


def assert_equal(one: ItemTrie, other: ItemTrie) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == np.int32
    assert one.longest == other.longest


@settings(max_examples=200, deadline=None)
@given(PATHS, st.lists(PATHS, max_size=3))
def test_growing_equals_building(paths: Paths, more: list[Paths]) -> None:
    trie = ItemTrie.build(paths)
    for part in more:
        trie, paths = grow(trie, part), paths + part
        assert_equal(trie, ItemTrie.build(paths))


@pytest.mark.parametrize("few", [0, shrinking.FEW])
@settings(max_examples=150, deadline=None)
@given(PATHS, st.data())
def test_shrinking_equals_building(few: int, paths: Paths, data: st.DataObject) -> None:
    """One by one, and all at once."""
    trie = ItemTrie.build(paths)
    while len(paths) > 1:
        number = data.draw(st.integers(1, len(paths) - 1))
        out = data.draw(st.sets(st.integers(0, len(paths) - 1), min_size=number, max_size=number))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shrinking, "FEW", few)
            trie = shrink(trie, np.array(sorted(out), np.int64))
        paths = [path for number, path in enumerate(paths) if number not in out]
        assert_equal(trie, ItemTrie.build(paths))


@settings(max_examples=200, deadline=None)
@given(PATHS, PATHS, st.data())
def test_paths_in_the_place_of_others_equal_building(paths: Paths, new: Paths, data: st.DataObject) -> None:
    new = new[: len(paths) - 1]
    places = data.draw(st.permutations(range(len(paths))))[: len(new)]
    left = [number for number in range(len(paths)) if number not in places]
    trie = grow(shrink(ItemTrie.build(paths), np.array(sorted(places), np.int64)), new)
    trie = renumber(trie, np.array([*left, *places], np.int64))
    for place, path in zip(places, new, strict=True):
        paths[place] = path
    assert_equal(trie, ItemTrie.build(paths))


def test_of_two_paths_one_is_left_as_a_leaf_with_a_tail() -> None:
    trie = shrink(ItemTrie.build([(1, 2, 3, 0), (1, 2, 4, 0)]), np.array([0]))
    assert (trie.first.tolist(), trie.token.tolist()) == ([1, 2, 2], [-1, 1, 2, 4, 0])  # a root, its child, the rest
    assert (trie.path(0), trie.longest, trie.num_nodes) == ((1, 2, 4, 0), 4, 2)
    with pytest.raises(ValueError, match="takes out all 1"):
        shrink(trie, np.array([0]))


def test_the_old_trie_is_not_changed() -> None:
    trie = ItemTrie.build([(1, 0), (3, 0)])
    grow(trie, [(2, 0), (1, 0)])
    shrink(trie, np.array([0]))
    renumber(trie, np.array([1, 0]))
    assert_equal(trie, ItemTrie.build([(1, 0), (3, 0)]))


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([(1,)], r"path \(1,\) is the beginning of \(1, "),
        ([(1, 2, 0, 5)], r"path \(1, 2, 0\) is the beginning of \(1, 2, 0, 5\)"),
        ([(4, 0), (4, 0, 1)], r"path \(4, 0\) is the beginning of \(4, 0, 1\)"),
        ([()], r"path 0 must be token ids of 0 or more, at least one, not \(\)"),
        ([(5, 0), (5, -1)], r"path 1 must be token ids of 0 or more"),
    ],
)
def test_what_no_trie_can_hold_is_refused(paths: Paths, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grow(ItemTrie.build([(1, 2, 0), (1, 3, 0)]), paths)


def test_a_mapped_trie_grows_in_memory(tmp_path) -> None:  # type: ignore[no-untyped-def]
    ItemTrie.build([(1, 0), (2, 0)]).save(tmp_path / "t")
    assert_equal(grow(ItemTrie.load(tmp_path / "t"), [(1, 5, 0)]), ItemTrie.build([(1, 0), (2, 0), (1, 5, 0)]))


# A catalog that grew, and what was made of it


CATALOG = Catalog(
    [Item(str(number), f"film {number % 7} part {number}", {"year": 1990 + number % 3}) for number in range(30)],
    noun="film",
)
NEW = [Item("x", "film 3 part", {"year": 1991, "colour": "red"}), Item("y", "zebra", {"genres": ("Zoo",)})]


def rebuilt(catalog: Catalog) -> Catalog:
    return catalog.like(catalog)


@pytest.mark.parametrize("hashed", [False, True])
def test_a_catalog_that_grew_is_the_one_that_would_have_been_made(hashed: bool) -> None:
    catalog = rebuilt(CATALOG)
    before = catalog.digest if hashed else None
    grown = catalog.with_items(NEW)
    again = rebuilt(grown)
    assert (grown.ids, grown.labels, grown.digest) == (again.ids, again.labels, again.digest)
    assert grown["y"] is NEW[1]
    assert grown.index("x") == 30
    assert grown.begins_with(catalog)
    assert not catalog.begins_with(grown)
    assert not grown.labelled("{title} ({year})").begins_with(catalog)
    assert before is None or catalog.digest == before


def test_catalogs_that_grew_from_one_know_nothing_of_each_other() -> None:
    catalog = rebuilt(CATALOG)
    one = catalog.with_items([Item("x", "X"), Item("z", "Z of one")])
    other = catalog.with_items([Item("y", "Y"), Item("z", "Z of the other")])
    further = one.with_items([Item("y", "Y further")])
    assert [len(made) for made in (catalog, one, other, further)] == [30, 32, 32, 33]
    assert [made.ids[30:] for made in (catalog, one, other, further)] == [(), ("x", "z"), ("y", "z"), ("x", "z", "y")]
    assert [made.labels[30:] for made in (one, other)] == [("X", "Z of one"), ("Y", "Z of the other")]
    assert (one["z"].title, other["z"].title, further["y"].title) == ("Z of one", "Z of the other", "Y further")
    assert ("x" in catalog, "y" in one, "x" in other, "y" in further) == (False, False, False, True)
    assert catalog.positions(NEW) == one.positions([Item("y", "Y")]) == []
    with pytest.raises(IndexError):
        catalog[30]
    with pytest.raises(UnknownItemError):
        catalog.index("z")
    assert [item.id for item in catalog[28:99]] == ["28", "29"] == [item.id for item in list(catalog)[28:]]
    assert further.begins_with(one)
    assert further.begins_with(catalog)
    assert other.begins_with(catalog)
    assert not other.begins_with(one)


def test_catalogs_that_grow_from_one_at_the_same_time_each_get_their_own() -> None:
    catalog = rebuilt(CATALOG)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: catalog.with_items([Item(f"n{number}", f"N {number}")]), range(200)))
    assert [grown.ids[30:] for grown in made] == [(f"n{number}",) for number in range(200)]
    assert [grown.index(f"n{number}") for number, grown in enumerate(made)] == [30] * 200


def test_positions_in_the_catalog_before() -> None:
    grown = CATALOG.with_items(NEW)
    assert CATALOG.without(["0", "5"]).positions_before(CATALOG).tolist() == [1, 2, 3, 4, *range(6, 30)]
    assert grown.positions_before(CATALOG).tolist() == [*range(30), -1, -1]  # on the same shelf
    assert Catalog(list(grown)[::-1]).positions_before(grown).tolist() == [*range(31, -1, -1)]


def test_items_that_are_put_in_the_place_of_others_are_no_growth() -> None:
    changed = CATALOG.with_items([Item("3", "Another"), NEW[0]])
    assert not changed.begins_with(CATALOG)
    assert (changed["3"].title, len(changed)) == ("Another", 31)
    assert CATALOG.with_items([]) is CATALOG


def log() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 9, size=90).astype(str),
            "item_id": rng.integers(0, 30, size=90).astype(str),
            "timestamp": np.arange(90.0),
        }
    )


@pytest.mark.parametrize("large", [0, 20_000])
def test_a_recommender_whose_catalog_grew_answers_as_one_made_of_all(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse_module, "LARGE_CATALOG", large)
    transition = Transition.fit(log(), CATALOG)
    narrow = dataclasses.replace(transition, similarity=sparse.csr_array(transition.similarity), name="narrow")
    fitted = [transition, narrow, Popularity.fit(log(), CATALOG, weight=-0.2), TextQuery(CATALOG)]
    old = Recommender(CATALOG, FakeEngine(), priors=fitted, lm_weight=0.5)
    old.prepare()
    grown = old.with_catalog(CATALOG.with_items(NEW))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Catalog, "begins_with", lambda self, other: False)
        fresh = old.with_catalog(rebuilt(grown.catalog))
    assert_equal(grown.trie, fresh.trie)
    queries = [
        Query([CATALOG[1], CATALOG[4]]),
        Query(text="zebra"),
        Query(filters={"year": 1991}, k=20),
        Query(filters={"colour": "red"}),
        Query(filters={"genres": "zoo"}),
    ]
    for one, other in zip(grown.recommend_many(queries), fresh.recommend_many(queries), strict=True):
        assert [place.item.id for place in one] == [place.item.id for place in other]
        assert [place.score for place in one] == pytest.approx([place.score for place in other])


def test_what_is_prepared_is_what_people_with_a_history_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sparse_module, assembled_module):
        monkeypatch.setattr(module, "LARGE_CATALOG", 0)
    transition = Transition.fit(log(), CATALOG)
    narrow = dataclasses.replace(transition, similarity=sparse.csr_array(transition.similarity))
    made = Recommender(CATALOG, FakeEngine(), priors=[narrow], lm_weight=0.5)
    made.prepare()
    made = made.with_catalog(CATALOG.with_items(NEW))
    made.prepare()

    def again(*arguments: object) -> None:
        raise AssertionError("made when asked, not when prepared")

    monkeypatch.setattr(weights.Below, "__init__", again)
    assert len(made.recommend(Query([CATALOG[1]]))) == 10


def test_a_large_index_takes_new_texts_in_and_a_small_one_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wish_module, "LARGE", 20)
    wish = TextQuery(CATALOG)
    before = np.append(np.arange(30), [-1, -1])
    grown = wish.on_catalog(CATALOG.with_items(NEW), before)
    assert grown.index is not None
    assert (grown.index.num_later, len(grown.index)) == (2, 32)
    (found,) = grown.log_weights([Query(text="a zebra")])
    assert found.argmax() == 31  # a word that no old text has
    (old_words,) = grown.log_weights([Query(text="part film 3")])
    (known,) = wish.log_weights([Query(text="part film 3")])
    assert old_words[30] > np.delete(old_words, [3, 10, 17, 24, 30]).max()  # two of the words, others have one or none
    assert np.argsort(-old_words[:30], kind="stable").tolist() == np.argsort(-known, kind="stable").tolist()
    monkeypatch.setattr(wish_module, "MOST_LATER", 1)
    anew = wish.on_catalog(CATALOG.with_items(NEW), before)
    assert anew.index is not None
    assert anew.index.num_later == 0


def test_later_documents_score_as_if_they_had_been_there_where_the_statistics_are_the_same() -> None:
    texts = ["red fox", "blue fox", "red dog", "green cat"]
    whole = BM25Index(texts)
    grown = BM25Index(texts).with_documents(["red fox", "zebra"])
    assert grown.scores("red fox fox")[4] == pytest.approx(whole.scores("red fox fox")[0])
    assert grown.scores("zebra")[:5].tolist() == [0, 0, 0, 0, 0]
    assert grown.scores("zebra")[5] > 0


def test_what_is_put_in_the_place_of_an_item_is_found_by_what_it_says_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wish_module, "LARGE", 20)
    old = Recommender(CATALOG, FakeEngine(), priors=[TextQuery(CATALOG), Content(CATALOG)], lm_weight=0.5)
    old.prepare()
    changed = old.with_catalog(CATALOG.with_items([Item("3", "zebra", {"year": 2024})]))
    wish, content = changed.priors
    (found,) = wish.log_weights([Query(text="zebra")])
    assert found.argmax() == 3
    asked = [Query([CATALOG[1]])]
    np.testing.assert_array_equal(content.log_weights(asked), Content(changed.catalog).log_weights(asked))
    assert [place.item.id for place in changed.recommend(Query(filters={"year": 2024}))] == ["3"]


CHANGES = {
    "put": lambda catalog: catalog.with_items(NEW),
    "delete": lambda catalog: catalog.without(["5", "x", "0"]),
    "replace and put": lambda catalog: catalog.with_items(
        [
            Item("z", "last zebra"),
            Item("3", "zebra {title}", {"colour": "blue", "year": 1992}),
            Item("29", "film 3 part 3"),
        ]
    ),
    "the same title": lambda catalog: catalog.with_items([Item("7", catalog["7"].title, {"year": 2024})]),
    "delete the last": lambda catalog: catalog.without(["z", "y"]),
}


def test_a_trie_follows_every_change_and_nothing_that_stays_is_spelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    spelled: list[str] = []

    class Spelling(FakeEngine):
        def spell(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
            spelled.extend(texts)
            return super().spell(texts)

    made = Recommender(CATALOG, Spelling())
    made.prepare()
    for name, change in CHANGES.items():
        spelled.clear()
        made = made.with_catalog(change(made.catalog))
        assert made.parts.index.has_trie(), name
        assert_equal(made.trie, ItemTrie.build(FakeEngine().spell(made.catalog.labels)))
        assert len(spelled) == {"put": 2, "replace and put": 3}.get(name, 0)
    for other in (Catalog(list(made.catalog)[::-1], noun="film"), made.catalog.without(made.catalog.ids[1:])):
        other = made.with_catalog(other)  # in another order, and hardly anything left
        assert_equal(other.trie, ItemTrie.build(FakeEngine().spell(other.catalog.labels)))


def test_filters_follow_every_change() -> None:
    made = AttributeFilter(CATALOG)
    made.prepare()
    catalog = CATALOG
    for change in CHANGES.values():
        old = {item_id: place for place, item_id in enumerate(catalog.ids)}
        catalog = change(catalog)
        made = made.on_catalog(catalog, np.array([old.get(item_id, -1) for item_id in catalog.ids]))
        assert made.index is not None
        assert made.index.is_read
        anew = AttributeFilter(rebuilt(catalog)).values
        assert {name for name, values in made.values.items()} == anew.keys()
        for name, values in anew.items():
            np.testing.assert_array_equal(made.values[name].numbers, values.numbers)
            assert {word: at.tolist() for word, at in made.values[name].words.items()} == {
                word: at.tolist() for word, at in values.words.items()
            }
            assert made.values[name].spelling.keys() == values.spelling.keys()


def test_content_of_a_large_catalog_follows_every_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features and how rare they are stay; what an item says by them is what it says now."""
    monkeypatch.setattr(content_module, "LARGE", 20)
    made = Content(CATALOG)
    features, catalog = made.features, CATALOG
    assert features is not None
    for change in CHANGES.values():
        old, catalog = catalog, change(catalog)
        made = made.on_catalog(catalog, catalog.positions_before(old))
        assert made.features is features
        assert made.vectors is not None
        np.testing.assert_array_equal(made.vectors.toarray(), features.vectors(catalog).toarray())
    (found,) = made.log_weights([Query([CATALOG[1]])])  # film 1 part 1 of 1991
    alike = catalog.positions([CATALOG[8]])[0]  # film 1 part 8 of 1992
    assert found[alike] > found[catalog.positions([CATALOG[2]])[0]]  # film 2 part 2 of 1992


@pytest.mark.parametrize("most", [1, 2_000])
def test_a_sparse_matrix_taken_over_answers_as_one_made_anew(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that are gone lead nowhere and are led to by nobody; new ones are unknown; replaced ones keep their row."""
    monkeypatch.setattr(collaborative_module, "MOST_GONE", most)
    rng = np.random.default_rng(3)
    known = rng.random((30, 30)) * (rng.random((30, 30)) < 0.1)
    known[:, 9] = 0.7 * (np.arange(30) == 0)  # the one item that leads there will be gone
    fitted = sparse.csr_array(known)
    made = ItemToItem(CATALOG, fitted)
    cells = {(one.id, other.id): known[i, j] for i, one in enumerate(CATALOG) for j, other in enumerate(CATALOG)}
    catalog = CATALOG
    for change in (
        *CHANGES.values(),
        lambda catalog: catalog.with_items([Item("5", "back again")]),
        lambda catalog: Catalog(list(catalog)[::-1], noun="film"),
    ):
        old, catalog = catalog, change(catalog)
        for gone in set(old.ids) - set(catalog.ids):
            cells = {pair: value for pair, value in cells.items() if gone not in pair}
        made = made.on_catalog(catalog, catalog.positions_before(old))
        dense = np.array([[cells.get((one.id, other.id), 0.0) for other in catalog] for one in catalog])
        anew = ItemToItem(catalog, sparse.csr_array(dense))
        queries = [Query(list(catalog[:5])), Query(list(catalog[8:20])), Query([CATALOG[5], CATALOG[7]]), Query()]
        np.testing.assert_array_equal(made.log_weights(queries), anew.log_weights(queries))
        for one, other in zip(made.sparse_log_weights(queries), anew.sparse_log_weights(queries), strict=True):
            np.testing.assert_array_equal(one.items, other.items)
            np.testing.assert_array_equal(one.values, other.values)
            np.testing.assert_array_equal(one.base, other.base)
        for item in catalog[::4]:
            assert made.evidence(queries[1], item) == anew.evidence(queries[1], item)
    assert (made.similarity is fitted) == (most > 1)


def test_a_digest_is_counted_from_lines_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = rebuilt(CATALOG)
    assert catalog.digest
    written: list[Item] = []
    real = catalog_module._line
    monkeypatch.setattr(catalog_module, "_line", lambda item: written.append(item) or real(item))
    for name, change in CHANGES.items():
        written.clear()
        catalog = change(catalog)
        digest = catalog.digest
        assert len(written) == {"put": 2, "replace and put": 3, "the same title": 1}.get(name, 0), name
        assert digest == rebuilt(catalog).digest


@pytest.mark.parametrize("large", [20, 3_000])
def test_what_is_left_of_a_catalog_is_the_one_that_would_have_been_made(
    large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wish_module, "LARGE", large)
    made = Recommender(CATALOG, FakeEngine(), priors=[TextQuery(CATALOG)])
    for change in (
        lambda catalog: catalog.with_items(NEW),
        lambda catalog: catalog.without(["5", "x", "0"]),
        lambda catalog: catalog.with_items([Item("z", "last zebra"), Item("3", "zebra {title}"), Item("29", "film")]),
        lambda catalog: catalog.without(["z"]),
    ):
        made = made.with_catalog(change(made.catalog))
        again = rebuilt(made.catalog)
        assert (made.catalog.ids, made.catalog.labels, made.catalog.digest) == (again.ids, again.labels, again.digest)
        assert [made.catalog.index(item.id) for item in again] == list(range(len(again)))
    queries = [Query(text="a zebra"), Query(text="part film 3")]
    np.testing.assert_array_equal(made.priors[0].log_weights(queries), TextQuery(made.catalog).log_weights(queries))


@pytest.mark.parametrize(("step", "few"), [(lineage.STEP, lineage.FEW), (1, 0), (2, 0)])
@settings(max_examples=70, deadline=None)
@given(st.data())
def test_catalogs_after_any_changes_are_those_that_would_have_been_made(
    step: int, few: int, data: st.DataObject
) -> None:
    """Also where several came from one, and each went on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lineage, "STEP", step)
        patch.setattr(lineage, "FEW", few)
        changed_at_random(data)


def changed_at_random(data: st.DataObject) -> None:
    ids = st.sampled_from("abcdef")
    made: list[tuple[Catalog, dict[str, Item]]] = [(Catalog([Item(name, name.upper()) for name in "abc"]), {})]
    made[0][1].update({item.id: item for item in made[0][0]})
    for step in range(data.draw(st.integers(1, 8))):
        old, kept = data.draw(st.sampled_from(made))
        kept = dict(kept)
        if data.draw(st.booleans()):
            put = [
                Item(name, f"{name}{step}") for name in data.draw(st.lists(ids, min_size=1, max_size=3, unique=True))
            ]
            new = old.with_items(put)
            kept.update({item.id: item for item in put})  # a dict keeps the place of a key that it has
        else:
            gone = data.draw(st.sets(st.sampled_from(sorted(kept)), max_size=len(kept) - 1))
            new = old.without(gone)
            kept = {name: item for name, item in kept.items() if name not in gone}
        made.append((new, kept))
        if data.draw(st.booleans()):
            _ = new.digest
        ids_before = list(old.ids)
        where = [ids_before.index(name) if name in ids_before else -1 for name in kept]
        same = [
            place if place >= 0 and old[place] == new[name] else -1 for place, name in zip(where, kept, strict=True)
        ]
        assert new.positions_before(old).tolist() == where
        assert new.unchanged_since(old).tolist() == same
        assert new.begins_with(old) == (list(new)[: len(old)] == list(old))
    for catalog, kept in made:
        anew = Catalog(kept.values())
        assert (list(catalog), catalog.ids, catalog.labels) == (list(anew), anew.ids, anew.labels)
        assert catalog.digest == anew.digest
        assert [catalog.index(name) for name in kept] == list(range(len(kept)))
        assert [name in catalog for name in "abcdef"] == [name in kept for name in "abcdef"]


def test_an_attribute_that_is_equal_and_reads_otherwise_is_spelled_anew() -> None:
    catalog = Catalog([Item("1", "Alien", {"part": 1}), Item("2", "Brazil", {"part": 2})], label="{title}, {part}")
    recommender = Recommender(catalog, FakeEngine())
    recommender.prepare()
    changed = recommender.with_catalog(catalog.with_items([Item("1", "Alien", {"part": True})]))
    assert changed.catalog.labels[0] == "Alien, True"
    assert_equal(changed.trie, ItemTrie.build(FakeEngine().spell(changed.catalog.labels)))
