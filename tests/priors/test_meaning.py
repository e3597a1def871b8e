"""The priors that go by vectors, with cosines that can be worked out by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen import load_prior
from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ArgumentError, ConfigError, DataError, UnknownItemError
from llmgen.priors import HistoryVectors, Prior, SparsePrior, TextQuery, TextQueryVectors
from llmgen.priors import sparse as sparse_module
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query
from llmgen.vectors import ItemVectors, load_encoder
from tests.vectors.words import WordEncoder

TITLES = ("Space ship", "Ship war", "Love song", "Love", "Ghost city", "Paris")
SHOP = Catalog([Item(name, title) for name, title in zip("abcdef", TITLES, strict=True)], noun="film")
VECTORS = ItemVectors.make(SHOP, WordEncoder())
HALF = np.sqrt(0.5)
GIVEN = ItemVectors.of(SHOP, np.array([[1, 0], [1, 1], [0, 1], [0, 0], [-1, 0], [1, -1]]))


def expected(scores: list[float], floor: float = 0.1) -> np.ndarray:
    """The rule of `log_lift`, again."""
    share = np.array(scores) / sum(scores)
    return np.log(np.where(share > 0, (1 - floor) * len(scores) * share + floor, floor))


def test_a_wish_by_hand() -> None:
    prior = TextQueryVectors(VECTORS, temperature=0.5)
    said, silent = prior.log_weights([Query(text="a battle"), Query(text="  ")])
    near = np.exp(np.array([0, HALF, 0, 0, 0, 0]) / 0.5)  # no word is shared: "battle" means war
    assert said == pytest.approx(expected(near.tolist()), abs=1e-6)
    assert not silent.any()
    two = TextQueryVectors(VECTORS, neighbours=2, temperature=0.5).log_weights([Query(text="romance")])[0]
    far = np.exp(HALF / 0.5) / np.exp(1 / 0.5)
    assert two == pytest.approx(expected([0, 0, far, 1, 0, 0]), abs=1e-6)


def test_a_history_by_hand() -> None:
    history = Query([SHOP["d"], SHOP["a"]])  # love, and then a space ship
    t = 0.25
    newest = np.exp(np.array([1, 0.5, 0, 0, 0, 0]) / t)
    oldest = 0.5 * np.exp(np.array([0, 0, HALF, 1, 0, 0]) / t)
    for pool, scores in (("sum", newest + oldest), ("max", np.maximum(newest, oldest))):
        scores[[0, 3]] = 0  # of the history itself nothing is said
        prior = HistoryVectors(VECTORS, temperature=t, decay=0.5, pool=pool)  # type: ignore[arg-type]
        (said,) = prior.log_weights([history])
        wanted = expected(scores.tolist())
        wanted[[0, 3]] = 0
        assert said == pytest.approx(wanted, abs=1e-6)
    (last,) = HistoryVectors(VECTORS, newest=1).log_weights([history])
    (alone,) = HistoryVectors(VECTORS).log_weights([Query([SHOP["a"]])])
    assert np.delete(last, [0, 3]) == pytest.approx(np.delete(alone, [0, 3]), abs=0.3)
    assert last.argmax() == alone.argmax() == 1
    assert not HistoryVectors(VECTORS).log_weights([Query()]).any()


def test_items_without_a_vector_are_neither_held_to_fit_nor_to_fit_badly() -> None:
    (said,) = HistoryVectors(GIVEN, neighbours=2).log_weights([Query([SHOP["a"]])])
    assert said[3] == 0
    assert said[4] == np.log(0.1)
    assert said[1] > 0
    assert not HistoryVectors(GIVEN).log_weights([Query([SHOP["d"]])]).any()  # a history of which nothing is known


def test_a_history_of_another_catalog() -> None:
    songs = Catalog([Item("s1", "Ship song"), Item("s2", "Music")], noun="song")
    films = HistoryVectors(VECTORS, temperature=0.2)
    (read,) = films.log_weights([Query([songs["s2"]])])
    assert SHOP[int(read.argmax())].title == "Love song"
    others = dataclasses.replace(films, others=[ItemVectors.make(songs, WordEncoder())])
    assert others.log_weights([Query([songs["s2"]])])[0] == pytest.approx(read)
    given = HistoryVectors(GIVEN, others=[ItemVectors.of(songs, np.array([[0, 1], [1, -1]]))])
    assert SHOP[int(given.log_weights([Query([songs["s2"]])])[0].argmax())].id == "f"
    assert not HistoryVectors(GIVEN).log_weights([Query([songs["s2"]])]).any()  # nobody can read it
    with pytest.raises(ArgumentError, match="of another catalog have 2 numbers and these 8"):
        HistoryVectors(VECTORS, others=[GIVEN])
    recommender = Recommender(SHOP, FakeEngine(), priors=[others], lm_weight=0.01)
    answer = recommender.recommend(Query([songs["s1"], songs["s2"]], k=2))
    assert [place.item.title for place in answer] == ["Love song", "Space ship"]


def test_evidence_by_hand() -> None:
    prior = HistoryVectors(VECTORS, decay=0.5)
    found = prior.evidence(Query([SHOP["b"], SHOP["e"], SHOP["d"]]), SHOP["a"])
    assert [(entry.item.id, entry.score) for entry in found] == [("b", pytest.approx(0.25 * 0.5))]
    recommender = Recommender(SHOP, FakeEngine(), priors=[prior], lm_weight=0.1)
    why = recommender.explain(Query([SHOP["b"], SHOP["e"], SHOP["d"]]), "a")
    assert [item.id for item in why.evidence] == ["b"]
    with pytest.raises(UnknownItemError):
        prior.evidence(Query([SHOP["b"]]), Item("z", "Z"))


def test_a_new_item_is_known_by_what_it_means() -> None:
    priors = [TextQueryVectors(VECTORS), HistoryVectors(VECTORS)]
    shop = Recommender(SHOP, None, priors=priors)
    grown = shop.with_catalog(SHOP.with_items([Item("g", "War war ship")]))
    assert grown.recommend(Query(text="battle", k=1))[0].item.id == "g"
    assert grown.recommend(Query([SHOP["b"]], k=1))[0].item.id == "g"
    one, two = grown.priors
    assert isinstance(one, TextQueryVectors)
    assert isinstance(two, HistoryVectors)
    assert one.vectors is two.vectors  # read once for both
    gone = grown.with_catalog(grown.catalog.without(["g"]))
    assert gone.recommend(Query(text="battle", k=1))[0].item.id == "b"


def test_words_find_what_no_word_matches_and_tuning_chooses_their_weights() -> None:
    priors = [TextQuery(SHOP, weight=1.0), TextQueryVectors(VECTORS, weight=0.0)]
    queries = [Query(text=text) for text in ("romance", "battle", "music")]
    assert not TextQuery(SHOP).log_weights(queries).any()
    tuned = Recommender(SHOP, None, priors=priors).tune(queries, ["d", "b", "c"], k=1)
    weights = {prior.name: prior.weight for prior in tuned.recommender.priors}
    assert weights["wish_vectors"] > 0
    assert tuned.score == pytest.approx(1.0)


PRIORS: list[Prior] = [
    TextQueryVectors(VECTORS),
    TextQueryVectors(VECTORS, neighbours=2, floor=0.5),
    HistoryVectors(VECTORS, neighbours=3),
    HistoryVectors(VECTORS, pool="max", newest=2),
    HistoryVectors(GIVEN, neighbours=2),
]
QUERIES = st.builds(
    Query,
    history=st.lists(st.sampled_from([*SHOP, Item("gone", "Gone")]), max_size=6),
    text=st.sampled_from([None, " ", "love in paris", "xyz"]),
)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.name)
@settings(max_examples=40, deadline=None)
@given(queries=st.lists(QUERIES, max_size=4))
def test_each_prior_says_the_same_in_both_forms_and_of_each_query_alone(prior: Prior, queries: list[Query]) -> None:
    assert isinstance(prior, SparsePrior)
    rows, dense = prior.sparse_log_weights(queries), prior.log_weights(queries)
    assert dense.shape == (len(queries), len(SHOP))
    assert np.isfinite(dense).all()
    for query, row, whole in zip(queries, rows, dense, strict=True):
        assert (np.diff(row.items) > 0).all()
        np.testing.assert_allclose(row.at(np.arange(len(SHOP))), whole, atol=1e-12)
        np.testing.assert_allclose(prior.log_weights([query])[0], whole, atol=1e-5)


def test_a_large_catalog_answers_as_a_small_one(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = [Query([SHOP["b"]], "love", k=3), Query([SHOP["d"], SHOP["e"]], k=4), Query((), "ghost", k=2)]
    answers = []
    for large in (20_000, 0):
        monkeypatch.setattr(sparse_module, "LARGE_CATALOG", large)
        one = Recommender(SHOP, FakeEngine(), priors=[PRIORS[0], PRIORS[2]], lm_weight=0.3, exact=True)
        answers.append(one.recommend_many(queries))
    for dense, few in zip(*answers, strict=True):
        assert [place.item.id for place in dense] == [place.item.id for place in few]
        assert [place.score for place in dense] == pytest.approx([place.score for place in few])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neighbours": 0}, "neighbours must be 1 or more, not 0"),
        ({"temperature": 0.0}, "temperature must be above 0, not 0.0"),
        ({"temperature": float("nan")}, "temperature must be above 0, not nan"),
        ({"floor": 0.0}, "floor must be in"),
        ({"decay": 1.5}, "decay must be in"),
        ({"newest": 0}, "newest must be 1 or more"),
        ({"pool": "mean"}, "pool must be sum or max, not 'mean'"),
    ],
)
def test_what_is_out_of_range_is_told(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        HistoryVectors(VECTORS, **changes)  # type: ignore[arg-type]


def test_a_wish_needs_an_encoder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="WishVectors needs vectors with an encoder that reads words"):
        TextQueryVectors(GIVEN)


def test_what_was_saved_says_the_same_bit_for_bit(tmp_path: Path, tiny_encoder: Path) -> None:
    read = ItemVectors.make(SHOP, load_encoder(str(tiny_encoder)), tmp_path / "vectors", content="{title}!")
    grown = SHOP.with_items([Item("g", "War ship")])
    queries = [Query([SHOP["b"], SHOP["e"]], "love and war"), Query([Item("x", "Elsewhere")])]
    for prior in (
        TextQueryVectors(read, weight=0.3),
        HistoryVectors(read, pool="max", newest=3),
        HistoryVectors(GIVEN),
    ):
        prior.save(tmp_path / "saved")
        again = load_prior(tmp_path / "saved", SHOP)
        assert (again.name, again.weight) == (prior.name, prior.weight)
        np.testing.assert_array_equal(again.log_weights(queries), prior.log_weights(queries))
        assert isinstance(again, TextQueryVectors | HistoryVectors)
        moved = [one.on_catalog(grown, grown.positions_before(SHOP)).log_weights(queries) for one in (prior, again)]
        np.testing.assert_array_equal(*moved)
        with pytest.raises(DataError, match="was fitted on the catalog"):
            load_prior(tmp_path / "saved", grown)


def test_what_cannot_be_saved_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its encoder 'words' has no name by which it is found again"):
        TextQueryVectors(VECTORS).save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="it reads vectors of 1 other catalogs"):
        HistoryVectors(GIVEN, others=[GIVEN]).save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
