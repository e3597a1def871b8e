"""Codes in the place of titles: residual k-means, the same for ever, in tokens that a model must have."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ArgumentError, ConfigError
from llmgen.identifiers import Codes, load_identifier, save_identifier
from llmgen.recommend.recommender import Recommender
from llmgen.templates.views import views
from llmgen.types import Item
from llmgen.vectors import ItemVectors
from tests.identifiers.shelves import Words2D, read, shop

POINTS = np.array([[8, 1], [8, -1], [-8, 1], [-8, -1]], np.float32).repeat(3, axis=0)


@pytest.fixture
def codes() -> Codes:
    return Codes.fit(read(shop()), size=2, depth=2)


def test_each_place_is_the_nearest_centroid_of_what_is_left_over(codes: Codes) -> None:
    """Cats and dogs share the first place, cats and ships the second: what is left over of both points up."""
    found = codes.codes(list(shop()))
    animal, engine = found[0, 0], found[6, 0]
    assert found[:, 0].tolist() == [animal] * 6 + [engine] * 6
    assert animal != engine
    up, down = found[0, 1], found[3, 1]
    assert found[:, 1].tolist() == [*[up] * 3, *[down] * 3, *[up] * 3, *[down] * 3]
    assert up != down


def test_places_are_those_of_a_search_by_hand_on_vectors_in_no_order() -> None:
    catalog = Catalog([Item(str(number), f"Thing {number}") for number in range(100)])
    points = np.random.default_rng(0).standard_normal((100, 6))
    codes = Codes.fit(ItemVectors.of(catalog, points), size=8, depth=3)
    found = codes.codes(list(catalog))
    for number, point in enumerate(points / np.linalg.norm(points, axis=1, keepdims=True)):
        left = point
        for level in range(3):
            distances = np.linalg.norm(codes.codebooks[level] - left, axis=1)
            assert distances[found[number, level]] <= distances.min() + 1e-6
            left = left - codes.codebooks[level][found[number, level]]


def test_centroids_add_up_to_what_they_stand_for() -> None:
    codes = Codes.fit(ItemVectors.of(shop(), POINTS), size=2, depth=2)
    found = codes.codes(list(shop()))
    made = codes.codebooks[0][found[:, 0]] + codes.codebooks[1][found[:, 1]]
    unit = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)
    np.testing.assert_allclose(made, unit, atol=1e-6)


def test_an_item_is_spelled_in_tokens_that_are_listed(codes: Codes) -> None:
    catalog = shop().identified(codes)
    for spelling in catalog.spellings:
        parts = re.findall(r"<[a-z]_\d+>", spelling)
        assert "".join(parts) == spelling
        assert [part[1] for part in parts] == ["a", "b", "c"]
        assert set(parts) <= set(codes.tokens)
    assert codes.tokens == ("<a_0>", "<a_1>", "<b_0>", "<b_1>", *(f"<c_{code}>" for code in range(256)))


def test_items_of_one_code_are_told_apart_by_the_last_place(codes: Codes) -> None:
    spellings = shop().identified(codes).spellings
    assert len(set(spellings)) == 12
    assert len({spelling.rpartition("<")[0] for spelling in spellings}) == 4


def test_the_code_of_an_item_depends_on_nothing_that_stands_beside_it(codes: Codes) -> None:
    catalog = shop().identified(codes)
    one = catalog.with_items([Item("x", "A kitten"), Item("y", "A puppy")]).without(["i0"])
    other = catalog.without(["i0", "i1"]).with_items([Item("y", "A puppy")]).with_items([Item("x", "A kitten")])
    assert one.spelling(one["x"]) == other.spelling(other["x"])
    assert one.spelling(one["x"]).rpartition("<")[0] == catalog.spelling(catalog["i0"]).rpartition("<")[0]
    assert shop().identified(Codes.fit(read(shop()), size=2, depth=2)).spellings == catalog.spellings


def test_prompts_hold_codes_and_what_they_mean_where_details_are_shown(codes: Codes) -> None:
    catalog = shop().identified(codes)
    (view,) = views(catalog, [catalog["i0"]])
    assert view.title == catalog.spelling(catalog["i0"])
    assert view.details == "Fine cat"
    (plain,) = views(catalog, [catalog["i0"]], spelled=False)
    assert (plain.title, plain.details) == ("Fine cat", "")


def test_an_engine_without_the_tokens_is_refused(codes: Codes) -> None:
    with pytest.raises(ConfigError, match=r"such as <a_0>, and fake does not have them"):
        Recommender(shop().identified(codes), FakeEngine())
    with pytest.raises(ConfigError, match=r"such as <a_0>"):
        Recommender(shop(), FakeEngine()).with_catalog(shop().identified(codes))


def test_saved_codes_are_the_same(tmp_path: Path) -> None:
    codes = Codes.fit(ItemVectors.of(shop(), POINTS), size=4, depth=2)
    assert np.isnan(codes.codebooks[:, :, 0]).any()  # four points: some centroids are not needed
    save_identifier(codes, tmp_path)
    again = load_identifier(tmp_path)
    assert again.digest == codes.digest
    assert again.tokens == codes.tokens
    late = [Item("x", "nothing known")]
    assert again.spell(late, ["x"]) == codes.spell(late, ["x"])


@pytest.mark.parametrize(("n", "size"), [(10, 16), (1_682, 32), (16_859, 128), (1_000_000, 256)])
def test_codebooks_grow_with_the_square_root_of_the_catalog(n: int, size: int) -> None:
    from llmgen.identifiers.codes import size_for

    assert size_for(n) == size


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ArgumentError, match="size must be 2 or more and depth from 1 to 24, not 2 and 25"):
        Codes.fit(read(shop(), Words2D()), size=2, depth=25)
