"""The registry of priors: ours, and what other packages offer or offer wrongly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.datasets import INTERACTIONS
from llmgen.errors import ConfigError
from llmgen.priors import kinds
from llmgen.priors.kinds import OURS, PriorKind
from llmgen.types import Item, Query


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    kinds.kinds.cache_clear()
    yield
    kinds.kinds.cache_clear()


def offered(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    entry = SimpleNamespace(name=name, dist=SimpleNamespace(name="shop"), load=lambda: value)
    monkeypatch.setattr("llmgen.plugins.entry_points", lambda group: [entry])


@pytest.fixture
def needed(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Mapping[str, object]]:
    """Name of a prior -> settings without which there is none, or none without a network."""
    monkeypatch.setenv("LLMGEN_CACHE", str(tmp_path))
    near = {"encoder": str(tiny_encoder), "content": "{title}!"}
    path = tmp_path / "top.csv"
    path.write_text("user_id,item_id,score\nu,a,1\n")
    return {"scores": {"path": path}, "wish_vectors": near, "history_vectors": near}


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.name)
def test_every_prior_is_fitted_with_its_settings_and_has_its_name(
    kind: PriorKind, needed: Mapping[str, Mapping[str, object]]
) -> None:
    catalog = Catalog([Item("a", "Alien", {"genres": ("Horror",)}), Item("b", "Brazil", {"genres": ("Comedy",)})])
    log = pl.DataFrame(
        {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [0.0, 1.0], "rating": [None, None]},
        schema=INTERACTIONS,
    )
    prior = kind.fit(log, catalog, weight=0.5, **needed.get(kind.name, {}))
    assert (prior.name, prior.weight) == (kind.name, 0.5)
    assert "weight" in kind.settings
    for name, values in (kind.grid or {}).items():
        assert name in kind.settings
        for value in values:
            assert kind.fit(log, catalog, **{name: value}).name == kind.name
    if not kind.reads_log:
        assert kind.fit(log.clear(), catalog, **needed.get(kind.name, {})).log_weights(
            [Query([catalog["a"]], "a")]
        ).shape == (1, 2)


@pytest.mark.parametrize("kind", OURS, ids=lambda kind: kind.name)
def test_settings_are_those_that_the_fit_takes(kind: PriorKind, needed: Mapping[str, Mapping[str, object]]) -> None:
    catalog = Catalog([Item("a", "Alien"), Item("b", "Brazil")])
    log = pl.DataFrame(schema=INTERACTIONS)
    with pytest.raises(TypeError, match="nothing"):
        kind.fit(log, catalog, nothing=1, **needed.get(kind.name, {}))
    defaults = {"weight": 1.0, "decay": 0.9, "floor": 0.1, "newest": 3, "neighbours": 5, "shrinkage": 1.0, "l2": 10.0}
    defaults |= {"temperature": 0.2}
    chosen = {name: defaults[name] for name in kind.settings if name in defaults}
    kind.fit(log, catalog, **chosen, **needed.get(kind.name, {}))


def test_an_offered_prior_is_the_last_of_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap = PriorKind("cheap", lambda interactions, catalog, *, weight=1.0, most=10.0: None, "")  # type: ignore[arg-type]
    offered(monkeypatch, "cheap", cheap)
    assert list(kinds.kinds()) == [*(one.name for one in OURS), "cheap"]
    assert cheap.settings == ("weight", "most")
    assert list(kinds.wrong({"cheap": {"least": 1}, "chaep": None})) == [
        "prior cheap: there is no setting 'least'; there are weight, most",
        f"no prior is called 'chaep'; there are {', '.join(kinds.kinds())}",
    ]


@pytest.mark.parametrize(
    ("name", "setting", "value", "wanted"),
    [
        ("transition", "weight", "abc", "a finite number"),
        ("ease", "weight", True, "a finite number"),
        ("ease", "l2", math.nan, "a finite number"),
        ("transition", "window", 2.5, "a whole number"),
        ("wish", "floor", "low", "a finite number"),
        ("sasrec", "epochs", "many", "a whole number"),
        ("scores", "logits", "perhaps", "true or false"),
    ],
)
def test_a_value_of_another_kind_is_told_before_anything_is_fitted(
    name: str, setting: str, value: object, wanted: str
) -> None:
    settings = {"path": "top.csv", setting: value} if name == "scores" else {setting: value}
    assert list(kinds.wrong({name: settings})) == [f"prior {name}: {setting} must be {wanted}, not {value!r}"]


def test_whole_numbers_are_numbers_and_what_is_not_annotated_takes_anything() -> None:
    assert list(kinds.wrong({"transition": {"weight": 1, "window": 3}, "sasrec": {"trained": "x.pt"}})) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cheap", 3, "the package shop offers 3 as the prior 'cheap'; that is no PriorKind of this name"),
        ("cheap", PriorKind("dear", lambda a, b: None, "", settings=("weight",)), "no PriorKind of this name"),  # type: ignore[arg-type,return-value]
        ("ease", PriorKind("ease", OURS[0].fit, ""), "offers a prior 'ease', and there is one already"),
    ],
)
def test_what_is_offered_wrongly_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, message: str
) -> None:
    offered(monkeypatch, name, value)
    with pytest.raises(ConfigError, match=message):
        kinds.kinds()


def test_what_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmgen.plugins.entry_points", lambda group: [EntryPoint("cheap", "no.such.module:X", group)])
    with pytest.raises(
        ConfigError, match=r"the prior 'cheap' of the package no\.such\.module:X cannot be loaded: No module"
    ):
        kinds.kinds()
