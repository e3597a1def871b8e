"""Predicted ratings: a language model beside what needs none, and both together.

    python -m eval.ratings --adapter runs/ml-100k --users 943

The rating of each user's last item is predicted from the ratings before it (`eval.protocol`, leave-one-out). Beside
the model stand the mean of all ratings, the mean with the biases of user and item, and ItemKNN on what these leave
over. The last row is a least-squares blend of the biases, ItemKNN and the model, fitted on the validation items:
whether the model knows anything that they do not. Differences are to what is best on validation without the model.

Sources: biases and neighbourhood as in Koren, KDD 2008, equations 1 and 3, biases by damped means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import polars as pl
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.arms import ArmConfig, Engines, build
from eval.metrics import auc, calibration_error
from eval.protocol import Protocol, Sample, samples
from eval.stats import interval_of_mean, paired_difference
from eval.told import told
from llmgen.catalog import Catalog
from llmgen.errors import DataError
from llmgen.recommender import Recommender
from llmgen.types import FloatArray, RatingPrediction

DAMPING = (1.0, 3.0, 5.0, 10.0, 25.0)
"""Ratings at the mean that are added to those of a user or an item, before its bias is taken."""
NEIGHBOURS, SHRINKAGE = 40, 100.0
LIKED = 4.0
"""Ratings from here on count as liked, for the AUC and the calibration."""
CHUNK = 16


@dataclass(frozen=True, eq=False)
class Biases:
    """Mean + bias of the user + bias of the item.

    Attributes:
        mean: Of all ratings.
        items: Id -> bias; 0 for others.
        damping: See `DAMPING`.
    """

    mean: float
    items: Mapping[str, float]
    damping: float

    @classmethod
    def fit(cls, known: pl.DataFrame, damping: float) -> Biases:
        """Of a log with ratings."""
        mean = float(cast(float, known["rating"].mean()))
        rows = known.group_by("item_id").agg((pl.col("rating") - mean).sum().alias("sum"), pl.len().alias("count"))
        items = {item: total / (damping + count) for item, total, count in rows.iter_rows()}
        return cls(mean, items, damping)

    def user(self, history: Sequence[str], ratings: Sequence[float]) -> float:
        """The bias of a user who gave these ratings; 0 for none."""
        left = sum(
            rating - self.mean - self.items.get(item, 0.0) for item, rating in zip(history, ratings, strict=True)
        )
        return left / (self.damping + len(history))

    def predict(self, history: Sequence[str], ratings: Sequence[float], item: str) -> float:
        """The user's rating of an item, not cut to the scale."""
        return self.mean + self.user(history, ratings) + self.items.get(item, 0.0)


class Neighbours:
    """What the biases leave over, from the items of the user's history that were rated most alike.

    Args:
        known: A log with ratings.
        catalog: Its items.
        biases: Fitted on it.
    """

    def __init__(self, known: pl.DataFrame, catalog: Catalog, biases: Biases) -> None:
        self.catalog, self.biases = catalog, biases
        users = {user: number for number, user in enumerate(known["user_id"].unique(maintain_order=True))}
        residuals = np.zeros((len(users), len(catalog)))
        for user, rows in known.group_by("user_id"):
            items, ratings = rows["item_id"].to_list(), rows["rating"].to_list()
            bias = biases.user(items, ratings)
            for item, rating in zip(items, ratings, strict=True):
                residuals[users[cast(str, user[0])], catalog.index(item)] = (
                    rating - biases.mean - bias - biases.items.get(item, 0.0)
                )
        there = (residuals != 0).astype(np.float64)
        common = there.T @ there
        lengths = np.sqrt((residuals**2).T @ there * ((residuals**2).T @ there).T)  # over the users of both
        with np.errstate(divide="ignore", invalid="ignore"):
            alike = np.where(lengths > 0, residuals.T @ residuals / lengths, 0.0)
        self.similarity = alike * common / (common + SHRINKAGE)

    def predict(self, history: Sequence[str], ratings: Sequence[float], item: str) -> float:
        """The user's rating of an item, not cut to the scale."""
        base = self.biases.predict(history, ratings, item)
        if not history:
            return base
        taken = np.array(self.catalog.positions(self.catalog[one] for one in history))
        alike = self.similarity[self.catalog.index(item), taken]
        nearest = np.argsort(-alike, kind="stable")[:NEIGHBOURS]
        nearest = nearest[alike[nearest] > 0]
        if not len(nearest):
            return base
        bias = self.biases.user(history, ratings)
        left = np.array(
            [ratings[one] - self.biases.mean - bias - self.biases.items.get(history[one], 0.0) for one in nearest]
        )
        return base + float(alike[nearest] @ left / alike[nearest].sum())


class Rated(NamedTuple):
    """Questions about ratings.

    Attributes:
        sample: Whose next item is rated.
        truth: float64 [users], the ratings.
        known: Interactions before, all with ratings.
    """

    sample: Sample
    truth: FloatArray
    known: pl.DataFrame


def rated(sample: Sample, interactions: pl.DataFrame) -> Rated:
    """The users of a sample who rated everything they took.

    Raises:
        DataError: There are fewer than two.
    """
    given = {(user, item): rating for user, item, rating in interactions.select("user_id", "item_id", "rating").rows()}
    truth = [given.get((user, item)) for user, item in zip(sample.users, sample.next_items, strict=True)]
    which = [
        number
        for number, rating in enumerate(truth)
        if rating is not None and sample.queries[number].ratings is not None
    ]
    if len(which) < 2:
        raise DataError("fewer than two users rated all they took; ratings need a column rating without gaps")
    known = sample.known.filter(pl.col("rating").is_not_null())
    return Rated(sample.part(which), np.array([truth[number] for number in which]), known)


def classic_predictions(asked: Rated, damping: float) -> dict[str, FloatArray]:
    """What needs no language model: name -> one prediction a user."""
    biases = Biases.fit(asked.known, damping)
    nearest = Neighbours(asked.known, asked.sample.catalog, biases)
    rows = [
        ([item.id for item in query.history], query.ratings or (), wanted)
        for query, wanted in zip(asked.sample.queries, asked.sample.next_items, strict=True)
    ]
    return {
        "mean": np.full(len(rows), biases.mean),
        "user + item bias": np.array([biases.predict(*row) for row in rows]),
        "ItemKNN": np.array([nearest.predict(*row) for row in rows]),
    }


def ask(recommender: Recommender, asked: Rated, labels: Sequence[str], title: str) -> list[RatingPrediction]:
    """The model's distributions."""
    pairs = list(zip(asked.sample.queries, asked.sample.next_items, strict=True))
    found: list[RatingPrediction] = []
    for start in track(range(0, len(pairs), CHUNK), title):
        found += recommender.rate_many(pairs[start : start + CHUNK], labels=labels)
    return found


def blend(columns: Sequence[FloatArray], truth: FloatArray) -> FloatArray:
    """Weights of predictions by least squares, the last one of a constant."""
    table = np.column_stack([*columns, np.ones(len(truth))])
    return cast(FloatArray, np.linalg.lstsq(table, truth, rcond=None)[0])


def main(
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter; the untuned model without.")] = None,
    engine: Annotated[str, typer.Option(help="See load_engine.")] = "hf",
    dataset: Annotated[str, typer.Option(help="A name or path that llmgen.datasets knows.")] = "movielens-100k",
    users: Annotated[int | None, typer.Option(help="How many are asked; all by default.")] = None,
    tuning_users: Annotated[int, typer.Option(min=4, help="On so many validation users the blend is fitted.")] = 300,
    max_history: Annotated[int, typer.Option(min=0, help="Newest items in the prompt.")] = 20,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything here.")] = None,
) -> None:
    """Predict, measure and print."""
    with told():
        protocol = Protocol.model_validate({"data": {"dataset": dataset}, "users": users, "seed": seed})
        data = protocol.load()
        tuning, final = (rated(one, data.interactions) for one in samples(protocol, data))
        scores = {
            damping: _rmse(classic_predictions(tuning, damping)["user + item bias"], tuning.truth)
            for damping in DAMPING
        }
        damping = min(scores, key=lambda one: scores[one])
        some = rated(tuning.sample.spread(tuning_users), data.interactions)
        values = sorted(set(data.interactions["rating"].drop_nulls().to_list()))
        labels = [f"{value:g}" for value in values]
        config = ArmConfig.of("model", {"engine": engine, "adapter": adapter, "max_history": max_history})
        recommender = build("model", config, final.sample, (), Engines()).recommender
        tried, asked = classic_predictions(some, damping), classic_predictions(final, damping)
        said = ask(recommender, some, labels, "Validation")
        answers = ask(recommender, final, labels, "Rating")
        tried["LM"] = np.array([one.mean for one in said])
        asked["LM"] = np.array([one.mean for one in answers])
        for name, parts in {
            "blend without the LM": ("user + item bias", "ItemKNN"),
            "blend with the LM": ("user + item bias", "ItemKNN", "LM"),
        }.items():
            weights = blend([tried[part] for part in parts], some.truth)
            for predicted in (tried, asked):
                predicted[name] = np.column_stack([predicted[part] for part in parts]) @ weights[:-1] + weights[-1]
        plain = [name for name in asked if "LM" not in name.replace("without the LM", "")]
        reference = min(plain, key=lambda name: _rmse(tried[name], some.truth))
        rows = _rows(asked, final.truth, values, reference)
        chance = [sum(p for label, p in one.distribution.items() if float(label) >= LIKED) for one in answers]
        liked = [bool(one) for one in final.truth >= LIKED]
        more = {
            "users": len(liked),
            "damping": damping,
            "reference": reference,
            "label_mass": float(np.mean([one.label_mass for one in answers])),
            "auc_liked": auc(chance, liked),
            "calibration_error_liked": calibration_error(chance, liked),
            "prompt": answers[0].prompt,
            "reliability": _reliability(chance, liked),
        }
        _print(rows, more)
        if json_file is not None:
            json_file.write_text(json.dumps({**more, "rows": rows}, indent=1) + "\n", encoding="utf-8")


def _rows(
    predicted: Mapping[str, FloatArray], truth: FloatArray, values: Sequence[float], reference: str
) -> list[dict[str, Any]]:
    cut = {name: np.clip(found, values[0], values[-1]) for name, found in predicted.items()}
    least = np.abs(cut[reference] - truth)
    rows = []
    for name, found in cut.items():
        errors = np.abs(found - truth)
        absolute = interval_of_mean(errors, seed=0)
        squared = interval_of_mean(errors**2, seed=0)
        difference = paired_difference(errors**2, least**2, seed=0)
        rows.append(
            {
                "name": name,
                "rmse": [squared.mean**0.5, squared.low**0.5, squared.high**0.5],
                "mae": [absolute.mean, absolute.low, absolute.high],
                "mse_difference": [difference.mean, difference.low, difference.high],
            }
        )
    return rows


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


def _rmse(predicted: FloatArray, truth: FloatArray) -> float:
    return float(np.sqrt(((predicted - truth) ** 2).mean()))


def _print(rows: Sequence[Mapping[str, Any]], more: Mapping[str, Any]) -> None:
    table = Table(title=f"Ratings of {more['users']} users' last items; {more['prompt']}")
    for heading in ("", "RMSE", "MAE", f"squared error - {more['reference']}"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in rows:
        cells = ["{:.4f} [{:.4f}, {:.4f}]".format(*row[name]) for name in ("rmse", "mae")]
        table.add_row(row["name"], *cells, "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["mse_difference"]))
    console = Console(width=130)
    console.print(table)
    console.print(
        f"LM, liked or not (4 and 5 of 5): AUC {more['auc_liked']:.3f}, calibration error "
        f"{more['calibration_error_liked']:.3f}; mass on the labels {more['label_mass']:.3f}"
    )


if __name__ == "__main__":
    typer.run(main)
