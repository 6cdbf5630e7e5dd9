"""Tables as HTML, and the metrics as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from typing import Any

from dnewton.reporting.marks import escape
from dnewton.reporting.runs import Run

Table = tuple[list[str], list[list[str]]]  # the head, and rows of as many words


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """A table; of `words` it has no head, and wide cells are wrapped."""
    top = "" if words else "<thead><tr>" + "".join(f"<th>{escape(h)}</th>" for h in head) + "</tr></thead>"
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    of = ' class="words"' if words else ""
    return f'<div class="wide"><table{of}>{top}<tbody>{body}</tbody></table></div>'


def as_csv(runs: Sequence[Run]) -> str:
    """A row for each line of metrics.jsonl, a column for each figure; the first column is the run's name where there
    are several. What is missing is empty."""
    names = list(dict.fromkeys(name for run in runs for name in run.columns))
    several = len(runs) > 1
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*(["run"] if several else []), *names])
    for run in runs:
        for k in range(len(run.records)):
            row = [run.columns[name][k] if name in run.columns else None for name in names]
            writer.writerow([*([run.name] if several else []), *map(_cell, row)])
    return out.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value


def as_json(runs: Sequence[Run]) -> str:
    """Each run with its configuration, why it ended, and a list for each figure; what is missing is null."""
    content = [
        {
            "run": run.name,
            "path": run.path,
            "version": run.facts.version or None,
            "versions": run.facts.versions,
            "ranks": run.facts.ranks or None,
            "ended": run.ended or None,
            "config": run.config,
            "metrics": {name: [_finite(v) for v in values] for name, values in run.columns.items()},
        }
        for run in runs
    ]
    return json.dumps({"runs": content}, allow_nan=False, default=str) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
