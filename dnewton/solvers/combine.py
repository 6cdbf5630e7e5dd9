"""The step from the pieces: the damped quadratic model on S minimised over span{d, d_previous}.

(Zᵀ(G + λI)Z) c = -Zᵀ∇f by least squares with relative cut-off 1e-10 (Wang et al. 2018, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dnewton.arrays import Array, dot, namespace
from dnewton.comm import Comm
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import Unit

CUT_OFF = 1e-10


@dataclass(frozen=True)
class Direction:
    """The combined direction on this rank, its slope ∇fᵀp and its curvature pᵀGp (with 1/C, without λ)."""

    p: Array
    slope: float
    curvature: float


def combine(
    model: GaussNewton, unit: Unit, g: Array, d: Array, previous: Array | None, damping: float, comm: Comm
) -> Direction:
    """The best step in span{d, previous}; without `previous` the best multiple of d.

    Collective over the world: one sum of K|S| numbers per vector, and scalars.
    """
    columns = [d] if previous is None else [d, previous]
    slopes, inner, curved = _gram(model, unit, g, columns, comm)
    c = np.zeros(len(columns))
    c[0] = 1.0
    if comm.rank == 0:
        fitted = _least_squares(curved + damping * inner, -slopes)
        if fitted is not None and slopes @ fitted < 0:
            c = fitted
    c = np.array(comm.from_root(list(c)))
    p = sum((float(ci) * z for ci, z in zip(c[1:], columns[1:], strict=True)), float(c[0]) * d)
    return Direction(p, float(slopes @ c), float(c @ curved @ c))


def plain(model: GaussNewton, unit: Unit, g: Array, d: Array, comm: Comm) -> Direction:
    """The pieces as they are (`combine: none`). Collective over the world: one sum of K|S| numbers, and scalars."""
    slopes, _, curved = _gram(model, unit, g, [d], comm)
    return Direction(d, float(slopes[0]), float(curved[0, 0]))


def _gram(
    model: GaussNewton, unit: Unit, g: Array, columns: list[Array], comm: Comm
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Zᵀ∇f, ZᵀZ and ZᵀGZ, the same on every rank."""
    xp, n = namespace(g), len(columns)
    ju = comm.sum(xp.stack([model.jacobian.times(z, unit) for z in columns]))
    pairs = [(a, b) for a in range(n) for b in range(a, n)]
    local = [dot(g, z) for z in columns] + [dot(columns[a], columns[b]) for a, b in pairs]
    summed = comm.sum_scalars(local)
    slopes, inner = np.array(summed[:n]), np.zeros((n, n))
    data = comm.from_root([model.quadratic(ju[a], ju[b]) for a, b in pairs])
    curved = np.zeros((n, n))
    for (a, b), zz, jj in zip(pairs, summed[n:], data, strict=True):
        inner[a, b] = inner[b, a] = zz
        curved[a, b] = curved[b, a] = jj + model.regulariser * zz
    return slopes, inner, curved


def _least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
        return None
    return np.asarray(np.linalg.lstsq(matrix, right, rcond=CUT_OFF)[0])
