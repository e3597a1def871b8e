"""Several workers on one port: they share the work, the store, the counters, and one watcher that keeps them alive."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from llmgen import Item
from llmgen.http.client import Client
from llmgen.server.together import merged
from llmgen.store import Event, Store
from llmgen.workspace.core import DataSettings, RecommenderSettings
from tests.server.test_run import items, serving  # noqa: F401


def until(there: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(one) for one in found]


def answered(url: str) -> float:
    """How many answers of /health the service has counted."""
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith('llmgen_requests_total{route="/health"'))


def test_workers_share_a_port_and_their_counters_and_are_started_anew(items: Path) -> None:  # noqa: F811
    with serving("--catalog", str(items), "--workers", "2") as (process, url):
        until(lambda: len(children(process.pid)) == 2)
        first = children(process.pid)
        for _ in range(40):
            assert httpx2.get(f"{url}/health").status_code == 200  # each on a connection of its own
        until(lambda: answered(url) == 40)
        os.kill(first[0], signal.SIGKILL)
        until(lambda: len(children(process.pid)) == 2 and first[0] not in children(process.pid))
        assert first[1] in children(process.pid)
        assert httpx2.get(f"{url}/health").status_code == 200
        until(lambda: answered(url) == 41)  # those of the worker that was killed are counted on
        answer = httpx2.put(f"{url}/v1/items", json={"items": [{"id": "n", "title": "New"}]})
        assert answer.status_code == 409
        assert "--store" in answer.json()["message"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert not any(Path(f"/proc/{one}").exists() for one in first)


def test_workers_end_when_their_watcher_is_killed_and_the_port_is_free(items: Path) -> None:  # noqa: F811
    with serving("--catalog", str(items), "--workers", "2") as (process, url):
        until(lambda: len(children(process.pid)) == 2)
        workers = children(process.pid)
        process.kill()
        process.wait(30)
        until(lambda: not any(Path(f"/proc/{one}").exists() for one in workers))
        with socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))):
            pass  # as one that is started in its place does


ORPHANS = """
import ctypes, os, subprocess, sys, time
from llmgen.server.workers import Watcher

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come to it, as they come to process 1

def serve(number, ready):
    ready()
    if os.path.exists("been"):
        print("again", flush=True)
        time.sleep(60)
    open("been", "w").close()
    subprocess.Popen(["sleep", "0.2"])
    sys.exit(3)

Watcher(1, serve, grace_s=5).run()
"""


def test_orphans_that_come_to_the_watcher_do_not_end_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHANS]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "again\n"
        until(lambda: len(children(process.pid)) == 1)  # what has ended is a child until it is waited for
        assert process.poll() is None
        process.terminate()
        assert process.wait(30) == 0


def test_what_fits_ends_without_the_worker_that_started_it(tmp_path: Path) -> None:
    given = pickle.dumps((1, DataSettings(store=f"sqlite:///{tmp_path / 'none.db'}"), RecommenderSettings(), 1.0))
    command = [sys.executable, "-m", "llmgen.server.refitting", str(tmp_path / "fitted")]
    done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM


def test_workers_on_a_store_know_what_any_of_them_was_told(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path / 'shop.db'}"
    store = Store.open(address)
    store.put_items([Item(str(number), f"Film {number}") for number in range(1, 8)])
    store.add_events([Event(f"{user}{item}", user, item, time=float(item)) for user in "abcd" for item in "123"])
    options = ("--store", address, "--workers", "2", "--refit", "0.01", "--lm-weight", "0")
    with serving(*options) as (process, url), Client(url) as client:
        until(lambda: len(children(process.pid)) == 2)
        client.put_items([Item("8", "Film 8")])
        client.add_events([Event(f"{n}{item}", f"n{n}", item, time=float(item)) for n in range(20) for item in "18"])

        def every_time() -> bool:
            found = [httpx2.post(f"{url}/v1/recommend", json={"history": ["1"], "k": 1}).json() for _ in range(12)]
            return all(one["recommendations"][0]["item"]["id"] == "8" for one in found)

        until(every_time)  # both have the item, and priors that were fitted on what users did
    store.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "hf"], "so many times"),
        (["--catalog", "ITEMS", "--save-changes"], "--save-changes is of one process"),
        (["--catalog", "ITEMS", "--playground"], "--playground is of one process"),
        (["--catalog", "ITEMS", "--prior", "nothing=1"], "the first worker could not start"),
    ],
)
def test_what_several_workers_cannot_do_is_told(items: Path, options: list[str], says: str) -> None:  # noqa: F811
    given = [str(items) if option == "ITEMS" else option for option in options]
    command = [sys.executable, "-m", "llmgen", "serve", "--engine", "fake", "--port", "0", "--workers", "2", *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)  # a fork wants no threads
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.count("error:") <= 2  # the worker's own, and that it could not start


def _text(requests: int, queue: float, fitted: float) -> str:
    registry = CollectorRegistry()
    Counter("asked", "How often.", ("route",), registry=registry).labels('a "b"\\').inc(requests)
    Histogram("took", "How long.", buckets=(1.0,), registry=registry).observe(requests)
    Gauge("queue", "Waiting.", registry=registry).set(queue)
    Gauge("fitted_seconds", "When.", registry=registry).set(fitted)
    return generate_latest(registry).decode()


def test_counters_are_summed_and_gauges_are_of_those_alive() -> None:
    lines = merged([_text(1, 2, 50), _text(3, 4, 40)], [_text(10, 7, 1)]).splitlines()
    assert 'asked_total{route="a \\"b\\"\\\\"} 14.0' in lines
    assert 'took_bucket{le="1.0"} 1.0' in lines
    assert 'took_bucket{le="+Inf"} 3.0' in lines
    assert "took_sum 14.0" in lines
    assert "queue 6.0" in lines
    assert "fitted_seconds 40.0" in lines
    assert "# TYPE asked_total counter" in lines
