"""What a comparison says in figures: where the methods ended, and what they took to reach targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from dnewton.reporting.comparison import (
    PARTS,
    Entry,
    Method,
    Target,
    metric_of,
    spread,
    to_target,
)
from dnewton.reporting.figures import numbers
from dnewton.reporting.tables import Table

Form = Callable[[float], str]
Column = tuple[Form, Sequence[float | None]]
AXES = {"seconds": "seconds", "iteration": "iterations", "samples": "samples", "bytes": "MB sent"}


def _count(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.1f}"


def _time(value: float) -> str:
    return f"{value:.3g}" if value < 1 else f"{value:.2f}" if value < 1000 else f"{value:,.0f}"


def _mega(value: float) -> str:
    return f"{value / 1e6:.1f}"


def _four(value: float) -> str:
    return f"{value:.4g}"


FORMS: dict[str, Form] = {"seconds": _time, "iteration": _count, "samples": _four, "bytes": _mega}


def ends(methods: Sequence[Method]) -> Table:
    """A row for each method: where it ended; with several seeds the median, and rows of the least and the most."""
    entries = [entry for method in methods for entry in method.entries]
    name = metric_of(entries)
    scored = [f"{part}_{name}" for part in reversed(PARTS) if any(f"{part}_{name}" in e.run.columns for e in entries)]
    best = next((s for s in reversed(scored) if not s.startswith("train")), "")
    head = ["run", "seeds", "iterations", "f", *(s.replace("_", " ") for s in scored)]
    head += [f"best {best.replace('_', ' ')}"] if best else []
    head += ["seconds", "samples", "MB sent"]
    score: Form = "{:.4f}".format if name == "accuracy" else _four
    rows = []
    for method in methods:
        if not method.drawn:
            rows.append([method.label, str(len(method.entries)), "failed"])
            continue
        columns: list[Column] = [(_count, [e.axes["iteration"][-1] for e in method.drawn])]
        columns.append((_four, [_last(e, "loss") for e in method.drawn]))
        columns += [(score, [_last(e, s) for e in method.drawn]) for s in scored]
        columns += [(score, [_best(e, best) for e in method.drawn])] if best else []
        columns += [(FORMS[a], [e.axes[a][-1] for e in method.drawn]) for a in ("seconds", "samples", "bytes")]
        rows += _rows(method.label, str(len(method.entries)), columns)
    return head, rows


def reached(methods: Sequence[Method], target: Target) -> Table:
    """A row for each method: in how many runs it reached the target, and what that took."""
    head = [f"to {target.words}", "reached", *AXES.values()]
    rows = []
    for method in methods:
        values = {axis: to_target(method, target, axis) for axis in AXES}
        count = sum(math.isfinite(v) for v in values["seconds"])
        columns: list[Column] = [(FORMS[axis], of) for axis, of in values.items()]
        rows += _rows(method.label, f"{count} of {len(method.entries)}", columns)
    return head, rows


def failures(entries: Sequence[Entry]) -> list[str]:
    """A line for each run that failed."""
    return [f"{entry.run.name}: failed: {entry.failed}" for entry in entries if entry.failed]


def _rows(label: str, count: str, columns: Sequence[Column]) -> list[list[str]]:
    spreads = [spread(values) for _, values in columns]
    several = any(of is not None and math.isfinite(of[1]) for of in spreads)  # else all are "never"
    several = several and max((len(values) for _, values in columns), default=0) > 1
    rows = []
    for k, name in enumerate((label, "  least", "  most") if several else (label,)):
        cells = ["-" if of is None else _cell(form, of[k]) for (form, _), of in zip(columns, spreads, strict=True)]
        rows.append([name, "" if k else count, *cells])
    return rows


def _cell(form: Form, value: float) -> str:
    return form(value) if math.isfinite(value) else "never"


def _last(entry: Entry, name: str) -> float | None:
    return numbers(entry.run.columns, name)[-1]


def _best(entry: Entry, name: str) -> float | None:
    known = [value for value in numbers(entry.run.columns, name) if value is not None]
    return None if not known else max(known) if name.endswith("accuracy") else min(known)


def as_text(table: Table) -> list[str]:
    """A table in lines: the first column to the left, the others to the right."""
    head, rows = table
    widths = [max(len(row[k]) if k < len(row) else 0 for row in (head, *rows)) for k in range(len(head))]
    lines = []
    for row in (head, *rows):
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
        lines.append("  ".join([row[0].ljust(widths[0]), *cells]).rstrip())
    return lines
