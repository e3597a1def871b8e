"""Who is asked about what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.errors import ConfigError
from llmgen.evaluation.baselines.classics import Random, RepeatLast
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.protocols.slices import slices
from llmgen.types import Item, Query
from tests.conftest import films

USERS, ITEMS = 40, 30


@pytest.fixture
def protocol(tmp_path: Path) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    items = ["item_id,title,genres", *(f"i{n},Title {n},{'War' if n % 2 else 'Comedy'}" for n in range(ITEMS))]
    (tmp_path / "items.csv").write_text("\n".join(items))
    rows = ["user_id,item_id,timestamp"]
    for user in range(USERS):
        for place, item in enumerate(rng.permutation(ITEMS)[: 3 + user % 6]):
            rows.append(f"u{user},i{item},{1000 * place + user}")
    (tmp_path / "log.csv").write_text("\n".join(rows))
    return {"data": {"items": tmp_path / "items.csv", "interactions": tmp_path / "log.csv", "attributes": ["genres"]}}


def load(settings: dict[str, Any]) -> tuple[Protocol, Dataset]:
    made = Protocol.model_validate(settings)
    return made, made.load()


def test_leave_one_out_by_hand(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *(f"{item},Title {item}" for item in "abcde")]))
    log = {"u": "abcd", "v": "eabe", "w": "dc"}  # v took e twice, w too little
    rows = [f"{user},{item},{time},{time + 1}" for user, items in log.items() for time, item in enumerate(items)]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,timestamp,rating", *rows]))
    data = {"items": tmp_path / "items.csv", "interactions": tmp_path / "log.csv"}
    for seen, users in (("removed", ["u"]), ("kept", ["u", "v"])):
        tuning, final = samples(*load({"data": data, "seen": seen}))
        assert (tuning.users, final.users, final.unasked) == (["u", "v"], users, 2 - len(users))
        assert [(query.user_id, item.id) for query, item in tuning.pairs] == [("u", "c"), ("v", "b")]
        assert (final.targets[0], final.times[0]) == ("d", 3.0)
        history = final.queries[0]
        assert ([item.id for item in history.items], history.exclude_seen) == (["a", "b", "c"], seen == "removed")
        assert (len(tuning.known), len(final.known)) == (6, 8)  # all of w, who is not asked


def test_rows_of_a_sample_keep_what_belongs_together() -> None:
    catalog = films(9)
    users = ["a", "a", "b", "c", "c", "d"]
    sample = Sample(
        catalog,
        pl.DataFrame(),
        tuple(Query((), user_id=user) for user in users),
        tuple((item.id,) for item in list(catalog)[:6]),
        tuple(map(float, range(6))),
        ratings=(5.0, 4.0, 3.0, 2.0, 1.0, 0.0),
        candidates=tuple((item.id, "x") for item in list(catalog)[:6]),
        tie_seed=3,
    )
    some = sample.rows([4, 1])
    assert (some.users, some.times, some.ratings, some.tie_seed) == (["c", "a"], (4.0, 1.0), (1.0, 4.0), 3)
    assert some.targets == [sample.targets[4], sample.targets[1]]
    assert some.candidates == ((some.targets[0], "x"), (some.targets[1], "x"))
    assert sample.spread(2).times == (0.0, 1.0, 5.0)  # the first and the last user, with all their rows
    assert sample.spread(9).times == sample.times
    assert len(sample.drawn(3, 0)) == 3 and sample.drawn(3, 0).times == sample.drawn(3, 0).times
    assert list(sample.drawn(4, 1).times) == sorted(sample.drawn(4, 1).times)
    assert sample.drawn(6, 0) is sample


def test_a_draw_of_users_is_the_same_always_and_another_with_another_seed(protocol: dict[str, Any]) -> None:
    draws = [samples(*load({**protocol, "users": 10, "seed": seed}))[1] for seed in (0, 0, 1)]
    assert draws[0].users == draws[1].users != draws[2].users
    assert draws[0].digest == draws[1].digest != draws[2].digest
    assert len(set(draws[0].users)) == 10
    whole = samples(*load(protocol))
    assert set(draws[0].users) <= set(whole[1].users)
    assert len(samples(*load({**protocol, "users": 10}))[0].queries) == len(whole[0].queries)


def test_a_split_in_time_looks_for_all_that_came_later_and_knows_nothing_of_it(protocol: dict[str, Any]) -> None:
    made, data = load({**protocol, "split": "time", "test_share": 0.3})
    tuning, final = samples(made, data)
    end = max(data.interactions["timestamp"].to_list())
    for sample in (tuning, final):
        before = max(sample.known["timestamp"].to_list())
        assert before < min(sample.times) <= end
        for query, wanted in zip(sample.queries, sample.held_out, strict=True):
            assert not {item.id for item in query.history} & set(wanted)
    assert any(len(wanted) > 1 for wanted in final.held_out)
    assert {one.by for one in slices(final)} >= {"popularity of the held-out item", "time of the held-out item"}


def test_of_new_users_only_the_newest_items_are_known(protocol: dict[str, Any]) -> None:
    _, whole = samples(*load(protocol))
    for newest in (0, 2):
        _, cut = samples(*load({**protocol, "newest": newest}))
        assert cut.held_out == whole.held_out
        assert [one.history for one in cut.queries] == [
            one.history[len(one.history) - newest :] if newest < len(one.history) else one.history
            for one in whole.queries
        ]
        assert len(cut.known) == len(whole.known)


def test_candidates_hold_what_is_looked_for_and_nothing_of_the_history(protocol: dict[str, Any]) -> None:
    made, data = load({**protocol, "candidates": 8})
    _, final = samples(made, data)
    assert final.candidates is not None
    places = []
    for query, wanted, offered in zip(final.queries, final.held_out, final.candidates, strict=True):
        assert len(offered) == len(set(offered)) == 8
        assert set(wanted) <= set(offered)
        assert not {item.id for item in query.history} & set(offered)
        places.append(offered.index(wanted[0]))
    assert len(set(places)) > 4  # in random order
    assert samples(made, data)[1].candidates == final.candidates


def test_slices_divide_the_users(protocol: dict[str, Any]) -> None:
    _, final = samples(*load(protocol))
    by: dict[str, list[int]] = {}
    for one in slices(final):
        by.setdefault(one.by, []).extend(one.rows)
    for name in ("history length", "popularity of the held-out item"):
        assert sorted(by[name]) == list(range(len(final)))


def test_slices_by_hand() -> None:
    """Six users: histories of 0 to 5 items, targets taken once to three times, at one time, in two genres."""
    catalog = Catalog(Item(item, item, {"genres": ("War",) if item in "ab" else ("Comedy",)}) for item in "abcdef")
    known = pl.DataFrame({"item_id": list("abbcdddef"), "user_id": ["x"] * 9})
    queries = tuple(Query(tuple(catalog)[:size], user_id=str(size)) for size in range(6))
    sample = Sample(catalog, known, queries, tuple((item,) for item in "aabbdd"), (0.0,) * 6)
    assert list(slices(sample)) == [
        ("history length", "0 to 1 items", [0, 1]),
        ("history length", "2 to 3 items", [2, 3]),
        ("history length", "4 to 5 items", [4, 5]),
        ("popularity of the held-out item", "1 times taken", [0, 1]),
        ("popularity of the held-out item", "2 times taken", [2, 3]),
        ("popularity of the held-out item", "3 times taken", [4, 5]),
        ("attribute of the held-out item", "Comedy", [4, 5]),
        ("attribute of the held-out item", "War", [0, 1, 2, 3]),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("protocol: {users: 1}", "protocol.users: Input should be greater than or equal to 2, not 1"),
        ("protocol: {split: weekly}", "protocol.split"),
        ("arms: {A: {promt: x}}", "arm 'A', promt: Extra inputs are not permitted; an arm has engine"),
        ("- a list", "must hold settings"),
        ("a: [", "is not YAML"),
        ("speed: 9", "speed: Extra inputs"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        RunConfig.read(path)
    assert says in str(caught.value)


def test_the_data_set_of_a_file_can_be_named_later(tmp_path: Path, protocol: dict[str, Any]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("protocol: {data: {dataset: here.zip, core: 5}}")
    assert RunConfig.read(path, data={"dataset": "there.zip"}).protocol.data == {"dataset": "there.zip", "core": 5}
    assert RunConfig.read(path).protocol.data == {"dataset": "here.zip", "core": 5}
    assert RunConfig.read(None, data={"dataset": str(tmp_path)}).protocol.data == {"dataset": str(tmp_path)}
    path.write_text("protocol: {data: {items: a.csv, interactions: b.csv}}")
    with pytest.raises(ConfigError, match=r"reads the tables a\.csv, not the data set there\.zip"):
        RunConfig.read(path, data={"dataset": "there.zip"})


def test_the_core_is_a_setting_of_the_data(protocol: dict[str, Any]) -> None:
    _, whole = load(protocol)
    _, core = load({**protocol, "data": {**protocol["data"], "core": 4}})
    assert core.interactions["user_id"].value_counts()["count"].min() >= 4  # type: ignore[operator]
    assert len(core.interactions) < len(whole.interactions)
    with pytest.raises(ConfigError, match="core is how often each user and item must occur, 0 or more, not -1"):
        load({**protocol, "data": {**protocol["data"], "core": -1}})


def test_data_that_are_wrong_are_named() -> None:
    with pytest.raises(ConfigError, match=r"data: .*folder.*DataSettings"):
        Protocol(data={"folder": "x"}).load()  # type: ignore[call-arg]


def test_classics_by_hand() -> None:
    catalog = films(20)
    queries = [Query((catalog[3], catalog[5], catalog[3]), user_id="a"), Query((), user_id="b")]
    last = RepeatLast(catalog).log_weights(queries)
    assert np.argsort(-last[0], kind="stable")[:3].tolist() == [3, 5, 0]
    assert not last[1].any()
    one = Random(20, seed=1).log_weights(queries)
    assert (one == Random(20, seed=1).log_weights(queries)).all()
    assert (one != Random(20, seed=2).log_weights(queries)).any()
    assert (one[0] != one[1]).any()
