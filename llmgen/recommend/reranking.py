"""Documents put in order for a query, as rerankers of text do, but also by who asks.

Documents that are items of the recommender's catalog are weighed as ever, so that what people took counts. Any other
text is put into the catalog for this one answer as an item that nobody took yet: the language model and the words of
the query decide.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from llmgen.catalog.core import LONGEST_LABEL, Catalog, cut
from llmgen.errors import ArgumentError
from llmgen.types import Answer, Item, Recommendation, Relevance


class Documents:
    """Documents as items.

    Args:
        catalog: The recommender's own.
        titles: Its items by their labels and titles.
        documents: Ids, labels or titles of its items as they stand there, items, or any other text; at least one.

    Attributes:
        catalog: The recommender's own, and each other text once.
        ids: Of each document the id in `catalog`.

    Raises:
        ArgumentError: No documents, or one that is blank.
    """

    def __init__(self, catalog: Catalog, titles: Mapping[str, Item], documents: Sequence[Item | str]) -> None:
        if not len(documents):
            raise ArgumentError("no documents were given to put in order; give one or more")
        strangers: dict[str, Item] = {}
        known: Container[object] = catalog
        self.ids: list[str] = []
        for number, document in enumerate(documents):
            text = document.id if isinstance(document, Item) else document.strip()
            if not text:
                raise ArgumentError(f"document {number} (counted from 0) is blank; leave it out")
            item = catalog[text] if text in known else titles.get(text)
            if item is None:
                made = document if isinstance(document, Item) else _stranger(text, f"document {number}", known)
                item = strangers.setdefault(text, made)
            self.ids.append(item.id)
        self._strangers = {item.id for item in strangers.values()}
        self.catalog = catalog.with_items(strangers.values())

    def relevances(self, answer: Answer) -> list[Relevance]:
        """The documents in the order of an answer, equal ones in theirs; those that a filter removed are missing."""
        scores = {
            place.item.id: place.probability if isinstance(place, Recommendation) else 1 / place.rank
            for place in answer
        }
        order = {place.item.id: place.rank for place in answer}
        places = sorted(
            (place for place, item_id in enumerate(self.ids) if item_id in order),
            key=lambda place: (order[self.ids[place]], place),
        )
        return [
            Relevance(place, scores[name], None if name in self._strangers else self.catalog[name])
            for place, name in ((place, self.ids[place]) for place in places)
        ]


def _stranger(text: str, name: str, catalog: Container[object]) -> Item:
    """A text as an item: its beginning is the title, and all of it is read for the words of a query."""
    while name in catalog:
        name += "'"
    title = cut(text, LONGEST_LABEL)
    return Item(name, title, {} if title == text else {"description": text})
