"""The solver of a diagonal system by the name of the way: conjugate gradients (plain, preconditioned, in Gram
coordinates) or exactly."""

from __future__ import annotations

from dnewton.arrays import Array
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.implicit import Normal
from dnewton.curvature.jacobian import Unit
from dnewton.solvers import precondition
from dnewton.solvers.exact import Exact
from dnewton.solvers.gram_cg import GramCG, RecordedCG
from dnewton.solvers.later import Later
from dnewton.solvers.subproblem import PlainCG, System


def make(
    way: str, model: GaussNewton | Normal, g: Array, unit: Unit, damping: float, tolerance: float,
    start: Array | None = None, delay: int = 0,
) -> System:  # fmt: skip
    """The system of one unit, to be solved by `way` (see :mod:`dnewton.strategy`); CG begins at `start` if given.

    Gram coordinates and preconditioners are set up after `delay` plain iterations.
    """

    def product(v: Array, u: Unit) -> Array:
        return model.block_product(v, u, damping)

    if way in ("primal", "dual"):
        return Exact(model, g, unit, damping, tolerance, way)
    if way == "gram":
        assert isinstance(model, GaussNewton)
        explicit = model

        def to_gram(before: PlainCG) -> System:
            assert isinstance(before, RecordedCG)
            explicit.jacobian.make_input_grams(unit)
            return GramCG.going_on(before)

        if delay:
            return Later(RecordedCG(model, g, unit, damping, tolerance), delay, to_gram)
        model.jacobian.make_input_grams(unit)
        return GramCG(model, g, unit, damping, tolerance)
    if way == "plain":
        return PlainCG(product, g, unit, tolerance, start)
    assert isinstance(model, GaussNewton)
    if not delay:
        return PlainCG(product, g, unit, tolerance, start, precondition.make(way, model, unit, damping))

    def with_preconditioner(before: PlainCG) -> System:
        before.restart(precondition.make(way, explicit, unit, damping))
        return before

    explicit = model
    return Later(PlainCG(product, g, unit, tolerance, start), delay, with_preconditioner)
