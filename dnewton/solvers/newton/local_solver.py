"""The solver of a diagonal system by its name: conjugate gradients (plain, preconditioned, in Gram coordinates), or
exactly."""

from __future__ import annotations

from dnewton.arrays.namespace import Array
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import LocalSystem
from dnewton.solvers.newton import preconditioners
from dnewton.solvers.newton.cg import LocalSolver, PlainCG
from dnewton.solvers.newton.direct import Exact
from dnewton.solvers.newton.exact_systems import DualSystem, ExactSystem, PrimalSystem
from dnewton.solvers.newton.gram_cg import GramCG
from dnewton.solvers.newton.sampled import SampledGaussNewton

Formed = dict[
    LocalSystem, SampledGaussNewton | ExactSystem
]  # what does not depend on λ, kept while solves are repeated


def make(
    way: str,
    model: GaussNewton,
    g: Array,
    unit: LocalSystem,
    damping: float,
    tolerance: float,
    start: Array | None = None,
    *,
    rows: int = 0,
    formed: Formed | None = None,
) -> LocalSolver:
    """The system of one unit, to be solved as the plan says (:mod:`dnewton.planning.curvature_plan`).

    CG begins at `start` if given. The sampled preconditioner is made from about `rows` rows of J. Matrices that do
    not depend on λ are taken from `formed` and left there. Communicates nothing.
    """

    def product(v: Array, u: LocalSystem) -> Array:
        return model.block_product(v, u, damping)

    formed = {} if formed is None else formed
    if way in ("primal", "dual"):
        kind = PrimalSystem if way == "primal" else DualSystem
        if not isinstance(system := formed.get(unit), kind):
            system = formed[unit] = kind(model, g, unit)
        return Exact(model, g, unit, damping, tolerance, system)
    if way == "plain":
        return PlainCG(product, g, unit, tolerance, start)
    if way == "gram":
        model.jacobian.make_input_grams(unit)
        return GramCG(model, g, unit, damping, tolerance)
    if way == "sampled" and unit.size:
        if not isinstance(sampled := formed.get(unit), SampledGaussNewton):
            sampled = formed[unit] = SampledGaussNewton(model, unit, rows // model.outputs)
        return PlainCG(product, g, unit, tolerance, start, sampled.preconditioner(damping))
    return PlainCG(product, g, unit, tolerance, start, preconditioners.make(way, model, unit, damping))
