"""(G_uu + λI) d = -g by a matrix that is formed once and factored for every λ: of the unit's size, or of K|S| rows.

With A = RᵀJ/√|S|, R Rᵀ = B and μ = λ + 1/C: primal (AᵀA + μI) d = -g; dual d = -(g - Aᵀ(μI + AAᵀ)⁻¹Ag)/μ. Whether a
solution is one is asked of the residual ‖(G + λI)d + g‖: float32 loses digits in the difference where μ is small, which
a step or two of iterative refinement with the same factor give back (Golub and Van Loan 2013, 3.5.3). Where they do
not, or where the matrix is not positive definite to its precision, it is formed again in float64, and stays so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

from dnewton.arrays.linear_algebra import Cholesky, symmetric_eigenvalues
from dnewton.arrays.namespace import (
    Array,
    contiguous,
    copy,
    diagonal,
    dot,
    dtype_name,
    itemsize,
    namespace,
    sample_blocks,
    zeros,
)
from dnewton.comm.communicator import Comm
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.gram import Panel, add_squares, add_term, panel_width, panels_of, tile
from dnewton.curvature.jacobian import LocalSystem
from dnewton.grid import runs
from dnewton.planning.costs import ROWS
from dnewton.solvers.newton.distributed_cholesky import DistributedMatrix, width_of_panels

RESIDUAL = 1e-3  # ‖(G + λI)d + g‖ / ‖g‖ of a solution that is good enough to step along
REFINEMENTS = 2


class Factor(Protocol):
    """A factored matrix."""

    def solve(self, right: Array) -> Array:
        """Its inverse times a vector."""
        ...


class Matrix(Protocol):
    """A symmetric positive semi-definite matrix that is kept to be factored with several shifts."""

    def factor(self, shift: float) -> Factor | None:
        """The factor of the matrix + shift·I; None where that is not positive definite to its precision."""
        ...

    def eigenvalues(self) -> Array:
        """Ascending."""
        ...

    def trace(self) -> float:
        """The sum of the eigenvalues."""
        ...


class LocalMatrix:
    """A matrix that a rank holds whole, by its lower triangle."""

    def __init__(self, lower: Array) -> None:
        self._lower = lower

    def factor(self, shift: float) -> Cholesky | None:
        """See :class:`Matrix`. Communicates nothing."""
        shifted = copy(self._lower)
        here = diagonal(shifted)
        here += shift
        return Cholesky.factor(shifted)

    def eigenvalues(self) -> Array:
        """Ascending, by a reduction that takes about ten times as long as a factor."""
        return symmetric_eigenvalues(self._lower)

    def trace(self) -> float:
        """The sum of the eigenvalues."""
        return float(namespace(self._lower).sum(diagonal(self._lower)))


class ExactSystem:
    """One unit's system with its matrix, for several λ. The matrix is formed when it is first asked for."""

    def __init__(self, model: GaussNewton, g: Array, unit: LocalSystem) -> None:
        """`g` is laid out like θ."""
        self._model = model
        self._g = g
        self._unit = unit
        self._dtype = dtype_name(g)
        self._matrix: Matrix | None = None
        self._factored: tuple[float, Factor | None] | None = None  # of the last λ, for another g

    def solve(self, damping: float, g: Array | None = None) -> Array | None:
        """d on the unit's span for one λ, and another g if given; None where no d was found that leaves less than ‖g‖.

        Communicates nothing, but of a system over all ranks: see :class:`DualSystem`.
        """
        right = -(self._g if g is None else g)[self._unit.span]
        norm = self._norm(right)
        best: Array | None = None
        least = norm
        while True:
            for d, size in self._refined(right, norm, damping):
                if size < least:
                    best, least = d, size
            if least <= RESIDUAL * norm or self._dtype == "float64":
                return best if norm else namespace(right).zeros_like(right)
            self._dtype = "float64"
            self._matrix = self._factored = None

    def _refined(self, right: Array, norm: float, damping: float) -> Iterator[tuple[Array, float]]:
        """Solutions with the norms of their residuals, until one is good enough or the last of the refinements."""
        factor = self._factor(self._shift(damping))
        if factor is None:
            return
        d = self._apply(factor, damping, right)
        for left in range(REFINEMENTS, -1, -1):
            residual = right - self._product(d, damping)
            size = self._norm(residual)
            yield d, size
            if size <= RESIDUAL * norm or not size < norm or not left:  # not: NaN, too
                return
            d = d + self._apply(factor, damping, residual)

    def _factor(self, shift: float) -> Factor | None:
        """That of the matrix + shift·I; the last one of a rank's only system is kept: the memory plan has room for one.
        Collective where the system is one over all ranks."""
        matrix = self.matrix
        if self._factored is not None and self._factored[0] == shift:
            return self._factored[1]
        self._factored = None  # its memory is the next one's
        factor = matrix.factor(shift)
        if self._unit.size == self._g.shape[0]:
            self._factored = shift, factor
        return factor

    @property
    def matrix(self) -> Matrix:
        """The matrix without λ. Collective where the system is one over all ranks."""
        if self._matrix is None:
            self._matrix = self._form(self._dtype)
        return self._matrix

    def _shift(self, damping: float) -> float:
        return self._model.regulariser + damping

    def _norm(self, v: Array) -> float:
        return math.sqrt(dot(v, v))

    def _product(self, v: Array, damping: float) -> Array:
        """(G_uu + λI) v on the span."""
        return self._model.block_product(self._laid_out(v), self._unit, damping)

    def _laid_out(self, v: Array) -> Array:
        """A vector on the unit's span laid out like g."""
        if self._unit.size == self._g.shape[0]:
            return v
        out = namespace(self._g).zeros_like(self._g)
        out[self._unit.span] = v
        return out

    def _form(self, dtype: str) -> Matrix:
        raise NotImplementedError

    def _apply(self, factor: Factor, damping: float, right: Array) -> Array:
        """(G_uu + λI)⁻¹ b on the span, to rounding."""
        raise NotImplementedError


class PrimalSystem(ExactSystem):
    """By the matrix AᵀA of the unit's variables."""

    def _form(self, dtype: str) -> Matrix:
        model, unit = self._model, self._unit
        xp, n = namespace(self._g), unit.size
        matrix = zeros((n, n), self._g, dtype)
        per_sample = 3 * model.outputs * n * itemsize(matrix)  # rows, their map, and that in another precision
        for here in sample_blocks(model.samples, per_sample, ROWS):
            count = here.stop - here.start
            rows = xp.reshape(model.jacobian.rows(unit, here), (count, model.outputs, n))
            mapped = xp.reshape(contiguous(model.half_rows(rows, here)), (count * model.outputs, n))
            add_squares(matrix, xp.astype(mapped, matrix.dtype, copy=False).T)
        return LocalMatrix(matrix)

    def _apply(self, factor: Factor, damping: float, right: Array) -> Array:
        return _in_precision(factor, self._dtype, right)


class DualSystem(ExactSystem):
    """By the matrix AAᵀ of K|S| rows.

    With `comm` it is the whole system over all ranks instead of the rank's own. Then everything here is collective over
    the world, and all ranks get parts of the same d.
    """

    def __init__(self, model: GaussNewton, g: Array, unit: LocalSystem, comm: Comm | None = None) -> None:
        """`g` is laid out like θ; with `comm`, `unit` holds all blocks of the rank."""
        super().__init__(model, g, unit)
        self._comm = None if comm is None or comm.size == 1 else comm

    def solve(self, damping: float, g: Array | None = None) -> Array | None:
        """See :meth:`ExactSystem.solve`; None also where λ + 1/C is 0."""
        return super().solve(damping, g) if self._shift(damping) > 0 else None

    def eigenvalues(self) -> Array:
        """Of AAᵀ without μ, ascending: the largest of G - I/C, and zeros if there are fewer variables."""
        return self.matrix.eigenvalues()

    def trace(self) -> float:
        """Of AAᵀ without μ, and so of G - I/C."""
        return self.matrix.trace()

    def _form(self, dtype: str) -> Matrix:
        model = self._model
        rows = model.samples * model.outputs
        matrix: Array | None = None
        if self._comm is None:
            matrix = zeros((rows, rows), self._g, dtype)
            panels = panels_of(matrix, panel_width(model.outputs, tile(matrix)))
        else:  # half of the numbers
            columns = runs(rows, width_of_panels(rows, model.outputs))
            panels = [Panel(c.start, zeros((rows - c.start, c.stop - c.start), self._g, dtype)) for c in columns]
        for term in model.jacobian.gram_terms(self._unit, model.half_rows, dtype):
            add_term(term, panels)
        return LocalMatrix(matrix) if self._comm is None else DistributedMatrix(panels, self._comm)

    def _apply(self, factor: Factor, damping: float, right: Array) -> Array:
        model, xp = self._model, namespace(right)
        image = model.half_transposed(self._summed(model.jacobian.times(self._laid_out(right), self._unit)))
        y = _in_precision(factor, self._dtype, xp.reshape(image, (-1,)))
        if self._comm is not None:  # sums over ranks need not be the same bits everywhere
            y = self._comm.bcast(y)
        back = xp.zeros_like(self._g)
        half = xp.astype(model.half(xp.reshape(y, image.shape)), right.dtype, copy=False)
        model.jacobian.add_transposed(half, self._unit, back)
        return (right - back[self._unit.span]) / self._shift(damping)

    def _summed(self, image: Array) -> Array:
        return image if self._comm is None else self._comm.allreduce(image)

    def _norm(self, v: Array) -> float:
        if self._comm is None:
            return super()._norm(v)
        return math.sqrt(self._comm.sum_scalars([dot(v, v)])[0])

    def _product(self, v: Array, damping: float) -> Array:
        if self._comm is None:
            return super()._product(v, damping)
        return self._model.full_product(v, self._unit, damping, self._comm)


def _in_precision(factor: Factor, dtype: str, right: Array) -> Array:
    """The factor's inverse times a vector, in the vector's precision, from a factor in another."""
    xp = namespace(right)
    solved = factor.solve(xp.astype(right, getattr(xp, dtype), copy=False))
    return xp.astype(solved, right.dtype, copy=False)
