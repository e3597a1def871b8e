"""What a query may say of its list: what is left out, boosts, diversity, and pages without repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.diversity import Diversity
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ArgumentError, CatalogError, SearchError
from llmgen.priors import Popularity, TextQuery
from llmgen.priors import sparse as sparse_module
from llmgen.recommend import assembled as assembled_module
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query, Recommendations

GENRES = ("Drama", "War", "Comedy")
CATALOG = Catalog(
    [
        Item(str(number), f"film {number:02}", {"year": 1980 + number, "genres": (GENRES[number % 3], "All")})
        for number in range(24)
    ],
    noun="film",
)


@pytest.fixture(params=["dense", "sparse"], autouse=True)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "sparse":
        for module in (sparse_module, assembled_module):
            monkeypatch.setattr(module, "LARGE_CATALOG", 0)


@pytest.fixture(params=[0.0, 0.7], ids=["priors alone", "with a model"])
def recommender(request: pytest.FixtureRequest) -> Recommender:
    popularity = Popularity(np.log(np.arange(24, 0, -1) / 300))  # the first items first
    return Recommender(CATALOG, FakeEngine(), priors=[popularity], lm_weight=request.param, exact=True)


def ids(answer: Sequence[object]) -> list[str]:
    return [place.item.id for place in answer]  # type: ignore[attr-defined]


def test_what_is_excluded_is_left_out_and_nothing_else_changes(recommender: Recommender) -> None:
    whole = recommender.recommend(Query(["3"], k=24))
    out = [whole[0].item, whole[4].item.id, "nobody has this id"]
    answer = recommender.recommend(Query(["3"], k=24, exclude=out))
    left = [place for number, place in enumerate(whole) if number not in (0, 4)]
    assert [(place.item.id, place.score) for place in answer] == [(place.item.id, place.score) for place in left]
    ranked = recommender.rank(Query(exclude=["1"]), ["1", "2", "3"])
    assert sorted(ids(ranked)) == ["2", "3"]
    with pytest.raises(ValueError, match="not the text '12'"):
        Query(exclude="12")


def test_pages_are_one_long_list_without_repeats(recommender: Recommender) -> None:
    query = Query(["5"], k=5)
    (whole,) = recommender._searched([query], [23])  # the prompt says how many are wanted
    found: list[object] = []
    for _ in range(5):
        page = recommender.recommend(query)
        found += page
        query = query.after(page)
    assert ids(found) == ids(whole)
    assert [place.score for place in found] == [place.score for place in whole]  # type: ignore[attr-defined]
    with pytest.raises(SearchError):
        recommender.recommend(query)


def test_boosts_multiply_the_weight_by_each_value(recommender: Recommender) -> None:
    boosts = {"genres": {"drama": 3.0, "War": 0.5, "All": 2.0}, "year": {"1990..1999": 4.0, "1980": 0.0}}
    plain = {place.item.id: place for place in recommender.recommend(Query(k=24))}
    boosted = recommender.recommend(Query(k=24, boosts=boosts))
    expected = {}
    for number in range(1, 24):  # the film of 1980 is removed
        factor = 2.0 * (3.0, 0.5, 1.0)[number % 3] * (4.0 if 10 <= number <= 19 else 1.0)
        expected[str(number)] = plain[str(number)].score + math.log(factor)
    assert {place.item.id: place.score for place in boosted} == pytest.approx(expected)
    assert ids(boosted) == sorted(expected, key=lambda one: -expected[one])
    for place in boosted:
        assert place.terms["boosts"] == pytest.approx(expected[place.item.id] - plain[place.item.id].score)
        assert sum(place.terms.values()) == pytest.approx(place.score)
    mixed = recommender.recommend_many([Query(k=24), Query(k=24, boosts=boosts)])
    assert [place.score for place in mixed[0]] == pytest.approx([one.score for one in plain.values()])
    assert ids(mixed[1]) == ids(boosted)


@pytest.mark.parametrize(
    ("boosts", "says"),
    [({"colour": {"red": 2.0}}, "attribute 'colour'"), ({"genres": {"Romance": 2.0}}, "no item has genres")],
)
def test_a_boost_that_no_item_can_have_is_refused(
    recommender: Recommender, boosts: dict[str, dict[str, float]], says: str
) -> None:
    with pytest.raises(CatalogError, match=says):
        recommender.recommend(Query(boosts=boosts))


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf])
def test_a_factor_that_is_none_is_refused(factor: float) -> None:
    with pytest.raises(ArgumentError, match="boost of genres = 'Drama' must be 0 or more"):
        Query(boosts={"genres": {"Drama": factor}})


def by_hand(pool: Recommendations, k: int, diversity: Diversity) -> list[str]:
    """Maximal marginal relevance over all items, place by place."""
    chosen: list[Item] = []
    left = [(place.item, place.score) for place in pool]
    while left and len(chosen) < k:
        best, worth = None, -math.inf
        for item, score in left:
            own = set(item.attributes["genres"])  # type: ignore[arg-type]
            counts = [sum(value in one.attributes["genres"] for one in chosen) for value in own]  # type: ignore[operator]
            if diversity.most is not None and max(counts) >= diversity.most:
                continue
            shares = [
                len(own & set(one.attributes["genres"])) / len(own | set(one.attributes["genres"]))  # type: ignore[arg-type]
                for one in chosen
            ]
            if score - diversity.penalty * max(shares, default=0.0) > worth:
                best, worth = item, score - diversity.penalty * max(shares, default=0.0)
        if best is None:
            break
        chosen.append(best)
        left = [(item, score) for item, score in left if item is not best]
    return [item.id for item in chosen]


@pytest.mark.parametrize(
    "diversity", [Diversity("genres", penalty=0.4), Diversity("genres", penalty=9.0), Diversity("genres", most=4)]
)
def test_a_diverse_list_is_the_one_made_of_all_items(recommender: Recommender, diversity: Diversity) -> None:
    for k in (1, 3, 6):
        (whole,) = recommender._searched([Query(k=k)], [24])
        answer = recommender.recommend(Query(k=k, diversity=diversity))
        assert ids(answer) == by_hand(whole, k, diversity)
        assert answer.exact
        assert [place.rank for place in answer] == list(range(1, len(answer) + 1))
        before = {place.item.id: place.rank for place in whole}
        assert [place.rank_before for place in answer] == [before[item] for item in ids(answer)]
        assert all(place.rank_before is None for place in whole)


def test_a_cap_looks_further_until_the_list_is_full() -> None:
    """The first 30 items are dramas; four times k is not enough to find others."""
    items = [Item(str(n), f"film {n:03}", {"genre": "Drama" if n < 30 else f"g{n}"}) for n in range(40)]
    catalog = Catalog(items)
    made = Recommender(catalog, None, priors=[Popularity(np.log(np.arange(40, 0, -1) / 820))])
    answer = made.recommend(Query(k=3, diversity=Diversity("genre", most=1)))
    assert (ids(answer), answer.exact) == (["0", "30", "31"], True)
    assert [place.rank_before for place in answer] == [1, 31, 32]
    assert len(made.recommend(Query(k=20, diversity=Diversity("genre", most=1)))) == 11  # there are no more


def test_a_penalty_looks_further_as_long_as_one_beyond_could_be_chosen() -> None:
    """The first 30 items are dramas: the second of the list is the first other one, far beyond four times k."""
    items = [Item(str(n), f"film {n:03}", {"genre": "Drama" if n < 30 else f"g{n}"}) for n in range(40)]
    made = Recommender(Catalog(items), None, priors=[Popularity(np.log(np.arange(40, 0, -1) / 820))])
    answer = made.recommend(Query(k=3, diversity=Diversity("genre", penalty=9.0)))
    assert (ids(answer), answer.exact) == (["0", "30", "31"], True)


def test_a_list_that_more_items_could_have_changed_is_not_called_exact() -> None:
    items = [Item(str(n), f"film {n:04}", {"genre": "Drama" if n < 1_005 else f"g{n}"}) for n in range(1_010)]
    made = Recommender(Catalog(items), None, priors=[Popularity(np.log(np.arange(1_010, 0, -1) / 510_555))])
    alike = Diversity("genre", penalty=9.0)
    assert not made.recommend(Query(k=2, diversity=alike)).exact  # a thousand items are looked at
    assert made.recommend(Query(k=1, diversity=alike)).exact


def test_diversity_by_what_no_item_has_is_refused(recommender: Recommender) -> None:
    with pytest.raises(CatalogError, match="attribute 'colour'"):
        recommender.recommend(Query(diversity=Diversity("colour", most=1)))


@pytest.mark.parametrize(
    ("settings", "says"),
    [({}, "says nothing"), ({"most": 0}, "most must be 1 or more"), ({"penalty": -1.0}, "penalty must be 0 or more")],
)
def test_a_diversity_that_is_none_is_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        Diversity("genres", **settings)  # type: ignore[arg-type]


def test_a_prior_of_that_name_is_refused_only_beside_boosts() -> None:
    made = Recommender(CATALOG, None, priors=[TextQuery(CATALOG, name="boosts")])
    assert len(made.recommend(Query(k=2))) == 2
    with pytest.raises(ArgumentError, match="called 'boosts'"):
        made.recommend(Query(boosts={"genres": {"War": 2.0}}))
