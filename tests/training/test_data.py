"""Examples: what is learned is what is served, and nothing of the future is in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs llmgen[train]")

from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import History
from llmgen.engines import spell_lines
from llmgen.engines.chat import ChatTokenizer
from llmgen.engines.fake import FakeEngine
from llmgen.errors import ConfigError
from llmgen.priors import Popularity
from llmgen.recommend.recommender import Recommender
from llmgen.templates.library import PromptLibrary
from llmgen.templates.views import ItemView, views
from llmgen.text.sanitize import sanitize
from llmgen.training.batches import Planner
from llmgen.training.data import Example, Mixture, TrainingTask, _disturbed
from llmgen.training.loss import ItemPaths
from llmgen.types import FloatArray, Query
from tests.engines.tokenizers import joining

TASKS = {
    "list": TrainingTask(("next_item_list",), 2.0, 8),
    "next": TrainingTask(("next_item", "next_item_taste", "next_item_zh"), 1.0, 6),
    "wish": TrainingTask(("cold_start", "cold_start_zh")),
    "describe": TrainingTask(("describe",)),
    "rank": TrainingTask(("rerank",), 1.0, 5),
    "rate": TrainingTask(("rate",), 1.0, 5),
    "rates": TrainingTask(("rate_list",), 1.0, 5),
}


class Tokens(FakeEngine):
    """A real tokenizer, and no model."""

    def __init__(self, chat: ChatTokenizer) -> None:
        super().__init__()
        self.tokenize, self.spell = chat.tokenize, chat.spell  # type: ignore[method-assign]
        self.joins, self.spell_lines = chat.joins, chat.spell_lines
        self.control_tokens, self.tokenizer_digest = chat.control_tokens, chat.digest
        self.decode = chat.decode


class Rising:
    """A prior with other weights for other items, the same for everybody."""

    name, weight = "rising", 1.0

    def __init__(self, size: int) -> None:
        self._row = np.log(1 + np.arange(size))

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        return np.tile(self._row, (len(queries), 1))


@pytest.fixture(scope="module", params=["bytes", "tiny", "joins"])
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> FakeEngine:
    if request.param == "bytes":
        return FakeEngine()
    return Tokens(
        ChatTokenizer(joining(tiny_model)) if request.param == "joins" else ChatTokenizer.load(str(tiny_model))
    )


def taken(catalog: Catalog, users: int = 12) -> dict[str, History]:
    """Users of different length, whose items are theirs alone: 1, 2, 3, ... of them."""
    found, start = {}, 0
    for user in range(users):
        items = tuple(catalog[index % len(catalog)] for index in range(start, start + user + 1))
        found[f"u{user}"] = History(items, tuple(float(1 + place % 5) for place in range(len(items))))
        start += user + 1
    return found


def mixture(
    catalog: Catalog, engine: FakeEngine, tasks: dict[str, TrainingTask] = TASKS, **settings: object
) -> Mixture:
    recommender = Recommender(catalog, engine, max_history=8)
    return Mixture(recommender, taken(catalog), tasks, **settings)  # type: ignore[arg-type]


def test_every_task_comes_and_the_same_number_is_the_same_example(catalog: Catalog, engine: FakeEngine) -> None:
    mixed, again = mixture(catalog, engine), mixture(catalog, engine)
    examples = [mixed[number] for number in range(60)]
    assert {example.task for example in examples} == set(TASKS)
    assert [again[number] for number in reversed(range(60))] == examples[::-1]
    assert mixture(catalog, engine, seed=1)[0] != examples[0]


@pytest.mark.parametrize("task", TASKS)
def test_training_text_begins_as_the_serving_prompt(catalog: Catalog, engine: FakeEngine, task: str) -> None:
    """Every target is spelled as the search spells it, right behind the tokens that serving would ask with."""
    for name in TASKS[task].prompts:
        mixed = mixture(catalog, engine, {task: TrainingTask((name,), 1.0, 5)}, dropout=0.0)
        for number in range(15):
            example = mixed[number]
            for target in example.targets:
                if target.item >= 0:
                    spell = partial(spell_lines, engine) if task == "list" else engine.spell
                    assert [example.input_ids[target.start : target.end]] == spell([catalog.labels[target.item]])
                    assert target.in_list == (task == "list")
            if task in ("list", "next", "wish"):
                for target in example.targets:
                    prompt = served(mixed, engine, name, example, target.query, target.start)
                    assert example.input_ids[: target.start] == prompt


def served(mixed: Mixture, engine: FakeEngine, name: str, example: Example, query: Query, length: int) -> tuple:  # type: ignore[type-arg]
    """The prompt of that length that the recommender makes of what was known; it may show less of the history."""
    for shown in range(len(query.history) + 1):
        recommender = mixed.recommender.with_prompt(name).configured(max_history=shown)
        ids = recommender.parts.prompt("recommend", query).token_ids
        if len(ids) == length and ids == example.input_ids[:length]:
            return ids
    raise AssertionError(f"no length of the history gives the prompt of {example}")


def test_what_is_chosen_on_the_way_to_an_item_are_the_tokens_of_the_text(catalog: Catalog, engine: FakeEngine) -> None:
    """In a batch of lists and of single answers too, where the two have tries of their own."""
    tasks = {"list": TrainingTask(("next_item_list",), 1.0, 6), "next": TrainingTask(("next_item",), 1.0, 6)}
    mixed = mixture(catalog, engine, tasks)
    index = mixed.recommender.parts.index
    planner = Planner(
        ItemPaths(index.trie),
        "residual",
        lines=ItemPaths.of_lines(index),
        priors={fold: [Rising(200)] for fold in range(5)},
    )
    examples = [mixed[number] for number in range(16)]
    assert {example.task for example in examples} == set(tasks)
    batch = planner.batch(examples, [number % 2 == 0 for number in range(16)])
    plan, ids = batch["plan"], batch["input_ids"].numpy().ravel()  # type: ignore[attr-defined]
    choices = plan.items  # type: ignore[attr-defined]
    np.testing.assert_array_equal(choices.token[choices.taken], ids[plan.item_places + 1])  # type: ignore[attr-defined]
    np.testing.assert_array_equal(choices.choice[choices.taken], np.arange(len(choices.target)))
    assert (np.diff(choices.target) >= 0).all()
    assert (np.diff(choices.choice) >= 0).all()
    alone = [planner.batch([one], [number % 2 == 0])["plan"].items for number, one in enumerate(examples)]  # type: ignore[attr-defined]
    for name in ("place", "token", "log_mass", "has_prior"):
        np.testing.assert_array_equal(getattr(choices, name), np.concatenate([getattr(one, name) for one in alone]))


def test_a_list_teaches_every_item_from_the_second_on(catalog: Catalog, engine: FakeEngine) -> None:
    mixed = mixture(catalog, engine, {"list": TrainingTask(("next_item_list",), 1.0, 6)})
    for number in range(20):
        example = mixed[number]
        user = example.targets[0].query.user_id
        whole = taken(catalog)[str(user)].items
        assert 1 <= len(example.targets) <= 5
        for target in example.targets:
            past = target.query.history
            assert whole[: len(past)] == past
            assert catalog[target.item] == whole[len(past)]


def test_a_list_of_ratings_teaches_each_as_serving_asks_for_it(catalog: Catalog, engine: FakeEngine) -> None:
    mixed = mixture(catalog, engine, {"rates": TrainingTask(("rate_list",), 1.0, 6)})
    shorter = 0
    for number in range(20):
        example = mixed[number]
        user = str(example.targets[0].query.user_id)
        items, ratings = taken(catalog)[user]
        assert 2 <= len(example.targets) <= 7
        first = len(example.targets[0].query.history)
        shorter += first > 0
        for place, target in enumerate(example.targets):
            at = first + place
            assert (target.query.history, target.query.ratings) == (items[:at], (ratings or ())[:at])
            served = mixed.recommender.with_prompt("rate_list").configured(max_history=place)
            shown = {"item": views(catalog, items[at : at + 1])[0], "labels": mixed.labels}
            assert example.input_ids[: target.start] == served.parts.prompt("rate", target.query, **shown).token_ids
            (line,) = spell_lines(engine, [f"{(ratings or ())[at]:g}"])
            assert (example.input_ids[target.start : target.end], target.item) == (line, -1)
    assert shorter


def test_nothing_that_was_held_out_is_in_any_text(catalog: Catalog) -> None:
    """The items of each user are the user's own, so one that is held out can only come from a leak."""
    engine = FakeEngine()
    histories = taken(catalog, users=15)
    known = {user: History(items[:-2], None) for user, (items, _) in histories.items() if len(items) > 3}
    secret = {
        user: {catalog.labels[catalog.index(item)] for item in items[-2:]}
        for user, (items, _) in histories.items()
        if user in known
    }
    mixed = Mixture(Recommender(catalog, engine), known, {name: TASKS[name] for name in ("list", "next")})
    for number in range(200):
        example = mixed[number]
        text = bytes(token for token in example.input_ids if token < 256).decode()
        lines = {line.removeprefix("- ") for line in text.split("\n")}
        assert not lines & secret[str(example.targets[0].query.user_id)]


def test_items_that_nobody_took_are_learned_from_wishes(catalog: Catalog) -> None:
    mixed = mixture(catalog, FakeEngine(), {"wish": TASKS["wish"]})
    found = {mixed[number].targets[0].item for number in range(300)}
    untouched = set(range(sum(range(13)), len(catalog)))
    assert found & untouched
    assert {mixed[number].fold for number in range(9)} == {-1}


def test_what_the_catalog_shows_is_learned_from_titles_and_never_stands_in_the_prompt(
    catalog: Catalog, engine: FakeEngine
) -> None:
    """Serving would ask with the title, and the answer is what stands beside it in a list of candidates."""
    mixed = mixture(catalog, engine, {"describe": TASKS["describe"]})
    shown: dict[tuple[int, ...], set[tuple[int, ...]]] = {}  # two items may have one title
    untouched = set()
    for number, view in enumerate(views(catalog, catalog)):
        asked = mixed.recommender.messages(Query(), prompt="describe", item=ItemView(view.title, "not to be seen"))
        prompt = tuple(engine.tokenize(asked.messages))
        shown.setdefault(prompt, set()).update(engine.spell([view.details]))
        if number >= sum(range(13)):
            untouched.add(prompt)
    found = set()
    for number in range(200):
        example = mixed[number]
        (target,) = example.targets
        prompt = example.input_ids[: target.start]
        assert example.input_ids[target.start :] in shown[prompt]
        assert (target.end, target.item, target.query, example.fold) == (len(example.input_ids), -1, Query(), -1)
        found.add(prompt)
    assert found & untouched
    with pytest.raises(ConfigError, match=r"'describe' needs something to say .* this catalog shows no attribute"):
        mixture(Catalog(catalog, label=catalog.label_format), engine, {"describe": TASKS["describe"]})
    with pytest.raises(ConfigError, match="this catalog shows only smell, which no item has"):
        mixture(Catalog(catalog, shown=["smell"]), engine, {"describe": TASKS["describe"]})


def test_candidates_hold_the_taken_item_and_none_of_the_history(catalog: Catalog) -> None:
    mixed = mixture(catalog, FakeEngine(), {"rank": TASKS["rank"]}, candidates=4, likely=[flat_popularity(catalog)])
    example = mixed[3]
    text = bytes(token for token in example.input_ids if token < 256).decode()
    offered = [line[2:].partition(": ")[0] for line in text.partition("Candidates:")[2].split("\n") if line[:2] == "- "]
    assert len(offered) == 4
    assert catalog.labels[example.targets[0].item] in offered
    assert not {catalog.label(item) for item in example.targets[0].query.history} & set(offered)


def flat_popularity(catalog: Catalog) -> Popularity:
    import polars as pl

    rows = [{"user_id": "a", "item_id": item.id, "timestamp": 1.0} for item in catalog]
    return Popularity.fit(pl.DataFrame(rows), catalog)


def test_dropout_leaves_items_out_of_prompts_and_not_out_of_what_is_known(catalog: Catalog) -> None:
    engine = FakeEngine()
    whole = mixture(catalog, engine, {"next": TrainingTask(("next_item",), 1.0, 8)})
    thinned = mixture(catalog, engine, {"next": TrainingTask(("next_item",), 1.0, 8)}, dropout=0.9)
    pairs = [(whole[number], thinned[number]) for number in range(40)]
    assert [a.targets[0].item for a, _ in pairs] == [b.targets[0].item for _, b in pairs]
    assert [a.targets[0].query for a, _ in pairs] == [b.targets[0].query for _, b in pairs]
    assert np.mean([len(b.input_ids) < len(a.input_ids) for a, b in pairs]) > 0.3


def test_dropout_leaves_items_out_of_lists_and_asks_for_the_others(catalog: Catalog) -> None:
    engine = FakeEngine()
    task = {"list": TrainingTask(("next_item_list",), 1.0, 6)}
    whole, thinned = mixture(catalog, engine, task), mixture(catalog, engine, task, dropout=0.4)
    gaps = 0
    for number in range(60):
        example = thinned[number]
        items = taken(catalog)[str(example.targets[0].query.user_id)].items
        asked = [len(target.query.history) for target in example.targets]
        assert asked == sorted(set(asked))
        assert [target.item for target in example.targets] == [catalog.index(items[place]) for place in asked]
        titles = lines_of(example)[-len(asked) - 1 : -1]  # the last line is empty
        assert titles == [sanitize(catalog.label(items[place])) for place in asked]
        gaps += asked != list(range(asked[0], asked[0] + len(asked)))
    assert 10 < gaps < 40  # half of them, and of the shortest ones few have a gap
    for example in (whole[number] for number in range(30)):
        asked = [len(target.query.history) for target in example.targets]
        assert asked == list(range(asked[0], asked[0] + len(asked)))


def lines_of(example: Example) -> list[str]:
    return bytes(token for token in example.input_ids if token < 256).decode().split("\n")


def test_order_noise_moves_items_of_prompts_and_of_nothing_else(catalog: Catalog) -> None:
    engine = FakeEngine()
    task = {"next": TrainingTask(("next_item",), 1.0, 8)}
    whole, noisy = mixture(catalog, engine, task), mixture(catalog, engine, task, order_noise=0.5)
    moved = 0
    for number in range(40):
        one, other = whole[number], noisy[number]
        assert [(t.item, t.query) for t in one.targets] == [(t.item, t.query) for t in other.targets]
        shown, mixed = ([line for line in lines_of(text) if line.startswith("- ")] for text in (one, other))
        assert len(mixed) == len(set(mixed)) == len(shown)
        assert set(mixed) <= {f"- {catalog.label(item)}" for item in other.targets[0].query.history}
        moved += one.input_ids != other.input_ids
    assert 8 < moved < 30  # of 40, half with noise, of which the shortest have nothing to move
    abc = catalog[:3]
    assert _disturbed(abc, [False, False, True]) == abc
    assert _disturbed(abc, [True, False, False]) == (abc[1], abc[0], abc[2])
    assert _disturbed(abc, [True, True, False]) == (abc[1], abc[2], abc[0])
    assert _disturbed((), []) == ()


def test_what_cannot_be_learned_is_refused(catalog: Catalog, tmp_path: Path) -> None:
    engine = FakeEngine()
    with pytest.raises(ConfigError, match=r"no task is called 'nxt'; there are list"):
        mixture(catalog, engine, {"nxt": TrainingTask(("next_item",))})
    with pytest.raises(ConfigError, match=r"needs a prompt for next_item that continues its answer"):
        mixture(catalog, engine, {"list": TrainingTask(("next_item",))})
    with pytest.raises(ConfigError, match=r"none of 1 users took 2 items"):
        Mixture(Recommender(catalog, engine), {"a": History((catalog[0],), None)}, {"next": TASKS["next"]})
    for name in ("rate", "rates"):
        with pytest.raises(ConfigError, match=f"the task '{name}' needs ratings"):
            Mixture(Recommender(catalog, engine), {"a": History((catalog[0], catalog[1]), None)}, {name: TASKS[name]})
    with pytest.raises(ConfigError, match=r"'rates' needs a prompt for rate that continues its answer"):
        mixture(catalog, engine, {"rates": TASKS["rate"]})
    (tmp_path / "above.jinja").write_text(
        "---\nname: above\nversion: 1\ndescription: d\ntask: rate\ncontinues: true\n"
        "variables: [history, item, labels]\n---\n"
        "{% block user %}{{ labels | length }}{% endblock %}"
        "{% block assistant %}{% for one in history %}{{ one.rating or 0 }}\n{{ one.title }}\n{% endfor %}"
        "{{ target }}\n{{ item.title }}{% endblock %}"
    )
    recommender = Recommender(catalog, engine, prompts=PromptLibrary.default(tmp_path))
    with pytest.raises(
        ConfigError, match=r"'above' answers \[.*\], in which the ratings \['1', '2'.* not at their places"
    ):
        _ = Mixture(recommender, taken(catalog), {"rates": TrainingTask(("above",))})[0]
    (tmp_path / "wordy.jinja").write_text(
        "---\nname: wordy\nversion: 1\ndescription: d\ntask: next_item\nvariables: [history]\n---\n"
        "{% block user %}{{ history | length }}{% endblock %}"
        "{% block assistant %}I say {{ target[0].title }}{% endblock %}"
    )
    recommender = Recommender(catalog, engine, prompts=PromptLibrary.default(tmp_path))
    with pytest.raises(ConfigError, match=r"'wordy' answers \['I say .*; the search looks for the lines"):
        _ = Mixture(recommender, taken(catalog), {"next": TrainingTask(("wordy",))})[0]
