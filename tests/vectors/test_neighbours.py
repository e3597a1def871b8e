"""The nearest vectors: block by block as all at once, and by an index almost as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.types import Item
from llmgen.vectors import ItemVectors, neighbours
from llmgen.vectors.neighbours import Neighbours, nearest


def drawn(n: int, d: int, seed: int = 0, topics: int = 50) -> np.ndarray:
    """Points around topics, as texts are; length 1."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(topics, d))
    points = centres[rng.integers(0, topics, n)] + 0.7 * rng.normal(size=(n, d))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("n", "k"), [(1000, 10), (7, 10), (65, 64), (1, 1)])
def test_blocks_find_what_all_at_once_does(n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "BLOCK", 5 * 64)  # five queries: 64 rows a block
    vectors, queries = drawn(n, 16), drawn(5, 16, seed=1)
    rows, products = nearest(vectors, queries, k)
    every = queries @ vectors.T
    best = np.sort(every, axis=1)[:, ::-1][:, :k]
    assert rows.shape == (5, min(n, k))
    np.testing.assert_allclose(np.sort(products, axis=1)[:, ::-1], best, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(every, rows, axis=1), products, atol=1e-6)


def test_an_index_of_many_vectors_finds_nearly_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, queries = drawn(20_000, 32), drawn(50, 32, seed=1)
    monkeypatch.setattr(neighbours, "EXACT", 1_000)
    path = tmp_path / "v.faiss"
    found = Neighbours(vectors, path).nearest(queries, 100)[0]
    wanted = nearest(vectors, queries, 100)[0]
    recall = np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, wanted, strict=True)]) / 100
    assert recall >= 0.95
    written = path.stat().st_mtime_ns
    again, products = Neighbours(vectors, path).nearest(queries, 100)
    assert path.stat().st_mtime_ns == written  # read, not made
    np.testing.assert_array_equal(again, found)
    np.testing.assert_allclose(products, np.take_along_axis(queries @ vectors.T, again, axis=1), rtol=1e-5)


def test_items_that_came_or_went_are_found_beside_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT", 100)
    monkeypatch.setattr(neighbours, "SHARE", 1)  # all lists, so that the index is exact
    matrix = drawn(501, 8)
    shop = Catalog([Item(str(n), f"T{n}") for n in range(500)])
    vectors = ItemVectors.of(shop, matrix[:500])
    fewer = shop.without(["3"])
    moved = vectors.on_catalog(fewer, fewer.positions_before(shop))
    rows, _ = moved.nearest(matrix[3:4], 5)
    wanted = [n for n in np.argsort(-(matrix[:500] @ matrix[3])).tolist() if n != 3][:5]
    assert sorted(fewer[int(row)].id for row in rows[0]) == sorted(map(str, wanted))
