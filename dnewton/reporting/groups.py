"""Runs that differ only in their seed as one line with a band."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from dnewton.reporting.figures import numbers
from dnewton.reporting.line_chart import Line, Values
from dnewton.reporting.runs import Run

Axis = Callable[[Run], list[float | None]]


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds, or a single run."""

    label: str
    runs: Sequence[Run]
    index: int  # of its colour and dash


def _seedless(run: Run) -> str:
    """What two runs of a group have in common: everything but the seed, and what is measured or only written."""
    config: dict[str, Any] = copy.deepcopy(dict(run.config))
    config.pop("output", None)
    for section, key in (("solver", "seed"), ("parallel", "rates")):
        if isinstance(config.get(section), dict):
            config[section].pop(key, None)
    return json.dumps([config, run.facts.ranks], sort_keys=True, default=str)


def grouped(runs: Sequence[Run]) -> list[Group]:
    """The runs in groups, in the order of the first of each. A run without a configuration is alone; the only run of
    a report needs no label, and one without figures is in no group."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        if not run.records:
            continue
        found.setdefault(_seedless(run) if run.config else f"only {run.name}", []).append(run)
    groups = []
    for index, members in enumerate(found.values()):
        label = members[0].name if len(runs) > 1 else ""
        if len(members) > 1:
            seeds = len({str(run.setting("solver", "seed")) for run in members})
            what = f"{seeds} seeds" if seeds == len(members) else f"{len(members)} runs"
            label = f"{_common(members)} ({what})"
        groups.append(Group(label, members, index))
    return groups


def _common(runs: Sequence[Run]) -> str:
    """What the names begin with, or the first name."""
    names = [run.name for run in runs]
    first, last = min(names), max(names)
    length = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    common = re.sub(r"[-_./ ]*(seed=?)?$", "", first[:length])  # as compare calls them
    return common if length >= 3 and common else names[0]


def line_of(group: Group, name: str, label: str, over: str = "iteration", index: int | None = None) -> Line | None:
    """A figure of a group over iterations or another figure; None where no run has it."""
    index = group.index if index is None else index
    pairs = [(numbers(run.columns, over), numbers(run.columns, name)) for run in group.runs]
    pairs = [(x, y) for x, y in pairs if any(value is not None for value in y)]
    if not pairs:
        return None
    if len(pairs) == 1 or over != "iteration":
        x, y = pairs[0]
        return Line(label, x, y, index)
    return _median(pairs, label, index)


def lines_of(group: Group, name: str, over: str) -> list[Line]:
    """A figure over another one that is not the same for all runs, such as seconds: a line for each run."""
    lines = []
    for run in group.runs:
        y = numbers(run.columns, name)
        if any(value is not None for value in y):
            label = group.label if len(group.runs) == 1 else run.name
            lines.append(Line(label, numbers(run.columns, over), y, group.index))
    return lines


def _median(pairs: Sequence[tuple[Values, Values]], label: str, index: int) -> Line:
    """The median of several runs at every iteration, and the least and largest value; None where no run has one."""
    at: dict[float, list[float]] = {}
    for x, y in pairs:
        for place, value in zip(x, y, strict=True):
            if place is not None:
                at.setdefault(place, []).extend([] if value is None else [value])
    places = sorted(at)
    middle = [median(at[p]) if at[p] else None for p in places]
    low = [min(at[p], default=None) for p in places]
    high = [max(at[p], default=None) for p in places]
    return Line(label, places, middle, index, low, high)


def cg_line(group: Group) -> Line | None:
    """The mean of the ranks' CG iterations with the least and largest rank as a band; of several runs the median of
    means, the least and the largest of all."""
    mean = line_of(group, "cg_iterations.mean", group.label)
    if mean is None:
        return None
    edges: Mapping[str, dict[float, list[float]]] = {"min": {}, "max": {}}
    for run in group.runs:
        for edge, found in edges.items():
            places = numbers(run.columns, "iteration")
            for place, value in zip(places, numbers(run.columns, f"cg_iterations.{edge}"), strict=True):
                if place is not None and value is not None:
                    found.setdefault(place, []).append(value)
    low = [min(edges["min"].get(x or 0.0, []), default=None) for x in mean.x]
    high = [max(edges["max"].get(x or 0.0, []), default=None) for x in mean.x]
    return Line(group.label, mean.x, mean.y, group.index, low, high)
