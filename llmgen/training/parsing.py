"""Settings of a training run from a YAML file and flags; all that is wrong with them is told in one message."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from trl.scripts.utils import TrlParser
from trl.trainer.sft_config import SFTConfig

from llmgen.errors import ConfigError
from llmgen.training.checks import mistakes
from llmgen.training.recipe import MAPPINGS, Recipe, RecipeFlags

TEXTS = frozenset(one.name for one in fields(RecipeFlags) if one.type == "str") - set(MAPPINGS)


def parse(arguments: Sequence[str] | None = None) -> tuple[Recipe, SFTConfig]:
    """Settings from a file and flags, with defaults that suit the machine.

    Raises:
        ConfigError: One line for each mistake, those that `llmgen.training.checks` knows of among them; or a file that
            cannot be read.
    """
    cuda = torch.cuda.is_available()
    parser = Parser()
    parser.set_defaults(
        output_dir="runs/sft",
        use_cpu=not cuda,
        bf16=cuda,
        gradient_checkpointing=False,
        report_to="none",
        learning_rate=1e-3,
        max_steps=100,
        per_device_train_batch_size=8,
        logging_steps=10,
        save_steps=50,
        save_total_limit=2,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        disable_tqdm=not sys.stderr.isatty(),  # a log has the lines of `Stage`
    )
    given = parser.given(sys.argv[1:] if arguments is None else list(arguments))
    own = {field.name for field in fields(RecipeFlags)}
    recipe, wrong = Recipe.repaired({name: value for name, value in given.items() if name in own})
    wrong = [*parser.wrong, *wrong, *mistakes(recipe)]
    try:
        args = SFTConfig(**{name: value for name, value in given.items() if name not in own})
    except (ImportError, TypeError, ValueError) as error:
        wrong.append(" ".join(str(error).split()))
    if wrong:
        raise ConfigError("\n".join(wrong))
    return recipe, args


class Parser(TrlParser):
    """TRL's parser, which goes on behind a mistake.

    Attributes:
        wrong: One line for each setting that there is not or that is of the wrong kind; it has its default now.
    """

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._defaults: dict[str, object] = {}
        self._unknown: set[str] = set()  # settings that are none of what there is to choose from
        super().__init__([RecipeFlags, SFTConfig], prog="llmgen train")  # type: ignore[list-item]

    def given(self, arguments: list[str]) -> dict[str, Any]:
        """All settings by name.

        Raises:
            ConfigError: The file cannot be read, or a flag lacks its value.
        """
        self._defaults = {action.dest: action.default for action in self._actions}
        if "--config" in arguments:
            place = arguments.index("--config")
            self._take_over(self._read(arguments[place + 1 : place + 2]))
            arguments = arguments[:place] + arguments[place + 2 :]
        namespace, unknown = self.parse_known_args(arguments)
        for before, one in pairwise(["", *unknown]):
            if one.startswith("--"):
                self.wrong.append(self._no_setting(one))
            elif not before.startswith("--"):
                self.wrong.append(f"{one!r} belongs to no setting; write --setting value")
        found = {**vars(namespace), **{name: self._defaults[name] for name in self._unknown}}
        return {name: found[name] for kind in (RecipeFlags, SFTConfig) for name in _names(kind)}

    def _read(self, path: list[str]) -> dict[str, Any]:
        """The settings of a file; its `env` goes into the environment."""
        if not path:
            raise ConfigError("--config needs the file of a recipe")
        try:
            found = yaml.safe_load(Path(path[0]).read_text(encoding="utf-8")) or {}
        except OSError as error:
            raise ConfigError(f"cannot read {path[0]}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path[0]} is not YAML: {error}") from None
        if not isinstance(found, dict):
            raise ConfigError(f"{path[0]} must hold settings by name, not {found!r}")
        os.environ.update({name: str(value) for name, value in (found.pop("env", None) or {}).items()})
        return found

    def _take_over(self, settings: Mapping[str, Any]) -> None:
        """Make the settings of a file the defaults, but for those that are wrong."""
        actions = {action.dest: action for action in self._actions}
        for name, value in settings.items():
            if name not in actions:
                self.wrong.append(self._no_setting(name))
            elif wanted := _other_kind(actions[name].type, value):
                self.wrong.append(f"{name} must be {wanted}, not {value!r}")
            else:
                self.set_defaults(**{name: _as_text(value) if name in TEXTS else value})

    def error(self, message: str) -> NoReturn:
        """What argparse cannot go on behind."""
        raise ConfigError("\n".join([*self.wrong, message]))

    def _get_value(self, action: argparse.Action, text: str) -> Any:
        try:
            return super()._get_value(action, text)
        except argparse.ArgumentError:
            self.wrong.append(f"{action.dest} must be {_wanted(action.type)}, not {text!r}")
            return self._defaults[action.dest]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            self.wrong.append(f"{action.dest}: {error.message}")
            self._unknown.add(action.dest)

    def _no_setting(self, name: str) -> str:
        name = name.removeprefix("--").partition("=")[0]
        near = get_close_matches(name, [action.dest for action in self._actions], n=1)
        return f"there is no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in fields(kind) if field.init]


def _wanted(kind: object) -> str:
    if kind is int or kind is float:
        return "a whole number" if kind is int else "a number"
    return "true or false" if _is_switch(kind) else "of another kind"


def _as_text(value: object) -> object:
    """Numbers as the flags have them, several with commas between them."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if value is None else str(value)


def _is_switch(kind: object) -> bool:
    return getattr(kind, "__name__", "") == "string_to_bool"


def _other_kind(kind: object, value: object) -> str:
    """What a value of a file should be, where it is something else; texts are looked at as those of flags are."""
    if isinstance(value, str) or value is None:
        return ""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and value == round(float(str(value)))
    right = (kind is not int or whole) and (kind is not float or number)
    return "" if right and (not _is_switch(kind) or isinstance(value, bool)) else _wanted(kind)
