"""Charts as inline SVG, coloured by the page's style sheet; every mark says its value on hover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from ldseg_auto.data.cases import evenly
from ldseg_auto.planners.fingerprint import Histogram
from ldseg_auto.report.axes import Axis, fitted
from ldseg_auto.report.units import brief, short

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 12, 40  # margins in pixels
ROW, ROW_LABEL = 34, 130  # of a strip chart
WIDE = 1000.0  # ratio of intensities from which their axis is logarithmic; above that of 8-bit pictures
MOST = 300  # marks of a series; of more values, as many quantiles are drawn
FEW, MANY = 60, 30000  # marks of a line that get a point each; marks of a chart that say their value on hover
TRENDS = 7  # colours of trend and scatter charts, the first for the main line
SQUARE = 260  # pixels of a scatter chart's side
GOLDEN = 0.6180339887  # fractional parts of its multiples spread evenly


@dataclass(frozen=True)
class Mark:
    """A point of a line."""

    x: float
    y: float
    text: str  # on hover
    chosen: bool = False


@dataclass(frozen=True)
class Line:
    """A series with its name."""

    name: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Row:
    """A row of a strip chart: a value per case."""

    name: str
    values: tuple[tuple[str, float], ...]  # case, value
    unit: str
    odd: frozenset[str] = frozenset()  # cases drawn in the warning colour, always


def histogram_chart(histogram: Histogram, title: str) -> str:
    """Voxels per bin: the image filled, the foreground as a line, each up to its own height; bins are equally wide on the page."""
    edges, bins = histogram.edges, len(histogram.image)
    x, y = Axis(0, bins, LEFT, WIDTH - RIGHT), Axis(0, 1.05, HEIGHT - BOTTOM, TOP)
    parts = [_baseline(y)]
    for counts, style in ((histogram.image, "area"), (histogram.foreground, "step")):
        top = max(counts)
        if top:
            steps = "".join(f"H{x.place(i):.1f}V{y.place(n / top):.1f}H{x.place(i + 1):.1f}" for i, n in enumerate(counts))
            path = f"M{x.place(0):.1f},{y.place(0):.1f}{steps}V{y.place(0):.1f}"
            parts.append(f'<path class="{style}" d="{path}"/>')
    total = max(1, sum(histogram.image)), max(1, sum(histogram.foreground))
    for i, (a, b) in enumerate(zip(histogram.image, histogram.foreground, strict=True)):
        text = f"{short(edges[i])} to {short(edges[i + 1])}: {a / total[0]:.1%} of the image, {b / total[1]:.1%} of the foreground"
        parts.append(_column(x.place(i), x.place(i + 1), text))
    for i in np.linspace(0, bins, min(bins, 6) + 1).round().astype(int):
        parts.append(_tick_below(x.place(int(i)), brief(edges[int(i)])))
    return _svg(WIDTH, HEIGHT, title, parts)


def ranges_chart(ranges: Sequence[tuple[str, float, float, float]], odd: Sequence[str], title: str) -> str:
    """A vertical bar per case from percentile 0.5 to 99.5 with a point at the median, in the order of the medians.

    Args:
        ranges: case, percentile 0.5, median, percentile 99.5.
        odd: cases that are drawn in the warning colour; the axis is that of the others, and may cut them off.
    """
    ordered = sorted(ranges, key=lambda r: (r[2], r[0]))
    shown = evenly(ordered, MOST)
    names = {r[0] for r in shown}
    shown = sorted([*shown, *(r for r in ordered if r[0] in odd and r[0] not in names)], key=lambda r: (r[2], r[0]))
    y = fitted([v for r in shown if r[0] not in odd or len(odd) >= len(shown) for v in r[1:]], HEIGHT - BOTTOM, TOP, WIDE)
    x = Axis(-0.5, len(shown) - 0.5, LEFT + 14, WIDTH - RIGHT)
    parts = _grid_lines(y)
    for i, (case, low, middle, high) in enumerate(shown):
        style = "odd" if case in odd else "case"
        text = f"{case}: median {short(middle)}, {short(low)} to {short(high)}"
        at = x.place(i)
        line = f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y.place(low):.1f}" y2="{y.place(high):.1f}"/>'
        parts.append(f'<g class="range {style}">{line}<circle cx="{at:.1f}" cy="{y.place(middle):.1f}" r="1.8"/>{_hover(text)}</g>')
    count = "each bar a case" if len(shown) == len(ordered) else f"{len(shown)} of {len(ordered)} cases, evenly"
    parts.append(_text((LEFT + WIDTH) / 2, HEIGHT - 12, f"{count}, in the order of their medians"))
    return _svg(WIDTH, HEIGHT, title, parts)


def strip_chart(rows: Sequence[Row], title: str, shared: bool = False) -> str:
    """A row of points per measure, one point per case (evenly spaced quantiles of more than 300), and a bar at the median.

    Args:
        shared: one axis for all rows instead of one each.
    """
    together = [v for row in rows for _, v in row.values]
    height = len(rows) * (ROW + (0 if shared else 18)) + (26 if shared else 6)
    parts, top, axis = [], 6.0, None
    for row in rows:
        values = together if shared else [v for _, v in row.values]
        axis = fitted(values, ROW_LABEL + 10, WIDTH - RIGHT - 8)
        parts.append(
            f'<text class="name" x="{ROW_LABEL - 4}" y="{top + ROW / 2 + 4:.1f}">{escape(_cut(row.name))}{_hover(row.name)}</text>'
        )
        parts.append(f'<line class="rule" x1="{axis.start}" x2="{axis.end}" y1="{top + ROW - 3:.1f}" y2="{top + ROW - 3:.1f}"/>')
        parts += _points(row, axis, top)
        top += ROW
        if not shared:
            parts += [_text(at, top + 11, text) for at, text in _apart(axis.ticks())]
            top += 18
    if shared and axis is not None:
        parts += [_text(at, top + 11, text) for at, text in _apart(axis.ticks())]
    return _svg(WIDTH, height, title, parts)


def line_chart(lines: Sequence[Line], y: Axis, target: tuple[float, str] | None, names: tuple[str, str, str]) -> str:
    """Lines over a logarithmic x axis, with a dashed target where there is one; chosen marks get a ring.

    Args:
        target: its height and name.
        names: of the chart, of x and of y.
    """
    title, x_name, y_name = names
    xs = [m.x for line in lines for m in line.marks]
    low, high = min(xs), max(xs)
    x = Axis(low / 1.15, high * 1.15, LEFT, WIDTH - RIGHT, log=True)
    parts = [*_grid_lines(y), _text((LEFT + WIDTH) / 2, HEIGHT - 6, x_name), f'<text class="above" x="4" y="10">{escape(y_name)}</text>']
    parts += [_tick_below(x.place(v), f"1/{1 / v:g}" if v < 1 else short(v)) for v in _powers(low, high)]
    if target is not None:
        at = y.place(target[0])
        parts.append(f'<line class="target" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="above" x="{LEFT + 4}" y="{at - 4:.1f}">{escape(target[1])}</text>')
    chosen = []
    for number, line in enumerate(lines):
        colour = f"s{number % 3}"
        points = [(x.place(m.x), y.place(m.y), m) for m in line.marks]
        path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
        parts.append(f'<path class="line {colour}" d="{path}"/>')
        parts += [f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="3">{_hover(m.text)}</circle>' for a, b, m in points]
        chosen += [f'<circle class="ring" cx="{a:.1f}" cy="{b:.1f}" r="7">{_hover(m.text)}</circle>' for a, b, m in points if m.chosen]
    return _svg(WIDTH, HEIGHT, title, [*parts, *chosen])


def trend_chart(lines: Sequence[Line], names: tuple[str, str, str], y: Axis | None = None) -> str:
    """Lines over a linear x axis, the first of them as the main one; of more than 300 marks so many are drawn, evenly.

    Args:
        names: of the chart, of x and of y.
        y: None takes one that holds all values.
    """
    title, x_name, y_name = names
    y = y or fitted([m.y for line in lines for m in line.marks], HEIGHT - BOTTOM, TOP + 10)
    xs = sorted({m.x for line in lines for m in line.marks})
    x = fitted([xs[0], xs[-1]], LEFT, WIDTH - RIGHT, math.inf)
    parts = [*_grid_lines(y), _text((LEFT + WIDTH) / 2, HEIGHT - 6, x_name), f'<text class="above" x="4" y="10">{escape(y_name)}</text>']
    parts += [_tick_below(at, text) for at, text in _apart(x.ticks())]
    for number, line in reversed(list(enumerate(lines))):  # the main one on top
        marks = evenly(line.marks, MOST)
        path = "M" + "L".join(f"{x.place(m.x):.1f},{y.place(m.y):.1f}" for m in marks)
        parts.append(f'<path class="line t{number % TRENDS}" d="{path}"/>')
        if len(marks) <= FEW:
            parts += [f'<circle class="t{number % TRENDS}" cx="{x.place(m.x):.1f}" cy="{y.place(m.y):.1f}" r="2.5"/>' for m in marks]
    shown = evenly(xs, MOST)
    texts = {at: [m.text for line in lines for m in line.marks if m.x == at] for at in shown} if len(lines) * len(xs) <= MANY else {}
    edges = [x.start, *((x.place(a) + x.place(b)) / 2 for a, b in zip(shown, shown[1:], strict=False)), x.end]
    parts += [_column(a, b, "; ".join(texts[at])) for a, b, at in zip(edges, edges[1:], shown, strict=False) if at in texts]
    return _svg(WIDTH, HEIGHT, title, parts)


def scatter_chart(groups: Sequence[Line], names: tuple[str, str, str], low: float = 0.0, joined: bool = False) -> str:
    """Points in a square from `low` to 1 with its diagonal dashed, a colour for each group.

    Args:
        names: of the chart, of x and of y.
        joined: with a line through the points of each group.
    """
    title, x_name, y_name = names
    x, y = Axis(low, 1, LEFT, LEFT + SQUARE), Axis(low, 1, TOP + 10 + SQUARE, TOP + 10)
    parts = [_text(LEFT + SQUARE / 2, y.start + 34, x_name), f'<text class="above" x="4" y="10">{escape(y_name)}</text>']
    for at, text in y.ticks():
        parts.append(f'<line class="rule" x1="{x.start}" x2="{x.end}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="left" x="{LEFT - 5}" y="{at + 4:.1f}">{text}</text>')
    parts += [_text(at, y.start + 15, text) for at, text in _apart(x.ticks(), 30)]
    parts.append(f'<line class="target" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.end}"/>')
    for number, group in enumerate(groups):
        colour = f"t{(number + 1) % TRENDS}"
        points = [(x.place(m.x), y.place(m.y), m) for m in group.marks]
        if joined and points:
            path = "M" + "L".join(f"{a:.1f},{b:.1f}" for a, b, _ in points)
            parts.append(f'<path class="line {colour}" d="{path}"/>')
        parts += [f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="3.5">{_hover(m.text)}</circle>' for a, b, m in points]
    return _svg(WIDTH, y.start + 40, title, parts)


def _points(row: Row, axis: Axis, top: float) -> list[str]:
    ordered = sorted(row.values, key=lambda v: (v[1], v[0]))
    shown = evenly(ordered, MOST)
    shown += [v for v in ordered if v[0] in row.odd and v not in shown]
    out = []
    for i, (case, value) in enumerate(sorted(shown, key=lambda v: v[0] in row.odd)):
        style = "odd" if case in row.odd else "case"
        height = top + 5 + (ROW - 14) * ((i * GOLDEN) % 1)
        text = f"{case}: {short(value)} {row.unit}"
        out.append(f'<circle class="{style}" cx="{axis.place(value):.1f}" cy="{height:.1f}" r="2.5">{_hover(text)}</circle>')
    median = float(np.median([v for _, v in ordered]))
    at, text = axis.place(median), f"median {short(median)} {row.unit}"
    line = f'<line class="median" x1="{at:.1f}" x2="{at:.1f}" y1="{top + 1:.1f}" y2="{top + ROW - 3:.1f}">{_hover(text)}</line>'
    return [*out, line]


def _powers(low: float, high: float) -> list[float]:
    """Powers of two (or of four, where they are many) from low to high."""
    first, last = int(np.floor(np.log2(low) + 1e-9)), int(np.ceil(np.log2(high) - 1e-9))
    step = 1 if last - first <= 8 else 2
    return [2.0**e for e in range(first, last + 1, step) if low / 1.15 <= 2.0**e <= high * 1.15]


def _apart(ticks: Sequence[tuple[float, str]], pixels: float = 40) -> list[tuple[float, str]]:
    out: list[tuple[float, str]] = []
    for at, text in sorted(ticks):
        if not out or at - out[-1][0] >= pixels:
            out.append((at, text))
    return out


def _cut(name: str, most: int = 19) -> str:
    return name if len(name) <= most else name[: most - 1] + "\u2026"


def _grid_lines(y: Axis) -> list[str]:
    parts = []
    for at, text in y.ticks():
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="left" x="{LEFT - 5}" y="{at + 4:.1f}">{text}</text>')
    return parts


def _baseline(y: Axis) -> str:
    return f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.start:.1f}" y2="{y.start:.1f}"/>'


def _tick_below(at: float, text: str) -> str:
    return _text(at, HEIGHT - BOTTOM + 15, text)


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _column(left: float, right: float, text: str) -> str:
    """An invisible column that reacts to the pointer."""
    return f'<rect class="hit" x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" height="{HEIGHT - BOTTOM - TOP}">{_hover(text)}</rect>'


def _hover(text: str) -> str:
    return f"<title>{escape(text)}</title>"


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"
