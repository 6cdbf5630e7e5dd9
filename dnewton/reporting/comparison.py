"""Several methods on one net, each with one seed or several: what they reached, and what it took them. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from dnewton.reporting.figures import finite, metric_names, numbers
from dnewton.reporting.line_chart import Values
from dnewton.reporting.runs import Run

BESIDE = ("setup", "evaluate", "report", "output")  # messages that train nothing
PARTS = ("test", "validation", "train")  # in the order in which a score is chosen
NEVER = math.inf


@dataclass(frozen=True)
class Target:
    """A value of a figure of metrics.jsonl that a run is to reach: at least, of an accuracy; else at most."""

    metric: str
    value: float

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.metric.endswith("accuracy")

    @property
    def words(self) -> str:
        """`f <= 0.001` or `test accuracy >= 0.95`."""
        name = "f" if self.metric == "loss" else self.metric.replace("_", " ")
        return f"{name} {'>=' if self.at_least else '<='} {self.value:.4g}"

    def place(self, run: Run) -> int | None:
        """The line at which a run reaches it first, or None."""
        values = numbers(run.columns, self.metric)
        return next((k for k, value in enumerate(values) if value is not None and self._meets(value)), None)

    def _meets(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value


@dataclass(frozen=True)
class Entry:
    """One run: of which method, with which seed, and why it failed if it did."""

    run: Run
    method: str
    seed: int | None = None
    failed: str = ""
    budget: float | None = None

    @cached_property
    def axes(self) -> dict[str, list[float | None]]:
        """Iterations, seconds of training, gradient equivalents and bytes sent by all ranks, line by line."""
        columns = self.run.columns
        return {
            "iteration": numbers(columns, "iteration"),
            "seconds": numbers(columns, "train_seconds"),
            "samples": numbers(columns, "samples_seen"),
            "bytes": sent(self.run.records),
        }


@dataclass(frozen=True)
class Method:
    """The runs of one method, which differ in their seeds."""

    label: str
    entries: Sequence[Entry]
    index: int  # of its colour, dash and marker

    @property
    def drawn(self) -> list[Entry]:
        """Those that have figures."""
        return [entry for entry in self.entries if entry.run.records]


def sent(records: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Bytes sent by all ranks, servers included, from the start to each line; those beside the training left out."""
    total, found = 0.0, []
    for record in records:
        traffic = record.get("comm")
        phases = traffic if isinstance(traffic, Mapping) else {}
        total += sum(finite(of.get("bytes")) or 0.0 for name, of in phases.items() if name not in BESIDE)
        servers = record.get("servers")
        total += (finite(servers.get("bytes")) or 0.0) if isinstance(servers, Mapping) else 0.0
        found.append(total)
    return list(found)


def methods(entries: Sequence[Entry]) -> list[Method]:
    """The runs by method, in the order of the first of each; runs of another budget, and a run of the seed that was set
    beside those of stated seeds, are apart: they make no median together."""
    kinds: dict[str, set[tuple[bool, float | None]]] = {}
    for entry in entries:
        kinds.setdefault(entry.method, set()).add((entry.seed is None, entry.budget))
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        name, every = entry.method, kinds[entry.method]
        if len({alone for alone, _ in every}) > 1 and entry.seed is None:
            name += ", one run"
        if len({budget for _, budget in every}) > 1:
            name += ", no limit" if entry.budget is None else f", {entry.budget:g} s"
        found.setdefault(name, []).append(entry)
    return [Method(name, members, k) for k, (name, members) in enumerate(found.items())]


def metric_of(entries: Sequence[Entry]) -> str:
    """accuracy or rmse; empty where no run has a line."""
    return next((name for entry in entries for name in metric_names(entry.run.columns)), "")


def score_of(entries: Sequence[Entry]) -> str:
    """The figure that is drawn beside the loss: of the test part, or else of another one."""
    name = metric_of(entries)
    known = {column for entry in entries for column in entry.run.columns}
    return next((f"{part}_{name}" for part in PARTS if f"{part}_{name}" in known), "")


def common_loss(entries: Sequence[Entry]) -> Target | None:
    """The lowest loss that every run reached, for those who chose no target; failed runs are ignored."""
    whole = [entry for entry in entries if entry.run.records and not entry.failed]
    least = [min((v for v in numbers(e.run.columns, "loss") if v is not None), default=NEVER) for e in whole]
    worst = max(least, default=NEVER)
    return Target("loss", worst) if math.isfinite(worst) else None


def to_target(method: Method, target: Target, axis: str) -> list[float]:
    """What each run of a method took to reach a target; NEVER where it did not."""
    found = []
    for entry in method.entries:
        at = target.place(entry.run)
        value = None if at is None else entry.axes[axis][at]
        found.append(NEVER if value is None else value)
    return found


def spread(values: Sequence[float | None]) -> tuple[float, float, float] | None:
    """Median, least and most; None where there is nothing."""
    known = [value for value in values if value is not None]
    return (_median(known), min(known), max(known)) if known else None


def _median(known: Sequence[float]) -> float:
    """Between a number and "never" it is "never"."""
    middle = median(known)
    return NEVER if math.isnan(middle) else middle


Curve = list[tuple[float, float]]


def median_line(
    method: Method, axis: str, figure: str, x_log: bool = False, y_log: bool = False
) -> tuple[Values, Values, Values | None, Values | None]:
    """A figure over an axis: x, the median of the seeds, the least and the most.

    Where the axis differs from run to run, each run's curve is the straight line between its points, as it is drawn
    (on axes in powers of ten where `x_log` and `y_log` say so). It begins where all have begun. A run keeps its last
    value until the longest has ended, a failed one ends the curve of all.
    """
    curves, ends = [], []
    for entry in method.drawn:
        known = zip(entry.axes[axis], numbers(entry.run.columns, figure), strict=True)
        points = [(x, y) for x, y in known if x is not None and y is not None and (x > 0 or not x_log)]
        if points:
            curves.append(points)
            ends += [points[-1][0]] if entry.failed else []
    if len(curves) <= 1:
        points = curves[0] if curves else []
        return [x for x, _ in points], [y for _, y in points], None, None
    y_log = y_log and all(y > 0 for points in curves for _, y in points)
    first, last = max(points[0][0] for points in curves), min(ends, default=math.inf)
    grid = sorted({x for points in curves for x, _ in points if first <= x <= last})
    values = [[_between(points, place, x_log, y_log) for points in curves] for place in grid]
    return grid, [median(v) for v in values], [min(v) for v in values], [max(v) for v in values]


def _between(points: Curve, place: float, x_log: bool, y_log: bool) -> float:
    """The curve's value at a place that is not before its first point."""
    k = bisect_right(points, place, key=lambda point: point[0])
    if k == len(points):
        return points[-1][1]
    (left, low), (right, high) = points[k - 1], points[k]
    if right == left:
        return high
    share = math.log(place / left) / math.log(right / left) if x_log else (place - left) / (right - left)
    return low * math.exp(share * math.log(high / low)) if y_log else low + share * (high - low)
