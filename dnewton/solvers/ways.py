"""The solver of a diagonal system by the name of the way: conjugate gradients (plain, preconditioned, in Gram
coordinates) or exactly."""

from __future__ import annotations

from dnewton.arrays import Array
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.implicit import Normal
from dnewton.curvature.jacobian import Unit
from dnewton.solvers import precondition
from dnewton.solvers.exact import Exact
from dnewton.solvers.gram_cg import GramCG
from dnewton.solvers.subproblem import PlainCG, System


def make(
    way: str, model: GaussNewton | Normal, g: Array, unit: Unit, damping: float, tolerance: float,
    start: Array | None = None,
) -> System:  # fmt: skip
    """The system of one unit, to be solved by `way` (see :mod:`dnewton.strategy`); CG begins at `start` if given."""

    def product(v: Array, u: Unit) -> Array:
        return model.block_product(v, u, damping)

    if way in ("primal", "dual"):
        return Exact(model, g, unit, damping, tolerance, way)
    if way == "gram":
        assert isinstance(model, GaussNewton)
        model.jacobian.make_input_grams(unit)
        return GramCG(model, g, unit, damping, tolerance)
    preconditioner = None
    if way != "plain":
        assert isinstance(model, GaussNewton)
        preconditioner = precondition.make(way, model, unit, damping)
    return PlainCG(product, g, unit, tolerance, start, preconditioner)
