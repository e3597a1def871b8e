"""Tags as wishes: what the product with vectors lacked, and what a language model adds to it.

    python -m eval.wish_mixes ml-latest-small.zip --vectors runs/vectors/ml-latest-small --adapter runs/demo-adapter

As `eval.meaning wishes`, with two more factors. *Past wishes*: the popularity among what the wishes of the part for
choosing found, since people do not wish for what most people rate; while weights are chosen, each wish is left out of
its own count. The *LM*, untuned and with an adapter, by the exact search of model x priors with the prompt
`cold_start`. Weights of the priors are chosen first, then that of the model, both by NDCG@10 on the part for choosing;
the other part is asked once. The control gives each tag the lists of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import polars as pl
import typer

from eval.meaning import (
    EncoderOption,
    K,
    Row,
    VectorsOption,
    best,
    best_vectors,
    exchanged,
    ndcgs,
    table,
    weights_of,
)
from eval.wishes import parted
from llmgen.catalog.core import Catalog
from llmgen.engines import Engine, load_engine
from llmgen.evaluation.protocols.protocol import Protocol
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.stats.intervals import paired_difference
from llmgen.evaluation.stats.power import detectable_difference
from llmgen.evaluation.stats.significance import permutation_test
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import Popularity, Prior, TextQuery
from llmgen.recommend.recommender import Recommender
from llmgen.types import FloatArray, Query
from llmgen.vectors import ItemVectors, load_encoder

WORDS, MEANING, PAST = (
    ("bm25", "popularity"),
    ("bm25", "vectors", "popularity"),
    ("bm25", "vectors", "popularity", "past wishes"),
)
MIXES = (("popularity",), WORDS, ("vectors", "popularity"), MEANING, ("popularity", "past wishes"), PAST)
LM_WEIGHTS = (0.05, 0.15, 0.5)
"""Tried for the model, beside priors whose first one has the weight 1."""


@dataclass(frozen=True, eq=False)
class Said:
    """Log weights that are known already, as a prior.

    Attributes:
        rows: User id -> float64 [n_items].
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    rows: Mapping[str, FloatArray] = field(repr=False)
    weight: float = 1.0
    name: str = "mix"

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`."""
        return np.stack([self.rows[str(query.user_id)] for query in queries])


def past_wishes(tuning: Sample, sample: Sample) -> FloatArray:
    """How often an item was what the wishes of the part for choosing wanted, a wish itself left out of its count.

    Returns:
        float64 [n_queries of the sample, n_items], as `Popularity` has it.
    """
    log = pl.DataFrame(
        [
            (str(query.user_id), item, 0)
            for query, wanted in zip(tuning.queries, tuning.held_out, strict=True)
            for item in wanted
        ],
        schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64},
        orient="row",
    )
    known = set(log["user_id"])
    every = Popularity.fit(log, tuning.catalog).log_shares
    return np.stack(
        [
            Popularity.fit(log.filter(pl.col("user_id") != user), tuning.catalog).log_shares if user in known else every
            for user in (str(query.user_id) for query in sample.queries)
        ]
    )


def asked_model(
    engine: Engine, catalog: Catalog, queries: Sequence[Query], mix: FloatArray, lm_weight: float
) -> list[list[str]]:
    """Ids of the ten best items of each wish under model x mix, by the search; each query has a user id of its own."""
    rows = dict(zip((str(query.user_id) for query in queries), mix, strict=True))
    recommender = Recommender(catalog, engine, priors=[Said(rows)], prompt="cold_start", lm_weight=lm_weight)
    return [[found.item.id for found in answer] for answer in recommender.recommend_many(queries)]


def control(found: Mapping[str, Sequence[Sequence[str]]], final: Sample, silent: Sequence[int]) -> None:
    """Print what the lists are worth to the tags that they were made for, and to the others."""
    print(
        f"\n| {len(silent)} tags of no title's words | own list | lists of others | own - others |\n|---|---|---|---|"
    )
    for name, lists in found.items():
        own, others = exchanged([lists[n] for n in silent], [final.held_out[n] for n in silent])
        apart = paired_difference(own, others, seed=0)
        p = permutation_test(own, others, seed=0).p
        print(
            f"| {name} | {own.mean():.4f} | {others.mean():.4f} | {apart.mean:+.4f} [{apart.low:+.4f}, "
            f"{apart.high:+.4f}], p {p:.4f} |",
            flush=True,
        )


def main(
    release: Annotated[Path, typer.Argument(help="Zip or folder of a MovieLens release with tags.csv.")],
    vectors: VectorsOption,
    encoder: EncoderOption = "minilm",
    engine: Annotated[str, typer.Option(help="See llmgen.engines.load_engine; `none` asks no model.")] = "hf",
    adapter: Annotated[str | None, typer.Option(help="A tuned model that is asked beside the untuned one.")] = None,
    seed: Annotated[int, typer.Option(help="Which tags choose the weights.")] = 0,
) -> None:
    """Ask the tags of one half, with weights that the other half chose."""
    with exit_on_error():
        data = Protocol.model_validate({"data": {"dataset": str(release)}}).load()
        catalog = data.catalog
        tuning, final = parted(release, catalog, data.interactions, seed, K)
        read = ItemVectors.make(catalog, load_encoder(encoder), vectors)
        popularity = Popularity.fit(data.interactions, catalog)
        near = best_vectors(read, tuning.queries, tuning.held_out, popularity.log_weights(tuning.queries))
        priors: Mapping[str, Prior] = {"bm25": TextQuery(catalog), "vectors": near, "popularity": popularity}
        known, asked = (
            {
                **{name: prior.log_weights(half.queries) for name, prior in priors.items()},
                "past wishes": past_wishes(tuning, half),
            }
            for half in (tuning, final)
        )
        ids = np.array(catalog.ids)
        found, rows, before, mixed = {}, {}, {}, {}
        for mix in MIXES:
            weights = weights_of([known[name] for name in mix], ids, tuning.held_out)
            name = " x ".join(mix)
            products = [
                np.sum([weight * half[one] for one, weight in zip(mix, weights, strict=True)], axis=0)
                for half in (known, asked)
            ]
            mixed[mix] = products
            before[name] = ndcgs(best(products[:1], (1.0,), ids), tuning.held_out)
            found[name] = best(products[1:], (1.0,), ids)
            rows[name] = Row(name, dict(zip(mix, weights, strict=True)), ndcgs(found[name], final.held_out))
        models = {} if engine == "none" else {"untuned": None, **({"tuned": adapter} if adapter else {})}
        for model, folder in models.items():
            loaded = load_engine(engine, adapter=folder)
            for mix in (WORDS, MEANING, PAST):
                name, (first, second) = f"{model} LM x {' x '.join(mix)}", mixed[mix]
                tried = {0.0: before[" x ".join(mix)]}
                for weight in LM_WEIGHTS:
                    tried[weight] = ndcgs(asked_model(loaded, catalog, tuning.queries, first, weight), tuning.held_out)
                print(
                    f"{name}, choosing:", {one: round(float(some.mean()), 4) for one, some in tried.items()}, flush=True
                )
                weight = max(tried, key=lambda one: float(tried[one].mean()))
                before[name] = tried[weight]
                found[name] = (
                    asked_model(loaded, catalog, final.queries, second, weight) if weight else found[" x ".join(mix)]
                )
                rows[name] = Row(name, {"LM": weight}, ndcgs(found[name], final.held_out))
        _tell(rows, before, len(final.queries))
        silent = [number for number, row in enumerate(asked["bm25"]) if not row.any()]
        if len(silent) > 1:
            control(found, final, silent)


def _tell(rows: Mapping[str, Row], before: Mapping[str, FloatArray], tags: int) -> None:
    """All beside BM25 x popularity, each model beside its own mix, the tuned ones beside BM25 x popularity's."""
    words = " x ".join(WORDS)
    print("NDCG@10 on the part for choosing:", {name: round(float(some.mean()), 4) for name, some in before.items()})
    for name in (" x ".join(MEANING), " x ".join(PAST)):
        sd = float(np.std(before[name] - before[words], ddof=1))
        sure = detectable_difference(sd, tags) if sd else 0.0
        print(f"{name} - {words} shows at .8 power in the other part from {sure:.4f} on")
    print()
    table(list(rows.values()), words)
    for mix in (MEANING, PAST):
        name = " x ".join(mix)
        several = [row for key, row in rows.items() if key == name or key.endswith(f"LM x {name}")]
        if len(several) > 1:
            print()
            table(several, name)
    tuned = f"tuned LM x {words}"
    if tuned in rows:
        print()
        table([rows[tuned], *(row for key, row in rows.items() if "vectors x" in key and "popularity" in key)], tuned)


if __name__ == "__main__":
    typer.run(main)
