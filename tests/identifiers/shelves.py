"""A catalog of two shelves with two boards each, and an encoder that knows where each word stands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmgen.catalog.core import Catalog
from llmgen.types import Item
from llmgen.vectors import ItemVectors

PLACES = {
    "cat": (8, 1),
    "kitten": (8, 1),
    "dog": (8, -1),
    "puppy": (8, -1),
    "ship": (-8, 1),
    "sloop": (-8, 1),
    "car": (-8, -1),
}
TITLES = (
    "Fine cat", "Small cat", "Loud cat", "Fine dog", "Small dog", "Loud dog",
    "Fine ship", "Small ship", "Loud ship", "Fine car", "Small car", "Loud car",
)  # fmt: skip
GENRES = ("Animal", "Animal", "Engine", "Engine")


class Words2D:
    """Sums the places of the words that it knows, with a very small part of its own for each text."""

    name = "places"

    def __init__(self) -> None:
        self.read: list[str] = []

    def items(self, contents: Sequence[str]) -> NDArray[np.float32]:
        self.read += contents
        return self.queries(contents)

    def queries(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = []
        for text in texts:
            found = [PLACES[word] for word in text.lower().split() if word in PLACES] or [(1.0, 0.0)]
            rows.append([*np.sum(found, axis=0), 0.001 * len(text)])
        return np.array(rows, np.float32)


def shop() -> Catalog:
    """Twelve things: three cats, dogs, ships and cars each."""
    return Catalog(
        [Item(f"i{number}", title, {"kind": GENRES[number // 3]}) for number, title in enumerate(TITLES)], noun="thing"
    )


def read(catalog: Catalog, encoder: Words2D | None = None) -> ItemVectors:
    """Its vectors."""
    return ItemVectors.make(catalog, encoder or Words2D())
