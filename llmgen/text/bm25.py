"""BM25Index: how well each document fits a query, by the words they share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from math import log
from typing import Literal

import numpy as np

from llmgen.text.bm25_models import BM25S, Changed, Model, RankBM25
from llmgen.text.normalization import tokens
from llmgen.types import FloatArray, IntArray

Backend = Literal["auto", "rank-bm25", "bm25s"]

# rank-bm25 walks over all documents for every word: 0.6 ms a query of three words at 1,682 titles, 21.7 ms at 16.9 K,
# where bm25s needs 0.5 ms.
LARGE = 3_000
MERGED = 10_000
"""Words whose frequencies have changed before all are counted together again."""
FEW = 100
"""Changes of a list that are made one by one."""
NONE: IntArray = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """Position of a document and its score."""

    index: int
    score: float


class BM25Index:
    """BM25 scores of documents, of which one a position.

    Both backends compute the same numbers, the form on which they agree: term frequency of ATIRE,
    `tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))`, and the inverse document frequency of BM25+,
    `log((n + 1) / df)`, which is positive even for a word of every document (Okapi's turns negative above half of
    them). Source: Trotman et al., Improvements to BM25 and Language Models
    Examined, ADCS 2014, as both packages implement it.

    Args:
        documents: At least one; may be blank.
        k1: Saturation of repeated words, more than 0.
        b: Weight of the document's length, in [0, 1].
        backend: `rank-bm25`, `bm25s`, or `auto`: the former below 3,000 documents.
        tokenise: Text -> tokens, for documents and queries alike.

    Raises:
        ValueError: No documents, k1 or b out of range, or an unknown backend.

    >>> index = BM25Index(["Toy Story", "Toy Soldiers", "Heat"])
    >>> [match.index for match in index.top("toy story", k=3)]
    [0, 1]
    """

    def __init__(
        self,
        documents: Sequence[str],
        *,
        k1: float = 1.5,
        b: float = 0.75,
        backend: Backend = "auto",
        tokenise: Callable[[str], list[str]] = tokens,
    ) -> None:
        if not documents:
            raise ValueError("BM25 needs at least one document, and got none")
        if not 0 < k1 < float("inf"):
            raise ValueError(f"k1 must be more than 0 and finite, not {k1}")
        if not 0 <= b <= 1:
            raise ValueError(f"b must be in [0, 1], not {b}")
        if backend not in ("auto", "rank-bm25", "bm25s"):
            raise ValueError(f"backend must be 'auto', 'rank-bm25' or 'bm25s', not {backend!r}")
        self._wanted: Backend = backend
        self._tokenise = tokenise
        self._k1, self._b = k1, b
        self._fit([tokenise(document) for document in documents])

    def _fit(self, corpus: list[list[str]]) -> None:
        """Count the words of documents, and keep them, each word once in memory."""
        known: dict[str, str] = {}
        self._corpus = [[known.setdefault(word, word) for word in words] for words in corpus]
        self.backend: Backend = self._wanted
        if self._wanted == "auto":
            self.backend = "rank-bm25" if len(corpus) < LARGE else "bm25s"
        self._size = len(corpus)
        self._frequencies = Counter(word for words in corpus for word in set(words))
        self._more: Counter[str] = Counter()  # or fewer: what changed since these were counted
        self._total_length = sum(map(len, corpus))
        self._mean_length = self._total_length / len(corpus)
        self._later: list[Counter[str]] = []
        self._model: Model | None = None  # no document has a word
        if self._frequencies:
            make = RankBM25 if self.backend == "rank-bm25" else BM25S.of
            self._model = make(self._corpus, k1=self._k1, b=self._b)

    def __len__(self) -> int:
        return self._size + len(self._later)

    def with_documents(self, documents: Sequence[str]) -> BM25Index:
        """The same index with a few documents more, at the end; costs nothing that grows with those that are there.

        Frequencies of the words that the index knows, and the mean length, stay those of the documents that it was made
        of. A query looks at the later documents one by one: with more than a few hundred of them, make it anew.
        """
        made = copy(self)
        corpus = [self._tokenise(document) for document in documents]
        made._later = [*self._later, *map(Counter, corpus)]
        made._corpus = [*self._corpus, *corpus]
        return made

    def changed(self, before: Sequence[int] | IntArray, documents: Sequence[str]) -> BM25Index:
        """The index that would be made of some of these documents and new ones; only the new ones are read.

        Args:
            before: Of each document of the new index its position in this one; -1 for a new one.
            documents: The new ones, in their order.
        """
        places = np.array(before, np.int64)
        gone, new = np.delete(np.arange(len(self)), places[places >= 0]).tolist(), np.flatnonzero(places < 0).tolist()
        read = list(map(self._tokenise, documents))
        corpus = self._followed(places, gone, dict(zip(new, read, strict=True)))
        made = copy(self)
        large = self._wanted == "bm25s" or (self._wanted == "auto" and len(corpus) >= LARGE)
        total = self._total_length + sum(map(len, read)) - sum(len(self._corpus[place]) for place in gone)
        total += sum(document.total() for document in self._later)
        if not (large and isinstance(self._model, BM25S | Changed) and total):
            made._fit(corpus)
            return made
        places[places >= self._size] = -1  # what came later stands in no model yet
        words = [corpus[place] for place in np.flatnonzero(places < 0)]
        made._corpus, made._later, made._size = corpus, [], len(corpus)
        made._model = Changed.of(self._model, places, words, k1=self._k1, b=self._b)
        made._total_length, made._mean_length = total, total / len(corpus)
        gone = [place for place in gone if place < self._size]
        made._more = self._more.copy()
        made._more.update(word for document in words for word in set(document))
        made._more.subtract(word for place in gone for word in set(self._corpus[place]))
        if len(made._more) > MERGED:
            made._frequencies = self._frequencies + made._more  # without those of no document
            made._more = Counter()
        return made

    def _followed(self, before: IntArray, gone: list[int], new: dict[int, list[str]]) -> list[list[str]]:
        """The words of the documents after a change: the same list without some, and with others put in."""
        kept = before[before >= 0]
        if len(gone) + len(new) > FEW or (np.diff(kept) <= 0).any():
            corpus = list(map(self._corpus.__getitem__, before.tolist()))
            for place, words in new.items():
                corpus[place] = words
            return corpus
        corpus = self._corpus.copy()
        for place in reversed(gone):
            del corpus[place]
        for place, words in new.items():
            corpus.insert(place, words)
        return corpus

    @property
    def num_later(self) -> int:
        """How many documents came by `with_documents`."""
        return len(self._later)

    def scores(self, query: str) -> FloatArray:
        """Score of every document.

        Args:
            query: Any text; a repeated word counts as often as it stands there.

        Returns:
            float64 [n_documents], 0 or more; exactly 0 where no word is shared, so all 0 for an empty query.
        """
        asked = self._tokenise(query)
        words = [word for word in asked if self._frequency(word)]
        first = np.zeros(self._size) if self._model is None or not words else self._model.scores(words)
        if not self._later:
            return first
        return np.append(first, [self._score(Counter(asked), document) for document in self._later])

    def sparse_scores(self, query: str) -> tuple[IntArray, FloatArray]:
        """The documents that share a word with a query, and their scores; see `scores`.

        In a large index it costs what the query's words have documents, and nothing that grows with all of them.

        Returns:
            int64, positions, rising; float64, above 0.
        """
        asked = self._tokenise(query)
        words = [word for word in asked if self._frequency(word)]
        documents, scores = (
            (NONE, np.zeros(0)) if self._model is None or not words else self._model.sparse_scores(words)
        )
        for position, document in enumerate(self._later, start=self._size):
            if (score := self._score(Counter(asked), document)) > 0:
                documents, scores = np.append(documents, position), np.append(scores, score)
        return documents, scores

    def top(self, query: str, k: int) -> list[ScoredDocument]:
        """The k best documents, best first, equal scores by position; fewer if fewer share a word.

        Raises:
            ValueError: If k < 1.
        """
        return top_of(self.scores(query), k)

    def best_possible(self, text: str) -> float:
        """Score that a document saying exactly `text` would get for the query `text`.

        A word of no document weighs as much as one of a single document. 0 for a text without words.
        """
        words = Counter(self._tokenise(text))
        return self._score(words, words)

    def _frequency(self, word: str) -> int:
        """In how many documents a word stands, later ones not counted."""
        return self._frequencies[word] + self._more[word]

    def _score(self, query: Counter[str], document: Counter[str]) -> float:
        """Score of a document, from how often words stand in it and in the query."""
        if not document or not self._mean_length:
            return 0.0
        length = self._k1 * (1 - self._b + self._b * document.total() / self._mean_length)
        return sum(
            asked
            * log((self._size + 1) / max(1, self._frequency(word)))
            * (document[word] * (self._k1 + 1) / (document[word] + length))
            for word, asked in query.items()
            if word in document
        )


def top_of(scores: FloatArray, k: int) -> list[ScoredDocument]:
    """The k highest scores above 0, best first, equal scores by position.

    Raises:
        ValueError: If k < 1.
    """
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k}")
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        worst = -np.partition(-scores[found], k - 1)[k - 1]
        found = found[scores[found] >= worst]
    order = found[np.argsort(-scores[found], kind="stable")][:k]
    return [ScoredDocument(int(i), float(scores[i])) for i in order]
