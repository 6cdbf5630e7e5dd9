"""Exact solutions of (G_uu + λI) d = -g: by the n x n matrix itself, or by the K|S| x K|S| Gram matrix.

With A = RᵀJ/√|S|, R Rᵀ = B and μ = λ + 1/C: d = -(g - Aᵀ(μI + AAᵀ)⁻¹ A g)/μ. In float32 the difference cancels when μ
is small, so that the result is only a start: conjugate gradients continue from it until the residual meets the rule.
"""

from __future__ import annotations

from dnewton.arrays.namespace import (
    Array,
    diagonal,
    dot,
    itemsize,
    namespace,
    sample_blocks,
    symmetric_solve,
    zeros,
)
from dnewton.comm.communicator import Comm
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import LocalSystem
from dnewton.planning.costs import ROWS
from dnewton.solvers.newton.cg import PlainCG


class Exact:
    """One diagonal unit solved at its first iteration, and by conjugate gradients from there if rounding demands it."""

    def __init__(
        self, model: GaussNewton, g: Array, unit: LocalSystem, damping: float, tolerance: float, how: str
    ) -> None:
        """`how` is primal or dual."""
        self._model = model
        self._g = g
        self._unit = unit
        self._damping = damping
        self._tolerance = tolerance
        self._how = how
        self._rest: PlainCG | None = None
        self.working = unit.size > 0 and dot(g[unit.span], g[unit.span]) > 0

    def advance(self) -> None:
        """The solution, or one more iteration on it; see :class:`dnewton.solvers.newton.cg.System`."""
        if self._rest is not None:
            self._rest.advance()
        else:
            solution = self._solution()
            start = None
            if solution is not None:
                start = namespace(self._g).zeros_like(self._g)
                start[self._unit.span] = solution
            model = self._model
            damping = self._damping  # not a method: a cycle would keep J alive

            def product(v: Array, unit: LocalSystem) -> Array:
                return model.block_product(v, unit, damping)

            self._rest = PlainCG(product, self._g, self._unit, self._tolerance, start)
        self.working = self._rest.working

    def finish(self, d: Array) -> None:
        """Put the solution into the unit's span of d."""
        if self._rest is not None:
            self._rest.finish(d)

    def _solution(self) -> Array | None:
        if self._how == "primal":
            return primal(self._model, self._g, self._unit, self._damping)
        return dual(self._model, self._g, self._unit, self._damping)


def primal(model: GaussNewton, g: Array, unit: LocalSystem, damping: float) -> Array | None:
    """d by a factorisation of G_uu + λI, on the unit's span; None where it is singular."""
    n = unit.size
    matrix = zeros((n, n), g)
    per_sample = 3 * model.outputs * n * itemsize(g)  # rows, transposed, and times R
    for here in sample_blocks(model.samples, per_sample, ROWS):
        _add_normal(model, model.jacobian.rows(unit, here), unit, here, matrix)
    _shift_diagonal(matrix, model.regulariser + damping)
    return symmetric_solve(matrix, -g[unit.span])


def _add_normal(model: GaussNewton, rows: Array, unit: LocalSystem, here: slice, out: Array) -> None:
    """out += J_uᵀ B J_u / |S| over the samples `here` of S, whose J_u is `rows`, (n·K, variables)."""
    xp = namespace(out)
    shape = (unit.size, here.stop - here.start, model.outputs)
    a = xp.reshape(model.half_transposed(xp.reshape(rows.T, shape), here), (unit.size, shape[1] * shape[2]))
    out += a @ a.T


def dual(model: GaussNewton, g: Array, unit: LocalSystem, damping: float, comm: Comm | None = None) -> Array | None:
    """d by a factorisation of μI + AAᵀ, on the unit's span; None where it is singular.

    With `comm` the whole system over all ranks instead of the rank's own: collective over the world, one sum of (K|S|)²
    and one of K|S| numbers.
    """
    xp, jacobian = namespace(g), model.jacobian
    shape = (model.samples, model.outputs)
    size, mu = shape[0] * shape[1], model.regulariser + damping
    gram = jacobian.gram(unit)
    if comm is not None:
        gram = comm.allreduce(gram)
    half = xp.reshape(model.half_transposed(xp.reshape(gram, (size, *shape))), (size, size))
    del gram
    both = xp.reshape(model.half_transposed(xp.reshape(half.T, (size, *shape))), (size, size))
    del half
    matrix = 0.5 * (both + both.T)
    del both
    _shift_diagonal(matrix, mu)
    image = jacobian.times(g, unit)
    if comm is not None:
        image = comm.allreduce(image)
    y = symmetric_solve(matrix, xp.reshape(model.half_transposed(image), (size,)))
    if comm is not None:  # sums over ranks need not be the same bits everywhere
        (known,) = comm.bcast_scalars([float(y is not None)])
        y = comm.bcast(y if y is not None else zeros((size,), image)) if known else None
    if y is None:
        return None
    out = xp.zeros_like(g)
    jacobian.add_transposed(xp.astype(model.half(xp.reshape(y, shape)), g.dtype), unit, out)
    return (out[unit.span] - g[unit.span]) / mu


def _shift_diagonal(matrix: Array, shift: float) -> None:
    """matrix += shift·I, in place."""
    here = diagonal(matrix)
    here += shift
