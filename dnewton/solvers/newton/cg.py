"""Conjugate gradients for (G + λI) d = -g: rank-local systems without messages, and the whole system with them.

Start at 0; test ‖r‖ ≤ ξ‖g‖ before the first product and after each, or max_cg (Wang et al. 2018, algorithm 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dnewton.arrays.namespace import Array, add_scaled, copy, dot, namespace
from dnewton.comm.communicator import Comm
from dnewton.curvature.jacobian import LocalSystem
from dnewton.solvers.newton.early_termination import TerminationRule

Product = Callable[[Array, LocalSystem], Array]


@dataclass(frozen=True)
class Solution:
    """d on this rank, the iterations done, and whether the others' early termination cut it off."""

    d: Array
    iterations: int
    cut: bool


class LocalSolver(Protocol):
    """One diagonal system (G_uu + λI) d = -g on its way to a solution."""

    @property
    def working(self) -> bool:
        """Not yet at its stopping rule."""
        ...

    def advance(self) -> None:
        """One iteration."""
        ...

    def finish(self, d: Array) -> None:
        """Put what has been found into the unit's span of d."""
        ...


class PlainCG:
    """Conjugate gradients on vectors of the unit's variables, from 0 or from a given d, preconditioned or not.

    With a preconditioner the stopping rule is still on the residual itself.
    """

    def __init__(
        self,
        product: Product,
        g: Array,
        unit: LocalSystem,
        tolerance: float,
        start: Array | None = None,
        preconditioner: Callable[[Array], Array] | None = None,
    ) -> None:
        """`product(v, unit)` gives (G_uu + λI) v on the unit's span; `start` is laid out like g.

        `preconditioner` maps a residual on the unit's span to M⁻¹ r.
        """
        xp = namespace(g)
        self._product = product
        self.unit = unit
        self._precondition = preconditioner or (lambda r: r)
        s = unit.span
        self.d = xp.zeros_like(g[s])
        self.r = -g[s]
        self.squares = dot(g[s], g[s])  # ‖r‖²
        self.bound = tolerance**2 * self.squares
        if start is not None:
            image = product(start, unit)  # in any case: it may be a collective
            if self.squares > 0:
                self.d = self.d + start[s]
                self.r = self.r - image
                self.squares = dot(self.r, self.r)
        self._like = g
        self._whole = bool(unit.size == g.shape[0])
        self._begin()
        self.working = self.squares > self.bound and unit.size > 0

    def _begin(self) -> None:
        """The first search direction."""
        self._z = self._precondition(self.r)
        self.v = copy(self._z)
        self._rz = dot(self.r, self._z)
        self.step = self.beta = 0.0  # of the last iteration

    def restart(self, preconditioner: Callable[[Array], Array] | None) -> None:
        """Go on from d with another preconditioner."""
        self._precondition = preconditioner or (lambda r: r)
        self._begin()

    def advance(self) -> None:
        gv = self._product(self._laid_out(), self.unit)
        curvature = dot(self.v, gv)
        if not (curvature > 0 and math.isfinite(curvature)):
            self.working = False  # rounding (or overflow) has eaten the curvature: what has been found stands
            return
        self.step = self._rz / curvature
        add_scaled(self.d, self.step, self.v)
        add_scaled(self.r, -self.step, gv)
        self.squares = dot(self.r, self.r)
        self.working = self.squares > self.bound
        if self.working:
            self._z = self._precondition(self.r)
            rz = self.squares if self._z is self.r else dot(self.r, self._z)
            self.beta = rz / self._rz
            self.v *= self.beta
            self.v += self._z
            self._rz = rz

    def _laid_out(self) -> Array:
        """v as the products want it, laid out like θ; several systems of a rank keep no vector of that length each."""
        if self._whole:
            return self.v
        out = namespace(self.v).zeros_like(self._like)
        out[self.unit.span] = self.v
        return out

    def finish(self, d: Array) -> None:
        d[self.unit.span] = self.d


def solve(systems: Sequence[LocalSolver], g: Array, max_cg: int, watch: TerminationRule) -> Solution:
    """Let the systems of a rank advance together, one iteration of each at a time, until all have met their rules.

    An empty block or g_p = 0 gives d_p = 0. Communicates nothing but what `watch` does.
    """
    working = [system for system in systems if system.working]
    had_work = bool(working)
    iterations = 0
    cut = False
    while working and iterations < max_cg:
        iterations += 1
        for system in working:
            system.advance()
        working = [system for system in working if system.working]
        if working and iterations < max_cg and watch.should_terminate():
            cut = True
            break
    if not cut:
        watch.finished(counts=had_work)
    d = namespace(g).zeros_like(g)
    for system in systems:
        system.finish(d)
    return Solution(d, iterations, cut)


def solve_jointly(
    systems: Sequence[PlainCG], idle: Callable[[LocalSystem], None], g: Array, max_cg: int, fraction: float, comm: Comm
) -> Solution:
    """As :func:`solve` where every product is a collective: a rank that has finished takes part by `idle(unit)`.

    `fraction` of the active ranks ends it for all; above 1, all must have met their rules. Collective over the world:
    per iteration what the products send, and a scalar.
    """
    had_work = any(system.working for system in systems)
    iterations, cut = 0, False
    (active,) = comm.sum_scalars([float(had_work)])
    left = active
    for done in range(max_cg):
        finished = active - left
        if left == 0 or (done and finished >= fraction * active):
            cut = any(system.working for system in systems)
            break
        comm.stops.safe_point()
        mine = any(system.working for system in systems)
        iterations += mine
        for system in systems:
            if system.working:
                system.advance()
            else:
                idle(system.unit)
        (left,) = comm.sum_scalars([float(any(system.working for system in systems))])
    d = namespace(g).zeros_like(g)
    for system in systems:
        system.finish(d)
    return Solution(d, iterations, cut)


def full_cg(
    product: Product,
    g: Array,
    unit: LocalSystem,
    grad_norm: float,
    tolerance: float,
    max_cg: int,
    comm: Comm,
    start: Array | None = None,
) -> Solution:
    """Solve the whole system, every rank holding its blocks of the vectors; `product` communicates. From 0, or from
    `start`, whose residual counts as an iteration.

    vᵀ(G + λI)v and rᵀr are summed and agreed, so that all ranks take the same steps and stop together.
    Collective over the world: per iteration what `product` sends and two scalars.
    """
    xp = namespace(g)
    d, r = xp.zeros_like(g), -g
    v = copy(r)
    squared = grad_norm**2
    bound, iterations = tolerance**2 * squared, 0
    if start is not None:
        d = d + start
        r -= product(start, unit)
        v = copy(r)
        (squared,) = comm.sum_scalars([dot(r, r)])
        iterations = 1
    while squared > bound and iterations < max_cg:
        comm.stops.safe_point()
        iterations += 1
        gv = product(v, unit)
        (curvature,) = comm.sum_scalars([dot(v, gv)])
        if not (curvature > 0 and math.isfinite(curvature)):
            break
        step = squared / curvature
        add_scaled(d, step, v)
        add_scaled(r, -step, gv)
        (rr,) = comm.sum_scalars([dot(r, r)])
        v = r + (rr / squared) * v
        squared = rr
    return Solution(d, iterations, cut=False)
