"""The page as one text that loads nothing, and the policy that a browser holds it to."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

SCRIPTS = ("dom.js", "state.js", "server.js", "editor.js", "who.js", "arms.js", "answers.js", "users.js", "trial.js",
           "main.js")  # fmt: skip


class Page(NamedTuple):
    """What a browser is given.

    Attributes:
        html: With its style and its script inside.
        headers: That go with it.
    """

    html: str
    headers: dict[str, str]


@cache
def page() -> Page:
    """The page, put together once.

    The policy allows the one style and the one script that are in it, by their digests, and requests to the service
    itself; nothing else is loaded or run. `require-trusted-types-for` makes a browser refuse to read any text as HTML.
    """
    folder = files("llmgen.playground") / "static"
    style = _text(folder / "page.css")
    script = "(() => {\n'use strict';\n" + "".join(_text(folder / name) for name in SCRIPTS) + "})();\n"
    if found := re.search(r"</(script|style)", script + style, re.IGNORECASE):
        raise AssertionError(f"{found[0]} would end the page's script or style")
    html = _text(folder / "page.html").replace("/*style*/", style).replace("/*script*/", script)
    policy = (
        f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; connect-src 'self'; "
        "img-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Page(html, {"Content-Security-Policy": policy, **QUIET})


QUIET = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
REPORT = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; "
    "sandbox",
    **QUIET,
}
"""Of the report of an A/B test: a page of styles and pictures, without scripts."""


def _text(path: Traversable) -> str:
    return path.read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
