"""The nearest vectors: block by block as all at once, by an index almost as well, and how well it says itself."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.types import Item
from llmgen.vectors import ItemVectors, exact, index, neighbours
from llmgen.vectors.exact import nearest
from llmgen.vectors.index import Index
from llmgen.vectors.neighbours import Neighbours


def drawn(n: int, d: int, seed: int = 0, topics: int = 50) -> np.ndarray:
    """Points around topics, as texts are; length 1."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(topics, d))
    points = centres[rng.integers(0, topics, n)] + 0.7 * rng.normal(size=(n, d))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("n", "k"), [(1000, 10), (7, 10), (65, 64), (1, 1)])
def test_blocks_find_what_all_at_once_does(n: int, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "BLOCK", 5 * 64)  # five queries: 64 rows a block
    vectors, queries = drawn(n, 16), drawn(5, 16, seed=1)
    rows, products = nearest(vectors, queries, k)
    every = queries @ vectors.T
    best = np.sort(every, axis=1)[:, ::-1][:, :k]
    assert rows.shape == (5, min(n, k))
    np.testing.assert_allclose(np.sort(products, axis=1)[:, ::-1], best, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(every, rows, axis=1), products, atol=1e-6)


@pytest.mark.parametrize("k", [3, 400])
def test_rows_that_are_gone_are_not_found(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "BLOCK", 5 * 64)
    vectors, queries = drawn(300, 16), drawn(5, 16, seed=1)
    gone = np.random.default_rng(2).random(300) < 0.7
    rows, products = nearest(vectors, queries, k, gone)
    every = np.where(gone, -np.inf, queries @ vectors.T)
    wanted = np.sort(every, axis=1)[:, ::-1][:, :k]
    np.testing.assert_allclose(np.sort(products, axis=1)[:, ::-1], wanted, atol=1e-6)
    assert ((rows == -1) == (products == -np.inf)).all()
    assert not gone[rows[rows >= 0]].any()


def recall(rows: np.ndarray, vectors: np.ndarray, queries: np.ndarray, gone: np.ndarray | None = None) -> float:
    wanted = nearest(vectors, queries, rows.shape[1], gone)[0]
    return float(np.mean([len(np.intersect1d(a, b)) for a, b in zip(rows, wanted, strict=True)]) / rows.shape[1])


def test_an_index_of_many_vectors_finds_nearly_all_and_knows_how_many(tmp_path: Path) -> None:
    vectors, queries = drawn(30_000, 32), drawn(50, 32, seed=1)
    path = tmp_path / "v.faiss"
    first = Neighbours(vectors, path)
    rows, _ = first.nearest(queries, 200)
    assert recall(rows, vectors, queries) >= 0.95
    assert first.index is not None
    assert first.index.recall >= index.RECALL
    others = first.index.nearest(vectors[:100], 200)[0]
    assert recall(others, vectors, vectors[:100]) == pytest.approx(first.index.recall, abs=0.02)
    assert json.loads((tmp_path / "v.faiss.json").read_text())["recall"] == first.index.recall
    assert path.stat().st_size < vectors.nbytes / 3  # codes, and not the vectors again
    written = path.stat().st_mtime_ns
    again, products = Neighbours(vectors, path).nearest(queries, 200)
    assert path.stat().st_mtime_ns == written  # read, not made
    np.testing.assert_array_equal(np.sort(again), np.sort(rows))
    np.testing.assert_allclose(products, np.take_along_axis(queries @ vectors.T, again, axis=1), rtol=1e-5)


def test_more_is_looked_through_where_more_is_wanted() -> None:
    vectors = drawn(5_000, 24, topics=5_000)  # no topics: near vectors stand in many lists
    few, many = Index.make(vectors, recall=0.5), Index.make(vectors, recall=0.9)
    assert few.probes < many.probes
    assert 0.5 <= few.recall < 0.9 <= many.recall


def test_more_is_looked_through_for_words() -> None:
    vectors, words = drawn(5_000, 24, topics=5_000), drawn(100, 24, seed=1, topics=5_000)
    made = Index.make(vectors, recall=0.6)
    few, many = (recall(made.nearest(words, 200, words=one)[0], vectors, words) for one in (False, True))
    assert many > few + 0.05


def test_an_index_finds_what_is_left_where_all_that_it_proposes_is_gone() -> None:
    vectors = drawn(4_000, 24, topics=4)
    made = Index.make(vectors)
    near = np.argsort(-(vectors @ vectors[0]))
    gone = np.zeros(4_000, bool)
    gone[near[:1_500]] = True  # more than it proposes at first, and than stand in the lists near by
    rows, _ = made.nearest(vectors[:1], 10, gone)
    assert (rows >= 0).all()
    assert not gone[rows].any()
    assert recall(rows, vectors, vectors[:1], gone) >= 0.8


def test_a_query_that_means_nothing_is_not_looked_for_everywhere() -> None:
    vectors = drawn(3_000, 8)
    asked = np.concatenate([np.zeros((1, 8), np.float32), vectors[:1]])
    made = Index.make(vectors, recall=0.5)
    rows, _ = made.nearest(asked, 10)
    assert rows.shape == (2, 10)
    assert made.nearest(asked[1:], 10)[0].tolist() == rows[1:].tolist()  # with more lists it would find others


def test_vectors_of_an_odd_length_have_an_index_too() -> None:
    vectors = drawn(3_000, 7)
    rows, _ = Index.make(vectors).nearest(vectors[:20], 50)
    assert recall(rows, vectors, vectors[:20]) >= 0.95


@pytest.mark.parametrize("damage", ["record", "index", "of others"])
def test_an_index_that_cannot_be_used_is_made_anew(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(neighbours, "EXACT", 1_000)
    vectors, path = drawn(2_000, 8), tmp_path / "v.faiss"
    rows, _ = Neighbours(vectors, path).nearest(vectors[:5], 10)
    if damage == "record":
        (tmp_path / "v.faiss.json").write_text("{}")
    elif damage == "index":
        path.write_bytes(b"IwPf" + bytes(100))
    else:
        Index.make(drawn(1_500, 8)).write(path)
    with caplog.at_level(logging.WARNING):
        again, _ = Neighbours(vectors, path).nearest(vectors[:5], 10)
    assert "cannot be used" in caplog.text
    np.testing.assert_array_equal(np.sort(again), np.sort(rows))
    assert Index.read(path, vectors) is not None


def test_without_faiss_all_vectors_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(neighbours, "EXACT", 100)
    monkeypatch.setitem(sys.modules, "faiss", None)
    vectors = drawn(500, 8)
    made, wanted = Neighbours(vectors), nearest(vectors, vectors[:5], 20)[0]
    for _ in range(2):
        np.testing.assert_array_equal(np.sort(made.nearest(vectors[:5], 20)[0]), np.sort(wanted))
    assert caplog.text.count("each request looks at all 500 vectors") == 1


def test_items_that_came_or_went_are_found_beside_an_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT", 100)
    monkeypatch.setattr(index, "RECALL", 1.0)
    monkeypatch.setattr(index, "CANDIDATES", 1_000)  # all are proposed, so that the index is exact
    matrix = drawn(2_001, 8)
    shop = Catalog([Item(str(n), f"T{n}") for n in range(2_000)])
    vectors = ItemVectors.of(shop, matrix[:2_000])
    assert vectors._neighbours is not None
    assert vectors._neighbours.index is not None
    fewer = shop.without(["3"])
    moved = vectors.on_catalog(fewer, fewer.positions_before(shop))
    rows, _ = moved.nearest(matrix[3:4], 5)
    wanted = [n for n in np.argsort(-(matrix[:2_000] @ matrix[3])).tolist() if n != 3][:5]
    assert sorted(fewer[int(row)].id for row in rows[0]) == sorted(map(str, wanted))
