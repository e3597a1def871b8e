"""`llmgen serve`: from settings to a running service."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import uvicorn
from fastapi import FastAPI
from rich.console import Console

from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.engines import Engine, load_engine
from llmgen.errors import ArgumentError, ConfigError, LLMGenError
from llmgen.identifiers.named import identified
from llmgen.priors import Prior, RatingPrior
from llmgen.priors.kinds import kind
from llmgen.priors.stored import check_saves
from llmgen.progress import Stage
from llmgen.recommend.recommender import Choice
from llmgen.server.app import AppSettings, create_app
from llmgen.server.auth import check_exposure, read_keys
from llmgen.server.connection import connections
from llmgen.server.learning import Learning
from llmgen.server.listening import SharedPort, listen
from llmgen.server.refitting import fit_apart, fitted_apart
from llmgen.server.state import Limits, State
from llmgen.server.together import fit_for_all
from llmgen.server.tracing import otlp_tracer
from llmgen.server.users import UsersOfLog, UsersOfStore
from llmgen.server.workers import Watcher
from llmgen.workspace.checks import check
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace, choose
from llmgen.workspace.fitted import open_workspace, read_again

logger = logging.getLogger(__name__)

KEYS = "LLMGEN_API_KEYS"
SAID = "said"
"""A file: the service has told where it listens."""
ONE_CATALOG = "several workers have a catalog each; keep it in a store (llmgen serve --store) to change it"
SWITCH_S = 0.0005
"""The search's thread lets the one that reads and writes requests in after so long; Python's 5 ms are ten answers."""
Extend = Callable[[FastAPI, Workspace, RecommenderSettings], str]
"""Adds routes to the service, and says where they begin; given the data and how is recommended."""
GRACE_S = 30
"""Seconds that requests under way get when the service is asked to stop."""
WORKER_GRACE_S = GRACE_S + 10.0
"""Seconds that workers get to end; those that go on are killed."""
DRAIN_LOOK_S = 0.05
"""While it drains, a second signal is looked for so often."""


@dataclass(frozen=True)
class ServeSettings:
    """Where and how to serve.

    Attributes:
        host: Address to listen on.
        port: 0 takes a free one.
        api_keys: A file of keys, one a line, besides those of the environment variable LLMGEN_API_KEYS.
        insecure: Whether other machines are let in without a key.
        catalog: JSON lines as `Catalog.save` writes them, instead of a data set with a log.
        save_changes: Whether a changed catalog is written to `catalog`.
        limits: See `Limits`.
        refit_s: Seconds after which priors are fitted anew on the store; None where they never are.
        learn: Whether transitions are counted on with each event of the store.
        workers: Processes that answer, 1 or more; see `llmgen.server.workers`.
        drain_s: Seconds after SIGTERM in which `/ready` says no and all else is answered, 0 or more.
        trace: Whether spans are sent by OTLP, see `llmgen.server.tracing`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_keys: Path | None = None
    insecure: bool = False
    catalog: Path | None = None
    save_changes: bool = False
    limits: Limits = field(default_factory=Limits)
    refit_s: float | None = None
    learn: bool = False
    workers: int = 1
    drain_s: float = 0.0
    trace: bool = False


def run(
    data: DataSettings, settings: RecommenderSettings, where: ServeSettings, *, extend: Extend | None = None
) -> None:
    """Load everything, then serve until SIGTERM or SIGINT; SIGHUP reads the catalog again.

    Args:
        data: Which data.
        settings: How to recommend.
        where: Where and how to serve.
        extend: See `Extend`; None adds nothing.

    Raises:
        ConfigError: Keys that are missing or unusable, or settings that do not go together.
        LLMGenError: Data or model cannot be loaded.
    """
    check(data if where.catalog is None and settings.folder is None else None, settings)
    keys = read_keys(os.environ.get(KEYS, ""), where.api_keys)
    check_exposure(where.host, keys, insecure=where.insecure)
    if where.save_changes and where.catalog is None:
        raise ConfigError("--save-changes writes to the file of --catalog; give one")
    if where.refit_s is not None and data.store is None:
        raise ConfigError("--refit fits on the events of a store; give --store")
    if not 0 <= where.drain_s < math.inf:
        raise ConfigError(f"--drain is seconds, 0 or more, not {where.drain_s}")
    if where.learn and data.store is None:
        raise ConfigError("--learn counts the events of a store; give --store")
    if where.workers > 1:
        _check_workers(settings, where)
        if extend is not None:
            raise ConfigError("--playground is of one process; serve it without --workers")
    held = _hold(where.catalog) if where.save_changes and where.catalog is not None else nullcontext()
    with held, ExitStack() as open_:  # the port before anything that takes long
        if where.workers == 1:
            listener = open_.enter_context(listen(where.host, where.port))
            _run(data, settings, where, keys, listener.getsockname(), lambda: listener, extend)
            return
        port = open_.enter_context(SharedPort(where.host, where.port))
        folder = Path(open_.enter_context(TemporaryDirectory(prefix="llmgen-workers-")))

        def work(number: int, ready: Callable[[], None]) -> None:
            try:
                worker = _Worker(number, ready, folder)
                _run(data, settings, where, keys, port.address, port.listen, extend, worker)
            except (LLMGenError, ArgumentError, OSError) as error:
                sys.exit(f"error: {' '.join(str(error).splitlines())}")

        Watcher(where.workers, work, grace_s=WORKER_GRACE_S + where.drain_s).run()


def _check_workers(settings: RecommenderSettings, where: ServeSettings) -> None:
    kind_of_engine = settings.engine.partition(":")[0]
    if kind_of_engine in ("hf", "vllm"):
        raise ConfigError(
            f"--workers {where.workers} would load the model of --engine {kind_of_engine} so many times; let it run "
            "once, in `vllm serve`, and name it by --engine openai:URL, or serve with --engine none"
        )
    if where.save_changes:
        raise ConfigError("--save-changes is of one process; with --workers keep the catalog in a --store")


class _Worker(NamedTuple):
    """One of several.

    Attributes:
        number: From 0.
        ready: To be called once it listens.
        folder: Of all workers of the service.
    """

    number: int
    ready: Callable[[], None]
    folder: Path


def _run(
    data: DataSettings,
    settings: RecommenderSettings,
    where: ServeSettings,
    keys: tuple[str, ...],
    address: tuple[Any, ...],
    listening: Callable[[], socket.socket],
    extend: Extend | None,
    worker: _Worker | None = None,
) -> None:
    console = Console(stderr=True)
    store = data.opened() if data.store is not None else None
    version = 0 if store is None else store.item_version()  # before the data: what changes meanwhile is made again
    workspace, reload = _workspace(data, settings, where.catalog)
    if where.catalog is not None:
        settings = _without_log(settings)
    with Stage("fitting the priors", 0):
        priors = workspace.priors(settings)
    engine: Engine | None = None
    if settings.engine != "none":
        with Stage(f"loading {settings.engine}", 0):
            engine = load_engine(settings.engine, adapter=settings.adapter)
    made = workspace.build(settings, priors, engine, Choice(lm_weight=settings.lm_weight))
    refit = None
    if where.refit_s is not None:
        both: tuple[Prior | RatingPrior, ...] = (*made.priors, *made.rating_priors)
        for prior in both:
            check_saves(prior)  # they come from another process
        weight = made.rating_priors[0].weight if made.rating_priors else 1.0
        refit = partial(fitted_apart, data, settings, weight)
        if worker is not None:
            fit = partial(fit_apart, data, settings, weight)
            refit = partial(fit_for_all, worker.folder / "fitted", fit, [time.time()])
    learn = None
    if where.learn and store is not None:
        learn = partial(Learning, store=store, kinds=data.kinds, settings=settings.prior_settings.get("transition"))
    tracer, flush = otlp_tracer() if where.trace else (None, lambda: None)
    with Stage("making the trie and the indexes", 0):
        app = create_app(
            made,
            AppSettings(
                keys=keys,
                limits=where.limits,
                choose=lambda made, query: choose(settings, made.priors, query) if engine is not None else Choice(),
                reload=reload if store is None else None,
                save=where.catalog if where.save_changes else None,
                users=UsersOfLog(workspace.histories) if store is None else UsersOfStore(store, data.kinds),
                store=store,
                version=version,
                refit=refit,
                refit_every_s=where.refit_s or math.inf,
                learn=learn,
                read_only="" if worker is None or store is not None else ONE_CATALOG,
                share=None if worker is None else worker.folder,
                tracer=tracer,
            ),
        )
        added = None if extend is None else extend(app, workspace, settings)
        gc.freeze()  # what is here stays: to go through a large catalog holds up all answers for a tenth of a second
    host, port = address[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    what = f"{len(workspace.catalog)} items, {engine.name if engine else 'no model'}"

    if worker is not None:
        what += f", {where.workers} workers"

    def say() -> None:
        if worker is not None:
            if worker.number or (worker.folder / SAID).exists():
                return
            (worker.folder / SAID).touch()
            worker.ready()
        console.print(f"llmgen serves {what} on {url} (docs: {url}/docs)", highlight=False, soft_wrap=True)
        if added is not None:
            console.print(f"open {url}{added}", highlight=False, soft_wrap=True)

    config = uvicorn_config(app, where.limits, timeout_graceful_shutdown=GRACE_S)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    sys.setswitchinterval(SWITCH_S)
    try:  # uvicorn stops at these signals, and then raises them again for whoever had them before: a clean exit is ours
        with listening() as listener:
            _Server(config, say, app.state.llmgen, where.drain_s).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if engine is not None:
            engine.close()
        if store is not None:
            store.close()
        flush()


def uvicorn_config(app: FastAPI, limits: Limits, **more: Any) -> uvicorn.Config:
    """How uvicorn serves the app: with limits that no app can set, since they count before it is asked."""
    return uvicorn.Config(
        app,
        http=connections(max_headers=limits.max_headers, headers_s=limits.headers_s, read_s=limits.read_s),
        ws="none",
        proxy_headers=False,  # who writes such a header may write what he likes
        server_header=False,
        log_config=None,
        access_log=False,
        **more,
    )


class _Server(uvicorn.Server):
    """Says where it listens, once it does; asked to stop, it answers for a while, and says at /ready that it ends."""

    def __init__(self, config: uvicorn.Config, say: Callable[[], None], state: State, drain_s: float) -> None:
        super().__init__(config)
        self._say, self._state, self._drain_s = say, state, drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        if self.started:
            self._say()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._state.draining = True
        end = time.monotonic() + self._drain_s
        while time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(DRAIN_LOOK_S)
        await super().shutdown(sockets)


@contextmanager
def _hold(catalog: Path) -> Iterator[None]:
    """Be the one process that saves a catalog: each holds all items in memory, and would write over what others put.

    The lock is on a file beside the catalog, as that itself is replaced at each change; it ends with the process.
    """
    path = catalog.resolve()
    beside = path.with_name(f".{path.name}.lock")
    try:
        file = beside.open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--save-changes cannot write beside {catalog}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{file.read().strip() or 'another process'} saves its changes in {catalog} already; stop it, serve "
                "without --save-changes, or give another --catalog"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def _workspace(
    data: DataSettings, settings: RecommenderSettings, catalog: Path | None
) -> tuple[Workspace, Callable[[], Catalog]]:
    """The data, and how its catalog is read again."""
    if settings.folder is not None:
        if catalog is not None:
            raise ConfigError("--load stands for --catalog too; leave one of them out")
        return open_workspace(data, settings), read_again(settings.folder)
    if catalog is None:
        written = settings.written(data)
        titles = replace(written, identifier=None)  # as the running catalog is spelled, the app knows
        return Workspace(written.load()), lambda: titles.load(progress=False).catalog
    if data != DataSettings(identifier=data.identifier):
        raise ConfigError("--catalog stands for a data set; leave out --dataset, --items and what belongs to them")
    try:
        name = settings.written(data).identifier
        if name is None:
            made = Catalog.from_jsonl(catalog)  # one that was spelled otherwise is refused
        else:
            made = identified(Catalog.from_jsonl(catalog, identifier=None), name)
        return Workspace(Dataset.of(made)), lambda: Catalog.from_jsonl(catalog, identifier=None)
    except OSError as error:
        raise ConfigError(f"cannot read the catalog {catalog}: {error}") from error


def _without_log(settings: RecommenderSettings) -> RecommenderSettings:
    """Only the priors that need no log."""
    if settings.rating_priors:
        raise ConfigError("a rating prior is fitted on a log, and --catalog has none; give --items and --interactions")
    if settings.priors is None:
        return settings.replace(priors={"wish": 1.0})
    if fitted := sorted(name for name in settings.priors if kind(name).reads_log):
        raise ConfigError(
            f"--prior {fitted[0]} is fitted on a log, and --catalog has none; give --items and --interactions"
        )
    return settings
