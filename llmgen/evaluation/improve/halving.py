"""Which of many arms is better than the original: successive halving, and what may be claimed afterwards.

The worse half is left out after each round, with twice as many users. Whatever is left meets the original once more, on
users who had no part in this, and `claims` says which are surely better there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from llmgen.evaluation.stats.sequential import Sequential

ALPHA = 0.05
"""Of the intervals of all arms together, while they are searched."""
ERROR = 0.04
"""Of the claims; the promise is .05, and the tests of skewed differences are not exact. See eval/RESULTS.md."""
FEWEST = 16
"""Users of the first round at least."""
SEARCHED = 0.3
"""Share of the users who are searched on; the others are there to confirm. See eval/RESULTS.md."""
EACH = 2
"""Requests for each user who is searched on: for the last item, and for the one before."""
STEP = 4.0
"""How many times the error of the next one each arm has in the confirmation, in the order of the search."""

Ask = Callable[[Sequence[str], int], Mapping[str, ArrayLike]]
"""Names of arms and a number of users -> each arm's values of the metric, of the first so many users."""


class Standing(NamedTuple):
    """One arm after a round.

    Attributes:
        arm: Its name.
        mean: Of the difference to the original.
        low: Of an interval that holds at any time, for all arms together.
        high: The same.
        kept: Whether it goes on.
    """

    arm: str
    mean: float
    low: float
    high: float
    kept: bool


class Round(NamedTuple):
    """One round of the search.

    Attributes:
        users: Asked of each arm until now.
        standings: Best first.
    """

    users: int
    standings: tuple[Standing, ...]


def halving(arms: int, users: int, start: int, survivors: int) -> list[tuple[int, int]]:
    """The rounds: how many arms, the original not counted, answer for how many users by their end.

    >>> halving(arms=30, users=400, start=100, survivors=2)
    [(30, 100), (15, 200), (8, 400)]
    """
    rounds = []
    number = min(start, users)
    while True:
        rounds.append((arms, number))
        arms = max(survivors, ceil(arms / 2))
        if number == users or rounds[-1][0] <= survivors:
            return rounds
        number = min(users, 2 * number)


def requests(arms: int, users: int, start: int, survivors: int, others: int) -> int:
    """How many requests a search and its confirmation make at most.

    Args:
        arms: The original not counted.
        users: To search on, each asked `EACH` times.
        start: Users of the first round.
        survivors: Confirmed at most.
        others: Users of the confirmation, each asked once.
    """
    asked, before = 0, 0
    for number, until in halving(arms, users, start, survivors):
        asked += EACH * (number + 1) * (until - before)
        before = until
    return asked + (min(arms, survivors) + 1) * others


def first_round(arms: int, users: int, others: int, survivors: int, limit: int | None) -> int | None:
    """Users of the first round, so that all that are left to the last one can be asked about all, within a limit.

    Args:
        arms: The original not counted.
        users: To search on.
        others: To confirm on.
        survivors: Confirmed at most.
        limit: Requests at most; None for no limit.

    Returns:
        None where not even the smallest search keeps to the limit.
    """
    start = users
    while start > FEWEST and len(halving(arms, users, start, survivors)) < 1 + int(np.log2(max(1, arms / survivors))):
        start = max(FEWEST, start // 2)
    if limit is None:
        return start
    few = range(start, FEWEST - 1, -1)
    return next((one for one in few if requests(arms, users, one, survivors, others) <= limit), None)


def search(
    arms: Sequence[str], original: str, users: int, ask: Ask, *, start: int, survivors: int, largest: float = 1.0
) -> list[Round]:
    """Successive halving of arms on users in random order.

    Source: Jamieson & Talwalkar, AISTATS 2016, for the halving; the intervals are those of `Sequential`.

    Args:
        arms: Names of the proposals; where some stand level, those named first go on.
        original: What they are compared with.
        users: That there are.
        ask: See `Ask`; values of earlier users are asked for again and should be kept.
        start: Users of the first round.
        survivors: At most so many are left at the end.
        largest: See `Sequential`.

    Returns:
        The rounds. Left are those of the last round that were kept: better than the original so far.
    """
    rounds: list[Round] = []
    left = list(arms)
    plan = halving(len(arms), users, start, survivors)
    for place, (_, number) in enumerate(plan):
        values = ask([original, *left], number)
        standings = []
        for arm in left:
            difference = np.asarray(values[arm], np.float64) - np.asarray(values[original], np.float64)
            watch = Sequential(1 - ALPHA / len(arms), largest=largest)
            watch.add(difference)
            standings.append(Standing(arm, watch.mean, watch.low, watch.high, watch.high >= 0))
        standings.sort(key=lambda one: -one.mean)
        last = place == len(plan) - 1
        most = survivors if last else max(survivors, ceil(len(left) / 2))
        standings = [
            one._replace(kept=one.kept and rank < most and (one.mean > 0 or not last))
            for rank, one in enumerate(standings)
        ]
        rounds.append(Round(number, tuple(standings)))
        left = [one.arm for one in standings if one.kept]
        if not left:
            break
    return rounds


def by_lot(rounds: Sequence[Round]) -> int:
    """How many arms were left out although they stood level with one that went on."""
    number = 0
    for one in rounds[:-1]:
        last = min((standing.mean for standing in one.standings if standing.kept), default=None)
        number += sum(not standing.kept and standing.mean == last for standing in one.standings)
    return number


def claims(arms: Sequence[str], tests: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Which arms are surely better than the original, on users who had no part in the search.

    Only "better" is ever claimed, so the tests are one-sided; all arms share an error of `ERROR`, by Holm's procedure
    with weights: the search's first has `STEP` times the weight of its second, and so on.

    Source: Holm, Scandinavian Journal of Statistics 1979, section 4.

    Args:
        arms: In the order of the search, best first.
        tests: Arm -> its mean difference to the original, and the two-sided p of that.

    Returns:
        Arm -> its p, corrected for all arms; those at most `ERROR` are claims.

    >>> claims(["first", "second"], {"first": (0.02, 0.05), "second": (0.01, 0.04)})
    {'first': 0.03125, 'second': 0.03125}
    """
    weight = {arm: STEP**-place for place, arm in enumerate(arms)}
    p = {arm: two_sided / 2 if mean > 0 else 1 - two_sided / 2 for arm, (mean, two_sided) in tests.items()}
    found: dict[str, float] = {}
    waiting = list(arms)
    least = 0.0
    while waiting:
        arm = min(waiting, key=lambda one: p[one] / weight[one])
        least = max(least, min(1.0, p[arm] / weight[arm] * sum(weight[one] for one in waiting)))
        found[arm] = least
        waiting.remove(arm)
    return {arm: found[arm] for arm in arms}
