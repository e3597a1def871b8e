"""A shop of pictures: 60 drawings of a shape, a colour and a size, asked for in words and by a picture."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs llmgen[vectors]")
from PIL import Image, ImageDraw

from llmgen.catalog.core import Catalog
from llmgen.errors import DataError
from llmgen.priors import HistoryVectors, TextQueryVectors
from llmgen.recommend.recommender import Recommender
from llmgen.types import Item, Query
from llmgen.vectors import ItemVectors, SentenceEncoder
from llmgen.vectors.encoders import Float32Array

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 170, 40),
    "blue": (40, 60, 220),
    "yellow": (235, 220, 40),
    "black": (0, 0, 0),
}
SIZES = {"small": 9, "large": 24}
WORDS = (*COLOURS, *SHAPES, *SIZES)
SAME_WORDS = {
    "ball": "circle",
    "box": "square",
    "pyramid": "triangle",
    "crimson": "red",
    "tiny": "small",
    "huge": "large",
}


def draw(path: Path, shape: str, colour: str, size: str, seed: int) -> Path:
    """A drawing of 64 pixels, the shape anywhere."""
    half = SIZES[size]
    x, y = np.random.default_rng(seed).integers(half + 1, 63 - half, size=2).tolist()
    picture = Image.new("RGB", (64, 64), "white")
    pen, box = ImageDraw.Draw(picture), (x - half, y - half, x + half, y + half)
    if shape == "circle":
        pen.ellipse(box, fill=COLOURS[colour])
    elif shape == "square":
        pen.rectangle(box, fill=COLOURS[colour])
    else:
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=COLOURS[colour])
    picture.save(path)
    return path


class Drawings:
    """Sees what a drawing shows by its pixels, and knows the words for it."""

    name = "drawings"

    def items(self, contents: Sequence[str]) -> Float32Array:
        return np.stack([self._seen(path) for path in contents])

    def queries(self, texts: Sequence[str]) -> Float32Array:
        words = [[SAME_WORDS.get(word, word) for word in text.lower().split()] for text in texts]
        return np.array([[own.count(word) for word in WORDS] for own in words], np.float32)

    def key(self, content: str) -> bytes:
        return hashlib.blake2b(Path(content).read_bytes(), digest_size=16).digest()

    def _seen(self, path: str) -> Float32Array:
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float64)
        ink = (pixels < 250).any(axis=2)
        rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
        height, width = int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1
        mean = pixels[ink].mean(axis=0)
        colours = [np.exp(-np.linalg.norm(mean - np.array(one)) / 20) for one in COLOURS.values()]
        filled = ink.sum() / (height * width)  # of its box: a square 1, a circle pi / 4, a triangle 1 / 2
        shapes = [np.exp(-abs(filled - share) / 0.05) for share in (np.pi / 4, 1.0, 0.5)]
        sizes = [np.exp(-abs(height / 2 - half) / 3) for half in SIZES.values()]
        return np.array([*colours, *shapes, *sizes], np.float32)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("drawings")
    items = []
    for number, (shape, colour, size, copy) in enumerate(product(SHAPES, COLOURS, SIZES, range(2))):
        path = draw(folder / f"{number}.png", shape, colour, size, number)
        items.append(Item(f"{shape} {colour} {size} {copy}", f"Print {number}", {"picture": str(path)}))
    return Catalog(items, noun="print")


@pytest.fixture(scope="module")
def vectors(shop: Catalog, tmp_path_factory: pytest.TempPathFactory) -> ItemVectors:
    return ItemVectors.make(shop, Drawings(), tmp_path_factory.mktemp("vectors"), content="{picture}")


def test_a_wish_in_words_finds_the_picture(shop: Catalog, vectors: ItemVectors) -> None:
    assert len(shop) == 60
    prints = Recommender(shop, None, priors=[TextQueryVectors(vectors)])
    for shape, colour, size in product(SHAPES, COLOURS, SIZES):
        found = prints.recommend(Query(text=f"a {size} {colour} {shape}", k=2))
        assert {place.item.id for place in found} == {f"{shape} {colour} {size} {copy}" for copy in range(2)}
    some = prints.recommend(Query(text="crimson pyramid", k=4))
    assert {place.item.id[:12] for place in some} == {"triangle red"}
    every = prints.recommend(Query(text="something tiny", k=30))
    assert all(" small " in place.item.id for place in every)


def test_a_picture_finds_the_pictures_that_show_the_same(shop: Catalog, vectors: ItemVectors, tmp_path: Path) -> None:
    prints = Recommender(shop, None, priors=[HistoryVectors(vectors)])
    for number, (shape, colour, size) in enumerate(product(SHAPES, COLOURS, SIZES)):
        path = draw(tmp_path / f"{number}.png", shape, colour, size, 1000 + number)  # elsewhere on the paper
        found = prints.recommend(Query([Item("mine", "My photo", {"picture": str(path)})], k=2))
        assert {place.item.id for place in found} == {f"{shape} {colour} {size} {copy}" for copy in range(2)}


def test_a_new_picture_is_found_at_once_and_a_changed_one_is_read_again(tmp_path: Path) -> None:
    one = draw(tmp_path / "a.png", "circle", "red", "small", 0)
    two = draw(tmp_path / "b.png", "square", "red", "small", 1)
    shop = Catalog([Item("a", "A", {"picture": str(one)}), Item("b", "B", {"picture": str(two)})])
    vectors = ItemVectors.make(shop, Drawings(), tmp_path / "v", content="{picture}")
    prints = Recommender(shop, None, priors=[TextQueryVectors(vectors)])
    three = draw(tmp_path / "c.png", "triangle", "blue", "large", 2)
    grown = prints.with_catalog(shop.with_items([Item("c", "C", {"picture": str(three)})]))
    assert grown.recommend(Query(text="huge blue pyramid", k=1))[0].item.id == "c"
    draw(one, "triangle", "blue", "large", 3)
    again = ItemVectors.make(shop, Drawings(), tmp_path / "v", content="{picture}")
    assert (
        Recommender(shop, None, priors=[TextQueryVectors(again)]).recommend(Query(text="blue", k=1))[0].item.id == "a"
    )


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Path) -> Path:
    """Folder of a CLIP model with random weights: it has seen nothing, and is asked as a real one is."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-clip")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_encoder.parent / "bert")
    tokenizer.model_max_length = 32
    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": len(tokenizer), "max_position_embeddings": 32, "eos_token_id": 3},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(folder)
    pictures = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    CLIPProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


def test_a_clip_model_reads_pictures_and_words(tiny_clip: Path, shop: Catalog, tmp_path: Path) -> None:
    encoder = SentenceEncoder(tiny_clip, pictures=True)
    paths = [str(item.attributes["picture"]) for item in shop[:6]]
    seen = encoder.items(paths)
    assert seen.shape == (6, 16)
    np.testing.assert_allclose(encoder.items(paths[3:4]), seen[3:4], atol=1e-5)
    assert encoder.queries(["a red circle"]).shape == (1, 16)
    assert encoder.name.endswith(" of pictures")
    few = Catalog(shop[:6])
    vectors = ItemVectors.make(few, encoder, content="{picture}")
    assert vectors.nearest(vectors.contents([few[4]]), 1)[0].tolist() == [[4]]
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(DataError, match=r"cannot read the picture '.*no\.png'"):
        encoder.items([str(tmp_path / "no.png")])
    with pytest.raises(DataError, match=r"cannot read the picture 'gone\.png': No such file"):
        ItemVectors.make(Catalog([Item("x", "Lost", {"picture": "gone.png"})]), encoder, content="{picture}")


def test_of_an_item_without_a_picture_nothing_is_known(shop: Catalog, tmp_path: Path) -> None:
    some = shop.with_items([Item("x", "No picture")])
    for vectors in (
        ItemVectors.make(some, Drawings(), tmp_path, content="{picture}"),
        ItemVectors.make(some, Drawings(), tmp_path, content="{picture}"),
        ItemVectors.make(shop, Drawings(), content="{picture}").on_catalog(some, some.positions_before(shop)),
    ):
        (said,) = TextQueryVectors(vectors, neighbours=5).log_weights([Query(text="red circle")])
        assert said[-1] == 0
        assert said[:-1].min() == np.log(0.1) < 0 < said.max()
