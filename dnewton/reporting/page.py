"""The report as one HTML page that needs nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from dnewton import __version__
from dnewton.reporting import facts_tables, pictures, style
from dnewton.reporting.bar_chart import Rows, Stack, render_rows, render_stack
from dnewton.reporting.groups import grouped
from dnewton.reporting.layout_picture import layout_of, render_layout
from dnewton.reporting.line_chart import Chart, render
from dnewton.reporting.marks import escape
from dnewton.reporting.runs import Run
from dnewton.reporting.tables import html_table

LOG_LINES = 2000  # of a run's log in the page: the first and the last


def page(runs: Sequence[Run]) -> str:
    """The whole page, in UTF-8 once it is encoded."""
    groups = grouped(runs)
    title = "dnewton: " + (runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">Written by dnewton {escape(__version__)} on {time.strftime("%Y-%m-%d %H:%M")}.</p>',
        *_notices(runs),
        *_overview(runs),
        *section("Convergence", pictures.convergence(groups)),
        *section("The method", pictures.method(groups)),
        *cost(runs),
        *layouts(runs),
        "<h2>Runs in detail</h2>",
        *(details(run) for run in runs),
    ]
    return document(title, body)


def document(title: str, body: Sequence[str]) -> str:
    """The lines of a page with its head and style."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="generator" content="dnewton {escape(__version__)}">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style.THEMES}{style.PICTURES}{style.PAGE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def charts_of(runs: Sequence[Run]) -> list[str]:
    """All pictures of a report as SVG elements, in the order of the page."""
    groups = grouped(runs)
    found = [render(chart) for chart in (*pictures.convergence(groups), *pictures.method(groups))]
    found += [svg for svg, _ in _cost_pictures(runs)]
    found += [svg for _, svg in _layout_pictures(runs)]
    return found


def _overview(runs: Sequence[Run]) -> list[str]:
    """A table of the runs; of a single one it stands upright, for narrow screens."""
    head, rows = facts_tables.overview(runs)
    if len(rows) > 1:
        return [html_table(head, rows)]
    return [html_table([], list(zip(head, rows[0], strict=True)), words=True)]


def _notices(runs: Sequence[Run]) -> list[str]:
    """What a reader must know first: runs without figures, damaged lines, warnings."""
    found = []
    for run in runs:
        said = []
        if not run.records:
            said.append("no iteration has been written yet")
        if run.unread:
            said.append(f"{run.unread} line(s) of metrics.jsonl are damaged and left out")
        said += run.facts.warnings
        found += [f'<p class="warn">{escape(run.name)}: {escape(text)}</p>' for text in said]
    return found


def _figure(svg: str, note: str = "") -> str:
    caption = f"<figcaption>{escape(note)}</figcaption>" if note else ""
    return f"<figure>{svg}{caption}</figure>"


def section(title: str, charts: Sequence[Chart]) -> list[str]:
    """A heading and charts; nothing where there are none."""
    if not charts:
        return []
    drawn = "\n".join(_figure(render(chart), chart.note) for chart in charts)
    return [f"<h2>{title}</h2>", f'<div class="charts">{drawn}</div>']


def _cost_pictures(runs: Sequence[Run]) -> Iterable[tuple[str, str]]:
    """Seconds, bytes and memory, with their notes."""
    stacks: Sequence[Stack] = pictures.phase_stacks(runs[0]) if len(runs) == 1 else []
    for stack in stacks:
        yield render_stack(stack), stack.note
    rows: list[Rows] = pictures.phase_rows(runs)
    if len(runs) == 1 and (solves := pictures.ranks_solves(runs[0])):
        rows.append(solves)
    if memory := pictures.memory(runs):
        rows.append(memory)
    for chart in rows:
        yield render_rows(chart), chart.note


def cost(runs: Sequence[Run]) -> list[str]:
    """Seconds, bytes and memory of runs, as pictures and tables."""
    drawn = "\n".join(_figure(svg, note) for svg, note in _cost_pictures(runs))
    if not drawn:
        return []
    tables = [
        f"<details><summary>{escape(run.name)}: phases in figures</summary>{html_table(*table)}</details>"
        for run in runs
        if (table := facts_tables.phase_table(run)) is not None
    ]
    return ["<h2>Time, messages, memory</h2>", f'<div class="charts">{drawn}</div>', *tables]


def _layout_pictures(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """A picture for every different layout, with the names of its runs."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if (known := layout_of(run)) is not None:
            grid, layers = known
            found.setdefault(render_layout(grid, layers), []).append(run.name)
    return [(", ".join(names), svg) for svg, names in found.items()]


def layouts(runs: Sequence[Run]) -> list[str]:
    """Every different layout, as a picture and a table."""
    drawn = _layout_pictures(runs)
    if not drawn:
        return []
    note = "outputs from top to bottom, inputs from left to right; the numbers are ranks"
    parts = [_figure(svg, note if len(drawn) == 1 else f"{names}: {note}") for names, svg in drawn]
    tables = []
    seen: list[object] = []
    for run in runs:
        table = facts_tables.layout_table(run)
        if table is not None and table not in seen:
            seen.append(table)
            tables.append(html_table(*table))
    return ["<h2>Layout</h2>", f'<div class="charts">{"".join(parts)}</div>', *tables]


def details(run: Run) -> str:
    """All that is known of a run, its configuration and its log."""
    log = list(run.log)
    if len(log) > LOG_LINES:
        half = LOG_LINES // 2
        log = [*log[:half], f"… {len(log) - LOG_LINES} lines …", *log[-half:]]
    parts = [f"<h3>{escape(run.name)}</h3>", html_table(["", ""], facts_tables.about(run), words=True)]
    if (figures := facts_tables.figures_table(run)) is not None:
        parts.append(f"<details><summary>Figures of some iterations</summary>{html_table(*figures)}</details>")
    for name, text in (("The resolved configuration", run.config_text), ("The log", "\n".join(log))):
        if text:
            parts.append(f"<details><summary>{name}</summary><pre>{escape(text)}</pre></details>")
    return "\n".join(parts)
