"""Bench: one question to one arm, answered with all that the page shows of it."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from llmgen.catalog.core import Catalog
from llmgen.engines import Engine
from llmgen.errors import ArgumentError, ConfigError, DataError, TemplateError
from llmgen.http.schemas import Document, ExplanationBody, ItemBody, RatingsBody, RecommendationsBody
from llmgen.playground.bodies import Arm, Question
from llmgen.playground.people import Finder, People, filterable
from llmgen.priors import Evidence, Prior, reweighted
from llmgen.recommend.prompting import task_of
from llmgen.recommend.recommender import Recommender
from llmgen.templates.fitting import Fitted
from llmgen.templates.library import PromptLibrary
from llmgen.templates.tasks import answers, kinds
from llmgen.templates.views import views
from llmgen.types import Attribute, Item, Query, RatingPrediction
from llmgen.workspace.core import RecommenderSettings, Workspace, choose

REASONS = 3
"""Items of the history that are shown as evidence."""
REASON_TOKENS = 120
_PLACE = re.compile(r"(?s)(?P<file>[^\n]*?\.jinja)(?:, line (?P<line>\d+))?: (?P<said>.*)")


@runtime_checkable
class _Attributing(Protocol):
    def evidence(self, query: Query, item: Item) -> list[Evidence]: ...


@dataclass(frozen=True, eq=False)
class Model:
    """A language model that an arm can choose, or none.

    Attributes:
        settings: Of the service, with this engine and adapter.
        recommender: Fitted on the log without the users' last items; for the catalog as it is now.
    """

    settings: RecommenderSettings
    recommender: Recommender

    @property
    def name(self) -> str:
        """Its engine and its adapter."""
        engine, adapter = self.settings.engine, self.settings.adapter
        return engine if adapter is None else f"{engine} with {adapter}"


@dataclass(frozen=True, eq=False)
class Bench:
    """What answers the page.

    Attributes:
        people: The log, without the users' last items.
        models: Name -> what an arm can choose; the service's own is the first.
        labels: The possible ratings.
    """

    people: People
    models: Mapping[str, Model]
    labels: Sequence[str] = field(default=())

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        settings: RecommenderSettings,
        served: Recommender,
        also: Sequence[tuple[RecommenderSettings, Engine | None]] = (),
    ) -> Bench:
        """Beside a service.

        Args:
            workspace: All of its data.
            settings: Of the service.
            served: Its recommender; the engine and the trie are shared, priors are fitted without the last items.
            also: Other models: the settings of the service with another engine or adapter, and the engine.

        Raises:
            ConfigError: Two models have one name.
        """
        people = People.of(workspace.data)
        known = Workspace(people.known)
        priors = known.priors(settings)
        models: dict[str, Model] = {}
        for one, engine in ((settings, served.engine), *also):
            choice = choose(one, priors, Query(list(workspace.catalog[:1]), "words"))
            made = served
            if one is not settings:
                made = known.build(one, priors, engine, choice)
                made.prepare()
            made = made.with_priors(*priors, lm_weight=1.0 if choice.lm_weight is None else choice.lm_weight)
            if people.persons:
                rating = known.build(one, priors, engine, choice)
                made = made.with_rating_priors(*rating.rating_priors, lm_weight=rating.rating_lm_weight)
            model = Model(one, made)
            if model.name in models:
                raise ConfigError(f"the model {model.name!r} is named twice; name each once")
            models[model.name] = model
        return cls(people, models, workspace.labels)

    def on_catalog(self, catalog: Catalog) -> Bench:
        """The same for a changed catalog."""
        models = {name: Model(one.settings, one.recommender.with_catalog(catalog)) for name, one in self.models.items()}
        return Bench(self.people, models, self.labels)

    @property
    def recommender(self) -> Recommender:
        """Of the service's own model."""
        return next(iter(self.models.values())).recommender

    def model(self, arm: Arm) -> Model:
        """The model of an arm.

        Raises:
            ConfigError: The service was started without it.
        """
        if arm.model is None:
            return next(iter(self.models.values()))
        if arm.model not in self.models:
            raise ConfigError(
                f"the service was started without the model {arm.model!r}; it has {', '.join(self.models)}"
            )
        return self.models[arm.model]

    @property
    def catalog(self) -> Catalog:
        """The items."""
        return self.recommender.catalog

    @cached_property
    def finder(self) -> Finder:
        """Finds items as one types."""
        return Finder(self.catalog)

    def about(self) -> Document:
        """What the page must know before anything is asked."""
        recommender, catalog = self.recommender, self.catalog
        library = recommender.prompts
        templates = []
        for name in library:
            try:
                template = library[name]
            except TemplateError:
                continue  # the page offers what can be asked; `llmgen prompts check` tells of the others
            if answers(template.task):
                about = {"name": name, "task": template.task, "description": template.description}
                templates.append({**about, "text": template.path.read_text(encoding="utf-8")})
        return {
            "data": self.people.known.name,
            "items": len(catalog),
            "users": len(self.people.persons),
            "judged": len(self.people.able),
            "noun": catalog.noun,
            "attributes": filterable(catalog),
            "models": [_told(name, one.recommender) for name, one in self.models.items()],
            "engine": None if recommender.engine is None else recommender.engine.name,
            "templates": templates,
            "used": {task: recommender.template(task).name for task in ("recommend", "rank", "rate", "explain")},
            "variables": {task: sorted(kind.allowed) for task, kind in kinds().items() if kind.answers},
            "priors": {prior.name: prior.weight for prior in recommender.priors},
            "labels": list(self.labels),
        }

    def problems(self, name: str, text: str) -> list[Document]:
        """What `llmgen prompts check` says of a template: `line` (from 1, None of another file) and `message`."""
        try:
            template = self.recommender.prompts.with_text(name, text)[name]
            if answers(template.task) is None:
                raise TemplateError(f"{name}.jinja: the task {template.task} is there to learn from; take another one")
        except TemplateError as error:
            found = _PLACE.match(str(error))
            if found is None:
                return [{"line": None, "message": str(error)}]
            own = found["file"] == f"{name}.jinja"
            line = int(found["line"]) if own and found["line"] else None
            return [{"line": line, "message": found["said"] if own else str(error)}]
        return []

    def library(self, arm: Arm) -> PromptLibrary:
        """The prompts of an arm: those of the service, with the wording of the page where it has one."""
        prompts = self.recommender.prompts
        return prompts if arm.text is None else prompts.with_text(arm.template, arm.text)

    def weighted(self, arm: Arm) -> list[Prior]:
        """The priors of an arm.

        Raises:
            ConfigError: The service has no prior of a name, or one whose weight cannot be changed.
        """
        there = {prior.name: prior for prior in self.recommender.priors}
        if unknown := sorted(set(arm.priors) - set(there)):
            raise ConfigError(
                f"the service was started without the prior {unknown[0]!r}; it has {', '.join(there) or 'none'}"
            )
        try:
            return [reweighted(prior, arm.priors.get(name, prior.weight)) for name, prior in there.items()]
        except TypeError as error:
            raise ConfigError(str(error)) from None

    def arm(self, arm: Arm) -> Recommender:
        """The recommender of an arm.

        Raises:
            TemplateError: Its template is wrong, or there is none of the name.
            ConfigError: See `weighted` and `model`, or a template that answers nothing.
        """
        made = self.model(arm).recommender.with_prompt(arm.template, prompts=self.library(arm))
        if arm.max_history is not None:
            made = made.configured(max_history=arm.max_history)
        return made.with_priors(*self.weighted(arm), lm_weight=arm.lm_weight)

    def query(self, asked: Question) -> Query:
        """The query of a question.

        Raises:
            DataError: The log has no such user.
            UnknownItemError: An id is not in the catalog.
            ConfigError: Both a user and a history.
        """
        filters: Mapping[str, Attribute] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in asked.filters.items()
        }
        wish = (asked.wish or "").strip() or None
        more: dict[str, Any] = {"k": asked.k, "filters": filters, "exclude_seen": not asked.include_seen}
        if asked.user is None:
            return Query([self.catalog[self.catalog.index(one)] for one in asked.history], wish, **more)
        if asked.history:
            raise ConfigError("give a user or a history, not both: a user of the log has a history")
        if asked.user not in self.people.persons:
            raise DataError(f"the log of {self.people.known.name} has no user {asked.user!r}; search for one")
        past = self.people.persons[asked.user].history
        return Query(past.items, wish, asked.user, ratings=past.ratings, **more)

    def answer(self, asked: Question) -> Document:
        """The answer of an arm; in the thread that asks the engine."""
        arm, query, catalog = self.arm(asked.arm), self.query(asked), self.catalog
        template = self.library(asked.arm)[asked.arm.template]
        task = task_of(template)
        items = [catalog[catalog.index(one)] for one in asked.items]
        if task != "recommend" and not items:
            raise ArgumentError(f"the task {template.task} is about given items; add one")
        began = time.perf_counter()
        body: Document
        variables: dict[str, Any] = {"labels": tuple(self.labels), "candidates": views(catalog, items)}
        if items:
            variables["item"] = views(catalog, items[:1])[0]
        if task == "recommend":
            found = arm.recommend(query)
            body = {"list": RecommendationsBody.dump(found, [catalog.label(place.item) for place in found])}
            shown = [place.item for place in found]
        elif task == "rank":
            found = arm.rank(query, items)
            body = {"list": RecommendationsBody.dump(found, [catalog.label(place.item) for place in found])}
            shown = [place.item for place in found]
        elif task == "rate":
            ratings: list[RatingPrediction] = arm.rate_many([(query, item) for item in items], labels=self.labels)
            body = {**RatingsBody.dump(ratings, [catalog.label(rating.item) for rating in ratings])}
            shown = []
        else:
            reason = arm.explain(query, items[0], max_new_tokens=REASON_TOKENS)
            body, shown = {"reason": ExplanationBody.dump(reason, catalog.label(reason.item))}, []
            rated = {} if query.ratings is None else dict(zip(query.items, query.ratings, strict=True))
            told = [rated[item] for item in reason.evidence] if rated else None
            variables["evidence"] = views(catalog, reason.evidence, told)
        milliseconds = 1000 * (time.perf_counter() - began)
        body |= {"milliseconds": milliseconds, "task": template.task, "history": self._history(query)}
        body |= {"evidence": {item.id: self._evidence(arm, query, item) for item in shown}}
        body |= self._held_out(asked, [item.id for item in shown])
        if arm.engine is not None:
            fitted = arm.messages(query, prompt=asked.arm.template, **variables)
            body["prompt"] = _rendered(fitted, arm, arm.engine, asked.arm.template, query)
        return body

    def _history(self, query: Query) -> Document:
        newest = list(query.items)[-REASONS * 10 :]
        return {"length": len(query.history), "newest": [self.catalog.label(item) for item in newest]}

    def _evidence(self, arm: Recommender, query: Query, item: Item) -> list[str]:
        for prior in arm.priors:
            if prior.weight > 0 and isinstance(prior, _Attributing) and query.history:
                return [self.catalog.label(one.item) for one in prior.evidence(query, item)[:REASONS]]
        return []

    def _held_out(self, asked: Question, shown: Sequence[str]) -> Document:
        held_out = None if asked.user is None else self.people.persons[asked.user].held_out
        known: Container[object] = self.catalog  # of ids too
        if held_out is None or held_out not in known:
            return {"held_out": None}
        item = self.catalog[held_out]
        rank = shown.index(held_out) + 1 if held_out in shown else None
        return {"held_out": {**ItemBody.dump(item), "label": self.catalog.label(item), "rank": rank}}


def _told(name: str, recommender: Recommender) -> Document:
    engine = recommender.engine
    return {
        "name": name,
        "engine": None if engine is None else engine.name,
        "lm_weight": recommender.config.usual_lm_weight,  # the page has one for all
        "max_history": recommender.max_history,
    }


def _rendered(fitted: Fitted, arm: Recommender, engine: Engine, name: str, query: Query) -> Document:
    return {
        "ref": arm.prompts[name].ref,
        "messages": [{"role": message.role, "content": message.content} for message in fitted.messages],
        "tokens": fitted.num_tokens,
        "room": engine.max_tokens,
        "shown": fitted.num_items,
        "most": min(arm.max_history, len(query.history)),
    }
