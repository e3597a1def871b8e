"""A day in a shop: services and a database that are killed again and again, and what is left to count at the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import psutil

from eval.shop.http import FAILURES, Line
from eval.shop.ledger import Ledger, Versions
from eval.shop.postgres import Postgres
from eval.shop.services import Service, kill
from eval.shop.traffic import Row, Traffic
from llmgen.catalog.core import Catalog
from llmgen.errors import LLMGenError
from llmgen.store import Store
from llmgen.types import Item

Target = Literal["worker", "fitter", "database", "watcher"]
SHARES: dict[Target, float] = {"worker": 0.5, "fitter": 0.2, "database": 0.2, "watcher": 0.1}
"""What is killed how often."""
AWAY_S = (0.2, 2.0)
"""For so long the database is away."""
SUPERVISE_S, SAMPLE_S = 0.2, 5.0
START_S = 600.0
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Plan:
    """How long a day is, and what happens in it.

    Attributes:
        seconds: From the moment when all services answer.
        kills: So many, at random times.
        services: On the same store.
        workers: Of each service.
        persons: Who look at lists and take things at the same time.
        pause_s: Mean time between two events of one of them.
        items_pause_s: Mean time between two changes of the catalog.
        at_once: Events of one request of the bulk.
        refit_s: Between the end of one fit and the next.
        seed: Of all that is drawn.
    """

    seconds: float
    kills: int
    services: int = 2
    workers: int = 2
    persons: int = 4
    pause_s: float = 0.2
    items_pause_s: float = 2.0
    at_once: int = 500
    refit_s: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Shop:
    """What there is to sell, and what happens on the day.

    Attributes:
        arriving: Items that the store does not hold yet.
        users: Of those who look at lists: what they take, by the log.
        rows: All other events of the day, in their order.
    """

    arriving: Sequence[Item]
    users: dict[str, list[str]]
    rows: Sequence[Row]


@dataclass
class Day:
    """What happened.

    Attributes:
        ledger: With all counts and faults.
        kills: What was killed, in order, with the second of the day.
        memory: Of each worker: process, second of the day and resident memory in 10^6 bytes, at each sample.
        starts: How often each service was started.
        stored: Events in the store at the end.
        seconds: How long it was.
    """

    ledger: Ledger
    kills: list[tuple[Target, float]] = field(default_factory=list)
    memory: list[tuple[int, float, float]] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    stored: int = 0
    seconds: float = 0.0


def pass_day(plan: Plan, shop: Shop, postgres: Postgres, url: str, folder: Path, say: Callable[[str], None]) -> Day:
    """Let a day go by, and hold the store against what was acknowledged.

    Args:
        plan: See `Plan`.
        shop: See `Shop`.
        postgres: The database's server.
        url: Of the store, with its items and the events of the days before.
        folder: For the services' logs.
        say: Told how far it is.
    """
    with closing(Store.open(url)) as store:
        catalog, _ = store.catalog()
        before = sum(store.statistics().events.values())
    options = ["--store", url, "--kind", "buy", "--engine", "none", "--workers", str(plan.workers)]
    options += ["--refit", str(plan.refit_s / 60)]
    services = [Service(options, folder / f"service-{number}.log") for number in range(plan.services)]
    day = Day(Ledger())
    try:
        asyncio.run(_passing(plan, shop, postgres, services, day, catalog, say))
        for service in services:
            if status := service.end():
                day.ledger.fault("service that did not end well", f"exit status {status}")
            if left := service.left():
                day.ledger.fault("process that goes on without its service", repr(left))
    finally:
        for service in services:
            for process in [*service.watchers(), *service.left()]:
                kill(process)
    day.starts = [service.starts for service in services]
    with closing(Store.open(url)) as store:
        events = list(store.events())
        day.stored = len(events)
        ours = [one for one in events if one.id.startswith(("person-", "log-"))]
        day.ledger.hold_against(ours)
        if len(events) - len(ours) != before:
            day.ledger.fault("lost event", f"of {before} events of before the day {len(events) - len(ours)} are left")
    return day


async def _passing(
    plan: Plan,
    shop: Shop,
    postgres: Postgres,
    services: Sequence[Service],
    day: Day,
    catalog: Catalog,
    say: Callable[[str], None],
) -> None:
    ports = [service.port for service in services]
    keeping = asyncio.create_task(_keep_up(services))
    await _until_ready(ports, plan.workers, services)
    say("all services answer")
    versions = Versions(catalog)
    began = time.monotonic()
    traffic = Traffic(ports, versions, day.ledger, began + plan.seconds, plan.seed)
    users = list(shop.users.items())
    persons = [
        traffic.person(number, dict(users[number :: plan.persons]), plan.pause_s) for number in range(plan.persons)
    ]
    sampling = asyncio.create_task(_sample(services, day, began))
    killing = asyncio.create_task(_kill(plan, postgres, services, day, began, say))
    work = [
        *persons,
        traffic.bulk(shop.rows, plan.at_once, 0.9 * plan.seconds),
        traffic.items(shop.arriving, plan.items_pause_s),
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
        await killing
        day.seconds = time.monotonic() - began
        await _until_one_catalog(ports, versions, day.ledger)
    finally:
        for task in (keeping, sampling, killing):
            task.cancel()
        await asyncio.gather(keeping, sampling, killing, return_exceptions=True)


async def _keep_up(services: Sequence[Service]) -> None:
    while True:
        for service in services:
            service.keep_up()
        await asyncio.sleep(SUPERVISE_S)


async def _until_ready(ports: Sequence[int], workers: int, services: Sequence[Service]) -> None:
    end = time.monotonic() + START_S
    for port, service in zip(ports, services, strict=True):
        while await _catalog(port) is None or len(service.workers()) < workers:
            if time.monotonic() > end or service.starts > 1:
                raise LLMGenError(f"the service on port {port} does not answer")
            await asyncio.sleep(0.1)


async def _until_one_catalog(ports: Sequence[int], versions: Versions, ledger: Ledger) -> None:
    """See that all services end with the catalog that was told to them."""
    end = time.monotonic() + START_S
    for port in ports:
        while await _catalog(port) != versions.now.digest:
            if time.monotonic() > end:
                ledger.fault("catalog that is not the last one", f"on port {port}")
                break
            await asyncio.sleep(0.1)


async def _catalog(port: int) -> str | None:
    """The digest of a service's catalog; None where it is not ready."""
    with closing(Line("127.0.0.1", port)) as line:
        try:
            answer = await line.ask("GET", "/ready")
        except FAILURES:
            return None
    return str(answer.read()["catalog"]) if answer.status == 200 else None


async def _sample(services: Sequence[Service], day: Day, began: float) -> None:
    while True:
        for service in services:
            for worker in service.workers():
                try:
                    size = worker.memory_info().rss / MEGABYTE
                except psutil.NoSuchProcess:
                    continue
                day.memory.append((worker.pid, time.monotonic() - began, size))
        await asyncio.sleep(SAMPLE_S)


async def _kill(
    plan: Plan, postgres: Postgres, services: Sequence[Service], day: Day, began: float, say: Callable[[str], None]
) -> None:
    rng = random.Random(f"{plan.seed} kills")
    times = sorted(rng.uniform(0.05, 0.95) * plan.seconds for _ in range(plan.kills))
    targets = [*SHARES]
    if plan.kills >= len(targets):  # each at least once
        drawn = [*targets, *rng.choices(targets, [*SHARES.values()], k=plan.kills - len(targets))]
        rng.shuffle(drawn)
    else:
        drawn = targets[: plan.kills]
    for at, target in zip(times, drawn, strict=True):
        await asyncio.sleep(max(0.0, began + at - time.monotonic()))
        if target == "database":
            await asyncio.to_thread(postgres.kill)
            await asyncio.sleep(rng.uniform(*AWAY_S))
            await asyncio.to_thread(postgres.start)
        else:
            while not await _killed(services, target, rng):
                await asyncio.sleep(0.05)
        day.kills.append((target, time.monotonic() - began))
        say(f"{day.kills[-1][1]:.0f} s: killed {target}, {len(day.ledger.acknowledged):,} events")


async def _killed(services: Sequence[Service], target: Target, rng: random.Random) -> bool:
    """Kill one of some processes, if there is one."""
    found = [one for service in services for one in getattr(service, f"{target}s")()]
    if not found:
        return False
    one = rng.choice(found)
    if target == "fitter":  # somewhere in its work
        await asyncio.sleep(rng.uniform(0, 2))
    return kill(one)


def growth(memory: Sequence[tuple[int, float, float]]) -> list[tuple[float, float, float]]:
    """Of each worker that lived for long, at least half as long as the longest: seconds, first and last memory.

    The first is the median of the second quarter of its life, when it has answered for a while and fitted priors; the
    last that of the last quarter.
    """
    lives: dict[int, list[tuple[float, float]]] = {}
    for process, second, size in memory:
        lives.setdefault(process, []).append((second, size))
    spans = {process: life[-1][0] - life[0][0] for process, life in lives.items()}
    found = []
    for process, life in lives.items():
        if len(life) >= 8 and spans[process] >= max(spans.values()) / 2:
            sizes = [size for _, size in life]
            quarter = len(sizes) // 4
            found.append(
                (spans[process], float(np.median(sizes[quarter : 2 * quarter])), float(np.median(sizes[-quarter:])))
            )
    return found
