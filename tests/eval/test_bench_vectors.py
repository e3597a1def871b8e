"""The benchmark of vectors at toy size: what is made up is like what is real, and what is found is right."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

import eval.bench.__main__ as bench
from eval.bench.catalogs import read
from eval.bench.plan import Plan
from eval.bench.rows import unequal
from eval.bench.vectors import compared, resampled
from llmgen.catalog.core import Catalog
from llmgen.types import Item
from llmgen.vectors import neighbours
from llmgen.vectors.encoders import Float32Array

WORDS = "red blue old new small great star sea night city love war king road house light"


class Hashed:
    """The sum of a vector a word, which its hash draws."""

    name = "hashed"

    def items(self, contents: Sequence[str]) -> Float32Array:
        return self.queries(contents)

    def queries(self, texts: Sequence[str]) -> Float32Array:
        return np.array([sum(map(self._word, text.lower().split())) for text in texts], np.float32)

    def _word(self, word: str) -> Float32Array:
        seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
        return np.random.default_rng(seed).normal(size=16).astype(np.float32)


@pytest.fixture
def shop() -> Catalog:
    words = WORDS.split()
    drawn = np.random.default_rng(0).integers(len(words), size=(400, 4))
    return Catalog([Item(str(n), " ".join(words[w] for w in row) + f" {n}") for n, row in enumerate(drawn.tolist())])


def test_made_up_vectors_are_as_near_to_real_ones_as_these_are_to_each_other(shop: Catalog) -> None:
    real = Hashed().items(shop.labels)
    real /= np.linalg.norm(real, axis=1, keepdims=True)
    cosines = real @ real.T
    np.fill_diagonal(cosines, -1)
    made = np.concatenate([block for _, block in resampled(real, 9_000, seed=0)])
    assert made.shape == (9_000, 16)
    assert np.linalg.norm(made, axis=1) == pytest.approx(np.ones(9_000), abs=1e-5)
    nearest = (made @ real.T).max(axis=1)
    assert np.median(nearest) == pytest.approx(np.median(cosines.max(axis=1)), abs=0.02)
    assert len(np.unique(made.round(4), axis=0)) == 9_000
    np.testing.assert_array_equal(made, np.concatenate([block for _, block in resampled(real, 9_000, seed=0)]))


def test_every_stage_is_measured_and_what_is_found_is_right(
    shop: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.save(tmp_path / "shop.jsonl")
    monkeypatch.setattr(neighbours, "EXACT", 1_000)
    rows = list(compared(Plan(True, (str(tmp_path / "shop.jsonl"),)), Hashed(), (500, 3_000)))
    by_case: dict[str, list[str]] = {}
    for row in rows:
        by_case.setdefault(row.case, []).append(row.arm)
    both = ["3,000 items", "500 items"]
    assert by_case == {
        "encode real titles": ["hashed"],
        "index of 3,000 vectors": ["llmgen"],
        "request by words, up to 3,000 items": both,
        "request by a history of 20, up to 3,000 items": both,
        "one item more is found by words, up to 3,000 items": both,
    }
    assert not unequal(rows)
    index = next(row for row in rows if row.case.startswith("index"))
    assert index.equal
    assert "recall@200 " in index.note


def test_a_table_of_ids_and_titles_is_a_catalog(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n7,Blue Monday\n8,\n9,Hurt\n")
    found = read(str(tmp_path / "items.csv"))
    assert [(item.id, item.title) for item in found] == [("7", "Blue Monday"), ("9", "Hurt")]


def test_sizes_that_are_none_are_refused() -> None:
    app = Typer()
    app.command()(bench.main)
    done = CliRunner().invoke(app, ["vectors", "--sizes", "10,x"])
    assert done.exit_code == 2
    assert "--sizes has 'x'; write numbers of items with commas" in done.output
