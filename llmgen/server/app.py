"""create_app: a recommender as an HTTP service. Routes and nothing else: what they do is done elsewhere."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import warnings
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from llmgen import __version__
from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError, LLMGenError
from llmgen.recommend.recommender import Choice, Recommender
from llmgen.server.auth import AuthMiddleware
from llmgen.server.events import add_events
from llmgen.server.following import StoreFollower
from llmgen.server.learning import Learning
from llmgen.server.problems import PROBLEMS, add_errors
from llmgen.server.rates import Rates
from llmgen.server.refitting import Fit, Refitting
from llmgen.server.routes import add_answers, add_catalog, add_status
from llmgen.server.served import Choose, ServedRecommender
from llmgen.server.state import Limits, State
from llmgen.server.together import SharedMetrics
from llmgen.server.tracing import Tracing, TracingMiddleware
from llmgen.server.users import Users, UsersOfStore

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from llmgen.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AppSettings:
    """How a service answers, beside its recommender.

    Attributes:
        keys: API keys; none lets everybody in.
        limits: See `Limits`.
        choose: Prompt and LM weight of a query that names no prompt; by default the recommender's own.
        reload: Reads the catalog anew; called on SIGHUP.
        save: Where each changed catalog is written before it is used.
        users: Where the history of a `user` is looked up that a request names; by default nobody is known, or the
            users of the store.
        store: Its catalog is followed, changes of the catalog go there, and so do events; with its routes.
        version: Number of a change of the store's items that the recommender's catalog has.
        refit: Fits the priors anew, see `llmgen.server.refitting`.
        refit_every_s: Seconds from the end of one fit to the next, above 0.
        learn: Counts transitions by each event, see `Learning`.
        read_only: Why the catalog cannot be changed, where it cannot.
        share: Folder in which the workers of one service put their counters, see `llmgen.server.together`.
        tracer: Of OpenTelemetry, see `llmgen.server.tracing`; None for no spans.
    """

    keys: Collection[str] = ()
    limits: Limits = field(default_factory=Limits)
    choose: Choose = lambda recommender, query: Choice()
    reload: Callable[[], Catalog] | None = None
    save: Path | None = None
    users: Users | None = None
    store: Store | None = None
    version: int = 0
    refit: Fit | None = None
    refit_every_s: float = math.inf
    learn: Callable[[ServedRecommender], Learning] | None = None
    read_only: str = ""
    share: Path | None = None
    tracer: Tracer | None = None


def create_app(recommender: Recommender, settings: AppSettings | None = None, **old: Any) -> FastAPI:
    """The service, for any ASGI server, in one process.

    Args:
        recommender: Answers; its catalog can be changed while it does.
        settings: See `AppSettings`; its defaults without.
        old: Fields of `AppSettings` by name, as this function took them before; with a DeprecationWarning, until the
            next release.

    Raises:
        ArgumentError: Both settings and fields of them by name.
        ConfigError: `limits` allow several batches at once, and the model runs in this process.
        TypeError: A keyword that is no field of `AppSettings`.
    """
    chosen = settings or AppSettings()
    if old:
        names = ", ".join(old)
        if settings is not None:
            raise ArgumentError(f"create_app was given settings, and {names} beside them; put these into AppSettings")
        chosen = AppSettings(**{name: value for name, value in old.items() if (name, value) != ("limits", None)})
        warnings.warn(
            f"{names}: give create_app(recommender, AppSettings({', '.join(f'{name}=...' for name in old)})) instead; "
            "keywords go with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
    live = (
        ServedRecommender(recommender, save=chosen.save)
        if chosen.store is None
        else StoreFollower(recommender, chosen.store, chosen.version)
    )
    state = State(
        live,
        chosen.limits,
        chosen.choose,
        chosen.users or (None if chosen.store is None else UsersOfStore(chosen.store)),
        Tracing(chosen.tracer),
    )

    refitting = None if chosen.refit is None else Refitting(live, chosen.refit, chosen.refit_every_s)
    if refitting is not None:
        state.metrics.fitted(lambda: refitting.fitted_at)

    learning = None if chosen.learn is None else chosen.learn(live)
    shared = None if chosen.share is None else SharedMetrics(chosen.share, state.metrics.text)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state.draining = False
        state.batcher.start()
        if chosen.reload is not None:
            _on_hangup(state, chosen.reload)
        background = [asyncio.ensure_future(live.follow())] if isinstance(live, StoreFollower) else []
        if refitting is not None:
            background.append(asyncio.ensure_future(refitting.keep_up()))
        if learning is not None:
            background.append(asyncio.ensure_future(learning.keep_up()))
        if shared is not None:
            background.append(asyncio.ensure_future(shared.keep_written()))
        yield
        state.draining = True
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await state.batcher.close()

    app = FastAPI(
        title="llmgen",
        version=__version__,
        description="A generative LLM recommender: the language model's probability times an item prior, on one trie.",
        lifespan=lifespan,
        redoc_url=None,
        responses=PROBLEMS,
    )
    app.state.llmgen = state
    app.add_middleware(
        AuthMiddleware,
        keys=chosen.keys,
        max_body=chosen.limits.max_body,
        body_s=chosen.limits.timeout_s,
        metrics=state.metrics,
        rates=None if chosen.limits.rate is None else Rates(chosen.limits.rate),
    )
    if chosen.tracer is not None:
        app.add_middleware(TracingMiddleware, tracer=chosen.tracer)
    add_errors(app)
    add_answers(app, state)
    add_catalog(app, state, chosen.read_only)
    add_status(app, state, state.metrics.text if shared is None else shared.text)
    if chosen.store is not None:
        add_events(app, chosen.store, state.tracing)
    return app


def _on_hangup(state: State, reload: Callable[[], Catalog]) -> None:
    async def again() -> None:
        try:
            # items that came with the file are spelled as the others are, and those others as they were
            snapshot = await state.live.change(lambda catalog: reload().identified(catalog.identifier))
            logger.info("reloaded the catalog: %d items, %s", len(snapshot.recommender.catalog), snapshot.digest)
        except (LLMGenError, OSError) as error:
            logger.error("the catalog was not reloaded, and the old one stays: %s", error)

    tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps no reference

    def start() -> None:
        task = asyncio.ensure_future(again())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, start)
