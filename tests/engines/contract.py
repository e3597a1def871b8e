"""EngineContract: what every engine must do, as tests that each engine's own test class inherits."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.catalog import Catalog
from llmgen.engines import Engine, GenerationConfig, Step
from llmgen.types import Message

CHATS = [
    [Message("system", "You recommend films from a fixed catalog."), Message("user", "Something slow" + "!" * length)]
    for length in (1, 40, 7)
]


class EngineContract:
    """Give it a fixture `engine`, and `tolerance` where float32 is not what the engine computes in."""

    tolerance = 1e-4

    @pytest.fixture
    def prompts(self, engine: Engine) -> list[tuple[int, ...]]:
        return [engine.tokenize(chat) for chat in CHATS]

    @pytest.fixture
    def steps(self, engine: Engine, prompts: list[tuple[int, ...]], catalog: Catalog) -> list[Step]:
        paths = engine.spell(catalog.labels[:12])
        wanted = [np.arange(5, dtype=np.int64), np.arange(3, 200, 2, dtype=np.int64)]
        return [
            Step(prompt, path[:depth], tokens)
            for prompt in prompts
            for path in paths
            for depth in range(min(4, len(path)))
            for tokens in wanted
        ]

    def test_answers_do_not_depend_on_the_company(self, engine: Engine, steps: list[Step]) -> None:
        together = engine.next_logprobs(steps)
        for step, answer in list(zip(steps, together, strict=True))[::7]:
            (alone,) = engine.next_logprobs([step])
            assert np.allclose(answer - answer.mean(), alone - alone.mean(), atol=self.tolerance)

    def test_full_answers_are_log_probabilities(self, engine: Engine, prompts: list[tuple[int, ...]]) -> None:
        for depth in (0, 2):
            suffix = engine.spell(["Alien (1979)"])[0][:depth]
            wanted = np.arange(self.vocabulary(engine), dtype=np.int64)
            (answer,) = engine.next_logprobs([Step(prompts[0], suffix, wanted, full=True)])
            assert answer.dtype == np.float64
            assert np.exp(answer).sum() == pytest.approx(1, abs=1e-3)

    def test_partial_answers_differ_from_full_ones_by_a_constant(self, engine: Engine, steps: list[Step]) -> None:
        full = engine.next_logprobs([Step(s.prompt, s.suffix, s.wanted, full=True) for s in steps])
        for one, other in zip(engine.next_logprobs(steps), full, strict=True):
            assert np.ptp(one - other) < self.tolerance

    def test_what_is_spelled_ends_alike_and_holds_no_control_token(self, engine: Engine, catalog: Catalog) -> None:
        paths = engine.spell(catalog.labels)
        assert len({path[-1] for path in paths}) == 1
        assert all(paths[0][-1] not in path[:-1] for path in paths)

    def test_spelling_one_by_one_is_spelling_together(self, engine: Engine, catalog: Catalog) -> None:
        labels = catalog.labels[:20]
        assert engine.spell(labels) == [engine.spell([label])[0] for label in labels]

    def test_generation_keeps_order_and_length(self, engine: Engine) -> None:
        written = engine.generate(CHATS, GenerationConfig(max_new_tokens=5))
        assert len(written) == len(CHATS)
        assert all(answer.num_tokens <= 5 for answer in written)

    def test_no_question_no_answer(self, engine: Engine) -> None:
        assert engine.next_logprobs([]) == []
        assert engine.generate([], GenerationConfig()) == []

    def vocabulary(self, engine: Engine) -> int:
        return len(engine._chat.tokenizer)  # type: ignore[attr-defined]
