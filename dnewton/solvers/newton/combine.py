"""The step from the pieces: the damped quadratic model on S minimised over span{d, d_previous}.

(Zᵀ(G + λI)Z) c = -Zᵀ∇f by least squares with relative cut-off 1e-10 (Wang et al. 2018, section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, dot, host, least_squares, zeros
from dnewton.comm.communicator import Comm
from dnewton.curvature.gauss_newton import Model
from dnewton.curvature.jacobian import LocalSystem

CUT_OFF = 1e-10


@dataclass(frozen=True)
class Direction:
    """The combined direction on this rank, its slope ∇fᵀp and its curvature pᵀGp (with 1/C, without λ)."""

    p: Array
    slope: float
    curvature: float
    bend: Array | None = None  # the second order of the way along p (:mod:`dnewton.solvers.newton.geodesic`)
    counts: tuple[float, ...] = ()  # sums over the ranks that came with it

    def step(self, alpha: float) -> Array:
        """α p + α² bend."""
        step = alpha * self.p
        return step if self.bend is None else step + alpha**2 * self.bend


def combine(
    model: Model,
    unit: LocalSystem,
    g: Array,
    d: Array,
    previous: Array | None,
    damping: float,
    comm: Comm,
    counts: Sequence[float] = (),
) -> Direction:
    """The best step in span{d, previous}; without `previous` the best multiple of d. `counts` are summed on the way.

    Collective over the world: one sum of K|S| numbers per vector and some scalars for rank 0, which decides, and what
    it tells the others.
    """
    columns = [d] if previous is None else [d, previous]
    slopes, inner, ju, summed = _products(model, unit, g, columns, comm, counts)
    c, slope, curvature = host([1.0] + [0.0] * (len(columns) - 1)), 0.0, 0.0
    if comm.rank == 0:
        curved = _curvature(model, ju, inner)
        fitted = least_squares(curved + damping * inner, -slopes, CUT_OFF)
        if fitted is not None and slopes @ fitted < 0:
            c = fitted
        slope, curvature = float(slopes @ c), float(c @ curved @ c)
    slope, curvature, *told = comm.bcast_scalars([slope, curvature, *c, *summed])
    p = sum((ci * z for ci, z in zip(told[1:], columns[1:], strict=False)), told[0] * d)
    return Direction(p, slope, curvature, counts=tuple(told[len(columns) :]))


def plain(model: Model, unit: LocalSystem, g: Array, d: Array, comm: Comm, counts: Sequence[float] = ()) -> Direction:
    """The pieces as they are (`combine: none`), with the sums of `counts`.

    Collective over the world: one sum of K|S| numbers and some scalars for rank 0, and what it tells the others.
    """
    slopes, inner, ju, summed = _products(model, unit, g, [d], comm, counts)
    curvature = _curvature(model, ju, inner)[0, 0] if comm.rank == 0 else 0.0
    slope, curvature, *told = comm.bcast_scalars([float(slopes[0]), float(curvature), *summed])
    return Direction(d, slope, curvature, counts=tuple(told))


def curvature_along(model: Model, unit: LocalSystem, g: Array, norm: float, comm: Comm) -> float:
    """gᵀGg / gᵀg, by which λ is measured; 1 where that is no positive number. `norm` is ‖g‖ over all ranks.

    Collective over the world: one sum of K|S| numbers, and scalars.
    """
    with comm.phase("combine"):
        curvature = plain(model, unit, g, g, comm).curvature
    scale = curvature / norm**2 if norm > 0 else 1.0
    return scale if math.isfinite(scale) and scale > 0 else 1.0


def _products(
    model: Model, unit: LocalSystem, g: Array, columns: list[Array], comm: Comm, counts: Sequence[float]
) -> tuple[Array, Array, Array, list[float]]:
    """Zᵀ∇f, ZᵀZ, J Z (columns, S, K) and the sums of `counts`; right on rank 0 only."""
    n = len(columns)
    pairs = [(a, b) for a in range(n) for b in range(a, n)]
    own = [dot(g, z) for z in columns] + [dot(columns[a], columns[b]) for a, b in pairs]
    ju, summed = model.images_with(columns, unit, comm, [*own, *counts])
    inner = zeros((n, n), host([]))
    for (a, b), value in zip(pairs, summed[n : len(own)], strict=True):
        inner[a, b] = inner[b, a] = value
    return host(summed[:n]), inner, ju, summed[len(own) :]


def _curvature(model: Model, ju: Array, inner: Array) -> Array:
    """ZᵀGZ."""
    n = len(inner)
    curved = model.regulariser * inner
    for a in range(n):
        for b in range(a, n):
            value = model.quadratic(ju[a, ...], ju[b, ...])
            curved[a, b] += value
            if a != b:
                curved[b, a] += value
    return curved
