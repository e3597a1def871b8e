"""What was fitted is saved as a folder and read again: the same answers, or one clear error."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from llmgen import load_prior
from llmgen.catalog.core import Catalog
from llmgen.cli.main import main
from llmgen.datasets.splits import histories
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ArgumentError, ConfigError, DataError
from llmgen.priors import (
    AttributeFilter,
    Content,
    Ease,
    ExcludeSeen,
    HistoryText,
    ItemKNN,
    Popularity,
    Prior,
    RatingKNN,
    Repeat,
    Scores,
    SparsePrior,
    TextQuery,
    Transition,
    kinds,
    load_rating_prior,
)
from llmgen.priors import wish as wish_module
from llmgen.priors.kinds import PriorKind
from llmgen.recommend.recommender import Recommender
from llmgen.templates.library import PromptLibrary
from llmgen.types import FloatArray, Item, Query
from tests.conftest import films
from tests.test_frozen import made_log, queries

CATALOG = films(60)
LOG = made_log(CATALOG, users=12)
PRIORS: list[Any] = [
    Transition.fit(LOG, CATALOG, weight=0.7),
    dataclasses.replace(Transition.fit(LOG, CATALOG, window=3), name="near"),
    Ease.fit(LOG, CATALOG, l2=5.0),
    ItemKNN.fit(LOG, CATALOG, neighbours=2, weight=-0.2),
    Repeat.fit(LOG, CATALOG),
    Popularity.fit(LOG, CATALOG, weight=-0.3),
    Content(CATALOG, decay=0.5),
    HistoryText(CATALOG, newest=3),
    TextQuery(CATALOG, floor=0.2),
    ExcludeSeen(CATALOG),
    AttributeFilter(CATALOG),
]
QUERIES = queries(CATALOG, 12, seed=7)


def everything(**settings: Any) -> Recommender:
    """A recommender with every prior, ratings and a log."""
    knn = RatingKNN.fit(LOG, weight=0.5)
    known = histories(LOG, catalog=CATALOG)
    return Recommender(CATALOG, FakeEngine(), priors=PRIORS, rating_priors=[knn], histories=known, **settings)


# Priors


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.name)
def test_a_prior_says_the_same_bit_for_bit_when_it_is_read_again(prior: Any, tmp_path: Path) -> None:
    assert isinstance(PRIORS[0].similarity, np.ndarray)  # so that both kinds of matrix are met
    assert sparse.issparse(PRIORS[3].similarity)
    prior.save(tmp_path / "saved")
    again = load_prior(tmp_path / "saved", CATALOG)
    assert type(again) is type(prior)
    assert (again.name, again.weight) == (prior.name, prior.weight)
    np.testing.assert_array_equal(again.log_weights(QUERIES), prior.log_weights(QUERIES))
    assert isinstance(again, SparsePrior)
    for row, other in zip(again.sparse_log_weights(QUERIES), prior.sparse_log_weights(QUERIES), strict=True):
        np.testing.assert_array_equal(row.base, other.base)
        np.testing.assert_array_equal(row.items, other.items)
        np.testing.assert_array_equal(row.values, other.values)


@pytest.mark.parametrize("prior", PRIORS, ids=lambda prior: prior.name)
def test_a_prior_that_has_followed_its_catalog_is_read_as_it_is(
    prior: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wish_module, "LARGE", 20)  # texts that came later stand beside the index
    catalog = CATALOG.with_items([Item("new", "Star Alien River", {"year": 1999, "genres": ("War",)})])
    moved = prior.on_catalog(catalog, np.append(np.arange(60), -1))
    moved.save(tmp_path / "saved")
    asked = [*QUERIES, Query([catalog["new"], CATALOG[3]], text="an alien star")]
    again = load_prior(tmp_path / "saved", catalog)
    np.testing.assert_array_equal(again.log_weights(asked), moved.log_weights(asked))


def test_a_rating_prior_predicts_the_same_ratings(tmp_path: Path) -> None:
    knn = RatingKNN.fit(LOG, neighbours=5)
    knn.save(tmp_path / "knn")
    again = load_rating_prior(tmp_path / "knn")
    pairs = [(query, CATALOG[place]) for place, query in enumerate(QUERIES)]
    values = np.arange(1.0, 6.0)
    np.testing.assert_array_equal(again.log_probabilities(pairs, values), knn.log_probabilities(pairs, values))
    with pytest.raises(DataError, match="holds a rating prior, and a prior is wanted"):
        load_prior(tmp_path / "knn", CATALOG)


def test_a_prior_of_another_catalog_is_refused(tmp_path: Path) -> None:
    PRIORS[0].save(tmp_path / "one")
    with pytest.raises(DataError, match=f"fitted on the catalog {CATALOG.digest}, and this one is .*; load"):
        load_prior(tmp_path / "one", films(61))
    PRIORS[5].save(tmp_path / "two")
    with pytest.raises(DataError, match=r"'popularity' in .* was fitted on 60 items, and this catalog has 61"):
        load_prior(tmp_path / "two", films(61))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            TextQuery(CATALOG, text_of=lambda item: item.title),
            r"'wish' \(TextQuery\) cannot be saved: its text_of is a function",
        ),
        (
            Scores(CATALOG, lambda query: {}),
            "'scores' asks a function, which cannot be saved; read its scores from a file",
        ),
    ],
)
def test_a_prior_with_a_function_in_it_is_refused_before_anything_is_written(
    prior: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        prior.save(tmp_path / "prior")
    with pytest.raises(ConfigError, match=message):
        Recommender(CATALOG, None, priors=[PRIORS[0], prior]).save(tmp_path / "whole")
    assert list(tmp_path.iterdir()) == []


# Priors of other packages


@dataclass(frozen=True)
class Cheap:
    """Of another package: likes items below a year."""

    catalog: Catalog
    year: int
    weight: float = 1.0
    name: str = "cheap"

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        row = [0.0 if int(str(item.attributes["year"])) < self.year else -1.0 for item in self.catalog]
        return np.tile(row, (len(queries), 1))

    def write(self, folder: Path) -> None:
        (folder / "year.txt").write_text(f"{self.year} {self.weight}")

    @classmethod
    def read(cls, folder: Path, catalog: Catalog) -> Cheap:
        year, weight = (folder / "year.txt").read_text().split()
        return cls(catalog, int(year), float(weight))


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, PriorKind]]:
    """Kinds of another package, by name."""
    found: dict[str, PriorKind] = {}

    def entries(group: str) -> list[Any]:
        dist = SimpleNamespace(name="shop")
        return [SimpleNamespace(name=name, dist=dist, load=lambda one=one: one) for name, one in found.items()]

    monkeypatch.setattr("llmgen.plugins.entry_points", entries)
    kinds.kinds.cache_clear()
    yield found
    kinds.kinds.cache_clear()


def fit_cheap(interactions: object, catalog: Catalog, *, weight: float = 1.0, year: int = 1980) -> Prior:
    return Cheap(catalog, year, weight)


def test_a_prior_of_another_package_is_saved_by_its_kind(tmp_path: Path, offered: dict[str, PriorKind]) -> None:
    offered["cheap"] = PriorKind("cheap", fit_cheap, "", save=Cheap.write, load=Cheap.read)
    made = Recommender(CATALOG, None, priors=[Cheap(CATALOG, 1975, 0.5), PRIORS[0]])
    made.save(tmp_path / "made")
    again = Recommender.load(tmp_path / "made", engine=None)
    assert again.priors[0] == dataclasses.replace(Cheap(CATALOG, 1975, 0.5), catalog=again.catalog)
    assert again.recommend_many(QUERIES) == made.recommend_many(QUERIES)
    offered.clear()
    kinds.kinds.cache_clear()
    with pytest.raises(ConfigError, match="a prior of the kind 'cheap', which no installed package can load"):
        Recommender.load(tmp_path / "made", engine=None)


def test_a_prior_that_nobody_can_save_is_named_before_anything_is_written(
    tmp_path: Path, offered: dict[str, PriorKind]
) -> None:
    made = Recommender(CATALOG, None, priors=[PRIORS[0], Cheap(CATALOG, 1975)])
    with pytest.raises(ConfigError, match=r"'cheap' \(Cheap\) cannot be saved: no PriorKind has its name"):
        made.save(tmp_path / "made")
    offered["cheap"] = PriorKind("cheap", fit_cheap, "")
    kinds.kinds.cache_clear()
    with pytest.raises(ConfigError, match=r"'cheap' \(Cheap\) cannot be saved: its PriorKind has no save and load"):
        made.save(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


# Recommenders


@pytest.mark.parametrize(
    "settings",
    [
        {"lm_weight": 0.3, "max_history": 3, "num_beams": 7, "rating_lm_weight": 0.4},
        {"decoding": "raw", "exact": True, "prompt": ("next_item_taste", "rate")},
        {"decoding": "raw", "lm_weight": 0.1, "normalise": "eligible", "align_prompts": True, "think_tokens": 5},
    ],
)
def test_a_recommender_answers_the_same_bit_for_bit(settings: Any, tmp_path: Path) -> None:
    made = everything(**settings)
    made.save(tmp_path / "made")
    again = Recommender.load(tmp_path / "made", engine=FakeEngine())
    assert (again.config, again.catalog.digest) == (made.config, made.catalog.digest)
    assert again.recommend_many(QUERIES) == made.recommend_many(QUERIES)
    pairs = [(query, CATALOG[place]) for place, query in enumerate(QUERIES)]
    assert again.rate_many(pairs) == made.rate_many(pairs)
    assert again.explain_many(pairs) == made.explain_many(pairs)
    assert again.rank(QUERIES[0], ["3", "9"]) == made.rank(QUERIES[0], ["3", "9"])
    assert again.recommend(user="u3") == made.recommend(user="u3")


def test_without_an_engine_the_priors_alone_answer(tmp_path: Path) -> None:
    everything(lm_weight=0.2).save(tmp_path / "made")
    alone = Recommender.load(tmp_path / "made", engine=None)
    assert alone.recommend_many(QUERIES) == everything(lm_weight=0.0).recommend_many(QUERIES)


def test_prompts_of_ones_own_are_saved_too(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    text = (PromptLibrary.default().folders[0] / "next_item.jinja").read_text(encoding="utf-8")
    (own / "mine.jinja").write_text(text.replace("name: next_item", "name: mine"), encoding="utf-8")
    made = everything(prompts=PromptLibrary.default(own), prompt="mine")
    made.save(tmp_path / "made")
    shutil.rmtree(own)
    again = Recommender.load(tmp_path / "made", engine=FakeEngine())
    assert again.template().ref == made.template().ref
    assert again.template().name == "mine"


def test_nothing_in_a_saved_folder_is_pickled(tmp_path: Path) -> None:
    everything().save(tmp_path / "made")
    found = {path.suffix for path in (tmp_path / "made").rglob("*") if path.is_file()}
    assert found == {".json", ".jsonl", ".npz", ".parquet"}
    for path in (tmp_path / "made").rglob("*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            assert all(arrays[name].dtype != object for name in arrays)


# Folders


def test_a_changed_or_missing_file_is_named(tmp_path: Path) -> None:
    everything().save(tmp_path / "made")
    for path in sorted((tmp_path / "made").rglob("*")):
        if not path.is_file() or path.name == "saved.json":
            continue
        name = path.relative_to(tmp_path / "made").as_posix()
        whole = path.read_bytes()
        path.write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
        with pytest.raises(DataError, match=f"is not as it was saved: the file {name} is damaged or was changed"):
            Recommender.load(tmp_path / "made", engine=None)
        path.unlink()
        with pytest.raises(DataError, match=f"is not whole: the file {name} is missing"):
            Recommender.load(tmp_path / "made", engine=None)
        path.write_bytes(whole)
    Recommender.load(tmp_path / "made", engine=None)


def test_what_is_no_saved_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*nowhere; give a folder that was saved"):
        Recommender.load(tmp_path / "nowhere", engine=None)
    with pytest.raises(DataError, match="no recommender that llmgen saved is in"):
        Recommender.load(tmp_path, engine=None)
    (tmp_path / "saved.json").write_text("{")
    with pytest.raises(DataError, match=r"saved\.json cannot be read"):
        Recommender.load(tmp_path, engine=None)
    PRIORS[0].save(tmp_path / "prior")
    with pytest.raises(DataError, match="holds a prior, and a recommender is wanted"):
        Recommender.load(tmp_path / "prior", engine=None)
    about = json.loads((tmp_path / "prior" / "saved.json").read_text())
    (tmp_path / "prior" / "saved.json").write_text(json.dumps({**about, "format": 99, "llmgen": "7.0"}))
    with pytest.raises(DataError, match=r"was saved by llmgen 7\.0 in the format 99, and this version reads"):
        load_prior(tmp_path / "prior", CATALOG)


def test_only_what_llmgen_saved_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    everything().save(target)  # an empty folder
    everything(lm_weight=0.5).save(target)
    assert Recommender.load(target, engine=None).config.lm_weight == 0.5
    with pytest.raises(ConfigError, match="is there already, and is no prior that llmgen saved; give another folder"):
        PRIORS[0].save(target)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(ConfigError, match="is no recommender that llmgen saved"):
        everything().save(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "mine"]


def test_a_save_that_breaks_off_leaves_the_folder_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(lm_weight=0.5).save(tmp_path / "made")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        everything(lm_weight=0.1).save(tmp_path / "made")
    assert Recommender.load(tmp_path / "made", engine=None).config.lm_weight == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


# Users of the log


def test_a_user_of_the_log_is_asked_for_by_id() -> None:
    made = everything()
    known = histories(LOG, catalog=CATALOG)
    items, ratings = known["u3"]
    wanted = made.recommend(Query(items, "alien", "u3", k=3, ratings=ratings))
    assert made.recommend(Query(text="alien", k=3), user="u3") == wanted
    assert made.query_of("u3").ratings == ratings is not None
    users = ["u3", "u1"]
    both = made.recommend_many(users=users)
    assert both.users == ("u3", "u1")
    assert both == [made.recommend(user=user) for user in users]
    assert made.recommend_many([Query(k=2), Query(k=1)], users=users)[1] == made.recommend(Query(k=1), user="u1")


def test_a_user_who_is_not_known_is_told() -> None:
    with pytest.raises(DataError, match=r"the log has no user 'nobody'; it has users such as u0, u1, u10, u11, u2$"):
        everything().recommend(user="nobody")
    with pytest.raises(ConfigError, match="the user 'u1' is not known: this recommender has no log"):
        Recommender(CATALOG, None).recommend(user="u1")
    with pytest.raises(ConfigError, match="give a user or a history, not both"):
        everything().recommend(Query(["1"]), user="u1")
    with pytest.raises(ArgumentError, match="2 users and 1 queries"):
        everything().recommend_many([Query()], users=["u1", "u2"])
    with pytest.raises(ArgumentError, match="needs queries, or users of the log"):
        everything().recommend_many()


# The command line


TABLES = (
    ("items.csv", "item_id,title,year\na,Alien,1979\nb,Brazil,1985\nc,Casablanca,1942\nd,Dune,1984\n"),
    (
        "log.csv",
        "user_id,item_id,timestamp,rating\n1,a,1,4\n1,d,2,5\n2,a,1,3\n2,b,5,2\n3,d,1,1\n3,b,2,5\n",
    ),
)


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in a folder with two tables; what it prints."""
    monkeypatch.chdir(tmp_path)
    for name, text in TABLES:
        (tmp_path / name).write_text(text)

    def command(*arguments: str, code: int = 0) -> str:
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        printed = capsys.readouterr()
        assert (stop.value.code or 0) == code, printed.err
        return printed.out if code == 0 else printed.err

    return command


DATA = ("--items", "items.csv", "--interactions", "log.csv", "--attribute", "year", "--noun", "film")
MODEL = ("--engine", "fake", "--prior", "transition=0.7", "--prior", "popularity=-0.2", "--max-history", "3")


@pytest.mark.parametrize("question", ["--user 1", "--history a", "--text alien --filter year=1979"])
def test_what_was_fitted_answers_as_the_data_does(run: Any, tmp_path: Path, question: str) -> None:
    said = run("fit", *DATA, *MODEL, "--out", "fitted")
    assert "4 items, 3 users, priors: transition=0.7, popularity=-0.2" in said
    before = run("recommend", *DATA, *MODEL, *question.split(), "--json")
    for name, _ in TABLES:
        (tmp_path / name).unlink()
    assert run("recommend", "--load", "fitted", *question.split(), "--json") == before


def test_lists_for_all_users_are_those_of_the_data(run: Any) -> None:
    run("fit", *DATA, *MODEL, "--out", "fitted")
    run("batch", *DATA, *MODEL, "-k", "2", "--out", "one")
    run("batch", "--load", "fitted", "-k", "2", "--out", "two")
    (one,), (two,) = (sorted(Path(name).glob("*.parquet")) for name in ("one", "two"))
    assert pl.read_parquet(one).equals(pl.read_parquet(two))


def test_ratings_are_those_of_the_data(run: Any) -> None:
    run("fit", *DATA, *MODEL, "--out", "fitted")
    asked = ("--user", "1", "--item", "b", "--item", "c", "--json")
    before = run("rate", *DATA, *MODEL[:2], "--max-history", "3", *asked)
    assert run("rate", "--load", "fitted", *asked) == before
    assert json.loads(before)["ratings"][0]["distribution"].keys() == {"1", "2", "3", "4", "5"}


def test_other_weights_are_given_to_what_is_fitted(run: Any) -> None:
    run("fit", *DATA, *MODEL, "--out", "fitted")
    other = ("--user", "1", "--engine", "none", "--prior", "transition=2.5", "--json")
    assert run("recommend", "--load", "fitted", *other) == run("recommend", *DATA, *other)
    told = run("recommend", "--load", "fitted", "--user", "1", "--prior", "ease=1", code=1)
    assert "no prior 'ease' was saved; there are transition, popularity; fit it with llmgen fit" in told
    told = run("recommend", "--load", "fitted", "--user", "1", "--prior", "transition:window=3", code=1)
    assert "the prior 'transition' is fitted already, so 'window' cannot be set" in told
    told = run("recommend", "--load", "fitted", "--user", "1", "--prior", "transition:weight=abc", code=1)
    assert "the weight of the prior 'transition' must be a finite number, not 'abc'" in told


def test_a_folder_stands_for_data(run: Any) -> None:
    run("fit", *DATA, *MODEL, "--out", "fitted")
    told = run("recommend", "--load", "fitted", *DATA, "--user", "1", code=1)
    assert "--load stands for the data; leave out --dataset, --items, --store" in told
    assert "the log has no user '9'" in run("recommend", "--load", "fitted", "--user", "9", code=1)
    assert "there is no folder nowhere" in run("recommend", "--load", "nowhere", "--user", "1", code=1)
    assert "leave --load out" in run("fit", "--load", "fitted", "--out", "again", code=1)


def test_what_python_saved_is_read_by_the_command_line(run: Any) -> None:
    made = Recommender(CATALOG, None, priors=PRIORS[:1], histories=histories(LOG, catalog=CATALOG), max_history=4)
    made.save("made")
    found = json.loads(run("recommend", "--load", "made", "--user", "u3", "-k", "3", "--json"))
    wanted = made.recommend(Query(k=3), user="u3")
    assert [place["item"]["id"] for place in found["recommendations"]] == [place.item.id for place in wanted]
    assert [place["score"] for place in found["recommendations"]] == [place.score for place in wanted]
    everything().save("beside")
    told = run("recommend", "--load", "beside", "--user", "u3", code=1)
    assert "beside was saved beside the engine fake; name one with --engine, or none" in told
