"""Lists of items: found by the search on the trie, or written by the model and looked up in the catalog."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from llmgen.engines import Engine, GenerationConfig, joins, line_break
from llmgen.priors import Product
from llmgen.recommend.parts import Parts
from llmgen.recommend.prompting import Prompt, Task, needs_engine
from llmgen.search import Request, SearchResult, rank_by_prior, search
from llmgen.templates.library import PromptTemplate
from llmgen.trie.weights import ItemWeights
from llmgen.types import (
    Completion,
    FloatArray,
    Grounding,
    IntArray,
    Item,
    Query,
    Recommendation,
    Recommendations,
    WrittenRecommendation,
    WrittenRecommendations,
)

logger = logging.getLogger(__name__)

TOKENS_A_LINE = 24  # of free text: room for a long title


def searched(
    parts: Parts,
    queries: Sequence[Query],
    factors: Product,
    task: Task = "recommend",
    candidates: Sequence[Sequence[Item]] = (),
    sizes: Sequence[int] | None = None,
) -> list[Recommendations]:
    """The best items of each query under model x priors, or under the priors alone.

    Args:
        parts: Of the recommender.
        queries: With items in their histories.
        factors: The product of the priors for each query.
        task: Whose prompt is used.
        candidates: What the prompt of each query shows, where the task wants that.
        sizes: Items of each list; by default the query's `k`, which is what the prompt asks for in any case.

    Raises:
        SearchError: No item of a query is eligible.
    """
    template = parts.templates[task]
    sizes = [query.k for query in queries] if sizes is None else sizes
    if parts.engine is None or not parts.config.asks_model:
        weights = [0.0] * len(queries)
        results = [
            rank_by_prior(factors.row(number), size, parts.ordered(query))
            for number, (query, size) in enumerate(zip(queries, sizes, strict=True))
        ]
        prompts = [Prompt(template, (), (), 0)] * len(queries)
    else:
        weights = parts.lm_weights(queries, factors)
        prompts = parts.thought_about(parts.engine, parts.prompts_of(task, queries, candidates))
        orders = [parts.ordered(query) for query in queries]
        requests = [
            Request(prompt.token_ids, row, size, order, weight)
            for prompt, row, size, order, weight in zip(prompts, factors.rows, sizes, orders, weights, strict=True)
        ]
        results = _searched(parts, parts.engine, template, requests)
    return [
        _answer(parts, number, query, result, prompt, factors, weight)
        for number, (query, result, prompt, weight) in enumerate(zip(queries, results, prompts, weights, strict=True))
    ]


def lm_logprobs(
    parts: Parts, queries: Sequence[Query], rows: Sequence[ItemWeights], items: Sequence[IntArray]
) -> list[FloatArray]:
    """What the model says of some items of each query, asked as for a list of recommendations.

    Args:
        parts: Of the recommender.
        queries: At least one.
        rows: The product of the priors for each query.
        items: Catalog indices for each query, none twice and all eligible.

    Returns:
        log P_LM, not weighted, float64 [len(items)] for each query, in the order of the items.

    Raises:
        ConfigError: There is no engine.
    """
    engine = needs_engine(parts.engine, "log-probabilities")
    prompts = parts.thought_about(engine, parts.prompts_of("recommend", queries, ()))
    requests = [
        Request(prompt.token_ids, row.among(some), len(some), lm_weight=1.0)
        for prompt, row, some in zip(prompts, rows, items, strict=True)
    ]
    found = _searched(parts, engine, parts.templates["recommend"], requests)
    answers = []
    for wanted, result in zip(items, found, strict=True):
        order = np.argsort(result.items)
        answers.append(result.lm_logprobs[order][np.searchsorted(result.items[order], wanted)])
    return answers


def _searched(
    parts: Parts, engine: Engine, template: PromptTemplate, requests: Sequence[Request]
) -> list[SearchResult]:
    trie, end = parts.index.trie_of(continues=template.continues), None
    if template.continues and not joins(engine):  # else the paths themselves end as in a list that goes on
        end = line_break(engine)[0]
    return search(trie, engine, requests, parts.config.search, end=end)


def _answer(
    parts: Parts,
    number: int,
    query: Query,
    result: SearchResult,
    prompt: Prompt,
    factors: Product,
    weight: float,
) -> Recommendations:
    by_prior = math.isnan(result.lm_logprobs[0])
    grounding = Grounding("prior", 0.0) if by_prior else Grounding("trie", 1.0)
    reference = "" if by_prior else prompt.template.ref
    names = [prior.name for prior in parts.priors] + [parts.index.boosts.name] * bool(query.boosts)
    places = []
    for place, index in enumerate(result.items.tolist()):
        terms = {} if by_prior else {"lm": weight * float(result.lm_logprobs[place])}
        # of the priors that were asked for: those that only remove items add nothing to those they leave
        terms |= {name: factors.term(name, number, index) for name in names}
        score = float(result.scores[place])
        probability = float(result.probabilities[place])
        places.append(Recommendation(parts.catalog[index], place + 1, score, probability, terms, grounding, reference))
    logger.info("recommended %d items in %d rounds, exact: %s", len(places), result.num_rounds, result.exact)
    return Recommendations(
        tuple(places),
        result.exact,
        reference,
        len(prompt.token_ids),
        result.num_rounds,
        prompt.num_items,
        lm_weight=0.0 if by_prior else weight,
    )


def written(
    parts: Parts,
    queries: Sequence[Query],
    factors: Product,
    task: Task = "recommend",
    candidates: Sequence[Sequence[Item]] = (),
) -> list[WrittenRecommendations]:
    """The model writes lists; their lines are looked up, and empty places filled by the prior. As `searched`."""
    engine = needs_engine(parts.engine, "free decoding")
    lists: dict[int, tuple[Prompt, Completion]] = {}
    for k in sorted({query.k for query in queries}):  # what is written must not depend on who else is asked about
        numbers = [number for number, query in enumerate(queries) if query.k == k]
        room = TOKENS_A_LINE * k
        among = [candidates[number] for number in numbers] if candidates else ()
        prompts = parts.prompts_of(task, [queries[number] for number in numbers], among, room)
        config = GenerationConfig(room, think_tokens=parts.config.think_tokens)
        texts = engine.generate([prompt.messages for prompt in prompts], config)
        lists.update(zip(numbers, zip(prompts, texts, strict=True), strict=True))
    return [_grounded(parts, query, factors, number, *lists[number]) for number, query in enumerate(queries)]


def _grounded(
    parts: Parts, query: Query, factors: Product, number: int, prompt: Prompt, completion: Completion
) -> WrittenRecommendations:
    weights = factors.row(number).dense()
    everything = rank_by_prior(weights, len(parts.catalog), parts.ordered(query))  # raises where nothing is eligible
    found: dict[int, Grounding] = {}
    dropped = []
    for match in parts.index.grounder.ground_lines(completion.text, allowed=weights > -np.inf):
        index = None if match.item is None else parts.catalog.index(match.item)
        if index is None or index in found or len(found) == query.k:
            dropped.append(match.grounding)
        else:
            found[index] = match.grounding
    for index in everything.items.tolist():
        if len(found) == query.k:
            break
        found.setdefault(index, Grounding("prior", 0.0))
    lacking = sum(grounding.method == "prior" for grounding in found.values())
    reference = prompt.template.ref
    places = tuple(
        WrittenRecommendation(parts.catalog[index], rank, grounding, reference)
        for rank, (index, grounding) in enumerate(found.items(), start=1)
    )
    warnings = _warnings(completion, lacking, len(places))
    tokens = len(prompt.token_ids)
    return WrittenRecommendations(places, reference, tokens, 1, prompt.num_items, tuple(dropped), warnings)


def _warnings(completion: Completion, lacking: int, places: int) -> tuple[str, ...]:
    """What is to be said of a list in which the model named no item for some of the places."""
    if lacking == 0 or (completion.finished and lacking < places):
        return ()
    return (f"{completion.end}: {lacking} of {places} places come from the prior",)
