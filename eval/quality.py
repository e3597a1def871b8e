"""A language model beside the priors: each alone, and the model times the best prior, on held-out items.

    python -m eval.quality --dataset movielens-100k --ties file --out runs/quality-file

The protocol is that of `eval.baselines`. The LM's weight is chosen by NDCG@k on the validation items of some users;
then each user's test item is looked for in the top k of the real search. Every answered user is written to
`OUT/answers.jsonl` at once, and a run that was stopped goes on where it was. `OUT/results.json` holds the summary.
"""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NamedTuple, cast, get_args

import numpy as np
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.baselines import Part, Result, parts, run_baselines
from llmgen.datasets import load_dataset
from llmgen.engines import load_engine
from llmgen.priors import Prior, Seen
from llmgen.recommender import Recommender
from llmgen.splits import Ties
from llmgen.types import FloatArray, IntArray

CHUNK = 16  # users whose prompts stay in the engine while every arm answers
MISSED = np.iinfo(np.int64).max
MODES: Mapping[str, Mapping[str, object]] = {
    "LM alone": {},
    "LM alone, eligible children": {"normalise": "eligible"},
    "LM alone, raw": {"decoding": "raw"},
}


class Answer(NamedTuple):
    """One arm's answer for one user."""

    rank: int
    """Of the held-out item in the top k; `MISSED` if it is not there."""
    exact: bool
    rounds: int


@dataclass(frozen=True)
class Arm:
    """One recommender on one part of the split, for some of its users."""

    name: str
    recommender: Recommender
    users: range


class Store:
    """Answers of finished users, one JSON line each, appended as they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[tuple[str, str], Answer] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                record = json.loads(line)
                key = record["arm"], record["user"]
                self.known[key] = Answer(record["rank"] or MISSED, record["exact"], record["rounds"])

    def add(self, arm: str, user: str, answer: Answer) -> None:
        """Remember and write one answer."""
        self.known[arm, user] = answer
        rank = None if answer.rank == MISSED else answer.rank
        record = {"arm": arm, "user": user, "rank": rank, "exact": answer.exact, "rounds": answer.rounds}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def answer_all(arms: Sequence[Arm], part: Part, store: Store, k: int, label: str) -> None:
    """Let every arm answer for its users; arms share a user's prompt, so they go through the users side by side."""
    users = sorted({user for arm in arms for user in arm.users})
    chunks = [users[start : start + CHUNK] for start in range(0, len(users), CHUNK)]
    for chunk in track(chunks, label):
        for arm in arms:
            numbers = [
                number for number in chunk if number in arm.users and (arm.name, _user(part, number)) not in store.known
            ]
            queries = [replace(part.queries[number], k=k) for number in numbers]
            for number, found in zip(numbers, arm.recommender.recommend_many(queries), strict=True):
                rank = next((place.rank for place in found if place.item.id == part.held_out[number]), MISSED)
                store.add(arm.name, _user(part, number), Answer(rank, found.exact, found.num_rounds))


def ranks_of(arm: str, part: Part, users: range, store: Store) -> IntArray:
    """Ranks of the held-out items under an arm, int64 [users]."""
    return np.array([store.known[arm, _user(part, number)].rank for number in users], dtype=np.int64)


def ndcgs(ranks: IntArray, k: int) -> FloatArray:
    """NDCG@k of each rank, one item held out."""
    return np.where(ranks <= k, 1 / np.log2(1.0 + ranks), 0.0)


def interval(values: FloatArray, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over users (percentiles, 10,000 draws)."""
    draws = np.random.default_rng(seed).integers(0, len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def sign_flip_p(differences: FloatArray, seed: int = 0, draws: int = 10_000) -> float:
    """Two-sided p of a paired difference's mean: how often flipped signs give one as large (Fisher, 1935)."""
    rng = np.random.default_rng(seed)
    observed = abs(differences.mean())
    flipped = np.abs((rng.choice([-1.0, 1.0], size=(draws, len(differences))) * differences).mean(axis=1))
    return float((1 + (flipped >= observed - 1e-12).sum()) / (1 + draws))


def main(
    out: Annotated[Path, typer.Option(help="Folder of this run; an unfinished run in it is continued.")],
    dataset: Annotated[str, typer.Option(help="A name or path that llmgen.datasets knows.")] = "movielens-100k",
    ties: Annotated[str, typer.Option(help="file or item_id.")] = "file",
    engine: Annotated[str, typer.Option(help="See load_engine.")] = "hf",
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter.")] = None,
    prompt: Annotated[str, typer.Option(help="Name of a prompt template.")] = "next_item",
    k: Annotated[int, typer.Option(min=1)] = 10,
    max_history: Annotated[int, typer.Option(min=0, help="Newest items in the prompt.")] = 10,
    lm_weights: Annotated[str, typer.Option(help="Tried on validation, separated by commas.")] = "0.03,0.1,0.3",
    tuning_users: Annotated[int, typer.Option(min=1, help="Users the weight is chosen on.")] = 150,
    mode_users: Annotated[int, typer.Option(min=0, help="Users for the other normalisations.")] = 150,
) -> None:
    """Measure, write and print."""
    if ties not in get_args(Ties):
        raise typer.BadParameter(f"ties are broken by file or item_id, not {ties!r}", param_hint="--ties")
    out.mkdir(parents=True, exist_ok=True)
    commit = _commit()
    data = load_dataset(dataset)
    tuning, final = parts(data.interactions, data.catalog, ties=cast(Ties, ties))
    baselines = run_baselines(data.interactions, data.catalog, ties=cast(Ties, ties), k=k)
    best = max(baselines, key=lambda result: result.validation)
    model = load_engine(engine, adapter=adapter)
    store = Store(out / "answers.jsonl")

    def recommender(priors: Sequence[Prior], lm_weight: float, **changes: object) -> Recommender:
        soft = [prior for prior in priors if not isinstance(prior, Seen)]
        return Recommender(
            data.catalog,
            model,
            prompt=prompt,
            priors=soft,
            lm_weight=lm_weight,
            max_history=max_history,
            **changes,  # type: ignore[arg-type]
        )

    started = time.monotonic()
    weights = [0.0, *map(float, lm_weights.split(","))]
    some = range(0, len(tuning.queries), max(1, len(tuning.queries) // tuning_users))
    tried = [Arm(f"validation {weight:g}", recommender(best.tuned, weight), some) for weight in weights]
    answer_all(tried, tuning, store, k, "Choosing the LM's weight")
    scores = {
        weight: float(ndcgs(ranks_of(arm.name, tuning, some, store), k).mean())
        for weight, arm in zip(weights, tried, strict=True)
    }
    chosen = max(weights[1:], key=lambda weight: scores[weight])

    everyone = range(len(final.queries))
    few = range(0, len(final.queries), max(1, len(final.queries) // mode_users)) if mode_users else range(0)
    arms = [Arm(f"LM x {best.name}", recommender(best.priors, chosen), everyone)]
    arms += [
        Arm(name, recommender((), 1.0, **changes), everyone if not changes else few) for name, changes in MODES.items()
    ]
    arms = [arm for arm in arms if arm.users]
    answer_all(arms, final, store, k, "Answering for every user")

    rows = list(_rows(baselines, arms, final, store, k, best))
    summary = {
        "command": f"python -m eval.quality --dataset {dataset} --ties {ties} --engine {engine} --prompt {prompt} "
        f"--max-history {max_history} --lm-weights {lm_weights} --tuning-users {tuning_users}",
        "commit": commit,
        "hardware": platform.processor() or platform.machine(),
        "model": model.name,
        "prompt": recommender((), 1.0).template().ref,
        "catalog": data.catalog.digest,
        "seconds": round(time.monotonic() - started),
        "validation_ndcg_by_lm_weight": scores,
        "chosen_lm_weight": chosen,
        "rows": rows,
    }
    (out / "results.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    _print(rows, summary, k)


def _rows(
    baselines: Sequence[Result], arms: Sequence[Arm], part: Part, store: Store, k: int, best: Result
) -> Iterator[dict[str, object]]:
    reference = best.test.ranks
    for result in baselines:
        yield _row(result.name, result.test.ranks, reference, k, note=_settings(result))
    for arm in arms:
        answers = [store.known[arm.name, _user(part, number)] for number in arm.users]
        exact = np.mean([answer.exact for answer in answers])
        rounds = np.mean([answer.rounds for answer in answers])
        note = f"LM weight {arm.recommender.config.lm_weight:g}; certified {exact:.0%}; {rounds:.1f} rounds"
        yield _row(arm.name, ranks_of(arm.name, part, arm.users, store), reference[list(arm.users)], k, note=note)


def _row(name: str, ranks: IntArray, reference: IntArray, k: int, *, note: str) -> dict[str, object]:
    hits, gains = (ranks <= k).astype(np.float64), ndcgs(ranks, k)
    difference = gains - ndcgs(reference, k)
    return {
        "name": name,
        "users": len(ranks),
        "hit_rate": float(hits.mean()),
        "hit_rate_interval": interval(hits),
        "ndcg": float(gains.mean()),
        "ndcg_interval": interval(gains),
        "ndcg_difference": float(difference.mean()),
        "ndcg_difference_interval": interval(difference),
        "p": sign_flip_p(difference) if difference.any() else 1.0,
        "note": note,
    }


def _settings(result: Result) -> str:
    return ", ".join(f"{key} {value:g}" for key, value in result.settings.items())


def _user(part: Part, number: int) -> str:
    return str(part.queries[number].user_id)


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _print(rows: Sequence[Mapping[str, object]], summary: Mapping[str, object], k: int) -> None:
    table = Table(title=f"{summary['model']}, {summary['prompt']}, LM weight {summary['chosen_lm_weight']}")
    for heading in ("", "users", f"HR@{k}", f"NDCG@{k}", "95 %", "- best prior", "95 %", "p", ""):
        table.add_column(heading)
    for row in rows:
        low, high = cast(tuple[float, float], row["ndcg_interval"])
        less, more = cast(tuple[float, float], row["ndcg_difference_interval"])
        table.add_row(
            str(row["name"]),
            str(row["users"]),
            f"{row['hit_rate']:.4f}",
            f"{row['ndcg']:.4f}",
            f"{low:.4f} {high:.4f}",
            f"{row['ndcg_difference']:+.4f}",
            f"{less:+.4f} {more:+.4f}",
            f"{row['p']:.4f}",
            str(row["note"]),
        )
    Console(width=200).print(table)


if __name__ == "__main__":
    typer.run(main)
