"""Wishes for video games: which hold, how they are parted, and the command on a small shop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from eval.game_wishes import Rule, Wish, exchanged, halves, main, read_rules, stem, wishes_of
from llmgen.catalog.core import Catalog
from llmgen.errors import DataError
from llmgen.types import Item

SHOP = Catalog(
    [Item("a", "FIFA 15 Soccer Players"), Item("b", "Racing Wheel"), Item("c", "Fifa Street"), Item("d", "X")]
)


def test_a_wish_of_which_a_word_stands_in_a_wanted_title_is_left_out() -> None:
    rules = [
        Rule(r"\bfifa\b", ("the ball of a club", "a player and a ball", "street corners")),
        Rule("wheel", ("drive a race", "players on the street")),
        Rule("Mario", ("a plumber",)),
    ]
    kept, dropped = wishes_of(rules, SHOP)
    assert kept == [Wish("the ball of a club", 0, ("a", "c")), Wish("players on the street", 1, ("b",))]
    assert [text for text, _ in dropped] == ["a player and a ball", "street corners", "drive a race", "a plumber"]
    assert [why for _, why in dropped][2:] == ["a title has rac", "no title is meant"]


def test_forms_of_a_word_are_one() -> None:
    assert len({stem(word) for word in ("drive", "driving", "drives", "driver", "drivers", "drived")}) == 1
    assert stem("ring") == "ring"  # no letters would be left that tell anything


def test_each_rule_is_in_one_half() -> None:
    wishes = [Wish(f"{rule} {number}", rule, ("a",)) for rule in range(5) for number in range(3)]
    first, second = halves(wishes, seed=0)
    assert len(first) == 6 and len(second) == 9
    assert {wish.rule for wish in first}.isdisjoint(wish.rule for wish in second)
    assert first != halves(wishes, seed=1)[0]


def test_lists_are_exchanged_between_rules_only() -> None:
    one, same, other = Wish("x", 0, ("a",)), Wish("y", 0, ("a",)), Wish("z", 1, ("a",))
    # the list of `same` has what `one` wants and must not count for it
    assert exchanged([["b"], ["a"], ["b"]], [one, same, other]).tolist() == [0.0, 0.0, 0.5]


def test_the_rules_that_are_kept_here_can_be_read() -> None:
    rules = read_rules()
    assert len({rule.titles for rule in rules}) == len(rules) > 100
    texts = [wish for rule in rules for wish in rule.wishes]
    assert len(set(texts)) == len(texts) > 300
    assert not [wish for rule in rules for wish in rule.wishes if re.search(rule.titles, wish, re.IGNORECASE)]


@pytest.mark.parametrize(
    "text", ["- titles: '['\n  wishes: [x]", "- wishes: [x]", "titles", "- titles: x\n  wishes: [1]"]
)
def test_a_table_that_holds_no_rules_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(DataError, match=r"rules\.yaml: a rule has `titles`"):
        read_rules(tmp_path / "rules.yaml")
    with pytest.raises(DataError, match="cannot read"):
        read_rules(tmp_path / "none.yaml")


def test_the_command_on_a_small_shop(tiny_encoder: Path, tmp_path: Path) -> None:
    """Every rule wants the product that is bought most, so popularity finds it first for all wishes."""
    names = ["Zelda", *(f"Product {number}" for number in range(1, 15))]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title", *(f"{n},{name}" for n, name in enumerate(names))]))
    bought = [f"{user},{item},{place}" for user in range(20) for place, item in enumerate((0, user % 14 + 1))]
    (tmp_path / "log.csv").write_text("\n".join(["user_id,item_id,position", *bought]))
    (tmp_path / "rules.yaml").write_text(
        "\n".join(f"- titles: zelda|none{number}\n  wishes: [elf {number}, zelda {number}]" for number in range(4))
    )
    app = typer.Typer()
    app.command()(main)
    tables = [str(tmp_path / "items.csv"), str(tmp_path / "log.csv"), "--rules", str(tmp_path / "rules.yaml")]
    beside = ["--vectors", str(tmp_path / "vectors"), "--encoder", str(tiny_encoder)]
    done = CliRunner().invoke(app, [*tables, *beside])
    assert done.exit_code == 0, done.output
    assert "4 wishes of 4 rules; left out: 4\n" in done.output
    assert "| popularity | 1.0000 [1.0000, 1.0000] | 1.0000 | - | - | popularity 1 |" in done.output
    assert "| popularity | 1.0000 | 1.0000 | +0.0000 [+0.0000, +0.0000], p 1.0000 |" in done.output
    assert done.output.count("\n| bm25 x vectors x popularity |") == 2
    done = CliRunner().invoke(app, [*tables, *beside, "--engine", "fake"])
    assert done.exit_code == 0, done.output
    assert done.output.count("\n| LM x vectors x popularity |") == 2
    (tmp_path / "rules.yaml").write_text("- titles: zelda\n  wishes: [elf]\n")
    done = CliRunner().invoke(app, [*tables, *beside])
    assert done.exit_code != 0 and "two rules or more" in done.output
