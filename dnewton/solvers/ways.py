"""Which way a rank solves a diagonal system: conjugate gradients (plain or in Gram coordinates) or exactly."""

from __future__ import annotations

from dnewton.arrays import Array
from dnewton.config import SolverSection
from dnewton.curvature import costs
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import Unit
from dnewton.solvers import precondition
from dnewton.solvers.exact import Exact
from dnewton.solvers.gram_cg import GramCG
from dnewton.solvers.subproblem import PlainCG, System

LARGEST_EXACT = 4000  # rows of a matrix to factor
GRAM_FLOOR = {4: 1e-3, 8: 1e-6}  # by itemsize: ‖r‖² is a difference in Gram coordinates, so ‖r‖ ends at about √ε ‖g‖


def choose(model: GaussNewton, g: Array, unit: Unit, damping: float, options: SolverSection) -> tuple[str, System]:
    """The cheapest way that `solver.subproblem` allows (docs/method.md has the costs), and its solver."""
    jacobian, tolerance = model.jacobian, options.cg_tolerance
    stated = costs.of(jacobian, unit, g.dtype.itemsize, costs.Rates())
    candidates = {
        "plain": stated.plain, "gram": stated.gram, "kronecker": stated.kronecker,
        "primal": stated.primal, "dual": stated.dual,
    }  # fmt: skip
    if options.subproblem == "cg":
        del candidates["primal"], candidates["dual"]
    if options.preconditioner != "auto":
        del candidates["kronecker"]
        if options.preconditioner != "none":
            del candidates["gram"]
    elif options.subproblem == "cg":
        del candidates["kronecker"]  # the paper's method, unless it is asked for
    if options.subproblem == "exact":
        candidates = {name: candidates[name] for name in ("primal", "dual")}
    elif tolerance < GRAM_FLOOR[g.dtype.itemsize]:
        candidates.pop("gram", None)
    if options.subproblem == "auto":
        if unit.size > LARGEST_EXACT:
            del candidates["primal"]
        if jacobian.samples * jacobian.outputs > LARGEST_EXACT:
            del candidates["dual"]
    way = min(candidates, key=lambda name: candidates[name])
    if way == "gram":
        costs.make_input_grams(jacobian, unit)
        return way, GramCG(model, g, unit, damping, tolerance)
    if way in ("plain", "kronecker"):
        name = "kronecker" if way == "kronecker" else options.preconditioner
        preconditioner = precondition.make("none" if name == "auto" else name, model, unit, damping)
        system = PlainCG(
            lambda v, u: model.block_product(v, u, damping), g, unit, tolerance, preconditioner=preconditioner
        )
        return way if preconditioner is None else str(name), system
    return way, Exact(model, g, unit, damping, tolerance, way)
