from __future__ import annotations

import re
import subprocess
import sys
import time

import pytest

from llmgen import progress
from llmgen.progress import Stage


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests wrote, and when, is no matter of these."""
    monkeypatch.setattr(progress, "_told_at", None)


def test_a_log_gets_lines_with_stage_share_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.05)
    with Stage("counting", 4) as stage:
        stage.advance(3)
        time.sleep(0.2)  # one long step: lines come all the same
    said = capsys.readouterr()
    assert not said.out
    lines = said.err.splitlines()
    assert len(lines) >= 2
    assert all(re.fullmatch(r"counting: 3 of 4 \(75%\), time left: \d+ s", line) for line in lines)


def test_what_is_quick_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Stage("counting", 4) as stage:
        stage.advance(4)
    assert capsys.readouterr().err == ""


def test_short_stages_one_after_another_are_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.1)
    for _ in range(20):
        with Stage("one of many", 1):
            time.sleep(0.02)
    assert capsys.readouterr().err.startswith("one of many: 0 of 1 (0%)")  # though none of them lasted so long


def test_nothing_is_told_where_nobody_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    with Stage("counting", 4, shown=False):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_time_left_is_by_the_pace_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Stage("asking", 10_000, shown=False) as stage:
        assert stage.line() == "asking: 0 of 10,000 (0%), time left: not known yet"
        now[0] += 60
        stage.advance(2_500)
        assert stage.line() == "asking: 2,500 of 10,000 (25%), time left: 3 min 00 s"
        now[0] += 7_200
        assert stage.line() == "asking: 2,500 of 10,000 (25%), time left: 6 h 03 min"
    with Stage("fitting", 0, shown=False) as stage:
        now[0] += 75
        assert stage.line() == "fitting: 1 min 15 s so far"


def test_an_error_ends_the_lines_and_goes_on() -> None:
    code = "from llmgen.progress import Stage\nwith Stage('x', 1):\n    raise KeyError('mine')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "KeyError: 'mine'" in ended.stderr
