"""Named data sets, MovieLens files and a user's own tables -> a catalog and its interactions, cleaned and counted.

Interactions are a frame of `user_id`, `item_id` (strings), `timestamp` (float, seconds since 1970 UTC) and `rating`
(float, null where none), its rows in the order of the file: that order decides between interactions of one second.
"""

from llmgen.datasets.core import k_core
from llmgen.datasets.movielens import NAMES, load_dataset
from llmgen.datasets.report import INTERACTIONS, CleaningReport, Dataset, RuleCount
from llmgen.datasets.tables import load_tables

__all__ = ["INTERACTIONS", "NAMES", "CleaningReport", "Dataset", "RuleCount", "k_core", "load_dataset", "load_tables"]
