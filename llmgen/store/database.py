"""Store: items and events in SQLite or PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import polars as pl
from sqlalchemy import Connection, Engine, delete, func, insert, select, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from llmgen.catalog.core import Catalog, clean_item
from llmgen.datasets import INTERACTIONS, Dataset
from llmgen.datasets.report import Tally
from llmgen.errors import CatalogError, ConfigError, StoreError, UnknownItemError
from llmgen.events import Event, Interaction, can_be_id
from llmgen.store.pseudonyms import Pseudonyms
from llmgen.store.rows import (
    DEFAULTS,
    attributes_of,
    can_hold,
    catalog_of,
    check_held,
    event_row,
    item_of,
    item_row,
    pieces,
    settings_rows,
)
from llmgen.store.tables import FORMAT, LOCK, connect, events, items, metadata, settings, versions
from llmgen.store.values import Added, EventChanges, ItemChanges, Statistics
from llmgen.types import Item

MISSING = "there is no store at {}; make one with `llmgen store import`"
ROWS = 100_000
"""Of a log read at a time."""


class Store:
    """Items and events in a database; made by `Store.open`. Safe to use from several threads and processes.

    What a method wrote is durable when it returns. One that raises `StoreError` may have written or not: each may be
    called again with the same arguments, and what was written already is not written twice.
    """

    def __init__(self, engine: Engine, pseudonyms: Pseudonyms | None = None) -> None:
        self._engine = engine
        self._pseudonyms = pseudonyms
        self._reader = engine
        if engine.dialect.name == "postgresql":  # one state for all that is read together, as SQLite has it
            self._reader = engine.execution_options(isolation_level="REPEATABLE READ")

    @classmethod
    def open(cls, url: str, *, pseudonyms: Pseudonyms | None = None, create: bool = True) -> Self:
        """Connect to a store.

        Args:
            url: `sqlite:///shop.db` (a file; four slashes for an absolute path) or
                `postgresql://user:password@host/name`.
            pseudonyms: Users are stored under these; a store keeps to the key that it was made with.
            create: Whether the tables are made where there are none.

        Raises:
            ConfigError: See `connect`; there is no store, it was made by another version, or with another key.
            StoreError: The database cannot be reached.
        """
        made = cls(connect(url), pseudonyms)
        file = made._engine.url.database if made._engine.dialect.name == "sqlite" else None
        if file and not create and not Path(file).exists():  # to connect would make it
            raise ConfigError(MISSING.format(made.name))
        try:
            with made._writing() as connection:
                if made._engine.dialect.name == "postgresql":
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
                made._begin(connection, create)
        except BaseException:
            made.close()
            raise
        return made

    @property
    def name(self) -> str:
        """Its address, without a password."""
        return self._engine.url.render_as_string()

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def configure(self, catalog: Catalog) -> None:
        """Write items as a catalog does: its noun, its label, and which attributes prompts show."""
        with self._writing() as connection:
            for name, value in settings_rows(catalog).items():
                self._set(connection, name, value)

    def put_items(self, given: Iterable[Item]) -> int:
        """Insert items, or replace those with known ids in their places; those that are stored as they are stay so.

        Args:
            given: Each id once. Their texts are cleaned as a catalog does, see `llmgen.catalog.core.clean_item`.

        Returns:
            Number of the last change of the items.

        Raises:
            CatalogError: See `Catalog`; nothing is written then.
        """
        new = [clean_item(item) for item in given]
        check_held(new)
        with self._writing() as connection:
            version = self._next(connection, "items")
            last = connection.execute(select(func.max(items.c.position))).scalar() or 0
            for piece in pieces(new):
                stored = select(items).where(items.c.id.in_([item.id for item in piece]))
                known = {row.id: row for row in connection.execute(stored)}
                for item in piece:
                    row = known.get(item.id)
                    if row is None or row.removed:
                        last += 1
                        place = {"position": last, "created": version}
                    elif (row.title, row.attributes) == (item.title, attributes_of(item)):
                        continue
                    else:
                        place = {"position": row.position, "created": row.created}
                    values = {**item_row(item), **place, "version": version, "removed": False}
                    if row is None:
                        connection.execute(insert(items).values(values))
                    else:
                        connection.execute(update(items).where(items.c.id == item.id).values(values))
        return version

    def remove_items(self, ids: Sequence[str]) -> int:
        """Take items out of the catalog; their events stay.

        Returns:
            Number of the last change of the items.

        Raises:
            UnknownItemError: An id is not in the catalog; nothing is changed then.
            CatalogError: No item would be left.
        """
        with self._writing() as connection:
            version = self._next(connection, "items")
            for item_id in dict.fromkeys(ids):
                gone = update(items).where(items.c.id == item_id, ~items.c.removed)
                asked = can_hold(item_id) and connection.execute(gone.values(removed=True, version=version))
                if not asked or asked.rowcount == 0:
                    raise UnknownItemError(f"no item of the store has the id {item_id!r}")
            if connection.execute(select(items.c.id).where(~items.c.removed).limit(1)).first() is None:
                raise CatalogError("a catalog needs at least one item, and this removes all that the store has")
        return version

    def item_version(self) -> int:
        """Number of the last change of the items."""
        with self._reading() as connection:
            return self._version(connection, "items")

    def catalog(self) -> tuple[Catalog, int]:
        """The items as a catalog, and the number of the last change that is in it.

        Raises:
            CatalogError: The store holds no item.
        """
        with self._reading() as connection:
            return self._catalog(connection)

    def item_changes(self, since: int) -> ItemChanges:
        """What happened to the items after a change.

        Args:
            since: Number of the change.
        """
        with self._reading() as connection:
            version = self._version(connection, "items")
            if version == since:
                return ItemChanges((), (), version)
            found = connection.execute(select(items).where(items.c.version > since).order_by(items.c.position))
            rows = list(found)
        put = tuple(item_of(row) for row in rows if not row.removed)
        removed = tuple(row.id for row in rows if row.removed or row.created > since)
        return ItemChanges(put, removed, version)

    def add_events(self, given: Iterable[Event]) -> Added:
        """Store events, all of them or none; one whose id is known is not stored again.

        Events without a time happened now. Those of one time are in the order in which they were stored.
        """
        return self.add_batches([list(given)])[0]

    def add_batches(self, batches: Sequence[Sequence[Event]]) -> list[Added]:
        """Store the events of several batches in one transaction, and say what became of each; see `add_events`."""
        now = time.time()
        place = 0
        answers = []
        with self._writing() as connection:
            version = self._next(connection, "events")
            for batch in batches:
                new = 0
                unknown: set[str] = set()
                for piece in pieces(batch):
                    rows = self._new_rows(connection, piece, now)
                    if rows:
                        for row in rows:
                            row |= {"version": version, "place": place}
                            place += 1
                        connection.execute(insert(events), rows)
                        named = {row["item_id"] for row in rows}
                        held = select(items.c.id).where(items.c.id.in_(named), ~items.c.removed)
                        unknown |= named - set(connection.execute(held).scalars())
                        new += len(rows)
                answers.append(Added(new, len(batch) - new, frozenset(unknown), version))
            if place == 0:  # a number without an event means that some are gone, see `event_changes`
                self._back(connection, "events")
                answers = [replace(answer, version=version - 1) for answer in answers]
        return answers

    def event_changes(self, since: int, *, kinds: Sequence[str] = ()) -> EventChanges:
        """What happened to the events after a change.

        Args:
            since: Number of the change; 0 for all events.
            kinds: Only events of these kinds; all where none is named.
        """
        numbers = select(func.count(events.c.version.distinct())).where(events.c.version > since)
        chosen = select(events.c.user_id, events.c.item_id, events.c.time).order_by(events.c.version, events.c.place)
        if kinds:
            chosen = chosen.where(events.c.kind.in_(kinds))
        with self._reading() as connection:
            version = self._version(connection, "events")
            if version == since:
                return EventChanges((), False, version)
            whole = since == 0 or connection.execute(numbers).scalar_one() < version - since
            if not whole:
                chosen = chosen.where(events.c.version > since)
            found = connection.execution_options(yield_per=ROWS).execute(chosen)
            return EventChanges(tuple(Interaction(*row) for row in found), whole, version)

    def _new_rows(self, connection: Connection, given: Sequence[Event], now: float) -> list[dict[str, Any]]:
        """The rows of those events whose ids are not known."""
        ids = select(events.c.id).where(events.c.id.in_([one.id for one in given]))
        known = set(connection.execute(ids).scalars())
        rows: dict[str, dict[str, Any]] = {}
        for one in given:
            if one.id not in known:
                rows.setdefault(one.id, event_row(one, self._user(one.user), now))
        return list(rows.values())

    def history(self, user: str, *, most: int = 1_000, kinds: Sequence[str] = ()) -> list[Event]:
        """The latest events of a user, oldest first; none for a user who has none.

        Args:
            user: Id of the user.
            most: How many at most.
            kinds: Only events of these kinds; all where none is named.
        """
        if not can_be_id(user):  # PostgreSQL would not even be asked
            return []
        chosen = select(events).where(events.c.user_id == self._user(user))
        if kinds:
            chosen = chosen.where(events.c.kind.in_(kinds))
        latest = chosen.order_by(events.c.time.desc(), events.c.version.desc(), events.c.place.desc()).limit(most)
        with self._reading() as connection:
            rows = list(connection.execute(latest))
        return [Event(row.id, user, row.item_id, row.kind, row.value, row.time) for row in reversed(rows)]

    def forget(self, user: str) -> int:
        """Delete all events of a user; how many there were. What is fitted afterwards knows nothing of them."""
        if not can_be_id(user):
            return 0
        with self._writing() as connection:
            self._next(connection, "events")
            gone = connection.execute(delete(events).where(events.c.user_id == self._user(user))).rowcount
            if gone == 0:
                self._back(connection, "events")
            return gone

    def dataset(self, *, kinds: Sequence[str] = ()) -> Dataset:
        """The catalog, and the events of its items as interactions: oldest first, `value` as `rating`.

        Args:
            kinds: Only events of these kinds; all where none is named.

        Raises:
            CatalogError: The store holds no item.
        """
        chosen = select(events.c.user_id, events.c.item_id, events.c.time.label("timestamp"), events.c.value)
        chosen = chosen.order_by(events.c.time, events.c.version, events.c.place)
        if kinds:
            chosen = chosen.where(events.c.kind.in_(kinds))
        frames = [pl.DataFrame(schema=dict(INTERACTIONS))]
        with self._reading() as connection:
            catalog, _ = self._catalog(connection)
            found = connection.execution_options(yield_per=ROWS).execute(chosen)
            for rows in found.partitions():
                frames.append(pl.DataFrame([tuple(row) for row in rows], dict(INTERACTIONS), orient="row"))
        stored = pl.concat(frames)
        log = stored.filter(pl.col("item_id").is_in(list(catalog.ids)))
        tally = Tally()
        lost = stored.height - log.height
        tally.add_many("an item that the store does not hold", "interactions", "dropped", lost, ())
        report = tally.report(self.name, len(catalog), catalog, stored.height, log)
        return Dataset("store", catalog, log, report, self._user)

    def statistics(self) -> Statistics:
        """How much it holds."""
        with self._reading() as connection:
            count = connection.execute(select(func.count()).select_from(items).where(~items.c.removed)).scalar_one()
            kinds = connection.execute(select(events.c.kind, func.count()).group_by(events.c.kind)).all()
            users, first, last = connection.execute(
                select(func.count(events.c.user_id.distinct()), func.min(events.c.time), func.max(events.c.time))
            ).one()
        return Statistics(count, dict(sorted(map(tuple, kinds))), users, first, last)

    def events(self) -> Iterator[Event]:
        """All events, oldest first; users by their pseudonyms, where the store has pseudonyms."""
        ordered = select(events).order_by(events.c.time, events.c.version, events.c.place)
        with self._reading() as connection:
            for row in connection.execution_options(yield_per=ROWS).execute(ordered):
                yield Event(row.id, row.user_id, row.item_id, row.kind, row.value, row.time)

    def _begin(self, connection: Connection, create: bool) -> None:
        """See that the tables are there and are ours."""
        if create:
            metadata.create_all(connection)
        elif not self._engine.dialect.has_table(connection, settings.name):
            raise ConfigError(MISSING.format(self.name))
        known = {row.name: row.value for row in connection.execute(select(settings))}
        key = self._pseudonyms.fingerprint if self._pseudonyms else ""
        if not known:
            connection.execute(insert(versions), [{"name": name, "value": 0} for name in ("items", "events")])
            known = {"format": FORMAT, "pseudonyms": key, **DEFAULTS}
            connection.execute(insert(settings), [{"name": name, "value": value} for name, value in known.items()])
        if known["format"] != FORMAT:
            raise ConfigError(
                f"the store {self.name} has the format {known['format']}, and this llmgen has {FORMAT}; export it with "
                "the release that made it, and import it anew"
            )
        if known["pseudonyms"] != key:
            if not key:
                wrong = "hides its users' ids; give the file of its key with --pseudonyms"
            else:
                wrong = "was made with another key" if known["pseudonyms"] else "was made without a key; leave it out"
            raise ConfigError(f"the store {self.name} {wrong}")

    def _catalog(self, connection: Connection) -> tuple[Catalog, int]:
        version = self._version(connection, "items")
        known = {row.name: row.value for row in connection.execute(select(settings))}
        rows = connection.execute(select(items).where(~items.c.removed).order_by(items.c.position))
        found = [item_of(row) for row in rows]
        if not found:
            raise CatalogError(f"the store {self.name} holds no items; `llmgen store import` puts some in")
        return catalog_of(found, known), version

    def _user(self, user: str) -> str:
        return self._pseudonyms.of(user) if self._pseudonyms else user

    @staticmethod
    def _next(connection: Connection, name: str) -> int:
        """The number of a change that begins; others wait until it is committed."""
        raised = update(versions).where(versions.c.name == name).values(value=versions.c.value + 1)
        return int(connection.execute(raised.returning(versions.c.value)).scalar_one())

    @staticmethod
    def _back(connection: Connection, name: str) -> None:
        """Give back the number of a change that changed nothing."""
        connection.execute(update(versions).where(versions.c.name == name).values(value=versions.c.value - 1))

    @staticmethod
    def _version(connection: Connection, name: str) -> int:
        return int(connection.execute(select(versions.c.value).where(versions.c.name == name)).scalar_one())

    @staticmethod
    def _set(connection: Connection, name: str, value: str) -> None:
        connection.execute(update(settings).where(settings.c.name == name).values(value=value))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._errors(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._errors(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreError(f"the store {self.name} failed: {str(error.orig).strip().splitlines()[0]}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"the store {self.name} failed: {str(error).splitlines()[0]}") from error
