"""Pictures of items: files in the catalog's folder, named by an attribute of the item."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType

from llmgen.catalog.core import Catalog
from llmgen.errors import DataError
from llmgen.types import Item

ATTRIBUTES = ("picture", "image", "poster", "cover")
"""Names of the attribute, the first that some item has with a picture's path."""
TYPES: Mapping[str, str] = MappingProxyType(
    {
        ".png": "image/png",
        ".jpg": "image/jpeg",
        ".jpeg": "image/jpeg",
        ".webp": "image/webp",
        ".gif": "image/gif",
        ".avif": "image/avif",
    }
)
"""Suffix -> type; an SVG may hold scripts, and is none of them."""
LARGEST = 5_000_000
LOOKED_AT = 1_000


class OutsideError(DataError):
    """A picture's path leads out of the catalog's folder."""


def attribute_of(catalog: Catalog) -> str | None:
    """The attribute that names pictures, judged by the first items; None where there is none."""
    for name in ATTRIBUTES:
        values = (item.attributes.get(name) for item in islice(catalog, LOOKED_AT))
        if any(isinstance(value, str) and Path(value).suffix.lower() in TYPES for value in values):
            return name
    return None


def read(folder: Path, item: Item, attribute: str) -> tuple[bytes, str]:
    """A picture and its type.

    Args:
        folder: Of the catalog; paths are relative to it.
        item: Whose it is.
        attribute: That names it.

    Raises:
        OutsideError: The path leads out of the folder, links followed.
        DataError: The item names none, or it is not there, of no known type, or above 5 MB.
    """
    named = item.attributes.get(attribute)
    if not isinstance(named, str) or "\0" in named:
        raise DataError(f"the item {item.id!r} has no {attribute}")
    home = folder.resolve()
    path = (home / named).resolve()
    if not path.is_relative_to(home):
        raise OutsideError(f"the {attribute} of {item.id!r} lies outside of the catalog's folder and is not shown")
    kind = TYPES.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"the {attribute} of {item.id!r} is no picture; known are {', '.join(TYPES)}")
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"the {attribute} of {item.id!r} has more than {LARGEST:,} bytes; make it smaller")
        return path.read_bytes(), kind
    except OSError as error:
        raise DataError(f"the {attribute} of {item.id!r} cannot be read: {error.strerror}") from None
