"""Charts of lines and bands as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dnewton.reporting import marks
from dnewton.reporting.marks import escape
from dnewton.reporting.scales import Scale, scale_for, thinned

WIDTH, PLOT = 480.0, 210.0  # of a picture, and the height of its axes
LEFT, RIGHT, TOP, BELOW = 62.0, 24.0, 34.0, 44.0
MARKERS = 6  # of a line
TIPS = 120  # points with their value in a tooltip, of all lines of a chart together

Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """A line, with a band between `low` and `high` where they are given; None leaves a gap."""

    label: str
    x: Values
    y: Values
    index: int = 0  # of its colour, dash and marker
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True)
class Chart:
    """Lines over a common axis. `name` is a word for identifiers, `limits` bound the axis of the values."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log: bool = False
    limits: tuple[float, float] | None = None
    note: str = ""  # a line below the picture
    x_log: bool = False


def scales(chart: Chart) -> tuple[Scale, Scale]:
    """The two axes of a chart."""
    xs = [value for line in chart.lines for value in line.x]
    values: list[float | None] = []
    for line in chart.lines:
        values += [*line.y, *(line.low or ()), *(line.high or ())]
    x = scale_for(xs, LEFT, WIDTH - RIGHT, chart.x_log, tight=True)
    return x, scale_for(values, TOP + PLOT, TOP, chart.log, chart.limits)


def segments(line: Line, x: Scale, y: Scale) -> list[list[int]]:
    """The indices of the points that are joined: from one gap to the next."""
    found: list[list[int]] = [[]]
    for k, (at, value) in enumerate(zip(line.x, line.y, strict=True)):
        if at is not None and y.shows(value) and x.shows(at):
            found[-1].append(k)
        elif found[-1]:
            found.append([])
    return [segment for segment in found if segment]


def render(chart: Chart) -> str:
    """The chart as an SVG element of its own, without style (:mod:`dnewton.reporting.style`) and namespace."""
    x, y = scales(chart)
    parts = [
        marks.text(LEFT, 20, chart.title, "title"),
        frame(x, y, chart.x_label, chart.y_label, chart.x_label == "iteration"),
    ]
    parts += [_band(line, x, y) for line in chart.lines if line.low is not None]
    for line in chart.lines:
        parts.append(_line(line, x, y, several=len(chart.lines) > 1))
    share = max(6, TIPS // max(1, len(chart.lines)))
    parts += [_tips(line, chart.x_label, x, y, share) for line in chart.lines]
    entries = [(marks.line_sign(line.index), line.label) for line in chart.lines]
    bottom = TOP + PLOT + BELOW
    rows, height = marks.legend(entries if len(entries) > 1 or entries[0][1] else [], LEFT, bottom, WIDTH - 4)
    return picture(chart.name, chart.title, _summary(chart), bottom + height + 4, "".join([*parts, rows]))


def picture(name: str, title: str, summary: str, height: float, content: str) -> str:
    """An SVG element that says in words what it shows."""
    said = escape(f"{title}. {summary}")
    return (
        f'<svg class="chart" data-chart="{escape(name)}" role="img" '
        f'aria-label="{said}" viewBox="0 0 {WIDTH:.0f} {height:.0f}">{content}</svg>'
    )


def frame(x: Scale, y: Scale, x_label: str, y_label: str, whole: bool = False) -> str:
    """Grid lines, ticks with their labels, and what the axes are. `whole`: x has whole numbers only."""
    parts = []
    for value, label in y.ticks():
        at = y.place(value)
        parts.append(f'<path class="g" d="M{x.start:.1f} {at:.1f}H{x.end:.1f}"/>')
        parts.append(marks.text(x.start - 6, at + 4, label, "ty", "end"))
    for value, label in x.ticks(whole=whole):
        at = x.place(value)
        parts.append(f'<path class="g" d="M{at:.1f} {y.start:.1f}v4"/>')
        parts.append(marks.text(at, y.start + 17, label, "tx", "middle"))
    parts.append(f'<path class="axis" d="M{x.start:.1f} {y.end:.1f}V{y.start:.1f}H{x.end:.1f}"/>')
    parts.append(marks.text((x.start + x.end) / 2, y.start + 34, x_label, "label", "middle"))
    middle = (y.start + y.end) / 2
    parts.append(marks.text(13, middle, y_label, "label", "middle", f' transform="rotate(-90 13 {middle:.1f})"'))
    return "".join(parts)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)


def _line(line: Line, x: Scale, y: Scale, several: bool) -> str:
    drawn, all_points = [], []
    for segment in segments(line, x, y):
        places = [x.place(line.x[k] or 0.0) for k in segment]
        heights = [y.place(line.y[k] or 0.0) for k in segment]
        kept = thinned(places, heights)
        points = [(places[k], heights[k]) for k in kept]
        all_points += points
        drawn.append(_path(points) + ("h0.01" if len(points) == 1 else ""))  # a point alone is a dot
    signs = ""
    if several and all_points:
        every = max(1, len(all_points) // MARKERS)
        offset = line.index * every // 5 % every  # not all at the same place
        signs = "".join(marks.marker(line.index, *point) for point in all_points[offset::every])
    of = f'class="l {marks.colour(line.index)}"'
    return f'<path {of} data-line="{escape(line.label)}"{marks.dash(line.index)} d="{"".join(drawn)}"/>{signs}'


def _band(line: Line, x: Scale, y: Scale) -> str:
    low, high = line.low or (), line.high or ()
    pieces = []
    edge = Line(line.label, line.x, [b if y.shows(a) else None for a, b in zip(low, high, strict=True)])
    for segment in segments(edge, x, y):
        places = [x.place(line.x[k] or 0.0) for k in segment]
        tops, floors = ([y.place(of[k] or 0.0) for k in segment] for of in (high, low))
        upper = [(places[k], tops[k]) for k in thinned(places, tops)]
        lower = [(places[k], floors[k]) for k in thinned(places, floors)]
        pieces.append(_path([*upper, *reversed(lower)]) + "z")
    return f'<path class="band {marks.colour(line.index)}" d="{"".join(pieces)}"/>'


def _tips(line: Line, x_label: str, x: Scale, y: Scale, most: int) -> str:
    """Invisible circles with the values of some points, evenly chosen, the last one always."""
    points = [k for segment in segments(line, x, y) for k in segment]
    every = max(1, -(-len(points) // most))
    chosen = points[len(points) - 1 :: -every] if points else []
    name = f"{line.label}, " if line.label else ""
    parts = []
    for k in reversed(chosen):
        at, value = line.x[k] or 0.0, line.y[k] or 0.0
        band = ""
        if line.low is not None and line.high is not None:
            band = f" ({line.low[k]:.6g} to {line.high[k]:.6g})"
        words = f"{name}{x_label} {at:.6g}: {value:.6g}{band}"
        parts.append(
            f'<circle class="tip" cx="{x.place(at):.1f}" cy="{y.place(value):.1f}" r="6">{marks.tip(words)}</circle>'
        )
    return "".join(parts)


def _summary(chart: Chart) -> str:
    """The chart in words, for those who do not see it."""
    said = []
    for line in chart.lines:
        known = [value for value in line.y if value is not None]
        if known:
            name = f"{line.label}: " if line.label else ""
            said.append(f"{name}first {known[0]:.4g}, last {known[-1]:.4g}, lowest {min(known):.4g}")
    return "; ".join(said)
