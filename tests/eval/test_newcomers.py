"""Histories cut short."""

from __future__ import annotations

import numpy as np
import polars as pl

from eval.baselines import Part
from eval.newcomers import cut, gains
from llmgen.engines.fake import FakeEngine
from llmgen.recommender import Recommender
from llmgen.types import Query
from tests.conftest import films


def test_the_newest_items_are_left_and_the_answer_is_the_same() -> None:
    catalog = films(20)
    queries = [Query(tuple(catalog[place] for place in range(user, user + 4)), user_id=str(user)) for user in range(10)]
    part = Part(pl.DataFrame(), queries, [str(user) for user in range(10)])
    found = cut(part, 2, users=3, k=5)
    assert found.held_out == ["0", "4", "9"]
    assert [query.history for query in found.queries] == [queries[user].history[-2:] for user in (0, 4, 9)]
    assert {query.k for query in found.queries} == {5}
    assert [query.history for query in cut(part, 0, users=2, k=5).queries] == [(), ()]
    assert cut(part, 9, users=99, k=5).queries[3].history == queries[3].history


def test_gains_are_of_the_place_of_the_held_out_item() -> None:
    catalog = films(30)
    recommender = Recommender(catalog, FakeEngine())
    queries = [Query((catalog[place],), k=10) for place in range(20)]
    answers = recommender.recommend_many(queries)
    held_out = [answer[number % 10].item.id if number < 15 else "none" for number, answer in enumerate(answers)]
    found = gains({"it": recommender}, Part(pl.DataFrame(), queries, held_out), "")["it"]
    assert found["hr"].tolist() == [1.0] * 15 + [0.0] * 5
    assert np.allclose(found["ndcg"][:15], [1 / np.log2(2 + number % 10) for number in range(15)])
    assert not found["ndcg"][15:].any()
