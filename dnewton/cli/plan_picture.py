"""The forecast as an SVG file: seconds over ranks by phase, and the layout of the most ranks that pay."""

from __future__ import annotations

from dnewton.planning.scaling import Scaling, paying
from dnewton.reporting import sheet
from dnewton.reporting.layout_picture import layers_of, render_layout
from dnewton.reporting.line_chart import Chart, Line, render
from dnewton.training.planned import Planned

LARGEST_DRAWN = 1024  # ranks of a layout's picture


def svg(scaling: Scaling[Planned], title: str) -> str:
    """The file."""
    plans = [row.planned for row in scaling.rows]
    charts = []
    if len(plans) > 1:
        charts.append(render(_curve(scaling, title)))
        charts.append(render(_phases(plans)))
    best = paying(scaling).planned
    if best.grid.size <= LARGEST_DRAWN or not charts:
        charts.append(render_layout(best.grid, layers_of(best.plan)))
    return sheet.joined(charts)


def _curve(scaling: Scaling[Planned], title: str) -> Chart:
    ranks = [float(row.planned.ranks) for row in scaling.rows]
    lines = [
        Line("forecast", ranks, [row.faster for row in scaling.rows], 0),
        Line("each rank as good as the first", ranks, [n / ranks[0] for n in ranks], 6),
    ]
    return Chart("scaling", f"{title}: speed-up", "ranks", "times as fast", lines, log=True, x_log=True)


def _phases(plans: list[Planned]) -> Chart:
    ranks = [float(planned.ranks) for planned in plans]
    totals: dict[str, float] = {}
    for planned in plans:
        for name, value in planned.seconds.items():
            totals[name] = max(totals.get(name, 0.0), value)
    largest = sorted(totals, key=lambda name: -totals[name])[:6]
    lines = [Line("an iteration", ranks, [planned.total for planned in plans], 7)]
    for k, name in enumerate(name for name in totals if name in largest and totals[name]):
        lines.append(Line(name, ranks, [planned.seconds.get(name) for planned in plans], k))
    return Chart("seconds", "Seconds of an iteration by phase", "ranks", "s", lines, log=True, x_log=True)
