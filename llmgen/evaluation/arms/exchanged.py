"""A control: the model is told of another user, and all else is the user's own.

What an arm still gains so over its priors, it does not gain by knowing the user: it may be a better popularity, or a
liking for short titles. Only what is lost by the exchange comes from the history or the wish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmgen.errors import ConfigError
from llmgen.evaluation.protocols.sample import Sample
from llmgen.priors import Prior, combine
from llmgen.types import FloatArray, Query


def exchanged(sample: Sample) -> dict[str, Query]:
    """What to ask in each user's place: with the history, ratings and wish of the user half the sample further on.

    Raises:
        ConfigError: There is only one user.
    """
    count = len(sample)
    if count < 2:
        raise ConfigError("an exchanged arm needs two users at least")
    others = [sample.queries[(number + count // 2) % count] for number in range(count)]
    return {
        user: replace(query, history=other.history, ratings=other.ratings, text=other.text, exclude_seen=False)
        for user, query, other in zip(sample.users, sample.queries, others, strict=True)
    }


@dataclass(frozen=True, eq=False)
class Own:
    """The product of priors for the user who is asked, whatever history the query tells.

    Attributes:
        priors: No name twice.
        asked: User id -> what is really asked.
        weight: Exponent.
        name: Key in `Recommendation.terms`.
    """

    priors: Sequence[Prior]
    asked: Mapping[str, Query] = field(repr=False)
    weight: float = 1.0
    name: str = "own"

    def log_weights(self, queries: Sequence[Query]) -> FloatArray:
        """See `Prior`."""
        return combine(self.priors, [self.asked[str(query.user_id)] for query in queries]).total
