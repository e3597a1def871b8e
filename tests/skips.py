"""Skips that are known; where LLMGEN_SKIPS=known, as in CI, a run with any other one fails."""

from __future__ import annotations

import os

import pytest

KNOWN = {
    "this engine takes no adapter here": "of the engines under one contract, the fake one and some servers",
    "nothing of this engine can die alone": "engines that run in the test's own process",
    "to this engine prompt and path are two things": "those that keep the prompt's keys and values apart",
    "needs llmgen[qlora]": "bitsandbytes wants a GPU",
    "no CUDA device": "tests of a GPU, left out by `-m 'not gpu'` too",
    "ml-latest-small.zip is not beside the checkout": "data that may not be committed",
}
"""Reason -> why it is no hole."""

_new: list[str] = []


def _look(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if reason not in KNOWN:
            _new.append(f"{report.nodeid}: {reason}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note a test that was skipped."""
    _look(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note a file that was skipped."""
    _look(report)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where something was skipped that is not known."""
    if _new and os.environ.get("LLMGEN_SKIPS") == "known":
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name them."""
    if _new and os.environ.get("LLMGEN_SKIPS") == "known":
        terminalreporter.section("skips that tests/skips.py does not know")
        for line in _new:
            terminalreporter.line(line)
