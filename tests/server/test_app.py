"""The service under faults: bad requests, full queues, clients that hang up, engines that die, catalogs that change."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.engines import GenerationConfig, Step
from llmgen.engines.fake import FakeEngine
from llmgen.errors import APIStatusError, CatalogError, ConfigError, EngineUnavailableError
from llmgen.http.client import Client
from llmgen.http.schemas import RecommendationsBody, StatusBody
from llmgen.http.transport import Retry
from llmgen.priors import Popularity, RatingKNN, TextQuery
from llmgen.recommend.recommender import Choice, Recommender
from llmgen.server import AppSettings, Limits, create_app
from llmgen.templates.library import PromptLibrary
from llmgen.types import Completion, FloatArray, Item, Message, Query
from tests.server.conftest import running

ONCE = Retry(attempts=1)
KEY = "a-key-of-the-tests"
PUT_ATTRIBUTES = b'{"items": [{"id": "n", "title": "x", "attributes": {%s}}]}'


class Held(FakeEngine):
    """Answers when it is let go; tells when it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let_go = threading.Event(), threading.Event()
        self.prompts: list[tuple[int, ...]] = []

    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        self.prompts += {step.prompt: None for step in steps}
        self.asked.set()
        assert self.let_go.wait(20)
        return super().next_logprobs(steps)


class Mortal(FakeEngine):
    """Dies in the middle of an answer, and may come back."""

    dies = False

    def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
        if self.dies:
            raise EngineUnavailableError("the engine was killed")
        return super().next_logprobs(steps)


@pytest.fixture
def url(recommender: Recommender) -> Iterator[str]:
    with running(create_app(recommender)) as url:
        yield url


def metric(url: str, name: str) -> float:
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def eventually(what: Any, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


# What requests may be


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", "/v1/recommend", b"{", 422, "JSON"),
        ("POST", "/v1/recommend", b"[]", 422, "dictionary"),
        ("POST", "/v1/recommend", b'{"k": 0}', 422, "body.k"),
        ("POST", "/v1/recommend", b'{"k": 1001}', 422, "body.k"),
        ("POST", "/v1/recommend", b'{"histroy": ["1"]}', 422, "body.histroy"),
        ("POST", "/v1/recommend", b'{"history": ["none"]}', 422, "no item has the id 'none'"),
        ("POST", "/v1/recommend", b'{"history": ["1"], "ratings": [NaN]}', 422, "finite"),
        ("POST", "/v1/recommend", b'{"filters": {"year": []}}', 422, "no value at all"),
        ("POST", "/v1/recommend", b'{"prompt": "rate"}', 422, "is for 'rate', not for 'recommend'"),
        ("POST", "/v1/recommend", b'{"prompt": "describe"}', 422, "is there to learn from and answers no query"),
        ("POST", "/v1/recommend", b'{"prompt": "../../etc/passwd"}', 422, "no prompt is called"),
        ("POST", "/v1/recommend", b'{"text": "' + b"x" * 10_001 + b'"}', 422, "body.text"),
        ("POST", "/v1/rank", b'{"candidates": []}', 422, "body.candidates"),
        ("POST", "/v1/rate", b'{"items": ["1"], "labels": ["1", "1"]}', 422, "different ratings"),
        ("POST", "/v1/explain", b"{}", 422, "body.item"),
        ("GET", "/v1/items/none", None, 404, "no item has the id 'none'"),
        ("DELETE", "/v1/items/none", None, 404, "no item has the id 'none'"),
        ("PUT", "/v1/items", b'{"items": [{"id": "", "title": "x"}]}', 422, "items.0.id"),
        ("PUT", "/v1/items", b'{"items": [{"id": "n", "title": "x\\ud83d"}]}', 422, "items.0.title"),
        ("PUT", "/v1/items", PUT_ATTRIBUTES % b'"by": "x\\ud83d"', 422, "half a character: 'x\\ud83d'"),
        ("PUT", "/v1/items", PUT_ATTRIBUTES % b'"by": ["a", "\\ud83d"]', 422, "half a character: '\\ud83d'"),
        ("PUT", "/v1/items", PUT_ATTRIBUTES % b'"\\ud83d": 1', 422, "items.0.attributes"),
        ("POST", "/v1/recommend", b'{"filters": {"by": "x\\ud83d"}}', 422, "half a character: 'x\\ud83d'"),
        ("GET", "/v2", None, 404, "Not Found"),
        ("GET", "/v1/recommend", None, 405, "Method Not Allowed"),
    ],
)
def test_what_is_wrong_is_said(url: str, method: str, path: str, body: bytes | None, status: int, says: str) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx2.request(method, url + path, content=body, headers=headers)
    assert answer.status_code == status
    problem = answer.json()
    assert set(problem) == {"error", "message", "request_id"}
    assert says in problem["message"]
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_bodies_are_limited_whether_or_not_they_say_their_length(small: Catalog) -> None:
    with running(create_app(Recommender(small, None), AppSettings(limits=Limits(max_body=1000)))) as url:
        big = b'{"text": "' + b"x" * 1000 + b'"}'

        def pieces() -> Iterator[bytes]:
            for start in range(0, len(big), 100):
                yield big[start : start + 100]

        for content in (big, pieces()):
            answer = httpx2.post(f"{url}/v1/recommend", content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 413
            assert "1000 bytes at most" in answer.json()["message"]
        assert httpx2.post(f"{url}/v1/recommend", json={"k": 1}).status_code == 200


def test_request_ids_are_kept_or_made(url: str) -> None:
    assert httpx2.get(f"{url}/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    for bad in ("a b", "x" * 65, "é".encode().decode("latin-1")):
        assert len(httpx2.get(f"{url}/health", headers={b"x-request-id": bad.encode()}).headers["x-request-id"]) == 16


def test_the_log_has_no_words_of_users(recommender: Recommender, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), running(create_app(recommender, AppSettings(keys=[KEY]))) as url:
        with Client(url, api_key=KEY) as client:
            client.recommend(text="my secret wish", user_id="user-77", k=1)
            with pytest.raises(CatalogError):
                client.recommend(text="my secret wish", user_id="user-77", filters={"secret": "x"})
        assert httpx2.post(f"{url}/v1/recommend", json={"text": "my secret wish"}).status_code == 401
    lines = [record.getMessage() for record in caplog.records if record.name == "llmgen.server.auth"]
    assert [line.split()[1:4] for line in lines][:3] == [
        ["POST", "/v1/recommend", "200"],
        ["POST", "/v1/recommend", "422"],
        ["POST", "none", "401"],
    ]
    assert not any(word in caplog.text for word in ("secret wish", "user-77", KEY))


def test_prompts_are_those_that_can_be_asked_with(url: str) -> None:
    names = [prompt["name"] for prompt in httpx2.get(f"{url}/v1/prompts").json()["prompts"]]
    assert names == sorted(set(PromptLibrary.default()) - {"describe"})


def test_schema_and_docs(url: str) -> None:
    schema = httpx2.get(f"{url}/openapi.json").json()
    assert set(schema["paths"]) == {
        *("/v1/recommend", "/v1/rank", "/v1/rate", "/v1/explain", "/v1/items", "/v1/items/{item_id}", "/v1/prompts"),
        *("/v1/similar", "/v1/rerank"),
        *("/health", "/ready", "/metrics"),
    }
    for path in ("/v1/recommend", "/v1/rank", "/v1/rate", "/v1/explain"):
        name = schema["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert schema["components"]["schemas"][name.rpartition("/")[2]]["examples"]
    assert httpx2.get(f"{url}/docs").status_code == 200


def test_what_is_put_is_cleaned(url: str) -> None:
    item = {
        "id": "n",
        "title": "AT&amp;T \x1b[31mphone\n",
        "attributes": {"tags": ["R&amp;B", "\x9bx"], "by": "Q&amp;A"},
    }
    assert httpx2.put(f"{url}/v1/items", json={"items": [item]}).status_code == 200
    clean = {"id": "n", "title": "AT&T [31mphone", "attributes": {"tags": ["R&B", "x"], "by": "Q&A"}}
    assert httpx2.get(f"{url}/v1/items/n").json() == clean
    answer = httpx2.post(f"{url}/v1/rank", json={"candidates": ["n"]}).json()
    assert (answer["recommendations"][0]["item"], answer["recommendations"][0]["label"]) == (clean, clean["title"])
    blank = httpx2.put(f"{url}/v1/items", json={"items": [{"id": "m", "title": "\x1b&#32;"}]})
    assert blank.status_code == 422 and "blank title" in blank.json()["message"]


@pytest.mark.parametrize("engine", [FakeEngine(["Because of Alien."]), None])
def test_an_item_with_very_long_texts_breaks_no_later_request(small: Catalog, engine: FakeEngine | None) -> None:
    begin = "word " * 1800  # 9,000 characters
    put = [
        {"id": "long-a", "title": begin + "a"},
        {"id": "long-b", "title": begin + "b"},
        {"id": "shown", "title": "Shown", "attributes": {"genres": ["x" * 800_000]}},
    ]
    ids = [str(item["id"]) for item in put]
    rating = RatingKNN.fit(pl.DataFrame({"user_id": ["u"] * 2, "item_id": ["1", "2"], "rating": [1.0, 2.0]}))
    with running(create_app(Recommender(small, engine, priors=[TextQuery(small)], rating_priors=[rating]))) as url:
        for item in put:
            assert httpx2.put(f"{url}/v1/items", json={"items": [item]}).status_code == 200
        assert httpx2.get(f"{url}/v1/items/long-a").json()["title"] == begin + "a"  # kept whole
        too_long = httpx2.put(f"{url}/v1/items", json={"items": [{"id": "n", "title": "x" * 10_001}]})
        assert too_long.status_code == 422 and "10000 characters" in too_long.json()["message"]

        def ask(task: str, **body: object) -> Any:
            answer = httpx2.post(f"{url}/v1/{task}", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            return answer.json()

        everything = ask("recommend", history=["1"], k=70)["recommendations"]
        assert len(everything) == 62
        written = {place["item"]["id"]: place["label"] for place in everything}
        assert written["long-a"] != written["long-b"]
        assert len(written["long-a"]) == len(written["long-b"]) == 500
        for item_id in ids:
            ask("recommend", history=["1", item_id])
            ask("recommend", text="word word", k=3)
            ask("rank", history=["1"], candidates=[item_id, "2"])
            ask("rate", history=["1"], ratings=[1], items=[item_id])
            ask("rate", history=[item_id], ratings=[1], items=["1"])
            if engine is not None:
                ask("explain", history=["1", item_id], item=item_id)
        assert httpx2.delete(f"{url}/v1/items/long-a").status_code == 200
        ask("recommend", history=["1"], k=70)


def test_metrics_count(url: str) -> None:
    with Client(url) as client:
        answer = client.recommend(Query(k=3))
        client.recommend(Query(text="dark", k=2))
        client.put_items([Item("n", "N")])
    assert metric(url, 'llmgen_requests_total{route="/v1/recommend",status="200"}') == 2
    assert metric(url, 'llmgen_request_seconds_count{route="/v1/recommend"}') == 2
    assert metric(url, "llmgen_prompt_tokens_total") >= answer.prompt_tokens
    assert metric(url, "llmgen_rounds_total") >= answer.num_rounds
    assert metric(url, 'llmgen_answers_total{exact="yes"}') == 2
    assert metric(url, 'llmgen_places_total{method="trie"}') == 5
    assert metric(url, "llmgen_batch_size_sum") == 2
    assert metric(url, "llmgen_catalog_changes_total") == 1
    assert metric(url, "llmgen_queue ") == 0


def test_a_query_is_answered_as_was_chosen_for_it(small: Catalog) -> None:
    made = Recommender(small, FakeEngine(), priors=[Popularity(np.zeros(len(small)))])

    def choose(recommender: Recommender, query: Query) -> Choice:
        return Choice("cold_start", 0.5) if query.text else Choice(None, 0.0)

    with running(create_app(made, AppSettings(choose=choose))) as url, Client(url) as client:
        cold = client.recommend(Query(text="dark", k=2))
        assert cold == made.with_prompt("cold_start").with_priors(*made.priors, lm_weight=0.5).recommend(
            Query(text="dark", k=2)
        )
        assert client.recommend(Query(k=2))[0].grounding.method == "prior"
        named = client.with_prompt("next_item_taste").recommend(Query(text="dark", k=2))
        assert named.prompt.startswith("next_item_taste@")


@pytest.mark.parametrize("task", ["rate", "explain"])
def test_one_rating_or_reason_that_fails_costs_no_other_of_its_batch_anything(small: Catalog, task: str) -> None:
    class Damaged(Held):
        def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
            heard = "Сталкер".encode()
            return [
                row * np.nan if heard in bytes(token for token in step.prompt if token < 256) else row
                for step, row in zip(steps, super().next_logprobs(steps), strict=True)
            ]

        def generate(self, chats: Sequence[Sequence[Message]], config: GenerationConfig) -> list[Completion]:
            written = super().generate(chats, config)
            broken = ["Сталкер" in chat[-1].content for chat in chats]
            return [Completion("", 0, True) if bad else text for bad, text in zip(broken, written, strict=True)]

    engine = Damaged()
    bodies: list[dict[str, Any]] = [{"history": [taken]} for taken in ("1", "6", "3")]  # 6 is Сталкер
    bodies = [body | ({"items": ["9", "10"]} if task == "rate" else {"item": "9"}) for body in bodies]
    with running(create_app(Recommender(small, engine))) as url, ThreadPoolExecutor(4) as pool:
        first = pool.submit(httpx2.post, f"{url}/v1/recommend", json={"k": 1})
        assert engine.asked.wait(10)
        asked = [pool.submit(httpx2.post, f"{url}/v1/{task}", json=body) for body in bodies]
        eventually(lambda: metric(url, "llmgen_queue ") == 3)
        engine.let_go.set()
        answers = [future.result(20) for future in (first, *asked)]
        assert [answer.status_code for answer in answers] == [200, 200, 502, 200]
        assert answers[2].json()["error"] == "GenerationError"
        for body, answer in ((bodies[0], answers[1]), (bodies[2], answers[3])):
            assert answer.json() == httpx2.post(f"{url}/v1/{task}", json=body).json()


# Too much, and too late


def test_a_full_queue_answers_at_once_and_loses_nobody(small: Catalog) -> None:
    engine = Held()
    with running(create_app(Recommender(small, engine), AppSettings(limits=Limits(max_queue=2, max_batch=1)))) as url:
        with Client(url) as client, ThreadPoolExecutor(3) as pool:
            first = pool.submit(client.recommend, Query(k=1))
            assert engine.asked.wait(10)
            others = [pool.submit(client.recommend, Query(text=str(n), k=1)) for n in range(2)]
            eventually(lambda: metric(url, "llmgen_queue ") == 2)
            began = time.monotonic()
            refused = httpx2.post(f"{url}/v1/recommend", json={"k": 1})
            assert time.monotonic() - began < 1
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"] == "QueueFullError"
            assert httpx2.get(f"{url}/ready").status_code == 503
            assert httpx2.get(f"{url}/health").status_code == 200
            patient = pool.submit(client.recommend, Query(text="patient", k=1))  # asks again after a second
            engine.let_go.set()
            assert all(len(future.result(20)) == 1 for future in (first, *others, patient))
        assert httpx2.get(f"{url}/ready").status_code == 200
        assert metric(url, "llmgen_refused_total") >= 1


def test_time_that_is_over_ends_a_request_and_its_work(small: Catalog) -> None:
    engine = Held()
    with running(create_app(Recommender(small, engine))) as url:
        began = time.monotonic()
        running_out = httpx2.post(f"{url}/v1/recommend", json={"k": 1}, headers={"x-timeout": "0.2"})
        assert (running_out.status_code, running_out.json()["error"]) == (504, "DeadlineError")
        waiting = httpx2.post(f"{url}/v1/recommend", json={"text": "never"}, headers={"x-timeout": "0.2"})
        assert waiting.status_code == 504
        assert time.monotonic() - began < 5
        assert metric(url, "llmgen_queue ") == 0
        engine.let_go.set()
        assert httpx2.post(f"{url}/v1/recommend", json={"k": 1}).status_code == 200
    assert len(set(engine.prompts)) == 1  # nobody was told of the wish that came too late


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "x"])
def test_a_time_limit_that_is_none_is_refused(url: str, seconds: str) -> None:
    assert httpx2.post(f"{url}/v1/recommend", json={}, headers={"x-timeout": seconds}).status_code == 422


def hang_up(url: str, body: dict[str, object]) -> None:
    """Send a request and go away."""
    host, port = url.removeprefix("http://").split(":")
    text = json.dumps(body)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        time.sleep(0.1)


def test_who_hangs_up_frees_the_place_in_the_queue(small: Catalog) -> None:
    engine = Held()
    with (
        running(create_app(Recommender(small, engine), AppSettings(limits=Limits(max_queue=4)))) as url,
        Client(url) as client,
    ):
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(client.recommend, Query(k=1))
            assert engine.asked.wait(10)
            for number in range(12):  # three times what the queue holds
                hang_up(url, {"text": f"gone {number}"})
                eventually(lambda: metric(url, "llmgen_queue ") == 0)
            assert metric(url, "llmgen_disconnects_total") == 12
            assert metric(url, "llmgen_refused_total") == 0
            engine.let_go.set()
            assert len(first.result(10)) == 1
        assert len(set(engine.prompts)) == 1
        assert len(client.recommend(Query(k=2))) == 2


# What breaks


def test_an_engine_that_dies_is_503_and_works_again_when_it_is_back(small: Catalog) -> None:
    engine = Mortal()
    with running(create_app(Recommender(small, engine))) as url, Client(url, retry=ONCE) as client:
        assert client.recommend(Query(k=1))
        engine.dies = True
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(client.recommend, Query(text=str(number))) for number in range(8)]
            for future in asked:
                with pytest.raises(EngineUnavailableError, match="was killed"):
                    future.result(10)
        assert httpx2.post(f"{url}/v1/recommend", json={}).headers["retry-after"] == "1"
        ready = httpx2.get(f"{url}/ready")
        assert (ready.status_code, "was killed" in StatusBody.model_validate(ready.json()).status) == (503, True)
        assert httpx2.get(f"{url}/health").status_code == 200
        engine.dies = False
        assert httpx2.get(f"{url}/ready").status_code == 200  # it asks by itself: nobody sends requests to what is down
        assert client.recommend(Query(k=1))


def test_a_mistake_of_ours_is_a_500_with_an_id_and_ends_nothing(
    small: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeEngine):
        broken = True

        def next_logprobs(self, steps: Sequence[Step]) -> list[FloatArray]:
            if self.broken:
                raise ZeroDivisionError("secret of the house")
            return super().next_logprobs(steps)

    engine = Broken()
    with running(create_app(Recommender(small, engine))) as url, Client(url, retry=ONCE) as client:
        with pytest.raises(APIStatusError, match="made a mistake") as raised:
            client.recommend(Query(k=1))
        assert raised.value.status == 500
        assert raised.value.request_id in caplog.text
        assert "secret of the house" not in str(raised.value)
        engine.broken = False
        assert client.recommend(Query(k=1))


def test_a_worker_that_ended_by_a_mistake_of_ours_is_told_by_health(small: Catalog) -> None:
    app = create_app(Recommender(small, None))

    def broken(waits: Sequence[float]) -> None:
        raise ZeroDivisionError("in the metrics")

    with running(app) as url:
        assert httpx2.get(f"{url}/health").status_code == 200
        app.state.llmgen.batcher._on_batch = broken
        assert httpx2.post(f"{url}/v1/recommend", json={}, headers={"x-timeout": "0.2"}).status_code == 504
        health = httpx2.get(f"{url}/health")
        assert health.status_code == 503
        assert "worked on no more: ZeroDivisionError('in the metrics')" in health.json()["status"]


def test_a_model_in_the_process_is_asked_by_one_batch_at_a_time(recommender: Recommender) -> None:
    with pytest.raises(ConfigError, match=r"fake runs in this process .* max_batches must be 1, not 2"):
        create_app(recommender, AppSettings(limits=Limits(max_batches=2)))
    assert create_app(recommender).state.llmgen.batcher.workers == 1
    with pytest.raises(ValueError, match="max_batches must be 1 or more, not 0"):
        Limits(max_batches=0)
    priors_alone = Recommender(recommender.catalog, None)
    assert create_app(priors_alone, AppSettings(limits=Limits(max_batches=3))).state.llmgen.batcher.workers == 3


def test_settings_by_keyword_work_for_a_release_and_say_so(recommender: Recommender) -> None:
    with pytest.warns(
        DeprecationWarning, match=r"keys, limits: give .* AppSettings\(keys=\.\.\., limits=\.\.\.\)"
    ) as said:
        app = create_app(recommender, keys=[KEY], limits=Limits(max_queue=3))
    assert said[0].filename == __file__
    assert app.state.llmgen.limits == Limits(max_queue=3)
    with running(app) as url:
        assert httpx2.post(f"{url}/v1/recommend", json={}).status_code == 401
        assert httpx2.post(f"{url}/v1/recommend", json={}, headers={"authorization": f"Bearer {KEY}"}).is_success
    with pytest.warns(DeprecationWarning, match="limits"):
        assert create_app(recommender, limits=None).state.llmgen.limits == Limits()
    with pytest.raises(TypeError, match="unexpected keyword argument 'key'"):
        create_app(recommender, key=[KEY])
    with pytest.raises(ValueError, match=r"given settings, and keys beside them; put these into AppSettings"):
        create_app(recommender, AppSettings(), keys=[KEY])


# A catalog that changes


def test_no_answer_mixes_two_catalogs(small: Catalog) -> None:
    """Every item's title tells the generation that put it in: within one answer there is one generation."""

    def generation(number: int) -> list[Item]:
        return [Item(f"i{n}", f"Film {n} of generation {number}", {"generation": number}) for n in range(30)]

    app = create_app(Recommender(Catalog(generation(0)), FakeEngine()))
    answers: list[httpx2.Response] = []
    done = threading.Event()

    def ask(url: str, number: int) -> None:
        with httpx2.Client(base_url=url) as client:
            while not done.is_set():
                answers.append(client.post("/v1/recommend", json={"k": 30, "exclude_seen": False, "history": ["i1"]}))

    with running(app) as url, Client(url) as client, ThreadPoolExecutor(4) as pool:
        askers = [pool.submit(ask, url, number) for number in range(4)]
        for number in range(1, 101):
            left = client.put_items(generation(number))
            assert left.items == 30
            assert client.item("i7").attributes["generation"] == number
        done.set()
        for asker in askers:
            asker.result(20)
    assert len(answers) > 50
    digests: dict[int, set[str]] = {}
    for answer in answers:
        assert answer.status_code == 200, answer.text
        body = RecommendationsBody.model_validate_json(answer.content)
        seen = {place.item.attributes["generation"] for place in body.recommendations}
        assert len(seen) == 1, seen
        assert all(place.label.endswith(f"generation {min(seen)}") for place in body.recommendations)  # type: ignore[type-var]
        digests.setdefault(int(min(seen)), set()).add(answer.headers["x-catalog"])  # type: ignore[type-var]
    assert len(digests) > 5
    assert all(len(found) == 1 for found in digests.values())
    assert len(set.union(*digests.values())) == len(digests)


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"id": "x", "title": "X", "attributes": {"year": 2**63}}, "this one needs 65"),
        ({"id": "x", "title": "X", "attributes": {"year": -(10**400)}}, "this one needs 1330"),  # log2(10) * 400
        ({"id": "a\nb", "title": "X"}, "cannot stand in a URL"),
        ({"id": "..", "title": "X"}, "cannot stand in a URL"),
    ],
)
def test_an_item_that_could_not_be_kept_or_read_is_refused(small: Catalog, item: dict[str, Any], says: str) -> None:
    with running(create_app(Recommender(small, None))) as url:
        answer = httpx2.put(f"{url}/v1/items", json={"items": [item]})
        assert (answer.status_code, says in answer.json()["message"]) == (422, True), answer.text
        largest = {"id": "x", "title": "X", "attributes": {"year": 2**63 - 1}}
        assert httpx2.put(f"{url}/v1/items", json={"items": [largest]}).status_code == 200
        assert httpx2.get(f"{url}/v1/items/x").json()["attributes"] == {"year": 2**63 - 1}
        asked = httpx2.post(f"{url}/v1/recommend", json={"filters": {"year": 2**64}})
        assert asked.status_code == 422


def test_a_body_that_drips_in_is_cut(recommender: Recommender) -> None:
    """A byte every tenth of a second would hold a connection for as long as its sender likes."""
    with running(create_app(recommender, AppSettings(limits=Limits(timeout_s=0.5)))) as url:
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\n"
                b"content-type: application/json\r\ncontent-length: 500\r\n\r\n"
            )
            start = time.monotonic()
            connection.setblocking(False)
            said = b""
            while not said:
                assert time.monotonic() - start < 2
                connection.sendall(b" ")
                time.sleep(0.1)
                try:
                    said = connection.recv(1_000)
                except BlockingIOError:
                    continue
        assert said.startswith(b"HTTP/1.1 408")
        assert httpx2.post(f"{url}/v1/recommend", json={"k": 1}).status_code == 200


def test_a_changed_catalog_is_written_before_it_is_used(small: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    small.save(path)
    with running(create_app(Recommender(small, None), AppSettings(save=path))) as url, Client(url) as client:
        client.put_items([Item("new", "New", {"genres": ("War",)})])
        assert Catalog.from_jsonl(path)["new"] == Item("new", "New", {"genres": ("War",)})
        client.delete_item("1")
        assert "1" not in Catalog.from_jsonl(path)
        assert [file.name for file in tmp_path.iterdir()] == ["items.jsonl"]


def test_a_prior_that_cannot_follow_is_named_and_nothing_changes(small: Catalog) -> None:
    class Own:
        name, weight = "own", 1.0

        def log_weights(self, queries: Sequence[Query]) -> FloatArray:
            return np.zeros((len(queries), len(small)))

    with running(create_app(Recommender(small, None, priors=[Own()]))) as url, Client(url) as client:
        with pytest.raises(ConfigError, match="'own' cannot follow a changed catalog"):
            client.put_items([Item("new", "New")])
        assert client.status().items == len(small)
