"""What a log says of ratings: biases and neighbours by hand and against a plain reference, and distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, log, nan, sqrt

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError, DataError
from llmgen.priors import RatingKNN
from llmgen.priors.ratings import log_normal_around
from llmgen.recommend.rating import shares_in
from llmgen.recommend.recommender import Recommender
from llmgen.types import FloatArray, Item, Query

CATALOG = Catalog([Item(one, one.upper()) for one in "abcde"])
LABELS = ("1", "2", "3", "4", "5")
VALUES = np.arange(1.0, 6.0)


def frame(*rows: tuple[str, str, float | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64}, orient="row")


def told(items: str, *ratings: float) -> Query:
    return Query([CATALOG[one] for one in items], ratings=ratings)


LOG = frame(
    *(("u", "a", 5.0), ("u", "b", 4.0), ("v", "a", 1.0), ("v", "b", 2.0)),
    *(("w", "a", 3.0), ("w", "b", 3.0), ("w", "c", 3.0)),
)


def test_biases_are_damped_means() -> None:
    found = RatingKNN.fit(LOG, damping=1.0, neighbours=0)
    assert (found.mean, found.biases.tolist()) == (3.0, [0.0, 0.0, 0.0])
    pairs = [(told("ab", 5.0, 4.0), CATALOG["c"]), (told("a", 5.0), CATALOG["d"]), (told(""), CATALOG["a"])]
    assert found.means(pairs).tolist() == [3 + 3 / 3, 3 + 2 / 2, 3.0]  # one rating at the mean is added to those given
    untold = Query([CATALOG["a"]])  # whose ratings are not known
    assert found.means([(untold, CATALOG["a"])]).tolist() == [3.0]


def test_an_item_that_is_liked_has_a_bias_and_one_that_nobody_rated_none() -> None:
    found = RatingKNN.fit(frame(("u", "a", 5.0), ("v", "a", 5.0), ("w", "b", 2.0)), damping=1.0, neighbours=0)
    assert found.mean == 4.0
    asked = found.means([(told(""), CATALOG[one]) for one in "abe"])
    assert asked.tolist() == [4 + 2 / 3, 4 - 2 / 2, 4.0]


def reference(rows: Sequence[tuple[str, str, float]], query: Query, item: str, damping: float, most: int) -> float:
    """The same with dictionaries and loops."""
    ratings = {(user, one): rating for user, one, rating in rows}
    users, items = ({key[place] for key in ratings} for place in (0, 1))
    mean = sum(ratings.values()) / len(ratings)

    def damped(values: list[float]) -> float:
        return sum(values) / (damping + len(values))

    bias = {i: damped([r - mean for (_, j), r in ratings.items() if j == i]) for i in items}
    of_user = {u: damped([r - mean - bias[j] for (v, j), r in ratings.items() if v == u]) for u in users}
    left = {(u, i): r - mean - bias[i] - of_user[u] for (u, i), r in ratings.items()}

    def alike(one: str, other: str) -> float:
        both = [u for u in users if (u, one) in left and (u, other) in left]
        lengths = sqrt(sum(left[u, one] ** 2 for u in both) * sum(left[u, other] ** 2 for u in both))
        if lengths == 0:
            return 0.0
        return sum(left[u, one] * left[u, other] for u in both) / lengths * len(both) / (len(both) + 2)

    taken = [(one.id, rating) for one, rating in zip(query.history, query.ratings or (), strict=True)]
    own = damped([rating - mean - bias.get(one, 0.0) for one, rating in taken])
    near = sorted(((alike(item, one), rating - mean - own - bias[one]) for one, rating in taken if one in items),
                  key=lambda pair: -pair[0])[:most]  # fmt: skip
    near = [(share, value) for share, value in near if share > 0]
    base = mean + own + bias.get(item, 0.0)
    return base + (sum(s * v for s, v in near) / sum(s for s, _ in near) if near else 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_are_those_of_a_plain_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    taste = {f"u{user}": rng.normal() for user in range(24)}  # of those who like a, b and c, and not d, or the reverse
    pairs = [(user, item) for user in taste for item in "abcd" if rng.random() < 0.7]
    rows = [(user, item, 3 + taste[user] * (1 if item in "abc" else -1) + 0.5 * rng.normal()) for user, item in pairs]
    found = RatingKNN.fit(frame(*rows), damping=1.5, neighbours=2, shrinkage=2.0)
    asked = [
        (told(history, *rng.integers(1, 6, len(history)).astype(float)), CATALOG[item])
        for history in ("abc", "bcd", "dca", "aeb", "e")
        for item in "abcde"
        if item not in history
    ]
    expected = [reference(rows, query, item.id, 1.5, 2) for query, item in asked]
    assert found.means(asked) == pytest.approx(expected, abs=1e-12)
    for other in ({"neighbours": 0}, {"shrinkage": 0.0}, {"neighbours": 1}):  # each matters
        apart = np.abs(replace(found, **other).means(asked) - expected)  # type: ignore[arg-type]
        assert apart.max() > 1e-3


def test_neighbours_follow_taste() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (f"u{user}", item, 3 + sign * taste + 0.1 * rng.normal())
        for user, taste in enumerate(rng.normal(size=200))
        for item, sign in (("a", 1), ("b", 1), ("c", -1), ("d", -1))
    ]
    found = RatingKNN.fit(frame(*rows))
    liked_a = told("ac", 4.0, 2.0)
    high, low = found.means([(liked_a, CATALOG["b"]), (liked_a, CATALOG["d"])])
    assert high > 3.5 > 2.5 > low


def test_what_a_user_rated_twice_counts_once_and_what_has_no_rating_not_at_all() -> None:
    twice = frame(("u", "a", 5.0), ("u", "a", 3.0), ("v", "a", 1.0), ("v", "b", None))
    once = frame(("u", "a", 4.0), ("v", "a", 1.0))
    asked = [(told("a", 5.0), CATALOG["b"]), (told(""), CATALOG["a"])]
    assert RatingKNN.fit(twice).means(asked).tolist() == RatingKNN.fit(once).means(asked).tolist()


@pytest.mark.parametrize(
    ("log_", "error"),
    [
        (frame(), "none of 0 interactions has a rating"),
        (frame(("u", "a", None)), "none of 1 interactions has a rating"),
        (LOG.drop("rating"), "'rating' is missing"),
        (frame(("u", "a", nan)), "the rating of 'a' by user 'u' is nan"),
    ],
)
def test_a_log_without_ratings_is_refused(log_: pl.DataFrame, error: str) -> None:
    with pytest.raises(DataError, match=error):
        RatingKNN.fit(log_)


@pytest.mark.parametrize("setting", ["damping", "neighbours", "shrinkage"])
def test_settings_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be 0 or more, not -1"):
        RatingKNN.fit(LOG, **{setting: -1})  # type: ignore[arg-type]


# Distributions


@given(
    st.lists(st.floats(-2, 8), min_size=1, max_size=5),
    st.lists(st.integers(1, 20), min_size=2, max_size=10, unique=True),
    st.floats(0.01, 30),
)
def test_distributions_have_the_means_that_are_asked_for(means: list[float], halves: list[int], spread: float) -> None:
    values = np.array(halves) / 2
    found = log_normal_around(np.array(means), values, spread)
    assert np.isfinite(found).all()
    assert np.exp(found).sum(axis=1) == pytest.approx(1)
    inside = np.clip(means, values.min() + np.ptp(values) / 1000, values.max() - np.ptp(values) / 1000)
    assert np.exp(found) @ values == pytest.approx(inside, abs=1e-6)


def test_distributions_are_shaped_as_a_normal_one() -> None:
    (found,) = log_normal_around(np.array([3.3]), VALUES, 0.8)
    assert np.diff(found, 2) == pytest.approx([-1 / 0.8**2] * 3)
    assert log_normal_around(np.array([3.0]), VALUES, 0.8)[0] == pytest.approx([
        -((v - 3) ** 2) / (2 * 0.8**2) - log(sum(exp(-((w - 3) ** 2) / (2 * 0.8**2)) for w in VALUES)) for v in VALUES
    ])  # fmt: skip


# Times the language model


@dataclass(frozen=True)
class Says:
    """A rating prior of one's own."""

    shares: tuple[float, ...]
    name: str = "says"
    weight: float = 1.0

    def log_probabilities(self, pairs: Sequence[tuple[Query, Item]], values: FloatArray) -> FloatArray:
        assert values.tolist() == VALUES.tolist()
        return np.tile(np.log(self.shares), (len(pairs), 1))


HIGH, LOW = Says((0.1, 0.1, 0.1, 0.2, 0.5)), Says((0.6, 0.1, 0.1, 0.1, 0.1), "low", 2.0)


def test_a_rating_is_the_product_of_its_parts() -> None:
    alone = Recommender(CATALOG, FakeEngine(), max_history=5).rate(told("a", 2.0), "b")
    both = Recommender(CATALOG, FakeEngine(), max_history=5, rating_priors=[HIGH, LOW], rating_lm_weight=0.5)
    found = both.rate(told("a", 2.0), "b")
    lm = list(alone.distribution.values())
    product = np.array(lm) ** 0.5 * np.array(HIGH.shares) * np.array(LOW.shares) ** 2
    product /= product.sum()
    assert list(found.distribution.values()) == pytest.approx(product)
    assert (found.mean, found.mode) == (pytest.approx(product @ VALUES), VALUES[product.argmax()])
    assert list(found.parts) == ["lm", "says", "low"]
    assert [list(part.values()) for part in found.parts.values()] == [
        pytest.approx(part) for part in (lm, HIGH.shares, LOW.shares)
    ]
    assert found.mean_of("says") == pytest.approx(np.array(HIGH.shares) @ VALUES)
    assert (found.label_mass, found.prompt) == (alone.label_mass, alone.prompt)
    assert alone.parts == {"lm": pytest.approx(dict(zip(LABELS, lm, strict=True)))}


@pytest.mark.parametrize("engine", [None, FakeEngine()])
def test_rating_priors_need_no_model(engine: FakeEngine | None) -> None:
    recommender = Recommender(CATALOG, engine, rating_priors=[HIGH], rating_lm_weight=0.0)
    found = recommender.rate(Query(), "b")
    assert list(found.distribution.values()) == pytest.approx(HIGH.shares)
    assert (found.prompt, np.isnan(found.label_mass), list(found.parts)) == ("", True, ["says"])
    with pytest.raises(ConfigError, match="a language model or a rating prior"):
        recommender.with_rating_priors().rate(Query(), "b")


@pytest.mark.parametrize(
    ("shares", "error"),
    [
        ((0.5, 0.5), r"'says' gave an array \(1, 2\), not \(1, 5\)"),
        ((0.0, 0.1, 0.1, 0.3, 0.5), "'says' gave NaN or an infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_prior_that_answers_wrongly_is_refused(shares: tuple[float, ...], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Recommender(CATALOG, None, rating_priors=[Says(shares)]).rate(Query(), "b")


def test_rating_priors_go_along_with_other_prompts_and_catalogs() -> None:
    recommender = Recommender(CATALOG, None, rating_priors=[RatingKNN.fit(LOG)])
    for other in (recommender.with_prompt("rate"), recommender.with_catalog(Catalog([*CATALOG, Item("z", "Z")]))):
        assert other.rate(told("a", 5.0), "b").parts == recommender.rate(told("a", 5.0), "b").parts
    grown = recommender.with_catalog(Catalog([*CATALOG, Item("z", "Z")]))
    assert grown.rate(told("a", 5.0), "z").mean == pytest.approx(3 + 2 / 6)  # the user's bias alone


def test_one_written_label_is_half_sure_beside_a_prior() -> None:
    engine = FakeEngine(["4"], constrained=False)
    found = Recommender(CATALOG, engine, rating_priors=[HIGH]).rate(Query(), "b")
    product = np.array([0.1, 0.1, 0.1, 0.6, 0.1]) * np.array(HIGH.shares)
    assert list(found.distribution.values()) == pytest.approx(product / product.sum())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"rating_priors": [HIGH, replace(HIGH)]}, "two parts of a rating are called 'says'"),
        ({"rating_priors": [replace(HIGH, name="lm")]}, "two parts of a rating are called 'lm'"),
        ({"rating_priors": [replace(HIGH, weight=nan)]}, "the weight of rating prior 'says' is nan"),
        ({"rating_lm_weight": -1.0}, "rating_lm_weight must be 0 or more, not -1"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(settings: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Recommender(CATALOG, None, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("4", {"4": 1}),
        ("4.0", {"4": 1}),
        ("**4**", {"4": 1}),
        ("4/5", {"4": 1}),
        ("4 out of 5 stars", {"4": 1}),
        ("5/5", {"5": 1}),
        ("4星", {"4": 1}),
        ("评分:4分", {"4": 1}),
        ("On a scale of 1 to 5, I say 4", {"4": 1}),
        ("1-5: 2", {"2": 1}),
        ("Toy Story 2 (1995) gets a 4", {"4": 1}),  # the 2 is the title's
        ("4.5", {"4": 1 / 2, "5": 1 / 2}),
        ("4,25", {"4": 3 / 4, "5": 1 / 4}),
        ("between 3 and 4", {"3": 1 / 2, "4": 1 / 2}),
        ("From 1 to 5", {}),
        ("42", {}),
        ("4th of July", {}),
        ("nothing", {}),
    ],
)
def test_the_rating_is_looked_for_and_not_the_first_number(text: str, shares: dict[str, float]) -> None:
    labels = ["1", "2", "3", "4", "5"]
    found = shares_in(text, labels, title="Toy Story 2")
    assert {label: share for label, share in zip(labels, found.tolist(), strict=True) if share} == shares


def test_labels_between_which_a_rating_lies_are_neighbours_by_value() -> None:
    assert shares_in("3", ["10", "0"]).tolist() == pytest.approx([0.3, 0.7])
    assert shares_in("0.75", ["1.0", "0.5", "1.5"]).tolist() == [0.5, 0.5, 0.0]
    assert shares_in("-1", ["-1", "1"]).tolist() == [1.0, 0.0]
