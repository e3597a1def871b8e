"""The command line: recommend, rank, rate, explain, serve, prompts, data, demo, and those of `llmgen.cli.commands`.

Exit codes: 0 done, 1 something was wrong with data, model or request (one line on stderr says what) or with llmgen
itself (a traceback stands before that line), 2 wrong usage.
"""

import ctypes
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from llmgen.cli.commands import IMPROVE
from llmgen.cli.commands import add as add_command_to
from llmgen.cli.commands import add_to as add_commands_to
from llmgen.cli.list_options import ListOptions, list_options
from llmgen.errors import ArgumentError, ConfigError, LLMGenError
from llmgen.text.normalization import without_controls
from llmgen.workspace.options import data_settings, pair, read_priors, read_weights, with_options

if TYPE_CHECKING:
    from fastapi import FastAPI
    from rich.console import Console

    from llmgen.recommend.prompting import Task
    from llmgen.recommend.recommender import Recommender
    from llmgen.server.run import Extend
    from llmgen.types import Attribute, Query, Recommendations
    from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
prompts_app = typer.Typer(no_args_is_help=True, help="List, check and show prompt templates.")
app.add_typer(prompts_app, name="prompts")

WIDE = 110
"""Columns that a table of prompts needs, for its descriptions to be more than a word a line."""


class DecodingChoice(StrEnum):
    """How an answer of the model becomes items."""

    trie = "trie"
    raw = "raw"
    fused = "fused"
    free = "free"


class NormaliseChoice(StrEnum):
    """Among which children a node's probability is shared."""

    catalog = "catalog"
    eligible = "eligible"


UserOption = Annotated[str | None, typer.Option(help="A user of the log.")]
HistoryOption = Annotated[list[str] | None, typer.Option(help="An item id; repeat it, oldest first.")]
TextOption = Annotated[str | None, typer.Option(help="A wish in words.")]
FilterOption = Annotated[
    list[str] | None, typer.Option("--filter", help="attribute=value; ranges as year=1990..1999. Repeatable.")
]
PriorOption = Annotated[
    list[str] | None,
    typer.Option(
        help="name=weight, or name:setting=value,setting=value, of those that `llmgen priors` lists. Repeatable; "
        "'none' for none."
    ),
]
ENGINES = "hf[:MODEL] or vllm[:MODEL], by default SmolLM2-135M-Instruct; openai:URL[:MODEL]; fake; none."
EngineOption = Annotated[
    str,
    typer.Option(help=ENGINES),
]
PromptsOption = Annotated[Path | None, typer.Option("--prompt-folder", help="A folder with prompts of your own.")]
LMWeightOption = Annotated[float | None, typer.Option(min=0, help="Weight of the model in the score; 0 leaves it out.")]
RatingPriorOption = Annotated[
    list[str] | None,
    typer.Option(help="name=weight: rating_knn, fitted where the log has ratings. Repeatable; 'none' for none."),
]
RatingLMWeightOption = Annotated[
    float | None, typer.Option(min=0, help="Weight of the model in a rating; 0 leaves it out.")
]
HistoryLengthOption = Annotated[
    int | None, typer.Option(min=0, help="Newest items of the history in the prompt; 20, or as the adapter was tuned.")
]
RunsOption = Annotated[Path, typer.Option(help="Folder for what is saved on the page to try prompts on.")]
AlsoOption = Annotated[
    list[str] | None,
    typer.Option(help="Another model to choose on that page: hf:MODEL, or '--engine E --adapter FOLDER'. Repeatable."),
]
AlignOption = Annotated[
    bool,
    typer.Option(
        "--align-prompts", help="Cut prompts to whole blocks of the KV cache: faster with vLLM, up to 1/4 less history."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


@dataclass(frozen=True)
class _Asked:
    """One command's work: what it is about, and whom to ask."""

    workspace: "Workspace"
    query: "Query"
    recommender: "Recommender"


def _model(
    load: Annotated[
        Path | None, typer.Option(help="A folder of `llmgen fit`, in the place of data; nothing is fitted then.")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Name of a prompt template.")] = None,
    prompt_folder: PromptsOption = None,
    max_history: HistoryLengthOption = None,
    align_prompts: AlignOption = False,
    think_tokens: Annotated[
        int | None, typer.Option(min=0, help="Tokens that a model which can think may think for before it answers.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help=f"{ENGINES} hf, or as it was fitted, by default.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A PEFT adapter for the model.")] = None,
) -> dict[str, object]:
    return {
        "load": load,
        "prompt": prompt,
        "prompt_folder": prompt_folder,
        "max_history": max_history,
        "align_prompts": align_prompts or None,
        "think_tokens": think_tokens,
        "engine": engine,
        "adapter": adapter,
    }


def _scoring(
    prior: PriorOption = None,
    lm_weight: LMWeightOption = None,
    decoding: Annotated[
        DecodingChoice | None, typer.Option(help="How answers become items; trie, or as the adapter was tuned.")
    ] = None,
    normalise: Annotated[
        NormaliseChoice | None, typer.Option(help="See llmgen.search; catalog, or as it was fitted.")
    ] = None,
    num_beams: Annotated[int | None, typer.Option(min=1, help="Nodes opened a round.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Go on until the answer is proven to be the best.")] = False,
) -> dict[str, object]:
    return {
        "priors": None if prior is None else read_priors(prior),
        "lm_weight": lm_weight,
        "decoding": decoding and decoding.value,
        "normalise": normalise and normalise.value,
        "num_beams": num_beams,
        "exact": exact or None,
    }


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
@with_options(wanted=list_options, scoring=_scoring, model=_model, data=data_settings)
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
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Items of the history may come again.")] = False,
    explain_scores: Annotated[bool, typer.Option("--explain-scores", help="Show each term of the score.")] = False,
    json_: JsonOption = False,
) -> None:
    """Recommend items to a user of the log, for a history, or for a wish in words."""
    settings = _settings(**model, **scoring)
    with _aside():
        asked = _ask(data, settings, user, history, text, k=k, filter=filter, include_seen=include_seen)
        answer = wanted.answer(asked.query, asked.recommender.recommend)
    _print_answer(asked, answer, "Recommended", json_, explain_scores)


@app.command()
@with_options(scoring=_scoring, model=_model, data=data_settings)
def batch(
    data: "DataSettings",
    model: dict[str, object],
    scoring: dict[str, object],
    out: Annotated[Path, typer.Option(help="Folder for the lists; one that was begun is gone on with.")],
    users: Annotated[
        str,
        typer.Option(help="all, or a file that names them: a table with a column user_id, or .txt with one a line."),
    ] = "all",
    k: Annotated[int, typer.Option("-k", min=1, help="How many items a user.")] = 20,
    filter: FilterOption = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="Items of the history may come again.")] = False,
    shard: Annotated[int, typer.Option(min=1, help="Users of a file.")] = 2_000,
) -> None:
    """Recommend to many users of the log: lists as Parquet files, gone on with after a stop."""
    from llmgen.cli.batch import read_users, run
    from llmgen.workspace.fitted import open_workspace

    settings = _settings(**model, **scoring)
    with _aside():
        workspace = open_workspace(data, settings)
        ids = list(workspace.histories) if users == "all" else read_users(Path(users))
        asked = {"k": k, "filters": _filters(filter), "include_seen": include_seen}
        written = run(workspace, settings, ids, out, asked, shard=shard)
    files = -(-written.users // shard)
    typer.echo(
        f"{written.users:,} users in {files:,} files in {out}; {written.found:,} files were there; "
        f"{written.empty:,} users of the new ones have nothing left to be recommended"
    )


@app.command()
@with_options(model=_model, data=data_settings)
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
    settings = _settings(
        **model,
        priors=None if prior is None else read_priors(prior),
        lm_weight=lm_weight,
    )
    with _aside():
        asked = _ask(data, settings, user, history, text, task="rank")
        answer = asked.recommender.rank(asked.query, candidate)
    _print_answer(asked, answer, "Ranked", json_, explain_scores)


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
    """Find items like an item, by what people took and by what items say of themselves."""
    settings = _settings(engine="none", priors=None if prior is None else read_priors(prior))
    with _aside():
        asked = _ask(data, settings, None, [item], None, k=k, filter=filter)
        query = replace(asked.query, history=())
        answer = wanted.answer(query, lambda query: asked.recommender.similar(item, query))
    for warning in answer.warnings:
        typer.echo(warning, err=True)
    _print_answer(asked, answer, "Similar", json_, explain_scores)


@app.command()
@with_options(model=_model, data=data_settings)
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
    """Put documents in order for a wish and for who asks, as the route /v1/rerank does."""
    from llmgen.http.list_schemas import RerankedBody
    from llmgen.http.schemas import to_json

    settings = _settings(**model, priors=None if prior is None else read_priors(prior), lm_weight=lm_weight)
    with _aside():
        asked = _ask(data, settings, user, history, text)
        found = asked.recommender.rerank(asked.query, document)
    if json_:
        engine = asked.recommender.engine
        name = "none" if engine is None else engine.name
        _echo_json(to_json(RerankedBody.dump(found, request_id="", model=name), indent=2).decode())
        return
    for one in found:
        typer.echo(without_controls(f"{one.score:.1%}  {document[one.index]}"))


@app.command()
@with_options(model=_model, data=data_settings)
def rate(
    data: "DataSettings",
    model: dict[str, object],
    item: Annotated[list[str], typer.Option(help="Item id to rate. Repeatable.")],
    user: UserOption = None,
    history: HistoryOption = None,
    labels: Annotated[
        str | None, typer.Option(help="The possible ratings, separated by commas; those of the log, else 1 to 5.")
    ] = None,
    rating_prior: RatingPriorOption = None,
    rating_lm_weight: RatingLMWeightOption = None,
    explain_scores: Annotated[bool, typer.Option("--explain-scores", help="Show what each factor expects.")] = False,
    json_: JsonOption = False,
) -> None:
    """Predict the ratings that a user would give, as distributions."""
    from llmgen.cli.display import ratings_table
    from llmgen.http.schemas import RatingsBody, to_json

    settings = _settings(
        **model,
        rating_priors=_rating_priors(rating_prior),
        rating_lm_weight=rating_lm_weight,
    )
    with _aside():
        asked = _ask(data, settings, user, history, None, task="rate", needs_engine=rating_lm_weight != 0)
        possible = asked.workspace.labels if labels is None else [one.strip() for one in labels.split(",")]
        ratings = asked.recommender.rate_many([(asked.query, key) for key in item], labels=possible)
    catalog = asked.workspace.catalog
    if json_:
        titles = [catalog.label(rating.item) for rating in ratings]
        _echo_json(to_json(RatingsBody.dump(ratings, titles), indent=2).decode())
    else:
        _console().print(ratings_table(catalog, ratings, parts=explain_scores))


@app.command()
@with_options(model=_model, data=data_settings)
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

    settings = _settings(
        **model,
        priors=None if prior is None else read_priors(prior),
    )
    with _aside():
        asked = _ask(data, settings, user, history, text, task="explain", needs_engine=True)
        explanation = asked.recommender.explain(asked.query, item)
    catalog = asked.workspace.catalog
    if json_:
        _echo_json(to_json(ExplanationBody.dump(explanation, catalog.label(explanation.item)), indent=2).decode())
    else:
        _console().print(explanation_text(catalog, explanation))


@app.command()
@with_options(scoring=_scoring, model=_model, data=data_settings)
def serve(
    data: "DataSettings",
    model: dict[str, object],
    scoring: dict[str, object],
    catalog: Annotated[Path | None, typer.Option(help="Items as JSON lines, without a log; see Catalog.save.")] = None,
    rating_prior: RatingPriorOption = None,
    rating_lm_weight: RatingLMWeightOption = None,
    save_changes: Annotated[
        bool, typer.Option("--save-changes", help="Write changes of the catalog to the file of --catalog.")
    ] = False,
    refit: Annotated[
        float | None,
        typer.Option(min=0.01, help="Minutes after which priors are fitted anew on the events of --store."),
    ] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="Count on the prior transition with each event of --store, within seconds.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer on the one port.")] = 1,
    drain: Annotated[
        float, typer.Option(min=0, help="Seconds after SIGTERM in which /ready says no and all else is answered.")
    ] = 0.0,
    trace: Annotated[
        bool, typer.Option("--trace", help="Send spans of OpenTelemetry to OTEL_EXPORTER_OTLP_ENDPOINT.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="A file of API keys, one a line; besides LLMGEN_API_KEYS. Wrong keys wait for a second."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a key.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds for a body to arrive (408), and for an answer (504).")] = 30.0,
    header_timeout: Annotated[float, typer.Option(help="Seconds for the headers to arrive; 408 after that.")] = 10.0,
    read_timeout: Annotated[
        float, typer.Option(help="Seconds for a client to read its answer; it is cut off after that.")
    ] = 30.0,
    max_batch: Annotated[int, typer.Option(min=1, help="Requests worked on together.")] = 64,
    gather: Annotated[float, typer.Option(min=0, help="Milliseconds that an idle service waits for company.")] = 2.0,
    max_batches: Annotated[
        int | None, typer.Option(min=1, help="Batches under way at once; 1, and 8 with openai:, where more help.")
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; one more is answered 503.")] = 1024,
    max_body: Annotated[int, typer.Option(min=1000, help="Bytes of a body; 413 for more.")] = 1_000_000,
    rate: Annotated[
        float | None, typer.Option(help="Requests a second of one key, or one address without keys; 429 for more.")
    ] = None,
    max_headers: Annotated[
        int, typer.Option(min=1000, help="Bytes of all headers of a request together; 431 for more.")
    ] = 65_536,
    playground: Annotated[
        bool, typer.Option("--playground", help="Serve the page to try prompts on as well, at /playground.")
    ] = False,
    runs: RunsOption = Path("runs/playground"),
    also: AlsoOption = None,
) -> None:
    """Serve recommendations over HTTP: recommend, rank, rate, explain, and the catalog; see /docs there."""
    from llmgen.server import Limits, ServeSettings, run

    ratings = {"rating_priors": _rating_priors(rating_prior), "rating_lm_weight": rating_lm_weight}
    settings = _settings(**model, **scoring, **ratings)
    where = ServeSettings(
        host=host,
        port=port,
        api_keys=api_keys,
        insecure=insecure,
        catalog=catalog,
        save_changes=save_changes,
        refit_s=None if refit is None else 60 * refit,
        learn=learn,
        drain_s=drain,
        trace=trace,
        workers=workers,
        limits=Limits(
            timeout_s=timeout,
            max_batch=max_batch,
            gather_s=gather / 1000,
            max_queue=max_queue,
            max_body=max_body,
            headers_s=header_timeout,
            max_headers=max_headers,
            max_batches=max_batches,
            read_s=read_timeout,
            rate=rate,
        ),
    )
    if also and not playground:
        raise ConfigError("--also is for the page; give --playground too")
    with ExitStack() as opened:
        run(
            data,
            settings,
            where,
            extend=_page(data, settings, runs, also or (), catalog, opened) if playground else None,
        )


@app.command()
@with_options(scoring=_scoring, model=_model, data=data_settings)
def playground(
    data: "DataSettings",
    model: dict[str, object],
    scoring: dict[str, object],
    runs: RunsOption = Path("runs/playground"),
    also: AlsoOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_keys: Annotated[
        Path | None, typer.Option(help="A file of API keys, one a line; besides LLMGEN_API_KEYS.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a key.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 120.0,
) -> None:
    """Open a page to try prompts, weights and users on; what is good can be saved and A/B-tested from there."""
    from llmgen.server import Limits, ServeSettings, run

    where = ServeSettings(host, port, api_keys, insecure, limits=Limits(timeout))
    settings = _settings(**model, **scoring)
    with ExitStack() as opened:
        run(data, settings, where, extend=_page(data, settings, runs, also or (), None, opened))


def _page(
    data: "DataSettings",
    settings: "RecommenderSettings",
    runs: Path,
    also: Sequence[str],
    catalog: Path | None,
    opened: ExitStack,
) -> "Extend":
    """What adds the page to a service.

    Args:
        data: Of the service.
        settings: Of the service.
        runs: Folder for what is saved.
        also: Other models, as options.
        catalog: File of the catalog, where that is all there is.
        opened: Closes their engines.

    Raises:
        ConfigError: A model is named in another way.
    """
    from llmgen.engines import Engine, load_engine
    from llmgen.playground.models import settings_of
    from llmgen.playground.routes import PATH, add_to

    items = data.items or catalog
    named = Path(data.dataset).expanduser()
    pictures = items.parent if items is not None else named if named.is_dir() else None
    for text in also:
        settings_of(text, settings)  # a mistake shows before anything is loaded

    def extend(app: "FastAPI", workspace: "Workspace", settings: "RecommenderSettings") -> str:
        others: list[tuple[RecommenderSettings, Engine | None]] = []
        for text in also:
            one = settings_of(text, settings)
            engine = None if one.engine == "none" else load_engine(one.engine, adapter=one.adapter)
            if engine is not None:
                opened.callback(engine.close)
            others.append((one, engine))
        add_to(app, workspace, settings.written(data), settings, runs, also=others, pictures=pictures)
        return PATH

    return extend


@app.command()
@with_options(scoring=_scoring, model=_model, data=data_settings)
def fit(
    data: "DataSettings",
    model: dict[str, object],
    scoring: dict[str, object],
    out: Annotated[Path, typer.Option(help="Folder to write; one that was fitted before is replaced.")],
    rating_prior: RatingPriorOption = None,
    rating_lm_weight: RatingLMWeightOption = None,
) -> None:
    """Fit the priors on a log, and write catalog, priors, users and settings into a folder, for --load."""
    from llmgen.workspace.fitted import main_fit

    ratings = {"rating_priors": _rating_priors(rating_prior), "rating_lm_weight": rating_lm_weight}
    if model.get("load") is not None:
        raise ConfigError("llmgen fit reads data and writes a folder; leave --load out")
    with _aside():
        said = main_fit(data, _settings(**model, **scoring, **ratings), out)
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
    with _aside():
        loaded = data.load()
    if json_:
        _echo_json(json.dumps(loaded.report.to_dict(), ensure_ascii=False, indent=2))
    else:
        typer.echo(without_controls(str(loaded.report)))


@app.command()
def demo(
    user: Annotated[str, typer.Option(help="A user of MovieLens-100K.")] = "196",
    engine: EngineOption = "hf",
) -> None:
    """Show everything once, on real films."""
    from llmgen.cli.demo import run

    run(user=user, engine=engine, console=_console())


@prompts_app.command("list")
def prompts_list(prompt_folder: PromptsOption = None, json_: JsonOption = False) -> None:
    """List all prompt templates."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    library = _library(prompt_folder)
    templates = [library[name] for name in library.names()]
    if json_:
        fields = ("name", "version", "digest", "task", "language", "variables", "description")
        _echo_json(json.dumps([{f: getattr(t, f) for f in fields} for t in templates], ensure_ascii=False, indent=2))
        return
    console = _console()
    if console.width < WIDE:
        for t in templates:
            about = f"{t.name}, version {t.version} ({t.digest}): {t.task}, {t.language}"
            console.print(Text(about), Padding(Text(t.description), (0, 0, 0, 4)), sep="\n")
        return
    table = Table()
    for heading in ("Name", "Version", "Digest", "Task", "Language", "Description"):
        table.add_column(heading, no_wrap=heading in ("Name", "Digest"))
    for t in templates:
        table.add_row(t.name, str(t.version), t.digest, t.task, t.language, Text(t.description))
    console.print(table)


@prompts_app.command("tasks")
def prompts_tasks(
    json_: JsonOption = False,
) -> None:
    """List what prompts may be for, and the variables that their templates may use."""
    from rich.table import Table

    from llmgen.templates.tasks import ALWAYS, kinds

    rows = [
        {
            "name": one.name,
            "description": one.description,
            "answers": one.answers,
            "prompt": one.prompt or None,
            "variables": [*ALWAYS, *one.variables],
        }
        for one in kinds().values()
    ]
    if json_:
        _echo_json(json.dumps({"tasks": rows}, ensure_ascii=False, indent=2))
        return
    table = Table()
    for heading in ("Task", "What for", "Answers", "Variables"):
        table.add_column(heading, no_wrap=heading == "Task")
    for one in kinds().values():
        table.add_row(one.name, one.description, one.answers or "", ", ".join((*ALWAYS, *one.variables)))
    _console().print(table)


@prompts_app.command("check")
def prompts_check(prompt_folder: PromptsOption = None) -> None:
    """Check all prompt templates; exit code 1 if anything is wrong."""
    library = _library(prompt_folder)
    problems = library.check()
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{len(library)} prompts, no problems")


@prompts_app.command("show")
@with_options(data=data_settings)
def prompts_show(
    data: "DataSettings",
    name: Annotated[str, typer.Argument(help="Name of a prompt template.")],
    user: UserOption = None,
    history: HistoryOption = None,
    text: TextOption = None,
    item: Annotated[str | None, typer.Option(help="Item id for rate and explain; by default one not seen.")] = None,
    k: Annotated[int, typer.Option("-k", min=1)] = 10,
    prompt_folder: PromptsOption = None,
    max_history: HistoryLengthOption = None,
    align_prompts: AlignOption = False,
    engine: EngineOption = "hf",
    json_: JsonOption = False,
) -> None:
    """Show the messages of a prompt as the model would get them, and how many tokens they are."""
    from llmgen.cli.display import messages_text
    from llmgen.templates.views import views

    settings = _settings(
        engine=engine,
        prompt_folder=prompt_folder,
        max_history=max_history,
        align_prompts=align_prompts,
        priors={},
        rating_priors={},
    )
    with _aside():
        asked = _ask(data, settings, user, history, text, k=k, needs_engine=True)
        catalog, seen = asked.workspace.catalog, {taken.id for taken in asked.query.items}
        unseen = [other for other in catalog if other.id not in seen]
        shown = catalog[catalog.index(item)] if item else (unseen or list(catalog))[0]
        fitted = asked.recommender.messages(
            asked.query,
            prompt=name,
            item=views(catalog, [shown])[0],
            candidates=views(catalog, unseen[:20]),
            labels=asked.workspace.labels,
        )
    if json_:
        body = {
            "prompt": asked.recommender.prompts[name].ref,
            "messages": [{"role": message.role, "content": message.content} for message in fitted.messages],
            "tokens": fitted.num_tokens,
            "history_used": fitted.num_items,
        }
        _echo_json(json.dumps(body, ensure_ascii=False, indent=2))
        return
    _console().print(messages_text(fitted.messages))
    _console().print(
        f"{asked.recommender.prompts[name].ref}: {fitted.num_tokens} tokens, "
        f"{fitted.num_items} of {len(asked.query.items)} items of the history"
    )


add_commands_to(app)
add_command_to(prompts_app, "improve", IMPROVE, "prompts improve")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error becomes one line on stderr and an exit code, see above."""
    try:
        app(args=None if arguments is None else list(arguments), prog_name="llmgen")
    except (LLMGenError, ArgumentError, OSError) as error:
        typer.echo(f"error: {_in_a_line(error)}", err=True)
        sys.exit(2 if isinstance(error, ArgumentError) else 1)
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {_in_a_line(error)}"
        typer.echo(
            f"error: this is a bug in llmgen, not in your request ({what}); please report it with the lines above",
            err=True,
        )
        sys.exit(1)


def _in_a_line(error: Exception) -> str:
    return without_controls(" ".join(str(error).splitlines()))


@contextmanager
def _aside() -> Iterator[None]:
    """Within it, whatever libraries print, in Python or in C, goes to stderr: stdout belongs to the answer."""
    if sys.stdout is None:  # it was closed before we came: there is nothing to keep clean
        yield
        return
    sys.stdout.flush()
    saved = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if os.name == "posix":
            ctypes.CDLL(None).fflush(None)  # what C keeps back would come after the answer otherwise
        os.dup2(saved, 1)
        os.close(saved)


def _settings(**given: object) -> "RecommenderSettings":
    """What was given; the rest as it was fitted, or by default."""
    load = cast("Path | None", given.pop("load", None))
    from llmgen.workspace.core import RecommenderSettings
    from llmgen.workspace.fitted import settings_of

    told = {name: value for name, value in given.items() if value is not None}
    return RecommenderSettings.model_validate(told) if load is None else settings_of(load, told)


def _ask(
    data: "DataSettings",
    settings: "RecommenderSettings",
    user: str | None,
    history: list[str] | None,
    text: str | None,
    *,
    task: "Task" = "recommend",
    k: int = 10,
    filter: list[str] | None = None,
    include_seen: bool = False,
    needs_engine: bool | None = None,
) -> "_Asked":
    from llmgen.progress import Stage
    from llmgen.workspace.fitted import open_workspace

    workspace = open_workspace(data, settings)
    query = workspace.query(
        user=user, history=history or (), text=text, k=k, filters=_filters(filter), include_seen=include_seen
    )
    with Stage("fitting the priors, loading the model", 0):
        recommender = workspace.recommender(settings, query, needs_engine=needs_engine)
    for prompt in settings.prompts:
        if recommender.template(task).name != prompt:
            wanted, given = recommender.template(task).task, recommender.prompts[prompt].task
            raise ConfigError(f"the prompt {prompt!r} is for the task {given}; this command wants one such as {wanted}")
    return _Asked(workspace, query, recommender)


def _filters(given: list[str] | None) -> dict[str, "Attribute"]:
    filters: dict[str, Attribute] = {}
    for words in given or []:
        name, value = pair(words, "--filter", "attribute=value")
        filters[name] = (*cast(tuple[str, ...], filters.get(name, ())), value)  # given twice: one of them
    return filters


def _echo_json(text: str) -> None:
    """JSON escapes the control characters of ASCII by itself; here those above, which terminals obey as well."""
    typer.echo(re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text).encode())


def _rating_priors(given: list[str] | None) -> dict[str, float] | None:
    return None if given is None else read_weights(given, "--rating-prior")


def _print_answer(asked: "_Asked", answer: "Recommendations", title: str, as_json: bool, scores: bool) -> None:
    from llmgen.cli.display import answer_table
    from llmgen.http.schemas import RecommendationsBody, to_json

    catalog = asked.workspace.catalog
    if as_json:
        labels = [catalog.label(place.item) for place in answer]
        _echo_json(to_json(RecommendationsBody.dump(answer, labels), indent=2).decode())
    else:
        _console().print(answer_table(catalog, answer, title=title, scores=scores))


def _library(folder: Path | None):  # type: ignore[no-untyped-def]
    from llmgen.templates.library import PromptLibrary

    return PromptLibrary.default(*([folder] if folder else []))


def _console() -> "Console":
    from rich.console import Console

    return Console()
