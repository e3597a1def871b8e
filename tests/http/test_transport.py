"""HTTP with retries, over real sockets: what is sent again, how often and after which pauses, and what errors say."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from llmgen.errors import APIConnectionError, APITimeoutError
from llmgen.http.transport import MAX_BODY, WAITS, AsyncTransport, Response, Retry, StoppableTransport, Transport, until
from tests.engines.serving import Reply, Stub, free_port

SOON = Retry(attempts=3, pause_s=0.01)
HANG_UP = Reply(status=0)

Send = Callable[..., Response]


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as running:
        yield running


def blocking(
    url: str, *, method: str = "POST", path: str = "/ask", body: bytes | None = b"?", **options: Any
) -> Response:
    with Transport(url, **{"retry": SOON, **options}) as transport:
        return transport.request(method, path, body=body)


def asynchronous(
    url: str, *, method: str = "POST", path: str = "/ask", body: bytes | None = b"?", **options: Any
) -> Response:
    async def send() -> Response:
        async with AsyncTransport(url, **{"retry": SOON, **options}) as transport:
            return await transport.request(method, path, body=body)

    return asyncio.run(send())


def stoppable(
    url: str, *, method: str = "POST", path: str = "/ask", body: bytes | None = b"?", **options: Any
) -> Response:
    transport = StoppableTransport(url, **{"retry": SOON, **options})
    try:
        return transport.request(method, path, body=body)
    finally:
        transport.close()


@pytest.fixture(params=[blocking, asynchronous, stoppable])
def send(request: pytest.FixtureRequest) -> Send:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 404, 422, 501, 504])
def test_an_answer_is_given_as_it_is(stub: Stub, send: Send, status: int) -> None:
    stub.turns.append(Reply(status, b"" if status == 204 else b"words", {"x-request-id": "7"}))
    answer = send(stub.url, method="GET", body=None)
    assert (answer.status, answer.body) == (status, b"" if status == 204 else b"words")
    assert answer.headers["X-Request-ID"] == "7"
    assert [(asked.method, asked.path) for asked in stub.asked] == [("GET", "/ask")]


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_was_not_served_is_sent_again_as_it_was(stub: Stub, send: Send, status: int) -> None:
    stub.turns += [Reply(status), Reply(status), Reply(200, b"at last")]
    answer = send(stub.url, headers={"x-key": "k"})
    assert (answer.status, answer.body) == (200, b"at last")
    assert [(asked.body, asked.headers["x-key"]) for asked in stub.asked] == [(b"?", "k")] * 3


def test_after_the_last_attempt_the_answer_is_given_as_it_is(stub: Stub, send: Send) -> None:
    stub.turns += [Reply(503, bytes([number])) for number in range(9)]
    answer = send(stub.url)
    assert (answer.status, answer.body) == (503, b"\x02")
    assert len(stub.asked) == 3


@pytest.mark.parametrize(
    "lost",
    [
        HANG_UP,
        Reply(body=b"x" * 1000, cut=True),
        Reply(body=b"no gzip", headers={"content-encoding": "gzip"}),
    ],
    ids=["before an answer", "in the middle", "and what came cannot be decompressed"],
)
def test_a_lost_connection_is_made_again(stub: Stub, send: Send, lost: Reply) -> None:
    stub.turns += [lost, Reply(200, b"whole")]
    assert send(stub.url).body == b"whole"
    assert len(stub.asked) == 2


def test_a_connection_lost_again_and_again_is_an_error(stub: Stub, send: Send) -> None:
    stub.turns += [Reply(body=b"x" * 1000, cut=True)] * 9
    with pytest.raises(APIConnectionError, match=f"{stub.url}/ask broke off") as caught:
        send(stub.url)
    assert caught.value.__cause__ is not None
    assert len(stub.asked) == 3


def test_where_nothing_listens_the_error_says_so(send: Send) -> None:
    port = free_port()
    with pytest.raises(APIConnectionError, match=rf"cannot reach http://127.0.0.1:{port}/ask: .*is the server up"):
        send(f"http://127.0.0.1:{port}")


def test_a_wait_that_ran_out_is_an_error_at_once(stub: Stub, send: Send) -> None:
    stub.turns.append(Reply(delay_s=5))
    start = time.monotonic()
    with pytest.raises(APITimeoutError, match=r"/ask did not answer within 0\.2 s"):
        send(stub.url, timeout_s=0.2)
    assert time.monotonic() - start < 2
    assert len(stub.asked) == 1


def test_pauses_are_as_long_as_the_server_asks_for(stub: Stub, send: Send) -> None:
    stub.turns += [Reply(429, headers={"retry-after": "0.3"}), Reply(200)]
    start = time.monotonic()
    assert send(stub.url).status == 200
    assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize("asked_for", ["Wed, 21 Oct 2026 07:28:00 GMT", "soon", "nan", "-1", "0"])
def test_pauses_that_are_no_seconds_are_passed_over(stub: Stub, send: Send, asked_for: str) -> None:
    stub.turns += [Reply(503, headers={"retry-after": asked_for}), Reply(200)]
    assert send(stub.url).status == 200


@pytest.mark.parametrize("asked_for", ["11", "inf"])
def test_where_the_server_asks_for_too_long_a_pause_its_answer_is_given(stub: Stub, send: Send, asked_for: str) -> None:
    stub.turns += [Reply(429, headers={"retry-after": asked_for}), Reply(200)]
    assert send(stub.url).status == 429
    assert len(stub.asked) == 1


def test_pauses_double_and_spread_and_end() -> None:
    retry = Retry(attempts=4, pause_s=0.25, longest_pause_s=0.8)
    for attempt, middle in ((1, 0.25), (2, 0.5)):
        pauses = [retry.pause(attempt) for _ in range(200)]
        assert all(pause is not None and 0.5 * middle <= pause <= 1.5 * middle for pause in pauses)
        assert len(set(pauses)) > 100
    assert all((retry.pause(3) or 9) <= 0.8 for _ in range(200))
    assert retry.pause(4) is None
    assert Retry(attempts=1).pause(1) is None


def test_connections_are_kept(stub: Stub) -> None:
    with Transport(stub.url) as transport:
        for _ in range(5):
            transport.request("GET", "/")
    assert (len(stub.asked), stub.num_connections) == (5, 1)


def test_a_kept_connection_that_the_server_closed_is_made_again(stub: Stub) -> None:
    stub.turns.append(Reply(hang_up=True))
    with Transport(stub.url, retry=SOON) as transport:
        assert transport.request("GET", "/").status == 200
        time.sleep(0.1)
        assert transport.request("GET", "/").status == 200
    assert stub.num_connections == 2


def test_threads_share_connections(stub: Stub) -> None:
    stub.answer = lambda asked: Reply(body=asked.body, delay_s=0.02)
    with Transport(stub.url, max_connections=3) as transport, ThreadPoolExecutor(8) as pool:
        bodies = [str(number).encode() for number in range(24)]
        answers = pool.map(lambda body: transport.request("POST", "/", body=body).body, bodies)
        assert list(answers) == bodies
    assert stub.num_connections <= 3


def test_a_server_that_comes_back_while_a_request_is_tried_answers_it() -> None:
    port = free_port()
    late: list[Stub] = []
    timer = threading.Timer(0.2, lambda: late.append(Stub(port=port)))
    timer.start()
    try:
        assert (
            blocking(f"http://127.0.0.1:{port}", retry=Retry(attempts=20, pause_s=0.05, longest_pause_s=0.1)).status
            == 200
        )
    finally:
        timer.join()
        late[0].stop()


def test_a_path_of_the_server_stands_before_each_path(stub: Stub) -> None:
    blocking(f"{stub.url}/api/", path="/v1/models")
    assert stub.asked[0].path == "/api/v1/models"


@pytest.mark.parametrize("kind", [Transport, AsyncTransport, StoppableTransport])
@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://localhost", "http://", "http://h:99999", "http://h:x", "http://h\n"]
)
def test_what_is_no_url_is_refused(kind: type[Transport], url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        kind(url)


@pytest.mark.parametrize("kind", [Transport, AsyncTransport, StoppableTransport])
@pytest.mark.parametrize(
    "options",
    [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"timeout_s": float("inf")}, {"max_connections": 0}],
)
def test_numbers_out_of_range_are_refused(kind: type[Transport], options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        kind("http://localhost", **options)


@pytest.mark.parametrize("options", [{"attempts": 0}, {"pause_s": -1.0}, {"longest_pause_s": float("nan")}])
def test_retries_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Retry(**options)


@pytest.mark.parametrize("secret", ["sk-1\n", "schlüssel", "sk\x00"])
def test_a_header_that_cannot_be_sent_is_refused_without_its_value(secret: str) -> None:
    with pytest.raises(ValueError, match="header 'authorization'") as caught:
        Transport("http://localhost", headers={"authorization": secret})
    assert secret not in str(caught.value)


def test_a_password_in_the_url_is_sent_and_not_shown(stub: Stub) -> None:
    stub.turns.append(HANG_UP)
    url = stub.url.replace("http://", "http://user:secret@")
    with pytest.raises(APIConnectionError) as caught:
        blocking(url, retry=Retry(attempts=1))
    assert "secret" not in str(caught.value)
    assert stub.asked[0].headers["Authorization"].startswith("Basic ")


# What nobody waits for

SLOW: dict[str, tuple[list[Reply], Retry]] = {
    "waits": ([Reply(delay_s=30)], SOON),
    "reads a body that drips in": ([Reply(body=b" " * 1_000, drip_s=0.1)], SOON),
    "reads headers that drip in": ([Reply(drips_head=True, drip_s=0.1)], SOON),
    "pauses": ([Reply(503)], Retry(9, pause_s=9)),
    "tries": ([Reply(503)] * 999, Retry(999, pause_s=0.01)),
}


@pytest.mark.parametrize(("replies", "retry"), SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("known", [True, False], ids=["deadline", "all have gone"])
def test_a_request_ends_wherever_it_is_when_nobody_waits(
    stub: Stub, replies: list[Reply], retry: Retry, known: bool
) -> None:
    stub.turns += replies
    transport = StoppableTransport(stub.url, retry=retry)
    start = time.monotonic()
    end = start + 0.4

    def deadline() -> float:
        return end if known else -math.inf if time.monotonic() > end else math.inf

    try:
        with until(deadline), pytest.raises(APITimeoutError, match=f"{stub.url}/ask"):
            if transport.request("GET", "/ask").status == 503:  # known beforehand: no time is left for a pause
                raise APITimeoutError(f"{stub.url}/ask")
        assert time.monotonic() - start < 5
        asked = len(stub.asked)
        time.sleep(0.1)
        stub.turns.clear()
        assert len(stub.asked) == asked
        assert transport.request("GET", "/").status == 200
    finally:
        transport.close()


def test_a_request_for_a_connection_that_others_have_ends_too(stub: Stub) -> None:
    stub.answer = lambda asked: Reply(delay_s=30 if asked.path == "/slow" else 0)
    transport = StoppableTransport(stub.url, max_connections=1)
    gone = threading.Event()

    def slow() -> None:
        with until(lambda: -math.inf if gone.is_set() else math.inf), pytest.raises(APITimeoutError):
            transport.request("GET", "/slow")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(slow)
        time.sleep(0.2)
        start = time.monotonic()
        with until(lambda: start + 0.3), pytest.raises(APITimeoutError):
            transport.request("GET", "/")
        assert time.monotonic() - start < 5
        gone.set()
        first.result(5)
    assert transport.request("GET", "/").status == 200
    transport.close()
    transport.close()


@pytest.mark.parametrize("send", [asynchronous, stoppable])
@pytest.mark.parametrize("head", [True, False])
def test_an_answer_that_drips_in_steadily_ends(stub: Stub, send: Send, head: bool) -> None:
    stub.turns.append(Reply(body=b" " * 1_000, drip_s=0.05, drips_head=head))
    start = time.monotonic()
    with pytest.raises(APITimeoutError, match=r"did not answer in full within 0\.6 s"):
        send(stub.url, timeout_s=0.6 / WAITS)
    assert time.monotonic() - start < 1.5


@pytest.mark.parametrize("send", [asynchronous, stoppable])
def test_an_answer_that_is_too_large_is_refused(stub: Stub, send: Send) -> None:
    stub.turns += [Reply(body=b" " * MAX_BODY), Reply(body=b" " * (MAX_BODY + 1))]
    assert len(send(stub.url).body) == MAX_BODY
    with pytest.raises(APIConnectionError, match=f"more than {MAX_BODY:,} bytes"):
        send(stub.url)
