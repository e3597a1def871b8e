"""Priors that go by vectors, as files: the vectors, the settings, and the name of the encoder, never the encoder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TypeVar

import numpy as np

from llmgen.catalog.core import Catalog
from llmgen.errors import ConfigError, DataError
from llmgen.priors.meaning import HistoryVectors, TextQueryVectors
from llmgen.vectors import ItemVectors
from llmgen.vectors.named import encoder_of, record_of

FILE, ARRAY = "near.json", "vectors.npy"
NOT_WRITTEN = ("vectors", "others")

Near = TypeVar("Near", TextQueryVectors, HistoryVectors)


def save_near(prior: TextQueryVectors | HistoryVectors, folder: Path) -> None:
    """Write a prior into an empty folder.

    Raises:
        ConfigError: Its encoder is none of a name, or it reads vectors of other catalogs.
    """
    encoder = record_of(prior.vectors.encoder, f"the prior {prior.name!r}")
    if isinstance(prior, HistoryVectors) and prior.others:
        raise ConfigError(
            f"the prior {prior.name!r} cannot be saved: it reads vectors of {len(prior.others)} other catalogs; leave "
            "it out and add it again after loading"
        )
    fields = {
        field.name: getattr(prior, field.name) for field in dataclasses.fields(prior) if field.name not in NOT_WRITTEN
    }
    about = {
        "fields": fields,
        "encoder": encoder,
        "content": prior.vectors.content,
    }
    np.save(folder / ARRAY, prior.vectors.at(np.arange(len(prior.catalog))))
    (folder / FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_near(kind: type[Near], folder: Path, catalog: Catalog) -> Near:
    """Read what `save_near` wrote.

    Raises:
        DataError: The folder holds something else.
        EngineUnavailableError: The encoder cannot be had here.
    """
    try:
        about = json.loads((folder / FILE).read_text(encoding="utf-8"))
        fields, encoder, content = about["fields"], about["encoder"], about["content"]
        matrix = np.load(folder / ARRAY, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no vectors that llmgen wrote: {error!r}; save them again") from error
    if matrix.dtype != np.float32 or matrix.ndim != 2 or len(matrix) != len(catalog):
        raise DataError(
            f"{folder} has vectors {matrix.shape}, {matrix.dtype}, for {len(catalog)} items; save them again"
        )
    known = (matrix != 0).any(axis=1)
    reader = None if encoder is None else encoder_of(encoder["model"], pictures=encoder["pictures"])
    vectors = ItemVectors(catalog, matrix, reader, content, known=None if known.all() else known)
    try:
        return kind(vectors, **fields)
    except TypeError as error:
        raise DataError(f"{folder} holds no {kind.__name__} that this version can read: {error}") from error
