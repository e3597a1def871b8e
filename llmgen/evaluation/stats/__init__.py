"""Statistics: intervals, tests, power and early stopping, paired by user."""

from llmgen.evaluation.stats.intervals import PairedDifference, paired_difference
from llmgen.evaluation.stats.pairwise import Comparison, compare
from llmgen.evaluation.stats.sequential import Sequential
from llmgen.evaluation.stats.significance import holm, mcnemar, permutation_test

__all__ = [
    "Comparison",
    "PairedDifference",
    "Sequential",
    "compare",
    "holm",
    "mcnemar",
    "paired_difference",
    "permutation_test",
]
