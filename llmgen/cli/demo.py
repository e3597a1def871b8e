"""The demo: one real user of MovieLens-100K, everything that llmgen does, in a few minutes on two cores."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import polars as pl
from rich.console import Console

from llmgen.cli.display import answer_table, explanation_text, items_table, lists_table, plain_text, ratings_table
from llmgen.datasets.splits import histories, leave_one_out
from llmgen.engines import load_engine
from llmgen.errors import DataError
from llmgen.priors import TextQuery, Transition
from llmgen.types import Query
from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace, choose

WISH = "slow science fiction about first contact"
NUM_CANDIDATES = 20
NUM_RATED = 5
TUNED, UNTUNED = "tuned", "untuned"


def run(*, user: str, engine: str, console: Console, adapter: str | None = None) -> None:
    """Print the demo.

    Args:
        user: A user of MovieLens-100K with 30 interactions or more.
        engine: See `load_engine`.
        console: Where to print.
        adapter: One that was tuned on MovieLens-100K, shown beside the untuned model; None for that one alone.

    Raises:
        DataError: No such user, or one with too few interactions.
    """

    def heading(words: str) -> None:
        console.print()
        console.rule(plain_text(words, style="bold"), align="left")

    settings = {UNTUNED: RecommenderSettings(engine=engine)}
    if adapter is not None:
        settings = {TUNED: RecommenderSettings(engine=engine, adapter=adapter), **settings}
    best = next(iter(settings))
    with console.status("Reading MovieLens-100K"):
        data = settings[best].written(DataSettings()).load()
        catalog = data.catalog
        split = leave_one_out(data.interactions)
        before = pl.concat([split.train, split.validation])
        known = histories(before, catalog=catalog)
        last = histories(split.test, catalog=catalog)
    if user not in last:
        raise DataError(f"MovieLens-100K has no user {user!r} with three interactions or more; try 196")
    history, ratings = known[user]
    if ratings is None or len(history) < NUM_RATED + 5:
        raise DataError(f"user {user} has rated {len(history)} films only; the demo needs {NUM_RATED + 5}: try 196")
    held_out = last[user].items[0]
    rated = range(len(history) - NUM_RATED, len(history))
    hidden = pl.col("item_id").is_in([held_out.id, *(history[place].id for place in rated)])
    workspace = Workspace(replace(data, interactions=data.interactions.filter((pl.col("user_id") != user) | ~hidden)))
    query = Query(history, user_id=user, ratings=ratings)
    transition = Transition.fit(before, catalog)
    with console.status("Loading the language model"):
        engines = {name: load_engine(engine, adapter=one.adapter) for name, one in settings.items()}
        fused = {
            name: workspace.build(one, [transition], engines[name], choose(one, [transition], query))
            for name, one in settings.items()
        }
    alone = {name: one.with_priors(lm_weight=1.0) for name, one in fused.items()}

    heading(f"User {user}: the last films seen, newest last ({len(history)} in all)")
    console.print(items_table(catalog, history[-10:], title=""))

    heading("Ten films by the language model alone" + (", tuned on this catalog beside untuned" * (best == TUNED)))
    with console.status("Searching"):
        lists = {name: one.recommend(query) for name, one in alone.items()}
    if adapter is not None:
        console.print(plain_text(f"Tuned: with the adapter {adapter}."))
    console.print(lists_table(catalog, lists))
    places = [
        f"place {place.rank} ({name})" for name, answer in lists.items() for place in answer if place.item == held_out
    ]
    console.print(plain_text(f"The film seen next was {catalog.label(held_out)}: {_told(places)}."))

    heading(f"Ten recommendations: the {best} model times what people watched next")
    with console.status("Searching"):
        answer = fused[best].recommend(query)
    console.print(answer_table(catalog, answer, title="", scores=True))
    places = [f"place {place.rank}" for place in answer if place.item == held_out]
    console.print(plain_text(f"The film seen next was {catalog.label(held_out)}: {_told(places)}."))

    heading(f"A new user, who says only: {WISH}")
    wish, words = Query(text=WISH, k=5), TextQuery(catalog)
    with console.status("Searching"):
        lm_weight = choose(settings[best], [words], wish).lm_weight
        cold = fused[best].with_prompt("cold_start").with_priors(words, lm_weight=lm_weight).recommend(wish)
    console.print(answer_table(catalog, cold, title="", scores=True))

    heading(f"{NUM_CANDIDATES} candidates in order, the held-out film among them")
    seen = {item.id for item in history}
    others = [item for item in catalog if item.id not in seen and item.id != held_out.id]
    candidates = [held_out, *random.Random(0).sample(others, NUM_CANDIDATES - 1)]
    with console.status("Ranking"):
        ranked = fused[best].rank(query, candidates)
    console.print(answer_table(catalog, ranked, title="", scores=True))
    place = next(place.rank for place in ranked if place.item.id == held_out.id)
    console.print(plain_text(f"{catalog.label(held_out)} is number {place} of {NUM_CANDIDATES}."))

    heading(f"{NUM_RATED} ratings, each from those before it: the model times similar items")
    pairs = [(Query(history[:place], ratings=ratings[:place]), history[place]) for place in rated]
    with console.status("Rating"):
        predicted = fused[best].rate_many(pairs)
    console.print(ratings_table(catalog, predicted, ratings[-NUM_RATED:], parts=True))

    heading("One reason" + (", asked of the untuned model" * (best == TUNED)))
    with console.status("Explaining"):
        explanation = fused[UNTUNED].explain(query, answer[0].item)
    console.print(explanation_text(catalog, explanation))

    console.print()
    console.print(
        plain_text(
            "Next: .venv/bin/llmgen recommend --text 'a funny road movie' --filter year=1990..1999 --explain-scores"
        )
    )


def _told(places: Sequence[str]) -> str:
    """Where a film stands, in words."""
    return ", ".join(places) or "not among these"
