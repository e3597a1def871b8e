"""HTTP with time limits and retries, for what asks a server: the service's client and the OpenAI-compatible engine.

Everything sent here may be sent twice: recommending, scoring and putting an item have the same effect however often
they are done. So a request is sent again after a lost connection, and after the answers 429, 500, 502 and 503, which
say that it was not served; the pauses grow, are spread at random, and never fall short of what `Retry-After` asks for.
It is not sent again after a wait that ran out: who sets a time limit would otherwise wait for several of them.
"""

from __future__ import annotations

import asyncio
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.request import getproxies, proxy_bypass

import httpx2

from llmgen.errors import APIConnectionError, APITimeoutError, ArgumentError

AGAIN = frozenset({429, 500, 502, 503})
LOST = (httpx2.TransportError, httpx2.DecodingError)  # a compressed answer that broke off cannot be decoded
MAX_BODY = 1 << 26  # bytes of an answer: one that a search asks for has some hundred thousand
WAITS = 3  # so many times a wait's limit one attempt of asyncio may take, however steadily an answer drips in
LOOK_S = 0.05  # how often a request that goes on looks whether anybody waits for it

_UNTIL: ContextVar[Callable[[], float]] = ContextVar("until", default=lambda: math.inf)


@contextmanager
def until(deadline: Callable[[], float]) -> Iterator[None]:
    """Within it, no request of a `StoppableTransport` in this context goes on behind a time of `time.monotonic`.

    Args:
        deadline: Asked every `LOOK_S` seconds; -inf where nobody waits any more.
    """
    before = _UNTIL.set(deadline)
    try:
        yield
    finally:
        _UNTIL.reset(before)


@dataclass(frozen=True, slots=True)
class Retry:
    """When to send a request again.

    Attributes:
        attempts: How often it is sent at most, 1 or more.
        pause_s: Before the second attempt; doubled before each further one, and spread over half to one and a half.
        longest_pause_s: No pause is longer. Where `Retry-After` asks for more, the answer is given as it is.
    """

    attempts: int = 4
    pause_s: float = 0.25
    longest_pause_s: float = 10.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ArgumentError(f"attempts must be 1 or more, not {self.attempts}")
        if not (self.pause_s >= 0 and self.longest_pause_s >= 0):
            raise ArgumentError(f"pauses must be 0 or more seconds, not {self.pause_s} and {self.longest_pause_s}")

    def pause(self, attempt: int, retry_after: str | None = None) -> float | None:
        """Seconds to wait after an attempt (the first is 1) before the next; None if there is to be none."""
        if attempt >= self.attempts:
            return None
        wait = min(self.pause_s * 2.0 ** (attempt - 1) * random.uniform(0.5, 1.5), self.longest_pause_s)
        try:
            asked = float(retry_after or 0)
        except ValueError:  # a date; servers of ours and of vLLM send seconds
            asked = 0.0
        return None if asked > self.longest_pause_s else max(wait, asked)


class Response(NamedTuple):
    """An answer, whatever its status."""

    status: int
    body: bytes
    headers: Mapping[str, str]


class _Settings:
    """What the two transports share: how the library's client is made, and what its errors mean."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None,
        retry: Retry | None,
        max_connections: int,
        transport: Any,
    ) -> None:
        if not (timeout_s > 0 and math.isfinite(timeout_s)):
            raise ArgumentError(f"timeout_s must be above 0 and finite, not {timeout_s}")
        if max_connections < 1:
            raise ArgumentError(f"max_connections must be 1 or more, not {max_connections}")
        self.timeout_s = timeout_s
        self.retry = retry or Retry()
        try:
            url = httpx2.URL(base_url.rstrip("/"))
        except httpx2.InvalidURL as error:
            raise ArgumentError(f"{base_url!r} is no URL: {error}") from None
        if url.scheme not in ("http", "https") or not url.host or not 0 < (url.port or 80) < 65536:
            raise ArgumentError(f"a server's URL is like http://localhost:8000, not {base_url!r}")
        self.base_url = str(url.copy_with(username="", password="")).rstrip("/")  # for messages: without a password
        for name, value in (headers or {}).items():
            if not (value.isascii() and value.isprintable()):  # here, since the library's own error shows the value
                raise ArgumentError(f"the value of the header {name!r} has characters that no header may hold")
        self.options: dict[str, Any] = {
            "base_url": url,
            "headers": dict(headers or {}),
            "timeout": httpx2.Timeout(timeout_s),
            "limits": httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
        }
        if transport is not None:
            self.options["transport"] = transport

    def failure(self, error: httpx2.RequestError, path: str) -> APIConnectionError | APITimeoutError:
        why = str(error) or type(error).__name__
        made: APIConnectionError | APITimeoutError
        if isinstance(error, httpx2.TimeoutException):
            made = APITimeoutError(f"{self.base_url}{path} did not answer within {self.timeout_s:.4g} s")
        elif isinstance(error, httpx2.ConnectError):
            host = httpx2.URL(self.base_url).host
            proxied = httpx2.URL(self.base_url).scheme in getproxies() and not proxy_bypass(host)
            hint = (
                f"a proxy is set for it (HTTP_PROXY); NO_PROXY={host} goes without" if proxied else "is the server up?"
            )
            made = APIConnectionError(f"cannot reach {self.base_url}{path}: {why}; {hint}")
        else:
            made = APIConnectionError(f"{self.base_url}{path} broke off: {why}; is the server still up?")
        made.__cause__ = error
        return made

    def again(self, attempt: int, outcome: Response | APIConnectionError | APITimeoutError) -> float | None:
        """Seconds to wait before the next attempt; None if the outcome stands."""
        if isinstance(outcome, Response):
            if outcome.status not in AGAIN:
                return None
            return self.retry.pause(attempt, outcome.headers.get("retry-after"))
        return None if isinstance(outcome, APITimeoutError) else self.retry.pause(attempt)


class Transport(_Settings):
    """Blocking requests over kept connections; may be used by several threads at once.

    Args:
        base_url: Of the server, without a slash at the end.
        timeout_s: For connecting, for each wait for more of an answer, and for a free connection.
        headers: Sent with every request.
        retry: See `Retry`.
        max_connections: Open at once; further requests wait for one.
        transport: A transport of httpx2, for tests.

    Raises:
        ValueError: A URL that is none, a number out of range, or a header's value that cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
        max_connections: int = 64,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        super().__init__(
            base_url,
            timeout_s=timeout_s,
            headers=headers,
            retry=retry,
            max_connections=max_connections,
            transport=transport,
        )
        self._client = httpx2.Client(**self.options)

    def request(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request, again where that may help, and read the whole answer.

        Raises:
            APIConnectionError, APITimeoutError: No attempt got an answer.
        """
        attempt = 0
        while True:
            attempt += 1
            outcome: Response | APIConnectionError | APITimeoutError
            try:
                got = self._client.request(method, path, content=body, headers=headers)
                outcome = Response(got.status_code, got.content, got.headers)
            except LOST as error:
                outcome = self.failure(error, path)
            pause = self.again(attempt, outcome)
            if pause is not None:
                time.sleep(pause)
            elif isinstance(outcome, Response):
                return outcome
            else:
                raise outcome

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class AsyncTransport(_Settings):
    """The same as `Transport`, for asyncio."""

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
        max_connections: int = 64,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(
            base_url,
            timeout_s=timeout_s,
            headers=headers,
            retry=retry,
            max_connections=max_connections,
            transport=transport,
        )
        self._client = httpx2.AsyncClient(**self.options)

    async def request(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """See `Transport.request`.

        Raises:
            APIConnectionError, APITimeoutError: No attempt got an answer, or only one that is too large.
        """
        attempt = 0
        while True:
            attempt += 1
            outcome: Response | APIConnectionError | APITimeoutError
            try:
                async with asyncio.timeout(WAITS * self.timeout_s):
                    outcome = await self._once(method, path, body, headers)
            except TimeoutError:
                seconds = WAITS * self.timeout_s
                outcome = APITimeoutError(f"{self.base_url}{path} did not answer in full within {seconds:.4g} s")
            except LOST as error:
                outcome = self.failure(error, path)
            pause = self.again(attempt, outcome)
            if pause is not None and time.monotonic() + pause < _UNTIL.get()():
                await asyncio.sleep(pause)
            elif isinstance(outcome, Response):
                return outcome
            else:
                raise outcome

    async def _once(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None) -> Response:
        async with self._client.stream(method, path, content=body, headers=headers) as response:
            read = bytearray()
            async for part in response.aiter_bytes():
                read += part
                if len(read) > MAX_BODY:
                    raise APIConnectionError(f"{self.base_url}{path} answers with more than {MAX_BODY:,} bytes")
            return Response(response.status_code, bytes(read), response.headers)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()


class StoppableTransport:
    """Blocking requests that end when nobody waits for them any more; may be used by several threads at once.

    An `AsyncTransport` in a thread of its own sends them: there, a request can be ended while it connects, waits, reads
    an answer that drips in, or pauses between two attempts. The server sees that its client has gone.

    Args:
        base_url: See `Transport`, as all others.
        timeout_s: See there.
        headers: See there.
        retry: See there.
        max_connections: See there.

    Raises:
        ValueError: See `Transport`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        retry: Retry | None = None,
        max_connections: int = 64,
    ) -> None:
        self._sender = AsyncTransport(
            base_url, timeout_s=timeout_s, headers=headers, retry=retry, max_connections=max_connections
        )
        self.base_url = self._sender.base_url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llmgen-transport", daemon=True)
        self._thread.start()

    def request(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """See `Transport.request`.

        Raises:
            APIConnectionError, APITimeoutError: No attempt got an answer, or only one that is too large, or none within
                the time that `until` says.
        """
        deadline = _UNTIL.get()
        began = time.monotonic()
        if deadline() <= began:
            raise APITimeoutError(f"{self.base_url}{path} was not asked: nobody waits for its answer any more")
        sent = asyncio.run_coroutine_threadsafe(
            self._sender.request(method, path, body=body, headers=headers), self._loop
        )
        while not wait([sent], min(LOOK_S, max(deadline() - time.monotonic(), 0.0))).done:
            if time.monotonic() >= deadline():
                sent.cancel()
                waited = time.monotonic() - began
                raise APITimeoutError(f"{self.base_url}{path} did not answer in full within {waited:.4g} s")
        return sent.result()

    def close(self) -> None:
        """Close all connections; nothing can be asked afterwards."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._sender.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
