"""Who owns what: the R x C grid of ranks, the four splits, slices, and moves between splits.

Pure functions and frozen dataclasses; nothing here communicates. One function, :func:`cut`, cuts everything:
weights, activations, data columns and checkpoints (Wang et al. 2018, section 4; docs/layout.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Split = Literal["full", "row", "col", "all"]
Group = Literal["none", "row", "column", "world"]
KindName = Literal["row->col", "col->row", "full->all", "all->full"]

SPLITS: tuple[Split, ...] = ("full", "row", "col", "all")


def cut(n: int, parts: int, j: int) -> tuple[int, int]:
    """Bounds [lo, hi) of slice `j` of `parts` over `n` units: every `all` slice lies inside its `row` slice."""
    return j * n // parts, (j + 1) * n // parts


def runs(n: int, step: int) -> list[slice]:
    """Slices of `step` over n, the last one shorter; none of an empty n."""
    return [slice(i, min(n, i + step)) for i in range(0, n, step)]


def even_slices(n: int, parts: int) -> list[slice]:
    """Slices of about equal length over n, cut by :func:`cut`; never none."""
    return [slice(*cut(n, max(1, parts), j)) for j in range(max(1, parts))]


def even_sizes(n: int, parts: int) -> dict[int, int]:
    """How many of :func:`even_slices` have which length, without a list of them."""
    parts = max(1, parts)
    length, longer = divmod(n, parts)
    return {size: count for size, count in ((length, parts - longer), (length + 1, longer)) if count}


def piece_sizes(n: int, step: int, most: int) -> dict[int, int]:
    """How many pieces there are of which length where every one of ``runs(n, step)`` is cut evenly into the fewest of
    at most `most`."""
    step = min(step, n)
    rest = n % step
    found: dict[int, int] = {}
    for size, times in ((step, n // step), *([(rest, 1)] if rest else [])):
        for length, count in even_sizes(size, ceil_div(size, most)).items():
            found[length] = found.get(length, 0) + times * count
    return found


def ceil_div(n: int, d: int) -> int:
    """⌈n / d⌉."""
    return -(-n // d)


@dataclass(frozen=True)
class SplitAxis:
    """What a split cuts: `count` channels of `size` numbers each (size 1: single features)."""

    count: int
    size: int = 1

    @property
    def features(self) -> int:
        """Numbers per sample along the feature axis."""
        return self.count * self.size


@dataclass(frozen=True)
class Grid:
    """The ranks of one replica as `rows` x `cols`, rank k at (k // cols, k % cols)."""

    rows: int
    cols: int

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self.rows * self.cols

    def parts(self, split: Split) -> int:
        """Number of groups of a split."""
        return {"full": 1, "row": self.rows, "col": self.cols, "all": self.size}[split]

    def part(self, split: Split, rank: int) -> int:
        """The group of `split` that `rank` holds."""
        return {"full": 0, "row": rank // self.cols, "col": rank % self.cols, "all": rank}[split]

    def ranks_in(self, group: Group) -> int:
        """Number of ranks in a communication group: a row has `cols` ranks, a column has `rows`."""
        return {"none": 1, "row": self.cols, "column": self.rows, "world": self.size}[group]

    def members(self, group: Group, rank: int) -> tuple[int, ...]:
        """The ranks in `rank`'s group, ascending; `none` is the rank alone."""
        r, c = divmod(rank, self.cols)
        if group == "row":
            return tuple(r * self.cols + j for j in range(self.cols))
        if group == "column":
            return tuple(j * self.cols + c for j in range(self.rows))
        return tuple(range(self.size)) if group == "world" else (rank,)

    def bounds(self, split: Split, units: SplitAxis, rank: int) -> tuple[int, int]:
        """The units [lo, hi) that `rank` holds."""
        return cut(units.count, self.parts(split), self.part(split, rank))

    def width(self, split: Split, units: SplitAxis, rank: int) -> int:
        """Features that `rank` holds along the feature axis."""
        lo, hi = self.bounds(split, units, rank)
        return (hi - lo) * units.size

    def canonical(self, split: Split) -> Split:
        """The simplest name of a split on this grid: on one row `row` is `full` and `all` is `col`, and so on."""
        if self.size == 1:
            return "full"
        if self.rows == 1:
            return {"full": "full", "row": "full", "col": "col", "all": "col"}[split]  # type: ignore[return-value]
        if self.cols == 1:
            return {"full": "full", "row": "row", "col": "full", "all": "row"}[split]  # type: ignore[return-value]
        return split


@dataclass(frozen=True)
class Kind:
    """How a parametric layer uses the grid: the splits of input and output and the groups that sum."""

    name: KindName
    source: Split
    target: Split
    forward: Group
    backward: Group

    def owns_bias(self, grid: Grid, rank: int) -> bool:
        """True on the lowest rank of each forward-sum group: it adds the bias before the sum."""
        return grid.members(self.forward, rank)[0] == rank


KINDS: dict[KindName, Kind] = {
    "row->col": Kind("row->col", "row", "col", forward="column", backward="row"),
    "col->row": Kind("col->row", "col", "row", forward="row", backward="column"),
    "full->all": Kind("full->all", "full", "all", forward="none", backward="world"),
    "all->full": Kind("all->full", "all", "full", forward="world", backward="none"),
}


@dataclass(frozen=True)
class Move:
    """One step of a redistribution: a free local slice (`group` none) or an allgather inside `group`."""

    source: Split
    target: Split
    group: Group


_GATHERS: dict[tuple[Split, Split], Group] = {
    ("all", "row"): "row",
    ("row", "full"): "column",
    ("col", "full"): "row",
    ("all", "full"): "world",
}


def moves(grid: Grid, source: Split, target: Split) -> tuple[Move, ...]:
    """Steps that bring an activation from one split to another; () when they cut alike.

    Splits that do not refine each other meet through `full`. The backward pass takes `moves(target, source)`:
    where forward sliced, backward gathers, and the reverse (a cotangent is complete on every holder).
    """
    a, b = grid.canonical(source), grid.canonical(target)
    if a == b:
        return ()
    if a == "full" or (a, b) == ("row", "all"):
        return (Move(a, b, "none"),)
    if (a, b) in _GATHERS:
        return (Move(a, b, _GATHERS[a, b]),)
    return (*moves(grid, a, "full"), *moves(grid, "full", b))


def grids(size: int) -> list[Grid]:
    """Every grid R x C with R * C = size."""
    return [Grid(r, size // r) for r in range(1, size + 1) if size % r == 0]
