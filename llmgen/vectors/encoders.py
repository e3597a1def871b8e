"""Encoders: models that make a vector of an item's content, and of the words that people ask with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from llmgen.errors import DataError, EngineUnavailableError
from llmgen.models import demo_encoder

Float32Array = NDArray[np.float32]
DEMO = "minilm"
"""Stands for all-MiniLM-L6-v2, which can be had without an account."""


class Encoder(Protocol):
    """Makes vectors of contents and of wishes, in one space: what means the same points the same way.

    Attributes:
        name: What it is, for people.
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    def items(self, contents: Sequence[str]) -> Float32Array:
        """Vectors of items.

        Args:
            contents: What is read of each item, at least one: a text, or the path of a picture.

        Returns:
            float32 [len(contents), n_dimensions], of any length but 0, finite.
        """
        ...

    def queries(self, texts: Sequence[str]) -> Float32Array:
        """Vectors of what people ask for, the same way; at least one text."""
        ...


@runtime_checkable
class Keyed(Protocol):
    """An encoder whose contents are names of something that can change, such as files."""

    def key(self, content: str) -> bytes:
        """16 bytes that change when what is behind the content does."""
        ...


class SentenceEncoder:
    """A model of sentence-transformers: any of the hub, or a folder. Also of a plain transformer (mean of its tokens).

    Args:
        model: Name on the hub, a folder, or `minilm`, see `load_encoder`.
        pictures: Whether contents of items are paths of pictures. It needs a model that reads pictures and texts, such
            as `clip-ViT-B-32`, and Pillow.
        batch_size: Contents that go through the model together.
        device: `cpu`, `cuda`, ...; a GPU where there is one by default.

    Raises:
        EngineUnavailableError: sentence-transformers is not installed, the model cannot be loaded, or it reads no
            pictures and is to.
        DownloadError: See `load_encoder`.
    """

    def __init__(
        self, model: str | Path, *, pictures: bool = False, batch_size: int = 32, device: str | None = None
    ) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EngineUnavailableError(
                f"an encoder needs sentence-transformers ({error}); pip install 'llmgen[vectors]'"
            ) from error
        self.source = str(model)
        folder = demo_encoder() if self.source == DEMO else Path(model)
        found = str(folder) if folder.is_dir() else self.source
        try:
            self._model: Any = SentenceTransformer(found, device=device, local_files_only=folder.is_dir())
        except Exception as error:  # a damaged file: whatever transformers, tokenizers and safetensors raise
            raise EngineUnavailableError(
                f"cannot load the encoder {self.source!r}: {error}\nName a folder with a model of sentence-"
                "transformers, or a model of the hub where that can be reached."
            ) from error
        if pictures and "image" not in self._model.modalities:
            raise EngineUnavailableError(
                f"the encoder {self.source!r} reads {', '.join(map(str, self._model.modalities))} and no pictures; "
                "take one such as clip-ViT-B-32"
            )
        self.name = f"{folder.name if folder.is_dir() else self.source}{' of pictures' if pictures else ''}"
        self.pictures = pictures
        self._batch_size = batch_size

    def items(self, contents: Sequence[str]) -> Float32Array:
        """See `Encoder`.

        Raises:
            DataError: A picture cannot be read.
        """
        inputs: list[Any] = [_picture(path) for path in contents] if self.pictures else list(contents)
        found = self._model.encode_document(inputs, batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    def queries(self, texts: Sequence[str]) -> Float32Array:
        """See `Encoder`."""
        found = self._model.encode_query(list(texts), batch_size=self._batch_size, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    def key(self, content: str) -> bytes:
        """See `Keyed`: of a picture, what is in its file."""
        try:
            data = Path(content).read_bytes() if self.pictures else content.encode()
        except OSError as error:
            raise DataError(f"cannot read the picture {content!r}: {error.strerror}") from error
        return hashlib.blake2b(data, digest_size=16).digest()


class Embedding(Protocol):
    """An engine that can say what its model makes of a text; `HFEngine` can."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def embed(self, texts: Sequence[str]) -> Float32Array:
        """float32 [len(texts), n_dimensions], the mean of the last hidden states of each text's tokens."""
        ...


class EngineEncoder:
    """The recommender's own language model as an encoder, so that no further model is needed.

    Means of hidden states were not trained to be compared: expect less of them than of a model of sentences.

    Args:
        engine: One that has `embed`, such as `load_engine("hf")`.
    """

    def __init__(self, engine: Embedding) -> None:
        self._engine = engine
        self.name = f"hidden states of {engine.name}"

    def items(self, contents: Sequence[str]) -> Float32Array:
        """See `Encoder`."""
        return self._engine.embed(contents)

    def queries(self, texts: Sequence[str]) -> Float32Array:
        """See `Encoder`."""
        return self._engine.embed(texts)


def load_encoder(name: str = DEMO, *, pictures: bool = False) -> Encoder:
    """The encoder that a name stands for.

    Args:
        name: `minilm` is all-MiniLM-L6-v2, fetched once (84 MB); anything else a model of sentence-transformers, by its
            name on the hub or its folder.
        pictures: See `SentenceEncoder`.

    Raises:
        EngineUnavailableError, DownloadError: It cannot be had here.
    """
    return SentenceEncoder(name, pictures=pictures)


def _picture(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"cannot read the picture {path!r}: {error}; take the item out or give it another") from error
