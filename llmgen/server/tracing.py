"""Tracing: where the time of each request went, as spans of OpenTelemetry.

A request is one span, `POST /v1/recommend`, a child of the caller's where its headers name one (`traceparent`). Below
it are `queue` (until work begins), `search` (the work: prompts, model and search together) and `store` (the database).
What failed is an error with the kind of it (`error.type`); messages are left out, as paths are: no span holds an id of
a user, a title or a wish. Probes (`UNTRACED`) have no spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmgen import __version__
from llmgen.errors import ConfigError
from llmgen.server.auth import App, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

UNTRACED = ("/health", "/ready", "/metrics")
"""Paths that are asked every few seconds, for ever."""


class Tracing:
    """The spans of one app.

    Args:
        tracer: Makes them; None for none at all.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A span below the one that is current, for a `with` block."""
        if self._tracer is None:
            yield
            return
        # the SDK would write down the messages of exceptions, in which there may be anything
        with self._tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as span:
            try:
                yield
            except Exception as error:
                _fail(span, type(error).__name__)
                raise

    def steps(self, *names: str) -> Steps:
        """Spans below the one that is current, one after the other; the first begins now."""
        return Steps(self._tracer, names)


class Steps:
    """Spans of which each begins where the one before ends; see `Tracing.steps`.

    Args:
        tracer: Makes them; None for none at all.
        names: Of the spans, in their order.
    """

    def __init__(self, tracer: Tracer | None, names: tuple[str, ...]) -> None:
        self._tracer, self._left = tracer, list(names)
        self._span: Span | None = None
        self._above: Context | None = None
        if tracer is not None:
            from opentelemetry.context import get_current

            self._above = get_current()  # who calls `next` has another one
            self.next()

    def next(self) -> None:
        """End the span, and begin the next one, if there is one left."""
        if self._tracer is None or not self._left:
            return
        if self._span is not None:
            self._span.end()
        self._span = self._tracer.start_span(self._left.pop(0), context=self._above)

    def fail(self, error: Exception) -> None:
        """The step under way has failed."""
        if self._span is not None:
            _fail(self._span, type(error).__name__)

    def end(self) -> None:
        """End the span; what was not begun never is."""
        self._left.clear()
        if self._span is not None:
            self._span.end()
            self._span = None


class TracingMiddleware:
    """ASGI middleware around the whole app: a span a request.

    Args:
        app: What is behind it.
        tracer: Makes the spans.
    """

    def __init__(self, app: App, *, tracer: Tracer) -> None:
        self.app, self._tracer = app, tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self.app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind

        above = extract(_joined(scope["headers"]))
        method = scope["method"]
        about = {"http.request.method": method, "url.scheme": scope["scheme"]}
        with self._tracer.start_as_current_span(
            method, above, kind=SpanKind.SERVER, attributes=about, record_exception=False, set_status_on_exception=False
        ) as span:

            async def answer(message: Any) -> None:
                if message["type"] == "http.response.start":
                    _answered(span, message["status"], str(message["status"]))
                await send(message)

            try:
                await self.app(scope, receive, answer)
            except Exception as error:  # a fault of ours, which is answered by 500 outside of this
                _answered(span, 500, type(error).__name__)
                raise
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                span.set_attribute("llmgen.request_id", scope.get("state", {}).get("request_id", ""))


def _fail(span: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _answered(span: Span, status: int, kind: str) -> None:
    """Note the status of an answer; where it is a fault of the service, what kind of one."""
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        _fail(span, kind)


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers by name; values of one name, such as `tracestate` may have, separated by commas."""
    found: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        found[key] = f"{found[key]},{text}" if key in found else text
    return found


def otlp_tracer() -> tuple[Tracer, Callable[[], None]]:
    """A tracer that sends spans by OTLP over HTTP, as the environment says.

    Of its variables, `OTEL_EXPORTER_OTLP_ENDPOINT` is http://localhost:4318 by default, and `OTEL_SERVICE_NAME` llmgen.

    Returns:
        The tracer, and what is to be called at the end: it sends what is left.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigError(f"--trace needs {error.name}; pip install 'llmgen[otel]'") from None
    own = {SERVICE_NAME: "llmgen", SERVICE_VERSION: __version__}
    provider = TracerProvider(resource=Resource.create({**own, **OTELResourceDetector().detect().attributes}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("llmgen"), provider.shutdown
