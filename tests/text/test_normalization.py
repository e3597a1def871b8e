from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgen.text.corruption import KINDS, Kind, corrupt
from llmgen.text.normalization import TitleYear, clean_line, normalise_text, split_key, split_year, tokens


@pytest.mark.parametrize(
    "spellings",
    [
        ("The Matrix", "Matrix, The", "Matrix", "the  MATRIX", "  matrix. ", "THE MATRIX!"),
        ("A Bug's Life", "Bug's Life, A", "bugs life", "Bug’s Life"),
        ("Les Misérables", "Misérables, Les", "LES MISERABLES", "Les Mise\u0301rables"),
        ("L'Avventura", "Avventura, L'", "l’avventura"),
        ("Blue Angel, The (Blaue Engel, Der)", "The Blue Angel (Der blaue Engel)"),
        ("Tom & Jerry", "Tom and Jerry", "Tom &amp; Jerry"),
        ("E.T. the Extra-Terrestrial", "ET the Extra Terrestrial"),
        ("M*A*S*H", "MASH", "M.A.S.H."),
        ("8½", "8 1/2"),
        ("Alien³", "Alien 3"),
        ("20,000 Leagues Under the Sea", "20000 leagues under the sea"),
        ("Straße", "STRASSE"),
        ("Łódź", "Lodz"),
        ("İstanbul", "istanbul"),
        ("ﬁlm", "film"),
        ("Ｆｕｌｌｗｉｄｔｈ", "fullwidth"),
        ("Ёлки", "Елки"),
        ("Αλέξανδρος", "ΑΛΕΞΑΝΔΡΟΣ"),
        ("Rock 'n' Roll", "Rock n Roll"),
        ("Zero\u200bWidth", "zerowidth"),
        ("Good, the Bad and the Ugly, The", "The Good, the Bad and the Ugly"),
    ],
)
def test_spellings_of_one_title_share_a_key(spellings: tuple[str, ...]) -> None:
    assert len({normalise_text(spelling) for spelling in spellings}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Alien", "Aliens"),
        ("Die Hard", "Hard"),  # "Die" is an article in German, and a word here
        ("La Bamba", "Bamba"),
        ("Toy Story", "Toy Story 2"),
        ("C++ Primer", "C Primer"),
        ("C#", "C"),
        ("Mad Max", "Mad Max 😀"),
        ("किताब", "कताब"),  # a vowel sign is a letter
        ("й", "и"),
        ("가", "각"),
        ("ガ", "カ"),
    ],
)
def test_different_titles_keep_different_keys(one: str, other: str) -> None:
    assert normalise_text(one) != normalise_text(other)


@pytest.mark.parametrize("title", ["七人の侍", "сталкер", "हिन्दी फ़िल्म", "한국 영화", "แฟนฉัน", "😀", "فيلم"])
def test_other_scripts_survive(title: str) -> None:
    assert normalise_text(title) == normalise_text(normalise_text(title)) != ""
    assert normalise_text(title).replace("\ufe0f", "")[0] == title[0] or title.startswith("हि")


@pytest.mark.parametrize("title", ["The", "A", "!!!", "M", "...", "???", "&", "$", "—", "An", "The The", "™"])
def test_a_title_of_punctuation_or_articles_still_has_a_key(title: str) -> None:
    assert normalise_text(title)
    assert tokens(title)


def test_no_key_for_nothing() -> None:
    assert normalise_text("") == normalise_text(" \t\n") == ""
    assert tokens("") == []


@given(st.text())
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise_text(normalise_text(text)) == normalise_text(text)


@given(st.text())
def test_a_key_has_single_spaces_inside_and_none_around(text: str) -> None:
    key = normalise_text(text)
    assert key == " ".join(key.split())
    assert bool(key) or not text.strip() or not any(character.isalnum() for character in text)


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_case_never_matters(text: str) -> None:
    assert normalise_text(text.upper()) == normalise_text(text.lower())


@given(st.text(), st.text())
def test_tokens_are_not_empty_and_have_no_space(one: str, other: str) -> None:
    for word in tokens(f"{one} {other}"):
        assert word
        assert not re.search(r"\s", word)


def test_chinese_becomes_pairs_of_characters() -> None:
    assert tokens("黑客帝国 2") == ["黑客", "客帝", "帝国", "2"]
    assert tokens("霸") == ["霸"]
    assert tokens("iPhone手机壳") == ["iphone", "手机", "机壳"]
    assert split_key("one two") == ["one", "two"]


def test_a_huge_text_takes_linear_time() -> None:
    for piece in ("a, ", "(", "a.", "A, the ", "& ", "é", "' "):
        normalise_text(piece * 30_000)
        clean_line(piece * 3_000)
        split_year(piece * 3_000)


@pytest.mark.parametrize("text", ["Alien (1979)", "Alien [1979]", "Alien, 1979", "Alien 1979", "Alien - 1979 "])
def test_year_formats(text: str) -> None:
    assert split_year(text) == TitleYear("Alien", 1979)


@pytest.mark.parametrize("text", ["1984", "(1999)", "Apollo 13", "2001: A Space Odyssey", "Ocean's 1234567", ""])
def test_no_year_where_none_follows_a_title(text: str) -> None:
    assert split_year(text) == TitleYear(text, None)


def test_a_bare_number_is_left_alone_if_asked() -> None:
    assert split_year("Death Race 2000").year == 2000
    assert split_year("Death Race 2000", bare=False) == TitleYear("Death Race 2000", None)
    assert split_year("Death Race 2000 (1975)") == TitleYear("Death Race 2000", 1975)


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("1. Alien", "Alien"),
        ("12) Alien", "Alien"),
        ("#3. Alien", "Alien"),
        ("- Alien", "Alien"),
        ("* **Alien**", "Alien"),
        ("• Alien", "Alien"),
        ('"Alien",', "Alien"),
        ("`Alien`", "Alien"),
        ("“Alien” (1979)", "Alien (1979)"),
        ('1. **"Alien" (1979)** - A crew wakes up.', "Alien (1979)"),
        ("**Alien** – a thriller about a ship", "Alien"),
        ("Alien: a film about a ship that wakes up", "Alien"),
        ("Alien (1979), which is great", "Alien (1979)"),
        ("《活着》", "活着"),
        ("12 Angry Men", "12 Angry Men"),
        ("1. 12 Monkeys (1995)", "12 Monkeys (1995)"),
        ("9 to 5", "9 to 5"),
        ("(500) Days of Summer", "(500) Days of Summer"),
        ("*batteries not included", "*batteries not included"),
        ("'night Mother", "'night Mother"),
        ("Mission: Impossible - Fallout", "Mission: Impossible - Fallout"),
        ("Star Trek: the Motion Picture", "Star Trek: the Motion Picture"),
        ("...And Justice for All", "...And Justice for All"),
        ("1.", "1."),
        ("-", "-"),
        ('"', '"'),
        ("", ""),
    ],
)
def test_clean_line(line: str, title: str) -> None:
    assert clean_line(line) == title


@given(st.text(max_size=80))
def test_cleaning_never_adds(text: str) -> None:
    assert len(clean_line(text)) <= len(text)


@pytest.mark.parametrize("kind", ["article", "case", "accent"])
@given(seed=st.integers(0, 10_000))
def test_the_key_survives_damage_to_article_case_and_accents(kind: Kind, seed: int) -> None:
    for title in ("The Matrix (1999)", "Les Misérables", "Toy Story 2 (1999)"):
        damaged = split_year(corrupt(title, kind, random.Random(seed))).title
        assert normalise_text(damaged) == normalise_text(split_year(title).title)


@pytest.mark.parametrize("kind", KINDS)
@given(title=st.text(), seed=st.integers(0, 100))
def test_any_title_can_be_damaged_and_the_seed_decides_how(kind: Kind, title: str, seed: int) -> None:
    assert corrupt(title, kind, random.Random(seed)) == corrupt(title, kind, random.Random(seed))


def test_year_damage_stays_within_one_year() -> None:
    found = {corrupt("Alien (1979)", "year", random.Random(seed)) for seed in range(200)}
    assert found == {"Alien", "Alien 1979", "Alien, 1979", "Alien [1979]", "Alien (1978)", "Alien (1980)"}
    assert corrupt("Alien", "year", random.Random(0)) == "Alien"


def test_truncation_is_a_beginning() -> None:
    for seed in range(50):
        assert "The Usual Suspects".startswith(corrupt("The Usual Suspects (1995)", "truncated", random.Random(seed)))


def test_unknown_damage_is_refused() -> None:
    with pytest.raises(ValueError, match="no damage is called 'rust'"):
        corrupt("Alien", "rust", random.Random(0))  # type: ignore[arg-type]
