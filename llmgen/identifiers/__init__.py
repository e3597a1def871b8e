"""How a model reads and writes items, besides by their titles: spelled from the general to the particular.

    from llmgen import Catalog, ItemVectors
    from llmgen.identifiers import Codes, Words, load_identifier
    from llmgen.vectors import load_encoder

    vectors = ItemVectors.make(catalog, load_encoder("minilm"))
    spelled = catalog.identified(Words.fit(vectors))    # strategy > fantasy: Fire Emblem
    spelled = catalog.identified(Codes.fit(vectors))    # <a_12><b_7><c_201><d_0>

Both are fitted once and say the same of an item for ever: items that come later are put where their vectors belong.
Prompts, training targets, the trie and the grounding of free text all ask `Catalog.spelling`; people read titles.
"""

from llmgen.identifiers.codes import Codes
from llmgen.identifiers.files import load_identifier, save_identifier
from llmgen.identifiers.words import Words

__all__ = ["Codes", "Words", "load_identifier", "save_identifier"]
