"""What vectors of items add: to wishes in words, to new items, to users with a history.

    python -m eval.meaning wishes ml-latest-small.zip --vectors runs/vectors/ml-latest-small
    python -m eval.meaning new --vectors runs/vectors/ml-100k
    python -m eval.meaning warm ml-100k --vectors runs/vectors/ml-100k

No language model is asked. Each weight is chosen on the part of the questions that is for choosing, then the other part
is asked once. NDCG@10 with 95 % bootstrap intervals over users (tags); differences are paired, p is of the sign-flip
test with Holm's correction over the rows of a table.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from eval.wishes import parted
from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.evaluation.baselines.classics import RandomTies
from llmgen.evaluation.baselines.prior_evaluation import evaluate_priors
from llmgen.evaluation.metrics.ranking import ndcg_at_k
from llmgen.evaluation.protocols.protocol import Protocol, not_drawn, samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.significance import holm, permutation_test
from llmgen.priors import (
    Content,
    Ease,
    ExcludeSeen,
    HistoryText,
    HistoryVectors,
    ItemKNN,
    Popularity,
    Prior,
    TextQuery,
    TextQueryVectors,
    Transition,
    reweighted,
)
from llmgen.priors.meaning import NEIGHBOURS
from llmgen.recommend.tuning import tune_weights
from llmgen.types import FloatArray, Query
from llmgen.vectors import ItemVectors, load_encoder

K = 10
Priors = Sequence[Prior]
TEMPERATURES = (0.05, 0.1, 0.2)
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
EncoderOption = Annotated[str, typer.Option(help="See llmgen.vectors.load_encoder.")]
VectorsOption = Annotated[Path, typer.Option("--vectors", help="A folder to keep the vectors in.")]
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Row(NamedTuple):
    """What a mix was worth.

    Attributes:
        name: Of the mix.
        settings: Chosen: weights by prior.
        values: NDCG@10 of each user.
    """

    name: str
    settings: Mapping[str, float]
    values: FloatArray


def best(
    said: Sequence[FloatArray], weights: Sequence[float], ids: NDArray[np.str_], tie_order: FloatArray | None = None
) -> list[list[str]]:
    """Ids of the ten best items of each query by a product of priors.

    Args:
        said: Log weights of each prior, float64 [n_queries, n_items]; none only with a `tie_order`.
        weights: One a prior.
        ids: Of the items.
        tie_order: float64 [n_queries, n_items]: of items with equal scores those with the smaller number come first;
            by default those that come first in `ids`.
    """
    order = np.tile(np.arange(len(ids)), (len(said[0]), 1)) if tie_order is None else tie_order
    scores = sum((weight * one for weight, one in zip(weights, said, strict=True)), start=np.zeros(order.shape))
    return [ids[_first(row, ties)].tolist() for row, ties in zip(scores, order, strict=True)]


def _first(scores: FloatArray, ties: NDArray[np.number]) -> NDArray[np.int64]:
    """Positions of the ten highest scores, best first; only those that may be among them are sorted."""
    some = np.arange(len(scores))
    if len(scores) > K:
        some = np.flatnonzero(scores >= np.partition(scores, -K)[-K])
    return some[np.lexsort((ties[some], -scores[some]))[:K]]


def combinations(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Each name alone, each two, and so on."""
    return [some for size in range(1, len(names) + 1) for some in itertools.combinations(names, size)]


def weights_of(
    said: Sequence[FloatArray],
    ids: NDArray[np.str_],
    held_out: Sequence[Sequence[str]],
    tie_order: FloatArray | None = None,
) -> tuple[float, ...]:
    """The best weights of `WEIGHTS`, the first prior's being 1; see `best`."""
    grid = list(itertools.product((1.0,), *[WEIGHTS] * (len(said) - 1))) if said else [()]
    if len(grid) == 1:
        return grid[0]
    values = [ndcgs(best(said, one, ids, tie_order), held_out).mean() for one in grid]
    return grid[int(np.argmax(values))]


def ndcgs(found: Sequence[Sequence[str]], held_out: Sequence[Sequence[str]]) -> FloatArray:
    """NDCG@10 of each list."""
    return np.array([ndcg_at_k(one, set(wanted), K) for one, wanted in zip(found, held_out, strict=True)])


def table(rows: Sequence[Row], baseline: str) -> None:
    """Print the rows beside a baseline."""
    of = {row.name: row for row in rows}
    others = [row for row in rows if row.name != baseline]
    ps = dict(
        zip(
            (row.name for row in others),
            holm([permutation_test(row.values, of[baseline].values, seed=0).p for row in others]),
            strict=True,
        )
    )
    print(f"| {len(rows[0].values)} users | NDCG@10 | NDCG@10 - {baseline} | Holm p | weights |\n|---|---|---|---|---|")
    for row in rows:
        own = interval_of_mean(row.values, seed=0)
        cells = [row.name, f"{own.mean:.4f} [{own.low:.4f}, {own.high:.4f}]"]
        if row.name == baseline:
            cells += ["-", "-"]
        else:
            apart = paired_difference(row.values, of[baseline].values, seed=0)
            cells += [f"{apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}]", f"{ps[row.name]:.4f}"]
        cells.append(", ".join(f"{name} {weight:g}" for name, weight in row.settings.items()))
        print("| " + " | ".join(cells) + " |", flush=True)


def best_temperature(
    make: Callable[[float], Prior], score: Callable[[Prior], float], among: Sequence[float] = TEMPERATURES
) -> Prior:
    """The prior whose temperature does best alone on the part for choosing."""
    tried = {temperature: score(make(temperature)) for temperature in among}
    print("temperatures on the part for choosing:", {key: round(value, 4) for key, value in tried.items()}, flush=True)
    return make(max(tried, key=tried.__getitem__))


def best_vectors(
    read: ItemVectors, queries: Sequence[Query], held_out: Sequence[Sequence[str]], popularity: FloatArray
) -> TextQueryVectors:
    """The temperature and the number of neighbours that do best beside popularity on the part for choosing.

    Args:
        read: Vectors of the catalog; 300 neighbours (the default) are tried, and all items.
        queries: With a text.
        held_out: Ids that each query should find.
        popularity: Log weights, float64 [n_queries, n_items].
    """
    ids = np.array(read.catalog.ids)
    tried = {}
    for neighbours, temperature in itertools.product((NEIGHBOURS, len(ids)), TEMPERATURES):
        near = TextQueryVectors(read, neighbours=neighbours, temperature=temperature)
        beside = [near.log_weights(queries), popularity]
        found = [best(beside, (1.0, weight), ids) for weight in WEIGHTS]
        tried[near] = max(float(ndcgs(one, held_out).mean()) for one in found)
    told = {f"{near.neighbours} at {near.temperature:g}": round(value, 4) for near, value in tried.items()}
    print("neighbours and temperature, x popularity, on the part for choosing:", told, flush=True)
    return max(tried, key=tried.__getitem__)


@app.command("wishes")
def of_wishes(
    release: Annotated[Path, typer.Argument(help="Zip or folder of a MovieLens release with tags.csv.")],
    vectors: VectorsOption,
    encoder: EncoderOption = "minilm",
    seed: int = 0,
) -> None:
    """Tags as wishes of users without a history, see `eval.wishes`; half of them choose the weights."""
    data = Protocol.model_validate({"data": {"dataset": str(release)}}).load()
    catalog = data.catalog
    tuning, final = parted(release, catalog, data.interactions, seed, K)
    read = ItemVectors.make(catalog, load_encoder(encoder), vectors)
    bm25, popularity = TextQuery(catalog), Popularity.fit(data.interactions, catalog)
    near = best_vectors(read, tuning.queries, tuning.held_out, popularity.log_weights(tuning.queries))
    ids = np.array(catalog.ids)

    def said(sample: Sample) -> dict[str, FloatArray]:
        priors: Mapping[str, Prior] = {"bm25": bm25, "vectors": near, "popularity": popularity}
        return {name: prior.log_weights(sample.queries) for name, prior in priors.items()}

    known, asked = said(tuning), said(final)
    rows, found = [], {}
    for mix in combinations(tuple(known)):
        weights = weights_of([known[name] for name in mix], ids, tuning.held_out)
        found[mix] = best([asked[name] for name in mix], weights, ids)
        name = " x ".join(mix)
        rows.append(Row(name, dict(zip(mix, weights, strict=True)), ndcgs(found[mix], final.held_out)))
    table(rows, "bm25 x popularity")
    silent = [number for number, row in enumerate(asked["bm25"]) if not row.any()]
    if len(silent) < 2:
        print(f"\nA word of nearly each tag stands in a title: {len(silent)} tags are too few for the control")
        return
    print(f"\nOf the {len(silent)} tags of which no word stands in any title or genre: their own lists and all others'")
    print("| | own list | lists of the others | own - others |\n|---|---|---|---|")
    for mix in found:
        own, others = exchanged([found[mix][n] for n in silent], [final.held_out[n] for n in silent])
        apart = paired_difference(own, others, seed=0)
        print(
            f"| {' x '.join(mix)} | {own.mean():.4f} | {others.mean():.4f} | {apart.mean:+.4f} [{apart.low:+.4f}, "
            f"{apart.high:+.4f}], p {permutation_test(own, others, seed=0).p:.4f} |",
            flush=True,
        )


def exchanged(found: Sequence[Sequence[str]], held_out: Sequence[Sequence[str]]) -> tuple[FloatArray, FloatArray]:
    """What each one's own list is worth to it, and the lists of all others on average; NDCG@10.

    >>> exchanged([["a"], ["b"]], [("a",), ("a",)])
    (array([1., 0.]), array([0., 1.]))
    """
    worth = np.array([[ndcg_at_k(one, set(wanted), K) for one in found] for wanted in held_out])
    own = np.diagonal(worth).copy()
    return own, (worth.sum(axis=1) - own) / (len(found) - 1)


@app.command("new")
def of_new_items(
    vectors: VectorsOption,
    encoder: EncoderOption = "minilm",
    users: Annotated[int, typer.Option(help="Who is asked; the others choose the weights.")] = 300,
    data: Annotated[str, typer.Option(help="Settings of the data, JSON; MovieLens-100K by default.")] = "{}",
    most: Annotated[int, typer.Option(help="Of the others, on whom weights are chosen at most.")] = 2000,
) -> None:
    """A tenth of the items is taken out of everything that is fitted, and ranked among themselves."""
    protocol = _protocol(data, split="new_items", among="new", users=users)
    dataset = protocol.load()
    final = samples(protocol, dataset)[1]
    others = not_drawn(protocol, dataset)
    if others is None:
        raise ConfigError(f"--users {users} asks all of {len(final)}, and nobody is left to choose weights on")
    assert final.among is not None  # of this split
    everyone = samples(protocol.model_copy(update={"users": None}), dataset)[1].spread(10_000)
    others = others.spread(most)
    catalog = dataset.catalog
    read = ItemVectors.make(catalog, load_encoder(encoder), vectors)
    new = np.array(sorted(catalog.positions(catalog[item] for item in final.among)), np.int64)
    shelf = ItemVectors.of(
        Catalog(catalog[int(place)] for place in new), read.at(new)
    )  # so that all neighbours are new
    ids = np.array(catalog.ids)[new]
    wholes: dict[str, Prior] = {"content": Content(catalog), "texts": HistoryText(catalog)}
    ties = RandomTies(len(catalog), protocol.seed)

    def said(name: str, temperature: float, sample: Sample) -> FloatArray:
        """What a prior says of the new items, float64 [n_users, n_new]."""
        if name == "vectors":
            near = HistoryVectors(shelf, temperature=temperature, others=[read])
            return near.log_weights(sample.queries)
        chunks = (sample.queries[start : start + 64] for start in range(0, len(sample.queries), 64))
        return np.concatenate([wholes[name].log_weights(chunk)[:, new] for chunk in chunks])

    def of(name: str, sample: Sample) -> FloatArray:
        return said(name, temperature, sample)

    def tie_order(sample: Sample) -> FloatArray:
        return np.stack([ties(query)[new] for query in sample.queries])

    order = tie_order(others)
    tried = {
        one: float(ndcgs(best([said("vectors", one, others)], (1.0,), ids, order), others.held_out).mean())
        for one in TEMPERATURES
    }
    temperature = max(tried, key=tried.__getitem__)
    print("temperatures on the part for choosing:", {one: round(tried[one], 4) for one in tried}, flush=True)
    names = ("content", "texts", "vectors")
    known = {name: of(name, others) for name in names}
    mixes = [(), *combinations(names)]
    chosen = {mix: weights_of([known[name] for name in mix], ids, others.held_out, order) for mix in mixes}
    for title, sample in (("drawn", final), ("all, those who chose the weights too", everyone)):
        print(f"\n{title}")
        known, order = {name: of(name, sample) for name in names}, tie_order(sample)
        rows = []
        for mix, weights in chosen.items():
            found = best([known[name] for name in mix], weights, ids, order)
            name = " x ".join(mix) or "chance"
            rows.append(Row(name, dict(zip(mix, weights, strict=True)), ndcgs(found, sample.held_out)))
        table(rows, "texts")


@app.command("warm")
def of_known_users(
    vectors: VectorsOption,
    encoder: EncoderOption = "minilm",
    data: Annotated[str, typer.Option(help="Settings of the data, JSON; MovieLens-100K by default.")] = "{}",
    users: Annotated[int, typer.Option(help="Who is asked at most.")] = 10_000,
    tuning_users: Annotated[int, typer.Option(help="On whom weights are chosen at most.")] = 1_000,
    chosen: Annotated[
        str, typer.Option(help="Settings of the collaborative priors, JSON; those chosen on MovieLens-100K by default.")
    ] = "",
) -> None:
    """The mix of collaborative priors with and without the vectors of the history; leave-one-out."""
    settings = json.loads(chosen) if chosen else CHOSEN
    protocol = _protocol(data)
    dataset = protocol.load()
    catalog = dataset.catalog
    tuning, final = samples(protocol, dataset)
    few, asked = tuning.drawn(tuning_users, 1), final.drawn(users, 0)
    read = ItemVectors.make(catalog, load_encoder(encoder), vectors)

    def fitted(sample: Sample) -> list[Prior]:
        fits: dict[str, Callable[..., Prior]] = {
            "item_knn": ItemKNN.fit,
            "ease": Ease.fit,
            "transition": Transition.fit,
        }
        own = [fits[name](sample.known, catalog, **given) for name, given in settings.items()]
        return [ExcludeSeen(catalog), Popularity.fit(sample.known, catalog), *own]

    def score(priors: Priors, sample: Sample) -> FloatArray:
        return evaluate_priors(priors, sample.queries, sample.targets, catalog=catalog, k=K, batch_size=256).ndcgs

    near = best_temperature(
        lambda temperature: HistoryVectors(read, temperature=temperature, newest=10),
        lambda prior: float(score([ExcludeSeen(catalog), prior], few).mean()),
    )
    texts = HistoryText(catalog)
    before, after = fitted(few), fitted(asked)
    rows = []
    for name, more in (("mix", []), ("mix x texts", [texts]), ("mix x vectors", [near])):
        tuned = tune_weights([*before, *more], few.queries, few.targets, catalog=catalog, k=K)
        weights = {prior.name: prior.weight for prior in tuned.priors}
        print(f"{name}: NDCG@{K} {tuned.score:.4f} on the part for choosing", flush=True)
        mix = [reweighted(prior, weights[prior.name]) for prior in (*after, *more)]
        rows.append(Row(name, {key: weights[key] for key in weights if key != "seen"}, score(mix, asked)))
    rows.append(Row("vectors alone", {}, score([ExcludeSeen(catalog), near], asked)))
    table(rows, "mix")


CHOSEN: Mapping[str, Mapping[str, float]] = {
    "item_knn": {"neighbours": 200, "shrinkage": 10, "decay": 0.85},
    "ease": {"l2": 300, "decay": 0.9},
    "transition": {"window": 20, "step_decay": 0.9, "backward": 1.0, "column_power": 0.5, "decay": 0.8},
}
"""On the validation item of MovieLens-100K, see eval/RESULTS.md."""


def _protocol(data: str, **settings: object) -> Protocol:
    """The protocol of a study; `data` is JSON."""
    given = json.loads(data)
    return Protocol.model_validate({**({"data": given} if given else {}), **settings})


if __name__ == "__main__":
    app()
