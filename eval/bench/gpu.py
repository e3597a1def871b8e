"""vLLM on a card: requests a second, where the time goes, and how near that is to reading the prompts alone.

    python -m eval.bench.gpu speed --out gpu.jsonl              # SmolLM2-135M; ML-100K and made-up titles
    python -m eval.bench.gpu speed --shape 8b --out gpu.jsonl   # a Llama of that shape with random weights
    python -m eval.bench.gpu equal --out gpu.jsonl              # top tens and log-probabilities beside transformers

Prompts have about 200 tokens and k is 10. Nothing is in the prefix cache when an arm begins. Each finding is printed
and appended to the file as it comes, one JSON object a line, so that a run which is stopped has told what it knew.
Without a card the same runs on vLLM's CPU build: a rehearsal, whose numbers say nothing of a card.

More than 400 lines: one program that is carried to a card, with all its cases.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import importlib.util
import io
import json
import pstats
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.bench import generate
from eval.bench.agreement import Found
from eval.bench.catalogs import catalog_of, made_up, read
from eval.bench.dicts import DictTrie
from eval.bench.generate import Prompt
from eval.bench.logs import queries as made_up_queries
from eval.serving import K, machine, queries_of
from llmgen.catalog.core import Catalog
from llmgen.engines import Step, load_engine
from llmgen.models import demo_model
from llmgen.recommend.recommender import Recommender
from llmgen.search import Request, SearchConfig, SearchResult, search
from llmgen.types import Answer, FloatArray, IntArray, Query

if TYPE_CHECKING:
    from llmgen.engines.vllm import VLLMEngine

PROMPT_TOKENS = 200
MOST_HISTORY = 20
USERS = (64, 256, 16, 1)
"""At a time, most telling first."""
BEAM_SEARCH_USERS = 16
"""Above this `LLM.beam_search` would take the time of all other arms together."""
TRANSFORMERS_USERS = 64
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "1.5b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32},
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}
"""Of Llamas with random weights, 8 key-value heads each: their speed is a real one's, their answers mean nothing."""
OURS, BEAM, GREEDY, READ = "llmgen", "LLM.beam_search + grounding", "greedy, one title", "prefill alone"
TRANSFORMERS = "llmgen on transformers"
CONSTRAINED = "transformers, prefix_allowed_tokens_fn"
CONSTRAINED_ITEMS = 100_000
"""Above this the trie of dicts that `prefix_allowed_tokens_fn` asks takes longer to make than all else."""


@dataclass
class Clock:
    """Seconds spent in some calls, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def watching(self, owner: object, method: str, name: str) -> Iterator[None]:
        """Count what a method takes, as `name`, while this is open."""
        whole = getattr(owner, method)

        @wraps(whole)
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return whole(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

        setattr(owner, method, timed)
        try:
            yield
        finally:
            delattr(owner, method)  # the class's own shows again


class Busy:
    """Share of the time in which the card worked, as its driver says, asked every 50 ms."""

    def __init__(self) -> None:
        self._shares: list[int] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Busy:
        if importlib.util.find_spec("pynvml") is not None and machine()["cuda"] is not None:
            self._thread = threading.Thread(target=self._look, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def share(self) -> float | None:
        """In [0, 1]; None where there is no card to ask."""
        return float(np.mean(self._shares)) / 100 if self._shares else None

    def _look(self) -> None:
        import torch

        while not self._stop.wait(0.05):
            self._shares.append(torch.cuda.utilization())


def model_of(shape: str | None, folder: Path, model: str | None = None) -> tuple[str, dict[str, Any]]:
    """Name or folder of a model for vLLM, and the options that it wants.

    Args:
        shape: One of `SHAPES`, made in `folder` with the demo model's tokenizer and without weights, which vLLM makes
            up itself; the demo model where None.
        folder: Where to.
        model: Taken in the place of the demo model.
    """
    if shape is None:
        return model or str(demo_model()), {}
    from transformers import AutoTokenizer, LlamaConfig

    tokenizer = AutoTokenizer.from_pretrained(demo_model())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=8,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        **SHAPES[shape],
    )
    config.architectures, config.dtype = ["LlamaForCausalLM"], "bfloat16"
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder), {"load_format": "dummy"}


def prompted(recommender: Recommender, count: int, *, tokens: int = PROMPT_TOKENS, seed: int = 0) -> list[Query]:
    """Queries of made-up users whose prompts have about so many tokens and no two of which are the same."""
    engine = recommender.engine
    assert engine is not None
    asked = []
    for query in made_up_queries(recommender.catalog, count, MOST_HISTORY, k=K, seed=seed):
        for length in range(MOST_HISTORY, 0, -1):
            shorter = Query(query.history[:length], k=K, exclude_seen=False)
            if len(engine.tokenize(recommender.messages(shorter).messages)) <= tokens:
                break
        asked.append(shorter)
    return asked


def speed(
    engine: VLLMEngine,
    catalogs: Mapping[str, Catalog],
    *,
    users: Sequence[int] = USERS,
    repeats: int = 3,
    beam_search: bool = True,
    transformers: bool = False,
    profile: bool = False,
) -> Iterator[dict[str, Any]]:
    """How long each arm takes for so many users at a time, one finding an arm, catalog and number of users.

    Args:
        engine: Whose prefix cache is emptied before each timing.
        catalogs: By name.
        users: At a time.
        repeats: Of each timing, after one that warms up.
        beam_search: Whether to run `LLM.beam_search` too, for at most `BEAM_SEARCH_USERS` users.
        transformers: Whether to run our own engine on transformers too, with the same model in bfloat16, and, for at
            most `BEAM_SEARCH_USERS` users, the constrained beam search that transformers has.
        profile: Whether to tell the profile of one run of ours too.
    """
    for name, catalog in catalogs.items():
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as cache:
            recommender = Recommender(catalog, engine, num_beams=K, max_history=MOST_HISTORY, cache=Path(cache))
            about = {"catalog": name, "items": len(catalog), "nodes": recommender.trie.num_nodes}
            asked = prompted(recommender, max(users))
            prompts = [engine.tokenize(recommender.messages(query).messages) for query in asked]
            about["prompt_tokens"] = round(float(np.mean([len(prompt) for prompt in prompts])))
            yield {"stage": "index", **about, "seconds": time.perf_counter() - start}
            other = constrained = None
            if transformers:
                source = str(engine.llm.model_config.model)
                if len(catalog) <= CONSTRAINED_ITEMS:
                    constrained = constraining(source, engine.spell(catalog.labels))
                beside = load_engine(f"hf:{source}", dtype="bfloat16")
                other = Recommender(catalog, beside, num_beams=K, max_history=MOST_HISTORY, cache=Path(cache))
            for count in users:
                arms = arms_of(recommender, asked[:count], prompts[:count], beam_search=beam_search)
                if other is not None and count <= TRANSFORMERS_USERS:
                    arms[TRANSFORMERS] = partial(_recommend, other, asked[:count])
                if constrained is not None and count <= BEAM_SEARCH_USERS:
                    arms[CONSTRAINED] = partial(constrained, prompts[:count])
                for arm, act in arms.items():
                    yield {"stage": "speed", **about, "users": count, "arm": arm, **timed(engine, act, count, repeats)}
                if profile:
                    yield {"stage": "profile", **about, "users": count, "top": profiled(engine, arms[OURS])}


def _recommend(recommender: Recommender, asked: Sequence[Query]) -> list[Answer]:
    assert recommender.engine is not None
    recommender.engine.close()  # forgets the prompts that it has read
    return recommender.recommend_many(asked)


def arms_of(
    recommender: Recommender, asked: Sequence[Query], prompts: Sequence[tuple[int, ...]], *, beam_search: bool
) -> dict[str, Callable[[], object]]:
    """What is timed side by side, for the same prompts."""
    from vllm import SamplingParams
    from vllm.sampling_params import BeamSearchParams

    from llmgen.engines.vllm import VLLMEngine

    engine = recommender.engine
    assert isinstance(engine, VLLMEngine)
    title = int(np.ceil(np.mean([len(path) for path in engine.spell(recommender.catalog.labels[:2000])])))
    inputs: Any = [{"prompt_token_ids": list(prompt)} for prompt in prompts]

    def writing(tokens: int) -> Callable[[], object]:
        params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, detokenize=False)
        return lambda: engine.llm.generate(inputs, params, use_tqdm=False)

    def beams() -> object:
        found = engine.llm.beam_search(inputs, BeamSearchParams(beam_width=K, max_tokens=title))
        for prompt, answer in zip(prompts, found, strict=True):
            for beam in answer.sequences:
                recommender.grounder.ground(engine.chat_tokenizer.decode(beam.tokens[len(prompt) :]))
        return found

    arms: dict[str, Callable[[], object]] = {
        READ: writing(1),
        OURS: partial(recommender.recommend_many, asked),
        GREEDY: writing(title),
    }
    if beam_search and len(asked) <= BEAM_SEARCH_USERS:
        arms[BEAM] = beams
    return arms


def constraining(source: str, paths: Sequence[tuple[int, ...]]) -> Callable[[Sequence[Prompt]], list[Found]]:
    """The beam search of transformers that `prefix_allowed_tokens_fn` keeps to some paths, of the same width as ours.

    Args:
        source: Of the model, run in bfloat16.
        paths: Of the items; all end with the same token.
    """
    device = "cpu" if machine()["cuda"] is None else "cuda"
    loaded, trie = generate.load(source, dtype="bfloat16", device=device), DictTrie(paths)
    longest = max(map(len, paths))
    return partial(generate.constrained, loaded, trie=trie, width=K, k=K, longest=longest, end=paths[0][-1])


def profiled(engine: VLLMEngine, act: Callable[[], object], *, lines: int = 30) -> list[str]:
    """Where the Python of one run spends its time: the functions that take most themselves, most first.

    The engine's core is among them only with `VLLM_ENABLE_V1_MULTIPROCESSING=0`, which has it run in this process.
    """
    engine.forget()
    profile = cProfile.Profile()
    profile.runcall(act)
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(lines)
    return [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]


def timed(engine: VLLMEngine, act: Callable[[], object], users: int, repeats: int) -> dict[str, Any]:
    """One arm: warm up, then time it so often with nothing in the prefix cache."""
    act()
    llm, clock, seconds = engine.llm, Clock(), []
    read = engine.usage.read_tokens
    with (
        Busy() as busy,
        clock.watching(engine, "next_logprobs", "engine"),
        clock.watching(llm, "enqueue", "enqueue"),
        clock.watching(llm.llm_engine, "step", "step"),
    ):
        for _ in range(repeats):
            engine.forget()
            start = time.perf_counter()
            act()
            seconds.append(time.perf_counter() - start)
    total = sum(seconds)
    found: dict[str, Any] = {
        "seconds": seconds,
        "requests_s": users * repeats / total,
        "p50_s": float(np.median(seconds)),
        "p99_s": float(np.quantile(seconds, 0.99)),
        "gpu_busy": busy.share,
    }
    if "engine" in clock.seconds:
        inside = clock.seconds["engine"]
        vllm = {part: clock.seconds.get(part, 0.0) for part in ("enqueue", "step")}
        found |= {
            "read_tokens_a_request": (engine.usage.read_tokens - read) / users / repeats,
            "share": {
                "search and prompts": 1 - inside / total,
                "asking and reading": (inside - sum(vllm.values())) / total,
                "vLLM, adding requests": vllm["enqueue"] / total,
                "vLLM, running them": vllm["step"] / total,
            },
        }
    return found


def equal(dtypes: Sequence[str], *, users: int, model: str | None = None, **options: Any) -> Iterator[dict[str, Any]]:
    """Top tens and log-probabilities of vLLM beside transformers in float32, on MovieLens-100K.

    Args:
        dtypes: Of vLLM, one finding each.
        users: Whose top tens are compared.
        model: Folder; SmolLM2 by default.
        options: Of vLLM.
    """
    from llmgen.engines.hf import HFEngine
    from llmgen.engines.vllm import VLLMEngine

    catalog, asked = queries_of("movielens-100k", users)
    config = SearchConfig(num_beams=4 * K, exact=True)
    requests: list[Request] = []
    steps: list[Step] = []

    def ask(engine: HFEngine | VLLMEngine) -> tuple[list[SearchResult], list[FloatArray]]:
        recommender = Recommender(catalog, engine)
        if not requests:
            prompts = [engine.tokenize(recommender.messages(query).messages) for query in asked]
            requests.extend(Request(prompt, np.zeros(len(catalog)), K) for prompt in prompts)
            known = len(engine.chat_tokenizer.tokenizer)
            wanted: IntArray = np.arange(min(1000, known), dtype=np.int64)
            steps.extend(Step(prompt, path, wanted, full=True) for prompt in prompts[:8] for path in ((), prompt[:3]))
        try:
            return search(recommender.trie, engine, requests, config), engine.next_logprobs(steps)
        finally:
            engine.close()

    by_dtype = {dtype: ask(VLLMEngine.load(model, dtype=dtype, **options)) for dtype in dtypes}
    expected, truth = ask(HFEngine.load(model or str(demo_model()), dtype="float32"))
    for dtype, (found, answers) in by_dtype.items():
        apart = [np.abs(one - other) for one, other in zip(answers, truth, strict=True)]
        lists = [(ours.items.tolist(), theirs.items.tolist()) for ours, theirs in zip(found, expected, strict=True)]
        yield {
            "stage": "equal",
            "dtype": dtype,
            "users": users,
            "same_lists": sum(ours == theirs for ours, theirs in lists),
            "same_sets": sum(set(ours) == set(theirs) for ours, theirs in lists),
            "overlap": float(np.mean([len({*ours} & {*theirs}) / K for ours, theirs in lists])),
            "largest_logprob_difference": float(max(part.max() for part in apart)),
            "mean_logprob_difference": float(np.mean([part.mean() for part in apart])),
        }


def catalogs_of(sources: Sequence[str], made: Sequence[int]) -> dict[str, Catalog]:
    """Real catalogs by name, see `eval.bench.catalogs.read`, and made-up ones that look like the first."""
    real = {Path(source).name: read(source) for source in sources}
    first = next(iter(real.values()))
    return real | {f"{count:,} titles": catalog_of(made_up(first.labels, count)) for count in made}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print each finding, and append it to the file."""
    parser = argparse.ArgumentParser(prog="python -m eval.bench.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("speed", "equal"))
    parser.add_argument("--out", type=Path, metavar="FILE", help="append the findings there, a JSON object a line")
    parser.add_argument("--catalog", action="append", help="see eval.bench (default movielens-100k)")
    parser.add_argument("--made-up", type=int, action="append", default=[], help="also so many made-up titles")
    parser.add_argument("--users", type=int, action="append", help=f"at a time (default {USERS})")
    parser.add_argument("--model", metavar="FOLDER", help="in the place of SmolLM2-135M")
    parser.add_argument("--shape", choices=sorted(SHAPES), help="random weights of this shape")
    parser.add_argument("--repeats", type=int, default=3, help="of each timing (default 3)")
    parser.add_argument("--dtype", action="append", help="of vLLM (default bfloat16; equal: float32 and bfloat16)")
    parser.add_argument("--no-beam-search", action="store_true", help="leave out LLM.beam_search")
    parser.add_argument("--profile", action="store_true", help="the profile of one run too")
    parser.add_argument(
        "--transformers", action="store_true", help="our engine on transformers and its own constrained beam search too"
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON", help="of vLLM's EngineArgs")
    options = parser.parse_args(arguments)
    if any(count < 1 for count in [*(options.users or ()), *options.made_up, options.repeats]):
        parser.error("--users, --made-up and --repeats must be 1 or more")
    if options.model and options.shape:
        parser.error("--model and --shape both name a model; give one of them")
    extra = {name: json.loads(value) for name, _, value in (text.partition("=") for text in options.option)}

    def tell(finding: Mapping[str, Any]) -> None:
        line = json.dumps(finding)
        print(line, flush=True)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    if options.what == "equal":
        for finding in equal(
            options.dtype or ["float32", "bfloat16"], users=max(options.users or [50]), model=options.model, **extra
        ):
            tell(finding)
        tell({"stage": "machine", **machine()})
        return
    from llmgen.engines.vllm import VLLMEngine

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        model, needed = model_of(options.shape, Path(folder), options.model)
        dtype = (options.dtype or ["auto"])[0]
        needed = needed if options.dtype is None else {**needed, "dtype": dtype}
        engine = VLLMEngine.load(model, **{**needed, **extra})
        dtype = str(engine.llm.model_config.dtype).removeprefix("torch.")
        name = options.shape or Path(model).name
        tell({"stage": "machine", **machine()})  # not before: where CUDA was touched, vLLM starts its core afresh
        tell({"stage": "start", "model": name, "dtype": dtype, "seconds": time.perf_counter() - start})
        try:
            for finding in speed(
                engine,
                catalogs_of(options.catalog or ["movielens-100k"], options.made_up),
                users=options.users or USERS,
                repeats=options.repeats,
                beam_search=not options.no_beam_search,
                transformers=options.transformers,
                profile=options.profile,
            ):
                tell({"model": name, "dtype": dtype, **finding})
        finally:
            engine.close()


if __name__ == "__main__":
    main()
