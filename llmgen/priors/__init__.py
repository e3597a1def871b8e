"""Item priors: everything that knows something about items beside the language model, as factors that multiply.

    ExcludeSeen     removes what the history holds
    AttributeFilter, only   remove what a filter does not allow, or all but given candidates
    Boosts          what a request asks for more or less of, by attributes
    TextQuery       BM25 of the user's words
    Popularity      how often an item was taken; a negative weight lessens popularity bias
    Transition      what people took next
    Ease, ItemKNN   what people took together
    SASRec          what came next, by a neural sequence model
    Repeat          what the user took before
    Content         what items say of themselves
    HistoryText     BM25 of the texts of what was taken
    TextQueryVectors    what means what the user's words mean
    HistoryVectors  what means what was taken
    Scores          what another model says, a function or a file

Of ratings, not of items:

    RatingKNN       biases of users and items, and how the user rated what others rate alike

A prior of your own is any object with `name`, `weight` and `log_weights`; see `Prior`. For a large catalog give it
`sparse_log_weights` too; see `SparsePrior`.
"""

from llmgen.errors import renamed
from llmgen.priors.base import Combined, Movable, Preparable, Prior, combine, log_lift, reweighted
from llmgen.priors.boosts import Boosts
from llmgen.priors.collaborative import Ease, ItemKNN, ItemToItem
from llmgen.priors.content import Content
from llmgen.priors.filters import AttributeFilter, ExcludeSeen, chosen, only
from llmgen.priors.interactions import Evidence
from llmgen.priors.meaning import HistoryVectors, TextQueryVectors
from llmgen.priors.popularity import Popularity
from llmgen.priors.ratings import RatingKNN, RatingPrior, check_rating_priors, rating_terms
from llmgen.priors.repeat import Repeat
from llmgen.priors.scores import Scores
from llmgen.priors.sequence import SASRec
from llmgen.priors.sparse import Product, SharedWeights, SparsePrior, SparseRow, combine_sparse, multiply
from llmgen.priors.stored import load_prior, load_rating_prior, save_prior
from llmgen.priors.transition import Transition
from llmgen.priors.wish import HistoryText, TextQuery, item_text

__all__ = [
    "AttributeFilter",
    "Boosts",
    "Combined",
    "Content",
    "Ease",
    "Evidence",
    "ExcludeSeen",
    "HistoryText",
    "HistoryVectors",
    "ItemKNN",
    "ItemToItem",
    "Movable",
    "Popularity",
    "Preparable",
    "Prior",
    "Product",
    "RatingKNN",
    "RatingPrior",
    "Repeat",
    "SASRec",
    "Scores",
    "SharedWeights",
    "SparsePrior",
    "SparseRow",
    "TextQuery",
    "TextQueryVectors",
    "Transition",
    "check_rating_priors",
    "chosen",
    "combine",
    "combine_sparse",
    "item_text",
    "load_prior",
    "load_rating_prior",
    "log_lift",
    "multiply",
    "only",
    "rating_terms",
    "reweighted",
    "save_prior",
]


_RENAMED = {
    "Seen": ExcludeSeen,
    "SparseCombined": Product,
    "Where": AttributeFilter,
    "Wish": TextQuery,
    "WishVectors": TextQueryVectors,
}
"""Names of the last release -> what they are now."""


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        return renamed(f"llmgen.priors.{name}", _RENAMED[name].__name__, _RENAMED[name])
    raise AttributeError(f"module 'llmgen.priors' has no attribute {name!r}")
