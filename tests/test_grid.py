"""Slices, grids and moves: pure functions, for P up to 144 in one process."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dnewton.grid import SPLITS, Grid, SplitAxis, cut, moves

sizes = st.integers(1, 12)


@given(sizes, sizes, st.integers(0, 50))
def test_slices_cover_and_nest(rows: int, cols: int, n: int) -> None:
    grid = Grid(rows, cols)
    for split in SPLITS:
        parts = [cut(n, grid.parts(split), j) for j in range(grid.parts(split))]
        assert parts[0][0] == 0 and parts[-1][1] == n
        assert all(a[1] == b[0] for a, b in zip(parts, parts[1:], strict=False))
        assert max(hi - lo for lo, hi in parts) - min(hi - lo for lo, hi in parts) <= 1
    for rank in range(grid.size):
        (lo, hi), (row_lo, row_hi) = (grid.bounds(s, SplitAxis(n), rank) for s in ("all", "row"))
        assert row_lo <= lo <= hi <= row_hi


@given(sizes, sizes)
def test_groups(rows: int, cols: int) -> None:
    grid = Grid(rows, cols)
    for rank in range(grid.size):
        assert len({grid.part("col", r) for r in grid.members("row", rank)}) == cols
        assert len({grid.part("row", r) for r in grid.members("column", rank)}) == rows
        assert all(rank in grid.members(g, rank) for g in ("none", "row", "column", "world"))


@given(sizes, sizes, st.sampled_from(SPLITS), st.sampled_from(SPLITS), st.integers(0, 30), st.integers(1, 3))
def test_moves_bring_what_the_target_holds(rows: int, cols: int, source: str, target: str, n: int, size: int) -> None:
    """A simulation of all ranks: after the moves everybody holds exactly the target's slice."""
    grid, units = Grid(rows, cols), SplitAxis(n, size)
    whole = np.arange(n * size)

    def held(split: str, rank: int) -> np.ndarray:
        lo, hi = grid.bounds(split, units, rank)  # type: ignore[arg-type]
        return whole[lo * size : hi * size]

    now = [held(source, r) for r in range(grid.size)]
    for step in moves(grid, source, target):  # type: ignore[arg-type]
        if step.group == "none":
            now = [np.intersect1d(now[r], held(step.target, r)) for r in range(grid.size)]
        else:
            now = [np.concatenate([now[m] for m in grid.members(step.group, r)]) for r in range(grid.size)]
    for rank in range(grid.size):
        assert np.array_equal(now[rank], held(target, rank))
