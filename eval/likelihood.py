"""How likely a tuned model finds what people took next: nats an item, beside its prior, on held-out items.

    python -m eval.likelihood runs/ml-100k --json runs/ml-100k-likelihood.json

More sensitive than a ranking: every user counts, not only those with a hit. The probabilities are those of the residual
loss (`llmgen.training.loss`): at each node of the trie the prior's share of each child times the model's probability
to the power of the LM's weight, normalised there. Weight 0 is the prior alone; the model alone has no prior. The weight
is chosen on the validation items, with the priors fitted on what was there before; then everything is fitted again on
train + validation and the test items are looked at, once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast, get_args

import numpy as np
import typer
import yaml
from rich.console import Console
from rich.table import Table

from llmgen.adapters import AdapterRecord
from llmgen.datasets.splits import Ties, log_digest
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError
from llmgen.evaluation.experiment import refuse_whole_log
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.protocols.slices import by_popularity
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import kinds as prior_kinds
from llmgen.priors import reweighted
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.settings import prior_settings
from llmgen.templates.library import PromptLibrary
from llmgen.training.sft import fit
from llmgen.training.validation import ALONE, nats
from llmgen.types import FloatArray
from llmgen.workspace.core import DataSettings, wrong_data

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0)


class Measured(NamedTuple):
    """Nats of the held-out items.

    Attributes:
        model: Its name.
        weight: Of the LM.
        validation: Weight -> mean on the validation items; empty where the weight was given.
        rows: Means with intervals, of all items and by popularity.
        users: By prior, both and LM alone, of each user.
    """

    model: str
    weight: float
    validation: dict[str, float]
    rows: list[dict[str, Any]]
    users: list[list[float]]


def main(
    adapter: Annotated[Path, typer.Argument(help="Folder that llmgen.training.sft left.")],
    ties: Annotated[str, typer.Option(help="file or item_id.")] = "file",
    validation_users: Annotated[int, typer.Option(min=1, help="On how many the weight is chosen.")] = 300,
    weight: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of the LM, instead of choosing it: for an adapter that learned the validation items."
        ),
    ] = None,
    base: Annotated[bool, typer.Option("--base", help="The model without the adapter.")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="Of the weights; by default float32 on a CPU, bfloat16 on a GPU.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Users of one pass.")] = 8,
    prior_scale: Annotated[
        float,
        typer.Option(min=0, help="Times the weights of the recipe's priors, where those were chosen for ranking."),
    ] = 1.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything here.")] = None,
) -> None:
    """Measure, print and write."""
    with exit_on_error():
        measured = measure(
            adapter,
            ties=cast(Ties, ties),
            validation_users=validation_users,
            weight=weight,
            base=base,
            dtype=dtype,
            batch=batch,
            prior_scale=prior_scale,
        )
    _print(measured)
    if json_file is not None:
        body = {"adapter": str(adapter), "base": base, "prior_scale": prior_scale, **measured._asdict()}
        json_file.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def measure(
    adapter: Path,
    *,
    ties: Ties,
    validation_users: int,
    weight: float | None,
    base: bool,
    dtype: str | None,
    batch: int,
    prior_scale: float,
) -> Measured:
    """What each held-out item costs.

    Raises:
        ConfigError: Settings that are wrong, one line each; or the adapter learned what it would be measured on.
    """
    record, settings = _checked(adapter, ties, dtype)
    data = DataSettings.parse(settings["data"]).load()
    refuse_whole_log(f"the adapter {adapter}", record, data)
    tuning, final = samples(Protocol.model_validate({"ties": ties}), data)
    if weight is None and record.data == log_digest(final.known):
        raise ConfigError(
            f"{adapter} has learned the validation items, and the LM's weight would be chosen on them; give --weight, "
            "as an adapter of the same recipe with learn_from: train has it"
        )
    engine = HFEngine.load(settings["model"] or None, adapter=None if base else str(adapter), dtype=dtype)
    config = record.recommender.config()
    recommender = Recommender(data.catalog, engine, prompt=record.recommender.prompts, max_history=config.max_history)

    def read(sample: Sample, weights: Sequence[float]) -> FloatArray:
        fitted = fit(settings["priors"], sample.known, data)
        return nats(
            engine.model,
            recommender,
            sample.queries,
            sample.targets,
            [reweighted(one, one.weight * prior_scale) for one in fitted],
            prompt=recommender.template().name,
            weights=weights,
            batch=batch,
        )

    chosen, curve = weight, dict[str, float]()
    if chosen is None:
        means = read(tuning.spread(validation_users), [*WEIGHTS, ALONE]).mean(axis=1).tolist()
        chosen = WEIGHTS[1 + int(np.argmin(means[1 : len(WEIGHTS)]))]
        curve = dict(zip([*(f"{one:g}" for one in WEIGHTS), "alone"], means, strict=True))
    found = read(final, [0.0, chosen, ALONE])
    rows = [_row("all", found), *(_row(one.value, found[:, one.rows]) for one in by_popularity(final))]
    return Measured(engine.name, chosen, curve, rows, found.tolist())


def _checked(adapter: Path, ties: str, dtype: str | None) -> tuple[AdapterRecord, dict[str, Any]]:
    """The adapter's record and the settings of its run, with all looked at that needs neither data nor model.

    Raises:
        ConfigError: One line for each mistake.
    """
    wrong = []
    if ties not in get_args(Ties):
        wrong.append(f"--ties is file or item_id, not {ties!r}")
    if dtype not in (None, "float32", "bfloat16", "float16"):
        wrong.append(f"--dtype is float32, bfloat16 or float16, not {dtype!r}")
    record, settings = None, dict[str, Any]()
    try:
        record = AdapterRecord.read(adapter)
        if record is None:
            wrong.append(f"{adapter} was not made by llmgen train: it has no llmgen.json")
    except ConfigError as error:
        wrong.append(str(error))
    path = adapter / "settings.yaml"
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        parts = {name: settings[name] for name in ("data", "priors", "model")}
        wrong += [*wrong_data(parts["data"]), *prior_kinds.wrong(prior_settings(parts["priors"]))]
    except OSError as error:
        wrong.append(f"cannot read {path}, which llmgen train leaves beside an adapter: {error.strerror}")
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        wrong.append(f"{path} does not hold data, priors and model as llmgen train writes them: {error!r}")
    library = PromptLibrary.default()
    for prompt in record.recommender.prompts if record else ():
        if prompt not in library:
            wrong.append(f"the adapter was tuned on the prompt {prompt!r}; there are {', '.join(library)}")
    if record is None or wrong:
        raise ConfigError("\n".join(wrong))
    return record, settings


def _row(name: str, found: FloatArray) -> dict[str, Any]:
    prior, both, alone = found
    gain = paired_difference(prior, both, seed=0)
    one, two, three = (interval_of_mean(values, seed=0) for values in (prior, both, alone))
    return {
        "items": name,
        "n": len(prior),
        "prior": (one.mean, one.low, one.high),
        "both": (two.mean, two.low, two.high),
        "alone": (three.mean, three.low, three.high),
        "gain": (gain.mean, gain.low, gain.high),
    }


def _print(measured: Measured) -> None:
    console = Console(width=200)
    how = "chosen on validation items" if measured.validation else "as given"
    table = Table(title=f"{measured.model}, weight {measured.weight:g} {how}")
    for heading in ("held-out items", "n", "prior", "LM x prior", "LM alone", "gain of the LM, nats"):
        table.add_column(heading)
    for row in measured.rows:
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*row[name]) for name in ("prior", "both", "alone")]
        table.add_row(row["items"], str(row["n"]), *cells, "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["gain"]))
    console.print(table)
    if measured.validation:
        curve = {name: round(mean, 4) for name, mean in measured.validation.items()}
        console.print("validation, nats by weight:", curve)


if __name__ == "__main__":
    typer.run(main)
