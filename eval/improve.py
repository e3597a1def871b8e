"""How often `llmgen prompts improve` finds what is there, and claims what is not, on simulated users.

    python -m eval.improve --runs 1000 --gain 0.02

Thirty proposals that are as good as the original, and one that is not: its NDCG@10 is higher by `--gain`. A user's item
stands in the list of the original with a probability that differs by user, .2 on average (Beta(1, 4)), at any of ten
places; a proposal moves it to another draw of the same distribution for a share `--changed` of the users, whatever they
are asked, which makes no difference in the mean. The better one lifts misses into the list besides, for every second
user. Search and confirmation are those of the command, without a model.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmgen.evaluation.improve.halving import EACH, ERROR, SEARCHED, claims, first_round, requests, search
from llmgen.evaluation.stats.pairwise import compare
from llmgen.types import FloatArray

ORIGINAL, PLANTED = "original", "planted"
HIT = 0.2
HELPED = 0.5
"""Share of the users whom the planted one helps."""


class Found(NamedTuple):
    """Of one simulation.

    Attributes:
        winner: Who was called better.
        confirmed: Who was confirmed.
    """

    winner: str | None
    confirmed: tuple[str, ...]


def values(
    rng: np.random.Generator, arms: int, users: int, gain: float, changed: float, samples: int
) -> dict[str, FloatArray]:
    """NDCG@10 by arm, a mean over samples for each user: original, `arms` equal ones, with a gain the planted one."""
    worth = 1 / np.log2(np.arange(10) + 2)
    shape = users, samples
    likely = rng.beta(1, 1 / HIT - 1, (users, 1))

    def drawn() -> FloatArray:
        made: FloatArray = np.where(rng.random(shape) < likely, worth[rng.integers(10, size=shape)], 0.0)
        return made

    original = drawn()
    found = {ORIGINAL: original}
    for name in [f"equal {number}" for number in range(arms)] + ([PLANTED] if gain else []):
        found[name] = np.where(rng.random((users, 1)) < changed, drawn(), original)
    if gain:
        # of those that miss, so many get a place that the mean rises by the gain
        share = gain / ((1 - HIT) * worth.mean()) / HELPED
        helped = rng.random((users, 1)) < HELPED
        lifted = (found[PLANTED] == 0) & helped & (rng.random(shape) < share)
        found[PLANTED] = np.where(lifted, worth[rng.integers(10, size=shape)], found[PLANTED])
    return {name: array.mean(axis=1) for name, array in found.items()}


def simulated(
    seed: int, *, gain: float, arms: int, users: int, limit: int | None, survivors: int, changed: float, draws: int
) -> Found:
    """One search with its confirmation."""
    rng = np.random.default_rng(seed)
    some = round(SEARCHED * users)
    first = values(rng, arms, some, gain, changed, EACH)
    second = values(rng, arms, users - some, gain, changed, 1)
    names = [name for name in first if name != ORIGINAL]
    start = first_round(len(names), some, users - some, survivors, limit)
    if start is None:
        raise SystemExit(f"{limit} requests are too few for {len(names)} proposals and {users} users")

    def ask(asked: Sequence[str], number: int) -> Mapping[str, FloatArray]:
        return {name: first[name][:number] for name in asked}

    rounds = search(names, ORIGINAL, some, ask, start=start, survivors=survivors)
    left = tuple(one.arm for one in rounds[-1].standings if one.kept)
    if not left:
        return Found(None, ())
    met = {name: {"ndcg@10": second[name]} for name in (ORIGINAL, *left)}
    rows = compare(met, baseline=ORIGINAL, metric="ndcg@10", draws=draws, seed=seed)
    means = {row.arm: row.difference.mean for row in rows}
    sure = claims(left, {row.arm: (row.difference.mean, row.p) for row in rows})
    better = [arm for arm, p in sure.items() if p <= ERROR]
    return Found(max(better, key=means.__getitem__, default=None), left)


def main() -> None:
    """Simulate, and print shares with their standard errors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="Of the first simulation; each next one has the next seed.")
    parser.add_argument("--gain", type=float, nargs="*", default=[0.0, 0.01, 0.015, 0.02, 0.03])
    parser.add_argument("--arms", type=int, default=30)
    parser.add_argument("--users", type=int, default=943, help="To search on and to confirm with.")
    parser.add_argument("--limit", type=int, default=9267, help="Requests at most.")
    parser.add_argument("--survivors", type=int, default=2)
    parser.add_argument("--changed", type=float, default=0.15, help="Share of users whose list another prompt changes.")
    parser.add_argument("--draws", type=int, default=2000)
    given = parser.parse_args()
    some = round(SEARCHED * given.users)
    others = given.users - some
    start = first_round(given.arms + 1, some, others, given.survivors, given.limit)
    cost = 0 if start is None else requests(given.arms + 1, some, start, given.survivors, others)
    print(f"{given.runs} simulations, {some} + {others} users, first round {start}, {cost} requests at most")
    for gain in given.gain:
        found = [
            simulated(seed, gain=gain, arms=given.arms, users=given.users, limit=given.limit,
                      survivors=given.survivors, changed=given.changed, draws=given.draws)
            for seed in range(given.seed, given.seed + given.runs)
        ]  # fmt: skip
        shares = {
            "confirmed": sum(PLANTED in one.confirmed for one in found) / given.runs,
            "found": sum(one.winner == PLANTED for one in found) / given.runs,
            "another claimed": sum(one.winner not in (None, PLANTED) for one in found) / given.runs,
        }
        said = [
            f"{what} {share:.3f} ± {np.sqrt(share * (1 - share) / given.runs):.3f}" for what, share in shares.items()
        ]
        print(f"gain {gain:.3f}: {', '.join(said)}", flush=True)


if __name__ == "__main__":
    main()
