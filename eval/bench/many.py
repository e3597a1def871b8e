"""Many users: how much is gained by asking for them together, and what the memory budget of the engine does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from pydantic import TypeAdapter

from eval.bench.catalogs import read
from eval.bench.logs import queries
from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, versions
from eval.bench.timing import Arm, fresh, interleave
from llmgen.catalog.core import Catalog
from llmgen.engines import Engine, load_engine
from llmgen.engines.hf import HFEngine
from llmgen.recommend.recommender import Recommender
from llmgen.types import Query

Answers = list[list[str]]

K = 10
HISTORY = 14
USERS = 24
BATCHES = (32, 8, 1)
BUDGETS = (1_024, 16_384)


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    catalog = plan.sample
    users = 8 if plan.quick else USERS
    yield from batched(load_engine("fake"), "fake engine", catalog, 4 * users, 3, plan)
    engine = HFEngine.load()
    yield from batched(engine, engine.name, catalog, users, 1 if plan.quick else 2, plan)
    if not plan.quick:
        yield from budgeted(plan)


def batched(engine: Engine, name: str, catalog: Catalog, users: int, turns: int, plan: Plan) -> list[Row]:
    """All users together, or fewer at a time; each turn begins with nothing kept of any prompt."""
    recommender = Recommender(catalog, engine, num_beams=K)
    asked = queries(catalog, users, HISTORY, k=K, seed=plan.seed)
    sizes = {users, *(size for size in BATCHES if size < users)}
    arms = [
        Arm(f"{size} at a time", _asking(recommender, asked, size), lambda turn: engine.close())
        for size in sorted(sizes, reverse=True)
    ]
    recommender.recommend(asked[0])
    measured = interleave(arms, turns, warm=False, label=f"{users} users, {name}")
    subject, *others = [arm.name for arm in arms]
    equal = {other: measured[other].answers == measured[subject].answers for other in others}
    return rows_of(_about(f"{users} users, {name}", catalog, users), measured, equal=equal)


def budgeted(plan: Plan) -> Iterator[Row]:
    """The same users with several budgets of prompt tokens, each in a process of its own: time and memory."""
    for budget in BUDGETS:
        script = f"from eval.bench.many import spend; spend({plan.catalogs[0]!r}, {budget}, {plan.seed})"
        yield TypeAdapter(Row).validate_json(fresh(["-c", script]).output)


def spend(source: str, budget: int, seed: int) -> None:
    """Answer all users within a budget of prompt tokens, and print the row."""
    catalog = read(source)
    engine = HFEngine.load(batch_tokens=budget)
    recommender = Recommender(catalog, engine, num_beams=K)
    *asked, first = queries(catalog, USERS + 1, HISTORY, k=K, seed=seed)
    recommender.recommend(first)
    engine.close()
    name = f"{budget:,} tokens"
    measured = interleave([Arm(name, _asking(recommender, asked, USERS))], 1, warm=False)
    (row,) = rows_of(_about("memory by budget", catalog, USERS), measured)
    print(TypeAdapter(Row).dump_json(row).decode())


def _asking(recommender: Recommender, asked: Sequence[Query], size: int) -> Callable[[int], Answers]:
    def ask(turn: int) -> Answers:
        answers: Answers = []
        for start in range(0, len(asked), size):
            found = recommender.recommend_many(asked[start : start + size])
            answers += [[place.item.id for place in places] for places in found]
        return answers

    return ask


def _about(case: str, catalog: Catalog, users: int) -> Row:
    return Row(
        part="many",
        case=case,
        arm="",
        items=len(catalog),
        width=K,
        k=K,
        threads=torch.get_num_threads(),
        amount=users,
        unit="users",
        versions=versions("torch", "transformers", "numpy"),
    )
