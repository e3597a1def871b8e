"""Queries as prompts: the template of each task, as much of a history as fits, and its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmgen.catalog.core import Catalog
from llmgen.engines import Engine
from llmgen.errors import ConfigError
from llmgen.templates import tasks
from llmgen.templates.fitting import Fitted, fit
from llmgen.templates.library import PromptLibrary, PromptTemplate
from llmgen.templates.views import ItemView, plural, views
from llmgen.types import Item, Message, Query

Task = tasks.Answers


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine is asked.

    Attributes:
        template: It was made of.
        messages: As rendered.
        token_ids: The same as tokens.
        num_items: Items of the history that it shows, the newest ones.
    """

    template: PromptTemplate
    messages: tuple[Message, ...]
    token_ids: tuple[int, ...]
    num_items: int


@dataclass(frozen=True, eq=False)
class Prompter:
    """Makes the prompts of a recommender.

    Attributes:
        catalog: How items are written.
        engine: Whose tokens and whose context.
        max_history: Newest items of a history that a prompt shows at most.
        aligned: Whether prompts are cut to whole blocks of the engine's KV cache, see `fit`.
    """

    catalog: Catalog
    engine: Engine | None
    max_history: int
    aligned: bool = False

    def about(self, item: Item) -> ItemView:
        """An item as templates see it."""
        return views(self.catalog, [item])[0]

    def prompt(self, template: PromptTemplate, query: Query, room: int, **variables: object) -> Prompt:
        """The tokenised prompt of a query; `room` tokens are kept free for the answer.

        Raises:
            ConfigError: There is no engine.
            TemplateError: It does not fit into the model's context even without a history.
        """
        fitted = self.render(template, query, variables, room)
        return Prompt(template, fitted.messages, fitted.token_ids, fitted.num_items)

    def prompts(
        self, template: PromptTemplate, queries: Sequence[Query], candidates: Sequence[Sequence[Item]], room: int
    ) -> list[Prompt]:
        """The prompts of several queries, each with its own candidates where there are any."""
        shown = [views(self.catalog, items) for items in candidates or [()] * len(queries)]
        return [self.prompt(template, query, room, candidates=c) for query, c in zip(queries, shown, strict=True)]

    def render(
        self,
        template: PromptTemplate,
        query: Query,
        variables: Mapping[str, object],
        room: int,
        target: Sequence[ItemView] | str | None = None,
    ) -> Fitted:
        """The messages of a query, cut to the model's context by whole items of the history.

        Raises:
            ConfigError, TemplateError: As `prompt`.
        """
        engine = needs_engine(self.engine, "a prompt")
        shown = min(len(query.history), self.max_history)
        always = {**self._always(template, query), **variables}
        history = self._history(template, query, shown)

        def messages(number: int) -> Sequence[Message]:
            values = {**always, "history": history[shown - number :]}
            return template.render(values, control_tokens=engine.control_tokens, target=target)

        return fit(
            messages,
            engine.tokenize,
            shown,
            engine.max_tokens - room,
            block=engine.block_tokens if self.aligned else 1,
        )

    def plain(self, prompt: Prompt, query: Query, variables: Mapping[str, object]) -> str | None:
        """What the template of a prompt says itself in place of the model, with what the prompt showed, or None."""
        history = self._history(prompt.template, query, prompt.num_items)
        return prompt.template.plain({**self._always(prompt.template, query), **variables, "history": history})

    def _always(self, template: PromptTemplate, query: Query) -> dict[str, object]:
        own = {name: value(query) for name, value in tasks.kinds()[template.task].values.items()}
        nouns = {"noun": self.catalog.noun, "nouns": plural(self.catalog.noun)}
        return {**own, **nouns, "wish": query.text, "k": query.k}

    def _history(self, template: PromptTemplate, query: Query, number: int) -> tuple[ItemView, ...]:
        """So many of the newest items of the history."""
        newest = slice(len(query.history) - number, None)
        ratings = None if query.ratings is None else query.ratings[newest]
        spelled = tasks.answers(template.task) != "explain"  # reasons are for people, who read titles
        return views(self.catalog, query.items[newest], ratings, spelled=spelled)


def templates_for(names: Sequence[str], library: PromptLibrary, engine: Engine | None) -> dict[Task, PromptTemplate]:
    """One template a task: those that are named, and the default of `llmgen.templates.tasks` for the others.

    Raises:
        TemplateNotFoundError, TemplateError: A prompt is not there or wrong.
        ConfigError: Two prompts for one task, or one for none.
    """
    chosen: dict[Task, PromptTemplate] = {}
    for name in names:
        template = library[name]
        task = task_of(template)
        if task in chosen:
            raise ConfigError(f"the prompts {chosen[task].name!r} and {name!r} are both for {task!r}; give one a task")
        chosen[task] = template
    defaults: dict[Task, str] = {
        one.answers: one.prompt for one in tasks.kinds().values() if one.answers and one.prompt
    }
    if engine is not None and not engine.constrained:
        defaults["rate"] = "rate"  # one that writes its answer cannot go on with a list
    return {task: chosen.get(task) or library[name] for task, name in defaults.items()}


def task_of(template: PromptTemplate) -> Task:
    """What a recommender does with a template.

    Raises:
        ConfigError: Nothing, for it is there to learn from.
    """
    task = tasks.answers(template.task)
    if task is None:
        served = ", ".join(name for name, one in tasks.kinds().items() if one.answers)
        raise ConfigError(
            f"the prompt {template.name!r}, for {template.task!r}, is there to learn from and answers no query; "
            f"name one for {served}"
        )
    return task


def needs_engine(engine: Engine | None, what: str) -> Engine:
    """The engine.

    Raises:
        ConfigError: There is none.
    """
    if engine is None:
        raise ConfigError(f"{what} needs a language model, and this recommender was made without an engine")
    return engine
