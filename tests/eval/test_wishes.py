"""Tags as wishes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

import eval.wishes
from eval.wishes import read_tags
from llmgen.errors import DataError
from llmgen.evaluation.results import Results

TAGS = ["userId,movieId,tag,timestamp", *(f"1,{film},Tag {film % 5},9" for film in range(1, 31)), '2,1," TAG  1 ",9']


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A small release; the word of each tag but the last stands in the titles of its films."""
    words = ["Zero", "Tag 1", "Tag 2", "Tag 3", "Four"]
    films = ["movieId,title,genres", *(f"{film},{words[film % 5]} number {film} (1990),War" for film in range(1, 31))]
    ratings = ["userId,movieId,rating,timestamp", *(f"{film % 4},{film},4.0,{film}" for film in range(1, 31))]
    path = tmp_path / "ml-small.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, lines in (("movies", films), ("ratings", ratings), ("tags", TAGS)):
            made.writestr(f"ml-small/{name}.csv", "\n".join(lines))
    return path


def test_tags_are_read_once_each(release: Path) -> None:
    tags = read_tags(release)
    assert set(tags) == {f"tag {number}" for number in range(5)}
    assert tags["tag 1"] == ("1", "6", "11", "16", "21", "26")


def test_a_release_without_tags_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as made:
        made.writestr("x/movies.csv", "movieId")
    for path in (tmp_path / "x.zip", tmp_path / "none.zip", tmp_path):
        with pytest.raises(DataError, match=r"cannot read tags\.csv"):
            read_tags(path)


def test_words_find_what_bears_them(release: Path, tmp_path: Path) -> None:
    app = Typer()
    app.command()(eval.wishes.main)
    arm = "fake=prompt:cold_start,engine:fake,priors:bm25 x popularity,lm_weight:0"
    done = CliRunner().invoke(app, [str(release), "--out", str(tmp_path / "out"), "--arm", arm, "--k", "5"])
    assert done.exit_code == 0, done.output
    found = Results.read(tmp_path / "out")
    assert (found.baseline, found.metric) == ("bm25 x popularity", "recall@5")
    assert found.sample.users == 3  # half of five tags, the larger half
    metrics = {arm.name: arm.metrics["precision@5"].mean for arm in found.arms}
    assert metrics["bm25"] > 0.6 > metrics["random"]
    # every film is rated once, so popularity says nothing and the product is as good as the words
    assert metrics["bm25 x popularity"] == metrics["fake"] == metrics["bm25"]
    assert [row.by for row in found.slices if row.by == "history length"] == []
