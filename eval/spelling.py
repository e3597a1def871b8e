"""How should a model spell items: by titles, by words before them, or by codes? At equal training compute.

    python -m eval.spelling --data '{"items": ..., "interactions": ...}' --out runs/spelling --tokens 2000000

A tenth of the items is taken out as if it were new. Trees and codebooks are fitted on the others, and new items get
their place in them; `codes-taken` has vectors of who took what (truncated SVD of users x items) and knows nothing of
new items. Each arm is trained by `llmgen train` on as many tokens as the others, with the loss over the catalog; of
several learning rates each takes the one with which a tenth of the tokens gets the fewest nats of validation. Warm
users are asked for the first known item that they took afterwards, ranked among all known ones; others for the new
items that they took, ranked among the new ones. The LM's weight beside a prior is chosen by NDCG on other questions: of
warm users on their item of validation, of new items on a quarter of the users, who are not asked then. With several
seeds a user's figure is the mean over them. Trainings and answers are kept, and gone on with after a stop.

`--plan` says first how small a difference so many users show, and how each arm spells items.

`--model new` makes a small Llama and a tokenizer from the titles, for machines where no other can be trained; all its
weights are tuned. What it knows of words it has from these titles alone, so it says little of a model that can read.

More than 400 lines: one study, whose arms must be made, trained and measured by the same steps.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import polars as pl
import typer
from scipy import sparse
from scipy.sparse.linalg import svds
from tokenizers import AddedToken
from transformers import AutoTokenizer

from eval.small_model import new_model
from llmgen.adapters import AdapterRecord
from llmgen.catalog.core import Catalog, Identifier
from llmgen.datasets import Dataset
from llmgen.datasets.splits import ItemsLeftOut, histories, leave_items_out
from llmgen.engines.chat import ChatTokenizer
from llmgen.engines.fake import FakeEngine
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError
from llmgen.evaluation.metrics.ranking import ndcg_at_k
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.power import detectable_difference
from llmgen.evaluation.stats.significance import holm, permutation_test
from llmgen.evaluation.terminal import exit_on_error
from llmgen.identifiers import Codes, Words, save_identifier
from llmgen.identifiers.named import identified
from llmgen.models import demo_model
from llmgen.priors import HistoryText, Prior, Transition
from llmgen.recommend.recommender import Recommender
from llmgen.templates.views import ItemView
from llmgen.training import sft
from llmgen.training.data import Mixture
from llmgen.training.item_tokens import add_item_tokens
from llmgen.training.parsing import parse
from llmgen.training.validation import ALONE, nats
from llmgen.types import FloatArray, Query
from llmgen.vectors import ItemVectors, load_encoder
from llmgen.vectors.encoders import Float32Array
from llmgen.workspace.core import DataSettings

ARMS = ("title", "words", "codes", "codes-taken")
K = 10
NEW = "new"
TASKS: dict[str, dict[str, Any]] = {
    "list": {"prompts": ["next_item_list"], "weight": 4},
    "describe": {"prompts": ["describe"], "weight": 1},
}
"""What is learned; `describe`, the meaning of a code, is left out where nothing describes an item."""
WEIGHTS = (0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
VALUES = ("nats", "alone", "beside")
"""What is told of each user, see `Found`."""
ASKED_AT_ONCE = 64
ROLES = ("system", "user", "assistant")
"""Words of a chat around every prompt."""
CHOOSING = 200
"""Users on whom the LM's weight beside a prior is chosen, at most."""


class Part(NamedTuple):
    """Questions of one kind.

    Attributes:
        name: `warm` or `new`.
        choosing: On which the LM's weight is chosen.
        asked: In the end.
        before: The prior on what was known before `choosing`.
        prior: That on what was known before `asked`.
    """

    name: str
    choosing: Sample
    asked: Sample
    before: Prior
    prior: Prior


@dataclass(frozen=True)
class Found:
    """What became of one arm on a part.

    Attributes:
        alone: float64 [n_users], NDCG@10 of the model alone.
        beside: The same beside the prior.
        nats: float64 [n_users], of the model alone for the first item that is right.
        weight: Of the LM beside the prior.
        prompt_tokens: Of a request, on average.
        rounds: Of the search alone, on average.
    """

    alone: FloatArray
    beside: FloatArray
    nats: FloatArray
    weight: float
    prompt_tokens: float
    rounds: float

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {name: value if isinstance(value, float) else value.tolist() for name, value in vars(self).items()}

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Found:
        """What `plain` made."""
        values: dict[str, Any] = {
            name: np.array(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        return cls(**values)


def taken_vectors(train: pl.DataFrame, catalog: Catalog, dimensions: int = 64) -> Float32Array:
    """Vectors of who took what, float32 [n_items, dimensions]; 0 of items that nobody took.

    The right singular vectors of users x items, rows of length 1, times their singular values (Sarwar et al., 2000).
    """
    users = train["user_id"].unique(maintain_order=True).to_list()
    row = {user: number for number, user in enumerate(users)}
    rows = np.array([row[user] for user in train["user_id"].to_list()])
    columns = np.array(catalog.positions(train["item_id"].to_list()))
    table = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(users), len(catalog)))
    table.data[:] = 1.0
    shares = sparse.diags_array(1 / np.sqrt(table.sum(axis=1))) @ table
    _, values, right = svds(shares, k=min(dimensions, min(shares.shape) - 1), rng=np.random.default_rng(0))
    return (right.T * values).astype(np.float32)


def fit_identifier(arm: str, out: Path, known: Catalog, left: ItemsLeftOut, encoder: str) -> str:
    """The name of an arm's identifier, fitted on the known items the first time."""
    folder = out / arm / "identifier"
    if arm == "title" or (folder / "identifier.json").exists():
        return arm if arm == "title" else str(folder)
    if arm == "codes-taken":
        vectors = ItemVectors.of(known, taken_vectors(left.train, known))
    else:
        vectors = ItemVectors.make(known, load_encoder(encoder), out / "vectors")
    save_identifier(Words.fit(vectors) if arm == "words" else Codes.fit(vectors), folder)
    return str(folder)


def describe(arm: str, known: Catalog, identifier: str, base: str) -> str:
    """A row on how an arm spells items: tokens of one, and how many items share their spelling with another."""
    catalog = identified(known, identifier)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if catalog.identifier is not None:
        tokenizer.add_tokens([AddedToken(one, normalized=False, special=False) for one in catalog.identifier.tokens])
    lengths = [len(path) - 1 for path in ChatTokenizer(tokenizer).spell(list(catalog.spellings))]
    counts = Counter(catalog.spellings)
    shared = sum(counts[one] > 1 for one in catalog.spellings)
    examples = " / ".join(catalog.spellings[number] for number in (0, len(catalog) // 2, len(catalog) - 1))
    return f"| {arm} | {np.mean(lengths):.1f} | {np.quantile(lengths, 0.95):.0f} | {shared:,} | {examples} |"


def base_of(out: Path, known: Catalog, identifiers: Sequence[str], hidden: int, layers: int, seed: int) -> Path:
    """The folder of a small model of the known items, which is made the first time.

    Its tokenizer has learned the titles, with the words before them, and the prompts.
    """
    folder = out / f"base-{hidden}x{layers}-{seed}"
    if not (folder / "config.json").exists():
        catalogs = [known, *(identified(known, identifier) for identifier in identifiers)]
        texts = [one.spellings for one in catalogs if one.identifier is None or not one.identifier.tokens]
        ask = Recommender(known, FakeEngine())
        rendered = [
            *ask.messages(Query(), prompt="next_item_list").messages[:2],
            *ask.messages(Query(), prompt="describe", target="-", item=ItemView("-")).messages[:2],
        ]
        titles = [title for some in texts for title in some]
        new_model(titles, [*(one.content for one in rendered), *ROLES], folder, hidden=hidden, layers=layers, seed=seed)
    return folder


def settings_of(
    arm: str, data: dict[str, Any], identifier: str, history: int, args: dict[str, Any], out: Path
) -> dict[str, str]:
    """Flags of `llmgen train` of an arm, without the number of steps."""
    # a code is described by its title, to a model that knows words
    describes = bool(data.get("attributes")) or (arm.startswith("codes") and args["peft"] != "{}")
    tasks = {name: task for name, task in TASKS.items() if name != "describe" or describes}
    tasks["list"] = {**tasks["list"], "max_history": history}
    recipe = {
        "data": json.dumps({**data, "identifier": identifier}),
        "leave_out": json.dumps({"share": 0.1}),
        "tasks": json.dumps(tasks),
        "loss": "catalog",
        "priors": json.dumps({"transition": {}}),
        "lm_weights": ",".join(map(str, WEIGHTS)),
        "validation_users": "0",
        "output_dir": str(out),
        "save_total_limit": "1",
        "lr_scheduler_type": "cosine",
        "logging_steps": "20",
        "disable_tqdm": "true",
    }
    return {**recipe, **{name: str(value) for name, value in args.items()}}


def tokens_a_step(settings: dict[str, str], draws: int = 200) -> float:
    """Tokens of a batch, from the first examples that a run draws."""
    recipe, args = parse(_flags({**settings, "max_steps": "1"}))
    model, tokenizer = sft.load_model(recipe)
    data = sft.load(recipe)
    catalog = data.dataset.catalog
    add_item_tokens(model, tokenizer, catalog)
    tasks = recipe.tasks
    recommender = Recommender(
        catalog, HFEngine(model, tokenizer), max_history=max(task.max_history for task in tasks.values())
    )
    mixture = Mixture(recommender, histories(data.known, catalog=catalog), tasks, seed=args.seed)
    count = sum(len(mixture[number].input_ids) for number in range(draws))
    return args.per_device_train_batch_size * count / draws


def _flags(settings: dict[str, str]) -> list[str]:
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def trained(settings: dict[str, str], tokens: int, validations: int) -> tuple[AdapterRecord, dict[str, Any]]:
    """Train on so many tokens; the record, and the curve, see `curve`."""
    a_step = tokens_a_step(settings)
    every = max(1, round(tokens / a_step / validations))
    steps = every * validations
    plan = {
        "max_steps": str(steps),
        "eval_strategy": "steps",
        "eval_steps": str(every),
        "save_steps": str(every),
    }
    recipe, args = parse(_flags({**settings, **plan}))
    record = sft.run(recipe, args)
    folder = Path(settings["output_dir"])
    rows = curve(folder, a_step, args.per_device_train_batch_size)
    return record, {"curve": rows, "steps": steps, "tokens_a_step": a_step}


def curve(folder: Path, a_step: float, batch: int) -> list[tuple[int, int, float, float]]:
    """Tokens, examples, nats of the model alone and nats beside the prior, of each validation of a run."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"]
    rows = {one["step"]: (one["eval_nats_lm"], one["eval_nats"]) for one in history if "eval_nats" in one}
    return [(round(step * a_step), step * batch, *lost) for step, lost in sorted(rows.items())]


def parts_of(dataset: Dataset, left: ItemsLeftOut, users: int) -> tuple[Part, Part]:
    """Warm users, among the known items, and users of new items, among the new ones; asked with all that is known."""
    catalog = dataset.catalog
    known, new = catalog.without(left.items), catalog.like(item for item in catalog if item.id in left.items)
    before = pl.concat([left.train, left.validation])
    learned, held = histories(left.train, catalog=catalog), histories(left.validation, catalog=catalog)
    past, later = histories(before, catalog=catalog), histories(left.recent, catalog=catalog)
    tested = histories(left.test, catalog=catalog)
    everything = histories(pl.concat([before, left.recent]), catalog=catalog)

    def of(log: pl.DataFrame, ranked: Catalog, rows: Sequence[tuple[str, Any, tuple[str, ...]]]) -> Sample:
        queries = tuple(Query(items, user_id=user, k=K) for user, items, _ in rows)
        return Sample(ranked, log, queries, tuple(ids for *_, ids in rows), (0.0,) * len(rows))

    def drawn(sample: Sample, count: int, start: int = 0) -> Sample:
        order = np.random.default_rng(0).permutation(len(sample))
        return sample.rows(np.sort(order[start : start + count]).tolist())

    choosing, warm = (
        of(log, known, [(user, first[user].items, (then[user].items[0].id,)) for user in then if user in first])
        for log, first, then in ((left.train, learned, held), (before, past, later))
    )
    cold = of(
        before,
        new,
        [
            (user, everything[user].items, tuple(dict.fromkeys(item.id for item in tested[user].items)))
            for user in tested
            if user in everything
        ],
    )
    quarter = len(cold) // 4
    texts = HistoryText(new)
    return (
        Part(
            "warm",
            drawn(choosing, CHOOSING),
            drawn(warm, users),
            Transition.fit(left.train, known),
            Transition.fit(before, known),
        ),
        Part("new", drawn(cold, min(quarter, CHOOSING)), drawn(cold, users, quarter), texts, texts),
    )


def asked(recommenders: Sequence[Recommender], sample: Sample) -> tuple[FloatArray, FloatArray]:
    """Ask some recommenders, those with one engine side by side, so that it reads each prompt once.

    Returns:
        float64 [n_recommenders, n_users], NDCG@10; float64 [2], tokens of a prompt and rounds of the search of the
        first one on average.
    """
    gains: list[list[float]] = [[] for _ in recommenders]
    costs: list[tuple[int, int]] = []
    for start in range(0, len(sample), ASKED_AT_ONCE):
        chunk = slice(start, start + ASKED_AT_ONCE)
        queries, wanted = sample.queries[chunk], sample.held_out[chunk]
        for number, recommender in enumerate(recommenders):
            answers = recommender.recommend_many(queries)
            gains[number] += [
                ndcg_at_k([place.item.id for place in answer], set(right), K)
                for answer, right in zip(answers, wanted, strict=True)
            ]
            costs += [(answer.prompt_tokens, answer.num_rounds) for answer in answers if not number]
    return np.array(gains), np.mean(costs, axis=0)


def measured(engine: HFEngine, identifier: Identifier | None, prompt: str, length: int, part: Part) -> Found:
    """Ask an arm, alone and beside a prior; the weight beside the prior is chosen first."""
    catalog = part.asked.catalog.identified(identifier)
    alone = Recommender(catalog, engine, prompt=prompt, max_history=length)
    first = [wanted[0] for wanted in part.asked.held_out]
    (lost,) = nats(
        engine.model, alone, part.asked.queries, first, (), prompt=prompt, weights=[ALONE], batch=32, quiet=True
    )
    before = alone.with_priors(prior_on(part.before, catalog))
    gains, _ = asked([before.configured(lm_weight=weight) for weight in WEIGHTS], part.choosing)
    weight = WEIGHTS[int(gains.mean(axis=1).argmax())]
    beside = alone.with_priors(prior_on(part.prior, catalog)).configured(lm_weight=weight)
    (own, both), (tokens, rounds) = asked([alone, beside], part.asked)
    return Found(own, both, lost, weight, float(tokens), float(rounds))


def prior_on(prior: Any, catalog: Catalog) -> Prior:
    """A prior on the same items, spelled in another way."""
    made: Prior = prior.on_catalog(catalog, np.arange(len(catalog)))
    return made


def mean_of(found: Sequence[Found]) -> Found:
    """The mean over seeds; the weight too."""
    return Found.of({name: np.mean([getattr(one, name) for one in found], axis=0).tolist() for name in vars(found[0])})


def compared(rows: dict[str, FloatArray], first: str) -> dict[str, str]:
    """Cells of a table: mean with its interval, paired difference from the first arm, and p by Holm over the arms.

    The standard deviation of the differences is told too, which says how small a difference would have been seen.
    """
    others = [arm for arm in rows if arm != first]
    p_of = dict(zip(others, holm([permutation_test(rows[arm], rows[first], seed=0).p for arm in others]), strict=True))
    cells = {}
    for arm, found in rows.items():
        mean = interval_of_mean(found, seed=0)
        cells[arm] = f"{mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}]"
        if arm in p_of:
            apart = paired_difference(found, rows[first], seed=0)
            sd = float(np.std(found - rows[first], ddof=1))
            seen = detectable_difference(sd, len(found), comparisons=len(others)) if sd else 0.0
            cells[arm] += (
                f"; {apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}], p {p_of[arm]:.4f}, shows {seen:.4f}"
            )
    return cells


def main(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")],
    data: Annotated[str, typer.Option(help="Settings of the data, JSON.")] = "{}",
    model: Annotated[str, typer.Option(help="Folder or hub name; `new` makes a small one.")] = "",
    tokens: Annotated[int, typer.Option(help="Of the training of each arm.")] = 2_000_000,
    users: Annotated[int, typer.Option(help="Asked at most, warm ones and those of new items.")] = 2_000,
    nats_users: Annotated[int, typer.Option(help="Of validation.")] = 1_000,
    validations: Annotated[int, typer.Option(help="During a training.")] = 4,
    batch: Annotated[int, typer.Option(help="Examples of a step.")] = 8,
    rates: Annotated[str, typer.Option(help="Largest learning rates; of several the best of each arm.")] = "1e-3",
    seeds: Annotated[str, typer.Option(help="Of trainings, separated by commas.")] = "0",
    history: Annotated[int, typer.Option(help="Items in a prompt at most.")] = 20,
    hidden: Annotated[int, typer.Option(help="Width of a new model.")] = 128,
    layers: Annotated[int, typer.Option(help="Of a new model.")] = 4,
    encoder: Annotated[str, typer.Option(help="Of texts.")] = "minilm",
    arms: Annotated[str, typer.Option(help="Separated by commas.")] = ",".join(ARMS),
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what can be shown, and how items are spelled; no model.")
    ] = False,
) -> None:
    """Fit identifiers, train, ask, compare."""
    with exit_on_error():
        chosen = arms.split(",")
        if unknown := [arm for arm in chosen if arm not in ARMS]:
            raise ConfigError(f"no arm is called {unknown[0]!r}; there are {', '.join(ARMS)}")
        tried, numbers = [float(rate) for rate in rates.split(",")], [int(seed) for seed in seeds.split(",")]
        given: dict[str, object] = json.loads(data)
        dataset = DataSettings.parse(given).load()
        left = leave_items_out(dataset.interactions, dataset.catalog.ids, share=0.1)
        known = dataset.catalog.without(left.items)
        parts = parts_of(dataset, left, users)
        counts = " and ".join(f"{len(part.asked)} {part.name}" for part in parts)
        print(f"{len(known)} known items, {len(left.items)} new; users asked: {counts}")
        if min(len(some) for part in parts for some in (part.asked, part.choosing)) < 2:
            raise ConfigError(
                "too few users took something afterwards, or something new, to ask any; give a larger log"
            )
        sd = 0.2
        for part in parts:
            least = detectable_difference(sd, len(part.asked), comparisons=len(chosen) - 1 or 1)
            print(f"{part.name}: {len(part.asked)} users show a difference of {least:.4f} NDCG@{K} (sd {sd}, power .8)")
        fits = {arm: fit_identifier(arm, out, known, left, encoder) for arm in chosen}

        def base(seed: int) -> str:
            return str(base_of(out, known, list(fits.values()), hidden, layers, seed)) if model == NEW else model

        if plan:
            print("\n| | tokens of an item | 95 % | items that share a spelling | such as |\n|---|---|---|---|---|")
            for arm in chosen:
                print(describe(arm, known, fits[arm], base(numbers[0]) or str(demo_model())), flush=True)
            return
        peft = {} if model == NEW else {"peft_type": "LORA", "r": 16, "target_modules": "all-linear"}
        shared = {"per_device_train_batch_size": batch, "nats_users": nats_users, "peft": json.dumps(peft)}
        told: dict[str, dict[str, Any]] = {arm: {"runs": []} for arm in chosen}
        found: dict[str, list[dict[str, Found]]] = {arm: [] for arm in chosen}

        def of(arm: str, name: str, rate: float, seed: int) -> dict[str, str]:
            args = {**shared, "learning_rate": rate, "seed": seed, "model": base(seed)}
            return settings_of(arm, given, fits[arm], history, args, out / arm / name)

        for arm in chosen:
            kept = out / arm / "rates.json"
            if not kept.exists() and len(tried) > 1:
                runs = {
                    rate: trained(of(arm, f"rate-{rate:g}", rate, numbers[0]), tokens // 10, 1)[0] for rate in tried
                }
                lost = {rate: record.metrics["eval_nats_lm"] for rate, record in runs.items()}
                kept.write_text(json.dumps(lost) + "\n", encoding="utf-8")
            rates_of = json.loads(kept.read_text(encoding="utf-8")) if len(tried) > 1 else {rates: 0.0}
            told[arm] |= {"rate": float(min(rates_of, key=rates_of.__getitem__)), "rates": rates_of}
            print(arm, json.dumps(told[arm]), flush=True)
        for seed in numbers:  # a seed of all arms before the next one
            for arm in chosen:
                folder = out / arm / f"run-{seed}"
                kept = folder / "found.json"
                if not kept.exists():
                    record, run = trained(of(arm, folder.name, told[arm]["rate"], seed), tokens, validations)
                    engine = HFEngine.load(
                        str(folder) if model == NEW else model or None, adapter=None if model == NEW else str(folder)
                    )
                    identifier = record.written(dataset.catalog, folder).identifier
                    prompt, length = record.recommender.prompts[0], record.recommender.max_history or history
                    answers = {part.name: measured(engine, identifier, prompt, length, part) for part in parts}
                    plain = {name: one.plain() for name, one in answers.items()}
                    kept.write_text(json.dumps({"run": run, "answers": plain}) + "\n", encoding="utf-8")
                read = json.loads(kept.read_text(encoding="utf-8"))
                told[arm]["runs"].append(read["run"])
                found[arm].append({name: Found.of(one) for name, one in read["answers"].items()})
                print(arm, seed, json.dumps(read["run"]), flush=True)
        results = {
            arm: {part.name: mean_of([one[part.name] for one in rows]) for part in parts} for arm, rows in found.items()
        }
        report(results, told, parts, out)


def report(results: dict[str, dict[str, Found]], told: dict[str, Any], parts: Sequence[Part], out: Path) -> None:
    """Tables on the terminal, and all numbers in `results.json`."""
    print("\n| | tokens of training | examples | nats an item, alone | beside transitions |\n|---|---|---|---|---|")
    for arm in results:
        for rows in zip(*(run["curve"] for run in told[arm]["runs"]), strict=True):
            tokens, examples, alone, beside = np.mean(rows, axis=0)
            print(f"| {arm} | {tokens:,.0f} | {examples:,.0f} | {alone:.3f} | {beside:.3f} |")
    first = next(iter(results))
    for part in parts:
        print(
            f"\n{part.name}, {len(part.asked)} users\n\n| | nats | NDCG@{K} alone | beside the prior | the LM's weight "
            "| tokens of a prompt | rounds |\n|---|---|---|---|---|---|---|"
        )
        of = {arm: found[part.name] for arm, found in results.items()}
        lost, alone, beside = ({arm: getattr(one, name) for arm, one in of.items()} for name in VALUES)
        prior = asked([Recommender(part.asked.catalog, None, priors=[part.prior])], part.asked)[0][0]
        cells = compared(lost, first), compared(alone, first), compared({**beside, "prior alone": prior}, first)
        for arm, one in of.items():
            cost = f"{one.weight:.2g} | {one.prompt_tokens:.0f} | {one.rounds:.2f}"
            print(f"| {arm} | {' | '.join(cell[arm] for cell in cells)} | {cost} |")
        print(f"| prior alone | | | {cells[2]['prior alone']} | | | |")
    kept = {arm: {**told[arm], **{name: one.plain() for name, one in found.items()}} for arm, found in results.items()}
    (out / "results.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
