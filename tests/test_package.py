"""The package as a user installs it: light to import, complete, typed."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import llmgen

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "polars", "scipy", "numpy", "jinja2", "pydantic")


def loaded(*arguments: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running some code."""
    code = "import sys\n" + "\n".join(arguments) + "\nprint('\\n'.join({m.partition('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded("import llmgen") & set(HEAVY)


def test_the_command_line_asks_for_help_without_loading_anything_heavy() -> None:
    run = "from llmgen.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded(run) & set(HEAVY)


def test_a_recommender_without_a_model_needs_no_torch() -> None:
    run = "from llmgen import Catalog, Item, Query, Recommender\n"
    run += "Recommender(Catalog([Item('a', 'Alien')]), None).recommend(Query())"
    assert not loaded(run) & {"torch", "transformers"}


@pytest.mark.parametrize("name", llmgen.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(llmgen, name).__name__ == name


def test_all_names_what_type_checkers_see() -> None:
    source = Path(llmgen.__file__).read_text(encoding="utf-8")
    assert all(f" as {name}\n" in source for name in llmgen.__all__)
    assert source.count("    from llmgen.") == len(llmgen.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        llmgen.Nothing  # noqa: B018


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "llmgen", "--help"], capture_output=True, text=True, check=True)
    assert "recommend" in done.stdout


def test_the_package_is_typed() -> None:
    assert (Path(llmgen.__file__).parent / "py.typed").exists()


def test_the_wheel_holds_prompts_and_nothing_of_the_checkout(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="builds the wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("llmgen-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"llmgen/prompts/{path.name}" for path in (ROOT / "prompts").glob("*.jinja")} <= names
    assert "llmgen/py.typed" in names
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"llmgen"}
