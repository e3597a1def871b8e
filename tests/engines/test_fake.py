"""The engine without a model keeps the contract, and its script."""

from __future__ import annotations

import pytest

from llmgen.engines import Engine, GenerationConfig, load_engine
from llmgen.engines.fake import VOCABULARY, FakeEngine
from llmgen.errors import ConfigError
from llmgen.types import Message
from tests.engines.contract import EngineContract

CHAT = [Message("user", "Something slow")]


class TestFake(EngineContract):
    one_sequence = False

    @pytest.fixture
    def engine(self) -> Engine:
        return FakeEngine(["Alien", "Up"])

    def vocabulary(self, engine: Engine) -> int:
        return VOCABULARY


def test_completions_come_in_turn_and_again() -> None:
    engine = FakeEngine(["Alien", "Up"])
    written = engine.generate([CHAT, CHAT, CHAT], GenerationConfig())
    assert [answer.text for answer in written] == ["Alien", "Up", "Alien"]


def test_a_completion_that_is_too_long_is_not_finished() -> None:
    (answer,) = FakeEngine(["Amélie"]).generate([CHAT], GenerationConfig(max_new_tokens=3))
    assert (answer.text, answer.finished) == ("Am", False)  # the third byte is half an é


@pytest.mark.parametrize("name", ["vllm-ish:model", "", "HF"])
def test_unknown_kinds_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no engine of the kind"):
        load_engine(name)


def test_the_fake_engine_takes_no_adapter() -> None:
    with pytest.raises(ConfigError, match="no weights"):
        load_engine("fake", adapter="runs/films")


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"temperature": -1.0}])
def test_generation_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        GenerationConfig(**settings)  # type: ignore[arg-type]
