"""The trie beside dicts in dicts and marisa-trie: building, loading, a step of the search; and how it grows."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from eval.bench.catalogs import codes, spelled
from eval.bench.dicts import MEGABYTE, DictTrie, MarisaTrie, has_marisa
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, skipped, versions
from eval.bench.timing import Arm, interleave
from llmgen.trie.core import ARRAYS, ItemTrie
from llmgen.types import IntArray

Paths = Sequence[Sequence[int]]
Steps = list[list[list[int]]]
"""Tokens that may follow, in one or several lists a step."""
Made = ItemTrie | DictTrie | MarisaTrie

OURS, DICTS, MARISA = "llmgen", "dicts in dicts", "marisa-trie"
TURNS, STEPS, NODES = 20, 20, 32
"""Steps a turn, each to other nodes, so that none is in the processor's cache for having been looked at before."""
CHILDREN = range(2, 9)
"""Children of the nodes of a step: their number, not the catalog's size, is what a step may cost by."""
MOST_PICKLED = 100_000
MOST_CHECKED = 10_000


class Walk(NamedTuple):
    """The nodes of some steps, and the tokens that lead to each of them."""

    nodes: list[IntArray]
    prefixes: list[list[tuple[int, ...]]]


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    if not has_marisa():
        yield skipped("trie", "build", MARISA, "marisa-trie is not installed")
    tries = {}
    for count in (1_000, 10_000) if plan.quick else (1_000, 10_000, 100_000, 1_000_000):
        paths = spelled(plan.titles(count))
        kind = f"{count:,} titles"
        yield from built(paths, kind)
        tries[kind] = ItemTrie.build(paths)
        yield from loaded(paths, tries[kind], kind)
        yield from stepped(paths, tries[kind], kind)
    del paths
    count = 10_000 if plan.quick else 10_000_000
    ids = codes(count, seed=plan.seed).tolist()
    kind = f"{count:,} ids"
    yield from built(ids, kind, dicts=plan.quick)
    tries[kind] = ItemTrie.build(ids)
    del ids
    yield from grown(dict(reversed(tries.items())))


def built(paths: Paths, kind: str, *, dicts: bool = True) -> list[Row]:
    """Building; and that both lead to the same tokens from everywhere, where that can be looked at.

    Args:
        paths: Of all items.
        kind: How many of what.
        dicts: Whether the others are built too.
    """
    makers: dict[str, Callable[[Paths], Made]] = {OURS: ItemTrie.build}
    if dicts:
        makers[DICTS] = DictTrie
        if has_marisa():
            makers[MARISA] = MarisaTrie
    sizes: dict[str, float] = {}

    def making(name: str) -> Callable[[int], None]:
        def make(turn: int) -> None:
            trie = makers[name](paths)
            if name not in sizes:  # in the untimed run
                sizes[name] = size_mb(trie) if isinstance(trie, ItemTrie) else trie.size_mb()

        return make

    for name in makers:
        making(name)(0)
    few = len(paths) >= 1_000_000
    measured = interleave([Arm(name, making(name)) for name in makers], 2 if few else 5, warm=False, label=kind)
    equal = {}
    if dicts and len(paths) <= MOST_CHECKED:
        equal[DICTS] = same_children(ItemTrie.build(paths), DictTrie(paths))
    about = _about(f"build, {kind}", len(paths), unit="items", amount=len(paths))
    return rows_of(about, measured, equal=equal, sizes_mb=sizes)


def loaded(paths: Paths, trie: ItemTrie, kind: str) -> list[Row]:
    """Loading what was stored before, beside a pickle of dicts."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "trie"
        trie.save(folder)
        arms: list[Arm[object]] = [Arm(OURS, lambda turn: ItemTrie.load(folder))]
        if len(paths) <= MOST_PICKLED:
            pickled = pickle.dumps(DictTrie(paths).root)
            arms.append(Arm(f"pickle of {DICTS}", lambda turn: pickle.loads(pickled)))
        measured = interleave(arms, 5)
    return rows_of(_about(f"load, {kind}", len(paths)), measured)


def stepped(paths: Paths, trie: ItemTrie, kind: str) -> list[Row]:
    """The tokens below some nodes, which the dicts find by walking down from the root, as `generate` has them do."""
    others: dict[str, DictTrie | MarisaTrie] = {DICTS: DictTrie(paths)}
    if has_marisa():
        others[MARISA] = MarisaTrie(paths)
    walks = [walk(trie, turn) for turn in range(TURNS)]
    arms = [Arm(OURS, _stepping(trie, walks)), *(Arm(name, _descending(made, walks)) for name, made in others.items())]
    measured = interleave(arms, TURNS)
    ours = [[sorted(chain.from_iterable(step)) for step in steps] for steps in measured[OURS].answers]
    theirs = {
        name: [[sorted(chain.from_iterable(step)) for step in steps] for steps in measured[name].answers]
        for name in others
    }
    about = _about(f"steps of {NODES} nodes, {kind}", len(paths), unit="steps", amount=STEPS)
    return rows_of(about, measured, equal={name: found == ours for name, found in theirs.items()})


def grown(tries: Mapping[str, ItemTrie]) -> list[Row]:
    """Steps on tries of several sizes, the largest first: they should not cost more for being large."""
    arms = [Arm(kind, _stepping(trie, [walk(trie, turn) for turn in range(TURNS)])) for kind, trie in tries.items()]
    measured = interleave(arms, TURNS)
    about = _about(f"steps of {NODES} nodes, up to {next(iter(tries))}", None, unit="steps", amount=STEPS)
    return rows_of(about, measured)


def walk(trie: ItemTrie, seed: int) -> Walk:
    """Nodes with a few children each, drawn at random; the root where there are none."""
    counts = np.diff(trie.first)
    fitting = np.flatnonzero((counts >= CHILDREN.start) & (counts < CHILDREN.stop))
    drawn = np.random.default_rng(seed).choice(fitting if len(fitting) else np.zeros(1, np.int64), (STEPS, NODES))
    return Walk(list(drawn), [[trie.spelling(node) for node in nodes] for nodes in drawn.tolist()])


def _stepping(trie: ItemTrie, walks: Sequence[Walk]) -> Callable[[int], Steps]:
    return lambda turn: [[trie.token[trie.children(nodes).nodes].tolist()] for nodes in walks[turn].nodes]


def _descending(trie: DictTrie | MarisaTrie, walks: Sequence[Walk]) -> Callable[[int], Steps]:
    return lambda turn: [list(map(trie.children, prefixes)) for prefixes in walks[turn].prefixes]


def same_children(trie: ItemTrie, other: DictTrie) -> bool:
    """Whether two tries have the same nodes: from each, the same tokens lead on."""
    pairs = [(0, other.root)]
    while pairs:
        below = []
        for node, tree in pairs:
            children = trie.children(np.array([node])).nodes.tolist()
            if [int(trie.token[child]) for child in children] != sorted(tree):
                return False
            below += [(child, tree[int(trie.token[child])]) for child in children]
        pairs = below
    return True


def size_mb(trie: ItemTrie) -> float:
    """Memory of its arrays, 10^6 bytes."""
    return float(sum(getattr(trie, name).nbytes for name in ARRAYS)) / MEGABYTE


def _about(case: str, items: int | None, *, unit: str = "runs", amount: float = 1) -> Row:
    used = versions("numpy", "marisa-trie")
    return Row(part="trie", case=case, arm="", items=items, threads=1, unit=unit, amount=amount, versions=used)
