"""What MkDocs calls while it builds the pages: reference pages from the code, and checks of what they load."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import typer
from griffe import Docstring, DocstringSectionKind
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from typer.testing import CliRunner

log = logging.getLogger("mkdocs.hooks")

MARK = re.compile(r"^\[\[generated: (\w+)\]\]$", re.MULTILINE)
ELSEWHERE = re.compile(r"""<(?:script|img|iframe|source)[^>]+src=["']?(?:https?:)?//|<link[^>]+stylesheet[^>]+//""")
COPIED = {"results-log.md": "eval/RESULTS.md", "changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
"""Pages that are files elsewhere in the repository."""
WIDTH = 80
"""Columns of the help texts."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere in the repository."""
    root = Path(config.config_file_path).parent
    for page, path in COPIED.items():
        if (root / path).exists():
            files.append(File.generated(config, page, abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put what is made from the code where a page has a line such as `[[generated: cli]]`."""
    return MARK.sub(lambda found: "\n".join(MADE[found[1]]()), markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn, which stops a strict build, of a page that loads something from another server."""
    if found := ELSEWHERE.search(output):
        log.warning("%s loads something from another server: %s", page.file.src_uri, found[0])
    return output


def command_lines() -> Iterator[str]:
    """What `--help` prints, for each command."""
    from llmgen.cli.commands import COMMANDS
    from llmgen.cli.main import app

    yield from _help()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        if name in COMMANDS and COMMANDS[name].group:
            command = typer.main.get_command(importlib.import_module(COMMANDS[name].module).app)
            yield from _help(name)
        for part in getattr(command, "commands", ("",)):
            if name not in COMMANDS or COMMANDS[name].typed:
                yield from _help(name, *filter(None, [part]))


def _help(*command: str) -> Iterator[str]:
    from llmgen.cli.main import app

    said = CliRunner().invoke(app, [*command, "--help"], prog_name="llmgen", terminal_width=WIDTH)
    if said.exit_code:
        raise RuntimeError(f"llmgen {' '.join(command)} --help failed: {said.output}")
    yield from ("", f"## llmgen {' '.join(command)}" if command else "## All commands", "", "```text")
    yield said.stdout.strip()
    yield "```"


def http() -> Iterator[str]:
    """Routes and bodies, from the schema that the service shows at `/openapi.json`."""
    from llmgen import Catalog, Item, Recommender
    from llmgen.server import create_app

    schema = create_app(Recommender(Catalog([Item("1", "One")]), None)).openapi()
    yield "## Routes"
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            yield from _route(path, method, route)
    yield from ("", "## Bodies")
    for name, body in schema["components"]["schemas"].items():
        yield from _body(name, body)


def _route(path: str, method: str, route: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"### {method.upper()} {path.replace(':path', '')}", "", route.get("description", ""), "")
    for parameter in route.get("parameters", ()):
        yield f"* `{parameter['name']}` ({parameter['in']}): {parameter.get('description', '')}"
    yield ""
    if body := route.get("requestBody"):
        yield f"* Body: {_type(next(iter(body['content'].values()))['schema'])}"
    for status, answer in sorted(route["responses"].items()):
        kinds = [_type(content["schema"]) for content in answer.get("content", {}).values() if content.get("schema")]
        yield f"* {status}: {answer['description'].rstrip('.')}{': ' if kinds else ''}{', '.join(kinds)}"


def _body(name: str, body: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"### {name}", "", _cell(body.get("description", "")).replace("|", r"\|"), "")
    if not body.get("properties"):
        return
    yield from ("| Field | Type | Meaning |", "|---|---|---|")
    needed = body.get("required", ())
    for field, about in body["properties"].items():
        default = "" if field in needed or "default" not in about else f" Default: `{about['default']!r}`."
        kind = _type(about).replace("|", r"\|")
        meaning = _cell(about.get("description", "") + default)
        yield f"| `{field}`{' (needed)' if field in needed else ''} | {kind} | {meaning} |"


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if isinstance(of := schema.get("additionalProperties"), Mapping):
        return f"object of {_type(of)}"
    return str(schema.get("type", schema.get("const", "any")))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


def recommender() -> Iterator[str]:
    """Fields of the settings of a recommender."""
    from llmgen.recommend.settings import GivenSettings

    yield from _fields(GivenSettings, "Settings of a recommender")


def settings() -> Iterator[str]:
    """Fields of the settings of an evaluation, with their defaults, from the classes' docstrings."""
    from llmgen.evaluation import ArmConfig, Protocol, RunConfig

    for kind, where in ((RunConfig, "the whole file"), (Protocol, "`protocol`"), (ArmConfig, "each of `arms`")):
        yield from _fields(kind, f"{kind.__name__}: {where}")


def record() -> Iterator[str]:
    """Fields of `llmgen.json`."""
    from llmgen.adapters import AdapterRecord

    yield from _fields(AdapterRecord, AdapterRecord.__name__)


def _fields(kind: type[BaseModel], heading: str) -> Iterator[str]:
    told = {}
    for one in reversed(kind.__mro__):
        for section in Docstring(inspect.cleandoc(vars(one).get("__doc__") or "")).parse("google"):
            if issubclass(one, BaseModel) and section.kind is DocstringSectionKind.attributes:
                told |= {attribute.name: attribute.description for attribute in section.value}
    if missing := sorted(set(kind.model_fields) - set(told)):
        log.warning("%s: nothing says what %s is", kind.__name__, missing[0])
    yield from ("", f"### {heading}", "", "| Field | Default | Meaning |", "|---|---|---|")
    for name, field in kind.model_fields.items():
        made = field.get_default(call_default_factory=True)
        default = "needed" if field.is_required() else "see below" if isinstance(made, BaseModel) else f"`{made!r}`"
        yield f"| `{name}` | {_cell(default)} | {_cell(told.get(name, ''))} |"


def recipe() -> Iterator[str]:
    """Fields of a training recipe, with the help that the flags show."""
    from llmgen.training.recipe import RecipeFlags

    yield from ("| Field | Default | Meaning |", "|---|---|---|")
    for one in fields(RecipeFlags):
        yield f"| `{one.name}` | `{_cell(repr(one.default))}` | {_cell(one.metadata.get('help', ''))} |"


def tasks() -> Iterator[str]:
    """What prompts may be for."""
    from llmgen.templates.tasks import OURS, VARIABLES

    yield from ("| Task | What for | Answers | Variables |", "|---|---|---|---|")
    for one in OURS:
        variables = ", ".join(f"`{name}`" for name in one.variables)
        yield f"| `{one.name}` | {one.description} | {one.answers or ''} | {variables} |"
    yield from ("", "All have `noun` and `nouns`: what the catalog calls one item, and several.", "")
    yield from ("| Variable | What it is |", "|---|---|")
    yield from (f"| `{name}` | {meaning} |" for name, meaning in VARIABLES.items())


MADE: Mapping[str, Callable[[], Iterator[str]]] = {
    "cli": command_lines,
    "http": http,
    "recommender": recommender,
    "settings": settings,
    "recipe": recipe,
    "record": record,
    "tasks": tasks,
}
