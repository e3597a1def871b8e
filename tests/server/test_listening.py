"""Ports: several sockets of one service on one, nobody else beside them, and connections for all of them."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from llmgen.errors import ConfigError
from llmgen.server.listening import SPREADS, SharedPort, listen

HOST = "127.0.0.1"


def ended_first(listener: socket.socket) -> None:
    """A connection that the service ends first: its address is in use for a minute after that."""
    with socket.create_connection(listener.getsockname()[:2]) as client:
        accepted, _ = listener.accept()
        accepted.close()
        assert client.recv(1) == b""


def waiting(listener: socket.socket) -> int:
    """How many connections wait to be accepted; they are accepted, all that there are, as a server's loop does."""
    listener.setblocking(False)
    count = 0
    while True:
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            return count
        accepted.close()
        count += 1


@pytest.mark.skipif(not SPREADS, reason="one socket for all")
def test_connections_are_spread_over_the_workers() -> None:
    with SharedPort(HOST, 0) as port, ExitStack() as held:
        sockets = [held.enter_context(port.listen()) for _ in range(2)]
        for _ in range(200):
            held.enter_context(socket.create_connection(port.address))
        counts = [waiting(one) for one in sockets]
    assert sum(counts) == 200
    assert min(counts) > 60  # 100 each with a deviation of 7, if the system draws evenly


def test_a_port_is_kept_from_others_before_and_while_workers_listen() -> None:
    with SharedPort(HOST, 0) as port, ExitStack() as held:
        for _ in range(2):
            with pytest.raises(ConfigError, match="give another --host or --port"):
                listen(HOST, port.address[1])
            with pytest.raises(ConfigError, match="cannot listen"):
                SharedPort(HOST, port.address[1])
            held.enter_context(port.listen())


def test_a_service_is_started_again_where_connections_of_the_last_one_still_end() -> None:
    with listen(HOST, 0) as alone:
        number = alone.getsockname()[1]
        ended_first(alone)
    with SharedPort(HOST, number) as port, port.listen() as worker:
        ended_first(worker)
    with listen(HOST, number) as again:
        ended_first(again)


def test_addresses_of_version_6() -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        return  # this machine has none
    with SharedPort("::1", 0) as port, port.listen() as worker:
        ended_first(worker)
