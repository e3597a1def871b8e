"""Users of whom little is known: what each recommender makes of the last 0, 1, 3 or 5 items alone.

    python -m eval.newcomers --adapter runs/ml-100k --users 400

Leave-one-out as in `eval.baselines`, but every history is cut to its newest items before anyone sees it: the item that
is looked for is the same, and so is what was fitted. Fitted models and weights are those of the whole histories' train
part; the LM's weight is chosen on validation items for each length by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.baselines import Part, evaluate_priors, parts, run_baselines
from eval.stats import compare, interval_of_mean
from llmgen.adapters import AdapterRecord
from llmgen.catalog import Catalog
from llmgen.datasets import load_dataset
from llmgen.engines import load_engine
from llmgen.priors import Prior, Seen
from llmgen.recommender import Recommender
from llmgen.splits import Ties
from llmgen.types import FloatArray, Item, Query

CHUNK = 16
"""Users whose prompts stay in the engine while every arm answers."""
WEIGHTS = (0.05, 0.1, 0.2, 0.4, 1.0)


def cut(part: Part, length: int, users: int, k: int) -> Part:
    """Some users, evenly spread, with the newest items of their histories only."""
    some = np.unique(np.linspace(0, len(part.queries) - 1, min(users, len(part.queries))).round().astype(int))
    queries = [replace(part.queries[one], history=_newest(part.queries[one], length), k=k) for one in some]
    return Part(part.known, queries, [part.held_out[one] for one in some])


def gains(arms: Mapping[str, Recommender], part: Part, label: str) -> dict[str, dict[str, FloatArray]]:
    """HR and NDCG of each arm and user, the length of the answer as cut-off."""
    ranks: dict[str, list[int]] = {name: [] for name in arms}
    for start in track(range(0, len(part.queries), CHUNK), label):
        chunk = slice(start, start + CHUNK)
        for name, arm in arms.items():
            for answer, wanted in zip(arm.recommend_many(part.queries[chunk]), part.held_out[chunk], strict=True):
                ranks[name].append(next((place.rank for place in answer if place.item.id == wanted), 0))
    found = {}
    for name, values in ranks.items():
        rank = np.array(values, dtype=np.float64)
        hits = (rank > 0).astype(np.float64)
        found[name] = {"hr": hits, "ndcg": hits / np.log2(np.maximum(rank, 1) + 1)}
    return found


def main(
    adapter: Annotated[Path | None, typer.Option(help="Of training.sft; the untuned model without.")] = None,
    dataset: Annotated[str, typer.Option(help="A name or path that llmgen.datasets knows.")] = "movielens-100k",
    ties: Annotated[str, typer.Option(help="file or item_id.")] = "file",
    engine: Annotated[str, typer.Option(help="See load_engine.")] = "hf",
    lengths: Annotated[str, typer.Option(help="Of the histories.")] = "0,1,3,5",
    users: Annotated[int, typer.Option(min=2, help="Test users.")] = 400,
    tuning_users: Annotated[int, typer.Option(min=2, help="Users on whom the LM's weight is chosen.")] = 100,
    k: Annotated[int, typer.Option(min=1)] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write everything here.")] = None,
) -> None:
    """Measure, print and write."""
    data = load_dataset(dataset)
    tuning, final = parts(data.interactions, data.catalog, ties=cast(Ties, ties))
    baselines = run_baselines(data.interactions, data.catalog, ties=cast(Ties, ties), k=k)
    record = None if adapter is None else AdapterRecord.read(adapter)
    prompt = record.prompt if record else "next_item"
    model = load_engine(engine, adapter=None if adapter is None else str(adapter))

    def recommender(priors: Sequence[Prior], weight: float) -> Recommender:
        soft = [prior for prior in priors if not isinstance(prior, Seen)]
        return Recommender(data.catalog, model, prompt=prompt, priors=soft, lm_weight=weight, max_history=40)

    tables: dict[str, Any] = {}
    for length in map(int, lengths.split(",")):
        tried, asked = cut(tuning, length, tuning_users, k), cut(final, length, users, k)
        scores = {one.name: _priors(one.tuned, tried, data.catalog, k)["ndcg"].mean() for one in baselines}
        best = max(baselines, key=lambda one: scores[one.name])
        arms = {f"{weight:g}": recommender(best.tuned, weight) for weight in WEIGHTS}
        validation = gains(arms, tried, f"{length} items, weights")
        weight = max(WEIGHTS, key=lambda one: validation[f"{one:g}"]["ndcg"].mean())
        both = f"LM x {best.name}"
        values = {one.name: _priors(one.priors, asked, data.catalog, k) for one in baselines}
        final_arms = {"LM alone": recommender((), 1.0), both: recommender(best.priors, weight)}
        values |= gains(final_arms, asked, f"{length} items")
        rows = {
            row.arm: row for row in compare(values, baseline=best.name, hits=["hr"], seed=0) if row.metric == "ndcg"
        }
        tables[str(length)] = [
            {
                "name": name,
                "hr": interval_of_mean(metrics["hr"], seed=0)[:3],
                "ndcg": interval_of_mean(metrics["ndcg"], seed=0)[:3],
                "p": rows[name].p if name in rows else None,
                "weight": weight if name == both else None,
            }
            for name, metrics in values.items()
        ]
        _print(tables[str(length)], f"the newest {length} items, {len(asked.queries)} users; p against {best.name}", k)
    if json_file is not None:
        json_file.write_text(json.dumps({"model": model.name, "k": k, "tables": tables}, indent=1) + "\n", "utf-8")


def _newest(query: Query, length: int) -> tuple[Item, ...]:
    return tuple(query.history[-length:]) if length else ()


def _priors(priors: Sequence[Prior], part: Part, catalog: Catalog, k: int) -> dict[str, FloatArray]:
    found = evaluate_priors(priors, part.queries, part.held_out, catalog=catalog, k=k)
    return {"hr": found.hit_rates, "ndcg": found.ndcgs}


def _print(rows: Sequence[Mapping[str, Any]], title: str, k: int) -> None:
    table = Table(title=title)
    for heading in ("", f"HR@{k}", f"NDCG@{k}", "p", "LM weight"):
        table.add_column(heading)
    for row in rows:
        cells = ["{:.4f} [{:.4f}, {:.4f}]".format(*row[name]) for name in ("hr", "ndcg")]
        p, weight = ("" if row[name] is None else f"{row[name]:.3g}" for name in ("p", "weight"))
        table.add_row(row["name"], *cells, p, weight)
    Console(width=160).print(table)


if __name__ == "__main__":
    typer.run(main)
