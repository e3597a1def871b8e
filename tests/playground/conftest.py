"""A shop whose titles are HTML, its service with the page, and a browser."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs llmgen[serve]")

from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from llmgen.engines.fake import FakeEngine
from llmgen.playground.bench import Bench
from llmgen.playground.routes import Playground, add_to
from llmgen.recommend.recommender import Choice, Recommender
from llmgen.server import AppSettings, create_app
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace
from tests.server.conftest import running

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
TITLES = [HOSTILE, "Alien", "Aliens", "The Alien Queen", "Amélie", "七人の侍", "M (1931)", "Saint</script>Maud"]
USERS = 24
KEY = "a-key-of-the-tests"
REFUSED = "the server responded with a status of"
BLOCKED = "requires 'TrustedHTML'"
WAIT_MS = 15_000
"""A busy machine takes its time."""
Look = Callable[..., Any]


class Shop(NamedTuple):
    data: DataSettings
    settings: RecommenderSettings
    workspace: Workspace

    def recommender(self, engine: FakeEngine | None = None) -> Recommender:
        priors = self.workspace.priors(self.settings)
        engine = engine or FakeEngine(["It fits what was taken before."])
        return self.workspace.build(self.settings, priors, engine, Choice(lm_weight=0.03))


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """User u0 .. u23, seven of 30 items each; the last item of u0 is the hostile one, number 0."""
    folder = tmp_path_factory.mktemp("shop")
    titles = [*TITLES, *(f"Film {number}" for number in range(len(TITLES), 30))]
    rows = [f"{n}\t{title}\t{1960 + n}\t{'War|Drama' if n % 2 else 'Comedy'}" for n, title in enumerate(titles)]
    (folder / "items.tsv").write_text("item_id\ttitle\tyear\tgenres\n" + "\n".join(rows) + "\n", encoding="utf-8")
    rng = np.random.default_rng(0)
    log = ["user_id\titem_id\ttimestamp"]
    for user in range(USERS):
        items = [int(item) for item in rng.permutation(np.arange(1, 30))[:7]]
        if user == 0:
            items[-1] = 0
        log += [f"u{user}\t{item}\t{1000 * user + place}" for place, item in enumerate(items)]
    (folder / "log.tsv").write_text("\n".join(log) + "\n", encoding="utf-8")
    data = DataSettings(
        items=folder / "items.tsv", interactions=folder / "log.tsv", attributes=("year", "genres"), noun="film"
    )
    settings = RecommenderSettings(engine="fake", priors={"transition": {"window": 5}, "wish": 1.0}, lm_weight=0.03)
    return Shop(data, settings, Workspace(data.load()))


@pytest.fixture(scope="session")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Three films: one with a picture of 3 x 2 pixels, one whose path leads out of the folder, one without."""
    folder = tmp_path_factory.mktemp("pictured") / "catalog"
    (folder / "pictures").mkdir(parents=True)
    for path in (folder / "pictures" / "one.png", folder.parent / "secret.png"):
        path.write_bytes(png(3, 2))
    rows = ["1\tFirst film\tpictures/one.png", "2\tSecond film\t../secret.png", "3\tThird film\t"]
    (folder / "items.tsv").write_text("item_id\ttitle\tpicture\n" + "\n".join(rows) + "\n", encoding="utf-8")
    log = [f"u{user}\t{item}\t{item}" for user in (1, 2) for item in (1, 2, 3)]
    (folder / "log.tsv").write_text("user_id\titem_id\ttimestamp\n" + "\n".join(log) + "\n", encoding="utf-8")
    data = DataSettings(items=folder / "items.tsv", interactions=folder / "log.tsv", attributes=("picture",))
    settings = RecommenderSettings(engine="fake", priors={"wish": 1.0}, lm_weight=0.03)
    return Shop(data, settings, Workspace(data.load()))


def png(width: int, height: int) -> bytes:
    """A black picture; see the PNG specification, third edition, sections 5 and 11."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)  # eight bits of grey
    rows = zlib.compress(bytes(width + 1) * height)  # each row begins with its filter, none
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="session")
def bench(shop: Shop) -> Bench:
    served = shop.recommender()
    served.prepare()
    return Bench.of(shop.workspace, shop.settings, served)


class Served(NamedTuple):
    url: str
    playground: Playground
    runs: Path


Serve = Callable[..., "contextmanager[Served]"]


@pytest.fixture
def serve(shop: Shop, tmp_path: Path) -> Callable[..., Iterator[Served]]:
    """A service with the page."""

    @contextmanager
    def started(*keys: str, engine: FakeEngine | None = None, shop: Shop = shop, **more: Any) -> Iterator[Served]:
        app = create_app(shop.recommender(engine), AppSettings(keys=keys))
        runs = tmp_path / "runs"
        made = add_to(app, shop.workspace, shop.data, shop.settings, runs, **more)
        with running(app) as url:
            yield Served(url, made, runs)

    return started


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """The system's browser; `.ci/run` installs it. While it is there, an event loop runs in this thread."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "no chromium on this machine; on Debian: apt install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(serve: Any, chromium: Browser) -> Look:
    """A page of a service; whatever goes wrong in it, and any request to elsewhere, fails the test."""

    @contextmanager
    def opened(
        *keys: str, width: int = 1280, dark: bool = False, fails: int = 0, blocked: int = 0, **more: Any
    ) -> Iterator[tuple[Page, Any]]:
        with serve(*keys, **more) as served:
            context = chromium.new_context(
                viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
            )
            context.set_default_timeout(WAIT_MS)
            expect.set_options(timeout=WAIT_MS)
            page = context.new_page()
            wrong: list[str] = []
            refused: list[str] = []

            def guard(route: Route) -> None:
                if route.request.url.startswith(served.url):
                    route.continue_()
                else:
                    wrong.append(f"request to {route.request.url}")
                    route.abort()

            def said(message: Any) -> None:
                if message.type in ("error", "warning"):
                    (refused if REFUSED in message.text else wrong).append(message.text)

            context.route("**/*", guard)
            page.on("console", said)
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(f"{served.url}/playground")
            yield page, served
            assert [text for text in wrong if BLOCKED not in text] == []
            assert len([text for text in wrong if BLOCKED in text]) == blocked
            assert len(refused) == fails, refused
            context.close()

    return opened


def titles(page: Page, arm: str = "a") -> list[str]:
    return page.locator(f".side-{arm} .list .title").all_inner_texts()


def settled(page: Page) -> None:
    expect(page.locator("#lists")).to_have_attribute("aria-busy", "false")
