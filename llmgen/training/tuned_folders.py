"""Folders of tuned models: a new one, whole or not there at all, with the record and identifier of its adapter."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from llmgen.adapters import IDENTIFIER, AdapterRecord
from llmgen.errors import ConfigError
from llmgen.saved_folders import whole_folder

DTYPES = ("float32", "bfloat16", "float16")


def checked_dtype(target: Path, dtype: str) -> torch.dtype:
    """The type of weights that are to be written to a new folder.

    Raises:
        ConfigError: The folder is there already, or weights of that type are not written.
    """
    if target.exists():
        raise ConfigError(f"{target} exists; name a new folder, or remove it")
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be float32, bfloat16 or float16, not {dtype!r}")
    found: torch.dtype = getattr(torch, dtype)
    return found


@contextmanager
def tuned_folder(target: Path, adapter: Path, record: AdapterRecord | None) -> Iterator[Path]:
    """A folder to write weights into, which takes its place when all is written.

    Args:
        target: Where it will stand.
        adapter: Folder whose identifier goes along, where it has one.
        record: Of the adapter, which goes along.

    Raises:
        ConfigError: The place cannot be written to.
    """
    with whole_folder(target) as made:
        yield made
        if record is not None:
            record.write(made)
        if (adapter / IDENTIFIER).is_dir():
            shutil.copytree(adapter / IDENTIFIER, made / IDENTIFIER)
