"""What a client may do before and after the gate: how large its headers are, how long they and its reading may take."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

logger = logging.getLogger(__name__)

CHUNKED = 8
"""Bytes beside each byte of a body: one that comes in chunks of one byte has five."""
LINGER_S = 2.0
"""Who still sends when it was answered may read the answer for so long, and is cut off then."""


class Connection(HttpToolsProtocol):
    """A connection of uvicorn with limits.

    Headers, with the line that they follow and what may stand behind a body, have `max_headers` bytes at most (431),
    and `headers_s` seconds from the first byte on, or from the opening of the connection (408; nothing is said where
    nothing was asked). A request that was answered before its body was there has `LINGER_S` seconds to end. How large
    and how slow a body may be before that is the gate's business.

    An answer must be read within `read_s` seconds, or the connection is cut. What counts is what the operating system
    does not take from us, since the client reads too slowly: its own buffers hold most answers whole.
    """

    max_headers: ClassVar[int]
    headers_s: ClassVar[float]
    read_s: ClassVar[float]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that we are told of every byte that waits, and of the last one
        self._reading: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._in_headers = True  # or between two requests
        self._begun = False
        self._refused = False
        self._forget_sizes()
        self._after(self.headers_s, self._headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        self._stop_timer()
        self._all_is_read()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client does not read as fast as we answer."""
        super().pause_writing()
        if self._reading is None:
            self._reading = self.loop.call_later(self.read_s, self._reads_too_slowly)

    def resume_writing(self) -> None:
        """All that was answered is sent."""
        super().resume_writing()
        self._all_is_read()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._refused:
            return
        if self._in_headers and self._timer is None:
            self._after(self.headers_s, self._headers_are_late)
        self._no_body += len(data)
        super().data_received(data)
        self._limit_headers(self._no_body - CHUNKED * self._body)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The headers of a request are there."""
        self._in_headers = False
        self._stop_timer()
        super().on_headers_complete()
        self._limit_headers(len(self.url) + sum(len(name) + len(value) for name, value in self.headers))

    def on_body(self, body: bytes) -> None:
        """A piece of a body is there."""
        self._no_body -= len(body)
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there with its body."""
        super().on_message_complete()
        self._in_headers, self._begun = True, False
        self._stop_timer()
        self._forget_sizes()

    def on_response_complete(self) -> None:
        """A request was answered."""
        super().on_response_complete()
        if not self._in_headers and self.cycle.response_complete:
            self._after(LINGER_S, self.transport.close)

    def _all_is_read(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _reads_too_slowly(self) -> None:
        left = self.transport.get_write_buffer_size()
        who = self.client[0] if self.client else "a client"
        logger.warning("%s: cut off with %d bytes of its answer unread after %g s", who, left, self.read_s)
        self.transport.abort()  # to close it would wait for the client

    def _limit_headers(self, size: int) -> None:
        if size > self.max_headers:
            self._refuse(431, f"the headers may have {self.max_headers} bytes at most, all together; send less")

    def _headers_are_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:  # what comes next has the time of this answer
            self._after(self.headers_s, self._headers_are_late)
        elif self._begun:
            self._refuse(408, f"the headers were not there within {self.headers_s:g} s; send them faster")
        else:
            self.transport.close()

    def _refuse(self, status: int, message: str) -> None:
        """Answer, and read nothing more."""
        if self._refused or self.transport.is_closing():
            return
        logger.warning("%s: %d, %s", self.client[0] if self.client else "a client", status, message)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if self.cycle.response_started:
                self.transport.close()
                return
        body = json.dumps({"error": "HTTPException", "message": message, "request_id": secrets.token_hex(8)})
        self.transport.write(
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
        )
        self._after(LINGER_S, self.transport.close)  # not at once: what it still sends would take the answer from it
        self._refused = True

    def _forget_sizes(self) -> None:
        """Count the bytes of the next request."""
        self._body = self._no_body = 0

    def _after(self, seconds: float, do: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, do)

    def _stop_timer(self) -> None:
        if self._timer is not None and not self._refused:
            self._timer.cancel()
            self._timer = None


def connections(*, max_headers: int, headers_s: float, read_s: float) -> type[Connection]:
    """For uvicorn's `http`: connections with these limits; see `Connection`."""
    limits = {"max_headers": max_headers, "headers_s": headers_s, "read_s": read_s}
    return type("Connection", (Connection,), limits)
