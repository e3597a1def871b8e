"""Recipe: what a training run learns, from what, and how; the rest are TRL's own settings (`SFTConfig`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from llmgen.adapters import Loss
from llmgen.datasets.splits import Ties
from llmgen.errors import ConfigError
from llmgen.recommend.settings import GivenSettings, PriorSettings
from llmgen.training.data import TrainingTask
from llmgen.training.soft_targets import TASKS as SOFT_TASKS
from llmgen.training.soft_targets import SoftTargetSettings
from llmgen.workspace.core import DataSettings

MAPPINGS = ("data", "leave_out", "hold_out", "tasks", "priors", "peft", "soft_targets")
"""Settings of a recipe that hold others by name."""
RESIDUAL_LM_WEIGHT = 0.3
"""Of the model beside the prior where the residual loss begins, where nobody says otherwise."""

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class LeaveOut:
    """Which items are taken out of a log, see `llmgen.datasets.splits.leave_items_out`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    share: float
    seed: int = 0
    last: float = 0.2


@dataclass(frozen=True)
class HoldOut:
    """Which interactions are held out at random, see `llmgen.datasets.splits.random_split`."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    share: float = 0.2
    validation_share: float = 0.08
    seed: int = 0


Settings = TypeVar("Settings", LeaveOut, HoldOut, SoftTargetSettings)


@dataclass
class RecipeFlags:
    """A recipe as it is written: fields of the YAML file, beside those of `SFTConfig`; each is also a flag.

    `prompt`, `max_history`, `lm_weight` and `priors` are settings of a recommender, see `llmgen.recommend.settings`:
    those of the validation, and what the adapter's record asks for.

    `data`, `leave_out`, `hold_out`, `tasks`, `priors`, `peft` and `soft_targets` are mappings, JSON as flags. `Recipe`
    is what is read.
    """

    model: str = field(default="", metadata={"help": "Folder or hub name of a causal LM; SmolLM2-135M by default."})
    dtype: str = field(
        default="",
        metadata={
            "help": "float32 or bfloat16, of the model's own weights; by default float32 on a CPU, bfloat16 on a GPU. "
            "Where there is room, float32 with bf16: true for the products loses less."
        },
    )
    data: str = field(
        default='{"dataset": "movielens-100k"}',
        metadata={"help": "Arguments of llmgen.workspace.core.DataSettings: a data set by name, or two tables."},
    )
    ties: str = field(default="file", metadata={"help": "Order of equal times: file or item_id."})
    learn_from: str = field(
        default="train",
        metadata={"help": "train (leave-one-out, two items a user held out), train+validation, or all."},
    )
    leave_out: str = field(
        default="{}",
        metadata={
            "help": "share, seed and last of llmgen.datasets.splits.leave_items_out: items that are to be new in an "
            "evaluation are taken out of log and catalog, and the last part of each user's log is not learned from; {} "
            "for none."
        },
    )
    hold_out: str = field(
        default="{}",
        metadata={
            "help": "share, validation_share and seed of llmgen.datasets.splits.random_split: interactions drawn at "
            "random are not learned from either, for eval.ratings --split random; {} for none."
        },
    )
    tasks: str = field(
        default='{"list": {"prompts": ["next_item_list"], "max_history": 40}}',
        metadata={"help": "Name -> prompts, weight, max_history; see llmgen.training.data."},
    )
    item_dropout: float = field(
        default=0.0, metadata={"help": "Share of a history left out; see llmgen.training.data."}
    )
    order_noise: float = field(
        default=0.0, metadata={"help": "Share of neighbours in a history that change places; see llmgen.training.data."}
    )
    loss: str = field(default="residual", metadata={"help": "catalog, residual or lm; see llmgen.training.loss."})
    loss_temperature: float = field(
        default=1.0,
        metadata={
            "help": "Divides the logits in the loss catalog, as lm_weight multiplies them beside a prior; see "
            "llmgen.training.loss."
        },
    )
    soft_targets: str = field(
        default="{}",
        metadata={
            "help": "source (text or priors), share, rare and neighbours of llmgen.training.soft_targets: a share of a "
            "target goes to other items, the more the rarer the target is; {} for none. Tasks list and next."
        },
    )
    priors: str = field(
        default='{"transition": {}}',
        metadata={
            "help": "Name -> weight, or settings of its fit, `weight` among them; cross-fitted for the residual loss, "
            "and used on validation."
        },
    )
    folds: int = field(default=5, metadata={"help": "Parts of the users for cross-fitting."})
    prior_dropout: float = field(
        default=0.3, metadata={"help": "Share of examples that are learned without the prior, so the LM stands alone."}
    )
    lm_weight: float | None = field(
        default=None, metadata={"help": f"Where the LM's weight starts, residual loss only; {RESIDUAL_LM_WEIGHT}."}
    )
    lm_weight_rate: float = field(default=0.0, metadata={"help": "Its learning rate, of the logarithm; 0 holds it."})
    peft: str = field(
        default='{"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}',
        metadata={"help": "Arguments of peft.get_peft_config; {} tunes all weights."},
    )
    quantize: str = field(
        default="",
        metadata={
            "help": "4bit (NF4, as QLoRA has it) or 8bit: how the model's own weights are kept while an adapter is "
            "tuned; needs llmgen[qlora]. For GPUs; on a CPU it works and is slow."
        },
    )
    adapter: str = field(default="", metadata={"help": "Folder of an adapter to go on tuning, in place of peft."})
    max_tokens: int = field(default=1024, metadata={"help": "Longest example."})
    threads: int = field(default=0, metadata={"help": "CPU threads; torch's own choice by default."})
    prompt: str = field(default="", metadata={"help": "Template of the validation; the first task's by default."})
    max_history: int | None = field(
        default=None, metadata={"help": "Newest items in its prompt; the first task's by default."}
    )
    validation_users: int = field(default=100, metadata={"help": "How many users each validation asks; 0 for none."})
    nats_users: int = field(
        default=0,
        metadata={
            "help": "Of how many users each validation measures how likely the held-out item is, in nats, beside the "
            "priors and alone: one pass a user, not a search. metric_for_best_model: nats chooses checkpoints by it."
        },
    )
    lm_weights: str = field(default="0.05,0.1,0.2,0.4,1", metadata={"help": "Tried on them beside the priors."})
    request_weight: bool = field(
        default=False,
        metadata={
            "help": "In the end, fit a weight of the model for each request on them, see "
            "`llmgen.recommend.request_weight`, and record it in the place of the best of those."
        },
    )


@dataclass(frozen=True)
class Recipe:
    """A recipe as it is read: each field is parsed once, from the field of `RecipeFlags` with its name.

    Attributes:
        given: All settings as plain values, for the file that is left beside an adapter.
    """

    given: Mapping[str, object]
    model: str
    dtype: str
    data: DataSettings
    ties: Ties
    learn_from: str
    leave_out: LeaveOut | None
    hold_out: HoldOut | None
    tasks: Mapping[str, TrainingTask]
    item_dropout: float
    order_noise: float
    loss: Loss
    loss_temperature: float
    soft_targets: SoftTargetSettings | None
    priors: PriorSettings
    folds: int
    prior_dropout: float
    lm_weight: float | None
    lm_weight_rate: float
    peft: Mapping[str, object]
    quantize: str
    adapter: str
    max_tokens: int
    threads: int
    prompt: str
    max_history: int | None
    validation_users: int
    nats_users: int
    lm_weights: tuple[float, ...]
    request_weight: bool

    @classmethod
    def parse(cls, **settings: str | float | None) -> Recipe:
        """A recipe from the values of flags; what is not given has its default.

        Raises:
            ConfigError: One line for each setting that is wrong.
        """
        recipe, wrong = cls.repaired(settings)
        if wrong:
            raise ConfigError("\n".join(wrong))
        return recipe

    @classmethod
    def repaired(cls, settings: Mapping[str, object]) -> tuple[Recipe, list[str]]:
        """A recipe with the default in the place of what cannot be read, and what is wrong with it, one line each.

        Args:
            settings: Fields of `RecipeFlags`; mappings may be parsed or JSON.
        """
        default = asdict(RecipeFlags())
        wrong: list[str] = []
        plain: dict[str, Any] = {**default, **settings}
        for name in MAPPINGS:
            try:
                plain[name] = _mapping(name, plain[name])
            except ConfigError as error:
                wrong.append(str(error))
                plain[name] = _mapping(name, default[name])

        def read(name: str, parse: Callable[[Any], Parsed]) -> Parsed:
            try:
                return parse(plain[name])
            except ConfigError as error:
                wrong.append(str(error))
                return parse(json.loads(default[name]) if name in MAPPINGS else default[name])

        parsed: dict[str, Any] = {
            "data": read("data", DataSettings.parse),
            "ties": read("ties", partial(_choice, "ties", Ties)),
            "leave_out": read("leave_out", partial(_settings, LeaveOut, "leave_out")),
            "hold_out": read("hold_out", partial(_settings, HoldOut, "hold_out")),
            "soft_targets": read("soft_targets", partial(_settings, SoftTargetSettings, "soft_targets")),
            "tasks": read("tasks", _tasks),
            "loss": read("loss", partial(_choice, "loss", Loss)),
            "lm_weights": read("lm_weights", _numbers),
        }
        made = cls(given=plain, **{**plain, **parsed})
        return made, [*wrong, *made._mistakes()]

    def _mistakes(self) -> Iterator[str]:
        if self.loss == "residual" and not self.priors:
            yield "the residual loss needs a prior; give priors, or use loss: catalog"
        if not 0 < self.loss_temperature < float("inf"):
            yield f"loss_temperature must be above 0 and finite, not {self.loss_temperature}"
        if self.loss_temperature != 1 and self.loss != "catalog":
            yield (
                f"loss_temperature goes with loss: catalog, not with {self.loss}: beside a prior lm_weight is the "
                "inverse of a temperature, and lm is over a whole vocabulary"
            )
        if (soft := self.soft_targets) is not None:
            if self.loss == "lm":
                yield "soft_targets need a loss over the catalog; use loss: catalog or residual"
            if soft.source == "priors" and not self.priors:
                yield "soft_targets with source: priors need a prior; give priors, or use source: text"
            if not set(self.tasks) & set(SOFT_TASKS):
                yield f"soft_targets are for the tasks {' and '.join(SOFT_TASKS)}, and neither is learned here"
        if self.learn_from not in ("train", "train+validation", "all"):
            yield f"learn_from must be train, train+validation or all, not {self.learn_from!r}"
        if self.leave_out and self.learn_from == "all":
            yield "learn_from: all would learn what leave_out holds out; use train or train+validation"
        if self.hold_out and (self.learn_from != "train" or self.leave_out):
            yield "hold_out goes with learn_from: train and without leave_out; the others hold out otherwise"
        if self.quantize not in ("", "4bit", "8bit"):
            yield f"quantize must be 4bit or 8bit, or empty for neither, not {self.quantize!r}"
        if self.quantize and not (self.peft or self.adapter):
            yield "weights that are quantized cannot be tuned themselves; give peft, or no quantize"
        if self.dtype not in ("", "float32", "bfloat16"):
            yield f"dtype must be float32 or bfloat16, or empty for the machine's own, not {self.dtype!r}"
        for name in ("prior_dropout", "item_dropout", "order_noise"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                yield f"{name} is a share, from 0 to 1, not {share}"
        if self.lm_weight is not None and not self.lm_weight > 0:
            yield f"lm_weight must be above 0, not {self.lm_weight}: a model of weight 0 learns nothing"
        if self.request_weight and not (self.validation_users and self.priors and self.learn_from == "train"):
            yield "request_weight is fitted on validation users beside priors; give both, and learn_from: train"
        if self.max_history is not None and self.max_history < 1:
            yield f"max_history must be 1 or more, not {self.max_history}; leave it out for the first task's"

    def asked(self, prompt: str, max_history: int, label: str) -> GivenSettings:
        """How the adapter wants to be asked: as the recipe says, else as given here.

        Args:
            prompt: Template of the first task to recommend with.
            max_history: Newest items in its prompts.
            label: How the catalog's items are written.
        """
        residual = self.loss == "residual"
        start = RESIDUAL_LM_WEIGHT if self.lm_weight is None else self.lm_weight
        return GivenSettings(
            prompt=self.prompt or prompt,
            max_history=max_history if self.max_history is None else self.max_history,
            label=label,
            lm_weight=start if residual else 1.0,
            priors=self.priors if residual else None,
        )

    def loss_as_told(self) -> str:
        """The loss with what changes it, for people."""
        temperature = f", temperature {self.loss_temperature:g}" if self.loss_temperature != 1 else ""
        return f"`{self.loss}`{temperature}" + (f", {self.soft_targets}" if self.soft_targets else "")

    def base_model(self) -> str:
        """The model's folder or hub name."""
        if self.model:
            return self.model
        from llmgen.models import demo_model

        return str(demo_model())


def _mapping(name: str, value: object) -> Mapping[str, object]:
    """A setting that holds others by name, of JSON or as it is."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{name} must be JSON, not {value!r}: {error}") from None
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be settings by name, not {value!r}")
    return value


def _choice(name: str, kind: object, value: object) -> str:
    """One of the texts of a literal type."""
    known = get_args(kind)
    if value not in known:
        raise ConfigError(f"{name} must be {', '.join(known)}, not {value!r}")
    return str(value)


def _settings(kind: type[Settings], name: str, given: Mapping[str, object]) -> Settings | None:
    """What the settings of one name say; None where there are none."""
    if not given:
        return None
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}, not {one['input']!r}" for one in error.errors()]
        *first, last = [one.name for one in fields(kind)]
        raise ConfigError(f"{name}: {'; '.join(wrong)}; it takes {', '.join(first)} and {last}") from None


def _tasks(given: Mapping[str, Mapping[str, Any]]) -> dict[str, TrainingTask]:
    known = {one.name for one in fields(TrainingTask)}
    made = {}
    for name, settings in given.items():
        if not isinstance(settings, Mapping):
            raise ConfigError(f"the task {name!r} must hold settings by name, not {settings!r}")
        if unknown := sorted(set(settings) - known):
            raise ConfigError(f"the task {name!r} has no setting {unknown[0]!r}; there are {', '.join(known)}")
        made[name] = TrainingTask(**{**settings, "prompts": tuple(settings.get("prompts", ()))})
    return made


def _numbers(text: str) -> tuple[float, ...]:
    """LM weights that are tried on validation, without 0."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"lm_weights are numbers separated by commas, not {text!r}") from None


def folder_of(path: str) -> Path:
    """The output folder, which must be one."""
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, and checkpoints need a folder; give another output_dir")
    return folder
