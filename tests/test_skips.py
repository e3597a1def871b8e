from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KNOWN, NEW = "no CUDA device", "the moon is full"


@pytest.mark.parametrize("skips", ["known", ""])
@pytest.mark.parametrize("form", ["mark", "call", "file"])
@pytest.mark.parametrize("reason", [KNOWN, NEW])
def test_a_skip_for_a_new_reason_fails_the_run_in_ci(tmp_path: Path, skips: str, form: str, reason: str) -> None:
    body = {
        "mark": f"import pytest\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_a(): pass\n",
        "call": f"import pytest\ndef test_a(): pytest.skip({reason!r})\n",
        "file": f"import pytest\npytest.skip({reason!r}, allow_module_level=True)\n",
    }[form]
    (tmp_path / "test_it.py").write_text(body + "\ndef test_b(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-p", "no:cacheprovider", "--rootdir", "."]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LLMGEN_SKIPS": skips}
    ended = subprocess.run(
        [*command, "test_it.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if skips and reason == NEW:
        assert ended.returncode == 1, ended.stdout
        assert f": {NEW}" in ended.stdout
    else:
        assert ended.returncode == (5 if form == "file" else 0), ended.stdout
