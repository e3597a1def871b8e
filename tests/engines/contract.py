"""The contract of `llmgen.testing` for engines that run a model with a tokenizer of transformers."""

from __future__ import annotations

from llmgen import testing
from llmgen.engines import Engine
from llmgen.testing.engines import CHATS, largest_difference

__all__ = ["CHATS", "EngineContract", "largest_difference"]


class EngineContract(testing.EngineContract):
    """Give it a fixture `engine`."""

    def vocabulary(self, engine: Engine) -> int:
        return len(engine.chat_tokenizer.tokenizer)  # type: ignore[attr-defined]
