"""The charts of the report as inline SVG, and how its numbers are written.

Every chart is a pure function of numbers and labels and is 340 units wide, so that its text has its natural size on a
phone and several stand side by side on a screen. Colours come from the page's style sheet by class. Labels are data of
users: everything goes through `Markup.format`, which escapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import Literal, NamedTuple
from unicodedata import combining, east_asian_width

from markupsafe import Markup

WIDTH = 340
LEFT, RIGHT = 2.0, 338.0  # of the plots without a y-axis
LABEL_SIZE, NOTE_SIZE = 12.5, 11.5  # px, as in the style sheet
NAME_ROOM = 140.0  # what a row's note leaves beside it
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


class Row(NamedTuple):
    """A line of a forest plot."""

    label: str
    note: str
    """Beside the label: p-values, or how many users."""
    mean: float
    low: float
    high: float
    mark: Mark = "plain"
    band: float = 0.0
    """Half the width of the light band around zero; 0 for none."""


class Point(NamedTuple):
    """An arm in the chart of cost and quality."""

    label: str
    cost: float
    mean: float
    low: float
    high: float


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


def pareto(points: Sequence[tuple[float, float]], *, lower_is_better: bool = False) -> list[int]:
    """Places of the (cost, value) pairs that no other beats: none is cheaper and as good, or better and as cheap.

    >>> pareto([(1, 0.2), (2, 0.3), (3, 0.3)])
    [0, 1]
    """
    sign = -1 if lower_is_better else 1
    gains = [(-cost, sign * value) for cost, value in points]
    return [
        place
        for place, (saving, value) in enumerate(gains)
        if not any(s >= saving and v >= value and (s, v) != (saving, value) for s, v in gains)
    ]


def scale_of(values: Iterable[float], start: float = LEFT, end: float = RIGHT, *, zero: bool = True) -> Scale:
    """A linear scale over the finite values, with zero if wanted and a little room at both ends."""
    found = [value for value in values if isfinite(value)] + [0.0] * zero
    low, high = min(found, default=0.0), max(found, default=0.0)
    room = (high - low) * 0.04 or abs(high) * 0.1 or 0.01
    return Scale(low - room, high + room, start, end)


def forest(id: str, title: str, rows: Sequence[Row], scale: Scale, *, ends: tuple[str, str]) -> Markup:
    """Differences with their intervals, a row each, around a line at zero.

    Args:
        id: Unique on the page.
        title: For those who cannot see it.
        rows: From top to bottom.
        scale: Of the values; charts with the same scale compare.
        ends: What lies to the left of zero, and to the right.
    """
    stacked = any(label_width(row.label) > NAME_ROOM for row in rows)
    height = 64 if stacked else 46
    bottom, zero = len(rows) * height, scale(0)
    drawn: list[Markup] = []
    for place, row in enumerate(rows):
        top = place * height
        y = top + height - 16
        label = _text(LEFT, top + 14, fit(row.label, RIGHT - LEFT if stacked else NAME_ROOM, label_width), "label")
        note = _text(
            LEFT if stacked else RIGHT, top + (30 if stacked else 14), row.note, "note" if stacked else "note end"
        )
        said = f"{row.label}: {signed(row.mean)}, 95 % interval {signed(row.low)} to {signed(row.high)}, {row.note}"
        parts = [label, note, Markup("<title>{}</title>").format(said)]
        if row.band > 0 and isfinite(row.band):
            left, right = max(scale(-row.band), LEFT), min(scale(row.band), RIGHT)
            parts.append(
                Markup('<rect class="band" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="20"/>').format(
                    left, y - 10, right - left
                )
            )
        parts.append(_line(zero, y - 10, zero, y + 10, "zero"))
        if all(map(isfinite, (row.mean, row.low, row.high))):
            parts.append(_line(scale(row.low), y, scale(row.high), y, f"whisker {row.mark}"))
            parts.append(_mark(scale(row.mean), y, row.mark, diamond=row.mark in ("better", "worse", "differs")))
        drawn.append(Markup('<g class="row">{}</g>').format(Markup("").join(parts)))
    axis = _axis(scale, bottom + 2, sign=True, ends=ends)
    told = "; ".join(
        f"{row.label} {signed(row.mean)} [{signed(row.low)}, {signed(row.high)}] {row.note}" for row in rows
    )
    return _svg(id, title, told, bottom + 42, [*drawn, axis])


def histogram(id: str, title: str, values: Sequence[float], scale: Scale, tallest: int, *, bins: int = 20) -> Markup:
    """How many users gain how much: a strip of losers, equals and winners, and bars of those who differ.

    Args:
        id: Unique on the page.
        title: For those who cannot see it.
        values: Differences of the users.
        scale: Symmetric around zero, so that no bar holds both losses and gains.
        tallest: Users in the tallest bar of all charts that compare; see `counts`.
        bins: Bars, an even number.
    """
    losses, wins = sum(value < 0 for value in values), sum(value > 0 for value in values)
    ties = len(values) - losses - wins
    parts = [
        _text(LEFT, 14, f"{losses:,} lose", "note"),
        _text(WIDTH / 2, 14, f"{ties:,} same", "note mid"),
        _text(RIGHT, 14, f"{wins:,} gain", "note end"),
    ]
    x = LEFT
    for part, name in ((losses, "worse"), (ties, "same"), (wins, "better")):
        width = (RIGHT - LEFT) * part / max(len(values), 1)
        parts.append(_rect(x, 21, width, 9, name))
        x += width
    base, top = 144.0, 54.0
    step = (RIGHT - LEFT) / bins
    found = counts(values, scale, bins=bins)
    for place, count in enumerate(found):
        if count:
            tall = max((base - top) * count / max(tallest, 1), 1.0)
            side = "worse" if place < bins / 2 else "better"
            said = Markup("<title>{}</title>").format(f"{count:,} users")
            bar = _rect(LEFT + place * step + 0.75, base - tall, step - 1.5, tall, side, said)
            parts.append(bar)
    if highest := max(found):
        words = f"{highest:,} users" if highest > 1 else "1 user"
        half = text_width(words) / 2
        at = min(max(LEFT + (found.index(highest) + 0.5) * step, LEFT + half), RIGHT - half)
        parts.append(_text(at, base - (base - top) * highest / max(tallest, 1) - 5, words, "note mid halo"))
    parts += [
        _line(LEFT, base, RIGHT, base, "rule"),
        _line(scale(0), base, scale(0), base + 6, "zero"),
        _axis(scale, base, sign=True, ends=("← loses", "gains →")),
    ]
    told = f"{losses} users lose, {ties} are the same, {wins} gain."
    return _svg(id, title, told, 186, parts)


def counts(values: Sequence[float], scale: Scale, *, bins: int = 20) -> list[int]:
    """Users in each bar of `histogram`; those without a difference are in none."""
    found = [0] * bins
    for value in values:
        if value and isfinite(value):
            place = int((value - scale.low) / (scale.high - scale.low) * bins)
            place = min(place, bins // 2 - 1) if value < 0 else max(place, bins // 2)
            found[min(max(place, 0), bins - 1)] += 1
    return found


def cost_quality(
    id: str,
    title: str,
    points: Sequence[Point],
    *,
    axes: tuple[str, str],
    reference: tuple[str, float] | None = None,
    lower_is_better: bool = False,
) -> Markup:
    """Cost from left to right, quality upwards; the points that no other beats are diamonds on a line.

    Args:
        id: Unique on the page.
        title: For those who cannot see it.
        points: At least one; a logarithmic axis where all costs are above 0 and span more than a factor of 10.
        axes: What the axes show, across and up.
        reference: Name and height of a dashed line.
        lower_is_better: Of the metric.
    """
    left, right, top, bottom = 40.0, RIGHT - 4, 26.0, 236.0
    costs = [point.cost for point in points]
    heights = [value for point in points for value in (point.mean, point.low, point.high)]
    if min(costs) > 0 and max(costs) > 10 * min(costs):
        x = Scale(min(costs) / 1.4, max(costs) * 1.4, left, right, log=True)
    else:
        x = scale_of(costs, left, right)
        x = x._replace(low=0.0)
    y = scale_of([*heights, *([reference[1]] if reference else [])], bottom, top, zero=False)
    parts = [_text(LEFT, 12, axes[1], "note")]
    for value, text in _labelled(y.ticks(4)):
        parts += [_line(left, y(value), right, y(value), "gridline"), _text(left - 6, y(value) + 4, text, "tick end")]
    for value in x.ticks(4):
        parts += [
            _line(x(value), bottom, x(value), bottom + 4, "rule"),
            _text(x(value), bottom + 17, amount(value), "tick mid"),
        ]
    parts += [_line(left, bottom, right, bottom, "rule"), _text(right, bottom + 35, axes[0], "note end")]
    taken = [(x(p.cost) - 7, y(p.mean) - 7, x(p.cost) + 7, y(p.mean) + 7) for p in points] * 5  # worse than a line
    taken += [(x(p.cost) - 2, min(y(p.low), y(p.high)), x(p.cost) + 2, max(y(p.low), y(p.high))) for p in points]
    if reference:
        name, value = reference
        said = fit(f"{name} {number(value)}", right - left - 8)
        parts.append(_line(left, y(value), right, y(value), "reference"))
        below = y(value) + 15 < bottom
        parts.append(_text(left + 4, y(value) + (13 if below else -5), said, "note halo"))
        taken.append((left, y(value) - 2, right, y(value) + 2))
        edge = y(value) + (2 if below else -16)
        taken.append((left, edge, left + 4 + text_width(said), edge + 14))
    best = sorted(
        pareto([(p.cost, p.mean) for p in points], lower_is_better=lower_is_better), key=lambda i: points[i].cost
    )
    corners = " ".join(f"{x(points[i].cost):.1f},{y(points[i].mean):.1f}" for i in best)
    parts.append(Markup('<polyline class="front" points="{}"/>').format(corners))
    for place, point in enumerate(points):
        kind: Mark = "better" if place in best else "unclear"
        said = (
            f"{point.label}: {amount(point.cost)} s, {number(point.mean)} [{number(point.low)}, {number(point.high)}]"
        )
        parts.append(
            Markup("<g><title>{}</title>{}{}</g>").format(
                said,
                _line(x(point.cost), y(point.low), x(point.cost), y(point.high), f"whisker {kind}"),
                _mark(x(point.cost), y(point.mean), kind, diamond=place in best),
            )
        )
    for point in points:
        label = fit(point.label, 190 if len(points) < 6 else 100, label_width)
        box = _room(x(point.cost), y(point.mean), label_width(label), taken, (2.0, 14.0, WIDTH - 2.0, bottom))
        taken.append(box)
        parts.append(_text(box[0], box[3] - 4, label, "label halo"))
    told = "; ".join(
        f"{point.label}: {amount(point.cost)}, {number(point.mean)}{', not beaten' if place in best else ''}"
        for place, point in enumerate(points)
    )
    return _svg(id, title, told, 280, parts)


def spark(mean: float, low: float, high: float, within: Scale, reference: float | None = None) -> Markup:
    """An interval as a thin line with a dot, beside the number that says the same; `within` is 88 wide at most."""
    if not all(map(isfinite, (mean, low, high))):
        return Markup("")
    there = reference is not None and isfinite(reference)
    parts = [
        _line(0, 6, 88, 6, "gridline"),
        _line(within(reference or 0), 0, within(reference or 0), 12, "zero") if there else Markup(""),
        _line(within(low), 6, within(high), 6, "whisker plain"),
        Markup('<circle class="dot plain" cx="{:.1f}" cy="6" r="3"/>').format(within(mean)),
    ]
    return Markup('<svg class="spark" viewBox="0 0 88 12" aria-hidden="true">{}</svg>').format(Markup("").join(parts))


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


Box = tuple[float, float, float, float]


SHIFTS = (0, -15, 15, -28, 28, -41, 41)  # of a label from beside its point


def _room(x: float, y: float, width: float, taken: Sequence[Box], within: Box) -> Box:
    """Where a label beside a point covers least of what is there."""
    places = [(x + 9, y + dy) for dy in SHIFTS] + [(x - 9 - width, y + dy) for dy in SHIFTS]
    places += [(x - width / 2, y + dy) for dy in (-18, 18)]
    boxes = [(left, middle - 8, left + width, middle + 8) for left, middle in places]

    def covered(box: Box) -> float:
        hidden = sum(_overlap(box, other) for other in taken)
        return hidden + 4 * ((box[2] - box[0]) * 16 - _overlap(box, within))

    return min(boxes, key=covered)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _svg(id: str, title: str, told: str, height: float, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="chart" role="img" aria-labelledby="{id}-title {id}-desc" viewBox="0 0 {width} {height:.0f}">'
        '<title id="{id}-title">{title}</title><desc id="{id}-desc">{told}</desc>{parts}</svg>'
    ).format(id=id, title=title, told=told, width=WIDTH, height=height, parts=Markup("\n").join(parts))


def _axis(scale: Scale, y: float, *, sign: bool, ends: tuple[str, str]) -> Markup:
    parts = [_line(scale.start, y, scale.end, y, "rule")]
    for value, text in _labelled(scale.ticks(4), sign=sign):
        half = text_width(text) / 2
        at = min(max(scale(value), half), WIDTH - half)
        parts += [_line(scale(value), y, scale(value), y + 4, "rule"), _text(at, y + 17, text, "tick mid")]
    parts += [_text(scale.start, y + 34, ends[0], "note"), _text(scale.end, y + 34, ends[1], "note end")]
    return Markup("").join(parts)


def _labelled(ticks: Sequence[float], *, sign: bool = False) -> list[tuple[float, str]]:
    """Ticks with as many decimals as tell them apart."""
    step = min((b - a for a, b in pairwise(ticks)), default=1.0)
    decimals = next((d for d in range(9) if abs(round(step, d) - step) < step * 1e-6), 9)
    return [(value, "0" if abs(value) < step / 1e6 else _tick(value, decimals, sign)) for value in ticks]


def _tick(value: float, decimals: int, sign: bool) -> str:
    return signed(value, decimals) if sign or value < 0 else f"{value:,.{decimals}f}"


def _text(x: float, y: float, text: str, names: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(names, x, y, text)


def _line(x1: float, y1: float, x2: float, y2: float, names: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(names, x1, y1, x2, y2)


def _rect(x: float, y: float, width: float, height: float, name: str, inner: str = "") -> Markup:
    return Markup('<rect class="fill {}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}">{}</rect>').format(
        name, x, y, width, height, inner
    )


def _mark(x: float, y: float, kind: Mark, *, diamond: bool) -> Markup:
    if diamond:
        return Markup('<path class="dot {}" d="M{:.1f} {:.1f}l6.5 6.5l-6.5 6.5l-6.5 -6.5z"/>').format(kind, x, y - 6.5)
    return Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(kind, x, y)
