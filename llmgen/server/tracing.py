"""Tracing: where the time of each request went, as spans of OpenTelemetry.

A request is one span, `POST /v1/recommend`, a child of the caller's where its headers name one (`traceparent`). Below
it are `queue` (until work begins), `search` (the work: prompts, model and search together) and `store` (the database).
No span holds an id of a user, a title or a wish.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from llmgen.errors import ConfigError
from llmgen.server.auth import App, Receive, Scope, Send

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer


class Tracing:
    """The spans of one app.

    Args:
        tracer: Makes them; None for none at all.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    def span(self, name: str) -> AbstractContextManager[Any]:
        """A span below the one that is current, for a `with` block."""
        return nullcontext() if self._tracer is None else self._tracer.start_as_current_span(name)

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
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, StatusCode

        above = extract({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]})
        method = scope["method"]
        with self._tracer.start_as_current_span(method, above, kind=SpanKind.SERVER) as span:

            async def answer(message: Any) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            try:
                await self.app(scope, receive, answer)
            finally:
                route = getattr(scope.get("route"), "path", "")
                span.update_name(f"{method} {route}".strip())
                span.set_attribute("http.request.method", method)
                span.set_attribute("http.route", route)
                span.set_attribute("llmgen.request_id", scope.get("state", {}).get("request_id", ""))


def otlp_tracer() -> tuple[Tracer, Callable[[], None]]:
    """A tracer that sends spans by OTLP over HTTP, as the environment says (`OTEL_EXPORTER_OTLP_ENDPOINT`, ...).

    Returns:
        The tracer, and what is to be called at the end: it sends what is left.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ConfigError(f"--trace needs {error.name}; pip install 'llmgen[otel]'") from None
    name = os.environ.get("OTEL_SERVICE_NAME", "llmgen")
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("llmgen"), provider.shutdown
