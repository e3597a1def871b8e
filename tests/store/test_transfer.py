"""Tables into a store, out of it, and a store in the place of tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmgen import Catalog, Item
from llmgen.cli.main import app
from llmgen.datasets import load_tables
from llmgen.errors import ConfigError
from llmgen.store import Event, Store
from llmgen.store.transfer import export, import_dataset
from llmgen.workspace.core import DataSettings, Workspace, wrong_data

ITEMS = "item_id,title,year\n1,Alien,1979\n2,Brazil,1985\n3,Contact,1997\n"
LOG = "user_id,item_id,timestamp,rating\nu,1,10,4\nu,1,10,4\nv,2,20,\nu,3,20,2.5\n"


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "items.csv").write_text(ITEMS)
    (tmp_path / "log.csv").write_text(LOG)
    return {"items": tmp_path / "items.csv", "interactions": tmp_path / "log.csv"}


def test_a_data_set_comes_out_of_a_store_as_it_went_in(store: Store, tables: dict[str, Path]) -> None:
    data = load_tables(**tables, rating="rating", attributes=["year"], label="{title} ({year})", noun="film")
    assert import_dataset(store, data, progress=False) == (4, 0)
    assert import_dataset(store, data, progress=False) == (0, 4)
    found = store.dataset()
    assert found.catalog.digest == data.catalog.digest
    assert found.interactions.rows() == data.interactions.rows()  # the two equal rows are two events


def test_what_was_exported_loads_again(store: Store, tables: dict[str, Path], tmp_path: Path) -> None:
    data = load_tables(**tables, rating="rating", attributes=["year"])
    import_dataset(store, data, progress=False)
    assert export(store, tmp_path / "out", progress=False) == (3, 4)
    assert Catalog.from_jsonl(tmp_path / "out" / "items.jsonl").digest == data.catalog.digest
    again = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    assert [(row["user_id"], row["item_id"], row["timestamp"], row["rating"]) for row in again] == [
        ("u", "1", 10, 4), ("u", "1", 10, 4), ("v", "2", 20, None), ("u", "3", 20, 2.5)
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="there already"):
        export(store, tmp_path / "out", progress=False)


def test_a_store_stands_for_tables(url: str, tables: dict[str, Path]) -> None:
    arguments = ["--items", str(tables["items"]), "--interactions", str(tables["interactions"])]
    run = CliRunner().invoke
    imported = run(app, ["store", "import", url, *arguments, "--column", "rating=rating", "--as", "buy"])
    assert imported.exit_code == 0, imported.output
    assert "3 items; 4 new events, 0 were known" in imported.output
    stats = json.loads(run(app, ["store", "stats", url, "--json"]).stdout)
    assert (stats["items"], stats["users"], stats["events"]) == (3, 2, {"buy": 4})
    assert "secret" not in stats["store"]

    workspace = Workspace(DataSettings(store=url, kinds=("buy",)).load())
    assert [item.id for item in workspace.query(user="u").items] == ["1", "1", "3"]
    asked = run(app, ["recommend", "--store", url, "--user", "v", "--engine", "none", "-k", "2", "--json"])
    assert [place["item"]["id"] for place in json.loads(asked.stdout)["recommendations"]] == ["1", "3"]

    assert "3 events deleted" in run(app, ["store", "forget", url, "u"]).output
    assert Workspace(DataSettings(store=url).load()).histories.keys() == {"v"}


def test_a_store_with_pseudonyms_knows_its_users_by_the_key(
    url: str, tables: dict[str, Path], tmp_path: Path, opened: Callable[[str], Store]
) -> None:
    key = tmp_path / "key"
    key.write_text("0123456789abcdef")
    arguments = ["--items", str(tables["items"]), "--interactions", str(tables["interactions"])]
    run = CliRunner().invoke
    assert run(app, ["store", "import", url, *arguments, "--pseudonyms", str(key)]).exit_code == 0
    data = DataSettings(store=url, pseudonyms=key)
    assert set(data.load().interactions["user_id"]).isdisjoint({"u", "v"})
    asked = run(app, ["recommend", "--store", url, "--pseudonyms", str(key), "--user", "v", "--engine", "none"])
    assert asked.exit_code == 0, asked.output


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"store": "sqlite:///x.db", "attributes": ("year",)}, "leave out --attributes"),
        ({"kinds": ("buy",)}, "give --store too"),
    ],
)
def test_settings_that_do_not_go_together_are_told(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        DataSettings(**settings).load()  # type: ignore[arg-type]


def test_items_of_a_store_may_be_written_in_another_way(store: Store, url: str) -> None:
    store.put_items([Item("1", "Alien", {"year": 1979})])
    store.add_events([Event("a", "u", "1")])
    assert DataSettings(store=url, label="{title}, {year}").load().catalog.labels == ("Alien, 1979",)


def test_a_store_that_is_not_there_is_told_before_an_evaluation_begins(tmp_path: Path) -> None:
    assert list(wrong_data({"store": f"sqlite:///{tmp_path / 'no.db'}"})) == [
        f"data: there is no store at sqlite:///{tmp_path / 'no.db'}; make one with `llmgen store import`"
    ]
