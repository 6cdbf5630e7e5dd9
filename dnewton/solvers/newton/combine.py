"""The step from the pieces: the damped quadratic model on S minimised over span{d, d_previous}.

(Zᵀ(G + λI)Z) c = -Zᵀ∇f by least squares with relative cut-off 1e-10 (Wang et al. 2018, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.arrays.namespace import Array, dot, host, least_squares, namespace, to_host, zeros
from dnewton.comm.communicator import Comm
from dnewton.curvature.gauss_newton import Model
from dnewton.curvature.jacobian import LocalSystem
from dnewton.grid import cut

CUT_OFF = 1e-10


@dataclass(frozen=True)
class Direction:
    """The combined direction on this rank, its slope ∇fᵀp and its curvature pᵀGp (with 1/C, without λ)."""

    p: Array
    slope: float
    curvature: float


def combine(
    model: Model, unit: LocalSystem, g: Array, d: Array, previous: Array | None, damping: float, comm: Comm
) -> Direction:
    """The best step in span{d, previous}; without `previous` the best multiple of d.

    Collective over the world: one sum of K|S| numbers per vector, and scalars.
    """
    columns = [d] if previous is None else [d, previous]
    slopes, inner, ju = _products(model, unit, g, columns, comm)
    c, curvature = host([1.0] + [0.0] * (len(columns) - 1)), 0.0
    if comm.rank == 0:
        curved = _curvature(model, ju, inner)
        fitted = least_squares(curved + damping * inner, -slopes, CUT_OFF)
        if fitted is not None and slopes @ fitted < 0:
            c = fitted
        curvature = float(c @ curved @ c)
    *values, curvature = comm.bcast_scalars([*c, curvature])
    p = sum((ci * z for ci, z in zip(values[1:], columns[1:], strict=True)), values[0] * d)
    return Direction(p, float(slopes @ host(values)), curvature)


def plain(model: Model, unit: LocalSystem, g: Array, d: Array, comm: Comm) -> Direction:
    """The pieces as they are (`combine: none`). Collective over the world: one sum of K|S| numbers, and scalars."""
    slopes, inner, ju = _products(model, unit, g, [d], comm)
    (curvature,) = comm.bcast_scalars([_curvature(model, ju, inner)[0, 0] if comm.rank == 0 else 0.0])
    return Direction(d, float(slopes[0]), curvature)


def two_level(
    model: Model, unit: LocalSystem, g: Array, d: Array, previous: Array | None, damping: float, comm: Comm
) -> Direction:
    """Every rank's piece with a coefficient of its own, and `previous` (P + 1 columns).

    Every rank works out ZᵀGZ on its share of S, for which it gets all ranks' J d there. Collective over the world: an
    exchange of K|S| numbers per rank and vector, and one of scalars.
    """
    xp = namespace(g)
    ranks = comm.size
    has = int(previous is not None)
    local = [d] if previous is None else [d, previous]
    images = model.own_images(local, unit, comm)  # (1 or 2, S, K)
    samples, outputs = images.shape[1:]
    parts = [images[:, slice(*cut(samples, ranks, r)), :] for r in range(ranks)]
    here = slice(*cut(samples, ranks, comm.rank))
    shape = (len(local), here.stop - here.start, outputs)
    received = [xp.reshape(m, shape) for m in comm.alltoall(parts)]
    every = [m[0, ...] for m in received]
    if has:
        every.append(sum((m[1, ...] for m in received[1:]), received[0][1, ...]))
    z = xp.stack(every)
    n = ranks + has
    flat = xp.astype(xp.reshape(z, (n, shape[1] * outputs)), xp.float64)
    hessian_flat = xp.astype(xp.reshape(model.hessian_times(z, here), (n, shape[1] * outputs)), xp.float64)
    slopes, inner = host([0.0] * n), zeros((n, n), host([]))
    slopes[comm.rank] = dot(g, d)
    inner[comm.rank, comm.rank] = dot(d, d)
    if previous is not None:
        slopes[-1] = dot(g, previous)
        inner[-1, -1] = dot(previous, previous)
        inner[comm.rank, -1] = inner[-1, comm.rank] = dot(d, previous)
    summed = host(comm.sum_scalars([*slopes, *inner.ravel(), *to_host(flat @ hessian_flat.T).ravel()]))
    slopes, inner = summed[:n], summed[n : n + n * n].reshape(n, n)
    curved = summed[n + n * n :].reshape(n, n)
    curved = 0.5 * (curved + curved.T) + model.regulariser * inner
    c = host([1.0] * ranks + [0.0] * has)
    if comm.rank == 0:
        fitted = least_squares(curved + damping * inner, -slopes, CUT_OFF)
        if fitted is not None and slopes @ fitted < 0:
            c = fitted
    *values, curvature = comm.bcast_scalars([*c, float(c @ curved @ c)])
    p = values[comm.rank] * d
    if previous is not None:
        p = p + values[-1] * previous
    return Direction(p, float(slopes @ host(values)), curvature)


def _products(
    model: Model, unit: LocalSystem, g: Array, columns: list[Array], comm: Comm
) -> tuple[Array, Array, Array]:
    """Zᵀ∇f and ZᵀZ, the same on every rank, and J Z (columns, S, K)."""
    n = len(columns)
    ju = model.images(columns, unit, comm)
    pairs = [(a, b) for a in range(n) for b in range(a, n)]
    summed = comm.sum_scalars([dot(g, z) for z in columns] + [dot(columns[a], columns[b]) for a, b in pairs])
    inner = zeros((n, n), host([]))
    for (a, b), value in zip(pairs, summed[n:], strict=True):
        inner[a, b] = inner[b, a] = value
    return host(summed[:n]), inner, ju


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
