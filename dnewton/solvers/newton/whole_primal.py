"""The whole system over all ranks by the matrix AᵀA of all variables: for small nets on many samples.

Every rank gets the rows of J, all columns, of its share of S, and adds up their squares; the sum over the ranks is
factored by all of them.
"""

from __future__ import annotations

import math

from dnewton.arrays.linear_algebra import Cholesky
from dnewton.arrays.namespace import Array, contiguous, dot, host, itemsize, namespace, zeros
from dnewton.comm.communicator import Comm
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.gram import add_squares
from dnewton.curvature.jacobian import LocalSystem
from dnewton.grid import ceil_div, cut, even_slices
from dnewton.planning.costs import ROWS
from dnewton.solvers.newton.exact_systems import ExactSystem, Factor, LocalMatrix, Matrix


class WholePrimalSystem(ExactSystem):
    """(G + λI) d = -g for all variables of all ranks, of which each gets its own. Everything is collective over the
    world."""

    def __init__(self, model: GaussNewton, g: Array, unit: LocalSystem, comm: Comm) -> None:
        """`g` is laid out like θ; `unit` holds all blocks of the rank."""
        super().__init__(model, g, unit)
        self._comm = comm
        sizes = comm.concatenate(host([unit.size]))
        self._sizes = [int(size) for size in sizes]

    def _form(self, dtype: str) -> Matrix:
        model, comm = self._model, self._comm
        xp, k, n = namespace(self._g), model.outputs, sum(self._sizes)
        matrix = zeros((n, n), self._g, dtype)
        share = ceil_div(model.samples, comm.size)
        steps = max(1, ceil_div(4 * share * k * n * itemsize(matrix), ROWS))  # the rows, and what is made of them
        for step in range(steps):
            parts = [even_slices(hi - lo, steps)[step] for lo, hi in self._shares()]
            given = [
                model.jacobian.rows(self._unit, slice(lo + part.start, lo + part.stop))
                for (lo, _), part in zip(self._shares(), parts, strict=True)
            ]
            own = parts[comm.rank]
            count = own.stop - own.start
            arrived = comm.alltoall(given)
            columns = [xp.reshape(a, (count * k, size)) for a, size in zip(arrived, self._sizes, strict=True)]
            rows = xp.reshape(xp.concat(columns, axis=1), (count, k, n))
            lo = self._shares()[comm.rank][0]
            here = slice(lo + own.start, lo + own.stop)
            mapped = xp.reshape(contiguous(model.half_rows(rows, here)), (count * k, n))
            if count:
                add_squares(matrix, xp.astype(mapped, matrix.dtype, copy=False).T)
        return _SummedMatrix(comm.allreduce(matrix), comm)

    def _shares(self) -> list[tuple[int, int]]:
        """Every rank's samples of S."""
        return [cut(self._model.samples, self._comm.size, rank) for rank in range(self._comm.size)]

    def _apply(self, factor: Factor, damping: float, right: Array) -> Array:
        xp = namespace(right)
        whole = xp.astype(self._comm.concatenate(right), getattr(xp, self._dtype), copy=False)
        start = sum(self._sizes[: self._comm.rank])
        return xp.astype(factor.solve(whole), right.dtype, copy=False)[start : start + self._unit.size]

    def _norm(self, v: Array) -> float:
        return math.sqrt(self._comm.sum_scalars([dot(v, v)])[0])

    def _product(self, v: Array, damping: float) -> Array:
        return self._model.full_product(self._laid_out(v), self._unit, damping, self._comm)


class _SummedMatrix(LocalMatrix):
    """A matrix that all ranks hold, perhaps not to the last bit."""

    def __init__(self, lower: Array, comm: Comm) -> None:
        super().__init__(lower)
        self._comm = comm

    def factor(self, shift: float) -> Cholesky | None:
        """See :class:`LocalMatrix`; None on all ranks where it is on one. Collective over the world."""
        found = super().factor(shift)
        return found if self._comm.minmax(float(found is not None))[0] == 1.0 else None
