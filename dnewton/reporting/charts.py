"""Line charts as SVG text: axes with units and ticks, gaps where a figure is missing, bands over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Values = Sequence[float | None]
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 30, 40
POINTS = 600  # of a line; more are thinned out, extremes kept
DASHES = ("", "7 4", "2 3", "9 3 2 3")
COLOURS = 8  # classes c0 ... of the page's style sheet (Okabe and Ito 2008)


@dataclass(frozen=True)
class Line:
    """One line of a chart, with a band around it if there is one."""

    label: str
    x: Sequence[float]
    y: Values
    colour: int = 0
    dash: int = 0
    low: Values = ()
    high: Values = ()


def chart(title: str, unit: str, lines: Sequence[Line], log: bool = False) -> str:
    """A chart over iterations; nothing where no line has a value. `unit` is written beside the vertical axis."""
    lines = [line for line in lines if any(_usable(v, log) for v in line.y)]
    if not lines:
        return ""
    every = [v for line in lines for v in (*line.y, *line.low, *line.high) if v is not None and _usable(v, log)]
    ticks = _log_ticks(min(every), max(every)) if log else _ticks(min(every), max(every))
    low, high = (math.log10(t) if log else t for t in (ticks[0], ticks[-1]))
    first, last = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
    last = last if last > first else first + 1

    def across(x: float) -> float:
        return LEFT + (x - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        value = math.log10(y) if log else y
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" '
        'xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title>",
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}</text>',
    ]
    for tick in ticks:
        y = up(tick)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for tick in (t for t in _ticks(first, last) if first <= t <= last):
        x = across(tick)
        out.append(
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_number(tick)}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    out.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">iteration</text>'
    )
    out.append(
        f'<text class="axis" x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
        f"{escape(unit)}</text>"
    )
    for line in lines:
        look = f'class="c{line.colour % COLOURS}" stroke-dasharray="{DASHES[line.dash % len(DASHES)]}"'
        if line.low and line.high:
            out.append(_band(line, across, up, log))
        for part in _parts(line.x, line.y, log):
            points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in part)
            if len(part) == 1:
                at = f'cx="{across(part[0][0]):.1f}" cy="{up(part[0][1]):.1f}"'
                out.append(f'<circle class="c{line.colour % COLOURS}" r="2.5" {at}/>')
            else:
                out.append(f'<polyline {look} points="{points}"><title>{escape(line.label)}</title></polyline>')
    out.append("</svg>")
    return "\n".join(out) + _legend(lines)


def _legend(lines: Sequence[Line]) -> str:
    entries = []
    for line in lines:
        look = f'class="c{line.colour % COLOURS}" stroke-dasharray="{DASHES[line.dash % len(DASHES)]}"'
        mark = f'<svg class="mark" viewBox="0 0 28 8"><line {look} x1="0" x2="28" y1="4" y2="4"/></svg>'
        entries.append(f"<span>{mark} {escape(line.label)}</span>")
    return f'\n<p class="legend">{" ".join(entries)}</p>'


def _usable(value: float | None, log: bool) -> bool:
    return value is not None and math.isfinite(value) and (value > 0 or not log)


def _parts(x: Sequence[float], y: Values, log: bool) -> list[list[tuple[float, float]]]:
    """The points of a line, cut where values are missing, and thinned out."""
    parts: list[list[tuple[float, float]]] = [[]]
    for a, b in zip(x, y, strict=False):
        if b is not None and _usable(b, log):
            parts[-1].append((a, b))
        elif parts[-1]:
            parts.append([])
    return [_thinned(part) for part in parts if part]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most about POINTS of them: of every run of neighbours the first, the lowest, the highest and the last."""
    step = -(-4 * len(points) // POINTS)
    if step <= 4:
        return points
    kept = []
    for start in range(0, len(points), step):
        some = points[start : start + step]
        chosen = {some[0], some[-1], min(some, key=lambda p: p[1]), max(some, key=lambda p: p[1])}
        kept += sorted(chosen)
    return kept


def _band(line: Line, across: object, up: object, log: bool) -> str:
    pairs = [
        (x, a, b)
        for x, a, b in zip(line.x, line.low, line.high, strict=False)
        if a is not None and b is not None and _usable(a, log) and _usable(b, log)
    ]
    pairs = pairs[:: max(1, len(pairs) // POINTS)]
    right = [f"{across(x):.1f},{up(b):.1f}" for x, _, b in pairs]  # type: ignore[operator]
    left = [f"{across(x):.1f},{up(a):.1f}" for x, a, _ in reversed(pairs)]  # type: ignore[operator]
    return f'<polygon class="band c{line.colour % COLOURS}" points="{" ".join([*right, *left])}"/>'


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose the values, four to eight of them."""
    if high <= low:
        span = abs(low) or 1.0
        low, high = low - 0.5 * span, high + 0.5 * span
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= raw)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose the values, at most about eight."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if last <= first:
        last = first + 1
    step = max(1, -(-(last - first) // 7))
    last = first + step * -(-(last - first) // step)
    return [10.0**k for k in range(first, last + 1, step)]


def _number(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:g}"
