"""What the figures are to be, and whether they are.

Targets with absolute seconds are meant for two cores of a server of today; they are shown, and never fail a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from eval.bench.rows import Row

Figure = Literal["ratio", "p50_s", "size_mb"]


class Target(NamedTuple):
    """One figure of one row, and the most that it should be."""

    part: str
    case: str
    arm: str
    figure: Figure
    most: float


class Outcome(NamedTuple):
    """A target, and what was measured."""

    target: Target
    value: float

    @property
    def met(self) -> bool:
        """Whether the figure is within the target."""
        return self.value <= self.target.most


TARGETS = (
    Target("search", "10,000 titles, 10 beams, 1 user", "transformers, prefix_allowed_tokens_fn", "ratio", 1 / 10),
    Target("search", "100,000 titles, 50 beams, 1 user", "transformers, prefix_allowed_tokens_fn", "ratio", 1 / 30),
    Target("search", "10,000 titles, 10 beams, 1 user", "prefill alone", "ratio", 1.35),
    Target("search", "10,000 titles, 10 beams, 1 user", "greedy, one title", "ratio", 0.8),
    Target("search", "10,000 titles, 10 beams, 8 users", "prefill of their own tokens", "ratio", 1.2),
    Target("search", "vLLM, 1 user", "beam_search, 10 beams, mean title", "ratio", 1 / 4),
    Target("search", "vLLM, 1 user", "beam_search, 10 beams, mean title, default blocks", "ratio", 1 / 40),
    Target("search", "vLLM, 1 user", "greedy, mean title", "ratio", 0.8),
    Target("trie", "build, 1,000,000 titles", "llmgen", "p50_s", 1.2),
    Target("trie", "build, 1,000,000 titles", "llmgen", "size_mb", 85),
    Target("trie", "build, 10,000,000 ids", "llmgen", "p50_s", 8),
    Target("trie", "load, 1,000,000 titles", "llmgen", "p50_s", 0.05),
    Target("trie", "steps of 32 nodes, up to 10,000,000 ids", "10,000 titles", "ratio", 1.5),
    Target("search", "request, up to 1,000,000 titles", "10,000 titles", "ratio", 1.3),
    Target("search", "one item more, up to 1,000,000 titles", "1,000,000 titles", "p50_s", 0.05),
    Target("vectors", "request by words, up to 1,000,000 items", "10,000 items", "ratio", 1.3),
    Target("vectors", "request by a history of 20, up to 1,000,000 items", "10,000 items", "ratio", 1.3),
    Target("vectors", "one item more is found by words, up to 1,000,000 items", "1,000,000 items", "p50_s", 0.05),
    Target("start", "import", "import llmgen", "p50_s", 0.15),
    Target("start", "help", "llmgen --help", "p50_s", 0.3),
    Target("page", "a list after the next user", "llmgen", "p50_s", 2),
    Target("page", "a list after another sentence in the template", "llmgen", "p50_s", 2),
    Target("page", "a list after another weight of the model", "llmgen", "p50_s", 2),
)


def outcomes(rows: Sequence[Row], targets: Sequence[Target] = TARGETS) -> list[Outcome]:
    """The targets of which the figures were measured."""
    by_key = {row.key: row for row in rows}
    found = []
    for target in targets:
        row = by_key.get((target.part, target.case, target.arm))
        value = None if row is None else getattr(row, target.figure)
        if value is not None:
            found.append(Outcome(target, value))
    return found
