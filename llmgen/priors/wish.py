"""How well an item's text fits the user's words, or those of what the user took."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError
from llmgen.priors.base import FLOOR, Saving, check_floor, log_lift, unchanged
from llmgen.priors.sparse import SparseRow, lifted
from llmgen.text.bm25 import LARGE, BM25Index
from llmgen.text.normalization import normalise_text
from llmgen.types import FloatArray, IntArray, Item, Query

MOST_LATER = 500
"""New items that an index takes in before it is made anew."""

FUNCTION_WORDS = frozenset(
    {
        "a", "about", "am", "an", "and", "any", "are", "as", "at", "be", "but", "by", "can", "could", "do", "for",
        "from", "get", "give", "good", "had", "has", "have", "how", "i", "in", "into", "is", "it", "its", "like",
        "looking", "love", "me", "more", "my", "of", "on", "one", "or", "please", "recommend", "s", "see", "show",
        "some", "something", "than", "that", "the", "their", "them", "there", "these", "they", "this", "to", "want",
        "watch", "was", "we", "were", "what", "when", "which", "who", "will", "with", "without", "would", "you",
        "your"
    }
)  # fmt: skip
"""English words that say nothing of what is wanted. In titles they are rare, so BM25 would take them for telling."""


@dataclass(frozen=True, eq=False)
class TextQuery(Saving):
    """BM25 of `Query.text` against the items' texts, as a factor: what a query without history has to go by.

    Function words and the catalog's own noun are left out of the text, unless it has no others.

    Attributes:
        catalog: The items.
        text_of: The text of an item; by default its label and, where it has them, the attributes that the catalog
            shows, its genres, keywords and description.
        floor: In (0, 1], see `llmgen.priors.log_lift`: items without a word of the wish stay possible.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
        index: Of the items' texts; made from `text_of` where it is not given.
    """

    catalog: Catalog = field(repr=False)
    text_of: Callable[[Item], str] | None = None
    floor: float = FLOOR
    weight: float = 1.0
    name: str = "wish"
    index: BM25Index | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_floor(self.floor)
        if self.index is None:
            object.__setattr__(self, "index", BM25Index(self._texts(self.catalog, 0)))

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`; 0 everywhere for a query without text, or whose text shares no word with any item."""
        assert self.index is not None  # made in __post_init__
        scores = np.zeros((len(queries), len(self.catalog)))
        texts = [self._asked(query) for query in queries]
        if not any(texts):
            return scores
        for row, text in zip(scores, texts, strict=True):
            if text:
                row[:] = self.index.scores(text)
        return log_lift(scores, self.floor)

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`; costs what the words of a wish have items."""
        assert self.index is not None  # made in __post_init__
        floor = math.log(self.floor)
        texts = [self._asked(query) for query in queries]
        return [lifted(*self.index.sparse_scores(text), floor, len(self.catalog)) for text in texts]

    def on_catalog(self, catalog: Catalog, before: IntArray) -> TextQuery:
        """See `Movable`; a few new items are added to the index of a large catalog, any other change counts anew."""
        assert self.index is not None  # made in __post_init__
        known = len(self.catalog)
        later = self.index.num_later + len(catalog) - known
        few = known >= LARGE and later <= MOST_LATER and catalog.begins_with(self.catalog)
        if few:
            index = self.index.with_documents(self._texts(catalog, known))
        elif (catalog.label_format, catalog.shown) == (self.catalog.label_format, self.catalog.shown):
            same = unchanged(self.catalog, catalog, before)
            new = [self._text(catalog[place], catalog) for place in np.flatnonzero(same < 0).tolist()]
            index = self.index.changed(same, new)
        else:
            index = None
        return dataclasses.replace(self, catalog=catalog, index=index)

    def _texts(self, catalog: Catalog, start: int) -> list[str]:
        """Of the items from a position on."""
        return [self._text(catalog[position], catalog) for position in range(start, len(catalog))]

    def _text(self, item: Item, catalog: Catalog | None = None) -> str:
        return item_text(catalog or self.catalog, item) if self.text_of is None else self.text_of(item)

    def _asked(self, query: Query) -> str:
        """The words to look for; empty for none."""
        if not query.text or not query.text.strip():
            return ""
        noun = normalise_text(self.catalog.noun)
        words = normalise_text(query.text).split()
        return " ".join(w for w in words if w not in FUNCTION_WORDS and w not in (noun, f"{noun}s")) or query.text


@dataclass(frozen=True, eq=False)
class HistoryText(TextQuery):
    """BM25 of the texts of the newest items of the history against those of all items, as a factor.

    Like `Content` it needs no log, and knows new items as well as old ones; it reads all words, where `Content` counts
    whole values of attributes.

    Attributes:
        newest: How many items of the history are read, 1 or more.
    """

    name: str = "history_text"
    newest: int = 10

    def __post_init__(self) -> None:
        if self.newest < 1:
            raise ConfigError(f"newest must be 1 or more, not {self.newest}")
        super().__post_init__()

    def _asked(self, query: Query) -> str:
        return " ".join(self._text(item) for item in query.items[-self.newest :])


def item_text(catalog: Catalog, item: Item) -> str:
    """What `TextQuery` reads: label, attributes that the catalog shows, `genres`, `keywords`, `description`."""
    parts = [catalog.label(item)]
    for name in dict.fromkeys((*catalog.shown, "genres", "keywords", "description")):
        value = item.attributes.get(name)
        if value is not None:
            parts.append(" ".join(value) if isinstance(value, tuple) else str(value))
    return " ".join(parts)
