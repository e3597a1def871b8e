"""The old place of `llmgen.templates.tasks`; it goes with the next release."""

from __future__ import annotations

from llmgen.errors import renamed


def __getattr__(name: str) -> object:
    from llmgen.templates import tasks as moved

    if name.startswith("__") or not hasattr(moved, name):
        raise AttributeError(f"module 'llmgen.tasks' has no attribute {name!r}")
    return renamed(f"llmgen.tasks.{name}", f"llmgen.templates.tasks.{name}", getattr(moved, name))
