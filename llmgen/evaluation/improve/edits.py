"""Edits of a prompt that are known to matter at times: each makes a proposal that `improve` tries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmgen.errors import ConfigError, TemplateError
from llmgen.evaluation.arms.arm_config import ArmConfig
from llmgen.recommend.config import MAX_HISTORY
from llmgen.templates.library import PromptLibrary, PromptTemplate

LENGTHS = (3, 5, 10, 20, 40)
"""Newest items of the history in the prompt."""
INSTRUCTIONS: Mapping[str, str] = {
    "short": "{{ nouns }} one person chose, oldest first:",
    "taste": "These are the {{ nouns }} one person chose, oldest first. Judge this person's taste: what the choices "
    "have in common, what is rare in them, and where the newest ones lead. Predict what this person chooses next.",
    "newest": "These are the {{ nouns }} one person chose, oldest first. The last ones say most. Predict what this "
    "person chooses next.",
    "others": "One person chose these {{ nouns }}, oldest first. Name what other people with the same choices chose "
    "next.",
    "alike": "One person chose these {{ nouns }}, oldest first. Name the {{ nouns }} that are most like them.",
    "continue": "Continue this list of {{ nouns }} in the order in which one person chose them.",
    "varied": "These are the {{ nouns }} one person chose, oldest first. Predict what this person chooses next; the "
    "answers may differ from each other.",
}
"""Name -> wording of the block `instruction`."""
SYSTEMS: Mapping[str, str] = {
    "no_system": "",
    "expert": "You know every one of these {{ nouns }} and who chooses them. Answer with titles only, one a line, best "
    "first.",
}
"""Name -> wording of the block `system`."""


@dataclass(frozen=True)
class Proposal:
    """A way to ask that may be better.

    Attributes:
        name: Of the arm, and of its template where it has a text.
        about: What differs from the original, in words.
        text: The template's file; None where only settings differ.
        settings: Fields of `ArmConfig` that differ.
    """

    name: str
    about: str
    text: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    def arm(self, original: ArmConfig, folder: Path) -> ArmConfig:
        """The arm of it; its template lies in the folder."""
        changes = {"prompt": self.name, "prompt_folder": folder} if self.text is not None else {}
        return original.model_copy(update={**changes, **self.settings})


def proposals(original: ArmConfig, library: PromptLibrary, *, detailed: bool, rated: bool) -> list[Proposal]:
    """The proposals for an arm that pass the check of prompts, each once.

    Args:
        original: Its template is for the task next_item.
        library: Where that lies.
        detailed: Whether the catalog shows attributes of items.
        rated: Whether the log has ratings.

    Raises:
        ConfigError: The template is for another task.
    """
    template = library[next(iter(original.prompts), "next_item")]
    if template.task != "next_item":
        raise ConfigError(f"the prompt {template.name!r} is for the task {template.task}; only prompts for next_item "
                          "can be improved")  # fmt: skip
    found: list[Proposal] = []
    for proposal in _all(original, template, library, detailed, rated):
        if any(proposal.name == other.name for other in found):
            continue  # where the folder of the prompts is the one that an earlier search wrote to
        if proposal.text is None:
            found.append(proposal)
            continue
        try:
            _ = library.with_text(proposal.name, proposal.text)[proposal.name]
        except TemplateError:
            continue  # of a template without such a block, or that does not list the history this way
        found.append(proposal)
    return found


def _all(
    original: ArmConfig, template: PromptTemplate, library: PromptLibrary, detailed: bool, rated: bool
) -> Iterator[Proposal]:
    name = template.name
    length = MAX_HISTORY if original.max_history is None else original.max_history
    for other in LENGTHS:
        if other != length:
            yield Proposal(
                f"{name}_last{other}", f"the newest {other} items of the history", None, {"max_history": other}
            )
    for block, wordings in (("instruction", INSTRUCTIONS), ("system", SYSTEMS)):
        for what, wording in wordings.items():
            yield Proposal(
                f"{name}_{what}", f"{block}: {wording or 'none'}", _child(template, f"{name}_{what}", block, wording)
            )
    own = template.path.read_text(encoding="utf-8")
    lists = [("details", "attributes beside the titles", "listing(history, detailed=true)", detailed),
             ("ratings", "the user's ratings beside the titles", "listing(history, rated=true)", rated)]  # fmt: skip
    for what, about, listing, there in lists:
        if there and "listing(history)" in own:
            yield Proposal(f"{name}_{what}", about, _renamed(own.replace("listing(history)", listing), name, what))
    if "listing(history)" in own and "oldest first" in own:
        turned = own.replace("listing(history)", "listing(history | reverse | list)").replace(
            "oldest first", "newest first"
        )
        yield Proposal(
            f"{name}_newest_first", "the history from the newest to the oldest", _renamed(turned, name, "newest_first")
        )
    for other_name in library.names("next_item"):
        if other_name != name and library[other_name].language == template.language:
            yield Proposal(other_name, f"the template {other_name}", None, {"prompt": other_name})


def _child(template: PromptTemplate, name: str, block: str, wording: str) -> str:
    """A template that differs from another in one block."""
    variables = ", ".join(template.variables)
    return (
        f"---\nname: {name}\nversion: 1\ndescription: {template.name} with another {block}.\ntask: {template.task}\n"
        f"language: {template.language}\ncontinues: {str(template.continues).lower()}\nvariables: [{variables}]\n---\n"
        f'{{% extends "{template.name}.jinja" %}}\n{{% block {block} %}}\n{wording}\n{{% endblock %}}\n'
    )


def _renamed(text: str, name: str, what: str) -> str:
    return re.sub(rf"^name:\s*{re.escape(name)}\s*$", f"name: {name}_{what}", text, count=1, flags=re.MULTILINE)
