"""What is filled when it is first asked for, asked by eight threads at once: the answers are those of one thread."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.lru import Recent
from llmgen.priors import AttributeFilter, Content, Popularity, TextQuery, Transition
from llmgen.priors import sparse as sparse_module
from llmgen.priors.sparse import SharedWeights
from llmgen.recommend import assembled as assembled_module
from llmgen.recommend.recommender import Recommender
from llmgen.trie.core import ItemTrie
from llmgen.trie.weights import Shared
from llmgen.types import Item, Query

THREADS = 8
NUMBER = 300
COLOURS = ["red", "blue", "green", "black"]
CATALOG = Catalog(
    [
        Item(str(number), f"{COLOURS[number % 4]} film {number}", {"year": 1950 + number % 60})
        for number in range(NUMBER)
    ],
    noun="film",
)


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Threads take turns five hundred times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def recommender() -> Recommender:
    """One of which nothing was asked yet."""
    rng = np.random.default_rng(0)
    log = pl.DataFrame(
        {
            "user_id": rng.integers(0, 40, size=900).astype(str),
            "item_id": rng.integers(0, NUMBER, size=900).astype(str),
            "timestamp": np.arange(900.0),
        }
    )
    transition = Transition.fit(log, CATALOG)
    narrow = dataclasses.replace(transition, similarity=sparse.csr_array(transition.similarity))
    priors = [narrow, Popularity.fit(log, CATALOG, weight=-0.2), TextQuery(CATALOG), Content(CATALOG)]
    return Recommender(CATALOG, FakeEngine(), priors=priors, lm_weight=0.5)


def queries() -> list[Query]:
    """Of all kinds, with more different filters and products than are kept."""
    rng = np.random.default_rng(1)
    asked = []
    for number in range(160):
        history = [str(item) for item in rng.integers(0, NUMBER, size=number % 4)]
        filters = {} if number % 3 == 0 else {"year": f"{1950 + number % 17}..{1990 + number % 11}"}
        asked.append(Query(history, "a red film" if number % 5 == 0 else None, filters=filters, k=5))
    return asked


def test_answers_of_eight_threads_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sparse_module, assembled_module):
        monkeypatch.setattr(module, "LARGE_CATALOG", 0)
    asked = queries()
    expected = recommender().recommend_many(asked)
    made = recommender()
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(made.recommend, asked))
    for one, other in zip(answers, expected, strict=True):
        assert [(place.item.id, place.score) for place in one] == [(place.item.id, place.score) for place in other]
        assert one.exact == other.exact


def test_filters_and_products_that_push_each_other_out_are_right() -> None:
    where, shared = AttributeFilter(CATALOG), SharedWeights(NUMBER, most=2)
    bases = [np.full(NUMBER, -float(number)) for number in range(6)]

    def ask(number: int) -> None:
        year = 1950 + number % 20
        (row,) = where.sparse_log_weights([Query(filters={"year": year})])
        assert row.items.tolist() == [place for place in range(NUMBER) if 1950 + place % 60 == year]
        assert shared.product([(bases[number % 6], 2.0)]).log_weights[0] == -2.0 * (number % 6)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(ask, range(2_000)))


def test_what_is_below_a_node_is_that_of_the_trie_that_was_asked_about() -> None:
    """Two catalogs share their weights while one takes the place of the other."""
    engine = FakeEngine()
    tries = [ItemTrie.build(engine.spell(labels)) for labels in (CATALOG.labels, CATALOG.labels[::-1])]
    weights = np.log(np.random.default_rng(0).random(NUMBER))
    expected = [Shared(weights).below(trie).at(np.arange(trie.num_nodes)) for trie in tries]
    for _ in range(5):
        shared = Shared(weights)

        def ask(number: int, shared: Shared = shared) -> None:
            trie = tries[number % 2]
            nodes = np.random.default_rng(number).integers(0, trie.num_nodes, size=40)
            for found, whole in zip(shared.below(trie).at(nodes), expected[number % 2], strict=True):
                assert found.tolist() == whole[nodes].tolist()

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(ask, range(200)))


def test_each_value_is_made_once_while_it_is_kept() -> None:
    recent: Recent[int, object] = Recent(most=3)
    made: list[int] = []

    def make(key: int) -> object:
        made.append(key)
        return object()

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda number: recent.get(number % 3, lambda: make(number % 3)), range(600)))
    assert sorted(made) == [0, 1, 2]
    assert len({id(one) for one in found}) == 3
    recent.get(3, object)
    assert len(recent) == 3


def test_what_cannot_be_made_is_not_kept() -> None:
    recent: Recent[str, int] = Recent(most=1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            recent.get("a", lambda: 1 // 0)
    assert len(recent) == 0
    assert recent.get("a", lambda: 7) == 7
