"""Arms: the recommenders that a run compares, as settings and as what answers."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from llmgen.adapters import AdapterRecord
from llmgen.catalog.core import Catalog
from llmgen.datasets.splits import histories
from llmgen.engines import Engine, load_engine
from llmgen.errors import ArgumentError, ConfigError
from llmgen.evaluation.arms.arm_config import BEST, Also, ArmConfig, Classics
from llmgen.evaluation.arms.exchanged import Own, exchanged
from llmgen.evaluation.baselines.classics import Among, Random, RandomTies, RepeatLast
from llmgen.evaluation.baselines.core import (
    FACTOR_GRIDS,
    NEURAL_GRIDS,
    REPEAT_GRID,
    Grids,
    Result,
    default_grids,
    tune_baselines,
)
from llmgen.evaluation.protocols.protocol import Protocol
from llmgen.evaluation.protocols.sample import Sample
from llmgen.identifiers.named import identified
from llmgen.priors import Content, ExcludeSeen, HistoryText, Prior, only
from llmgen.priors.kinds import kind
from llmgen.recommend.index import CatalogIndex
from llmgen.recommend.parts import Parts, TieOrder
from llmgen.recommend.prompting import Task
from llmgen.recommend.recommender import Recommender
from llmgen.recommend.request_weight import RequestWeight, plain
from llmgen.recommend.settings import prior_settings
from llmgen.templates.library import PromptLibrary
from llmgen.types import Query
from llmgen.workspace.core import default_lm_weight, library_of

logger = logging.getLogger(__name__)


MOST_READ = 10_000_000_000
"""Items times users that the classics which read texts may look at: 10,000 users of a million items take an hour."""


@dataclass(frozen=True, eq=False)
class Arm:
    """An arm that can answer.

    Attributes:
        name: As it was given.
        kind: `arm`, or `baseline` for a classic one.
        recommender: What answers.
        settings: As resolved, for the results.
        prompt: `name@digest` of its template; empty where no prompt is used.
        digest: Of everything that decides its answers but the sample, 16 hex digits.
        instead: User id -> what is asked in place of the sample's query, see `llmgen.evaluation.arms.exchanged`.
    """

    name: str
    kind: Literal["arm", "baseline"]
    recommender: Recommender
    settings: Mapping[str, Any]
    prompt: str
    digest: str
    instead: Mapping[str, Query] = field(default_factory=dict)

    def asked(self, query: Query) -> Query:
        """What this arm is asked where the sample has a query."""
        return self.instead.get(str(query.user_id), query)


class Engines:
    """Engines by name and adapter, each loaded once."""

    def __init__(self) -> None:
        self._loaded: dict[tuple[str, str | None], Engine] = {}

    def get(self, name: str, adapter: str | None) -> Engine:
        """The engine of a name; see `load_engine` for what it raises."""
        key = name, adapter
        if key not in self._loaded:
            self._loaded[key] = load_engine(name, adapter=adapter)
        return self._loaded[key]


def classics(
    kind: Classics,
    protocol: Protocol,
    tuning: Sample,
    final: Sample,
    also: Sequence[Also] = (),
    *,
    keep: bool = True,
    memory: int | None = None,
) -> tuple[list[Arm], list[Result]]:
    """The classic baselines, as arms and as `llmgen.evaluation.baselines` made them; none for `none`.

    Args:
        kind: `tuned`: every hyper-parameter of the grids is tried on `tuning`; `defaults`: one fit each.
        protocol: Of the samples.
        tuning: What is chosen on.
        final: What is measured on.
        also: Beside them: factorisations, by the extra `llmgen[factors]`; `sasrec`, by `llmgen[hf]`, and then a mix
            with it, `mix+sasrec`.
        keep: See `tune_baselines`; arms whose weight is chosen need it.
        memory: See `tune_baselines`.

    Raises:
        ConfigError: `bpr` where only the newest items of each user are known: it knows users, not histories.
    """
    if kind == "none":
        return [], []
    if "bpr" in also and protocol.newest is not None:
        raise ConfigError(
            f"bpr has learned each user's whole log, not the newest {protocol.newest} items; leave it out"
        )
    removed = protocol.seen == "removed"
    # repeats of the history are the point of repeat_last, so it stands only where they are an answer
    fixed: list[Prior] = [Random(len(final.catalog), protocol.seed)]
    if len(final.catalog) * len(final) <= MOST_READ:
        fixed += [HistoryText(final.catalog, name="bm25"), Content(final.catalog)]
    else:
        logger.warning(
            "bm25 and content are left out: a common word leads to most of %s items, for each of %s users; ask fewer",
            f"{len(final.catalog):,}",
            f"{len(final):,}",
        )
    if not removed:
        fixed.append(RepeatLast(final.catalog))
    grids: Grids = {**default_grids(), **({} if removed else REPEAT_GRID)}
    factorised: Grids = {name: FACTOR_GRIDS[name] for name in also if name in FACTOR_GRIDS}
    neural: Grids = {name: NEURAL_GRIDS[name] for name in also if name in NEURAL_GRIDS}
    if kind == "defaults":
        grids, factorised = ({name: {} for name in some} for some in (grids, factorised))
    found = [
        result
        for some, mixed, beside in ((grids, True, neural), (factorised, False, None))
        for result in tune_baselines(
            tuning,
            final,
            k=protocol.k,
            exclude_seen=removed,
            grids=some,
            mixed=mixed,
            beside=beside,
            keep=keep,
            memory=memory,
        )
    ]
    among, ties = _among(final), _tie_order(final)
    arms = [classic(prior.name, [prior, *among], {}, final.catalog, ties) for prior in fixed]
    for one in found:
        arms.append(classic(one.name, [*_soft(one.priors), *among], one.settings, final.catalog, ties))
    return arms, found


def build(
    name: str,
    config: ArmConfig,
    sample: Sample,
    baselines: Sequence[Result],
    engines: Engines,
    *,
    lm_weight: float | RequestWeight | None = None,
    tuning: bool = False,
    library: PromptLibrary | None = None,
) -> Arm:
    """An arm for a sample.

    Args:
        name: What it is called.
        config: Its settings.
        sample: Its catalog and its known interactions.
        baselines: The classics, where the arm's priors name one.
        engines: Where the model comes from.
        lm_weight: Instead of the setting.
        tuning: Whether the sample is the one to choose on: the classics are then those fitted before it.
        library: The prompts of the arm's folder and llmgen's, where many arms have the same; read by default.

    Raises:
        ConfigError: Priors that there are not; `tuned` or `fitted` without a chosen weight.
        LLMGenError: The engine or the prompt is not there.
    """
    record = None if config.adapter is None else AdapterRecord.read(config.adapter)
    tuned = record.recommender if record else None
    label = config.label or (tuned.label if tuned else None)
    catalog = sample.catalog.labelled(label) if label else sample.catalog
    chosen = config.identifier or (record.beside(str(config.adapter)) if record else None)
    catalog = catalog if chosen is None else identified(catalog, chosen)
    if record is not None:
        record.check_identifier(catalog, str(config.adapter))
    priors = _priors(name, config, sample, baselines, tuning)
    weight = config.lm_weight if lm_weight is None else lm_weight
    if weight == "tuned" or weight == "fitted":
        raise ConfigError(f"arm {name!r} wants a {weight} lm_weight, and none was chosen")
    if config.engine == "none":
        weight = 0.0
    elif weight is None:
        weight = default_lm_weight(config.adapter, record, priors, sample.queries)
    engine = engines.get(config.engine, config.adapter) if weight or config.decoding == "free" else None
    task: Task = "recommend" if sample.candidates is None else "rank"
    prompts = config.prompts or (tuned.prompts if tuned and task == "recommend" else ())
    factors: list[Prior] = [*priors, *_among(sample)]
    instead: Mapping[str, Query] = {}
    if config.exchanged:
        own = [ExcludeSeen(sample.catalog), *factors]
        factors, instead = [Own(own, dict(zip(sample.users, sample.queries, strict=True)))], exchanged(sample)
    resolved = config.config(tuned, prompt=prompts, lm_weight=weight, rating_lm_weight=1.0)
    index = CatalogIndex(catalog, engine)
    fits = config.lm_weight == "fitted" or (isinstance(weight, RequestWeight) and weight.reads_log)
    log = histories(sample.known, catalog=catalog) if fits else {}
    prompts_read = library or library_of(config)
    recommender = Recommender.of(
        Parts(index, engine, resolved, tuple(factors), (), prompts_read, log, tie_order=_tie_order(sample))
    )
    if prompts and recommender.template(task).name not in prompts:
        of_prompt, of_run = recommender.prompts[prompts[0]].task, recommender.template(task).task
        raise ConfigError(
            f"arm {name!r}: the prompt {prompts[0]!r} is for the task {of_prompt}, and this run wants {of_run}"
        )
    settings = config.model_dump(mode="json", exclude_defaults=True)
    settings |= {
        "prompt": recommender.template(task).ref,
        "max_history": resolved.max_history,
        "lm_weight": plain(weight),
    }
    if priors:
        settings["prior_weights"] = {prior.name: prior.weight for prior in priors}
        if config.priors_of:  # chosen elsewhere: other settings of the same name give other answers
            settings["prior_settings"] = dict(_classic_of(name, config.priors_of, baselines).settings)
    if engine is not None:
        settings |= {"model": engine.name, "tokenizer": engine.tokenizer_digest}
    if config.adapter is not None:
        settings["adapter_digest"] = folder_digest(Path(config.adapter))
    told = settings["prompt"] if engine else ""
    return Arm(name, "arm", recommender, settings, told, _digest(settings, catalog), instead)


def folder_digest(folder: Path) -> str:
    """SHA-256 of the files of an adapter, 16 hex digits; of the name alone where it is no folder."""
    hashed = hashlib.sha256()
    if not folder.is_dir():
        hashed.update(str(folder).encode())
    for path in sorted(folder.glob("adapter_*")):
        hashed.update(path.name.encode() + path.read_bytes())
    return hashed.hexdigest()[:16]


def _priors(name: str, config: ArmConfig, sample: Sample, baselines: Sequence[Result], tuning: bool) -> list[Prior]:
    if config.priors_of:
        chosen = _classic_of(name, config.priors_of, baselines)
        return _soft(chosen.tuned if tuning else chosen.priors)
    priors: list[Prior] = []
    for one, settings in prior_settings(config.priors or {}).items():
        try:
            priors.append(kind(one).fit(sample.known, sample.catalog, **settings))
        except (TypeError, ArgumentError) as error:
            raise ConfigError(f"arm {name!r}, prior {one}: {error}") from None
    return priors


def _classic_of(name: str, baseline: str, baselines: Sequence[Result]) -> Result:
    """The baseline whose priors an arm has.

    Raises:
        ConfigError: There is none of that name.
    """
    by_name = {result.name: result for result in baselines}
    if baseline == BEST and baselines:
        return max(baselines, key=lambda result: result.validation)
    if baseline in by_name:
        return by_name[baseline]
    there = ", ".join([*([BEST] if baselines else []), *by_name]) or "none"
    raise ConfigError(f"arm {name!r}: no classic baseline is called {baseline!r}; there are {there}")


def _among(sample: Sample) -> list[Prior]:
    """What stands beside the priors of every arm: what is ranked at all."""
    return [] if sample.among is None else [Among(only(sample.catalog, sample.among))]


def _tie_order(sample: Sample) -> TieOrder | None:
    """In which order every arm puts what it scores alike."""
    return None if sample.tie_seed is None else RandomTies(len(sample.catalog), sample.tie_seed)


def _soft(priors: Sequence[Prior]) -> list[Prior]:
    """Without `ExcludeSeen`, which every recommender has of its own."""
    return [prior for prior in priors if not isinstance(prior, ExcludeSeen)]


def classic(
    name: str,
    priors: Sequence[Prior],
    settings: Mapping[str, float],
    catalog: Catalog,
    tie_order: TieOrder | None = None,
) -> Arm:
    """A baseline of priors alone."""
    recommender = Recommender(catalog, None, priors=priors, lm_weight=0.0)
    recommender = Recommender.of(replace(recommender.parts, tie_order=tie_order))
    return Arm(name, "baseline", recommender, dict(settings), "", _digest({"classic": name, **settings}, catalog))


def _digest(settings: Mapping[str, Any], catalog: Catalog) -> str:
    text = "\n".join(f"{key}={settings[key]!r}" for key in sorted(settings))
    return hashlib.sha256(f"{text}\n{catalog.digest}".encode()).hexdigest()[:16]
