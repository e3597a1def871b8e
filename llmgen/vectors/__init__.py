"""Vectors of items: what an item means, as a point among others, read from its text, its picture, or given by you.

    from llmgen import ItemVectors, WishVectors, HistoryVectors
    from llmgen.vectors import load_encoder

    vectors = ItemVectors.make(catalog, load_encoder("minilm"), "vectors/")
    priors = [WishVectors(vectors), HistoryVectors(vectors, weight=0.5)]

`ItemVectors` holds one vector an item, encodes only what it does not know yet, and finds neighbours. An `Encoder` makes
vectors of contents and of the words that people ask with. The priors are in `llmgen.priors.meaning`.
"""

from llmgen.vectors.contents import item_content
from llmgen.vectors.encoders import Encoder, EngineEncoder, SentenceEncoder, load_encoder
from llmgen.vectors.store import ItemVectors

__all__ = ["Encoder", "EngineEncoder", "ItemVectors", "SentenceEncoder", "item_content", "load_encoder"]
