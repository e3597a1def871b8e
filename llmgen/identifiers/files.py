"""Identifiers as folders: `identifier.json` and arrays; never the encoder, which is found again by its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmgen.catalog.core import Identifier
from llmgen.errors import ConfigError, DataError
from llmgen.identifiers.codes import Codes
from llmgen.identifiers.reading import Reading
from llmgen.identifiers.tree import Tree
from llmgen.identifiers.words import Words
from llmgen.vectors.named import later, record_of

FILE = "identifier.json"
FORMAT = 1


def save_identifier(identifier: Identifier, folder: Path | str) -> None:
    """Write an identifier into a folder, which is made where it is missing.

    Raises:
        ConfigError: It is none of llmgen's, or its encoder has no name by which it is found again.
    """
    if not isinstance(identifier, Words | Codes):
        raise ConfigError(f"the identifier {identifier.kind!r} is none of llmgen's, so it cannot be saved")
    folder = Path(folder)
    reading = identifier.reading
    about: dict[str, Any] = {
        "format": FORMAT,
        "kind": identifier.kind,
        "digest": identifier.digest,
        "label": reading.label,
        "content": reading.content,
        "encoder": record_of(reading.encoder, f"the identifier {identifier.kind!r}"),
        "dimensions": reading.dimensions,
    }
    arrays: dict[str, NDArray[Any]] = {"keys": reading.keys, "places": reading.places}
    if isinstance(identifier, Words):
        about["names"] = list(identifier.names)
        arrays |= {"centroids": identifier.tree.centroids, "parents": identifier.tree.parents}
    else:
        arrays["codebooks"] = identifier.codebooks
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    (folder / FILE).write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_identifier(folder: Path | str) -> Words | Codes:
    """Read what `save_identifier` wrote. An encoder is loaded when the first new item needs it.

    Raises:
        DataError: There is none, or it is damaged.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"format {about['format']}, and this version reads {FORMAT}")

        def array(name: str) -> Any:
            return np.load(folder / f"{name}.npy", allow_pickle=False)

        encoder = later(about["encoder"])
        reading = Reading(
            about["label"], about["content"], encoder, array("keys"), array("places"), about["dimensions"]
        )
        made: Words | Codes
        if about["kind"] == Words.kind:
            made = Words(Tree(array("centroids"), array("parents")), tuple(about["names"]), reading)
        elif about["kind"] == Codes.kind:
            made = Codes(array("codebooks"), reading)
        else:
            raise ValueError(f"kind {about['kind']!r}, and there are {Words.kind} and {Codes.kind}")
        if made.digest != about["digest"]:
            raise ValueError(f"it is {made.digest}, and was {about['digest']} when it was written")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} holds no identifier that llmgen wrote: {error!r}; give a folder of save_identifier, or that "
            "beside an adapter"
        ) from error
    return made
