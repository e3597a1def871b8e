"""Lists for many users at once, as Parquet files: a shard of users a file, gone on with where a run was stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from filelock import FileLock, Timeout

from llmgen import __version__
from llmgen.datasets.files import read_columns
from llmgen.errors import ConfigError, DataError, EngineUnavailableError, LLMGenError, SearchError
from llmgen.progress import Stage
from llmgen.types import Answer, Place, Query, Recommendation
from llmgen.workspace.core import RecommenderSettings, Workspace

MANIFEST = "manifest.json"
SHARD = 2_000
"""Users of a file; what is held in memory is one shard's lists."""
SCHEMA = {
    "user_id": pl.String(),
    "rank": pl.Int32(),
    "item_id": pl.String(),
    "score": pl.Float64(),
    "probability": pl.Float64(),
    "exact": pl.Boolean(),
    "terms": pl.List(pl.Struct({"name": pl.String(), "value": pl.Float64()})),
}
"""Of a file: one row a place, users in their order, best first; see `Recommendation`. In a list that a model wrote,
score and probability are null, and there are no terms."""

Recommend = Callable[[Sequence[Query]], Sequence[Answer | LLMGenError]]
"""Such as `partial(recommender.recommend_many, on_error="return")`."""
QueryOf = Callable[[str], Query]
"""What is asked for a user."""


class Shard(NamedTuple):
    """The users of one file.

    Attributes:
        number: Of the file.
        users: Their ids, in the order of the file.
    """

    number: int
    users: Sequence[str]


class Lists(NamedTuple):
    """The lists of a shard.

    Attributes:
        parquet: The file, with columns as in `SCHEMA`.
        empty: Users for whom nothing is left to recommend; they have no row.
    """

    parquet: bytes
    empty: int


Make = Callable[[Sequence[Shard]], Iterator[tuple[Shard, Lists]]]
"""Makes the lists of each shard, in any order."""
Maker = Callable[[Workspace, RecommenderSettings, QueryOf, Sequence[str]], Make]
"""What makes lists by some settings for these users; see `in_process` and `llmgen.cli.ray_batch`."""


class Written(NamedTuple):
    """What a run left.

    Attributes:
        users: Users in all files together.
        found: Files that an earlier run had written.
        empty: Users of this run's files for whom nothing is left to recommend; they have no row.
    """

    users: int
    found: int
    empty: int


def write_lists(
    make: Make, users: Sequence[str], out: Path, *, about: str, shard: int = SHARD, progress: bool = True
) -> Written:
    """Recommend to each user, and write the lists as `part-00000.parquet` and so on, columns as in `SCHEMA`.

    A file is written whole or not at all, and a run that is started again with the same arguments writes those that
    are missing: all files together are those of a run that was never stopped.

    Args:
        make: See `Make`.
        users: Each once.
        out: Folder; made where it is missing.
        about: Everything else that the lists depend on, as text; a folder of lists about something else is refused.
        shard: Users of a file, 1 or more.
        progress: Whether to tell how far it is.

    Raises:
        ConfigError: The folder has other lists, or another run writes there now.
        EngineUnavailableError: The engine is down; what is written stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"another run writes lists to {out} now; wait for it, or name another folder") from None
    try:
        _claim(out, users, about, shard)
        shards = [
            Shard(number, users[start : start + shard]) for number, start in enumerate(range(0, len(users), shard))
        ]
        missing = [one for one in shards if not _path(out, one).exists()]
        empty = 0
        with Stage("Writing lists", len(users), shown=progress) as stage:
            stage.advance(len(users) - sum(len(one.users) for one in missing))
            for one, lists in make(missing):
                _replace(_path(out, one), lists.parquet)
                empty += lists.empty
                stage.advance(len(one.users))
    finally:
        lock.release()
    return Written(len(users), len(shards) - len(missing), empty)


def made_here(recommend: Recommend, query: QueryOf) -> Make:
    """Makes lists in this process, one shard after the other."""

    def make(shards: Sequence[Shard]) -> Iterator[tuple[Shard, Lists]]:
        for shard in shards:
            yield shard, lists_of(recommend, shard.users, [query(user) for user in shard.users])

    return make


def in_process(workspace: Workspace, settings: RecommenderSettings, query: QueryOf, users: Sequence[str]) -> Make:
    """Makes lists in this process, by a recommender that suits the first user's query."""
    recommender = workspace.recommender(settings, query(users[0]))
    return made_here(partial(recommender.recommend_many, on_error="return"), query)


def run(
    workspace: Workspace,
    settings: RecommenderSettings,
    users: Sequence[str],
    out: Path,
    asked: Mapping[str, Any],
    *,
    shard: int = SHARD,
    maker: Maker = in_process,
) -> Written:
    """Write lists for users of a log, see `write_lists`.

    Args:
        workspace: With the log.
        settings: How to recommend.
        users: Ids, each once.
        out: Folder.
        asked: Arguments of `Workspace.query` beside the user.
        shard: Users of a file.
        maker: Where the lists are made; they do not depend on it.

    Raises:
        DataError: The log has no such user, or there is none.
        ConfigError: See `write_lists`.
    """
    data = workspace.data
    known = workspace.histories
    unknown = [user for user in users if user not in known and data.known_as(user) not in known]
    if unknown or not users:
        some = ", ".join(map(repr, unknown[:5]))
        raise DataError(
            f"the log of {data.name} has no user {some} ({len(unknown):,} of {len(users):,}); leave them out"
        )
    log = hashlib.sha256(data.interactions.write_ipc(None).getbuffer()).hexdigest()[:16]
    about = json.dumps(
        {"catalog": data.catalog.digest, "log": log, "settings": repr(settings), "asked": {**asked}},
        ensure_ascii=False,
    )

    def query(user: str) -> Query:
        return workspace.query(user=user, **asked)

    return write_lists(maker(workspace, settings, query, users), users, out, about=about, shard=shard)


def read_users(path: Path) -> list[str]:
    """The users that a file names, in its order, each once.

    Args:
        path: A table with a column `user_id`, in any form that `load_tables` reads, or a `.txt` with an id a line.

    Raises:
        DataError: It cannot be read, lacks the column, or names nobody.
    """
    if path.suffix == ".txt":
        try:
            ids = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}") from None
    else:
        ids = [one for one in read_columns(path, ["user_id"], ids=("user_id",)).frame["user_id"].to_list() if one]
    if not ids:
        raise DataError(f"{path} names no user")
    return list(dict.fromkeys(ids))


def _claim(out: Path, users: Sequence[str], about: str, shard: int) -> None:
    """See that what is in the folder is of the same run, and write down which run it is."""
    digest = hashlib.sha256(json.dumps([list(users), about], ensure_ascii=False).encode()).hexdigest()
    wanted = {"llmgen": __version__, "users": len(users), "shard": shard, "digest": digest, "about": about}
    path = out / MANIFEST
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            known = None
        if known != wanted:
            raise ConfigError(
                f"{out} has lists of other users, data, settings or version, see {path}; name another folder, or "
                "remove that one"
            )
    elif any(out.glob("part-*.parquet")):
        raise ConfigError(f"{out} has lists, and no {MANIFEST} that says of what; name another folder")
    else:
        _replace(path, json.dumps(wanted, ensure_ascii=False, indent=1).encode())


def lists_of(recommend: Recommend, users: Sequence[str], queries: Sequence[Query]) -> Lists:
    """The lists of some users as a file.

    Raises:
        EngineUnavailableError: The engine is down.
        LLMGenError: A query cannot be answered, with its user.
    """
    places: list[Place] = []
    of_user: list[str] = []
    exact: list[bool] = []
    empty = 0
    for user, answer in zip(users, recommend(queries), strict=True):
        if isinstance(answer, SearchError):
            empty += 1
            continue
        if isinstance(answer, EngineUnavailableError):
            raise answer
        if isinstance(answer, LLMGenError):
            raise type(answer)(f"user {user!r}: {answer}") from answer
        places += answer
        of_user += [user] * len(answer)
        exact += [answer.exact] * len(answer)
    frame = pl.DataFrame(
        {
            "user_id": of_user,
            "rank": [place.rank for place in places],
            "item_id": [place.item.id for place in places],
            "score": [place.score if isinstance(place, Recommendation) else None for place in places],
            "probability": [place.probability if isinstance(place, Recommendation) else None for place in places],
            "exact": exact,
        },
        {name: kind for name, kind in SCHEMA.items() if name != "terms"},
    )
    file = BytesIO()
    frame.with_columns(_terms(places)).write_parquet(file)
    return Lists(file.getvalue(), empty)


def _terms(places: Sequence[Place]) -> pl.Series:
    """The terms of each place, of three flat columns: of lists of dicts polars makes them in several times as long."""
    terms = [place.terms if isinstance(place, Recommendation) else {} for place in places]
    flat = pl.DataFrame(
        {
            "place": [number for number, own in enumerate(terms) for _ in own],
            "name": [name for own in terms for name in own],
            "value": [value for own in terms for value in own.values()],
        },
        {"place": pl.Int64, "name": pl.String, "value": pl.Float64},
    )
    grouped = flat.group_by("place", maintain_order=True).agg(pl.struct("name", "value").alias("terms"))
    numbers = pl.DataFrame({"place": range(len(places))}, {"place": pl.Int64})
    joined = numbers.join(grouped, on="place", how="left", maintain_order="left")["terms"]
    return joined.fill_null(pl.Series([[]], dtype=SCHEMA["terms"])).cast(SCHEMA["terms"]).rename("terms")


def _path(out: Path, shard: Shard) -> Path:
    return out / f"part-{shard.number:05}.parquet"


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
