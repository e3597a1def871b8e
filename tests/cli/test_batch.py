"""Lists for many users: what a run writes, and what one writes that was stopped in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from llmgen import Item, Query, Recommender
from llmgen.catalog.core import Catalog
from llmgen.cli.batch import MANIFEST, SCHEMA, made_here, read_users, write_lists
from llmgen.cli.main import app
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError, DataError, EngineUnavailableError, LLMGenError
from llmgen.types import Answer

CATALOG = Catalog([Item(str(number), f"Film {number}") for number in range(6)])
USERS = [f"u{number}" for number in range(10)]


class Service:
    """Recommends by nothing, counts who asked, and is away once it was asked so often."""

    def __init__(self, away_after: int = 1_000) -> None:
        self.recommender, self.asked, self.left = Recommender(CATALOG, None), 0, away_after

    def __call__(self, queries: Sequence[Query]) -> Sequence[Answer | LLMGenError]:
        self.left -= 1
        if self.left < 0:
            return [EngineUnavailableError("away") for _ in queries]
        self.asked += len(queries)
        return self.recommender.recommend_many(queries, on_error="return")


def test_what_a_model_wrote_has_nulls_for_scores(tmp_path: Path) -> None:
    writing = Recommender(CATALOG, FakeEngine(["1. Item 3"], constrained=False))
    recommend = partial(writing.recommend_many, on_error="return")
    write_lists(made_here(recommend, query), ["u0"], tmp_path, about="a", progress=False)
    frame = pl.read_parquet(tmp_path / "part-*.parquet")
    assert frame.schema == pl.Schema(SCHEMA)
    assert frame.select("rank", "score", "probability", "exact", pl.col("terms").list.len()).rows() == [
        (rank, None, None, False, 0) for rank in (1, 2, 3)
    ]


def query(user: str) -> Query:
    """The user with number n has taken the first n of the six items; from number 6 on nothing is left."""
    taken = min(int(user[1:]), 6)
    return Query([str(number) for number in range(taken)], user_id=user, k=3)


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.parquet"))}


def test_each_user_has_the_list_that_one_would_get_alone(tmp_path: Path) -> None:
    written = write_lists(made_here(Service(), query), USERS, tmp_path, about="a", shard=4, progress=False)
    assert written == (10, 0, 4)
    frame = pl.read_parquet(tmp_path / "part-*.parquet")
    assert frame.schema == pl.Schema(SCHEMA)
    rows = frame.select("user_id", "rank", "item_id").rows()
    assert rows[:4] == [("u0", 1, "0"), ("u0", 2, "1"), ("u0", 3, "2"), ("u1", 1, "1")]
    assert [row for row in rows if row[0] == "u5"] == [("u5", 1, "5")]
    assert {row[0] for row in rows} == set(USERS[:6])
    assert frame["exact"].all()


def test_a_run_that_was_stopped_goes_on_to_the_same_files(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    write_lists(made_here(Service(), query), USERS, whole, about="a", shard=3, progress=False)
    with pytest.raises(EngineUnavailableError):
        write_lists(made_here(Service(away_after=2), query), USERS, stopped, about="a", shard=3, progress=False)
    assert len(files(stopped)) == 2
    again = Service()
    assert write_lists(made_here(again, query), USERS, stopped, about="a", shard=3, progress=False).found == 2
    assert again.asked == 4
    assert files(stopped) == files(whole)
    assert not list(stopped.glob(".*.part"))


@pytest.mark.parametrize(
    "other", [{"about": "b"}, {"users": USERS[1:]}, {"shard": 2}], ids=["settings", "users", "shard"]
)
def test_lists_of_something_else_are_not_gone_on_with(tmp_path: Path, other: dict[str, object]) -> None:
    given: dict[str, object] = {"users": USERS, "about": "a", "shard": 3}
    write_lists(made_here(Service(), query), out=tmp_path, progress=False, **given)  # type: ignore[arg-type]
    before = files(tmp_path)
    with pytest.raises(ConfigError, match="name another folder"):
        write_lists(made_here(Service(), query), out=tmp_path, progress=False, **{**given, **other})  # type: ignore[arg-type]
    assert files(tmp_path) == before


def test_lists_without_a_manifest_are_not_ours(tmp_path: Path) -> None:
    (tmp_path / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(ConfigError, match=MANIFEST):
        write_lists(made_here(Service(), query), USERS, tmp_path, about="a", progress=False)


@pytest.mark.parametrize(
    ("name", "text"), [("users.csv", "user_id,age\nb,1\na,2\nb,3\n"), ("users.txt", "b\n\na\nb\n")]
)
def test_users_are_read_once_each_in_their_order(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_users(tmp_path / name) == ["b", "a"]


def test_a_file_that_names_nobody_is_told(tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("\n")
    with pytest.raises(DataError, match="names no user"):
        read_users(tmp_path / "users.txt")


def test_the_command_writes_lists_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id,title\n1,Alien\n2,Brazil\n3,Contact\n")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nu,1,1\nu,2,2\nv,1,1\nv,3,2\nw,2,1\n")
    tables = ["--items", str(tmp_path / "items.csv"), "--interactions", str(tmp_path / "log.csv")]
    command = ["batch", *tables, "--engine", "none", "--out", str(tmp_path / "lists"), "--shard", "2", "-k", "2"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "3 users in 2 files" in first.output
    assert "0 files were there" in first.output
    assert "2 files were there" in CliRunner().invoke(app, command).output
    frame = pl.read_parquet(tmp_path / "lists" / "part-*.parquet")
    asked = CliRunner().invoke(app, ["recommend", *tables, "--engine", "none", "--user", "w", "-k", "2", "--json"])
    alone = [(place["item"]["id"], place["score"]) for place in json.loads(asked.stdout)["recommendations"]]
    assert frame.filter(pl.col("user_id") == "w").select("item_id", "score").rows() == alone
    (tmp_path / "users.txt").write_text("u\nnobody\n")
    some = [*command, "--users", str(tmp_path / "users.txt")]
    assert "no user 'nobody' (1 of 2)" in str(CliRunner().invoke(app, some).exception)
