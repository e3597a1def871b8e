"""Lists by actors of Ray, on a real cluster of two: the same files as in one process, whatever ends meanwhile."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from llmgen.cli.batch import Lists, Maker, QueryOf, Shard, Written, in_process, run
from llmgen.cli.main import app
from llmgen.cli.ray_batch import TRIES, Cluster, ListActor, connected, on_ray
from llmgen.errors import ArgumentError, ConfigError, EngineUnavailableError, LLMGenError
from llmgen.types import Query
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace
from tests.cli.test_batch import files

ray = pytest.importorskip("ray", reason="needs llmgen[ray]")

USERS, SHARD = 60, 4
SETTINGS = RecommenderSettings(engine="none")


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Twenty films, and users who took three each."""
    folder = tmp_path_factory.mktemp("tables")
    items, log = folder / "items.csv", folder / "log.csv"
    items.write_text("item_id,title\n" + "".join(f"{number},Film {number}\n" for number in range(20)))
    rows = [f"u{user},{(user * 7 + place * 3) % 20},{place}\n" for user in range(USERS) for place in range(3)]
    log.write_text("user_id,item_id,timestamp\n" + "".join(rows))
    return items, log


@pytest.fixture(scope="module")
def workspace(tables: tuple[Path, Path]) -> Workspace:
    return Workspace(DataSettings(items=tables[0], interactions=tables[1]).load())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with connected("local", 2) as found:
        yield found
    with warnings.catch_warnings():  # Ray asks none of the processes that it has ended whether they have
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def written(workspace: Workspace, out: Path, maker: Maker) -> Written:
    return run(workspace, SETTINGS, list(workspace.histories), out, {"k": 3}, shard=SHARD, maker=maker)


@pytest.fixture(scope="module")
def expected(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of one process."""
    out = tmp_path_factory.mktemp("here")
    written(workspace, out, in_process)
    return files(out)


def actors() -> list[int]:
    """Processes of the actors of this process's cluster."""
    found = []
    for one in psutil.Process().children(recursive=True):
        try:
            found += [one.pid] if "ListActor" in " ".join(one.cmdline()) else []
        except psutil.NoSuchProcess:
            continue
    return found


def test_an_actor_that_is_killed_changes_no_row(
    workspace: Workspace, cluster: Cluster, expected: dict[str, str], tmp_path: Path
) -> None:
    killed: list[int] = []

    def maker(workspace: Workspace, settings: RecommenderSettings, query: QueryOf, users: Sequence[str]):  # type: ignore[no-untyped-def]
        make = on_ray(cluster)(workspace, settings, query, users)

        def killing(shards: Sequence[Shard]) -> Iterator[tuple[Shard, Lists]]:
            for count, made in enumerate(make(shards)):
                if count == 3:  # each actor has shards now, at work and waiting
                    killed.extend(actors()[:1])
                    os.kill(killed[0], signal.SIGKILL)
                yield made

        return killing

    assert written(workspace, tmp_path, maker) == (USERS, 0, 0)
    assert len(expected) == USERS // SHARD
    assert files(tmp_path) == expected
    assert not psutil.pid_exists(killed[0])


def test_what_waits_at_an_actor_that_ends_is_made_too(
    workspace: Workspace, cluster: Cluster, expected: dict[str, str], tmp_path: Path
) -> None:
    ended = tmp_path / "ended"

    class EndsOnce(ListActor):
        def lists(self, users: Sequence[str], queries: Sequence[Query]) -> Lists | LLMGenError | ArgumentError:
            if "u17" in users and not ended.exists():
                ended.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return ListActor.lists(self, users, queries)

    written(workspace, tmp_path / "lists", on_ray(cluster._replace(actors=1), EndsOnce))
    assert ended.exists()
    assert files(tmp_path / "lists") == expected


class EndsAtOneUser(ListActor):
    """As it is when the memory of a node is too small for a shard."""

    def lists(self, users: Sequence[str], queries: Sequence[Query]) -> Lists | LLMGenError | ArgumentError:
        if "u17" in users:
            os._exit(1)
        return super().lists(users, queries)


class EngineIsAwayTwice(ListActor):
    """As it is when a server is started anew: every actor's first two tries fail."""

    def lists(self, users: Sequence[str], queries: Sequence[Query]) -> Lists | LLMGenError | ArgumentError:
        self.asked = getattr(self, "asked", 0) + 1
        return EngineUnavailableError("away") if self.asked <= 2 else super().lists(users, queries)


def test_what_ends_every_actor_is_told_and_the_rest_can_be_made_in_one_process(
    workspace: Workspace, cluster: Cluster, expected: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(LLMGenError, match=rf"file 2 \(users 'u16' to 'u19'\) ended, {TRIES} in all"):
        written(workspace, tmp_path, on_ray(cluster._replace(actors=1), EndsAtOneUser))
    left = files(tmp_path)
    assert left.items() <= expected.items()
    assert "part-00002.parquet" not in left
    assert written(workspace, tmp_path, in_process).found == len(left) >= 2
    assert files(tmp_path) == expected


def test_an_engine_that_is_away_for_a_moment_is_asked_again(
    workspace: Workspace, cluster: Cluster, expected: dict[str, str], tmp_path: Path
) -> None:
    one = cluster._replace(actors=1)
    written(workspace, tmp_path, on_ray(one, EngineIsAwayTwice))
    assert files(tmp_path) == expected


def test_the_command_joins_a_cluster_and_goes_on_with_a_run_of_one_process(
    tables: tuple[Path, Path], cluster: Cluster, tmp_path: Path
) -> None:
    out = tmp_path / "lists"
    command = ["batch", "--items", str(tables[0]), "--interactions", str(tables[1]), "--engine", "none"]
    command += ["-k", "3", "--shard", "20", "--out", str(out)]
    assert CliRunner().invoke(app, command).exit_code == 0
    whole = files(out)
    (out / "part-00001.parquet").unlink()
    command += ["--ray", ray.get_runtime_context().gcs_address, "--actors", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "llmgen", *command], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "60 users in 3 files" in done.stdout
    assert "2 files were there" in done.stdout
    assert files(out) == whole


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ray", "here"], "takes local, auto or HOST:PORT, not 'here'"),
        (["--ray", "127.0.0.1:FREE"], "nothing answers there"),
        (["--actors", "2"], "give --ray too"),
    ],
)
def test_what_is_wrong_with_ray_is_told_before_any_work(options: list[str], says: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    given = [option.replace("FREE", str(free)) for option in options]
    command = ["batch", "--items", "none.csv", "--interactions", "none.csv", "--out", str(tmp_path / "out"), *given]
    error = CliRunner().invoke(app, command).exception
    assert isinstance(error, ConfigError)
    assert says in str(error)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'llmgen\[ray\]'"), connected("local"):
        pass
