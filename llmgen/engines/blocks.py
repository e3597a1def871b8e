"""Keys and values of prompts, and of the paths that were run behind them: several prompts in one tensor a layer.

A block is a table: one row a prompt, one column a token. A prompt stands at the left of its row. Each pass over paths
adds the same number of columns to all rows, and which of them a token may see is said by a mask. So a pass costs the
same number of operations for one prompt and for a hundred, and nothing that is known is copied for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llmgen.types import IntArray

if TYPE_CHECKING:
    from torch import Tensor

ROOM = 32  # columns that are made at once, more than are needed


class Block:
    """Prompts whose keys and values lie together.

    Args:
        rows: How many prompts.
        columns: Tokens that each row has room for.

    Attributes:
        layers: Keys and values of each layer, [rows, heads, columns, head size].
        hidden: Last hidden states, [rows, columns, hidden size].
        used: Columns that are written, from the left.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns, self.used = rows, columns, 0
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.hidden = torch.empty(0)

    @property
    def tokens(self) -> int:
        """Tokens that memory is taken for."""
        return self.rows * self.columns

    @property
    def bytes(self) -> int:
        """Memory of all that is kept."""
        held = (self.hidden, *chain.from_iterable(self.layers))
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    def widen(self, columns: int) -> None:
        """Make room for so many columns in all, where there is less."""
        if columns > self.columns:
            self.columns = max(columns + ROOM, self.columns + self.columns // 4)
            self.layers = [(self._wider(keys, 2), self._wider(values, 2)) for keys, values in self.layers]
            self.hidden = self._wider(self.hidden, 1)

    def copy(self, source: Block, targets: Tensor, numbers: Tensor, columns: int) -> None:
        """Take the first columns of some rows of another block, `numbers`, as those of the rows `targets`."""
        if not self.layers:
            self.layers = [(self._made(keys), self._made(values)) for keys, values in source.layers]
            self.hidden = source.hidden.new_zeros(self.rows, self.columns, source.hidden.shape[2])
        pairs = zip(chain.from_iterable(self.layers), chain.from_iterable(source.layers), strict=True)
        for mine, theirs in pairs:
            mine[targets, :, :columns] = theirs[:, :, :columns].index_select(0, numbers)
        self.hidden[targets, :columns] = source.hidden[:, :columns].index_select(0, numbers)
        self.used = max(self.used, columns)

    def write(self, rows: slice, start: int, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values of a layer behind the first columns of some rows; all of these rows up to their end."""
        if layer == len(self.layers):
            self.layers.append((self._made(keys), self._made(values)))
        end = start + keys.shape[2]
        mine = tuple(kept[rows] for kept in self.layers[layer])
        mine[0][:, :, start:end] = keys
        mine[1][:, :, start:end] = values
        return mine[0][:, :, :end], mine[1][:, :, :end]

    def write_hidden(self, rows: slice, start: int, hidden: Tensor) -> None:
        """Put last hidden states of a pass, [rows, tokens, hidden size], behind the first columns of some rows."""
        if not self.hidden.numel():
            self.hidden = hidden.new_zeros(self.rows, self.columns, hidden.shape[2])
        self.hidden[rows, start : start + hidden.shape[1]] = hidden
        self.used = max(self.used, start + hidden.shape[1])

    def _made(self, like: Tensor) -> Tensor:
        # zeros: what a mask hides is multiplied by 0, and 0 times what stood in memory may be no number
        return like.new_zeros(self.rows, like.shape[1], self.columns, like.shape[3])

    def _wider(self, kept: Tensor, axis: int) -> Tensor:
        shape = list(kept.shape)
        shape[axis] = self.columns
        wider = kept.new_zeros(shape)
        wider.narrow(axis, 0, self.used).copy_(kept.narrow(axis, 0, self.used))
        return wider


@dataclass(frozen=True, slots=True)
class Past:
    """Where a pass finds what stands before its tokens, and puts what it makes of them.

    Attributes:
        block: It all lies in.
        rows: Of the block, those of the pass.
        before: Columns that stand before the tokens of the pass.
    """

    block: Block
    rows: slice
    before: int

    def known(self) -> list[tuple[Tensor, Tensor]] | None:
        """Keys and values that stand before, of each layer: [rows, heads, before, head size]; None where none do."""
        if not self.before:
            return None
        return [
            (keys[self.rows, :, : self.before], values[self.rows, :, : self.before])
            for keys, values in self.block.layers
        ]

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values behind those of the tokens before: [rows, heads, tokens, head size]; all of them."""
        return self.block.write(self.rows, self.before, layer, keys, values)


@dataclass(slots=True)
class Row:
    """What is kept of a prompt and of the paths that were run behind it: a tree with the prompt as its root.

    Attributes:
        block: Where it lies.
        number: Of its row there.
        length: Tokens of the prompt.
        nodes: Path -> columns of its tokens, in their order.
    """

    block: Block
    number: int
    length: int
    nodes: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=lambda: {(): ()})

    @property
    def size(self) -> int:
        """Tokens of the prompt and of the paths."""
        return self.length + len(self.nodes) - 1

    def column(self, path: tuple[int, ...]) -> int:
        """Of the last token of the prompt and a path behind it that was run."""
        return self.nodes[path][-1] if path else self.length - 1


class Growth(NamedTuple):
    """Nodes that a tree lacks, each behind the one above it."""

    tokens: list[int]
    nodes: dict[tuple[int, ...], tuple[int, ...]]
    """Path -> columns of its tokens; one entry a token, in the same order."""


def growth(row: Row, paths: Iterable[tuple[int, ...]]) -> Growth:
    """What the tree of a prompt lacks of some paths; the new nodes get the columns that the block uses next."""
    tokens: list[int] = []
    nodes: dict[tuple[int, ...], tuple[int, ...]] = {}
    start = row.block.used
    for path in paths:
        if path in row.nodes or path in nodes:
            continue
        above: tuple[int, ...] = ()
        for depth in range(1, len(path) + 1):
            begun = path[:depth]
            known = row.nodes.get(begun) or nodes.get(begun)
            if known is None:
                known = (*above, start + len(tokens))
                nodes[begun] = known
                tokens.append(path[depth - 1])
            above = known
    return Growth(tokens, nodes)


class Inputs(NamedTuple):
    """Of a pass over nodes, for all rows of a block."""

    ids: IntArray
    """int64 [rows, tokens], 0 where a row has fewer."""
    positions: IntArray
    """int64 [rows, tokens]."""
    seen: NDArray[np.bool_]
    """bool [rows, tokens, columns with these]: what each token may see."""


def inputs(block: Block, rows: Sequence[Row], growths: Sequence[Growth]) -> Inputs:
    """What a pass over the nodes that some trees of a block lack is given.

    Args:
        block: Of all rows.
        rows: Some of its rows.
        growths: Of each of these; one node at least in all.
    """
    sizes = np.array([len(one.tokens) for one in growths])
    width = int(sizes.max())
    ids = np.zeros((block.rows, width), np.int64)
    positions = np.zeros_like(ids)
    seen = np.zeros((block.rows, width, block.used + width), dtype=bool)
    numbers = np.array([row.number for row in rows])
    lengths = np.ones(block.rows, np.int64)  # of rows that are not asked about, one token, so that all are numbers
    lengths[numbers] = [row.length for row in rows]
    seen |= (np.arange(seen.shape[2]) < lengths[:, None])[:, None]

    row = numbers.repeat(sizes)
    node = np.arange(len(row)) - (sizes.cumsum() - sizes).repeat(sizes)
    columns = list(chain.from_iterable(one.nodes.values() for one in growths))
    depth = np.fromiter(map(len, columns), np.int64, len(columns))
    ids[row, node] = np.fromiter(chain.from_iterable(one.tokens for one in growths), np.int64, len(row))
    positions[row, node] = lengths[row] + depth - 1
    seen[row.repeat(depth), node.repeat(depth), np.fromiter(chain.from_iterable(columns), np.int64, depth.sum())] = True
    return Inputs(ids, positions, seen)
