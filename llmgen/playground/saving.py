"""Arms as files: templates, and a config that `llmgen ab --config` takes. What the page shows can be run without it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from llmgen.errors import ConfigError
from llmgen.evaluation.config import RunConfig
from llmgen.playground.bench import Bench
from llmgen.playground.bodies import Arm, Pair
from llmgen.recommend.settings import prior_settings
from llmgen.workspace.core import DataSettings, RecommenderSettings

CONFIG, RUN = "ab.yaml", "run"


class Saved(NamedTuple):
    """What was written.

    Attributes:
        folder: All of it.
        config: The config that was written, as `llmgen ab` reads it.
        out: Where its run is written to.
        command: Runs it.
    """

    folder: Path
    config: RunConfig
    out: Path
    command: str


@dataclasses.dataclass(frozen=True)
class SavedPairs:
    """Where pairs of arms are saved, a folder each; nothing is ever written over.

    Attributes:
        folder: The folder of these folders; made when something is saved.
        data: Of the service.
        settings: Of the service.
    """

    folder: Path
    data: DataSettings
    settings: RecommenderSettings

    def save(self, pair: Pair, bench: Bench) -> Saved:
        """Write the templates of both arms and the config of an A/B test.

        Raises:
            ConfigError: There is such a folder already, it cannot be written, there is no log to ask about, or an arm
                cannot be told by a config.
            TemplateError: A template is wrong.
        """
        self._check(pair, bench)
        folder = self.folder / pair.name
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(f"{folder} is there already, and nothing is written over; give another name") from None
        except OSError as error:
            raise ConfigError(f"cannot write {folder}: {error.strerror}; start with another --runs") from error
        arms = {name: self._arm(arm, bench, folder / f"prompts-{name}") for name, arm in (("A", pair.a), ("B", pair.b))}
        protocol = {"data": self._data(), "k": pair.k, "users": pair.users}
        settings = {"protocol": protocol, "arms": arms, "baseline": "A"}
        settings |= {"classics": "none", "latency_users": 0, "stop_early": True}
        path = folder / CONFIG
        path.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
        out = folder / RUN
        command = shlex.join(["llmgen", "ab", "--config", str(path), "--out", str(out)])
        return Saved(folder, RunConfig.read(path), out, command)

    def _check(self, pair: Pair, bench: Bench) -> None:
        if not bench.people.able:
            raise ConfigError("an A/B test asks users of a log for their last item, and there is no log with any")
        if pair.users is not None and pair.users > len(bench.people.able):
            raise ConfigError(f"{pair.users} users are asked for, and the log has {len(bench.people.able)} with three "
                              "items or more; ask so many or fewer")  # fmt: skip
        for arm in (pair.a, pair.b):
            task = bench.library(arm)[arm.template].task
            if task != "next_item":
                raise ConfigError(f"an A/B test on a log needs prompts for the task next_item, and {arm.template!r} is "
                                  f"for {task}; choose another template")  # fmt: skip
            bench.weighted(arm)

    def _data(self) -> dict[str, Any]:
        """The fields of the data settings that are not the defaults, as a config has them."""
        given: dict[str, Any] = {}
        default = DataSettings()
        for field in dataclasses.fields(DataSettings):
            value = getattr(self.data, field.name)
            if value != getattr(default, field.name):
                given[field.name] = _plain(value)
        dataset = Path(self.data.dataset).expanduser()
        if "items" not in given:
            given["dataset"] = str(dataset.resolve()) if dataset.exists() else self.data.dataset
        return given

    def _arm(self, arm: Arm, bench: Bench, prompts: Path) -> dict[str, Any]:
        record, settings = self.settings.record, self.settings
        own = settings.prompt_folder
        if arm.text is not None:
            prompts.mkdir()
            for path in sorted(own.glob("*.jinja")) if own else ():
                (prompts / path.name).write_bytes(path.read_bytes())
            (prompts / f"{arm.template}.jinja").write_text(arm.text, encoding="utf-8", newline="")
            own = prompts
        tuned = record.recommender if record else None
        named = settings.priors if settings.priors is not None else tuned.priors if tuned else None
        fitted = prior_settings(named or {})
        priors = {
            prior.name: {**fitted.get(prior.name, {}), "weight": float(prior.weight)} for prior in bench.weighted(arm)
        }
        model = bench.model(arm)
        config = model.recommender.config
        given = settings.replace(
            engine=model.settings.engine,
            adapter=model.settings.adapter,
            prompt=arm.template,
            prompt_folder=None if own is None else own.resolve(),
            max_history=config.max_history if arm.max_history is None else arm.max_history,
            decoding=config.decoding,
            priors=priors,
            lm_weight=config.lm_weight if arm.lm_weight is None else arm.lm_weight,
        )
        other = {"folder", "label", "identifier", "rating_priors", "rating_lm_weight"}  # of the data, and of ratings
        return given.model_dump(mode="json", exclude=other, exclude_none=True)


def _plain(value: object) -> object:
    """A setting as YAML has it."""
    if isinstance(value, Path):
        return str(value.resolve())
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple | list) else value
