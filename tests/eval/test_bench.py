"""The benchmark's arithmetic, its comparisons and what it measures on; no model is run, and no time is tested."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydantic import TypeAdapter
from rich.console import Console
from typer import Typer
from typer.testing import CliRunner, Result

import eval.bench.__main__ as bench
from eval.bench import dicts, priors, textbook, training, vllm
from eval.bench.agreement import is_as_good
from eval.bench.baseline import changes, regressions
from eval.bench.catalogs import catalog_of, codes, made_up, read, spelled
from eval.bench.dicts import DictTrie
from eval.bench.logs import log, queries
from eval.bench.plan import Plan
from eval.bench.rows import Record, Row, rows_of, skipped, unequal
from eval.bench.show import show
from eval.bench.structured import grammar
from eval.bench.targets import TARGETS, Target, outcomes
from eval.bench.timing import Arm, BenchError, Measured, fresh, interleave
from eval.bench.trie import DICTS, built, loaded, same_children, stepped
from llmgen.catalog.core import Catalog
from llmgen.errors import DataError
from llmgen.trie.core import ItemTrie

ABOUT = Row(part="search", case="a case", arm="", items=10)


def timed(*seconds: float) -> Measured[None]:
    return Measured(wall_s=list(seconds), cpu_s=[2 * value for value in seconds])


def with_ratio(value: float | None, arm: str = "theirs") -> Row:
    return replace(ABOUT, arm=arm, ratio=value)


def test_a_ratio_is_the_subjects_time_over_the_arms() -> None:
    ours, theirs = rows_of(ABOUT, {"llmgen": timed(1, 3), "theirs": timed(4, 12)})
    assert (ours.ratio, ours.wall_s, ours.cpu_s, ours.runs) == (None, 2, 4, 2)
    assert theirs.ratio == theirs.ratio_low == theirs.ratio_high == (1 + 3) / (4 + 12)
    assert (theirs.p50_s, theirs.p95_s) == (8, pytest.approx(4 + 0.95 * 8))


def test_the_interval_is_of_runs_drawn_with_replacement() -> None:
    _, theirs = rows_of(ABOUT, {"llmgen": timed(1, 3), "theirs": timed(1, 1)})
    assert (theirs.ratio, theirs.ratio_low, theirs.ratio_high) == (2, 1, 3)  # both runs the first, or both the second


def test_only_runs_that_both_did_are_compared() -> None:
    _, theirs = rows_of(ABOUT, {"llmgen": timed(1, 100), "theirs": timed(4)})
    assert (theirs.ratio, theirs.ratio_low, theirs.ratio_high) == (1 / 4, None, None)  # one run has no interval


def test_arms_take_turns_and_see_the_same_turns() -> None:
    seen: list[str] = []

    def noting(name: str) -> Callable[[int], int]:
        def run(turn: int) -> int:
            seen.append(f"{name}{turn}")
            return turn * turn

        return run

    arms = [Arm("a", noting("a"), before=lambda turn: seen.append("-")), Arm("b", noting("b"), turns=1)]
    measured = interleave(arms, 3)
    assert seen == ["-", "a0", "-", "a0", "b0", "-", "a1", "-", "a2"]  # the first is the warm-up
    assert measured["a"].answers == [0, 1, 4]
    assert len(measured["b"].wall_s) == len(measured["b"].cpu_s) == 1


def test_a_fresh_process_tells_what_it_took() -> None:
    ended = fresh(["-c", "print('x' * 10)"])
    assert ended.output.strip() == "x" * 10
    assert ended.wall_s > 0
    assert ended.cpu_s > 0


def test_a_process_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(BenchError, match=r"ended with 1: .*nothing to see"):
        fresh(["-c", "raise SystemExit('nothing to see')"])


def test_a_ratio_beyond_the_bound_is_a_regression() -> None:
    found = changes([with_ratio(0.52)], [with_ratio(0.4)])
    assert found[0].factor == pytest.approx(1.3)
    assert regressions(found, 1.31) == []
    assert regressions(found, 1.29) == [
        "search, a case, beside theirs: 0.52 instead of 0.4, 1.30 times as much (bound 1.29)"
    ]


def test_what_may_be_chance_is_no_regression() -> None:
    noisy = replace(with_ratio(0.8), ratio_low=0.3, ratio_high=1.2)
    assert regressions(changes([noisy], [with_ratio(0.4)]), 1.3) == []
    assert regressions(changes([replace(noisy, ratio_low=0.41)], [with_ratio(0.4)]), 1.3)


def test_rows_of_one_run_only_are_not_compared() -> None:
    found = changes([with_ratio(1, "a"), with_ratio(2, "b"), with_ratio(None, "c")], [with_ratio(1, "a")])
    assert [change.row.arm for change in found] == ["a"]


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(DataError, match="no ratio in common"):
        changes([with_ratio(1, "a")], [with_ratio(1, "b")])


def test_targets_name_rows_and_say_whether_they_are_met() -> None:
    target = Target("search", "a case", "theirs", "ratio", 0.5)
    assert [(o.value, o.met) for o in outcomes([with_ratio(0.4)], [target])] == [(0.4, True)]
    assert not outcomes([with_ratio(0.6)], [target])[0].met
    assert outcomes([with_ratio(None)], [target]) == []
    assert len({target[:4] for target in TARGETS}) == len(TARGETS)


def test_searches_agree_if_ours_is_not_the_worse_one() -> None:
    ours = {(1, 0): -1.0, (2, 0): -3.0}
    assert is_as_good(ours, {(1, 0): -1.0, (2, 0): -3.0})
    assert is_as_good(ours, {(1, 0): -1.0, (3, 0): -4.0})  # what they have instead is worse
    assert not is_as_good(ours, {(1, 0): -1.0, (3, 0): -2.0})  # and here it is better
    assert not is_as_good(ours, {(1, 0): -1.1, (2, 0): -3.0})  # another score
    assert not is_as_good({}, ours)


def test_made_up_titles_are_many_different_and_always_the_same(catalog: Catalog) -> None:
    titles = made_up(catalog.labels, 5_000, seed=3)
    assert len(titles) == len(set(titles)) == 5_000
    assert titles == made_up(catalog.labels, 5_000, seed=3)
    assert titles != made_up(catalog.labels, 5_000, seed=4)
    words = {word for label in catalog.labels for word in label.split()}
    assert {word for title in titles for word in title.split()} <= words


def test_made_up_titles_begin_alike_as_often_as_real_ones(catalog: Catalog) -> None:
    def nodes_an_item(titles: list[str]) -> float:
        return ItemTrie.build(spelled(titles)).num_nodes / len(titles)

    real = list(dict.fromkeys(catalog.labels))
    assert nodes_an_item(made_up(real, len(real))) == pytest.approx(nodes_an_item(real), rel=0.2)


def test_more_titles_than_the_words_make_are_refused() -> None:
    with pytest.raises(ValueError, match="100 different titles cannot be made"):
        made_up(["M"], 100)


def test_paths_spell_titles_and_end_alike() -> None:
    one, other = spelled(["Alien", "Alien Resurrection"])
    assert one[-1] == other[-1] == 0
    assert one[:-1] == other[: len(one) - 1]
    assert len(other) == 1 + 3 + 1  # Alien, Resur-recti-on, the end


def test_codes_are_different_and_each_level_has_its_own_tokens() -> None:
    ids = codes(1_000)
    assert ids.shape == (1_000, 4)
    assert len(np.unique(ids, axis=0)) == 1_000
    assert all(low.max() < high.min() for low, high in zip(ids.T[:-1], ids.T[1:], strict=True))


def test_a_shop_is_read_as_published(tmp_path: Path) -> None:
    lines = [
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
        "1,85123A,WHITE HEART,6,2010-12-01 08:26:00,2.55,1.0,UK",
        "2,85123A,WHITE HEART ,6,2010-12-01 08:26:00,2.55,2.0,UK",
        "3,85123A,a heart,6,2010-12-01 08:26:00,2.55,2.0,UK",
        "C4,10001,RETURNED,-1,2010-12-01 08:26:00,2.55,2.0,UK",
        "5,10002,NOBODY,1,2010-12-01 08:26:00,2.55,,UK",
        "6,POST,POSTAGE,1,2010-12-01 08:26:00,2.55,1.0,UK",
    ]
    path = tmp_path / "online-retail.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    shop = read(str(path))
    assert [(item.id, item.title) for item in shop] == [("85123A", "WHITE HEART")]
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column InvoiceNo"):
        read(str(tmp_path / "other.csv"))


def test_users_repeat_with_the_seed_and_have_the_length_asked_for() -> None:
    taken = log(50, 7, 4, seed=1)
    assert taken.height == 7 * 4
    assert taken.equals(log(50, 7, 4, seed=1))
    assert taken["item_id"].cast(int).is_between(0, 49).all()
    asked = queries(catalog_of([f"title {number}" for number in range(50)]), 3, 5)
    assert [len(query.history) for query in asked] == [5, 5, 5]
    assert not asked[0].exclude_seen


@pytest.mark.parametrize("paths", [[(1, 0)], [(1, 2, 0), (1, 0), (3, 0)]])
def test_dicts_in_dicts_have_the_children_of_our_trie(paths: list[tuple[int, ...]]) -> None:
    assert same_children(ItemTrie.build(paths), DictTrie(paths))
    assert not same_children(ItemTrie.build(paths), DictTrie([*paths, (9, 0)]))


def test_dicts_in_dicts_say_what_may_follow() -> None:
    trie = DictTrie([(1, 2, 0), (1, 0)])
    assert [trie.children(prefix) for prefix in ((), (1,), (1, 2), (1, 0), (7,))] == [[1], [2, 0], [0], [], []]
    assert trie.size_mb() > 0


def test_marisa_is_asked_with_one_character_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    class Trie:
        """The part of marisa-trie that is used."""

        def __init__(self, keys: list[str]) -> None:
            self.keys = keys

        def iterkeys(self, prefix: str) -> list[str]:
            return [key for key in self.keys if key.startswith(prefix)]

    monkeypatch.setattr(dicts, "import_module", lambda name: SimpleNamespace(Trie=Trie))
    surrogate = 0xD800
    trie = dicts.MarisaTrie([(surrogate, 2, 0), (surrogate, 0), (3, 0)])
    assert [trie.children(prefix) for prefix in ((), (surrogate,), (surrogate, 0))] == [[3, surrogate], [0, 2], []]


def test_the_trie_is_checked_while_it_is_measured(catalog: Catalog) -> None:
    paths = spelled(catalog.labels)
    rows = [*built(paths, "films"), *stepped(paths, ItemTrie.build(paths), "films")]
    assert [row.equal for row in rows if row.arm == "dicts in dicts"] == [True, True]
    assert rows[0].size_mb is not None
    assert rows[0].size_mb < rows[1].size_mb  # type: ignore[operator]
    assert [row.arm for row in loaded(paths, ItemTrie.build(paths), "films")] == ["llmgen", "pickle of dicts in dicts"]


@pytest.mark.parametrize("name", ["transition", "ease", "item_knn"])
def test_a_prior_gives_what_its_textbook_says(name: str, catalog: Catalog) -> None:
    count = 40
    small = catalog_of(made_up(catalog.labels, count))
    taken = log(count, count, priors.EACH)
    asked = queries(small, 5, 6)
    rows, _ = priors.fitted(name, priors.MODELS[name], taken, small, asked)
    assert [row.equal for row in rows] == [None, True]


def test_best_items_may_be_any_of_equal_score_and_none_twice() -> None:
    scored = np.array([0.0, 3.0, 1.0, 1.0, -1.0])
    assert textbook.is_best([1, 2], scored)
    assert textbook.is_best([1, 3], scored)
    assert textbook.is_best([1, 2, 3, 4], scored)
    assert not textbook.is_best([2, 1], scored)
    assert not textbook.is_best([1, 1], scored)


def test_both_packages_of_bm25_find_the_same(catalog: Catalog) -> None:
    rows = priors.worded(catalog, queries(catalog, priors.REQUESTS, 2))
    assert [row.equal for row in rows if row.equal is not None] == [True]


def test_what_serving_wrote_becomes_rows() -> None:
    entry = {"seconds": [2.0, 2.0], "median_s": 2.0}
    record = {
        "together": 4,
        "num_items": 5,
        "prompt_tokens": 199.6,
        "machine": {"cores": 2, "versions": {"vllm": "0.32"}},
        "alone": {"greedy": {**entry, "seconds": [4.0, 4.0]}, "search, 10 beams": entry},
        "batch": {},
    }
    ours, greedy = vllm.rows(record)
    assert (ours.arm, ours.case, ours.prompt_tokens) == ("search, 10 beams", "vLLM, 1 user", 200)
    assert greedy.ratio == 2 / 4
    assert greedy.cpu_s is None


def test_what_training_wrote_becomes_rows() -> None:
    rows = training.rows([100, 300], {"plain TRL": [1.0, 1.0], "catalog": [1.0, 2.0]})
    assert [(row.arm, row.ratio) for row in rows] == [("llmgen", None), ("plain TRL", 3 / 2)]
    assert rows[1].rate == 200 / 1


def test_a_choice_is_escaped() -> None:
    assert grammar(['The "Burbs', "A\\B"]) == r'root ::= "The \"Burbs" | "A\\B"'


def test_a_stored_run_is_read_as_it_was(tmp_path: Path) -> None:
    record = run_of([with_ratio(0.5), skipped("search", "a case", "vllm", "not installed")])
    record.save(tmp_path / "runs" / "bench.json")
    assert Record.load(tmp_path / "runs" / "bench.json") == record
    stored = json.loads((tmp_path / "runs" / "bench.json").read_text())["rows"][0]
    assert set(stored) == set(TypeAdapter(Row).json_schema()["properties"])
    wanted = {"part", "case", "versions", "threads", "prompt_tokens", "width", "k", "items", "p50_s", "p95_s", "cpu_s"}
    assert wanted | {"wall_s", "peak_mb", "ratio", "equal"} <= set(stored)


@pytest.mark.parametrize("content", ["{}", '{"rows": [{"part": 1}]}', "not JSON"])
def test_another_file_is_no_stored_run(content: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match="no run of the benchmark"):
        Record.load(tmp_path / "x.json")
    with pytest.raises(DataError, match="cannot be read"):
        Record.load(tmp_path / "y.json")


def test_tables_show_figures_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(ABOUT, {"llmgen": timed(0.001, 0.003), "theirs": timed(4, 12)}, equal={"theirs": False})
    show([*rows, skipped("search", "a case", "vllm", "not installed")], Console(width=140))
    said = capsys.readouterr().out
    assert "2 ms" in said
    assert "0.00025 [0.00025, 0.00025]" in said
    assert "NO" in said
    assert "a case, vllm: skipped: not installed" in said


def run_of(rows: list[Row]) -> Record:
    environment = bench.environment("a command", "2026-01-01T00:00:00+00:00")
    return Record(environment, True, 1.0, rows)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Row], list[str]], Result]:
    """Runs the command with rows that were made up."""

    def run(rows: list[Row], arguments: list[str]) -> Result:
        def measured(name: str, plan: Plan) -> Iterator[Row]:
            yield from rows

        monkeypatch.setattr(bench, "measured", measured)
        app = Typer()
        app.command()(bench.main)
        return CliRunner().invoke(app, ["trie", *arguments])

    return run


Command = Callable[[list[Row], list[str]], Result]


def test_a_run_without_faults_ends_with_0(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = command([with_ratio(0.5)], ["--json", str(out), "--quick"])
    assert done.exit_code == 0, done.output
    assert Record.load(out).quick
    assert command([with_ratio(0.5)], ["--baseline", str(out)]).exit_code == 0


def test_a_wrong_answer_ends_with_1(command: Command) -> None:
    wrong = replace(with_ratio(0.5), equal=False)
    assert unequal([wrong]) == ["search, a case: other answers than theirs"]
    done = command([wrong], [])
    assert done.exit_code == 1
    assert "failed: search, a case: other answers than theirs" in done.output


def test_a_regression_ends_with_1(command: Command, tmp_path: Path) -> None:
    run_of([with_ratio(0.5)]).save(tmp_path / "old.json")
    baseline = ["--baseline", str(tmp_path / "old.json")]
    done = command([with_ratio(0.7)], baseline)
    assert done.exit_code == 1
    assert "1.40 times as much (bound 1.3)" in done.output
    assert command([with_ratio(0.7)], [*baseline, "--bound", "1.5"]).exit_code == 0


def test_an_error_is_told_and_ends_with_2(command: Command, tmp_path: Path) -> None:
    done = command([], ["--baseline", str(tmp_path / "none.json")])
    assert done.exit_code == 2
    assert "cannot be read" in done.output
    assert "no part is called 'nothing'" in command([], ["nothing"]).output
    assert command([], ["nothing"]).exit_code == 2


@pytest.mark.parametrize("error", [BenchError("the process ended"), IndexError("a mistake")])
def test_what_was_measured_before_an_error_is_kept(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(name: str, plan: Plan) -> Iterator[Row]:
        yield with_ratio(0.5)
        raise error

    monkeypatch.setattr(bench, "measured", broken)
    app = Typer()
    app.command()(bench.main)
    done = CliRunner().invoke(app, ["trie", "--json", str(tmp_path / "bench.json")])
    if isinstance(error, BenchError):
        assert done.exit_code == 2
        assert "trie: the process ended" in done.output
    else:
        assert done.exception is error
    assert len(Record.load(tmp_path / "bench.json").rows) == 1


def test_a_part_whose_packages_are_missing_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError("no module named torch")

    monkeypatch.setattr(bench, "import_module", missing)
    assert [row.note for row in bench.measured("search", Plan())] == ["skipped: no module named torch"]


@pytest.mark.slow
def test_small_tries_and_priors_are_right_and_quicker_than_their_yardsticks(tmp_path: Path) -> None:
    ended = fresh(["-m", "eval.bench", "trie", "priors", "--quick", "--json", str(tmp_path / "rows.json")])
    rows = Record.load(tmp_path / "rows.json").rows
    assert "trie: measuring" in ended.output
    assert any(row.equal for row in rows)
    assert not unequal(rows)
    builds = [row.ratio for row in rows if row.case.startswith("build") and row.arm == DICTS and row.ratio]
    assert len(builds) > 1
    assert min(builds) < 1  # a quarter with many items, about 1 with a thousand
