"""What a query may say of its list, over HTTP and by both clients: the same answers as in process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx2
import pytest

from llmgen.catalog.core import Catalog
from llmgen.diversity import Diversity
from llmgen.engines.fake import FakeEngine
from llmgen.errors import CatalogError, UnknownItemError
from llmgen.http.async_client import AsyncClient
from llmgen.http.client import Client
from llmgen.priors import Content, TextQuery
from llmgen.recommend.recommender import Recommender
from llmgen.server import AppSettings, create_app
from llmgen.types import Item, Query
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


# Items like an item, and documents in order


@pytest.fixture
def knowing(small: Catalog) -> Recommender:
    return Recommender(small, FakeEngine(), priors=[Content(small), TextQuery(small)], lm_weight=0.3)


def test_both_clients_find_what_is_alike_and_put_documents_in_order(knowing: Recommender, small: Catalog) -> None:
    query = Query(["3"], k=4, exclude=["5"])
    wish = Query(["3"], "dark night")
    documents = ["7", small["9"], small.label(small["11"]), "A Dark Night in words of its own", "no word of it"]
    alike, ordered = knowing.similar("2", query), knowing.rerank(wish, documents)
    assert len(alike) == 4
    assert len(ordered) == 5

    async def ask(url: str) -> tuple[object, object]:
        async with AsyncClient(url) as client:
            return await client.similar("2", query), await client.rerank(wish, documents)

    with running(create_app(knowing)) as url:
        with Client(url) as client:
            assert client.similar(small["2"], query) == alike
            assert client.rerank(wish, documents) == ordered
            with pytest.raises(UnknownItemError):
                client.similar("nothing")
            assert client.status().items == len(small)  # other texts stay out of the catalog
        assert asyncio.run(ask(url)) == (alike, ordered)


COHERE = {"accept": "*/*", "user-agent": "cohere/5.21.1", "content-type": "application/json"}
LANGCHAIN = {"accept": "*/*", "user-agent": "langchain", "accept-encoding": "identity"}
LLAMA_INDEX = {"accept": "*/*", "user-agent": "python-requests/2.34.2", "accept-encoding": "identity"}
ASKED = {"query": "a lamp for the floor", "documents": ["Desk", "Floor lamp", "a red carpet"], "model": "m", "top_n": 2}


@pytest.mark.parametrize(
    ("path", "headers", "body"),
    [
        ("/v1/rerank", LANGCHAIN, ASKED),
        ("/v1/rerank", LLAMA_INDEX, ASKED),
        ("/v2/rerank", COHERE, ASKED),
        ("/v2/rerank", COHERE, {**ASKED, "max_tokens_per_doc": None}),
    ],
    ids=["LangChain's JinaRerank", "LlamaIndex's JinaRerank", "cohere", "LangChain's CohereRerank"],
)
def test_requests_as_the_clients_of_others_send_them(
    path: str, headers: dict[str, str], body: dict[str, object]
) -> None:
    # as they came from langchain-community 0.4.2, llama-index-postprocessor-jinaai-rerank 0.6.0, cohere 5.21.1 (which
    # llama-index-postprocessor-cohere-rerank 0.10.0 asks by) and langchain-cohere 0.6.0; they read these fields
    catalog = Catalog([Item("1", "Desk"), Item("2", "Floor lamp"), Item("3", "Chair")])
    app = create_app(Recommender(catalog, None, priors=[TextQuery(catalog)]), AppSettings(keys=["k" * 20]))
    with running(app) as url:
        keyed = {**headers, "authorization": "Bearer " + "k" * 20}
        answer = httpx2.post(url + path, json=body, headers=keyed)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert isinstance(found["id"], str)
        assert [one["index"] for one in found["results"]] == [1, 0]
        assert all(isinstance(one["relevance_score"], float) for one in found["results"])
        assert httpx2.post(url + path, json=body, headers=headers).status_code == 401


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_reranking_has_the_shape_that_others_have(small: Catalog, path: str) -> None:
    recommender = Recommender(small, None, priors=[TextQuery(small)])
    documents = ["night", {"text": "a dark night", "title": "passed over"}, "day"]
    body = {"model": "rerank-v3.5", "query": "dark night", "documents": documents, "top_n": 2, "max_chunks_per_doc": 9}
    with running(create_app(recommender)) as url:
        answer = httpx2.post(url + path, json=body).json()
        assert answer.keys() == {"id", "model", "results", "usage"}
        assert answer["usage"] == {"total_tokens": 0, "prompt_tokens": 0}  # without which Haystack's JinaRanker fails
        assert [one["index"] for one in answer["results"]] == [1, 0]
        assert all(set(one) == {"index", "relevance_score", "item"} for one in answer["results"])
        first, second = (one["relevance_score"] for one in answer["results"])
        assert 1 >= first > second > 0
        shown = httpx2.post(url + path, json={**body, "return_documents": True}).json()
        assert [one["document"]["text"] for one in shown["results"]] == ["a dark night", "night"]
        # vLLM takes one text without a list, and its own default of top_n, 0, asks for all
        alone = httpx2.post(url + path, json={"query": "dark night", "documents": "night", "top_n": 0}).json()
        assert [(one["index"], one["relevance_score"]) for one in alone["results"]] == [(0, 1.0)]
        for none in (None, 0):
            assert len(httpx2.post(url + path, json={**body, "top_n": none}).json()["results"]) == 3
        refusals = (
            ({"documents": []}, "documents"),
            ({"documents": ["a", " "]}, "blank"),
            ({"documents": 7}, "documents"),
            ({"top_n": -1}, "top_n"),
        )
        for wrong, says in refusals:
            refused = httpx2.post(url + path, json={**body, **wrong})
            assert (refused.status_code, says in refused.text) == (422, True), refused.text
