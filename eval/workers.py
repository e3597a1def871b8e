"""Requests a second and their latency by the number of workers: real `llmgen serve`s side by side, and asked in turn.

    python -m eval.workers                                             # priors alone, then the fake engine
    python -m eval.workers --engine none --workers 1,2 --rounds 10 --out workers.json

Every service runs all the time, and idles while another one is asked, so that a noisy minute is as bad to all of them.
The clients are one process that does little more than send bytes and compare bytes, but it shares the cores with the
service: its CPU time is told beside theirs. An answer is wrong if its items are not those that a recommender in this
process gives the same user.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.table import Table

from eval.load import Load, expected_answers, request_body, serving
from eval.serving import Ratio, ratio
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace

STARTED_S = 300.0
"""A worker that answers nobody for so long after its service began will not."""
LENGTH = re.compile(rb"(?i)content-length: (\d+)")
IDS = re.compile(rb'"item":\{"id":"([^"]*)"')


@dataclass(frozen=True)
class Round:
    """What one service did with one round of requests.

    Attributes:
        engine: Of the service.
        workers: Processes that answered.
        requests: How many were asked.
        seconds: From the first request to the last answer.
        p50_ms, p99_ms: Of the time from sending a request to having its answer.
        bad: Answers that were no success or had other items than the same user gets in process.
        service_cpu_ms: CPU time of all processes of the service, a request.
        client_cpu_ms: CPU time of the clients, a request.
        connections: Kept connections that each worker had, most first.
    """

    engine: str
    workers: int
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad: int
    service_cpu_ms: float
    client_cpu_ms: float
    connections: tuple[int, ...]


class Service:
    """A service under load.

    Args:
        process: `llmgen serve`; where it has several workers, their watcher.
        address: Host and port.
        workers: How many processes answer.
    """

    def __init__(self, process: psutil.Process, address: tuple[str, int], workers: int) -> None:
        self.process, self.address, self.workers = process, address, workers

    @property
    def processes(self) -> list[psutil.Process]:
        """Those that answer."""
        return [self.process] if self.workers == 1 else self.process.children()

    def cpu_s(self) -> float:
        """CPU seconds so far of all its processes."""
        times = [process.cpu_times() for process in {self.process, *self.processes}]
        return sum(one.user + one.system for one in times)

    def connect(self, clients: int) -> tuple[list[socket.socket], tuple[int, ...]]:
        """Kept connections, one after the other, and how many each worker has; most first.

        Raises:
            SystemExit: A worker got none in `STARTED_S`.
        """
        end = time.monotonic() + STARTED_S
        while True:
            made = [socket.create_connection(self.address) for _ in range(clients)]
            for one in made:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.sendall(b"GET /health HTTP/1.1\r\nHost: service\r\n\r\n")
            for one in made:
                _whole(one)
            ours = {one.getsockname()[1] for one in made}
            held = [
                sum(bool(one.raddr) and one.raddr.port in ours for one in process.net_connections("tcp"))
                for process in self.processes
            ]
            if len(held) == self.workers and (min(held) or clients < self.workers):
                return made, tuple(sorted(held, reverse=True))
            for one in made:
                one.close()
            if time.monotonic() > end:
                raise SystemExit(f"of {self.workers} workers some got no connection: {held}")
            time.sleep(0.1)


class Asker:
    """The requests of some users and their right answers.

    Args:
        requests: Of each user, as bytes to send.
        expected: Ids of the items of each user's answer.
    """

    def __init__(self, requests: Sequence[bytes], expected: Sequence[Sequence[str]]) -> None:
        self._requests = requests
        self._ids = [[item_id.encode() for item_id in ids] for ids in expected]
        self._right: list[set[bytes]] = [set() for _ in requests]  # bodies that were looked at; most come again

    def ask(self, service: Service, engine: str, *, clients: int, requests: int) -> Round:
        """Ask over kept connections, each at the next user as soon as it has its answer, until all are answered."""
        made, held = service.connect(clients)
        poll = select.epoll()
        by_file = {one.fileno(): one for one in made}
        user_of: dict[int, int] = {}
        sent_at: dict[int, float] = {}
        taken: list[float] = []
        sent = bad = 0
        cpu, ours, began = service.cpu_s(), time.process_time(), time.perf_counter()
        for file, one in by_file.items():
            poll.register(file, select.EPOLLIN)
            user_of[file] = sent % len(self._requests)
            sent_at[file] = time.perf_counter()
            one.sendall(self._requests[user_of[file]])
            sent += 1
        while len(taken) < requests:
            for file, _ in poll.poll():
                one = by_file[file]
                status, body = _whole(one)
                now = time.perf_counter()
                taken.append(now - sent_at[file])
                bad += not self._is_right(user_of[file], status, body)
                if sent < requests:
                    user_of[file], sent_at[file] = sent % len(self._requests), now
                    one.sendall(self._requests[user_of[file]])
                    sent += 1
        seconds = time.perf_counter() - began
        ours, cpu = time.process_time() - ours, service.cpu_s() - cpu
        poll.close()
        for one in made:
            one.close()
        p50, p99 = 1000 * np.percentile(taken, [50, 99])
        each = 1000 / len(taken)
        workers = service.workers
        return Round(engine, workers, len(taken), seconds, p50, p99, bad, cpu * each, ours * each, held)

    def _is_right(self, user: int, status: int, body: bytes) -> bool:
        if body in self._right[user]:
            return status == 200
        right = status == 200 and IDS.findall(body) == self._ids[user]
        if right:
            self._right[user].add(body)
        return right


def main(
    engines: Annotated[str, typer.Option("--engine", help="As of `llmgen serve`; several with commas.")] = "none,fake",
    workers: Annotated[
        str, typer.Option(help="Numbers of workers, a service each; the first is the yardstick.")
    ] = "1,2",
    dataset: Annotated[str, typer.Option(help="As of `llmgen serve`.")] = "movielens-100k",
    clients: Annotated[int, typer.Option(min=1, help="Connections at once.")] = 64,
    requests: Annotated[int, typer.Option(min=100, help="A service and round.")] = 2_000,
    rounds: Annotated[int, typer.Option(min=1, help="Each asks every service once.")] = 10,
    users: Annotated[int, typer.Option(min=1, help="Different users, evenly spread over the data set.")] = 200,
    k: Annotated[int, typer.Option("-k", min=1)] = 10,
    out: Annotated[Path | None, typer.Option(help="A file for the figures of every round, JSON.")] = None,
) -> None:
    """Ask services with so many workers in turn, and print what they did."""
    console = Console(width=160)
    counts = [int(part) for part in workers.split(",")]
    workspace = Workspace(DataSettings(dataset).load())
    ids = sorted(workspace.histories, key=str)
    chosen = [ids[number] for number in np.linspace(0, len(ids) - 1, min(users, len(ids))).astype(int)]
    queries = {user: workspace.query(user=user, k=k) for user in chosen}
    bodies = {user: request_body(query) for user, query in queries.items()}
    found: list[Round] = []
    for engine in engines.split(","):
        expected = expected_answers(workspace, RecommenderSettings(engine=engine), queries)
        load = Load(bodies, expected)
        asker = Asker([load.requests[user] for user in chosen], [load.expected[user] for user in chosen])
        with ExitStack() as stack:
            services = []
            for count in counts:
                options = ["--engine", engine, "--dataset", dataset, "--workers", str(count)]
                process, host, port = stack.enter_context(serving(options))
                services.append(Service(process, (host, port), count))
                asker.ask(services[-1], engine, clients=clients, requests=2 * len(chosen))  # warm
            of_engine: list[Round] = []
            for number in range(rounds):
                first = number % len(services)
                for service in [*services[first:], *services[:first]]:
                    of_engine.append(asker.ask(service, engine, clients=clients, requests=requests))
        console.print(_table(engine, of_engine, counts))
        found += of_engine
    console.print(
        f"{dataset}, k={k}, {len(chosen)} users, {clients} clients; {os.cpu_count()} cores for services and clients "
        "together; ratios with 95 % intervals over rounds",
        highlight=False,
    )
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps([asdict(one) for one in found], indent=1))
    if any(one.bad for one in found):
        raise typer.Exit(1)


def compared(rounds: Sequence[Round], counts: Sequence[int]) -> Mapping[int, Ratio]:
    """Workers -> how many times the requests a second of the first number, paired by round."""
    seconds = {count: [one.seconds for one in rounds if one.workers == count] for count in counts}
    return {count: ratio(seconds[counts[0]], seconds[count]) for count in counts}


def _table(engine: str, rounds: Sequence[Round], counts: Sequence[int]) -> Table:
    table = Table(title=f"engine {engine}")
    for heading in (
        "workers",
        "requests/s",
        "times the first",
        "p50 ms",
        "p99 ms",
        "CPU ms, service",
        "CPU ms, clients",
        "clients' share",
        "busiest worker's connections",
        "bad",
    ):
        table.add_column(heading, justify="right")
    ratios = compared(rounds, counts)
    for count in counts:
        ours = [one for one in rounds if one.workers == count]
        service, client = (
            float(np.mean([getattr(one, f"{who}_cpu_ms") for one in ours])) for who in ("service", "client")
        )
        value, low, high = ratios[count]
        table.add_row(
            str(count),
            f"{sum(one.requests for one in ours) / sum(one.seconds for one in ours):.0f}",
            f"{value:.2f} ({low:.2f}-{high:.2f})",
            f"{np.median([one.p50_ms for one in ours]):.1f}",
            f"{np.median([one.p99_ms for one in ours]):.1f}",
            f"{service:.3f}",
            f"{client:.3f}",
            f"{client / (service + client):.0%}",
            f"{np.mean([one.connections[0] / sum(one.connections) for one in ours]):.0%}",
            str(sum(one.bad for one in ours)),
        )
    return table


def _whole(one: socket.socket) -> tuple[int, bytes]:
    """Status and body of the one answer that comes."""
    data = one.recv(1 << 16)
    while (end := data.find(b"\r\n\r\n")) < 0:
        data = _more(one, data)
    length = LENGTH.search(data, 0, end + 2)
    assert length is not None, data[:end]
    whole = end + 4 + int(length[1])
    while len(data) < whole:
        data = _more(one, data)
    return int(data[9:12]), data[end + 4 :]


def _more(one: socket.socket, data: bytes) -> bytes:
    more = one.recv(1 << 16)
    if not more:
        raise SystemExit(f"the service hung up in the middle of an answer: {data[:200]!r}")
    return data + more


if __name__ == "__main__":
    typer.run(main)
