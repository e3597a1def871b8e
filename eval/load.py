"""A load test: a real `llmgen serve`, real users' histories, and clients in another process that check every answer.

    python -m eval.load --engine fake --clients 1,4,16,64 --requests 10000
    python -m eval.load --engine hf --clients 1,16 --requests 64 --users 64

Each client asks, waits for the answer, and asks again over one kept connection. An answer is wrong if its items are not
those that a recommender in this process gives the same user, and lost if it does not come or is no success.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from llmgen.engines import load_engine
from llmgen.recommend.recommender import Choice
from llmgen.types import Query
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace, choose

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Run:
    """What one number of clients met.

    Attributes:
        seconds: From the first request to the last answer.
        p50_ms, p95_ms, p99_ms: Of the time from sending a request to having its answer.
        lost: Requests without a successful answer.
        wrong: Answers with other items than the same user gets in process.
        cpu_ms: CPU time of the service, all its threads, a request.
        memory_mb: Resident memory of the service after each tenth of the requests.
    """

    clients: int
    requests: int
    seconds: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    lost: int
    wrong: int
    cpu_ms: float
    memory_mb: tuple[float, ...]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@contextmanager
def serving(options: Sequence[str]) -> Iterator[tuple[psutil.Process, str, int]]:
    """A process of `llmgen serve`: the process, host and port."""
    command = [sys.executable, "-m", "llmgen", "serve", "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = ""
    try:
        while not (found := re.search(r"on http://(\S+):(\d+)", said)):
            line = process.stderr.readline()
            if not line:
                raise SystemExit(f"the service ended: {said}")
            said += line
        yield psutil.Process(process.pid), found[1], int(found[2])
    finally:
        process.terminate()
        process.wait(60)


class Load:
    """The requests of some users and the answers that they should get.

    Args:
        bodies: User -> body of the request.
        expected: User -> ids of the items, in order.
    """

    def __init__(self, bodies: Mapping[str, bytes], expected: Mapping[str, Sequence[str]]) -> None:
        self.users = list(bodies)
        self.requests = {user: _request(body) for user, body in bodies.items()}
        self.expected = {user: list(ids) for user, ids in expected.items()}

    def run(self, service: psutil.Process, host: str, port: int, *, clients: int, requests: int) -> Run:
        """Ask with so many clients, each at its own users, until all requests are answered."""
        self.taken: list[float] = []
        self.lost = self.wrong = 0
        self.left = requests
        memory: list[float] = []
        before, began = cpu_of(service), time.perf_counter()

        async def all_clients() -> None:
            watch = asyncio.ensure_future(self._watch(service, requests, memory))
            await asyncio.gather(*[self._client(host, port, number, clients) for number in range(clients)])
            watch.cancel()

        asyncio.run(all_clients())
        seconds = time.perf_counter() - began
        memory.append(service.memory_info().rss / MEGABYTE)
        p50, p95, p99 = 1000 * np.percentile(self.taken, [50, 95, 99])
        cpu = 1000 * (cpu_of(service) - before) / requests
        return Run(clients, requests, seconds, p50, p95, p99, self.lost, self.wrong, cpu, tuple(memory))

    async def _client(self, host: str, port: int, number: int, clients: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        turn = number
        while self.left > 0:
            self.left -= 1
            user = self.users[turn % len(self.users)]
            turn += clients
            began = time.perf_counter()
            try:
                writer.write(self.requests[user])
                status, body = await _answer(reader)
            except (OSError, asyncio.IncompleteReadError):
                self.lost += 1
                reader, writer = await asyncio.open_connection(host, port)
                continue
            self.taken.append(time.perf_counter() - began)
            if status != 200:
                self.lost += 1
            elif re.findall(rb'"item":\{"id":"([^"]*)"', body) != self.expected_bytes(user):
                self.wrong += 1
        writer.close()

    def expected_bytes(self, user: str) -> list[bytes]:
        """The ids that the answer of a user should have, as they stand in JSON."""
        return [item_id.encode() for item_id in self.expected[user]]

    async def _watch(self, service: psutil.Process, requests: int, memory: list[float]) -> None:
        while True:
            while self.left > requests * (9 - len(memory)) / 10:
                await asyncio.sleep(0.01)
            memory.append(service.memory_info().rss / MEGABYTE)


def main(
    engine: Annotated[str, typer.Option(help="As of `llmgen serve`; none for the priors alone.")] = "fake",
    dataset: Annotated[str, typer.Option(help="As of `llmgen serve`.")] = "movielens-100k",
    clients: Annotated[str, typer.Option(help="Numbers of clients at once, one run each.")] = "1,4,16,64",
    requests: Annotated[int, typer.Option(min=10, help="A run.")] = 10_000,
    users: Annotated[int, typer.Option(min=1, help="Different users, evenly spread over the data set.")] = 200,
    k: Annotated[int, typer.Option("-k", min=1)] = 10,
    num_beams: Annotated[int | None, typer.Option(min=1, help="As of `llmgen serve`.")] = None,
    lm_weight: Annotated[float | None, typer.Option(min=0, help="As of `llmgen serve`.")] = None,
    out: Annotated[Path | None, typer.Option(help="A file for all figures, JSON.")] = None,
) -> None:
    """Load the service and print what it did."""
    console = Console()
    settings = RecommenderSettings(engine=engine, num_beams=num_beams, lm_weight=lm_weight)
    workspace = Workspace(DataSettings(dataset).load())
    ids = sorted(workspace.histories, key=str)
    chosen = [ids[number] for number in np.linspace(0, len(ids) - 1, min(users, len(ids))).astype(int)]
    queries = {user: workspace.query(user=user, k=k) for user in chosen}
    console.print(f"answers of {len(queries)} users in this process, to compare with")
    expected = expected_answers(workspace, settings, queries)
    load = Load({user: request_body(query) for user, query in queries.items()}, expected)
    options = ["--engine", engine, "--dataset", dataset]
    options += [] if num_beams is None else ["--num-beams", str(num_beams)]
    options += [] if lm_weight is None else ["--lm-weight", str(lm_weight)]
    runs = []
    with serving(options) as (service, host, port):
        load.run(service, host, port, clients=4, requests=min(requests, 4 * len(chosen), 400))  # warm
        for number in (int(part) for part in clients.split(",")):
            runs.append(load.run(service, host, port, clients=number, requests=requests))
            console.print(_line(runs[-1]))
    table = Table(title=f"{engine}, {dataset}, k={k}, {len(chosen)} users, {os.cpu_count()} cores for all")
    for heading in ("clients", "requests/s", "p50 ms", "p95 ms", "p99 ms", "CPU ms", "lost", "wrong", "memory MB"):
        table.add_column(heading, justify="right")
    for run in runs:
        figures = (run.p50_ms, run.p95_ms, run.p99_ms, run.cpu_ms)
        memory = f"{run.memory_mb[0]:.0f}-{run.memory_mb[-1]:.0f}"
        table.add_row(
            str(run.clients), f"{run.rate:.0f}", *[f"{x:.2f}" for x in figures], str(run.lost), str(run.wrong), memory
        )
    console.print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(
            json.dumps({"engine": engine, "dataset": dataset, "runs": [asdict(run) for run in runs]}, indent=1)
        )
    if any(run.lost or run.wrong for run in runs):
        raise typer.Exit(1)


def expected_answers(
    workspace: Workspace, settings: RecommenderSettings, queries: Mapping[str, Query]
) -> dict[str, list[str]]:
    """User -> ids that a recommender in this process answers."""
    priors = workspace.priors(settings)
    engine = None if settings.engine == "none" else load_engine(settings.engine)
    made = workspace.build(settings, priors, engine, Choice(lm_weight=settings.lm_weight))
    answers = {}
    for user, query in track(queries.items(), "Asking in process"):
        asked = made
        if engine is not None:
            weight = choose(settings, made.priors, query).lm_weight
            asked = made.with_priors(*made.priors, lm_weight=weight)
        answers[user] = [place.item.id for place in asked.recommend(query)]
    return answers


def request_body(query: Query) -> bytes:
    """A query as `POST /v1/recommend` takes it, with its history."""
    return json.dumps({"history": [item.id for item in query.items], "k": query.k}).encode()


def _request(body: bytes) -> bytes:
    head = (
        f"POST /v1/recommend HTTP/1.1\r\nHost: service\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    )
    return head.encode() + b"\r\n\r\n" + body


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body; a client that costs as little as can be, since it shares the cores with the service."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None, head
    return int(head[9:12]), await reader.readexactly(int(length[1]))


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of all threads of a process since its start."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _line(run: Run) -> str:
    return (
        f"{run.clients} clients: {run.rate:.0f} requests/s, p50 {run.p50_ms:.2f} ms, {run.lost} lost, {run.wrong} wrong"
    )


if __name__ == "__main__":
    typer.run(main)
