"""A recommender in process and one behind HTTP: the same assertions on both, over a real port and over ASGI."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Iterator

import httpx2
import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ArgumentError,
    CatalogError,
    ConfigError,
    LLMGenError,
    SearchError,
    TemplateNotFoundError,
    UnknownItemError,
)
from llmgen.http.async_client import AsyncClient
from llmgen.http.client import Client
from llmgen.http.transport import AsyncTransport, Retry
from llmgen.priors import TextQuery
from llmgen.recommend.recommender import Recommender
from llmgen.server import AppSettings, create_app
from llmgen.types import Item, Query, Recommendations, Recommends, WrittenRecommendations
from tests.server.conftest import running

ONCE = Retry(attempts=1)


@pytest.fixture(scope="module")
def local(small: Catalog) -> Recommender:
    return Recommender(small, FakeEngine(["Because of Alien."]), priors=[TextQuery(small)])


@pytest.fixture(scope="module")
def url(local: Recommender) -> Iterator[str]:
    with running(create_app(local)) as url:
        yield url


@pytest.fixture(scope="module")
def remote(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


@pytest.fixture(params=["local", "remote"])
def asked(request: pytest.FixtureRequest) -> Recommends:
    recommends: Recommends = request.getfixturevalue(request.param)
    return recommends


def query(small: Catalog, **changes: object) -> Query:
    settings: dict[str, object] = {"history": [small[0], small[4]], "ratings": [4.0, 2.5], "text": "dark night", "k": 4}
    return Query(**{**settings, **changes})  # type: ignore[arg-type]


class TestBoth:
    def test_lists(self, asked: Recommends, local: Recommender, small: Catalog) -> None:
        answer = asked.recommend(query(small))
        assert [place.rank for place in answer] == [1, 2, 3, 4]
        assert not {place.item.id for place in answer} & {"1", "5"}
        assert answer == local.recommend(query(small))
        assert answer[0].item == small[answer[0].item.id]
        assert answer[0].score == pytest.approx(sum(answer[0].terms.values()))

    def test_many_lists_in_order(self, asked: Recommends, local: Recommender, small: Catalog) -> None:
        queries = [query(small, text=str(number), history=[small[number]], ratings=None) for number in range(40)]
        assert asked.recommend_many(queries) == local.recommend_many(queries)
        assert asked.recommend_many([]) == []
        full = Query(list(local.catalog))
        one, error, other = asked.recommend_many([queries[0], full, queries[0]], on_error="return")
        assert one == other == local.recommend(queries[0])
        assert isinstance(error, SearchError)
        with pytest.raises(SearchError, match="no item is eligible: all"):
            asked.recommend_many([queries[0], full])

    def test_many_lists_as_a_table(self, asked: Recommends, small: Catalog) -> None:
        some = [Query(small[:2], user_id="u", k=2), Query(k=3), Query(small[:1], user_id="v", filters={"no": "way"})]
        found = asked.recommend_many(some, on_error="return")
        assert isinstance(found[2], LLMGenError)
        table = found.to_polars()
        assert table.schema == {"query": pl.Int64, "user_id": pl.String, "item_id": pl.String, "rank": pl.Int64,
                                "score": pl.Float64}  # fmt: skip
        first, second = found[0], found[1]
        assert isinstance(first, Recommendations) and isinstance(second, Recommendations)
        rows = [(0, "u", place.item.id, rank, place.score) for rank, place in enumerate(first, 1)]
        rows += [(1, None, place.item.id, rank, place.score) for rank, place in enumerate(second, 1)]
        assert table.rows() == rows and len(rows) == 5
        assert found.to_pandas()["item_id"].tolist() == [row[2] for row in rows]
        assert asked.recommend_many([]).to_polars().shape == (0, 5)

    def test_filters_and_seen_items(self, asked: Recommends, small: Catalog) -> None:
        found = asked.recommend(query(small, filters={"year": "1960..1964", "genres": ("War", "Drama")}, k=50))
        assert found
        assert all(place.item.attributes["year"] in range(1960, 1965) for place in found)
        assert len(asked.recommend(query(small, k=100, exclude_seen=False))) == len(small)

    def test_candidates_in_order(self, asked: Recommends, local: Recommender, small: Catalog) -> None:
        ranked = asked.rank(query(small), [small[7], "3", "1"])
        assert {place.item.id for place in ranked} == {"8", "3", "1"}
        assert ranked == local.rank(query(small), ["8", "3", "1"])

    def test_ratings(self, asked: Recommends, local: Recommender, small: Catalog) -> None:
        rating = asked.rate(query(small), small[9], labels=("1", "1.5", "2"))
        assert list(rating.distribution) == ["1", "1.5", "2"]
        assert sum(rating.distribution.values()) == pytest.approx(1)
        assert rating == local.rate(query(small), "10", labels=("1", "1.5", "2"))

    def test_many_of_each_kind(self, asked: Recommends, small: Catalog) -> None:
        pairs = [(query(small), "10"), (query(small, text="sea"), small[6]), (query(small), "none")]
        for many, one, some in (
            (asked.rank_many, asked.rank, [(who, ["3", item]) for who, item in pairs]),
            (asked.rate_many, asked.rate, pairs),
            (asked.explain_many, asked.explain, pairs),
        ):
            answers = many(some, on_error="return")  # type: ignore[operator]
            assert answers[:2] == [one(*pair) for pair in some[:2]] == many(some[:2])  # type: ignore[operator]
            assert isinstance(answers[2], UnknownItemError)
            assert many([]) == []  # type: ignore[operator]
            with pytest.raises(UnknownItemError, match="no item has the id 'none'"):
                many(some)  # type: ignore[operator]
            with pytest.raises(ValueError, match="'ignore'"):
                many(some, on_error="ignore")  # type: ignore[operator]

    def test_reasons(self, asked: Recommends, small: Catalog) -> None:
        reason = asked.explain(query(small), "10", max_new_tokens=40)
        assert (reason.item, reason.text) == (small["10"], "Because of Alien.")
        assert reason.evidence == (small[4], small[0])

    def test_other_prompts(self, asked: Recommends, small: Catalog) -> None:
        other = asked.with_prompt("cold_start")
        assert other.recommend(query(small)).prompt.startswith("cold_start@")
        assert asked.recommend(query(small)).prompt.startswith("next_item@")
        assert other.with_prompt("next_item_taste").recommend(query(small)).prompt.startswith("next_item_taste@")

    def test_errors(self, asked: Recommends, small: Catalog) -> None:
        with pytest.raises(UnknownItemError, match="no item has the id 'nobody'"):
            asked.rank(query(small), ["nobody"])
        with pytest.raises(UnknownItemError, match="'nobody'"):
            asked.rate(query(small), "nobody")
        with pytest.raises(CatalogError, match="no item has an attribute 'colour'"):
            asked.recommend(query(small, filters={"colour": "red"}))
        with pytest.raises(SearchError, match="no item is eligible"):
            asked.recommend(query(small, history=small[:], ratings=None))
        with pytest.raises(ValueError, match="numbers written as strings"):
            asked.rate(query(small), "1", labels=("good", "bad"))
        with pytest.raises(TemplateNotFoundError, match="'nothing_such'"):
            asked.with_prompt("nothing_such").recommend(query(small))

    def test_every_method_of_the_protocol_is_there_with_the_same_names(self, asked: Recommends) -> None:
        for name, method in vars(Recommends).items():
            if not name.startswith("_"):
                own = inspect.signature(getattr(type(asked), name)).parameters
                assert set(inspect.signature(method).parameters) <= set(own), name


def test_a_query_by_its_fields(remote: Client, small: Catalog) -> None:
    by_fields = remote.recommend(history=["1", "5"], ratings=[4.0, 2.5], text="dark night", k=4)
    assert by_fields == remote.recommend(query(small))
    with pytest.raises(ValueError, match="not both: k"):
        remote.recommend(query(small), k=3)
    with pytest.raises(ValueError, match="2 ratings for a history of 1"):
        remote.recommend(history=["1"], ratings=[4.0, 2.5])


def test_free_text_travels_whole(small: Catalog) -> None:
    free = Recommender(small, FakeEngine(["1. Aliens (1961)\n2. Nothing Such\n"]), decoding="free")
    with running(create_app(free)) as url, Client(url) as client:
        answer = client.recommend(Query(k=3))
        expected = free.recommend(Query(k=3))
        body = httpx2.post(f"{url}/v1/recommend", json={"k": 3}).json()
    assert isinstance(answer, WrittenRecommendations)
    assert answer == expected
    assert [line.text for line in answer.dropped] == ["2. Nothing Such"]
    # what a client of before reads, which knows no list without scores
    assert [place["score"] for place in body["recommendations"]] == [-math.log(rank) for rank in (1, 2, 3)]
    assert [place["terms"] for place in body["recommendations"]] == [{"order": -math.log(rank)} for rank in (1, 2, 3)]
    assert [place["probability"] for place in body["recommendations"]] == [None] * 3


def test_items_come_and_go(local: Recommender) -> None:
    with running(create_app(local)) as url, Client(url) as client:
        new = Item("a/b?c#d é", "The Brand New One", {"year": 2024, "genres": ("War",), "stars": 4.5, "seen": True})
        assert client.put_items([new]).items == 61
        assert client.item(new.id) == new
        assert new in {place.item for place in client.recommend(k=61)}
        changed = Item(new.id, "Renamed", {"year": 2025})
        assert client.put_items([changed]).items == 61
        assert client.item(new.id) == changed
        before = client.status().catalog
        assert client.delete_item(new.id).items == 60
        assert client.status().catalog not in (before, "")
        for lost in (lambda: client.item(new.id), lambda: client.delete_item(new.id)):
            with pytest.raises(UnknownItemError, match="no item has the id"):
                lost()
        with pytest.raises(CatalogError, match="stands twice"):
            client.put_items([new, new])
        with pytest.raises(CatalogError, match="blank title"):
            client.put_items([Item("x", "  ")])
        assert client.status().items == 60


def test_what_left_the_catalog_stays_in_histories(local: Recommender, small: Catalog) -> None:
    with running(create_app(local)) as url, Client(url) as client:
        client.delete_item("5")
        query = Query([small["1"], small["5"]], k=60)
        answer = client.recommend(query)
        assert not {"1", "5"} & {place.item.id for place in answer}
        assert answer.history_used == 2
        assert answer == local.with_catalog(small.without(["5"])).recommend(query)
        with pytest.raises(UnknownItemError, match="'5'"):
            client.rank(query, ["5"])
        client.put_items([small["5"]])
        assert "5" in {place.item.id for place in client.rank(query, ["5", "6"])}


def test_a_stream_is_lazy_and_in_order(remote: Client, local: Recommender, small: Catalog) -> None:
    taken = 0

    def queries() -> Iterator[Query]:
        nonlocal taken
        for number in range(300):
            taken += 1
            yield query(small, text=str(number))

    stream = remote.recommend_stream(queries(), at_once=4)
    first = next(stream)
    assert taken <= 9
    assert first == local.recommend(query(small, text="0"))
    stream.close()  # type: ignore[attr-defined]
    assert taken <= 9


def test_progress_is_told_where_it_is_asked_for(
    remote: Client, small: Catalog, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmgen.progress.EVERY_S", 0.0)
    remote.recommend_many([query(small)] * 3)
    assert capsys.readouterr() == ("", "")
    remote.recommend_many([query(small)] * 3, progress=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "Recommending" in said.err


def test_asyncio_has_the_same(local: Recommender, small: Catalog) -> None:
    app = create_app(local)

    async def ask() -> None:
        transport = AsyncTransport("http://service", transport=httpx2.ASGITransport(app=app))
        async with app.router.lifespan_context(app), AsyncClient("http://service", transport=transport) as client:
            assert await client.recommend(query(small)) == local.recommend(query(small))
            assert await client.recommend(history=["1"], k=2) == local.recommend(Query([small[0]], k=2))
            queries = [query(small, text=str(number)) for number in range(70)]
            assert await client.recommend_many(queries) == local.recommend_many(queries)
            pairs = [(query(small), "10"), (query(small), "none")]
            for many, one, some in (
                (client.rank_many, local.rank, [(who, ["3", item]) for who, item in pairs]),
                (client.rate_many, local.rate, pairs),
                (client.explain_many, local.explain, pairs),
            ):
                answer, error = await many(some, on_error="return")  # type: ignore[operator]
                assert answer == one(*some[0])  # type: ignore[operator]
                assert isinstance(error, UnknownItemError)
            full = Query(list(local.catalog))
            _, error = await client.recommend_many([queries[0], full], on_error="return")
            assert isinstance(error, SearchError)
            assert await client.rank(query(small), ["8", "3"]) == local.rank(query(small), ["8", "3"])
            assert await client.rate(query(small), "8") == local.rate(query(small), "8")
            assert await client.explain(query(small), "8") == local.explain(query(small), "8")
            assert (await client.with_prompt("cold_start").recommend(query(small))).prompt.startswith("cold_start@")
            assert await client.item("3") == small["3"]
            assert (await client.put_items([Item("new", "New")])).items == 61
            assert (await client.delete_item("new")).items == 60
            assert (await client.prompts()).used["rank"] == "rerank"
            assert (await client.status()).engine == "fake"
            with pytest.raises(UnknownItemError):
                await client.item("nobody")

    asyncio.run(ask())


def test_both_clients_have_the_same_methods() -> None:
    names = {name for name in vars(Client) if not name.startswith("_")} - {"close"}
    assert names == {name for name in vars(AsyncClient) if not name.startswith("_")} - {"aclose"}


def test_what_is_no_service_is_told_from_one_that_is(url: str) -> None:
    with (
        Client("http://127.0.0.1:9", retry=ONCE) as nobody,
        pytest.raises(APIConnectionError, match="9"),
    ):
        nobody.status()
    with (
        Client(f"{url}/elsewhere", retry=ONCE) as elsewhere,
        pytest.raises(APIStatusError, match="/health answered 404: Not Found"),
    ):
        elsewhere.status()
    for wrong in ("localhost:8000", "ftp://x", ""):
        with pytest.raises(ValueError, match="http"):
            Client(wrong)


class _Slow(FakeEngine):
    def next_logprobs(self, steps: object) -> list[object]:  # type: ignore[override]
        import time

        time.sleep(0.5)
        return super().next_logprobs(steps)  # type: ignore[arg-type, return-value]


def test_the_services_own_limit_is_a_timeout_too(small: Catalog) -> None:
    with running(create_app(Recommender(small, _Slow()))) as url:
        with Client(url, timeout_s=0.2, retry=ONCE) as client, pytest.raises(APITimeoutError):
            client.recommend(Query())
        with Client(url, timeout_s=20) as client:
            assert client.recommend(Query(k=1))


def test_tasks_without_a_model_are_refused(small: Catalog) -> None:
    with running(create_app(Recommender(small, None))) as url, Client(url) as client:
        assert client.recommend(Query(k=2))
        for task in (lambda: client.rate(Query(), "1"), lambda: client.explain(Query(), "1")):
            with pytest.raises(ConfigError, match="needs a language model"):
                task()


def test_keys(small: Catalog) -> None:
    with running(create_app(Recommender(small, None), AppSettings(keys=["k" * 20, "other" * 5]))) as url:
        for key in ("k" * 20, "other" * 5):
            with Client(url, api_key=key) as client:
                assert client.recommend(Query(k=1))
        for wrong in (None, "k" * 19, "k" * 21):
            with Client(url, api_key=wrong) as client, pytest.raises(APIStatusError, match="401") as refused:
                client.recommend(Query(k=1))
            assert refused.value.status == 401
            assert refused.value.request_id
        for unsendable in ("", "ké" * 10, "a b"):
            with pytest.raises(ValueError, match="visible ASCII"):
                Client(url, api_key=unsendable)
        with Client(url) as client:
            assert client.status().status == "ok"


def test_the_address_may_end_in_v1_as_those_of_other_services_do(url: str, small: Catalog) -> None:
    for address in (f"{url}/v1", f"{url}/v1/"):
        with Client(address) as client:
            assert client.item(small[0].id) == small[0]


def test_a_history_of_the_wrong_kind_is_one_clear_error(remote: Client) -> None:
    says = r"^a history holds items or their ids, which are strings, not 1; write str\(id\)$"
    for history in ([1], ["1", 1]):
        with pytest.raises(ArgumentError, match=says):
            remote.recommend(history=history)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="a history is a list of items or ids, not the text '12'"):
        remote.recommend(history="12")


def test_a_history_may_be_of_items_and_of_ids(remote: Client, small: Catalog) -> None:
    expected = remote.recommend(Query(history=[small["1"], small["2"]], k=3))
    for history in (["1", "2"], [small["1"], "2"]):
        assert remote.recommend(history=history, k=3) == expected
        assert remote.recommend(Query(history=history, k=3)) == expected
    with pytest.raises(UnknownItemError, match="'none'"):
        remote.recommend(Query(history=["none"]))


def test_a_proxy_that_is_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with Client("http://127.0.0.1:1", retry=ONCE) as client, pytest.raises(APIConnectionError, match="NO_PROXY=127"):
        client.status()
