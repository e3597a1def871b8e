"""What a weight of the model for each request adds to the best constant, in nats of held-out items.

    python -m eval.request_weight --engine hf --users 150 --fresh 150 --candidates 48 --out runs/weight.json

MovieLens-100K, the transition prior fitted on train alone, validation items only: the test items are not looked at. The
users are drawn at random; the weight is fitted on some and measured on others. Nats are those of choosing the held-out
item from a set, the same for all weights, of items drawn from the prior (`llmgen.recommend.weighing`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from llmgen import Recommender, histories, load_engine
from llmgen.adapters import AdapterRecord
from llmgen.datasets.splits import log_digest
from llmgen.errors import ConfigError
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.stats.intervals import paired_difference
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import Prior
from llmgen.priors.kinds import kind
from llmgen.recommend.weighing import CANDIDATES, FittedWeight, choices_of, fit_weight, nats_of
from llmgen.workspace.core import DataSettings

PRIORS: Mapping[str, Mapping[str, float]] = {"transition": {"weight": 1.0}}


def main(
    engine: Annotated[str, typer.Option(help="See `load_engine`.")] = "hf",
    adapter: Annotated[Path | None, typer.Option(help="One that has not learned the validation items.")] = None,
    users: Annotated[int, typer.Option(min=2, help="To fit on.")] = 150,
    fresh: Annotated[int, typer.Option(min=2, help="Others, to measure on.")] = 150,
    candidates: Annotated[int, typer.Option(min=2, help="Items that a held-out one is chosen from.")] = CANDIDATES,
    seed: Annotated[int, typer.Option(help="Of the users and the candidates.")] = 0,
    out: Annotated[Path | None, typer.Option(help="A file for the weight, for --lm-weight.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the weight into the adapter's record.")] = False,
) -> None:
    """Fit, measure, print and write."""
    with exit_on_error():
        fitted, gains = measure(engine, adapter, users, fresh, candidates, seed)
        if out is not None:
            fitted.weight.write(out)
        if record:
            kept = None if adapter is None else AdapterRecord.read(adapter)
            if kept is None or adapter is None:
                raise ConfigError("--record needs --adapter, a folder that llmgen train left")
            asked = kept.recommender.replace(lm_weight=fitted.weight)
            kept.model_copy(update={"recommender": asked}).write(adapter)
    Console(width=160).print_json(json.dumps({"fit": fitted.weight.model_dump(), **told(fitted), **gains}))


def told(fitted: FittedWeight) -> dict[str, Any]:
    """The numbers of a fit."""
    return {name: value for name, value in fitted._asdict().items() if name != "weight"}


def measure(
    engine: str, adapter: Path | None, users: int, fresh: int, candidates: int, seed: int
) -> tuple[FittedWeight, dict[str, Any]]:
    """The fitted weight, and what it gains on users that it was not fitted on.

    Raises:
        ConfigError: The adapter learned the validation items, or there are too few users.
    """
    data = DataSettings().load()
    tuning, final = samples(Protocol.model_validate({}), data)
    if users + fresh > len(tuning.queries):
        raise ConfigError(f"{users} users and {fresh} others are wanted, and there are {len(tuning.queries)}")
    named = None if adapter is None else AdapterRecord.read(adapter)
    if named is not None and named.data == log_digest(final.known):
        raise ConfigError(f"{adapter} has learned the validation items; take one with learn_from: train")
    catalog = data.catalog if named is None or adapter is None else named.written(data.catalog, adapter)
    priors: list[Prior] = [kind(name).fit(tuning.known, catalog, **given) for name, given in PRIORS.items()]
    made = Recommender(
        catalog,
        load_engine(engine, adapter=None if adapter is None else str(adapter)),
        priors=priors,
        histories=histories(tuning.known, catalog=catalog),
    )
    if named is not None:
        made = made.with_prompt(*named.recommender.prompts)
        made = made.configured(max_history=named.recommender.config().max_history)
    drawn = np.random.default_rng(seed).permutation(len(tuning.queries))[: users + fresh].tolist()
    queries = [made.catalog.resolved(tuning.queries[number]) for number in drawn]
    held_out = [tuning.targets[number] for number in drawn]
    asked = choices_of(made.parts, queries, held_out, candidates=candidates, seed=seed, progress=True)
    own = [one for one in asked[:users] if one is not None]
    others = [one for one in asked[users:] if one is not None]
    fitted = fit_weight(own)
    prior, constant, each = (nats_of(weight, others) for weight in (0.0, fitted.constant, fitted.weight))
    weights = np.array([fitted.weight.at(one.features) for one in others])
    found: dict[str, Any] = {
        "fresh": len(others),
        "weights": dict(zip(("5 %", "50 %", "95 %"), np.quantile(weights, [0.05, 0.5, 0.95]).tolist(), strict=True)),
        "nats of the prior": float(prior.mean()),
    }
    for name, a, b in (
        ("gain of the constant", prior, constant),
        ("gain for each request", prior, each),
        ("for each request over the constant", constant, each),
    ):
        gain = paired_difference(a, b, seed=0)
        found[name] = [round(value, 4) for value in (gain.mean, gain.low, gain.high)]
    return fitted, found


if __name__ == "__main__":
    typer.run(main)
