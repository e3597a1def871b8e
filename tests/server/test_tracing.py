"""Spans of OpenTelemetry: one a request, and below it what its time went into."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from llmgen import __version__
from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.errors import EngineUnavailableError
from llmgen.recommend.recommender import Recommender
from llmgen.server import AppSettings, create_app
from llmgen.server.tracing import TracingMiddleware, otlp_tracer
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
            "url.scheme": "http",
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
        assert found.keys() == {"POST /v1/recommend", "queue", "search"}
        kinds = {name: (span.attributes or {}).get("error.type") for name, span in found.items()}
        assert kinds == {"POST /v1/recommend": "503", "search": "EngineUnavailableError", "queue": None}
        for name, kind in kinds.items():
            assert found[name].status.status_code is (StatusCode.UNSET if kind is None else StatusCode.ERROR)
        assert httpx2.post(f"{base}/v1/recommend", json={"history": ["9"]}).status_code == 422
        assert finished(spans, 1)["POST /v1/recommend"].status.status_code is StatusCode.UNSET
        assert httpx2.get(f"{base}/nowhere").status_code == 404
        lost = finished(spans, 1)["GET"]
        assert "http.route" not in (lost.attributes or {})


def test_no_message_of_an_error_goes_into_a_span(spans: InMemorySpanExporter, serve) -> None:  # type: ignore[no-untyped-def]
    with serve() as base:
        twice = [{"id": name, "title": "A secret title"} for name in ("7", "7")]
        assert httpx2.put(f"{base}/v1/items", json={"items": twice}).status_code == 422
        found = finished(spans, 2)
        store = found["store"]
        assert (store.status.status_code, dict(store.attributes or {})) == (
            StatusCode.ERROR,
            {"error.type": "CatalogError"},
        )
        assert store.status.description is None and store.events == ()
        assert found["PUT /v1/items"].status.status_code is StatusCode.UNSET
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))

    async def broken(scope: object, receive: object, send: object) -> None:
        raise ZeroDivisionError("of anna")

    scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/v1/x", "headers": []}
    with pytest.raises(ZeroDivisionError):
        asyncio.run(TracingMiddleware(broken, tracer=provider.get_tracer("test"))(scope, None, None))  # type: ignore[arg-type]
    whole = finished(spans, 1)["GET"]
    assert whole.attributes is not None
    assert (whole.attributes["http.response.status_code"], whole.attributes["error.type"]) == (500, "ZeroDivisionError")
    assert (whole.status.status_code, whole.status.description, whole.events) == (StatusCode.ERROR, None, ())


def test_probes_have_no_spans(spans: InMemorySpanExporter, serve) -> None:  # type: ignore[no-untyped-def]
    with serve() as base:
        for path in ("/health", "/ready", "/metrics", "/v1/items/1"):
            assert httpx2.get(base + path).status_code == 200
        assert finished(spans, 1).keys() == {"GET /v1/items/{item_id:path}"}


class Receiver(http.server.ThreadingHTTPServer):
    """Takes traces by OTLP over HTTP, as any collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.taken: list[ExportTraceServiceRequest] = []


class Taking(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        self.server.taken.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *values: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "llmgen"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=shop,deployment.environment.name=test"}, "shop"),
        ({"OTEL_SERVICE_NAME": "mine", "OTEL_RESOURCE_ATTRIBUTES": "service.name=shop"}, "mine"),
    ],
)
def test_what_a_collector_receives(environment: dict[str, str], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver() as receiver:
        taking = threading.Thread(target=receiver.serve_forever)
        taking.start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}")
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        tracer, flush = otlp_tracer()
        with running(create_app(Recommender(Catalog(FILMS), None), AppSettings(tracer=tracer))) as base:
            headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            httpx2.post(f"{base}/v1/recommend", json={"history": ["1"], "k": 1}, headers=headers)
        flush()
        receiver.shutdown()
        taking.join()
    resources = [one.resource for message in receiver.taken for one in message.resource_spans]
    about = {pair.key: pair.value.string_value for pair in resources[0].attributes}
    assert (about["service.name"], about["service.version"]) == (name, __version__)
    spans = [
        span for message in receiver.taken for one in message.resource_spans
        for scope in one.scope_spans for span in scope.spans
    ]  # fmt: skip
    assert {span.trace_id.hex() for span in spans} == {"0af7651916cd43dd8448eb211c80319c"}
    named = {span.name: span for span in spans}
    assert sorted(named) == ["POST /v1/recommend", "queue", "search"]
    whole = named["POST /v1/recommend"]
    assert (whole.parent_span_id.hex(), whole.kind) == ("b7ad6b7169203331", whole.SPAN_KIND_SERVER)
    assert {named[step].parent_span_id for step in ("queue", "search")} == {whole.span_id}
