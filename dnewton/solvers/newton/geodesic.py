"""Geodesic acceleration (Transtrum, Machta, Sethna 2011): the second order of a Levenberg-Marquardt step.

With residuals r and the step p from (G + λI) p = -∇f, the way through θ that keeps to p in the space of residuals is
α p + α²/2 a, (G + λI) a = -(1/|S|) Jᵀ B r″, r″ the second derivative of r along p. It takes one forward pass of S, as
r″ ≈ 2/h ((r(θ + hp) - r(θ))/h - J p), and another solve with the matrix that p came from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dnewton.arrays.namespace import Array, dot, namespace
from dnewton.comm.communicator import Comm
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import LocalSystem
from dnewton.solvers.newton.combine import Direction

STEP = 0.1  # h
LARGEST = 0.75  # the most that ‖a‖ may be of ‖p‖: beyond, the second order is not the next but one in size


def bent(
    model: GaussNewton,
    unit: LocalSystem,
    direction: Direction,
    ahead: Callable[[Array], Array],
    solve: Callable[[Array], Array],
    comm: Comm,
) -> Direction:
    """The direction with its acceleration, or as it is where that is too large or not finite.

    `ahead` gives the outputs on S, (S, K), at θ plus a step, `solve` the d of (G + λI) d = -g for a vector g like θ.
    Collective over the world: a forward pass of S, one sum of K|S| numbers, two scalars, and what `solve` sends.
    """
    p = direction.p
    with comm.phase("function"):
        later = ahead(STEP * p)
    with comm.phase("combine"):
        image = model.images([p], unit, comm)[0, ...]
        second = (2 / STEP) * ((later - model.z) / STEP - image)
        right = namespace(p).zeros_like(p)
        model.jacobian.add_transposed(model.hessian_times(second, slice(0, model.samples)), unit, right)
    with comm.phase("cg"):
        a = solve(right)
    with comm.phase("combine"):
        squares, own = comm.sum_scalars([dot(a, a), dot(p, p)])
    if not squares <= LARGEST**2 * own:  # NaN, too
        return direction
    return replace(direction, bend=0.5 * a)
