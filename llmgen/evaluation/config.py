"""The settings of a run, from a YAML file and the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field

from llmgen.errors import ConfigError
from llmgen.evaluation.arms.arm_config import Also, ArmConfig, Classics, repaired
from llmgen.evaluation.protocols.protocol import Protocol


class Mistakes(NamedTuple):
    """What is wrong with the settings of a run.

    Attributes:
        lines: One a mistake.
        settings: Names of those that have their defaults now, since what was given is wrong: nothing that depends on
            them can be said.
    """

    lines: tuple[str, ...] = ()
    settings: frozenset[str] = frozenset()

    def and_more(self, lines: Iterable[str]) -> Mistakes:
        """These and others."""
        return self._replace(lines=(*self.lines, *lines))


NONE_WRONG = Mistakes()


class RunConfig(BaseModel):
    """A run; the YAML file of `--config`.

    Attributes:
        protocol: Which users are asked, and about which items.
        arms: Name -> settings.
        baseline: Arm or classic that the others are compared with; the first arm by default (`llmgen evaluate`: the
            classic that was best on validation).
        metric: The metric that is tested, and of which the verdict speaks; NDCG at k by default.
        classics: The classic baselines in the report: `tuned` on validation, with their `defaults`, or `none`.
        also: More classic baselines: `als`, `bpr`, which need the extra `llmgen[factors]`; `sasrec`, which needs
            `llmgen[hf]` and long on a CPU, and the mix with it, `mix+sasrec`.
        lm_weights: Weights of the model that are tried where an arm's `lm_weight` is `tuned`.
        memory: Memory in GiB that tuning and fitting use at most; a quarter of the machine's by default.
        tuning_users: Number of validation users on whom weights are tuned.
        latency_users: Number of users who are asked one at a time to measure the latency; 0: not measured.
        price_per_hour: Price of an hour of this machine, in any currency.
        draws: Number of draws of each bootstrap and permutation test.
        stop_early: Ask users in random order until the difference in the main metric is certain for every arm, by a
            test that allows for looking after each batch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    protocol: Protocol = Field(default_factory=lambda: Protocol.model_validate({}))
    arms: Mapping[str, ArmConfig] = {}
    baseline: str = ""
    metric: str = ""
    classics: Classics = "tuned"
    also: tuple[Also, ...] = ()
    lm_weights: tuple[float, ...] = (0.0, 0.01, 0.03, 0.1, 0.3)
    memory: float | None = Field(None, gt=0)
    tuning_users: int = Field(150, ge=2)
    latency_users: int = Field(20, ge=0)
    price_per_hour: float | None = Field(None, ge=0)
    draws: int = Field(10_000, ge=100)
    stop_early: bool = False

    @property
    def main_metric(self) -> str:
        """NDCG at k unless another one is named."""
        return self.metric or f"ndcg@{self.protocol.k}"

    @classmethod
    def read(cls, path: Path | None, arms: Iterable[str] = (), **changes: Any) -> RunConfig:
        """The same as `parsed`.

        Raises:
            ConfigError: What `parsed` finds wrong, one line each.
        """
        made, wrong = cls.parsed(path, arms, **changes)
        if wrong.lines:
            raise ConfigError("\n".join(wrong.lines))
        return made

    @classmethod
    def parsed(cls, path: Path | None, arms: Iterable[str] = (), **changes: Any) -> tuple[RunConfig, Mistakes]:
        """A file's settings with those of the command line over them, and what is wrong with them.

        Settings that are wrong have their defaults, so that `llmgen.evaluation.checks.check` can look at the others and
        all mistakes are told together.

        Args:
            path: YAML; the defaults without.
            arms: See `ArmConfig.parse`; where there are any, the file's are left out.
            changes: Fields of this class or of `Protocol`; None changes nothing. Fields of `data` are put over those of
                the file.

        Returns:
            The run; and its mistakes: settings that there are not or that are of the wrong kind, and a named data set
            in place of the file's tables.

        Raises:
            ConfigError: A file that is not there, is no YAML, or holds no settings.
        """
        found: Any = {}
        if path is not None:
            try:
                found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            except OSError as error:
                raise ConfigError(f"cannot read {path}: {error.strerror}") from None
            except yaml.YAMLError as error:
                raise ConfigError(f"{path} is not YAML: {error}") from None
            if not isinstance(found, dict):
                raise ConfigError(f"{path} must hold settings such as protocol and arms, not {type(found).__name__}")
        wrong: list[str] = []
        unsure: set[str] = set()
        for section in ("arms", "protocol"):
            if not isinstance(found.get(section) or {}, Mapping):
                wrong.append(f"{path}, {section}: must hold settings by name, not {found.pop(section)!r}")
                unsure |= {section, *Protocol.model_fields}
        parsed: dict[str, ArmConfig] = {}
        for given in list(arms) or (found.get("arms") or {}).items():
            name, arm, said = ArmConfig.parsed(given) if isinstance(given, str) else ArmConfig.named(*given)
            wrong += said
            unsure |= set() if name else {"arms"}
            if name in parsed:
                wrong.append(f"two arms are called {name!r}; give each a name of its own")
            parsed[name] = arm
        found["arms"] = parsed
        protocol = dict(found.get("protocol") or {})
        for name, value in changes.items():
            if value is not None:
                if name == "data":
                    data = protocol.get("data") or {}
                    if "items" in data and "dataset" in value:
                        wrong.append(f"{path} reads the tables {data['items']}, not the data set {value['dataset']}")
                    value = {**data, **value}
                (protocol if name in Protocol.model_fields else found)[name] = value
        made, errors = repaired(cls, {**found, "protocol": protocol})
        for one in errors:
            where = ".".join(map(str, one["loc"]))
            wrong.append(f"{path or 'settings'}, {where}: {one['msg']}, not {one['input']!r}")
            unsure |= {str(name) for name in one["loc"][:2]}
        return made, Mistakes(tuple(wrong), frozenset(unsure))
