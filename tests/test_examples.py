"""The scripts in examples/ run as they stand, and print what they say that they print."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    return capsys.readouterr().out


def test_two_csv_files(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run("from_two_csv_files.py", "--user", "u03", monkeypatch=monkeypatch, capsys=capsys)
    first, weights, taken, *places = printed.splitlines()
    assert first == "12 items, 180 interactions"
    assert "weights chosen on 30 held-out items" in weights and "'transition'" in weights
    assert taken.startswith("u03 took ")
    assert [line[:2] for line in places] == ["1.", "2.", "3."]
    assert taken.endswith("Paranoid Android, Hurt, Creep")  # everybody goes round: Karma Police comes next
    assert places[0].startswith("1. Karma Police ")


def test_a_wish(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run("cold_start.py", "jazz at midnight", "--filter", "year=..1950", "-k", "1",
                  monkeypatch=monkeypatch, capsys=capsys)  # fmt: skip
    wish, place, *_ = printed.splitlines()
    assert wish == "Wish: jazz at midnight"
    assert place == "1. Round Midnight (jazz, 1944)"
    printed = run("cold_start.py", monkeypatch=monkeypatch, capsys=capsys)
    assert printed.count("(jazz, ") == 3
    assert printed.endswith("With a new song: Midnight Jazz for a Quiet Evening\n")


def test_two_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run("ab_of_two_prompts.py", "--out", str(tmp_path / "ab"), monkeypatch=monkeypatch, capsys=capsys)
    difference, *verdict, report = printed.splitlines()
    assert difference.startswith("B: ndcg@3 ") and difference.endswith("against A")
    assert verdict and "30 users" in " ".join(verdict)
    assert report == f"report: {tmp_path / 'ab' / 'report.html'}"
    assert "<svg" in (tmp_path / "ab" / "report.html").read_text(encoding="utf-8")


def test_every_script_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in EXAMPLES.glob("*.py") if f"`{path.name}`" not in listed] == []
