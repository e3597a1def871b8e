"""Answers that must not change: requests over engines, priors, decodings and tasks, beside what they were answered.

The stored answers are in `snapshots/frozen.json`. Where a change of answers is wanted, delete that file: the next run
writes it anew and fails once; say in the commit which answers changed and why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest

from llmgen.catalog.core import Catalog
from llmgen.engines import Engine
from llmgen.engines.fake import FakeEngine
from llmgen.priors import (
    Content,
    Ease,
    HistoryText,
    ItemKNN,
    Popularity,
    Prior,
    RatingKNN,
    Repeat,
    TextQuery,
    Transition,
)
from llmgen.priors import sparse as sparse_module
from llmgen.recommend.recommender import Recommender
from llmgen.types import Explanation, Query, RatingPrediction, Recommendations, WrittenRecommendations

STORED = Path(__file__).parent / "snapshots" / "frozen.json"
DIGITS = 10
CLOSE = {"none": 1e-9, "fake": 1e-9, "writing": 1e-9, "hf": 1e-6}
"""Relative tolerance by engine: a model of torch adds its numbers in another order on another machine."""
WRITTEN = ["1. Alien (1960)\n2. Aliens\n3. Nothing of the kind", '["Alien 3", "M (1967)"]', "Star River", ""]


def floats(seed: int) -> Callable[[], float]:
    """Random numbers that are the same in every version of Python and NumPy."""
    return Random(seed).random


def made_log(catalog: Catalog, *, users: int = 40, seed: int = 1) -> pl.DataFrame:
    """What users took and how they rated it: near neighbours of what they took before, mostly."""
    some = floats(seed)
    rows = []
    for user in range(users):
        at = int(some() * len(catalog))
        for _ in range(4 + int(some() * 16)):
            at = (at + 1 + int(some() ** 3 * 40)) % (len(catalog) - 10)  # the last ten nobody took
            rows.append((f"u{user}", catalog[at].id, float(len(rows)), 1.0 + int(some() * 5)))
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "rating"], orient="row")


def queries(catalog: Catalog, count: int, seed: int) -> list[Query]:
    """Histories of 0 to 24 items with ratings, wishes, filters, seen items that may come again, k from 1 to 5."""
    some = floats(seed)
    found = []
    for number in range(count):
        at, taken = int(some() * len(catalog)), []
        for _ in range(int(some() * 25)):
            at = (at + 1 + int(some() ** 3 * 40)) % len(catalog)
            taken.append(catalog[at])
        low = 1960 + int(some() * 40)
        filters: list[Mapping[str, Any]] = [{}, {"year": f"{low}..{low + 9}"}, {"genres": ("War", "Drama")}, {}]
        found.append(
            Query(
                taken,
                text=("a red night in the city", "alien star", None)[number % 3],
                k=1 + int(some() * 5),
                exclude_seen=number % 5 != 0,
                ratings=[1.0 + int(some() * 5) for _ in taken],
                filters=filters[number % 4],
            )
        )
    return found


def priors(catalog: Catalog, log: pl.DataFrame) -> dict[str, list[Prior]]:
    """Sets of priors by name: nothing, words, and each kind that learns from a log."""
    return {
        "flat": [],
        "words": [TextQuery(catalog, weight=0.7), HistoryText(catalog, weight=0.2), Content(catalog, weight=0.5)],
        "log": [Transition.fit(log, catalog), Popularity.fit(log, catalog, weight=-0.3)],
        "all": [
            TextQuery(catalog),
            Ease.fit(log, catalog, l2=5.0, weight=0.6),
            ItemKNN.fit(log, catalog, neighbours=7, weight=0.4),
            Repeat.fit(log, catalog, weight=0.3),
            Popularity.fit(log, catalog, weight=0.2),
        ],
    }


def cases(catalog: Catalog, hf: Engine) -> Iterator[tuple[str, str, bool, Recommender, str, list[Query]]]:
    """Name, engine, whether the sparse form of priors is used, who answers, the task, and what is asked."""
    log = made_log(catalog)
    sets = priors(catalog, log)
    seed = iter(range(100, 200))

    def case(
        engine: Engine | None, own: str, count: int, task: str = "recommend", *, sparse: bool = False, **settings: Any
    ) -> tuple[str, str, bool, Recommender, str, list[Query]]:
        kind = "none" if engine is None else "hf" if engine is hf else "fake" if engine.constrained else "writing"
        said = ", ".join(f"{name}={value}" for name, value in settings.items() if name != "rating_priors")
        name = f"{task}: {kind}, {own}{', sparse' if sparse else ''}{', ' + said if said else ''}"
        made = Recommender(catalog, engine, priors=sets[own], **{"lm_weight": 1.0, **settings})
        return name, kind, sparse, made, task, queries(catalog, count, next(seed))

    for own in sets:
        yield case(None, own, 30)
        yield case(None, own, 20, sparse=True)
    fake = FakeEngine()
    how: tuple[dict[str, Any], ...] = ({"decoding": "trie"}, {"decoding": "raw"}, {"max_history": 3})
    for settings in how:
        for normalise in ("catalog", "eligible"):
            yield case(fake, "log", 12, **settings, normalise=normalise, lm_weight=0.3)
            yield case(fake, "all", 8, **settings, normalise=normalise, num_beams=3, exact=True)
            yield case(fake, "words", 8, **settings, normalise=normalise, sparse=True, num_beams=6)
    for own, settings in (
        ("log", {"lm_weight": 0.1}),
        ("flat", {"normalise": "eligible"}),
        ("words", {"decoding": "raw", "lm_weight": 0.5}),
        ("all", {"max_history": 4}),
    ):
        yield case(hf, own, 12, **settings)
    writing = FakeEngine(WRITTEN, constrained=False)
    yield case(writing, "all", 15)
    yield case(FakeEngine(WRITTEN), "log", 10, decoding="free")
    for engine in (None, fake, hf, writing):
        yield case(engine, "log", 10, "rank")
    yield case(fake, "all", 10, "rank", sparse=True, lm_weight=0.5)
    knn = [RatingKNN.fit(log, weight=0.8)]
    yield case(None, "flat", 15, "rate", rating_priors=knn)
    yield case(fake, "flat", 10, "rate", rating_priors=knn, rating_lm_weight=0.5)
    yield case(hf, "flat", 10, "rate", prompt="rate")
    yield case(FakeEngine(["4", "I'd say 3.5 of 5"], constrained=False), "flat", 10, "rate", rating_priors=knn)
    yield case(fake, "log", 10, "explain", prompt="explain")


def ask(catalog: Catalog, who: Recommender, task: str, asked: Sequence[Query]) -> list[Any]:
    """The answers; one that cannot be given is an error in its place."""
    some = floats(len(asked))
    places = [[catalog[int(some() * len(catalog))] for _ in range(6)] for _ in asked]
    if task == "recommend":
        return list(who.recommend_many(asked, on_error="return"))
    if task == "rank":
        return list(who.rank_many(list(zip(asked, places, strict=True)), on_error="return"))
    pairs = [(query, some_items[0]) for query, some_items in zip(asked, places, strict=True)]
    if task == "rate":
        return list(who.rate_many(pairs, on_error="return"))
    return list(who.explain_many(pairs, on_error="return"))


def short(number: float) -> float | None:
    """So many digits as are compared; None for NaN, which JSON does not have."""
    return None if math.isnan(number) else float(f"{number:.{DIGITS}g}")


def written(answer: Any) -> list[Any]:
    """An answer as JSON: texts and whole numbers, which must be equal, then the numbers that must be close."""
    if isinstance(answer, WrittenRecommendations):
        methods = "".join(place.grounding.method[0] for place in answer)
        rest = [answer.exact, answer.num_rounds, answer.history_used, answer.prompt_tokens, len(answer.dropped)]
        texts = [" ".join(place.item.id for place in answer), methods, *rest, answer.prompt, "order"]
        order = [-math.log(place.rank) for place in answer]
        numbers = [*order, math.nan, math.nan, order[-1]]
    elif isinstance(answer, Recommendations):
        last = answer[-1]
        methods = "".join(place.grounding.method[0] for place in answer)
        rest = [answer.exact, answer.num_rounds, answer.history_used, answer.prompt_tokens, len(answer.dropped)]
        texts = [" ".join(place.item.id for place in answer), methods, *rest, answer.prompt, *last.terms]
        numbers = [*(place.score for place in answer), answer[0].probability, last.probability, *last.terms.values()]
    elif isinstance(answer, RatingPrediction):
        texts = [answer.item.id, answer.mode, answer.prompt, *answer.parts]
        numbers = [*answer.distribution.values(), answer.mean, answer.label_mass, *map(answer.mean_of, answer.parts)]
    elif isinstance(answer, Explanation):
        texts, numbers = [answer.item.id, answer.text, answer.prompt, *(item.id for item in answer.evidence)], []
    else:
        texts, numbers = [f"{type(answer).__name__}: {answer}"], []
    return [texts, [short(number) for number in numbers]]


def same(found: list[Any], stored: list[Any], tolerance: float) -> bool:
    """Whether texts are equal and numbers close."""
    if found[0] != stored[0] or len(found[1]) != len(stored[1]):
        return False
    return all(
        (a is None and b is None)
        or (a is not None and b is not None and math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance))
        for a, b in zip(found[1], stored[1], strict=True)
    )


@pytest.fixture(scope="module")
def hf(tiny_model: Path) -> Engine:
    """The model of random weights in float64, so that its answers are the same on any machine to many digits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llmgen.engines.hf import HFEngine

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model)
    return HFEngine(model.double(), AutoTokenizer.from_pretrained(tiny_model), name="hf:tiny")


def test_answers_stay_as_they_were(catalog: Catalog, hf: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, list[Any]] = {}
    tolerance = {}
    for name, kind, sparse, who, task, asked in cases(catalog, hf):
        with monkeypatch.context() as patch:
            if sparse:
                patch.setattr(sparse_module, "LARGE_CATALOG", 0)
            answers = ask(catalog, who, task, asked)
        assert name not in found
        found[name], tolerance[name] = [written(answer) for answer in answers], CLOSE[kind]
    assert sum(map(len, found.values())) >= 500
    if not STORED.exists():
        groups = [
            json.dumps(name) + ": [\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]"
            for name, rows in found.items()
        ]
        STORED.write_text("{\n" + ",\n".join(groups) + "\n}\n", encoding="utf-8")
        pytest.fail(f"{STORED} was not there and is written now; look at it and run again")
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    assert list(found) == list(stored)
    wrong = [
        (name, number, is_now, was)
        for name, rows in found.items()
        for number, (is_now, was) in enumerate(zip(rows, stored[name], strict=True))
        if not same(is_now, was, tolerance[name])
    ]
    assert not wrong, f"{len(wrong)} answers differ, such as {wrong[:3]}"


def test_a_changed_score_or_order_is_found() -> None:
    stored = [["1 2", "tt", True, 3, 1, 9, 0, "next_item@x", "lm"], [-0.5, -0.7, 0.6, 0.3, -0.7]]
    assert same(stored, stored, 1e-9)
    assert not same([stored[0], [-0.5, -0.7, 0.6, 0.3, -0.7 * (1 + 1e-8)]], stored, 1e-9)
    assert not same([["2 1", *stored[0][1:]], stored[1]], stored, 1e-9)
    assert not same([stored[0], [None, *stored[1][1:]]], stored, 1e-9)
