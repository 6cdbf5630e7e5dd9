"""Exact solutions of (G_uu + λI) d = -g for one λ, and conjugate gradients where rounding demands more digits."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, dot, namespace
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import LocalSystem
from dnewton.solvers.newton.cg import PlainCG
from dnewton.solvers.newton.exact_systems import DualSystem, PrimalSystem


class Exact:
    """One diagonal unit solved at its first iteration, and by conjugate gradients from there if rounding demands it."""

    def __init__(
        self,
        model: GaussNewton,
        g: Array,
        unit: LocalSystem,
        damping: float,
        tolerance: float,
        system: PrimalSystem | DualSystem,
    ) -> None:
        """`system` solves for any λ by the matrix that it was formed with."""
        self._model = model
        self._g = g
        self._unit = unit
        self._damping = damping
        self._tolerance = tolerance
        self._system = system
        self._rest: PlainCG | None = None
        self.working = unit.size > 0 and dot(g[unit.span], g[unit.span]) > 0

    def advance(self) -> None:
        """The solution, or one more iteration on it; see :class:`dnewton.solvers.newton.cg.System`."""
        if self._rest is not None:
            self._rest.advance()
        else:
            solution = self._system.solve(self._damping)
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
