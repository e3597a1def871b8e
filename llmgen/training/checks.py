"""What can be known to be wrong with a training run before any data or model is read, all of it in one message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft

from llmgen.adapters import AdapterRecord
from llmgen.errors import ConfigError, LLMGenError
from llmgen.priors import kinds as prior_kinds
from llmgen.recommend.settings import prior_settings
from llmgen.templates.library import PromptLibrary
from llmgen.training.data import wrong_tasks
from llmgen.training.recipe import Recipe
from llmgen.workspace.core import wrong_in


def check(recipe: Recipe) -> None:
    """Look at everything that needs neither data nor model.

    Raises:
        ConfigError: One line for each mistake.
    """
    if found := list(mistakes(recipe)):
        raise ConfigError("\n".join(found))


def peft_config(settings: Mapping[str, Any]) -> peft.PeftConfig:
    """The configuration that the recipe's `peft` stands for.

    Raises:
        ConfigError: There is no such method or setting.
    """
    try:
        return peft.get_peft_config({"task_type": "CAUSAL_LM", **settings})
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"peft: {error}; it takes a peft_type and the fields of its PEFT config") from None


def mistakes(recipe: Recipe) -> Iterator[str]:
    """What is wrong with what the settings of a recipe name, one line each."""
    yield from wrong_in(recipe.data)
    priors = prior_settings(recipe.priors)
    for name in priors:
        if name in prior_kinds.kinds() and prior_kinds.kind(name).reads == "text":
            yield f"the prior {name} reads the words of a query, and nobody in a log wishes; leave it out"
    yield from prior_kinds.wrong(priors)
    library = PromptLibrary.default()
    yield from wrong_tasks(recipe.tasks, library)
    if recipe.prompt and recipe.prompt not in library:
        yield f"prompt: none is called {recipe.prompt!r}; there are {', '.join(library)}"
    if recipe.model and recipe.model.startswith((".", "/", "~")) and not Path(recipe.model).expanduser().is_dir():
        yield f"model: there is no folder {recipe.model}"
    if recipe.adapter:
        try:
            AdapterRecord.read(recipe.adapter)
        except LLMGenError as error:
            yield f"adapter: {error}"
    elif recipe.peft:
        try:
            peft_config(recipe.peft)
        except ConfigError as error:
            yield str(error)
