"""The charts of lines of a report as one PNG, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

from dnewton.reporting import pictures
from dnewton.reporting.groups import grouped
from dnewton.reporting.line_chart import Chart, Line, Values
from dnewton.reporting.runs import Run
from dnewton.reporting.style import LIGHT

ACROSS = 3
DASHES = ("-", "--", ":", "-.")
SIGNS = "os^Dx+|*"


def png(runs: Sequence[Run]) -> bytes:
    """The charts of convergence and method, on white ground."""
    groups = grouped(runs)
    charts = [*pictures.convergence(groups), *pictures.method(groups)]
    return drawn(charts, "dnewton: " + ", ".join(run.name for run in runs)[:150])


def drawn(charts: Sequence[Chart], title: str, across: int = ACROSS) -> bytes:
    """Charts under a title, so many of them side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, which other files need not
    from matplotlib.figure import Figure

    rows = max(1, math.ceil(len(charts) / across))
    width, height = 5.2 * across, 3.6 * rows + 0.3
    figure = Figure(figsize=(width, height), dpi=110)
    figure.subplots_adjust(  # in inches; matplotlib's own layout draws everything twice
        left=1.0 / width,
        right=1 - 0.15 / width,
        bottom=0.5 / height,
        top=1 - 0.75 / height,
        wspace=1.05 / ((width - 1.15 - 1.05 * (across - 1)) / across),
        hspace=0.85 / ((height - 1.25 - 0.85 * (rows - 1)) / rows),
    )
    figure.suptitle(_plain(title), y=1 - 0.12 / height, va="top", parse_math=False)
    for k, chart in enumerate(charts):
        _draw(figure.add_subplot(rows, across, k + 1), chart)
    out = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(out, format="png")
    return out.getvalue()


def _draw(axes: object, chart: Chart) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    for line in chart.lines:
        _draw_line(axes, line)
    for value in chart.levels:
        axes.axhline(value, color="#595959", linestyle=":", linewidth=1)
    for point in chart.points:
        colour = LIGHT[point.index % len(LIGHT)]
        axes.plot([point.x], [point.y], "o", color=colour, markersize=11, fillstyle="none")
    axes.set_title(chart.title, fontsize=10, y=1.0)  # a place of its own, or all tick labels are measured to find one
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    axes.grid(alpha=0.3)
    known = [value for line in chart.lines for value in line.y if value is not None]
    if chart.log and any(value > 0 for value in known) and not any(value < 0 for value in known):
        axes.set_yscale("log", nonpositive="mask")
    if chart.x_log and any(value is not None and value > 0 for line in chart.lines for value in line.x):
        axes.set_xscale("log", nonpositive="mask")
    if chart.limits is not None and known:
        low, high = chart.limits
        axes.set_ylim(max(low, min(known)) - 0.1, min(high, max(known)) + 0.1)
    if len(chart.lines) > 1:
        for text in axes.legend(fontsize=7).get_texts():
            text.set_parse_math(False)  # names of runs may have dollar signs


def _draw_line(axes: object, line: Line) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    x, y = _numbers(line.x), _numbers(line.y)
    colour = LIGHT[line.index % len(LIGHT)]
    axes.plot(
        x,
        y,
        color=colour,
        linestyle=DASHES[line.index % len(DASHES)],
        marker=SIGNS[line.index % len(SIGNS)],
        markevery=max(1, len(x) // 8),
        markersize=4,
        label=_plain(line.label),
    )
    if line.low is not None and line.high is not None:
        axes.fill_between(x, _numbers(line.low), _numbers(line.high), color=colour, alpha=0.2, linewidth=0)


def _plain(text: str) -> str:
    """A name as it can be drawn: a folder's may be no text."""
    return text.encode("utf-8", "replace").decode()


def _numbers(values: Values) -> list[float]:
    return [math.nan if value is None else value for value in values]
