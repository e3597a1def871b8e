"""Lists for many users on a Ray cluster: `llmgen batch --ray`.

Each actor loads the recommender once, and is given one shard of users after the other. These are plain actors and not
Ray Data: a shard goes in as some thousands of queries and comes out as one finished file, so there is no table that
Ray Data could split, move or combine; and a shard that ends its actor again and again must stop the run, with its
number, where a pool of Ray Data would start actors for ever.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from llmgen import __version__
from llmgen.cli.batch import Lists, Make, Maker, QueryOf, Shard, lists_of
from llmgen.engines import load_engine
from llmgen.errors import ArgumentError, ConfigError, EngineUnavailableError, LLMGenError
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.saving import save_parts
from llmgen.types import Item, Query
from llmgen.workspace.core import RecommenderSettings, Workspace, choose
from llmgen.workspace.fitted import parts_without_engine

TRIES = 3
"""Of a shard whose actor or engine is lost, and of an actor that ends while it loads."""
AHEAD = 2
"""Shards that an actor is given: one to work on, and one that is there when that is done."""
ANSWERS_S = 10.0
"""A cluster that does not take a connection in so long is not there."""


class Cluster(NamedTuple):
    """A cluster that is connected.

    Attributes:
        cpus: Cores of all its nodes.
        gpus: GPUs of all its nodes.
        actors: How many to start; None for one a core, or one a GPU where the engine's model runs in the actor.
    """

    cpus: int
    gpus: int
    actors: int | None


class Artefacts(NamedTuple):
    """What a recommender is loaded from.

    Attributes:
        files: Path within the folder -> content, of what `Recommender.save` wrote.
        engine: See `llmgen.engines.load_engine`; `none` for the priors alone.
        adapter: For the engine; a folder must be on every node.
        version: Of llmgen.
    """

    files: Mapping[str, bytes]
    engine: str
    adapter: str | None
    version: str


class ListActor:
    """What runs on the cluster. Errors of llmgen are returned, since Ray gives those that are raised another class."""

    def load(self, given: Artefacts) -> LLMGenError | ArgumentError | None:
        """Load the recommender; what hinders it, or None."""
        if given.version != __version__:
            return ConfigError(
                f"a node of the cluster has llmgen {__version__}, and the command is of llmgen {given.version}; "
                "install the same version on all of them"
            )
        try:
            engine = None if given.engine == "none" else load_engine(given.engine, adapter=given.adapter)
            with TemporaryDirectory(prefix="llmgen-ray-") as folder:
                for name, content in given.files.items():
                    path = Path(folder) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content)
                recommender = Recommender.load(folder, engine=engine)
        except (LLMGenError, ArgumentError) as error:
            return error
        self._recommend = partial(recommender.recommend_many, on_error="return")
        return None

    def lists(self, users: Sequence[str], queries: Sequence[Query]) -> Lists | LLMGenError | ArgumentError:
        """The lists of some users, or why there are none."""
        try:
            return lists_of(self._recommend, users, queries)
        except (LLMGenError, ArgumentError) as error:
            return error


@contextmanager
def connected(address: str, actors: int | None = None) -> Iterator[Cluster]:
    """A connection to a cluster, as long as it is needed.

    Args:
        address: `local` starts a cluster on this machine and ends it; `auto` or HOST:PORT joins one of which this
            machine is a node.
        actors: See `Cluster`.

    Raises:
        ConfigError: Ray is not installed, the address is of another form, or no cluster answers there.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError(f"--ray needs {error.name}; pip install 'llmgen[ray]'") from None
    if address not in ("local", "auto"):
        _check_address(address)
    options: dict[str, Any] = {"address": address}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {"num_cpus": actors, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # Ray raises this very class where a node does not start in time
        said = " ".join(str(error).split())
        raise ConfigError(
            f"--ray {address}: no cluster could be joined: {said}; run the command on a node of the cluster, or take "
            "--ray local"
        ) from None
    try:
        there = ray.cluster_resources()
        yield Cluster(int(there.get("CPU", 0)), int(there.get("GPU", 0)), actors)
    finally:
        ray.shutdown()


def on_ray(cluster: Cluster, actor: type[ListActor] = ListActor) -> Maker:
    """Makes lists by the actors of a cluster; they are those that `in_process` makes.

    A shard whose actor ends, or whose engine is down, is given to another one, `TRIES` times in all.

    Args:
        cluster: Connected.
        actor: What runs there.
    """
    return partial(_maker, cluster, actor)


def _maker(
    cluster: Cluster,
    actor: type[ListActor],
    workspace: Workspace,
    settings: RecommenderSettings,
    query: QueryOf,
    users: Sequence[str],
) -> Make:
    priors = workspace.priors(settings)
    choice = choose(settings, priors, query(users[0]))
    asks_model = settings.engine != "none" and (choice.lm_weight != 0 or settings.decoding == "free")
    if asks_model and settings.record is not None:
        settings.record.check_identifier(workspace.catalog, str(settings.adapter))
    parts = parts_without_engine(workspace, settings, priors, choice, with_model=asks_model)
    with TemporaryDirectory(prefix="llmgen-ray-") as place:
        folder = Path(place) / "recommender"
        save_parts(parts, folder)
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    artefacts = Artefacts(files, settings.engine if asks_model else "none", settings.adapter, __version__)
    gpu = cluster.gpus > 0 and artefacts.engine.partition(":")[0] in ("hf", "vllm")
    count = cluster.actors or (cluster.gpus if gpu else cluster.cpus)
    if count < 1 or cluster.cpus < 1:
        raise ConfigError(f"the cluster has {cluster.cpus} cores and {cluster.gpus} GPUs, and an actor needs a core")
    return partial(_Pool.make, actor, artefacts, int(gpu), count, query)


def with_ids(query: Query) -> Query:
    """The query as it is sent: with ids in the place of the items of its history, since an actor has the items."""
    history = [one.id if isinstance(one, Item) else one for one in query.history]
    return replace(query, history=history, filters=dict(query.filters))


class _Pool:
    """Actors, and what they were given.

    Attributes:
        actors: Those that have not ended.
        left: Shards that are to be given to an actor.
        at_work: Reference of each call that is under way -> actor and shard; no shard where the actor loads. The
            calls of an actor are in the order in which it does them.
    """

    def __init__(self, start: Callable[[], Any], artefacts: object, query: QueryOf, shards: Sequence[Shard]) -> None:
        self.actors: list[Any] = []
        self.left = deque(shards)
        self.at_work: dict[Any, tuple[Any, Shard | None]] = {}
        self._start, self._artefacts, self._query = start, artefacts, query
        self._lost: Counter[int | None] = Counter()  # number of a shard, or None for loading

    @classmethod
    def make(
        cls,
        kind: type[ListActor],
        artefacts: Artefacts,
        gpus: int,
        count: int,
        query: QueryOf,
        shards: Sequence[Shard],
    ) -> Iterator[tuple[Shard, Lists]]:
        """See `llmgen.cli.batch.Make`."""
        import ray

        if not shards:
            return
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(kind)
        pool = cls(remote.remote, ray.put(artefacts), query, shards)
        for _ in range(min(count, len(shards))):
            pool.start()
        made = 0
        try:
            while made < len(shards):
                (done, *_), _ = ray.wait(list(pool.at_work), num_returns=1)
                try:
                    result = ray.get(done)
                except ray.exceptions.RayTaskError:
                    raise  # a fault of llmgen, with its traceback
                except ray.exceptions.RayError as error:
                    pool.lost(pool.at_work[done][0], error)
                    continue
                actor, shard = pool.at_work.pop(done)
                if isinstance(result, EngineUnavailableError) and shard is not None:
                    pool.again(shard, result)
                elif isinstance(result, LLMGenError | ArgumentError):
                    raise result
                elif shard is not None:
                    made += 1
                    yield shard, result
                pool.give(actor)
        finally:
            for actor in pool.actors:
                ray.kill(actor)

    def start(self) -> None:
        """Start an actor; it is given shards when it has loaded."""
        actor = self._start()
        self.actors.append(actor)
        self.at_work[actor.load.remote(self._artefacts)] = actor, None

    def give(self, actor: Any) -> None:
        """Give an actor shards, as many as it should have.

        One that was lost is given alone: what an actor has made just before it ends is lost with what ended it, and
        which of the two that was, only the next try can tell.
        """
        has = sum(one is actor for one, _ in self.at_work.values())
        while self.left and has < AHEAD:
            alone = self._lost[self.left[0].number] > 0
            if alone and has:
                return
            shard = self.left.popleft()
            queries = [with_ids(self._query(user)) for user in shard.users]
            self.at_work[actor.lists.remote(shard.users, queries)] = actor, shard
            has = AHEAD if alone else has + 1

    def again(self, shard: Shard | None, why: Exception) -> None:
        """Put a shard back that could not be made.

        Raises:
            LLMGenError: It was tried often enough.
        """
        number = None if shard is None else shard.number
        self._lost[number] += 1
        if self._lost[number] == TRIES:
            said = " ".join(str(why).split())
            if isinstance(why, LLMGenError):
                raise why
            if shard is None:
                raise LLMGenError(f"{TRIES} actors of the cluster ended while they loaded the recommender: {said}")
            raise LLMGenError(
                f"the actors that worked on file {shard.number} (users {shard.users[0]!r} to {shard.users[-1]!r}) "
                f"ended, {TRIES} in all: {said}"
            )
        if shard is not None:
            self.left.appendleft(shard)

    def lost(self, actor: Any, why: Exception) -> None:
        """An actor has ended: put back what it was given, and start another one in its place.

        Raises:
            LLMGenError: See `again`; what it was at is the first that it was given.
        """
        calls = [call for call, (one, _) in self.at_work.items() if one is actor]
        was_at, *waited = [self.at_work.pop(call)[1] for call in calls]
        self.left.extendleft(shard for shard in reversed(waited) if shard is not None)
        self.actors.remove(actor)
        self.again(was_at, why)
        self.start()


def _check_address(address: str) -> None:
    """See that something listens there: Ray itself would try for a minute.

    Raises:
        ConfigError: The address is of another form, or nothing does.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        raise ConfigError(f"--ray takes local, auto or HOST:PORT, not {address!r}")
    try:
        socket.create_connection((host, int(port)), ANSWERS_S).close()
    except OSError as error:
        raise ConfigError(
            f"--ray {address}: nothing answers there ({error.strerror or error}); give the address that `ray start "
            "--head` told, or take --ray local"
        ) from None
