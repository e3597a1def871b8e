"""What an encoder reads of an item."""

from __future__ import annotations

from llmgen.catalog.core import Catalog
from llmgen.errors import ArgumentError
from llmgen.types import Item


class _Blank(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return ""


def item_content(catalog: Catalog, item: Item, content: str | None = None) -> str:
    """What an encoder reads of an item.

    Args:
        catalog: Says how items are written.
        item: Of any catalog.
        content: A format string over `title` and the attributes, such as `{title}, {genres}` or `{picture}`; an
            attribute that an item lacks is blank. None takes the label, and the description where there is one: genres
            and keywords made the vectors of films worse, see eval/RESULTS.md.

    Raises:
        ArgumentError: It is no format string.

    >>> films = Catalog([Item("1", "Alien", {"genres": ("Horror", "Sci-Fi")})])
    >>> item_content(films, films["1"]), item_content(films, films["1"], "{title}, {genres}{year}")
    ('Alien', 'Alien, Horror, Sci-Fi')
    """
    return content_of(item, catalog.label(item), content)


def content_of(item: Item, label: str, content: str | None) -> str:
    """See `item_content`, of an item that is written so."""
    if content is None:
        description = item.attributes.get("description")
        return label + (f". {description}" if description else "")
    written = {
        name: ", ".join(value) if isinstance(value, tuple) else str(value) for name, value in item.attributes.items()
    }
    try:
        return content.format_map(_Blank({**written, "title": item.title}))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise ArgumentError(
            f"the content {content!r} is no format string ({error}); write it like {{title}}"
        ) from error
