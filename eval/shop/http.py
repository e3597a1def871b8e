"""Requests over HTTP that cost as little as can be, since their sender shares the cores with the service."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

LINES, JSON = "application/x-ndjson", "application/json"
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: (\d+)")
_CATALOG = re.compile(rb"(?i)\r\nx-catalog: (\S+)")
FAILURES = (OSError, asyncio.IncompleteReadError, TimeoutError)
"""What happens to a request whose service is killed."""
PATIENCE_S = 60.0


class Answer(NamedTuple):
    """What came back.

    Attributes:
        status: Of HTTP.
        catalog: Header `X-Catalog`, empty where there is none.
        body: As it came.
    """

    status: int
    catalog: str
    body: bytes

    def read(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


class Line:
    """One kept connection to a service; opened when it is first needed, and anew after a failure.

    Args:
        host: Of the service.
        port: Of the service.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, document: Mapping[str, Any] | bytes = b"") -> Answer:
        """Send and wait.

        Args:
            method: Of HTTP.
            path: Of the URL.
            document: JSON, or lines of it.

        Raises:
            OSError, asyncio.IncompleteReadError, TimeoutError: See `FAILURES`.
        """
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        kind = LINES if isinstance(document, bytes) else JSON
        head = f"{method} {path} HTTP/1.1\r\nHost: shop\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._open is None:
                    self._open = await asyncio.open_connection(*self._address)
                reader, writer = self._open
                writer.write(head.encode() + body)
                await writer.drain()
                top = await reader.readuntil(b"\r\n\r\n")
                length = _LENGTH.search(top)
                found = _CATALOG.search(top)
                read = await reader.readexactly(int(length[1]) if length else 0)
        except FAILURES:
            self.close()
            raise
        if re.search(rb"(?i)\r\nconnection: close", top):
            self.close()
        return Answer(int(top[9:12]), found[1].decode() if found else "", read)

    def close(self) -> None:
        """Hang up."""
        if self._open is not None:
            self._open[1].close()
            self._open = None
