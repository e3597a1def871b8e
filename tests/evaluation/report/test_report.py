"""The page's facts, read back from its HTML; positions in charts worked out by hand; one look by a real browser."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

from llmgen.evaluation.report import charts, result_texts, svg, terminal_report
from llmgen.evaluation.report import page as report
from llmgen.evaluation.results import (
    ArmSummary,
    Cost,
    Difference,
    Environment,
    Example,
    Interval,
    Results,
    SampleSummary,
    Shown,
    SliceRow,
)

HOSTILE = [
    '<script>alert("x")</script>',
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "</pre></title><b>",
    "&lt;b&gt;",
]
FILMS = [
    "Fargo (1996)", "Secrets & Lies (1996)", "Lone Star (1996)", "Trainspotting (1996)", "Big Night (1996)",
    "L.A. Confidential (1997)", "Good Will Hunting (1997)", "Boogie Nights (1997)", "Heat (1995)", "Se7en (1995)",
    "Leaving Las Vegas (1995)", "Dead Man Walking (1995)", "The Usual Suspects (1995)", "Babe (1995)",
    "Cyrano de Bergerac (1990)", "七人の侍 (1954)", "Солярис (1972)", "Delicatessen (1991)",
    "Dr. Strangelove or: How I Learned to Stop Worrying and Love the Bomb (1963)", "Хрусталёв, машину! (1998)",
]  # fmt: skip
METRICS = ("hr@10", "ndcg@10", "mrr@10")
BASELINE, TASTE, TUNED = "next_item", "next_item_taste", "next_item_list, tuned"
PARTS = {
    "history length": [("1–20 items", 212), ("21–60 items", 401), ("61 and more", 330)],
    "popularity of the held-out item": [("head", 540), ("middle", 301), ("tail", 102)],
    "genres": [("Drama", 392), ("Comedy", 310), ("Thriller", 177), ("Film-Noir", 22)],
}


def interval(mean: float, half: float) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half)


def cost(seconds: float, **changed: Any) -> Cost:
    given: dict[str, Any] = {"prompt_tokens": 212.4, "rounds": 3.1}
    given |= {"cold_p50_s": 0.41, "cold_p95_s": 0.88, "warm_p50_s": 0.11, "warm_p95_s": 0.23}
    return Cost(**{**given, "seconds_per_1000": seconds, "money_per_1000": None, **changed})


def arm(name: str, means: tuple[float, ...], *, seconds: float | None, **changed: Any) -> ArmSummary:
    given: dict[str, Any] = {
        "name": name,
        "kind": "arm" if seconds is not None else "baseline",
        "settings": {
            "engine": "hf:SmolLM2-135M",
            "lm_weight": 0.1,
            "priors": {"transition": {"window": 20}},
            "seen": False,
        },
        "prompt": f"{name}@b934d405b375" if seconds is not None else "",
        "metrics": {metric: interval(mean, 0.01 + mean / 12) for metric, mean in zip(METRICS, means, strict=True)},
        "lists": {"coverage@10": 0.312, "gini@10": 0.91, "novelty@10": 2.13, "popularity_lift@10": 0.71, "exact": 1.0},
        "cost": None if seconds is None else cost(seconds),
    }
    return ArmSummary(**{**given, **changed})


def difference(arm: str, metric: str, mean: float, half: float, p: float, **changed: Any) -> Difference:
    test = "McNemar" if metric.startswith("hr") else "permutation"
    given: dict[str, Any] = {"wins": 90, "ties": 790, "losses": 63, "test": test, "effect": mean / 0.2}
    given |= {"p": p, "p_holm": min(1.0, 2 * p) if metric == "ndcg@10" else None, "detectable": half * 1.4}
    return Difference(arm=arm, metric=metric, mean=mean, low=mean - half, high=mean + half, **{**given, **changed})


def shown(rng: random.Random, prompt: str, hit: str | None, titles: list[str]) -> Shown:
    items = rng.sample([title for title in titles if title != hit], 9)
    place = rng.randrange(10)
    if hit is not None:
        items.insert(place, hit)
    return Shown(prompt=prompt, items=tuple(items), hits=tuple(i == hit for i in items), value=0.63 if hit else 0.0)


def examples(titles: list[str]) -> tuple[Example, ...]:
    rng = random.Random(0)
    found = []
    for number in range(6):
        held_out = titles[number]
        history = rng.sample([title for title in titles if title != held_out], 8)
        rest = [title for title in titles if title not in history]
        listed = "\n".join(f"- {title}" for title in history)
        prompt = f"system: You recommend films.\n\nuser: Taken so far, oldest first:\n{listed}\nRecommend 10 more."
        answers = {
            name: shown(rng, prompt, held_out if (number + place) % 3 else None, rest)
            for place, name in enumerate((BASELINE, TASTE, TUNED))
        }
        user = str(196 + number)
        found.append(Example(user=user, history=tuple(history), held_out=(held_out,), answers=answers))
    return tuple(found)


def results(**changed: Any) -> Results:
    """Three arms and four classic baselines, as a run on MovieLens-100K would give them."""
    rng = random.Random(0)
    means = {BASELINE: (0.2312, 0.1206, 0.0871), TASTE: (0.2344, 0.1237, 0.0902), TUNED: (0.2651, 0.1423, 0.1052)}
    gains = {TASTE: (0.0032, 0.0031, 0.0031), TUNED: (0.0339, 0.0217, 0.0181)}
    changes = {TASTE: (0.04, 0.03), TUNED: (0.05, 0.09)}
    gain = {TASTE: 0.003, TUNED: 0.02}
    given: dict[str, Any] = {
        "verdict": "next_item_list, tuned is better than next_item: NDCG@10 rises by 0.022, from 0.121 to 0.142.",
        "metric": "ndcg@10",
        "baseline": BASELINE,
        "sample": SampleSummary(
            dataset="movielens-100k",
            users=943,
            items=1681,
            digest="5c1b2f90aa17",
            catalog="9f86d081884c",
            data="e3b0c44298fc",
            protocol={"split": "leave-one-out", "ties": "file", "k": 10, "seed": 0, "max_users": None},
        ),
        "environment": Environment(
            command="llmgen ab --prompts next_item next_item_taste --config eval/configs/movies.yaml --seed 0",
            commit="c9395b9",
            started="2026-11-25T10:12:00+00:00",
            hardware="AMD EPYC, 2 cores, no GPU",
            versions={"python": "3.11.9", "llmgen": "0.1.0", "numpy": "2.1.0"},
        ),
        "arms": (
            arm(BASELINE, means[BASELINE], seconds=118.0),
            arm(TASTE, means[TASTE], seconds=301.0),
            arm(TUNED, means[TUNED], seconds=240.0),
            arm("popularity", (0.0859, 0.0439, 0.0311), seconds=None),
            arm("item_knn", (0.1835, 0.0996, 0.0744), seconds=None),
            arm("ease", (0.1951, 0.1025, 0.0761), seconds=None),
            arm("transition", (0.2301, 0.1190, 0.0858), seconds=None),
        ),
        "differences": tuple(
            difference(name, metric, gains[name][place], 0.016 - 0.003 * place, 0.31 if name == TASTE else 0.0004)
            for name in gains
            for place, metric in enumerate(METRICS)
        ),
        "slices": tuple(
            SliceRow(
                by=by,
                value=value,
                users=users,
                arm=name,
                metric="ndcg@10",
                arm_mean=0.12,
                difference=None if name == BASELINE else interval(gain[name] + rng.gauss(0, 0.01), 0.3 / users**0.5),
            )
            for by, parts in PARTS.items()
            for value, users in parts
            for name in (BASELINE, TASTE, TUNED)
        ),
        "per_user": {
            name: sorted(
                [-rng.choice((0.07, 0.13, 0.2, 0.37, 0.63)) for _ in range(int(943 * lose))]
                + [rng.choice((0.04, 0.1, 0.29, 0.39, 0.5, 1.0)) for _ in range(int(943 * win))]
                + [0.0] * (943 - int(943 * lose) - int(943 * win))
            )
            for name, (lose, win) in changes.items()
        },
        "examples": examples(FILMS),
        "notes": (
            "Items that tie with the held-out one count against it.",
            "Seen items are removed; every hyper-parameter was chosen on the validation item.",
        ),
    }
    return Results(**{**given, **changed})


class Page(HTMLParser):
    """What the tests ask of a page: its tags with their attributes, its text, and its charts as XML."""

    VOID = frozenset({"meta", "link", "br", "wbr", "img"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.open: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.charts = [
            ElementTree.fromstring(svg) for svg in re.findall(r"<svg class=\"chart\".*?</svg>", source, re.S)
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def chart(self, id: str) -> ElementTree.Element:
        return next(chart for chart in self.charts if chart.get("aria-labelledby", "").startswith(f"{id}-title"))


def rows_of(chart: ElementTree.Element) -> Iterator[tuple[str, ElementTree.Element]]:
    """The rows of a forest plot from top to bottom: their label and themselves."""
    for row in chart.iterfind("g[@class='row']"):
        yield row.findtext("text[@class='label']") or "", row


def middle(row: ElementTree.Element) -> float:
    """Where the mark of a row is, across."""
    circle, path = row.find("circle"), row.find("path")
    if circle is not None:
        return float(circle.attrib["cx"])
    assert path is not None
    return float(path.attrib["d"].removeprefix("M").split()[0])


def crowded() -> Results:
    """Eight arms, six metrics, a thousand rows of slices; names are long, hostile, and not Latin."""
    names = [BASELINE, "SmolLM2-135M-Instruct × mix, next_item_list, 40 newest, seed 1", "推薦システム", *HOSTILE]
    metrics = ("hr@10", "ndcg@10", "mrr@10", "recall@50", "rmse", "novelty@10")
    measured = {metric: interval(7.0 if metric == "novelty@10" else 0.2, 0.01) for metric in metrics}
    parts = [f"part {number}" for number in range(42)]
    return results(
        verdict=f"Nothing is better than {HOSTILE[0]}.",
        arms=tuple(arm(name, (0.1, 0.1, 0.1), seconds=float(i), metrics=measured) for i, name in enumerate(names)),
        differences=tuple(difference(name, metric, 0.01, 0.02, 0.2) for name in names[1:] for metric in metrics),
        slices=tuple(
            SliceRow(by=by, value=part, users=number + 1, arm=name, metric="ndcg@10", arm_mean=0.1, difference=given)
            for by in ("genres", HOSTILE[0], "year")
            for number, part in enumerate(parts)
            for name in names
            for given in [None if name == BASELINE else interval(0.01, 0.02)]
        ),
        per_user={name: [-0.1, 0.0, 0.2] for name in names[1:]},
        examples=examples([*HOSTILE, "Ж" * 200, *FILMS[:12]]),
        notes=tuple(HOSTILE),
    )


def alone() -> Results:
    """What one recommender gives, without another to compare it with."""
    full = results()
    return results(
        arms=full.arms[:1],
        differences=(),
        slices=tuple(row for row in full.slices if row.arm == BASELINE),
        per_user={},
        verdict="next_item finds 12 of 100.",
    )


@pytest.mark.parametrize("made", [results, crowded, alone], ids=["usual", "crowded", "alone"])
def test_nothing_runs_and_nothing_is_fetched(made: Any) -> None:
    source = report.render(made())
    page = Page(source)
    names = {name for _, attributes in page.tags for name in attributes}
    links = [attributes[name] for _, attributes in page.tags for name in ("href", "src") if attributes.get(name)]
    assert not {"script", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    assert not [name for name in names if name.startswith("on")]
    assert {link for link in links if not link.startswith("#")} == {"data:,"}  # no icon is asked for either
    assert "url(" not in source and "@import" not in source
    assert not re.search(r"\bnan\b|\binf\b|Infinity|\bNone\b", page.text)


@pytest.mark.parametrize("made", [results, crowded, alone], ids=["usual", "crowded", "alone"])
def test_links_and_labels_lead_somewhere(made: Any) -> None:
    page = Page(report.render(made()))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.tags:
        wanted = (attributes.get("aria-labelledby") or "").split() + [(attributes.get("href") or "")[1:]] * (tag == "a")
        assert set(wanted) <= set(ids)
        if tag == "th":
            assert attributes.get("scope")
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
    tables = [tag for tag, _ in page.tags if tag in ("table", "caption")]
    assert tables == ["table", "caption"] * (len(tables) // 2)
    assert all(chart.findtext("title") and chart.findtext("desc") for chart in page.charts)


def test_every_mean_and_difference_stands_on_the_page() -> None:
    given = results()
    text = Page(report.render(given)).text
    assert given.verdict in text and "943 users" in text
    for summary in given.arms:
        assert summary.name in text
        assert all(f"{found.mean:.4f}" in text for found in summary.metrics.values())
    for row in given.differences:
        assert f"+{row.mean:.4f}" in text
    for name in ("+0.0217  p < .001  Holm .001", "b934d405b375", "5c1b2f90aa17", "c9395b9", "priors.transition.window"):
        assert name in text


def test_points_of_a_forest_lie_where_their_values_say() -> None:
    rows = [charts.Row("a", "", 0.02, 0.01, 0.03, "better"), charts.Row("b", "", -0.04, -0.05, 0.0, "unclear")]
    chart = ElementTree.fromstring(charts.forest("f", "t", rows, svg.Scale(-0.1, 0.1, 0, 200), ends=("l", "r")))
    found = dict(rows_of(chart))
    assert list(found) == ["a", "b"]
    assert middle(found["a"]) == 100 + 0.02 * 1000
    assert middle(found["b"]) == 100 - 0.04 * 1000
    whisker = found["b"].findall("line")[-1]
    assert (whisker.get("x1"), whisker.get("x2")) == ("50.0", "100.0")


def test_metrics_of_one_unit_share_a_scale() -> None:
    page = Page(report.render(results()))
    positions: dict[float, float] = {}
    for place, metric in enumerate(("ndcg@10", "hr@10", "mrr@10")):
        means = [row.mean for row in results().differences if row.metric == metric]
        rows = [row for _, row in rows_of(page.chart(f"forest-{place}"))]
        positions |= dict(zip(means, map(middle, rows), strict=True))
    (low, at_low), *_, (high, at_high) = sorted(positions.items())
    for value, at in positions.items():
        assert at == pytest.approx(at_low + (value - low) / (high - low) * (at_high - at_low), abs=0.2)


def test_what_holds_is_a_diamond_and_what_may_be_chance_a_circle() -> None:
    row = difference("x", "rmse", 0.03, 0.01, 0.001)
    assert charts.Row("x", "", 0.03, 0.02, 0.04).mark == "plain"
    marks = [(name, row.find("path") is not None) for name, row in rows_of(Page(report.render(results())).charts[0])]
    assert marks == [(TASTE, False), (TUNED, True)]
    assert result_texts.mark_of(row) == "plain"  # not tested
    row = row.model_copy(update={"p_holm": 0.001})
    assert result_texts.mark_of(row) == "worse"  # a larger error
    assert result_texts.mark_of(row.model_copy(update={"metric": "hr@10"})) == "better"
    assert result_texts.mark_of(row.model_copy(update={"metric": "position_bias"})) == "differs"
    assert result_texts.mark_of(row.model_copy(update={"p_holm": 0.05})) == "unclear"


def test_hostile_words_stay_words() -> None:
    source = report.render(crowded())
    page = Page(source)
    for words in HOSTILE:
        assert words in page.text
    assert "<script" not in source.lower() and "<img" not in source.lower()
    labels = [chart.findtext("title") or "" for chart in page.charts]
    assert any(HOSTILE[0] in label for label in labels)


def test_the_main_arm_alone_is_a_whole_page() -> None:
    page = Page(report.render(alone()))
    assert "only next_item was run" in page.text
    assert "Only one arm has a measured cost" in page.text
    assert "0.1206" in page.text and "1–20 items" in page.text and "★" not in page.text
    assert not page.charts


def test_a_page_without_slices_examples_users_and_cost() -> None:
    bare = tuple(summary.model_copy(update={"cost": None, "lists": {}}) for summary in results().arms)
    page = Page(report.render(results(arms=bare, slices=(), examples=(), per_user={}, notes=())))
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert not {"slices", "examples", "users"} & ids and {"differences", "arms", "cost", "made"} <= ids
    assert "No cost was measured" in page.text


def test_a_thousand_slices_are_cut_and_said_to_be() -> None:
    given = crowded()
    assert len(given.slices) > 1000
    page = Page(report.render(given))
    rows = [label for label, _ in rows_of(page.chart("slices-0-0"))]
    assert rows == [f"part {number}" for number in range(30, 42)]  # the largest, in the order given
    assert "the 12 largest slices are shown; 30 smaller ones are in results.json" in page.text


def test_numbers_that_are_none_become_dashes() -> None:
    rows = (difference(TASTE, "ndcg@10", nan, nan, nan, effect=inf), *results().differences[2:])
    empty = arm(BASELINE, (nan, 0.2, 0.1), seconds=nan)
    given = results(differences=rows, arms=(empty, *results().arms[1:]), per_user={TASTE: [nan, 0.0, 0.1]})
    page = Page(report.render(given))
    assert not re.search(r"nan|inf\b", page.text, re.IGNORECASE)
    assert not re.search(r"\"nan|\bnan\b", report.render(given))


def test_users_without_a_difference_are_counted_but_not_drawn() -> None:
    values = [-0.3, 0.0, 0.0, 0.0, 0.1, 0.1, 1.0]
    scale = svg.Scale(-1, 1, charts.LEFT, charts.RIGHT)
    assert charts.counts(values, scale, bins=4) == [0, 1, 2, 1]
    page = Page(report.render(results(per_user={TUNED: values})))
    assert "1 lose" in page.text and "3 same" in page.text and "3 gain" in page.text
    assert "43\u00a0% of 7 users: exactly zero" in page.text


def test_the_front_is_what_no_arm_beats() -> None:
    points = [(1.0, 0.10), (2.0, 0.30), (2.0, 0.20), (3.0, 0.30), (4.0, 0.40), (5.0, 0.05)]
    assert charts.pareto(points) == [0, 1, 4]
    assert charts.pareto(points, lower_is_better=True) == [0, 5]
    assert charts.pareto([(1.0, 0.1), (1.0, 0.1)]) == [0, 1]
    assert report.front(results()) == {BASELINE, TUNED}


def test_costs_far_apart_get_a_logarithmic_axis_unless_one_is_zero() -> None:
    def ticks(*costs: float) -> list[str]:
        points = [charts.Point(f"arm {cost}", cost, 0.1 + cost / 1000, 0.05, 0.5) for cost in costs]
        chart = ElementTree.fromstring(charts.cost_quality("c", "t", points, axes=("s", "m")))
        return [text.text or "" for text in chart.iterfind("text[@class='tick mid']")]

    assert ticks(1, 100) == ["1", "2", "5", "10", "20", "50", "100"]
    assert ticks(100, 300) == ["0", "100", "200", "300"]
    assert ticks(0, 300) == ["0", "100", "200", "300"]
    assert ticks(0, 0)[0] == "0"


def test_best_values_are_marked_ties_too() -> None:
    best = report.best(results(arms=(*results().arms, arm("copy", (0.1, 0.1423, 0.1), seconds=1.0))))
    assert best["ndcg@10"] == {TUNED, "copy"}
    assert best["hr@10"] == {TUNED}


def test_hits_are_told_in_words() -> None:
    example = Example(
        user="u", history=(), held_out=("Heat (1995)",),
        answers={BASELINE: Shown(prompt="", items=("Babe (1995)", "Heat (1995)"), hits=(False, True), value=0.63)},
    )  # fmt: skip
    text = " ".join(Page(report.render(results(examples=(example,)))).text.split())
    assert "Babe (1995) Heat (1995) ✓ hit" in text


@pytest.mark.parametrize("made", [results, crowded, alone], ids=["usual", "crowded", "alone"])
@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_terminal_shows_it_whole(made: Any, width: int) -> None:
    given = made()
    with (console := Console(width=width, color_system=None)).capture() as capture:
        terminal_report.show(given, console)
    lines = capture.get().splitlines()
    numbers = re.findall(r"\*?(\d\.\d{4}) \[", capture.get())
    assert max(map(cell_len, lines)) <= width
    assert given.verdict in " ".join(capture.get().split())
    assert len(numbers) == sum(len(summary.metrics) for summary in given.arms) + len(given.differences)
    assert sum("Seconds per 1,000 users" in line for line in lines) == 1
    assert not any("…" in line and "[" not in line for line in lines)  # no number is cut off


def test_writing_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old", encoding="utf-8")
    path = report.write(results(), tmp_path)
    assert path == tmp_path / "report.html"
    assert path.read_text(encoding="utf-8") == report.render(results())
    assert list(tmp_path.iterdir()) == [path]


def test_the_command_renders_stored_results_again(tmp_path: Path) -> None:
    stored = results().write(tmp_path)
    assert CliRunner().invoke(report.app, [str(tmp_path)]).exit_code == 0
    other = tmp_path / "other.html"
    found = CliRunner().invoke(report.app, [str(stored), "--out", str(other)])
    assert found.exit_code == 0 and results().verdict in " ".join(found.output.split())
    assert other.read_text(encoding="utf-8") == (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"version": 99}', '{"version": 1, "verdict": "[/] cut"}'])
def test_a_missing_or_broken_file_is_told_with_exit_code_2(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "results.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    found = CliRunner().invoke(report.app, [str(path)])
    assert found.exit_code == 2
    assert found.output.startswith("error: ") and str(path) in found.output and "Traceback" not in found.output
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_told_with_exit_code_2(tmp_path: Path) -> None:
    stored = results().write(tmp_path)
    found = CliRunner().invoke(report.app, [str(stored), "--out", str(tmp_path / "no" / "page.html")])
    assert found.exit_code == 2 and "cannot write" in found.output


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on this machine")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_complaint(tmp_path: Path, width: int) -> None:
    assert BROWSER is not None
    (tmp_path / "blank.html").write_text("<!doctype html><title>blank</title>", encoding="utf-8")
    sizes = []
    for page in (tmp_path / "blank.html", report.write(results(), tmp_path)):
        picture = page.with_suffix(".png")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
        flags += [f"--screenshot={picture}", f"--window-size={width},2000", f"--user-data-dir={tmp_path / 'profile'}"]
        ran = subprocess.run([BROWSER, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
        assert "CONSOLE" not in ran.stderr
        sizes.append(picture.stat().st_size)
    assert sizes[1] > 5 * sizes[0]
