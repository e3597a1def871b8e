from __future__ import annotations

import random
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.grounding import ARMS, absent_texts, damaged_texts, difference, make, measure
from llmgen.catalog.core import Catalog
from llmgen.grounding import Grounder, choose_threshold
from llmgen.text.corruption import KINDS, corrupt
from llmgen.text.title_names import MAX_LINES, names_of
from llmgen.types import Item

TITLES: list[tuple[str, int | None]] = [
    ("Alien", 1979),
    ("Aliens", 1986),
    ("Alien 3", 1992),
    ("The Terminator", 1984),
    ("Terminator 2: Judgment Day", 1991),
    ("The Matrix", 1999),
    ("Sabrina", 1954),
    ("Sabrina", 1995),
    ("Seven (Se7en)", 1995),
    ("Nikita (La Femme Nikita)", 1990),
    ("Star Wars", 1977),
    ("Rocky II", 1979),
    ("Die Hard", 1988),
    ("七人の侍", 1954),
    ("Сталкер", 1979),
    ("😀", 2017),
    ("!!!", None),
    ("The", None),
    ("M", 1931),
    ("Death Race 2000", 1975),
    ("Shirt (red)", None),
    ("Shirt (blue)", None),
    ("Les Misérables", 1995),
    ("Tom &amp; Jerry", 1992),
    ("Mission: Impossible", 1996),
    ("A Streetcar Named Desire", 1951),
]


def shelf(titles: list[tuple[str, int | None]]) -> Catalog:
    items = [Item(str(i), title, {} if year is None else {"year": year}) for i, (title, year) in enumerate(titles)]
    return Catalog(items, label="{title} ({year})")


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return Grounder(shelf(TITLES), threshold=0.7)


@pytest.fixture(scope="module")
def many() -> Catalog:
    """300 titles of two or three made-up words."""
    rng = random.Random(0)
    words = ["".join(rng.choice("bdfgklmnprst") + rng.choice("aeiou") for _ in range(3)) for _ in range(150)]
    titles = dict.fromkeys(" ".join(rng.sample(words, rng.randint(2, 3))).title() for _ in range(300))
    return shelf([(title, 1950 + number % 60) for number, title in enumerate(titles)])


@pytest.mark.parametrize(
    ("text", "title", "year", "method"),
    [
        ("Alien (1979)", "Alien", 1979, "exact"),
        ("Alien", "Alien", 1979, "exact"),
        ("  Aliens ", "Aliens", 1986, "exact"),
        ("1. Alien 3 (1992)", "Alien 3", 1992, "exact"),
        ("Matrix, The", "The Matrix", 1999, "normalised"),
        ("- **matrix** (1999) - a hacker wakes up", "The Matrix", 1999, "normalised"),
        ("the matrix, 1999", "The Matrix", 1999, "normalised"),
        ("Sabrina", "Sabrina", 1954, "exact"),  # the first in the catalog
        ("Sabrina (1995)", "Sabrina", 1995, "exact"),
        ("Sabrina 1995", "Sabrina", 1995, "normalised"),
        ("Sabrina (1996)", "Sabrina", 1995, "normalised"),  # one off
        ("Seven", "Seven (Se7en)", 1995, "normalised"),
        ("se7en (1995)", "Seven (Se7en)", 1995, "normalised"),
        ("La Femme Nikita", "Nikita (La Femme Nikita)", 1990, "normalised"),
        ("七人の侍", "七人の侍", 1954, "exact"),
        ("«七人の侍» (1954)", "七人の侍", 1954, "exact"),
        ("СТАЛКЕР", "Сталкер", 1979, "normalised"),
        ("😀", "😀", 2017, "exact"),
        ("!!!", "!!!", None, "exact"),
        ("!!! (2001)", "!!!", None, "normalised"),  # without a year of its own any year will do
        ("the", "The", None, "normalised"),
        ("M", "M", 1931, "exact"),
        ("death race 2000", "Death Race 2000", 1975, "normalised"),
        ("death race 2000 (1975)", "Death Race 2000", 1975, "normalised"),
        ("Les Miserables", "Les Misérables", 1995, "normalised"),
        ("Tom and Jerry", "Tom & Jerry", 1992, "normalised"),
        ("The Termnator", "The Terminator", 1984, "bm25"),
        ("Terminator 2: Jugdment Day (1991)", "Terminator 2: Judgment Day", 1991, "bm25"),
        ("A Streetcar Nmaed Desire", "A Streetcar Named Desire", 1951, "bm25"),
        ("Desire Named Streetcar", "A Streetcar Named Desire", 1951, "bm25"),
    ],
)
def test_found(grounder: Grounder, text: str, title: str, year: int | None, method: str) -> None:
    match = grounder.ground(text)
    assert match.item is not None
    assert (match.item.title, match.item.attributes.get("year"), match.grounding.method) == (title, year, method)
    assert match.grounding.text == text.strip()
    assert match.grounding.score == 1.0 if method != "bm25" else 0.7 <= match.grounding.score <= 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "Star Trek",
        "Sabrina (1970)",  # a remake that the catalog lacks
        "Alien 4",
        "Aliens 2",
        "Rocky III",
        "Rocky",
        "Die Hard 2",
        "The Matrix (1959)",
        "Matrics, Thee (1959)",
        "Shirt",  # red or blue
        "Here are ten films for you:",
        "?",
        "🎬",
        "八人の侍大将",
    ],
)
def test_not_found(grounder: Grounder, text: str) -> None:
    match = grounder.ground(text)
    assert match.item is None
    assert (match.grounding.method, match.grounding.score, match.grounding.text) == ("none", 0.0, text.strip())


def test_every_label_and_title_finds_its_own_title(grounder: Grounder) -> None:
    for item, label in zip(grounder.catalog, grounder.catalog.labels, strict=True):
        assert grounder.ground(label).item == item
        found = grounder.ground(item.title).item
        assert found is not None
        assert found.title == item.title


def test_allowed_takes_another_item_of_the_same_title_or_none(grounder: Grounder) -> None:
    allowed = np.ones(len(TITLES), dtype=bool)
    allowed[TITLES.index(("Sabrina", 1954))] = False
    match = grounder.ground("Sabrina", allowed=allowed)
    assert match.item is not None
    assert match.item.attributes["year"] == 1995
    assert grounder.ground("Sabrina (1954)", allowed=allowed).item is None
    allowed[TITLES.index(("Alien", 1979))] = False
    assert grounder.ground("Alien", allowed=allowed).item is None  # not Aliens


def test_allowed_of_another_length_is_refused(grounder: Grounder) -> None:
    with pytest.raises(ValueError, match=r"shape \(26,\)"):
        grounder.ground("Alien", allowed=np.ones(3, dtype=bool))


def test_lines_keep_their_order_and_repeats(grounder: Grounder) -> None:
    answer = "```\n1. Alien (1979)\n\n2. Nonsense Nobody Filmed\n---\n3. alien\n4. Star Wars\n```"
    matches = grounder.ground_lines(answer)
    assert [match.item and match.item.title for match in matches] == ["Alien", None, "Alien", "Star Wars"]
    assert grounder.ground_lines("") == grounder.ground_lines(" \n\n") == []


def test_a_json_list_is_lines(grounder: Grounder) -> None:
    matches = grounder.ground_lines('```json\n["Alien", "Seven",\n "Star Wars"]\n```')
    assert [match.item and match.item.title for match in matches] == ["Alien", "Seven (Se7en)", "Star Wars"]
    assert len(grounder.ground_lines("Alien [1979]\nHeat [1995]")) == 2


def test_huge_answers_are_cut(grounder: Grounder) -> None:
    match = grounder.ground("Alien " * 100_000)
    assert match.grounding.text is not None
    assert len(match.grounding.text) <= 500
    assert len(grounder.ground_lines("x\n" * (MAX_LINES + 5))) == MAX_LINES
    grounder.ground_lines("[" * 10_000 + "]" * 10_000)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_gets_an_answer(text: str) -> None:
    match = SHARED.ground(text)
    assert (match.item is None) == (match.grounding.method == "none")
    assert 0 <= match.grounding.score <= 1
    SHARED.ground_lines(text)


SHARED = Grounder(shelf(TITLES), threshold=0.0)


def test_a_small_catalog_has_the_documented_threshold() -> None:
    small = Grounder(shelf(TITLES[:5]))
    assert small.calibration is None
    assert small.threshold == 0.7


def test_a_given_threshold_is_not_calibrated() -> None:
    given_threshold = Grounder(shelf(TITLES), threshold=0.9)
    assert given_threshold.threshold == 0.9
    assert given_threshold.calibration is None


def test_calibration_reaches_its_precision_and_is_the_same_each_time(many: Catalog) -> None:
    one, other = Grounder(many, seed=3).calibration, Grounder(many, seed=3).calibration
    assert one is not None
    assert one == other
    assert one.precision >= 0.98
    assert one.precision == one.num_right / (one.num_right + one.num_wrong + one.num_false)
    assert one.recall == one.num_right / one.num_present
    assert one.recall > 0.3  # the titles share 150 words among them: hard on purpose
    assert one.num_titles == len(many)
    assert 0 < one.num_present <= one.num_absent <= 2 * one.num_titles


def test_more_precision_costs_threshold(many: Catalog) -> None:
    strict, lenient = Grounder(many, precision=1.0), Grounder(many, precision=0.8)
    assert strict.threshold >= lenient.threshold
    assert strict.calibration is not None
    assert strict.calibration.precision == 1.0


def test_damage_that_keeps_the_key_is_always_found(many: Catalog) -> None:
    grounder, rng = Grounder(many, threshold=0.7), random.Random(1)
    for item, label in zip(many, many.labels, strict=True):
        for kind in ("article", "case", "accent"):
            found = grounder.ground(corrupt(label, kind, rng))  # type: ignore[arg-type]
            assert found.item == item
            assert found.grounding.method in ("exact", "normalised")


@pytest.mark.parametrize(
    ("scored", "precision", "threshold"),
    [
        ([], 0.9, inf),
        ([(0.5, False)], 0.5, inf),
        ([(0.9, True), (0.5, False)], 1.0, 0.9),
        ([(0.9, True), (0.5, False)], 0.5, 0.5),
        ([(0.5, True), (0.5, False)], 1.0, inf),  # equal scores cannot be told apart
        ([(0.9, False), (0.8, True), (0.7, True), (0.6, True)], 0.75, 0.6),
    ],
)
def test_choose_threshold(scored: list[tuple[float, bool]], precision: float, threshold: float) -> None:
    assert choose_threshold(scored, precision) == threshold


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4]), st.booleans()), max_size=15))
def test_choose_threshold_equals_trying_every_score(scored: list[tuple[float, bool]]) -> None:
    def reaches(threshold: float) -> bool:
        kept = [right for score, right in scored if score >= threshold]
        return sum(kept) >= 0.6 * len(kept)

    wanted = min((score for score, _ in scored if reaches(score)), default=inf)
    assert choose_threshold(scored, 0.6) == wanted


def test_names_in_parentheses() -> None:
    assert names_of(Item("1", "Seven (a.k.a. Se7en) (1995)")).others == ("seven", "se7en")
    assert names_of(Item("1", "Heat")).others == ()


@pytest.mark.parametrize("arguments", [{"threshold": -0.1}, {"threshold": float("nan")}, {"precision": 0.0}])
def test_wrong_arguments_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Grounder(shelf(TITLES), **arguments)  # type: ignore[arg-type]


def test_every_arm_is_measured_on_the_same_texts(many: Catalog) -> None:
    texts = damaged_texts(many, num_titles=10, rng=random.Random(0))
    assert [text.kind for text in texts] == list(KINDS) * 10
    other = shelf([("Quite Another Thing", 1990), (many[0].title, 1800)])
    absent = absent_texts(many, other)
    assert {name: len(rows) for name, rows in absent.items()} == {"titles of another catalog": 1, "remakes": 1}
    results = {arm: measure(arm, many, texts, absent, calibrations=2) for arm in ARMS}
    for result in results.values():
        assert list(result.present) == [*KINDS, "all"]
        for rates in (*result.present.values(), *result.absent.values()):
            assert rates.right + rates.wrong + rates.none == pytest.approx(1)
        assert all(rates.right == 0 for rates in result.absent.values())
        assert sum(result.right_per_title) / 10 == pytest.approx(result.present["all"].right)
    gap = difference(results[ARMS[0]], results[ARMS[2]])
    assert gap.low <= gap.mean <= gap.high
    assert results[ARMS[0]].absent["remakes"].wrong == 0
    with pytest.raises(ValueError, match="no arm is called 'magic'"):
        make("magic", many, precision=0.9, seed=0)


FORMS = """Alien|1. Alien|1.Alien|1) Alien|1)Alien|01. Alien|10. Alien|1: Alien|1 - Alien|1 – Alien|#1 Alien
#1: Alien|#1. Alien|(1) Alien|[1] Alien|[1]. Alien|- Alien|* Alien|+ Alien|• Alien|> Alien|→ Alien
✓ Alien|- 1. Alien|a) Alien|**Alien**|*Alien*|__Alien__|`Alien`|"Alien"|'Alien'|“Alien”|«Alien»
**1. Alien**|**1.** Alien|1. **Alien**|1. "Alien"|- **Alien**|**1) Alien**|Alien,|1. Alien,|"Alien",
1. Alien (1979)|1. Alien (1979) - a crew wakes up|**1. Alien (1979)**
1. **Alien** (1979): a crew wakes up|1. *Alien* (1979)|Title: Alien|Film 1: Alien|**Title:** Alien
1. Title: Alien|Movie: "Alien"|No. 1: Alien|1、Alien|1．Alien|（1）Alien|【1】Alien|①Alien|一、Alien
第一：Alien|《Alien》|1. 《Alien》|1、《Alien》|「Alien」|电影：Alien|推荐1：Alien"""


@pytest.mark.parametrize("line", [form for row in FORMS.splitlines() for form in row.split("|")])
def test_usual_forms_of_a_list_are_read(line: str) -> None:
    films = Catalog([Item("1", "Alien", {"year": 1979}), Item("2", "Heat", {"year": 1995})], label="{title} ({year})")
    match = Grounder(films, threshold=10.0).ground(line)
    assert match.item is not None, line
    assert match.item.id == "1"


@pytest.mark.parametrize(
    "answer",
    [
        '[{"title": "Alien"}, {"title": "Heat"}]',
        'Here you are:\n```json\n[{"name": "Alien", "year": 1979}, {"name": "Heat", "year": "1995"}]\n```',
        '{"recommendations": [{"title": "Alien"}, {"title": "Heat"}]}',
        '{"films": ["Alien", "Heat"]}',
        '{"title": "Alien", "why": "space"}\n{"title": "Heat", "why": "crime"}',
        "| # | Title | Year |\n|---|:--|--:|\n| 1 | Alien | 1979 |\n| 2. | **Heat** | 1995 |",
    ],
)
def test_json_and_tables_are_read(answer: str) -> None:
    films = Catalog([Item("1", "Alien", {"year": 1979}), Item("2", "Heat", {"year": 1995})], label="{title} ({year})")
    found = [match.item.id for match in Grounder(films, threshold=10.0).ground_lines(answer) if match.item]
    assert found == ["1", "2"]


@pytest.mark.parametrize("line", ["{}", "1. {}", "**1. {}**", "1: {}", "- {}"])
@pytest.mark.parametrize(
    "title", ["2001: A Space Odyssey", "9: The Last Resort", "8 - Women", "12 Angry Men", "No.: X", "M) Y"]
)
def test_what_looks_like_numbering_may_be_the_titles_own(line: str, title: str) -> None:
    films = Catalog(
        [Item("1", title), Item("2", "A Space Odyssey"), Item("3", "Women"), Item("4", "X"), Item("5", "Y")]
    )
    match = Grounder(films, threshold=10.0).ground(line.format(title))
    assert match.item is not None
    assert match.item.id == "1"
