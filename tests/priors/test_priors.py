from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.errors import CatalogError, CatalogTooLargeError, ConfigError, DataError, UnknownItemError
from llmgen.priors import (
    AttributeFilter,
    Ease,
    ExcludeSeen,
    HistoryText,
    ItemKNN,
    ItemToItem,
    Popularity,
    Prior,
    Repeat,
    TextQuery,
    Transition,
    collaborative,
    combine,
    item_matrices,
    item_text,
    log_lift,
    only,
    reweighted,
    transition,
)
from llmgen.recommend.tuning import REMOVED, target_ranks, tune_weights
from llmgen.types import FloatArray, Item, Query

OUT_OF_IT = -np.inf
FILMS = Catalog(
    [
        Item("a", "Alien", {"year": 1979, "genres": ("Horror", "Sci-Fi"), "colour": True}),
        Item("b", "Brazil", {"year": 1985, "genres": ("Comedy", "Sci-Fi"), "colour": True}),
        Item("c", "Casablanca", {"year": 1942, "genres": ("Drama",), "colour": False, "country": "USA"}),
        Item("d", "Dune", {"year": 1984, "genres": ("Sci-Fi",), "description": "Worms in the desert"}),
        Item("e", "Eraserhead", {"country": "usa"}),
    ],
    label="{title} ({year})",
    shown=("year", "genres"),
)


def patch_all(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    """Another value of a constant, wherever it is used."""
    for module in (collaborative, item_matrices, transition):
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def taken(*sequences: str, times: Sequence[Sequence[float]] | None = None) -> pl.DataFrame:
    """A log in which each user takes the items of a word, one after the other."""
    rows = [
        (f"u{user}", item_id, float(place) if times is None else times[user][place])
        for user, word in enumerate(sequences)
        for place, item_id in enumerate(word)
    ]
    return pl.DataFrame(
        {
            "user_id": [row[0] for row in rows],
            "item_id": [row[1] for row in rows],
            "timestamp": [row[2] for row in rows],
            "rating": [None] * len(rows),
        },
        schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64, "rating": pl.Float64},
    )


def after(word: str, **settings: object) -> Query:
    return Query(history=[FILMS[item_id] for item_id in word], **settings)  # type: ignore[arg-type]


def dense(prior: ItemToItem) -> FloatArray:
    return prior.similarity.toarray() if sparse.issparse(prior.similarity) else np.asarray(prior.similarity)


@dataclasses.dataclass(frozen=True, eq=False)
class Fixed:
    """A prior that says what it is told."""

    log_w: FloatArray
    weight: float = 1.0
    name: str = "fixed"

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        return self.log_w[: len(queries)]


class TestSeen:
    def test_the_history_is_removed(self) -> None:
        assert ExcludeSeen(FILMS).log_weights([after("ac")]).tolist() == [[OUT_OF_IT, 0, OUT_OF_IT, 0, 0]]

    def test_nothing_is_removed_where_seen_items_are_wanted(self) -> None:
        assert not ExcludeSeen(FILMS).log_weights([after("ac", exclude_seen=False), Query()]).any()

    def test_an_item_that_left_the_catalog_is_passed_over(self) -> None:
        gone = Query(history=[Item("z", "Zardoz"), FILMS["b"]])
        assert ExcludeSeen(FILMS).log_weights([gone]).tolist() == [[0, OUT_OF_IT, 0, 0, 0]]


class TestWhere:
    @pytest.mark.parametrize(
        ("filters", "left"),
        [
            ({}, "abcde"),
            ({"genres": "sci-fi"}, "abd"),
            ({"genres": ("Drama", "HORROR")}, "ac"),
            ({"genres": ["Drama", "HORROR"]}, "ac"),
            ({"genres": "Sci-Fi", "year": "1980.."}, "bd"),
            ({"year": 1985}, "b"),
            ({"year": 1985.0}, "b"),
            ({"year": "1985"}, "b"),
            ({"year": "..1979"}, "ac"),
            ({"year": "1979..1984"}, "ad"),
            ({"year": ("1942", "1984..1985")}, "bcd"),
            ({"colour": True}, "ab"),
            ({"colour": "false"}, "c"),
            ({"country": "USA"}, "ce"),
            ({"genres": "Horror", "year": 1942}, ""),  # each can be had, not both: the search says so
        ],
    )
    def test_only_matching_items_are_left(self, filters: dict[str, object], left: str) -> None:
        log_w = AttributeFilter(FILMS).log_weights([Query(filters=filters)])  # type: ignore[arg-type]
        assert log_w.tolist() == [[0.0 if item_id in left else OUT_OF_IT for item_id in "abcde"]]

    def test_each_query_has_its_own_filters(self) -> None:
        log_w = AttributeFilter(FILMS).log_weights(
            [Query(filters={"colour": True}), Query(), Query(filters={"year": 1984})]
        )
        assert np.isfinite(log_w).sum(axis=1).tolist() == [2, 5, 1]

    def test_true_is_not_the_number_one(self) -> None:
        goods = Catalog([Item("a", "A", {"stock": 1, "new": True}), Item("b", "B", {"stock": 2, "new": False})])
        queries = [Query(filters={"new": True}), Query(filters={"stock": 1})]
        assert np.isfinite(AttributeFilter(goods).log_weights(queries)).tolist() == [[True, False], [True, False]]
        with pytest.raises(CatalogError, match="stock = True"):
            AttributeFilter(goods).log_weights([Query(filters={"stock": 1}), Query(filters={"stock": True})])

    def test_unknown_attribute_lists_those_that_exist(self) -> None:
        with pytest.raises(CatalogError, match=r"'genre'.*'colour', 'country', 'description', 'genres', 'year'"):
            AttributeFilter(FILMS).log_weights([Query(filters={"genre": "Drama"})])

    def test_unknown_value_names_near_ones(self) -> None:
        with pytest.raises(CatalogError, match="genres = 'SciFi'; near: 'Sci-Fi'"):
            AttributeFilter(FILMS).log_weights([Query(filters={"genres": ("Drama", "SciFi")})])

    def test_impossible_number_tells_the_range(self) -> None:
        with pytest.raises(CatalogError, match=r"year = '1700\.\.1800'; its numbers run from 1942 to 1985"):
            AttributeFilter(FILMS).log_weights([Query(filters={"year": "1700..1800"})])

    @pytest.mark.parametrize("wanted", ["..8", "1..8", "5..", ("..8", "9..")])
    def test_a_range_of_an_attribute_that_is_text_says_so(self, wanted: str | tuple[str, ...]) -> None:
        goods = Catalog([Item("1", "Mug", {"price": "10.99"}), Item("2", "Cup", {"price": "—"}), Item("3", "Pot")])
        says = r"'price' is text, such as '10.99', '—', and a range finds numbers only; .*'llmgen data' names"
        with pytest.raises(CatalogError, match=says):
            AttributeFilter(goods).log_weights([Query(filters={"price": wanted})])

    def test_no_value_allowed_is_an_error(self) -> None:
        with pytest.raises(CatalogError, match="allows no value"):
            AttributeFilter(FILMS).log_weights([Query(filters={"genres": ()})])

    def test_catalog_without_attributes(self) -> None:
        with pytest.raises(
            CatalogError, match=r"'year' to filter on; there are: no attributes at all; .* kept by --attribute"
        ):
            AttributeFilter(Catalog([Item("a", "A")])).log_weights([Query(filters={"year": 1})])


class TestOnly:
    def test_candidates_stay(self) -> None:
        assert only(FILMS, ["b", FILMS["d"], "b"]).tolist() == [OUT_OF_IT, 0, OUT_OF_IT, 0, OUT_OF_IT]

    def test_none_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="no candidates"):
            only(FILMS, [])

    def test_unknown_candidate(self) -> None:
        with pytest.raises(UnknownItemError, match="'z'"):
            only(FILMS, ["z"])


class TestWish:
    def test_function_words_and_the_catalogs_noun_do_not_count(self) -> None:
        films = Catalog([Item("1", "All About Eve"), Item("2", "The War"), Item("3", "Film")], noun="film")
        (log_w,) = TextQuery(films).log_weights([Query(text="a film about war")])
        assert log_w.argmax() == 1
        assert log_w[0] == log_w[2] < 0

    def test_a_wish_of_function_words_alone_is_taken_at_its_word(self) -> None:
        films = Catalog([Item("1", "All About Eve"), Item("2", "It")], noun="film")
        (log_w,) = TextQuery(films).log_weights([Query(text="it")])
        assert log_w.argmax() == 1

    def test_items_with_the_words_come_first_and_others_stay_possible(self) -> None:
        (log_w,) = TextQuery(FILMS, floor=0.1).log_weights([Query(text="worms desert")])
        assert log_w.argmax() == FILMS.index("d")
        assert np.exp(log_w) == pytest.approx([0.1, 0.1, 0.1, 0.9 * 5 + 0.1, 0.1])

    @pytest.mark.parametrize("text", [None, "", "  ", "xyzzy"])
    def test_a_wish_that_says_nothing_is_flat(self, text: str | None) -> None:
        assert not TextQuery(FILMS).log_weights([Query(text=text)]).any()

    def test_text_of_an_item(self) -> None:
        assert item_text(FILMS, FILMS["d"]) == "Dune (1984) 1984 Sci-Fi Worms in the desert"

    def test_own_text(self) -> None:
        wish = TextQuery(FILMS, text_of=lambda item: "winner" if item.id == "b" else "other")
        assert wish.log_weights([Query(text="winner")]).argmax() == FILMS.index("b")

    def test_another_weight_keeps_the_index(self) -> None:
        wish = TextQuery(FILMS)
        assert reweighted(wish, 2.0).index is wish.index


class TestHistoryText:
    def test_it_is_a_wish_for_the_texts_of_the_newest_items(self) -> None:
        wanted = " ".join(item_text(FILMS, FILMS[one]) for one in "ab")
        history = Query([FILMS[one] for one in "cab"], text="never read")
        prior = HistoryText(FILMS, newest=2)
        assert (prior.log_weights([history]) == TextQuery(FILMS).log_weights([Query(text=wanted)])).all()
        (row,) = prior.sparse_log_weights([history])
        assert row.at(np.arange(len(FILMS))) == pytest.approx(prior.log_weights([history])[0])

    def test_nobody_has_taken_anything(self) -> None:
        assert not HistoryText(FILMS).log_weights([Query(text="worms")]).any()

    def test_items_that_are_gone_are_read_all_the_same(self) -> None:
        gone = Item("z", "Worms", {"genres": ("Sci-Fi",)})
        assert HistoryText(FILMS).log_weights([Query([gone])]).argmax() == FILMS.index("d")

    def test_none_to_read_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="newest must be 1 or more, not 0"):
            HistoryText(FILMS, newest=0)


class TestPopularity:
    def test_add_one_share(self) -> None:
        popularity = Popularity.fit(taken("aab", "a"), FILMS, weight=-0.3)
        assert np.exp(popularity.log_weights([after("b"), after("a")])) == pytest.approx(
            np.tile([4 / 9, 2 / 9, 1 / 9, 1 / 9, 1 / 9], (2, 1))
        )
        assert popularity.weight == -0.3

    def test_what_corrects_a_history_says_nothing_where_there_is_none(self) -> None:
        popularity = Popularity.fit(taken("aab", "a"), FILMS)
        wanted = [Query(), Query(text="worms"), after("b")]
        assert np.ptp(popularity.log_weights(wanted), axis=1).all()
        corrects = reweighted(popularity, -0.5)
        assert np.ptp(corrects.log_weights(wanted), axis=1).astype(bool).tolist() == [False, False, True]
        items = np.arange(len(FILMS))
        sparse_rows = [row.at(items) for row in corrects.sparse_log_weights(wanted)]
        assert np.stack(sparse_rows) == pytest.approx(corrects.log_weights(wanted))

    def test_no_interactions_is_flat(self) -> None:
        assert np.ptp(Popularity.fit(taken(), FILMS).log_shares) == 0


def naive_transition(
    words: Sequence[str], window: int, step: float, backward: float, row_power: float, column_power: float
) -> FloatArray:
    counts = np.zeros((5, 5))
    for word in words:
        for i in range(len(word)):
            for j in range(i + 1, min(i + window, len(word) - 1) + 1):
                counts["abcde".index(word[i]), "abcde".index(word[j])] += step ** (j - i - 1)
                counts["abcde".index(word[j]), "abcde".index(word[i])] += backward * step ** (j - i - 1)
    similarity = np.zeros((5, 5))
    for i in range(5):
        for j in range(5):
            if counts[i, j]:
                similarity[i, j] = counts[i, j] / counts[i].sum() ** row_power / counts[:, j].sum() ** column_power
    return similarity


class TestRepeat:
    def test_what_was_taken_newer_and_more_often_comes_first(self) -> None:
        prior = Repeat.fit(None, FILMS, decay=0.5)
        assert prior.scores([after("abca")]).tolist() == [[1 + 1 / 8, 1 / 4, 1 / 2, 0, 0]]
        assert Repeat.fit(None, FILMS, decay=1.0).scores([after("abca")]).tolist() == [[2, 1, 1, 0, 0]]

    def test_it_follows_a_catalog_that_grows(self) -> None:
        grown = FILMS.with_items([Item("n", "New")])
        moved = Repeat.fit(None, FILMS).on_catalog(grown, np.append(np.arange(5), -1))
        assert moved.scores([Query([grown["n"]])]).tolist() == [[0, 0, 0, 0, 0, 1]]


class TestTransition:
    def test_one_step_by_hand(self) -> None:
        # a>b twice, a>c and b>c once; b is two places after nothing
        prior = Transition.fit(taken("ab", "abc"), FILMS, window=1, backward=0, row_power=1, column_power=0, decay=0.5)
        assert dense(prior)[0].tolist() == [0, 1, 0, 0, 0]
        assert dense(prior)[1].tolist() == [0, 0, 1, 0, 0]
        assert prior.scores([after("ab")]).tolist() == [[0, 0.5, 1, 0, 0]]  # a is one step older than b

    def test_an_item_leads_to_its_strongest_neighbours_only(self) -> None:
        log = taken("ab", "ab", "ac", "ad", "ad", "ce")
        one = Transition.fit(log, FILMS, backward=0, row_power=0, column_power=0, neighbours=1)
        assert dense(one).tolist() == [[0, 2, 0, 0, 0], [0] * 5, [0, 0, 0, 0, 1], [0] * 5, [0] * 5]  # b and d tie
        two = Transition.fit(log, FILMS, backward=0, row_power=0, column_power=0, neighbours=2)
        assert dense(two)[0].tolist() == [0, 2, 0, 2, 0]
        with pytest.raises(ValueError, match="neighbours must be 1 or more, not 0"):
            Transition.fit(log, FILMS, neighbours=0)

    @settings(deadline=None)  # the machine may be busy
    @given(
        words=st.lists(st.text("abcde", max_size=8), max_size=5),
        window=st.integers(1, 9),
        step=st.sampled_from([0.5, 1.0]),
        backward=st.sampled_from([0.0, 0.5, 1.0]),
        powers=st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.3])),
        history=st.text("abcde", max_size=6),
    )
    def test_equals_the_loop(
        self, words: list[str], window: int, step: float, backward: float, powers: tuple[float, float], history: str
    ) -> None:
        prior = Transition.fit(
            taken(*words),
            FILMS,
            window=window,
            step_decay=step,
            backward=backward,
            row_power=powers[0],
            column_power=powers[1],
            decay=0.7,
        )
        expected = naive_transition(words, window, step, backward, *powers)
        assert dense(prior) == pytest.approx(expected, rel=1e-12)
        scores = np.zeros(5)
        for age, item_id in enumerate(reversed(history)):
            scores += 0.7**age * expected["abcde".index(item_id)]
        assert prior.scores([after(history)]) == pytest.approx(scores[None])

    def test_time_orders_and_ties_keep_the_rows(self) -> None:
        late_first = Transition.fit(taken("cab", times=[[9, 1, 1]]), FILMS)
        assert (dense(late_first) == dense(Transition.fit(taken("abc"), FILMS))).all()

    def test_a_hundred_thousand_items_stay_sparse(self) -> None:
        big = Catalog(Item(f"i{n}", f"Title {n}") for n in range(100_000))
        log = pl.DataFrame(
            {"user_id": ["u"] * 1000, "item_id": [f"i{n * 7}" for n in range(1000)], "timestamp": np.arange(1000.0)}
        )
        prior = Transition.fit(log, big)
        assert sparse.issparse(prior.similarity)
        assert prior.scores([Query(history=[big["i0"]])]).argmax() == big.index("i7")


class TestEase:
    def test_equals_ridge_of_each_column_without_itself(self, rng: np.random.Generator) -> None:
        taken_by = rng.random((30, 5)) < 0.4
        words = ["".join(item_id for item_id, x in zip("abcde", row, strict=True) if x) for row in taken_by]
        prior = Ease.fit(taken(*words), FILMS, l2=2.0)
        x = taken_by.astype(float)
        for j in range(5):
            others = [i for i in range(5) if i != j]
            ridge = np.linalg.solve(x[:, others].T @ x[:, others] + 2.0 * np.eye(4), x[:, others].T @ x[:, j])
            assert dense(prior)[others, j] == pytest.approx(ridge)
            assert dense(prior)[j, j] == 0

    @pytest.mark.parametrize("n_others", [0, 1, 50])
    def test_items_that_nobody_took_do_not_matter(self, n_others: int) -> None:
        log = taken("ab", "abb", "b")
        others = [Item(f"x{n}", "Other") for n in range(n_others)]
        wide = dense(Ease.fit(log, Catalog([FILMS["a"], *others, FILMS["b"]])))
        both = [0, n_others + 1]
        assert wide[np.ix_(both, both)] == pytest.approx(dense(Ease.fit(log, Catalog([FILMS["a"], FILMS["b"]]))))
        assert np.count_nonzero(wide) == 2

    def test_limit(self) -> None:
        with pytest.raises(CatalogError, match="3 x 3 items, above max_items=2"):
            Ease.fit(taken("abc"), FILMS, max_items=2)


class TestItemKNN:
    def test_shrunk_cosine_of_the_nearest(self) -> None:
        # users: a 3, b 2, c 1; a&b 2, a&c 1, b&c 0
        prior = ItemKNN.fit(taken("ab", "ba", "aac"), FILMS, neighbours=1, shrinkage=1.0)
        expected = np.zeros((5, 5))
        expected[1, 0] = 2 / (6**0.5 + 1)  # b is nearer to a than c is: 1 / (sqrt 3 + 1)
        expected[0, 1] = 2 / (6**0.5 + 1)
        expected[0, 2] = 1 / (3**0.5 + 1)
        assert dense(prior) == pytest.approx(expected)

    def test_blocks_do_not_show(self, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        words = ["".join(rng.choice(list("abcde"), size=3)) for _ in range(20)]
        whole = ItemKNN.fit(taken(*words), FILMS, neighbours=2)
        patch_all(monkeypatch, "ROWS_AT_ONCE", 2)
        assert (dense(ItemKNN.fit(taken(*words), FILMS, neighbours=2)) == dense(whole)).all()
        assert ((dense(whole) > 0).sum(axis=0) <= 2).all()

    @pytest.mark.parametrize("dense_share", [0.0, 1.0])
    def test_fewer_neighbours_of_a_fit_are_a_fit_with_fewer(
        self, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, dense_share: float
    ) -> None:
        patch_all(monkeypatch, "DENSE_SHARE", dense_share)
        log = taken(*("".join(rng.choice(list("abcde"), size=3)) for _ in range(20)))
        whole = ItemKNN.fit(log, FILMS, neighbours=4, weight=0.7, decay=0.6, floor=0.02)
        for number in (4, 3, 2, 1):  # many are equally similar: the first of the catalog are kept
            fewer, fitted = whole.nearest(number), ItemKNN.fit(log, FILMS, neighbours=number)
            assert (dense(fewer) == dense(fitted)).all()
            assert (fewer.weight, fewer.decay, fewer.floor) == (0.7, 0.6, 0.02)
        with pytest.raises(ValueError, match="neighbours must be 1 or more, not 0"):
            whole.nearest(0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _crowd(n_items: int, n_users: int = 300) -> tuple[pl.DataFrame, Catalog]:
    """Users who take ten neighbouring items of a row, and a catalog with one item that nobody takes."""
    starts = np.random.default_rng(0).integers(0, n_items - 10, n_users)
    rows = [(f"u{user}", str(start + step), float(step)) for user, start in enumerate(starts) for step in range(10)]
    log = pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Float64}, orient="row")
    return log, Catalog(Item(str(number), f"Film {number}") for number in range(n_items + 1))


class TestEaseByCholesky:
    @pytest.mark.parametrize("single", [False, True])
    def test_is_the_closed_form(self, single: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        patch_all(monkeypatch, "ROWS_AT_ONCE", 7)  # pieces that do not come out even
        monkeypatch.setattr(collaborative, "DOUBLE_ITEMS", 0 if single else 10_000)
        log, catalog = _crowd(60)
        users, items = log["user_id"].rank("dense").to_numpy() - 1, log["item_id"].cast(pl.Int64).to_numpy()
        taken = np.zeros((300, 61))
        taken[users, items] = 1.0
        inverse = np.linalg.inv(taken.T @ taken + 5.0 * np.eye(61))
        wanted = -inverse / np.diag(inverse)
        np.fill_diagonal(wanted, 0.0)
        found = Ease.fit(log, catalog, l2=5.0)
        assert found.similarity.dtype == (np.float32 if single else np.float64)
        assert dense(found) == pytest.approx(wanted, abs=1e-5 if single else 1e-12)
        assert np.flatnonzero(~dense(found).any(axis=0)).tolist() == np.flatnonzero(~taken.any(axis=0)).tolist()

    def test_half_the_digits_give_the_same_lists(self, monkeypatch: pytest.MonkeyPatch) -> None:
        log, catalog = _crowd(200)
        queries = [Query(history=catalog[start : start + 5]) for start in range(190)]
        whole = Ease.fit(log, catalog, l2=30.0).log_weights(queries)
        monkeypatch.setattr(collaborative, "DOUBLE_ITEMS", 0)
        half = Ease.fit(log, catalog, l2=30.0).log_weights(queries)
        assert half.dtype == np.float64
        in_its_order = np.take_along_axis(whole, np.argsort(-half, axis=1), axis=1)
        assert np.diff(in_its_order, axis=1).max() < 1e-5  # only what is equal but for rounding changes places

    def test_keeps_to_one_matrix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(collaborative, "DOUBLE_ITEMS", 0)
        patch_all(monkeypatch, "ROWS_AT_ONCE", 100)
        log, catalog = _crowd(2_000, n_users=4_000)
        needed = Ease.bytes_of(2_000, 2_001)
        assert needed == 4 * 2_001**2
        tracemalloc.start()
        Ease.fit(log, catalog)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1.5 * needed  # the log and its counts beside it; numpy's inverse takes six times as much
        with pytest.raises(CatalogTooLargeError, match=r"needs 0\.0 GiB, above the 0\.0 GiB"):
            Ease.fit(log, catalog, max_bytes=needed // 2)


def test_counts_of_transitions_can_be_shared() -> None:
    log, catalog = _crowd(60)
    counts = Transition.count(log, catalog, window=3, step_decay=0.8)
    before = counts.toarray()
    for backward in (0.0, 0.5):
        settings = {"window": 3, "step_decay": 0.8, "backward": backward}
        shared = Transition.fit(log, catalog, counts=counts, **settings)
        assert (dense(shared) == dense(Transition.fit(log, catalog, **settings))).all()
    assert (counts.toarray() == before).all()


COLLABORATIVE = (Transition, Ease, ItemKNN)


@pytest.mark.parametrize("model", COLLABORATIVE)
class TestEveryCollaborativeModel:
    LOG = taken("abc", "bcd", "abd", "da")

    def test_no_history_is_flat(self, model: type[Transition | Ease | ItemKNN]) -> None:
        prior = model.fit(self.LOG, FILMS, weight=0.5)
        assert (
            prior.log_weights([Query(), Query(history=[Item("z", "Zardoz")]), after("e")]).tolist() == [[0.0] * 5] * 3
        )
        assert prior.log_weights([]).shape == (0, 5)
        assert prior.weight == 0.5

    def test_log_weights_rank_like_scores(self, model: type[Transition | Ease | ItemKNN]) -> None:
        prior = model.fit(self.LOG, FILMS)
        queries = [after("ab"), after("d"), after("cba")]
        for scores, log_w in zip(prior.scores(queries), prior.log_weights(queries), strict=True):
            above = scores > 0
            assert (np.argsort(-scores[above], kind="stable") == np.argsort(-log_w[above], kind="stable")).all()
            known = dense(prior).any(axis=0)
            assert (log_w[~above & known] == np.log(prior.floor)).all()
            assert (log_w[~known] == 0).all()

    def test_evidence_sums_to_the_score(self, model: type[Transition | Ease | ItemKNN]) -> None:
        prior = model.fit(self.LOG, FILMS)
        query = after("abab")
        evidence = prior.evidence(query, FILMS["c"])
        parts = {single: prior.evidence(after(single), FILMS["c"]) for single in "ab"}
        assert {entry.item.id for entry in evidence} <= {"a", "b"}
        assert [entry.score for entry in evidence] == sorted((entry.score for entry in evidence), reverse=True)
        if all(parts.values()):  # both speak for it, so none of the score is hidden
            assert sum(entry.score for entry in evidence) == pytest.approx(prior.scores([query])[0, 2])

    def test_evidence_for_an_unknown_item(self, model: type[Transition | Ease | ItemKNN]) -> None:
        with pytest.raises(UnknownItemError, match="'z'"):
            model.fit(self.LOG, FILMS).evidence(after("a"), Item("z", "Zardoz"))

    def test_a_log_of_nothing_fits(self, model: type[Transition | Ease | ItemKNN]) -> None:
        assert not model.fit(taken(), FILMS).log_weights([after("ab")]).any()

    def test_unknown_item_is_named(self, model: type[Transition | Ease | ItemKNN]) -> None:
        with pytest.raises(UnknownItemError, match=r"1 of 3 interactions.*'z' in row 1"):
            model.fit(taken("azb"), FILMS)

    def test_missing_column_and_missing_value(self, model: type[Transition | Ease | ItemKNN]) -> None:
        with pytest.raises(DataError, match="'timestamp' is missing"):
            model.fit(self.LOG.drop("timestamp"), FILMS)
        with pytest.raises(DataError, match="have no item_id"):
            model.fit(self.LOG.with_columns(item_id=pl.lit(None, dtype=pl.String)), FILMS)
        with pytest.raises(DataError, match="timestamp NaN"):
            model.fit(self.LOG.with_columns(timestamp=pl.lit(float("nan"))), FILMS)

    def test_wrong_hyper_parameters(self, model: type[Transition | Ease | ItemKNN]) -> None:
        with pytest.raises(ValueError, match="decay must be in"):
            model.fit(self.LOG, FILMS, decay=0.0)
        with pytest.raises(ValueError, match="floor must be in"):
            model.fit(self.LOG, FILMS, floor=0.0)


def test_dense_and_sparse_similarity_give_the_same(rng: np.random.Generator) -> None:
    matrix = rng.normal(size=(5, 5)) * (rng.random((5, 5)) < 0.5)
    full, thin = ItemToItem(FILMS, matrix), ItemToItem(FILMS, sparse.csr_array(matrix))
    queries = [after("abcab"), Query(), after("e")]
    assert thin.scores(queries) == pytest.approx(full.scores(queries))
    assert [e.item for e in thin.evidence(queries[0], FILMS["b"])] == [
        e.item for e in full.evidence(queries[0], FILMS["b"])
    ]


def test_similarity_must_fit_the_catalog() -> None:
    with pytest.raises(ValueError, match="5 items"):
        ItemToItem(FILMS, np.zeros((4, 4)))


class TestLogLift:
    @settings(deadline=None)  # the machine may be busy
    @given(
        scores=hnp.arrays(np.float64, (3, 6), elements=st.floats(-1e6, 1e6)), floor=st.floats(1e-6, 1, exclude_min=True)
    )
    def test_finite_and_of_mean_one(self, scores: FloatArray, floor: float) -> None:
        before = scores.copy()
        w = np.exp(log_lift(scores, floor))
        assert w.mean(axis=1) == pytest.approx(1.0)
        assert (w >= floor * (1 - 1e-9)).all()
        assert (scores == before).all()

    def test_floor_must_be_a_share(self) -> None:
        with pytest.raises(ValueError, match="floor"):
            log_lift(np.ones((1, 2)), 1.5)


class TestCombine:
    def test_sum_of_weighted_logs(self) -> None:
        one = Fixed(np.log([[2.0, 3.0]]), weight=2.0, name="one")
        two = Fixed(np.log([[5.0, 1.0]]), weight=-1.0, name="two")
        combined = combine([one, two], [Query()])
        assert np.exp(combined.total) == pytest.approx(np.array([[4 / 5, 9.0]]))
        assert np.exp(combined.terms["two"]) == pytest.approx(np.array([[1 / 5, 1.0]]))

    @pytest.mark.parametrize("weight", [1.0, 0.0, -1.0])
    @pytest.mark.parametrize("other", [1.0, 0.0, -2.0])
    def test_removed_is_removed_whatever_the_weights(self, weight: float, other: float) -> None:
        hard = Fixed(np.array([[OUT_OF_IT, 0.0, OUT_OF_IT]]), weight=weight, name="hard")
        soft = Fixed(np.array([[3.0, 3.0, OUT_OF_IT]]), weight=other, name="soft")
        assert combine([hard, soft], [Query()]).total.tolist() == [[OUT_OF_IT, 3.0 * other, OUT_OF_IT]]

    def test_two_of_one_name(self) -> None:
        with pytest.raises(ValueError, match="two priors are called 'seen'"):
            combine([ExcludeSeen(FILMS), ExcludeSeen(FILMS)], [])

    def test_no_prior_is_flat(self) -> None:
        assert combine([], [Query()], n_items=3).total.tolist() == [[0.0, 0.0, 0.0]]
        with pytest.raises(ValueError, match="n_items"):
            combine([], [Query()])

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nan_and_plus_infinity_are_errors(self, bad: float) -> None:
        with pytest.raises(ValueError, match="NaN or \\+inf"):
            combine([Fixed(np.array([[bad, 0.0]]))], [Query()])

    def test_wrong_shape_and_weight(self) -> None:
        with pytest.raises(ValueError, match=r"\(1, 2\), not \(2, 2\)"):
            combine([Fixed(np.zeros((1, 2)))], [Query(), Query()])
        with pytest.raises(ValueError, match="finite"):
            combine([Fixed(np.zeros((1, 2)), weight=np.nan)], [Query()])

    def test_every_prior_fits_the_protocol(self) -> None:
        log = taken("abc")
        priors: list[Prior] = [ExcludeSeen(FILMS), AttributeFilter(FILMS), TextQuery(FILMS), Popularity.fit(log, FILMS)]
        priors += [model.fit(log, FILMS) for model in COLLABORATIVE]
        combined = combine(priors, [after("ab", text="desert", filters={"colour": True}), Query()])
        assert list(combined.terms) == ["seen", "where", "wish", "popularity", "transition", "ease", "item_knn"]
        assert np.isneginf(combined.total[0]).all()  # a and b are seen, nothing else is in colour
        assert np.isfinite(combined.total[1]).all()
        assert combined.total == pytest.approx(sum(combined.terms.values()), abs=1e-12)

    def test_reweighted_needs_a_dataclass(self) -> None:
        class Own:
            name, weight = "own", 1.0

            def log_weights(self, queries: Sequence[Query]) -> FloatArray:
                return np.zeros((len(queries), 5))

        assert combine([Own()], [Query()]).total.shape == (1, 5)
        with pytest.raises(TypeError, match="Own is not a dataclass"):
            reweighted(Own(), 2.0)


class TestTargetRanks:
    def test_ties_count_against_the_target(self) -> None:
        scores = np.array([[1.0, 1.0, 2.0, 0.0, OUT_OF_IT]] * 3)
        assert target_ranks(scores, np.array([2, 0, 3])).tolist() == [1, 3, 4]

    def test_removed_target_has_no_rank(self) -> None:
        assert target_ranks(np.array([[0.0, OUT_OF_IT]]), np.array([1])).tolist() == [REMOVED]


class TestTuneWeights:
    @pytest.fixture
    def planted(self, rng: np.random.Generator) -> tuple[list[Prior], list[Query], list[str]]:
        """Items drawn from softmax(1 * x - 0.5 * y), z being noise."""
        x, y, z = rng.normal(size=(3, 4000, 5)) * 2
        targets = (x - 0.5 * y + rng.gumbel(size=x.shape)).argmax(axis=1)
        priors: list[Prior] = [Fixed(x, name="x"), Fixed(y, name="y"), Fixed(z, name="z")]
        return priors, [Query()] * 4000, [FILMS.ids[target] for target in targets]

    def test_likelihood_finds_the_planted_weights(self, planted: tuple[list[Prior], list[Query], list[str]]) -> None:
        tuned = tune_weights(*planted, catalog=FILMS, metric="log_likelihood")
        assert [prior.weight for prior in tuned.priors] == pytest.approx([1.0, -0.5, 0.0], abs=0.05)

    def test_likelihood_stays_between_the_ends_of_the_grid(
        self, planted: tuple[list[Prior], list[Query], list[str]]
    ) -> None:
        tuned = tune_weights(*planted, catalog=FILMS, metric="log_likelihood", grid=(0.0, 0.5))
        assert [prior.weight for prior in tuned.priors][:2] == [0.5, 0.0]

    @pytest.mark.parametrize("metric", ["ndcg", "hit_rate", "mrr"])
    def test_ranking_finds_the_planted_ratio(
        self, planted: tuple[list[Prior], list[Query], list[str]], metric: str
    ) -> None:
        tuned = tune_weights(*planted, catalog=FILMS, k=1, metric=metric, grid=(-0.5, 0.0, 0.5, 1.0))  # type: ignore[arg-type]
        x, y, z = (prior.weight for prior in tuned.priors)
        assert y / x == pytest.approx(-0.5, abs=0.1)
        assert z == pytest.approx(0, abs=0.05)

    def test_score_is_that_of_the_chosen_weights(self, planted: tuple[list[Prior], list[Query], list[str]]) -> None:
        priors, queries, held_out = planted
        tuned = tune_weights(priors, queries, held_out, catalog=FILMS, k=2)
        targets = np.array([FILMS.index(item_id) for item_id in held_out])
        ranks = target_ranks(combine(tuned.priors, queries).total, targets)
        assert tuned.score == pytest.approx(np.where(ranks <= 2, 1 / np.log2(1 + ranks), 0).mean())
        assert tuned.score == max(trial.score for trial in tuned.trace)
        again = tune_weights(priors, queries, held_out, catalog=FILMS, k=2)
        assert again.trace == tuned.trace

    def test_filters_keep_their_weight_and_hide_their_items(self) -> None:
        good = Fixed(np.log([[1.0, 2.0, 3.0, 4.0, 5.0]] * 2), name="good")
        queries = [after("e"), after("d")]
        tuned = tune_weights([ExcludeSeen(FILMS), good], queries, ["d", "d"], catalog=FILMS, k=1, grid=(0.0, 1.0))
        assert [prior.weight for prior in tuned.priors] == [1.0, 1.0]
        assert tuned.score == 0.5  # d is first where e is seen; the other user has seen d itself
        likely = tune_weights(
            [ExcludeSeen(FILMS), good], queries, ["d", "d"], catalog=FILMS, metric="log_likelihood", grid=(1,)
        )
        assert likely.score == pytest.approx(np.log(4 / (1 + 2 + 3 + 4)))

    def test_wrong_arguments(self) -> None:
        good = Fixed(np.log([[1.0, 2.0, 3.0, 4.0, 5.0]]))
        with pytest.raises(ValueError, match="1 queries and 2 held-out"):
            tune_weights([good], [Query()], ["a", "b"], catalog=FILMS)
        with pytest.raises(ValueError, match="k and rounds"):
            tune_weights([good], [Query()], ["a"], catalog=FILMS, k=0)
        with pytest.raises(ValueError, match="no metric 'auc'"):
            tune_weights([good], [Query()], ["a"], catalog=FILMS, metric="auc")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="none of the priors"):
            tune_weights([ExcludeSeen(FILMS)], [after("a")], ["b"], catalog=FILMS)
        with pytest.raises(ValueError, match="every held-out item is removed"):
            tune_weights([ExcludeSeen(FILMS), good], [after("a")], ["a"], catalog=FILMS, metric="log_likelihood")
        with pytest.raises(UnknownItemError, match="'z'"):
            tune_weights([good], [Query()], ["z"], catalog=FILMS)


class TestOnAChangedCatalog:
    """Items come, go, move and are renamed; what was known of those that stay is known of them still."""

    LOG = taken("abc", "acb", "bad", "bcd", "abd")
    CHANGED = Catalog(
        [FILMS["d"], Item("n", "New", {"year": 2000}), FILMS["a"], Item("b", "Brasilien"), Item("m", "Dune")],
        label=FILMS.label_format,
        shown=FILMS.shown,
    )
    BEFORE = np.array([3, -1, 0, 1, -1])
    STAY = ("d", "a", "b")

    @pytest.mark.parametrize("dense", [True, False])
    @pytest.mark.parametrize("kind", [Transition, Ease, ItemKNN])
    def test_similarities_follow_their_items(self, kind: type[Transition], dense: bool) -> None:
        fitted = kind.fit(self.LOG, FILMS)
        whole = fitted.similarity if isinstance(fitted.similarity, np.ndarray) else fitted.similarity.toarray()
        fitted = dataclasses.replace(fitted, similarity=whole if dense else sparse.csr_array(whole))
        moved = fitted.on_catalog(self.CHANGED, self.BEFORE)
        assert isinstance(moved, kind)
        assert isinstance(moved.similarity, np.ndarray) == dense
        before = fitted.scores([after("ab")])[0]
        now = moved.scores([Query([self.CHANGED["a"], self.CHANGED["b"]])])[0]
        for item_id in self.STAY:
            assert now[self.CHANGED.index(item_id)] == pytest.approx(before[FILMS.index(item_id)])
        assert now[self.CHANGED.index("n")] == now[self.CHANGED.index("m")] == 0
        assert (moved.weight, moved.decay, moved.floor, moved.name) == (
            fitted.weight,
            fitted.decay,
            fitted.floor,
            kind.name,
        )

    def test_popularity_keeps_its_ratios_and_a_new_item_is_as_rare_as_the_rarest(self) -> None:
        fitted = Popularity.fit(self.LOG, FILMS)  # a 4, b 5, c 3, d 3, e 0, each plus 1
        moved = fitted.on_catalog(self.CHANGED, self.BEFORE)
        shares = np.exp(moved.log_weights([Query()])[0])
        assert shares == pytest.approx(np.array([4, 1, 5, 6, 1]) / 17)

    def test_words_and_attributes_are_read_anew(self) -> None:
        wish = TextQuery(FILMS, weight=0.5).on_catalog(self.CHANGED, self.BEFORE)
        found = wish.log_weights([Query(text="brasilien")])[0]
        assert found.argmax() == self.CHANGED.index("b")
        assert wish.weight == 0.5
        where = AttributeFilter(FILMS).on_catalog(self.CHANGED, self.BEFORE)
        assert np.flatnonzero(where.log_weights([Query(filters={"year": 2000})])[0] == 0).tolist() == [1]
        with pytest.raises(CatalogError, match="no item has an attribute 'country'"):
            where.log_weights([Query(filters={"country": "usa"})])
        seen = ExcludeSeen(FILMS).on_catalog(self.CHANGED, self.BEFORE)
        assert np.isneginf(seen.log_weights([after("da")])[0]).tolist() == [True, False, True, False, False]
