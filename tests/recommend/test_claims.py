"""What texts say of items that their writer was not told."""

from __future__ import annotations

import pytest

from llmgen import Catalog, Item
from llmgen.recommend.claims import Claims

FILMS = Catalog(
    [
        Item("1", "Alien (1979)", {"genres": ("Horror", "Sci-Fi"), "studio": "Fox"}),
        Item("2", "The First Wives Club (1996)", {"genres": ("Comedy",)}),
        Item("3", "Home Alone (1990)", {"genres": ("Comedy", "Children's")}),
        Item("4", "Blade Runner (1982)", {"genres": ("Sci-Fi", "Film-Noir")}),
        Item("5", "Contact (1997)", {"genres": ("Drama",)}),
        Item("6", "七人の侍 (1954)", {"genres": ("Drama",)}),
    ],
    shown=["genres"],
)
CLAIMS = Claims(FILMS)
TOLD = """I liked these films:
- Home Alone (1990): Comedy, Children's
Why would I enjoy The First Wives Club (1996), Comedy?"""


@pytest.mark.parametrize(
    ("text", "unfounded"),
    [
        ("Because you liked Home Alone (1990), you may enjoy The First Wives Club, another comedy.", ()),
        ("Because you liked comedies of the 1990s.", ()),
        ("Because you liked comedies of the 90s.", ()),
        ("It is as dark as Blade Runner.", ("Blade Runner",)),
        ("It is a comedy and a drama.", ("drama",)),
        ("Two dramas.", ("dramas",)),
        ("A film-noir.", ("film-noir",)),
        ("It came out in 1982.", ("1982",)),
        ("A hit of the 1980s.", ("1980s",)),
        ("It won 7 prizes.", ("7",)),
        ("Directed by Hugh Wilson.", ("Hugh Wilson",)),
        ("Steven Spielberg made it.", ("Spielberg",)),
        ("Because Home Alone is fun.", ()),
        ("Starring Bette Midler, Diane Keaton and others.", ("Bette Midler", "Diane Keaton")),
        ("Like Contact it surprises.", ("Contact",)),
        ("Contact us if you like it.", ()),  # the first word of a sentence has a capital anyway
        ("like 七人の侍", ("七人の侍",)),
        ("I'm sure that you will like it. However, Home Alone is another matter.", ()),
        ("It was made by Fox.", ("Fox",)),
        ("It is a classic Disney film that people love: The best of all on TV.", ("Disney",)),
        ("Dieser Film ist ein Klassiker mit viel Witz und Herz für Kinder.", ()),  # a language of many capitals
        ("", ()),
    ],
)
def test_what_was_not_told_is_found(text: str, unfounded: tuple[str, ...]) -> None:
    assert CLAIMS.unfounded(text, TOLD) == unfounded


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("I'm glad you enjoyed The First Wives Club (1996), because it is funny.", "you enjoyed The First Wives Club"),
        ("You have already watched The First Wives Club.", "You have already watched The First Wives Club"),
        ("Because you liked the film The First Wives Club.", "you liked the film The First Wives Club"),
        ("Because you liked Home Alone, The First Wives Club is for you.", None),
        ("You will enjoy The First Wives Club.", None),
    ],
)
def test_that_the_user_took_the_item_itself_is_a_claim(text: str, claim: str | None) -> None:
    assert CLAIMS.unfounded(text, TOLD, "The First Wives Club (1996)") == (() if claim is None else (claim,))


def test_each_is_named_once_and_as_it_is_written() -> None:
    assert CLAIMS.unfounded("A DRAMA, a drama, and 1982, 1982.", TOLD) == ("DRAMA", "drama", "1982")


def test_a_long_title_is_known_by_its_beginning() -> None:
    title = " ".join(f"word{number}" for number in range(20))
    claims = Claims(Catalog([Item("1", title)]))
    assert claims.unfounded(f"As in {title}!", "")[0] == " ".join(title.split()[:12])
    assert claims.unfounded(f"As in {title}!", f"- {title}") == ()
