"""A service over a small catalog with the fake engine, on a real port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

pytest.importorskip("fastapi", reason="needs llmgen[serve]")
import uvicorn
from fastapi import FastAPI

from llmgen.catalog.core import Catalog
from llmgen.engines.fake import FakeEngine
from llmgen.priors import TextQuery
from llmgen.recommend.recommender import Recommender
from llmgen.server.run import uvicorn_config
from tests.conftest import films


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The URL of an app, served by uvicorn in a thread on a free port of this machine."""
    server = uvicorn.Server(uvicorn_config(app, app.state.llmgen.limits, port=0, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive() and time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def small() -> Catalog:
    return films(60)


@pytest.fixture
def recommender(small: Catalog) -> Recommender:
    return Recommender(small, FakeEngine(["Because of Alien."]), priors=[TextQuery(small)])
