"""A day in a shop over HTTP, on Amazon's video games: events by the million, and processes that are killed meanwhile.

    python -m eval.shop ../shared/data/video-games --seconds 2400 --kills 30 --out runs/shop.json

Two services with two workers each answer on one PostgreSQL. A fifth of the log is in the store at the start; the rest
is sent as views, carts and buys, a million events in all. People look at their lists and take what stands first, or
what the log has. One item in twenty arrives on the day. Workers, the process that fits, their watcher and the database
are killed with `kill -9`, and started again as a supervisor does. Ends with 1 where anything was lost, doubled or
mixed.
"""

from __future__ import annotations

import json
import os
import random
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from eval.shop.day import Day, Plan, Shop, growth, pass_day
from eval.shop.postgres import Postgres
from eval.shop.traffic import Row
from llmgen.datasets import Dataset
from llmgen.store import Store
from llmgen.store.transfer import import_dataset
from llmgen.workspace.core import DataSettings

DAY_S = 86_400.0
IMPORTED, ARRIVING = 0.2, 0.05
"""Shares of the log and of the items."""
KINDS = ("view", "cart", "buy")
"""What one row of the log is told as, a second apart."""
SOON_MS = 100.0


def opened(data: Dataset, url: str, persons: int, seed: int) -> Shop:
    """A store with the first part of a log and most of the items, and all that comes later.

    Args:
        data: Catalog and log.
        url: Where the store is made.
        persons: Users who look at lists.
        seed: Of who and what is drawn.
    """
    rng = random.Random(seed)
    arriving = set(rng.sample(data.catalog.ids, int(ARRIVING * len(data.catalog))))
    kept = data.catalog.without([item_id for item_id in data.catalog.ids if item_id in arriving])
    log = data.interactions.sort("timestamp", maintain_order=True)
    first = log.head(int(IMPORTED * log.height))
    with closing(Store.open(url)) as store:
        import_dataset(store, Dataset("first", kept, first, data.report), kind="buy")
    later = log.slice(first.height)
    users = later["user_id"].unique(maintain_order=True).to_list()
    drawn = set(rng.sample(users, min(persons, len(users))))
    theirs: dict[str, list[str]] = {user: [] for user in users if user in drawn}
    start = time.time() - 90 * DAY_S
    rows = []
    for user, item, when in later.select("user_id", "item_id", "timestamp").iter_rows():
        if user in theirs:
            theirs[user].append(item)
        else:
            rows += [Row(user, item, kind, start + 60 * when + place) for place, kind in enumerate(KINDS)]
    return Shop([data.catalog[item_id] for item_id in sorted(arriving)], theirs, rows)


def main(
    folder: Annotated[
        Path, typer.Argument(help="With items.csv.gz (item_id, title) and log.csv.gz (user_id, item_id, position).")
    ],
    seconds: Annotated[float, typer.Option(min=5, help="Of the day.")] = 2_400,
    kills: Annotated[int, typer.Option(min=0)] = 30,
    services: Annotated[int, typer.Option(min=1)] = 2,
    workers: Annotated[int, typer.Option(min=1, help="Of each service.")] = 2,
    persons: Annotated[int, typer.Option(min=1, help="Who look at lists at the same time.")] = 4,
    pause: Annotated[float, typer.Option(min=0, help="Seconds between two events of one of them, on average.")] = 0.2,
    refit: Annotated[float, typer.Option(min=0.6, help="Seconds from one fit to the next.")] = 60,
    rows: Annotated[int | None, typer.Option(min=1, help="Events sent in bulk at most; all by default.")] = None,
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="A file for all figures, JSON.")] = None,
) -> None:
    """Let a day go by, and print what was left of it."""
    console = Console(width=120)
    plan = Plan(seconds, kills, services, workers, persons, pause, refit_s=refit, seed=seed)
    data = DataSettings(
        items=folder / "items.csv.gz", interactions=folder / "log.csv.gz", columns={"timestamp": "position"}
    ).load()
    logs = (out.parent if out is not None else Path()) / "shop-logs"
    logs.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="llmgen-shop-") as place:
        postgres = Postgres(Path(place))
        try:
            url = postgres.database()
            shop = opened(data, url, 50 * persons, seed)
            sent = Shop(shop.arriving, shop.users, shop.rows[:rows])
            console.print(f"{len(sent.rows):,} events to send in bulk, {len(sent.users):,} users who look at lists")
            day = pass_day(plan, sent, postgres, url, logs, lambda text: console.print(text, highlight=False))
        finally:
            postgres.stop()
    show(day, console)
    if out is not None:
        ledger = day.ledger
        record = {
            "plan": asdict(plan),
            "cores": os.cpu_count(),
            "seconds": day.seconds,
            "stored": day.stored,
            "acknowledged": len(ledger.acknowledged),
            "counts": dict(ledger.counts),
            "faults": dict(ledger.faults),
            "told": ledger.told,
            "kills": day.kills,
            "starts": day.starts,
            "growth": growth(day.memory),
            "next_ms": ledger.next_ms,
            "disturbed_ms": ledger.disturbed_ms,
            "memory": day.memory,
        }
        out.write_text(json.dumps(record, indent=1))
    if day.ledger.faults:
        raise typer.Exit(1)


def show(day: Day, console: Console) -> None:
    """Print what happened."""
    ledger = day.ledger
    table = Table("what", "how much", title=f"a day of {day.seconds:.0f} s")
    table.add_row("killed", ", ".join(f"{name} {sum(one == name for one, _ in day.kills)}" for name in dict(day.kills)))
    table.add_row("events stored, of them acknowledged on the day", f"{day.stored:,}, {len(ledger.acknowledged):,}")
    for name, count in sorted(ledger.counts.items()):
        table.add_row(name, f"{count:,}")
    for name, taken in (("undisturbed", ledger.next_ms), ("after a failed try", ledger.disturbed_ms)):
        if taken:
            p50, p99 = np.percentile(taken, [50, 99])
            soon = np.mean(np.asarray(taken) <= SOON_MS)
            said = f"{len(taken):,}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {soon:.2%} within {SOON_MS:.0f} ms"
            table.add_row(f"event to the user's next answer, {name}", said)
    for span, first, last in growth(day.memory):
        table.add_row(f"memory of a worker of {span:.0f} s", f"{first:.0f} to {last:.0f} MB")
    for name in ("lost event", "doubled event", "answer of two versions", "next answer that does not know the event"):
        table.add_row(f"faults: {name}", f"{ledger.faults[name]:,}")
    console.print(table)
    for line in ledger.told:
        console.print(f"fault: {line}", style="red", soft_wrap=True)
    for name, times in ledger.faults.items():
        console.print(f"{name}: {times}", style="red")


if __name__ == "__main__":
    typer.run(main)
