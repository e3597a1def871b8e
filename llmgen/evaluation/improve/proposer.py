"""Proposals by a language model that the user names: what it is told, and what becomes of its answers.

It is told what the task is, the template, the variables, how the edits did so far, and, only where the user says how
many, the histories and lists of users on whom the prompts differ most, without their ids. What it answers is kept as it
comes, so that a search that goes on after a stop asks nothing twice. An answer that is no template, that
`llmgen prompts check` would not pass, or that was there before is dropped, and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from llmgen.engines import server_of
from llmgen.engines.completions_client import KEY, Server
from llmgen.errors import ConfigError, DataError, GenerationError, TemplateError
from llmgen.evaluation.improve.budget import Budget
from llmgen.evaluation.improve.edits import Proposal
from llmgen.templates.library import PromptLibrary, PromptTemplate
from llmgen.templates.tasks import ALWAYS, VARIABLES, kinds

FILE = "proposer.jsonl"
OWN_KEY = "LLMGEN_PROPOSER_KEY"
"""Environment variable of the API key, before `OPENAI_API_KEY`."""
MOST_TOKENS = 4_000
TIMEOUT_S = 300.0
SYSTEM = (
    "You improve prompt templates of a recommender. A language model reads the rendered prompt, and the probability "
    "that it gives to each title of a catalog ranks the items. Templates are files of Jinja with front matter."
)


class Shown(NamedTuple):
    """A user on whom prompts differ much.

    Attributes:
        history: Titles, oldest first.
        target: What the user took next.
        lists: Name of an arm -> the first titles of its list.
    """

    history: Sequence[str]
    target: str
    lists: Mapping[str, Sequence[str]]


class Answer(BaseModel):
    """What the model answered, as it is kept.

    Attributes:
        asked: Digest of what it was told.
        text: Of the answer.
        error: Why there is none that can be read.
        read: Tokens that it read; bytes where the server does not count.
        written: Tokens that it wrote.
        seconds: That it took.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    asked: str
    text: str
    error: str | None
    read: int
    written: int
    seconds: float


@dataclass
class Proposed:
    """What came of asking.

    Attributes:
        proposals: Those that can be tried.
        dropped: Name -> why its answer was dropped.
        requests: Answers, those of earlier starts included.
        seconds: That they took.
        money: That they cost; 0 where no prices are known.
    """

    proposals: list[Proposal] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    seconds: float = 0.0
    money: float = 0.0


class Proposer:
    """A model of an OpenAI-compatible server.

    Args:
        name: `openai:URL` or `openai:URL:MODEL`; the server's first model by default.
        number: Of proposals that are asked for.
        users: That it is shown at most.
        budget: Of the search.

    Raises:
        ConfigError: Another name, or money without the prices of tokens.
    """

    def __init__(self, name: str, number: int, users: int, budget: Budget) -> None:
        kind, _, rest = name.partition(":")
        if kind != "openai":
            raise ConfigError(f"--proposer is openai:URL or openai:URL:MODEL, not {name!r}")
        if budget.money is not None and not budget.has_token_prices:
            raise ConfigError("a budget in money counts what is proposed too; give --read-price and --written-price, "
                              "per million tokens, 0 where it costs nothing")  # fmt: skip
        self.name, self.number, self.users, self.budget = name, number, users, budget
        self._url, self._model = server_of(rest)
        self._server: Server | None = None

    def propose(
        self,
        original: PromptTemplate,
        library: PromptLibrary,
        tried: Mapping[str, float],
        shown: Sequence[Shown],
        folder: Path,
    ) -> Proposed:
        """Ask for proposals, or find those that were given before.

        Args:
            original: The template to improve.
            library: Where it lies.
            tried: What was tried, in words -> the mean difference that it made.
            shown: Users; `users` of them at most are told of.
            folder: Of the search, with the answers of an earlier start.

        Raises:
            EngineUnavailableError: The server is not there, or wants another key.
            DataError: The file of earlier answers is broken.
        """
        try:
            return self._propose(original, library, tried, shown, folder / FILE)
        finally:
            if self._server is not None:
                self._server.close()
                self._server = None

    def _propose(
        self,
        original: PromptTemplate,
        library: PromptLibrary,
        tried: Mapping[str, float],
        shown: Sequence[Shown],
        path: Path,
    ) -> Proposed:
        before = _read(path)
        made = Proposed()
        texts = {_bare(original.path.read_text(encoding="utf-8")): original.name}
        for number in range(1, self.number + 1):
            if self.budget.money is not None and made.money >= self.budget.money:
                break
            name = f"{original.name}_lm{number}"
            given = messages(original, name, tried, shown[: self.users], list(texts)[1:])
            digest = hashlib.sha256(json.dumps([self.name, given]).encode()).hexdigest()[:16]
            answer = before.get(digest)
            if answer is None:
                answer = self._asked(digest, given)
                with path.open("a", encoding="utf-8") as file:
                    file.write(answer.model_dump_json() + "\n")
            made.requests += 1
            made.seconds += answer.seconds
            made.money += self.budget.price(answer.read, answer.written)
            try:
                text = _template(answer, name)
                if earlier := texts.get(_bare(text)):
                    raise TemplateError(f"the same as {earlier}")
                found = library.with_text(name, text)[name]
                if found.task != original.task:
                    raise TemplateError(f"for the task {found.task}, not {original.task}")
            except TemplateError as error:
                made.dropped[name] = str(error)
                continue
            texts[_bare(text)] = name
            made.proposals.append(Proposal(name, f"as {self.name} proposed: {found.description}", text))
        return made

    def _asked(self, digest: str, given: Sequence[dict[str, str]]) -> Answer:
        began = time.monotonic()
        server = self._connected()
        size = sum(len(one["content"].encode()) for one in given)
        try:
            found = server.written(given, {"temperature": 0.8, "max_tokens": MOST_TOKENS})
        except GenerationError as error:
            seconds = time.monotonic() - began
            return Answer(asked=digest, text="", error=str(error), read=size, written=0, seconds=seconds)
        return Answer(
            asked=digest,
            text=found.answer.text,
            error=None,
            read=size if found.prompt_tokens is None else found.prompt_tokens,
            written=found.answer.num_tokens,
            seconds=time.monotonic() - began,
        )

    def _connected(self) -> Server:
        """The server, with its model chosen.

        Raises:
            ConfigError: It has no such model.
        """
        if self._server is None:
            key = os.environ.get(OWN_KEY) or os.environ.get(KEY, "")
            self._server = Server(self._url, key, TIMEOUT_S, None, connections=1)
            cards = self._server.cards()
            model = self._model or next(iter(cards), None)
            if model is None or model not in cards:
                raise ConfigError(f"the server has no model {model!r}; it has {', '.join(list(cards)[:20]) or 'none'}")
            self._server.model = model
        return self._server


def messages(
    original: PromptTemplate, name: str, tried: Mapping[str, float], shown: Sequence[Shown], before: Sequence[str]
) -> list[dict[str, str]]:
    """What the model is told.

    Args:
        original: The template to improve.
        name: What its proposal is called.
        tried: See `Proposer.propose`.
        shown: The users that it may be shown.
        before: Its earlier proposals.
    """
    task = kinds()[original.task]
    variables = {"noun": "what one item is called", "nouns": "what several items are called", **VARIABLES}
    known = [f"- {one}: {variables.get(one, 'see the template')}" for one in (*ALWAYS, *task.variables)]
    paragraphs = [
        f"The task {task.name}: {task.description}. Its templates may use these variables and no others:\n"
        + "\n".join(known)
        + "\nItems of `history` have `title`, `details` and `rating` (both may be empty).",
        f"The template to improve:\n```jinja\n{original.path.read_text(encoding='utf-8').strip()}\n```",
        "What was tried, with the change in the metric (higher is better):\n"
        + "\n".join(f"- {mean:+.4f}: {about}" for about, mean in tried.items()),
    ]
    for number, user in enumerate(shown, 1):
        lists = "\n".join(f"{arm} ranks first: {'; '.join(titles)}" for arm, titles in user.lists.items())
        paragraphs.append(f"User {number} took: {'; '.join(user.history)}\nThen took: {user.target}\n{lists}")
    if before:
        paragraphs.append(
            "You proposed these already; differ from them:\n" + "\n\n".join(f"```jinja\n{one}\n```" for one in before)
        )
    paragraphs.append(
        f"Write one template that will do better: a whole file with `name: {name}`, `version: 1`, and a `description`, "
        "one sentence that says what differs. Answer with the file alone, in a block from ```jinja to ```."
    )
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "\n\n".join(paragraphs)}]


def _template(answer: Answer, name: str) -> str:
    """The template in an answer, under its name.

    Raises:
        TemplateError: There is none.
    """
    if answer.error is not None:
        raise TemplateError(answer.error)
    found = re.findall(r"```[a-z0-9]*[ \t]*\n(.*?)\n```", answer.text, re.DOTALL)
    if not found:
        raise TemplateError("the answer has no template between ```jinja and ```")
    text = str(found[-1]).strip() + "\n"
    return re.sub(r"\A(---[ \t]*\n(?:.*\n)*?)name:[^\n]*", rf"\g<1>name: {name}", text, count=1)


def _bare(text: str) -> str:
    """A template without its front matter, which no model reads, and without blanks around it."""
    return re.sub(r"\A---[ \t]*\n.*?\n---[ \t]*\n", "", text, count=1, flags=re.DOTALL).strip()


def _read(path: Path) -> dict[str, Answer]:
    """Earlier answers by what was asked.

    Raises:
        DataError: A line is none.
    """
    if not path.exists():
        return {}
    found = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), 1):
        try:
            answer = Answer.model_validate_json(line)
        except ValidationError as error:
            said = error.errors()[0]["msg"]
            raise DataError(f"{path}, line {number} is no answer: {said}; remove it to ask again") from None
        found[answer.asked] = answer
    return found
