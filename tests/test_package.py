"""The package as a user installs it: light to import, complete, typed."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import llmgen
from llmgen.cli.main import main

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
    run = "from llmgen.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded(run) & set(HEAVY)


def test_a_recommender_without_a_model_needs_no_torch() -> None:
    run = "from llmgen import Catalog, Item, Query, Recommender\n"
    run += "Recommender(Catalog([Item('a', 'Alien')]), None).recommend(Query())"
    assert not loaded(run) & {"torch", "transformers"}


@pytest.mark.parametrize("name", llmgen.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(getattr(llmgen, name), "__name__", "Answer") == name  # a union of types has no name


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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (found,) = folder.glob("llmgen-*.whl")
    return found


def test_the_wheel_holds_prompts_and_nothing_of_the_checkout(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"llmgen/prompts/{path.name}" for path in (ROOT / "prompts").glob("*.jinja")} <= names
    assert "llmgen/py.typed" in names
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {"llmgen"}


FROM_THE_WHEEL = """
import contextlib, io, json, sys
sys.modules["eval"] = sys.modules["training"] = None  # of the checkout, which a user does not have
import llmgen
site, commands = sys.argv[1:]
assert llmgen.__file__.startswith(site), llmgen.__file__
from llmgen.cli.main import main
printed = []
for command in json.loads(commands):  # one after the other in one process, since torch takes seconds to load
    sys.argv = ["llmgen", *command]
    output = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    try:
        with contextlib.redirect_stdout(output):
            main()
    except SystemExit as ended:
        assert not ended.code, (command, ended.code)
    output.seek(0)
    printed.append(output.read())
print("\\0".join(printed))
"""


OTHER_PACKAGE = """
from dataclasses import dataclass
import numpy as np
from pathlib import Path
from llmgen.engines.fake import FakeEngine
from llmgen.priors.kinds import PriorKind
from llmgen.templates.tasks import TaskKind

@dataclass(frozen=True)
class Named:
    titles: tuple
    word: str
    least: float
    weight: float = 1.0
    name: str = "named"

    def log_weights(self, queries):
        row = [0.0 if self.word in title else self.least for title in self.titles]
        return np.array([row] * len(queries)).reshape(len(queries), len(row))

def fit(interactions, catalog, *, weight=1.0, word="Gold", least=-3.0):
    return Named(tuple(item.title for item in catalog), word, least, weight)

NAMED = PriorKind("named", fit, reads="", grid={"least": (-1.0, -2.0)})

def engine(model, *, adapter=None, **options):
    return FakeEngine()

GIFT = TaskKind(
    "gift",
    "presents for somebody else",
    variables=("history", "k", "day"),
    answers="recommend",
    values={"day": lambda query: f"a day for {query.user_id or 'a stranger'}"},
    prompts=Path(__file__).parent / "shop_prompts",
)
"""
GIFT_PROMPT = """---
name: gift_note
version: 1
description: Presents.
task: gift
variables: [nouns, day, k, history]
---
{% block user %}{{ k }} {{ nouns }} for {{ day }}, after {{ history | join(", ") }}{% endblock %}
"""


@pytest.mark.slow
def test_what_people_do_is_done_from_the_wheel_alone(wheel: Path, tiny_model: Path, tmp_path: Path) -> None:
    """Recommend, tune, evaluate, A/B with its report, compare, train, on tables of one's own."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    rng = np.random.default_rng(0)
    titles = [f"{first} {second}" for first in ("Red", "Blue", "Gold", "Grey") for second in ("Sun", "Sea", "Fox")]
    (tmp_path / "items.csv").write_text(
        "id,title\n" + "".join(f"i{number},{title}\n" for number, title in enumerate(titles))
    )
    rows = [
        f"u{user},i{item},{10 * user + place}\n"
        for user in range(12)
        for place, item in enumerate(rng.permutation(len(titles))[:6].tolist())
    ]
    (tmp_path / "log.csv").write_text("user,id,time\n" + "".join(rows))
    tables = ["--items", "items.csv", "--interactions", "log.csv", "--noun", "tune"]
    tables += [part for pair in ("item_id=id", "user_id=user", "timestamp=time") for part in ("--column", pair)]

    def llmgen_(*commands: list[str]) -> list[str]:
        """What each command prints."""
        done = subprocess.run(
            [sys.executable, "-c", FROM_THE_WHEEL, str(site), json.dumps(commands)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (commands, done.stdout, done.stderr)
        return done.stdout.split("\0")

    common = ["--k", "3", "--classics", "defaults", *tables]
    first, other = "prompt:next_item,engine:fake", "B=prompt:next_item_taste,engine:fake"
    asked = ["--user", "u3", "--engine", "none", "--json"]
    recommended, _, fitted, unsaved, _, _, _, compared = llmgen_(
        ["recommend", "--user", "u3", "--engine", "fake", "-k", "3", "--json", *tables],
        ["fit", *tables, "--engine", "none", "--out", "fitted"],
        ["recommend", "--load", "fitted", *asked],
        ["recommend", *tables, *asked],
        ["tune", *tables, "--k", "3", "--json", "tuned.json"],
        ["evaluate", "--arm", f"one={first}", "--out", "one", *common],
        ["ab", "--arm", f"A={first}", "--arm", other, "--out", "ab", *common],
        ["compare", "one", "ab", "--json"],
    )
    assert len(json.loads(recommended)["recommendations"]) == 3
    assert fitted == unsaved
    assert json.loads((tmp_path / "tuned.json").read_text())["n_items"] == 12
    assert "<svg" in (tmp_path / "ab" / "report.html").read_text()
    results = json.loads((tmp_path / "ab" / "results.json").read_text())
    assert results["sample"]["users"] == 12
    assert results["environment"]["commit"] == f"llmgen {llmgen.__version__}"  # and not of the checkout around
    assert results["environment"]["command"].startswith("llmgen ab --arm A=prompt:next_item,engine:fake")
    assert len(json.loads(compared)) == 6
    data = {"items": "items.csv", "interactions": "log.csv", "noun": "tune"}
    data |= {"columns": {"item_id": "id", "user_id": "user", "timestamp": "time"}}
    flags = {"model": str(tiny_model), "data": json.dumps(data), "output_dir": "run", "max_steps": "2"}
    flags |= {"validation_users": "0", "per_device_train_batch_size": "2", "disable_tqdm": "true"}
    (tmp_path / "ab" / "report.html").unlink()
    llmgen_(
        ["train", *(part for name, value in flags.items() for part in (f"--{name}", value))],
        ["merge", "run", "merged"],
        ["report", "ab"],
    )
    assert (tmp_path / "run" / "llmgen.json").exists()
    assert (tmp_path / "ab" / "report.html").exists()
    # a prior, an engine and a task of another package, by entry points
    (site / "shop_prompts").mkdir()
    (site / "shop_prompts" / "gift_note.jinja").write_text(GIFT_PROMPT)
    (site / "shop.py").write_text(OTHER_PACKAGE)
    about = site / "shop-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "[llmgen.priors]\nnamed = shop:NAMED\n[llmgen.engines]\nrandom = shop:engine\n"
        "[llmgen.tasks]\ngift = shop:GIFT\n"
    )
    (tmp_path / "shop.yaml").write_text(
        "classics: tuned\narms:\n  A: {engine: random, prompt: gift_note}\n"
        "  B: {engine: none, priors: {named: {word: Grey}}}\n"
    )
    listed, named, _, merged, tasks, checked, shown, presents = llmgen_(
        ["priors", "--json"],
        ["recommend", "--user", "u3", "--engine", "none", "--prior", "named=1", "--json", *tables],
        ["ab", "--config", "shop.yaml", "--out", "shop", "--k", "3", *tables],
        ["recommend", "--user", "u3", "--engine", f"hf:{tmp_path / 'merged'}", "-k", "3", "--json", *tables],
        ["prompts", "tasks", "--json"],
        ["prompts", "check"],
        ["prompts", "show", "gift_note", "--user", "u3", "--engine", "random", *tables],
        ["recommend", "--user", "u3", "--engine", "random", "--prompt", "gift_note", "-k", "3", "--json", *tables],
    )
    gift = {"name": "gift", "description": "presents for somebody else", "answers": "recommend", "prompt": None}
    assert json.loads(tasks)["tasks"][-1] == {**gift, "variables": ["noun", "nouns", "history", "k", "day"]}
    assert "no problems" in checked
    assert "tunes for a day for u3, after " in shown
    assert json.loads(presents)["prompt"].startswith("gift_note@")
    assert len(json.loads(presents)["recommendations"]) == 3
    assert json.loads(listed)["priors"][-1] == {"name": "named", "reads": "", "settings": ["weight", "word", "least"]}
    assert {place["item"]["title"].split()[0] for place in json.loads(named)["recommendations"][:2]} == {"Gold"}
    shop = json.loads((tmp_path / "shop" / "results.json").read_text())
    assert {arm["name"] for arm in shop["arms"]} >= {
        "A",
        "B",
        "named",
        "transition",
        "mix",
    }  # tuned beside the classics
    assert len(json.loads(merged)["recommendations"]) == 3


def test_what_a_command_lacks_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    for name in [name for name in sys.modules if name.startswith("llmgen.training")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as ended:
        main(["train", "--max_steps", "1"])
    assert ended.value.code == 1
    assert "llmgen train needs peft, which is not installed; pip install 'llmgen[train]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("client", "http.client", "Client"),
        ("client", "http.async_client", "AsyncClient"),
        ("tasks", "templates.tasks", "TaskKind"),
    ],
)
def test_old_modules_are_there_for_a_release_and_say_so(old: str, new: str, name: str) -> None:
    module = importlib.import_module(f"llmgen.{old}")
    with pytest.warns(DeprecationWarning, match=rf"llmgen\.{old}\.{name} is now called llmgen\.{new}\.{name}"):
        found = getattr(module, name)
    assert found is getattr(importlib.import_module(f"llmgen.{new}"), name)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = module.Nothing
