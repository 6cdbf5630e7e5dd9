"""The distributed Newton method: one iteration from (θ, λ, d_previous) to the next (Wang et al. 2018, algorithm 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnewton.arrays.namespace import Array, dot, epsilon, namespace, take
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.curvature import jacobian
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.matrix_free import MatrixFreeJacobian, MatrixFreeModel
from dnewton.data.sampling import Cycle, subsample_size
from dnewton.errors import UserError
from dnewton.model.objective import Evaluation, Objective
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.solvers import damping, line_search
from dnewton.solvers.interface import (
    BACKWARD,
    FORWARD,
    NO_PROGRESS,
    IterationReport,
    Solver,
    SolverState,
    StartPoint,
    gradient_ending,
)
from dnewton.solvers.newton import cg, combine, direct, early_termination, local_solver
from dnewton.solvers.newton.progress import Progress, settings

MAX_TRIALS = 12
SUBSAMPLE, GRADIENT = 1, 2  # purposes of random draws


@dataclass
class State:
    """What an iteration starts from; all of it is in a checkpoint but what follows from θ."""

    theta: Array
    damping: float
    previous: Array | None = None
    iteration: int = 0
    first_norm: float = math.nan
    evaluated: int = 0  # the iteration whose batches f and ∇f were evaluated in (older after rejected steps)


class Newton(Solver):
    """The solver: :meth:`start` once, then :meth:`step` until it has converged or enough iterations are done."""

    def __init__(self, objective: Objective, options: NewtonSection, comm: Comm, strategy: CurvaturePlan) -> None:
        """Collective over the world (the early-termination counter's window)."""
        self._objective = objective
        self._options = options
        self._comm = comm
        self._strategy = strategy
        network, total = objective.network, objective.data.count
        size = subsample_size(options.subsample, total)
        self._subsamples = Cycle(total, size, options.seed, SUBSAMPLE)
        chosen = total if options.gradient_batch == "all" else min(options.gradient_batch, total)
        self._stochastic = options.gradient_batch != "all"
        self._gradient_draws = Cycle(total, chosen, options.seed, GRADIENT)
        self._rank_unit = jacobian.local_systems(network.blocks, per_layer=False)[0]
        self._units = jacobian.local_systems(network.blocks, options.diagonal_unit == "layer")
        stop = options.early_termination
        self._watch: early_termination.TerminationRule
        if options.curvature == "diagonal" and strategy.how == "implicit":
            self._watch = early_termination.make_joint(stop.mode, stop.fraction, comm)
        else:
            mode = "off" if options.curvature == "full" else stop.mode  # one solve for all ranks
            alone = options.replica_solve != "exact"
            self._watch = early_termination.make(mode, stop.fraction, stop.every, comm, alone)
        self._at: Evaluation
        self._grad: Array
        self._norm = math.nan
        self._active = 0
        self._solves = 0
        self._broken = damping.Broken()
        self._progress: Progress
        self.state: State

    def start(self, state: State) -> IterationReport:
        """Evaluate the point that a run starts from, or is resumed at.

        Raises UserError when f is not finite there. Collective over the world.
        """
        self.state = state
        self._progress = Progress(epsilon(state.theta), settings(self._options))
        now = state.iteration
        state.iteration = state.evaluated  # the same batches give the same bits
        at = self._evaluate(state.theta)
        self._accept(at)
        state.iteration = now
        if state.evaluated != now:
            self._keep_point()
        if not (math.isfinite(at.value) and math.isfinite(self._norm)):
            raise UserError(f"the objective is {at.value} at the starting point; scale the data or the weights")
        if state.iteration == 0:
            state.first_norm = self._norm
        return IterationReport(at.value, self._norm, at.metric, at.samples, state.damping, seen=float(at.samples))

    def begin(self, start: StartPoint) -> IterationReport:
        """As :meth:`start`, from θ alone or from what a checkpoint holds. Collective over the world."""
        state = State(start.theta, self._options.lambda_)
        if start.saved is not None:
            values = start.saved.values
            state = State(
                start.theta,
                float(values["lambda"]),
                start.saved.vectors.get("previous"),
                start.iteration,
                float(values["first_norm"]),
                int(values["evaluated"]),
            )
        report = self.start(state)
        self._progress.restore("" if start.saved is None else start.saved.values.get("progress", ""))
        return report

    def saved(self) -> SolverState:
        """The previous step, λ, and where f was evaluated."""
        state = self.state
        values = {"lambda": state.damping, "first_norm": state.first_norm, "evaluated": state.evaluated}
        vectors = {} if state.previous is None else {"previous": state.previous}
        written = {k: repr(v) for k, v in values.items()} | {"progress": self._progress.saved()}
        return SolverState(vectors, values=written)

    @property
    def theta(self) -> Array:
        """The weights."""
        return self.state.theta

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self.state.iteration

    @property
    def ending(self) -> str:
        """∇f = 0, its norm is `tolerance` times the first one, or f no longer falls."""
        by_gradient = gradient_ending(self._norm, self.state.first_norm, self._options.tolerance)
        return by_gradient or (NO_PROGRESS if self._progress.ended else "")

    def step(self) -> IterationReport:
        """One Newton iteration. Collective over the world."""
        state = self.state
        model = self._curvature()
        direction, solution, waited = self._direction(model, state.damping)
        del model
        self._comm.stops.safe_point()  # a solve that was cut short for a stop must not count
        state.iteration += 1
        if self._broken.seen(direction.slope + direction.curvature, state.iteration):
            state.previous = None  # it may have come from there
        alpha, at, trials = self._line_search(direction)
        ratio = -1.0
        if at is not None:
            predicted = alpha * direction.slope + 0.5 * alpha**2 * direction.curvature
            if predicted < 0:
                ratio = (at.value - self._at.value) / predicted
            else:
                at = None
        if at is not None and not self._take(alpha, direction.p, at):
            at, ratio = None, -1.0
        if at is None:
            self._keep_point()
        state.damping = damping.update(state.damping, ratio, self._options.drop, self._options.boost)
        report = IterationReport(
            self._at.value,
            self._norm,
            self._at.metric,
            self._at.samples,
            state.damping,
            alpha=0.0 if at is None else alpha,
            ratio=ratio,
            cg=solution.iterations,
            active=solution.iterations > 0,
            cut=solution.cut,
            waited=waited,
            trials=trials,
            seen=self._spent(trials, at is not None),
            seen_per_cg=4 / 3 * self._subsamples.size,  # by passes: a tangent sweep is two forward passes
            solved=True,
        )
        self._progress.seen(report, direction.slope, direction.curvature)
        return report

    def _spent(self, trials: int, accepted: bool) -> float:
        """Gradient equivalents of an iteration but for its CG: evaluations, a gradient, the K-fold sweep over S."""
        s, outputs = self._subsamples.size, self._objective.network.plan.outputs
        total = self._gradient_draws.size if self._stochastic else self._objective.data.count
        sweep = 0.0 if self._strategy.how == "implicit" else BACKWARD * outputs * s
        return FORWARD * trials * total + (BACKWARD * total if accepted else FORWARD * s) + sweep

    def close(self, error: str = "") -> None:
        """Free the early-termination counter. Collective over the world."""
        self._watch.close()

    # --- parts ------------------------------------------------------------------------------------------------------

    def _curvature(self) -> GaussNewton | MatrixFreeModel:
        """The model at θ in the form that the strategy says; takes over the subsample's forward passes."""
        objective = self._objective
        theta = self.state.theta
        how = self._strategy
        network = objective.network
        loss = objective.loss
        regulariser = objective.regulariser
        with self._comm.phase("jacobian"):
            tapes = [b.tape for b in self._at.subsample if b.tape is not None]
            y = namespace(theta).concat([take(objective.data.y, b.indices) for b in self._at.subsample])
            for batch in self._at.subsample:
                batch.tape = None
            z = namespace(theta).concat([t.z for t in tapes])
            if how.how == "explicit":
                half = None if self._options.jacobian_dtype == "auto" else self._options.jacobian_dtype
                jac = jacobian.build(network, theta, tapes, how.held, how.chunk, half)
                if half == "float16" and self._comm.minmax(float(jac.sound))[0] == 0.0:
                    raise UserError("solver.jacobian_dtype: float16 ends at 65504 and J does not; use bfloat16 or auto")
                return GaussNewton(jac, loss, z, y, regulariser)
            passes = MatrixFreeJacobian(network, theta, tapes, how.chunk)
            return MatrixFreeModel(passes, loss, z, y, regulariser)

    def _direction(
        self, model: GaussNewton | MatrixFreeModel, lam: float
    ) -> tuple[combine.Direction, cg.Solution, float]:
        """The combined direction for one λ, the local solution, and the seconds this rank waited for others."""
        comm = self._comm
        unit = self._rank_unit
        previous = self.state.previous
        with comm.phase("cg"):
            solution = self._solve(model, lam)
        with comm.phase("combine"):
            if self._options.combine == "none":
                direction = combine.plain(model, unit, self._grad, solution.d, comm)
            else:
                direction = combine.combine(model, unit, self._grad, solution.d, previous, lam, comm)
            return direction, solution, self._watch.complete()

    def _solve(self, model: GaussNewton | MatrixFreeModel, lam: float) -> cg.Solution:
        """The local systems, or the whole one. Collective over the world where J is not held or the system is whole."""
        options = self._options
        self._solves += 1
        self._watch.begin(self._solves, self._active)
        start = self.state.previous if options.warm_start else None
        if options.curvature == "full":
            solution = self._solve_whole(model, lam, start)
            self._watch.finished(counts=False)
            return solution
        if not isinstance(model, GaussNewton):
            return self._solve_jointly(model, lam, start)
        systems = [
            local_solver.make(way, model, self._grad, unit, lam, options.cg_tolerance, start)
            for way, unit in zip(self._strategy.ways, self._units, strict=True)
        ]
        return cg.solve(systems, self._grad, options.max_cg, self._watch)

    def _solve_whole(self, model: GaussNewton | MatrixFreeModel, lam: float, start: Array | None) -> cg.Solution:
        """`curvature: full`. Collective over the world."""
        options, comm = self._options, self._comm
        if options.subproblem == "exact":
            assert isinstance(model, GaussNewton)
            start = direct.dual(model, self._grad, self._rank_unit, lam, comm)
        return cg.solve_whole(
            lambda v, unit: model.full_product(v, unit, lam, comm),
            self._grad,
            self._rank_unit,
            self._norm,
            options.cg_tolerance,
            options.max_cg,
            comm,
            start,
        )

    def _solve_jointly(self, model: MatrixFreeModel, lam: float, start: Array | None) -> cg.Solution:
        """The local systems where their products are sweeps over all ranks. Collective over the world."""
        options, comm = self._options, self._comm
        g = self._grad
        zero = namespace(g).zeros_like(g)
        assert isinstance(self._watch, early_termination.LockstepTermination)

        def product(v: Array, unit: jacobian.LocalSystem) -> Array:
            return model.joint_product(v, unit, lam, comm)

        def idle(unit: jacobian.LocalSystem) -> None:
            product(zero, unit)

        systems = [cg.PlainCG(product, g, u, options.cg_tolerance, start) for u in self._units]
        return cg.solve_jointly(systems, idle, g, options.max_cg, self._watch)

    def _take(self, alpha: float, p: Array, at: Evaluation) -> bool:
        """Move to an accepted trial point; False, and back, when f or ∇f is not finite there."""
        state = self.state
        before = (state.theta, state.evaluated, self._at, self._grad, self._norm, self._active)
        state.theta = self._moved(alpha, p)
        self._accept(self._evaluate(state.theta) if self._stochastic else at)
        if math.isfinite(self._norm) and math.isfinite(self._at.value):
            state.previous = alpha * p
            return True
        state.theta, state.evaluated, self._at, self._grad, self._norm, self._active = before
        return False

    def _moved(self, alpha: float, p: Array) -> Array:
        return self.state.theta + alpha * p

    def _line_search(self, direction: combine.Direction) -> tuple[float, Evaluation | None, int]:
        """Backtracking on α = 1, ½, ¼, … Collective over the world."""
        return line_search.backtracking(
            lambda alpha: self._evaluate(self._moved(alpha, direction.p), trial=True),
            self._at.value,
            direction.slope,
            eta=self._options.eta,
            factor=0.5,
            trials=MAX_TRIALS,
        )

    def _evaluate(self, theta: Array, trial: bool = False) -> Evaluation:
        """f on the iteration's samples; the subsample of the next Jacobian is evaluated last and its passes kept."""
        objective, k = self._objective, self.state.iteration
        with self._comm.phase("function"):
            if self._stochastic:
                samples = self._gradient_draws.draw(k - 1 if trial else k)
                return objective.evaluate(theta, samples, samples[:0])
            s = self._subsamples.draw(k)
            return objective.evaluate(theta, objective.others(s), s)

    def _accept(self, at: Evaluation) -> None:
        """Take over an evaluated point: its gradient, and the subsample's forward passes for the next Jacobian."""
        theta, comm = self.state.theta, self._comm
        self._at = at
        with comm.phase("gradient"):
            self._grad = self._objective.gradient(theta, at)
            local = dot(self._grad, self._grad)
            squares, count = comm.sum_scalars([local, float(local > 0)])  # active: what local solves have work for
        self._norm = math.sqrt(squares) if squares >= 0 else squares
        self._active = int(count)
        if self._stochastic:
            self._forward_subsample()
        self.state.evaluated = self.state.iteration

    def _keep_point(self) -> None:
        """After a rejected step: f and ∇f stand; only the next subsample's forward pass at θ is missing."""
        if self._stochastic:
            self._accept(self._evaluate(self.state.theta))
        else:
            self._forward_subsample()

    def _forward_subsample(self) -> None:
        objective = self._objective
        with self._comm.phase("function"):
            batches = objective.batches(objective.share(self._subsamples.draw(self.state.iteration)))
            for batch in batches:
                batch.tape = objective.forward(self.state.theta, batch.indices, keep=True)
            self._at.subsample = batches
