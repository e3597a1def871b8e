"""Cold start by words: tags that people gave to films as wishes of new users, the tagged films as what they want.

    python -m eval.wishes ml-latest-small.zip --users 200 --out runs/wishes

Nothing is known of the user but the words. Words that stand in no title and no genre can only be understood, not
matched: that is what a language model could add to BM25. Half of the tags are for choosing the model's weight, the
other half are asked about; a tag is never in both. Results and report are those of `llmgen evaluate`.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer

from llmgen.catalog.core import Catalog
from llmgen.errors import DataError
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.arms.core import classic
from llmgen.evaluation.baselines.classics import Random
from llmgen.evaluation.baselines.core import Result
from llmgen.evaluation.baselines.prior_evaluation import evaluate_priors
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.experiment import Experiment
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.run import command_line, evaluate, shown
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import Popularity, Prior, TextQuery
from llmgen.recommend.tuning import tune_weights
from llmgen.text.normalization import normalise_text
from llmgen.types import Query

FILE = "tags.csv"
BOTH = "bm25 x popularity"
FILMS = 10
"""Of a tag, on which the weights of `BOTH` are chosen at most, so that no tag outweighs the others."""


def read_tags(path: Path) -> dict[str, tuple[str, ...]]:
    """The tags of a MovieLens release with the films that bear them.

    Args:
        path: Zip or folder of a release that has `tags.csv`.

    Returns:
        Tag, normalised -> ids of its films, in the order of the file, none twice.

    Raises:
        DataError: There is no such file, or it is broken.
    """
    try:
        if path.is_dir():
            text = (path / FILE).read_text(encoding="utf-8")
        else:
            with zipfile.ZipFile(path) as release:
                (name,) = [name for name in release.namelist() if name.endswith(f"/{FILE}") or name == FILE]
                text = release.read(name).decode("utf-8")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {FILE} from {path}: {error}; the releases since 2014 have it") from None
    found: dict[str, dict[str, None]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        if not row.get("tag") or not row.get("movieId"):
            raise DataError(f"{path}, {FILE}: a row without tag or movieId: {row}")
        if tag := normalise_text(row["tag"]):
            found.setdefault(tag, {})[row["movieId"]] = None
    return {tag: tuple(films) for tag, films in found.items()}


def wishes(catalog: Catalog, known: pl.DataFrame, tags: Mapping[str, tuple[str, ...]], k: int) -> Sample:
    """Each tag as the wish of a user without a history; films that the catalog does not have are left out."""
    there = set(catalog.ids)
    held = {tag: tuple(film for film in films if film in there) for tag, films in tags.items()}
    asked = [tag for tag in sorted(held) if held[tag]]
    queries = tuple(Query((), tag, tag, k=k) for tag in asked)
    return Sample(catalog, known, queries, tuple(held[tag] for tag in asked), (0.0,) * len(asked))


def parted(
    path: Path, catalog: Catalog, known: pl.DataFrame, seed: int, k: int, films: int = 3
) -> tuple[Sample, Sample]:
    """The wishes of the tags that are on so many films or more: one half for choosing, the other is asked."""
    tags = {tag: held for tag, held in read_tags(path).items() if len(held) >= films}
    order = [sorted(tags)[number] for number in np.random.default_rng(seed).permutation(len(tags))]
    parts = order[: len(order) // 2], order[len(order) // 2 :]
    tuning, final = (wishes(catalog, known, {tag: tags[tag] for tag in part}, k) for part in parts)
    if min(len(tuning), len(final)) < 2:
        raise DataError(f"{path} has {len(tags)} tags on {films} or more films; that is too few")
    return tuning, final


def experiment(config: RunConfig, path: Path, films: int) -> Experiment:
    """The wishes of a release.

    Args:
        config: Of the run; `protocol.users` wishes are asked, all by default.
        path: Of the release.
        films: A tag must be on so many films, fewer are one person's note.

    Raises:
        DataError: The release has no such tags.
    """
    dataset = config.protocol.load()
    protocol = config.protocol
    tuning, final = parted(path, dataset.catalog, dataset.interactions, protocol.seed, protocol.k, films)
    final = final if config.protocol.users is None else final.spread(config.protocol.users)
    both = _known_and_wished(tuning, final)
    standing = [
        classic("random", [Random(len(dataset.catalog), config.protocol.seed)], {}, dataset.catalog),
        classic("popularity", [Popularity.fit(dataset.interactions, dataset.catalog)], {}, dataset.catalog),
        classic("bm25", [TextQuery(dataset.catalog)], {}, dataset.catalog),
        classic(BOTH, both.priors, both.settings, dataset.catalog),
    ]
    notes = (
        f"Tags on {films} or more films are the wishes of users of whom nothing else is known; the films that bear a "
        "tag are what is looked for. The texts that are searched hold titles and genres, no tags.",
    )
    return Experiment(dataset, tuning, final, standing, (both,), notes)


def _known_and_wished(tuning: Sample, final: Sample) -> Result:
    """BM25 times popularity, with the weights that rank the films of the tags for choosing best, each film alone."""
    catalog, k = tuning.catalog, tuning.queries[0].k
    priors: list[Prior] = [TextQuery(catalog), Popularity.fit(tuning.known, catalog)]
    asked = zip(tuning.queries, tuning.held_out, strict=True)
    queries, films = zip(*((query, film) for query, films in asked for film in films[:FILMS]), strict=True)
    found = tune_weights(priors, queries, films, catalog=catalog, k=k)
    settings = {prior.name: prior.weight for prior in found.priors}
    measured = evaluate_priors(found.priors, final.queries, final.targets, catalog=catalog, k=k)
    return Result(BOTH, settings, found.priors, found.priors, found.score, measured)


def main(
    release: Annotated[Path, typer.Argument(help="Zip or folder of a MovieLens release with tags.csv.")],
    out: Annotated[Path, typer.Option(help="Folder of this run; a stopped run continues in its folder.")],
    arm: Annotated[
        list[str] | None, typer.Option(help="See llmgen.evaluation.run; the LM alone and beside the priors by default.")
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="A tuned model that is asked beside the untuned one.")] = None,
    users: Annotated[int | None, typer.Option(help="How many wishes are asked; half of the tags by default.")] = None,
    films: Annotated[int, typer.Option(min=1, help="Films that a tag must be on.")] = 3,
    k: Annotated[int | None, typer.Option(help="Length of the answers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
) -> None:
    """Ask, write and print."""
    with exit_on_error():
        settings = RunConfig.read(None, arm or (), users=users, k=k, seed=seed, data={"dataset": str(release)})
        changes = {"arms": settings.arms or arms(adapter), "baseline": BOTH, "metric": f"recall@{settings.protocol.k}"}
        chosen = settings.model_copy(update=changes)
        found = evaluate(
            chosen,
            out,
            command=command_line("eval.wishes"),
            experiment=lambda config: experiment(config, release, films),
        )
        shown(found, out, json_output)


def arms(adapter: str | None) -> dict[str, ArmConfig]:
    """The model alone and beside the priors that read the words, untuned and with an adapter."""
    beside: Mapping[str, Mapping[str, Any]] = {
        "LM alone": {"lm_weight": 1.0},
        "LM x bm25": {"priors": {"wish": 1.0}, "lm_weight": "tuned"},
        f"LM x {BOTH}": {"priors_of": BOTH, "lm_weight": "tuned"},
    }
    found = {}
    for model, name in [("", None), ("tuned ", adapter)] if adapter else [("", None)]:
        for kind, settings in beside.items():
            found[model + kind] = ArmConfig.of(model + kind, {"prompt": "cold_start", "adapter": name, **settings})
    return found


if __name__ == "__main__":
    typer.run(main)
