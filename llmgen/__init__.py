"""llmgen: a generative LLM recommender with prompt templates.

Names are imported when they are first used, so that `import llmgen` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from llmgen.errors import renamed

if TYPE_CHECKING:
    from llmgen.catalog.core import Catalog as Catalog
    from llmgen.datasets import load_dataset as load_dataset
    from llmgen.datasets import load_tables as load_tables
    from llmgen.datasets.splits import histories as histories
    from llmgen.datasets.splits import leave_one_out as leave_one_out
    from llmgen.diversity import Diversity as Diversity
    from llmgen.engines import Engine as Engine
    from llmgen.engines import load_engine as load_engine
    from llmgen.errors import LLMGenError as LLMGenError
    from llmgen.grounding import Grounder as Grounder
    from llmgen.http.async_client import AsyncClient as AsyncClient
    from llmgen.http.client import Client as Client
    from llmgen.priors import Content as Content
    from llmgen.priors import Ease as Ease
    from llmgen.priors import HistoryText as HistoryText
    from llmgen.priors import HistoryVectors as HistoryVectors
    from llmgen.priors import ItemKNN as ItemKNN
    from llmgen.priors import Popularity as Popularity
    from llmgen.priors import Prior as Prior
    from llmgen.priors import RatingKNN as RatingKNN
    from llmgen.priors import SASRec as SASRec
    from llmgen.priors import Scores as Scores
    from llmgen.priors import TextQuery as TextQuery
    from llmgen.priors import TextQueryVectors as TextQueryVectors
    from llmgen.priors import Transition as Transition
    from llmgen.priors import load_prior as load_prior
    from llmgen.recommend.recommender import Recommender as Recommender
    from llmgen.recommend.request_weight import RequestWeight as RequestWeight
    from llmgen.templates.library import PromptLibrary as PromptLibrary
    from llmgen.types import Answer as Answer
    from llmgen.types import Explanation as Explanation
    from llmgen.types import Item as Item
    from llmgen.types import Query as Query
    from llmgen.types import RatingPrediction as RatingPrediction
    from llmgen.types import Recommendation as Recommendation
    from llmgen.types import Recommendations as Recommendations
    from llmgen.types import WrittenRecommendation as WrittenRecommendation
    from llmgen.types import WrittenRecommendations as WrittenRecommendations
    from llmgen.vectors import ItemVectors as ItemVectors

__version__ = "0.1.0"

_HOMES = {
    "Answer": "types",
    "AsyncClient": "http.async_client",
    "Catalog": "catalog.core",
    "Client": "http.client",
    "Content": "priors",
    "Diversity": "diversity",
    "Ease": "priors",
    "Engine": "engines",
    "Explanation": "types",
    "Grounder": "grounding",
    "HistoryText": "priors",
    "HistoryVectors": "priors",
    "Item": "types",
    "ItemKNN": "priors",
    "ItemVectors": "vectors",
    "LLMGenError": "errors",
    "Popularity": "priors",
    "Prior": "priors",
    "PromptLibrary": "templates.library",
    "Query": "types",
    "RatingKNN": "priors",
    "RatingPrediction": "types",
    "Recommendation": "types",
    "Recommendations": "types",
    "Recommender": "recommend.recommender",
    "RequestWeight": "recommend.request_weight",
    "SASRec": "priors",
    "Scores": "priors",
    "TextQuery": "priors",
    "TextQueryVectors": "priors",
    "Transition": "priors",
    "WrittenRecommendation": "types",
    "WrittenRecommendations": "types",
    "histories": "datasets.splits",
    "leave_one_out": "datasets.splits",
    "load_dataset": "datasets",
    "load_engine": "engines",
    "load_prior": "priors",
    "load_tables": "datasets",
}
_RENAMED = {"Wish": "TextQuery", "WishVectors": "TextQueryVectors"}
"""Names of the last release -> those of now."""
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _RENAMED:
        return renamed(f"llmgen.{name}", _RENAMED[name], __getattr__(_RENAMED[name]))
    if name not in _HOMES:
        raise AttributeError(f"module 'llmgen' has no attribute {name!r}")
    return getattr(import_module(f"llmgen.{_HOMES[name]}"), name)
