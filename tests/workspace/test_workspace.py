"""What the command line's settings become: a data set, a query, and a recommender that suits it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmgen.adapters import AdapterRecord
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError, DataError, UnknownItemError
from llmgen.priors.kinds import OURS, kinds
from llmgen.recommend.default_weight import LM_WEIGHT_BESIDE_A_PRIOR
from llmgen.recommend.recommender import Choice
from llmgen.templates.library import PromptLibrary
from llmgen.types import Query
from llmgen.workspace.core import (
    RATING_WEIGHTS,
    TUNED_RATING_WEIGHTS,
    DataSettings,
    RecommenderSettings,
    Workspace,
    choose,
    tuned_prompts,
)

FAKE = RecommenderSettings(engine="fake")


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Any]:
    """Two tables whose columns have names of their own."""
    items, log = tmp_path / "films.csv", tmp_path / "log.csv"
    items.write_text("film,title,year\na,Alien,1979\nb,Brazil,1985\nc,Casablanca,1942\nd,Dune,1984\n")
    log.write_text("who,film,timestamp,stars\n1,d,2,5\n1,a,1,4\n2,a,1,3\n2,b,5,\n2,a,9,1\n")
    return {
        "items": items,
        "interactions": log,
        "columns": {"item_id": "film", "user_id": "who", "rating": "stars"},
        "attributes": ("year",),
        "noun": "film",
        "label": "{title} ({year})",
    }


@pytest.fixture
def workspace(tables: dict[str, Any]) -> Workspace:
    return Workspace(DataSettings(**tables).load())


# Data


def test_tables_are_read_by_their_own_columns(workspace: Workspace) -> None:
    assert workspace.catalog.labels == ("Alien (1979)", "Brazil (1985)", "Casablanca (1942)", "Dune (1984)")
    assert (workspace.catalog.noun, workspace.catalog.shown) == ("film", ("year",))
    assert sorted(workspace.histories) == ["1", "2"]


@pytest.mark.parametrize("missing", ["items", "interactions"])
def test_one_table_without_the_other_is_refused(tables: dict[str, Any], missing: str) -> None:
    with pytest.raises(ConfigError, match=f"--{missing} is missing"):
        DataSettings(**{**tables, missing: None}).load()


def test_a_column_that_nothing_here_is_called_is_refused(tables: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"knows item_id, rating, timestamp, title, user_id; not 'colour'"):
        DataSettings(**{**tables, "columns": {"colour": "film"}}).load()


def test_bad_rows_stop_unless_they_are_to_be_dropped(tables: dict[str, Any]) -> None:
    with tables["interactions"].open("a") as log:
        log.write("3,zz,1,1\n")
    with pytest.raises(DataError, match="row 6, column 'film'"):
        DataSettings(**tables).load()
    assert len(DataSettings(**tables, drop_bad=True).load().interactions) == 5


# Queries


def test_a_user_of_the_log_brings_history_and_ratings_oldest_first(workspace: Workspace) -> None:
    query = workspace.query(user="1", k=3, include_seen=True, filters={"year": "1979"})
    assert [item.id for item in query.history] == ["a", "d"]
    assert query.ratings == (4.0, 5.0)
    assert (query.user_id, query.k, query.exclude_seen, query.filters) == ("1", 3, False, {"year": "1979"})
    unrated = workspace.query(user="2")
    assert [item.id for item in unrated.history] == ["a", "b", "a"]
    assert unrated.ratings is None  # one of the three is not known


def test_a_history_by_hand_has_no_user_and_no_ratings(workspace: Workspace) -> None:
    query = workspace.query(history=["d", "b"], text="slow")
    assert [item.id for item in query.history] == ["d", "b"]
    assert (query.user_id, query.ratings, query.text, query.exclude_seen) == (None, None, "slow", True)
    assert workspace.query() == Query(filters={})


def test_users_and_items_that_are_not_there_are_named(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="no user '9'; it has users such as 1, 2"):
        workspace.query(user="9")
    with pytest.raises(UnknownItemError, match="'zz'"):
        workspace.query(history=["a", "zz"])
    with pytest.raises(ConfigError, match="not both"):
        workspace.query(user="1", history=["a"])


# Recommenders


@pytest.mark.parametrize(
    ("asked", "prompt", "lm_weight"),
    [
        ({}, "next_item", 1.0),  # no prior knows anything
        ({"history": ["a"]}, "next_item", LM_WEIGHT_BESIDE_A_PRIOR),
        ({"text": "slow"}, "cold_start", LM_WEIGHT_BESIDE_A_PRIOR),
        ({"user": "1", "text": "slow"}, "next_item", LM_WEIGHT_BESIDE_A_PRIOR),
    ],
)
def test_prompt_and_weight_suit_what_is_known(
    workspace: Workspace, asked: dict[str, Any], prompt: str, lm_weight: float
) -> None:
    recommender = workspace.recommender(FAKE, workspace.query(**asked))
    assert recommender.template().name == prompt
    assert recommender.config.lm_weight == lm_weight
    assert [(prior.name, prior.weight) for prior in recommender.priors] == [("transition", 1.0), ("wish", 1.0)]


@pytest.mark.parametrize(
    ("priors", "asked", "lm_weight"),
    [
        ({}, {"history": ["a"], "text": "slow"}, 1.0),
        ({"popularity": 1.0}, {"history": ["a"], "text": "slow"}, 1.0),  # knows neither user nor wish
        ({"wish": 1.0}, {"history": ["a"]}, 1.0),
        ({"transition": 1.0}, {"text": "slow"}, 1.0),
        ({"ease": 1.0}, {"history": ["a"]}, LM_WEIGHT_BESIDE_A_PRIOR),
        ({"item_knn": 1.0}, {"history": ["a"]}, LM_WEIGHT_BESIDE_A_PRIOR),
    ],
)
def test_the_model_has_full_weight_where_no_prior_knows(
    workspace: Workspace, priors: dict[str, float], asked: dict[str, Any], lm_weight: float
) -> None:
    settings = RecommenderSettings(engine="fake", priors=priors)
    assert workspace.recommender(settings, workspace.query(**asked)).config.lm_weight == lm_weight


def test_what_is_given_is_taken(workspace: Workspace) -> None:
    named = [name for name in kinds() if name != "scores"]  # which needs a file
    settings = RecommenderSettings(
        engine="fake",
        prompt=("next_item_taste", "rate"),
        priors=dict.fromkeys(named, 0.5),
        lm_weight=0.7,
        decoding="raw",
        normalise="eligible",
        num_beams=3,
        exact=True,
        max_history=2,
    )
    made = workspace.recommender(settings, workspace.query(text="slow"))
    assert {prior.name: prior.weight for prior in made.priors} == dict.fromkeys(named, 0.5)
    assert (made.template().name, made.template("rate").name) == ("next_item_taste", "rate")
    config = made.config
    assert (config.mode, config.normalise, config.lm_weight) == ("raw", "eligible", 0.7)
    assert (config.num_beams, config.exact, made.max_history) == (3, True, 2)


def test_ratings_of_the_log_stand_beside_the_model(workspace: Workspace) -> None:
    made = workspace.build(FAKE, (), FakeEngine(), Choice())
    assert [prior.name for prior in made.rating_priors] == ["rating_knn"]
    assert (made.rating_priors[0].weight, made.rating_lm_weight) == RATING_WEIGHTS
    for alone in (
        workspace.build(FAKE, (), None, Choice()),
        workspace.build(FAKE.replace(rating_lm_weight=0.0), (), FakeEngine(), Choice()),
    ):
        assert alone.rating_priors[0].weight == 1.0
    assert workspace.labels == ("1", "3", "4", "5")  # those that somebody gave
    given = FAKE.replace(rating_priors={"rating_knn": 0.5}, rating_lm_weight=0.7)
    made = workspace.build(given, (), FakeEngine(), Choice())
    assert ([prior.weight for prior in made.rating_priors], made.rating_lm_weight) == ([0.5], 0.7)
    made = workspace.build(FAKE.replace(rating_priors={}), (), FakeEngine(), Choice())
    assert (made.rating_priors, made.rating_lm_weight) == ((), 1.0)
    with pytest.raises(ConfigError, match="no rating prior is called 'ease'; there are rating_knn"):
        workspace.build(FAKE.replace(rating_priors={"ease": 1.0}), (), FakeEngine(), Choice())


def test_a_log_without_ratings_has_no_prior_of_them(tables: dict[str, Any]) -> None:
    del tables["columns"]["rating"]
    workspace = Workspace(DataSettings(**tables).load())
    made = workspace.build(FAKE, (), FakeEngine(), Choice())
    assert (made.rating_priors, made.rating_lm_weight, workspace.labels) == ((), 1.0, ("1", "2", "3", "4", "5"))
    with pytest.raises(DataError, match="none of 5 interactions has a rating"):
        workspace.build(FAKE.replace(rating_priors={"rating_knn": 1.0}), (), FakeEngine(), Choice())


def test_priors_alone_answer_where_there_is_no_engine(workspace: Workspace) -> None:
    query = workspace.query(user="1")
    made = workspace.recommender(RecommenderSettings(engine="none"), query, needs_engine=True)
    assert made.engine is None
    assert [place.grounding.method for place in made.recommend(query)] == ["prior", "prior"]
    assert list(made.rate(query, "b").parts) == ["rating_knn"]


def record(**changes: Any) -> AdapterRecord:
    made = {
        "base_model": "m",
        "loss": "residual",
        "lm_weight": 0.2,
        "prompt": "next_item_list",
        "max_history": 7,
        "prompts": (PromptLibrary.default()["next_item_list"].ref,),
        "catalog": "c",
        "tokenizer": "utf-8",
        "data": "d",
        "seed": 0,
    }
    return AdapterRecord(**{**made, **changes})


def test_an_adapter_is_served_as_it_was_tuned(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(catalog=workspace.catalog.digest).write(tmp_path)
    settings = RecommenderSettings(adapter=str(tmp_path))
    priors = workspace.priors(settings)
    for asked, expected in [
        ({"history": ["a"]}, Choice("next_item_list", 0.2)),
        ({}, Choice("next_item_list", 1.0)),
        ({"text": "slow"}, Choice("cold_start", 0.2)),
    ]:
        query = workspace.query(**asked)  # type: ignore[arg-type]
        assert choose(settings, priors, query) == expected
    assert choose(settings.replace(prompt="next_item", lm_weight=0.5), priors, Query()) == Choice(None, 0.5)
    made = workspace.build(settings, priors, FakeEngine(), Choice(lm_weight=0.2))  # as the service does
    assert (made.template().name, made.max_history, made.config.lm_weight) == ("next_item_list", 7, 0.2)
    assert workspace.build(settings.replace(max_history=3), priors, None, Choice()).max_history == 3
    assert caplog.text == ""


def test_a_prior_may_be_given_with_its_settings(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "top.csv"
    path.write_text(f"user_id,item_id,score\nann,{workspace.catalog[1].id},1\n")
    settings = FAKE.replace(priors={"scores": {"path": str(path), "weight": 2.0}, "popularity": 0.1})
    scores, popularity = workspace.priors(settings)
    assert (scores.name, scores.weight, popularity.weight) == ("scores", 2.0, 0.1)
    assert scores.log_weights([Query(user_id="ann")]).argmax() == 1
    lacking = "prior scores needs the setting 'path'\nprior ease: there is no setting 'l3'"
    with pytest.raises(ConfigError, match=lacking):
        workspace.priors(FAKE.replace(priors={"scores": 1.0, "ease": {"l3": 1}}))


@pytest.mark.parametrize("name", ["transition", "ease", "item_knn", "repeat", "content", "history_text"])
def test_every_prior_that_reads_a_history_outweighs_an_untuned_model(workspace: Workspace, name: str) -> None:
    settings = FAKE.replace(priors={name: 1.0})
    priors = workspace.priors(settings)
    known = Query([workspace.catalog[0]])
    assert choose(settings, priors, known).lm_weight == LM_WEIGHT_BESIDE_A_PRIOR
    assert choose(settings, priors, Query()).lm_weight == 1.0


def test_it_is_written_down_what_each_prior_reads() -> None:
    reads = {"wish": "text", "wish_vectors": "text", "popularity": ""}
    assert {one.name: one.reads for one in OURS if one.reads != "history"} == reads


def test_an_adapter_brings_its_way_of_writing_its_priors_and_its_decoding(
    workspace: Workspace, tables: dict[str, Any], tmp_path: Path
) -> None:
    beside = {"transition": {"window": 7, "weight": 0.6}, "popularity": {"weight": -0.3}}
    record(label="<{title}>", priors=beside, decoding="raw").write(tmp_path)
    settings = RecommenderSettings(adapter=str(tmp_path))
    own, title = DataSettings(**tables), workspace.catalog[0].title
    assert Workspace(settings.written(replace(own, label=None)).load()).catalog.labels[0] == f"<{title}>"
    assert settings.written(own) is own
    priors = workspace.priors(settings)
    assert {prior.name: prior.weight for prior in priors} == {"transition": 0.6, "popularity": -0.3, "wish": 1.0}
    assert [prior.name for prior in workspace.priors(settings.replace(priors={"ease": 1.0}))] == ["ease"]
    assert workspace.build(settings, priors, FakeEngine(), Choice()).config.mode == "raw"
    assert workspace.build(settings.replace(decoding="trie"), priors, FakeEngine(), Choice()).config.mode == "trie"


def test_what_an_adapter_was_not_tuned_for_is_said(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    record(tokenizer="other").write(tmp_path)
    settings = RecommenderSettings(adapter=str(tmp_path))
    workspace.build(settings, (), FakeEngine(), Choice("next_item", 1.0))
    assert "it was tuned on the catalog c, and this is" in caplog.text
    assert "it was tuned with the tokenizer other, and this is utf-8" in caplog.text
    assert "it was not tuned on the prompt next_item@" in caplog.text


def test_an_adapter_is_asked_for_ratings_as_it_was_tuned_on_them(workspace: Workspace, tmp_path: Path) -> None:
    library = PromptLibrary.default()
    tuned = [library[name].ref for name in ("cold_start", "describe", "next_item_list", "next_item_taste", "rate_list")]
    record(prompts=(*tuned, "gone@0123")).write(tmp_path)
    settings = RecommenderSettings(adapter=str(tmp_path))
    made = workspace.build(settings, (), FakeEngine(), Choice("next_item_taste"))
    assert [made.template(task).name for task in ("recommend", "rate", "rank")] == [  # type: ignore[arg-type]
        "next_item_taste",
        "rate_list",
        "rerank",
    ]
    assert (made.rating_priors[0].weight, made.rating_lm_weight) == TUNED_RATING_WEIGHTS
    made = workspace.build(settings.replace(prompt="rate"), (), FakeEngine(), Choice())
    assert (made.template().name, made.template("rate").name) == ("next_item", "rate")
    assert tuned_prompts(record(), library) == {"recommend": "next_item_list"}


def test_an_adapter_of_others_has_no_record_and_a_broken_one_is_an_error(tmp_path: Path) -> None:
    assert AdapterRecord.read(tmp_path) is AdapterRecord.read("some/hub-name") is None
    (tmp_path / "llmgen.json").write_text('{"loss": "residual"}')
    with pytest.raises(ConfigError, match=r"llmgen.json is no record of an adapter"):
        AdapterRecord.read(tmp_path)


def test_an_engine_is_loaded_only_where_it_is_asked(workspace: Workspace) -> None:
    settings = RecommenderSettings(engine="hf:/no/such/model", lm_weight=0)
    assert workspace.recommender(settings, Query()).engine is None
    fake = RecommenderSettings(engine="fake", lm_weight=0)
    assert isinstance(workspace.recommender(fake, Query(), needs_engine=True).engine, FakeEngine)
    free = RecommenderSettings(engine="fake", lm_weight=0, decoding="free")
    assert isinstance(workspace.recommender(free, Query()).engine, FakeEngine)


@pytest.mark.parametrize("lm_weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_not_taken_for_no_model(lm_weight: float) -> None:
    with pytest.raises(ValueError, match=r"lm_weight\n.*(greater than or equal to 0|finite number)"):
        RecommenderSettings(engine="fake", lm_weight=lm_weight)


def test_an_unknown_prior_is_refused_with_those_there_are(workspace: Workspace) -> None:
    with pytest.raises(ConfigError, match="'magic'; there are transition, ease, item_knn, popularity"):
        workspace.recommender(RecommenderSettings(engine="fake", priors={"magic": 1.0}), Query())


def test_prompts_of_a_folder_come_before_those_of_llmgen(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "next_item.jinja").write_text(
        "---\nname: next_item\nversion: 9\ndescription: Mine.\ntask: next_item\nvariables: [k]\n---\n"
        "{% block user %}Give {{ k }}.{% endblock %}"
    )
    settings = RecommenderSettings(engine="fake", prompt_folder=tmp_path)
    recommender = workspace.recommender(settings, Query(k=7))
    assert recommender.messages(Query(k=7)).messages[0].content == "Give 7."
    assert recommender.template("rank").name == "rerank"
