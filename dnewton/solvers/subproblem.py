"""Conjugate gradients for (G + λI) d = -g: rank-local systems without messages, and the whole system with them.

Start at 0; test ‖r‖ ≤ ξ‖g‖ before the first product and after each, or max_cg (Wang et al. 2018, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dnewton.arrays import Array, dot, namespace
from dnewton.comm import Comm
from dnewton.curvature.jacobian import Unit
from dnewton.solvers.early_stop import Watch

Product = Callable[[Array, Unit], Array]


@dataclass(frozen=True)
class Solution:
    """d on this rank, the iterations done, and whether the others' early termination cut it off."""

    d: Array
    iterations: int
    cut: bool


def local_cg(
    product: Product, g: Array, units: Sequence[Unit], tolerance: float, max_cg: int, watch: Watch
) -> Solution:
    """Solve each diagonal unit alone; the units of a rank advance together, one iteration of each at a time.

    `product(v, unit)` gives (G_uu + λI) v on the unit's span. An empty block or g_p = 0 gives d_p = 0. Communicates
    nothing but what `watch` does.
    """
    xp = namespace(g)
    d, r = xp.zeros_like(g), -g
    v = xp.asarray(r, copy=True)
    squared = {unit: dot(r[unit.span], r[unit.span]) for unit in units if unit.size}
    bound = {unit: tolerance**2 * rr for unit, rr in squared.items()}
    working = [unit for unit, rr in squared.items() if rr > bound[unit]]
    had_work, iterations, cut = bool(working), 0, False
    while working and iterations < max_cg:
        iterations += 1
        still = []
        for unit in working:
            s = unit.span
            gv = product(v, unit)
            curvature = dot(v[s], gv)
            if not (curvature > 0 and math.isfinite(curvature)):
                continue  # rounding (or overflow) has eaten the curvature: what has been found stands
            step = squared[unit] / curvature
            d[s] += step * v[s]
            r[s] -= step * gv
            rr = dot(r[s], r[s])
            if rr > bound[unit]:
                v[s] = r[s] + (rr / squared[unit]) * v[s]
                still.append(unit)
            squared[unit] = rr
        working = still
        if working and iterations < max_cg and watch.cut():
            cut = True
            break
    if not cut:
        watch.finished(counts=had_work)
    return Solution(d, iterations, cut)


def full_cg(
    product: Product, g: Array, unit: Unit, grad_norm: float, tolerance: float, max_cg: int, comm: Comm
) -> Solution:
    """Solve the whole system, every rank holding its blocks of the vectors; `product` communicates.

    vᵀ(G + λI)v and rᵀr are summed and agreed, so that all ranks take the same steps and stop together.
    Collective over the world: per iteration what `product` sends and two scalars.
    """
    xp = namespace(g)
    d, r = xp.zeros_like(g), -g
    v = xp.asarray(r, copy=True)
    squared = grad_norm**2
    bound, iterations = tolerance**2 * squared, 0
    while squared > bound and iterations < max_cg:
        iterations += 1
        gv = product(v, unit)
        (curvature,) = comm.sum_scalars([dot(v, gv)])
        if not (curvature > 0 and math.isfinite(curvature)):
            break
        step = squared / curvature
        d += step * v
        r -= step * gv
        (rr,) = comm.sum_scalars([dot(r, r)])
        v = r + (rr / squared) * v
        squared = rr
    return Solution(d, iterations, cut=False)
