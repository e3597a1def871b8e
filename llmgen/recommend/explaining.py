"""Why an item suits a user, in the model's words where they keep to what it was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from llmgen.catalog.core import Catalog
from llmgen.engines import Engine, GenerationConfig
from llmgen.errors import GenerationError
from llmgen.priors import Evidence
from llmgen.recommend.parts import Parts
from llmgen.templates.views import views
from llmgen.types import Explanation, Item, Query


@runtime_checkable
class Attributing(Protocol):
    """A prior that can say which items of a history speak for an item."""

    def evidence(self, query: Query, item: Item) -> list[Evidence]:
        """The items of the history that speak for an item, strongest first."""
        ...


def explained(
    parts: Parts, engine: Engine, max_new_tokens: int, pairs: Sequence[tuple[Query, Item | str]]
) -> list[Explanation]:
    """A reason for each item, from the items of its query's history that speak most for it.

    Raises:
        UnknownItemError: An item is not in the catalog.
        GenerationError: The model said nothing.
    """
    about, prompts = [], []
    for given, key in pairs:
        query, item = parts.catalog.resolved(given), parts.catalog[parts.catalog.index(key)]
        evidence = evidence_of(parts, query, item)
        ratings = None
        if query.ratings is not None:
            known = {taken.id: rating for taken, rating in zip(query.items, query.ratings, strict=True)}
            ratings = [known[shown.id] for shown in evidence]
        shown = {
            "item": views(parts.catalog, [item], spelled=False)[0],
            "evidence": views(parts.catalog, evidence, ratings, spelled=False),
            "common": common_values(parts.catalog, item, evidence),
        }
        prompts.append(parts.prompt("explain", query, max_new_tokens, **shown))
        about.append((query, item, evidence, shown))
    config = GenerationConfig(max_new_tokens, think_tokens=parts.config.think_tokens)
    written = engine.generate([prompt.messages for prompt in prompts], config)
    answers = []
    for (query, item, evidence, shown), prompt, answer in zip(about, prompts, written, strict=True):
        text = answer.text.strip()
        if not text:
            raise GenerationError(
                f"{engine.name} gave no reason for {item.title!r}: {answer.end}; try another prompt or model, or "
                f"more than max_new_tokens={max_new_tokens}"
            )
        if not answer.finished:
            text = _whole_sentences(text)
        told = "\n".join(message.content for message in prompt.messages)
        unfounded = parts.index.claims.unfounded(text, told, item.title)
        plain = parts.prompter.plain(prompt, query, shown) if unfounded else None
        source: Literal["model", "template"] = "template" if plain else "model"
        answers.append(Explanation(item, plain or text, evidence, prompt.template.ref, source, unfounded))
    return answers


def common_values(catalog: Catalog, item: Item, evidence: Sequence[Item]) -> tuple[str, ...]:
    """Texts among the shown attributes of an item that stand in those of at least one other, in the item's order."""
    others = {part for other in evidence for part in _texts(catalog, other)}
    return tuple(part for part in _texts(catalog, item) if part in others)


def _texts(catalog: Catalog, item: Item) -> list[str]:
    values = (item.attributes.get(name) for name in catalog.shown)
    parts = (part for value in values for part in (value if isinstance(value, tuple) else (value,)))
    return list(dict.fromkeys(part for part in parts if isinstance(part, str)))


def evidence_of(parts: Parts, query: Query, item: Item, most: int = 3) -> tuple[Item, ...]:
    """Items of the history that speak most for an item, by the first prior that can say so, else the newest ones."""
    for prior in parts.priors:
        if isinstance(prior, Attributing):
            found = tuple(entry.item for entry in prior.evidence(query, item)[:most])
            if found:
                return found
    return tuple(dict.fromkeys(reversed(query.items)))[:most]


def _whole_sentences(text: str) -> str:
    """Without the last sentence, which was cut off in its middle; where it is the only one, marked as cut."""
    ends = [f"{text} ".rfind(mark) for mark in (". ", "! ", "? ", ".\n", "。")]
    return text[: max(ends) + 1] if max(ends) > 0 else text + " …"
