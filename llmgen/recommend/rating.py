"""Predicted ratings: the language model's probability of each label times rating priors, as for items.

log p(label) = lm_weight * log p_LM(label) + sum of weight * log p_prior(label) + a constant
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from llmgen.engines import Engine, GenerationConfig, spell_lines
from llmgen.errors import ArgumentError, ConfigError, GenerationError
from llmgen.priors import rating_terms
from llmgen.recommend.parts import Parts
from llmgen.search import Request, SearchConfig, search
from llmgen.trie.core import ItemTrie
from llmgen.types import FloatArray, Item, Message, Query, RatingPrediction

TOKENS_OF_A_LABEL = 24
"""Of free text: some models say a word or two before."""

_NUMBER = re.compile(r"(?<![A-Za-z0-9.,])-?\d+(?:[.,]\d+)?(?![A-Za-z]|[.,]?\d)")
_TO = "to|-|–|—|and|through|bis|到|至|~|～"
_OUT_OF = "/|out of|of|von|sur|分之"


class LabelShares(NamedTuple):
    """What the language model says of the labels.

    Attributes:
        logprobs: float64 [n_labels], natural logarithms of shares that sum to 1.
        mass: Probability of all labels together before they were normalised; NaN where only a text is known.
    """

    logprobs: FloatArray
    mass: float


def rated(parts: Parts, labels: Sequence[str], pairs: Sequence[tuple[Query, Item | str]]) -> list[RatingPrediction]:
    """The rating of each query and item, by the model and the rating priors.

    Raises:
        UnknownItemError: An item is not in the catalog.
        GenerationError: An engine that can only write wrote none of the labels, or one gave logits that are none.
    """
    values, catalog = rating_values(labels), parts.catalog
    asked = [(catalog.resolved(query), catalog[catalog.index(key)]) for query, key in pairs]
    said = rating_terms(parts.rating_priors, asked, values)
    weights = {prior.name: prior.weight for prior in parts.rating_priors}
    if parts.engine is None or parts.config.rating_lm_weight == 0:
        masses, reference = [math.nan] * len(asked), ""
    else:
        shares, reference = _ask(parts, parts.engine, asked, labels)
        said = {"lm": np.array([share.logprobs for share in shares]), **said}
        weights["lm"] = parts.config.rating_lm_weight
        masses = [share.mass for share in shares]
    return [
        prediction(item, labels, dict(zip(said, rows, strict=True)), weights, label_mass=mass, prompt=reference)
        for (_, item), mass, *rows in zip(asked, masses, *said.values(), strict=True)
    ]


def check_rates(parts: Parts, labels: Sequence[str]) -> None:
    """Refuse to rate with what cannot.

    Raises:
        ArgumentError: Labels that are not numbers, repeat or are fewer than two.
        ConfigError: There is neither an engine nor a rating prior.
    """
    rating_values(labels)
    if not (parts.rating_priors or (parts.engine is not None and parts.config.rating_lm_weight > 0)):
        raise ConfigError("a rating needs a language model or a rating prior, and there is neither; give one")


def _ask(
    parts: Parts, engine: Engine, asked: Sequence[tuple[Query, Item]], labels: Sequence[str]
) -> tuple[list[LabelShares], str]:
    """What the model says of the labels, and the prompt that it was asked with."""
    template = parts.templates["rate"]
    room = 0 if engine.constrained else TOKENS_OF_A_LABEL
    prompts = [
        parts.prompt("rate", query, room, item=parts.prompter.about(item), labels=tuple(labels))
        for query, item in asked
    ]
    if engine.constrained:
        tokens = [prompt.token_ids for prompt in parts.thought_about(engine, prompts)]
        return ask_labels(engine, tokens, labels, continues=template.continues), template.ref
    sure = 0.5 if parts.rating_priors else 1.0  # one label says nothing of the others, and priors must be heard
    items, chats = [item for _, item in asked], [prompt.messages for prompt in prompts]
    shares = read_labels(engine, chats, items, labels, sure=sure, think_tokens=parts.config.think_tokens)
    return shares, template.ref


def rating_values(labels: Sequence[str]) -> FloatArray:
    """The numbers that rating labels stand for, float64 [len(labels)].

    Raises:
        ArgumentError: Labels that are no finite numbers, repeat or are fewer than two.
    """
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ArgumentError(f"labels must be at least two different ratings, not {list(labels)}")
    try:
        values = np.array([float(label) for label in labels])
    except ValueError:
        values = np.array([np.nan])
    if not np.isfinite(values).all():
        raise ArgumentError(f"labels must be numbers written as strings, not {list(labels)}")
    if len(set(values.tolist())) < len(labels):
        raise ArgumentError(f"labels must be at least two different ratings, not {list(labels)}: two are one number")
    return values


def ask_labels(
    engine: Engine, prompts: Sequence[tuple[int, ...]], labels: Sequence[str], *, continues: bool
) -> list[LabelShares]:
    """The probabilities of the labels after each prompt, exactly, on a trie of their tokens.

    Args:
        engine: One that can be constrained.
        prompts: Token ids.
        labels: See `rating_values`.
        continues: Whether the rating is a line among others, and not the end of an answer.
    """
    paths = engine.spell(labels)
    bare = [path[:-1] for path in paths]
    if continues:
        paths = spell_lines(engine, labels)
    trie = ItemTrie.build(paths)
    whole = trie if _overlap(bare) else ItemTrie.build(bare)  # the end is no part of a rating where it can go
    requests = [Request(prompt, np.zeros(len(labels)), len(labels)) for prompt in prompts]
    shares = search(trie, engine, requests, SearchConfig(exact=True))
    masses = search(whole, engine, requests, SearchConfig(mode="raw", exact=True))
    found = []
    for share, mass in zip(shares, masses, strict=True):
        logprobs = np.empty(len(labels))
        logprobs[share.items] = share.lm_logprobs
        found.append(LabelShares(logprobs, min(1.0, float(np.exp(mass.lm_logprobs).sum()))))
    return found


def read_labels(
    engine: Engine,
    prompts: Sequence[Sequence[Message]],
    items: Sequence[Item],
    labels: Sequence[str],
    *,
    sure: float,
    think_tokens: int = 0,
) -> list[LabelShares]:
    """The rating in what the model writes about each item, where it can only write; see `shares_in`.

    Args:
        engine: Any.
        prompts: Messages.
        items: What each is about, for errors.
        labels: See `rating_values`.
        sure: In (0, 1]: so much goes to what is named, and the rest to all labels alike.
        think_tokens: See `GenerationConfig`.

    Raises:
        GenerationError: None of the labels stands in a text.
    """
    others = math.log((1 - sure) / len(labels)) if sure < 1 else -math.inf
    found = []
    written = engine.generate(prompts, GenerationConfig(TOKENS_OF_A_LABEL, think_tokens=think_tokens))
    for item, completion in zip(items, written, strict=True):
        shares = shares_in(completion.text, labels, title=item.title)
        if not shares.any():
            raise GenerationError(
                f"{engine.name} wrote {completion.text!r} for the rating of {item.title!r}, in which none of the "
                f"labels {', '.join(labels)} stands ({completion.end}); try another prompt or model"
            )
        with np.errstate(divide="ignore"):
            found.append(LabelShares(np.logaddexp(others, math.log(sure) + np.log(shares)), math.nan))
    return found


def shares_in(text: str, labels: Sequence[str], *, title: str = "") -> FloatArray:
    """What a text says of a rating, float64 [n_labels]: shares that sum to 1, or zeros where it names none.

    Numbers that tell the scale ("1 to 5", "out of 5", "/5") or stand in the item's title are no ratings, nor are those
    outside the labels' range. Several different ratings share evenly; one between two labels ("4.5") goes to both, in
    such shares that it is their mean.

    >>> shares_in("On a scale of 1 to 5, I say 4", ["1", "2", "3", "4", "5"]).tolist()
    [0.0, 0.0, 0.0, 1.0, 0.0]
    >>> shares_in("4.5", ["3", "4", "5"]).tolist()
    [0.0, 0.5, 0.5]
    """
    values = rating_values(labels)
    order = values.argsort()
    lowest, highest = (rf"{labels[place]}(?:[.,]0+)?" for place in (order[0], order[-1]))
    if title:
        text = re.sub(rf"(?<!\w){re.escape(title)}(?!\w)", " ", text, flags=re.IGNORECASE)
    text = re.sub(
        rf"(?<![A-Za-z0-9.,]){lowest}\s*(?:{_TO})\s*{highest}(?![A-Za-z]|[.,]?\d)", " ", text, flags=re.IGNORECASE
    )
    text = re.sub(rf"(?<=\d)\s*(?:{_OUT_OF})\s*{highest}(?![A-Za-z]|[.,]?\d)", " ", text, flags=re.IGNORECASE)
    named = {float(number.replace(",", ".")) for number in _NUMBER.findall(text)}
    named = {value for value in named if values[order[0]] <= value <= values[order[-1]]}
    shares = np.zeros(len(labels))
    for value in sorted(named):
        above = int(np.searchsorted(values[order], value))
        upper, lower = order[above], order[max(above - 1, 0)]
        part = 1.0 if values[upper] == value else float((value - values[lower]) / (values[upper] - values[lower]))
        shares[upper] += part
        if part < 1:
            shares[lower] += 1 - part
    return shares / max(len(named), 1)


def multiply_shares(parts: Mapping[str, FloatArray], weights: Mapping[str, float]) -> FloatArray:
    """The product of what several parts say of the labels, each to the power of its weight.

    Args:
        parts: Name -> float64 [..., n_labels], natural logarithms, at least one; -inf only where it is the only one.
        weights: Name -> exponent.

    Returns:
        float64 [..., n_labels], probabilities that sum to 1.
    """
    total: FloatArray = np.zeros(())
    for name, logprobs in parts.items():
        total = total + weights[name] * logprobs
    shares = np.exp(total - total.max(axis=-1, keepdims=True))
    result: FloatArray = shares / shares.sum(axis=-1, keepdims=True)
    return result


def prediction(
    item: Item,
    labels: Sequence[str],
    parts: Mapping[str, FloatArray],
    weights: Mapping[str, float],
    *,
    label_mass: float,
    prompt: str,
) -> RatingPrediction:
    """What is said of an item's rating, from its parts; see `multiply_shares` and `RatingPrediction`."""
    values = rating_values(labels)
    shares = multiply_shares(parts, weights)
    by_label = {name: dict(zip(labels, np.exp(part).tolist(), strict=True)) for name, part in parts.items()}
    return RatingPrediction(
        item,
        dict(zip(labels, shares.tolist(), strict=True)),
        float(shares @ values),
        float(values[shares.argmax()]),
        label_mass,
        prompt,
        by_label,
    )


def _overlap(paths: Sequence[tuple[int, ...]]) -> bool:
    """Whether one path begins another."""
    ordered = sorted(paths)
    return any(long[: len(short)] == short for short, long in pairwise(ordered))
