"""Pictures of items: which attribute names them, and that nothing outside of the catalog's folder is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmgen.catalog.core import Catalog
from llmgen.errors import DataError
from llmgen.playground.pictures import LARGEST, OutsideError, attribute_of, read
from llmgen.types import Item

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "catalog"
    (home / "pictures").mkdir(parents=True)
    (home / "pictures" / "one.PNG").write_bytes(PNG)
    (home / "large.png").write_bytes(PNG + bytes(LARGEST))
    (home / "drawn.svg").write_text("<svg/>")
    (tmp_path / "secret.png").write_bytes(PNG)
    (tmp_path / "catalog-2").mkdir()
    (tmp_path / "catalog-2" / "near.png").write_bytes(PNG)
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    return home


def test_a_picture_is_read_with_its_type(folder: Path) -> None:
    assert read(folder, Item("1", "One", {"image": "pictures/one.PNG"}), "image") == (PNG, "image/png")


@pytest.mark.parametrize("path", ["../secret.png", "pictures/../../secret.png", "link.png", "../catalog-2/near.png"])
def test_a_path_out_of_the_folder_is_refused(folder: Path, path: str) -> None:
    for named in (path, str(folder / path)):
        with pytest.raises(OutsideError, match=r"the image of '1' lies outside"):
            read(folder, Item("1", "One", {"image": named}), "image")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing.png", "cannot be read: No such file"),
        ("drawn.svg", "is no picture"),
        ("large.png", "more than 5,000,000 bytes"),
        ("pictures", "is no picture"),
        ("a\0b.png", "has no image"),
        (7, "has no image"),
    ],
)
def test_what_is_no_picture_is_said(folder: Path, path: str | int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(folder, Item("1", "One", {"image": path}), "image")


def test_the_attribute_is_the_first_with_a_path_of_a_picture() -> None:
    assert attribute_of(Catalog([Item("1", "One", {"year": 1999, "poster": "a.jpg"})])) == "poster"
    assert attribute_of(Catalog([Item("1", "One", {"picture": "of a man", "cover": "a.WebP"})])) == "cover"
    assert attribute_of(Catalog([Item("1", "One", {"image": "https://elsewhere/a"})])) is None
    assert attribute_of(Catalog([Item("1", "One")])) is None
