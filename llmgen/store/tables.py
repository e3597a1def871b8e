"""The tables of a store, and how its two databases are connected to."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import ArgumentError as BadURLError

from llmgen.errors import ConfigError

FORMAT = "1"
"""Of the tables; another one is refused."""
LOCK = 0x6C6C6D67
"""Of PostgreSQL, held while the tables are made: two services may start at the same moment."""
BUSY_S = 10
"""A writer waits for others so long."""

metadata = MetaData()

settings = Table("llmgen_settings", metadata, Column("name", Text, primary_key=True), Column("value", Text))
"""`format`; `noun`, `label` and `shown` of the catalog; `pseudonyms`, by which a key is known again."""

versions = Table("llmgen_versions", metadata, Column("name", Text, primary_key=True), Column("value", BigInteger))
"""One row for `items`, one for `events`: the number of the last change.

A change raises the number first, and so holds the row until it is committed: changes are visible in the order of their
numbers, and whoever has read all up to a number has missed none. A sequence of the database would not give that.
"""

items = Table(
    "llmgen_items",
    metadata,
    Column("id", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),  # order in the catalog
    Column("title", Text, nullable=False),
    Column("attributes", Text, nullable=False),  # JSON
    Column("created", BigInteger, nullable=False),  # number of the change that gave it its position
    Column("version", BigInteger, nullable=False, index=True),  # number of the last change
    Column("removed", Boolean, nullable=False),  # kept, so that replicas hear of it
    Index("llmgen_items_by_position", "position"),
)

events = Table(
    "llmgen_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("item_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("value", Double),
    Column("time", Double, nullable=False),  # seconds since 1970
    Column("version", BigInteger, nullable=False),
    Column("place", Integer, nullable=False),  # in its change
    Index("llmgen_events_of_user", "user_id", "time", "version", "place"),
    Index("llmgen_events_by_version", "version", "place"),
)


def connect(url: str, **options: Any) -> Engine:
    """An engine of SQLAlchemy for a store.

    Raises:
        ConfigError: The URL is none, is of another database, or needs a driver that is not installed.
    """
    try:
        found = make_url(url)
    except BadURLError:
        raise ConfigError(
            f"{url!r} is no address of a store; write sqlite:///shop.db or postgresql://user:password@host/name"
        ) from None
    name = found.get_backend_name()
    if name == "sqlite":
        return _sqlite(found, **options)
    if name != "postgresql":
        raise ConfigError(f"a store is in SQLite or PostgreSQL, not in {name}: {found.render_as_string()}")
    try:
        # a connection that the server has closed meanwhile is replaced before it is used
        return create_engine(found.set(drivername="postgresql+psycopg"), pool_pre_ping=True, **options)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; pip install 'llmgen[store]'") from None


def _sqlite(url: URL, **options: Any) -> Engine:
    if url.database in (None, "", ":memory:"):
        raise ConfigError("a store in memory is lost with its process; name a file, as in sqlite:///shop.db")
    engine = create_engine(url, connect_args={"timeout": BUSY_S}, **options)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None  # so that it is SQLAlchemy, below, that begins transactions
        for setting in ("journal_mode = WAL", "synchronous = FULL"):  # FULL: committed is on the disk
            connection.execute(f"PRAGMA {setting}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A transaction that begins by reading and writes later may find that another one wrote in between, and cannot
        # wait for it. Those that write say so from the start.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")

    return engine
