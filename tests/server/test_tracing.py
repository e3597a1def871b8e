"""Spans of OpenTelemetry: one a request, and below it what its time went into."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.errors import EngineUnavailableError
from llmgen.recommend.recommender import Recommender
from llmgen.server import AppSettings, create_app
from llmgen.store import Store
from llmgen.types import Item
from tests.server.conftest import running

FILMS = [Item("1", "Alien"), Item("2", "Brazil"), Item("3", "Contact")]


class Away(FakeEngine):
    """Its server is down."""

    def next_logprobs(self, steps):  # type: ignore[no-untyped-def]
        raise EngineUnavailableError("away")


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def serve(spans: InMemorySpanExporter, tmp_path: Path) -> Iterator[Callable[..., object]]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    store = Store.open(f"sqlite:///{tmp_path / 'shop.db'}")
    store.put_items(FILMS)

    def made(engine: FakeEngine | None = None):  # type: ignore[no-untyped-def]
        recommender = Recommender(Catalog(FILMS), engine)
        app = create_app(
            recommender, AppSettings(store=store, version=store.item_version(), tracer=provider.get_tracer("test"))
        )
        return running(app)

    yield made
    provider.shutdown()
    store.close()


def finished(spans: InMemorySpanExporter, count: int) -> dict[str, ReadableSpan]:
    """So many spans, by name; the request's own ends after its answer was sent."""
    end = time.monotonic() + 10
    while len(spans.get_finished_spans()) < count:
        assert time.monotonic() < end, [span.name for span in spans.get_finished_spans()]
        time.sleep(0.01)
    found = {span.name: span for span in spans.get_finished_spans()}
    assert len(found) == count
    spans.clear()
    return found


def test_a_request_is_a_span_and_its_parts_are_spans_below_it(spans: InMemorySpanExporter, serve) -> None:  # type: ignore[no-untyped-def]
    trace_id, above = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace_id}-{above}-01", "x-request-id": "mine"}
    with serve(FakeEngine()) as base:
        answer = httpx2.post(f"{base}/v1/recommend", json={"user": "anna", "k": 2}, headers=headers)
        assert answer.status_code == 200
        found = finished(spans, 4)
        whole = found["POST /v1/recommend"]
        assert (whole.kind, format(whole.context.trace_id, "032x")) == (SpanKind.SERVER, trace_id)
        assert whole.parent is not None and format(whole.parent.span_id, "016x") == above
        assert whole.attributes is not None
        assert {**whole.attributes} == {
            "http.request.method": "POST",
            "http.route": "/v1/recommend",
            "http.response.status_code": 200,
            "llmgen.request_id": "mine",
        }
        parts = [found[name] for name in ("store", "queue", "search")]
        assert all(part.parent is not None and part.parent.span_id == whole.context.span_id for part in parts)
        times = [(part.start_time or 0, part.end_time or 0) for part in parts]
        assert (whole.start_time or 0) <= times[0][0]
        assert times[0][1] <= times[1][0] and times[1][1] <= times[2][0] <= times[2][1] <= (whole.end_time or 0)
        assert not any("anna" in str(part.attributes) for part in found.values())
        httpx2.post(f"{base}/v1/events", json={"id": "e", "user": "anna", "item": "1"})
        assert finished(spans, 2).keys() == {"POST /v1/events", "store"}
        httpx2.delete(f"{base}/v1/users/anna")
        assert finished(spans, 2).keys() == {"DELETE /v1/users/{user:path}", "store"}
        httpx2.put(f"{base}/v1/items", json={"items": [{"id": "4", "title": "Dune"}]})
        assert finished(spans, 2).keys() == {"PUT /v1/items", "store"}


def test_a_request_that_fails_is_an_error(spans: InMemorySpanExporter, serve) -> None:  # type: ignore[no-untyped-def]
    with serve(Away()) as base:
        assert httpx2.post(f"{base}/v1/recommend", json={"history": ["1"]}).status_code == 503
        found = finished(spans, 3)
        assert found["POST /v1/recommend"].status.status_code is StatusCode.ERROR
        assert found.keys() == {"POST /v1/recommend", "queue", "search"}
        assert httpx2.post(f"{base}/v1/recommend", json={"history": ["9"]}).status_code == 422
        assert finished(spans, 1)["POST /v1/recommend"].status.status_code is StatusCode.UNSET
