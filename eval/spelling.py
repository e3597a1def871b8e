"""How should a model spell items: by titles, by words before them, or by codes? At equal training compute.

    python -m eval.spelling --data '{"items": ..., "interactions": ...}' --out runs/spelling --tokens 2000000

A tenth of the items is taken out as if it were new. Trees and codebooks are fitted on the others, and new items get
their place in them; `codes-taken` has vectors of who took what (truncated SVD of users x items) and knows nothing of
new items. Each arm is trained by `llmgen train` on as many tokens as the others, with the loss over the catalog. Warm
users are asked for the first known item that they took afterwards, ranked among all known ones; others for the new
items that they took, ranked among the new ones. Trainings are kept in the folder, and gone on with where they stopped.

`--plan` says first how small a difference so many users show, and how each arm spells items.

`--model new` makes a small Llama and a tokenizer from the catalog, for machines where no other can be trained; all its
weights are tuned. What it knows of words it has from these titles alone, so it says little of a model that can read.

More than 400 lines: one study, whose arms must be made, trained and measured by the same steps.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
import torch
import typer
from scipy import sparse
from scipy.sparse.linalg import svds
from tokenizers import AddedToken
from transformers import AutoTokenizer

from llmgen.catalog.core import Catalog
from llmgen.datasets import Dataset
from llmgen.datasets.splits import ItemsLeftOut, histories, leave_items_out
from llmgen.engines.chat import ChatTokenizer
from llmgen.engines.hf import HFEngine
from llmgen.errors import ConfigError
from llmgen.evaluation.metrics.ranking import ndcg_at_k
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.power import detectable_difference
from llmgen.evaluation.stats.significance import permutation_test
from llmgen.evaluation.terminal import exit_on_error
from llmgen.identifiers import Codes, Words, save_identifier
from llmgen.identifiers.named import identified
from llmgen.models import demo_model
from llmgen.priors import HistoryText, Prior, Transition
from llmgen.recommend.recommender import Recommender
from llmgen.training import sft
from llmgen.training.data import Mixture
from llmgen.training.item_tokens import add_item_tokens
from llmgen.training.parsing import parse
from llmgen.types import FloatArray, Query
from llmgen.vectors import ItemVectors, load_encoder
from llmgen.vectors.encoders import Float32Array
from llmgen.workspace.core import DataSettings

ARMS = ("title", "words", "codes", "codes-taken")
K = 10
NEW = "new"
TASKS: dict[str, dict[str, Any]] = {
    "list": {"prompts": ["next_item_list"], "weight": 4, "max_history": 20},
    "describe": {"prompts": ["describe"], "weight": 1},
}
"""What is learned; `describe`, the meaning of a code, is left out where nothing describes an item."""
WEIGHTS = "0.05,0.1,0.2,0.4,0.7,1"
ASKED_AT_ONCE = 64


@dataclass(frozen=True)
class Found:
    """What became of one arm on a sample.

    Attributes:
        alone: float64 [n_users], NDCG@10 of the model alone.
        beside: The same beside the priors.
        prompt_tokens: Of a request, on average.
        rounds: Of the search alone, on average.
    """

    alone: FloatArray
    beside: FloatArray
    prompt_tokens: float
    rounds: float


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


def new_model(catalog: Catalog, folder: Path, *, hidden: int = 128, layers: int = 4, vocabulary: int = 2048) -> None:
    """A Llama with random weights, and a byte-level BPE tokenizer trained on the titles, in a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe: Any = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(list(catalog.labels), trainer)
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(
        tokenizer_object=bpe, eos_token=special[2], pad_token=special[0], additional_special_tokens=special[1:2]
    )
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    llama: Any = LlamaForCausalLM
    llama(config).save_pretrained(folder)


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


def settings_of(
    arm: str, data: dict[str, Any], identifier: str, base: Path | str, args: dict[str, Any], out: Path
) -> dict[str, str]:
    """Flags of `llmgen train` of an arm, without the number of steps."""
    describes = arm.startswith("codes") or bool(data.get("attributes"))  # a code is described by its title
    tasks = {name: task for name, task in TASKS.items() if name != "describe" or describes}
    recipe = {
        "model": str(base),
        "data": json.dumps({**data, "identifier": identifier}),
        "leave_out": json.dumps({"share": 0.1}),
        "tasks": json.dumps(tasks),
        "loss": "catalog",
        "priors": json.dumps({"transition": {}}),
        "lm_weights": WEIGHTS,
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


def curve(folder: Path, a_step: float) -> list[tuple[int, float, float]]:
    """Tokens, nats of the model alone and nats beside the prior, of each validation of a run."""
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    history = json.loads(states[-1].read_text(encoding="utf-8"))["log_history"]
    rows = {one["step"]: (one["eval_nats_lm"], one["eval_nats"]) for one in history if "eval_nats" in one}
    return [(round(step * a_step), *nats) for step, nats in sorted(rows.items())]


def samples(dataset: Dataset, left: ItemsLeftOut, users: int) -> tuple[Sample, Sample]:
    """Warm users, among the known items, and users of new items, among the new ones; both with all that is known."""
    catalog = dataset.catalog
    known, new = catalog.without(left.items), catalog.like(item for item in catalog if item.id in left.items)
    before = pl.concat([left.train, left.validation])
    past, later = histories(before, catalog=catalog), histories(left.recent, catalog=catalog)
    warm = [(user, past[user].items, (later[user].items[0].id,)) for user in later if user in past]
    tested = histories(left.test, catalog=catalog)
    everything = histories(pl.concat([before, left.recent]), catalog=catalog)
    cold = [
        (user, everything[user].items, tuple(dict.fromkeys(item.id for item in tested[user].items)))
        for user in tested
        if user in everything
    ]

    def drawn(rows: Sequence[tuple[str, Any, tuple[str, ...]]], ranked: Catalog) -> Sample:
        queries = tuple(Query(items, user_id=user, k=K) for user, items, _ in rows)
        whole = Sample(ranked, before, queries, tuple(ids for *_, ids in rows), (0.0,) * len(rows))
        return whole.rows(np.sort(np.random.default_rng(0).permutation(len(rows))[:users]).tolist())

    return drawn(warm, known), drawn(cold, new)


def measured(
    engine: HFEngine, identified: Catalog, prompt: str, length: int, sample: Sample, prior: Prior, weight: float
) -> Found:
    """Ask an arm, alone and beside a prior."""
    catalog = sample.catalog.identified(identified.identifier)
    alone = Recommender(catalog, engine, prompt=prompt, max_history=length)
    beside = alone.with_priors(prior_on(prior, catalog)).configured(lm_weight=weight)
    gains: list[list[float]] = [[], []]
    tokens: list[int] = []
    rounds: list[int] = []
    queries = iter(zip(sample.queries, sample.held_out, strict=True))
    while some := list(islice(queries, ASKED_AT_ONCE)):
        for arm, found in zip((alone, beside), gains, strict=True):
            answers = arm.recommend_many([query for query, _ in some])
            found += [
                ndcg_at_k([place.item.id for place in answer], set(right), K)
                for answer, (_, right) in zip(answers, some, strict=True)
            ]
            if arm is alone:
                tokens += [answer.prompt_tokens for answer in answers]
                rounds += [answer.num_rounds for answer in answers]
    return Found(np.array(gains[0]), np.array(gains[1]), float(np.mean(tokens)), float(np.mean(rounds)))


def prior_on(prior: Any, catalog: Catalog) -> Prior:
    """A prior on the same items, spelled in another way."""
    made: Prior = prior.on_catalog(catalog, np.arange(len(catalog)))
    return made


def compared(found: FloatArray, title: FloatArray) -> str:
    """Mean with its interval, and the paired difference from titles."""
    mean = interval_of_mean(found, seed=0)
    text = f"{mean.mean:.4f} [{mean.low:.4f}, {mean.high:.4f}]"
    if found is title or not np.any(found != title):
        return text
    apart = paired_difference(found, title, seed=0)
    p = permutation_test(found, title, seed=0).p
    return f"{text}, {apart.mean:+.4f} [{apart.low:+.4f}, {apart.high:+.4f}] p {p:.4f}"


def main(
    out: Annotated[Path, typer.Option(help="Folder of everything that is made.")],
    data: Annotated[str, typer.Option(help="Settings of the data, JSON.")] = "{}",
    model: Annotated[str, typer.Option(help="Folder or hub name; `new` makes a small one.")] = "",
    tokens: Annotated[int, typer.Option(help="Of the training of each arm.")] = 2_000_000,
    users: Annotated[int, typer.Option(help="Asked at most, warm ones and those of new items.")] = 2_000,
    nats_users: Annotated[int, typer.Option(help="Of validation.")] = 1_000,
    validations: Annotated[int, typer.Option(help="During a training.")] = 4,
    batch: Annotated[int, typer.Option(help="Examples of a step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Largest, of all arms.")] = 1e-3,
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
        given: dict[str, object] = json.loads(data)
        dataset = DataSettings.parse(given).load()
        left = leave_items_out(dataset.interactions, dataset.catalog.ids, share=0.1)
        known = dataset.catalog.without(left.items)
        warm, cold = samples(dataset, left, users)
        print(f"{len(known)} known items, {len(left.items)} new, {len(warm)} and {len(cold)} users asked")
        if min(len(warm), len(cold)) < 2:
            raise ConfigError(
                "too few users took something afterwards, or something new, to ask any; give a larger log"
            )
        sd = 0.2
        for name, sample in (("warm", warm), ("new", cold)):
            least = detectable_difference(sd, len(sample), comparisons=len(chosen) - 1 or 1)
            print(f"{name}: {len(sample)} users show a difference of {least:.4f} NDCG@{K} (sd {sd}, power .8)")
        base: str | Path = model
        if model == NEW:
            base = out / "base"
            if not (base / "config.json").exists():
                new_model(known, base)
        fits = {arm: fit_identifier(arm, out, known, left, encoder) for arm in chosen}
        if plan:
            print("\n| | tokens of an item | 95 % | items that share a spelling | such as |\n|---|---|---|---|---|")
            for arm in chosen:
                print(describe(arm, known, fits[arm], str(base) or str(demo_model())), flush=True)
            return
        args = {
            "per_device_train_batch_size": batch,
            "learning_rate": learning_rate,
            "nats_users": nats_users,
            "peft": "{}"
            if model == NEW
            else json.dumps({"peft_type": "LORA", "r": 16, "target_modules": "all-linear"}),
        }
        beside: list[tuple[str, Sample, Prior]] = [
            ("warm", warm, Transition.fit(warm.known, warm.catalog)),
            ("new", cold, HistoryText(cold.catalog)),
        ]
        results: dict[str, dict[str, Found]] = {}
        told: dict[str, Any] = {}
        for arm in chosen:
            folder = out / arm / "run"
            settings = settings_of(arm, given, fits[arm], base, args, folder)
            a_step = tokens_a_step(settings)
            steps = max(validations, round(tokens / a_step))
            every = max(1, steps // validations)
            settings |= {
                "max_steps": str(steps),
                "eval_strategy": "steps",
                "eval_steps": str(every),
                "save_steps": str(every),
            }
            record = sft.run(*parse(_flags(settings)))
            tuned = str(folder) if model == NEW else model or None
            engine = HFEngine.load(tuned, adapter=None if model == NEW else str(folder))
            written = record.written(dataset.catalog, folder)
            weight = record.metrics["eval_nats_weight"]
            prompt, length = record.recommender.prompts[0], record.recommender.max_history or 20
            results[arm] = {
                name: measured(engine, written, prompt, length, sample, prior, weight if name == "warm" else 1.0)
                for name, sample, prior in beside
            }
            told[arm] = {"curve": curve(folder, a_step), "steps": steps, "tokens_a_step": a_step, "weight": weight}
            print(arm, json.dumps(told[arm]), flush=True)
        report(results, told, out)


def report(results: dict[str, dict[str, Found]], told: dict[str, Any], out: Path) -> None:
    """Tables on the terminal, and all numbers in `results.json`."""
    print("\n| | tokens of training | nats an item, alone | beside transitions |\n|---|---|---|---|")
    for arm in results:
        for tokens, alone, beside in told[arm]["curve"]:
            print(f"| {arm} | {tokens:,} | {alone:.3f} | {beside:.3f} |")
    first = next(iter(results))
    for name in ("warm", "new"):
        print(f"\n{name}\n\n| | alone | beside the prior | tokens of a prompt | rounds |\n|---|---|---|---|---|")
        title = results[first][name]
        for arm, parts in results.items():
            found = parts[name]
            cells = compared(found.alone, title.alone), compared(found.beside, title.beside)
            print(f"| {arm} | {' | '.join(cells)} | {found.prompt_tokens:.0f} | {found.rounds:.2f} |")
    kept = {
        arm: {
            **told[arm],
            **{name: {"alone": one.alone.tolist(), "beside": one.beside.tolist()} for name, one in parts.items()},
        }
        for arm, parts in results.items()
    }
    (out / "results.json").write_text(json.dumps(kept) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
