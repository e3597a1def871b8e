"""Items like an item, for the page of a product: by the priors that know items from one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from llmgen.errors import ConfigError
from llmgen.priors import Repeat
from llmgen.recommend.explaining import Attributing
from llmgen.recommend.lists import searched
from llmgen.recommend.parts import Parts
from llmgen.types import Item, Query, Recommendations


def parts_of_similar(parts: Parts) -> Parts:
    """The parts of a recommender that answers by nothing else than the priors which can tell what an item is like.

    These are the ones that say which item of a history speaks for another: transition, EASE, ItemKNN, content, and
    those of vectors. The language model is not asked.

    Raises:
        ConfigError: There is no such prior.
    """
    priors = tuple(one for one in parts.priors if isinstance(one, Attributing) and not isinstance(one, Repeat))
    if not priors:
        names = ", ".join(repr(prior.name) for prior in parts.priors) or "none at all"
        raise ConfigError(
            f"no prior knows what an item is like; there is {names}: add transition, item_knn, ease or content"
        )
    return replace(parts, priors=priors, config=replace(parts.config, lm_weight=0.0))


def similar_items(parts: Parts, pairs: Sequence[tuple[Query, Item]], sizes: Sequence[int]) -> list[Recommendations]:
    """The items that are most like each item.

    An item of which no prior knows anything, such as one that nobody took, is like none: an empty list that says so.

    Args:
        parts: See `parts_of_similar`.
        pairs: Of each query what its list may hold; what its history holds is left out where it asks for that.
        sizes: Items of each list.

    Raises:
        SearchError: No item is eligible.
    """
    asked = []
    for query, item in pairs:
        taken = query.history if query.exclude_seen else ()
        out = (*query.exclude, *taken, item)
        asked.append(replace(query, history=(item,), ratings=None, text=None, exclude=out))
    answers = searched(parts, asked, parts.multiplied(asked), sizes=sizes)
    names = {prior.name for prior in parts.priors}
    for number, (answer, (_, item)) in enumerate(zip(answers, pairs, strict=True)):
        if not any(place.terms[name] for place in answer for name in names):
            nothing = f"no prior knows anything that is like {item.title!r} ({item.id})"
            answers[number] = replace(answer, places=(), warnings=(nothing,))
    return answers
