"""The arithmetic of the speed comparison, and what the GPU check says where there is no GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from eval import gpu_check, serving
from eval.bench import gpu
from llmgen.catalog.core import Catalog
from llmgen.grounding import Grounder
from llmgen.types import Item
from tests.engines.serving import wider_llama

ROOT = Path(__file__).parents[2]
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


def test_two_models_are_one_too_many(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["speed", "--model", "folder", "--shape", "8b"])
    assert "--model and --shape both name a model" in capsys.readouterr().err


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
    monkeypatch.setattr(
        gpu_check, "on_vllm", lambda: iter([([gpu_check.Check("speed", "passed", "")], [{"stage": "x"}])])
    )
    assert gpu_check.main(["--out", str(tmp_path / "check.json")]) == 1
    written = json.loads((tmp_path / "check.json").read_text())
    assert [check["state"] for check in written["checks"]] == ["passed", "failed"]
    assert written["findings"] == [{"stage": "x"}]


def speed_of(arm: str, p50_s: float, users: int = 16) -> dict[str, object]:
    return {"stage": "speed", "catalog": "c", "users": users, "arm": arm, "p50_s": p50_s, "requests_s": users / p50_s}


@pytest.mark.parametrize(("beam_search_s", "state"), [(13.9, "failed"), (14.0, "passed")])
def test_the_beam_search_is_to_take_seven_times_as_long(beam_search_s: float, state: str) -> None:
    rows = [speed_of(gpu.READ, 1.0), speed_of(gpu.OURS, 2.0), speed_of(gpu.BEAM, beam_search_s)]
    (check,) = gpu_check.speed_checks(rows)
    assert check.state == state
    assert "8 requests/s, prefill alone takes 0.50 times as long" in check.detail


@pytest.mark.parametrize(("dtype", "same", "state"), [("float32", 49, "failed"), ("bfloat16", 7, "passed")])
def test_only_float32_is_to_give_the_same_lists(dtype: str, same: int, state: str) -> None:
    row = {"same_lists": same, "same_sets": 50, "overlap": 1.0, "largest_logprob_difference": 0.1, "users": 50}
    (check,) = gpu_check.equality_checks([{"stage": "equal", "dtype": dtype, **row}])
    assert check.state == state
    assert check.detail.startswith(f"{same} of 50 top tens the same, 50 with the same items")


def test_what_was_found_before_a_time_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(command: list[str], **options: object) -> None:
        Path(command[command.index("--out") + 1]).write_text('{"stage": "start"}\n')
        raise gpu_check.subprocess.TimeoutExpired(command, 5)

    monkeypatch.setattr(gpu_check.subprocess, "run", stopped)
    assert gpu_check.findings("speed", 5) == ([{"stage": "start"}], "not done after 5 s")


def test_seconds_are_counted_by_name_and_the_method_is_whole_again() -> None:
    clock = gpu.Clock()
    catalog = FILMS
    plain = catalog.index
    with clock.watching(catalog, "index", "look-ups"):
        assert catalog.index(catalog["2"]) == 1
    assert set(clock.seconds) == {"look-ups"}
    assert catalog.index == plain


@pytest.mark.slow
def test_the_benchmark_of_a_card_runs_on_a_cpu(tiny_model: Path, tmp_path: Path) -> None:
    """A rehearsal with a tiny model: every arm answers, and both engines give the same lists in float32."""
    pytest.importorskip("vllm", reason="needs vLLM")
    out = tmp_path / "findings.jsonl"
    common = ["--users", "2", "--dtype", "float32", "--option", f"kv_cache_memory_bytes={2**28}", "--out", str(out)]
    common += ["--model", str(wider_llama(tiny_model, tmp_path / "model"))]
    runs = [["speed", "--repeats", "1", "--made-up", "500", "--transformers", *common], ["equal", *common]]
    both = f"from eval.bench.gpu import main\nfor arguments in {runs!r}:\n    main(arguments)"
    subprocess.run([sys.executable, "-c", both], check=True, timeout=400, cwd=ROOT)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    arms = [row["arm"] for row in found if row["stage"] == "speed"]
    assert arms == [gpu.READ, gpu.OURS, gpu.GREEDY, gpu.BEAM, gpu.TRANSFORMERS, gpu.CONSTRAINED] * 2
    ours = next(row for row in found if row.get("arm") == gpu.OURS)
    assert sum(ours["share"].values()) == pytest.approx(1)
    assert ours["read_tokens_a_request"] >= ours["prompt_tokens"] / 2  # two prompts begin alike
    (equal,) = [row for row in found if row["stage"] == "equal"]
    assert equal["same_lists"] == equal["users"] == 2
