"""The charts of the report as inline SVG, and how its numbers are written.

Every chart is a pure function of numbers and labels and is 340 units wide, so that its text has its natural size on a
phone and several stand side by side on a screen. Colours come from the page's style sheet by class. Labels are data of
users: everything goes through `Markup.format`, which escapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import NamedTuple

from markupsafe import Markup

from llmgen.evaluation.report.svg import (
    WIDTH,
    Mark,
    Scale,
    amount,
    draw_axis,
    draw_chart,
    draw_line,
    draw_mark,
    draw_rect,
    draw_text,
    fit,
    label_width,
    labelled,
    number,
    signed,
    text_width,
)

LEFT, RIGHT = 2.0, 338.0  # of the plots without a y-axis
NAME_ROOM = 140.0  # what a row's note leaves beside it


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


def pareto(points: Sequence[tuple[float, float]], *, lower_is_better: bool = False) -> list[int]:
    """Places of the (cost, value) pairs that no other beats: none is cheaper and as good, or better and as cheap.

    >>> pareto([(1, 0.2), (2, 0.3), (3, 0.3)])
    [0, 1]
    """
    sign = -1 if lower_is_better else 1
    gains = [(-cost, sign * value) for cost, value in points]
    return [
        place
        for place, one in enumerate(gains)
        if not any(other[0] >= one[0] and other[1] >= one[1] and other != one for other in gains)
    ]


def scale_of(values: Iterable[float], start: float = LEFT, end: float = RIGHT, *, zero: bool = True) -> Scale:
    """A linear scale over the finite values, with zero if `zero` and a little room at both ends."""
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
        label = draw_text(LEFT, top + 14, fit(row.label, RIGHT - LEFT if stacked else NAME_ROOM, label_width), "label")
        note = draw_text(
            LEFT if stacked else RIGHT, top + (30 if stacked else 14), row.note, "note" if stacked else "note end"
        )
        said = f"{row.label}: {signed(row.mean)}, 95 % interval {signed(row.low)} to {signed(row.high)}, {row.note}"
        elements = [label, note, Markup("<title>{}</title>").format(said)]
        if row.band > 0 and isfinite(row.band):
            left, right = max(scale(-row.band), LEFT), min(scale(row.band), RIGHT)
            elements.append(
                Markup('<rect class="band" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="20"/>').format(
                    left, y - 10, right - left
                )
            )
        elements.append(draw_line(zero, y - 10, zero, y + 10, "zero"))
        if all(map(isfinite, (row.mean, row.low, row.high))):
            elements.append(draw_line(scale(row.low), y, scale(row.high), y, f"whisker {row.mark}"))
            elements.append(draw_mark(scale(row.mean), y, row.mark, diamond=row.mark in ("better", "worse", "differs")))
        drawn.append(Markup('<g class="row">{}</g>').format(Markup("").join(elements)))
    axis = draw_axis(scale, bottom + 2, sign=True, ends=ends)
    told = "; ".join(
        f"{row.label} {signed(row.mean)} [{signed(row.low)}, {signed(row.high)}] {row.note}" for row in rows
    )
    return draw_chart(id, title, told, bottom + 42, [*drawn, axis])


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
    elements = [
        draw_text(LEFT, 14, f"{losses:,} lose", "note"),
        draw_text(WIDTH / 2, 14, f"{ties:,} same", "note mid"),
        draw_text(RIGHT, 14, f"{wins:,} gain", "note end"),
    ]
    x = LEFT
    for part, name in ((losses, "worse"), (ties, "same"), (wins, "better")):
        width = (RIGHT - LEFT) * part / max(len(values), 1)
        elements.append(draw_rect(x, 21, width, 9, name))
        x += width
    base, top = 144.0, 54.0
    step = (RIGHT - LEFT) / bins
    found = counts(values, scale, bins=bins)
    for place, count in enumerate(found):
        if count:
            tall = max((base - top) * count / max(tallest, 1), 1.0)
            side = "worse" if place < bins / 2 else "better"
            said = Markup("<title>{}</title>").format(f"{count:,} users")
            bar = draw_rect(LEFT + place * step + 0.75, base - tall, step - 1.5, tall, side, said)
            elements.append(bar)
    if highest := max(found):
        words = f"{highest:,} users" if highest > 1 else "1 user"
        half = text_width(words) / 2
        at = min(max(LEFT + (found.index(highest) + 0.5) * step, LEFT + half), RIGHT - half)
        elements.append(draw_text(at, base - (base - top) * highest / max(tallest, 1) - 5, words, "note mid halo"))
    elements += [
        draw_line(LEFT, base, RIGHT, base, "rule"),
        draw_line(scale(0), base, scale(0), base + 6, "zero"),
        draw_axis(scale, base, sign=True, ends=("← loses", "gains →")),
    ]
    told = f"{losses} users lose, {ties} are the same, {wins} gain."
    return draw_chart(id, title, told, 186, elements)


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
    elements = [draw_text(LEFT, 12, axes[1], "note")]
    for value, text in labelled(y.ticks(4)):
        elements += [
            draw_line(left, y(value), right, y(value), "gridline"),
            draw_text(left - 6, y(value) + 4, text, "tick end"),
        ]
    for value in x.ticks(4):
        elements += [
            draw_line(x(value), bottom, x(value), bottom + 4, "rule"),
            draw_text(x(value), bottom + 17, amount(value), "tick mid"),
        ]
    elements += [draw_line(left, bottom, right, bottom, "rule"), draw_text(right, bottom + 35, axes[0], "note end")]
    taken = [(x(p.cost) - 7, y(p.mean) - 7, x(p.cost) + 7, y(p.mean) + 7) for p in points] * 5  # worse than a line
    taken += [(x(p.cost) - 2, min(y(p.low), y(p.high)), x(p.cost) + 2, max(y(p.low), y(p.high))) for p in points]
    if reference:
        name, value = reference
        said = fit(f"{name} {number(value)}", right - left - 8)
        elements.append(draw_line(left, y(value), right, y(value), "reference"))
        below = y(value) + 15 < bottom
        elements.append(draw_text(left + 4, y(value) + (13 if below else -5), said, "note halo"))
        taken.append((left, y(value) - 2, right, y(value) + 2))
        edge = y(value) + (2 if below else -16)
        taken.append((left, edge, left + 4 + text_width(said), edge + 14))
    best = sorted(
        pareto([(p.cost, p.mean) for p in points], lower_is_better=lower_is_better), key=lambda i: points[i].cost
    )
    corners = " ".join(f"{x(points[i].cost):.1f},{y(points[i].mean):.1f}" for i in best)
    elements.append(Markup('<polyline class="front" points="{}"/>').format(corners))
    for place, point in enumerate(points):
        kind: Mark = "better" if place in best else "unclear"
        said = (
            f"{point.label}: {amount(point.cost)} s, {number(point.mean)} [{number(point.low)}, {number(point.high)}]"
        )
        elements.append(
            Markup("<g><title>{}</title>{}{}</g>").format(
                said,
                draw_line(x(point.cost), y(point.low), x(point.cost), y(point.high), f"whisker {kind}"),
                draw_mark(x(point.cost), y(point.mean), kind, diamond=place in best),
            )
        )
    for point in points:
        label = fit(point.label, 190 if len(points) < 6 else 100, label_width)
        box = _room(x(point.cost), y(point.mean), label_width(label), taken, (2.0, 14.0, WIDTH - 2.0, bottom))
        taken.append(box)
        elements.append(draw_text(box[0], box[3] - 4, label, "label halo"))
    told = "; ".join(
        f"{point.label}: {amount(point.cost)}, {number(point.mean)}{', not beaten' if place in best else ''}"
        for place, point in enumerate(points)
    )
    return draw_chart(id, title, told, 280, elements)


def spark(mean: float, low: float, high: float, within: Scale, reference: float | None = None) -> Markup:
    """An interval as a thin line with a dot, beside the number that says the same; `within` is 88 wide at most."""
    if not all(map(isfinite, (mean, low, high))):
        return Markup("")
    there = reference is not None and isfinite(reference)
    elements = [
        draw_line(0, 6, 88, 6, "gridline"),
        draw_line(within(reference or 0), 0, within(reference or 0), 12, "zero") if there else Markup(""),
        draw_line(within(low), 6, within(high), 6, "whisker plain"),
        Markup('<circle class="dot plain" cx="{:.1f}" cy="6" r="3"/>').format(within(mean)),
    ]
    return Markup('<svg class="spark" viewBox="0 0 88 12" aria-hidden="true">{}</svg>').format(
        Markup("").join(elements)
    )


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
