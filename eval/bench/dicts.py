"""The tries that people use today: dicts in dicts, and marisa-trie where it is installed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

MEGABYTE = 1_000_000

Tree = dict[int, "Tree"]


class DictTrie:
    """A dict a node, from token to the node below; what most published decoders look tokens up in.

    Source: De Cao et al., ICLR 2021, `trie.py` of GENRE.
    """

    def __init__(self, paths: Iterable[Sequence[int]]) -> None:
        self.root: Tree = {}
        for path in paths:
            node = self.root
            for token in path:
                node = node.setdefault(token, {})

    def children(self, prefix: Iterable[int]) -> list[int]:
        """Tokens that may follow; none behind a whole path, or where no path begins so."""
        node = self.root
        for token in prefix:
            below = node.get(token)
            if below is None:
                return []
            node = below
        return list(node)

    def size_mb(self) -> float:
        """Memory of its dicts, 10^6 bytes."""
        total, level = 0, [self.root]
        while level:
            total += sum(map(sys.getsizeof, level))
            level = [node for tree in level for node in tree.values()]
        return total / MEGABYTE


class MarisaTrie:
    """Paths as strings of one character a token, in a succinct trie.

    Raises:
        ImportError: marisa-trie is not installed.
    """

    def __init__(self, paths: Iterable[Sequence[int]]) -> None:
        self.trie: Any = import_module("marisa_trie").Trie([_spelling(path) for path in paths])

    def children(self, prefix: Iterable[int]) -> list[int]:
        """As `DictTrie.children`; it has no list of them, so all keys below are looked at."""
        spelling = _spelling(prefix)
        depth = len(spelling)
        return sorted({_token(key[depth]) for key in self.trie.iterkeys(spelling) if len(key) > depth})

    def size_mb(self) -> float:
        """Memory as it would be written to a file, 10^6 bytes."""
        return len(self.trie.tobytes()) / MEGABYTE


def has_marisa() -> bool:
    """Whether marisa-trie is installed."""
    return find_spec("marisa_trie") is not None


# Surrogates are no characters that marisa-trie could encode: tokens from there on are moved behind them.
_SURROGATES, _BEHIND = 0xD800, 0xE000


def _spelling(path: Iterable[int]) -> str:
    codes = (token + 1 for token in path)
    return "".join(chr(code if code < _SURROGATES else code + _BEHIND - _SURROGATES) for code in codes)


def _token(character: str) -> int:
    code = ord(character)
    return (code if code < _SURROGATES else code - _BEHIND + _SURROGATES) - 1
