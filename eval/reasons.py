"""Reasons of a language model: how often it names what it was not told, and what users read then.

    python -m eval.reasons --users 200 --out reasons.jsonl

Users of MovieLens-100K are each recommended one film by the transition prior and told why. What is shown is checked
once more, title by title and genre by genre: none may stand in it but those of the film and its evidence.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from llmgen import Catalog, Item, Query, Recommender, Transition, histories, load_engine
from llmgen.cli.display import plain_text
from llmgen.progress import Stage
from llmgen.workspace.core import DataSettings

AT_ONCE = 10
READ = 20
"""Reasons that are printed for people to read."""


def named_wrongly(text: str, catalog: Catalog, told: Sequence[Item]) -> list[str]:
    """Titles of two words or more, with their capitals, and genres in any, that stand in a text and in no told item."""
    known = "\n".join(f"{item.title} {catalog.label(item)} {' '.join(_genres(item))}" for item in told)
    titles = {item.title for item in catalog if " " in item.title}
    genres = {genre for item in catalog for genre in _genres(item)}
    wrong = [title for title in titles if re.search(rf"\b{re.escape(title)}(?!\w)", text) and title not in known]
    return wrong + [
        genre
        for genre in genres
        if re.search(rf"\b{re.escape(genre)}(?!\w)", text, re.IGNORECASE) and genre not in known
    ]


def _genres(item: Item) -> tuple[str, ...]:
    value = item.attributes.get("genres")
    return value if isinstance(value, tuple) else ()


def main(
    users: Annotated[int, typer.Option(min=1, help="Drawn at random.")] = 200,
    engine: Annotated[str, typer.Option(help="See `load_engine`.")] = "hf",
    seed: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="A file for all reasons, JSON lines.")] = None,
) -> None:
    """Ask for reasons, count, and print some."""
    data = DataSettings().load()
    catalog, known = data.catalog, histories(data.interactions, catalog=data.catalog)
    recommender = Recommender(catalog, load_engine(engine), priors=[Transition.fit(data.interactions, catalog)])
    best = recommender.with_priors(lm_weight=0)
    chosen = np.random.default_rng(seed).permutation(sorted(known, key=str))[:users].tolist()
    pairs = [(query, best.recommend(query)[0].item) for query in (Query(known[user].items, k=1) for user in chosen)]
    reasons = []
    with Stage("explaining", len(pairs)) as stage:
        for start in range(0, len(pairs), AT_ONCE):
            reasons += recommender.explain_many(pairs[start : start + AT_ONCE])
            stage.advance(len(pairs[start : start + AT_ONCE]))
    wrong = [(one, names) for one in reasons if (names := named_wrongly(one.text, catalog, (one.item, *one.evidence)))]
    sources = Counter(one.source for one in reasons)
    console = Console(width=120)
    for one in reasons[:READ]:
        console.print(plain_text(f"[{one.source}] {one.text}"))
    console.print(plain_text(f"{len(reasons)} reasons by {engine}: {dict(sources)}; shown and wrong: {len(wrong)}"))
    for one, names in wrong:
        console.print(plain_text(f"wrong: {names} in {one.text!r}"))
    if out is not None:
        lines = [
            {"item": one.item.title, "source": one.source, "text": one.text, "unfounded": one.unfounded}
            for one in reasons
        ]
        out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
