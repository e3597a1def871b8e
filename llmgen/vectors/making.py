"""How vectors are made: each content once, those that are known not again, a part after the other."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence

import numpy as np

from llmgen.errors import DataError
from llmgen.progress import Stage
from llmgen.vectors.encoders import Encoder, Float32Array, Keyed
from llmgen.vectors.files import KeyArray, Making, Stored

logger = logging.getLogger(__name__)

CHUNK = 512
"""Contents that are encoded between two notes of how far it is."""
BLOCK = 65_536
"""Vectors that are brought to length 1 at once."""
PROBE = "a small probe, by which an encoder is known again"
SAME = 1e-3
"""Most that a number of the probe's vector may differ by: other machines round otherwise, other models differ more."""


def keys_of(encoder: Encoder, contents: Sequence[str]) -> KeyArray:
    """uint64 [len(contents), 2], what tells contents apart; 0 of a blank one."""
    key = encoder.key if isinstance(encoder, Keyed) else _hash
    keys = (key(content) if content.strip() else bytes(16) for content in contents)
    return np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2)


def _hash(content: str) -> bytes:
    return hashlib.blake2b(content.encode(), digest_size=16).digest()


def same(stored: Stored | None, encoder: Encoder, probe: Float32Array, content: str | None) -> Stored | None:
    """What is stored, where it was made by this encoder of contents written this way."""
    if stored is None:
        return None
    same = len(stored.probe) == len(probe) and float(np.abs(stored.probe - probe).max()) <= SAME
    if same and stored.content == content:
        return stored
    logger.warning(
        "the vectors were made by %s of %s; they are made anew by %s of %s",
        stored.encoder,
        stored.content or "labels",
        encoder.name,
        content or "labels",
    )
    return None


def fill(
    vectors: Float32Array,
    contents: Sequence[str],
    keys: KeyArray,
    encoder: Encoder,
    known: Stored | None,
    progress: bool,
    making: Making | None = None,
) -> None:
    """Write the vector of each content: a known one, one of an equal content before it, or one made now."""
    flat = [bytes(key) for key in keys]
    stored = {} if known is None else {bytes(key): row for row, key in enumerate(np.asarray(known.contents))}
    first: dict[bytes, int] = {}
    for place, key in enumerate(flat):
        first.setdefault(key, place)
    old = [place for place, key in enumerate(flat) if key in stored]
    if known is not None and old:
        vectors[old] = known.vectors[[stored[flat[place]] for place in old]]
    wanted = [place for key, place in first.items() if key not in stored]
    wanted.sort(key=lambda place: (len(contents[place]), place))  # so that texts of one length go together
    done = 0 if making is None else making.done
    with Stage(f"Encoding with {encoder.name}", len(wanted), shown=progress and len(wanted) > CHUNK) as stage:
        stage.advance(done)
        for start in range(done, len(wanted), CHUNK):
            some = wanted[start : start + CHUNK]
            vectors[some] = read_items(encoder, [contents[place] for place in some], vectors.shape[1])
            stage.advance(len(some))
            if making is not None:
                making.tell(start + len(some))
    for place, key in enumerate(flat):
        if first[key] != place and key not in stored:
            vectors[place] = vectors[first[key]]


def read_items(encoder: Encoder, contents: Sequence[str], dimensions: int) -> Float32Array:
    """What an encoder makes of contents, at length 1; 0 of blank ones, of which nothing is known."""
    made = np.zeros((len(contents), dimensions), np.float32)
    some = [place for place, content in enumerate(contents) if content.strip()]
    if some:
        made[some] = encoded(encoder.items, [contents[place] for place in some], encoder.name)
    return made


def encoded(read: Callable[[Sequence[str]], Float32Array], contents: Sequence[str], name: str) -> Float32Array:
    """What an encoder makes of contents, at length 1.

    Args:
        read: `items` or `queries` of the encoder.
        contents: At least one.
        name: Of the encoder.

    Raises:
        DataError: Another number of vectors, or one with NaN or infinity.
    """
    found = np.asarray(read(contents), np.float32)
    if found.ndim != 2 or len(found) != len(contents):
        raise DataError(f"the encoder {name} gave an array {found.shape} for {len(contents)} contents")
    return unit(found, f"the encoder {name}")


def unit(vectors: Float32Array, whose: str) -> Float32Array:
    """The vectors at length 1; those of length 0 as they are."""
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise DataError(f"{whose} has NaN or infinity in row {row}; vectors are finite, and 0 where nothing is known")
    made = np.zeros(vectors.shape, np.float32)
    for start in range(0, len(vectors), BLOCK):  # so that a million are not copied in float64 at once
        block = vectors[start : start + BLOCK]
        largest = np.abs(block).max(axis=1, keepdims=True)
        scaled = np.divide(block, largest, out=np.zeros_like(block), where=largest > 0)  # so that no square overflows
        length = np.sqrt((scaled.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        made[start : start + BLOCK] = np.divide(scaled, length, out=np.zeros(scaled.shape), where=length > 0)
    return made
