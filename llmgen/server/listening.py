"""Listening: the socket of a service, and the port that its workers share."""

from __future__ import annotations

import socket
import sys
from types import TracebackType
from typing import Self

from llmgen.errors import ConfigError

BACKLOG = 2048
"""Connections that may wait to be accepted."""
SPREADS = sys.platform == "linux"
"""Whether the system spreads connections over the sockets of a port (`SO_REUSEPORT`)."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there alone; port 0 takes a free one.

    Raises:
        ConfigError: Another process listens there, or the host is none of this machine.
    """
    try:
        return socket.create_server((host, port), family=_family(host, port), backlog=BACKLOG)
    except OSError as error:
        raise _refused(host, port, error) from error


class SharedPort:
    """A port on which each worker of a service listens with a socket of its own.

    Of one socket for all, whoever is idle accepts every connection that waits, and keeps it. Of several the system
    chooses one for each connection, by its addresses, so that all get about as many. Where it does not, the workers
    have one socket. The port is kept from others as long as this is open, also while no worker listens.

    Args:
        host: To listen on.
        port: 0 takes a free one.

    Raises:
        ConfigError: See `listen`.

    Attributes:
        address: Host and port, as a socket tells them.
    """

    def __init__(self, host: str, port: int) -> None:
        self._held = listen(host, port)  # where another process listens, this is refused
        self.address = self._held.getsockname()
        if SPREADS:
            self._held.close()
            try:
                self._held = _kept(self._held.family, self.address)
            except OSError as error:
                raise _refused(host, port, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def listen(self) -> socket.socket:
        """A socket of the worker that calls this; until then it gets no connections."""
        if not SPREADS:
            return self._held.dup()
        return socket.create_server(self.address[:2], family=self._held.family, backlog=BACKLOG, reuse_port=True)


def _kept(family: int, address: tuple[str, int]) -> socket.socket:
    """A socket that keeps a port and takes no connections: only sockets of this user that share it may be there too."""
    held = socket.socket(family)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of an earlier service may still end
        held.bind(address)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # or a socket that does not share could listen here
    except BaseException:
        held.close()
        raise
    return held


def _family(host: str, port: int) -> int:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]


def _refused(host: str, port: int, error: OSError) -> ConfigError:
    return ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}; give another --host or --port")
