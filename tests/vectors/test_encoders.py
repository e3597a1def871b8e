"""Encoders: a model of sentence-transformers, and the recommender's own language model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmgen.catalog.core import Catalog
from llmgen.downloads import sha256_of
from llmgen.errors import ConfigError, EngineUnavailableError
from llmgen.models import demo_encoder
from llmgen.types import Item
from llmgen.vectors import EngineEncoder, ItemVectors, SentenceEncoder, load_encoder
from llmgen.vectors.named import named_vectors


def test_a_model_in_a_folder(tiny_encoder: Path) -> None:
    encoder = load_encoder(str(tiny_encoder))
    texts = ["a red car", "a much longer text about a blue city", "a red car"]
    alone = np.concatenate([encoder.items([text]) for text in texts])
    assert alone.shape == (3, 32)
    assert alone.dtype == np.float32
    np.testing.assert_allclose(encoder.items(texts), alone, atol=1e-5)  # whatever else is in the batch
    np.testing.assert_allclose(encoder.queries(texts), alone, atol=1e-5)
    assert encoder.name == tiny_encoder.name
    assert not np.allclose(alone[0], alone[1])


def test_what_cannot_be_loaded_is_told(tmp_path: Path, tiny_encoder: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(EngineUnavailableError, match="Name a folder with a model of sentence-transformers"):
        SentenceEncoder(tmp_path)
    with pytest.raises(EngineUnavailableError, match="reads text and no pictures; take one such as clip-ViT-B-32"):
        SentenceEncoder(tiny_encoder, pictures=True)


def test_vectors_that_settings_name(tmp_path: Path, tiny_encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMGEN_CACHE", str(tmp_path))
    shop = Catalog([Item("1", "Red"), Item("2", "Blue")])
    made = named_vectors(shop, str(tiny_encoder))
    assert named_vectors(shop, str(tiny_encoder)) is made  # for every prior that names the same
    assert len(list((tmp_path / "vectors").iterdir())) == 1
    grown = shop.with_items([Item("3", "Green")])
    assert named_vectors(grown, str(tiny_encoder)).base.shape == (3, 32)
    kept = named_vectors(shop, str(tiny_encoder), str(tmp_path / "mine"), "{title}!")
    assert (tmp_path / "mine" / "vectors.json").exists()
    assert not np.allclose(kept.base, made.base)
    np.save(tmp_path / "own.npy", np.eye(2))
    own = named_vectors(shop, "", str(tmp_path / "own.npy"))
    assert own.encoder is None
    assert own.base.tolist() == np.eye(2).tolist()
    with pytest.raises(ConfigError, match="vectors need an encoder, or a file"):
        named_vectors(shop, "", str(tmp_path / "mine"))


def test_the_language_model_as_an_encoder(tiny_model: Path) -> None:
    torch = pytest.importorskip("torch", reason="needs llmgen[hf]")
    from transformers import AutoModelForCausalLM

    from llmgen.engines.hf import HFEngine

    engine = HFEngine.load(str(tiny_model))
    texts = ["Alien", "The Return of the Blue River (1975)", "M"]
    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        by_hand = [
            plain(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0].mean(dim=0).numpy()
            for ids in engine.spell(texts)
        ]
    encoder = EngineEncoder(engine)
    np.testing.assert_allclose(encoder.items(texts), np.stack(by_hand), atol=1e-4)
    assert encoder.name == f"hidden states of {engine.name}"
    shop = Catalog([Item(str(n), title) for n, title in enumerate(texts)])
    vectors = ItemVectors.make(shop, encoder)
    assert vectors.nearest(vectors.words(["M"]), 1)[0].tolist() == [[2]]


@pytest.mark.slow
def test_the_demo_encoder_knows_what_words_mean() -> None:
    folder = demo_encoder()
    assert "license: apache-2.0" in (folder / "README.md").read_text(encoding="utf-8")
    assert len(sha256_of(folder / "model.safetensors")) == 64
    shop = Catalog([Item("1", "Puppies for beginners"), Item("2", "Tax law"), Item("3", "Sailing around the world")])
    vectors = ItemVectors.make(shop, load_encoder("minilm"))
    for words, item in (("young dogs", 0), ("how much do I owe the state", 1), ("a boat trip", 2)):
        rows, _ = vectors.nearest(vectors.words([words]), 1)
        assert rows.tolist() == [[item]]
