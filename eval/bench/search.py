"""The search on transformers beside what transformers itself offers, on the same model, prompts and cores.

The subject is `Recommender.recommend_many`, with everything around the search: it renders and tokenises the prompts,
which the other arms get tokenised. Nothing of a prompt is kept between runs; for several users, what their prompts
begin with is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from eval.bench import generate, structured, vllm
from eval.bench.agreement import Found, is_as_good
from eval.bench.catalogs import catalog_of
from eval.bench.dicts import DictTrie
from eval.bench.generate import Loaded
from eval.bench.logs import log, queries
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, versions
from eval.bench.timing import Arm, Measured, interleave
from llmgen.catalog.core import Catalog
from llmgen.engines import Step
from llmgen.engines.hf import HFEngine
from llmgen.grounding import Grounder
from llmgen.priors import Transition
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query

Answers = list[Found]

K = 10
PROMPT_TOKENS = 200
MOST_HISTORY = 20
TOGETHER = 8
GROWN = (1_000_000, 10_000)
FITTED_USERS = 100_000
SIZED_TURNS = 10
CONSTRAINED = "transformers, prefix_allowed_tokens_fn"
BEAMS = "transformers, free beams + grounding"
RAW = "llmgen, raw mode"
GREEDY, READ, READ_REST = "greedy, one title", "prefill alone", "prefill of their own tokens"
OWN_READ = "prefill alone by llmgen"


class Size(NamedTuple):
    """How much one case is to be measured.

    Attributes:
        width: Beams.
        turns: Users, one after the other.
        slow_turns: Of the constrained search of transformers.
        together: Turns with several users; 0 for none.
        free: Whether free beams are run.
    """

    width: int
    turns: int
    slow_turns: int
    together: int = 0
    free: bool = True


class Setup(NamedTuple):
    """A catalog with everything that the arms need.

    Attributes:
        title: What the catalog is called.
        loaded: The model as transformers has it.
        recommender: With the same model.
        raw: The same in `raw` mode, which scores as transformers does.
        paths: Of the items; each ends with the same token.
        queries: One a turn, and some more.
        prompts: Of the queries.
        grounder: None where no free text is written.
    """

    title: str
    loaded: Loaded
    recommender: Recommender
    raw: Recommender
    paths: list[tuple[int, ...]]
    queries: list[Query]
    prompts: list[tuple[int, ...]]
    grounder: Grounder | None

    @property
    def end(self) -> int:
        """The token with which every path ends."""
        return self.paths[0][-1]

    @property
    def mean_tokens(self) -> int:
        """Tokens of a title of mean length."""
        return int(np.ceil(np.mean([len(path) for path in self.paths])))


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    loaded = generate.load()
    engine = HFEngine.load()
    with tempfile.TemporaryDirectory() as cache:
        for title, catalog, size in cases(plan):
            setup = prepared(title, catalog, size, loaded, engine, plan.seed, Path(cache))
            trie = DictTrie(setup.paths)
            yield from alone(setup, trie, size)
            if size.together:
                yield from together(setup, trie, size)
    yield from structured.run(loaded, plan)
    yield from vllm.run(plan)
    if not plan.quick:
        yield from by_size(engine, plan)


def cases(plan: Plan) -> Iterator[tuple[str, Catalog, Size]]:
    """Name, catalog and size of each case."""
    if plan.quick:
        yield "1,000 titles", catalog_of(plan.titles(1_000)), Size(K, turns=3, slow_turns=2)
        return
    for name, catalog in plan.real.items():
        yield name, catalog, Size(K, turns=5, slow_turns=2)
    yield "10,000 titles", catalog_of(plan.titles(10_000)), Size(K, turns=10, slow_turns=3, together=2)
    yield "100,000 titles", catalog_of(plan.titles(100_000)), Size(50, turns=5, slow_turns=1, free=False)


def prepared(
    title: str, catalog: Catalog, size: Size, loaded: Loaded, engine: HFEngine, seed: int, cache: Path
) -> Setup:
    """Everything that the arms need, with histories as long as fill the prompt; `cache` is for tries."""
    recommender = Recommender(catalog, engine, num_beams=size.width, max_history=MOST_HISTORY, cache=cache)
    raw = Recommender(catalog, engine, num_beams=size.width, max_history=MOST_HISTORY, cache=cache, decoding="raw")
    asked, prompts = prompted(recommender, max(size.turns, TOGETHER * size.together) + 1, seed)
    grounder = recommender.grounder if size.free else None
    return Setup(title, loaded, recommender, raw, engine.spell(catalog.labels), asked, prompts, grounder)


def prompted(recommender: Recommender, count: int, seed: int) -> tuple[list[Query], list[tuple[int, ...]]]:
    """Queries whose prompts have about `PROMPT_TOKENS` tokens, and these prompts."""
    engine = recommender.engine
    assert engine is not None
    asked: list[Query] = []
    prompts: list[tuple[int, ...]] = []
    for query in queries(recommender.catalog, count, MOST_HISTORY, k=K, seed=seed):
        for length in range(MOST_HISTORY, 0, -1):
            shorter = Query(query.history[:length], k=K, exclude_seen=False)
            prompt = engine.tokenize(recommender.messages(shorter).messages)
            if len(prompt) <= PROMPT_TOKENS:
                break
        asked.append(shorter)
        prompts.append(prompt)
    return asked, prompts


def alone(setup: Setup, trie: DictTrie, size: Size) -> list[Row]:
    """One user at a time."""
    engine = setup.recommender.engine
    assert engine is not None

    def one(act: Callable[[list[int]], Answers]) -> Callable[[int], Answers]:
        return lambda turn: act([turn])

    def forget(turn: int) -> None:
        engine.close()

    arms = [
        Arm("llmgen", one(recommending(setup, setup.recommender)), forget),
        Arm(RAW, one(recommending(setup, setup.raw)), forget),
        Arm(CONSTRAINED, one(constraining(setup, trie, size.width)), turns=size.slow_turns),
        Arm(GREEDY, one(writing(setup))),
        Arm(READ, one(reading(setup, None))),
        Arm(OWN_READ, one(asking_once(setup)), forget),
    ]
    if setup.grounder is not None:
        arms.append(Arm(BEAMS, one(grounding(setup, setup.grounder, size.width)), turns=size.slow_turns))
    case = f"{setup.title}, {size.width} beams, 1 user"
    return _rows(setup, case, size.width, 1, interleave(arms, size.turns, label=case))


def together(setup: Setup, trie: DictTrie, size: Size) -> list[Row]:
    """Several users at once, of whose prompts the common beginning was read before."""
    engine = setup.recommender.engine
    assert engine is not None
    beginning = generate.beginning_of(setup.loaded, setup.prompts)

    def some(act: Callable[[list[int]], Answers]) -> Callable[[int], Answers]:
        return lambda turn: act(list(range(TOGETHER * turn, TOGETHER * (turn + 1))))

    def forget(turn: int) -> None:
        engine.close()
        setup.recommender.recommend(setup.queries[-1])

    arms = [
        Arm("llmgen", some(recommending(setup, setup.recommender)), forget),
        Arm(RAW, some(recommending(setup, setup.raw)), forget),
        Arm(CONSTRAINED, some(constraining(setup, trie, size.width)), turns=1),
        Arm(GREEDY, some(writing(setup))),
        Arm(READ, some(reading(setup, None))),
        Arm(READ_REST, some(reading(setup, beginning))),
    ]
    case = f"{setup.title}, {size.width} beams, {TOGETHER} users"
    return _rows(setup, case, size.width, TOGETHER, interleave(arms, size.together, label=case))


def by_size(engine: HFEngine, plan: Plan) -> Iterator[Row]:
    """Catalogs of two sizes, the larger first: their tries, a request with a prior, and one item more."""
    about = Row(part="search", case="", arm="", k=K, width=K, threads=torch.get_num_threads(), versions=_versions())
    asking, adding = [], []
    with tempfile.TemporaryDirectory() as cache:
        for count in GROWN:
            catalog = catalog_of(plan.titles(count))
            prior = Transition.fit(log(count, FITTED_USERS, 10, seed=plan.seed), catalog)
            recommender = Recommender(catalog, engine, priors=[prior], lm_weight=1.0, num_beams=K, cache=Path(cache))
            index = interleave([Arm("llmgen", _indexing(recommender))], 1, warm=False)
            case = f"spell, build and store, {count:,} titles"
            yield from rows_of(replace(about, case=case, items=count, amount=count, unit="items"), index)
            asked, _ = prompted(recommender, SIZED_TURNS, plan.seed)
            asking.append(Arm(f"{count:,} titles", _asking(recommender, asked), lambda turn: engine.close()))
            adding.append(Arm(f"{count:,} titles", _adding(recommender)))
        asked_by = interleave(asking, SIZED_TURNS, label="requests by size")
        added_to = interleave(adding, SIZED_TURNS, label="one item more")
    largest = asking[0].name
    yield from rows_of(replace(about, case=f"request, up to {largest}", unit="users"), asked_by)
    yield from rows_of(replace(about, case=f"one item more, up to {largest}", unit="items"), added_to)


def recommending(setup: Setup, recommender: Recommender) -> Callable[[list[int]], Answers]:
    """The arms of llmgen."""
    catalog = recommender.catalog

    def run(numbers: list[int]) -> Answers:
        answers: Answers = []
        for found in recommender.recommend_many([setup.queries[number] for number in numbers]):
            scores = {setup.paths[catalog.index(place.item)]: place.score for place in found}
            answers.append(scores if len(found) == K else {})  # no list may be short
        return answers

    return run


def constraining(setup: Setup, trie: DictTrie, width: int) -> Callable[[list[int]], Answers]:
    """The arm of transformers that gives the same as llmgen in raw mode."""
    longest = max(map(len, setup.paths))
    return lambda numbers: generate.constrained(
        setup.loaded,
        [setup.prompts[number] for number in numbers],
        trie,
        width=width,
        k=K,
        longest=longest,
        end=setup.end,
    )


def grounding(setup: Setup, grounder: Grounder, width: int) -> Callable[[list[int]], Answers]:
    """Beams that are free to write anything, and a look for what they mean."""

    def run(numbers: list[int]) -> Answers:
        prompts = [setup.prompts[number] for number in numbers]
        for texts in generate.beams(setup.loaded, prompts, width=width, tokens=setup.mean_tokens, end=setup.end):
            for text in texts:
                grounder.ground(text)
        return []

    return run


def writing(setup: Setup) -> Callable[[list[int]], Answers]:
    """One text of as many tokens as a title has, never mind which."""

    def run(numbers: list[int]) -> Answers:
        prompts = [setup.prompts[number] for number in numbers]
        generate.greedy(setup.loaded, prompts, tokens=setup.mean_tokens, end=setup.end)
        return []

    return run


def reading(setup: Setup, beginning: generate.Beginning | None) -> Callable[[list[int]], Answers]:
    """The prompts alone, or what stands behind their beginning."""

    def run(numbers: list[int]) -> Answers:
        generate.read(setup.loaded, [setup.prompts[number] for number in numbers], beginning)
        return []

    return run


def asking_once(setup: Setup) -> Callable[[list[int]], Answers]:
    """The prompts alone again, by the engine of llmgen."""
    engine = setup.recommender.engine
    assert engine is not None

    def run(numbers: list[int]) -> Answers:
        engine.next_logprobs([Step(setup.prompts[number], (), np.array([setup.end])) for number in numbers])
        return []

    return run


def _indexing(recommender: Recommender) -> Callable[[int], int]:
    return lambda turn: recommender.trie.num_nodes


def _asking(recommender: Recommender, asked: Sequence[Query]) -> Callable[[int], int]:
    return lambda turn: len(recommender.recommend_many([asked[turn]]))


def _adding(recommender: Recommender) -> Callable[[int], int]:
    """From a new item to a recommender that is ready to recommend it, again and again as a server does."""

    def add(turn: int) -> int:
        nonlocal recommender
        number = len(recommender.catalog)
        item = Item(f"new {number}", f"A New Title {number}")
        recommender = recommender.with_catalog(recommender.catalog.with_items([item]))
        recommender.prepare()
        return recommender.trie.num_items

    return add


def _rows(setup: Setup, case: str, width: int, users: int, measured: dict[str, Measured[Answers]]) -> list[Row]:
    about = Row(
        part="search",
        case=case,
        arm="",
        items=len(setup.paths),
        prompt_tokens=round(float(np.mean([len(prompt) for prompt in setup.prompts]))),
        width=width,
        k=K,
        threads=torch.get_num_threads(),
        amount=users,
        unit="users",
        versions=_versions(),
    )
    pairs = [
        pair
        for ours, theirs in zip(measured[RAW].answers, measured[CONSTRAINED].answers, strict=False)
        for pair in zip(ours, theirs, strict=True)
    ]
    right = {CONSTRAINED: all(is_as_good(ours, theirs) for ours, theirs in pairs)}
    same = sum(set(ours) == set(theirs) for ours, theirs in pairs)
    note = f"the same {K} items as {RAW} for {same} of {len(pairs)} users"
    rows = rows_of(about, measured, equal=right)
    return [replace(row, note=note) if row.arm == CONSTRAINED else row for row in rows]


def _versions() -> dict[str, str]:
    return versions("torch", "transformers", "numpy")
