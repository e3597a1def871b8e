"""Recommender: a query becomes a prompt, the prompt and the priors a search, its result ranked items."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from operator import eq
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, get_args, overload, runtime_checkable

import numpy as np

from llmgen.catalog import SPELLING, Catalog
from llmgen.downloads import cache_dir
from llmgen.engines import Engine, GenerationConfig, line_break
from llmgen.errors import ArgumentError, ConfigError, EngineUnavailableError, GenerationError, LLMGenError
from llmgen.grounding import Grounder
from llmgen.growth import follow, grow
from llmgen.isolation import check_on_error, isolate
from llmgen.priors import (
    Combined,
    Evidence,
    Movable,
    Prior,
    RatingPrior,
    Seen,
    SharedWeights,
    SparseCombined,
    Where,
    check_rating_priors,
    chosen,
    multiply,
    rating_terms,
)
from llmgen.priors.sparse import LARGE_CATALOG
from llmgen.progress import Stage
from llmgen.prompting import Prompt, Prompter, Task, needs_engine, task_of, templates_for
from llmgen.rating import TOKENS_OF_A_LABEL, LabelShares, ask_labels, prediction, rating_values, read_labels
from llmgen.search import Mode, Normalise, Request, SearchConfig, SearchResult, rank_by_prior, search
from llmgen.templates import Fitted, ItemView, PromptLibrary, PromptTemplate, views
from llmgen.trie import ItemTrie
from llmgen.tuning import GRID, Metric, TunedWeights, tune_weights
from llmgen.types import (
    RATINGS,
    Answers,
    Completion,
    Explanation,
    Grounding,
    IntArray,
    Item,
    OnError,
    Query,
    RatingPrediction,
    Recommendation,
    Recommendations,
)
from llmgen.weights import SparseWeights

logger = logging.getLogger(__name__)

Work = TypeVar("Work")
Answer = TypeVar("Answer")
Decoding = Literal["trie", "raw", "fused", "free"]
Spell = Callable[[Sequence[str]], list[tuple[int, ...]]]
Factors = Combined | SparseCombined
CHUNK = 64  # queries worked on together: bounds the priors' arrays, [64, n_items]
SMALL_CATALOG = 5_000  # below, a trie is built in memory faster than it is worth a file
TOKENS_A_LINE = 24  # of free text: room for a long title
TOKENS_OF_MARKS = 32  # of thoughts: what begins and ends them
LM_WEIGHTS = (0.05, 0.1, 0.2, 0.35, 0.5, 1.0)


@runtime_checkable
class _Attributing(Protocol):
    def evidence(self, query: Query, item: Item) -> list[Evidence]: ...


class Choice(NamedTuple):
    """How one query is answered, where queries are not all answered alike.

    Attributes:
        prompt: Name of the template; None for the recommender's own.
        lm_weight: None for the recommender's own.
    """

    prompt: str | None = None
    lm_weight: float | None = None


class Tuned(NamedTuple):
    """What `Recommender.tune` found.

    Attributes:
        recommender: With the chosen weights.
        score: The metric of the priors alone, mean of all queries; optimistic, since it was chosen for. NaN without
            priors.
        lm_scores: LM weight -> the metric on the queries that the LM was tried on; 0 is the priors alone. Empty
            without a language model.
    """

    recommender: Recommender
    score: float
    lm_scores: Mapping[float, float]


class Recommender:
    """A catalog, a language model, a prompt and item priors: queries in, ranked items out.

    Args:
        catalog: What can be recommended.
        engine: The language model; None recommends by the priors alone.
        prompt: Name of a prompt template, or several for different tasks; the task is the template's own. Tasks that
            are not named keep `next_item`, `rerank`, `rate_list` (`rate` with an engine that can only write) and
            `explain`.
        priors: Factors beside the language model. Seen items and filters need no mention: they are always in force.
        prompts: Where templates are looked up; those that come with llmgen by default.
        lm_weight: Weight of the LM's log-probability in the score, 0 or more.
        rating_priors: Factors beside the language model where ratings are predicted.
        rating_lm_weight: Weight of the LM's log-probability of a rating, 0 or more.
        decoding: `trie`, `raw` or `fused` (see `llmgen.search`), or `free`: the model writes a list, and each line is
            looked up in the catalog. An engine that cannot be constrained is always used that way.
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
        lm_weight: float = 1.0,
        rating_priors: Sequence[RatingPrior] = (),
        rating_lm_weight: float = 1.0,
        decoding: Decoding = "trie",
        normalise: Normalise = "catalog",
        num_beams: int | None = None,
        exact: bool = False,
        max_history: int = 20,
        align_prompts: bool = False,
        think_tokens: int = 0,
        cache: Path | None = None,
    ) -> None:
        if decoding not in get_args(Decoding):
            raise ArgumentError(f"decoding must be 'trie', 'raw', 'fused' or 'free', not {decoding!r}")
        if decoding == "free" and engine is None:
            raise ConfigError("free decoding needs an engine that writes the text; give one, or use decoding='trie'")
        if max_history < 0:
            raise ArgumentError(f"max_history must be 0 or more, not {max_history}")
        if not (math.isfinite(rating_lm_weight) and rating_lm_weight >= 0):
            raise ArgumentError(f"rating_lm_weight must be 0 or more, not {rating_lm_weight}")
        if think_tokens < 0:
            raise ArgumentError(f"think_tokens must be 0 or more, not {think_tokens}")
        check_rating_priors(rating_priors)
        mode: Mode = "trie" if decoding == "free" else decoding
        self.catalog = catalog
        self.engine = engine
        self.prompts = prompts or PromptLibrary.default()
        self.priors = tuple(priors)
        self.rating_priors = tuple(rating_priors)
        self.rating_lm_weight = rating_lm_weight
        writes = engine is not None and not engine.constrained and lm_weight > 0
        if engine is not None and writes and decoding != "free":
            logger.warning("%s can only write free text; what it writes is looked up in the catalog", engine.name)
        # at weight 0 nothing is written; what was asked for is kept for recommenders made from this one
        self.decoding: Decoding = "free" if writes or (decoding == "free" and lm_weight > 0) else mode
        self._wanted_decoding = decoding
        self._ranks_by_text = writes
        self.max_history = max_history
        self.align_prompts = align_prompts
        self.think_tokens = think_tokens
        self.config = SearchConfig(mode, normalise, 0.0 if engine is None else lm_weight, num_beams, exact)
        self._cache = cache
        self._templates = templates_for((prompt,) if isinstance(prompt, str) else prompt, self.prompts, engine)
        self._prompter = Prompter(catalog, engine, max_history, align_prompts)
        self._factors = self._with_filters((Seen(catalog), Where(catalog)))

    def with_prompt(self, *names: str) -> Recommender:
        """The same recommender with other prompts for the tasks of the named templates."""
        given = {task_of(self.prompts[name]) for name in names}
        kept = [template.name for task, template in self._templates.items() if task not in given]
        return self._with(prompt=(*kept, *names))

    def with_priors(self, *priors: Prior, lm_weight: float | None = None) -> Recommender:
        """The same recommender with other priors, and another weight of the LM where one is given."""
        return self._with(priors=priors, lm_weight=self.config.lm_weight if lm_weight is None else lm_weight)

    def with_rating_priors(self, *priors: RatingPrior, lm_weight: float | None = None) -> Recommender:
        """The same recommender with other rating priors, and another weight of the LM in ratings where one is given."""
        return self._with(
            rating_priors=priors, rating_lm_weight=self.rating_lm_weight if lm_weight is None else lm_weight
        )

    def with_catalog(self, catalog: Catalog) -> Recommender:
        """The same recommender for a changed catalog; items are the same if their ids are.

        New items are recommended at once: by their titles, and by the priors that read texts or attributes; to those
        that were fitted on a log they are items that nobody took yet.

        Raises:
            ConfigError: A prior of your own that has no `on_catalog`.
        """
        known = len(self.catalog)
        grown = catalog.begins_with(self.catalog)
        if grown:
            before = np.append(np.arange(known), np.full(len(catalog) - known, -1))
        else:
            before = catalog.positions_before(self.catalog)
        moved: dict[str, Prior] = {}
        for prior in self._factors:
            if not isinstance(prior, Movable):
                raise ConfigError(
                    f"the prior {prior.name!r} cannot follow a changed catalog: give {type(prior).__name__} a method "
                    "on_catalog, see llmgen.priors.Movable"
                )
            moved[prior.name] = prior.on_catalog(catalog, before)
        made = self._with(catalog=catalog, priors=[moved[prior.name] for prior in self.priors])
        made._factors = tuple(moved.values())
        if "trie" in self.__dict__:
            spell = needs_engine(self.engine, "a trie").spell
            if grown:
                made.__dict__["trie"] = grow(self.trie, spell([catalog.label(item) for item in catalog[known:]]))
            elif (trie := self._followed(catalog, before, spell)) is not None:
                made.__dict__["trie"] = trie
        return made

    def prepare(self) -> None:
        """Build what is costly and otherwise waits for its first use: trie or index of titles, index of filters."""
        if self.decoding == "free":
            _ = self.grounder
        elif self.engine is not None:
            _ = self.trie
        for factor in self._factors:
            if isinstance(factor, Where):
                factor.prepare()
        if len(self.catalog) > LARGE_CATALOG and "trie" in self.__dict__:
            some = Query(self.catalog[:32])  # priors say something of most who ask, and share that among all of them
            weights = multiply(self._factors, [some], len(self.catalog), self._shared).row(0)
            if isinstance(weights, SparseWeights):
                first = np.arange(self.trie.first[1])  # the root, and what every search opens
                weights.shared.below(self.trie).at(first)

    def recommend(self, query: Query) -> Recommendations:
        """The best `query.k` items.

        Raises:
            UnknownItemError: An id of the history is not in the catalog.
            SearchError: No item is eligible.
            CatalogError: A filter names an attribute or a value that no item has.
        """
        return self.recommend_many([query])[0]

    @overload
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["raise"] = "raise"
    ) -> Answers[Recommendations]: ...
    @overload
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: Literal["return"]
    ) -> Answers[Recommendations | LLMGenError]: ...
    def recommend_many(
        self, queries: Iterable[Query], *, progress: bool = False, on_error: OnError = "raise"
    ) -> Answers[Recommendations] | Answers[Recommendations | LLMGenError]:
        """The best items of each query, in order of the queries; they are worked on together.

        Args:
            queries: Any number.
            progress: Whether to tell how far it is, see `llmgen.progress`.
            on_error: `raise` stops at the first query that cannot be answered; `return` gives its error in its place,
                and all others their answers.

        Raises:
            SearchError, CatalogError: As `recommend`, with the number of the query; nothing is returned then.
        """
        queries = list(queries)
        with Stage("Recommending", len(queries), shown=progress) as stage:
            answers = _each(self._recommend, queries, on_error, stage.advance)
        return Answers(answers, queries)

    def _recommend(self, queries: Sequence[Query]) -> list[Recommendations]:
        queries = [self.catalog.resolved(query) for query in queries]
        factors = multiply(self._factors, queries, len(self.catalog), self._shared)
        return self._free(queries, factors) if self.decoding == "free" else self._search(queries, factors)

    def rank(self, query: Query, candidates: Sequence[Item | str]) -> Recommendations:
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
    ) -> Answers[Recommendations]: ...
    @overload
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: Literal["return"]
    ) -> Answers[Recommendations | LLMGenError]: ...
    def rank_many(
        self, pairs: Sequence[tuple[Query, Sequence[Item | str]]], *, on_error: OnError = "raise"
    ) -> Answers[Recommendations] | Answers[Recommendations | LLMGenError]:
        """The candidates of each query in order; see `rank`. They are worked on together.

        Args:
            pairs: Queries with their candidates.
            on_error: See `recommend_many`.

        Raises:
            UnknownItemError, SearchError: As `rank`, with the number of the query; nothing is returned then.
        """
        answers = _each(self._rank, pairs, on_error)
        return Answers(answers, [query for query, _ in pairs])

    def _rank(self, pairs: Sequence[tuple[Query, Sequence[Item | str]]]) -> list[Recommendations]:
        answer = self._free if self._ranks_by_text else self._search
        places = [chosen(self.catalog, candidates) for _, candidates in pairs]
        queries = [
            replace(self.catalog.resolved(query), k=len(own), exclude_seen=False)
            for (query, _), own in zip(pairs, places, strict=True)
        ]
        factors = multiply(self._factors, queries, len(self.catalog), self._shared)
        items = [[self.catalog[place] for place in own.tolist()] for own in places]
        return answer(queries, factors.among(places), "rank", items)

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
        rating_values(labels)
        if not (self.rating_priors or (self.engine is not None and self.rating_lm_weight > 0)):
            raise ConfigError("a rating needs a language model or a rating prior, and there is neither; give one")
        return _each(partial(self._rate, labels=labels), pairs, on_error)

    def _rate(self, pairs: Sequence[tuple[Query, Item | str]], labels: Sequence[str]) -> list[RatingPrediction]:
        values = rating_values(labels)
        asked = [(self.catalog.resolved(query), self.catalog[self.catalog.index(key)]) for query, key in pairs]
        said = rating_terms(self.rating_priors, asked, values)
        weights = {prior.name: prior.weight for prior in self.rating_priors}
        if self.engine is None or self.rating_lm_weight == 0:
            masses, reference = [math.nan] * len(asked), ""
        else:
            shares, reference = self._ask_ratings(self.engine, asked, labels)
            said = {"lm": np.array([share.logprobs for share in shares]), **said}
            weights["lm"] = self.rating_lm_weight
            masses = [share.mass for share in shares]
        return [
            prediction(item, labels, dict(zip(said, rows, strict=True)), weights, label_mass=mass, prompt=reference)
            for (_, item), mass, *rows in zip(asked, masses, *said.values(), strict=True)
        ]

    def _ask_ratings(
        self, engine: Engine, asked: Sequence[tuple[Query, Item]], labels: Sequence[str]
    ) -> tuple[list[LabelShares], str]:
        """What the model says of the labels, and the prompt that it was asked with."""
        template = self._templates["rate"]
        room = 0 if engine.constrained else TOKENS_OF_A_LABEL
        prompts = [
            self._prompt("rate", query, room, item=self._prompter.about(item), labels=tuple(labels))
            for query, item in asked
        ]
        if engine.constrained:
            tokens = [prompt.token_ids for prompt in self._thought_about(engine, prompts)]
            return ask_labels(engine, tokens, labels, continues=template.continues), template.ref
        sure = 0.5 if self.rating_priors else 1.0  # one label says nothing of the others, and priors must be heard
        items = [item for _, item in asked]
        chats = [prompt.messages for prompt in prompts]
        shares = read_labels(engine, chats, items, labels, sure=sure, think_tokens=self.think_tokens)
        return shares, template.ref

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
        return _each(partial(self._explain, engine, max_new_tokens), pairs, on_error)

    def _explain(
        self, engine: Engine, max_new_tokens: int, pairs: Sequence[tuple[Query, Item | str]]
    ) -> list[Explanation]:
        about, prompts = [], []
        for given, key in pairs:
            query, item = self.catalog.resolved(given), self.catalog[self.catalog.index(key)]
            evidence = self._evidence(query, item)
            ratings = None
            if query.ratings is not None:
                known = {taken.id: rating for taken, rating in zip(query.items, query.ratings, strict=True)}
                ratings = [known[shown.id] for shown in evidence]
            prompts.append(
                self._prompt(
                    "explain",
                    query,
                    item=self._prompter.about(item),
                    evidence=views(self.catalog, evidence, ratings),
                    room=max_new_tokens,
                )
            )
            about.append((item, evidence))
        config = GenerationConfig(max_new_tokens, think_tokens=self.think_tokens)
        written = engine.generate([p.messages for p in prompts], config)
        answers = []
        for (item, evidence), prompt, answer in zip(about, prompts, written, strict=True):
            text = answer.text.strip()
            if not text:
                raise GenerationError(
                    f"{engine.name} gave no reason for {item.title!r}: {answer.end}; try another prompt or model, or "
                    f"more than max_new_tokens={max_new_tokens}"
                )
            if not answer.finished:
                text = _whole_sentences(text)
            answers.append(Explanation(item, text, evidence, prompt.template.ref))
        return answers

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
        progress: bool = False,
    ) -> Tuned:
        """Choose the weights of the priors, then of the language model, on held-out items.

        The priors' weights come first, by coordinate search on all queries (`llmgen.tuning.tune_weights`); then the
        LM's, on some of the queries through the real search. 0 is always tried, so a model that does not help is left
        out.

        Args:
            queries: With the history before the held-out item.
            held_out: Id of the item that each query's user took next.
            k: Cut-off of the metric.
            metric: What to maximise; the LM's weight is chosen by NDCG@k in any case.
            grid: Weights to try for each prior.
            lm_weights: Weights to try for the LM.
            lm_queries: How many of the queries the LM is tried on, evenly spread over them.
            progress: Whether to tell how far it is, see `llmgen.progress`.

        Raises:
            UnknownItemError: A held-out item is not in the catalog.
            ValueError: Nothing to tune on, or lengths that do not agree.
        """
        queries = [self.catalog.resolved(query) for query in queries]
        if not self.priors and self.engine is not None:
            tuned = TunedWeights((), math.nan, ())
        else:
            tuned = tune_weights(self._factors, queries, held_out, catalog=self.catalog, k=k, metric=metric, grid=grid)
        names = {prior.name for prior in self.priors}
        best = self.with_priors(*(prior for prior in tuned.priors if prior.name in names))
        if self.engine is None:
            return Tuned(best, tuned.score, {})
        sample = np.unique(np.linspace(0, len(queries) - 1, min(lm_queries, len(queries))).round().astype(int))
        gains: dict[float, list[float]] = {weight: [] for weight in (0.0, *lm_weights)}
        arms = {weight: best.with_priors(*best.priors, lm_weight=weight) for weight in gains}
        size = 16  # users whose prompts stay in the engine while all weights are tried
        with Stage("Tuning the LM's weight", len(sample), shown=progress) as stage:
            for start in range(0, len(sample), size):
                numbers = sample[start : start + size]
                chunk = [replace(queries[number], k=k) for number in numbers]
                for weight, arm in arms.items():
                    for number, answer in zip(numbers, arm.recommend_many(chunk), strict=True):
                        rank = next((place.rank for place in answer if place.item.id == held_out[number]), 0)
                        gains[weight].append(1 / math.log2(rank + 1) if rank else 0.0)
                stage.advance(len(numbers))
        scores = {weight: float(np.mean(values)) for weight, values in gains.items()}
        chosen = max(scores, key=lambda weight: scores[weight])
        return Tuned(best.with_priors(*best.priors, lm_weight=chosen), tuned.score, scores)

    @cached_property
    def trie(self) -> ItemTrie:
        """The catalog's trie under the engine's tokenizer."""
        engine = needs_engine(self.engine, "a trie")
        if len(self.catalog) < SMALL_CATALOG:
            return ItemTrie.build(engine.spell(self.catalog.labels))
        key = (engine.tokenizer_digest, self.catalog.digest, f"spelling {SPELLING}")
        folder = self._cache or cache_dir() / "tries"
        return ItemTrie.cached(folder, key, lambda: engine.spell(self.catalog.labels))

    @cached_property
    def grounder(self) -> Grounder:
        """Finds the items of free text."""
        return Grounder(self.catalog)

    def template(self, task: Task = "recommend") -> PromptTemplate:
        """The prompt template used for a task."""
        return self._templates[task]

    def messages(
        self,
        query: Query,
        *,
        prompt: str | None = None,
        target: Sequence[ItemView] | str | None = None,
        **variables: object,
    ) -> Fitted:
        """The rendered messages of a query's prompt, cut to the model's context by whole items of the history.

        Args:
            query: What to render.
            prompt: Name of a template; the one for `recommend` by default.
            target: The answer to train on, which is the last message then.
            variables: What the template's task needs beside the history and the wish: `item`, `candidates`,
                `evidence`, `labels`.
        """
        template = self._templates["recommend"] if prompt is None else self.prompts[prompt]
        return self._prompter.render(template, self.catalog.resolved(query), variables, self.trie.longest, target)

    def _followed(self, catalog: Catalog, before: IntArray, spell: Spell) -> ItemTrie | None:
        """The trie of a catalog that was changed otherwise than by new items at its end; see `follow`."""
        labels = catalog.labels
        same = np.fromiter(map(eq, map(self.catalog.labels.__getitem__, before.tolist()), labels), bool, len(labels))
        before = np.where(same & (before >= 0), before, -1)
        return follow(self.trie, before, lambda items: spell([labels[item] for item in items]))

    def _with(self, catalog: Catalog | None = None, **changes: object) -> Recommender:
        settings: dict[str, object] = {
            "prompt": [template.name for template in self._templates.values()],
            "priors": self.priors,
            "prompts": self.prompts,
            "lm_weight": self.config.lm_weight,
            "rating_priors": self.rating_priors,
            "rating_lm_weight": self.rating_lm_weight,
            "decoding": self._wanted_decoding,
            "normalise": self.config.normalise,
            "num_beams": self.config.num_beams,
            "exact": self.config.exact,
            "max_history": self.max_history,
            "align_prompts": self.align_prompts,
            "think_tokens": self.think_tokens,
            "cache": self._cache,
        }
        made = Recommender(catalog or self.catalog, self.engine, **{**settings, **changes})  # type: ignore[arg-type]
        if made.catalog is self.catalog:
            made._factors = made._with_filters(
                [factor for factor in self._factors if not any(factor is prior for prior in self.priors)]
            )
            for costly in ("trie", "grounder", "_shared"):
                if costly in self.__dict__:
                    made.__dict__[costly] = self.__dict__[costly]
        return made

    def _with_filters(self, filters: Sequence[Prior]) -> tuple[Prior, ...]:
        """All factors: those that are always in force, but for those that were given by their names, and the priors."""
        given = {prior.name for prior in self.priors}
        return (*(prior for prior in filters if prior.name not in given), *self.priors)

    @cached_property
    def _line_end(self) -> int:
        """The token behind an item in a list that goes on."""
        return line_break(needs_engine(self.engine, "a list"))[0]

    @cached_property
    def _shared(self) -> SharedWeights:
        return SharedWeights(len(self.catalog))

    def _prompt(self, task: Task, query: Query, room: int = 0, **variables: object) -> Prompt:
        """The prompt of a query; `room` tokens are kept free for the answer, by default those of the longest item."""
        return self._prompter.prompt(self._templates[task], query, self._room(room), **variables)

    def _prompts(
        self, task: Task, queries: Sequence[Query], candidates: Sequence[Sequence[Item]], room: int = 0
    ) -> list[Prompt]:
        return self._prompter.prompts(self._templates[task], queries, candidates, self._room(room))

    def _room(self, room: int) -> int:
        thoughts = self.think_tokens + TOKENS_OF_MARKS if self.think_tokens else 0
        return (room or self.trie.longest) + thoughts

    def _thought_about(self, engine: Engine, prompts: list[Prompt]) -> list[Prompt]:
        """The same prompts, where the model may think with its thoughts behind each."""
        if not self.think_tokens:
            return prompts
        chats = [prompt.messages for prompt in prompts]
        thoughts = engine.think(chats, GenerationConfig(think_tokens=self.think_tokens))
        return [replace(prompt, token_ids=ids) for prompt, ids in zip(prompts, thoughts, strict=True)]

    def _search(
        self,
        queries: Sequence[Query],
        factors: Factors,
        task: Task = "recommend",
        candidates: Sequence[Sequence[Item]] = (),
    ) -> list[Recommendations]:
        if self.engine is None or self.config.lm_weight == 0:
            results = [rank_by_prior(factors.row(number), query.k) for number, query in enumerate(queries)]
            prompts = [Prompt(self._templates[task], (), (), 0)] * len(queries)
        else:
            prompts = self._thought_about(self.engine, self._prompts(task, queries, candidates))
            requests = [
                Request(prompt.token_ids, factors.row(number), query.k)
                for number, (prompt, query) in enumerate(zip(prompts, queries, strict=True))
            ]
            end = self._line_end if self._templates[task].continues else None
            results = search(self.trie, self.engine, requests, self.config, end=end)
        return [
            self._answer(number, result, prompt, factors)
            for number, (result, prompt) in enumerate(zip(results, prompts, strict=True))
        ]

    def _answer(self, number: int, result: SearchResult, prompt: Prompt, factors: Factors) -> Recommendations:
        by_prior = math.isnan(result.lm_logprobs[0])
        grounding = Grounding("prior", 0.0) if by_prior else Grounding("trie", 1.0)
        reference = "" if by_prior else prompt.template.ref
        places = []
        for place, index in enumerate(result.items.tolist()):
            terms = {} if by_prior else {"lm": self.config.lm_weight * float(result.lm_logprobs[place])}
            # of the priors that were asked for: those that only remove items add nothing to those they leave
            terms |= {prior.name: factors.term(prior.name, number, index) for prior in self.priors}
            score = float(result.scores[place])
            if self.config.mode == "fused" and not by_prior:
                terms["norm"] = score - sum(terms.values())
            places.append(
                Recommendation(
                    self.catalog[index],
                    place + 1,
                    score,
                    float(result.probabilities[place]),
                    terms,
                    grounding,
                    reference,
                )
            )
        logger.info("recommended %d items in %d rounds, exact: %s", len(places), result.num_rounds, result.exact)
        return Recommendations(
            tuple(places), result.exact, reference, len(prompt.token_ids), result.num_rounds, prompt.num_items
        )

    def _free(
        self,
        queries: Sequence[Query],
        factors: Factors,
        task: Task = "recommend",
        candidates: Sequence[Sequence[Item]] = (),
    ) -> list[Recommendations]:
        """The model writes lists; their lines are looked up, and empty places filled by the prior."""
        engine = needs_engine(self.engine, "free decoding")
        lists: dict[int, tuple[Prompt, Completion]] = {}
        for k in sorted({query.k for query in queries}):  # what is written must not depend on who else is asked about
            numbers = [number for number, query in enumerate(queries) if query.k == k]
            room = TOKENS_A_LINE * k
            among = [candidates[number] for number in numbers] if candidates else ()
            prompts = self._prompts(task, [queries[number] for number in numbers], among, room)
            config = GenerationConfig(room, think_tokens=self.think_tokens)
            written = engine.generate([prompt.messages for prompt in prompts], config)
            lists.update(zip(numbers, zip(prompts, written, strict=True), strict=True))
        answers = []
        for number, query in enumerate(queries):
            prompt, completion = lists[number]
            row = factors.row(number)
            weights = row.dense() if isinstance(row, SparseWeights) else row
            fallback = rank_by_prior(weights, len(self.catalog)).items  # raises where nothing is eligible
            found: dict[int, Grounding] = {}
            dropped = []
            for match in self.grounder.ground_lines(completion.text, allowed=weights > -np.inf):
                index = None if match.item is None else self.catalog.index(match.item)
                if index is None or index in found or len(found) == query.k:
                    dropped.append(match.grounding)
                else:
                    found[index] = match.grounding
            for index in fallback.tolist():
                if len(found) == query.k:
                    break
                found.setdefault(index, Grounding("prior", 0.0))
            lacking = sum(grounding.method == "prior" for grounding in found.values())
            places = tuple(
                Recommendation(
                    self.catalog[index],
                    rank,
                    -math.log(rank),
                    math.nan,
                    {"order": -math.log(rank)},
                    grounding,
                    prompt.template.ref,
                )
                for rank, (index, grounding) in enumerate(found.items(), start=1)
            )
            answers.append(
                Recommendations(
                    places,
                    False,
                    prompt.template.ref,
                    len(prompt.token_ids),
                    1,
                    prompt.num_items,
                    tuple(dropped),
                    _warnings(completion, lacking, len(places)),
                )
            )
        return answers

    def _evidence(self, query: Query, item: Item, most: int = 3) -> tuple[Item, ...]:
        for prior in self.priors:
            if isinstance(prior, _Attributing):
                found = tuple(entry.item for entry in prior.evidence(query, item)[:most])
                if found:
                    return found
        return tuple(dict.fromkeys(reversed(query.items)))[:most]


def _each(
    run: Callable[[Sequence[Work]], list[Answer]],
    works: Sequence[Work],
    on_error: OnError,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[Answer | LLMGenError]:
    """The answers of `run`, a chunk at a time; an error is raised with its place, or stands in its place."""
    check_on_error(on_error)
    answers: list[Answer | LLMGenError] = []
    for start in range(0, len(works), CHUNK):
        chunk = works[start : start + CHUNK]
        for number, answer in enumerate(isolate(run, chunk), start):
            if isinstance(answer, LLMGenError) and on_error == "raise":
                if len(works) == 1 or isinstance(answer, EngineUnavailableError):
                    raise answer
                raise type(answer)(f"query {number} of {len(works)} (counted from 0): {answer}") from answer
            answers.append(answer)
        advance(len(chunk))
    return answers


def _warnings(completion: Completion, lacking: int, places: int) -> tuple[str, ...]:
    """What is to be said of a list in which the model named no item for some of the places."""
    if lacking == 0 or (completion.finished and lacking < places):
        return ()
    return (f"{completion.end}: {lacking} of {places} places come from the prior",)


def _whole_sentences(text: str) -> str:
    """Without the last sentence, which was cut off in its middle; where it is the only one, marked as cut."""
    ends = [f"{text} ".rfind(mark) for mark in (". ", "! ", "? ", ".\n", "。")]
    return text[: max(ends) + 1] if max(ends) > 0 else text + " …"
