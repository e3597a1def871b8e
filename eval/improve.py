"""How often `llmgen prompts improve` finds what is there, and claims what is not, on simulated users.

    python -m eval.improve --runs 1000 --gain 0.02

Thirty proposals that are as good as the original, and one that is not: its NDCG@10 is higher by `--gain`. A user's item
stands in the list of the original with probability .2, at any of ten places; a proposal moves it to another draw of the
same distribution for a share `--changed` of the users, which makes no difference in the mean. The better one lifts
misses into the list besides. Search and confirmation are those of the command, without a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmgen.evaluation.improve import ALPHA, requests, search
from llmgen.evaluation.stats import compare
from llmgen.types import FloatArray

ORIGINAL, PLANTED = "original", "planted"
HIT = 0.2


class Found(NamedTuple):
    """Of one simulation.

    Attributes:
        winner: Who was called better.
        confirmed: How many were confirmed.
    """

    winner: str | None
    confirmed: int


def values(rng: np.random.Generator, arms: int, users: int, gain: float, changed: float) -> dict[str, FloatArray]:
    """NDCG@10 of the users by arm: the original, `arms` equal ones, and with a gain the planted one."""
    worth = 1 / np.log2(np.arange(10) + 2)

    def drawn(number: int) -> FloatArray:
        hit = rng.random(number) < HIT
        made: FloatArray = np.where(hit, worth[rng.integers(10, size=number)], 0.0)
        return made

    original = drawn(users)
    found = {ORIGINAL: original}
    for name in [f"equal {number}" for number in range(arms)] + ([PLANTED] if gain else []):
        found[name] = np.where(rng.random(users) < changed, drawn(users), original)
    if gain:
        # of those that miss, so many get a place that the mean rises by the gain
        share = gain / ((1 - HIT) * worth.mean())
        lifted = (found[PLANTED] == 0) & (rng.random(users) < share)
        found[PLANTED] = np.where(lifted, worth[rng.integers(10, size=users)], found[PLANTED])
    return found


def simulated(
    seed: int, *, gain: float, arms: int, users: int, start: int, survivors: int, changed: float, draws: int
) -> Found:
    """One search with its confirmation; `users` of each."""
    rng = np.random.default_rng(seed)
    first, second = (values(rng, arms, users, gain, changed) for _ in range(2))
    names = [name for name in first if name != ORIGINAL]

    def ask(asked: Sequence[str], number: int) -> Mapping[str, FloatArray]:
        return {name: first[name][:number] for name in asked}

    rounds = search(names, ORIGINAL, users, ask, start=start, survivors=survivors)
    left = [one.arm for one in rounds[-1].standings if one.kept]
    if not left:
        return Found(None, 0)
    met = {name: {"ndcg@10": second[name]} for name in (ORIGINAL, *left)}
    rows = compare(met, baseline=ORIGINAL, metric="ndcg@10", draws=draws, seed=seed)
    better = [row for row in rows if row.p_holm is not None and row.p_holm < ALPHA and row.difference.mean > 0]
    best = max(better, key=lambda row: row.difference.mean, default=None)
    return Found(None if best is None else best.arm, len(left))


def main() -> None:
    """Simulate, and print shares with their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--gain", type=float, nargs="*", default=[0.0, 0.01, 0.015, 0.02, 0.03])
    parser.add_argument("--arms", type=int, default=30)
    parser.add_argument("--users", type=int, default=471, help="To search on, and as many to confirm with.")
    parser.add_argument("--start", type=int, default=117)
    parser.add_argument("--survivors", type=int, default=2)
    parser.add_argument("--changed", type=float, default=0.15, help="Share of users whose list another prompt changes.")
    parser.add_argument("--draws", type=int, default=2000)
    given = parser.parse_args()
    cost = requests(given.arms + 1, given.users, given.start, given.survivors, given.users)
    print(f"{given.runs} simulations, {given.users} + {given.users} users, {cost} requests at most")
    for gain in given.gain:
        found = [
            simulated(seed, gain=gain, arms=given.arms, users=given.users, start=given.start,
                      survivors=given.survivors, changed=given.changed, draws=given.draws)
            for seed in range(given.runs)
        ]  # fmt: skip
        right = sum(one.winner == PLANTED for one in found) / given.runs
        wrong = sum(one.winner not in (None, PLANTED) for one in found) / given.runs
        error = [np.sqrt(share * (1 - share) / given.runs) for share in (right, wrong)]
        print(f"gain {gain:.3f}: found {right:.3f} ± {error[0]:.3f}, another claimed {wrong:.3f} ± {error[1]:.3f}")


if __name__ == "__main__":
    main()
