"""The charts of a comparison: loss and score over time, iterations, samples and bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dnewton.reporting.comparison import Entry, Method, Target, median_line, score_of, spread, to_target
from dnewton.reporting.line_chart import Chart, Line, Point
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
    lines, points = [], []
    for method in methods:
        x, y, low, high = median_line(method, axis, figure, axis in LOG, log)
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


def _label(method: Method) -> str:
    seeds = len(method.entries)
    return f"{method.label} ({seeds} seeds)" if seeds > 1 else method.label
