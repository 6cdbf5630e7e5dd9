"""The solver of a diagonal system by the names of its stages: conjugate gradients (plain, preconditioned, in Gram
coordinates) or exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dnewton.arrays.namespace import Array
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import LocalSystem
from dnewton.curvature.matrix_free import NormalMatrix
from dnewton.solvers.newton import preconditioners
from dnewton.solvers.newton.cg import LocalSolver, PlainCG
from dnewton.solvers.newton.direct import Exact
from dnewton.solvers.newton.gram_cg import GramCG, RecordedCG
from dnewton.solvers.newton.switch_after import SwitchAfter


def make(
    solver_stages: Sequence[tuple[str, int]],
    model: GaussNewton | NormalMatrix,
    g: Array,
    unit: LocalSystem,
    damping: float,
    tolerance: float,
    start: Array | None = None,
) -> LocalSolver:
    """The system of one unit, to be solved by ways that follow each other (see :mod:`dnewton.planning.curvature_plan`).

    A stage is a way and the iterations before it; the first begins at once. CG begins at `start` if given.
    """
    recorded = any(way == "gram" for way, _ in solver_stages[1:])
    first = _first(solver_stages[0][0], model, g, unit, damping, tolerance, start, recorded)
    system = first
    for way, after in solver_stages[1:]:
        system = SwitchAfter(system, after, _change(way, first, model, g, unit, damping, tolerance))
    return system


def _first(
    way: str,
    model: GaussNewton | NormalMatrix,
    g: Array,
    unit: LocalSystem,
    damping: float,
    tolerance: float,
    start: Array | None,
    recorded: bool,
) -> LocalSolver:
    def product(v: Array, u: LocalSystem) -> Array:
        return model.block_product(v, u, damping)

    if way in ("primal", "dual"):
        return Exact(model, g, unit, damping, tolerance, way)
    if way == "plain" and not recorded:
        return PlainCG(product, g, unit, tolerance, start)
    assert isinstance(model, GaussNewton)
    if way == "plain":
        return RecordedCG(model, g, unit, damping, tolerance)
    if way == "gram":
        model.jacobian.make_input_grams(unit)
        return GramCG(model, g, unit, damping, tolerance)
    return PlainCG(product, g, unit, tolerance, start, preconditioners.make(way, model, unit, damping))


def _change(
    way: str,
    first: LocalSolver,
    model: GaussNewton | NormalMatrix,
    g: Array,
    unit: LocalSystem,
    damping: float,
    tolerance: float,
) -> Callable[[], LocalSolver]:
    """What takes over from `first`."""

    def to_gram() -> LocalSolver:
        assert isinstance(first, RecordedCG) and isinstance(model, GaussNewton)
        model.jacobian.make_input_grams(unit)
        return GramCG.going_on(first)

    def to_preconditioner() -> LocalSolver:
        assert isinstance(first, PlainCG) and isinstance(model, GaussNewton)
        first.restart(preconditioners.make(way, model, unit, damping))
        return first

    if way in ("primal", "dual"):
        return lambda: Exact(model, g, unit, damping, tolerance, way)
    return to_gram if way == "gram" else to_preconditioner
