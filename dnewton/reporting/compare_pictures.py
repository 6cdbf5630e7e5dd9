"""The charts of a comparison: loss and score over time, iterations, samples and bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnewton.reporting.comparison import Entry, Method, Target, median_line, score_of, spread, to_target
from dnewton.reporting.figures import numbers
from dnewton.reporting.line_chart import Chart, Line, Point, Values
from dnewton.reporting.scales import bytes_unit

AXES = {
    "seconds": "seconds of training",
    "iteration": "iteration",
    "samples": "samples seen (gradient equivalents)",
    "bytes": "bytes sent",
}
LOG = ("seconds", "samples", "bytes")
SHORT = {"seconds": "time", "iteration": "iterations", "samples": "samples seen", "bytes": "bytes sent"}
SEEDS = "line: median of the seeds, band: lowest to highest"
REACHED = "ring: where the target is reached"
MEDIAN = " (median of the seeds)"


def charts(methods: Sequence[Method], targets: Sequence[Target]) -> list[Chart]:
    """The charts, all of the loss first. A target is drawn where its figure is."""
    entries = [entry for method in methods for entry in method.drawn]
    score = score_of(entries)
    figures = ["loss", *([score] if score else [])]
    figures += [t.metric for t in targets if t.metric not in figures]
    found = []
    for figure in figures:
        for axis in AXES:
            chart = _chart(methods, entries, figure, axis, [t for t in targets if t.metric == figure])
            if chart is not None:
                found.append(chart)
    return found


def _chart(
    methods: Sequence[Method], entries: Sequence[Entry], figure: str, axis: str, targets: Sequence[Target]
) -> Chart | None:
    largest = max((x for entry in entries for x in entry.axes[axis] if x is not None), default=0.0)
    if largest <= 0:
        return None  # one rank sends nothing
    divisor, label = 1.0, AXES[axis]
    if axis == "bytes":
        divisor, unit = bytes_unit(largest)
        label = f"{unit} sent by all ranks"
    log = not figure.endswith("accuracy")
    most, diverged = _most(entries, figure), False
    lines, points = [], []
    for method in methods:
        x, y, low, high = median_line(method, axis, figure, axis in LOG, log)
        if log and any(value is not None and value > most for value in high or y):
            y, low, high = _below(y, y, most), _below(low or y, y, most), _below(high or y, y, most)
            diverged = True
        if any(value is not None for value in y):
            places = [None if value is None else value / divisor for value in x]
            lines.append(Line(_label(method), places, y, method.index, low, high))
        for target in targets:
            of = spread(to_target(method, target, axis))
            if of is not None and math.isfinite(of[0]):
                words = f"{method.label}: {target.words} at {of[0] / divisor:.4g}"
                points.append(Point(of[0] / divisor, target.value, method.index, words))
    if not lines:
        return None
    name = "Loss f" if figure == "loss" else figure.replace("_", " ").capitalize()
    unit = "f" if figure == "loss" else figure.replace("_", " ")
    seeds = any(line.low is not None for line in lines)
    notes = [SEEDS] if seeds else []
    notes += [f"values above {most:.3g}, of runs that failed, are left out"] if diverged else []
    notes += [REACHED + MEDIAN * seeds] if points else []
    return Chart(
        f"{figure}-{axis}",
        f"{name} over {SHORT[axis]}",
        label,
        unit,
        lines,
        log=log,
        note="; ".join(notes),
        x_log=axis in LOG,
        levels=[target.value for target in targets],
        points=points,
    )


def _most(entries: Sequence[Entry], figure: str) -> float:
    """What is drawn at most: one run that diverges to 1e36 would leave no room for the others."""
    whole = [entry for entry in entries if not entry.failed] or entries
    return 10 * max((v for e in whole for v in numbers(e.run.columns, figure) if v is not None), default=math.inf)


def _below(values: Values, middle: Values, most: float) -> Values:
    """Nothing where the median is above `most`, and `most` where the edge of a band is."""
    pairs = zip(values, middle, strict=True)
    return [None if v is None or m is None or m > most else min(v, most) for v, m in pairs]


def _label(method: Method) -> str:
    seeds = len(method.entries)
    return f"{method.label} ({seeds} seeds)" if seeds > 1 else method.label
