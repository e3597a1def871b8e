"""BM25Index: how well each document fits a query, by the words they share."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Literal, NamedTuple, Protocol

import numpy as np
from scipy import sparse

from llmgen.text.normalization import tokens
from llmgen.types import FloatArray, IntArray

Backend = Literal["auto", "rank-bm25", "bm25s"]

# rank-bm25 walks over all documents for every word: 0.6 ms a query of three words at 1,682 titles, 21.7 ms at 16.9 K,
# where bm25s needs 0.5 ms.
LARGE = 3_000
MERGED = 10_000
"""Words whose frequencies have changed before all are counted together again."""
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
        self._mean_length = sum(map(len, corpus)) / len(corpus)
        self._later: list[Counter[str]] = []
        self._model: _Model | None = None  # no document has a word
        if self._frequencies:
            make = _RankBM25 if self.backend == "rank-bm25" else _BM25S.of
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
        corpus = list(map(self._corpus.__getitem__, places.tolist()))
        for place, document in zip(np.flatnonzero(places < 0).tolist(), documents, strict=True):
            corpus[place] = self._tokenise(document)
        made = copy(self)
        large = self._wanted == "bm25s" or (self._wanted == "auto" and len(corpus) >= LARGE)
        if not (large and isinstance(self._model, _BM25S) and any(corpus)):
            made._fit(corpus)
            return made
        places[places >= self._size] = -1  # what came later stands in no model yet
        words = [corpus[place] for place in np.flatnonzero(places < 0)]
        made._corpus, made._later, made._size = corpus, [], len(corpus)
        made._model = self._model.changed(places, words)
        made._mean_length = sum(map(len, corpus)) / len(corpus)
        gone = np.delete(np.arange(self._size), places[places >= 0]).tolist()
        made._more = self._more.copy()
        made._more.update(word for document in words for word in set(document))
        made._more.subtract(word for place in gone for word in set(self._corpus[place]))
        if len(made._more) > MERGED:
            made._frequencies = self._frequencies + made._more  # without those of no document
            made._more = Counter()
        return made

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


class _Model(Protocol):
    def scores(self, words: list[str]) -> FloatArray: ...
    def sparse_scores(self, words: list[str]) -> tuple[IntArray, FloatArray]: ...


class _Counts(NamedTuple):
    """How often words stand in documents, int64 [n_pairs] each, by word and then by document."""

    word: IntArray
    document: IntArray
    times: IntArray


class _RankBM25:
    def __init__(self, corpus: list[list[str]], *, k1: float, b: float) -> None:
        from rank_bm25 import BM25Plus

        self._bm25 = BM25Plus(corpus, k1=k1, b=b, delta=0)

    def scores(self, words: list[str]) -> FloatArray:
        # With b = 1 a blank document is 0 / 0 there; it has no word of the query.
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(np.asarray(self._bm25.get_scores(words), dtype=np.float64))

    def sparse_scores(self, words: list[str]) -> tuple[IntArray, FloatArray]:
        scores = self.scores(words)
        found = np.flatnonzero(scores)
        return found, scores[found]


class _BM25S:
    """An index of bm25s, whose scores are counted here from how often words stand in documents.

    bm25s counts them document by document; from these arrays it takes a tenth of the time, and an index in which a few
    documents changed is made of them without looking at the others.

    Args:
        counts: See `_Counts`.
        vocabulary: The number of each word.
        lengths: int64 [n_documents], words of each document.
        k1: See `BM25Index`.
        b: See `BM25Index`.
    """

    def __init__(self, counts: _Counts, vocabulary: dict[str, int], lengths: IntArray, *, k1: float, b: float) -> None:
        from bm25s import BM25

        # bm25s sets its logger to DEBUG, and would write a line an index to whatever handlers the caller has.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        # float32, its default, would differ from rank-bm25 in the seventh digit and reorder near ties.
        self._bm25 = BM25(k1=k1, b=b, method="atire", idf_method="bm25+", dtype="float64", backend="numpy")
        self._counts, self._lengths = counts, lengths
        frequency = np.bincount(counts.word, minlength=len(vocabulary))
        found, which = np.unique(np.maximum(frequency, 1), return_inverse=True)
        rarity = np.array([log((len(lengths) + 1) / df) for df in found.tolist()])[which]
        length = k1 * (1 - b + b * lengths / lengths.mean())
        data = rarity[counts.word] * (counts.times * (k1 + 1) / (counts.times + length[counts.document]))
        self._bm25.scores = {
            "data": data,
            "indices": counts.document.astype(np.int32),
            "indptr": np.append(0, frequency.cumsum()),
            "num_docs": len(lengths),
        }
        self._bm25.vocab_dict = vocabulary
        self._bm25.unique_token_ids_set = set(vocabulary.values())
        self._bm25.nonoccurrence_array = None

    @classmethod
    def of(cls, corpus: list[list[str]], *, k1: float, b: float) -> _BM25S:
        """The index of some documents."""
        vocabulary: dict[str, int] = {}
        lengths = np.fromiter(map(len, corpus), np.int64, len(corpus))
        numbers = (vocabulary.setdefault(word, len(vocabulary)) for words in corpus for word in words)
        key = np.fromiter(numbers, np.int64, int(lengths.sum())) * len(corpus) + np.arange(len(corpus)).repeat(lengths)
        key, times = np.unique(key, return_counts=True)
        word, document = np.divmod(key, len(corpus))
        return cls(_Counts(word, document, times), vocabulary, lengths, k1=k1, b=b)

    def changed(self, before: IntArray, new: Sequence[list[str]]) -> _BM25S:
        """The index of some of these documents and new ones, equal to one that is made of all.

        Args:
            before: Of each document its position here; -1 for a new one.
            new: The words of the new ones, in their order.
        """
        old, kept = self._counts, np.flatnonzero(before >= 0)
        after = np.full(len(self._lengths), -1)
        after[before[kept]] = kept
        document = after[old.document]
        stays = document >= 0
        vocabulary = self._bm25.vocab_dict
        if any(word not in vocabulary for words in new for word in words):
            vocabulary = dict(vocabulary)
        added = [
            (vocabulary.setdefault(word, len(vocabulary)), place, times)
            for place, words in zip(np.flatnonzero(before < 0).tolist(), new, strict=True)
            for word, times in Counter(words).items()
        ]
        more = np.array(added, np.int64).reshape(-1, 3)
        counts = _Counts(
            np.append(old.word[stays], more[:, 0]),
            np.append(document[stays], more[:, 1]),
            np.append(old.times[stays], more[:, 2]),
        )
        order = np.argsort(counts.word * len(before) + counts.document, kind="stable")  # nearly in order: quick
        lengths = np.empty(len(before), np.int64)
        lengths[kept] = self._lengths[before[kept]]
        lengths[before < 0] = [len(words) for words in new]
        counts = _Counts(*(part[order] for part in counts))
        return _BM25S(counts, vocabulary, lengths, k1=self._bm25.k1, b=self._bm25.b)

    def scores(self, words: list[str]) -> FloatArray:
        return np.asarray(self._bm25.get_scores(words), dtype=np.float64)

    def sparse_scores(self, words: list[str]) -> tuple[IntArray, FloatArray]:
        counts = Counter(self._bm25.vocab_dict[word] for word in words)
        found = sparse.csr_array(([*counts.values()], ([0] * len(counts), [*counts])), (1, self._by_word.shape[0]))
        product = found @ self._by_word
        product.sort_indices()
        return product.indices.astype(np.int64), product.data

    @cached_property
    def _by_word(self) -> sparse.csr_array:
        """[n_words, n_documents], what each word adds to the score of each document: the index itself."""
        parts = self._bm25.scores
        shape = (len(parts["indptr"]) - 1, parts["num_docs"])
        return sparse.csr_array((parts["data"], parts["indices"], parts["indptr"]), shape=shape)
