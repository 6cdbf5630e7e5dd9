"""How lines are told apart: a colour, a dash and a marker for each. And small parts of SVG."""

from __future__ import annotations

import html
import re

COLOURS = 8
DASHES = ("", "8 3", "2 3", "10 3 2 3", "14 4", "5 2 1 2 1 2", "1 4", "12 3 5 3")
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "plus", "bar", "hollow")
CHARACTER = 6.7  # the width of one, in units of a picture


_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff\ufffe\uffff]")  # not allowed in XML


def escape(words: str) -> str:
    """Words as they may stand in HTML, in SVG and in their attributes; what is no text becomes a question mark."""
    return html.escape(_NO_TEXT.sub("?", words), quote=True)


def colour(index: int) -> str:
    """The class of a line or an area; its colours are in :mod:`dnewton.reporting.style`."""
    return f"c{index % COLOURS}"


def dash(index: int) -> str:
    """The dash of a line, as an attribute. Beyond eight lines colours come again, with other dashes."""
    pattern = DASHES[(index + index // COLOURS) % len(DASHES)]
    return f' stroke-dasharray="{pattern}"' if pattern else ""


def marker(index: int, x: float, y: float) -> str:
    """A small sign at a point."""
    shape = SHAPES[(index + index // COLOURS) % len(SHAPES)]
    of = f'class="m {colour(index)}"'
    if shape in ("circle", "hollow"):
        hollow = ' fill="none"' if shape == "hollow" else ""
        return f'<circle {of} cx="{x:.1f}" cy="{y:.1f}" r="3"{hollow}/>'
    paths = {
        "square": "m-3-3h6v6h-6z",
        "triangle": "m0-4l3.6 6.4h-7.2z",
        "diamond": "m0-4l4 4l-4 4l-4-4z",
        "cross": "m-3-3l6 6m0-6l-6 6",
        "plus": "m0-4v8m-4-4h8",
        "bar": "m0-4v8",
    }
    return f'<path {of} d="M{x:.1f} {y:.1f}{paths[shape]}"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", extra: str = "") -> str:
    """Words at a place."""
    of = f' class="{kind}"' if kind else ""
    at = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text{of} x="{x:.1f}" y="{y:.1f}"{at}{extra}>{escape(words)}</text>'


def shortened(words: str, most: int) -> str:
    """Words with their middle left out where they are too long."""
    if len(words) <= most:
        return words
    keep = max(1, most - 1)
    return f"{words[: keep - keep // 2]}…{words[len(words) - keep // 2 :]}"


def tip(words: str) -> str:
    """What is shown when a pointer rests on a shape."""
    return f"<title>{escape(words)}</title>"


def legend(entries: list[tuple[str, str]], left: float, top: float, right: float) -> tuple[str, float]:
    """Rows of entries, each the SVG of its sign (in a box of 26 by 12) and its words; and the height that they take."""
    parts = []
    x, y = left, top
    for sign, words in entries:
        shown = shortened(words, int((right - left - 30) / CHARACTER))
        width = 32 + CHARACTER * len(shown) + 16
        if x > left and x + width > right:
            x, y = left, y + 17
        parts.append(f'<g transform="translate({x:.1f} {y:.1f})">{sign}{text(31, 10, shown)}{tip(words)}</g>')
        x += width
    return "".join(parts), y - top + 17 if entries else 0.0


def line_sign(index: int) -> str:
    """A piece of a line, for a legend."""
    return f'<path class="l {colour(index)}"{dash(index)} d="M0 6h26"/>{marker(index, 13, 6)}'


def area_sign(index: int) -> str:
    """A piece of an area, for a legend."""
    return f'<rect class="a {colour(index)}" x="6" y="0" width="14" height="12"/>'
