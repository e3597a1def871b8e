"""EngineContract: what every engine must do, as tests that the test class of an engine inherits."""

from __future__ import annotations

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.engines import Engine, GenerationConfig, Step, line_break, spell_lines
from llmgen.errors import EngineUnavailableError
from llmgen.testing.catalogs import films
from llmgen.types import FloatArray, Message

CHATS = [
    [Message("system", "You recommend films from a fixed catalog."), Message("user", "Something slow" + "!" * length)]
    for length in (1, 40, 7)
]


class EngineContract:
    """Give it a fixture `engine` and the method `vocabulary`. The engine must be able to score (`constrained`).

    Use tiny models with random weights, whose answers differ clearly. What not every engine has, a test class gives by
    `adapted`, `interrupt` and `recover`; without them those tests are skipped.

    Attributes:
        tolerance: Largest difference of two log-probabilities that are to be equal; larger where the engine does not
            compute in float32.
        num_titles: Of so many titles the paths are asked about; fewer where the model takes its time.
        one_sequence: Whether prompt and path are one text to the model, wherever the one ends.
    """

    tolerance = 1e-4
    num_titles = 12
    one_sequence = True

    def vocabulary(self, engine: Engine) -> int:
        """How many tokens the model knows: `next_logprobs` is asked about each of 0 to this number - 1."""
        pytest.fail("give the test class a method `vocabulary` that says how many tokens the model knows")

    def adapted(self, engine: Engine) -> Engine:
        """The same engine with an adapter that changes its answers."""
        pytest.skip("this engine takes no adapter here")

    def interrupt(self, engine: Engine) -> None:
        """Kill what the engine runs on."""
        pytest.skip("nothing of this engine can die alone")

    def recover(self, engine: Engine) -> None:
        """Bring back what `interrupt` killed, where the engine does not do it itself."""

    @pytest.fixture
    def made_up_films(self) -> Catalog:
        """Two hundred made-up films."""
        return films(200)

    @pytest.fixture
    def prompts(self, engine: Engine) -> list[tuple[int, ...]]:
        """Token ids of `CHATS`."""
        return [engine.tokenize(chat) for chat in CHATS]

    @pytest.fixture
    def steps(self, engine: Engine, prompts: list[tuple[int, ...]], made_up_films: Catalog) -> list[Step]:
        """Questions behind the beginnings of some titles, few and many tokens wide."""
        paths = engine.spell(made_up_films.labels[: self.num_titles])
        wanted = [np.arange(5, dtype=np.int64), np.arange(3, 200, 2, dtype=np.int64)]
        return [
            Step(prompt, path[:depth], tokens)
            for prompt in prompts
            for path in paths
            for depth in range(min(4, len(path)))
            for tokens in wanted
        ]

    def test_answers_do_not_depend_on_the_company(self, engine: Engine, steps: list[Step]) -> None:
        """Up to a constant, where only some tokens are asked about."""
        together = engine.next_logprobs(steps)
        for step, answer in list(zip(steps, together, strict=True))[::7]:
            (alone,) = engine.next_logprobs([step])
            assert np.allclose(answer - answer.mean(), alone - alone.mean(), atol=self.tolerance)

    def test_full_answers_are_log_probabilities(self, engine: Engine, prompts: list[tuple[int, ...]]) -> None:
        """float64, and the probabilities of the whole vocabulary sum to 1."""
        for depth in (0, 2):
            suffix = engine.spell(["Alien (1979)"])[0][:depth]
            wanted = np.arange(self.vocabulary(engine), dtype=np.int64)
            (answer,) = engine.next_logprobs([Step(prompts[0], suffix, wanted, full=True)])
            assert answer.dtype == np.float64
            assert np.exp(answer).sum() == pytest.approx(1, abs=1e-3)

    def test_partial_answers_differ_from_full_ones_by_a_constant(self, engine: Engine, steps: list[Step]) -> None:
        """Which is the same for all tokens of a step."""
        full = engine.next_logprobs([Step(s.prompt, s.suffix, s.wanted, full=True) for s in steps])
        for one, other in zip(engine.next_logprobs(steps), full, strict=True):
            assert np.ptp(one - other) < self.tolerance

    def test_what_is_spelled_ends_alike_and_holds_no_control_token(
        self, engine: Engine, made_up_films: Catalog
    ) -> None:
        """Titles with the text of a control token too."""
        paths = engine.spell(made_up_films.labels)
        assert len({path[-1] for path in paths}) == 1
        assert all(paths[0][-1] not in path[:-1] for path in paths)

    def test_spelling_one_by_one_is_spelling_together(self, engine: Engine, made_up_films: Catalog) -> None:
        """And nothing is spelled as nothing."""
        labels = made_up_films.labels[:20]
        assert engine.spell(labels) == [engine.spell([label])[0] for label in labels]
        assert engine.spell([]) == []

    def test_an_answer_that_is_begun_goes_on_line_by_line(self, engine: Engine) -> None:
        """Where the last message is the assistant's, its lines are spelled as answers."""
        asked = (Message("user", "List films."),)
        none = engine.tokenize(asked)
        one = engine.tokenize((*asked, Message("assistant", "Alien (1979)")))
        two = engine.tokenize((*asked, Message("assistant", "Alien (1979)\nУ озера")))
        first, second = spell_lines(engine, ["Alien (1979)", "У озера"])
        assert one == (*none, *first)
        assert two == (*one, *second)
        (answer,) = engine.spell(["У озера"])
        assert second == (*answer[:-1], *line_break(engine))  # ends in a letter, which no tokenizer joins
        assert len(second) >= len(answer)

    def test_generation_keeps_order_and_length(self, engine: Engine) -> None:
        """One completion a chat, within its budget."""
        written = engine.generate(CHATS, GenerationConfig(max_new_tokens=5))
        assert len(written) == len(CHATS)
        assert all(answer.num_tokens <= 5 for answer in written)

    def test_no_question_no_answer(self, engine: Engine) -> None:
        """Empty batches."""
        assert engine.next_logprobs([]) == []
        assert engine.generate([], GenerationConfig()) == []

    def test_wide_nodes_beside_narrow_ones(self, engine: Engine, prompts: list[tuple[int, ...]]) -> None:
        """Tokens in any order, from one to the whole vocabulary."""
        rng = np.random.default_rng(0)
        vocabulary = self.vocabulary(engine)
        widths = (min(1500, vocabulary), 3, min(200, vocabulary), 1)
        suffixes = ((), engine.spell(["Alien (1979)"])[0][:2])
        steps = [
            Step(prompt, suffix, rng.permutation(vocabulary)[:width].astype(np.int64))
            for prompt in prompts
            for suffix in suffixes
            for width in widths
        ]
        everything = np.arange(vocabulary, dtype=np.int64)
        whole = engine.next_logprobs([Step(step.prompt, step.suffix, everything, full=True) for step in steps[::4]])
        for number, (step, answer) in enumerate(zip(steps, engine.next_logprobs(steps), strict=True)):
            assert np.ptp(answer - whole[number // 4][step.wanted]) < self.tolerance

    def test_prompts_of_unequal_length(self, engine: Engine, prompts: list[tuple[int, ...]]) -> None:
        """Also around whole blocks of a cache."""
        text = sum(prompts, ())
        lengths = sorted({1, 2, 15, 16, 17, 31, 32, 33, 64, len(text)} & set(range(len(text) + 1)))
        wanted = np.arange(50, dtype=np.int64)
        steps = [Step(text[:length], text[3 : 3 + more], wanted, full=True) for length in lengths for more in (0, 1, 5)]
        together = engine.next_logprobs(steps)
        for step, answer in list(zip(steps, together, strict=True))[::-1]:
            (alone,) = engine.next_logprobs([step])
            assert np.abs(answer - alone).max() < self.tolerance

    def test_what_is_forgotten_is_read_again(self, engine: Engine, prompts: list[tuple[int, ...]]) -> None:
        """After `forget` the same prompt costs what it cost at first, and is answered alike."""
        step = Step(max(prompts, key=len), (), np.arange(50, dtype=np.int64), full=True)
        (before,) = engine.next_logprobs([step])
        if not engine.forget():
            return  # a server's memory is its own
        read, cached = engine.usage.read_tokens, engine.usage.cached_tokens
        (after,) = engine.next_logprobs([step])
        assert np.abs(after - before).max() < self.tolerance
        assert engine.usage.cached_tokens == cached
        assert engine.usage.read_tokens - read in (0, len(step.prompt))  # 0 where an engine does not count

    def test_it_does_not_matter_where_the_prompt_ends(self, engine: Engine, prompts: list[tuple[int, ...]]) -> None:
        """The same text, cut into prompt and path at several places."""
        if not self.one_sequence:
            pytest.skip("to this engine prompt and path are two things")
        text = max(prompts, key=len)
        wanted = np.arange(50, dtype=np.int64)
        cuts = (len(text), len(text) - 1, len(text) - 7, len(text) // 32 * 32 or 1, 1)
        answers = engine.next_logprobs([Step(text[:cut], text[cut:], wanted, full=True) for cut in cuts])
        for answer in answers[1:]:
            assert np.abs(answer - answers[0]).max() < self.tolerance

    def test_an_adapter_changes_its_own_answers_only(self, engine: Engine, steps: list[Step]) -> None:
        """Engines with and without it are asked in turn."""
        adapted = self.adapted(engine)
        some = [Step(step.prompt, step.suffix, step.wanted, full=True) for step in steps[::13]]
        before, changed, after, again = (e.next_logprobs(some) for e in (engine, adapted, engine, adapted))
        assert largest_difference(before, changed) > 0.01
        assert largest_difference(before, after) < self.tolerance
        assert largest_difference(changed, again) < self.tolerance

    def test_an_interrupted_engine_works_again(self, engine: Engine, steps: list[Step]) -> None:
        """By itself, or after `recover`."""
        some = [Step(step.prompt, step.suffix, step.wanted, full=True) for step in steps[::13]]
        before = engine.next_logprobs(some)
        self.interrupt(engine)
        try:
            after = engine.next_logprobs(some)
        except EngineUnavailableError:
            self.recover(engine)
            after = engine.next_logprobs(some)
        assert largest_difference(before, after) < self.tolerance


def largest_difference(one: list[FloatArray], other: list[FloatArray]) -> float:
    """Of two lists of arrays, the largest absolute difference of two numbers."""
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))
