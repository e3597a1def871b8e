"""A service with a store: what was answered is durable, and every process knows it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx2
import numpy as np
import polars as pl
import pytest
from scipy import sparse

from llmgen import Item, Query
from llmgen.datasets import INTERACTIONS
from llmgen.datasets.splits import histories
from llmgen.engines.fake import FakeEngine
from llmgen.errors import APIStatusError, CatalogError, ConfigError, LLMGenError, UnknownItemError
from llmgen.http.async_client import AsyncClient
from llmgen.http.client import Client
from llmgen.priors import Transition
from llmgen.recommend.parts import Parts
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.request_weight import RequestWeight, Slope
from llmgen.recommend.saving import load_parts
from llmgen.server import AppSettings, create_app
from llmgen.server.learning import Learning
from llmgen.server.refitting import fit, fitted_apart
from llmgen.server.served import ServedRecommender
from llmgen.store import Event, Store
from llmgen.workspace.core import DataSettings, RecommenderSettings
from tests.server.conftest import running
from tests.store.conftest import Postgres, opened, postgres, url  # noqa: F401

FILMS = [Item(str(number), f"Film {number}") for number in range(1, 8)]


@pytest.fixture
def store(url: str, opened: Callable[[str], Store]) -> Store:  # noqa: F811
    made = opened(url)
    made.put_items(FILMS)
    made.add_events([Event(f"{user}{item}", user, item, time=float(item)) for user in "abcd" for item in "123"])
    return made


def service(store: Store) -> Recommender:
    data = store.dataset()
    return Recommender(data.catalog, None, priors=[Transition.fit(data.interactions, data.catalog)])


@pytest.fixture
def base(store: Store) -> Iterator[str]:
    version = store.item_version()
    with running(create_app(service(store), AppSettings(store=store, version=version))) as base:
        yield base


def test_a_users_event_is_known_to_the_next_answer(base: str) -> None:
    with Client(base) as client:
        assert [place.item.id for place in client.recommend(user="new", k=7)] == list("1234567")
        added = client.add_events([Event("n1", "new", "1"), Event("n1", "new", "1"), Event("n2", "new", "99")])
        assert (added.new, added.known, added.unknown_items) == (2, 1, ["99"])
        answer = client.recommend(user="new", k=7)
        assert next(iter(answer)).item.id == "2"  # what followed 1 in the log
        assert "1" not in {place.item.id for place in answer}
        assert [event.id for event in client.user_events("new")] == ["n1", "n2"]
        assert client.forget("new") == 2
        assert client.user_events("new") == []
        assert client.forget("new") == 0


def test_events_come_alone_in_a_list_or_in_lines(base: str, store: Store) -> None:
    lines = b'{"id": "1", "user": "x", "item": "1"}\n\n{"id": "2", "user": "x", "item": "2", "value": 4}\n'
    sent = [
        httpx2.post(f"{base}/v1/events", json={"id": "0", "user": "x", "item": "7", "kind": "view", "time": 5}),
        httpx2.post(f"{base}/v1/events", json={"events": [{"id": "3", "user": "x", "item": "3"}]}),
        httpx2.post(f"{base}/v1/events", content=lines, headers={"content-type": "application/x-ndjson"}),
    ]
    assert [answer.json()["new"] for answer in sent] == [1, 1, 2]
    assert [event.id for event in store.history("x")] == ["0", "3", "1", "2"]


@pytest.mark.parametrize(
    ("kind", "body", "says"),
    [
        ("application/json", b'{"id": "1", "user": "x"}', "item: Field required"),
        ("application/json", b'{"events": []}', "events"),
        ("application/json", b'{"id": "1", "id": "2", "user": "x", "item": "1"}', "'id' stands twice"),
        ("application/json", b"[1", "not JSON"),
        ("application/json", b'{"id": "1", "user": "x", "item": "1", "time": 1700000000000}', "divide milliseconds"),
        ("application/x-ndjson", b'{"id": "1", "user": "x", "item": "1"}\n{"id": 2}\n', "line 2: "),
        ("application/x-ndjson", b'{"id": "1", "user": "x", "item": "1"}\n\xff\n', "line 2: not JSON"),
    ],
)
def test_events_that_cannot_be_read_are_refused_together(
    base: str, store: Store, kind: str, body: bytes, says: str
) -> None:
    answer = httpx2.post(f"{base}/v1/events", content=body, headers={"content-type": kind})
    assert answer.status_code == 422, answer.text
    assert says in answer.json()["message"]
    assert store.history("x") == []


def test_a_user_has_a_history_so_that_both_are_too_much(base: str) -> None:
    answer = httpx2.post(f"{base}/v1/recommend", json={"user": "a", "history": ["1"]})
    assert answer.status_code == 422
    assert "not both" in answer.json()["message"]


def test_items_are_stored_before_they_are_recommended(base: str, store: Store) -> None:
    with Client(base) as client:
        changed = client.put_items([Item("8", "Film 8"), Item("2", "Film two")])
        catalog, _ = store.catalog()
        assert (changed.items, changed.catalog) == (8, catalog.digest)
        assert catalog["2"].title == "Film two"
        client.delete_item("8")
        assert "8" not in store.catalog()[0].ids
        with pytest.raises(UnknownItemError):
            client.delete_item("8")


def test_a_removed_item_stays_in_the_histories_of_its_users(store: Store) -> None:
    recommender = Recommender(store.catalog()[0], FakeEngine())
    app = create_app(recommender, AppSettings(store=store, version=store.item_version()))
    with running(app) as base, Client(base) as client:
        client.add_events([Event("m", "new", "5"), Event("n", "new", "1")])
        client.delete_item("1")
        assert client.recommend(user="new").history_used == 2  # it is in the prompt


def test_an_item_that_the_model_cannot_spell_is_not_stored(store: Store) -> None:
    class Mute(FakeEngine):
        def spell(self, labels):  # type: ignore[no-untyped-def]
            if any("odd" in label for label in labels):
                raise CatalogError("'odd' cannot be spelled")
            return super().spell(labels)

    recommender = Recommender(store.catalog()[0], Mute())
    with (
        running(create_app(recommender, AppSettings(store=store, version=store.item_version()))) as base,
        Client(base) as client,
    ):
        with pytest.raises(CatalogError, match="cannot be spelled"):
            client.put_items([Item("9", "An odd one")])
        assert "9" not in store.catalog()[0].ids
        assert client.status().items == 7


def test_replicas_converge_within_a_second(store: Store, url: str, opened: Callable[[str], Store]) -> None:  # noqa: F811
    apps = [
        create_app(service(one), AppSettings(store=one, version=one.item_version())) for one in (store, opened(url))
    ]
    with running(apps[0]) as first, running(apps[1]) as second, Client(first) as here, Client(second) as there:
        for number in range(10):
            here.put_items([Item(f"h{number}", f"Here {number}")])
            there.put_items([Item(f"t{number}", f"There {number}"), Item("3", f"Film three, {number}")])
            if number % 3 == 0:
                here.delete_item(f"t{number}")
        until = time.monotonic() + 5  # a second, on a machine that does nothing else
        while here.status().catalog != there.status().catalog:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert here.status().catalog == store.catalog()[0].digest
        here.add_events([Event("e", "u", "1")])
        assert next(iter(there.recommend(user="u"))).item.id == "2"


def test_a_hundred_writers_at_once_share_transactions(base: str, store: Store) -> None:
    async def write() -> None:
        async with AsyncClient(base) as client:
            events = [[Event(f"e{number}", f"u{number % 7}", "1")] for number in range(100)]
            answers = await asyncio.gather(*(client.add_events(one) for one in events))
        assert [answer.new for answer in answers] == [1] * 100

    asyncio.run(write())
    assert sum(len(store.history(f"u{number}")) for number in range(7)) == 100


def test_a_service_without_a_store_knows_no_users_and_takes_no_events(recommender: Recommender) -> None:
    with running(create_app(recommender)) as base, Client(base) as client:
        with pytest.raises(ValueError, match="knows no users"):
            client.recommend(user="a")
        with pytest.raises(APIStatusError) as raised:
            client.add_events([Event("e", "u", "1")])
        assert raised.value.status == 404


def test_a_database_that_is_away_is_told_and_comes_back(postgres: Postgres, opened: Callable[[str], Store]) -> None:  # noqa: F811
    store = opened(postgres.database())
    store.put_items(FILMS)
    store.add_events([Event("a", "u", "1", time=1.0)])
    app = create_app(service(store), AppSettings(store=store, version=store.item_version()))
    with running(app) as base, Client(base) as client:
        postgres.stop()
        try:
            for method, path in (("POST", "/v1/events"), ("POST", "/v1/recommend")):
                body = {"id": "b", "user": "u", "item": "1"} if path == "/v1/events" else {"user": "u"}
                answer = httpx2.request(method, base + path, json=body, timeout=20)
                assert (answer.status_code, answer.json()["error"]) == (503, "StoreError")
                assert "secret" not in answer.text
            assert client.recommend(history=["1"]).exact  # who needs no database is answered
            _until(lambda: httpx2.get(f"{base}/ready").status_code == 503)
        finally:
            postgres.start()
        _until(lambda: httpx2.get(f"{base}/ready").status_code == 200)
        assert client.add_events([Event("b", "u", "2")]).new == 1
        assert [event.id for event in client.user_events("u")] == ["a", "b"]


def test_what_was_acknowledged_is_there_after_kills(store: Store, url: str, tmp_path: Path) -> None:  # noqa: F811
    """`kill -9` in the middle of writing, twice: no acknowledged event or item is lost, none is there twice."""
    command = [sys.executable, "-m", "llmgen", "serve", "--store", url, "--engine", "none", "--port", "0"]
    acknowledged: list[str] = []
    for round_ in range(2):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            base = next(line.split(" on ")[1].split()[0] for line in process.stderr if " on http" in line)
            threading.Thread(target=process.stderr.read, daemon=True).start()
            killed = threading.Timer(0.05, lambda pid=process.pid: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
            number = 0
            with httpx2.Client(base_url=base) as client:
                while True:
                    name = f"{round_}-{number}"
                    number += 1
                    if number == 4:
                        killed.start()
                    try:
                        event = client.post("/v1/events", json={"id": name, "user": "k", "item": "1"})
                        item = client.put("/v1/items", json={"items": [{"id": name, "title": f"Item {name}"}]})
                    except httpx2.HTTPError:
                        break
                    if event.status_code == item.status_code == 200:
                        acknowledged.append(name)
            killed.join()
        assert process.returncode == -signal.SIGKILL
    assert len(acknowledged) >= 6
    found = [event.id for event in store.history("k", most=100_000)]
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    assert set(acknowledged) <= set(store.catalog()[0].ids)


def test_priors_are_fitted_anew_on_what_users_did(store: Store, url: str) -> None:  # noqa: F811
    data, settings = DataSettings(store=url), RecommenderSettings(engine="none", priors={"transition": 1.0})
    app = create_app(
        service(store),
        AppSettings(
            store=store,
            version=store.item_version(),
            refit=partial(fitted_apart, data, settings, 1.0),
            refit_every_s=0.2,
        ),
    )
    with running(app) as base, Client(base) as client:
        before = httpx2.get(f"{base}/metrics").text
        assert next(iter(client.recommend(history=["1"]))).item.id == "2"
        client.put_items([Item("8", "Film 8")])
        client.add_events([Event(f"{n}{item}", f"n{n}", item, time=float(item)) for n in range(20) for item in "18"])
        _until(lambda: next(iter(client.recommend(history=["1"]))).item.id == "8", 60)
        found = [re.findall(r"^llmgen_priors_fitted_seconds (\S+)", text, re.MULTILINE) for text in (
            before, httpx2.get(f"{base}/metrics").text)]  # fmt: skip
        assert float(found[0][0]) < float(found[1][0]) <= time.time()


def test_a_fit_tells_a_weight_what_was_taken(store: Store, url: str, tmp_path: Path) -> None:  # noqa: F811
    weight = RequestWeight(bias=0.0, cold_share=Slope(slope=1.0, high=1.0))
    data, settings = DataSettings(store=url), RecommenderSettings(engine="none", lm_weight=weight)
    known = store.dataset()
    log = histories(known.interactions, catalog=known.catalog)
    live = ServedRecommender(Recommender(known.catalog, None, lm_weight=weight, histories=log))

    def weight_now() -> float:
        parts = live.now.recommender.parts
        query = Query(k=1)
        return parts.lm_weights([query], parts.multiplied([query]))[0]

    assert weight_now() == pytest.approx(math.exp(4 / 7))  # 4 of 7 films were taken by nobody: weight exp(cold_share)
    store.add_events([Event(f"late{item}", "e", item) for item in "456"])
    fit(data, settings, 1.0, tmp_path / "fitted")
    asyncio.run(live.refit(load_parts(tmp_path / "fitted", None).parts))
    assert weight_now() == pytest.approx(math.exp(1 / 7))
    asyncio.run(live.put([Item("8", "Film 8")]))
    assert weight_now() == pytest.approx(math.exp(2 / 8))
    fit(data, settings.replace(lm_weight=1.0), 1.0, tmp_path / "plain")  # who does not need the log does not carry it
    assert load_parts(tmp_path / "plain", None).parts.histories == {}


def test_transitions_are_those_of_a_fit_on_all_that_was_stored(store: Store) -> None:
    app = create_app(
        service(store), AppSettings(store=store, version=store.item_version(), learn=partial(Learning, store=store))
    )
    live = app.state.llmgen.live

    def as_a_fit() -> bool:
        data = store.dataset()
        (ours,) = (one for one in live.now.recommender.priors if isinstance(one, Transition))
        fitted = Transition.fit(data.interactions, data.catalog)
        same = [one.toarray() if sparse.issparse(one) else one for one in (ours.similarity, fitted.similarity)]
        return ours.catalog.digest == data.catalog.digest and np.array_equal(*same)

    with running(app) as base, Client(base) as client:
        assert next(iter(client.recommend(history=["1"]))).item.id == "2"
        client.add_events([Event(f"{n}{item}", f"n{n}", item, time=float(item)) for n in range(20) for item in "17"])
        _until(lambda: next(iter(client.recommend(history=["1"]))).item.id == "7")
        _until(as_a_fit)
        client.add_events([Event("late", "n0", "4", time=0.5), Event("new", "n0", "8", time=9.0)])
        client.put_items([Item("8", "Film 8")])
        _until(as_a_fit)
        client.forget("n0")
        client.delete_item("7")
        _until(as_a_fit)


def test_what_is_learned_follows_the_catalog_alone_too_and_rests_where_nothing_has_changed(store: Store) -> None:
    live = ServedRecommender(service(store))
    learning = Learning(live, store)

    def as_a_fit() -> bool:
        (ours,) = (one for one in live.now.recommender.priors if isinstance(one, Transition))
        catalog = live.now.recommender.catalog
        log = pl.DataFrame([(e.user, e.item, e.time, None) for e in store.events()], dict(INTERACTIONS), orient="row")
        fitted = Transition.fit(log.filter(pl.col("item_id").is_in(list(catalog.ids))), catalog)
        same = [one.toarray() if sparse.issparse(one) else one for one in (ours.similarity, fitted.similarity)]
        return ours.catalog is catalog and np.array_equal(*same)

    async def steps() -> None:
        store.add_events([Event("early", "a", "8", time=9.0), Event("and", "b", "4", time=9.0)])
        await learning.catch_up()
        assert as_a_fit()
        still = live.now
        await learning.catch_up()
        assert live.now is still
        await live.put([Item("8", "Film 8")])  # no event comes, and an old one counts now
        await learning.catch_up()
        assert as_a_fit()
        await live.remove("2")
        await learning.catch_up()
        assert as_a_fit()
        await live.put([Item("1", "Another title")])  # the same items
        await learning.catch_up()
        assert as_a_fit()
        store.forget("a")
        await live.remove("8")
        await learning.catch_up()  # all events are counted anew, and another catalog is there, at once
        assert as_a_fit()

    asyncio.run(steps())


def test_only_a_prior_that_counts_transitions_can_learn(store: Store) -> None:
    recommender = Recommender(store.catalog()[0], None)
    with pytest.raises(ConfigError, match="--prior transition=1"):
        create_app(recommender, AppSettings(store=store, learn=partial(Learning, store=store)))


def test_where_fitting_fails_the_old_priors_stay(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    async def fails() -> Parts:
        tried.append(1)
        raise LLMGenError("no events")

    app = create_app(
        service(store), AppSettings(store=store, version=store.item_version(), refit=fails, refit_every_s=0.01)
    )
    with running(app) as base, Client(base) as client:
        _until(lambda: len(tried) > 2)
        assert next(iter(client.recommend(history=["1"]))).item.id == "2"
    assert "the old ones stay: no events" in caplog.text


def test_what_is_made_of_the_catalog_alone_is_not_fitted_anew(tmp_path: Path, store: Store, url: str) -> None:  # noqa: F811
    settings = RecommenderSettings(
        engine="none", priors=dict.fromkeys(("wish", "transition", "content", "popularity"), 1.0)
    )
    parts = asyncio.run(fitted_apart(DataSettings(store=url), settings, 1.0))
    assert [prior.name for prior in parts.priors] == ["transition", "popularity"]


def test_an_error_of_fitting_is_the_last_line_of_its_process(tmp_path: Path) -> None:
    Store.open(f"sqlite:///{tmp_path / 'empty.db'}").close()
    with pytest.raises(LLMGenError, match="holds no items"):
        asyncio.run(fitted_apart(DataSettings(store=f"sqlite:///{tmp_path / 'empty.db'}"), RecommenderSettings(), 1.0))


def test_a_service_says_what_it_knows_of_users(base: str) -> None:
    schema = json.loads(httpx2.get(f"{base}/openapi.json").text)
    assert {"/v1/events", "/v1/users/{user}"} <= schema["paths"].keys()


def _until(there: Callable[[], bool], most_s: float = 20) -> None:
    until = time.monotonic() + most_s
    while not there():
        assert time.monotonic() < until
        time.sleep(0.05)
