"""Tags as wishes: the popularity of past wishes, the model beside a mix, and the command on a small release."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from eval.wish_mixes import asked_model, main, past_wishes
from llmgen.catalog.core import Catalog
from llmgen.engines import load_engine
from llmgen.evaluation.protocols.sample import Sample
from llmgen.types import Item, Query


def sample(catalog: Catalog, wanted: dict[str, tuple[str, ...]]) -> Sample:
    queries = tuple(Query((), tag, tag, k=2) for tag in wanted)
    return Sample(catalog, pl.DataFrame(), queries, tuple(wanted.values()), (0.0,) * len(wanted))


def test_a_wish_does_not_count_for_itself() -> None:
    catalog = Catalog([Item(name, name.upper()) for name in "abc"])
    tuning = sample(catalog, {"x": ("a", "b"), "y": ("a",)})
    of_x, of_y = np.exp(past_wishes(tuning, tuning))
    assert of_x.tolist() == pytest.approx([2 / 4, 1 / 4, 1 / 4])  # y's alone, each item once more
    assert of_y.tolist() == pytest.approx([2 / 5, 2 / 5, 1 / 5])
    (of_another,) = np.exp(past_wishes(tuning, sample(catalog, {"z": ("c",)})))
    assert of_another.tolist() == pytest.approx([3 / 6, 2 / 6, 1 / 6])  # its own film is not told


def test_each_wish_is_asked_beside_its_own_mix() -> None:
    catalog = Catalog([Item(name, f"Film {name}") for name in "abcd"])
    asked = sample(catalog, {"x": ("a",), "y": ("b",)})
    mix = np.array([[0.0, -90.0, 90.0, -90.0], [-90.0, 90.0, -90.0, 0.0]])  # no model says so much
    assert asked_model(load_engine("fake"), catalog, asked.queries, mix, 0.01) == [["c", "a"], ["b", "d"]]


def test_the_command_on_a_small_release(tagged_release: Path, tiny_encoder: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(main)
    beside = ["--vectors", str(tmp_path / "vectors"), "--encoder", str(tiny_encoder), "--engine", "fake"]
    done = CliRunner().invoke(app, [str(tagged_release), *beside])
    assert done.exit_code == 0, done.output
    assert done.output.count("choosing: {0.0: ") == 3
    rows = re.findall(r"^\| (\S.*?) \|", done.output, re.MULTILINE)
    assert rows.count("untuned LM x bm25 x vectors x popularity x past wishes") == 3  # all, beside its mix, the control
