"""The page to try prompts on: from a change in a real browser to the list that follows it.

A change is what a user does: the next user, another sentence in the template, another weight. The clock of the browser
runs from the change to the first frame with the new list, so all of the page, the service and the model is in it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace

from playwright.sync_api import Page, sync_playwright

from eval.bench.plan import Plan
from eval.bench.rows import Row, rows_of, versions
from eval.bench.timing import BenchError, Measured
from eval.load import cpu_of, serving

CHANGES = 10
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
KINDS: Mapping[str, str] = {
    "the next user": "document.getElementById('next-user').click()",
    "another sentence in the template": "type(document.querySelector('.editor textarea'), (text) => "
    "text.replace(/Predict what this person|Guess number [0-9]+, what this person/, `Guess number ${turn}, what this "
    "person`))",
    "another weight of the model": "type(document.getElementById('lm-a'), () => String((20 + turn) / 1000))",
}
"""What is changed -> how, in JavaScript."""
TIMED = """(turn) => new Promise((done) => {
  const type = (field, edit) => {
    field.value = edit(field.value);
    field.dispatchEvent(new Event('input', { bubbles: true }));
  };
  const lists = document.getElementById('lists');
  let drawn = false;
  const began = performance.now();
  new MutationObserver((changes, observer) => {
    drawn ||= changes.some((one) => one.type === 'childList');
    if (!drawn || lists.getAttribute('aria-busy') !== 'false') return;
    observer.disconnect();
    requestAnimationFrame(() => done((performance.now() - began) / 1000));
  }).observe(lists, { childList: true, attributes: true });
  CHANGE;
})
"""


def run(plan: Plan) -> Iterator[Row]:
    """Measure; see `Part`."""
    browser = browser_path()
    about = Row(
        part="page", case="", arm="", items=len(plan.sample), k=10, threads=os.cpu_count(), unit="changes",
        versions=versions("torch", "transformers", "playwright"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as runs, sync_playwright() as playwright:
        options = ["--dataset", plan.catalogs[0], "--engine", "hf", "--playground", "--runs", runs, "--timeout", "290"]
        with serving(options) as (service, host, port):
            window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
            page = window.new_page()
            page.set_default_timeout(300_000)
            page.goto(f"http://{host}:{port}/playground")
            page.locator(".side-a .list > li").first.wait_for()
            for what in KINDS:
                took = Measured[None]()
                changed(page, what, 0)
                for turn in range(1, 1 + (3 if plan.quick else CHANGES)):
                    before = cpu_of(service)
                    took.wall_s.append(changed(page, what, turn))
                    took.cpu_s.append(cpu_of(service) - before)
                yield from rows_of(replace(about, case=f"a list after {what}"), {"llmgen": took})
            window.close()


def browser_path() -> str:
    """The system's Chromium.

    Raises:
        BenchError: There is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise BenchError("no Chromium on this machine; on Debian: apt install chromium")
    return found


def changed(page: Page, what: str, turn: int) -> float:
    """Seconds from a change to the list that follows.

    Args:
        page: That shows a list.
        what: See `KINDS`.
        turn: Makes each change another one.
    """
    seconds: float = page.evaluate(TIMED.replace("CHANGE", KINDS[what]), turn)
    return seconds
