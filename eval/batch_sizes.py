"""Lists for all users by the size of the catalog: CPU time and bytes a user, and what an actor loads and holds.

    python -m eval.batch_sizes --sizes 10000,100000,1000000

Priors alone: `Transition` on a made-up log of as many users as items, five events each, see `eval.bench.logs`. The
recommender is saved, and loaded in a process of its own, as an actor of `llmgen batch --ray` does.
"""

from __future__ import annotations

import multiprocessing
import pickle
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from eval.bench.catalogs import catalog_of
from eval.bench.logs import log, queries
from llmgen.cli.batch import SHARD, lists_of
from llmgen.cli.ray_batch import with_ids
from llmgen.priors import Transition
from llmgen.recommend.recommender import Recommender
from llmgen.types import Query

EACH = 5
"""Events of a user of the log."""
LENGTH = 20
"""Items of the history of a user who is asked about."""
K = 20
MEGABYTE = 1_000_000


class Cost(NamedTuple):
    """What lists for one shard cost.

    Attributes:
        load_s: CPU time in which an actor loads the recommender.
        user_ms: CPU time of one core a user, with the file.
        command_us: CPU time of the command a user, for the query and its bytes.
        peak_mb: Most memory of the process, 10^6 bytes.
        sent, got: Bytes a user: of the queries that an actor gets, and of the file that comes back.
    """

    load_s: float
    user_ms: float
    command_us: float
    peak_mb: float
    sent: float
    got: float


def actor(folder: Path) -> Cost:
    """Load a recommender and make the lists of two shards; the first one warms up."""
    began = time.process_time()
    recommender = Recommender.load(folder, engine=None)
    load_s = time.process_time() - began
    drawn = [query.history for query in queries(recommender.catalog, 2 * SHARD, LENGTH)]
    began = time.process_time()
    asked = [with_ids(Query(items, user_id=str(number), k=K)) for number, items in enumerate(drawn)]
    sent = len(pickle.dumps(asked)) / len(asked)
    command_us = 1_000_000 * (time.process_time() - began) / len(asked)
    many = partial(recommender.recommend_many, on_error="return")
    users = [str(query.user_id) for query in asked]
    lists_of(many, users[:SHARD], asked[:SHARD])
    began = time.process_time()
    made = lists_of(many, users[SHARD:], asked[SHARD:])
    user_ms = 1000 * (time.process_time() - began) / SHARD
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE
    return Cost(load_s, user_ms, command_us, peak_mb, sent, len(made.parquet) / SHARD)


def main(
    sizes: Annotated[str, typer.Option(help="Items, with commas.")] = "10000,100000,1000000",
) -> None:
    """Measure and print."""
    table = Table(
        "items",
        "artefacts MB",
        "load s",
        "CPU ms a user",
        "command µs a user",
        "peak MB",
        "sent B a user",
        "file B a user",
    )
    for size in map(int, sizes.split(",")):
        with TemporaryDirectory(prefix="llmgen-sizes-") as place:
            folder = Path(place) / "recommender"
            catalog = catalog_of([f"Product {number % 1000} of series {number // 1000}" for number in range(size)])
            Recommender(catalog, None, priors=[Transition.fit(log(size, size, EACH), catalog)]).save(folder)
            stored = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MEGABYTE
            del catalog
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
                cost = apart.submit(actor, folder).result()
        table.add_row(f"{size:,}", f"{stored:.0f}", *(f"{value:.3g}" for value in cost))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
