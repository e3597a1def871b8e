"""What BM25 counts of documents, by word: of rank-bm25, of bm25s, and of an index of bm25s with a few changes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import log
from typing import NamedTuple, Protocol

import numpy as np
from scipy import sparse

from llmgen.types import FloatArray, IntArray

MOST_ADDED = 500
"""Documents beside an index, before it is made anew with them."""
MOST_GONE = 2_000
"""Documents that an index still counts and that are gone, before it is made anew without them."""


class Model(Protocol):
    """Scores documents; all words are in some of them."""

    def scores(self, words: list[str]) -> FloatArray:
        """Of every document, float64 [n_documents]."""
        ...

    def sparse_scores(self, words: list[str]) -> tuple[IntArray, FloatArray]:
        """Of the documents with any of the words: positions, int64, rising; float64."""
        ...


class Counts(NamedTuple):
    """How often words stand in documents, int64 [n_pairs] each, by word and then by document."""

    word: IntArray
    document: IntArray
    times: IntArray


class RankBM25:
    """rank-bm25's own index."""

    def __init__(self, corpus: list[list[str]], *, k1: float, b: float) -> None:
        from rank_bm25 import BM25Plus

        self._bm25 = BM25Plus(corpus, k1=k1, b=b, delta=0)

    def scores(self, words: list[str]) -> FloatArray:
        """See `Model`."""
        # With b = 1 a blank document is 0 / 0 there; it has no word of the query.
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(np.asarray(self._bm25.get_scores(words), dtype=np.float64))

    def sparse_scores(self, words: list[str]) -> tuple[IntArray, FloatArray]:
        """See `Model`."""
        scores = self.scores(words)
        found = np.flatnonzero(scores)
        return found, scores[found]


class BM25S:
    """An index of bm25s, whose scores are counted here from how often words stand in documents.

    bm25s counts them document by document; from these arrays it takes a tenth of the time, and an index in which a few
    documents changed is made of them without looking at the others.

    Args:
        counts: See `Counts`.
        vocabulary: The number of each word.
        lengths: int64 [n_documents], words of each document.
        k1: See `BM25Index`.
        b: See `BM25Index`.
    """

    def __init__(self, counts: Counts, vocabulary: dict[str, int], lengths: IntArray, *, k1: float, b: float) -> None:
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
    def of(cls, corpus: list[list[str]], *, k1: float, b: float) -> BM25S:
        """The index of some documents."""
        vocabulary: dict[str, int] = {}
        lengths = np.fromiter(map(len, corpus), np.int64, len(corpus))
        numbers = (vocabulary.setdefault(word, len(vocabulary)) for words in corpus for word in words)
        key = np.fromiter(numbers, np.int64, int(lengths.sum())) * len(corpus) + np.arange(len(corpus)).repeat(lengths)
        key, times = np.unique(key, return_counts=True)
        word, document = np.divmod(key, len(corpus))
        return cls(Counts(word, document, times), vocabulary, lengths, k1=k1, b=b)

    def changed(self, before: IntArray, new: Sequence[list[str]]) -> BM25S:
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
        counts = Counts(
            np.append(old.word[stays], more[:, 0]),
            np.append(document[stays], more[:, 1]),
            np.append(old.times[stays], more[:, 2]),
        )
        order = np.argsort(counts.word * len(before) + counts.document, kind="stable")  # nearly in order: quick
        lengths = np.empty(len(before), np.int64)
        lengths[kept] = self._lengths[before[kept]]
        lengths[before < 0] = [len(words) for words in new]
        counts = Counts(*(part[order] for part in counts))
        return BM25S(counts, vocabulary, lengths, k1=self._bm25.k1, b=self._bm25.b)

    def scores(self, words: list[str]) -> FloatArray:
        """See `Model`."""
        return np.asarray(self._bm25.get_scores(words), dtype=np.float64)

    def sparse_scores(self, words: list[str]) -> tuple[IntArray, FloatArray]:
        """See `Model`."""
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

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """The number of each word."""
        numbers: dict[str, int] = self._bm25.vocab_dict
        return numbers

    @property
    def lengths(self) -> IntArray:
        """int64 [n_documents], words of each document."""
        return self._lengths

    def documents_with(self, word: str) -> tuple[IntArray, IntArray]:
        """The documents that have a word, int64, rising, and how often each has it."""
        if word not in self.vocabulary:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        start, end = self._bm25.scores["indptr"][self.vocabulary[word] :][:2].tolist()
        return self._counts.document[start:end], self._counts.times[start:end]


class Changed:
    """An index of bm25s in which some documents are gone, and some are new: `BM25S.changed`, counted when it is asked.

    Args:
        index: Not changed.
        at: int64, of each document of the index the position that it has now; -1 where it is gone.
        new: Position -> the words of each document that the index does not have.
        num_documents: Of both together.
        k1: See `BM25Index`.
        b: See `BM25Index`.
    """

    def __init__(
        self,
        index: BM25S,
        at: IntArray,
        new: Mapping[int, Sequence[str]],
        num_documents: int,
        *,
        k1: float,
        b: float,
    ) -> None:
        self.index, self.at, self.new, self._size = index, at, dict(sorted(new.items())), num_documents
        self._k1, self._b = k1, b
        self._numbers: dict[str, int] = {}  # of words that the index does not know, in the order of `BM25S.changed`
        for word in (word for words in self.new.values() for word in Counter(words)):
            if word not in index.vocabulary:
                self._numbers.setdefault(word, len(index.vocabulary) + len(self._numbers))
        self._lengths = np.zeros(num_documents, np.int64)
        stays = at >= 0
        self._lengths[at[stays]] = index.lengths[stays]
        for position, words in self.new.items():
            self._lengths[position] = len(words)
        self._mean_length = self._lengths.mean()
        self._few = len(self.new) <= MOST_ADDED and len(at) - int(stays.sum()) <= MOST_GONE

    @classmethod
    def of(cls, model: BM25S | Changed, before: IntArray, new: Sequence[list[str]], *, k1: float, b: float) -> Model:
        """A model after one more change; made anew where many documents have changed since its index was made.

        Args:
            model: Before.
            before: Of each document its position there; -1 for a new one.
            new: The words of the new ones, in their order.
            k1: See `BM25Index`.
            b: See `BM25Index`.
        """
        kept = np.flatnonzero(before >= 0)
        added: dict[int, Sequence[str]] = dict(zip(np.flatnonzero(before < 0).tolist(), new, strict=True))
        if isinstance(model, BM25S):
            index, size = model, len(model.lengths)
            at = np.full(size, -1)
            at[before[kept]] = kept
        else:
            index, size = model.index, model._size
            after = np.full(size, -1)
            after[before[kept]] = kept
            at = np.where(model.at >= 0, after[model.at], -1)
            added |= {int(after[position]): words for position, words in model.new.items() if after[position] >= 0}
        made = cls(index, at, added, len(before), k1=k1, b=b)
        return made if made._few else made.whole

    @cached_property
    def whole(self) -> BM25S:
        """The index that it stands for."""
        before = np.full(self._size, -1)
        stays = np.flatnonzero(self.at >= 0)
        before[self.at[stays]] = stays
        return self.index.changed(before, [list(words) for words in self.new.values()])

    def scores(self, words: list[str]) -> FloatArray:
        """See `Model`; made of `whole`, for bm25s adds up in an order of its own."""
        return self.whole.scores(words)

    def sparse_scores(self, words: list[str]) -> tuple[IntArray, FloatArray]:
        """See `Model`."""
        documents, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
        numbers = {word: self.index.vocabulary.get(word, self._numbers.get(word, -1)) for word in words}
        asked = Counter(words)
        for word in sorted(asked, key=numbers.__getitem__):  # the order in which `BM25S` adds up
            found, times = self._documents_with(word)
            rarity = log((self._size + 1) / max(1, len(found)))
            length = self._k1 * (1 - self._b + self._b * self._lengths[found] / self._mean_length)
            documents.append(found)
            scores.append(asked[word] * (rarity * (times * (self._k1 + 1) / (times + length))))
        positions, which = np.unique(np.concatenate(documents), return_inverse=True)
        sums: FloatArray = np.bincount(which, np.concatenate(scores), minlength=len(positions)).astype(np.float64)
        return positions, sums

    def _documents_with(self, word: str) -> tuple[IntArray, IntArray]:
        documents, times = self.index.documents_with(word)
        positions = self.at[documents]
        stays = positions >= 0
        more = [(position, count) for position, words in self.new.items() if (count := words.count(word))]
        added = np.array(more, np.int64).reshape(-1, 2)
        return np.append(positions[stays], added[:, 0]), np.append(times[stays], added[:, 1])
