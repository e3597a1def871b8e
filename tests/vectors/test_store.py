"""Vectors of items: made once, kept, grown, found again; by an encoder that can be worked out by hand."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, ConfigError, DataError
from llmgen.types import Item
from llmgen.vectors import ItemVectors, item_content, making
from llmgen.vectors.encoders import Float32Array
from tests.vectors.words import WordEncoder

TITLES = ("Space ship", "Ship war", "Love song", "Love", "Ghost city", "Space ship")
SHOP = Catalog([Item(str(number), title) for number, title in enumerate(TITLES)])
HALF = np.sqrt(0.5)


def cosines(vectors: ItemVectors, words: str) -> list[float]:
    rows, found = vectors.nearest(vectors.words([words]), len(vectors.catalog))
    made = np.zeros(len(vectors.catalog))
    made[rows[0]] = found[0]
    return [round(float(number), 6) for number in made]


def test_cosines_by_hand_and_equal_contents_are_read_once() -> None:
    encoder = WordEncoder()
    vectors = ItemVectors.make(SHOP, encoder)
    assert sorted(encoder.read) == sorted(set(TITLES))
    assert cosines(vectors, "a starship") == pytest.approx([HALF, HALF, 0, 0, 0, HALF], abs=1e-6)
    assert cosines(vectors, "love song") == pytest.approx([0, 0, 1, HALF, 0, 0], abs=1e-6)
    assert np.linalg.norm(vectors.at(range(6)), axis=1) == pytest.approx(np.ones(6))
    assert vectors.dimensions == 8


def test_a_folder_is_read_and_only_what_is_new_is_encoded(tmp_path: Path) -> None:
    first = ItemVectors.make(SHOP, WordEncoder(), tmp_path / "v")
    again = WordEncoder()
    same = ItemVectors.make(SHOP, again, tmp_path / "v")
    assert again.read == []
    assert isinstance(same.base, np.memmap)
    assert (same.base == first.base).all()
    changed = SHOP.with_items([Item("6", "Paris love"), Item("3", "War")]).without(["0"])
    grown = ItemVectors.make(changed, again, tmp_path / "v")
    assert sorted(again.read) == ["Paris love", "War"]
    assert (grown.base == ItemVectors.make(changed, WordEncoder()).base).all()
    assert {path.name.split(".", 1)[1] for path in (tmp_path / "v").iterdir() if not path.name.startswith(".")} == {
        "json", "vectors.npy", "contents.npy", "ids.json"
    }  # fmt: skip
    assert first.at([0])[0] == pytest.approx(first.base[0])  # what was read before stays readable


class Broken(WordEncoder):
    """Fails at its third chunk."""

    def items(self, contents: Sequence[str]) -> Float32Array:
        if len(self.read) >= 4:
            raise KeyboardInterrupt
        return super().items(contents)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "CHUNK", 2)
    with pytest.raises(KeyboardInterrupt):
        ItemVectors.make(SHOP, (broken := Broken()), tmp_path)
    rest = WordEncoder()
    made = ItemVectors.make(SHOP, rest, tmp_path)
    assert len(rest.read) == 1
    assert sorted([*broken.read, *rest.read]) == sorted(set(TITLES))
    assert (made.base == ItemVectors.make(SHOP, WordEncoder()).base).all()


def test_another_encoder_or_content_makes_them_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ItemVectors.make(SHOP, WordEncoder(), tmp_path)
    other = WordEncoder("other", ("love", "probe,", "x"))
    assert ItemVectors.make(SHOP, other, tmp_path).dimensions == 3
    assert len(other.read) == 5
    assert "made by words of labels; they are made anew by other of labels" in caplog.text
    caplog.set_level(logging.WARNING)
    ItemVectors.make(SHOP, other, tmp_path, content="{title} love")
    assert other.read[-1].endswith(" love")


def test_a_damaged_folder_is_told(tmp_path: Path) -> None:
    ItemVectors.make(SHOP, WordEncoder(), tmp_path)
    (found,) = tmp_path.glob("*.vectors.npy")
    np.save(found, np.zeros((2, 8), np.float32))
    with pytest.raises(DataError, match=r"damaged \(vectors \(2, 8\), float32, beside 6 contents\); delete the folder"):
        ItemVectors.make(SHOP, WordEncoder(), tmp_path)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((5, 2)), r"vectors have the shape \(5, 2\); 6 items need one row each"),
        (np.ones(6), r"shape \(6,\)"),
        (np.array([[1.0, np.nan]] * 6), "the vectors given has NaN or infinity in row 0"),
    ],
)
def test_vectors_of_ones_own_are_checked(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ItemVectors.of(SHOP, vectors)


def test_an_encoder_that_answers_wrongly_is_told() -> None:
    class Wrong(WordEncoder):
        def items(self, contents: Sequence[str]) -> Float32Array:
            return np.zeros((1, 8), np.float32)

    with pytest.raises(DataError, match=r"the encoder words gave an array \(1, 8\) for 5 contents"):
        ItemVectors.make(SHOP, Wrong())


def test_huge_and_tiny_vectors_get_length_1() -> None:
    shop = Catalog([Item("a", "A"), Item("b", "B")])
    made = ItemVectors.of(shop, np.array([[3e30, 4e30], [3e-30, 4e-30]]))
    assert made.base.ravel() == pytest.approx([0.6, 0.8, 0.6, 0.8])


def test_files_of_ones_own(tmp_path: Path) -> None:
    rows = np.arange(12.0).reshape(6, 2) + 1
    np.save(tmp_path / "v.npy", rows)
    whole = ItemVectors.read(SHOP, tmp_path / "v.npy")
    assert whole.known is None
    table = pl.DataFrame({"sku": [4, 0, 77], "clip": rows[:3].tolist()})
    table.write_parquet(tmp_path / "v.parquet")
    some = ItemVectors.read(SHOP, tmp_path / "v.parquet", id_column="sku", vector_column="clip")
    assert some.known is not None
    assert some.known.tolist() == [True, False, False, False, True, False]
    assert some.at([4])[0] == pytest.approx(rows[0] / np.linalg.norm(rows[0]))
    with pytest.raises(DataError, match="has no column 'item_id'; it has sku, clip"):
        ItemVectors.read(SHOP, tmp_path / "v.parquet")
    pl.concat([table, table]).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match="has '4' twice in the column 'sku'"):
        ItemVectors.read(SHOP, tmp_path / "v.parquet", id_column="sku", vector_column="clip")
    pl.DataFrame({"item_id": ["0", "1"], "vector": [[1.0], [1.0, 2.0]]}).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(DataError, match="must hold lists of numbers, all as long"):
        ItemVectors.read(SHOP, tmp_path / "v.parquet")
    with pytest.raises(ConfigError, match=r"read from \.npy and \.parquet, not from 'v\.csv'"):
        ItemVectors.read(SHOP, tmp_path / "v.csv")
    np.save(tmp_path / "v.npy", rows[:3])
    with pytest.raises(DataError, match=r"has an array \(3, 2\); the catalog's 6 items need one row each"):
        ItemVectors.read(SHOP, tmp_path / "v.npy")
    with pytest.raises(ArgumentError, match="came without an encoder"):
        whole.words(["love"])


def test_a_changed_catalog_encodes_only_what_changed() -> None:
    encoder = WordEncoder()
    vectors = ItemVectors.make(SHOP, encoder)
    encoder.read.clear()
    grown = SHOP.with_items([Item("6", "Music in Paris")])
    more = vectors.on_catalog(grown, np.array([0, 1, 2, 3, 4, 5, -1]))
    assert encoder.read == ["Music in Paris"]
    assert more.on_catalog(grown, np.arange(7)).at([6])[0] == pytest.approx(more.at([6])[0])
    assert vectors.on_catalog(grown, np.array([0, 1, 2, 3, 4, 5, -1])) is more  # for every prior that shares them
    assert cosines(more, "song") == pytest.approx([0, 0, HALF, 0, 0, 0, HALF], abs=1e-6)
    changed = grown.with_items([Item("2", "War")]).without(["0", "5"])
    encoder.read.clear()
    less = more.on_catalog(changed, changed.positions_before(grown))
    assert encoder.read == ["War"]
    fresh = ItemVectors.make(changed, WordEncoder())
    for words in ("song", "space ship", "war", "city"):
        assert cosines(less, words) == cosines(fresh, words)
    assert less.nearest(less.words(["ship"]), 1)[0].tolist() == [[changed.index("1")]]  # of those that are left
    assert cosines(vectors, "ship")[0] == pytest.approx(HALF)  # who holds the old ones sees the old catalog


def test_of_new_items_nothing_is_known_without_an_encoder() -> None:
    vectors = ItemVectors.of(SHOP, np.eye(6))
    grown = vectors.on_catalog(SHOP.with_items([Item("6", "New")]), np.array([0, 1, 2, 3, 4, 5, -1]))
    assert grown.known is not None
    assert grown.known.tolist() == [True] * 6 + [False]
    fewer = grown.on_catalog(grown.catalog.without(["1"]), np.array([0, 2, 3, 4, 5, 6]))
    assert fewer.known is not None
    assert fewer.known.tolist() == [True] * 5 + [False]


def test_contents_by_hand() -> None:
    item = Item("a", "Alien", {"year": 1979, "genres": ("Horror", "Sci-Fi"), "description": "A crew wakes up."})
    films = Catalog([item], label="{title} ({year})")
    assert item_content(films, item) == "Alien (1979). A crew wakes up."
    assert item_content(films, item, "{genres}|{none}|{title}") == "Horror, Sci-Fi||Alien"
    with pytest.raises(ArgumentError, match="is no format string"):
        item_content(films, item, "{title")
