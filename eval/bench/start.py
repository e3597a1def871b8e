"""Starts, each in a fresh process: the import, the command line, an engine, the first request."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence

from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, versions
from eval.bench.timing import Measured, fresh

LEAN = "import sys, llmgen; print('torch' in sys.modules)"
ENGINE = "from llmgen import load_engine; load_engine('hf')"
MODEL = (
    "from llmgen.models import demo_model; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
    "source = str(demo_model()); M.from_pretrained(source); T.from_pretrained(source)"
)
FIRST = """
import json, time
began = time.perf_counter()
from llmgen import Query, Recommender, Transition, load_dataset, load_engine
data = load_dataset({source!r})
prior = Transition.fit(data.interactions, data.catalog)
recommender = Recommender(data.catalog, load_engine({engine!r}), priors=[prior], lm_weight=1.0)
query = Query(history=[data.catalog[0], data.catalog[1]], k=10)
times = []
for _ in range(3):
    times.append(time.perf_counter())
    recommender.recommend(query)
    recommender.engine.close()
print(json.dumps({{"ready": times[0] - began, "first": times[1] - times[0], "later": times[2] - times[1]}}))
"""


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    turns = 3 if plan.quick else 7
    bare = ["-c", "pass"]
    imports = {"import llmgen": ["-c", LEAN], "python": bare, "import torch": ["-c", "import torch"]}
    measured = started(imports, turns)
    without_torch = all(answer.strip() == "False" for answer in measured["import llmgen"].answers)
    equal = {"python": without_torch}
    yield from rows_of(_about("import"), measured, equal=equal)
    commands = {"llmgen --help": ["-m", "llmgen", "--help"], "python": bare}
    yield from rows_of(_about("help"), started(commands, turns))
    engines = {"load_engine('hf')": ["-c", ENGINE], "transformers' from_pretrained": ["-c", MODEL]}
    yield from rows_of(_about("engine"), started(engines, 1 if plan.quick else 2))
    for engine in ("fake", "hf"):
        yield from first(engine, plan, 1 if plan.quick else 2)


def started(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, Measured[str]]:
    """Run each in a process of its own, in turn, after one run that is not timed."""
    measured = {name: Measured[str]() for name in commands}
    for turn in range(turns + 1):
        for name, arguments in commands.items():
            ended = fresh(arguments)
            if turn:
                arm = measured[name]
                arm.wall_s.append(ended.wall_s)
                arm.cpu_s.append(ended.cpu_s)
                arm.answers.append(ended.output)
    return measured


def first(engine: str, plan: Plan, turns: int) -> list[Row]:
    """In fresh processes: the time until a request can be asked, and of the first one beside the one after it."""
    ready = Measured[None]()
    asked = {"first request": Measured[None](), "the next request": Measured[None]()}
    for _ in range(turns):
        told = json.loads(fresh(["-c", FIRST.format(source=plan.catalogs[0], engine=engine)]).output)
        ready.wall_s.append(told["ready"])
        for name, key in zip(asked, ("first", "later"), strict=True):
            asked[name].wall_s.append(told[key])
    rows = rows_of(_about(f"ready for requests, {engine} engine"), {"llmgen": ready})
    return rows + rows_of(_about(f"first request, {engine} engine"), asked)


def _about(case: str) -> Row:
    used = versions("numpy", "polars", "pydantic", "torch", "transformers")
    return Row(part="start", case=case, arm="", threads=os.cpu_count(), versions=used)
