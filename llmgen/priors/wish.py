"""How well an item's text fits the user's words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llmgen.bm25 import LARGE, BM25Index
from llmgen.catalog import Catalog
from llmgen.priors.base import FLOOR, check_floor, log_lift, only_appended
from llmgen.priors.sparse import SparseRow, lifted
from llmgen.text import normalise
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
class Wish:
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
        if not any(query.text for query in queries):
            return scores
        for row, query in zip(scores, queries, strict=True):
            if query.text and query.text.strip():
                row[:] = self.index.scores(self._telling(query.text))
        return log_lift(scores, self.floor)

    def sparse_log_weights(self, queries: Sequence[Query]) -> list[SparseRow]:
        """See `SparsePrior`; costs what the words of a wish have items."""
        assert self.index is not None  # made in __post_init__
        floor = math.log(self.floor)
        texts = [self._telling(query.text) if query.text and query.text.strip() else "" for query in queries]
        return [lifted(*self.index.sparse_scores(text), floor, len(self.catalog)) for text in texts]

    def on_catalog(self, catalog: Catalog, before: IntArray) -> Wish:
        """See `Movable`; a few new items are added to the index of a large catalog, any other change makes it anew."""
        assert self.index is not None  # made in __post_init__
        known = len(self.catalog)
        later = self.index.num_later + len(catalog) - known
        few = known >= LARGE and later <= MOST_LATER and only_appended(before, known)
        index = self.index.with_documents(self._texts(catalog, known)) if few else None
        return dataclasses.replace(self, catalog=catalog, index=index)

    def _texts(self, catalog: Catalog, start: int) -> list[str]:
        """Of the items from a position on."""
        text_of = self.text_of or (lambda item: item_text(catalog, item))
        return [text_of(catalog[position]) for position in range(start, len(catalog))]

    def _telling(self, text: str) -> str:
        noun = normalise(self.catalog.noun)
        words = normalise(text).split()
        return " ".join(w for w in words if w not in FUNCTION_WORDS and w not in (noun, f"{noun}s")) or text


def item_text(catalog: Catalog, item: Item) -> str:
    """What `Wish` reads of an item: label, attributes that the catalog shows, `genres`, `keywords`, `description`."""
    parts = [catalog.label(item)]
    for name in dict.fromkeys((*catalog.shown, "genres", "keywords", "description")):
        value = item.attributes.get(name)
        if value is not None:
            parts.append(" ".join(value) if isinstance(value, tuple) else str(value))
    return " ".join(parts)
