"""Solving (G + λI) d = -g by conjugate gradients: rank-local systems without messages, and the whole system with them.

Start at 0; test ‖r‖ ≤ ξ‖g‖ before the first product and after each, or max_cg (Wang et al. 2018, algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dnewton.arrays.namespace import Array, dot, namespace, zeros
from dnewton.comm.communicator import Comm
from dnewton.curvature.jacobian import LocalSystem
from dnewton.solvers import conjugate_gradients
from dnewton.solvers.conjugate_gradients import ConjugateGradients
from dnewton.solvers.newton.early_termination import LockstepTermination, TerminationRule

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
        """Put the solution into the unit's span of d."""
        ...


class PlainCG(ConjugateGradients):
    """Conjugate gradients on vectors of the unit's variables, from 0 or from a given d, preconditioned or not."""

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
        self.unit = unit
        super().__init__(
            _on_span(product, g, unit),
            -g[unit.span],
            tolerance,
            start=None if start is None else start[unit.span],
            preconditioner=preconditioner,
        )

    def finish(self, d: Array) -> None:
        """Put the solution into the unit's span of d."""
        d[self.unit.span] = self.d


def _on_span(product: Product, g: Array, unit: LocalSystem) -> Callable[[Array], Array]:
    """`product` of vectors on the unit's span, which it wants laid out like θ; several systems of a rank keep no vector
    of that length each."""
    if unit.size == g.shape[0]:
        return lambda v: product(v, unit)
    like = zeros((0,), g)  # not a view, which would keep g
    length = int(g.shape[0])

    def inner(v: Array) -> Array:
        out = zeros((length,), like)
        out[unit.span] = v
        return product(out, unit)

    return inner


def solve(systems: Sequence[LocalSolver], g: Array, max_cg: int, watch: TerminationRule) -> Solution:
    """Let the systems of a rank advance together, one iteration of each at a time, until all have met their rules.

    An empty block or g_p = 0 gives d_p = 0. Communicates nothing but what `watch` does.
    """
    working = [system for system in systems if system.working]
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
        watch.finished(counts=dot(g, g) > 0)
    return Solution(_put_together(systems, g), iterations, cut)


def _put_together(systems: Sequence[LocalSolver], g: Array) -> Array:
    """The solutions of a rank's systems, laid out like g."""
    d = namespace(g).zeros_like(g)
    for system in systems:
        system.finish(d)
    return d


def solve_jointly(
    systems: Sequence[PlainCG],
    idle: Callable[[LocalSystem], None],
    g: Array,
    max_cg: int,
    rule: LockstepTermination,
) -> Solution:
    """As :func:`solve` where every product is a collective: a rank that has finished takes part by `idle(unit)`, until
    the rule ends the solve for all.

    Collective over the world: per iteration what the products send, and a count.
    """
    has_work = dot(g, g) > 0
    working = any(system.working for system in systems)
    iterations = 0
    done = 0
    while done < max_cg and not rule.over:
        done += 1
        iterations += working
        for system in systems:
            if system.working:
                system.advance()
            else:
                idle(system.unit)
        working = any(system.working for system in systems)
        rule.count(has_work and (done == max_cg or not working))
    rule.finished(has_work)
    return Solution(_put_together(systems, g), iterations, cut=working and done < max_cg)


def solve_whole(
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
    `start`, whose residual counts as an iteration. `grad_norm` is ‖g‖ over all ranks.

    vᵀ(G + λI)v and rᵀr are summed and agreed, so that all ranks take the same steps and stop together.
    Collective over the world: per iteration what `product` sends and two scalars.
    """

    def dots(*pairs: tuple[Array, Array]) -> list[float]:
        return comm.sum_scalars([dot(a, b) for a, b in pairs])

    def stoppable(v: Array) -> Array:
        comm.stops.safe_point()
        return product(v, unit)

    system = ConjugateGradients(stoppable, -g, tolerance, dots=dots, squares=grad_norm**2, start=start)
    from_start = int(start is not None)
    iterations = from_start + conjugate_gradients.run(system, max_cg - from_start)
    return Solution(system.d, iterations, cut=False)
