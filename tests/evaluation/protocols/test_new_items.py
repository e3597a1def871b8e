"""Items that nothing learned from: who is asked about them, what is ranked, and which adapters may answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import llmgen.evaluation.run
from llmgen.adapters import AdapterRecord
from llmgen.datasets.splits import ItemsLeftOut, leave_items_out, log_digest
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError, DataError
from llmgen.evaluation.answers import answers_of
from llmgen.evaluation.arms import core as arms
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.baselines.classics import RandomTies
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.experiment import from_log
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.results import Results
from llmgen.priors import Popularity

LETTERS = "abcdefghij"
SEEDS = {"ci": 156, "aj": 14}
SERIES, PARTS = 12, 6


def log_of(*rows: tuple[str, str, float]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return frame.with_columns(pl.lit(None, dtype=pl.Float64).alias("rating"))


def drawing(items: str, interactions: pl.DataFrame, **settings: Any) -> ItemsLeftOut:
    """The split where these letters are new; an adapter stays valid only while they are."""
    split = leave_items_out(interactions, LETTERS, share=0.2, seed=SEEDS[items], **settings)
    assert split.items == set(items)
    return split


def rows(frame: pl.DataFrame) -> list[str]:
    return [user + item for user, item in frame.select("user_id", "item_id").rows()]


def test_each_part_by_hand() -> None:
    one = [("u", item, float(place)) for place, item in enumerate(LETTERS)]
    other = [("v", item, float(place)) for place, item in enumerate("caic")]
    split = drawing("ci", log_of(*one, *other), last=0.3)
    # of u the last 3 of 10 are h, i and j; of v the last 2 of 4 are i and c, and what stands before is c, new, and a
    assert rows(split.train) == ["ua", "ub", "ud", "ue", "uf", "va"]
    assert rows(split.validation) == ["ug"]
    assert rows(split.recent) == ["uh"]
    assert rows(split.test) == ["ui", "vi", "vc"]


def test_the_tie_rule_decides_what_is_late() -> None:
    tied = log_of(*(("u", item, 1.0) for item in "jihgfedcba"))
    split = drawing("aj", tied, last=0.1)
    assert (rows(split.test), rows(split.train)[0]) == (["ua"], "ui")
    split = drawing("aj", tied, last=0.1, ties="item_id")
    assert (rows(split.test), rows(split.train)[0]) == (["uj"], "ub")


def test_the_draw_is_by_id_alone_and_grows_with_the_share() -> None:
    interactions = log_of(("u", "1", 0.0))
    ids = [str(number) for number in range(2_000)]
    small, large = (leave_items_out(interactions, ids, share=share).items for share in (0.1, 0.3))
    assert small < large
    assert 0.08 < len(small) / 2_000 < 0.12
    assert leave_items_out(interactions, ids[:500], share=0.1).items == small & set(ids[:500])
    assert leave_items_out(interactions, ids, share=0.1, seed=1).items != small


@pytest.mark.parametrize("settings", [{"share": 0.0}, {"share": 1.0}, {"share": 0.1, "last": 0}])
def test_a_share_is_between_0_and_1(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        leave_items_out(log_of(("u", "a", 0.0)), LETTERS, **settings)  # type: ignore[arg-type]


def test_a_draw_of_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match=r"a share of 1e-06 draws 0 of 10 items"):
        leave_items_out(log_of(("u", "a", 0.0)), LETTERS, share=1e-6)


@pytest.fixture
def protocol(tmp_path: Path) -> dict[str, Any]:
    """Users who each go through the parts of two series, mixed; a title is the name of its series and a number."""
    titles = [f"Saga{chr(65 + series)} {part}" for part in range(PARTS) for series in range(SERIES)]
    items = ["item_id,title", *(f"i{number},{title}" for number, title in enumerate(titles))]
    (tmp_path / "items.csv").write_text("\n".join(items))
    taken = ["user_id,item_id,timestamp"]
    for user in range(5 * SERIES):
        pair = (user % SERIES, (user + 1 + user // SERIES) % SERIES)
        order = [part * SERIES + series for part in range(PARTS) for series in pair]
        taken += [f"u{user},i{item},{place}" for place, item in enumerate(order)]
    (tmp_path / "log.csv").write_text("\n".join(taken))
    data = {"items": tmp_path / "items.csv", "interactions": tmp_path / "log.csv"}
    return {"data": data, "split": "new_items", "leave_out": {"share": 0.3, "last": 0.4}, "k": 3}


def load(settings: dict[str, Any]) -> tuple[Sample, Sample, ItemsLeftOut]:
    made = Protocol.model_validate(settings)
    dataset = made.load()
    return *samples(made, dataset), made.left_out(dataset)


def test_nothing_that_is_fitted_or_shown_has_a_new_item(protocol: dict[str, Any]) -> None:
    tuning, final, left = load(protocol)
    assert len(left.items) > 10
    for sample in (tuning, final):
        assert not set(sample.known["item_id"]) & left.items
        assert not {item.id for query in sample.queries for item in query.history} & left.items
    assert not {item for wanted in tuning.held_out for item in wanted} & left.items
    assert {item for wanted in final.held_out for item in wanted} <= left.items
    assert len(final.queries) > 20
    for query in final.queries:
        history, known = [item.id for item in query.history], final.known.filter(user_id=query.user_id)["item_id"]
        assert history[: len(known)] == known.to_list()
        assert history == sorted(history, key=lambda one: int(one[1:]) // SERIES)  # in the order of time
    assert any(len(query.history) > len(final.known.filter(user_id=query.user_id)) for query in final.queries)


def test_the_order_of_the_catalog_says_nothing(protocol: dict[str, Any], tmp_path: Path) -> None:
    """Nothing is known of any new item, so each user gets others first, and another seed gives others again."""
    first = []
    for seed in (0, 0, 1):
        out = tmp_path / f"{len(first)}"
        evaluate({**protocol, "among": "new", "seed": seed}, out, arms={"flat": ArmConfig(lm_weight=0.0)})
        for name in ("popularity", "flat"):
            answers = pl.concat(pl.read_parquet(path) for path in (out / "answers").glob(f"{name}-*/*.parquet"))
            first.append([items[0] for items in answers.sort("user_id")["items"].to_list()])
    assert len(set(first[0])) > 10
    assert first[0] == first[1] == first[2] == first[3] != first[4] == first[5]


def test_the_order_of_ties_is_random_for_each_user_and_no_part_of_a_score(protocol: dict[str, Any]) -> None:
    _, final, _ = load(protocol)
    some = final.rows(range(5))
    arm = arms.build("known", ArmConfig(lm_weight=0.0, priors={"popularity": 1.0}), some, (), arms.Engines())
    counts = dict(final.known["item_id"].value_counts().iter_rows())
    order = RandomTies(len(final.catalog), 0)
    for query, answer in zip(some.queries, answers_of(arm, some), strict=True):
        shares = Popularity.fit(final.known, final.catalog).log_weights([query])[0]
        before = order(query)
        seen = {item.id for item in query.history}
        ranked = sorted(
            (item for item in final.catalog.ids if item not in seen),
            key=lambda item: (-counts.get(item, 0), before[final.catalog.index(item)]),
        )
        assert [place.item.id for place in answer] == ranked[:3]
        assert [set(place.terms) for place in answer] == [{"popularity"}] * 3
        assert [place.score for place in answer] == pytest.approx([shares[final.catalog.index(i)] for i in ranked[:3]])


def test_who_ranks_among_new_items_is_another_question(protocol: dict[str, Any]) -> None:
    _, final, left = load(protocol)
    _, among, _ = load({**protocol, "among": "new"})
    assert set(among.among or ()) == left.items
    assert among.digest != final.digest
    assert (among.rows([0, 1]).among, among.rows([0, 1]).tie_seed) == (among.among, 0)
    assert load({**protocol, "seed": 1})[1].digest != final.digest  # ties are ordered otherwise
    with pytest.raises(ConfigError, match="among: new needs split: new_items, not leave_one_out"):
        load({**protocol, "among": "new", "split": "leave_one_out"})


def test_the_weight_of_a_model_is_chosen_on_new_items_of_other_users(protocol: dict[str, Any]) -> None:
    found = from_log(RunConfig.model_validate({"protocol": {**protocol, "users": 10}, "classics": "none"}))
    assert found.weighing is not None
    asked, others = set(found.final.users), set(found.weighing.users)
    _, everyone, left = load(protocol)
    assert asked.isdisjoint(others)
    assert asked | others == set(everyone.users)
    assert {item for wanted in found.weighing.held_out for item in wanted} <= left.items
    assert from_log(RunConfig.model_validate({"protocol": protocol, "classics": "none"})).weighing is None


@pytest.mark.parametrize("wrong", [{"shares": 0.1}, {"share": 2.0}, {}])
def test_settings_of_the_draw_that_are_wrong_are_named(protocol: dict[str, Any], wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"leave_out: .*it takes share, seed and last"):
        load({**protocol, "leave_out": wrong})


def evaluate(protocol: dict[str, Any], out: Path, **settings: Any) -> Results:
    settings = {"protocol": protocol, "classics": "defaults", "draws": 200, "latency_users": 0, **settings}
    return llmgen.evaluation.run.evaluate(RunConfig.model_validate(settings), out, command="test")


def test_words_find_what_no_log_knows(protocol: dict[str, Any], tmp_path: Path) -> None:
    """Of the parts of a series only the title says that they belong together."""
    found = evaluate(protocol, tmp_path / "whole", baseline="bm25")
    hits = {arm.name: arm.metrics["hr@3"].mean for arm in found.arms}
    assert hits["bm25"] > 0.4  # 3 of 72 items would be .04
    assert hits["transition"] == hits["ease"] == hits["popularity"] == 0.0
    assert {row.arm for row in found.differences} == {arm.name for arm in found.arms} - {"bm25"}
    assert any("of which nothing was learned" in note for note in found.notes)

    among = evaluate({**protocol, "among": "new"}, tmp_path / "new")
    _, _, left = load(protocol)
    hits = {arm.name: arm.metrics["hr@3"].mean for arm in among.arms}
    assert hits["bm25"] > 0.6
    assert hits["ease"] < 0.4
    answers = pl.concat(pl.read_parquet(path) for path in (tmp_path / "new" / "answers").rglob("*.parquet"))
    assert {item for items in answers["items"].to_list() for item in items} <= left.items
    assert "The new items alone are ranked." in among.notes


def record(folder: Path, **changes: Any) -> ArmConfig:
    """An arm with an adapter that has nothing but a record."""
    folder.mkdir()
    settings = {"base_model": "b", "loss": "lm", "lm_weight": 1.0, "prompt": "next_item", "max_history": 5, "seed": 0}
    AdapterRecord.model_validate({**settings, "prompts": (), "tokenizer": "t", **changes}).write(folder)
    return ArmConfig(adapter=str(folder))


def test_only_an_adapter_that_never_saw_the_new_items_may_answer(
    protocol: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "load_engine", lambda name, adapter=None: FakeEngine())
    dataset = Protocol.model_validate(protocol).load()
    _, _, left = load(protocol)
    catalog = dataset.catalog.without(left.items)
    both = pl.concat([left.train, left.validation])
    good = {"catalog": catalog.digest, "data": log_digest(left.train)}
    fine = {
        "train": record(tmp_path / "a", **good),
        "both": record(tmp_path / "b", **{**good, "data": log_digest(both)}),
        "written": record(tmp_path / "c", **good, label="{title}"),
    }
    settings = {"protocol": {**protocol, "users": 4}, "classics": "none"}
    from_log(RunConfig.model_validate({**settings, "arms": fine}))
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for wrong in (
        record(tmp_path / "d", catalog=dataset.catalog.digest, data=log_digest(left.train)),
        record(tmp_path / "e", catalog=catalog.digest, data=log_digest(dataset.interactions)),
        ArmConfig(adapter=str(nothing)),
    ):
        with pytest.raises(ConfigError, match=r"arm 'x': .* may know the new items.*leave_out: \{share: 0\.3, last"):
            from_log(RunConfig.model_validate({**settings, "arms": {"x": wrong}}))
