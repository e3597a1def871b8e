"""The models that an arm of the page can choose among: what names them on the command line."""

from __future__ import annotations

import shlex

from llmgen.errors import ConfigError
from llmgen.workspace.core import RecommenderSettings
from llmgen.workspace.options import read_options

SETTINGS = ("engine", "adapter")


def settings_of(text: str, settings: RecommenderSettings) -> RecommenderSettings:
    """The settings of a service with another model.

    Args:
        text: An engine such as `hf:MODEL`, or options: `--engine hf:MODEL --adapter FOLDER`, one of them or both.
        settings: Of the service; its engine is taken where none is named, and never its adapter.

    Raises:
        ConfigError: Another option, or a text that is no option.

    >>> settings_of("--adapter runs/films", RecommenderSettings(engine="hf")).adapter
    'runs/films'
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--also {text!r} cannot be read: {error}") from None
    if len(words) == 1 and not words[0].startswith("--"):
        words = ["--engine", *words]
    given = read_options(words, ())
    if unknown := sorted(set(given) - set(SETTINGS)):
        option = unknown[0].replace("_", "-")
        raise ConfigError(f"--also takes --engine and --adapter, not --{option}; all else is chosen on the page")
    if not given:
        raise ConfigError("--also names a model; write --also hf:MODEL, or --also '--adapter FOLDER'")
    return settings.replace(**{"adapter": None, **given})
