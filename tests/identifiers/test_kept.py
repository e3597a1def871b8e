"""Identifiers that are saved with a recommender, named in settings, and served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmgen.engines.fake import FakeEngine
from llmgen.errors import DataError
from llmgen.identifiers import Words
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query
from llmgen.vectors import ItemVectors
from tests.identifiers.shelves import shop

POINTS = np.array([[8, 1], [8, -1], [-8, 1], [-8, -1]], np.float32).repeat(3, axis=0)


@pytest.fixture
def words() -> Words:
    """From vectors of one's own."""
    return Words.fit(ItemVectors.of(shop(), POINTS), branches=2, depth=2)


def test_a_saved_recommender_spells_and_answers_as_it_did(words: Words, tmp_path: Path) -> None:
    recommender = Recommender(shop().identified(words), FakeEngine())
    recommender.save(tmp_path / "saved")
    again = Recommender.load(tmp_path / "saved", engine=FakeEngine())
    assert again.catalog.digest == recommender.catalog.digest
    assert again.catalog.spellings == recommender.catalog.spellings
    query = Query(history=["i0"], k=5)
    assert again.recommend(query) == recommender.recommend(query)
    late = [Item("i99", "A new one")]
    assert again.catalog.with_items(late).spellings == recommender.catalog.with_items(late).spellings


def test_a_recommender_whose_identifier_is_gone_is_refused(words: Words, tmp_path: Path) -> None:
    Recommender(shop().identified(words), None).save(tmp_path / "saved")
    (tmp_path / "saved" / "identifier" / "places.npy").unlink()
    with pytest.raises(DataError, match=r"the file identifier/places\.npy is missing"):
        Recommender.load(tmp_path / "saved", engine=None)
