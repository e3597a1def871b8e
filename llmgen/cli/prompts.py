"""The commands of prompts: list, check and show templates."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmgen.cli.answer_options import (
    AlignOption,
    EngineOption,
    HistoryLengthOption,
    HistoryOption,
    JsonOption,
    PromptsOption,
    TextOption,
    UserOption,
)
from llmgen.cli.asking import ask, console_of, echo_json, output_aside, settings_given
from llmgen.workspace.options import data_settings, with_options

if TYPE_CHECKING:
    from llmgen.templates.library import PromptLibrary
    from llmgen.workspace.core import DataSettings


prompts_app = typer.Typer(no_args_is_help=True, help="List, check and show prompt templates.")


WIDE = 110
"""Columns that a table of prompts needs, for its descriptions to be more than a word a line."""


@prompts_app.command("list")
def prompts_list(prompt_folder: PromptsOption = None, json_: JsonOption = False) -> None:
    """List all prompt templates."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    library = prompt_library(prompt_folder)
    templates = [library[name] for name in library.names()]
    if json_:
        fields = ("name", "version", "digest", "task", "language", "variables", "description")
        echo_json(json.dumps([{f: getattr(t, f) for f in fields} for t in templates], ensure_ascii=False, indent=2))
        return
    console = console_of()
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
    """List the tasks of prompts, and the variables of each."""
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
        echo_json(json.dumps({"tasks": rows}, ensure_ascii=False, indent=2))
        return
    table = Table()
    for heading in ("Task", "What for", "Answers", "Variables"):
        table.add_column(heading, no_wrap=heading == "Task")
    for one in kinds().values():
        table.add_row(one.name, one.description, one.answers or "", ", ".join((*ALWAYS, *one.variables)))
    console_of().print(table)


@prompts_app.command("check")
def prompts_check(prompt_folder: PromptsOption = None) -> None:
    """Check all prompt templates; exit code 1 if anything is wrong."""
    library = prompt_library(prompt_folder)
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
    """Show a prompt as the model would get it. The number of its tokens is told too."""
    from llmgen.cli.display import messages_text
    from llmgen.templates.views import views

    settings = settings_given(
        engine=engine,
        prompt_folder=prompt_folder,
        max_history=max_history,
        align_prompts=align_prompts,
        priors={},
        rating_priors={},
    )
    with output_aside():
        asked = ask(data, settings, user, history, text, k=k, needs_engine=True)
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
        echo_json(json.dumps(body, ensure_ascii=False, indent=2))
        return
    console_of().print(messages_text(fitted.messages))
    console_of().print(
        f"{asked.recommender.prompts[name].ref}: {fitted.num_tokens} tokens, "
        f"{fitted.num_items} of {len(asked.query.items)} items of the history"
    )


def prompt_library(folder: Path | None) -> "PromptLibrary":
    """The prompts of a folder, and llmgen's."""
    from llmgen.templates.library import PromptLibrary

    return PromptLibrary.default(*([folder] if folder else []))
