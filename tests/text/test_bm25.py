from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmgen.text import bm25 as bm25_module
from llmgen.text import bm25_models
from llmgen.text.bm25 import LARGE, BM25Index, ScoredDocument, top_of
from llmgen.text.normalization import tokens

BACKENDS: tuple[Literal["rank-bm25", "bm25s"], ...] = ("rank-bm25", "bm25s")
WORDS = st.lists(st.sampled_from(["toy", "story", "heat", "2", "黑客", "Alien", ""]), max_size=6).map(" ".join)


def reference(documents: Sequence[str], query: str, k1: float, b: float) -> list[float]:
    """BM25 from its definition, a document and a word at a time."""
    corpus = [tokens(document) for document in documents]
    mean_length = sum(len(words) for words in corpus) / len(corpus)
    scores = []
    for words in corpus:
        score = 0.0
        for word in tokens(query):
            frequency = words.count(word)
            if frequency:
                holding = sum(word in other for other in corpus)
                norm = k1 * (1 - b + b * len(words) / mean_length)
                score += math.log((len(corpus) + 1) / holding) * frequency * (k1 + 1) / (frequency + norm)
        scores.append(score)
    return scores


@pytest.mark.parametrize("backend", BACKENDS)
@settings(deadline=None)  # the first call imports bm25s
@given(
    documents=st.lists(WORDS, min_size=1, max_size=8),
    query=WORDS,
    k1=st.sampled_from([0.1, 1.2, 1.5]),
    b=st.sampled_from([0.0, 0.75, 1.0]),
)
def test_scores_equal_the_definition(
    backend: Literal["rank-bm25", "bm25s"], documents: list[str], query: str, k1: float, b: float
) -> None:
    index = BM25Index(documents, k1=k1, b=b, backend=backend)
    np.testing.assert_allclose(index.scores(query), reference(documents, query, k1, b), rtol=1e-9, atol=1e-12)


@settings(deadline=None)
@given(documents=st.lists(WORDS, min_size=1, max_size=12), query=WORDS)
def test_both_backends_score_and_rank_alike(documents: list[str], query: str) -> None:
    one, other = (BM25Index(documents, backend=backend) for backend in BACKENDS)
    np.testing.assert_allclose(one.scores(query), other.scores(query), rtol=1e-9)
    assert np.array_equal(one.scores(query) == 0, other.scores(query) == 0)


def test_one_word_in_one_of_two_documents_of_mean_length() -> None:
    index = BM25Index(["heat", "alien"], k1=1.5, b=0.75)
    # tf = 1, length = mean length: 1 * 2.5 / (1 + 1.5) = 1, times log(3 / 1)
    assert index.scores("heat").tolist() == pytest.approx([math.log(3), 0.0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_word_of_every_document_still_counts_for_something(backend: Literal["rank-bm25", "bm25s"]) -> None:
    assert (BM25Index(["star wars", "star trek", "star"], backend=backend).scores("star") > 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("query", ["", "   ", "unseen words only", "\U0001f600"])
def test_nothing_shared_scores_exactly_zero(backend: Literal["rank-bm25", "bm25s"], query: str) -> None:
    index = BM25Index(["Toy Story", "Heat"], backend=backend)
    assert index.scores(query).tolist() == [0.0, 0.0]
    assert index.scores(query).dtype == np.float64
    assert index.top(query, k=2) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_blank_documents_never_match(backend: Literal["rank-bm25", "bm25s"]) -> None:
    assert BM25Index(["", "heat", " "], backend=backend).scores("heat").tolist()[::2] == [0.0, 0.0]
    blank = BM25Index(["", " "], backend=backend)
    assert blank.scores("heat").tolist() == [0.0, 0.0]
    assert blank.best_possible("heat") == 0.0


def test_top_is_best_first_and_ties_go_by_position() -> None:
    index = BM25Index(["heat", "alien", "heat", "heat", "heat alien"])
    assert [place.index for place in index.top("heat", k=2)] == [0, 2]
    assert [place.index for place in index.top("heat", k=9)] == [0, 2, 3, 4]
    assert [place.index for place in BM25Index(["heat", "alien", "heat alien"], b=0).top("heat alien", k=1)] == [2]


@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5]), max_size=20), st.integers(1, 25))
def test_top_of_equals_a_sort(scores: list[float], k: int) -> None:
    wanted = sorted(((-score, place) for place, score in enumerate(scores) if score > 0))[:k]
    assert top_of(np.array(scores), k) == [ScoredDocument(place, -negative) for negative, place in wanted]


def test_best_possible_is_the_score_of_the_same_text() -> None:
    documents = ["toy story", "heat", "star wars star trek"]
    index = BM25Index(documents)
    for place, document in enumerate(documents):
        assert index.best_possible(document) == pytest.approx(index.scores(document)[place])
    assert index.best_possible("") == 0.0
    assert index.best_possible("unseen") == pytest.approx(index.best_possible("heat"))  # as rare as a word of one


def test_another_tokeniser() -> None:
    index = BM25Index(["abc", "xyz"], tokenise=list)
    assert [place.index for place in index.top("b", k=2)] == [0]


def test_backend_by_size() -> None:
    assert BM25Index(["heat"] * (LARGE - 1)).backend == "rank-bm25"
    large = BM25Index([f"film {i}" for i in range(LARGE)])
    assert large.backend == "bm25s"
    assert large.top("film 17", k=1)[0].index == 17
    assert len(large) == LARGE


def test_a_repeated_word_of_the_query_counts_twice() -> None:
    index = BM25Index(["heat", "alien"])
    assert index.scores("heat heat") == pytest.approx(2 * index.scores("heat"))


def test_no_output_no_warnings_no_log(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    BM25Index([f"film {i}" for i in range(50)], backend="bm25s").top("film 3", k=3)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"k1": 0.0}, "k1"), ({"b": 1.5}, "b must"), ({"k1": float("nan")}, "k1"), ({"backend": "lucene"}, "backend")],
)
def test_wrong_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BM25Index(["heat"], **arguments)  # type: ignore[arg-type]


def test_empty_corpus_and_bad_k_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one document"):
        BM25Index([])
    with pytest.raises(ValueError, match="k must be 1 or more, not 0"):
        BM25Index(["heat"]).top("heat", k=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("query", ["red fox", "fox fox", "nothing here", "", "cat zebra"])
def test_sparse_scores_are_the_scores_above_0(backend: Literal["rank-bm25", "bm25s"], query: str) -> None:
    index = BM25Index(["red fox", "blue fox", "red dog red", "green cat"], backend=backend)
    for one in (index, index.with_documents(["zebra fox", "owl"])):
        documents, scores = one.sparse_scores(query)
        whole = one.scores(query)
        assert documents.tolist() == np.flatnonzero(whole).tolist()
        assert scores == pytest.approx(whole[documents])


TEXTS = st.lists(st.sampled_from(["red", "blue", "fox", "dog", "cat", "owl"]), max_size=5).map(" ".join)


@given(st.lists(TEXTS, min_size=1, max_size=8).filter(any), st.sampled_from([(1.5, 0.75), (0.9, 0.0), (2.0, 1.0)]))
def test_scores_are_those_that_bm25s_counts_itself(documents: list[str], form: tuple[float, float]) -> None:
    from bm25s import BM25

    k1, b = form
    theirs = BM25(k1=k1, b=b, method="atire", idf_method="bm25+", dtype="float64", backend="numpy")
    corpus = [document.split() for document in documents]
    theirs.index(corpus, show_progress=False)
    ours = BM25Index(documents, k1=k1, b=b, backend="bm25s")
    for words in (["red"], ["fox", "fox", "dog"], ["red", "blue", "fox", "dog", "cat", "owl"]):
        known = [word for word in words if any(word in document for document in corpus)]
        expected = theirs.get_scores(known) if known else np.zeros(len(documents))
        np.testing.assert_array_equal(ours.scores(" ".join(words)), expected)


@pytest.mark.parametrize(("backend", "few"), [("rank-bm25", 100), ("bm25s", 100), ("bm25s", 0), ("bm25s", 1)])
@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.lists(TEXTS, max_size=2), st.data())
def test_a_changed_index_is_the_one_that_would_be_made(
    backend: Literal["rank-bm25", "bm25s"], few: int, documents: list[str], later: list[str], data: st.DataObject
) -> None:
    """Counted when it is asked after a few changes, and made anew after many."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MOST_ADDED", "MOST_GONE"):
            patch.setattr(bm25_models, name, few)
        patch.setattr(bm25_module, "FEW", few)
        changed_at_random(backend, documents, later, data)


def changed_at_random(
    backend: Literal["rank-bm25", "bm25s"], documents: list[str], later: list[str], data: st.DataObject
) -> None:
    index = BM25Index(documents, backend=backend).with_documents(later)
    documents = documents + later
    for _ in range(3):
        kept = data.draw(st.lists(st.integers(0, len(documents) - 1), unique=True))
        before = data.draw(st.permutations([*kept, *[-1] * data.draw(st.integers(0 if kept else 1, 2))]))
        new = [data.draw(TEXTS) for place in before if place < 0]
        fill = iter(new)
        documents = [documents[place] if place >= 0 else next(fill) for place in before]
        index = index.changed(before, new)
        anew = BM25Index(documents, backend=backend)
        for query in ("red", "fox fox dog", "red blue fox dog cat owl"):
            np.testing.assert_array_equal(index.scores(query), anew.scores(query))
            (found, scores), (expected, sums) = index.sparse_scores(query), anew.sparse_scores(query)
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_allclose(scores, sums, rtol=1e-12)  # words are added in another order
            assert index.best_possible(query) == anew.best_possible(query)
