from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KNOWN, NEW = "no CUDA device", "the moon is full"


@pytest.mark.parametrize("skips", ["known", ""])
@pytest.mark.parametrize("reason", [KNOWN, NEW])
def test_a_skip_for_a_new_reason_fails_the_run_in_ci(tmp_path: Path, skips: str, reason: str) -> None:
    forms = {
        "mark": f"import pytest\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_a(): pass\n",
        "call": f"import pytest\ndef test_a(): pytest.skip({reason!r})\n",
        "file": f"import pytest\npytest.skip({reason!r}, allow_module_level=True)\n",
    }
    for form, body in forms.items():
        (tmp_path / f"test_{form}.py").write_text(body + "\ndef test_b(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.skips", "-p", "no:cacheprovider", "--rootdir", "."]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LLMGEN_SKIPS": skips},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = [
        form for form in forms if any(f"test_{form}.py" in line and NEW in line for line in ended.stdout.splitlines())
    ]
    if skips and reason == NEW:
        assert (ended.returncode, told) == (1, list(forms)), ended.stdout
    else:
        assert (ended.returncode, told) == (0, []), ended.stdout
