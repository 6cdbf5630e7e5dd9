"""Charts of stacked bars as SVG: over iterations, and one row per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dnewton.grid import even_slices
from dnewton.reporting import marks
from dnewton.reporting.line_chart import BELOW, LEFT, PLOT, RIGHT, TOP, WIDTH, frame, picture
from dnewton.reporting.scales import Scale

BINS = 60  # bars at most: more iterations share one
ROW, BAR = 40.0, 20.0
OTHER = "other"


@dataclass(frozen=True)
class Stack:
    """Parts that add up, by name, over iterations."""

    name: str
    title: str
    unit: str
    parts: Mapping[str, Sequence[float]]  # each as long as `iterations`
    iterations: Sequence[float]
    note: str = ""
    drawn: Mapping[str, str] | None = None  # see largest_parts; given where several charts share their colours


@dataclass(frozen=True)
class Row:
    """A bar of parts that add up."""

    label: str
    parts: Mapping[str, float]
    faint: bool = False  # what was planned, beside what was measured


@dataclass(frozen=True)
class Rows:
    """Bars of one unit below each other."""

    name: str
    title: str
    unit: str
    rows: Sequence[Row]
    note: str = ""
    drawn: Mapping[str, str] | None = None


def largest_parts(totals: Mapping[str, float]) -> dict[str, str]:
    """By name of a part the name under which it is drawn: itself, or "other" for the small ones where there are more
    than colours. Parts of nothing are left out."""
    present = [name for name, total in totals.items() if total > 0]
    if len(present) <= marks.COLOURS:
        return {name: name for name in present}
    large = sorted(present, key=lambda name: -totals[name])[: marks.COLOURS - 1]
    return {name: name if name in large else OTHER for name in present}


def render_stack(stack: Stack) -> str:
    """Bars over iterations: each the mean of the iterations that it stands for."""
    drawn = stack.drawn or largest_parts({name: sum(values) for name, values in stack.parts.items()})
    names = list(dict.fromkeys(drawn.values()))
    bins = even_slices(len(stack.iterations), min(BINS, len(stack.iterations)))
    bars = []
    for piece in bins:
        heights = dict.fromkeys(names, 0.0)
        for part, name in drawn.items():
            values = stack.parts.get(part, ())[piece]
            heights[name] += sum(values) / max(1, len(values))
        bars.append(heights)
    top = max((sum(bar.values()) for bar in bars), default=0.0) or 1.0
    first, last = stack.iterations[0], stack.iterations[-1]
    x = Scale(first - 0.5, last + 0.5, LEFT, WIDTH - RIGHT)
    y = Scale(0.0, top * 1.05, TOP + PLOT, TOP)
    content = [marks.text(LEFT, 20, stack.title, "title"), frame(x, y, "iteration", stack.unit, whole=True)]
    width = (x.end - x.start) / max(1, len(bars))
    for k, (piece, bar) in enumerate(zip(bins, bars, strict=True)):
        at = stack.iterations[piece]
        span = f"iteration {at[0]:g}" if len(at) == 1 else f"iterations {at[0]:g} to {at[-1]:g}, mean"
        below = 0.0
        for index, name in enumerate(names):
            if bar[name] <= 0:
                continue
            floor, ceiling = y.place(below), y.place(below + bar[name])
            below += bar[name]
            words = marks.tip(f"{name}, {span}: {bar[name]:.4g} {stack.unit}")
            content.append(_area(index, x.start + k * width, ceiling, max(0.5, width - 0.8), floor - ceiling, words))
    present = [(index, name) for index, name in enumerate(names) if any(bar[name] > 0 for bar in bars)]
    entries = [(marks.area_sign(index), name) for index, name in present]
    bottom = TOP + PLOT + BELOW
    rows, height = marks.legend(entries, LEFT, bottom, WIDTH - 4)
    said = ", ".join(f"{name} {sum(bar[name] for bar in bars) / len(bars):.3g}" for _, name in present)
    summary = f"mean per iteration in {stack.unit}: {said}"
    return picture(stack.name, stack.title, summary, bottom + height + 4, "".join([*content, rows]))


def render_rows(chart: Rows) -> str:
    """A bar for each row, with its label above it."""
    totals: dict[str, float] = {}
    for row in chart.rows:
        for name, value in row.parts.items():
            totals[name] = totals.get(name, 0.0) + value
    drawn = chart.drawn or largest_parts(totals)
    names = list(dict.fromkeys(drawn.values()))
    x = Scale(0.0, max((sum(row.parts.values()) for row in chart.rows), default=0.0) or 1.0, 14.0, WIDTH - RIGHT - 8)
    height = ROW * len(chart.rows)
    y = Scale(0.0, 1.0, TOP + height, TOP)
    content = [marks.text(14, 20, chart.title, "title")]
    for value, label in x.ticks():
        content.append(f'<path class="g" d="M{x.place(value):.1f} {y.end:.1f}V{y.start + 4:.1f}"/>')
        content.append(marks.text(x.place(value), y.start + 17, label, "tx", "middle"))
    content.append(marks.text((x.start + x.end) / 2, y.start + 34, chart.unit, "label", "middle"))
    said = []
    for k, row in enumerate(chart.rows):
        top = TOP + k * ROW
        total = sum(row.parts.values())
        said.append(f"{row.label} {total:.4g} {chart.unit}")
        content.append(marks.text(14, top + 12, marks.shortened(f"{row.label}: {total:.4g} {chart.unit}", 66)))
        content += _bar(row, drawn, names, x, top + 16, chart.unit)
    bottom = y.start + BELOW
    present = {drawn[part] for part, total in totals.items() if total > 0 and part in drawn}
    entries = [(marks.area_sign(index), name) for index, name in enumerate(names) if name in present]
    rows, legend_height = marks.legend(entries, 14, bottom, WIDTH - 4)
    return picture(chart.name, chart.title, "; ".join(said), bottom + legend_height + 4, "".join([*content, rows]))


def _bar(row: Row, drawn: Mapping[str, str], names: Sequence[str], x: Scale, top: float, unit: str) -> list[str]:
    parts = dict.fromkeys(names, 0.0)
    for part, value in row.parts.items():
        if part in drawn:
            parts[drawn[part]] += value
    done, areas = 0.0, []
    for index, name in enumerate(names):
        if parts[name] <= 0:
            continue
        left, right = x.place(done), x.place(done + parts[name])
        done += parts[name]
        words = marks.tip(f"{row.label}, {name}: {parts[name]:.4g} {unit}")
        areas.append(_area(index, left, top, right - left, BAR, words, " plan" if row.faint else ""))
    return areas


def _area(index: int, x: float, y: float, width: float, height: float, words: str, more: str = "") -> str:
    of = f'class="a {marks.colour(index)}{more}"'
    return f'<rect {of} x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}">{words}</rect>'
