"""Search for a better prompt, and confirm what is found on users who had no part in the search.

    llmgen prompts improve --config eval/configs/ml-100k.yaml --arm now=next_item --out runs/improve
    llmgen prompts improve ... --requests 5000

Edits that are known to matter at times (`llmgen.evaluation.edits`) make the proposals. They and the original answer for
the same users, who are asked for the item before their last one. After each round, with twice as many users, the worse
half is left out, and whoever is surely worse than the original by an interval that holds at any time. The few that are
left and the original then meet once on other users, who are asked for their last item: permutation tests, with Holm's
correction over all that are confirmed. So the many that were tried cost nothing in error: where no proposal is better
than the original, one is called better with a probability of .05 at most.

Every answer is kept as it comes; the same command goes on after a stop. The folder ends up with `improve.json`, the
templates in `prompts`, and in `confirmed` the report of the last comparison.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer
from numpy.typing import ArrayLike

from llmgen.datasets import Dataset
from llmgen.errors import ConfigError
from llmgen.evaluation.answers import Store, ask, locked
from llmgen.evaluation.arms import ArmConfig, Engines, build
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.edits import Proposal, proposals
from llmgen.evaluation.measures import Measures, span
from llmgen.evaluation.protocol import Sample, samples
from llmgen.evaluation.questions import Questions, from_log
from llmgen.evaluation.results import Results
from llmgen.evaluation.run import command_line, evaluate
from llmgen.evaluation.stats import Sequential
from llmgen.evaluation.terminal import exit_on_error
from llmgen.templates.library import PromptLibrary
from llmgen.workspace.options import data_given, with_options

FILE = "improve.json"
ALPHA = 0.05
FEWEST = 16
"""Users of the first round at least."""

Ask = Callable[[Sequence[str], int], Mapping[str, ArrayLike]]
"""Names of arms and a number of users -> each arm's values of the metric, of the first so many users."""


class Standing(NamedTuple):
    """One arm after a round.

    Attributes:
        arm: Its name.
        mean: Of the difference to the original.
        low: Of an interval that holds at any time, for all arms together.
        high: The same.
        kept: Whether it goes on.
    """

    arm: str
    mean: float
    low: float
    high: float
    kept: bool


class Round(NamedTuple):
    """One round of the search.

    Attributes:
        users: Asked of each arm until now.
        standings: Best first.
    """

    users: int
    standings: tuple[Standing, ...]


def halving(arms: int, users: int, start: int, survivors: int) -> list[tuple[int, int]]:
    """The rounds: how many arms, the original not counted, answer for how many users by their end.

    >>> halving(arms=30, users=400, start=100, survivors=2)
    [(30, 100), (15, 200), (8, 400)]
    """
    rounds = []
    number = min(start, users)
    while True:
        rounds.append((arms, number))
        arms = max(survivors, ceil(arms / 2))
        if number == users or rounds[-1][0] <= survivors:
            return rounds
        number = min(users, 2 * number)


def requests(arms: int, users: int, start: int, survivors: int, others: int) -> int:
    """How many questions a search and its confirmation ask at most, `others` being the users of the confirmation."""
    asked, before = 0, 0
    for number, until in halving(arms, users, start, survivors):
        asked += (number + 1) * (until - before)
        before = until
    return asked + (min(arms, survivors) + 1) * others


def search(
    arms: Sequence[str], original: str, users: int, ask: Ask, *, start: int, survivors: int, largest: float = 1.0
) -> list[Round]:
    """Successive halving of arms on users in random order.

    Source: Jamieson & Talwalkar, AISTATS 2016, for the halving; the intervals are those of `Sequential`.

    Args:
        arms: Names of the proposals.
        original: What they are compared with.
        users: That there are.
        ask: See `Ask`; values of earlier users are asked for again and should be kept.
        start: Users of the first round.
        survivors: At most so many are left at the end.
        largest: See `Sequential`.

    Returns:
        The rounds. Left are those of the last round that were kept: better than the original so far.
    """
    rounds: list[Round] = []
    left = list(arms)
    plan = halving(len(arms), users, start, survivors)
    for place, (_, number) in enumerate(plan):
        values = ask([original, *left], number)
        standings = []
        for arm in left:
            difference = np.asarray(values[arm], np.float64) - np.asarray(values[original], np.float64)
            watch = Sequential(1 - ALPHA / len(arms), largest=largest)
            watch.add(difference)
            standings.append(Standing(arm, watch.mean, watch.low, watch.high, watch.high >= 0))
        standings.sort(key=lambda one: -one.mean)
        last = place == len(plan) - 1
        most = survivors if last else max(survivors, ceil(len(left) / 2))
        standings = [
            one._replace(kept=one.kept and rank < most and (one.mean > 0 or not last))
            for rank, one in enumerate(standings)
        ]
        rounds.append(Round(number, tuple(standings)))
        left = [one.arm for one in standings if one.kept]
        if not left:
            break
    return rounds


class Improved(NamedTuple):
    """What a search found.

    Attributes:
        rounds: Of the search.
        tried: The proposals.
        confirmed: Names of those that met the original on other users.
        results: Of that meeting; None where nobody got so far.
        winner: The best of those that are surely better; None if none is.
        template: Its file, where it has one of its own.
        said: All of it in a sentence.
    """

    rounds: Sequence[Round]
    tried: Sequence[Proposal]
    confirmed: Sequence[str]
    results: Results | None
    winner: str | None
    template: Path | None
    said: str


def improve(
    config: RunConfig, out: Path, *, limit: int | None = None, survivors: int = 2, command: str = "improve"
) -> Improved:
    """Search, confirm, and write everything into a folder.

    Args:
        config: Of a run with one arm, the original, with a number as its weight of the model.
        out: The folder; a search in it that was stopped is gone on with.
        limit: Questions at most; the first rounds have fewer users then. None for all users.
        survivors: So many at most are confirmed.
        command: For the record.

    Raises:
        ConfigError: Another number of arms, a tuned weight, or a limit that is too low.
        LLMGenError: Data, models or files are not what they should be.
    """
    if len(config.arms) != 1:
        raise ConfigError(f"one arm is improved, and there are {len(config.arms)}; give --arm NAME=PROMPT once")
    ((name, original),) = config.arms.items()
    if original.lm_weight == "tuned":
        raise ConfigError(
            "a weight that is tuned for each proposal would need users of its own; give lm_weight a number"
        )
    with locked(out):
        dataset = config.protocol.load()
        tuning, final = samples(config.protocol, dataset)
        first, second = _halves(tuning, final, config.protocol.seed)
        tried = _proposals(original, dataset, out / "prompts")
        start = _start(len(tried), len(first.queries), len(second.queries), survivors, limit)
        settings = {one.name: one.arm(original, out / "prompts") for one in tried}
        if name in settings:
            raise ConfigError(f"a proposal is called {name!r} too; give the original another name")
        asker = _Asker({name: original, **settings}, first, config, out)
        rounds = search(
            list(settings), name, len(first.queries), asker, start=start, survivors=survivors,
            largest=span(config.main_metric),
        )  # fmt: skip
        confirmed = [one.arm for one in rounds[-1].standings if one.kept]
    results = None
    if confirmed:
        met = config.model_copy(
            update={"arms": {arm: {name: original, **settings}[arm] for arm in (name, *confirmed)}, "baseline": name,
                    "stop_early": False}
        )  # fmt: skip

        def of_others(given: RunConfig) -> Questions:
            return replace(from_log(given), final=second)

        results = evaluate(met, out / "confirmed", command=command, questions=of_others, engines=asker.engines)
    found = _found(name, rounds, tried, confirmed, results, config.main_metric, out)
    (out / FILE).write_text(json.dumps(_record(found, name), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return found


class _Asker:
    """Asks arms about the first users of a sample; answers are kept in a folder."""

    def __init__(self, arms: Mapping[str, ArmConfig], sample: Sample, config: RunConfig, out: Path) -> None:
        self.engines = Engines()
        self._arms, self._sample, self._out = arms, sample, out
        self._metric, self._k = config.main_metric, config.protocol.k

    def __call__(self, names: Sequence[str], users: int) -> dict[str, ArrayLike]:
        part = self._sample.part(range(users))
        made = [build(name, self._arms[name], self._sample, [], self.engines, tuning=True) for name in names]
        stores = [Store(self._out, arm, self._sample) for arm in made]
        ask(made, part, stores, f"{len(names)} prompts, {users} users")
        measures = Measures(part, self._k)
        return {
            arm.name: measures.per_user(store.table(part.users))[self._metric]
            for arm, store in zip(made, stores, strict=True)
        }


def _halves(tuning: Sample, final: Sample, seed: int) -> tuple[Sample, Sample]:
    """Users to search on, asked for the item before the last, and other users, asked for the last, in random order."""
    places = {user: place for place, user in enumerate(tuning.users)}
    order = np.random.default_rng([seed, 7]).permutation(len(final.queries)).tolist()
    middle = len(order) // 2
    first = [places[final.users[number]] for number in order[:middle] if final.users[number] in places]
    if len(first) < FEWEST or len(order) - middle < FEWEST:
        raise ConfigError(f"a search needs {2 * FEWEST} users or more, and the protocol has {len(order)}")
    return tuning.part(first), final.part(order[middle:])


def _proposals(original: ArmConfig, dataset: Dataset, folder: Path) -> list[Proposal]:
    own = original.prompt_folder
    library = PromptLibrary.default(*([own] if own else []))
    rated = dataset.interactions["rating"].null_count() < len(dataset.interactions)
    tried = proposals(original, library, detailed=bool(dataset.catalog.shown), rated=rated)
    if not tried:
        raise ConfigError(f"no known edit fits the prompt {original.prompt!r}")
    folder.mkdir(exist_ok=True)
    for path in sorted(own.glob("*.jinja")) if own else ():
        (folder / path.name).write_bytes(path.read_bytes())
    for one in tried:
        if one.text is not None:
            (folder / f"{one.name}.jinja").write_text(one.text, encoding="utf-8", newline="")
    return tried


def _start(arms: int, users: int, others: int, survivors: int, limit: int | None) -> int:
    """Users of the first round, so that all that are left to the last one can be asked about all, within the limit."""
    start = users
    while start > FEWEST and len(halving(arms, users, start, survivors)) < 1 + int(np.log2(max(1, arms / survivors))):
        start = max(FEWEST, start // 2)
    if limit is None:
        return start
    while requests(arms, users, start, survivors, others) > limit:
        if start == FEWEST:
            least = requests(arms, users, start, survivors, others)
            raise ConfigError(f"{limit} requests are too few for {arms} proposals and {others} users to confirm with; "
                              f"allow {least}, or ask fewer --users")  # fmt: skip
        start = max(FEWEST, start // 2)
    return start


def _found(
    name: str,
    rounds: Sequence[Round],
    tried: Sequence[Proposal],
    confirmed: Sequence[str],
    results: Results | None,
    metric: str,
    out: Path,
) -> Improved:
    rows = [row for row in (results.differences if results else ()) if row.metric == metric]
    better = [row for row in rows if row.p_holm is not None and row.p_holm < ALPHA and row.mean > 0]
    if not better:
        why = f"{len(confirmed)} of {len(tried)} proposals were confirmed, and none is surely better than {name}"
        if not confirmed:
            why = f"none of {len(tried)} proposals did better than {name} on {rounds[-1].users} users"
        return Improved(rounds, tried, confirmed, results, None, None, f"Nothing better was found: {why}.")
    best = max(better, key=lambda row: row.mean)
    proposal = next(one for one in tried if one.name == best.arm)
    template = None if proposal.text is None else out / "prompts" / f"{best.arm}.jinja"
    said = (
        f"{best.arm} is better than {name}: {metric} {best.mean:+.4f} [{best.low:+.4f}, {best.high:+.4f}], Holm p "
        f"{best.p_holm:.3g}, on users who had no part in the search. It differs in: {proposal.about}."
    )
    return Improved(rounds, tried, confirmed, results, best.arm, template, said)


def _record(found: Improved, name: str) -> dict[str, object]:
    return {
        "original": name,
        "said": found.said,
        "winner": found.winner,
        "template": None if found.template is None else str(found.template),
        "confirmed": list(found.confirmed),
        "proposals": {one.name: one.about for one in found.tried},
        "rounds": [
            {"users": one.users, "standings": [standing._asdict() for standing in one.standings]}
            for one in found.rounds
        ],
    }


@with_options(data=data_given)
def main(
    data: Mapping[str, object],
    config: Annotated[Path | None, typer.Option(help="YAML, see llmgen.evaluation.RunConfig.")] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="The original: NAME=PROMPT or NAME=key:value,key:value.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of this search; a stopped one continues in its folder.")] = Path(
        "runs/improve"
    ),
    requests: Annotated[int | None, typer.Option(min=1, help="Questions to the model at most; all users else.")] = None,
    survivors: Annotated[int, typer.Option(min=1, help="How many are confirmed at most.")] = 2,
    users: Annotated[
        int | None, typer.Option(help="Of the log; half to search, half to confirm. All by default.")
    ] = None,
    k: Annotated[int | None, typer.Option(help="Length of the answers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    metric: Annotated[str | None, typer.Option(help="The one that counts; ndcg@k by default.")] = None,
) -> None:
    """Search for a better prompt, and confirm it on other users."""
    with exit_on_error():
        chosen = RunConfig.read(
            config, arm or (), data=data, users=users, k=k, seed=seed, metric=metric, classics="none", latency_users=0
        )
        found = improve(
            chosen, out, limit=requests, survivors=survivors, command=command_line("llmgen prompts improve")
        )
        typer.echo(found.said)
        if found.template is not None:
            typer.echo(f"template: {found.template}")
        if found.results is not None:
            typer.echo(f"report: {out / 'confirmed' / 'report.html'}")
