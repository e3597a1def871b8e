"""ArmConfig: the recommenders that a run compares, as settings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from llmgen.errors import ConfigError
from llmgen.recommend.request_weight import LMWeight
from llmgen.recommend.settings import CommonSettings
from llmgen.workspace.options import read_options

Model = TypeVar("Model", bound=BaseModel)


Classics = Literal["tuned", "defaults", "none"]


Also = Literal["als", "bpr", "sasrec"]


NONE, BEST = "none", "best"

CHOSEN = "tuned", "fitted"
"""What an arm's `lm_weight` says where validation users choose it."""


class ArmConfig(CommonSettings):
    """One recommender; whatever differs between two of them is what an A/B test compares.

    It has the settings of every recommender, see `llmgen.recommend.settings`, with the same defaults but for one:
    without `priors` an arm has none, so that two prompts are compared by what the model alone makes of them. The prompt
    for candidates is `rerank` by default.

    Attributes:
        lm_weight: Weight of the model in the score, by default as `llmgen recommend` has it; `tuned` chooses it on
            validation users, `fitted` a weight for each request, by likelihood (`llmgen.recommend.weighing`).
        priors_of: In the place of `priors`, those of a classic baseline as it was tuned on validation: its name, or
            `best` for the one that was best there.
        tuning_adapter: The adapter that a `tuned` or `fitted` weight is chosen with, where `adapter` has learned the
            validation items too (`learn_from: train+validation`): one of the same recipe that has not.
        exchanged: A control: the model is told of another user, and the priors are the user's own. See
            `llmgen.evaluation.arms.exchanged`.
    """

    lm_weight: Literal["tuned", "fitted"] | LMWeight | None = None
    priors_of: str = ""
    tuning_adapter: str | None = None
    exchanged: bool = False

    @model_validator(mode="before")
    @classmethod
    def _named_priors(cls, value: Any) -> Any:
        """Settings of llmgen 0.1 have `priors: best`, where others have `priors_of: best`."""
        if not isinstance(value, Mapping) or not isinstance(named := value.get("priors"), str):
            return value
        rest = {name: one for name, one in value.items() if name != "priors"}
        return rest if named == NONE else {**rest, "priors_of": named}

    @field_validator("priors_of")
    @classmethod
    def _either(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("priors"):
            raise ValueError("priors_of stands for priors; leave one of them out")
        return value

    @field_validator("tuning_adapter")
    @classmethod
    def _tuned(cls, value: str | None, info: ValidationInfo) -> str | None:
        weight = info.data.get("lm_weight", "tuned")  # not there where it is wrong itself
        if value is not None and weight not in CHOSEN:
            told = "without lm_weight" if weight is None else f"with {weight}"
            raise ValueError(f"tuning_adapter goes with lm_weight: tuned, not {told}")
        return value

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that it asks, the one to choose the weight with among them."""
        return tuple(one for one in (self.adapter, self.tuning_adapter) if one is not None)

    @classmethod
    def parse(cls, text: str) -> tuple[str, ArmConfig]:
        """An arm from the command line: `NAME=PROMPT`, or `NAME=--option value --option value`.

        The options are those of `llmgen recommend`, and those of an arm alone. The form of llmgen 0.1 is read too:
        `NAME=key:value,key:value`.

        Raises:
            ConfigError: Another form, or a setting that there is not.
        """
        name, arm, wrong = cls.parsed(text)
        if wrong:
            raise ConfigError("\n".join(wrong))
        return name, arm

    @classmethod
    def parsed(cls, text: str) -> tuple[str, ArmConfig, list[str]]:
        """As `parse`, with what is wrong in place of an error; see `named`."""
        name, equals, rest = text.partition("=")
        if not (name and equals and rest):
            return name, cls(), [f"an arm is NAME=PROMPT or NAME=--option value ..., not {text!r}"]
        if rest.lstrip().startswith("--"):
            try:
                return cls.named(name, read_options(shlex.split(rest), cls.flags()))
            except (ConfigError, ValueError) as error:  # of a quotation mark that is not closed
                return name, cls(), [f"arm {name!r}: {error}"]
        if ":" not in rest:
            return cls.named(name, {"prompt": rest})
        pairs = [part.partition(":") for part in rest.split(",")]
        broken = [key for key, colon, value in pairs if not (colon and value)]
        _, arm, wrong = cls.named(name, {key: value for key, colon, value in pairs if colon and value})
        return name, arm, [*(f"arm {name!r}: {key!r} has no value; write --{key} value" for key in broken), *wrong]

    @classmethod
    def of(cls, name: str, settings: Mapping[str, Any]) -> ArmConfig:
        """An arm from a file's settings.

        Raises:
            ConfigError: A setting that there is not, or of the wrong kind.
        """
        _, arm, wrong = cls.named(name, settings)
        if wrong:
            raise ConfigError("\n".join(wrong))
        return arm

    @classmethod
    def named(cls, name: str, settings: object) -> tuple[str, ArmConfig, list[str]]:
        """An arm from a file's settings, without those that are wrong, and a line for each of these."""
        given = settings or {}
        if not isinstance(given, Mapping):
            return name, cls(), [f"arm {name!r}: must hold settings such as prompt: next_item, not {settings!r}"]
        arm, errors = repaired(cls, given)
        known, lines = ", ".join(cls.model_fields), []
        for one in errors:
            where = f", {'.'.join(map(str, one['loc']))}" if one["loc"] else ""
            lines.append(f"arm {name!r}{where}: {one['msg'].removeprefix('Value error, ')}; an arm has {known}")
        return name, arm, lines


def repaired(model: type[Model], settings: Mapping[str, Any]) -> tuple[Model, list[ErrorDetails]]:
    """A model of settings, with the defaults in the place of those that are wrong, and what is wrong with these."""
    wrong: list[ErrorDetails] = []
    while True:
        try:
            return model.model_validate(settings), wrong
        except ValidationError as error:
            wrong += error.errors()
            for one in error.errors():
                settings = _without(model, settings, one["loc"])


def _without(model: type[BaseModel], settings: Mapping[str, Any], place: tuple[int | str, ...]) -> dict[str, Any]:
    """Settings without the one at a place; of settings of settings only the inner one goes."""
    name, *inner = map(str, place)
    kept = {key: value for key, value in settings.items() if key != name}
    kind = model.model_fields[name].annotation if name in model.model_fields else None
    if inner and isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(settings.get(name), Mapping):
        kept[name] = _without(kind, settings[name], tuple(inner))
    return kept
