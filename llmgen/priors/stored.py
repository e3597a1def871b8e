"""Priors as files: their fields as JSON and arrays, and nothing that is run when it is read.

Of llmgen's own priors every field is written. A prior of another package is written by its `PriorKind`, which is found
by the prior's name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError, DataError
from llmgen.lru import Recent
from llmgen.priors.base import Prior
from llmgen.priors.collaborative import Ease, ItemKNN, ItemToItem
from llmgen.priors.content import Content, Features
from llmgen.priors.filters import AttributeFilter, AttributeIndex, ExcludeSeen
from llmgen.priors.kinds import PriorKind, kinds
from llmgen.priors.popularity import Popularity
from llmgen.priors.ratings import RatingKNN, RatingPrior
from llmgen.priors.repeat import Repeat
from llmgen.priors.transition import Transition
from llmgen.priors.wish import HistoryText, TextQuery
from llmgen.saved_folders import check_folder, new_folder
from llmgen.text.bm25 import BM25Index

FILE = "prior.json"
ARRAYS = "arrays.npz"
OURS: Mapping[str, type[Any]] = {
    "transition": Transition,
    "ease": Ease,
    "item_knn": ItemKNN,
    "item_to_item": ItemToItem,
    "repeat": Repeat,
    "popularity": Popularity,
    "content": Content,
    "history_text": HistoryText,
    "wish": TextQuery,
    "seen": ExcludeSeen,
    "where": AttributeFilter,
    "rating_knn": RatingKNN,
}
"""Kind -> class of those whose fields are written."""
MATRICES = {"csr": sparse.csr_array, "csc": sparse.csc_array}
MADE_ANEW = (Catalog, AttributeIndex, Recent)
"""What is not written: it is given, or made again from the catalog."""


def save_prior(prior: Prior | RatingPrior, folder: Path | str) -> None:
    """Write a fitted prior into a folder; `load_prior` reads it.

    Args:
        prior: One of llmgen's own, or one whose `PriorKind` has `save`.
        folder: Whole or not there at all afterwards. A prior that was saved there before is replaced.

    Raises:
        ConfigError: The prior cannot be saved, or something else is in that place.
    """
    from llmgen import __version__

    check_saves(prior)
    with new_folder(folder, "rating prior" if isinstance(prior, RatingKNN) else "prior", version=__version__) as made:
        write_prior(prior, made)


def load_prior(folder: Path | str, catalog: Catalog) -> Prior:
    """A prior that was saved.

    Args:
        folder: As of `save_prior`.
        catalog: The one that it was fitted on. Of a `Popularity`, which holds no catalog, only the number of items is
            compared.

    Raises:
        DataError: The folder is damaged, holds something else, or belongs to another catalog.
        ConfigError: It is of a kind that is not installed here.
    """
    prior: Prior = read_prior(check_folder(folder, "prior"), catalog)
    return prior


def load_rating_prior(folder: Path | str) -> RatingPrior:
    """A rating prior that was saved.

    Raises:
        DataError: The folder is damaged or holds something else.
    """
    prior: RatingPrior = read_prior(check_folder(folder, "rating prior"), None)
    return prior


def check_saves(prior: Prior | RatingPrior) -> None:
    """Refuse a prior that cannot be saved.

    Raises:
        ConfigError: It cannot; the message says why.
    """
    name = _kind_of(prior)
    if name is not None:
        _Writer().fields(prior)
        return
    offered = _offered(prior)
    if offered is None or offered.save is None or offered.load is None:
        lacks = "no PriorKind has its name" if offered is None else "its PriorKind has no save and load"
        raise ConfigError(
            f"the prior {prior.name!r} ({type(prior).__name__}) cannot be saved: {lacks}; see "
            "llmgen.priors.kinds.PriorKind, or leave this prior out and add it again after loading"
        )


def write_prior(prior: Prior | RatingPrior, folder: Path) -> None:
    """Write a prior, that passed `check_saves`, into an empty folder."""
    name = _kind_of(prior)
    catalog = getattr(prior, "catalog", None)
    about: dict[str, object] = {"catalog": catalog.digest if isinstance(catalog, Catalog) else None}
    if name is None:
        offered = _offered(prior)
        assert offered is not None and offered.save is not None  # as check_saves has made sure
        about["kind"] = offered.name
        offered.save(prior, folder)
    else:
        writer = _Writer()
        about |= {"kind": name, "fields": writer.fields(prior)}
        if writer.arrays:
            np.savez(folder / ARRAYS, **writer.arrays)  # type: ignore[arg-type]  # of arrays by name
    (folder / FILE).write_text(json.dumps(about, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_prior(folder: Path, catalog: Catalog | None) -> Any:
    """The prior of a folder whose files were checked.

    Raises:
        DataError: It belongs to another catalog, or is not written as `write_prior` writes.
        ConfigError: It is of a kind that is not installed here.
    """
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        name, wanted = about["kind"], about["catalog"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no prior that llmgen wrote: {error!r}; save it again") from error
    if catalog is not None and wanted is not None and wanted != catalog.digest:
        raise DataError(
            f"the prior {name!r} in {folder} was fitted on the catalog {wanted}, and this one is {catalog.digest}; "
            "load it with its own catalog, or fit it again"
        )
    if name not in OURS:
        offered = kinds().get(name)
        if offered is None or offered.load is None:
            raise ConfigError(f"{folder} holds a prior of the kind {name!r}, which no installed package can load")
        if catalog is None:
            raise DataError(f"{folder} holds the prior {name!r}, which needs a catalog; use load_prior")
        return offered.load(folder, catalog)
    try:
        with np.load(folder / ARRAYS, allow_pickle=False) if (folder / ARRAYS).exists() else nullcontext({}) as arrays:
            fields = {key: _value(one, arrays, catalog) for key, one in about["fields"].items()}
        known = OURS[name]
        if any(field.name == "catalog" for field in dataclasses.fields(known)):
            fields["catalog"] = catalog
        if name == "popularity" and catalog is not None and len(fields["log_shares"]) != len(catalog):
            raise DataError(
                f"the prior 'popularity' in {folder} was fitted on {len(fields['log_shares'])} items, and this "
                f"catalog has {len(catalog)}; load it with its own catalog, or fit it again"
            )
        if issubclass(known, TextQuery) and catalog is not None:
            fields["index"] = _index_of(known, catalog, fields)
        return known(**fields)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder} holds no prior that this version can read: {error}; save it again") from error


class _Writer:
    """Fields as JSON; arrays are put aside by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray[Any, Any]] = {}

    def fields(self, made: Any, above: str = "") -> dict[str, object]:
        found = {}
        for field in dataclasses.fields(made):
            value = getattr(made, field.name)
            if not isinstance(value, MADE_ANEW):
                found[field.name] = self.value(value, f"{above}{field.name}", made)
        return found

    def value(self, value: Any, name: str, owner: Any) -> object:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray) and value.dtype != object:
            self.arrays[name] = value
            return {"array": name}
        matrix: Any = value
        if sparse.issparse(value) and matrix.format in MATRICES:
            for part in ("data", "indices", "indptr"):
                self.arrays[f"{name}.{part}"] = getattr(matrix, part)
            return {matrix.format: name, "shape": list(matrix.shape)}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"map": [[key, self.value(one, f"{name}.{key}", owner)] for key, one in value.items()]}
        if isinstance(value, Features):
            return {"features": self.fields(value, f"{name}.")}
        if isinstance(value, BM25Index):
            return {"texts of the catalog": len(value), "later": value.num_later}
        who = getattr(owner, "name", type(owner).__name__)
        raise ConfigError(
            f"the prior {who!r} ({type(owner).__name__}) cannot be saved: its {name} is a {type(value).__name__}, "
            "which is no data; leave this prior out and add it again after loading"
        )


def _value(stored: Any, arrays: Mapping[str, Any], catalog: Catalog | None) -> Any:
    if not isinstance(stored, dict):
        return stored
    if "array" in stored:
        return arrays[stored["array"]]
    for form, make in MATRICES.items():
        if form in stored:
            name = stored[form]
            parts = tuple(arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr"))
            return make(parts, shape=tuple(stored["shape"]))
    if "map" in stored:
        return {key: _value(one, arrays, catalog) for key, one in stored["map"]}
    if "features" in stored:
        return Features(**{key: _value(one, arrays, catalog) for key, one in stored["features"].items()})
    return stored  # of an index of texts, which is made with the prior


def _index_of(known: type[TextQuery], catalog: Catalog, fields: Mapping[str, Any]) -> BM25Index | None:
    """The index of a catalog's texts, with as many of them taken in later as before; None where all are of one time."""
    later = fields["index"]["later"]
    if not later:
        return None
    first = len(catalog) - later
    texts = known(catalog)._texts(catalog, 0)
    return BM25Index(texts[:first]).with_documents(texts[first:])


def _kind_of(prior: object) -> str | None:
    return next((name for name, known in OURS.items() if type(prior) is known), None)


def _offered(prior: Prior | RatingPrior) -> PriorKind | None:
    found = kinds().get(prior.name)
    return None if found is None or found.name in OURS else found
