"""What goes into a store from tables, and out of it into files."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

from llmgen.datasets import Dataset
from llmgen.errors import ConfigError
from llmgen.events import INTERACTION, Event
from llmgen.progress import Stage
from llmgen.store.database import Store

AT_ONCE = 20_000
"""Rows in one transaction: others may write in between, and what was written stays when the rest is stopped."""
ITEMS, EVENTS = "items.jsonl", "events.jsonl"


def import_dataset(store: Store, data: Dataset, *, kind: str = INTERACTION, progress: bool = True) -> tuple[int, int]:
    """Put the items and interactions of a data set into a store; the store writes items as its catalog does.

    An interaction gets an id made of its user, item, time and rating, and of how many equal ones stood before it. So
    the same file may be imported again, and after an import that was stopped: nothing is stored twice.

    Args:
        store: Items that it has and the data has not stay.
        data: What was loaded.
        kind: Of the events.
        progress: Whether to tell how far it is.

    Returns:
        How many events were stored, and how many were known already.
    """
    store.configure(data.catalog)
    with Stage("Storing items", len(data.catalog), shown=progress) as stage:
        for start in range(0, len(data.catalog), AT_ONCE):
            piece = data.catalog[start : start + AT_ONCE]
            store.put_items(piece)
            stage.advance(len(piece))
    before: Counter[tuple[object, ...]] = Counter()
    new = known = 0
    with Stage("Storing events", data.interactions.height, shown=progress) as stage:
        for frame in data.interactions.iter_slices(AT_ONCE):
            made = []
            for user, item, when, rating in frame.select("user_id", "item_id", "timestamp", "rating").iter_rows():
                row = (user, item, when, rating)
                made.append(Event(_id(*row, before[row]), user, item, kind, rating, when))
                before[row] += 1
            added = store.add_events(made)
            new, known = new + added.new, known + added.known
            stage.advance(frame.height)
    return new, known


def export(store: Store, folder: Path, *, progress: bool = True) -> tuple[int, int]:
    """Write a store's items and events as JSON lines, each file whole or not at all; tables that can be loaded again.

    Args:
        store: What to write.
        folder: Where `items.jsonl` (as `Catalog.save` writes it) and `events.jsonl` come; made where it is missing.
        progress: Whether to tell how far it is.

    Returns:
        How many items and events were written.

    Raises:
        ConfigError: One of the files is there already.
    """
    for name in (ITEMS, EVENTS):
        if (folder / name).exists():
            raise ConfigError(f"{folder / name} is there already; name another folder, or move it away")
    folder.mkdir(parents=True, exist_ok=True)
    catalog, _ = store.catalog()
    part = folder / f".{EVENTS}.part"
    count = 0
    try:
        with part.open("w", encoding="utf-8") as file, Stage("Writing events", 0, shown=progress):
            for event in store.events():
                row = {
                    "id": event.id,
                    "user_id": event.user,
                    "item_id": event.item,
                    "kind": event.kind,
                    "rating": event.value,
                    "timestamp": event.time,
                }
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        part.replace(folder / EVENTS)
    finally:
        part.unlink(missing_ok=True)
    catalog.save(folder / ITEMS)
    return len(catalog), count


def _id(user: str, item: str, when: float, rating: float | None, before: int) -> str:
    text = json.dumps([user, item, when, rating, before], ensure_ascii=False)
    return f"row-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
