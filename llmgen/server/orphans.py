"""Orphans: a process whose parent was killed ends too; else it would hold a port, or memory that nobody uses."""

from __future__ import annotations

import os
import signal
import threading
import time

LOOK_S = 0.25
"""The parent is looked at so often."""


def end_with(parent: int) -> None:
    """Get SIGTERM once the parent of this process is another one than at first, as after `kill -9`.

    Args:
        parent: The process that started this one.
    """
    threading.Thread(target=_watch, args=(parent,), name="llmgen-parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    os.kill(os.getpid(), signal.SIGTERM)
