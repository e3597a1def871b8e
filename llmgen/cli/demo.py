"""The demo: one real user of MovieLens-100K, everything that llmgen does, in a few minutes on two cores."""

from __future__ import annotations

import random

import polars as pl
from rich.console import Console

from llmgen.cli.display import answer_table, explanation_text, items_table, plain_text, ratings_table
from llmgen.datasets.splits import histories, leave_one_out
from llmgen.engines import load_engine
from llmgen.errors import DataError
from llmgen.priors import RatingKNN, TextQuery, Transition
from llmgen.recommend.recommender import Recommender
from llmgen.types import Query
from llmgen.workspace.core import LM_WEIGHT_BESIDE_A_PRIOR, RATING_WEIGHTS, DataSettings

WISH = "slow science fiction about first contact"
NUM_CANDIDATES = 20
NUM_RATED = 5


def run(*, user: str, engine: str, console: Console) -> None:
    """Print the demo.

    Args:
        user: A user of MovieLens-100K with 30 interactions or more.
        engine: See `load_engine`.
        console: Where to print.

    Raises:
        DataError: No such user, or one with too few interactions.
    """

    def heading(words: str) -> None:
        console.print()
        console.rule(plain_text(words, style="bold"), align="left")

    with console.status("Reading MovieLens-100K"):
        data = DataSettings().load()
        catalog = data.catalog
        split = leave_one_out(data.interactions)
        known = histories(split.train, split.validation, catalog=catalog)
        last = histories(split.test, catalog=catalog)
    if user not in last:
        raise DataError(f"MovieLens-100K has no user {user!r} with three interactions or more; try 196")
    history, ratings = known[user]
    if ratings is None or len(history) < NUM_RATED + 5:
        raise DataError(f"user {user} has rated {len(history)} films only; the demo needs {NUM_RATED + 5}: try 196")
    held_out = last[user].items[0]
    with console.status("Loading the language model"):
        model = load_engine(engine)
    transition = Transition.fit(pl.concat([split.train, split.validation]), catalog)
    fused = Recommender(catalog, model, priors=[transition], lm_weight=LM_WEIGHT_BESIDE_A_PRIOR)
    query = Query(history, user_id=user, ratings=ratings)

    heading(f"User {user}: the last films seen, newest last ({len(history)} in all)")
    console.print(items_table(catalog, history[-10:], title=""))

    heading("Ten recommendations: the language model times what people watched next")
    with console.status("Searching"):
        answer = fused.recommend(query)
    console.print(answer_table(catalog, answer, title="", scores=True))
    place = next((place.rank for place in answer if place.item.id == held_out.id), None)
    console.print(
        plain_text(
            f"The film seen next was {catalog.label(held_out)}: {f'place {place}' if place else 'not among these'}."
        )
    )

    heading("The same with the prior off: this small model alone, untuned")
    with console.status("Searching"):
        alone = fused.with_priors(lm_weight=1.0).recommend(query)
    console.print(answer_table(catalog, alone, title="", scores=True))

    heading(f"A new user, who says only: {WISH}")
    with console.status("Searching"):
        newcomer = Recommender(
            catalog, model, prompt="cold_start", priors=[TextQuery(catalog)], lm_weight=LM_WEIGHT_BESIDE_A_PRIOR
        )
        cold = newcomer.recommend(Query(text=WISH, k=5))
    console.print(answer_table(catalog, cold, title="", scores=True))

    heading(f"{NUM_CANDIDATES} candidates in order, the held-out film among them")
    seen = {item.id for item in history}
    others = [item for item in catalog if item.id not in seen and item.id != held_out.id]
    candidates = [held_out, *random.Random(0).sample(others, NUM_CANDIDATES - 1)]
    with console.status("Ranking"):
        ranked = fused.rank(query, candidates)
    console.print(answer_table(catalog, ranked, title="", scores=True))
    place = next(place.rank for place in ranked if place.item.id == held_out.id)
    console.print(plain_text(f"{catalog.label(held_out)} is number {place} of {NUM_CANDIDATES}."))

    heading(f"{NUM_RATED} ratings, each from those before it: the model times similar items")
    start = len(history) - NUM_RATED
    pairs = [(Query(history[:i], ratings=ratings[:i]), history[i]) for i in range(start, len(history))]
    held = pl.col("item_id").is_in([item.id for item in (*history[start:], held_out)])
    kept = data.interactions.filter((pl.col("user_id") != user) | ~held)
    beside, lm_weight = RATING_WEIGHTS
    rating = fused.with_rating_priors(RatingKNN.fit(kept, weight=beside), lm_weight=lm_weight)
    with console.status("Rating"):
        predicted = rating.rate_many(pairs)
    console.print(ratings_table(catalog, predicted, ratings[start:], parts=True))

    heading("One reason")
    with console.status("Explaining"):
        explanation = fused.explain(query, answer[0].item)
    console.print(explanation_text(catalog, explanation))

    console.print()
    console.print(
        plain_text(
            "Next: .venv/bin/llmgen recommend --text 'a funny road movie' --filter year=1990..1999 --explain-scores"
        )
    )
