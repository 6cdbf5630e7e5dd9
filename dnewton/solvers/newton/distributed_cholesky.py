"""A symmetric matrix that is a sum over ranks, factored by all of them: blocked right-looking Cholesky.

The lower triangle is cut into panels of columns, dealt out in turn (1-D block-cyclic: what is left shrinks alike on
all ranks). Every panel's parts are summed at its owner. Then, panel by panel, the owner factors it, all get it, and
every rank subtracts its product from the panels it owns (Golub and Van Loan 2013, 4.2.5 and 4.2.10). Each rank keeps
the whole factor, half of n² numbers, so that solving with it takes no messages; all have the same bits, which are the
owners'.

By hand, not by ScaLAPACK or SLATE: no wheel brings one of them (scalapack4py loads a library that must be there), it
would have to be built for the MPI library of the run, and their 2-D grids pay from hundreds of ranks on only.
"""

from __future__ import annotations

from collections.abc import Sequence

from dnewton.arrays.linear_algebra import Cholesky, subtract_product, symmetric_eigenvalues
from dnewton.arrays.namespace import Array, copy, diagonal, empty, namespace, zeros
from dnewton.comm.communicator import Comm
from dnewton.curvature.gram import Panel, panel_width

WIDTH = 160  # columns of a panel: narrow enough for the owners' work on it, wide enough for products at full rate
ONE_PANEL = 640  # rows up to which one rank factors it all: messages would take longer than the work they share


def width_of_panels(rows: int, outputs: int) -> int:
    """Columns of a panel, by the sizes alone: all ranks decide alike."""
    return max(1, rows) if rows <= ONE_PANEL else panel_width(outputs, WIDTH)


class DistributedMatrix:
    """A matrix whose panels are dealt out over the ranks; kept to be factored with several shifts.

    All of it is collective over the world; see :class:`dnewton.solvers.newton.exact_systems.Matrix`.
    """

    def __init__(self, panels: Sequence[Panel], comm: Comm) -> None:
        """`panels` hold this rank's part of the sum, and are taken over. One sum of the lower triangle."""
        self._comm = comm
        self._spans = [(panel.start, panel.values.shape) for panel in panels]
        self._own: dict[int, Array] = {}
        self._like = zeros((0,), panels[0].values) if panels else None
        for j, panel in enumerate(panels):
            comm.stops.safe_point()
            total = comm.reduce(panel.values, j % comm.size)
            if j % comm.size == comm.rank:
                self._own[j] = total

    def factor(self, shift: float) -> DistributedFactor | None:
        """The factor of the matrix + shift·I, on every rank; None, on every rank, where that is not positive definite.

        Sends the lower triangle.
        """
        comm = self._comm
        left = {j: copy(values) for j, values in self._own.items()}
        for values in left.values():
            here = diagonal(values[: values.shape[1], :])
            here += shift
        done: list[Panel] = []
        for j, (start, shape) in enumerate(self._spans):
            comm.stops.safe_point()
            panel = _factored(left.pop(j)) if j in left else empty(shape, self._like)
            panel = comm.bcast(panel, j % comm.size)
            if not float(panel[0, 0]) > 0:
                return None
            done.append(Panel(start, panel))
            for k, values in left.items():
                below = panel[self._spans[k][0] - start :, :]
                subtract_product(values, below, below[: values.shape[1], :])
        return DistributedFactor(done)

    def eigenvalues(self) -> Array:
        """Ascending, by rank 0. Sends the lower triangle."""
        comm = self._comm
        rows = self._spans[0][1][0] if self._spans else 0
        matrix = zeros((rows, rows), self._like) if comm.rank == 0 else None
        for j, (start, shape) in enumerate(self._spans):
            panel = comm.bcast(self._own[j] if j in self._own else empty(shape, self._like), j % comm.size)
            if matrix is not None:
                matrix[start:, start : start + shape[1]] = panel
        found = zeros((rows,), self._like) if matrix is None else symmetric_eigenvalues(matrix)
        return comm.bcast(found)

    def trace(self) -> float:
        """The sum of the eigenvalues."""
        own = 0.0
        for values in self._own.values():
            own += float(namespace(values).sum(diagonal(values[: values.shape[1], :])))
        return self._comm.sum_scalars([own])[0]


def _factored(panel: Array) -> Array:
    """A panel (m, w), in place: its first w rows L, the others X with X Lᵀ = B; its first entry -1 if there is no L."""
    w = panel.shape[1]
    on_diagonal = Cholesky.factor(panel[:w, :])
    if on_diagonal is None:
        panel[0, 0] = -1.0
        return panel
    below = on_diagonal.solve_rows(panel[w:, :])
    panel[:w, :] = on_diagonal.lower
    panel[w:, :] = below
    return panel


class DistributedFactor:
    """L by panels, all of it on every rank."""

    def __init__(self, panels: Sequence[Panel]) -> None:
        self._panels = panels

    def solve(self, right: Array) -> Array:
        """(L Lᵀ)⁻¹ b for a vector. Communicates nothing."""
        y = copy(right)
        for panel in self._panels:
            end = panel.columns.stop
            w = panel.values.shape[1]
            y[panel.columns] = Cholesky(panel.values[:w, :]).forward(y[panel.columns])
            y[end:] -= panel.values[w:, :] @ y[panel.columns]
        for panel in reversed(self._panels):
            end = panel.columns.stop
            w = panel.values.shape[1]
            y[panel.columns] -= panel.values[w:, :].T @ y[end:]
            y[panel.columns] = Cholesky(panel.values[:w, :]).backward(y[panel.columns])
        return y
