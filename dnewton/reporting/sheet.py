"""All charts of a report as one SVG file, without tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dnewton.reporting import style
from dnewton.reporting.line_chart import WIDTH
from dnewton.reporting.page import charts_of
from dnewton.reporting.runs import Run

ACROSS, GAP = 3, 16.0
_BOX = re.compile(r'viewBox="0 0 (\d+) (\d+)"')


def sheet(runs: Sequence[Run]) -> str:
    """The file, light or dark as its viewer asks."""
    return joined(charts_of(runs))


def joined(charts: Sequence[str]) -> str:
    """Pictures side by side in one file."""
    across = max(1, min(ACROSS, len(charts)))
    bottoms = [GAP] * across
    placed = []
    for chart in charts:
        box = _BOX.search(chart)
        height = float(box[2]) if box else WIDTH
        column = bottoms.index(min(bottoms))
        x = GAP + column * (WIDTH + GAP)
        at = f'<svg x="{x:.0f}" y="{bottoms[column]:.0f}" width="{WIDTH:.0f}" height="{height:.0f}" '
        placed.append(at + chart.removeprefix("<svg "))
        bottoms[column] += height + GAP
    width, height = GAP + across * (WIDTH + GAP), max(bottoms)
    content = "\n".join(placed)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">\n<style>{style.THEMES}{style.PICTURES}</style>\n'
        f'<rect width="100%" height="100%" fill="var(--paper)"/>\n{content}\n</svg>\n'
    )
