"""An encoder whose vectors can be worked out by hand: one number a word, how often it stands there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmgen.vectors.encoders import Float32Array

VOCABULARY = ("space", "ship", "war", "love", "song", "paris", "ghost", "city")
MEANING = {"starship": "ship", "romance": "love", "music": "song", "battle": "war"}


class WordEncoder:
    """Counts words; some words mean others, and a text without a known word means nothing."""

    def __init__(self, name: str = "words", vocabulary: Sequence[str] = VOCABULARY) -> None:
        self.name = name
        self.vocabulary = tuple(vocabulary)
        self.read: list[str] = []

    def items(self, contents: Sequence[str]) -> Float32Array:
        self.read += contents
        return self.queries(contents)

    def queries(self, texts: Sequence[str]) -> Float32Array:
        words = [[MEANING.get(word, word) for word in text.lower().split()] for text in texts]
        return np.array([[own.count(word) for word in self.vocabulary] for own in words], np.float32)
