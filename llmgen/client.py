"""The old place of `llmgen.http.client`; it goes with the next release."""

from __future__ import annotations

from llmgen.errors import renamed


def __getattr__(name: str) -> object:
    from llmgen.http import client as moved

    if name.startswith("__") or not hasattr(moved, name):
        raise AttributeError(f"module 'llmgen.client' has no attribute {name!r}")
    return renamed(f"llmgen.client.{name}", f"llmgen.http.client.{name}", getattr(moved, name))
