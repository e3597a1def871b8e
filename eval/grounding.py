"""How well free text is grounded: titles damaged in eight ways, and titles that the catalog does not hold.

    python -m eval.grounding --dataset movielens-100k --n 1000 --seed 0 --absent ml-latest-small.zip --json FILE

Three ways to match are measured on the same texts, each with its threshold calibrated on the same catalog, with the
same damaged titles and for the same precision. A threshold depends on the titles that its calibration happens to
draw, by more than the ways differ, so every rate is the mean over several calibrations:

* `llmgen`: `llmgen.grounding.Grounder`.
* `edit distance, same rules`: the same normalisation, year and number rules, but rapidfuzz's `token_sort_ratio` in the
  place of BM25.
* `edit distance alone`: `token_sort_ratio` of rapidfuzz over labels and titles, the way it is commonly used. Of its
  scorers this one did best: on normalised keys at precision .98, `ratio` found two thirds as much, `WRatio` next to
  nothing.

More than 400 lines: one study, with the ways of matching that it compares.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from llmgen.catalog.core import Catalog
from llmgen.grounding import YEAR_TOLERANCE, Found, Grounder
from llmgen.text.corruption import KINDS, corrupt
from llmgen.text.title_names import names_of, numbers_of
from llmgen.types import Item

ARMS = ("llmgen", "edit distance, same rules", "edit distance alone")
_LIMIT = 12


class EditDistanceGrounder(Grounder):
    """The grounder's rules with rapidfuzz's `token_sort_ratio` of the normalised names in the place of BM25."""

    def _shares(self, key: str) -> list[tuple[float, str]]:
        from rapidfuzz import fuzz, process

        found = process.extract(key, self._names, scorer=fuzz.token_sort_ratio, limit=_LIMIT)
        return [(score / 100, name) for name, score, _ in found if numbers_of(name) == numbers_of(key)]


class PlainEditDistanceGrounder(Grounder):
    """rapidfuzz's `token_sort_ratio` over labels and titles, and nothing else."""

    _runner_up = 0.0

    def __init__(
        self, catalog: Catalog, *, threshold: float | None = None, precision: float = 0.98, seed: int = 0
    ) -> None:
        super().__init__(catalog, threshold=threshold, precision=precision, seed=seed)
        self._exact = {}

    @cached_property
    def _choices(self) -> dict[str, list[int]]:
        from rapidfuzz.utils import default_process

        choices: dict[str, list[int]] = {}
        for position, (item, label) in enumerate(zip(self.catalog, self.catalog.labels, strict=True)):
            for spelling in {default_process(label), default_process(item.title)}:
                choices.setdefault(spelling, []).append(position)
        return choices

    @cached_property
    def _spellings(self) -> list[str]:
        return list(self._choices)

    def _look_up(self, text: str) -> list[int]:
        return []

    def _search(self, text: str) -> list[list[Found]]:
        from rapidfuzz import fuzz, process
        from rapidfuzz.utils import default_process

        found = process.extract(default_process(text), self._spellings, scorer=fuzz.token_sort_ratio, limit=_LIMIT)
        return [[Found(self._choices[spelling], score / 100) for spelling, score, _ in found]]


class Text(NamedTuple):
    """A text to ground: what was done to which item's title."""

    kind: str
    item: Item
    text: str


@dataclass(frozen=True)
class Rates:
    """Shares of the texts of one row, in [0, 1].

    Attributes:
        num_texts: How many texts.
        right: Matched to the item meant, or another of the same title.
        wrong: Matched to anything else.
        none: Not matched.
        methods: Method -> share of the texts that it matched, rightly or not.
    """

    num_texts: int
    right: float
    wrong: float
    none: float
    methods: Mapping[str, float]


@dataclass(frozen=True)
class ArmResult:
    """What one way to match did.

    Attributes:
        thresholds: Its threshold on the whole catalog, for each calibration.
        calibration_s: Mean seconds that building and calibrating took.
        ms_per_text: Mean time of a damaged text, one at a time.
        present: Kind of damage (and `all`) -> rates; every text names an item of the catalog.
        absent: Test -> rates; no text names an item, so every match is wrong.
        right: For each calibration, the share of all damaged texts that were matched rightly.
        right_per_title: For each title, the same, over all calibrations.
    """

    thresholds: Sequence[float]
    calibration_s: float
    ms_per_text: float
    present: Mapping[str, Rates]
    absent: Mapping[str, Rates]
    right: Sequence[float]
    right_per_title: Sequence[float]


class Difference(NamedTuple):
    """Mean paired difference over titles, with the 95 % interval of a normal approximation."""

    mean: float
    low: float
    high: float


def make(
    arm: str, catalog: Catalog, *, threshold: float | None = None, precision: float = 0.98, seed: int = 0
) -> Grounder:
    """A grounder of one of `ARMS`.

    Raises:
        ValueError: An unknown arm.
    """
    kinds: tuple[type[Grounder], ...] = (Grounder, EditDistanceGrounder, PlainEditDistanceGrounder)
    classes = dict(zip(ARMS, kinds, strict=True))
    if arm not in classes:
        raise ValueError(f"no arm is called {arm!r}; there are {', '.join(ARMS)}")
    return classes[arm](catalog, threshold=threshold, precision=precision, seed=seed)


def damaged_texts(catalog: Catalog, *, num_titles: int, rng: random.Random) -> list[Text]:
    """Every kind of damage to titles drawn without repeats; each text with its year or without it, at even odds."""
    texts = []
    for position in rng.sample(range(len(catalog)), k=min(num_titles, len(catalog))):
        for kind in KINDS:
            whole = catalog.labels[position] if kind == "year" or rng.random() < 0.5 else catalog[position].title
            texts.append(Text(kind, catalog[position], corrupt(whole, kind, rng)))
    return texts


def absent_texts(catalog: Catalog, other: Catalog) -> dict[str, list[Text]]:
    """Labels of another catalog that this one does not hold: other titles, and remakes (same title, another year)."""
    years: dict[str, set[object]] = {}
    for item in catalog:
        for name in (*names_of(item).own, *names_of(item).others):
            years.setdefault(name, set()).add(item.attributes.get("year"))
    found: dict[str, list[Text]] = {"titles of another catalog": [], "remakes": []}
    for item, label in zip(other, other.labels, strict=True):
        known = set().union(*(years.get(name, set()) for name in (*names_of(item).own, *names_of(item).others)))
        year = item.attributes.get("year")
        if not known:
            found["titles of another catalog"].append(Text("absent", item, label))
        elif isinstance(year, int) and all(isinstance(y, int) and abs(y - year) > YEAR_TOLERANCE for y in known):
            found["remakes"].append(Text("absent", item, label))
    return {name: texts for name, texts in found.items() if texts}


def measure(
    arm: str,
    catalog: Catalog,
    texts: Sequence[Text],
    absent: Mapping[str, Sequence[Text]],
    *,
    precision: float = 0.98,
    seed: int = 0,
    calibrations: int = 5,
) -> ArmResult:
    """Run one arm on texts that name an item and on texts that do not.

    Args:
        arm: One of `ARMS`.
        catalog: Where to find items.
        texts: Texts that name one of its items.
        absent: Test -> texts that name none.
        precision: What thresholds are calibrated for.
        seed: Of the first calibration, and of the half that is held out; the next ones have the next seeds.
        calibrations: How many thresholds to average over.
    """
    seeds = range(seed, seed + calibrations)
    start = time.perf_counter()
    thresholds = _thresholds(arm, catalog, precision, seeds)
    calibration_s = (time.perf_counter() - start) / calibrations

    open_to_all = make(arm, catalog, threshold=0.0)
    _outcome(open_to_all, texts[0])  # builds its index
    start = time.perf_counter()
    outcomes = [_outcome(open_to_all, text) for text in texts]
    elapsed_s = time.perf_counter() - start
    rows = {
        kind: _rates([o for o, text in zip(outcomes, texts, strict=True) if text.kind == kind], thresholds)
        for kind in dict.fromkeys(text.kind for text in texts)
    }
    per_title: dict[str, list[float]] = {}
    for outcome, text in zip(outcomes, texts, strict=True):
        per_title.setdefault(text.item.id, []).extend(outcome.at(t).verdict == "right" for t in thresholds)

    half, held_out = _halves(catalog, seed)
    half_thresholds = _thresholds(arm, half, precision, seeds)
    half_open = make(arm, half, threshold=0.0)
    false = {
        name: _rates([_outcome(half_open, text) for text in row], half_thresholds) for name, row in held_out.items()
    }
    false |= {name: _rates([_outcome(open_to_all, text) for text in row], thresholds) for name, row in absent.items()}
    return ArmResult(
        thresholds=thresholds,
        calibration_s=calibration_s,
        ms_per_text=1e3 * elapsed_s / len(texts),
        present={**rows, "all": _rates(outcomes, thresholds)},
        absent=false,
        right=[_rates(outcomes, [threshold]).right for threshold in thresholds],
        right_per_title=[sum(right) / len(right) for right in per_title.values()],
    )


def difference(one: ArmResult, other: ArmResult) -> Difference:
    """How many more texts a title, as a share, `one` matches rightly than `other`.

    The interval covers the choice of titles, not that of the calibrations: see `ArmResult.right` for those.
    """
    gaps = np.asarray(one.right_per_title) - np.asarray(other.right_per_title)
    error = 1.96 * float(gaps.std(ddof=1)) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    mean = float(gaps.mean())
    return Difference(mean, mean - error, mean + error)


class _Outcome(NamedTuple):
    """What an arm without a threshold does with a text."""

    verdict: str
    method: str
    score: float

    def at(self, threshold: float) -> _Outcome:
        return _Outcome("none", "none", 0.0) if self.method == "bm25" and self.score < threshold else self


def _thresholds(arm: str, catalog: Catalog, precision: float, seeds: Sequence[int]) -> list[float]:
    return [make(arm, catalog, precision=precision, seed=seed).threshold for seed in seeds]


def _outcome(grounder: Grounder, text: Text) -> _Outcome:
    match = grounder.ground(text.text)
    if match.item is None:
        return _Outcome("none", "none", 0.0)
    right = text.kind != "absent" and _same_title(match.item, text.item)
    return _Outcome("right" if right else "wrong", match.grounding.method, match.grounding.score)


def _same_title(one: Item, other: Item) -> bool:
    names, others = names_of(one), names_of(other)
    return not {*names.own, *names.others}.isdisjoint((*others.own, *others.others))


def _halves(catalog: Catalog, seed: int) -> tuple[Catalog, dict[str, list[Text]]]:
    """Half of a catalog, and texts naming items of the other half whose titles the first does not hold."""
    rng = random.Random(seed)
    positions = rng.sample(range(len(catalog)), k=len(catalog))
    kept, held_out = positions[: len(positions) // 2], positions[len(positions) // 2 :]
    half = Catalog([catalog[i] for i in sorted(kept)], noun=catalog.noun, label=catalog.label_format)
    held = {name for item in half for name in (*names_of(item).own, *names_of(item).others)}
    plain, damaged = [], []
    for number, position in enumerate(sorted(held_out)):
        item, label = catalog[position], catalog.labels[position]
        if held.isdisjoint((*names_of(item).own, *names_of(item).others)):
            plain.append(Text("absent", item, label if rng.random() < 0.5 else item.title))
            damaged.append(Text("absent", item, corrupt(plain[-1].text, KINDS[number % len(KINDS)], rng)))
    return half, {"held-out half": plain, "held-out half, damaged": damaged}


def _rates(outcomes: Sequence[_Outcome], thresholds: Sequence[float]) -> Rates:
    """Rates of texts, mean over thresholds."""
    final = [outcome.at(threshold) for threshold in thresholds for outcome in outcomes]
    verdicts = Counter(outcome.verdict for outcome in final)
    methods = Counter(outcome.method for outcome in final)
    return Rates(
        num_texts=len(outcomes),
        right=verdicts["right"] / len(final),
        wrong=verdicts["wrong"] / len(final),
        none=verdicts["none"] / len(final),
        methods={method: methods[method] / len(final) for method in ("exact", "normalised", "bm25")},
    )


def _print(results: Mapping[str, ArmResult], console: Console, *, heading: str) -> None:
    def percent(share: float) -> str:
        return f"{100 * share:.1f}"

    table = Table(title=f"{heading}: texts that name an item, per cent")
    for column in ("damage", "texts", *(f"{arm}: right / wrong / none" for arm in results)):
        table.add_column(column, justify="left" if column == "damage" else "right")
    table.add_column("llmgen by exact / normalised / bm25", justify="right")
    first = results[ARMS[0]]
    for kind, row in first.present.items():
        cells = [result.present[kind] for result in results.values()]
        table.add_row(
            kind,
            str(row.num_texts),
            *(" / ".join(map(percent, (cell.right, cell.wrong, cell.none))) for cell in cells),
            " / ".join(map(percent, row.methods.values())),
            style="bold" if kind == "all" else None,
        )
    console.print(table)
    table = Table(title="Texts that name no item: false matches, per cent")
    for column in ("texts", "number", *results):
        table.add_column(column, justify="left" if column == "texts" else "right")
    for name, row in first.absent.items():
        shares = (percent(result.absent[name].wrong) for result in results.values())
        table.add_row(name, str(row.num_texts), *shares)
    console.print(table)
    for arm, result in results.items():
        console.print(
            f"{arm}: thresholds {min(result.thresholds):.3f} to {max(result.thresholds):.3f}, right "
            f"{percent(min(result.right))} to {percent(max(result.right))} %, calibrated in "
            f"{result.calibration_s:.1f} s, {result.ms_per_text:.2f} ms a text"
        )
    for arm in ARMS[1:]:
        gap = difference(first, results[arm])
        console.print(
            f"found right, llmgen minus {arm}: {100 * gap.mean:+.1f} points "
            f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}] (95 %, paired by title)"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print two tables, and write them as JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m eval.grounding", description="How well free text is grounded.")
    parser.add_argument("--dataset", default="movielens-100k", help="a named data set, or a folder or zip of one")
    parser.add_argument("--absent", help="another data set, whose other titles must not match (name, folder or zip)")
    parser.add_argument("--n", type=int, default=1000, help="titles to damage (default 1000)")
    parser.add_argument("--precision", type=float, default=0.98, help="that thresholds are calibrated for")
    parser.add_argument("--calibrations", type=int, default=5, help="thresholds to average over (default 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there")
    options = parser.parse_args(arguments)
    if options.n < 1:
        parser.error(f"--n must be 1 or more, not {options.n}")
    if options.calibrations < 1:
        parser.error(f"--calibrations must be 1 or more, not {options.calibrations}")

    from llmgen.datasets import load_dataset

    catalog = load_dataset(options.dataset).catalog
    absent = absent_texts(catalog, load_dataset(options.absent).catalog) if options.absent else {}
    texts = damaged_texts(catalog, num_titles=options.n, rng=random.Random(options.seed))
    results = {
        arm: measure(
            arm,
            catalog,
            texts,
            absent,
            precision=options.precision,
            seed=options.seed,
            calibrations=options.calibrations,
        )
        for arm in ARMS
    }
    _print(results, Console(width=150), heading=f"{options.dataset}, {len(catalog)} items, seed {options.seed}")
    if options.json is not None:
        record = {
            "dataset": str(options.dataset),
            "absent": options.absent,
            "num_items": len(catalog),
            "catalog_digest": catalog.digest,
            "num_titles": options.n,
            "precision": options.precision,
            "seed": options.seed,
            "calibrations": options.calibrations,
            "arms": {arm: asdict(result) for arm, result in results.items()},
            "right_minus": {arm: difference(results[ARMS[0]], results[arm])._asdict() for arm in ARMS[1:]},
        }
        options.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
