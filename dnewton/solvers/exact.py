"""Exact solutions of (G_uu + λI) d = -g: by the n x n matrix itself, or by the K|S| x K|S| Gram matrix.

With A = RᵀJ/√|S|, R Rᵀ = B and μ = λ + 1/C: d = -(g - Aᵀ(μI + AAᵀ)⁻¹ A g)/μ. In float32 the difference cancels when μ
is small, so that the result is only a start: conjugate gradients go on from it until the residual is as small as asked.
"""

from __future__ import annotations

from dnewton.arrays import Array, dot, namespace, sample_blocks, symmetric_solve
from dnewton.comm import Comm
from dnewton.curvature.costs import ROWS
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.implicit import Normal, add_normal
from dnewton.curvature.jacobian import Unit
from dnewton.solvers.subproblem import PlainCG


class Exact:
    """One diagonal unit solved at its first iteration, and by conjugate gradients from there if rounding demands it."""

    def __init__(
        self, model: GaussNewton | Normal, g: Array, unit: Unit, damping: float, tolerance: float, how: str
    ) -> None:
        """`how` is primal or dual."""
        self._model, self._g, self._unit, self._damping = model, g, unit, damping
        self._tolerance, self._how = tolerance, how
        self._rest: PlainCG | None = None
        self.working = unit.size > 0 and dot(g[unit.span], g[unit.span]) > 0

    def advance(self) -> None:
        """The solution, or one more iteration on it; see :class:`dnewton.solvers.subproblem.System`."""
        if self._rest is not None:
            self._rest.advance()
        else:
            found = self._found()
            start = None
            if found is not None:
                start = namespace(self._g).zeros_like(self._g)
                start[self._unit.span] = found
            self._rest = PlainCG(self._product, self._g, self._unit, self._tolerance, start)
        self.working = self._rest.working

    def finish(self, d: Array) -> None:
        """Put what has been found into the unit's span of d."""
        if self._rest is not None:
            self._rest.finish(d)

    def _found(self) -> Array | None:
        if self._how == "primal":
            return primal(self._model, self._g, self._unit, self._damping)
        assert isinstance(self._model, GaussNewton)
        return dual(self._model, self._g, self._unit, self._damping)

    def _product(self, v: Array, unit: Unit) -> Array:
        return self._model.block_product(v, unit, self._damping)


def primal(model: GaussNewton | Normal, g: Array, unit: Unit, damping: float) -> Array | None:
    """d by a factorisation of G_uu + λI, on the unit's span; None where it is singular."""
    xp, n = namespace(g), unit.size
    if isinstance(model, Normal):
        matrix = xp.asarray(model.matrices[unit], copy=True)
    else:
        matrix = xp.zeros((n, n), dtype=g.dtype)
        per_sample = 3 * model.outputs * n * g.dtype.itemsize  # rows, turned and bent
        for here in sample_blocks(model.samples, per_sample, ROWS):
            add_normal(model, model.jacobian.rows(unit, here), unit, here, matrix)
    matrix[xp.arange(n), xp.arange(n)] += model.regulariser + damping
    return symmetric_solve(matrix, -g[unit.span])


def dual(model: GaussNewton, g: Array, unit: Unit, damping: float, comm: Comm | None = None) -> Array | None:
    """d by a factorisation of μI + AAᵀ, on the unit's span; None where it is singular.

    With `comm` the whole system over all ranks instead of the rank's own: collective over the world, one sum of (K|S|)²
    and one of K|S| numbers.
    """
    xp, jacobian = namespace(g), model.jacobian
    shape = (model.samples, model.outputs)
    size, mu = shape[0] * shape[1], model.regulariser + damping
    gram, image = jacobian.gram(unit), jacobian.times(g, unit)
    if comm is not None:
        gram, image = comm.sum(gram), comm.sum(image)
    half = xp.reshape(model.half_transposed(xp.reshape(gram, (size, *shape))), (size, size))
    matrix = xp.reshape(model.half_transposed(xp.reshape(half.T, (size, *shape))), (size, size))
    matrix = 0.5 * (matrix + matrix.T)
    matrix[xp.arange(size), xp.arange(size)] += mu
    y = symmetric_solve(matrix, xp.reshape(model.half_transposed(image), (size,)))
    if comm is not None:  # sums over ranks need not be the same bits everywhere
        y = comm.array_from_root(y if y is not None else xp.zeros((0,), dtype=g.dtype))
    if y is None or y.shape[0] < size:
        return None
    out = xp.zeros_like(g)
    jacobian.add_transposed(xp.astype(model.half(xp.reshape(y, shape)), g.dtype), unit, out)
    return (out[unit.span] - g[unit.span]) / mu
