"""Lists for many users at once, as Parquet files: a shard of users a file, gone on with where a run was stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from filelock import FileLock, Timeout

from llmgen import __version__
from llmgen.datasets.files import read_columns
from llmgen.errors import ConfigError, DataError, EngineUnavailableError, LLMGenError, SearchError
from llmgen.progress import Stage
from llmgen.types import Query, Recommendation, Recommendations
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
"""Of a file: one row a place, users in their order, best first; see `Recommendation`."""

Recommend = Callable[[Sequence[Query]], Sequence[Recommendations | LLMGenError]]


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
    recommend: Recommend,
    users: Sequence[str],
    query: Callable[[str], Query],
    out: Path,
    *,
    about: str,
    shard: int = SHARD,
    progress: bool = True,
) -> Written:
    """Recommend to each user, and write the lists as `part-00000.parquet` and so on, columns as in `SCHEMA`.

    A file is written whole or not at all, and a run that is started again with the same arguments writes those that
    are missing: all files together are those of a run that was never stopped.

    Args:
        recommend: Such as `partial(recommender.recommend_many, on_error="return")`.
        users: Each once.
        query: What is asked for a user.
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
        starts = range(0, len(users), shard)
        found = empty = 0
        with Stage("Writing lists", len(users), shown=progress) as stage:
            for number, start in enumerate(starts):
                path = out / f"part-{number:05}.parquet"
                some = users[start : start + shard]
                if path.exists():
                    found += 1
                else:
                    frame, without = _lists(recommend, some, query)
                    empty += without
                    _write(frame, path)
                stage.advance(len(some))
    finally:
        lock.release()
    return Written(len(users), found, empty)


def run(
    workspace: Workspace,
    settings: RecommenderSettings,
    users: Sequence[str],
    out: Path,
    asked: Mapping[str, Any],
    *,
    shard: int = SHARD,
) -> Written:
    """Write lists for users of a log, see `write_lists`.

    Args:
        workspace: With the log.
        settings: How to recommend.
        users: Ids, each once.
        out: Folder.
        asked: Arguments of `Workspace.query` beside the user.
        shard: Users of a file.

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

    recommender = workspace.recommender(settings, query(users[0]))
    recommend = partial(recommender.recommend_many, on_error="return")
    return write_lists(recommend, users, query, out, about=about, shard=shard)


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
        _replace(path, lambda part: part.write_text(json.dumps(wanted, ensure_ascii=False, indent=1), encoding="utf-8"))


def _lists(recommend: Recommend, users: Sequence[str], query: Callable[[str], Query]) -> tuple[pl.DataFrame, int]:
    places: list[Recommendation] = []
    of_user: list[str] = []
    exact: list[bool] = []
    empty = 0
    for user, answer in zip(users, recommend([query(user) for user in users]), strict=True):
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
            "score": [place.score for place in places],
            "probability": [place.probability for place in places],
            "exact": exact,
        },
        {name: kind for name, kind in SCHEMA.items() if name != "terms"},
    )
    return frame.with_columns(_terms(places)), empty


def _terms(places: Sequence[Recommendation]) -> pl.Series:
    """The terms of each place, of three flat columns: of lists of dicts polars makes them in several times as long."""
    flat = pl.DataFrame(
        {
            "place": [number for number, place in enumerate(places) for _ in place.terms],
            "name": [name for place in places for name in place.terms],
            "value": [value for place in places for value in place.terms.values()],
        },
        {"place": pl.Int64, "name": pl.String, "value": pl.Float64},
    )
    grouped = flat.group_by("place", maintain_order=True).agg(pl.struct("name", "value").alias("terms"))
    numbers = pl.DataFrame({"place": range(len(places))}, {"place": pl.Int64})
    joined = numbers.join(grouped, on="place", how="left", maintain_order="left")["terms"]
    return joined.fill_null(pl.Series([[]], dtype=SCHEMA["terms"])).cast(SCHEMA["terms"]).rename("terms")


def _write(frame: pl.DataFrame, path: Path) -> None:
    _replace(path, frame.write_parquet)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
