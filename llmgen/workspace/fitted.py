"""A workspace from a folder that `llmgen fit` wrote, or `Recommender.save`: nothing is fitted, and no log is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.datasets.splits import History
from llmgen.errors import ConfigError
from llmgen.priors import Prior, RatingPrior, reweighted
from llmgen.recommend.parts import Parts
from llmgen.recommend.recommender import Choice
from llmgen.recommend.saving import PROMPTS, Loaded, load_parts, read_about, read_catalog, save_parts
from llmgen.recommend.settings import PriorSettings, prior_settings
from llmgen.saved_folders import check_folder
from llmgen.workspace.checks import check
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace

NOT_KEPT = {"folder", "priors", "prompt_folder"}
"""Settings that the folder itself stands for."""


class FittedWorkspace(Workspace):
    """The catalog, users and priors of a folder.

    Args:
        loaded: What was read.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(Dataset.of(loaded.parts.catalog))
        self.loaded = loaded

    @property
    def histories(self) -> Mapping[str, History]:
        """User id -> what the user took, oldest first."""
        return self.loaded.parts.histories

    @property
    def labels(self) -> tuple[str, ...]:
        """The possible ratings."""
        return self.loaded.about.labels

    def priors(self, settings: RecommenderSettings) -> list[Prior]:
        """The priors that the settings name, with their weights; by default all as they were saved.

        Raises:
            ConfigError: One that was not saved, or a setting of its fit.
        """
        saved = self.loaded.parts.priors
        if settings.priors is None:
            return list(saved)
        return _chosen({prior.name: prior for prior in saved}, settings.priors, "prior")

    def rating_priors(self, settings: RecommenderSettings, weight: float) -> list[RatingPrior]:
        """The rating priors that the settings name, with their weights; by default all with one weight.

        Raises:
            ConfigError: One that was not saved.
        """
        saved = {prior.name: prior for prior in self.loaded.parts.rating_priors}
        wanted = dict.fromkeys(saved, weight) if settings.rating_priors is None else settings.rating_priors
        return _chosen(saved, wanted, "rating prior")


def _chosen(saved: Mapping[str, Any], wanted: PriorSettings, what: str) -> list[Any]:
    found = []
    for name, chosen in prior_settings(wanted).items():
        if name not in saved:
            there = ", ".join(saved) or "none"
            raise ConfigError(f"no {what} {name!r} was saved; there are {there}; fit it with llmgen fit")
        if other := sorted(set(chosen) - {"weight"}):
            raise ConfigError(
                f"the {what} {name!r} is fitted already, so {other[0]!r} cannot be set; give its weight alone, or fit "
                "it anew with llmgen fit"
            )
        weight = chosen.get("weight", saved[name].weight)
        if isinstance(weight, bool | str) or not math.isfinite(weight):
            raise ConfigError(f"the weight of the {what} {name!r} must be a finite number, not {weight!r}")
        found.append(reweighted(saved[name], weight) if chosen else saved[name])
    return found


def fit(data: DataSettings, settings: RecommenderSettings, folder: Path | str) -> Workspace:
    """Fit the priors of a recommender on a log, and write all of it but the model into a folder.

    Args:
        data: The catalog and its log.
        settings: How to recommend.
        folder: Whole or not there at all afterwards. A recommender that was saved there before is replaced.

    Returns:
        The data.

    Raises:
        LLMGenError: Data or settings are wrong, or the folder cannot be written.
    """
    check(data, settings)
    workspace = Workspace(settings.written(data).load())
    choice = Choice(lm_weight=settings.lm_weight)
    priors = workspace.priors(settings)
    parts = parts_without_engine(workspace, settings, priors, choice, with_model=settings.engine != "none")
    parts = replace(parts, histories=workspace.histories)
    given = settings.model_dump(exclude=NOT_KEPT, exclude_none=True)
    if settings.adapter is not None and Path(settings.adapter).is_dir():
        given["adapter"] = str(Path(settings.adapter).absolute())
    save_parts(parts, folder, labels=workspace.labels, settings=given)
    return workspace


def parts_without_engine(
    workspace: Workspace, settings: RecommenderSettings, priors: Sequence[Prior], choice: Choice, *, with_model: bool
) -> Parts:
    """The parts of a recommender that is saved, and gets its engine where it is loaded; see `Workspace.build`."""
    searched = settings.replace(decoding=None) if settings.decoding == "free" else settings  # that needs an engine
    parts = workspace.build(searched, priors, None, choice, with_model=with_model).parts
    if settings.decoding is None:
        return parts
    return replace(parts, config=parts.config.replace(decoding=settings.decoding))


def settings_of(folder: Path, given: Mapping[str, object]) -> RecommenderSettings:
    """How a folder's recommender was told to recommend, with other settings where they are given.

    Args:
        folder: Of `fit`, or of `Recommender.save`.
        given: Fields of `RecommenderSettings`.

    Raises:
        DataError: There is no such folder, or it holds something else or is damaged.
        ConfigError: It does not say which engine it had, and none is given.
    """
    about = read_about(check_folder(folder, "recommender"))
    if about.settings is not None:
        saved = dict(about.settings)
    else:
        if about.engine and "engine" not in given:
            raise ConfigError(f"{folder} was saved beside the engine {about.engine}; name one with --engine, or none")
        config = about.config
        saved = {**asdict(config), "engine": "none"}
    own = folder / PROMPTS
    if own.is_dir():
        saved["prompt_folder"] = own
    return RecommenderSettings.model_validate({**saved, **given, "folder": folder})


def open_workspace(data: DataSettings, settings: RecommenderSettings) -> Workspace:
    """The data, or the folder that the settings name in its place.

    Raises:
        ConfigError: Both.
        LLMGenError: See `DataSettings.load` and `load_parts`.
    """
    if settings.folder is None:
        check(data, settings)
        return Workspace(settings.written(data).load())
    check(None, settings)
    if data != DataSettings():
        raise ConfigError("--load stands for the data; leave out --dataset, --items, --store and what belongs to them")
    return FittedWorkspace(load_parts(settings.folder, None))


def read_again(folder: Path) -> Callable[[], Catalog]:
    """Reads the catalog of a folder."""
    return lambda: read_catalog(check_folder(folder, "recommender"))


def main_fit(data: DataSettings, settings: RecommenderSettings, out: Path) -> Sequence[str]:
    """What `llmgen fit` does; what it says, line by line."""
    workspace = fit(data, settings, out)
    loaded = load_parts(out, None)
    names = ", ".join(f"{prior.name}={prior.weight:g}" for prior in loaded.parts.priors) or "none"
    return (
        f"{len(workspace.catalog)} items, {len(loaded.parts.histories)} users, priors: {names}",
        f"written to {out}; serve it with: llmgen serve --load {out}",
    )
