"""Training examples, rendered by the templates that serve, through the recommender that serves.

An example is drawn anew each time it is asked for, from nothing but the seed and its number, so a run that goes on
after a stop sees what it would have seen. Tasks:

    list      a template that `continues` its answer: a stretch of a history, in which every item from the second on is
              a target given those before it
    next      a `next_item` template: one target behind a history that is cut at a random point
    wish      a `cold_start` template: an item for words made of its attributes; items that nobody took come too
    describe  a `describe` template: what the catalog shows of an item for its title, the way back of `wish`; items
              that nobody took come too
    rank      a `rerank` template: the item that was taken before others that the priors find likely
    rate      a `rate` template: the rating of an item behind earlier ratings
    rates     a `rate` template that `continues` its answer: a stretch of a history, in which every rating is a target
              given those before it

More than 400 lines: each task makes its examples by the same rules of drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from llmgen.datasets.splits import History
from llmgen.engines import Engine, joins, line_break, spell_lines
from llmgen.errors import ConfigError, renamed
from llmgen.priors import Prior, combine
from llmgen.recommend.config import MAX_HISTORY
from llmgen.recommend.recommender import Recommender
from llmgen.templates.library import PromptLibrary
from llmgen.templates.views import ItemView, views
from llmgen.types import IntArray, Item, Message, Query

KINDS: Mapping[str, tuple[str, bool]] = {
    "list": ("next_item", True),
    "next": ("next_item", False),
    "wish": ("cold_start", False),
    "describe": ("describe", False),
    "rank": ("rerank", False),
    "rate": ("rate", False),
    "rates": ("rate", True),
}
"""Tasks -> what their templates are for, and whether those continue their answers."""
MIN_STRETCH = 2
"""Items of the shortest history that teaches anything: one, and the one after it."""


class Target(NamedTuple):
    """An answer inside an example.

    Attributes:
        start: Place of its first token.
        end: One past the place of its last token, which says that it ends here.
        item: Catalog index; -1 where the answer is no item but text.
        query: What was known before it.
        in_list: Whether it is a line of a list that goes on, and not an answer of its own.
    """

    start: int
    end: int
    item: int
    query: Query
    in_list: bool = False


@dataclass(frozen=True)
class Example:
    """A text with its targets.

    Attributes:
        task: See the module.
        input_ids: Prompt and answers.
        targets: In their order in the text, at least one.
        fold: Of the user, for priors that must not know the user's own sequence; -1 where there is no user.
    """

    task: str
    input_ids: tuple[int, ...]
    targets: tuple[Target, ...]
    fold: int


@dataclass(frozen=True)
class TrainingTask:
    """One part of the mixture.

    Attributes:
        prompts: Names of templates; one is drawn for each example.
        weight: Share of the examples, above 0.
        max_history: Newest items that stand in the prompt at most.
    """

    prompts: tuple[str, ...]
    weight: float = 1.0
    max_history: int = MAX_HISTORY


def wrong_tasks(tasks: Mapping[str, TrainingTask], prompts: PromptLibrary) -> Iterator[str]:
    """What is wrong with tasks, before there is anything to learn from; one line each."""
    if not tasks or min(task.weight for task in tasks.values()) <= 0:
        yield "give at least one task, each with a weight above 0"
    for name, task in tasks.items():
        if name not in KINDS:
            yield f"no task is called {name!r}; there are {', '.join(KINDS)}"
            continue
        wanted, continues = KINDS[name]
        kind = f"for {wanted} that {'continues' if continues else 'does not continue'} its answer"
        if not task.prompts:
            yield f"the task {name!r} has no prompt; name one {kind}"
        for prompt in task.prompts:
            if prompt not in prompts:
                there = [one for one in prompts if (prompts[one].task, prompts[one].continues) == KINDS[name]]
                yield f"the task {name!r}: no prompt is called {prompt!r}; there are {', '.join(there)}"
            elif (prompts[prompt].task, prompts[prompt].continues) != KINDS[name]:
                yield f"the task {name!r} needs a prompt {kind}, and {prompt!r} is none"


class Mixture:
    """Draws examples from users' histories.

    Args:
        recommender: Renders and tokenises; its catalog is what is learned. No prompt shows more of a history than its
            `max_history`.
        histories: User -> what the user took, oldest first; nothing else is ever shown.
        tasks: Name -> settings.
        seed: Of everything that is drawn.
        group: So many examples in a row are of one task and one length of history, so that a batch has little padding.
        dropout: Share of a history's items that is left out of a prompt, in half of the examples; in `list` of what is
            asked for too, so that no stretch is seen twice in one form. Not in `rates`.
        order_noise: Share of a history's items that change places with the one behind, in half of the examples of
            `next`.
        candidates: How many stand in a `rank` prompt.
        folds: Into how many parts users are dealt, for cross-fitting.
        likely: Priors from which the other candidates of `rank` are drawn; uniformly without.

    Raises:
        ConfigError: A task that is not known, a prompt for another task, or nothing to learn from.
    """

    def __init__(
        self,
        recommender: Recommender,
        histories: Mapping[str, History],
        tasks: Mapping[str, TrainingTask],
        *,
        seed: int = 0,
        group: int = 1,
        dropout: float = 0.0,
        order_noise: float = 0.0,
        candidates: int = 10,
        folds: int = 5,
        likely: Sequence[Prior] = (),
    ) -> None:
        if recommender.engine is None:
            raise ConfigError("examples need an engine that tokenises them")
        self.recommender, self.engine = recommender, recommender.engine
        self.catalog = recommender.catalog
        self.seed, self.group, self.dropout, self.candidates = seed, group, dropout, candidates
        self.order_noise = order_noise
        self.likely = tuple(likely)
        self.users = sorted(user for user, history in histories.items() if len(history.items) >= MIN_STRETCH)
        self.histories = histories
        self.fold_of = {user: number % folds for number, user in enumerate(self.users)}
        self.rated = [user for user in self.users if histories[user].ratings is not None]
        if not self.users:
            raise ConfigError(
                f"there is nothing to learn from: none of {len(histories)} users took {MIN_STRETCH} items or more"
            )
        for said in wrong_tasks(tasks, recommender.prompts):
            raise ConfigError(said)
        for name in ("rate", "rates"):
            if name in tasks and not self.rated:
                raise ConfigError(
                    f"the task {name!r} needs ratings, and no user has them for the whole history; leave it out"
                )
        shown = views(self.catalog, self.catalog) if "describe" in tasks else ()
        self._described = [view for view in shown if view.details]
        if "describe" in tasks and not self._described:
            shows = f"only {', '.join(self.catalog.shown)}, which no item has" if self.catalog.shown else "no attribute"
            raise ConfigError(
                f"the task 'describe' needs something to say of an item, and this catalog shows {shows}; name "
                "attributes to show, or leave the task out"
            )
        self.tasks = tasks
        makers: dict[str, Callable[[np.random.Generator, TrainingTask, str, float], Example]] = {
            "list": self._list,
            "next": self._next,
            "wish": self._wish,
            "describe": self._describe,
            "rank": self._rank,
            "rate": self._rate,
            "rates": self._rates,
        }
        self._makers = {name: makers[name] for name in tasks}
        self._shares = np.array([task.weight for task in tasks.values()]) / sum(t.weight for t in tasks.values())
        values = {rating for user in self.rated for rating in histories[user].ratings or ()}
        self.labels = tuple(f"{value:g}" for value in sorted(values))

    @cached_property
    def _rest_of_break(self) -> int:
        return _rest_of_break(self.engine)

    def __getitem__(self, number: int) -> Example:
        """The example with a number, 0 or more; the same one always."""
        shape = np.random.default_rng([self.seed, 0, number // self.group])
        name = list(self.tasks)[shape.choice(len(self.tasks), p=self._shares)]
        task, stretch = self.tasks[name], shape.random()
        for attempt in range(100):  # a draw may be impossible: a user too new for the task
            rng = np.random.default_rng([self.seed, 1, number, attempt])
            prompt = task.prompts[rng.integers(len(task.prompts))]
            try:
                return self._makers[name](rng, task, prompt, stretch)
            except _AgainError:
                continue
        raise ConfigError(f"no example for the task {name!r} can be drawn from these histories")

    def _list(self, rng: np.random.Generator, task: TrainingTask, prompt: str, stretch: float) -> Example:
        user, history = self._user(rng, self.users)
        places = self._thinned(rng, len(history.items))
        if len(places) < MIN_STRETCH:
            raise _AgainError
        length = min(len(places), max(MIN_STRETCH, task.max_history))
        end = int(rng.integers(length, len(places) + 1))
        query = Query(tuple(history.items[place] for place in places[end - length : end]), user_id=user)
        made = self.recommender.messages(query, prompt=prompt)
        shown = places[end - made.num_items : end].tolist()
        answer = _answer(made.messages)
        self._check_answer(prompt, answer, [history.items[place] for place in shown])
        ids = list(self.engine.tokenize(made.messages[:-1]))
        targets = []
        for number, (place, line) in enumerate(zip(shown, spell_lines(self.engine, answer), strict=True)):
            if number:
                known = Query(history.items[:place], user_id=user)
                item, end = self.catalog.index(history.items[place]), len(ids) + len(line) - self._rest_of_break
                targets.append(Target(len(ids), end, item, known, in_list=True))
            ids += line
        if not targets:  # no room for two
            raise _AgainError
        return Example("list", tuple(ids), tuple(targets), self.fold_of[user])

    def _next(self, rng: np.random.Generator, task: TrainingTask, prompt: str, stretch: float) -> Example:
        user, history, place = self._moment(rng, self.users)
        most = task.max_history if stretch >= 0.5 else max(1, round(2 * stretch * task.max_history))
        items = tuple(history.items[one] for one in self._thinned(rng, place))
        if self.order_noise and rng.random() < 0.5:
            items = _disturbed(items, (rng.random(place) < self.order_noise).tolist())
        known = Query(history.items[:place], user_id=user)
        return self._titled("next", prompt, Query(items[-most:], user_id=user), history.items[place], known)

    def _wish(self, rng: np.random.Generator, task: TrainingTask, prompt: str, stretch: float) -> Example:
        item = self.catalog[int(rng.integers(len(self.catalog)))]
        words = list(_words(item))
        if not words:
            raise _AgainError
        chosen = rng.permutation(len(words))[: int(rng.integers(1, len(words) + 1))]
        query = Query(text=", ".join(words[number] for number in chosen))
        return self._titled("wish", prompt, query, item, query)

    def _describe(self, rng: np.random.Generator, task: TrainingTask, prompt: str, stretch: float) -> Example:
        item = self._described[int(rng.integers(len(self._described)))]
        made = self.recommender.messages(Query(), prompt=prompt, target=item.details, item=ItemView(item.title))
        return self._worded("describe", made.messages, Query())

    def _rank(self, rng: np.random.Generator, task: TrainingTask, prompt: str, stretch: float) -> Example:
        user, history, place = self._moment(rng, self.users)
        item, known = history.items[place], Query(history.items[:place], user_id=user, k=1)
        weights = np.ones(len(self.catalog))
        if self.likely:
            weights = np.exp(combine(self.likely, [known], len(self.catalog)).total[0])
        weights[self.catalog.positions({*known.items, item})] = 0.0
        count = min(self.candidates - 1, int(np.count_nonzero(weights)))
        others = (
            rng.choice(len(weights), size=count, replace=False, p=weights / weights.sum()).tolist() if count else []
        )
        candidates = [item, *(self.catalog[other] for other in others)]
        shuffled = [candidates[number] for number in rng.permutation(len(candidates))]
        query = replace(known, history=known.items[-task.max_history :])
        return self._titled("rank", prompt, query, item, known, candidates=views(self.catalog, shuffled))

    def _rate(self, rng: np.random.Generator, task: TrainingTask, prompt: str, stretch: float) -> Example:
        user, history, place = self._moment(rng, self.rated)
        ratings = history.ratings or ()
        shown = slice(max(0, place - task.max_history), place)
        query = Query(history.items[shown], user_id=user, ratings=ratings[shown])
        item, label = views(self.catalog, [history.items[place]])[0], f"{ratings[place]:g}"
        made = self.recommender.messages(query, prompt=prompt, target=label, item=item, labels=self.labels)
        if _answer(made.messages) != [label]:
            raise ConfigError(
                f"the prompt {prompt!r} answers {_answer(made.messages)}, and the label alone is asked for"
            )
        return self._worded("rate", made.messages, query)

    def _rates(self, rng: np.random.Generator, task: TrainingTask, prompt: str, stretch: float) -> Example:
        user, (items, ratings) = self._user(rng, self.rated)
        given = ratings or ()
        length = min(len(items), max(MIN_STRETCH, task.max_history + 1))
        end = int(rng.integers(length, len(items) + 1))
        shown = slice(end - length, end - 1)
        item, label = views(self.catalog, items[end - 1 : end])[0], f"{given[end - 1]:g}"
        query = Query(items[shown], user_id=user, ratings=given[shown])
        made = self.recommender.messages(query, prompt=prompt, target=label, item=item, labels=self.labels)
        first = end - 1 - made.num_items
        lines, labels = _answer(made.messages), [f"{rating:g}" for rating in given[first:end]]
        each = len(lines) // len(labels)  # lines an item, of which the rating is the last
        if not each or lines[each - 1 :: each] != labels:
            raise ConfigError(
                f"the prompt {prompt!r} answers {lines}, in which the ratings {labels} are not at their places"
            )
        ids = list(self.engine.tokenize(made.messages[:-1]))
        targets = []
        for number, line in enumerate(spell_lines(self.engine, lines)):
            place, other = divmod(number + 1, each)
            if not other:
                known = Query(items[: first + place - 1], user_id=user, ratings=given[: first + place - 1])
                targets.append(Target(len(ids), len(ids) + len(line), -1, known))
            ids += line
        return Example("rates", tuple(ids), tuple(targets), self.fold_of[user])

    def _titled(self, task: str, prompt: str, query: Query, item: Item, known: Query, **variables: object) -> Example:
        """A prompt whose answer is one title."""
        target = views(self.catalog, [item])
        made = self.recommender.messages(query, prompt=prompt, target=target, **variables)
        ids = self.engine.tokenize(made.messages[:-1])
        self._check_answer(prompt, _answer(made.messages), [item])
        (path,) = self.engine.spell(_answer(made.messages))
        place = Target(len(ids), len(ids) + len(path), self.catalog.index(item), known)
        return Example(task, (*ids, *path), (place,), self._fold(known))

    def _worded(self, task: str, messages: Sequence[Message], known: Query) -> Example:
        """Messages of which the last, the answer, is text."""
        ids, path = self.engine.tokenize(messages[:-1]), self.engine.spell([messages[-1].content])[0]
        return Example(task, (*ids, *path), (Target(len(ids), len(ids) + len(path), -1, known),), self._fold(known))

    def _fold(self, known: Query) -> int:
        return -1 if known.user_id is None else self.fold_of[known.user_id]

    def _check_answer(self, prompt: str, lines: Sequence[str], items: Sequence[Item]) -> None:
        """Raise ConfigError unless the token paths of an answer's lines are those that the search looks for."""
        wanted = [self.catalog.spelling(item) for item in items]
        if list(lines) != wanted and self.engine.spell(lines) != self.engine.spell(wanted):
            raise ConfigError(f"the prompt {prompt!r} answers {list(lines)}; the search looks for the lines {wanted}")

    def _user(self, rng: np.random.Generator, users: Sequence[str]) -> tuple[str, History]:
        user = users[int(rng.integers(len(users)))]
        return user, self.histories[user]

    def _thinned(self, rng: np.random.Generator, count: int) -> IntArray:
        """Places in a history of so many items: all of them, or in half of the examples those that dropout leaves."""
        places = np.arange(count)
        if self.dropout and rng.random() < 0.5:
            places = places[rng.random(count) >= self.dropout]
        return places

    def _moment(self, rng: np.random.Generator, users: Sequence[str]) -> tuple[str, History, int]:
        """A user and the place of one item of the history that has another before it."""
        user, history = self._user(rng, users)
        return user, history, int(rng.integers(1, len(history.items)))


def ahead(recommender: Recommender, prompt: str, query: Query, item: Item) -> Example:
    """The prompt that serves a query, with one item as its answer: for measuring, not for learning."""
    engine = recommender.engine
    if engine is None:
        raise ConfigError("examples need an engine that tokenises them")
    ids = engine.tokenize(recommender.messages(query, prompt=prompt).messages)
    label, in_list = recommender.catalog.spelling(item), recommender.prompts[prompt].continues
    (spelled,) = spell_lines(engine, [label]) if in_list else engine.spell([label])
    if in_list:
        spelled = spelled[: len(spelled) - _rest_of_break(engine)]
    target = Target(len(ids), len(ids) + len(spelled), recommender.catalog.index(item), query, in_list)
    return Example(prompt, (*ids, *spelled), (target,), -1)


def _rest_of_break(engine: Engine) -> int:
    """Tokens of a line break behind the one with which the search lets an item of a list end."""
    return 0 if joins(engine) else len(line_break(engine)) - 1


class _AgainError(Exception):
    """This draw gives no example; another may."""


def _disturbed(items: Sequence[Item], swaps: Sequence[bool]) -> tuple[Item, ...]:
    """Items of which each that is to be swapped changes places with the one behind it."""
    moved = list(items)
    for place, swap in enumerate(swaps[: max(0, len(moved) - 1)]):
        if swap:
            moved[place], moved[place + 1] = moved[place + 1], moved[place]
    return tuple(moved)


def _answer(messages: Sequence[Message]) -> list[str]:
    """The lines of the assistant's message."""
    return messages[-1].content.split("\n")


def _words(item: Item) -> Iterator[str]:
    """What someone might ask for who wants this item."""
    for value in item.attributes.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple):
            yield from value
        elif isinstance(value, int) and not isinstance(value, bool):
            yield str(value)


def __getattr__(name: str) -> object:
    if name == "Task":
        return renamed("llmgen.training.data.Task", "TrainingTask", TrainingTask)
    raise AttributeError(f"module 'llmgen.training.data' has no attribute {name!r}")
