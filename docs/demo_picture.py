"""The picture of `make tuned-demo` in the README: `python docs/demo_picture.py` runs the demo and draws parts of it."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from llmgen.cli import demo

PICTURE = Path(__file__).parent / "images" / "demo.svg"
PARTS = ("Ten films", "Ten recommendations", "A new user", "One reason")
WIDTH = 96


def main() -> None:
    """Write the picture."""
    shown = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=False)
    demo.run(user="196", engine="hf", console=shown, adapter="runs/demo-adapter")
    lines = shown.export_text(styles=True).splitlines()
    drawn = Console(record=True, width=WIDTH, file=io.StringIO())
    drawn.print("$ make tuned-demo", style="bold")
    inside = False
    for line in lines:
        text = Text.from_ansi(line)
        if text.plain.rstrip().endswith("──"):
            inside = text.plain.startswith(PARTS)
            drawn.print() if inside else None
        if inside:
            drawn.print(text)
    PICTURE.write_text(drawn.export_svg(title="llmgen"), encoding="utf-8")


if __name__ == "__main__":
    main()
