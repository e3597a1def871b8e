"""What can be known to be wrong with a run before any data is read, all of it in one message."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from importlib.util import find_spec

from llmgen.adapters import AdapterRecord
from llmgen.engines import kinds as engine_kinds
from llmgen.errors import ConfigError, LLMGenError
from llmgen.evaluation.arms.arm_config import BEST, CHOSEN, ArmConfig
from llmgen.evaluation.baselines.core import NEURAL_GRIDS, REPEAT_GRID, default_grids
from llmgen.evaluation.config import NONE_WRONG, Mistakes, RunConfig
from llmgen.evaluation.memory import budget
from llmgen.evaluation.protocols.protocol import Protocol
from llmgen.priors import kinds as prior_kinds
from llmgen.recommend.prompting import task_of
from llmgen.recommend.settings import prior_settings
from llmgen.templates.library import PromptLibrary
from llmgen.workspace.core import library_of, wrong_data


def check(config: RunConfig, *, gates: Sequence[str] = (), from_log: bool = True, wrong: Mistakes = NONE_WRONG) -> None:
    """Look at everything that needs neither data nor model.

    Args:
        config: Of the run.
        gates: Metrics that a gate asks for.
        from_log: Whether the samples and the classics are those of `experiment.from_log`; others have classics and
            metrics of their own, which only they know.
        wrong: What is known to be wrong already, which is told first.

    Raises:
        ConfigError: One line for each mistake.
    """
    found = [*wrong.lines, *_of_run(config, gates, from_log, wrong.settings), *wrong_data(config.protocol.data)]
    for name, arm in config.arms.items():
        found += [f"arm {name!r}{said}" for said in _of_arm(arm, config, from_log, wrong.settings)]
    if found:
        raise ConfigError("\n".join(found))


def check_ratings(*, dataset: str, split: str, engine: str, prompt: str | None) -> None:
    """The same for `eval.ratings`.

    Raises:
        ConfigError: One line for each mistake.
    """
    found = [*wrong_data({"dataset": dataset}), *_of_engine(engine)]
    if split not in ("last", "random"):
        found.append(f"split must be last or random, not {split!r}")
    library = PromptLibrary.default()
    if prompt is not None and (prompt not in library or library[prompt].task != "rate"):
        there = [name for name in library if library[name].task == "rate"]
        found.append(f"no prompt for the task rate is called {prompt!r}; there are {', '.join(there)}")
    if found:
        raise ConfigError("\n".join(found))


def metrics(protocol: Protocol) -> list[str]:
    """The metrics of each user that a run by this protocol may have; those for several held-out items among them."""
    names = ["hr", "ndcg", "mrr", *([] if protocol.split == "leave_one_out" else ["recall", "precision", "map"])]
    return [*(f"{name}@{protocol.k}" for name in names), *([] if protocol.candidates is None else ["position_bias"])]


def tuned_classics(config: RunConfig) -> list[str]:
    """The classics whose priors an arm may name; those that a run is too large for among them."""
    if config.classics == "none":
        return []
    repeat = REPEAT_GRID if config.protocol.seen == "kept" else {}
    mixes = ["mix", *(f"mix+{name}" for name in config.also if name in NEURAL_GRIDS)]
    return [*default_grids(), *repeat, *config.also, *mixes]


def _of_run(config: RunConfig, gates: Sequence[str], from_log: bool, unsure: Set[str]) -> Iterator[str]:
    if not config.arms and config.classics == "none" and not unsure & {"arms", "classics"}:
        yield "there is nothing to run; give --arm NAME=PROMPT, arms in the file, or classics"
    if from_log and not unsure & {"k", "split", "candidates", "metric"}:
        there = metrics(config.protocol)
        if config.main_metric not in there:
            yield f"there is no metric {config.main_metric!r}; there are {', '.join(there)}"
        for gate in gates:
            if gate not in there:
                yield f"--fail-if: there is no difference in {gate!r}; there are {', '.join(there)}"
    if from_log and not unsure & {"arms", "classics", "also", "seen", "baseline"}:
        fixed = [] if config.classics == "none" else ["random", "bm25", "content"]
        if fixed and config.protocol.seen == "kept":
            fixed.append("repeat_last")
        classics = [*fixed, *tuned_classics(config)]
        for name in sorted(set(config.arms) & set(classics)):
            yield f"an arm may not be called {name!r}: that is a classic baseline's name"
        if config.baseline and config.baseline not in {*config.arms, *classics}:
            yield f"the baseline {config.baseline!r} is no arm; there are {', '.join([*config.arms, *classics])}"
    try:
        budget(config.memory)
    except ConfigError as error:
        yield str(error)
    for name in config.also if config.classics != "none" else ():
        package, extra = ("torch", "hf") if name in NEURAL_GRIDS else ("implicit", "factors")
        if find_spec(package) is None:
            yield f"{name} needs llmgen[{extra}], which is not installed; pip install 'llmgen[{extra}]'"


def _of_engine(name: str) -> Iterator[str]:
    kind = name.partition(":")[0]
    if kind not in (there := engine_kinds()):
        yield f"no engine is of the kind {kind!r}; there are {', '.join(there)}"


def _of_arm(arm: ArmConfig, config: RunConfig, from_log: bool, unsure: Set[str]) -> Iterator[str]:
    yield from (f": {said}" for said in _of_engine(arm.engine))
    if arm.engine == "none" and arm.lm_weight in CHOSEN:
        yield ": the engine is none, so there is no model whose weight could be tuned; leave lm_weight out"
    if arm.engine == "none" and arm.decoding == "free":
        yield ": free decoding needs an engine that writes the text, and the engine is none"
    if arm.engine == "none" and arm.think_tokens:
        yield f": the engine is none, so nothing can think for think_tokens: {arm.think_tokens}; leave it out"
    if arm.rating_priors is not None or arm.rating_lm_weight is not None:
        yield ": an arm is asked for lists, not for ratings; leave rating_priors and rating_lm_weight out"
    if arm.priors_of and from_log and not unsure & {"classics", "also", "seen"}:
        there = [BEST, *tuned_classics(config)] if config.classics != "none" else []
        if arm.priors_of not in there:
            fits = arm.priors_of in prior_kinds.kinds()
            own = f"; give priors: {{{arm.priors_of}: 1.0}} to fit it with the settings that you give" if fits else ""
            yield f": no classic baseline is called {arm.priors_of!r}; there are {', '.join(there) or 'none'}{own}"
    yield from (f": {said}" for said in prior_kinds.wrong(prior_settings(arm.priors or {})))
    task = "recommend" if config.protocol.candidates is None else "rank"
    prompts = arm.prompts
    if arm.adapter is not None:
        try:
            record = AdapterRecord.read(arm.adapter)
            if record is not None and task == "recommend":
                prompts = prompts or record.recommender.prompts
        except LLMGenError as error:
            yield f": {error}"
    try:
        library = library_of(arm)
        tasks = {task_of(library[prompt]) for prompt in prompts}
        if prompts and task not in tasks and "candidates" not in unsure:
            of_prompt, of_run = library[prompts[0]].task, "next_item" if task == "recommend" else "rerank"
            yield f": the prompt {prompts[0]!r} is for the task {of_prompt}, and this run wants {of_run}"
    except LLMGenError as error:
        yield f": {error}"
