"""The pictures of the tutorial on the page to try prompts on, taken of the real page over the demo model.

    python -m eval.screenshots --out docs/tutorials/images

Wide and narrow, light and dark: one arm and two, the A/B test, and a phone. Each is a WebP of some 50 KB.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from eval.bench.page import browser_path
from eval.load import serving

WIDE, NARROW = (1280, 900), (390, 844)
WAIT_MS = 280_000


def main() -> None:
    """Start a service, take the pictures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/tutorials/images"))
    parser.add_argument("--dataset", default="movielens-100k")
    parser.add_argument("--engine", default="hf")
    given = parser.parse_args()
    expect.set_options(timeout=WAIT_MS)
    with tempfile.TemporaryDirectory() as runs, sync_playwright() as playwright:
        options = ["--dataset", given.dataset, "--engine", given.engine, "--also", "none", "--timeout", "290"]
        with serving([*options, "--playground", "--runs", runs]) as (_, host, port):
            browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
            address = f"http://{host}:{port}/playground"
            for name, size, dark, show in (
                ("playground", WIDE, False, one),
                ("playground-two", WIDE, True, two),
                ("playground-phone", NARROW, False, one),
                ("playground-phone-two", NARROW, True, two),
            ):
                picture = taken(browser, address, size, dark, show)
                path = given.out / f"{name}.webp"
                picture.save(path, quality=70, method=6)
                print(f"{path}: {path.stat().st_size / 1000:.0f} KB")
            browser.close()


def taken(
    browser: Browser, address: str, size: tuple[int, int], dark: bool, show: Callable[[Page], None]
) -> Image.Image:
    """What a window of this size shows."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    for _ in range(2):  # the second time the prompt is known, as after a change of a weight
        page.goto(address)
        page.reload()
        settled(page)
    show(page)
    settled(page)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return picture


def one(page: Page) -> None:
    """The list of one arm, all but its first item closed; narrow, the list and not what is asked."""
    page.evaluate("document.querySelectorAll('.list details').forEach((row, n) => { row.open = n < 1; })")
    scrolled(page, "#answers")


def two(page: Page) -> None:
    """Two arms: another weight and another sentence."""
    page.get_by_label("Compare A and B").check()
    settled(page)
    wording = page.locator("#arm-b").get_by_label("Wording")
    wording.fill(wording.input_value().replace("Predict what", "The newest say most. Predict what"))
    page.locator("#lm-b").fill("0.2")
    settled(page)
    page.reload()  # the link holds the state; the prompts are known then
    settled(page)
    expect(page.locator(".side-b .list > li")).to_have_count(10)
    scrolled(page, "#answers")


def scrolled(page: Page, place: str) -> None:
    """A wide window to the top, a narrow one to a place."""
    page.evaluate("scrollTo(0, 0)")
    if page.viewport_size and page.viewport_size["width"] < WIDE[0]:
        page.locator(place).evaluate("(element) => element.scrollIntoView({ block: 'start' })")


def settled(page: Page) -> None:
    """Until the lists are there."""
    expect(page.locator("#lists")).to_have_attribute("aria-busy", "false")
    expect(page.locator(".side-a .list > li")).to_have_count(10)


if __name__ == "__main__":
    main()
