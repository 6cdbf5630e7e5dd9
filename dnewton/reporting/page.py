"""One page about one run or several, in itself: no script, no network, light and dark."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from html import escape

from dnewton.config import strict_yaml
from dnewton.reporting.charts import COLOURS, Line, Values, chart
from dnewton.reporting.runs import Run, grouped

STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #fff; --faint: #d9d9d9; --soft: #f4f4f4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --faint: #3a3a3a; --soft: #222; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 1.5rem auto;
  max-width: 1360px; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 1rem 1.5rem; }
figure { margin: 0; } svg { width: 100%; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg text.title { font-weight: 600; font-size: 14px; } .grid { stroke: var(--faint); }
polyline, .mark line { fill: none; stroke-width: 2; } .band { opacity: .22; stroke: none; }
.mark { width: 28px; height: 8px; } .legend { margin: .1rem 0 0; font-size: 13px; }
.legend span { margin-right: 1rem; white-space: nowrap; }
table { border-collapse: collapse; margin: .5rem 0; } .wide { overflow-x: auto; }
td, th { padding: .2rem .7rem; border-bottom: 1px solid var(--faint); text-align: right; }
td:first-child, th:first-child { text-align: left; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; font-size: 13px; }
"""
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
PARTS = ("train", "validation", "test")
PLANNED = re.compile(r"peak memory of the largest rank.*: ([0-9.]+) MiB, planned ([0-9.]+) MiB")


def page(runs: Sequence[Run], version: str) -> str:
    """The whole page as HTML."""
    colours = "".join(
        f".c{k} {{ stroke: {PALETTE[k]}; }} circle.c{k}, polygon.c{k} {{ fill: {PALETTE[k]}; }}\n"
        for k in range(COLOURS)
    )
    names = ", ".join(run.name for run in runs)
    figures = "\n".join(f"<figure>{svg}</figure>" for svg in charts(runs) if svg)
    sections = "\n".join(_section(run) for run in runs)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>dnewton: {escape(names)}</title>
<style>{STYLE}{colours}</style>
</head>
<body>
<h1>{escape(names)}</h1>
{_overview(runs)}
<h2>Iterations</h2>
<div class="charts">
{figures}
</div>
{sections}
<p>Written by dnewton {escape(version)}.</p>
</body>
</html>
"""


def charts(runs: Sequence[Run]) -> list[str]:
    """The pictures, each with its legend; runs that differ by their seed alone are one line in a band."""
    groups = grouped(runs)
    metric = runs[0].metric
    one = len(groups) == 1

    def lines(label: str, get: Callable[[Run], Values], dash: int = 0, colour: int | None = None) -> list[Line]:
        return [
            _line(
                group, label if one else f"{_title(group)} {label}".strip(), get, k if colour is None else colour, dash
            )
            for k, group in enumerate(groups)
        ]

    def figure(*path: str) -> Callable[[Run], Values]:
        return lambda run: run.column(*path)

    scores = [
        line for k, part in enumerate(PARTS) for line in lines(part, figure(f"{part}_{metric}"), k, k if one else None)
    ]
    cg = [
        line
        for k, which in enumerate(("max", "mean", "min"))
        for line in lines(f"{which} over the ranks", figure("cg_iterations", which), k, k if one else None)
    ]
    cut = lines("ranks cut off", figure("early_stopped"), 3, 4 if one else None)
    cut = [line for line in cut if any(line.y)]
    return [
        chart("Objective f", "f", lines("" if not one else "f", figure("loss")), log=True),
        chart(metric, metric, scores, log=metric == "rmse"),
        chart("Gradient", "|g|", lines("|g|" if one else "", figure("grad_norm")), log=True),
        chart("Damping", "λ", lines("λ" if one else "", figure("lambda")), log=True),
        chart("Gain over the model's forecast", "ρ", lines("ρ" if one else "", figure("ratio"))),
        chart("Step", "α", lines("α" if one else "", figure("step"))),
        chart("CG iterations", "iterations", [*cg, *cut]),
        chart("Seconds since the start", "s", lines("seconds" if one else "", figure("seconds"))),
    ]


def _title(group: Sequence[Run]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} ({len(group)} seeds)"


def _line(group: Sequence[Run], label: str, get: Callable[[Run], Values], colour: int, dash: int) -> Line:
    if len(group) == 1:
        return Line(label, group[0].iterations, get(group[0]), colour, dash)
    columns = [list(get(run)) for run in group]
    longest = max(group, key=lambda run: len(run.records))
    low: list[float | None] = []
    middle: list[float | None] = []
    high: list[float | None] = []
    for k in range(len(longest.records)):
        found = [v for column in columns if k < len(column) and (v := column[k]) is not None]
        low.append(min(found, default=None))
        middle.append(statistics.median(found) if found else None)
        high.append(max(found, default=None))
    return Line(label, longest.iterations, middle, colour, dash, low, high)


def _overview(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        last, name = run.records[-1], run.metric
        better = min if name == "rmse" else max
        cells = [run.name, f"{last['iteration']}", _text(last.get("loss"))]
        for part in PARTS:
            column = [v for v in run.column(f"{part}_{name}") if v is not None]
            cells += [_text(column[-1]), _text(better(column))] if column else ["-", "-"]
        cells.append(_text(last.get("seconds"), ".4g"))
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    name = runs[0].metric
    heads = (
        ["run", "iterations", "f"] + [f"{part} {name}, {which}" for part in PARTS for which in ("last", "best")] + ["s"]
    )
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _text(value: object, form: str = ".6g") -> str:
    return format(value, form) if isinstance(value, (int, float)) else "-"


def _section(run: Run) -> str:
    """What is a run's own: its end, phases, memory, layout, configuration."""
    ended = run.ended or "goes on, or was cut off"
    memory = ""
    found = next((m for line in reversed(run.log) if (m := PLANNED.search(line))), None)
    if found:
        memory = f"<p>Peak memory of the largest rank: {found[1]} MiB of {found[2]} MiB planned.</p>"
    notes = "\n".join(line for line in run.log if not re.match(r"\s*\d+ ", line))
    config = strict_yaml.dump(dict(run.config)) if run.config else ""
    return f"""<h2>{escape(run.name)}</h2>
<p>{escape(ended)}</p>
{memory}
{_phases(run)}
<details><summary>Layout, memory and other notes of the log</summary><pre>{escape(notes)}</pre></details>
<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>"""


def _phases(run: Run) -> str:
    """Seconds of rank 0, and calls and bytes of all ranks, summed over the run."""
    totals: dict[str, list[float]] = {}
    for record in run.records:
        for name, seconds in (record.get("phase_seconds") or {}).items():
            totals.setdefault(name, [0.0, 0.0, 0.0])[0] += seconds
        for name, traffic in (record.get("comm") or {}).items():
            entry = totals.setdefault(name, [0.0, 0.0, 0.0])
            entry[1] += traffic.get("calls", 0)
            entry[2] += traffic.get("bytes", 0)
    whole = sum(t[0] for t in totals.values()) or 1.0
    rows = [
        f"<tr><td>{escape(name)}</td><td>{s:.3f}</td><td>{s / whole:.0%}</td><td>{calls:.0f}</td>"
        f"<td>{size / 1e6:.3f}</td></tr>"
        for name, (s, calls, size) in totals.items()
        if s or calls
    ]
    heads = "<tr><th>phase</th><th>seconds of rank 0</th><th>share</th><th>calls of all ranks</th><th>MB</th></tr>"
    return f'<div class="wide"><table>{heads}{"".join(rows)}</table></div>' if rows else ""
