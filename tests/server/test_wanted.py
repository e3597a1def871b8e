"""What a query may say of its list, over HTTP and by both clients: the same answers as in process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx2
import pytest

from llmgen.catalog import Catalog
from llmgen.client import AsyncClient, Client
from llmgen.diversity import Diversity
from llmgen.errors import CatalogError
from llmgen.recommender import Recommender
from llmgen.server import create_app
from llmgen.types import Query
from tests.server.conftest import running

QUERIES = [
    Query(k=3, exclude=["1", "2"]),
    Query(k=3, boosts={"year": {"1990..1999": 2.5}}),
    Query(k=3, diversity=Diversity("year", most=1, penalty=0.5)),
]


@pytest.fixture
def url(recommender: Recommender) -> Iterator[str]:
    with running(create_app(recommender)) as url:
        yield url


def test_clients_answer_as_in_process(url: str, recommender: Recommender, small: Catalog) -> None:
    async def ask() -> list[object]:
        async with AsyncClient(url) as client:
            return [await client.recommend(query) for query in QUERIES]

    expected = [recommender.recommend(query) for query in QUERIES]
    with Client(url) as client:
        assert [client.recommend(query) for query in QUERIES] == expected
        fields = client.recommend(k=3, exclude=[small["1"], "2"])
        assert fields == expected[0]
        second = client.recommend(QUERIES[0].after(fields))
        assert not {place.item.id for place in second} & {place.item.id for place in fields}
        with pytest.raises(CatalogError, match="attribute 'colour'"):
            client.recommend(boosts={"colour": {"red": 2.0}})
    assert asyncio.run(ask()) == expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"boosts": {"year": {"1990": -1}}}, "greater than or equal to 0"),
        ({"boosts": {"year": 2}}, "dictionary"),
        ({"diversity": {"by": "year"}}, "says nothing"),
        ({"diversity": {"by": "year", "most": 0}}, "greater than or equal to 1"),
        ({"exclude": "12"}, "list"),
    ],
)
def test_what_is_wrong_is_said(url: str, body: dict[str, object], says: str) -> None:
    answer = httpx2.post(f"{url}/v1/recommend", json=body)
    assert (answer.status_code, says in answer.text) == (422, True), answer.text
