"""Curves of characters: braille dots for the first, letters for others, ASCII where a terminal has no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dnewton.reporting.line_chart import Values
from dnewton.reporting.scales import Scale, scale_for

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column within a character
_BLANK = 0x2800
SIGNS = "*ox+"
SPACING = 4  # columns from one letter of a further curve to the next
MARGIN = 10  # for the labels of the axis


@dataclass(frozen=True)
class Curve:
    """Values over iterations; None leaves a gap."""

    label: str
    x: Values
    y: Values


def plot(curves: Sequence[Curve], width: int, height: int, log: bool = False, fine: bool = True) -> list[str]:
    """A picture of `height` lines and one below with the curves' names. `fine`: braille for the first curve."""
    columns = max(8, width - MARGIN - 1)
    x = scale_for([v for c in curves for v in c.x], 0.0, 2.0 * columns - 1, tight=True)
    y = scale_for([v for c in curves for v in c.y], 4.0 * height - 1, 0.0, log, tight=True)
    cells = [[" "] * columns for _ in range(height)]
    for number, curve in enumerate(curves):
        if number == 0 and fine:
            _draw_braille(cells, _dots(curve, x, y, joined=True))
            continue
        for column, row in _dots(curve, x, y, joined=number == 0):
            if number == 0 or column // 2 % SPACING == number % SPACING:  # other curves are on top, and let it be seen
                cells[row // 4][column // 2] = SIGNS[number % len(SIGNS)]
    labels = _labels(y, height)
    lines = [
        f"{labels.get(row, ''):>{MARGIN - 1}} {'│' if fine else '|'}{''.join(cells[row])}" for row in range(height)
    ]
    names = [f"{'⣿' if k == 0 and fine else SIGNS[k % len(SIGNS)]} {curve.label}" for k, curve in enumerate(curves)]
    first, last = _ends(curves)
    below = f"{first:g} {'   '.join(names)}"
    return [*lines, " " * (MARGIN + 1) + below + f"{last:g}".rjust(max(2, columns - len(below)))]


def _ends(curves: Sequence[Curve]) -> tuple[float, float]:
    known = [value for curve in curves for value in curve.x if value is not None]
    return (min(known), max(known)) if known else (0.0, 0.0)


def _labels(y: Scale, height: int) -> dict[int, str]:
    """By row the value of a tick; the lowest and the highest value always."""
    labels = {0: f"{y.high:.3g}", height - 1: f"{y.low:.3g}"}
    for value, label in y.ticks(max(2, height // 3)):
        row = round(y.place(value)) // 4
        if 1 < row < height - 2:
            labels.setdefault(row, label)
    return labels


def _dots(curve: Curve, x: Scale, y: Scale, joined: bool) -> list[tuple[int, int]]:
    """The dots (column, row) of a curve; `joined` with those between neighbours."""
    found: list[tuple[int, int]] = []
    before: tuple[int, int] | None = None
    for at, value in zip(curve.x, curve.y, strict=True):
        if at is None or value is None or not y.shows(value):
            before = None
            continue
        dot = round(x.place(at)), round(y.place(value))
        found += _joined(before, dot) if joined and before is not None else [dot]
        before = dot
    return found


def _joined(a: tuple[int, int], b: tuple[int, int]) -> list[tuple[int, int]]:
    steps = max(abs(b[0] - a[0]), abs(b[1] - a[1]), 1)
    return [
        (round(a[0] + (b[0] - a[0]) * k / steps), round(a[1] + (b[1] - a[1]) * k / steps)) for k in range(steps + 1)
    ]


def _draw_braille(cells: list[list[str]], dots: Sequence[tuple[int, int]]) -> None:
    masks: dict[tuple[int, int], int] = {}
    for column, row in dots:
        place = row // 4, column // 2
        masks[place] = masks.get(place, 0) | _DOTS[row % 4][column % 2]
    for (row, column), mask in masks.items():
        cells[row][column] = chr(_BLANK + mask)
