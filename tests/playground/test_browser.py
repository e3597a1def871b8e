"""The page in a real browser: the system's Chromium, moved by Playwright."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs llmgen[serve]")

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Page, expect

from tests.playground.conftest import HOSTILE, KEY, Look, settled, titles


def test_a_first_list_a_wish_and_a_weight(look: Look) -> None:
    with look() as (page, served):
        expect(page.locator(".side-a .list > li")).to_have_count(10)
        expect(page.get_by_role("combobox", name="User")).to_have_value("u0")
        expect(page.locator(".held-out")).to_contain_text("held out")
        expect(page.locator("#prompts")).to_contain_text("6 of 6 items of the history")
        first = titles(page)
        page.get_by_role("slider", name="Weight of the model").focus()
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        expect(page.locator("#lm-a")).not_to_have_value("0.03")
        settled(page)
        expect(page.locator(".side-a .title").first).not_to_have_text(first[0])
        assert titles(page) != first
        page.get_by_label("A newcomer").check()
        expect(page.locator("#status")).to_have_text("Type a wish.")
        page.locator("#wish").fill("alien queen")
        expect(page.locator(".side-a .title").first).to_have_text("The Alien Queen")
        expect(page.locator("#prompts")).to_contain_text("Request: alien queen")
        assert not served.runs.exists()


def test_the_weight_is_dragged_with_the_mouse(look: Look) -> None:
    with look() as (page, _):
        settled(page)
        slider = page.get_by_role("slider", name="Prior transition")
        slider.scroll_into_view_if_needed()
        box = slider.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2, steps=5)
        page.mouse.up()
        weight = float(page.locator("#prior-transition-a").input_value())
        assert abs(weight) < 0.05
        term = page.locator(".side-a .list > li").first.locator("tr", has_text="transition").locator(".value")
        expect(term).to_have_text(re.compile(r"^[+−]0\.0\d$"))


def test_a_wording_with_a_mistake_and_without(look: Look) -> None:
    with look() as (page, _):
        settled(page)
        before = titles(page)
        wording = page.get_by_label("Wording")
        text = wording.input_value()
        wording.fill(text.replace("listing(history)", "listing(histroy)"))
        line = 1 + text[: text.index("listing(history)")].count("\n")
        expect(page.locator(".problems li")).to_contain_text(f"Line {line}: 'histroy' is not a variable")
        expect(wording).to_have_attribute("aria-invalid", "true")
        expect(page.locator("#status")).to_contain_text("The wording has an error")
        assert titles(page) == before
        wording.fill(text.replace("Predict what", "Guess, please, what"))
        expect(page.locator("#prompts")).to_contain_text("Guess, please, what this person chooses next.")
        expect(page.locator(".problems li")).to_have_count(0)
        expect(wording).to_have_attribute("aria-invalid", "false")
        page.get_by_role("button", name="Back to the file").click()
        expect(page.locator("#prompts")).to_contain_text("Predict what")


def test_variables_are_completed_from_the_keyboard(look: Look) -> None:
    with look() as (page, _):
        settled(page)
        wording = page.get_by_label("Wording")
        wording.focus()
        page.keyboard.press("Control+End")
        page.keyboard.type("{{ hi")
        options = page.get_by_role("listbox", name="Variables of the task")
        expect(options.get_by_role("option")).to_have_text(["history"])
        page.keyboard.press("Enter")
        expect(wording).to_have_value(re.compile(r"\{\{ history$"))
        page.keyboard.press("Control+ ")
        expect(options).to_be_hidden()  # nothing is left to complete
        page.keyboard.type(" }} {% if ")
        page.keyboard.press("Control+ ")
        expect(options.get_by_role("option")).to_have_text(["history", "k", "noun", "nouns", "wish"])
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Tab")
        expect(wording).to_have_value(re.compile(r"\{% if k$"))
        page.keyboard.press("Escape")


def test_a_history_is_put_together_and_filters_hold(look: Look) -> None:
    with look() as (page, _):
        page.get_by_label("A history of your own").check()
        field = page.get_by_role("combobox", name="Add a film")
        field.press_sequentially("ali")
        expect(page.locator("li[role=option]:visible")).to_have_text(["Alien", "Aliens", "The Alien Queen"])
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#who .chips li")).to_have_text(["Aliens×"])
        expect(page.locator("#prompts")).to_contain_text("- Aliens")
        assert "Aliens" not in titles(page)
        page.get_by_role("button", name="Add a filter").click()
        page.get_by_role("combobox", name="Attribute").select_option("year")
        page.get_by_role("combobox", name="Allowed year").fill("1970..1973")
        page.keyboard.press("Enter")
        expect(page.locator(".side-a .list > li")).to_have_count(4)
        assert sorted(titles(page)) == ["Film 10", "Film 11", "Film 12", "Film 13"]
        page.get_by_role("button", name="Remove Aliens").click()
        expect(page.locator("#prompts")).to_contain_text("(nothing yet)")


def test_the_other_tasks(look: Look) -> None:
    with look() as (page, _):
        settled(page)
        page.locator("#task").select_option("rate")
        expect(page.locator("#status")).to_have_text("Add a film.")
        page.get_by_role("combobox", name="Add a film").press_sequentially("alien")
        page.locator("li[role=option]:visible").first.click()
        expect(page.locator(".ratings > li")).to_contain_text("on average, most likely")
        page.locator("#task").select_option("rerank")
        page.get_by_role("combobox", name="Add a film").press_sequentially("queen")
        page.locator("li[role=option]:visible").first.click()
        expect(page.locator(".side-a .list > li")).to_have_count(2)
        page.locator("#task").select_option("explain")
        expect(page.locator("blockquote")).to_have_text("It fits what was taken before.")


def test_two_side_by_side_ten_users_and_the_link(look: Look) -> None:
    with look() as (page, served):
        settled(page)
        page.get_by_label("Compare A and B").check()
        expect(page.locator(".moves line.same")).to_have_count(10)
        page.locator("#lm-b").fill("2")
        expect(page.locator(".side-b .move.up, .side-b .move.new").first).to_be_visible()
        settled(page)
        a, b = titles(page), titles(page, "b")
        assert a != b
        assert page.locator(".moves line.gone").count() == len(set(a) - set(b))
        assert page.locator(".moves line.new").count() == len(set(b) - set(a))
        up = sum(b.index(title) < a.index(title) for title in set(a) & set(b))
        assert page.locator(".moves line.up").count() == page.locator(".side-b .move.up").count() == up
        page.get_by_role("button", name="Ask the next ten").click()
        expect(page.locator("#ten-answers")).to_contain_text("10 of 10 users")
        expect(page.locator(".users tbody tr")).to_have_count(10)
        other = page.context.new_page()
        other.goto(page.url)
        expect(other.locator(".side-b .list > li")).to_have_count(10)
        settled(other)
        assert (titles(other), titles(other, "b")) == (a, b)
        page.locator(".users tbody tr").nth(2).get_by_role("button").click()
        expect(page.get_by_role("combobox", name="User")).to_have_value("u3")
        assert not served.runs.exists()


def test_an_ab_test_starts_and_ends_in_the_report(look: Look) -> None:
    with look(fails=1) as (page, served):
        settled(page)
        page.get_by_label("Compare A and B").check()
        page.locator("#lm-b").fill("2")
        settled(page)
        page.locator("#trial-users").fill("20")
        page.locator("#trial-name").fill("louder")
        page.get_by_role("button", name="Save and start").click()
        expect(page.locator("#trial-status")).to_contain_text("Done.")
        expect(page.locator("#trial-status")).to_contain_text("after 20 users of 20")
        expect(page.locator(".verdict")).to_contain_text("B")
        expect(page.locator("#run pre")).to_contain_text("llmgen ab --config")
        with page.context.expect_page() as opened:
            page.get_by_role("button", name="Open the report").click()
        expect(opened.value.locator("h1")).to_be_visible()
        assert (served.runs / "louder" / "ab.yaml").exists()
        page.locator("#trial-name").fill("louder")
        page.get_by_role("button", name="Save only").click()
        expect(page.locator("#problem")).to_contain_text("nothing is written over")
        page.locator("#trial-name").fill("louder-again")
        page.get_by_role("button", name="Save only").click()
        expect(page.locator("#saved pre")).to_contain_text("louder-again")


def test_html_in_titles_wishes_and_wordings_is_shown_as_text(look: Look) -> None:
    with look() as (page, _):
        settled(page)
        page.get_by_label("Length of the list").fill("30")
        expect(page.locator(".side-a .list > li")).to_have_count(24)
        assert HOSTILE in titles(page)
        assert HOSTILE in page.locator(".held-out").inner_text()
        page.locator("#wish").fill(HOSTILE)
        expect(page.locator("#prompts")).to_contain_text(f"This time the person asks for: {HOSTILE}")
        wording = page.get_by_label("Wording")
        wording.fill(wording.input_value().replace("Predict what", f"{HOSTILE}</textarea></pre> Predict what"))
        expect(page.locator("#prompts")).to_contain_text(f"{HOSTILE}</textarea></pre> Predict what")
        assert HOSTILE in page.locator(".copy").inner_text()
        wording.fill(f"---\n{HOSTILE}: {{{{\n---\n")
        expect(page.locator(".problems li")).to_have_count(1)
        page.get_by_label("A history of your own").check()
        page.get_by_role("combobox", name="Add a film").press_sequentially("<img")
        expect(page.locator("li[role=option]:visible")).to_have_text([HOSTILE])
        page.keyboard.press("Enter")
        expect(page.locator("#who .chips li")).to_have_text([f"{HOSTILE}×"])
        page.get_by_label("Compare A and B").check()
        assert page.title() == "llmgen playground"
        assert page.locator("img, main script, iframe").count() == 0


def test_a_script_that_got_into_the_page_would_not_run(look: Look) -> None:
    """The second wall: what the policy forbids stays forbidden even where the first one had a hole."""
    with look(blocked=1) as (page, _):
        settled(page)
        tried = """(text) => { try { document.getElementById('lists').innerHTML = text; return 'taken'; }
                               catch (error) { return error.name; } }"""
        assert page.evaluate(tried, HOSTILE) == "TypeError"
        assert page.title() == "llmgen playground"


def test_a_key_is_asked_for_and_a_wrong_one_is_told(look: Look) -> None:
    with look(KEY, fails=2) as (page, _):
        key = page.get_by_label("API key")
        key.fill("wrong-key-of-the-tests")
        page.keyboard.press("Enter")
        expect(page.locator("#problem")).to_have_text("This API key is wrong.")
        key.fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator(".side-a .list > li")).to_have_count(10)
        expect(page.locator("#problem")).to_be_hidden()
        assert KEY not in page.url


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_axe_finds_no_fault_and_nothing_is_wider_than_the_screen(
    look: Look, tmp_path: Path, width: int, dark: bool
) -> None:
    with look(width=width, dark=dark) as (page, _):
        settled(page)
        faults = [*axe(page)]
        page.get_by_label("Compare A and B").check()
        page.locator("#lm-b").fill("2")
        page.get_by_role("button", name="Add a filter").click()
        page.get_by_label("A history of your own").check()
        page.get_by_role("combobox", name="Add a film").press_sequentially("ali")
        expect(page.locator("li[role=option]:visible")).to_have_count(3)
        faults += axe(page)
        page.keyboard.press("Enter")
        wording = page.locator("#arm-b").get_by_label("Wording")
        wording.fill(wording.input_value().replace("history", "histroy"))
        expect(page.locator(".problems li")).to_have_count(1)
        page.get_by_role("button", name="Ask the next ten").click()
        expect(page.locator("#problem")).to_contain_text("mend it first")
        faults += axe(page)
        assert faults == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        picture = page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert len(picture) > 30_000


def axe(page: Page) -> list[str]:
    """Every fault that axe-core names, with the first element that has it."""
    page.evaluate(Path(AXE_FILE_PATH).read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found["violations"]]
