"""Vectors that settings name: by an encoder, a folder, a file."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from llmgen.catalog.core import Catalog
from llmgen.downloads import cache_dir
from llmgen.errors import ConfigError
from llmgen.vectors.encoders import Encoder, Float32Array, SentenceEncoder, load_encoder
from llmgen.vectors.store import ItemVectors

MOST = 4
"""Vectors that are kept in memory, the last ones asked for: several priors share them."""
BEGINNING = 16
"""Ids by which a catalog in the cache is known again, however many items have come behind them."""
FILES = (".npy", ".parquet")

_kept: OrderedDict[tuple[str, ...], ItemVectors] = OrderedDict()
_making = Lock()


def named_vectors(catalog: Catalog, encoder: str, vectors: str = "", content: str = "") -> ItemVectors:
    """The vectors of a catalog by what settings say.

    Args:
        catalog: The items.
        encoder: See `load_encoder`; empty for none, beside a file only.
        vectors: A file of your own (see `ItemVectors.read`), or a folder to keep them in; empty for one in the cache.
        content: See `item_content`; empty for llmgen's own way.

    Raises:
        ConfigError: Neither an encoder nor a file.
        DataError, EngineUnavailableError, DownloadError: See `ItemVectors` and `load_encoder`.
    """
    own = Path(vectors).suffix in FILES
    if not encoder and not own:
        raise ConfigError(
            f"vectors need an encoder, or a file ({', '.join(FILES)}) of your own; {vectors!r} is neither"
        )
    key = (catalog.digest, encoder, vectors, content)
    with _making:
        if key not in _kept:
            made = encoder_of(encoder) if encoder else None
            if own:
                _kept[key] = ItemVectors.read(catalog, vectors, made, content=content or None)
            else:
                assert made is not None  # else it is a file
                folder = Path(vectors) if vectors else _folder(catalog, encoder, content)
                _kept[key] = ItemVectors.make(catalog, made, folder, content=content or None)
        _kept.move_to_end(key)
        while len(_kept) > MOST:
            _kept.popitem(last=False)
        return _kept[key]


@lru_cache(maxsize=2)
def encoder_of(name: str, *, pictures: bool = False) -> Encoder:
    """The encoder of a name, the last ones loaded once; see `load_encoder`."""
    return load_encoder(name, pictures=pictures)


class LaterEncoder:
    """An encoder of a name, loaded when it is first asked.

    Args:
        source: See `load_encoder`.
        pictures: See `load_encoder`.
    """

    def __init__(self, source: str, pictures: bool) -> None:
        self.source, self.pictures = source, pictures

    @property
    def name(self) -> str:
        """See `Encoder`."""
        return encoder_of(self.source, pictures=self.pictures).name

    def items(self, contents: Sequence[str]) -> Float32Array:
        """See `Encoder`."""
        return encoder_of(self.source, pictures=self.pictures).items(contents)

    def queries(self, texts: Sequence[str]) -> Float32Array:
        """See `Encoder`."""
        return encoder_of(self.source, pictures=self.pictures).queries(texts)


def record_of(encoder: Encoder | None, whose: str) -> dict[str, Any] | None:
    """What finds an encoder again; None for none.

    Raises:
        ConfigError: It has no name by which it is found.
    """
    if encoder is None:
        return None
    if not isinstance(encoder, SentenceEncoder | LaterEncoder):
        raise ConfigError(
            f"{whose} cannot be saved: its encoder {encoder.name!r} has no name by which it is found "
            "again; save without it, and make it anew after loading"
        )
    return {"model": encoder.source, "pictures": encoder.pictures}


def later(record: Mapping[str, Any] | None) -> LaterEncoder | None:
    """The encoder that `record_of` tells of, loaded when it is first asked."""
    return None if record is None else LaterEncoder(record["model"], record["pictures"])


def _folder(catalog: Catalog, encoder: str, content: str) -> Path:
    known = "\0".join((encoder, content, catalog.noun, *(item.id for item in catalog[:BEGINNING])))
    return cache_dir() / "vectors" / hashlib.sha256(known.encode()).hexdigest()[:16]
