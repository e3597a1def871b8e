"""The arithmetic of the speed comparison, and what the GPU check says where there is no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from eval import gpu_check, serving
from llmgen.catalog import Catalog
from llmgen.grounding import Grounder
from llmgen.types import Item

FILMS = Catalog([Item("1", "Alien", {"year": 1979}), Item("2", "Heat", {"year": 1995})], label="{title} ({year})")


def test_a_ratio_is_of_total_times_and_paired() -> None:
    ours = [1.0, 3.0]
    assert serving.ratio([2 * seconds for seconds in ours], ours) == (2.0, 2.0, 2.0)
    value, low, high = serving.ratio([1.0, 9.0], [1.0, 3.0])
    assert value == 10 / 4
    assert (low, high) == (1.0, 3.0)  # both runs the first one, or both the second


@pytest.mark.parametrize(("theirs", "ours"), [([], []), ([1.0], [1.0, 2.0])])
def test_unpaired_runs_are_refused(theirs: list[float], ours: list[float]) -> None:
    with pytest.raises(ValueError, match="paired"):
        serving.ratio(theirs, ours)


def test_validity_counts_before_and_after_grounding() -> None:
    texts = [["Alien (1979)", "alien", "Casablanca"], ["Heat", "Heat (1995)", "HEAT"]]
    assert serving.validity(texts, Grounder(FILMS, threshold=0.9)) == {
        "invalid": 3 / 6,  # alien, Casablanca, HEAT
        "ungrounded": 1 / 6,
        "distinct": (1 + 1) / 2,
    }


def entry(seconds: float) -> dict[str, object]:
    return {"median_s": seconds, "seconds": [seconds], "ratio": {"value": seconds, "low": seconds, "high": seconds}}


def test_the_table_says_which_targets_are_missed(capsys: pytest.CaptureFixture[str]) -> None:
    record = {
        "engine": "vllm:model",
        "together": 0,
        "prompt_tokens": 200.0,
        "alone": {serving.NARROW: entry(1), serving.BEAM: entry(4), serving.GREEDY: entry(0.9)},
        "batch": {},
    }
    serving.show(record, Console(width=140))
    said = capsys.readouterr().out
    assert f"{serving.BEAM}: 4.00 times the search's time, wanted 3.5: met" in said
    assert f"{serving.GREEDY}: 0.90 times the search's time, wanted 1.0: missed" in said


@pytest.mark.parametrize("flag", ["--users", "--repeats"])
def test_nothing_to_measure_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serving.main([flag, "0"])
    assert f"{flag} must be 1 or more, not 0" in capsys.readouterr().err


def test_without_a_device_everything_is_skipped_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "missing", lambda: "no CUDA device: llmgen[vllm]")
    assert gpu_check.main(["--out", str(tmp_path / "runs" / "check.json")]) == 0
    assert "no CUDA device: llmgen[vllm]" in capsys.readouterr().out
    checks = json.loads((tmp_path / "runs" / "check.json").read_text())["checks"]
    assert [check["state"] for check in checks] == ["skipped"] * 3


def test_a_report_is_read_by_class() -> None:
    report = """<testsuites><testsuite>
      <testcase classname="tests.gpu.test_engines.TestVLLM" name="test_a"/>
      <testcase classname="tests.gpu.test_engines.TestVLLM" name="test_b"><failure message="no"/></testcase>
      <testcase classname="tests.gpu.test_engines.TestTransformers" name="test_a"/>
      <testcase classname="tests.gpu.test_engines.TestTransformers" name="test_c"><skipped message="why"/></testcase>
      <testcase classname="tests.gpu.test_engines" name="test_both"><skipped message="no vLLM"/></testcase>
    </testsuite></testsuites>"""
    assert gpu_check.read_report(report) == [
        gpu_check.Check("TestVLLM", "failed", "1 of 2 passed; failed: test_b"),
        gpu_check.Check("TestTransformers", "passed", "1 of 2 passed; skipped: why"),
        gpu_check.Check("test_both", "skipped", "no vLLM"),
    ]


def test_a_check_that_failed_shows_in_the_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "missing", str)
    monkeypatch.setattr(gpu_check, "tests", lambda: [gpu_check.Check("TestVLLM", "failed", "0 of 1 passed")])
    monkeypatch.setattr(gpu_check, "times", lambda: ([], None))
    assert gpu_check.main(["--out", str(tmp_path / "check.json")]) == 1
