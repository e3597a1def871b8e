"""What every request passes first, its id, its key and its size, and the one line that is logged of it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from ipaddress import IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from llmgen.errors import ConfigError
from llmgen.server.metrics import Metrics
from llmgen.server.rates import Rates

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/health", "/ready", "/docs", "/openapi.json", "/playground"})
"""Answered without a key: they tell nothing of users or items."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SHORTEST_KEY = 16
SLOW_S = 1.0
"""Before a wrong key is answered."""
WAITING = 16
"""Wrong keys of one address that wait for their answer; while so many do, no other one from there is looked at."""
KNOWN = 10_000
"""Pairs of an address and its right key that are remembered: these are let in whoever else is at that address."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def read_keys(environment: str, file: Path | None) -> tuple[str, ...]:
    """API keys: those of an environment variable's value, between commas, and those of a file, one a line.

    Blank lines and what follows a `#` do not count.

    Raises:
        ConfigError: A key is shorter than 16 characters, the file cannot be read, or it holds no key.
    """
    keys = [key.strip() for key in environment.split(",") if key.strip()]
    if file is not None:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()  # Windows editors begin a file with a mark
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read API keys from {file}: {error}") from error
        found = [line.partition("#")[0].strip() for line in lines]
        if not any(found):
            raise ConfigError(f"{file} holds no API key; write one a line")
        keys += [key for key in found if key]
    for key in keys:
        if len(key) < SHORTEST_KEY:
            raise ConfigError(
                f"an API key of {len(key)} characters can be guessed; use {SHORTEST_KEY} or more, such as "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes"
            )
    return tuple(dict.fromkeys(keys))


def check_exposure(host: str, keys: Collection[str], *, insecure: bool) -> None:
    """Refuse to serve other machines without keys.

    Raises:
        ConfigError: There is no key, the host is not this machine's own, and `insecure` is not set.
    """
    if not keys and host not in LOOPBACK and not insecure:
        raise ConfigError(
            f"{host} can be reached from other machines, and no API key is set: set LLMGEN_API_KEYS or give "
            "--api-keys FILE, serve on 127.0.0.1, or say --insecure where something else guards the service"
        )


class AuthMiddleware:
    """ASGI middleware around the whole app.

    Args:
        app: What is behind it.
        keys: Accepted as `Authorization: Bearer KEY` or `X-API-Key: KEY`; none lets everybody in.
        max_body: Bytes of a request's body at most.
        body_s: Seconds that a body may take to arrive.
        metrics: Told of each request.
        rates: How many requests a key may make, or an address where there are no keys; None for any number.
    """

    def __init__(
        self,
        app: App,
        *,
        keys: Collection[str],
        max_body: int,
        body_s: float,
        metrics: Metrics,
        rates: Rates | None = None,
    ) -> None:
        self.app = app
        self.max_body = max_body
        self.body_s = body_s
        self.metrics = metrics
        self._rates = rates
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._wrong: Counter[str] = Counter()  # by address, those that wait
        self._known: set[tuple[str, bytes]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = {name: value for name, value in scope["headers"] if name in _READ}
        given = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        size, whole = 0, False
        too_large = f"the body may have {self.max_body} bytes at most; send less at once"

        async def limited() -> MutableMapping[str, Any]:
            nonlocal size, whole
            if whole:  # what comes now says that the client has gone, and may take as long as the answer
                return await receive()
            try:
                async with asyncio.timeout(self.body_s - (time.perf_counter() - began)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body was not there within {self.body_s:g} s; send it faster") from None
            whole = not message.get("more_body", False)
            size += len(message.get("body", b""))
            if size > self.max_body:
                raise HTTPException(413, too_large)
            return message

        length = headers.get(b"content-length", b"0")
        try:
            if scope["path"] not in OPEN and (refused := await self._refused(scope.get("client"), headers)):
                await _refuse(answer, *refused, request_id)
            elif not length.isdigit() or int(length) > self.max_body:
                await _refuse(answer, 413, too_large, request_id)
            else:
                await self.app(scope, limited, answer)
        except Exception:  # a mistake of ours; everything that can go wrong otherwise has its own answer
            logger.exception("%s failed", request_id)
            if status:
                raise  # the answer has begun, and can only be broken off
            message = "the service made a mistake; its log tells which"
            await _refuse(answer, 500, message, request_id)
        finally:
            seconds = time.perf_counter() - began
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(seconds)
            logger.info("%s %s %s %d %.1f ms", request_id, scope["method"], route, status, 1000 * seconds)

    async def _refused(
        self, client: tuple[str, int] | None, headers: MutableMapping[bytes, bytes]
    ) -> tuple[int, str] | None:
        """Status and message where no right key is given, or a right one too often."""
        key = _key(headers)
        if (refused := await self._wrong_key(client, key)) is not None or self._rates is None:
            return refused
        wait_s = self._rates.wait_s(hashlib.sha256(key).digest() if self._digests else address(client))
        return (429, f"so many requests are not allowed; ask again in {wait_s:.2g} s") if wait_s else None

    async def _wrong_key(self, client: tuple[str, int] | None, key: bytes) -> tuple[int, str] | None:
        """Status and message where no right key is given; a wrong one waits, so that guessing takes long."""
        if not self._digests:
            return None
        if not key:
            return 401, "give an API key as 'Authorization: Bearer KEY'"
        digest, where = hashlib.sha256(key).digest(), address(client)
        if (where, digest) in self._known:
            return None
        if self._wrong[where] >= WAITING:
            return 429, f"wrong API keys come from {where}, many at once; ask again in a second"
        if sum([hmac.compare_digest(digest, known) for known in self._digests]):  # all: as long whichever it is
            if len(self._known) >= KNOWN:
                self._known.clear()
            self._known.add((where, digest))
            return None
        self._wrong[where] += 1
        try:
            await asyncio.sleep(SLOW_S)
        finally:
            self._wrong[where] -= 1
            if not self._wrong[where]:
                del self._wrong[where]
        return 401, "this API key is wrong; give a right one as 'Authorization: Bearer KEY'"


def _key(headers: MutableMapping[bytes, bytes]) -> bytes:
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    return bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")


def address(client: tuple[str, int] | None) -> str:
    """Whose a connection is: an IPv4 address, or the /64 of an IPv6 address, all of which one client may have."""
    name = client[0] if client else ""
    try:
        found = ip_address(name.partition("%")[0])
    except ValueError:
        return name
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((int(found), 64), strict=False))
    return str(found)


_READ = frozenset({b"authorization", b"x-api-key", b"x-request-id", b"content-length"})


async def _refuse(send: Send, status: int, message: str, request_id: str) -> None:
    error = "InternalError" if status == 500 else "HTTPException"
    body = json.dumps({"error": error, "message": message, "request_id": request_id}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
