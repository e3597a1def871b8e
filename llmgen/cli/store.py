"""`llmgen store`: put tables into a store, take them out, and look what it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from llmgen.errors import ConfigError
from llmgen.events import INTERACTION
from llmgen.store import Store
from llmgen.store.pseudonyms import Pseudonyms
from llmgen.store.tables import connect
from llmgen.store.transfer import export, import_dataset
from llmgen.workspace.checks import refuse
from llmgen.workspace.core import DataSettings, wrong_in
from llmgen.workspace.options import table_settings, with_options

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

URL = Annotated[str, typer.Argument(help="sqlite:///shop.db or postgresql://user:password@host/name.")]
Key = Annotated[Path | None, typer.Option(help="File of the key by which the store hides its users' ids.")]


@app.command("import")
@with_options(data=table_settings)
def import_(
    url: URL,
    data: DataSettings,
    as_: Annotated[str, typer.Option("--as", help="Kind of these events, as buy.")] = INTERACTION,
    pseudonyms: Key = None,
) -> None:
    """Put tables into a store. Rows that it has already are not stored twice."""
    wrong = list(_wrong(url, pseudonyms))
    refuse([*wrong_in(data), *wrong])
    if wrong:
        raise ConfigError(wrong[0])  # before the tables are read, which may take long
    loaded = data.load()
    with closing(_open(url, pseudonyms, create=True)) as store:
        new, known = import_dataset(store, loaded, kind=as_)
    typer.echo(f"{len(loaded.catalog):,} items; {new:,} new events, {known:,} were known")


@app.command("export")
def export_(
    url: URL,
    out: Annotated[Path, typer.Option(help="Folder for items.jsonl and events.jsonl.")],
    pseudonyms: Key = None,
) -> None:
    """Write items and events as tables. They can be loaded again."""
    with closing(_open(url, pseudonyms)) as store:
        items, events = export(store, out)
    typer.echo(f"{items:,} items and {events:,} events in {out}")


@app.command()
def stats(
    url: URL,
    pseudonyms: Key = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say how much a store holds."""
    with closing(_open(url, pseudonyms)) as store:
        found, name = store.statistics(), store.name
    if json_:
        typer.echo(json.dumps({"store": name, **asdict(found)}, ensure_ascii=False))
        return
    typer.echo(f"{name}\n  items   {found.items:>12,}\n  users   {found.users:>12,}")
    for kind, count in found.events.items():
        typer.echo(f"  events  {count:>12,}  {kind}")
    if found.first is not None and found.last is not None:
        typer.echo(f"  from {_date(found.first)} to {_date(found.last)}")


@app.command()
def forget(
    url: URL,
    user: Annotated[str, typer.Argument(help="Id of the user.")],
    pseudonyms: Key = None,
) -> None:
    """Delete all events of a user."""
    with closing(_open(url, pseudonyms)) as store:
        typer.echo(f"{store.forget(user):,} events deleted")


def _wrong(url: str, key: Path | None) -> Iterator[str]:
    """What can be known to be wrong before the database is asked."""
    try:
        connect(url).dispose()
    except ConfigError as error:
        yield str(error)
    if key is not None:
        try:
            Pseudonyms.read(key)
        except ConfigError as error:
            yield str(error)


def _open(url: str, key: Path | None, *, create: bool = False) -> Store:
    refuse(list(_wrong(url, key)))
    return Store.open(url, pseudonyms=None if key is None else Pseudonyms.read(key), create=create)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
