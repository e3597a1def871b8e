"""Names for the nodes of a tree: the words that set each apart from its siblings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from math import log

from llmgen.identifiers.tree import Tree
from llmgen.text.normalization import tokens
from llmgen.types import IntArray, Item

PHRASE = 3
"""Words of the longest attribute that is a term as a whole, such as `turn-based strategy`."""
LONGEST_TERM = 30
OTHER = "other"
"""Name of a node whose items have no word left that a sibling does not have."""
SILENT = frozenset(
    {"the", "and", "for", "with", "from", "not", "are", "was", "you", "your", "all", "its", "his", "her", "our", "this"}
    | {"that", "into", "out", "off", "one", "two", "new", "der", "die", "das", "und", "von", "mit", "les", "des", "aux"}
    | {"una", "por", "con", "del", "los", "las"}
)
"""Words that say nothing of what an item is."""


def terms_of(item: Item) -> frozenset[str]:
    """What may name a group of items with this one: words of its title, and its attributes.

    >>> sorted(terms_of(Item("1", "Fire Emblem 7", {"genres": ("Turn-based", "Fantasy"), "year": 2003})))
    ['emblem', 'fantasy', 'fire', 'turn-based']
    """
    found = set(_words(item.title))
    for value in item.attributes.values():
        for part in value if isinstance(value, tuple) else (value,):
            if not isinstance(part, str):
                continue
            phrase = " ".join(part.casefold().replace(">", " ").replace(":", " ").split())
            if len(phrase.split()) <= PHRASE and len(phrase) <= LONGEST_TERM and not phrase.isdigit():
                found.add(phrase)
            else:
                found.update(_words(part))
    return frozenset(found - {""})


def name_nodes(tree: Tree, nodes: IntArray, terms: Sequence[Collection[str]]) -> list[str]:
    """A name for each node: no two siblings have the same, and none has that of a node above it.

    Of the terms t of a node c, the one with the largest

        W(t, c) = tf(t, c) * log(1 + A / f(t))

    where tf(t, c) is the share of t among the terms of the items below c, f(t) how many items below c and its siblings
    have t, and A how many terms a sibling has on average. The siblings choose in the order of the largest W.

    Args:
        tree: Whose nodes.
        nodes: int64 [n_items], see `Tree.place`.
        terms: Of each item.

    Source: class-based TF-IDF (Grootendorst, BERTopic, arXiv 2203.05794, equation 2), with siblings as classes.
    """
    counts: list[Counter[str]] = [Counter() for _ in tree.parents]
    for node, own in zip(nodes.tolist(), terms, strict=True):
        for above in tree.path(node):
            counts[above].update(own)
    names = [""] * len(counts)
    for parent in (-1, *range(len(counts))):
        begin, end = tree.children(parent)
        if begin < end:
            taken = {names[node] for node in tree.path(parent)}
            names[begin:end] = _apart(counts[begin:end], taken)
    return names


def _apart(siblings: Sequence[Counter[str]], taken: set[str]) -> list[str]:
    """A name for each of some siblings, none of those that are taken above them."""
    both: Counter[str] = Counter()
    for one in siblings:
        both.update(one)
    average = both.total() / len(siblings)
    weighed = sorted(
        (-count / one.total() * log(1 + average / both[term]), term, number)
        for number, one in enumerate(siblings)
        for term, count in one.items()
    )
    names: dict[int, str] = {}
    used = set(taken)
    for _, term, number in weighed:
        if number not in names and term not in used:
            names[number] = term
            used.add(term)
    spare = (name for number in range(1, len(siblings) + len(used) + 2) if (name := _spare(number)) not in used)
    return [names[number] if number in names else next(spare) for number in range(len(siblings))]


def _spare(number: int) -> str:
    return OTHER if number == 1 else f"{OTHER} {number}"


def _words(text: str) -> list[str]:
    return [
        word
        for word in tokens(text)
        if not word.isdigit() and word not in SILENT and not (word.isascii() and len(word) < 3)
        if len(word) <= LONGEST_TERM
    ]
