"""The engine without a model keeps the contract, and its script."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from llmgen.engines import Engine, GenerationConfig, Step, load_engine
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


def test_made_up_probabilities_are_the_same_in_every_process_and_differ_with_all_that_is_asked() -> None:
    steps = [Step(prompt, suffix, np.arange(VOCABULARY), True) for prompt in ((1,), (2,)) for suffix in ((), (1,))]
    answers = np.concatenate([np.array(FakeEngine(seed=seed).next_logprobs(steps)) for seed in (0, 1)])
    assert len(np.unique(answers)) == answers.size == 8 * VOCABULARY
    program = (
        "import numpy as np; from llmgen.engines import Step; from llmgen.engines.fake import FakeEngine; "
        "print(FakeEngine().next_logprobs([Step((1,), (), np.arange(1), True)])[0][0])"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(other.stdout) == answers[0, 0]


def test_made_up_logits_have_the_spread_that_is_said() -> None:
    steps = [Step((prompt,), (), np.arange(VOCABULARY)) for prompt in range(400)]
    logits = np.concatenate(FakeEngine().next_logprobs(steps))
    assert abs(logits.mean()) < 0.05  # 0 and 3 for infinitely many; the mean of 104,000 strays by 0.01
    assert logits.std() == pytest.approx(3, abs=0.05)


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
