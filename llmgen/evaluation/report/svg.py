"""What charts are drawn with: axes, lines, texts and marks as SVG, and how wide a text is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import Literal, NamedTuple
from unicodedata import combining, east_asian_width

from markupsafe import Markup

WIDTH = 340


LABEL_SIZE, NOTE_SIZE = 12.5, 11.5  # px, as in the style sheet


MISSING = "–"


Mark = Literal["better", "worse", "differs", "unclear", "plain"]


class Scale(NamedTuple):
    """Values to positions; calling it gives the position of a value.

    >>> Scale(0, 10, 100, 200)(5)
    150.0
    >>> Scale(1, 100, 0, 200, log=True)(10)
    100.0
    """

    low: float
    high: float
    start: float
    """Position of `low`; it may lie right of, or below, `end`."""
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The position of a value."""
        low, high, at = (log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 4) -> list[float]:
        """Round values within the scale, some `about` of them, fewer on a short logarithmic scale."""
        if self.log:
            powers = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
            found = [step * 10.0**power for power in powers for step in (1, 2, 5)]
            inside = [value for value in found if self.low <= value <= self.high]
            tens = [value for value in inside if f"{value:e}"[0] == "1"]
            return tens if len(inside) > 2 * about and len(tens) > 1 else inside
        rough = (self.high - self.low) / about
        power = 10.0 ** floor(log10(rough))
        step = next(round_ * power for round_ in (1, 2, 2.5, 5, 10) if round_ * power >= rough * (1 - 1e-9))
        first, last = ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def number(value: float | None, decimals: int = 4) -> str:
    """A mean as it stands in tables: four decimals, or three digits from 10 on; a dash where there is none."""
    if value is None or not isfinite(value):
        return MISSING
    return (f"{value:.{decimals}f}" if abs(value) < 10 else amount(value)).replace("-", "−")


def signed(value: float | None, decimals: int = 4) -> str:
    """A difference, with its sign and a real minus; zero has no sign.

    >>> signed(-0.01234), signed(0.5, 1), signed(-1e-9)
    ('−0.0123', '+0.5', '0.0000')
    """
    if value is None or not isfinite(value):
        return MISSING
    digits = f"{abs(value):,.{decimals}f}"
    return digits if not digits.strip("0.,") else ("+" if value > 0 else "−") + digits


def amount(value: float | None) -> str:
    """A cost to three digits, with thousands set apart.

    >>> amount(1234.5), amount(12.345), amount(0.0012345), amount(0)
    ('1,234', '12.3', '0.00123', '0')
    """
    if value is None or not isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    decimals = min(9, max(0, 2 - floor(log10(abs(value)))))
    digits = f"{value:,.{decimals}f}"
    return (digits.rstrip("0").rstrip(".") if "." in digits else digits).replace("-", "−")


def p_value(p: float | None) -> str:
    """A p-value to three decimals: `.012`, `< .001`, `1`; a dash where there is none."""
    if p is None or not isfinite(p):
        return MISSING
    return "< .001" if p < 0.0005 else "1" if p >= 0.9995 else f"{p:.3f}".removeprefix("0")


def text_width(text: str) -> float:
    """About how wide a note is in a system font, in px; rather too wide than too narrow."""
    ems = sum(
        0 if combining(c) else 1.0 if east_asian_width(c) in "WF" else 0.76 if c.isupper() else 0.57 for c in text
    )
    return ems * NOTE_SIZE


def label_width(text: str) -> float:
    """The same of a label, which is bold."""
    return text_width(text) * 1.14 * LABEL_SIZE / NOTE_SIZE


def fit(text: str, room: float, width: Callable[[str], float] = text_width) -> str:
    """A text that fits, with its middle left out where it is too long: names differ at either end.

    >>> fit("tuned on ratings, next_item", 11, len), fit("tuned", 11, len)
    ('tuned…_item', 'tuned')
    """
    shorter, kept = text, len(text)
    while kept > 2 and width(shorter) > room:
        kept -= 1
        shorter = text[: (kept + 1) // 2] + "…" + text[-(kept // 2) :]
    return shorter


def draw_chart(id: str, title: str, told: str, height: float, elements: Sequence[Markup]) -> Markup:
    """A chart with its title and what it tells to those who do not see it."""
    return Markup(
        '<svg class="chart" role="img" aria-labelledby="{id}-title {id}-desc" viewBox="0 0 {width} {height:.0f}">'
        '<title id="{id}-title">{title}</title><desc id="{id}-desc">{told}</desc>{elements}</svg>'
    ).format(id=id, title=title, told=told, width=WIDTH, height=height, elements=Markup("\n").join(elements))


def draw_axis(scale: Scale, y: float, *, sign: bool, ends: tuple[str, str]) -> Markup:
    """An axis with its ticks."""
    elements = [draw_line(scale.start, y, scale.end, y, "rule")]
    for value, text in labelled(scale.ticks(4), sign=sign):
        half = text_width(text) / 2
        at = min(max(scale(value), half), WIDTH - half)
        elements += [draw_line(scale(value), y, scale(value), y + 4, "rule"), draw_text(at, y + 17, text, "tick mid")]
    elements += [draw_text(scale.start, y + 34, ends[0], "note"), draw_text(scale.end, y + 34, ends[1], "note end")]
    return Markup("").join(elements)


def labelled(ticks: Sequence[float], *, sign: bool = False) -> list[tuple[float, str]]:
    """Ticks with as many decimals as tell them apart."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = next((d for d in range(9) if abs(round(step, d) - step) < step * 1e-6), 9)
    return [(value, "0" if abs(value) < step / 1e6 else _tick(value, decimals, sign)) for value in ticks]


def _tick(value: float, decimals: int, sign: bool) -> str:
    return signed(value, decimals) if sign or value < 0 else f"{value:,.{decimals}f}"


def draw_text(x: float, y: float, text: str, names: str) -> Markup:
    """A text at a place."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(names, x, y, text)


def draw_line(x1: float, y1: float, x2: float, y2: float, names: str) -> Markup:
    """A line."""
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(names, x1, y1, x2, y2)


def draw_rect(x: float, y: float, width: float, height: float, name: str, inner: str = "") -> Markup:
    """A filled box."""
    return Markup('<rect class="fill {}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}">{}</rect>').format(
        name, x, y, width, height, inner
    )


def draw_mark(x: float, y: float, kind: Mark, *, diamond: bool) -> Markup:
    """A point, in the colour of what it means."""
    if diamond:
        return Markup('<path class="dot {}" d="M{:.1f} {:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5z"/>').format(kind, x, y - 6.5)
    return Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(kind, x, y)
