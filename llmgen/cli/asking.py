"""One command's work: what it is about, whom to ask, and how the answer is printed."""

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmgen.cli.answer_options import (
    filters_given,
)
from llmgen.errors import ConfigError
from llmgen.text.normalization import without_controls

if TYPE_CHECKING:
    from rich.console import Console

    from llmgen.recommend.prompting import Task
    from llmgen.recommend.recommender import Recommender
    from llmgen.types import Answer, Query
    from llmgen.workspace.core import DataSettings, RecommenderSettings, Workspace


@dataclass(frozen=True)
class Asked:
    """One command's work: what it is about, and whom to ask."""

    workspace: "Workspace"
    query: "Query"
    recommender: "Recommender"


def in_a_line(error: Exception) -> str:
    """The text of an error as one line."""
    return without_controls(" ".join(str(error).splitlines()))


@contextmanager
def output_aside() -> Iterator[None]:
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


def settings_given(**given: object) -> "RecommenderSettings":
    """What was given; the rest as it was fitted, or by default."""
    from llmgen.workspace.core import RecommenderSettings
    from llmgen.workspace.fitted import settings_of

    load = given.pop("load", None)
    told = {name: value for name, value in given.items() if value is not None}
    return settings_of(load, told) if isinstance(load, Path) else RecommenderSettings.model_validate(told)


def ask(
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
) -> "Asked":
    """The data, the query and a recommender for it."""
    from llmgen.progress import Stage
    from llmgen.workspace.fitted import open_workspace

    workspace = open_workspace(data, settings)
    query = workspace.query(
        user=user, history=history or (), text=text, k=k, filters=filters_given(filter), include_seen=include_seen
    )
    with Stage("fitting the priors, loading the model", 0):
        recommender = workspace.recommender(settings, query, needs_engine=needs_engine)
    for prompt in settings.prompts:
        if recommender.template(task).name != prompt:
            wanted, given = recommender.template(task).task, recommender.prompts[prompt].task
            raise ConfigError(f"the prompt {prompt!r} is for the task {given}; this command wants one such as {wanted}")
    return Asked(workspace, query, recommender)


def echo_json(text: str) -> None:
    """JSON escapes the control characters of ASCII by itself; here those above, which terminals obey as well."""
    typer.echo(re.sub(r"[\x7f-\x9f]", lambda found: f"\\u{ord(found[0]):04x}", text).encode())


def print_answer(asked: "Asked", answer: "Answer", title: str, as_json: bool, scores: bool) -> None:
    """An answer as a table, or as JSON."""
    from llmgen.cli.display import answer_table
    from llmgen.http.schemas import RecommendationsBody, to_json

    catalog = asked.workspace.catalog
    if as_json:
        labels = [catalog.label(place.item) for place in answer]
        echo_json(to_json(RecommendationsBody.dump(answer, labels), indent=2).decode())
    else:
        console_of().print(answer_table(catalog, answer, title=title, scores=scores))


def console_of() -> "Console":
    """Standard output, for tables."""
    from rich.console import Console

    return Console()
