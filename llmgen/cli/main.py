"""The command line: recommend, rank, rate, explain, serve, prompts, data, demo, and those of `llmgen.cli.commands`.

Exit codes: 0 done, 1 something was wrong with data, model or request (one line on stderr says what) or with llmgen
itself (a traceback stands before that line), 2 wrong usage; 143 ended by SIGTERM as process 1.
"""

import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgen.cli.answer_options import (
    EngineOption,
    FilterOption,
    HistoryOption,
    JsonOption,
    LMWeightOption,
    PriorOption,
    RatingLMWeightOption,
    RatingPriorOption,
    TextOption,
    UserOption,
    filters_given,
    model_options,
    rating_priors_given,
    scoring_options,
)
from llmgen.cli.asking import ask, console_of, echo_json, in_a_line, output_aside, print_answer, settings_given
from llmgen.cli.commands import IMPROVE
from llmgen.cli.commands import add as add_command_to
from llmgen.cli.commands import add_to as add_commands_to
from llmgen.cli.list_options import ListOptions, list_options
from llmgen.cli.prompts import prompts_app
from llmgen.cli.serving import playground, serve
from llmgen.errors import ArgumentError, ConfigError, LLMGenError
from llmgen.text.normalization import without_controls
from llmgen.workspace.options import data_settings, read_priors, with_options

if TYPE_CHECKING:
    from llmgen.workspace.core import DataSettings

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
app.add_typer(prompts_app, name="prompts")


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")] = False,
) -> None:
    """A generative LLM recommender: the language model's probability times an item prior, on one trie."""
    shown = logging.StreamHandler(sys.stderr)
    if not verbose:
        shown.addFilter(_is_for_everybody)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[shown], format="%(message)s")


def _is_for_everybody(record: logging.LogRecord) -> bool:
    """Errors, and warnings of llmgen, but not those of libraries, and not what the service says of single clients."""
    ours = record.name.startswith("llmgen.") and not record.name.startswith("llmgen.server.")
    return ours or record.levelno >= logging.ERROR


@app.command()
@with_options(wanted=list_options, scoring=scoring_options, model=model_options, data=data_settings)
def recommend(
    data: "DataSettings",
    model: dict[str, object],
    scoring: dict[str, object],
    wanted: ListOptions,
    user: UserOption = None,
    history: HistoryOption = None,
    text: TextOption = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    filter: FilterOption = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Also recommend items of the history.")] = False,
    explain_scores: Annotated[bool, typer.Option("--explain-scores", help="Show each term of the score.")] = False,
    json_: JsonOption = False,
) -> None:
    """Recommend items for a user, a history or a wish in words."""
    settings = settings_given(**model, **scoring)
    with output_aside():
        asked = ask(data, settings, user, history, text, k=k, filter=filter, include_seen=include_seen)
        answer = wanted.answer(asked.query, asked.recommender.recommend)
    print_answer(asked, answer, "Recommended", json_, explain_scores)


@app.command()
@with_options(scoring=scoring_options, model=model_options, data=data_settings)
def batch(
    data: "DataSettings",
    model: dict[str, object],
    scoring: dict[str, object],
    out: Annotated[Path, typer.Option(help="Folder for the lists; a run that was stopped continues in its folder.")],
    users: Annotated[
        str,
        typer.Option(help="all, or a file that names them: a table with a column user_id, or .txt with one a line."),
    ] = "all",
    k: Annotated[int, typer.Option("-k", min=1, help="How many items for each user.")] = 20,
    filter: FilterOption = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Also recommend items of the history.")] = False,
    shard: Annotated[int, typer.Option(min=1, help="Users in each file.")] = 2_000,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Make the lists by actors of Ray: local starts a cluster here; auto or HOST:PORT joins one of "
            "which this machine is a node."
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many actors of Ray; by default one for each core, or for each GPU with hf and vllm."
        ),
    ] = None,
) -> None:
    """Recommend to many users, as Parquet files. A run that was stopped continues in its folder."""
    from llmgen.cli.batch import Maker, in_process, read_users, run
    from llmgen.workspace.fitted import open_workspace

    settings = settings_given(**model, **scoring)
    if ray is None and actors is not None:
        raise ConfigError("--actors is the number of Ray's actors; give --ray too")
    with ExitStack() as held:
        held.enter_context(output_aside())
        maker: Maker = in_process
        if ray is not None:
            from llmgen.cli.ray_batch import connected, on_ray

            maker = on_ray(held.enter_context(connected(ray, actors)))
        workspace = open_workspace(data, settings)
        ids = list(workspace.histories) if users == "all" else read_users(Path(users))
        asked = {"k": k, "filters": filters_given(filter), "include_seen": include_seen}
        written = run(workspace, settings, ids, out, asked, shard=shard, maker=maker)
    files = -(-written.users // shard)
    typer.echo(
        f"{written.users:,} users in {files:,} files in {out}; {written.found:,} files were there; "
        f"{written.empty:,} users of the new ones have nothing left to be recommended"
    )


@app.command()
@with_options(model=model_options, data=data_settings)
def rank(
    data: "DataSettings",
    model: dict[str, object],
    candidate: Annotated[list[str], typer.Option(help="Item id to rank. Repeatable.")],
    user: UserOption = None,
    history: HistoryOption = None,
    text: TextOption = None,
    prior: PriorOption = None,
    lm_weight: LMWeightOption = None,
    explain_scores: Annotated[bool, typer.Option("--explain-scores", help="Show each term of the score.")] = False,
    json_: JsonOption = False,
) -> None:
    """Put given candidates in order."""
    settings = settings_given(
        **model,
        priors=None if prior is None else read_priors(prior),
        lm_weight=lm_weight,
    )
    with output_aside():
        asked = ask(data, settings, user, history, text, task="rank")
        answer = asked.recommender.rank(asked.query, candidate)
    print_answer(asked, answer, "Ranked", json_, explain_scores)


@app.command()
@with_options(wanted=list_options, data=data_settings)
def similar(
    data: "DataSettings",
    wanted: ListOptions,
    item: Annotated[str, typer.Option(help="Item id.")],
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    filter: FilterOption = None,
    prior: PriorOption = None,
    explain_scores: Annotated[bool, typer.Option("--explain-scores", help="Show each term of the score.")] = False,
    json_: JsonOption = False,
) -> None:
    """Find items like an item. What people took with it counts, and what items say of themselves."""
    settings = settings_given(engine="none", priors=None if prior is None else read_priors(prior))
    with output_aside():
        asked = ask(data, settings, None, [item], None, k=k, filter=filter)
        query = replace(asked.query, history=())
        answer = wanted.answer(query, lambda query: asked.recommender.similar(item, query))
    for warning in answer.warnings:
        typer.echo(warning, err=True)
    print_answer(asked, answer, "Similar", json_, explain_scores)


@app.command()
@with_options(model=model_options, data=data_settings)
def rerank(
    data: "DataSettings",
    model: dict[str, object],
    document: Annotated[list[str], typer.Option(help="A text, or an item's id, label or title. Repeatable.")],
    user: UserOption = None,
    history: HistoryOption = None,
    text: TextOption = None,
    prior: PriorOption = None,
    lm_weight: LMWeightOption = None,
    json_: JsonOption = False,
) -> None:
    """Put documents in order for a wish. Who asks counts too, as for the route /v1/rerank."""
    from llmgen.http.list_schemas import RerankedBody
    from llmgen.http.schemas import to_json

    settings = settings_given(**model, priors=None if prior is None else read_priors(prior), lm_weight=lm_weight)
    with output_aside():
        asked = ask(data, settings, user, history, text)
        found = asked.recommender.rerank(asked.query, document)
    if json_:
        engine = asked.recommender.engine
        name = "none" if engine is None else engine.name
        echo_json(to_json(RerankedBody.dump(found, request_id="", model=name), indent=2).decode())
        return
    for one in found:
        typer.echo(without_controls(f"{one.score:.1%}  {document[one.index]}"))


@app.command()
@with_options(model=model_options, data=data_settings)
def rate(
    data: "DataSettings",
    model: dict[str, object],
    item: Annotated[list[str], typer.Option(help="Item id to rate. Repeatable.")],
    user: UserOption = None,
    history: HistoryOption = None,
    labels: Annotated[
        str | None,
        typer.Option(help="The possible ratings, separated by commas. Default: those of the log, else 1 to 5."),
    ] = None,
    rating_prior: RatingPriorOption = None,
    rating_lm_weight: RatingLMWeightOption = None,
    explain_scores: Annotated[
        bool, typer.Option("--explain-scores", help="Show the rating that each factor alone expects.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Predict the ratings that a user would give, as distributions."""
    from llmgen.cli.display import ratings_table
    from llmgen.http.schemas import RatingsBody, to_json

    settings = settings_given(
        **model,
        rating_priors=rating_priors_given(rating_prior),
        rating_lm_weight=rating_lm_weight,
    )
    with output_aside():
        asked = ask(data, settings, user, history, None, task="rate", needs_engine=rating_lm_weight != 0)
        possible = asked.workspace.labels if labels is None else [one.strip() for one in labels.split(",")]
        ratings = asked.recommender.rate_many([(asked.query, key) for key in item], labels=possible)
    catalog = asked.workspace.catalog
    if json_:
        titles = [catalog.label(rating.item) for rating in ratings]
        echo_json(to_json(RatingsBody.dump(ratings, titles), indent=2).decode())
    else:
        console_of().print(ratings_table(catalog, ratings, parts=explain_scores))


@app.command()
@with_options(model=model_options, data=data_settings)
def explain(
    data: "DataSettings",
    model: dict[str, object],
    item: Annotated[str, typer.Option(help="Item id to explain.")],
    user: UserOption = None,
    history: HistoryOption = None,
    text: TextOption = None,
    prior: PriorOption = None,
    json_: JsonOption = False,
) -> None:
    """Say why an item suits a user, from the user's own history."""
    from llmgen.cli.display import explanation_text
    from llmgen.http.schemas import ExplanationBody, to_json

    settings = settings_given(
        **model,
        priors=None if prior is None else read_priors(prior),
    )
    with output_aside():
        asked = ask(data, settings, user, history, text, task="explain", needs_engine=True)
        explanation = asked.recommender.explain(asked.query, item)
    catalog = asked.workspace.catalog
    if json_:
        echo_json(to_json(ExplanationBody.dump(explanation, catalog.label(explanation.item)), indent=2).decode())
    else:
        console_of().print(explanation_text(catalog, explanation))


app.command()(serve)
app.command()(playground)


@app.command()
@with_options(scoring=scoring_options, model=model_options, data=data_settings)
def fit(
    data: "DataSettings",
    model: dict[str, object],
    scoring: dict[str, object],
    out: Annotated[Path, typer.Option(help="Folder to write; a folder of an earlier fit is replaced.")],
    rating_prior: RatingPriorOption = None,
    rating_lm_weight: RatingLMWeightOption = None,
) -> None:
    """Fit the priors on a log, and save them. The folder has catalog, priors, users and settings, for --load."""
    from llmgen.workspace.fitted import main_fit

    ratings = {"rating_priors": rating_priors_given(rating_prior), "rating_lm_weight": rating_lm_weight}
    if model.get("load") is not None:
        raise ConfigError("llmgen fit reads data and writes a folder; leave --load out")
    with output_aside():
        said = main_fit(data, settings_given(**model, **scoring, **ratings), out)
    for line in said:
        typer.echo(line)


@app.command()
def priors(json_: JsonOption = False) -> None:
    """List the item priors, those of other packages too."""
    from llmgen.priors.kinds import OURS, kinds

    found = kinds().values()
    if json_:
        about = [{"name": one.name, "reads": one.reads, "settings": list(one.settings)} for one in found]
        typer.echo(json.dumps({"priors": about}, indent=1))
        return
    for one in found:
        answers = f"answers the {one.reads} of a query" if one.reads else "says the same to everybody"
        typer.echo(f"{one.name}: {answers}{'' if one in OURS else ', of another package'}")
        typer.echo(f"    {', '.join(one.settings)}")


@app.command("data")
@with_options(data=data_settings)
def data_report(
    data: "DataSettings",
    json_: JsonOption = False,
) -> None:
    """Load and clean a data set, and report what was done to it."""
    with output_aside():
        loaded = data.load()
    if json_:
        echo_json(json.dumps(loaded.report.to_dict(), ensure_ascii=False, indent=2))
    else:
        typer.echo(without_controls(str(loaded.report)))


@app.command()
def demo(
    user: Annotated[str, typer.Option(help="A user of MovieLens-100K.")] = "196",
    engine: EngineOption = "hf",
    adapter: Annotated[
        str | None, typer.Option(help="One tuned on MovieLens-100K, shown beside the untuned model.")
    ] = None,
) -> None:
    """Show everything once, on real films."""
    from llmgen.cli.demo import run

    run(user=user, engine=engine, console=console_of(), adapter=adapter)


add_commands_to(app)
add_command_to(prompts_app, "improve", IMPROVE, "prompts improve")


def _end(number: int, frame: object) -> None:
    sys.exit(128 + number)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error becomes one line on stderr and an exit code, see above."""
    if os.getpid() == 1:  # in a container: the kernel ends process 1 by no signal that has no handler
        signal.signal(signal.SIGTERM, _end)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="llmgen")
    except (LLMGenError, ArgumentError, OSError) as error:
        typer.echo(f"error: {in_a_line(error)}", err=True)
        sys.exit(2 if isinstance(error, ArgumentError) else 1)
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {in_a_line(error)}"
        typer.echo(
            f"error: this is a bug in llmgen, not in your request ({what}); please report it with the lines above",
            err=True,
        )
        sys.exit(1)
