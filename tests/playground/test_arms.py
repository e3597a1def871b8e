"""What an arm of the page may have, in a real browser: its model, pictures of its items, and time."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs llmgen[serve]")

import yaml
from playwright.sync_api import expect

from eval.bench.page import KINDS, changed
from llmgen.engines.fake import FakeEngine
from tests.playground.conftest import KEY, WAIT_MS, Look, Shop, settled, titles


class Held(FakeEngine):
    """Answers only while it may."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()

    def next_logprobs(self, steps: Any) -> Any:
        """Waits first."""
        assert self.go.wait(30)
        return super().next_logprobs(steps)


def test_each_arm_chooses_its_model(look: Look, shop: Shop) -> None:
    other = shop.settings.replace(engine="fake:other")
    none = shop.settings.replace(engine="none")
    with look(also=[(other, FakeEngine(seed=1)), (none, None)]) as (page, served):
        settled(page)
        page.get_by_label("Compare A and B").check()
        expect(page.locator(".moves line.same")).to_have_count(10)
        expect(page.locator("#model-b option")).to_have_text(["fake", "fake:other", "none"])
        page.locator("#model-b").select_option("none")
        expect(page.locator(".side-b .facts")).not_to_contain_text("round")
        expect(page.locator("#arm-b")).to_contain_text("the priors alone recommend")
        assert page.locator("#lm-b").count() == 0
        page.locator("#model-b").select_option("fake:other")
        expect(page.locator(".side-b .facts")).to_contain_text("round")
        for arm in ("a", "b"):
            page.locator(f"#tab-{arm}").click()
            page.locator(f"#lm-{arm}").fill("1")
        settled(page)
        expect(page.locator(".side-b .move.new, .side-b .move.up").first).to_be_visible()
        page.locator("#trial-users").fill("16")
        page.locator("#trial-name").fill("models")
        page.get_by_role("button", name="Save and start").click()
        expect(page.locator("#trial-status")).to_contain_text("Done.")
        config = yaml.safe_load((served.runs / "models" / "ab.yaml").read_text())
        assert [config["arms"][arm]["engine"] for arm in "AB"] == ["fake", "fake:other"]
        linked = page.context.new_page()
        linked.goto(page.url)
        expect(linked.locator("#model-b")).to_have_value("fake:other")


def test_what_takes_long_shows_for_how_long_and_can_be_cancelled(look: Look) -> None:
    engine = Held()
    with look(engine=engine) as (page, _):
        settled(page)
        before = titles(page)
        engine.go.clear()
        page.get_by_label("Length of the list").fill("7")
        expect(page.locator("#clock")).to_have_text(re.compile(r"^[12] s$"))
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#status")).to_have_text("Cancelled; the list is of what was asked before.")
        expect(page.locator("#waiting")).to_be_hidden()
        settled(page)
        assert titles(page) == before
        engine.go.set()
        page.get_by_label("Length of the list").fill("6")
        expect(page.locator(".side-a .list > li")).to_have_count(6)
        expect(page.locator("#waiting")).to_be_hidden()


def test_the_benchmark_times_a_change_until_its_list_is_there(look: Look) -> None:
    with look() as (page, _):
        settled(page)
        for what in KINDS:
            before = page.locator("#prompts").inner_text(), page.locator("#lists").inner_text()
            assert changed(page, what, 1) > 0.2  # the page waits so long for more changes
            assert before != (page.locator("#prompts").inner_text(), page.locator("#lists").inner_text())
        assert "Guess number 1, what this person" in page.locator("#prompts").inner_text()
        assert page.locator("#lm-a").input_value() == "0.021"


def test_pictures_come_from_the_catalogs_folder_alone(look: Look, pictured: Shop) -> None:
    """Item 1 has a picture of three pixels by two; the path of item 2 leads out of the folder; item 3 has none."""
    with look(KEY, shop=pictured, pictures=pictured.data.items.parent, fails=2) as (page, _):
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
        page.get_by_label("A newcomer").check()
        page.locator("#wish").fill("film")
        expect(page.locator(".side-a .list > li")).to_have_count(3)
        shown = page.locator(".side-a .list > li", has_text="First film")
        expect(shown.locator("img")).to_have_js_property("naturalWidth", 3)
        assert shown.locator("img").get_attribute("src", timeout=WAIT_MS).startswith("blob:")  # type: ignore[union-attr]
        expect(shown.locator(".inside")).not_to_contain_text("one.png")
        refused = page.locator(".side-a .list > li", has_text="Second film")
        expect(refused.locator(".lacking")).to_have_attribute("title", re.compile("outside of the catalog's folder"))
        assert page.locator(".side-a .list > li", has_text="Third film").locator(".picture").count() == 0
