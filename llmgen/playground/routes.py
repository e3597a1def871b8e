"""The page's routes, as an addition to the service: all below /playground, all but the page itself behind its keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.exceptions import HTTPException

from llmgen.engines import Engine
from llmgen.errors import DataError, LLMGenError
from llmgen.http.schemas import Document, to_json
from llmgen.playground.bench import Bench
from llmgen.playground.bodies import Draft, NextUsers, Pair, Pictured, Question, Search
from llmgen.playground.page import QUIET, REPORT, page
from llmgen.playground.pictures import OutsideError, attribute_of, read
from llmgen.playground.saving import SavedPairs
from llmgen.playground.trial import BetweenRequests, Trial, submitter
from llmgen.types import Item
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace

PATH = "/playground"


class Playground:
    """What the routes share.

    Args:
        app: Of the service.
        bench: What answers.
        shelf: Where is saved.
        pictures: See `add_to`.
    """

    def __init__(self, app: FastAPI, bench: Bench, shelf: SavedPairs, pictures: Path | None) -> None:
        self.service: Any = app.state.llmgen
        self.shelf = shelf
        self.pictures = pictures
        self.trial: Trial | None = None
        self._bench = bench
        self._digest = self.service.live.now.digest
        self._following = asyncio.Lock()

    async def bench(self) -> Bench:
        """For the catalog that the service has now."""
        async with self._following:
            now = self.service.live.now
            if now.digest != self._digest:
                self._bench = await asyncio.to_thread(self._bench.on_catalog, now.recommender.catalog)
                self._digest = now.digest
        return self._bench

    async def worked(self, request: Request, call: Callable[[], Document]) -> Response:
        """What a call returns that may ask the engine, in its turn among the requests of the service."""

        def run(calls: Sequence[Callable[[], Document]]) -> list[Document | LLMGenError]:
            return [one() for one in calls]

        found: Document = await self.service.ask(request, object(), call, run)
        return _json(found)


def add_to(
    app: FastAPI,
    workspace: Workspace,
    data: DataSettings,
    settings: RecommenderSettings,
    runs: Path,
    *,
    also: Sequence[tuple[RecommenderSettings, Engine | None]] = (),
    pictures: Path | None = None,
) -> Playground:
    """Give a service the page.

    Args:
        app: Of `llmgen.server.create_app`.
        workspace: Its data.
        data: How they were loaded.
        settings: How it recommends.
        runs: Folder for what is saved.
        also: Other models, see `Bench.of`.
        pictures: Folder that pictures of items lie in or below; none are shown without.
    """
    served = app.state.llmgen.live.now.recommender
    made = Playground(app, Bench.of(workspace, settings, served, also), SavedPairs(runs, data, settings), pictures)
    page()  # a mistake in it shows now
    router = APIRouter(prefix=f"{PATH}/api", include_in_schema=False, dependencies=[Depends(_of_the_page)])
    _add_questions(router, made)
    _add_trials(router, made)
    app.include_router(router)

    @app.get(PATH, include_in_schema=False)
    async def the_page() -> HTMLResponse:
        return HTMLResponse(page().html, headers=page().headers)

    return made


def _of_the_page(request: Request) -> None:
    """Refuse what other pages in the same browser ask for: on this machine they need no key either.

    Raises:
        HTTPException: The browser says that another page asks.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "only the page of this service asks here; open /playground")


def _add_questions(router: APIRouter, playground: Playground) -> None:
    @router.get("/about")
    async def about() -> Response:
        bench = await playground.bench()
        picture = attribute_of(bench.catalog) if playground.pictures is not None else None
        about = await asyncio.to_thread(bench.about)
        return _json({**about, "runs": str(playground.shelf.folder), "picture": picture})

    @router.post("/users")
    async def users(body: Search) -> Response:
        people = (await playground.bench()).people
        found = people.search(body.text)
        return _json({"users": [{"id": user, "items": len(people.persons[user].history.items)} for user in found]})

    @router.post("/following")
    async def following(body: NextUsers) -> Response:
        return _json({"users": (await playground.bench()).people.following(body.user, body.count)})

    @router.post("/items")
    async def items(body: Search) -> Response:
        bench = await playground.bench()
        found = await asyncio.to_thread(lambda: bench.finder.find(body.text))
        return _json({"items": [_named(bench, item) for item in found]})

    @router.post("/picture")
    async def picture(body: Pictured) -> Response:
        bench, folder = await playground.bench(), playground.pictures
        attribute = attribute_of(bench.catalog)
        if folder is None or attribute is None:
            raise HTTPException(404, "the catalog has no pictures")
        item = bench.catalog[bench.catalog.index(body.id)]
        try:
            found, kind = await asyncio.to_thread(read, folder, item, attribute)
        except DataError as error:
            raise HTTPException(403 if isinstance(error, OutsideError) else 404, str(error)) from None
        return Response(found, media_type=kind, headers=QUIET)

    @router.post("/check")
    async def check(body: Draft) -> Response:
        bench = await playground.bench()
        return _json({"problems": await asyncio.to_thread(bench.problems, body.name, body.text)})

    @router.post("/ask")
    async def ask(body: Question, request: Request) -> Response:
        return await playground.worked(request, partial((await playground.bench()).answer, body))


def _add_trials(router: APIRouter, playground: Playground) -> None:
    @router.post("/save")
    async def save(body: Pair) -> Response:
        saved = playground.shelf.save(body, await playground.bench())
        return _json({"folder": str(saved.folder), "command": saved.command})

    @router.post("/trial")
    async def start(body: Pair) -> Response:
        running = playground.trial
        if running is not None and running.state == "running":
            raise HTTPException(409, f"the A/B test {running.saved.folder.name!r} is running; wait for it, or stop it")
        bench, service = await playground.bench(), playground.service
        saved = playground.shelf.save(body, bench)
        submit = submitter(service.batcher, asyncio.get_running_loop(), lambda: bool(service.draining))
        between = {
            (one.settings.engine, one.settings.adapter): BetweenRequests(one.recommender.engine, submit)
            for one in bench.models.values()
            if one.recommender.engine is not None
        }
        playground.trial = Trial(saved, between, body.users or len(bench.people.able))
        return _json(playground.trial.told())

    @router.get("/trial")
    async def told() -> Response:
        return _json({"state": None} if playground.trial is None else playground.trial.told())

    @router.post("/trial/stop")
    async def stop() -> Response:
        if playground.trial is not None:
            playground.trial.stop()
        return await told()

    @router.get("/trial/report")
    async def report() -> Response:
        text = None if playground.trial is None else playground.trial.report
        if text is None:
            raise HTTPException(404, "there is no report yet; it is written when the A/B test ends")
        return HTMLResponse(text, headers=REPORT)


def _named(bench: Bench, item: Item) -> Document:
    return {"id": item.id, "label": bench.catalog.label(item)}


def _json(document: Document) -> Response:
    return Response(to_json(document), media_type="application/json", headers={"Cache-Control": "no-store"})
