"""Saved folders: written whole or not at all, and checked before anything in them is used.

A folder that llmgen saved has a file `saved.json`: what the folder holds, the format, the version of llmgen, and the
SHA-256 of each other file. Nothing in a saved folder is ever run or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from llmgen.errors import ConfigError, DataError

FORMAT = 1
MANIFEST = "saved.json"

Holds = Literal["prior", "rating prior", "recommender"]


@contextmanager
def new_folder(folder: Path | str, holds: Holds, *, version: str) -> Iterator[Path]:
    """A folder to write into, which takes its place when all is written.

    Args:
        folder: Where it will stand. What is there already is replaced if llmgen saved the same kind of thing there, or
            if it is an empty folder.
        holds: What is saved.
        version: Of llmgen.

    Raises:
        ConfigError: Something else is there already, or the place cannot be written to.
    """
    target = Path(folder).absolute()
    if target.exists() and not _may_replace(target, holds):
        raise ConfigError(f"{folder} is there already, and is no {holds} that llmgen saved; give another folder")
    with whole_folder(target) as made:
        yield made
        about = {"holds": holds, "format": FORMAT, "llmgen": version, "files": _checksums(made)}
        (made / MANIFEST).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


@contextmanager
def whole_folder(folder: Path | str) -> Iterator[Path]:
    """A folder to write into, which takes its place when all is written, and is gone where that fails.

    Args:
        folder: Where it will stand; what is there at the end is replaced.

    Raises:
        ConfigError: The place cannot be written to.
    """
    target = Path(folder).absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise ConfigError(f"cannot write to {target.parent}: {error.strerror}; give another folder") from error
    try:
        made = scratch / "new"
        made.mkdir()
        yield made
        if target.exists():
            target.rename(scratch / "old")
        made.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_folder(folder: Path | str, holds: Holds) -> Path:
    """A folder that llmgen saved, every file of it as it was written.

    Returns:
        The folder.

    Raises:
        DataError: There is no such folder, it holds something else, is of another format, or a file is missing or
            changed.
    """
    path = Path(folder)
    about = _manifest(path)
    if about is None:
        what = "there is no folder" if not path.is_dir() else f"no {holds} that llmgen saved is in"
        raise DataError(f"{what} {folder}; give a folder that was saved, by llmgen fit or by save()")
    if about.get("holds") != holds:
        raise DataError(f"{folder} holds a {about.get('holds')}, and a {holds} is wanted; give another folder")
    if about.get("format") != FORMAT:
        raise DataError(
            f"{folder} was saved by llmgen {about.get('llmgen')} in the format {about.get('format')}, and this version "
            f"reads the format {FORMAT}; save it again with this version"
        )
    stored, found = about.get("files"), _checksums(path)
    if not isinstance(stored, dict):
        raise DataError(f"{folder}/{MANIFEST} is damaged: it names no files; save it again, or copy it again")
    for name, digest in stored.items():
        if name not in found:
            raise DataError(f"{folder} is not whole: the file {name} is missing; save it again, or copy it again")
        if found[name] != digest:
            raise DataError(
                f"{folder} is not as it was saved: the file {name} is damaged or was changed; save it again, or copy "
                "it again"
            )
    return path


def _manifest(folder: Path) -> dict[str, object] | None:
    """What a folder says of itself; None where it says nothing.

    Raises:
        DataError: The file is there and no JSON.
    """
    try:
        about = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST} cannot be read: {error}; save it again, or copy it again") from error
    return about if isinstance(about, dict) else None


def _may_replace(target: Path, holds: Holds) -> bool:
    if not target.is_dir():
        return False
    try:
        about = _manifest(target)
    except DataError:
        return False
    return not any(target.iterdir()) if about is None else about.get("holds") == holds


def _checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder but the manifest, by its path there."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            relative = path.relative_to(folder).as_posix()
            if relative != MANIFEST:
                with path.open("rb") as file:
                    found[relative] = hashlib.file_digest(file, "sha256").hexdigest()
    return dict(sorted(found.items()))
