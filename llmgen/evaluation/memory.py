"""The memory that a run may take: stated, and kept by working in pieces or by refusing."""

from __future__ import annotations

import os

from llmgen.errors import ConfigError

SHARE = 0.25
"""Of the machine's memory, by default."""
GIB = float(1 << 30)


def budget(gib: float | None = None) -> int:
    """Bytes that a run may take.

    Args:
        gib: GiB, above 0; a quarter of the machine's by default.

    Raises:
        ConfigError: Not above 0, or more than the machine has.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if gib is None:
        return int(there * SHARE)
    if not 0 < gib * GIB <= there:
        raise ConfigError(f"memory is in GiB, above 0 and at most this machine's {there / GIB:.1f}, not {gib:g}")
    return int(gib * GIB)


def rows_within(share: int, columns: int, arrays: int, most: int) -> int:
    """How many rows of so many float64 arrays fit into some bytes, 1 to `most`."""
    return max(1, min(most, share // (8 * columns * arrays)))
