"""Lists: what is scored, and what is learned from, are tokens that the text of the list has, whatever the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers", reason="needs llmgen[hf]")

from llmgen.catalog.core import Catalog
from llmgen.engines import line_break, spell_lines
from llmgen.engines.chat import ChatTokenizer
from llmgen.engines.fake import FakeEngine
from llmgen.recommend.index import CatalogIndex
from llmgen.recommend.recommender import Recommender
from llmgen.types import FloatArray, Item, Message, Query
from tests.engines.tokenizers import joining, sentencepiece
from tests.trie.test_growth import assert_equal

TITLES = ["Alien (1979)", "Heat", "A) B", "Brazil (1985)", "A)", "5", "What (now)?", "Alien", "It's..."]
FILMS = Catalog([Item(f"f{number}", title) for number, title in enumerate(TITLES)], noun="film")
ASKED = (Message("user", "Films?"),)


class Chat(FakeEngine):
    """A real tokenizer, and made-up probabilities."""

    def __init__(self, tokenizer: Any, **settings: Any) -> None:
        super().__init__(**settings)
        chat = ChatTokenizer(tokenizer)
        self.chat, self.joins, self.tokenizer_digest = chat, chat.joins, chat.digest
        self.tokenize, self.spell, self.spell_lines = chat.tokenize, chat.spell, chat.spell_lines  # type: ignore[method-assign]
        self.control_tokens = chat.control_tokens


def ids_of(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture
def llama3(tiny_model: Path) -> Any:
    return joining(tiny_model)


def test_the_tokenizers_join_and_others_do_not(llama3: Any, tiny_model: Path) -> None:
    assert llama3.convert_ids_to_tokens(ids_of(llama3, "x)\nx"))[1] == ")Ċ"
    assert ChatTokenizer(llama3).joins
    assert ChatTokenizer(sentencepiece("legacy", joins=True)).joins
    assert not ChatTokenizer.load(str(tiny_model)).joins
    assert not ChatTokenizer(sentencepiece("legacy")).joins


@pytest.mark.parametrize("kind", ["llama3", "legacy", "first"])
def test_lines_are_the_tokens_of_their_text(llama3: Any, kind: str) -> None:
    """SentencePiece puts a space before each line, for it puts one before every text."""
    tokenizer = llama3 if kind == "llama3" else sentencepiece(kind, joins=True)
    chat, space = ChatTokenizer(tokenizer), "" if kind == "llama3" else " "
    text = "".join(f"\n{space}{title}" for title in TITLES).removeprefix(f"\n{space}") + "\n"
    assert chat.lines(TITLES) == ids_of(tokenizer, text)
    begun = chat.tokenize((*ASKED, Message("assistant", "\n".join(TITLES))))
    assert begun == (*chat.tokenize(ASKED), *ids_of(tokenizer, text))


@pytest.mark.parametrize("kind", ["llama3", "legacy", "first"])
def test_paths_behind_a_list_are_lines_and_behind_a_question_answers(llama3: Any, kind: str) -> None:
    engine = Chat(llama3 if kind == "llama3" else sentencepiece(kind, joins=True))
    index = CatalogIndex(FILMS, engine)
    lines, answers = index.trie_of(continues=True), index.trie
    for place, title in enumerate(TITLES):
        assert answers.path(place) == (*ids_of(engine.chat.tokenizer, title), engine.chat.end)
        assert lines.path(place) == ids_of(engine.chat.tokenizer, f"{title}\n")
    (joined,) = ids_of(engine.chat.tokenizer, "x)\n")[-1:]
    assert lines.path(0)[-1] == joined
    assert joined not in answers.path(0)


def test_without_a_joined_sign_there_is_one_trie(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    engine = Chat(AutoTokenizer.from_pretrained(tiny_model))
    index = CatalogIndex(FILMS, engine)
    assert index.trie_of(continues=True) is index.trie
    for line, path in zip(spell_lines(engine, TITLES), engine.spell(TITLES), strict=True):
        assert line == (*path[:-1], *line_break(engine))


def test_both_tries_follow_a_catalog_that_changes(llama3: Any) -> None:
    made = Recommender(FILMS, Chat(llama3), prompt="next_item_list")
    made.prepare()
    _ = made.trie
    for change in (
        lambda catalog: catalog.with_items([Item("n", "New (2026)"), Item("o", "A) B C")]),
        lambda catalog: catalog.without(["f0", "n"]),
        lambda catalog: catalog.with_items([Item("f1", "Cold (!)")]),
    ):
        made = made.with_catalog(change(made.catalog))
        anew = CatalogIndex(made.catalog, made.engine)
        for continues in (False, True):
            assert made.parts.index.has_trie(continues=continues)
            assert_equal(made.parts.index.trie_of(continues=continues), anew.trie_of(continues=continues))


def test_a_title_that_ends_where_another_goes_on_is_told_by_the_joined_token(llama3: Any) -> None:
    """After `A` the text goes on with `)` for the one and with `)` and a line break in one token for the other."""
    (goes_on,) = ids_of(llama3, ")")
    (ends,) = ids_of(llama3, "x)\n")[1:]

    def logits(prompt: tuple[int, ...], suffix: tuple[int, ...]) -> FloatArray:
        says = np.zeros(len(llama3))
        if suffix == ids_of(llama3, "A"):
            says[[goes_on, ends]] = 1.0, 3.0
        return says

    catalog = Catalog([Item("long", "A) B"), Item("short", "A)")])
    made = Recommender(catalog, Chat(llama3, logits=logits), prompt="next_item_list")
    share = math.exp(3) / (math.exp(3) + math.exp(1))
    assert [(place.item.id, place.probability) for place in made.recommend(Query(k=2))] == [
        ("short", pytest.approx(share)),
        ("long", pytest.approx(1 - share)),
    ]
    alone = made.with_prompt("next_item").recommend(Query(k=2))  # there both begin with `)`, and an end follows or not
    assert [place.probability for place in alone] == pytest.approx([0.5, 0.5])


def test_the_score_of_an_item_is_the_models_probability_of_the_text(llama3: Any, tiny_model: Path) -> None:
    """By a model of transformers, asked for the whole text: prompt, list so far, and the item with its line break."""
    torch = pytest.importorskip("torch", reason="needs llmgen[hf]")
    from transformers import AutoModelForCausalLM

    from llmgen.engines.hf import HFEngine

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(len(llama3), mean_resizing=False)
    engine = HFEngine(model, llama3)
    recommender = Recommender(FILMS, engine, prompt="next_item_list", decoding="raw", exact=True)
    query = Query(history=[FILMS["f3"], FILMS["f0"]], k=5)
    messages = recommender.messages(query).messages
    asked, begun = engine.tokenize(messages[:-1]), messages[-1].content
    assert begun == "Brazil (1985)\nAlien (1979)"

    def log_probability(title: str) -> float:
        before = (*asked, *ids_of(llama3, f"{begun}\n"))
        ids = (*asked, *ids_of(llama3, f"{begun}\n{title}\n"))
        assert ids[: len(before)] == before
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        return sum(float(logprobs[place - 1, ids[place]]) for place in range(len(before), len(ids)))

    answer = recommender.recommend(query)
    assert len(answer) == 5
    for place in answer:
        assert place.terms["lm"] == pytest.approx(log_probability(place.item.title), abs=1e-4)
    assert engine.tokenizer_digest != HFEngine(model, _plain(tiny_model)).tokenizer_digest


def _plain(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_an_engine_of_others_that_says_nothing_of_lines_is_asked_as_before() -> None:
    engine = FakeEngine()

    def lines(texts: Sequence[str]) -> list[tuple[int, ...]]:
        return [tuple(f"{text}\n".encode()) for text in texts]

    assert spell_lines(engine, TITLES) == lines(TITLES)
