"""Assembled: the parts of a recommender in use, and the same recommender with other parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import History, query_of
from llmgen.engines import Engine
from llmgen.errors import ConfigError
from llmgen.grounding import Grounder
from llmgen.priors import Movable, Preparable, Prior, RatingPrior, check_rating_priors
from llmgen.priors.sparse import LARGE_CATALOG
from llmgen.recommend.config import Decoding, RecommenderConfig
from llmgen.recommend.parts import Parts
from llmgen.recommend.prompting import Task, task_of
from llmgen.recommend.request_weight import RequestWeight
from llmgen.templates.fitting import Fitted
from llmgen.templates.library import PromptLibrary, PromptTemplate
from llmgen.templates.views import ItemView
from llmgen.trie.core import ItemTrie
from llmgen.types import Query

logger = logging.getLogger(__name__)


class Assembled:
    """What is made of parts: settings and parts can be read, and others put in their place; see `Recommender`.

    Attributes:
        parts: What it is made of.
    """

    parts: Parts

    @classmethod
    def of(cls, parts: Parts) -> Self:
        """The recommender of some parts.

        Raises:
            ConfigError, ArgumentError: As the class.
        """
        made = cls.__new__(cls)
        made._set(parts)
        return made

    def _set(self, parts: Parts) -> None:
        check_rating_priors(parts.rating_priors)
        if parts.config.decoding == "free" and parts.engine is None:
            raise ConfigError("free decoding needs an engine that writes the text; give one, or use decoding='trie'")
        if parts.engine is not None and parts.only_writes and parts.config.decoding != "free":
            name = parts.engine.name
            logger.warning("%s can only write free text; what it writes is looked up in the catalog", name)
        self.parts = parts

    @property
    def config(self) -> RecommenderConfig:
        """Every setting that is no object."""
        return self.parts.config

    @property
    def catalog(self) -> Catalog:
        """What can be recommended."""
        return self.parts.catalog

    @property
    def engine(self) -> Engine | None:
        """The language model."""
        return self.parts.engine

    @property
    def priors(self) -> tuple[Prior, ...]:
        """Factors beside the language model, without those that are always in force."""
        return self.parts.priors

    @property
    def rating_priors(self) -> tuple[RatingPrior, ...]:
        """Factors beside the language model where ratings are predicted."""
        return self.parts.rating_priors

    @property
    def prompts(self) -> PromptLibrary:
        """Where templates are looked up."""
        return self.parts.prompts

    @property
    def decoding(self) -> Decoding:
        """How lists are made, by this engine at this weight."""
        return self.parts.decoding

    @property
    def rating_lm_weight(self) -> float:
        """Weight of the LM's log-probability of a rating."""
        return self.config.rating_lm_weight

    @property
    def max_history(self) -> int:
        """Newest items of a history that a prompt shows at most."""
        return self.config.max_history

    @property
    def trie(self) -> ItemTrie:
        """The catalog's trie under the engine's tokenizer."""
        return self.parts.index.trie

    @property
    def grounder(self) -> Grounder:
        """Finds the items of free text."""
        return self.parts.index.grounder

    def template(self, task: Task = "recommend") -> PromptTemplate:
        """The prompt template used for a task."""
        return self.parts.templates[task]

    def configured(self, **settings: object) -> Self:
        """The same recommender with other settings: fields of `RecommenderConfig`.

        Raises:
            ArgumentError: There is no such setting, or a value is out of range.
        """
        return self.of(replace(self.parts, config=self.config.replace(**settings)))

    def with_prompt(self, *names: str, prompts: PromptLibrary | None = None) -> Self:
        """The same recommender with other prompts for the tasks of the named templates.

        Args:
            names: Of the templates; the other tasks keep theirs.
            prompts: Where templates are looked up from now on; None for where they were.
        """
        library = prompts or self.prompts
        given = {task_of(library[name]) for name in names}
        kept = [name for name in self.config.prompt if task_of(library[name]) not in given]
        config = replace(self.config, prompt=(*kept, *names))
        return self.of(replace(self.parts, prompts=library, config=config))

    def with_priors(self, *priors: Prior, lm_weight: float | RequestWeight | None = None) -> Self:
        """The same recommender with other priors, and another weight of the LM where one is given."""
        weight = self.config.lm_weight if lm_weight is None else lm_weight
        return self.of(replace(self.parts, priors=priors, config=replace(self.config, lm_weight=weight)))

    def with_rating_priors(self, *priors: RatingPrior, lm_weight: float | None = None) -> Self:
        """The same recommender with other rating priors, and another weight of the LM in ratings where one is given."""
        weight = self.config.rating_lm_weight if lm_weight is None else lm_weight
        config = replace(self.config, rating_lm_weight=weight)
        return self.of(replace(self.parts, rating_priors=priors, config=config))

    def with_histories(self, histories: Mapping[str, History]) -> Self:
        """The same recommender that knows what the users of a log took, see `histories` of the class."""
        return self.of(replace(self.parts, histories=histories))

    def with_catalog(self, catalog: Catalog) -> Self:
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
        moved: list[Prior] = []
        for prior in self.priors:
            if not isinstance(prior, Movable):
                raise ConfigError(
                    f"the prior {prior.name!r} cannot follow a changed catalog: give {type(prior).__name__} a method "
                    "on_catalog, see llmgen.priors.Movable"
                )
            moved.append(prior.on_catalog(catalog, before))
        index = self.parts.index.on_catalog(catalog, before)
        return self.of(replace(self.parts, index=index, priors=tuple(moved)))

    def prepare(self) -> None:
        """Build what is costly and otherwise waits for its first use: trie, index of titles, what priors look up."""
        index = self.parts.index
        if self.decoding == "free":
            _ = index.grounder
        continues = self.template().continues
        if self.decoding != "free" and self.engine is not None:
            _ = index.trie_of(continues=continues)
        for factor in self.parts.factors:
            if isinstance(factor, Preparable):
                factor.prepare()
        if len(self.catalog) > LARGE_CATALOG and index.has_trie(continues=continues):
            some = Query(self.catalog[:32])  # priors say something of most who ask, and share that among all of them
            weights = self.parts.multiplied([some]).row(0)
            if not weights.alone:
                trie = index.trie_of(continues=continues)
                first = np.arange(trie.first[1])  # the root, and what every search opens
                weights.shared.below(trie).at(first)

    def save(self, folder: Path | str) -> None:
        """Write everything but the engine into a folder, which `load` reads: settings, catalog, priors and histories.

        Args:
            folder: Whole or not there at all afterwards. A recommender that was saved there before is replaced.

        Raises:
            ConfigError: A prior cannot be saved, which is found before anything is written; or something else is in
                that place.
        """
        from llmgen.recommend.saving import save_parts  # not needed to answer

        save_parts(self.parts, folder)

    @classmethod
    def load(cls, folder: Path | str, *, engine: Engine | None, cache: Path | None = None) -> Self:
        """A recommender that was saved; with the same engine it gives the same answers.

        Args:
            folder: As of `save`, or of `llmgen fit`.
            engine: The language model, which the folder does not hold; None leaves all to the priors.
            cache: See the class.

        Raises:
            DataError: The folder is damaged or holds something else.
            ConfigError: A prior is of a kind that is not installed here.
        """
        from llmgen.recommend.saving import load_parts

        return cls.of(load_parts(folder, engine, cache=cache).parts)

    def query_of(self, user: str, query: Query | None = None) -> Query:
        """The query of a user of the log that this recommender was given.

        Args:
            user: Id of the user.
            query: What else is wanted: `k`, `text`, `filters`, `exclude_seen`.

        Raises:
            DataError: The log has no such user.
            ConfigError: There is no log, or the query has a history of its own.
        """
        if not self.parts.histories:
            raise ConfigError(
                f"the user {user!r} is not known: this recommender has no log; make it with histories=..., or give a "
                "Query with the user's history"
            )
        return query_of(self.parts.histories, user, query)

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
        template = self.template() if prompt is None else self.prompts[prompt]
        asked = self.catalog.resolved(query)
        room = self.parts.index.trie_of(continues=template.continues).longest
        return self.parts.prompter.render(template, asked, variables, room, target)
