"""The commands that serve: the service, and the page to try prompts on."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgen.cli.answer_options import (
    AlsoOption,
    RatingLMWeightOption,
    RatingPriorOption,
    RunsOption,
    model_options,
    rating_priors_given,
    scoring_options,
)
from llmgen.cli.asking import settings_given
from llmgen.errors import ConfigError
from llmgen.workspace.options import data_settings, with_options

if TYPE_CHECKING:
    from fastapi import FastAPI

    from llmgen.server.run import Extend
    from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace


@with_options(scoring=scoring_options, model=model_options, data=data_settings)
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
        typer.Option(min=0.01, help="Fit the priors again on the events of --store after so many minutes."),
    ] = None,
    learn: Annotated[
        bool, typer.Option("--learn", help="Update the prior transition with each event of --store, within seconds.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer on the one port.")] = 1,
    drain: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds after SIGTERM in which /ready answers 503 and everything else is answered as before."
        ),
    ] = 0.0,
    trace: Annotated[
        bool, typer.Option("--trace", help="Send spans of OpenTelemetry to OTEL_EXPORTER_OTLP_ENDPOINT.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
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
    gather: Annotated[
        float, typer.Option(min=0, help="Milliseconds that an idle service waits for more requests to answer together.")
    ] = 2.0,
    max_batches: Annotated[
        int | None, typer.Option(min=1, help="Batches answered at the same time. Default: 1, with the engine openai 8.")
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
    """Serve recommendations over HTTP. A running service lists its routes at /docs."""
    from llmgen.server import Limits, ServeSettings, run

    ratings = {"rating_priors": rating_priors_given(rating_prior), "rating_lm_weight": rating_lm_weight}
    settings = settings_given(**model, **scoring, **ratings)
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
            extend=page_extension(data, settings, runs, also or (), catalog, opened) if playground else None,
        )


@with_options(scoring=scoring_options, model=model_options, data=data_settings)
def playground(
    data: "DataSettings",
    model: dict[str, object],
    scoring: dict[str, object],
    runs: RunsOption = Path("runs/playground"),
    also: AlsoOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    api_keys: Annotated[
        Path | None, typer.Option(help="A file of API keys, one a line; besides LLMGEN_API_KEYS.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines in without a key.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = 120.0,
) -> None:
    """Open a page on which to try prompts and weights. What is good can be saved and A/B-tested from there."""
    from llmgen.server import Limits, ServeSettings, run

    where = ServeSettings(host, port, api_keys, insecure, limits=Limits(timeout))
    settings = settings_given(**model, **scoring)
    with ExitStack() as opened:
        run(data, settings, where, extend=page_extension(data, settings, runs, also or (), None, opened))


def page_extension(
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
