"""Identifiers that settings name: by kind and settings, or by the folder of one that was fitted."""

from __future__ import annotations

import inspect
from pathlib import Path

from llmgen.catalog.core import Catalog, digest_of
from llmgen.errors import ConfigError
from llmgen.identifiers.codes import Codes
from llmgen.identifiers.files import FILE, load_identifier
from llmgen.identifiers.words import Words
from llmgen.vectors.encoders import DEMO
from llmgen.vectors.named import named_vectors

TITLE = "title"
"""Kind of the identifier of items that are spelled by their labels."""
KINDS: dict[str, type[Words | Codes]] = {Words.kind: Words, Codes.kind: Codes}
OF_VECTORS = ("encoder", "vectors", "content")


def wrong_identifier(name: str) -> str:
    """What can be known to be wrong with a name before anything is read; empty if nothing is."""
    kind, settings = _parsed(name)
    if kind == TITLE or _is_folder(name):
        return ""
    if kind not in KINDS:
        return (
            f"no identifier is called {name!r}; there are {TITLE}, {', '.join(KINDS)}, and folders with {FILE}, such "
            "as the one beside an adapter"
        )
    known = (*OF_VECTORS, *_numbers(kind))
    for setting, value in settings.items():
        if setting not in known:
            return f"the identifier {kind!r} has no setting {setting!r}; there are {', '.join(known)}"
        if setting not in OF_VECTORS and not value.isdigit():
            return f"the setting {setting!r} of the identifier {kind!r} is a whole number, not {value!r}"
    return ""


def identified(catalog: Catalog, name: str) -> Catalog:
    """A catalog spelled as a name says.

    Args:
        catalog: What is fitted on, where the name is a kind.
        name: `title`; `words` or `codes`, with settings behind a colon: those of `Words.fit` and `Codes.fit`, and those
            of the vectors, as `words:encoder=minilm,depth=2` or `codes:vectors=factors.npy,encoder=`; or a folder of
            `save_identifier`.

    Raises:
        ConfigError: There is no such kind or setting.
        LLMGenError: The folder is damaged, or the vectors cannot be had.
    """
    if said := wrong_identifier(name):
        raise ConfigError(said)
    if _is_folder(name):
        return catalog.identified(load_identifier(name))
    kind, settings = _parsed(name)
    if kind == TITLE:
        return catalog.identified(None)
    given = {one: settings[one] for one in OF_VECTORS if one in settings}
    vectors = named_vectors(catalog.identified(None), **{"encoder": DEMO, **given})
    numbers = {one: int(value) for one, value in settings.items() if one not in OF_VECTORS}
    return catalog.identified(KINDS[kind].fit(vectors, **numbers))


def kind_of(catalog: Catalog) -> tuple[str, str]:
    """Kind and digest of how a catalog is spelled, as records of adapters have them."""
    return (TITLE if catalog.identifier is None else catalog.identifier.kind), digest_of(catalog.identifier)


def _is_folder(name: str) -> bool:
    return (Path(name) / FILE).is_file()


def _parsed(name: str) -> tuple[str, dict[str, str]]:
    kind, _, rest = name.partition(":")
    pairs = (part.partition("=") for part in rest.split(",")) if rest else ()
    return kind, {setting: value for setting, _, value in pairs}


def _numbers(kind: str) -> tuple[str, ...]:
    return tuple(inspect.signature(KINDS[kind].fit).parameters)[1:]
