"""What changes of the training loss bring, at equal compute: temperature, soft targets, a prior beside, the plain loss.

    python -m eval.levers --out runs/levers --model new --tokens 300000
    python -m eval.levers --out runs/levers --tokens 20000000

Each arm is `llmgen train` with one change to the loss over the catalog (`ARMS`), and all else the same: model, data,
examples, learning rate, and about as many tokens read, those of branches among them. Several seeds each. Measured are
validation items of a leave-one-out split: nats of the held-out item and NDCG@10, of the model alone and beside the
transition prior. The model's weight beside it is chosen on one half of the users for the other, by nats. What serves
has temperature 1; a model that was trained with another one is also asked with that. Differences are paired by user,
each user's mean over the seeds.

The second command takes SmolLM2-135M with LoRA, for a card. `--model new` makes a small Llama and a tokenizer from the
titles, for machines where no other can be trained; all its weights are tuned, and it knows no language.

What is finished stays in the folder; the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from torch import nn

from eval.small_model import new_model
from eval.spelling import NEW
from llmgen.adapters import AdapterRecord
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError
from llmgen.evaluation.metrics.ranking import ndcg_at_k
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.power import detectable_difference
from llmgen.evaluation.stats.significance import permutation_test
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import Prior, Transition
from llmgen.recommend.recommender import Recommender
from llmgen.training import sft
from llmgen.training.parsing import parse
from llmgen.training.validation import ALONE, nats
from llmgen.types import FloatArray, Query

K = 10
MIX: Mapping[str, Mapping[str, float]] = {
    "popularity": {"weight": -0.5},
    "item_knn": {"neighbours": 200, "shrinkage": 10.0, "decay": 0.85, "weight": 1.5},
    "ease": {"l2": 300.0, "decay": 0.9, "weight": 0.3},
    "transition": {
        "window": 20, "step_decay": 0.9, "backward": 1.0, "column_power": 0.5, "decay": 0.8, "weight": 2.0,
    },
}  # fmt: skip
"""The mix of priors of `training/configs/ml-100k-alone.yaml`."""
ARMS: Mapping[str, Mapping[str, Any]] = {
    "catalog": {},
    "temperature-2": {"loss_temperature": 2.0},
    "temperature-4": {"loss_temperature": 4.0},
    "soft-text": {"soft_targets": {"source": "text"}},
    "soft-mix": {"soft_targets": {"source": "priors"}, "priors": MIX},
    "beside": {"loss": "residual", "lm_weight": 0.3, "prior_dropout": 0.2},
    "lm": {"loss": "lm"},
}
"""Name -> settings of a recipe, beside those of all. The first is what the others are compared with."""
WEIGHTS = (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Of the model beside the prior, of which one is chosen."""
MEASURES = ("nats", "ndcg", "nats_beside", "ndcg_beside")
DRAWS = 60
"""Batches by which the tokens of a step are estimated."""
AT_ONCE = 64
SD = {"nats": 0.7, "ndcg": 0.15}
"""Of a user's difference between two arms, as assumed beforehand."""


class Found(NamedTuple):
    """What became of one run.

    Attributes:
        users: Measure -> float64 [n_users].
        weights: Of the model beside the prior, for each half of the users.
        tempered: Mean nats and mean NDCG@10 of the model alone with the temperature that it was trained with.
        steps: Of the run.
        tokens: That it read, estimated.
        cpu: Seconds of CPU of the training.
    """

    users: dict[str, list[float]]
    weights: tuple[float, float]
    tempered: tuple[float, float]
    steps: int
    tokens: int
    cpu: float


def settings_of(
    arm: str, seed: int, data: str, base: str, out: Path, batch: int, learning_rate: float, more: Mapping[str, str]
) -> dict[str, str]:
    """Flags of `llmgen train` of a run, without the number of steps."""
    own = {
        "loss": "catalog",
        "priors": {"transition": {}},
        "data": data,
        "model": base,
        "tasks": {"list": {"prompts": ["next_item_list"], "max_history": 20}},
        "validation_users": 0,
        "per_device_train_batch_size": batch,
        "learning_rate": learning_rate,
        "seed": seed,
        "output_dir": out,
        "save_strategy": "no",
        "logging_steps": 20,
        "disable_tqdm": "true",
    }
    given = {**own, **ARMS[arm], **more}
    return {name: json.dumps(one) if isinstance(one, dict) else str(one) for name, one in given.items()}


def flags(settings: Mapping[str, str]) -> list[str]:
    """Settings as a command line has them."""
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def tokens_a_step(settings: Mapping[str, str], draws: int = DRAWS) -> float:
    """Tokens that a step reads, branches among them, by the first batches of a run."""
    recipe, args = parse(flags({**settings, "max_steps": "1"}))
    model, tokenizer = sft.load_model(recipe)
    data = sft.load(recipe)
    longest = max(task.max_history for task in recipe.tasks.values())
    recommender = Recommender(data.dataset.catalog, HFEngine(model, tokenizer), max_history=longest)
    batches = sft.make_batches(recipe, args, data, recommender, sft.fit(recipe.priors, data.known, data.dataset))
    size = args.per_device_train_batch_size
    made = [
        batches([{"number": number} for number in range(start, start + size)]) for start in range(0, draws * size, size)
    ]
    return float(np.mean([batch["plan"].num_tokens for batch in made]))


def crossed(curve: FloatArray) -> tuple[int, int]:
    """The row that is best on the users with odd numbers, for those with even ones; and the other way round.

    Args:
        curve: float64 [n_weights, n_users], less is better.
    """
    return int(np.argmin(curve[:, 1::2].mean(axis=1))), int(np.argmin(curve[:, ::2].mean(axis=1)))


def ranked(recommender: Recommender, queries: Sequence[Query], held_out: Sequence[str]) -> FloatArray:
    """NDCG@10 of each user, float64 [n_users]."""
    gains: list[float] = []
    for start in range(0, len(queries), AT_ONCE):
        answers = recommender.recommend_many(queries[start : start + AT_ONCE])
        gains += [
            ndcg_at_k([place.item.id for place in answer], {wanted}, K)
            for answer, wanted in zip(answers, held_out[start : start + AT_ONCE], strict=True)
        ]
    return np.array(gains)


def measured(
    made: Recommender, model: nn.Module, queries: Sequence[Query], held_out: Sequence[str], prior: Prior
) -> tuple[dict[str, list[float]], tuple[float, float]]:
    """The measures of each user, and the weights beside the prior.

    Args:
        made: Asks the model alone.
        model: Of its engine.
        queries: One a user.
        held_out: Id of the item that each took next.
        prior: Beside which it is asked too.
    """
    prompt, weights = made.template().name, [*WEIGHTS, ALONE]
    found = nats(model, made, queries, held_out, [prior], prompt=prompt, weights=weights, quiet=True)
    curve, alone = found[:-1], found[-1]
    best = crossed(curve)
    beside, gains = np.empty(len(queries)), np.empty(len(queries))
    for half, row in enumerate(best):
        mine = slice(half, None, 2)
        arm = made.with_priors(prior, lm_weight=WEIGHTS[row])
        beside[mine], gains[mine] = curve[row, mine], ranked(arm, queries[mine], held_out[mine])
    users = {
        "nats": alone.tolist(),
        "ndcg": ranked(made, queries, held_out).tolist(),
        "nats_beside": beside.tolist(),
        "ndcg_beside": gains.tolist(),
    }
    return users, (WEIGHTS[best[0]], WEIGHTS[best[1]])


def run(settings: dict[str, str], steps: int, a_step: float, users: int, model: str) -> Found:
    """Train and measure one arm with one seed; what was trained or found before is taken as it is."""
    folder = Path(settings["output_dir"])
    kept, trained = folder / "found.json", folder / "trained.json"
    if kept.exists():
        stored = json.loads(kept.read_text(encoding="utf-8"))
        return Found(**{**stored, "weights": tuple(stored["weights"]), "tempered": tuple(stored["tempered"])})
    recipe, args = parse(flags({**settings, "max_steps": str(steps), "warmup_steps": str(max(1, steps // 20))}))
    if not trained.exists():
        began = time.process_time()
        sft.run(recipe, args)
        trained.write_text(json.dumps({"cpu": time.process_time() - began}) + "\n", encoding="utf-8")
    record = AdapterRecord.read(folder)
    assert record is not None  # the training has written it
    data = sft.load(recipe)
    chosen = np.unique(np.linspace(0, len(data.queries) - 1, min(users, len(data.queries))).round().astype(int))
    queries = [Query(data.queries[one].history, user_id=data.queries[one].user_id, k=K) for one in chosen]
    held_out = [data.held_out[one] for one in chosen]
    asked, new = record.recommender, not recipe.peft

    def asking(temperature: float) -> tuple[Recommender, nn.Module]:
        engine = HFEngine.load(str(folder) if new else model or None, adapter=None if new else str(folder))
        if temperature != 1:
            cool(engine.model, temperature)
        longest = asked.config().max_history
        return Recommender(data.dataset.catalog, engine, prompt=asked.prompts[0], max_history=longest), engine.model

    found, weights = measured(*asking(1.0), queries, held_out, Transition.fit(data.known, data.dataset.catalog))
    tempered = float(np.mean(found["nats"])), float(np.mean(found["ndcg"]))
    if recipe.loss_temperature != 1:
        made, cooled = asking(recipe.loss_temperature)
        lost = nats(cooled, made, queries, held_out, [], prompt=made.template().name, weights=[ALONE], quiet=True)
        tempered = float(lost.mean()), float(ranked(made, queries, held_out).mean())
    cpu = json.loads(trained.read_text(encoding="utf-8"))["cpu"]
    result = Found(found, weights, tempered, steps, round(steps * a_step), cpu)
    kept.write_text(json.dumps(result._asdict()) + "\n", encoding="utf-8")
    return result


def cool(model: Any, temperature: float) -> None:
    """Divide a model's logits by a temperature, by its last norm, to which they are proportional.

    Raises:
        ConfigError: Its last norm is none without a bias.
    """
    norm = getattr(model.get_decoder(), "norm", None)
    if norm is None or getattr(norm, "bias", None) is not None:
        raise ConfigError(f"{type(model).__name__} has no last norm whose scale is that of the logits")
    with torch.no_grad():
        norm.weight.div_(temperature)


def table(results: Mapping[str, Sequence[Found]]) -> str:
    """One table a measure: mean with interval over users, range over seeds, difference from the first arm."""
    first = next(iter(results))
    heads = ("steps", "tokens", "CPU s", "weights beside", "nats at its temperature", "ndcg at its temperature")
    lines = [f"| | {' | '.join(heads)} |", "|---" * 7 + "|"]
    for arm, found in results.items():
        weights = sorted({weight for one in found for weight in one.weights})
        tokens, cpu = found[0].tokens, np.mean([one.cpu for one in found])
        lost, gained = np.mean([one.tempered for one in found], axis=0)
        told = ", ".join(f"{weight:g}" for weight in weights)
        lines.append(f"| {arm} | {found[0].steps} | {tokens:,} | {cpu:.0f} | {told} | {lost:.3f} | {gained:.4f} |")
    for measure in MEASURES:
        lines += ["", f"| {measure} | mean [95 % over users] | over seeds | − {first} | p |", "|---|---|---|---|---|"]
        values = {arm: np.array([one.users[measure] for one in found]) for arm, found in results.items()}
        for arm, seeds in values.items():
            own, base = seeds.mean(axis=0), values[first].mean(axis=0)
            mean = interval_of_mean(own, seed=0)
            apart = "– | –"
            if arm != first and np.any(own != base):
                gap = paired_difference(own, base, seed=0)
                apart = (
                    f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}] | {permutation_test(own, base, seed=0).p:.4f}"
                )
            spread = f"{seeds.mean(axis=1).min():.4f} to {seeds.mean(axis=1).max():.4f}"
            lines.append(f"| {arm} | {mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}] | {spread} | {apart} |")
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")],
    data: Annotated[str, typer.Option(help="Settings of the data, JSON.")] = (
        '{"dataset": "movielens-100k", "label": "{title}"}'
    ),
    model: Annotated[str, typer.Option(help="Folder or hub name; `new` makes a small one.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="That each training reads.")] = 300_000,
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0 on.")] = 3,
    users: Annotated[int, typer.Option(min=4, help="Measured at most, evenly from the log.")] = 1_000,
    batch: Annotated[int, typer.Option(min=1, help="Examples of a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(min=0, help="Largest, of all arms.")] = 1e-3,
    arms: Annotated[str, typer.Option(help="Separated by commas; the first is compared with.")] = ",".join(ARMS),
    plan: Annotated[bool, typer.Option("--plan", help="Say what can be shown, and the steps; no training.")] = False,
) -> None:
    """Train, measure, compare."""
    with exit_on_error():
        chosen = arms.split(",")
        if unknown := [arm for arm in chosen if arm not in ARMS]:
            raise ConfigError(f"no arm is called {unknown[0]!r}; there are {', '.join(ARMS)}")
        more = {"peft": "{}"} if model == NEW else {}
        base = str(out / "base") if model == NEW else model
        first = settings_of(chosen[0], 0, data, base, out, batch, learning_rate, more)
        loaded = sft.load(parse(flags({**first, "model": ""}))[0])
        if model == NEW and not (out / "base" / "config.json").exists():
            new_model(loaded.dataset.catalog.labels, (), out / "base")
        count = min(users, len(loaded.queries))
        if count < 4:
            raise ConfigError(f"{count} users can be asked, and 4 are needed; give a larger log")
        for name, sd in SD.items():
            least = detectable_difference(sd, count, comparisons=len(chosen) - 1 or 1)
            print(f"{count} users show a difference of {least:.4f} {name} (sd {sd}, power .8, {len(chosen)} arms)")
        results: dict[str, list[Found]] = {}
        sizes = {}
        for arm in chosen:
            sizes[arm] = tokens_a_step(settings_of(arm, 0, data, base, out, batch, learning_rate, more))
            print(f"{arm}: {sizes[arm]:.0f} tokens a step, {max(1, round(tokens / sizes[arm]))} steps", flush=True)
        for seed in range(0 if plan else seeds):
            for arm in chosen:
                settings = settings_of(arm, seed, data, base, out / f"{arm}-{seed}", batch, learning_rate, more)
                found = run(settings, max(1, round(tokens / sizes[arm])), sizes[arm], users, model)
                results.setdefault(arm, []).append(found)
                means = ", ".join(f"{name} {np.mean(found.users[name]):.4f}" for name in MEASURES)
                print(f"{arm}, seed {seed}: {means}, {found.cpu:.0f} s of CPU", flush=True)
        if results:
            print(table(results))


if __name__ == "__main__":
    typer.run(main)
