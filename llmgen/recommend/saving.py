"""A whole recommender as a folder: settings, catalog, priors, prompts of one's own and histories, without the engine.

recommender.json        settings, and the names of the parts
catalog.jsonl           the items, see `Catalog.save`
identifier/             how the model spells them, where it is not by titles; see `llmgen.identifiers`
priors/0-transition/    one folder a prior, in their order; see `llmgen.priors.stored`
rating_priors/          the same
prompts/                templates of one's own folders
histories.parquet       user_id, item_id, rating; users and items in their order
saved.json              what the folder holds, and the checksums of all files; see `llmgen.saved_folders`
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import History
from llmgen.engines import Engine
from llmgen.errors import CatalogError, DataError
from llmgen.identifiers import load_identifier, save_identifier
from llmgen.priors import Prior, RatingPrior
from llmgen.priors.stored import check_saves, read_prior, write_prior
from llmgen.recommend.config import RecommenderConfig
from llmgen.recommend.index import CatalogIndex
from llmgen.recommend.parts import Parts
from llmgen.saved_folders import check_folder, new_folder
from llmgen.templates.library import PromptLibrary
from llmgen.types import RATINGS

logger = logging.getLogger(__name__)

FILE, CATALOG, HISTORIES = "recommender.json", "catalog.jsonl", "histories.parquet"
PRIORS, RATING_PRIORS, PROMPTS, IDENTIFIER = "priors", "rating_priors", "prompts", "identifier"


class SavedRecommender(BaseModel):
    """The file `recommender.json`.

    Attributes:
        config: Settings of the recommender.
        catalog: Digest of the catalog.
        priors: Folders of the priors, in their order.
        rating_priors: The same of the rating priors.
        default_prompts: Whether llmgen's own prompts stand behind those of the folder.
        templates: `name@digest` of the prompt of each task.
        engine: Name of the engine that it had; empty for none.
        labels: The possible ratings.
        settings: What the command line was told, by which it suits prompt and weight to a query; None where the
            recommender was saved from Python.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    config: RecommenderConfig
    catalog: str
    priors: tuple[str, ...]
    rating_priors: tuple[str, ...]
    default_prompts: bool
    templates: Mapping[str, str]
    engine: str = ""
    labels: tuple[str, ...] = RATINGS
    settings: Mapping[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        """Folders of llmgen 0.1 call the setting `prompt` `prompts`."""
        if not isinstance(value, Mapping):
            return value
        renamed = dict(value)
        for part in ("config", "settings"):
            if isinstance(one := value.get(part), Mapping) and "prompts" in one:
                renamed[part] = {"prompt" if name == "prompts" else name: given for name, given in one.items()}
        return renamed


class Loaded(NamedTuple):
    """A folder that was read.

    Attributes:
        parts: Of the recommender.
        about: What else the folder says.
    """

    parts: Parts
    about: SavedRecommender


def save_parts(
    parts: Parts,
    folder: Path | str,
    *,
    labels: Sequence[str] = RATINGS,
    settings: Mapping[str, object] | None = None,
) -> None:
    """Write the parts of a recommender into a folder.

    Items of histories that the catalog no longer has are left out.

    Args:
        parts: Of the recommender.
        folder: Whole or not there at all afterwards. A recommender that was saved there before is replaced.
        labels: The possible ratings.
        settings: See `SavedRecommender`; values that JSON has.

    Raises:
        ConfigError: A prior cannot be saved, which is found before anything is written; or the identifier cannot; or
            something else is in that place.
    """
    from llmgen import __version__

    both: tuple[Prior | RatingPrior, ...] = (*parts.priors, *parts.rating_priors)
    for prior in both:
        check_saves(prior)
    own, behind = parts.prompts.own_folders()
    about = SavedRecommender(
        config=parts.config,
        catalog=parts.catalog.digest,
        priors=_names(parts.priors),
        rating_priors=_names(parts.rating_priors),
        default_prompts=behind,
        templates={task: template.ref for task, template in parts.templates.items()},
        engine="" if parts.engine is None else parts.engine.name,
        labels=tuple(labels),
        settings=settings,
    )
    with new_folder(folder, "recommender", version=__version__) as made:
        parts.catalog.save(made / CATALOG)
        if parts.catalog.identifier is not None:
            save_identifier(parts.catalog.identifier, made / IDENTIFIER)
        places = [made / PRIORS / name for name in about.priors]
        places += [made / RATING_PRIORS / name for name in about.rating_priors]
        for place, prior in zip(places, both, strict=True):
            place.mkdir(parents=True)
            write_prior(prior, place)
        if own:
            (made / PROMPTS).mkdir()
        for one in reversed(own):  # of two files of one name the first folder's counts
            for path in one.glob("*.jinja"):
                shutil.copyfile(path, made / PROMPTS / path.name)
        if parts.histories:
            _table(parts.histories, parts.catalog).write_parquet(made / HISTORIES)
        (made / FILE).write_text(about.model_dump_json(indent=1) + "\n", encoding="utf-8")


def load_parts(folder: Path | str, engine: Engine | None, *, cache: Path | None = None) -> Loaded:
    """The parts of a recommender that was saved, for an engine.

    Raises:
        DataError: The folder is damaged or holds something else.
        ConfigError: A prior is of a kind that is not installed here.
    """
    path = check_folder(folder, "recommender")
    about = read_about(path)
    try:
        catalog = read_catalog(path)
    except (OSError, CatalogError) as error:
        raise DataError(f"the catalog in {folder} cannot be read: {error}; save it again") from error
    if catalog.digest != about.catalog:
        raise DataError(
            f"the catalog in {folder} is {catalog.digest} when it is read by this version, and was {about.catalog}; "
            "fit it again on its data"
        )
    library = library_of(path, about)
    priors = tuple(read_prior(path / PRIORS / name, catalog) for name in about.priors)
    rating_priors = tuple(read_prior(path / RATING_PRIORS / name, None) for name in about.rating_priors)
    known = _histories(path / HISTORIES, catalog) if (path / HISTORIES).exists() else {}
    index = CatalogIndex(catalog, engine, cache)
    parts = Parts(index, engine, about.config, priors, rating_priors, library, known)
    if engine is not None:
        for task, template in parts.templates.items():
            was = about.templates.get(task)
            if about.engine and was is not None and was != template.ref:
                logger.warning("%s was saved with the prompt %s, and this is %s", folder, was, template.ref)
    return Loaded(parts, about)


def read_catalog(folder: Path) -> Catalog:
    """The catalog of a folder that was checked.

    Raises:
        OSError, DataError, CatalogError: It is damaged.
    """
    identifier = load_identifier(folder / IDENTIFIER) if (folder / IDENTIFIER).is_dir() else None
    return Catalog.from_jsonl(folder / CATALOG, **({} if identifier is None else {"identifier": identifier}))


def read_about(folder: Path) -> SavedRecommender:
    """What a folder says of its recommender, without a look at its other files.

    Raises:
        DataError: It says nothing, or what this version does not know.
    """
    try:
        return SavedRecommender.model_validate_json((folder / FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{folder} holds no recommender that this version can read: {error}; save it again") from error


def library_of(folder: Path, about: SavedRecommender) -> PromptLibrary:
    """The prompts that a folder was saved with."""
    own = [folder / PROMPTS] if (folder / PROMPTS).is_dir() else []
    return PromptLibrary.default(*own) if about.default_prompts else PromptLibrary(*own)


def _names(priors: Sequence[Prior | RatingPrior]) -> tuple[str, ...]:
    """A folder for each prior; a name may hold what no path can."""
    return tuple(
        f"{place}-{''.join(sign if sign.isalnum() or sign in '_-' else '_' for sign in prior.name)}"
        for place, prior in enumerate(priors)
    )


def _table(known: Mapping[str, History], catalog: Catalog) -> pl.DataFrame:
    rows = [
        (user, item.id, rating)
        for user, (items, ratings) in known.items()
        for item, rating in zip(items, ratings or [None] * len(items), strict=True)
        if item in catalog
    ]
    return pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String, "rating": pl.Float64}, orient="row")


def _histories(path: Path, catalog: Catalog) -> dict[str, History]:
    found: dict[str, History] = {}
    for user, items, ratings in (
        pl.read_parquet(path).group_by("user_id", maintain_order=True).agg("item_id", "rating").iter_rows()
    ):
        rated = None if None in ratings else tuple(ratings)
        found[user] = History(tuple(catalog[item_id] for item_id in items), rated)
    return found
