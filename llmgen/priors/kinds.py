"""The priors that settings may name: those of this package, and those that other packages offer.

A package offers a prior by an entry point of the group `llmgen.priors` that is a `PriorKind`:

    [project.entry-points."llmgen.priors"]
    cheap = "shop.priors:CHEAP"

    CHEAP = PriorKind("cheap", Cheap.fit, reads="")

Command line, service, arms of an evaluation, recipes of training and records of adapters then know it by its name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.plugins import with_offers
from llmgen.priors.base import Prior
from llmgen.priors.collaborative import Ease, ItemKNN
from llmgen.priors.content import Content
from llmgen.priors.meaning import HistoryVectors, TextQueryVectors
from llmgen.priors.meaning_files import load_near, save_near
from llmgen.priors.popularity import Popularity
from llmgen.priors.repeat import Repeat
from llmgen.priors.scores import Scores, load_scores, save_scores
from llmgen.priors.sequence import SASRec, load_sasrec, save_sasrec
from llmgen.priors.transition import Transition
from llmgen.priors.wish import HistoryText, TextQuery

GROUP = "llmgen.priors"
"""Of the entry points."""


@dataclass(frozen=True)
class PriorKind:
    """A prior that settings may name.

    Attributes:
        name: In settings, and of the prior that is fitted.
        fit: Called with the interactions (columns `user_id`, `item_id`, `timestamp`, `rating`), the catalog, and by
            keyword `weight` and the settings.
        reads: The part of a query that it answers; empty where it says the same to everybody. Beside a prior that
            answers, a model that was not tuned on the catalog gets a small weight.
        grid: Hyper-parameter -> values that are tried where it is tuned as a baseline; None where it is no baseline.
        settings: Names that `fit` knows; by default its parameters.
        save: Writes a fitted prior into an empty folder, as files that `load` reads; None where it cannot be saved.
            Nothing that is run when it is read, such as a pickle, should be written. llmgen's own need none.
        load: Called with such a folder, whose files were checked, and the catalog.
        reads_log: Whether it learns from the interactions; one that does not can serve a catalog without a log.
        refits: Whether fitting it again later may give another prior: it reads the log or a file.
            One that is made of the catalog alone stays where a service fits the others anew.
    """

    name: str
    fit: Callable[..., Prior]
    reads: Literal["history", "text", ""]
    grid: Mapping[str, Sequence[float]] | None = None
    settings: tuple[str, ...] = ()
    save: Callable[[Any, Path], None] | None = None
    load: Callable[[Path, Catalog], Prior] | None = None
    reads_log: bool = True
    refits: bool = True

    def __post_init__(self) -> None:
        if not self.settings:
            object.__setattr__(self, "settings", tuple(inspect.signature(self.fit).parameters)[2:])


def _told(fit: Callable[..., Prior], of: Callable[..., Prior]) -> Callable[..., Prior]:
    """A fit whose signature has the settings that it passes on, in the place of `**settings`."""
    own = [one for one in inspect.signature(fit).parameters.values() if one.kind is not one.VAR_KEYWORD]
    known = {"interactions", *(one.name for one in own)}
    passed = [one for one in inspect.signature(of).parameters.values() if one.name not in known]
    signature = inspect.Signature([*own, *(one.replace(kind=one.KEYWORD_ONLY) for one in passed)])
    vars(fit)["__signature__"] = signature
    return fit


def _sasrec(interactions: pl.DataFrame, catalog: Catalog, *, trained: str = "", **settings: Any) -> Prior:
    """Trained on the log, or by an earlier training, whose file is given."""
    return SASRec.load(trained, catalog, **settings) if trained else SASRec.fit(interactions, catalog, **settings)


def _of_file(interactions: object, catalog: Catalog, *, path: str, **settings: Any) -> Prior:
    """The scores of a file."""
    return Scores.read(path, catalog, **settings)


def _of_catalog(prior: Callable[..., Prior]) -> Callable[..., Prior]:
    """The fit of a prior that needs no log."""
    return _told(lambda interactions, catalog, **settings: prior(catalog, **settings), prior)


UNNAMED = ("interactions", "catalog", "vectors")
"""What a fit takes and no text can say."""
OURS = (
    PriorKind(
        "transition",
        Transition.fit,
        "history",
        {
            "window": (10, 20, 40),
            "step_decay": (0.8, 0.9),
            "backward": (0.0, 0.1, 0.25, 0.5, 1.0),
            "column_power": (0.3, 0.4, 0.5),
            "decay": (0.7, 0.8, 0.9),
        },
    ),
    PriorKind(
        "ease",
        Ease.fit,
        "history",
        {"l2": (30.0, 100.0, 300.0, 1000.0), "decay": (0.7, 0.8, 0.85, 0.9, 0.95, 0.98)},
    ),
    PriorKind(
        "item_knn",
        ItemKNN.fit,
        "history",
        {
            "neighbours": (20, 50, 100, 200),
            "shrinkage": (0.0, 10.0, 30.0, 100.0),
            "decay": (0.7, 0.8, 0.85, 0.9, 0.95, 0.98),
        },
    ),
    PriorKind("popularity", Popularity.fit, "", {}),
    PriorKind("repeat", Repeat.fit, "history"),
    PriorKind(
        "content", _of_catalog(Content), "history", settings=("weight", "decay", "floor"), reads_log=False, refits=False
    ),
    PriorKind(
        "history_text",
        _of_catalog(HistoryText),
        "history",
        settings=("weight", "newest", "floor"),
        reads_log=False,
        refits=False,
    ),
    PriorKind(
        "history_vectors",
        HistoryVectors.fit,
        "history",
        save=save_near,
        load=partial(load_near, HistoryVectors),
        reads_log=False,
    ),
    PriorKind("wish", _of_catalog(TextQuery), "text", settings=("weight", "floor"), reads_log=False, refits=False),
    PriorKind(
        "wish_vectors",
        TextQueryVectors.fit,
        "text",
        save=save_near,
        load=partial(load_near, TextQueryVectors),
        reads_log=False,
    ),
    PriorKind(
        "sasrec",
        _told(_sasrec, SASRec.fit),
        "history",
        settings=("trained", *(one for one in inspect.signature(SASRec.fit).parameters if one not in UNNAMED)),
        save=save_sasrec,
        load=load_sasrec,
    ),
    PriorKind(
        "scores",
        _told(_of_file, Scores.read),
        "history",
        settings=("path", "weight", "floor", "logits"),
        save=save_scores,
        load=load_scores,
        reads_log=False,
    ),
)
"""Of this package."""


@cache
def kinds() -> Mapping[str, PriorKind]:
    """Name -> the prior, this package's first.

    Raises:
        ConfigError: A package offers something else, under a name that is taken, or what cannot be imported.
    """
    return with_offers(OURS, GROUP, "prior", PriorKind)


def kind(name: str) -> PriorKind:
    """The prior of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in kinds():
        raise ConfigError(f"no prior is called {name!r}; there are {', '.join(kinds())}")
    return kinds()[name]


def wrong(priors: Mapping[str, Mapping[str, object] | None]) -> Iterator[str]:
    """What can be known to be wrong with priors, name -> settings, before any data is read; one line each."""
    for name, settings in priors.items():
        try:
            known = kind(name).settings
        except ConfigError as error:
            yield str(error)
            continue
        if unknown := sorted(set(settings or {}) - set(known)):
            yield f"prior {name}: there is no setting {unknown[0]!r}; there are {', '.join(known)}"
        yield from wrong_values(kind(name), settings or {})
        for one in inspect.signature(kind(name).fit).parameters.values():
            if one.kind is one.KEYWORD_ONLY and one.default is one.empty and one.name not in (settings or {}):
                yield f"prior {name} needs the setting {one.name!r}"


def wrong_values(kind: PriorKind, settings: Mapping[str, object]) -> Iterator[str]:
    """Which values are of another kind than the fit's parameters are annotated with; one line each."""
    parameters = inspect.signature(kind.fit).parameters
    for name, value in settings.items():
        annotation = parameters[name].annotation if name in parameters else "float" if name == "weight" else ""
        if wanted := _other_kind(getattr(annotation, "__name__", str(annotation)), value):
            yield f"prior {kind.name}: {name} must be {wanted}, not {value!r}"


def _other_kind(annotation: str, value: object) -> str:
    """What a value should be, where it is none of its parameter's annotation; other annotations take any value."""
    if annotation == "bool":
        return "" if isinstance(value, bool) else "true or false"
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if annotation == "float":
        return "" if math.isfinite(number) else "a finite number"
    if annotation == "int":
        return "" if float(number).is_integer() else "a whole number"
    return ""
