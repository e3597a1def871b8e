"""Data for the studies of wishes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def tagged_release(tmp_path: Path) -> Path:
    """Sixty films, forty users, eight tags."""
    rng = np.random.default_rng(0)
    films = ["movieId,title,genres", *(f"{film},Film {film % 8} number {film} (1990),War" for film in range(1, 61))]
    taken = [rng.choice(60, 12, replace=False) + 1 for _ in range(40)]
    rows = [f"{user},{film},4.0,{time}" for user, some in enumerate(taken) for time, film in enumerate(some)]
    words = ("zero", "one", "two", "three", "four", "five", "six", "Film 7")  # but for the last, in no title
    tags = [f"1,{film},{words[film % 8]},9" for film in range(1, 61)]
    path = tmp_path / "ml-small.zip"
    with zipfile.ZipFile(path, "w") as made:
        for name, lines in (
            ("movies", films),
            ("ratings", ["userId,movieId,rating,timestamp", *rows]),
            ("tags", ["userId,movieId,tag,timestamp", *tags]),
        ):
            made.writestr(f"ml-small/{name}.csv", "\n".join(lines))
    return path
