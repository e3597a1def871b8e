"""What a client sends before it is known who it is: size and time of headers and bodies, wrong keys; on a socket."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from llmgen.catalog.core import Catalog
from llmgen.recommend.recommender import Recommender
from llmgen.server import AppSettings, Limits, auth, create_app
from llmgen.server.auth import WAITING, address
from llmgen.types import Item
from tests.server.conftest import running
from tests.server.test_app import Held

KEY = "a-key-of-the-tests"
LINGER_S = 0.5
SHORT = Limits(headers_s=0.5, timeout_s=0.5)
LINE = b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgen.server.connection.LINGER_S", LINGER_S)


SLACK_S = 5.0
"""For a machine that does much else; what is looked for would take minutes, or for ever."""


@pytest.fixture
def url(small: Catalog) -> Iterator[str]:
    with running(create_app(Recommender(small, None), AppSettings(keys=[KEY], limits=SHORT))) as url:
        yield url


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        yield connection


def said(connection: socket.socket) -> bytes:
    """All that comes until the server ends the connection."""
    read = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65_536):
            read += piece
    return read


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def sent(connection: socket.socket, pieces: Iterator[bytes], every_s: float = 0.0) -> bytes:
    """What is answered while pieces are sent, and until the server ends the connection; they stop when it does."""
    answers: list[bytes] = []
    reading = threading.Thread(target=lambda: answers.append(said(connection)))
    reading.start()
    with contextlib.suppress(OSError):
        for piece in pieces:
            if not reading.is_alive():
                break
            connection.sendall(piece)
            time.sleep(every_s)
    reading.join(20)
    return answers[0]


def one_large_header() -> Iterator[bytes]:
    yield LINE + b"x-large: "
    for _ in range(1_000):
        yield b"x" * 64_000


def many_headers() -> Iterator[bytes]:
    yield LINE
    for number in range(20_000):
        yield f"x-{number}: {'y' * 100}\r\n".encode()


def large_line() -> Iterator[bytes]:
    yield b"GET /health?"
    for _ in range(1_000):
        yield b"x" * 64_000


def after_the_body() -> Iterator[bytes]:
    yield LINE + f"x-api-key: {KEY}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    yield b'8\r\n{"k": 1}\r\n0\r\nx-large: '
    for _ in range(1_000):
        yield b"x" * 64_000


@pytest.mark.parametrize("pieces", [one_large_header, many_headers, large_line, after_the_body])
def test_headers_have_a_size_all_together(url: str, pieces: Callable[[], Iterator[bytes]]) -> None:
    """64 MB each: what is not limited takes seconds, and blocks everybody."""
    with connected(url) as connection:
        start = time.monotonic()
        answer = sent(connection, pieces())
        assert status(answer) == 431, answer[:200]
        assert b"65536 bytes at most" in answer
        assert time.monotonic() - start < LINGER_S + SLACK_S
    assert httpx2.get(f"{url}/health").status_code == 200


@pytest.mark.parametrize(("size", "expected"), [(64_000, 200), (66_000, 431)])
def test_the_size_counts_for_headers_that_come_at_once(url: str, size: int, expected: int) -> None:
    with connected(url) as connection:
        connection.sendall(
            b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-large: " + b"x" * size + b"\r\n\r\n"
        )
        assert status(said(connection)) == expected


def test_a_body_of_any_pieces_is_no_header(url: str) -> None:
    body = json.dumps({"text": "x" * 9_000, "k": 1}).encode()
    with connected(url) as connection:
        connection.sendall(
            LINE + f"x-api-key: {KEY}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n".encode()
        )
        connection.sendall(b"connection: close\r\n\r\n")
        connection.sendall(b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert status(said(connection)) == 200


@pytest.mark.parametrize(
    ("begin", "every", "expected"),
    [(LINE, b"x", 408), (b"GET /", b"x", 408), (b"", b"\r\n", 0), (b"", b"", 0)],
    ids=["in a header", "in the first line", "line breaks", "nothing"],
)
def test_headers_that_drip_in_are_cut(url: str, begin: bytes, every: bytes, expected: int) -> None:
    with connected(url) as connection:
        start = time.monotonic()
        answer = sent(connection, (begin if not number else every for number in range(200)), 0.05)
        assert status(answer) == expected, answer[:200]
        assert time.monotonic() - start < SHORT.headers_s + LINGER_S + SLACK_S
        assert expected == 0 or b"were not there within 0.5 s" in answer


def test_the_headers_of_each_request_of_a_connection_have_their_time(url: str) -> None:
    request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
    with connected(url) as connection:
        for _ in range(3):
            connection.sendall(request)
            assert status(connection.recv(65_536)) == 200
            time.sleep(0.4)
        connection.sendall(request[:-2])
        assert status(said(connection)) == 408


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (f"x-api-key: {KEY}\r\ncontent-type: application/json\r\n", 408),
        ("", 401),
        (f"x-api-key: {KEY}\r\nexpect: 100-continue\r\n", 408),
    ],
    ids=["a body that is wanted", "no key", "asked whether to send"],
)
def test_bodies_that_drip_in_are_cut_whatever_was_answered(url: str, head: str, expected: int) -> None:
    """What was answered before all of it was read holds a connection no longer than `LINGER_S`."""
    with connected(url) as connection:
        start = time.monotonic()
        pieces = (LINE + f"{head}content-length: 9000\r\n\r\n".encode() if not n else b" " for n in range(200))
        answer = sent(connection, pieces, 0.05)
        assert status(answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")) == expected, answer[:200]
        assert time.monotonic() - start < SHORT.timeout_s + LINGER_S + SLACK_S


def test_a_body_that_nobody_wants_is_read_for_a_moment_and_cut(url: str) -> None:
    with connected(url) as connection:
        start = time.monotonic()
        pieces = (LINE + b"content-length: 9000000000\r\n\r\n" if not n else b" " * 64_000 for n in range(10_000_000))
        assert status(sent(connection, pieces)) == 401
        assert time.monotonic() - start < LINGER_S + SLACK_S


def test_what_is_sent_ahead_has_the_time_of_the_answer_before_it(small: Catalog) -> None:
    """Some clients send a line break behind a body; that begins no request."""
    engine = Held()
    limits = Limits(headers_s=0.2)
    with (
        running(create_app(Recommender(small, engine), AppSettings(limits=limits))) as url,
        connected(url) as connection,
    ):
        body = b'{"k": 1}'
        connection.sendall(
            LINE + b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s\r\n" % (len(body), body)
        )
        assert engine.asked.wait(10)
        time.sleep(0.7)
        engine.let_go.set()
        assert status(connection.recv(65_536)) == 200


def test_who_is_slow_holds_up_nobody(url: str) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(connected(url)) for _ in range(100)]
        for connection in slow:
            connection.sendall(LINE)
        start = time.monotonic()
        assert httpx2.post(f"{url}/v1/recommend", json={"k": 1}, headers={"x-api-key": KEY}).status_code == 200
        assert time.monotonic() - start < SHORT.headers_s  # of those who are slow


# Answers that nobody reads


LARGE = Catalog([Item(str(number), f"{number} {'long ' * 1_900}") for number in range(900)])
"""An answer with all of it has 9 MB: more than the operating system's buffers hold."""


@pytest.mark.parametrize(
    ("piece", "every_s", "whole"),
    [(0, 0.0, False), (1, 0.05, False), (1 << 20, 0.05, True)],
    ids=["reads nothing", "a byte at a time", "reads it in time"],
)
def test_who_does_not_read_an_answer_in_time_is_cut(piece: int, every_s: float, whole: bool) -> None:
    read_s = 20.0 if whole else 0.5
    app = create_app(Recommender(LARGE, None), AppSettings(limits=Limits(read_s=read_s)))
    with running(app) as url, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(30)
        host, _, port = url.removeprefix("http://").partition(":")
        connection.connect((host, int(port)))
        body = b'{"k": 900}'
        head = b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
        connection.sendall(LINE + head)
        start, read = time.monotonic(), connection.recv(1_024)
        assert status(read) == 200
        length = int(read.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while not whole and time.monotonic() - start < read_s + 2:
            time.sleep(every_s or 0.1)
            with contextlib.suppress(ConnectionError):
                read += connection.recv(piece) if piece else b""
        while len(read) < length:
            try:
                got = connection.recv(1 << 20)
            except ConnectionError:
                break
            if not got:
                break
            read += got
        assert (len(read) >= length) == whole, (len(read), length)
        assert httpx2.get(f"{url}/health").status_code == 200


# Wrong keys


def asked(url: str, key: str, source: str = "127.0.0.1") -> tuple[int, float]:
    """The status of a request from an address of this machine, and the seconds that it took."""
    transport = httpx2.HTTPTransport(local_address=source)
    with httpx2.Client(transport=transport, timeout=20) as client:
        start = time.monotonic()
        answer = client.post(f"{url}/v1/recommend", json={"k": 1}, headers={"x-api-key": key} if key else {})
        assert answer.status_code != 429 or answer.headers["retry-after"] == "1"
        return answer.status_code, time.monotonic() - start


@pytest.fixture
def patient(small: Catalog) -> Iterator[str]:
    """A service that waits for a busy machine's requests."""
    with running(create_app(Recommender(small, None), AppSettings(keys=[KEY]))) as url:
        yield url


@pytest.fixture
def slow_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds that a wrong key waits: so many that a busy machine can ask many things meanwhile."""
    monkeypatch.setattr(auth, "SLOW_S", 4.0)
    return 4.0


def test_a_wrong_key_waits_and_a_missing_or_right_one_does_not(patient: str, slow_s: float) -> None:
    code, seconds = asked(patient, "a-key-that-is-wrong")
    assert (code, seconds > 0.9 * slow_s) == (401, True)
    code, seconds = asked(patient, "")
    assert (code, seconds < 0.5 * slow_s) == (401, True)
    code, seconds = asked(patient, KEY)
    assert (code, seconds < 0.5 * slow_s) == (200, True)


def test_wrong_keys_of_one_address_are_few_and_hold_up_no_other(patient: str, slow_s: float) -> None:
    assert asked(patient, KEY)[0] == 200  # it is known from now on
    with ThreadPoolExecutor(3 * WAITING) as pool:
        start = time.monotonic()
        wrong = [pool.submit(asked, patient, f"a-key-that-is-wrong-{number}") for number in range(3 * WAITING)]
        time.sleep(0.3 * slow_s)
        for source in ("127.0.0.2", "127.0.0.1"):
            code, seconds = asked(patient, KEY, source)
            assert (code, seconds < 0.4 * slow_s) == (200, True), source
        assert asked(patient, "a-key-that-is-wrong", "127.0.0.2")[0] == 401
        codes = [future.result(30)[0] for future in wrong]
        seconds = time.monotonic() - start
    assert set(codes) == {401, 429}
    assert codes.count(401) <= WAITING * (1 + seconds / slow_s)
    assert asked(patient, "a-key-that-is-wrong")[0] == 401  # it passes


def test_among_many_wrong_keys_a_guess_is_not_looked_at(patient: str, slow_s: float) -> None:
    """Else who asks with a thousand at once would learn at once which one is right."""
    with ThreadPoolExecutor(WAITING) as pool:
        wrong = [pool.submit(asked, patient, "a-key-that-is-wrong", "127.0.0.3") for _ in range(WAITING)]
        time.sleep(0.6 * slow_s)  # until all of them wait
        assert asked(patient, KEY, "127.0.0.3")[0] == 429
        assert {future.result(20)[0] for future in wrong} == {401}
    assert asked(patient, KEY, "127.0.0.3")[0] == 200


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        (("192.0.2.7", 80), "192.0.2.7"),
        (("::ffff:192.0.2.7", 80), "192.0.2.7"),  # IPv4 on a socket of IPv6
        (("2001:db8:1:2:3:4:5:6", 80), "2001:db8:1:2::/64"),  # whoever has one has all of the same /64
        (("2001:db8:1:2:ffff::", 80), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 80), "fe80::/64"),
        (("a-name", 80), "a-name"),
        (None, ""),
    ],
)
def test_addresses_of_one_client_are_one(client: tuple[str, int] | None, expected: str) -> None:
    assert address(client) == expected
