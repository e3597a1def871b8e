"""HTTP with time limits and retries, for what asks a server: the service's client and the OpenAI-compatible engine.

Everything sent here may be sent twice: recommending, scoring and putting an item have the same effect however often
they are done. So a request is sent again after a lost connection, and after the answers 429, 500, 502 and 503, which say
that it was not served; the pauses grow, are spread at random, and never fall short of what `Retry-After` asks for.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx2

from llmgen.errors import APIConnectionError, APITimeoutError

AGAIN = frozenset({429, 500, 502, 503})


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
            raise ValueError(f"attempts must be 1 or more, not {self.attempts}")
        if not (self.pause_s >= 0 and self.longest_pause_s >= 0):
            raise ValueError(f"pauses must be 0 or more seconds, not {self.pause_s} and {self.longest_pause_s}")

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
        if not timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, not {timeout_s}")
        self.base_url = base_url.rstrip("/")
        self.timeout_s = timeout_s
        self.retry = retry or Retry()
        try:
            httpx2.URL(self.base_url)
        except httpx2.InvalidURL as error:
            raise ValueError(f"{base_url!r} is no URL: {error}") from None
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"a server's URL begins with http:// or https://, not {base_url!r}")
        self.options: dict[str, Any] = {
            "base_url": self.base_url,
            "headers": dict(headers or {}),
            "timeout": httpx2.Timeout(timeout_s),
            "limits": httpx2.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
        }
        if transport is not None:
            self.options["transport"] = transport

    def failure(self, error: httpx2.TransportError, path: str) -> APIConnectionError | APITimeoutError:
        if isinstance(error, httpx2.TimeoutException):
            return APITimeoutError(f"{self.base_url}{path} did not answer within {self.timeout_s:g} s")
        why = str(error) or type(error).__name__
        return APIConnectionError(f"cannot reach {self.base_url}{path}: {why}; is the server up?")

    def again(self, attempt: int, response: httpx2.Response | None) -> float | None:
        if response is not None and response.status_code not in AGAIN:
            return None
        return self.retry.pause(attempt, None if response is None else response.headers.get("retry-after"))


class Transport(_Settings):
    """Blocking requests over kept connections; may be used by several threads at once.

    Args:
        base_url: Of the server, without a slash at the end.
        timeout_s: For connecting, and for each wait for more of an answer.
        headers: Sent with every request.
        retry: See `Retry`.
        max_connections: Open at once; further requests wait for one.
        transport: A transport of httpx2, for tests.

    Raises:
        ValueError: A URL that is none, or a time limit out of range.
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
            failure = None
            response = None
            try:
                response = self._client.request(method, path, content=body, headers=headers)
            except httpx2.TransportError as error:
                failure = self.failure(error, path)
            pause = self.again(attempt, response)
            if pause is not None:
                time.sleep(pause)
            elif response is not None:
                return Response(response.status_code, response.content, response.headers)
            elif failure is not None:
                raise failure

    def stream(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[Response]:
        """Send a request once, and give each line of the answer as a `Response` as soon as it is there.

        Raises:
            APIConnectionError, APITimeoutError: The answer did not come, or broke off.
        """
        try:
            with self._client.stream(method, path, content=body, headers=headers) as response:
                for line in response.iter_lines():
                    yield Response(response.status_code, line.encode(), response.headers)
        except httpx2.TransportError as error:
            raise self.failure(error, path) from error

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
        """See `Transport.request`."""
        attempt = 0
        while True:
            attempt += 1
            failure = None
            response = None
            try:
                response = await self._client.request(method, path, content=body, headers=headers)
            except httpx2.TransportError as error:
                failure = self.failure(error, path)
            pause = self.again(attempt, response)
            if pause is not None:
                await asyncio.sleep(pause)
            elif response is not None:
                return Response(response.status_code, response.content, response.headers)
            elif failure is not None:
                raise failure

    async def stream(
        self, method: str, path: str, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Response]:
        """See `Transport.stream`."""
        try:
            async with self._client.stream(method, path, content=body, headers=headers) as response:
                async for line in response.aiter_lines():
                    yield Response(response.status_code, line.encode(), response.headers)
        except httpx2.TransportError as error:
            raise self.failure(error, path) from error

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()
