"""The old place of `llmgen.http.client`; it goes with the next release."""

from __future__ import annotations

from llmgen.errors import renamed


def __getattr__(name: str) -> object:
    from llmgen.http import async_client, client

    for moved in (client, async_client):
        if not name.startswith("__") and hasattr(moved, name):
            return renamed(f"llmgen.client.{name}", f"{moved.__name__}.{name}", getattr(moved, name))
    raise AttributeError(f"module 'llmgen.client' has no attribute {name!r}")
