"""What can be known to be wrong with data and settings of a command before anything is read or loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llmgen.engines import kinds as engine_kinds
from llmgen.errors import ConfigError, LLMGenError
from llmgen.priors import kinds as prior_kinds
from llmgen.recommend.prompting import templates_for
from llmgen.templates.library import PromptLibrary
from llmgen.workspace.core import RATING_PRIORS, DataSettings, RecommenderSettings, wrong_in


def check(data: DataSettings | None, settings: RecommenderSettings) -> None:
    """Refuse settings with several mistakes, in one message; a single one is told where it is met, as ever.

    Args:
        data: None where a file of items or a folder stands in its place.
        settings: How to recommend.

    Raises:
        ConfigError: Two mistakes or more.
    """
    found = [] if data is None else list(wrong_in(data))
    found += _of(settings)
    refuse(found)


def refuse(found: Sequence[str]) -> None:
    """Tell several mistakes in one message.

    Args:
        found: The mistakes; one alone is left to where it is met.

    Raises:
        ConfigError: Two or more.
    """
    if len(found) > 1:
        raise ConfigError(f"{len(found)} settings are wrong: {'; '.join(found)}")


def _of(settings: RecommenderSettings) -> Iterator[str]:
    kind = settings.engine.partition(":")[0]
    if kind not in (there := engine_kinds()):
        yield f"no engine is of the kind {kind!r}; there are {', '.join(there)}"
    try:
        _ = settings.record
    except LLMGenError as error:
        yield str(error)
    else:
        if settings.folder is None:  # what was fitted knows its own priors
            yield from prior_kinds.wrong(settings.prior_settings)
    for name in sorted(set(settings.rating_priors or {}) - set(RATING_PRIORS)):
        yield f"no rating prior is called {name!r}; there are {', '.join(RATING_PRIORS)}"
    prompts = (settings.prompt,) if isinstance(settings.prompt, str) else settings.prompt
    try:
        library = PromptLibrary.default(*([settings.prompt_folder] if settings.prompt_folder else []))
    except (LLMGenError, OSError) as error:
        yield str(error)
        return
    wrong = []
    for name in prompts:
        try:
            _ = library[name]
        except LLMGenError as error:
            wrong.append(str(error))
    if not wrong:
        try:
            templates_for(prompts, library, None)
        except LLMGenError as error:
            wrong.append(str(error))
    yield from wrong
