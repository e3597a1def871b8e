"""Identifiers that are saved with a recommender, named in settings, and served."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from llmgen.adapters import AdapterRecord
from llmgen.cli.main import app
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError, DataError
from llmgen.evaluation.arms.core import ArmConfig
from llmgen.identifiers import Words, save_identifier
from llmgen.identifiers.named import identified, wrong_identifier
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query
from llmgen.vectors import ItemVectors
from llmgen.workspace.core import DataSettings, RecommenderSettings, wrong_data
from llmgen.workspace.fitted import open_workspace
from tests.identifiers.shelves import shop

POINTS = np.array([[8, 1], [8, -1], [-8, 1], [-8, -1]], np.float32).repeat(3, axis=0)


@pytest.fixture
def words() -> Words:
    """From vectors of one's own."""
    return Words.fit(ItemVectors.of(shop(), POINTS), branches=2, depth=2)


def test_a_saved_recommender_spells_and_answers_as_it_did(words: Words, tmp_path: Path) -> None:
    recommender = Recommender(shop().identified(words), FakeEngine())
    recommender.save(tmp_path / "saved")
    again = Recommender.load(tmp_path / "saved", engine=FakeEngine())
    assert again.catalog.digest == recommender.catalog.digest
    assert again.catalog.spellings == recommender.catalog.spellings
    query = Query(history=["i0"], k=5)
    assert again.recommend(query) == recommender.recommend(query)
    late = [Item("i99", "A new one")]
    assert again.catalog.with_items(late).spellings == recommender.catalog.with_items(late).spellings


def test_a_recommender_whose_identifier_is_gone_is_refused(words: Words, tmp_path: Path) -> None:
    Recommender(shop().identified(words), None).save(tmp_path / "saved")
    (tmp_path / "saved" / "identifier" / "places.npy").unlink()
    with pytest.raises(DataError, match=r"the file identifier/places\.npy is missing"):
        Recommender.load(tmp_path / "saved", engine=None)


@pytest.fixture
def named(tmp_path: Path) -> str:
    """The same words by the name that settings have for them, and the tables of the shop beside them."""
    np.save(tmp_path / "vectors.npy", POINTS)
    rows = [f"{item.id},{item.title},{item.attributes['kind']}" for item in shop()]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,kind", *rows]) + "\n")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\nann,i0,1\nann,i1,2\nbob,i0,1\nbob,i2,2\n")
    return f"words:vectors={tmp_path / 'vectors.npy'},encoder=,branches=2,depth=2"


def test_what_is_fitted_with_words_is_served_with_words(named: str, words: Words, tmp_path: Path) -> None:
    tables = ["--items", str(tmp_path / "items.csv"), "--interactions", str(tmp_path / "log.csv"), "--noun", "thing"]
    fitted = str(tmp_path / "fitted")
    fit = ["fit", *tables, "--attribute", "kind", "--identifier", named, "--engine", "fake", "--out", fitted]
    assert CliRunner().invoke(app, fit).exit_code == 0
    workspace = open_workspace(DataSettings(), RecommenderSettings(folder=Path(fitted)))
    assert workspace.catalog.spellings == shop().identified(words).spellings
    said = CliRunner().invoke(app, ["recommend", "--load", fitted, "--user", "ann", "-k", "3", "--json"])
    assert said.exit_code == 0
    assert {place["item"]["title"] for place in json.loads(said.stdout)["recommendations"]} <= set(shop().labels)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("letters", "no identifier is called 'letters'; there are title, words, codes, and folders"),
        (
            "words:leaves=3",
            "the identifier 'words' has no setting 'leaves'; there are encoder, vectors, content, branches",
        ),
        ("codes:size=many", "the setting 'size' of the identifier 'codes' is a whole number, not 'many'"),
    ],
)
def test_a_name_that_stands_for_nothing_is_refused_before_anything_is_read(name: str, message: str) -> None:
    assert message in wrong_identifier(name)
    assert list(wrong_data({"identifier": name})) == [f"data: {wrong_identifier(name)}"]
    with pytest.raises(ConfigError, match=re.escape(message)):
        identified(shop(), name)


def test_an_adapter_of_titles_is_refused_on_words_and_one_of_words_elsewhere(words: Words, tmp_path: Path) -> None:
    facts = {"base_model": "m", "loss": "lm", "prompts": (), "catalog": "", "tokenizer": "", "data": "", "seed": 0}
    spelled = shop().identified(words)
    of_titles = AdapterRecord(**facts)
    of_titles.check_identifier(shop(), "a")
    with pytest.raises(ConfigError, match=r"spelled by title, and here .* by words \(.*leave the identifier out"):
        of_titles.check_identifier(spelled, "a")
    of_words = AdapterRecord(**facts, identifier="words", identifier_digest=words.digest)
    of_words.check_identifier(spelled, "a")
    other = Words.fit(ItemVectors.of(shop(), POINTS), branches=3, depth=1)
    for catalog in (shop(), shop().identified(other)):
        with pytest.raises(ConfigError, match="--identifier a/identifier"):
            of_words.check_identifier(catalog, "a")
    save_identifier(words, tmp_path / "identifier")
    assert of_words.written(shop(), tmp_path).spellings == spelled.spellings


def test_arms_may_differ_in_how_items_are_spelled(words: Words, tmp_path: Path) -> None:
    save_identifier(words, tmp_path / "tree")
    assert ArmConfig.parse(f"B=--identifier {tmp_path / 'tree'}")[1].identifier == str(tmp_path / "tree")


def test_a_service_spells_what_is_put_and_what_is_read_again_by_its_tree(words: Words, tmp_path: Path) -> None:
    """Live changes of a catalog, and the reading anew of a file as the service does it on SIGHUP."""
    from llmgen.server.run import _workspace
    from llmgen.server.served import ServedRecommender

    path, tree = tmp_path / "items.jsonl", tmp_path / "tree"
    shop().save(path)
    save_identifier(words, tree)
    workspace, reload = _workspace(DataSettings(identifier=str(tree)), RecommenderSettings(engine="fake"), path)
    live = ServedRecommender(Recommender(workspace.catalog, FakeEngine()), save=path)
    asyncio.run(live.put([Item("new", "No vector")]))
    assert live.now.recommender.catalog.spellings == (*shop().identified(words).spellings, "No vector")
    with pytest.raises(DataError, match="--identifier on the command line"):
        _workspace(DataSettings(), RecommenderSettings(engine="fake"), path)  # saved with the tree's digest
    again = live.now.recommender.catalog
    asyncio.run(live.change(lambda catalog: reload().identified(catalog.identifier)))
    assert live.now.recommender.catalog.digest == again.digest
