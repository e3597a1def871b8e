"""Prompt templates: load, check, and render to chat messages.

A template is a file `name.jinja`: front matter, then Jinja blocks named after roles, of which each becomes one message.
Roles come from the syntax and values are sanitized (`llmgen.text.sanitize`): so no title or wish can start a message. A
file whose name starts with `_` is no prompt: others import from it or extend it.

What templates can use is decided by their task, and loading checks it: see `llmgen.templates.tasks`, and
`llmgen prompts tasks`.
Each gets `noun` and `nouns` (what the catalog calls one item, and several) too.

`history` (oldest first), `candidates` and `evidence` are sequences of `ItemView`, `item` is one, `wish` is a string or
None, `k` an int, `labels` the possible ratings as strings. `wish` and `evidence` may be left out when rendering: they
are None and empty then. `history` may be empty. In the `assistant` block, the training answer, there is also `target`:
ItemViews where the task's answers are items, one of the labels in rate, text in explain and describe.

With `continues: true` in the front matter the prompt begins the answer: `target` is empty then, and what the assistant
block makes of it are lines that stand already. A history told that way is a list that the model only has to go on
with, so one training text teaches all of its items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context

from llmgen.errors import MissingVariableError, TemplateError, TemplateNotFoundError
from llmgen.templates import tasks
from llmgen.templates.files import (
    PLAIN,
    REFERENCES,
    ROLES,
    FrontMatter,
    Source,
    check_blocks,
    check_variables,
    check_wording,
    near,
    sandbox,
)
from llmgen.templates.views import ItemView
from llmgen.text.sanitize import sanitize, split_tokens, token_set
from llmgen.types import Item, Message, Query


class PromptTemplate:
    """One checked prompt; get it from a `PromptLibrary`.

    Attributes:
        name: The file's name without its suffix.
        version: Raised by the author with each new wording.
        description: One sentence.
        task: What it is for; decides which variables it can use.
        language: Of its wording, a BCP-47 tag.
        continues: Whether the prompt begins the answer.
        variables: The variables it uses, without `target`.
        digest: 12 hex digits of the SHA-256 of its source and of all that it extends, imports or includes.
        path: The file.
    """

    def __init__(self, template: jinja2.Template, front: FrontMatter, digest: str, path: Path) -> None:
        self.name = front.name
        self.version = front.version
        self.description = front.description
        self.task = front.task
        self.language = front.language
        self.continues = front.continues
        self.variables = tuple(front.variables)
        self.digest = digest
        self.path = path
        self._template = template

    def __repr__(self) -> str:
        return f"PromptTemplate({self.ref})"

    @property
    def ref(self) -> str:
        """`name@digest`: names this very wording in results, logs and reports."""
        return f"{self.name}@{self.digest}"

    def render(
        self,
        variables: Mapping[str, object],
        *,
        control_tokens: Collection[str] = (),
        target: Sequence[ItemView] | str | None = None,
    ) -> tuple[Message, ...]:
        """Chat messages: system (unless blank), user, and with a target or where it is begun the assistant's answer.

        Args:
            variables: Those of the task, see the module; what this template does not use is ignored.
            control_tokens: Of the engine, see `sanitize`; none of them, and none known from common chat
                formats, stands in a message, wherever its pieces come from.
            target: The answer to train on; None for a prompt.

        Raises:
            MissingVariableError: A variable that this template uses is not given, or is None without being optional.
            TemplateError: Rendering failed, the user message is blank, or there is a target but no assistant block.
            ValueError: A value is nothing that a template can show, such as an `Item` (give its `views`).
        """
        tokens = token_set(control_tokens)
        values = self._values(variables, tokens)
        contents = self._contents(values, ("system", "user"))
        if target is not None or self.continues:
            nothing: str | tuple[()] = "" if tasks.kinds()[self.task].text else ()
            answer = nothing if target is None else target
            values["target"] = _data(answer, tokens, f"target for prompt {self.name!r}")
            contents |= self._contents(values, ("assistant",))
            if target is not None and not contents.get("assistant"):
                raise TemplateError(f"{self.path}: no training answer, because the assistant block is missing or blank")
        if not contents.get("user"):
            raise TemplateError(f"{self.path}: the user message is blank with these variables")
        # Values are harmless alone; this also catches a token put together from two values, or by a filter.
        return tuple(Message(role, split_tokens(contents[role], tokens)) for role in ROLES if contents.get(role, ""))

    def plain(self, variables: Mapping[str, object]) -> str | None:
        """The text of the block `plain`: what is said where the model's words are not to be had; None without one.

        Args:
            variables: As for `render`.

        Raises:
            MissingVariableError, TemplateError, ValueError: As `render`.
        """
        return self._contents(self._values(variables, frozenset()), (PLAIN,)).get(PLAIN)

    def _values(self, variables: Mapping[str, object], tokens: frozenset[str]) -> dict[str, object]:
        """What the template is given, as harmless plain data."""
        optional = {*tasks.OPTIONAL, *tasks.kinds()[self.task].values}
        for name in self.variables:
            if variables.get(name) is None and name not in optional:
                raise MissingVariableError(
                    f"prompt {self.name!r} needs the variable {name!r}, which is "
                    f"{'None' if name in variables else 'missing'}; given: {', '.join(variables) or 'nothing'}"
                )
        given = {
            name: tasks.OPTIONAL.get(name) if variables.get(name) is None else variables[name]
            for name in self.variables
        }
        return {name: _data(value, tokens, f"{name!r} for prompt {self.name!r}") for name, value in given.items()}

    def _contents(self, values: Mapping[str, object], names: Sequence[str]) -> dict[str, str]:
        """Each block rendered by itself; one that the template does not have is left out."""
        context = self._template.new_context(dict(values))
        try:
            # What stands around the blocks runs first, with silent blocks: it imports macros and joins the parents.
            for name in (*ROLES, PLAIN):
                context.blocks.setdefault(name, []).insert(0, _silent)
            for _text in self._template.root_render_func(context):
                pass
            for name in (*ROLES, PLAIN):
                context.blocks[name].pop(0)
            written = [name for name in names if context.blocks[name]]
            return {name: "".join(context.blocks[name][0](context)).strip() for name in written}
        except (
            jinja2.TemplateError,
            TypeError,
            ValueError,
            ArithmeticError,
            LookupError,
            AttributeError,
            RecursionError,
        ) as error:
            where = _place(error.__traceback__) or str(self.path)
            raise TemplateError(f"{where}: cannot render: {error}") from error


def _shipped() -> Path | None:
    """The folder of llmgen's own prompts: installed, or in a checkout."""
    package = Path(__file__).parents[1]
    return next((own for own in (package / "prompts", package.parent / "prompts") if own.is_dir()), None)


class PromptLibrary:
    """The prompts of some folders, loaded and checked when first asked for; files are read once.

    Templates extend, import and include each other by file name alone, across the folders; no other file exists for
    them.

    Args:
        folders: Where `*.jinja` files lie; of two with the same name, the first folder's counts.

    Raises:
        TemplateError: A folder does not exist.
    """

    def __init__(self, *folders: Path | str) -> None:
        self.folders = tuple(Path(folder) for folder in folders)
        self._files: dict[str, Path] = {}
        for folder in self.folders:
            if not folder.is_dir():
                raise TemplateError(f"there is no folder of prompts at {folder}")
            for path in folder.glob("*.jinja"):
                self._files.setdefault(path.name, path)
        self._texts: dict[str, str] = {}  # of files that lie nowhere
        self._sources: dict[str, Source] = {}
        self._templates: dict[str, PromptTemplate] = {}
        self._environment = sandbox(self._source)

    @classmethod
    def default(cls, *folders: Path | str) -> PromptLibrary:
        """The prompts of llmgen and of other packages' tasks, after those of your folders, which may replace them."""
        found = _shipped()
        if found is None:
            missing = Path(__file__).parents[1] / "prompts"
            raise TemplateError(f"the prompts of llmgen are missing at {missing}; install llmgen again")
        return cls(*folders, *tasks.folders(), found)

    def own_folders(self) -> tuple[tuple[Path, ...], bool]:
        """The folders without llmgen's own, and whether llmgen's own stand behind them."""
        behind = bool(self.folders) and self.folders[-1] == _shipped()
        return (self.folders[:-1] if behind else self.folders), behind

    def with_text(self, name: str, text: str) -> PromptLibrary:
        """The same prompts with one more, or with another wording of one, that lies in no file.

        Messages of errors name it by `name.jinja`, without a folder. Nothing is checked before it is asked for.

        Args:
            name: As the front matter of `text` has it.
            text: What would stand in the file.
        """
        made = PromptLibrary(*self.folders)
        file = Path(f"{name}.jinja")
        made._files |= self._files | {file.name: file}
        as_read = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        made._texts = {**self._texts, file.name: as_read}
        return made

    def names(self, task: str | None = None) -> tuple[str, ...]:
        """Names of all prompts, sorted, or of those for one task.

        Raises:
            TemplateError: A task is given, and some file is wrong; see `check`.
        """
        names = sorted(Path(file).stem for file in self._files if not file.startswith("_"))
        return tuple(name for name in names if task is None or self[name].task == task)

    def check(self) -> list[str]:
        """What is wrong with each prompt that cannot be loaded, file and line first; empty if all is well."""
        problems = []
        for name in self:
            try:
                self[name]
            except TemplateError as error:
                problems.append(str(error))
        return problems

    def __getitem__(self, name: str) -> PromptTemplate:
        """The prompt of that name.

        Raises:
            TemplateNotFoundError: There is none; the message lists names that are near.
            TemplateError: Its file is wrong; the message names file and line.
        """
        if name not in self._templates:
            if name not in self:
                hint = "" if self.own_folders()[0] else "; the folder of your own prompts is named by --prompt-folder"
                raise TemplateNotFoundError(f"no prompt is called {name!r}; {near(name, self.names())}{hint}")
            self._templates[name] = self._load(f"{name}.jinja")
        return self._templates[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and not name.startswith("_") and f"{name}.jinja" in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def _load(self, file: str) -> PromptTemplate:
        source = self._source(file)
        front = source.front_matter()
        used = self._used(file, ())
        parents = self._parents(file)
        check_blocks(parents, (PLAIN,) if tasks.answers(front.task) == "explain" else ())
        check_variables(front, parents, used)
        check_wording(used)
        text = "".join(f"{part.path.name}\0{part.text}\0" for part in used)
        template = PromptTemplate(
            self._environment.get_template(file), front, hashlib.sha256(text.encode()).hexdigest()[:12], source.path
        )
        _try_out(template, used)
        return template

    def _source(self, file: str) -> Source:
        if file not in self._sources:
            path = self._files[file]
            if file in self._texts:
                self._sources[file] = Source.of(path, self._texts[file], self._environment)
            else:
                self._sources[file] = Source.read(path, self._environment)
        return self._sources[file]

    def _parents(self, file: str) -> list[Source]:
        """The template, what it extends, what that extends, and so on."""
        chain = [self._source(file)]
        while extends := list(chain[-1].tree.find_all(nodes.Extends)):
            chain.append(self._source(next(chain[-1].references(extends[0]))))
        return chain

    def _used(self, file: str, above: tuple[str, ...]) -> list[Source]:
        """The template and all that it extends, imports and includes, each once, in the order of first use."""
        source = self._source(file)
        found = [source]
        for node in source.tree.find_all(REFERENCES):
            for name in source.references(node):
                if name not in self._files:
                    raise source.error(
                        node.lineno, f"no file {name!r} lies in the folders of prompts; {near(name, self._files)}"
                    )
                if name in (*above, file):
                    raise source.error(node.lineno, f"{name!r} uses itself by this; call one of the files otherwise")
                found += [part for part in self._used(name, (*above, file)) if part not in found]
        return found


def _data(value: object, tokens: frozenset[str], where: str) -> object:
    """A value as harmless plain data, all the way down."""
    match value:
        case None | bool():
            return value
        case str():
            return sanitize(value, tokens)
        case ItemView():
            return _harmless(value, tokens)
        case Integral():
            return int(value)
        case Real():
            return float(value)
        case Item():
            raise ValueError(f"{where} holds the item {value.id!r} itself; give views(catalog, items)")
        case Sequence() if not isinstance(value, bytes | bytearray | memoryview):
            return tuple(_data(part, tokens, where) for part in value)
        case _:
            raise ValueError(f"{where} holds a {type(value).__name__}; templates show text, numbers and item views")


@lru_cache(maxsize=65_536)  # the same items stand in the histories of many users
def _harmless(view: ItemView, tokens: frozenset[str]) -> ItemView:
    return ItemView(sanitize(view.title, tokens), sanitize(view.details, tokens), view.rating)


def _silent(context: Context) -> Iterator[str]:  # the form of a block's render function
    return iter(())


def _place(traceback: TracebackType | None) -> str | None:
    """File and line of the template where an error arose, the innermost one."""
    place = None
    while traceback is not None:
        template = traceback.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(template, jinja2.Template):
            place = f"{template.filename}, line {template.get_corresponding_lineno(traceback.tb_lineno)}"
        traceback = traceback.tb_next
    return place


def _try_out(template: PromptTemplate, used: Sequence[Source]) -> None:
    """Render once with everything and once with as little as there can be: what fails then, fails at loading."""
    item = ItemView("title", "details", 4.0)
    full: dict[str, object] = {"noun": "item", "nouns": "items", "history": (item, ItemView("title")), "wish": "wish"}
    full |= {
        "candidates": (item, item),
        "item": item,
        "labels": ("1", "2"),
        "evidence": (item,),
        "common": ("a", "b"),
        "k": 2,
    }
    bare = full | {"history": (), "candidates": (item,), "wish": None, "evidence": (), "common": (), "k": 1}
    kind = tasks.kinds()[template.task]
    for query, variables in ((Query(text="wish", k=2), full), (Query(k=1), bare)):
        variables |= {name: value(query) for name, value in kind.values.items()}
    target = kind.text or (item, item)
    blocks = {block.name for part in used for block in part.tree.find_all(nodes.Block)}
    for variables in (full, bare):
        template.render(variables, target=target if "assistant" in blocks else None)
        template.plain(variables)
