"""Work done together in which one piece that fails harms no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, get_args

from llmgen.errors import EngineUnavailableError, LLMGenError
from llmgen.types import OnError

Work = TypeVar("Work")
Answer = TypeVar("Answer")
CHUNK = 64  # queries worked on together: bounds the priors' arrays, [64, n_items]


def isolate(run: Callable[[Sequence[Work]], Sequence[Answer]], works: Sequence[Work]) -> Iterator[Answer | LLMGenError]:
    """The answer to each piece of work, in order, or the error of llmgen that it alone ends in.

    All are run together. Where that fails they are halved until those that fail stand alone, so one that fails costs
    about as much again as all together; halves that nobody takes from the iterator are not run. An engine that is away
    is no single piece's fault: all of its half get that error at once.

    Args:
        run: Answers several pieces of work, in their order.
        works: Any number.

    Raises:
        RuntimeError: `run` gave another number of answers.
    """
    if not works:
        return
    failed: LLMGenError | None = None
    answers: Sequence[Answer] = ()
    try:
        answers = run(works)
    except LLMGenError as error:
        failed = error
    if failed is None:
        if len(answers) != len(works):
            raise RuntimeError(f"{len(works)} pieces of work got {len(answers)} answers")
        yield from answers
    elif len(works) == 1 or isinstance(failed, EngineUnavailableError):
        yield from [failed] * len(works)
    else:
        half = len(works) // 2
        yield from isolate(run, works[:half])
        yield from isolate(run, works[half:])


def check_on_error(on_error: str) -> None:
    """Refuse what is not an `OnError`.

    Raises:
        ValueError: It is something else.
    """
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error must be 'raise' or 'return', not {on_error!r}")


def each(
    run: Callable[[Sequence[Work]], Sequence[Answer]],
    works: Sequence[Work],
    on_error: OnError,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[Answer | LLMGenError]:
    """The answers of `run`, a chunk at a time; an error is raised with its place, or stands in its place."""
    check_on_error(on_error)
    answers: list[Answer | LLMGenError] = []
    for start in range(0, len(works), CHUNK):
        chunk = works[start : start + CHUNK]
        for number, answer in enumerate(isolate(run, chunk), start):
            if isinstance(answer, LLMGenError) and on_error == "raise":
                if len(works) == 1 or isinstance(answer, EngineUnavailableError):
                    raise answer
                raise type(answer)(f"query {number} of {len(works)} (counted from 0): {answer}") from answer
            answers.append(answer)
        advance(len(chunk))
    return answers
