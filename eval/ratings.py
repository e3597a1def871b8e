"""Predicted ratings: a language model beside what needs none, and both together.

    python -m eval.ratings --adapter runs/ml-100k-ratings
    python -m eval.ratings --adapter runs/ml-100k-ratings --split random

The rating of each user's last item is predicted from the ratings before it (`llmgen.evaluation.protocols.protocol`,
leave-one-out), or a fifth of all ratings, drawn at random, from the user's others, whenever those were given; the
model, which is shown only some, is shown those given about then.

Beside the model stand the mean of all ratings, the mean with the biases of user and item, ItemKNN on what these leave
over (`llmgen.priors.RatingKNN`), and last the product that `Recommender.rate` answers with, with the weights of both
that were most likely on held-out ratings of validation: whether the model knows anything that they do not. Differences
are to what is best on validation without the model. Intervals are over users.
"""

from __future__ import annotations

import itertools
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llmgen.adapters import AdapterRecord
from llmgen.datasets import Dataset
from llmgen.datasets.splits import History, histories, leave_one_out, log_digest, random_split
from llmgen.errors import ConfigError, DataError
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.evaluation.arms.core import Engines, build
from llmgen.evaluation.checks import check_ratings
from llmgen.evaluation.experiment import refuse_whole_log
from llmgen.evaluation.metrics.rating_metrics import auc, calibration_error, rmse
from llmgen.evaluation.protocols.protocol import Protocol, samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import RatingKNN
from llmgen.recommend.rating import multiply_shares
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.settings import GivenSettings
from llmgen.types import FloatArray, Query, RatingPrediction
from llmgen.workspace.core import DataSettings, tuned_prompts

MEAN, BIASES, KNN, LM, BOTH = "mean", "user + item bias", "ItemKNN", "LM", "LM x ItemKNN"
"""Rows of the table."""
DAMPING = (1.0, 3.0, 5.0, 10.0, 25.0)
"""Tried for the biases."""
NEIGHBOURS = 40
LM_WEIGHTS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5, 2.0)
KNN_WEIGHTS = (0.25, 0.35, 0.5, 0.7, 1.0)
"""Tried together, in the product."""
LEAST = 1e-12
"""Probability of a label, where less was said: it has a logarithm."""
LIKED = 4.0
"""Ratings from here on count as liked, for the AUC and the calibration."""
CHUNK = 16


def rated(sample: Sample, interactions: pl.DataFrame) -> Sample:
    """The users of a sample who rated everything they took, with what they gave; known are ratings alone.

    Raises:
        DataError: There are fewer than two.
    """
    given = {(user, item): rating for user, item, rating in interactions.select("user_id", "item_id", "rating").rows()}
    ratings = [given.get(pair) for pair in zip(sample.users, sample.targets, strict=True)]
    asked = replace(sample, ratings=tuple(nan if one is None else one for one in ratings)).rows(
        row for row, one in enumerate(ratings) if one is not None and sample.queries[row].ratings is not None
    )
    if len(asked) < 2:
        raise DataError("fewer than two users rated all they took; ratings need a column rating without gaps")
    return replace(asked, known=sample.known.filter(pl.col("rating").is_not_null()))


def last_ratings(dataset: Dataset, users: int | None, seed: int) -> tuple[Sample, Sample]:
    """Each user's last item but one, for validation, and last, for the test, from the ratings before it.

    Args:
        dataset: With ratings.
        users: So many, drawn at random, are asked for the test; all by default.
        seed: Of the draw.

    Raises:
        DataError: See `llmgen.evaluation.protocols.protocol.samples` and `rated`.
    """
    protocol = Protocol.model_validate({"users": users, "seed": seed})
    tuning, final = samples(protocol, dataset)
    return rated(tuning, dataset.interactions), rated(final, dataset.interactions)


def random_ratings(dataset: Dataset, users: int | None, seed: int, shown: int) -> tuple[Sample, Sample]:
    """The ratings that `random_split` holds out for validation and for the test, each from the user's others.

    Args:
        dataset: With ratings.
        users: Of so many, drawn at random, the test ratings are asked; of all by default.
        seed: Of the draw of users; the split is always the one of seed 0.
        shown: So many ratings about the time of the one asked for come last in each history; see `around`.

    Raises:
        DataError: See `random_split` and `rated`.
    """
    train, validation, test = random_split(dataset.interactions)
    asked = test["user_id"].unique().sort()
    if users is not None and users < len(asked):
        asked = asked.sample(users, seed=seed)
    test = test.filter(pl.col("user_id").is_in(asked.to_list()))
    tuning = _of_rows(dataset, validation, [train], shown)
    return tuning, _of_rows(dataset, test, [train, validation], shown)


def around(given: Sequence[float], time: float, shown: int) -> slice:
    """Where the ratings given about a moment stand.

    There is a choice every half of what is shown, so that ratings of about one time share what the model reads.

    Args:
        given: When each rating was given, rising.
        time: The moment.
        shown: How many.

    >>> around([0, 1, 2, 3, 4, 5, 6, 7], 3.5, 4)
    slice(2, 6, None)
    """
    most, step = max(0, len(given) - shown), max(1, shown // 2)
    middle = bisect_left(given, time) - shown / 2
    start = min((*range(0, most, step), most), key=lambda start: abs(start - middle))
    return slice(start, start + shown)


def _of_rows(dataset: Dataset, held: pl.DataFrame, before: Sequence[pl.DataFrame], shown: int) -> Sample:
    """The sample of some held-out ratings; those of a user that are about the same time share one query."""
    past = histories(*before, catalog=dataset.catalog)
    ordered = pl.concat(list(before)).sort("user_id", "timestamp", maintain_order=True)
    given = dict(ordered.group_by("user_id", maintain_order=True).agg("timestamp").iter_rows())
    made: dict[tuple[str, int], Query] = {}
    queries, held_out, times = [], [], []
    for user, item, time in held.select("user_id", "item_id", "timestamp").iter_rows():
        items, ratings = past.get(user, History((), ()))
        then = around(given.get(user, ()), time, shown)
        if (user, then.start) not in made:
            rest = [(*part[: then.start], *part[then.stop :], *part[then]) for part in (items, ratings or ())]
            made[user, then.start] = Query(rest[0], None, user, ratings=None if ratings is None else rest[1])
        queries.append(made[user, then.start])
        held_out.append((item,))
        times.append(time)
    sample = Sample(dataset.catalog, pl.concat(list(before)), tuple(queries), tuple(held_out), tuple(times))
    return rated(sample, dataset.interactions)


def classic(asked: Sample, damping: float) -> tuple[RatingKNN, RatingKNN]:
    """What needs no language model: the biases alone, and ItemKNN."""
    biases = RatingKNN.fit(asked.known, damping=damping, neighbours=0, name=BIASES)
    return biases, replace(biases, neighbours=NEIGHBOURS, name=KNN)


def shares(
    recommender: Recommender, asked: Sample, damping: float, labels: Sequence[str], title: str
) -> tuple[dict[str, FloatArray], list[RatingPrediction]]:
    """What each row of the table says of each rating, name -> float64 [n_rows, n_labels], and the predictions.

    What is asked after the same history is asked together, so that it is read once.
    """
    recommender = recommender.with_rating_priors(*classic(asked, damping))
    pairs = asked.pairs
    chunks = [list(group) for _, group in itertools.groupby(pairs, key=lambda pair: id(pair[0]))]
    if len(chunks) == len(pairs):
        chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    found: list[RatingPrediction] = []
    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        bar = progress.add_task(title, total=len(pairs))
        for chunk in chunks:
            found += recommender.rate_many(chunk, labels=labels)
            progress.advance(bar, len(chunk))
    given = [asked.known.filter(pl.col("rating") == float(label)).height + 1 for label in labels]
    said = {MEAN: np.tile(np.array(given) / sum(given), (len(found), 1))}
    for name, part in ((BIASES, BIASES), (KNN, KNN), (LM, "lm")):
        said[name] = np.maximum([list(one.parts[part].values()) for one in found], LEAST)
    return said, found


def product(said: Mapping[str, FloatArray], weights: tuple[float, float]) -> FloatArray:
    """ItemKNN times the model, each to the power of its weight, float64 [n_rows, n_labels]."""
    parts = {name: np.log(said[name]) for name in (KNN, LM)}
    return multiply_shares(parts, dict(zip((KNN, LM), weights, strict=True)))


def surprise(shares: FloatArray, asked: Sample, values: FloatArray) -> FloatArray:
    """Nats of each rating under distributions over rising values, float64 [n_rows]."""
    result: FloatArray = -np.log(shares[np.arange(len(asked)), np.searchsorted(values, np.array(asked.ratings))])
    return result


def main(
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter; the untuned model without.")] = None,
    engine: Annotated[str, typer.Option(help="See load_engine.")] = "hf",
    dataset: Annotated[str, typer.Option(help="A name or path that llmgen.datasets knows.")] = "movielens-100k",
    split: Annotated[str, typer.Option(help="last: of each user; random: a fifth of all ratings.")] = "last",
    prompt: Annotated[str | None, typer.Option(help="Template; the adapter's by default, else rate_list.")] = None,
    users: Annotated[int | None, typer.Option(help="How many are asked; all by default.")] = None,
    tuning_users: Annotated[
        int, typer.Option(min=4, help="On so many validation users the LM's weight is chosen.")
    ] = 300,
    max_history: Annotated[
        int | None, typer.Option(min=0, help="Items in the prompt; as the adapter was tuned by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything here.")] = None,
) -> None:
    """Predict, measure and print."""
    with exit_on_error():
        check_ratings(dataset=dataset, split=split, engine=engine, prompt=prompt)
        data = DataSettings(dataset=dataset).load()
        record = None if adapter is None else AdapterRecord.read(adapter)
        given = GivenSettings(max_history=max_history)
        shown = given.config(record.recommender if record else None).max_history
        tuning, final = last_ratings(data, users, seed) if split == "last" else random_ratings(data, users, seed, shown)
        if split == "random" and adapter is not None:
            _refuse_what_knows_them(adapter, record, data)
        refuse_whole_log(f"the adapter {adapter}", record, data)
        values = np.array(sorted(set(data.interactions["rating"].drop_nulls().to_list())))
        labels = [f"{value:g}" for value in values.tolist()]
        scores = {damping: _rmse(classic(tuning, damping)[0].means(tuning.pairs), tuning) for damping in DAMPING}
        damping = min(scores, key=lambda one: scores[one])
        some = tuning.spread(tuning_users)
        config = ArmConfig.of("model", {"engine": engine, "adapter": adapter, "max_history": shown})
        recommender = build("model", config, final, (), Engines()).recommender
        if prompt is None and record is not None:
            prompt = tuned_prompts(record, recommender.prompts).get("rate")
        if prompt is not None:
            recommender = recommender.with_prompt(prompt)
        tried, _ = shares(recommender, some, damping, labels, "Validation")
        found, answers = shares(recommender, final, damping, labels, "Rating")
        tries = itertools.product(KNN_WEIGHTS, LM_WEIGHTS)
        nats = {pair: float(surprise(product(tried, pair), some, values).mean()) for pair in tries}
        weights = min(nats, key=lambda pair: nats[pair])
        reference = min((MEAN, BIASES, KNN), key=lambda name: _rmse(tried[name] @ values, some))
        found[BOTH] = product(found, weights)
        more = {
            "split": split,
            "ratings": len(final),
            "users": len(set(final.users)),
            "damping": damping,
            "knn_weight": weights[0],
            "lm_weight": weights[1],
            "validation_nats": [[*pair, mean] for pair, mean in nats.items()],
            "reference": reference,
            "label_mass": float(np.mean([one.label_mass for one in answers])),
            "prompt": answers[0].prompt,
        }
        rows = [_row(name, said, found[reference], final, values) for name, said in found.items()]
        _print(rows, more)
        if json_file is not None:
            asked = {
                "user": final.users,
                "item": final.targets,
                "rating": final.ratings,
                **{name: found[name].round(5).tolist() for name in (KNN, LM)},
            }
            json_file.write_text(
                json.dumps({**more, "rows": rows, "questions": asked}, indent=1) + "\n", encoding="utf-8"
            )


def _refuse_what_knows_them(adapter: str, record: AdapterRecord | None, dataset: Dataset) -> None:
    """An adapter must have learned from nothing that `random_ratings` asks for.

    Raises:
        ConfigError: Its record does not say so.
    """
    kept = [random_split(leave_one_out(dataset.interactions, ties=ties).train).train for ties in ("file", "item_id")]
    if record is None or record.data not in map(log_digest, kept):
        raise ConfigError(
            f"the adapter {adapter} may have learned the ratings that it would be asked for: its record does not say "
            "that it was tuned without them; tune it on the same data with the recipe's hold_out: "
            '{"share": 0.2}'
        )


def _row(name: str, said: FloatArray, least: FloatArray, asked: Sample, values: FloatArray) -> dict[str, Any]:
    """What is wrong with distributions, float64 [n_rows, n_labels], and how much more than with those of `least`."""
    truth, users = np.array(asked.ratings), asked.users
    errors = np.abs(said @ values - truth)
    nats = surprise(said, asked, values)
    absolute, squared, unlikely = (interval_of_mean(one, seed=0, clusters=users) for one in (errors, errors**2, nats))
    difference = paired_difference(errors**2, (least @ values - truth) ** 2, seed=0, clusters=users)
    chance, liked = said[:, values >= LIKED].sum(axis=1).clip(0, 1).tolist(), [bool(one) for one in truth >= LIKED]
    return {
        "name": name,
        "rmse": [squared.mean**0.5, squared.low**0.5, squared.high**0.5],
        "mae": [absolute.mean, absolute.low, absolute.high],
        "nats": [unlikely.mean, unlikely.low, unlikely.high],
        "mse_difference": [difference.mean, difference.low, difference.high],
        "auc_liked": auc(chance, liked),
        "calibration_error_liked": calibration_error(chance, liked),
        "reliability": _reliability(chance, liked),
    }


def _reliability(chance: Sequence[float], liked: Sequence[bool], bins: int = 10) -> list[dict[str, float]]:
    """Per bin of equal width: the mean probability, the share that was liked, and how many."""
    place = np.minimum((np.array(chance) * bins).astype(int), bins - 1)
    return [
        {
            "said": float(np.array(chance)[place == one].mean()),
            "happened": float(np.array(liked)[place == one].mean()),
            "count": int((place == one).sum()),
        }
        for one in range(bins)
        if (place == one).any()
    ]


def _rmse(predicted: FloatArray, asked: Sample) -> float:
    return rmse(predicted.tolist(), asked.ratings or ())


def _print(rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> None:
    table = Table(title=f"{more['ratings']} ratings of {more['users']} users, {more['split']}; {more['prompt']}")
    for heading in ("", "RMSE", "MAE", "nats", f"squared error - {more['reference']}", "liked: AUC", "calibration"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*row[name]) for name in ("rmse", "mae", "nats")]
        difference = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*row["mse_difference"])
        liked = (f"{row['auc_liked']:.3f}", f"{row['calibration_error_liked']:.3f}")
        table.add_row(row["name"], *cells, difference, *liked)
    console = Console(width=150)
    console.print(table)
    console.print(
        f"weights {more['knn_weight']:g} of ItemKNN and {more['lm_weight']:g} of the LM, chosen on validation; the "
        f"LM's probability on the labels {more['label_mass']:.3f}; liked: {LIKED:g} and more"
    )


if __name__ == "__main__":
    typer.run(main)
