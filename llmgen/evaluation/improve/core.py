"""Search for a better prompt, and confirm what is found on users who had no part in the search.

    llmgen prompts improve --config eval/configs/ml-100k.yaml --arm now=next_item --out runs/improve
    llmgen prompts improve ... --requests 5000

Edits that are known to matter at times (`llmgen.evaluation.improve.edits`) make the proposals. They and the original
answer for the same users, three in ten of all, who are asked for their last two items, one after the other. After each
round, with twice as many users, the worse half is left out, and whoever is surely worse than the original by an
interval that holds at any time. The few that are left and the original then meet once on the other users, who are asked
for their last item: one-sided permutation tests, with Holm's correction over all that are confirmed (`halving.claims`).
So the many that were tried cost nothing in error: where no proposal is better than the original, one is called better
with a probability of .05 at most.

A language model that the user names may propose templates too (`llmgen.evaluation.improve.proposer`): it is asked after
a first look at the edits, and what it proposes is tried like them. All of it keeps to a budget
(`llmgen.evaluation.improve.budget`).

Every answer is kept as it comes; the same command goes on after a stop. The folder ends up with `improve.json`, the
templates in `prompts`, and in `confirmed` the report of the last comparison.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import typer

from llmgen.errors import ConfigError
from llmgen.evaluation.answers import locked
from llmgen.evaluation.arms.arm_config import CHOSEN, ArmConfig
from llmgen.evaluation.config import RunConfig
from llmgen.evaluation.experiment import Experiment, from_log
from llmgen.evaluation.improve.asker import Asker
from llmgen.evaluation.improve.budget import Budget
from llmgen.evaluation.improve.edits import Proposal, proposals
from llmgen.evaluation.improve.halving import (
    ERROR,
    FEWEST,
    SEARCHED,
    Round,
    by_lot,
    claims,
    first_round,
    requests,
    search,
)
from llmgen.evaluation.improve.proposer import Proposed, Proposer
from llmgen.evaluation.metrics.measures import span
from llmgen.evaluation.protocols.protocol import samples
from llmgen.evaluation.protocols.sample import Sample
from llmgen.evaluation.results import Results
from llmgen.evaluation.run import command_line, evaluate
from llmgen.evaluation.terminal import exit_on_error
from llmgen.templates.library import PromptLibrary
from llmgen.workspace.core import library_of
from llmgen.workspace.options import data_given, with_options

FILE = "improve.json"
NO_BOUND = Budget()


class Improved(NamedTuple):
    """What a search found.

    Attributes:
        rounds: Of the search.
        tried: The proposals.
        confirmed: Names of those that met the original on other users.
        results: Of that meeting; None where nobody got so far.
        dropped: Proposals of a language model that could not be tried -> why.
        winner: The best of those that are surely better; None if none is.
        template: Its file, where it has one of its own.
        said: All of it in a sentence.
    """

    rounds: Sequence[Round]
    tried: Sequence[Proposal]
    confirmed: Sequence[str]
    results: Results | None
    dropped: Mapping[str, str]
    winner: str | None
    template: Path | None
    said: str


def improve(
    config: RunConfig,
    out: Path,
    *,
    budget: Budget = NO_BOUND,
    proposer: Proposer | None = None,
    survivors: int = 2,
    command: str = "improve",
) -> Improved:
    """Search, confirm, and write everything into a folder.

    Args:
        config: Of a run with one arm, the original, with a number as its weight of the model.
        out: The folder; a search that was stopped continues in its folder.
        budget: The first rounds have fewer users where it is small, and hours that are up leave fewer to confirm on.
        proposer: A language model that proposes templates beside the known edits.
        survivors: So many at most are confirmed.
        command: For the record.

    Raises:
        ConfigError: Another number of arms, a tuned weight, or a budget that is too small.
        LLMGenError: Data, models or files are not what they should be, or the proposer's server is not there.
    """
    if len(config.arms) != 1:
        raise ConfigError(f"one arm is improved, and there are {len(config.arms)}; give --arm NAME=PROMPT once")
    ((name, original),) = config.arms.items()
    if original.lm_weight in CHOSEN:
        raise ConfigError(
            "a weight that is tuned for each proposal would need users of its own; give lm_weight a number"
        )
    with locked(out):
        dataset = config.protocol.load()
        tuning, final = samples(config.protocol, dataset)
        first, second = divided(tuning, final, config.protocol.seed)
        users, others = len(first[0]), len(second)
        library, prompt = _library(original, out / "prompts"), next(iter(original.prompts), "next_item")
        rated = dataset.interactions["rating"].null_count() < len(dataset.interactions)
        tried = proposals(original, library, detailed=bool(dataset.catalog.shown), rated=rated)
        if not tried:
            raise ConfigError(f"no known edit fits the prompt {prompt!r}")
        more = 0 if proposer is None else proposer.number
        _ = _start(
            len(tried) + more, users, others, survivors, None if budget.requests is None else budget.requests - more
        )
        if name in {one.name for one in tried}:
            raise ConfigError(f"a proposal is called {name!r} too; give the original another name")
        asker = Asker(first, config, out)
        asker.add({name: original, **_arms(tried, original, out / "prompts")})
        proposed, limit = Proposed(), budget.requests
        if proposer is not None or budget.is_timed:
            looked = asker([name, *(one.name for one in tried)], FEWEST)
            if proposer is not None:
                done = {one.about: float(np.mean(looked[one.name] - looked[name])) for one in tried}
                shown = asker.most_different(name, looked, proposer.users)
                proposed = proposer.propose(library[prompt], library, done, shown, out)
                tried += proposed.proposals
                asker.add(_arms(proposed.proposals, original, out / "prompts"))
            limit = budget.most_requests(asker.each(), proposed.requests, proposed.money, proposed.seconds)
        start = _start(len(tried), users, others, survivors, limit)
        lot = np.random.default_rng([config.protocol.seed, 8]).permutation(len(tried)).tolist()
        rounds = search(
            [tried[number].name for number in lot], name, users, asker, start=start, survivors=survivors,
            largest=span(config.main_metric),
        )  # fmt: skip
        confirmed = [one.arm for one in rounds[-1].standings if one.kept]
        left = budget.seconds(proposed.money, proposed.seconds + asker.seconds)
    results = None
    if confirmed:
        met = (name, *confirmed)
        if left is not None:  # a number of users that depends on the clock, and on nothing that they answered
            most = int(left / asker.each(met) / len(met))
            second = second.rows(range(max(FEWEST, min(others, most))))
        final_run = config.model_copy(
            update={"arms": {arm: asker.arms[arm] for arm in met}, "baseline": name, "stop_early": False}
        )

        def of_others(given: RunConfig) -> Experiment:
            return replace(from_log(given), final=second)

        results = evaluate(final_run, out / "confirmed", command=command, experiment=of_others, engines=asker.engines)
    found = _found(name, rounds, tried, confirmed, results, proposed.dropped, config.main_metric, out)
    (out / FILE).write_text(json.dumps(_record(found, name), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return found


def divided(tuning: Sample, final: Sample, seed: int) -> tuple[tuple[Sample, ...], Sample]:
    """The users of a log in random order: some to search on, the others to confirm on.

    Args:
        tuning: All users, with the item before the last.
        final: The same with the last item.
        seed: Of the order.

    Returns:
        The users to search on, with either item, and the others with the last one.

    Raises:
        ConfigError: They are too few.
    """
    places = {user: place for place, user in enumerate(tuning.users)}
    order = np.random.default_rng([seed, 7]).permutation(len(final)).tolist()
    some = max(FEWEST, round(SEARCHED * len(order)))
    searched = [number for number in order[:some] if final.users[number] in places]
    if len(searched) < FEWEST or len(order) - some < FEWEST:
        raise ConfigError(f"a search needs {2 * FEWEST} users or more, and the protocol has {len(order)}")
    before = tuning.rows(places[final.users[number]] for number in searched)
    return (before, final.rows(searched)), final.rows(order[some:])


def _library(original: ArmConfig, folder: Path) -> PromptLibrary:
    """The prompts of the original, with its own ones copied into a folder, where proposals are written to."""
    own = original.prompt_folder
    folder.mkdir(exist_ok=True)
    for path in sorted(own.glob("*.jinja")) if own else ():
        (folder / path.name).write_bytes(path.read_bytes())
    return library_of(original)


def _arms(tried: Sequence[Proposal], original: ArmConfig, folder: Path) -> dict[str, ArmConfig]:
    """The arms of proposals, with their templates written into a folder."""
    for one in tried:
        if one.text is not None:
            (folder / f"{one.name}.jinja").write_text(one.text, encoding="utf-8", newline="")
    return {one.name: one.arm(original, folder) for one in tried}


def _start(arms: int, users: int, others: int, survivors: int, limit: int | None) -> int:
    start = first_round(arms, users, others, survivors, limit)
    if start is None:
        least = requests(arms, users, FEWEST, survivors, others)
        raise ConfigError(f"the budget allows {limit} requests, too few for {arms} proposals and {others} users to "
                          f"confirm with; allow {least}, or ask fewer --users")  # fmt: skip
    return start


def _found(
    name: str,
    rounds: Sequence[Round],
    tried: Sequence[Proposal],
    confirmed: Sequence[str],
    results: Results | None,
    dropped: Mapping[str, str],
    metric: str,
    out: Path,
) -> Improved:
    rows = {row.arm: row for row in (results.differences if results else ()) if row.metric == metric}
    sure = claims(confirmed, {arm: (row.mean, row.p) for arm, row in rows.items()})
    better = [arm for arm, p in sure.items() if p <= ERROR]
    if not better:
        why = f"{len(confirmed)} of {len(tried)} proposals were confirmed, and none is surely better than {name}"
        if not confirmed:
            why = f"none of {len(tried)} proposals did better than {name} on {rounds[-1].users} users"
        said = f"Nothing better was found: {why}."
        if lots := by_lot(rounds):
            said += f" {lots} were left out by lot, level with others that went on; more users would tell them apart."
        sizes = [row.detectable for row in rows.values() if row.detectable is not None]
        if sizes:
            said += (
                f" On these users a gain in {metric} of {max(sizes):.4f} is found in about four of five confirmations."
            )
        return Improved(rounds, tried, confirmed, results, dropped, None, None, said)
    best = max(better, key=lambda arm: rows[arm].mean)
    proposal, row = next(one for one in tried if one.name == best), rows[best]
    template = None if proposal.text is None else out / "prompts" / f"{best}.jinja"
    said = (
        f"{best} is better than {name}: {metric} {row.mean:+.4f} [{row.low:+.4f}, {row.high:+.4f}], one-sided p "
        f"{sure[best]:.3g} by Holm, on users who had no part in the search. It differs in: {proposal.about}."
    )
    return Improved(rounds, tried, confirmed, results, dropped, best, template, said)


def _record(found: Improved, name: str) -> dict[str, object]:
    return {
        "original": name,
        "said": found.said,
        "winner": found.winner,
        "template": None if found.template is None else str(found.template),
        "confirmed": list(found.confirmed),
        "proposals": {one.name: one.about for one in found.tried},
        "dropped": dict(found.dropped),
        "rounds": [
            {"users": one.users, "standings": [standing._asdict() for standing in one.standings]}
            for one in found.rounds
        ],
    }


@with_options(data=data_given)
def main(
    data: Mapping[str, object],
    config: Annotated[
        Path | None, typer.Option(help="YAML file with all settings of the run; options override it.")
    ] = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="The original: NAME=PROMPT or NAME=key:value,key:value.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of this search; a stopped one continues in its folder.")] = Path(
        "runs/improve"
    ),
    requests: Annotated[int | None, typer.Option(min=1, help="Budget: requests to all models at most.")] = None,
    hours: Annotated[float | None, typer.Option(help="Budget: hours of asking at most.")] = None,
    money: Annotated[float | None, typer.Option(help="Budget: money at most, in the currency of the prices.")] = None,
    price_per_hour: Annotated[float | None, typer.Option(help="Price of an hour of this machine, for --money.")] = None,
    propose: Annotated[
        str | None,
        typer.Option(
            "--proposer",
            help="openai:URL or openai:URL:MODEL: a language model that proposes templates too. It is sent the "
            "template, the edits and their figures; data of users only with --show-users. LLMGEN_PROPOSER_KEY or "
            "OPENAI_API_KEY is its key.",
        ),
    ] = None,
    number: Annotated[int, typer.Option("--proposals", min=1, max=100, help="How many templates it is asked for.")] = 8,
    show_users: Annotated[
        int,
        typer.Option(min=0, help="Send it the histories and lists of so many users, without ids; none by default."),
    ] = 0,
    read_price: Annotated[
        float | None, typer.Option(help="Price of a million tokens that it reads, for --money.")
    ] = None,
    written_price: Annotated[
        float | None, typer.Option(help="Price of a million tokens that it writes, for --money.")
    ] = None,
    survivors: Annotated[
        int, typer.Option(min=1, help="At most so many templates are confirmed on the other users.")
    ] = 2,
    users: Annotated[
        int | None,
        typer.Option(
            help="Users of the log that take part: three in ten to search, the others to confirm. Default: all."
        ),
    ] = None,
    k: Annotated[int | None, typer.Option(help="Length of each list. Default: 10.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all random draws.")] = None,
    metric: Annotated[str | None, typer.Option(help="The metric that decides. Default: NDCG at k, as ndcg@10.")] = None,
) -> None:
    """Search for a better prompt, and confirm it on other users."""
    with exit_on_error():
        chosen = RunConfig.read(
            config, arm or (), data=data, users=users, k=k, seed=seed, metric=metric, classics="none", latency_users=0
        )
        budget = Budget(requests, hours, money, price_per_hour, read_price, written_price)
        proposer = None if propose is None else Proposer(propose, number, show_users, budget)
        if proposer is None and (show_users or read_price is not None or written_price is not None):
            raise ConfigError("--show-users, --read-price and --written-price are for a --proposer; give one")
        command = command_line("llmgen prompts improve")
        found = improve(chosen, out, budget=budget, proposer=proposer, survivors=survivors, command=command)
        typer.echo(found.said)
        if found.dropped:
            typer.echo(f"{len(found.dropped)} of {number} answers of the proposer were dropped; {out / FILE} says why")
        if found.template is not None:
            typer.echo(f"template: {found.template}")
        if found.results is not None:
            typer.echo(f"report: {out / 'confirmed' / 'report.html'}")
