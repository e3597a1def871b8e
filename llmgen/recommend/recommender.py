"""Recommender: a query becomes a prompt, the prompt and the priors a search, its result ranked items.

More than 400 lines: the public methods with their docstrings; what they do stands in other files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, overload

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import History
from llmgen.diversity import diversified
from llmgen.engines import Engine
from llmgen.errors import ArgumentError, LLMGenError
from llmgen.isolation import each
from llmgen.priors import Prior, RatingPrior, chosen
from llmgen.progress import Stage
from llmgen.recommend.assembled import Assembled
from llmgen.recommend.config import MAX_HISTORY, Decoding, RecommenderConfig
from llmgen.recommend.explaining import explained
from llmgen.recommend.index import CatalogIndex
from llmgen.recommend.lists import searched, written
from llmgen.recommend.parts import Parts
from llmgen.recommend.prompting import needs_engine
from llmgen.recommend.rating import check_rates, rated
from llmgen.recommend.request_weight import RequestWeight
from llmgen.recommend.reranking import Documents
from llmgen.recommend.similar import parts_of_similar, similar_items
from llmgen.recommend.tuning import GRID, LM_WEIGHTS, Metric, TunedWeights, spread, tune_lm_weight, tune_weights
from llmgen.recommend.weighing import CANDIDATES, FittedWeight, check_fits, choices_of, fit_weight
from llmgen.search import Normalise
from llmgen.templates.library import PromptLibrary
from llmgen.types import (
    RATINGS,
    Answer,
    Answers,
    Explanation,
    Item,
    OnError,
    Query,
    RatingPrediction,
    Recommendations,
    Relevance,
    WrittenRecommendations,
)


class Choice(NamedTuple):
    """How one query is answered, where queries are not all answered alike.

    Attributes:
        prompt: Name of the template; None for the recommender's own.
        lm_weight: None for the recommender's own; or one for each request.
    """

    prompt: str | None = None
    lm_weight: float | RequestWeight | None = None


class Tuned(NamedTuple):
    """What `Recommender.tune` found.

    Attributes:
        recommender: With the chosen weights.
        score: The metric of the priors alone, mean of all queries; optimistic, since it was chosen for. NaN without
            priors.
        lm_scores: LM weight -> the metric on the queries that the LM was tried on; 0 is the priors alone. Empty
            without a language model, and where a weight for each request was fitted.
        fitted: That weight with its likelihood, beside the best constant; None where none was asked for.
    """

    recommender: Recommender
    score: float
    lm_scores: Mapping[float, float]
    fitted: FittedWeight | None = None


class Recommender(Assembled):
    """A catalog, a language model, a prompt and item priors: queries in, ranked items out.

    Args:
        catalog: What can be recommended.
        engine: The language model; None recommends by the priors alone.
        prompt: Name of a prompt template, or several for different tasks; the task is the template's own. Tasks that
            are not named keep `next_item`, `rerank`, `rate_list` (`rate` with an engine that can only write) and
            `explain`.
        priors: Factors beside the language model. Seen items and filters need no mention: they are always in force.
        prompts: Where templates are looked up; those that come with llmgen by default.
        lm_weight: Weight of the LM's log-probability in the score, 0 or more; or a `RequestWeight`, by which each
            request has its own. By default 1 where no prior knows the user or the wish, and .03 beside one that does,
            as the commands have it for an untuned model; give a tuned one the weight that validation chose.
        rating_priors: Factors beside the language model where ratings are predicted.
        rating_lm_weight: Weight of the LM's log-probability of a rating, 0 or more.
        decoding: `trie` or `raw` (see `llmgen.search`), or `free`: the model writes a list, and each line is looked up
            in the catalog. An engine that cannot be constrained is always used that way.
        normalise: See `SearchConfig`.
        num_beams: See `SearchConfig`.
        exact: Whether every answer must be proven to be the best one.
        max_history: Newest items of a history that a prompt shows at most; fewer where the model's context is short.
        align_prompts: Whether prompts are cut to whole blocks of the engine's KV cache, by up to a quarter of the
            history's items: faster where an engine keeps whole blocks only, but no longer the prompt that other
            engines read. `Recommendations.history_used` says how many items were shown.
        think_tokens: So many tokens a model that can think may think for before each answer, 0 or more; its titles and
            ratings are scored, or its list is written, behind its thoughts. It costs as many steps of the model.
        cache: Folder for the tries of large catalogs; below llmgen's cache by default.
        histories: What each user of a log took, see `llmgen.histories`: then users can be named, as in
            `recommend(user="196")`.

    Raises:
        TemplateNotFoundError, TemplateError: A prompt is not there or wrong.
        ConfigError: Two prompts for one task, or free decoding without an engine.
        ArgumentError: An argument out of range.
    """

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine | None,
        *,
        prompt: str | Sequence[str] = (),
        priors: Sequence[Prior] = (),
        prompts: PromptLibrary | None = None,
        lm_weight: float | RequestWeight | None = None,
        rating_priors: Sequence[RatingPrior] = (),
        rating_lm_weight: float = 1.0,
        decoding: Decoding = "trie",
        normalise: Normalise = "catalog",
        num_beams: int | None = None,
        exact: bool = False,
        max_history: int = MAX_HISTORY,
        align_prompts: bool = False,
        think_tokens: int = 0,
        cache: Path | None = None,
        histories: Mapping[str, History] | None = None,
    ) -> None:
        config = RecommenderConfig(
            prompt=(prompt,) if isinstance(prompt, str) else tuple(prompt),
            lm_weight=lm_weight,
            rating_lm_weight=rating_lm_weight,
            decoding=decoding,
            normalise=normalise,
            num_beams=num_beams,
            exact=exact,
            max_history=max_history,
            align_prompts=align_prompts,
            think_tokens=think_tokens,
        )
        library = prompts or PromptLibrary.default()
        index = CatalogIndex(catalog, engine, cache)
        self._set(Parts(index, engine, config, tuple(priors), tuple(rating_priors), library, histories or {}))

    def recommend(self, query: Query | None = None, *, user: str | None = None) -> Answer:
        """The best `query.k` items.

        Args:
            query: What is wanted; ten items by default.
            user: Id of a user of the log, whose history the query then gets, see `query_of`.

        Raises:
            DataError, ConfigError: As `query_of`.
            UnknownItemError: An id of the history is not in the catalog.
            SearchError: No item is eligible.
            CatalogError: A filter, a boost or a diversity names an attribute or a value that no item has.
        """
        asked = Query() if query is None else query
        return self.recommend_many([asked if user is None else self.query_of(user, asked)])[0]

    @overload
    def recommend_many(
        self,
        queries: Iterable[Query] | None = None,
        *,
        users: Iterable[str] | None = None,
        progress: bool = False,
        on_error: Literal["raise"] = "raise",
    ) -> Answers[Answer]: ...
    @overload
    def recommend_many(
        self,
        queries: Iterable[Query] | None = None,
        *,
        users: Iterable[str] | None = None,
        progress: bool = False,
        on_error: Literal["return"],
    ) -> Answers[Answer | LLMGenError]: ...
    def recommend_many(
        self,
        queries: Iterable[Query] | None = None,
        *,
        users: Iterable[str] | None = None,
        progress: bool = False,
        on_error: OnError = "raise",
    ) -> Answers[Answer] | Answers[Answer | LLMGenError]:
        """The best items of each query, in order of the queries; they are worked on together.

        Args:
            queries: Any number.
            users: Ids of users of the log, instead of queries; or one for each query, which then gets the user's
                history.
            progress: Whether to tell how far it is, see `llmgen.progress`.
            on_error: `raise` stops at the first query that cannot be answered; `return` gives its error in its place,
                and all others their answers.

        Raises:
            SearchError, CatalogError: As `recommend`, with the number of the query; nothing is returned then.
            ArgumentError: Neither queries nor users, or another number of each.
            DataError, ConfigError: As `query_of`, whatever `on_error` says.
        """
        asked = self._asked(queries, users)
        with Stage("Recommending", len(asked), shown=progress) as stage:
            answers = each(self._recommend, asked, on_error, stage.advance)
        return Answers(answers, asked)

    def _asked(self, queries: Iterable[Query] | None, users: Iterable[str] | None) -> list[Query]:
        """The queries of `recommend_many`."""
        if users is None:
            if queries is None:
                raise ArgumentError("recommend_many needs queries, or users of the log; give one of them")
            return list(queries)
        known = list(users)
        asked = [Query() for _ in known] if queries is None else list(queries)
        if len(asked) != len(known):
            raise ArgumentError(f"{len(known)} users and {len(asked)} queries; give one query a user, or none at all")
        return [self.query_of(user, query) for user, query in zip(known, asked, strict=True)]

    def _recommend(self, queries: Sequence[Query]) -> Sequence[Answer]:
        for name in {query.diversity.by for query in queries if query.diversity is not None}:
            self.parts.index.where.check(name)
        if self.decoding == "free":
            return diversified(queries, self._written)
        return diversified(queries, self._searched)

    def _searched(self, queries: Sequence[Query], sizes: Sequence[int]) -> list[Recommendations]:
        """Lists of so many items each, asked for as lists of `k`."""
        queries = [self.catalog.resolved(query) for query in queries]
        return searched(self.parts, queries, self.parts.multiplied(queries), sizes=sizes)

    def _written(self, queries: Sequence[Query], sizes: Sequence[int]) -> list[WrittenRecommendations]:
        """Lists of so many items each: what is written is as long as the prompt says."""
        queries = [replace(self.catalog.resolved(query), k=k) for query, k in zip(queries, sizes, strict=True)]
        return written(self.parts, queries, self.parts.multiplied(queries))

    def rank(self, query: Query, candidates: Sequence[Item | str]) -> Answer:
        """The candidates in order; all of them, `query.k` and `query.exclude_seen` are not looked at.

        Args:
            query: The history, wish and filters.
            candidates: Items of the catalog or their ids, at least one; one that stands twice counts once.

        Raises:
            UnknownItemError: A candidate is not in the catalog.
            SearchError: The filters leave no candidate.
        """
        return self.rank_many([(query, candidates)])[0]

    @overload
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["raise"] = "raise"
    ) -> Answers[Answer]: ...
    @overload
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["return"]
    ) -> Answers[Answer | LLMGenError]: ...
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: OnError = "raise"
    ) -> Answers[Answer] | Answers[Answer | LLMGenError]:
        """The candidates of each query in order; see `rank`. They are worked on together.

        Args:
            pairs: Queries with their candidates.
            on_error: See `recommend_many`.

        Raises:
            UnknownItemError, SearchError: As `rank`, with the number of the query; nothing is returned then.
        """
        answers = each(self._rank, pairs, on_error)
        return Answers(answers, [query for query, _ in pairs])

    def _rank(self, pairs: Sequence[tuple[Query, Sequence[Item | str]]]) -> Sequence[Answer]:
        places = [chosen(self.catalog, candidates) for _, candidates in pairs]
        queries = [
            replace(self.catalog.resolved(query), k=len(own), exclude_seen=False)
            for (query, _), own in zip(pairs, places, strict=True)
        ]
        items = [[self.catalog[place] for place in own.tolist()] for own in places]
        factors = self.parts.multiplied(queries).among(places)
        if self.parts.only_writes:
            return written(self.parts, queries, factors, "rank", items)
        return searched(self.parts, queries, factors, "rank", items)

    def similar(self, item: Item | str, query: Query | None = None) -> Recommendations:
        """Items like an item, for the page of a product; the language model is not asked.

        Args:
            item: Of the catalog, or its id; it is not in the answer.
            query: What the list may hold: `k`, `filters`, `exclude`, `boosts`, `diversity`, and a history, which is
                left out.

        Raises:
            UnknownItemError: The item is not in the catalog.
            ConfigError: No prior knows what an item is like: transition, item_knn, ease, content or vectors do.
            SearchError, CatalogError: As `recommend`.
        """
        return self.similar_many([(Query() if query is None else query, item)])[0]

    @overload
    def similar_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, on_error: Literal["raise"] = "raise"
    ) -> Answers[Recommendations]: ...
    @overload
    def similar_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, on_error: Literal["return"]
    ) -> Answers[Recommendations | LLMGenError]: ...
    def similar_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, on_error: OnError = "raise"
    ) -> Answers[Recommendations] | Answers[Recommendations | LLMGenError]:
        """Items like each item; see `similar`.

        Args:
            pairs: Queries with their items.
            on_error: See `recommend_many`.

        Raises:
            ConfigError: As `similar`, whatever `on_error` says.
            UnknownItemError, SearchError, CatalogError: As `similar`, with the number of the query.
        """
        answers = each(partial(self._similar, parts_of_similar(self.parts)), pairs, on_error)
        return Answers(answers, [query for query, _ in pairs])

    def _similar(self, parts: Parts, pairs: Sequence[tuple[Query, Item | str]]) -> list[Recommendations]:
        queries = [self.catalog.resolved(query) for query, _ in pairs]
        items = [self.catalog[self.catalog.index(item)] for _, item in pairs]
        numbers = {id(query): number for number, query in enumerate(queries)}

        def listed(some: Sequence[Query], sizes: Sequence[int]) -> list[Recommendations]:
            return similar_items(parts, [(query, items[numbers[id(query)]]) for query in some], sizes)

        return diversified(queries, listed)

    def rerank(self, query: Query, documents: Sequence[Item | str]) -> list[Relevance]:
        """Documents in order of their relevance, best first.

        Args:
            query: The wish (`text`), and who asks: history and filters. `k` is not looked at, nor what was seen.
            documents: Items, or texts: the id, label or title of an item stands for that item, and is weighed by all
                priors; any other text by the model and by the words of the wish.

        Raises:
            ArgumentError: No documents, or a blank one.
            ConfigError: A text is no item, and a prior of your own cannot follow a catalog, see `with_catalog`.
            SearchError: The filters leave no document.
        """
        listed = Documents(self.catalog, self.parts.index.titles, documents)
        made = self if listed.catalog is self.catalog else self.with_catalog(listed.catalog)
        places = chosen(listed.catalog, listed.ids)
        asked = replace(self.catalog.resolved(query), k=len(places), exclude_seen=False, diversity=None)
        answer = written if self.decoding == "free" else searched
        return listed.relevances(answer(made.parts, [asked], made.parts.multiplied([asked]).among([places]))[0])

    def rate(self, query: Query, item: Item | str, *, labels: Sequence[str] = RATINGS) -> RatingPrediction:
        """The rating that the user would give to an item; see `rate_many`."""
        return self.rate_many([(query, item)], labels=labels)[0]

    @overload
    def rate_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        labels: Sequence[str] = RATINGS,
        on_error: Literal["raise"] = "raise",
    ) -> list[RatingPrediction]: ...
    @overload
    def rate_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, labels: Sequence[str] = RATINGS, on_error: Literal["return"]
    ) -> list[RatingPrediction | LLMGenError]: ...
    def rate_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        labels: Sequence[str] = RATINGS,
        on_error: OnError = "raise",
    ) -> list[RatingPrediction] | list[RatingPrediction | LLMGenError]:
        """Predicted ratings: a distribution over the labels for each query and item.

        The model's probability of each label, to the power of `rating_lm_weight`, times the rating priors.

        Args:
            pairs: Queries, with `ratings` of their history where these are known, and items of the catalog or ids.
            labels: The possible ratings, numbers as strings, none twice, at least two.
            on_error: See `recommend_many`.

        Raises:
            UnknownItemError: An item is not in the catalog.
            ConfigError: There is neither an engine nor a rating prior; whatever `on_error` says.
            GenerationError: An engine that can only write wrote none of the labels, or one gave logits that are none.
            ArgumentError: Labels that are not numbers, repeat or are fewer than two.
        """
        check_rates(self.parts, labels)
        return each(partial(rated, self.parts, labels), pairs, on_error)

    def explain(self, query: Query, item: Item | str, *, max_new_tokens: int = 80) -> Explanation:
        """Why an item suits a user, in the model's words, from the items of the history that speak most for it.

        Raises:
            UnknownItemError: The item is not in the catalog.
            ConfigError: There is no engine.
            GenerationError: The model said nothing.
        """
        return self.explain_many([(query, item)], max_new_tokens=max_new_tokens)[0]

    @overload
    def explain_many(
        self,
        pairs: Sequence[tuple[Query, Item | str]],
        *,
        max_new_tokens: int = 80,
        on_error: Literal["raise"] = "raise",
    ) -> list[Explanation]: ...
    @overload
    def explain_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, max_new_tokens: int = 80, on_error: Literal["return"]
    ) -> list[Explanation | LLMGenError]: ...
    def explain_many(
        self, pairs: Sequence[tuple[Query, Item | str]], *, max_new_tokens: int = 80, on_error: OnError = "raise"
    ) -> list[Explanation] | list[Explanation | LLMGenError]:
        """Why each item suits its user; see `explain`. They are worked on together.

        Args:
            pairs: Queries, and items of the catalog or ids.
            max_new_tokens: Tokens of a reason at most, 1 or more.
            on_error: See `recommend_many`.

        Raises:
            UnknownItemError, GenerationError: As `explain`, with the number of the query; nothing is returned then.
            ConfigError: There is no engine; whatever `on_error` says.
        """
        engine = needs_engine(self.engine, "explaining")
        return each(partial(explained, self.parts, engine, max_new_tokens), pairs, on_error)

    def tune(
        self,
        queries: Sequence[Query],
        held_out: Sequence[str],
        *,
        k: int = 10,
        metric: Metric = "ndcg",
        grid: Sequence[float] = GRID,
        lm_weights: Sequence[float] = LM_WEIGHTS,
        lm_queries: int = 200,
        lm_weight: Literal["constant", "fitted"] = "constant",
        candidates: int = CANDIDATES,
        progress: bool = False,
    ) -> Tuned:
        """Choose the weights of the priors, then of the language model, on held-out items.

        The priors' weights come first, by coordinate search on all queries
        (`llmgen.recommend.tuning.tune_weights`); then the LM's, on some of the queries through the real search. 0 is
        always tried, so a model that does not help is left out. With `lm_weight="fitted"` it is a weight for each
        request, by the likelihood of the held-out items (`llmgen.recommend.weighing`).

        Args:
            queries: With the history before the held-out item.
            held_out: Id of the item that each query's user took next.
            k: Cut-off of the metric.
            metric: What to maximise; the LM's weight is chosen by NDCG@k in any case.
            grid: Weights to try for each prior.
            lm_weights: Weights to try for the LM.
            lm_queries: How many of the queries the LM is tried on, evenly spread over them.
            lm_weight: `constant`, or `fitted` for a `RequestWeight`; then `lm_weights` are not tried.
                Items are cold that no history of `histories` has, so it must not hold the held-out items.
            candidates: Where it is fitted, of how many items each held-out one was chosen at most, 2 or more: the
                model is asked about so many, and where more are eligible, they are sampled.
            progress: Whether to tell how far it is, see `llmgen.progress`.

        Raises:
            UnknownItemError: A held-out item is not in the catalog.
            ConfigError: A weight is to be fitted, and there is no engine, or one that can only write.
            ValueError: Nothing to tune on, or lengths that do not agree.
        """
        if lm_weight == "fitted":
            check_fits(self.parts)
        queries = [self.catalog.resolved(query) for query in queries]
        if not self.priors and self.engine is not None:
            tuned = TunedWeights((), math.nan, ())
        else:
            tuned = tune_weights(
                self.parts.factors, queries, held_out, catalog=self.catalog, k=k, metric=metric, grid=grid
            )
        names = {prior.name for prior in self.priors}
        best = self.with_priors(*(prior for prior in tuned.priors if prior.name in names))
        if self.engine is None:
            return Tuned(best, tuned.score, {})
        if lm_weight == "fitted":
            sample = spread(len(queries), lm_queries)
            some, wanted = [replace(queries[one], k=k) for one in sample], [held_out[one] for one in sample]
            asked = choices_of(best.parts, some, wanted, candidates=candidates, progress=progress)
            fitted = fit_weight([one for one in asked if one is not None])
            return Tuned(best.with_priors(*best.priors, lm_weight=fitted.weight), tuned.score, {}, fitted)
        arms = {weight: best.with_priors(*best.priors, lm_weight=weight) for weight in (0.0, *lm_weights)}
        scores = tune_lm_weight(
            lambda weight, chunk: arms[weight].recommend_many(chunk),
            queries,
            held_out,
            k=k,
            weights=list(arms),
            most=lm_queries,
            progress=progress,
        )
        chosen = max(scores, key=lambda weight: scores[weight])
        return Tuned(arms[chosen], tuned.score, scores)
