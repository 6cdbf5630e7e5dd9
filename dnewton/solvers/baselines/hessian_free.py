"""Data-parallel Hessian-free optimisation (Martens 2010; He, Mudigere, Smelyanskiy and Takac 2016).

f and ∇f over all samples, the curvature on a subsample that the workers share; θ is alike on all replicas, so a product
costs one sum of θ's size. `gn_cg`: CG on G + λI. `bicgstab`: Bi-CG-STAB on H + λI, which may be indefinite: the
direction of most negative curvature competes with the solution, and what is no descent direction is never taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dnewton.arrays.namespace import Array, namespace, take
from dnewton.config.baselines import CommonSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Count, Fraction, Positive, samples_or_share
from dnewton.curvature.hessian import Hessian
from dnewton.data.sampling import Cycle, in_batches, subsample_size
from dnewton.grid import ceil_div, cut
from dnewton.planning.grid_search import Workload
from dnewton.planning.net_plan import NetPlan
from dnewton.planning.replicas import RankDivision
from dnewton.planning.step_times import Steps
from dnewton.solvers import damping, line_search
from dnewton.solvers.baselines import krylov
from dnewton.solvers.baselines.workers import Point, Workers, data_parallel
from dnewton.solvers.interface import (
    BACKWARD,
    FORWARD,
    IterationReport,
    Solver,
    SolverState,
    StartPoint,
    gradient_ending,
)
from dnewton.solvers.kind import Needs

SUBSAMPLE = 1  # purpose of the random draw, as newton's
BOOST, DROP = 1.5, 2 / 3  # of λ
STEEP = 1e-6  # |cos| of the angle with ∇f below which the sign of a slope is rounding's
SWEEP = 256  # samples of a Hessian product at a time
ASSUMED_CG = 10  # iterations of an inner solve, for the forecast of seconds


class HessianFreeSection(CommonSection):
    """Hessian-free optimisation, data-parallel (Martens 2010; He et al. 2016). One iteration is one outer step."""

    name: Literal["hessian_free"] = "hessian_free"
    method: Literal["gn_cg", "bicgstab"] = "gn_cg"  # CG on the Gauss-Newton matrix, Bi-CG-STAB on the Hessian
    # samples of the curvature: a share up to 1, or a number of them
    subsample: Annotated[float, Field(gt=0, allow_inf_nan=False), AfterValidator(samples_or_share)] = 0.2
    damping: Positive = 0.5  # lambda at the start
    cg_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1  # a solve ends at |residual| <= cg_tolerance * |gradient|
    max_cg: Count = 100  # iterations of one solve at most
    carry_over: Fraction = 0.95  # an inner solve begins at this times the last solution
    backtrack: Annotated[float, Field(gt=0, lt=1)] = 0.8  # factor of the step in the line search
    armijo: Annotated[float, Field(gt=0, lt=1)] = 1e-2  # share of the expected decrease that a step must bring
    max_trials: Count = 60  # of one line search at most


@dataclass
class _Direction:
    d: Array
    slope: float
    curvature: float  # dᵀ(H + λI)d
    squares: float
    negative: bool = False


class HessianFree(Solver):
    """One iteration: curvature, an inner solve, a line search, λ by the ratio of decrease and prediction."""

    def __init__(self, workers: Workers, options: HessianFreeSection) -> None:
        self.workers = workers
        self.options = options
        size = subsample_size(options.subsample, workers.samples)
        self._draws = Cycle(workers.samples, size, options.seed, SUBSAMPLE)
        self._iteration = 0
        self._first_norm = math.nan
        self._lambda = options.damping
        self._theta: Array
        self._previous: Array | None = None
        self._at: Point

    @property
    def theta(self) -> Array:
        """The weights, alike on all replicas."""
        return self._theta

    @property
    def iteration(self) -> int:
        """Outer steps done."""
        return self._iteration

    @property
    def ending(self) -> str:
        """∇f = 0, or its norm is `tolerance` times the first one."""
        return gradient_ending(self._at.norm, self._first_norm, self.options.tolerance)

    def begin(self, start: StartPoint) -> IterationReport:
        """Evaluate the starting point. Raises UserError when f is not finite there. Collective over the workers."""
        self._theta = start.theta
        self._iteration = start.iteration
        self._evaluate()
        self.workers.check(self._at)
        self._first_norm = self._at.norm
        if start.saved is not None:
            values = start.saved.values
            self._lambda = float(values["lambda"])
            self._first_norm = float(values["first_norm"])
            self._previous = start.saved.vectors.get("solution")
        at = self._at
        return IterationReport(
            at.value, at.norm, at.metric, self.workers.samples, self._lambda, seen=float(self.workers.samples)
        )

    def step(self) -> IterationReport:
        """One outer step. Collective over the workers."""
        options = self.options
        workers = self.workers
        total = self.workers.samples
        product, size = self._curvature()
        start = None if self._previous is None or not options.carry_over else options.carry_over * self._previous
        solve = krylov.conjugate_gradients if options.method == "gn_cg" else krylov.bicgstab
        with workers.all.phase("cg"):
            solution = solve(product, -self._at.gradient, options.cg_tolerance, options.max_cg, workers.dots, start)
            direction = self._choose(solution)
        self._previous = solution.d
        alpha, value, trials = self._line_search(direction)
        ratio = -1.0
        predicted = alpha * direction.slope + 0.5 * alpha**2 * (direction.curvature - self._lambda * direction.squares)
        if alpha and predicted < 0:
            ratio = (value - self._at.value) / predicted
        if alpha:
            self._theta = workers.peers.bcast(self._theta + alpha * direction.d)
            self._evaluate()
        self._lambda = damping.update(self._lambda, ratio, DROP, BOOST)
        self._iteration += 1
        per_product = 4 / 3 if options.method == "gn_cg" else 2.0  # backward with two right-hand sides
        seen = FORWARD * trials * total + (FORWARD + BACKWARD) * total * (alpha > 0) + FORWARD * size
        at = self._at
        return IterationReport(
            at.value,
            at.norm,
            at.metric,
            total,
            self._lambda,
            alpha=alpha,
            ratio=ratio,
            cg=solution.iterations,
            active=True,
            trials=trials,
            seen=seen + per_product * size * solution.products,
            solved=True,
            extra={"negative_curvature": direction.negative},
        )

    def saved(self) -> SolverState:
        """λ and the last solution."""
        vectors = {} if self._previous is None else {"solution": self._previous}
        return SolverState(vectors, values={"lambda": repr(self._lambda), "first_norm": repr(self._first_norm)})

    def _evaluate(self) -> None:
        with self.workers.all.phase("gradient"):
            self._at = self.workers.evaluate(self._theta)

    def _curvature(self) -> tuple[Callable[[Array], Array], int]:
        """Products with G + λI or H + λI on this iteration's subsample, and its size."""
        workers = self.workers
        objective = self.workers.objective
        theta = self._theta
        chosen = self._draws.draw(self._iteration)
        lo, hi = cut(len(chosen), workers.count, workers.index)
        size, share = len(chosen), chosen[lo:hi]
        network, loss = objective.network, objective.loss
        with workers.all.phase("function"):
            parts = in_batches(share, SWEEP)
            tapes = [objective.forward(theta, part, keep=True) for part in parts]
        shift = objective.regulariser + self._lambda
        if self.options.method == "gn_cg":
            targets = [take(objective.data.y, part) for part in parts]
            states = [loss.state(tape.z, y) for tape, y in zip(tapes, targets, strict=True)]

            def local(v: Array) -> Array:
                out = namespace(v).zeros_like(v)
                for tape, state in zip(tapes, states, strict=True):
                    u = network.tangents(theta, tape, v)[0, ...]
                    network.pull(theta, tape, loss.hessian_product(state, u)[:, None, ...], 0, out)
                return out / size
        else:
            batches = [(tape, take(objective.data.y, part)) for tape, part in zip(tapes, parts, strict=True)]
            local = Hessian(network, theta, batches, loss, size).product

        def product(v: Array) -> Array:
            partial = local(v)
            workers.all.stops.sync_point()
            return workers.peers.allreduce(partial) + shift * v

        return product, size

    def _choose(self, solution: krylov.Approximation) -> _Direction:
        """The solution turned downhill, or the most negative curvature where the damped model is lower along it."""
        g, dots = self._at.gradient, self.workers.dots
        ad = -g - solution.r
        slope, curvature, squares = dots((g, solution.d), (solution.d, ad), (solution.d, solution.d))
        best: _Direction | None = None
        if math.isfinite(curvature) and abs(slope) > STEEP * self._at.norm * math.sqrt(squares):
            sign = -1.0 if slope > 0 else 1.0
            best = _Direction(sign * solution.d, sign * slope, curvature, squares)
        # along q the Hessian itself, without λ, curves downward
        gq, qq = (0.0, 0.0) if solution.q is None else dots((g, solution.q), (solution.q, solution.q))
        # Bi-CG-STAB makes some directions orthogonal to ∇f
        steep = abs(gq) > STEEP * self._at.norm * math.sqrt(qq)
        if solution.q is not None and steep and solution.lowest - self._lambda < 0:
            length = math.sqrt((best.squares if best else self._at.norm**2) / qq)
            scale = -math.copysign(length, gq)
            other = _Direction(scale * solution.q, scale * gq, solution.lowest * qq * scale**2, scale**2 * qq, True)
            if best is None or _model(other) < _model(best):
                best = other
        if best is None:
            best = _Direction(-g, -(self._at.norm**2), math.inf, self._at.norm**2)
        return best

    def _line_search(self, direction: _Direction) -> tuple[float, float, int]:
        """α, f there and the trials; α = 0 where no trial was accepted. Collective over the workers."""
        options = self.options
        with self.workers.all.phase("function"):
            alpha, at, trials = line_search.backtracking(
                lambda alpha: line_search.Value(self.workers.value(self._theta + alpha * direction.d)),
                self._at.value,
                direction.slope,
                eta=options.armijo,
                factor=options.backtrack,
                trials=options.max_trials,
            )
        return alpha, self._at.value if at is None else at.value, trials


def _model(direction: _Direction) -> float:
    return direction.slope + 0.5 * direction.curvature


def _needs(options: HessianFreeSection, plan: NetPlan, work: Workload, layout: RankDivision, source: str) -> Needs:
    """The forward passes of this worker's share of the subsample last for an iteration."""
    return Needs(samples=ceil_div(subsample_size(options.subsample, work.samples), layout.replicas))


def _seconds(options: HessianFreeSection, steps: Steps) -> Mapping[str, float]:
    """A gradient over all samples, an inner solve whose products are summed over the workers, one trial step."""
    share = ceil_div(subsample_size(options.subsample, steps.work.samples), steps.replicas)
    passes, iterations = steps.passes, min(ASSUMED_CG, options.max_cg)
    product = passes.tangents(share, 1, SWEEP) + passes.backward(share, batch=SWEEP) + steps.vectors(2)
    each = (2 if options.method == "bicgstab" else 1) * (product + steps.summed() + steps.vectors(2))
    each += 2 * steps.price.scalars(steps.everybody) + steps.vectors(8)
    return {
        "function": passes.forward(share, batch=SWEEP) + steps.value(steps.work.samples),
        "gradient": steps.evaluation(),
        "cg": iterations * each + steps.vectors(10),
        "other": steps.from_first() + steps.vectors(4),
    }


SOLVERS.add("hessian_free")(data_parallel(HessianFreeSection, HessianFree, needs=_needs, seconds=_seconds))
