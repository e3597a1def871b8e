r"""Wishes for video games in words that stand in no title that is wanted: what BM25 cannot find, and vectors may.

    python -m eval.game_wishes items.csv.gz log.csv.gz --vectors runs/vectors/video-games

The products have titles and nothing else. So `eval/game_wishes.yaml` says what a player knows: a rule has a pattern of
titles (`\bFIFA\b`) and wishes in other words ("kick a ball with real clubs and players"), written before any result
was seen. All products whose title the pattern matches are wanted. A wish of which a word, also with another
ending, stands in a title that is wanted is left out. Half of the rules choose weights and temperature, the wishes of
the others are asked once; no rule is in both. NDCG@10 and recall@10, means of the wishes; intervals and tests draw and
flip whole rules, since the wishes of a rule want the same products. The control gives each wish the lists of the other
rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
import yaml

from eval.meaning import EncoderOption, K, VectorsOption, best, best_vectors, combinations, ndcgs, weights_of
from eval.wish_mixes import LM_WEIGHTS, asked_model
from llmgen.catalog.core import Catalog
from llmgen.engines import load_engine
from llmgen.errors import DataError
from llmgen.evaluation.metrics.ranking import ndcg_at_k, recall_at_k
from llmgen.evaluation.protocols.protocol import Protocol
from llmgen.evaluation.stats.intervals import interval_of_mean, paired_difference
from llmgen.evaluation.stats.power import detectable_difference
from llmgen.evaluation.stats.significance import holm, permutation_test
from llmgen.evaluation.terminal import exit_on_error
from llmgen.priors import Popularity, Prior, TextQuery
from llmgen.priors.wish import FUNCTION_WORDS
from llmgen.text.normalization import tokens
from llmgen.types import FloatArray, Query
from llmgen.vectors import ItemVectors, load_encoder

RULES = Path(__file__).with_suffix(".yaml")
BASELINE = "popularity"
ENDINGS = ("ings", "ing", "ers", "ies", "er", "ed", "es", "s", "e", "y")
SHORTEST = 3
"""Letters that are left of a word at least, when its ending is cut off."""


class Rule(NamedTuple):
    """What a player knows.

    Attributes:
        titles: Regular expression of the titles that are meant, without regard to case.
        wishes: The same in other words.
    """

    titles: str
    wishes: tuple[str, ...]


class Wish(NamedTuple):
    """A wish and what it wants.

    Attributes:
        text: As it is asked.
        rule: Number of its rule.
        wanted: Ids of the products, in the order of the catalog.
    """

    text: str
    rule: int
    wanted: tuple[str, ...]


def read_rules(path: Path = RULES) -> list[Rule]:
    """The rules of a YAML file: a list of mappings with `titles` and `wishes`.

    Raises:
        DataError: The file cannot be read, or a rule of it.
    """
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read the rules in {path}: {error}") from None
    rules = []
    for row in rows if isinstance(rows, list) else [rows]:
        try:
            rule = Rule(row["titles"], tuple(row["wishes"]))
            re.compile(rule.titles)
            if not rule.wishes or not all(isinstance(wish, str) and wish.strip() for wish in rule.wishes):
                raise ValueError("each wish must be a text")
        except (KeyError, TypeError, ValueError, re.error) as error:
            raise DataError(
                f"{path}: a rule has `titles`, a regular expression, and `wishes`, a list of texts; {row!r} is none: "
                f"{error}"
            ) from None
        rules.append(rule)
    return rules


def stem(word: str) -> str:
    """A word without its ending, so that forms of a word are told to be one; it cuts rather too much than too little.

    >>> stem("racing") == stem("races") == stem("racers"), stem("bus")
    (True, 'bus')
    """
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= SHORTEST:
            return word[: -len(ending)]
    return word


def stems(text: str) -> frozenset[str]:
    """The words that BM25 sees, without endings and without function words."""
    return frozenset(stem(word) for word in tokens(text) if word not in FUNCTION_WORDS)


def wishes_of(rules: Sequence[Rule], catalog: Catalog) -> tuple[list[Wish], list[tuple[str, str]]]:
    """The wishes of the rules.

    Returns:
        Those that share no word with any title that they want; and those left out, each with why.
    """
    kept, dropped = [], []
    for number, rule in enumerate(rules):
        meant = [item for item in catalog if re.search(rule.titles, item.title, re.IGNORECASE)]
        words = frozenset[str]().union(*(stems(item.title) for item in meant))
        for text in rule.wishes:
            if not meant:
                dropped.append((text, "no title is meant"))
            elif shared := stems(text) & words:
                dropped.append((text, f"a title has {', '.join(sorted(shared))}"))
            else:
                kept.append(Wish(text, number, tuple(item.id for item in meant)))
    return kept, dropped


def halves(wishes: Sequence[Wish], seed: int) -> tuple[list[Wish], list[Wish]]:
    """The wishes of one half of the rules, and those of the other."""
    rules = sorted({wish.rule for wish in wishes})
    first = {rules[place] for place in np.random.default_rng(seed).permutation(len(rules))[: len(rules) // 2]}
    return [wish for wish in wishes if wish.rule in first], [wish for wish in wishes if wish.rule not in first]


def exchanged(found: Sequence[Sequence[str]], wishes: Sequence[Wish]) -> FloatArray:
    """NDCG@10 that the lists of the wishes of other rules have for each wish, on average.

    >>> a, b = Wish("a", 0, ("1",)), Wish("b", 1, ("2",))
    >>> exchanged([["1"], ["1"], ["2"]], [a, a, b]).tolist()  # b's list has nothing of a; both of a's nothing of b
    [0.0, 0.0, 0.0]
    """
    return np.array(
        [
            np.mean(
                [
                    ndcg_at_k(one, set(wish.wanted), K)
                    for one, other in zip(found, wishes, strict=True)
                    if other.rule != wish.rule
                ]
            )
            for wish in wishes
        ]
    )


def detectable(differences: FloatArray, wishes: Sequence[Wish], rules: int) -> float:
    """The mean difference that so many other rules show with a power of .8, by how much these rules differ."""
    by_rule: dict[int, list[float]] = {}
    for wish, difference in zip(wishes, differences.tolist(), strict=True):
        by_rule.setdefault(wish.rule, []).append(difference)
    sd = float(np.std([np.mean(some) for some in by_rule.values()], ddof=1))
    return detectable_difference(sd, rules) if sd else 0.0


def show(found: dict[str, list[list[str]]], settings: dict[str, str], wishes: Sequence[Wish]) -> None:
    """Print what the lists of each mix are worth, and what they are worth to the wishes of other rules."""
    rules = [wish.rule for wish in wishes]
    wanted = [wish.wanted for wish in wishes]
    values = {name: ndcgs(lists, wanted) for name, lists in found.items()}
    others = [name for name in found if name != BASELINE]
    p_values = [permutation_test(values[one], values[BASELINE], seed=0, clusters=rules).p for one in others]
    ps = dict(zip(others, holm(p_values), strict=True))
    print(
        f"\n| {len(wishes)} wishes of {len(set(rules))} rules | NDCG@10 | recall@10 | - {BASELINE} | Holm p | weights |"
    )
    print("|---|---|---|---|---|---|")
    for name, lists in found.items():
        own = interval_of_mean(values[name], seed=0, clusters=rules)
        recall = np.mean([recall_at_k(one, set(ids), K) for one, ids in zip(lists, wanted, strict=True)])
        cells = [name, f"{own.mean:.4f} [{own.low:.4f}, {own.high:.4f}]", f"{recall:.4f}", "-", "-", settings[name]]
        if name != BASELINE:
            cells[3:5] = _apart(values[name], values[BASELINE], rules), f"{ps[name]:.4f}"
        print("| " + " | ".join(cells) + " |", flush=True)
    print("\n| the control | own list | lists of other rules | own - others |\n|---|---|---|---|")
    for name, lists in found.items():
        strange = exchanged(lists, wishes)
        p = permutation_test(values[name], strange, seed=0, clusters=rules).p
        apart = f"{_apart(values[name], strange, rules)}, p {p:.4f}"
        print(f"| {name} | {values[name].mean():.4f} | {strange.mean():.4f} | {apart} |", flush=True)


def _apart(a: FloatArray, b: FloatArray, rules: Sequence[int]) -> str:
    found = paired_difference(a, b, seed=0, clusters=rules)
    return f"{found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"


def main(
    items: Annotated[Path, typer.Argument(help="Table of products, with item_id and title.")],
    interactions: Annotated[Path, typer.Argument(help="Table of what was bought, with user_id, item_id, position.")],
    vectors: VectorsOption,
    encoder: EncoderOption = "minilm",
    rules: Annotated[Path, typer.Option(help="What a player knows.")] = RULES,
    engine: Annotated[str, typer.Option(help="A model that is asked too, see llmgen.engines.load_engine.")] = "none",
    seed: Annotated[int, typer.Option(help="Which rules choose the weights.")] = 0,
) -> None:
    """Ask the wishes of half of the rules, with weights that the others chose."""
    with exit_on_error():
        tables = {"items": str(items), "interactions": str(interactions), "columns": {"timestamp": "position"}}
        data = Protocol.model_validate({"data": {**tables, "noun": "product"}}).load()
        catalog = data.catalog
        kept, dropped = wishes_of(read_rules(rules), catalog)
        print(f"{len(kept)} wishes of {len({wish.rule for wish in kept})} rules; left out: {len(dropped)}")
        for text, why in dropped:
            print(f"  {text!r}: {why}")
        tuning, final = halves(kept, seed)
        if min(len({wish.rule for wish in half}) for half in (tuning, final)) < 2:
            raise DataError(f"{rules}: each half needs wishes of two rules or more, and there are {len(kept)} wishes")
        read = ItemVectors.make(catalog, load_encoder(encoder), vectors)
        words, popularity = TextQuery(catalog), Popularity.fit(data.interactions, catalog)
        ids = np.array(catalog.ids)

        def asks(wishes: Iterable[Wish]) -> list[Query]:
            return [Query((), wish.text, wish.text, k=K) for wish in wishes]

        wanted = [wish.wanted for wish in tuning]
        near = best_vectors(read, asks(tuning), wanted, popularity.log_weights(asks(tuning)))
        priors: Mapping[str, Prior] = {"bm25": words, "vectors": near, BASELINE: popularity}
        known, asked = (
            {name: prior.log_weights(asks(half)) for name, prior in priors.items()} for half in (tuning, final)
        )
        found, settings, before, products = {}, {}, {}, {}
        for mix in combinations(tuple(known)):
            weights = weights_of([known[name] for name in mix], ids, wanted)
            name = " x ".join(mix)
            products[name] = [
                np.sum([weight * half[one] for one, weight in zip(mix, weights, strict=True)], axis=0)
                for half in (known, asked)
            ]
            before[name] = ndcgs(best(products[name][:1], (1.0,), ids), wanted)
            found[name] = best(products[name][1:], (1.0,), ids)
            settings[name] = ", ".join(f"{one} {weight:g}" for one, weight in zip(mix, weights, strict=True))
        for name in () if engine == "none" else (BASELINE, f"vectors x {BASELINE}"):
            model, (first, second), told = load_engine(engine), products[name], f"LM x {name}"
            tried = {
                weight: ndcgs(asked_model(model, catalog, asks(tuning), first, weight), wanted) for weight in LM_WEIGHTS
            }
            weight = max(tried, key=lambda one: float(tried[one].mean()))
            print(f"{told}, choosing:", {one: round(float(some.mean()), 4) for one, some in tried.items()}, flush=True)
            found[told], before[told] = asked_model(model, catalog, asks(final), second, weight), tried[weight]
            settings[told] = f"{settings[name]}, LM {weight:g}"
        print("NDCG@10 on the part for choosing:", {name: round(float(one.mean()), 4) for name, one in before.items()})
        every = " x ".join(priors)
        sure = detectable(before[every] - before[BASELINE], tuning, len({wish.rule for wish in final}))
        print(f"{every} - {BASELINE} shows at .8 power in the other part from {sure:.4f} on", flush=True)
        show(found, settings, final)


if __name__ == "__main__":
    typer.run(main)
