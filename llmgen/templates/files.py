"""Prompt files: front matter, Jinja source, and the checks that need no rendering.

`llmgen.templates.library` makes prompts of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import jinja2
import yaml
from jinja2 import nodes
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from llmgen.errors import TemplateError
from llmgen.templates import tasks
from llmgen.text.sanitize import find_token
from llmgen.types import Role

ROLES: tuple[Role, ...] = get_args(Role)
PLAIN = "plain"
"""The block of a prompt for explanations that is no message: what is said where the model's words are not to be had."""
# Enough for prompts; none is random, writes HTML or reaches into objects.
_FILTERS = frozenset(
    {"abs", "batch", "capitalize", "count", "default", "first", "int", "join", "last", "length", "list", "lower"}
    | {"map", "max", "min", "reject", "rejectattr", "replace", "reverse", "round", "select", "selectattr", "slice"}
    | {"sort", "string", "sum", "trim", "truncate", "unique", "upper", "wordcount"}
)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|\Z)", re.DOTALL)


class FrontMatter(BaseModel):
    """What stands between the `---` lines of a prompt file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str
    version: int = Field(ge=1)
    description: str = Field(min_length=1)
    task: str
    language: str = Field(default="en", pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8})*$")
    continues: bool = False
    """Whether the answer is begun in the prompt: the assistant block, without a target, is its first lines."""
    variables: list[str]

    @field_validator("task")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in tasks.kinds():
            raise ValueError(f"there is no such task; there are {', '.join(tasks.kinds())}")
        return value


Reference = nodes.Extends | nodes.Include | nodes.Import | nodes.FromImport
REFERENCES: tuple[type[Reference], ...] = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
"""What names another file."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file: its text, and its Jinja part with the line numbers of the file."""

    path: Path
    text: str
    front: str | None
    body: str
    tree: nodes.Template
    undeclared: frozenset[str]

    @classmethod
    def read(cls, path: Path, environment: jinja2.Environment) -> Source:
        """Read and parse one file.

        Raises:
            TemplateError: It cannot be read, is not UTF-8, or is not Jinja.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")  # line ends become \n, so that digests agree everywhere
        except UnicodeDecodeError as error:
            raise TemplateError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
        except OSError as error:
            raise TemplateError(f"{path}: cannot be read: {error.strerror}") from error
        return cls.of(path, text, environment)

    @classmethod
    def of(cls, path: Path, text: str, environment: jinja2.Environment) -> Source:
        """Parse a text with line ends as Python has them, as if it were read from a file.

        Raises:
            TemplateError: It is not Jinja.
        """
        match = _FRONT_MATTER.match(text)
        front = None
        body = text
        if match is not None:
            front = match[1] or ""
            body = "{#" + "\n" * (front.count("\n") + 1) + "#}\n" + text[match.end() :]
        try:
            tree = environment.parse(body, path.name, str(path))
            undeclared = find_undeclared_variables(tree)  # also finds filters that do not exist
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"{path}, line {error.lineno}: {error.message}") from None
        return cls(path, text, front, body, tree, frozenset(undeclared))

    def error(self, line: int, problem: str) -> TemplateError:
        """The error to raise for a line of this file."""
        return TemplateError(f"{self.path}, line {line}: {problem}")

    def front_matter(self) -> FrontMatter:
        """The checked front matter.

        Raises:
            TemplateError: There is none, or a field of it is wrong.
        """
        if self.front is None:
            raise self.error(
                1,
                "no front matter; start the file with name, version, description, task and variables "
                "between two lines ---",
            )
        try:
            fields = yaml.safe_load(self.front)
        except yaml.MarkedYAMLError as error:
            line = 0 if error.problem_mark is None else error.problem_mark.line
            raise self.error(line + 2, f"front matter is not YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise self.error(1, f"front matter is not YAML: {error}") from None
        if not isinstance(fields, dict):
            raise self.error(1, f"front matter must be lines of `name: value`, not {fields!r}")
        try:
            front = FrontMatter.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            value = "" if first["type"] == "missing" else f", not {first['input']!r}"
            said = first["msg"].removeprefix("Value error, ")
            raise self.error(self.line_of(name), f"front matter, {name}: {said}{value}") from None
        if front.name != self.path.stem:
            raise self.error(self.line_of("name"), f"the name {front.name!r} must be the file's, {self.path.stem!r}")
        if len(set(front.variables)) < len(front.variables):
            raise self.error(self.line_of("variables"), f"a variable stands twice in {front.variables}")
        return front

    def line_of(self, field: str) -> int:
        """Line of a field of the front matter, 1 if it is not there."""
        lines = (self.front or "").split("\n")
        return next((place for place, line in enumerate(lines, start=2) if line.startswith(f"{field}:")), 1)

    def references(self, node: Reference) -> Iterator[str]:
        """The file names that an extends, import or include states.

        Raises:
            TemplateError: They are computed, not written out.
        """
        parts = node.template.items if isinstance(node.template, nodes.Tuple | nodes.List) else [node.template]
        for part in parts:
            if not (isinstance(part, nodes.Const) and isinstance(part.value, str)):
                raise self.error(node.lineno, "name the file in quotes; which file is used must not depend on values")
            yield part.value


def sandbox(load: Callable[[str], Source]) -> jinja2.Environment:
    """The Jinja environment of all prompts: no private attributes, no changes to values, no files but those of `load`.

    It guards files, objects and secrets; it does not bound the time and memory that a template takes.
    """
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printed,
        autoescape=False,  # chat messages are no HTML; control tokens are sanitized instead
        auto_reload=False,
        loader=jinja2.FunctionLoader(lambda file: (load(file).body, str(load(file).path), None)),
    )
    environment.globals.clear()
    environment.filters = {name: environment.filters[name] for name in _FILTERS}
    return environment


_LOOP = frozenset({"index", "index0", "first", "last", "length"})


class _Sandbox(ImmutableSandboxedEnvironment):
    def getattr(self, obj: object, attribute: str) -> object:
        """Fields of plain data and of loops at once; the sandbox looks closely at everything else."""
        if attribute in (_LOOP if isinstance(obj, LoopContext) else getattr(type(obj), "__dataclass_fields__", ())):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)


def _printed(value: object) -> object:
    if value is None:
        raise jinja2.TemplateRuntimeError("this prints None; guard it with {% if %}")
    return number(value) if isinstance(value, float) else value


def number(value: float) -> str:
    """A number as people write ratings and prices: 4 for 4.0.

    >>> number(4.0), number(12.5)
    ('4', '12.5')
    """
    return f"{value:.10g}"


def near(name: str, names: Iterable[str]) -> str:
    """What to tell someone who asked for a name that is not there.

    >>> near("next_itme", ["rate", "next_item"])
    'near it: next_item'
    """
    names = sorted(names)
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.5)
    return f"near it: {', '.join(close)}" if close else f"there are: {', '.join(names) or 'none at all'}"


def check_blocks(parents: Sequence[Source], others: Sequence[str] = ()) -> None:
    """Check that top-level blocks are roles or replace a parent's, that nothing stands outside, that `user` exists.

    Args:
        parents: The template, what it extends, and so on.
        others: Blocks that may stand there beside the roles.

    Raises:
        TemplateError: It is not so.
    """
    known: set[str] = set()
    for source in reversed(parents):  # the root first
        for node in source.tree.body:
            if isinstance(node, nodes.Block):
                if node.name not in (*ROLES, *others) and node.name not in known:
                    raise source.error(
                        node.lineno,
                        f"block {node.name!r} is neither a role ({', '.join(ROLES)}) nor a block of a parent"
                        + (f" ({', '.join(sorted(known))})" if known else ""),
                    )
                for inner in node.find_all(nodes.Block):
                    if inner.name in ROLES:
                        raise source.error(inner.lineno, f"block {inner.name!r} stands inside block {node.name!r}")
            elif isinstance(node, nodes.Output):
                for part in node.nodes:
                    text = part.data if isinstance(part, nodes.TemplateData) else "{{ }}"
                    if text.strip():
                        blank = len(text) - len(text.lstrip())
                        line = part.lineno + text.count("\n", 0, blank)
                        raise source.error(line, "text outside the blocks would be in no message; move it")
            elif not isinstance(node, nodes.Extends | nodes.Import | nodes.FromImport | nodes.Macro | nodes.Assign):
                name = type(node).__name__.lower()
                raise source.error(node.lineno, f"{name!r} outside the blocks would be in no message; move it")
        known |= {block.name for block in source.tree.find_all(nodes.Block)}
    if "user" not in known:
        raise parents[0].error(1, "no block 'user'; a prompt needs one")


def check_variables(front: FrontMatter, parents: Sequence[Source], used: Sequence[Source]) -> None:
    """Check that the declared variables are those used, and that the task has them.

    Args:
        front: Of the template.
        parents: The template, what it extends, and so on.
        used: All files it is made of.

    Raises:
        TemplateError: They differ; the message names the first that does.
    """
    allowed = tasks.kinds()[front.task].allowed
    shared = {name for part in parents for name in _names_at_top(part.tree)}
    where: dict[str, tuple[Source, int]] = {}
    for part in used:
        set_here = shared if part in parents else _names_at_top(part.tree)
        for name in part.undeclared - set_here - {"target"}:
            lines = [node.lineno for node in part.tree.find_all(nodes.Name) if node.name == name]
            where.setdefault(name, (part, min(lines, default=1)))
    for name, (part, line) in sorted(where.items(), key=lambda entry: entry[0]):
        if name not in allowed:
            raise part.error(
                line, f"{name!r} is not a variable of the task {front.task}, which has {', '.join(sorted(allowed))}"
            )
        if name not in front.variables:
            raise part.error(line, f"{name!r} is used, but the front matter of {front.name!r} does not declare it")
    for name in front.variables:
        if name not in where:
            reason = "not used" if name in allowed else f"not a variable of the task {front.task}"
            raise parents[0].error(
                parents[0].line_of("variables"), f"{name!r} is declared in the front matter, but {reason}; take it out"
            )


def check_wording(used: Sequence[Source]) -> None:
    """Check that no file writes a control token itself.

    Raises:
        TemplateError: One does.
    """
    for part in used:
        for data in part.tree.find_all(nodes.TemplateData):
            if token := find_token(data.data):
                line = data.lineno + data.data[: data.data.find(token)].count("\n")
                raise part.error(line, f"{token!r} is a control token; roles come from blocks, and engines add tokens")


def _names_at_top(tree: nodes.Template) -> set[str]:
    """Names that the top of a template sets; its blocks see them, which jinja2.meta does not know."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, nodes.Macro):
            names.add(node.name)
        elif isinstance(node, nodes.Import):
            names.add(node.target)
        elif isinstance(node, nodes.FromImport):
            names.update(name if isinstance(name, str) else name[1] for name in node.names)
        elif isinstance(node, nodes.Assign):
            names.update(target.name for target in node.find_all(nodes.Name) if target.ctx == "store")
    return names
