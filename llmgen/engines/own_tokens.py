"""Embeddings that an adapter brings for tokens of its own, such as codes of items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def settle_tokens(model: Any) -> None:
    """Write the embeddings that a PEFT adapter has trained for single tokens into the model's own layers.

    That is exact in every precision: rows are replaced. Layers are plain ones again, which engines read row by row.

    Args:
        model: With an adapter, which is not merged yet.
    """
    from peft.utils.other import TrainableTokensWrapper

    wrapped = [(name, one) for name, one in model.named_modules() if isinstance(one, TrainableTokensWrapper)]
    for name, one in wrapped:
        one.token_adapter.merge()
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, one.token_adapter.get_base_layer())


def has_own_tokens(adapter: str | Path) -> bool:
    """Whether an adapter in a folder here brings embeddings of tokens."""
    try:
        config = json.loads((Path(adapter) / "adapter_config.json").read_text(encoding="utf-8"))
    except OSError:
        return False
    return bool(config.get("trainable_token_indices"))
