"""What a store promises, on both databases."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection

from llmgen import Catalog, Item
from llmgen.errors import ArgumentError, CatalogError, ConfigError, StoreError, UnknownItemError
from llmgen.store import Event, Store
from llmgen.store.pseudonyms import Pseudonyms
from llmgen.store.values import EventChanges

FILMS = [Item("1", "Alien", {"year": 1979, "genres": ("Horror", "Sci-Fi")}), Item("2", "Brazil"), Item("3", "Contact")]
Opened = Callable[[str], Store]


def test_items_come_back_as_they_were_put(store: Store) -> None:
    odd = Item("ü/4", "Amélie – “Le fabuleux”", {"price": 9.5, "new": True, "many": 2**70, "id": "own", "none": ()})
    store.put_items([*FILMS, odd])
    catalog, version = store.catalog()
    assert list(catalog) == [*FILMS, odd]
    assert version == 1


def test_what_is_put_again_keeps_its_place_and_what_is_new_comes_last(store: Store) -> None:
    store.put_items(FILMS)
    store.put_items([Item("4", "Dune"), Item("1", "Alien (1979)")])
    catalog, _ = store.catalog()
    assert [(item.id, item.title) for item in catalog] == [
        ("1", "Alien (1979)"), ("2", "Brazil"), ("3", "Contact"), ("4", "Dune")
    ]  # fmt: skip


def test_an_item_that_was_removed_comes_back_at_the_end(store: Store) -> None:
    store.put_items(FILMS)
    store.remove_items(["1"])
    assert store.catalog()[0].ids == ("2", "3")
    store.put_items([FILMS[0]])
    assert store.catalog()[0].ids == ("2", "3", "1")


def test_a_store_writes_items_as_the_catalog_does_that_it_was_configured_by(store: Store) -> None:
    like = Catalog(FILMS, noun="film", label="{title} ({year})", shown=("genres",))
    store.put_items(FILMS)
    store.configure(like)
    assert store.catalog()[0].digest == like.digest


def test_a_change_that_cannot_be_made_changes_nothing(store: Store) -> None:
    store.put_items(FILMS)
    with pytest.raises(CatalogError, match="blank title"):
        store.put_items([Item("4", "Dune"), Item("5", " ")])
    with pytest.raises(CatalogError, match="stands twice"):
        store.put_items([Item("4", "Dune"), Item("4", "Dune")])
    with pytest.raises(UnknownItemError, match="'9'"):
        store.remove_items(["1", "9"])
    with pytest.raises(CatalogError, match="removes all"):
        store.remove_items(["1", "2", "3"])
    assert list(store.catalog()[0]) == FILMS


def test_an_empty_store_says_how_items_come_into_it(store: Store) -> None:
    with pytest.raises(CatalogError, match="llmgen store import"):
        store.catalog()


@pytest.mark.parametrize("seed", range(3))
def test_who_follows_the_changes_has_the_catalog_that_is_stored(store: Store, seed: int) -> None:
    draw = random.Random(seed)
    store.put_items(FILMS)
    followers = [store.catalog(), store.catalog()]
    for step in range(25):
        some = [str(draw.randint(1, 12)) for _ in range(draw.randint(1, 4))]
        ids = list(dict.fromkeys(some))
        try:
            if draw.random() < 0.5:
                store.put_items([Item(item_id, f"{item_id} of {step // 3}") for item_id in ids])
            else:
                store.remove_items(ids)
        except CatalogError:
            continue
        for number, (catalog, version) in enumerate(followers):
            if draw.random() < 0.4:
                changes = store.item_changes(version)
                followers[number] = changes.apply(catalog), changes.version
                assert followers[number][0].digest == store.catalog()[0].digest


def test_what_did_not_change_is_no_change(store: Store) -> None:
    version = store.put_items(FILMS)
    changes = store.item_changes(store.put_items(FILMS) - 1)
    assert (changes.put, changes.removed, changes.version) == ((), (), version + 1)


def test_a_user_has_the_events_oldest_first_and_those_of_one_time_as_they_came(store: Store) -> None:
    store.add_events([Event("c", "u", "3", time=20), Event("a", "u", "1", time=10), Event("b", "u", "2", time=10)])
    store.add_events([Event("d", "u", "9", "view", 4.5, 10), Event("e", "other", "1", time=0)])
    assert [event.id for event in store.history("u")] == ["a", "b", "d", "c"]
    assert store.history("u")[2] == Event("d", "u", "9", "view", 4.5, 10)
    assert [event.id for event in store.history("u", most=2)] == ["d", "c"]
    assert [event.id for event in store.history("u", kinds=["view"])] == ["d"]
    assert store.history("nobody") == []


def test_an_event_that_comes_twice_counts_once(store: Store) -> None:
    store.put_items(FILMS)
    first = store.add_events([Event("a", "u", "1"), Event("b", "u", "2"), Event("a", "u", "3")])
    assert (first.new, first.known, first.unknown_items) == (2, 1, frozenset())
    again = store.add_events([Event("b", "u", "2"), Event("c", "u", "77")])
    assert (again.new, again.known, again.unknown_items) == (1, 1, {"77"})
    assert again.version == first.version + 1
    assert store.add_events([Event("a", "u", "1")]).version == again.version  # of the last change, and this is none
    assert [event.item for event in store.history("u")] == ["1", "2", "77"]


def test_an_event_without_a_time_happens_when_it_is_stored(store: Store) -> None:
    before = time.time()
    store.add_events([Event("a", "u", "1")])
    [event] = store.history("u")
    assert event.time is not None and before <= event.time <= time.time()


def test_a_forgotten_user_is_gone(store: Store) -> None:
    store.put_items(FILMS)
    store.add_events([Event("a", "u", "1"), Event("b", "v", "2"), Event("c", "u", "2")])
    assert store.forget("u") == 2
    assert store.history("u") == []
    assert store.forget("u") == 0
    assert store.dataset().interactions["user_id"].to_list() == ["v"]


def test_what_happened_to_the_events_is_told_by_their_numbers(store: Store) -> None:
    store.put_items(FILMS)
    store.add_events([Event("a", "u", "1", "view", time=2.0), Event("b", "v", "2", time=1.0)])
    first = store.event_changes(0)
    assert (first.whole, first.new) == (True, (("u", "1", 2.0), ("v", "2", 1.0)))
    assert store.event_changes(0, kinds=["view"]).new == (("u", "1", 2.0),)
    store.add_events([Event("a", "u", "1")])  # it is known, so nothing has changed
    store.forget("nobody")
    assert store.event_changes(first.version) == EventChanges((), False, first.version)
    store.add_events([Event("c", "u", "3", time=0.5), Event("a", "u", "1")])
    second = store.event_changes(first.version)
    assert (second.whole, second.new) == (False, (("u", "3", 0.5),))
    assert store.event_changes(first.version, kinds=["view"]) == EventChanges((), False, second.version)
    store.forget("u")
    third = store.event_changes(second.version)
    assert (third.whole, third.new) == (True, (("v", "2", 1.0),))
    assert store.event_changes(first.version).whole  # who has missed more hears of it too


def test_the_log_is_in_order_of_time_and_without_items_that_are_gone(store: Store) -> None:
    store.put_items(FILMS)
    store.add_events([Event("a", "u", "1", time=30), Event("b", "v", "2", value=4, time=10), Event("c", "u", "9")])
    store.add_events([Event("d", "u", "3", "view", time=10)])
    store.remove_items(["1"])
    data = store.dataset()
    assert data.interactions.rows() == [("v", "2", 10.0, 4.0), ("u", "3", 10.0, None)]
    assert data.report.count("an item that the store does not hold") == 2
    assert store.dataset(kinds=["view"]).interactions.height == 1
    assert data.catalog.ids == ("2", "3")


def test_it_is_counted_what_a_store_holds(store: Store) -> None:
    store.put_items(FILMS)
    store.remove_items(["2"])
    store.add_events([Event("a", "u", "1", "view", time=5), Event("b", "v", "1", time=7), Event("c", "u", "1", "view")])
    found = store.statistics()
    assert (found.items, found.events, found.users, found.first) == (2, {"interaction": 1, "view": 2}, 2, 5.0)


def test_many_threads_that_write_the_same_events_store_each_once(store: Store) -> None:
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for start in range(0, 40, 10):
                store.add_events([Event(f"e{number}", f"u{number % 3}", "1") for number in range(start, start + 10)])
                store.put_items([Item(str(number), f"title {number}") for number in range(start, start + 10)])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sum(len(store.history(f"u{number}")) for number in range(3)) == 40
    catalog, _ = store.catalog()
    assert sorted(catalog.ids, key=int) == [str(number) for number in range(40)]


def _write_alone(url: str, writer: int) -> None:
    store = Store.open(url)
    for number in range(20):
        store.put_items([Item(f"{writer}-{number}", "A title")])
        store.add_events([Event(f"{writer}-{number}", "u", "1")])
    store.close()


def test_processes_that_write_at_once_miss_nothing_of_each_other(url: str, opened: Opened) -> None:
    """Changes are visible in the order of their numbers: a follower that polls all the while has them all."""
    reader = opened(url)
    reader.put_items(FILMS)
    catalog, version = reader.catalog()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_alone, args=(url, writer)) for writer in range(2)]
    for process in writers:
        process.start()
    while any(process.is_alive() for process in writers) or reader.item_changes(version).version > version:
        changes = reader.item_changes(version)
        assert changes.version >= version
        catalog, version = changes.apply(catalog), changes.version
        time.sleep(0.002)
    assert [process.exitcode for process in writers] == [0, 0]
    assert len(catalog) == 3 + 40
    assert catalog.digest == reader.catalog()[0].digest
    assert len(reader.history("u")) == 40


@pytest.mark.parametrize("user", ["a\0b", "half \ud83d", "", "u" * 600])
def test_who_cannot_be_a_user_is_nobody(store: Store, user: str) -> None:
    store.put_items(FILMS)
    store.add_events([Event("a", "u", "1")])
    assert store.history(user) == []
    assert store.forget(user) == 0
    assert len(store.history("u")) == 1


def test_an_id_of_an_item_that_a_database_cannot_hold_is_refused(store: Store) -> None:
    store.put_items(FILMS)
    with pytest.raises(CatalogError, match="has the character 0"):
        store.put_items([Item("8", "Eight"), Item("9\0", "Nine")])
    for wrong in ("1\0", "half \ud83d"):
        with pytest.raises(UnknownItemError):
            store.remove_items([wrong])
    assert store.catalog()[0].ids == ("1", "2", "3")


def test_what_is_read_together_is_of_one_moment(store: Store, url: str, opened: Opened) -> None:
    """Another process writes between the two questions of one reading; what it wrote belongs to the next."""
    store.put_items(FILMS)
    store.add_events([Event("a", "u", "1")])
    other = opened(url)
    number = store._version
    writes: list[Callable[[], object]] = []

    def interrupted(connection: Connection, name: str) -> int:
        found = number(connection, name)
        while writes:
            writes.pop()()
        return found

    store._version = interrupted  # type: ignore[method-assign]
    before = store.event_changes(0)
    writes.append(lambda: other.add_events([Event("b", "u", "2")]))
    first = store.event_changes(before.version - 1)
    assert (first.new, first.version) == (before.new, before.version)
    assert [one.item for one in store.event_changes(first.version).new] == ["2"]
    version = store.item_version()
    writes.append(lambda: other.put_items([Item("9", "New")]))
    assert store.item_changes(version - 1).version == version
    assert [item.id for item in store.item_changes(version).put] == ["9"]
    writes.append(lambda: (other.remove_items(["9"]), other.add_events([Event("c", "u", "3")])))
    found = store.dataset()  # the number is asked for first
    assert "9" in found.catalog
    assert found.interactions["item_id"].to_list() == ["1", "2"]


def test_services_that_start_at_one_moment_make_one_store(url: str, opened: Opened) -> None:
    all_there = threading.Barrier(6)
    failed: list[BaseException] = []

    def start(number: int) -> None:
        try:
            all_there.wait(20)
            opened(url).put_items([Item(str(number), f"title {number}")])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    catalog, version = opened(url).catalog()
    assert (sorted(catalog.ids), version) == ([str(number) for number in range(6)], 6)


def test_users_are_stored_under_their_pseudonyms_alone(url: str, tmp_path: Path) -> None:
    key = Pseudonyms(b"0123456789abcdef")
    store = Store.open(url, pseudonyms=key)
    store.put_items(FILMS)
    store.add_events([Event("a", "anna@example.org", "1")])
    assert [event.user for event in store.history("anna@example.org")] == ["anna@example.org"]
    assert [event.user for event in store.events()] == [key.of("anna@example.org")]
    assert store.forget("anna@example.org") == 1
    store.close()
    with pytest.raises(ConfigError, match="another key"):
        Store.open(url, pseudonyms=Pseudonyms(b"fedcba9876543210"))
    with pytest.raises(ConfigError, match="--pseudonyms"):
        Store.open(url)


def test_pseudonyms_are_the_hmac_of_the_ids() -> None:
    # by `openssl dgst -sha256 -hmac`
    found = Pseudonyms(b"0123456789abcdef").of("u")
    assert found == "373d81c1c8b83ed95172284ddfe56ec2"


def test_a_key_of_pseudonyms_is_read_without_the_white_space_around_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef\n")
    assert Pseudonyms.read(path).of("u") == Pseudonyms(b"0123456789abcdef").of("u")
    path.write_bytes(b"short\n")
    with pytest.raises(ConfigError, match="16 bytes"):
        Pseudonyms.read(path)
    with pytest.raises(ConfigError, match="No such file"):
        Pseudonyms.read(tmp_path / "none")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"id": ""}, "id of an event is text"),
        ({"user": "a\nb"}, "control characters"),
        ({"item": "\ud83d"}, "half a character"),
        ({"item": 7}, "not 7"),
        ({"kind": "k" * 65}, "at most 64"),
        ({"value": float("nan")}, "value of the event 'e'"),
        ({"time": 1_700_000_000_000.0}, "divide milliseconds"),
    ],
)
def test_what_cannot_be_an_event_is_refused(wrong: dict[str, object], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        Event(**{"id": "e", "user": "u", "item": "1", **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("shop.db", "is no address of a store"),
        ("mysql://host/shop", "not in mysql"),
        ("sqlite://", "lost with its process"),
        ("sqlite:////no/such/folder/shop.db", None),
        ("postgresql://me:secret@127.0.0.1:1/shop", None),
    ],
)
def test_what_is_no_store_is_told(url: str, match: str | None) -> None:
    with pytest.raises(ConfigError if match else StoreError, match=match) as raised:
        Store.open(url)
    assert "secret" not in str(raised.value)


def test_a_store_that_should_be_there_is_not_made(url: str) -> None:
    with pytest.raises(ConfigError, match="llmgen store import"):
        Store.open(url, create=False)
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    Store.open(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE llmgen_settings SET value = '99' WHERE name = 'format'")
    connection.close()
    with pytest.raises(ConfigError, match="format 99"):
        Store.open(f"sqlite:///{path}")
