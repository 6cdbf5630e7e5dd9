"""The distributed Newton method: one iteration from (θ, λ, d_previous) to the next (Wang et al. 2018, algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from dnewton.arrays.namespace import Array, dot, epsilon
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.curvature.gauss_newton import GaussNewton, Model
from dnewton.curvature.matrix_free import MatrixFreeModel
from dnewton.data.sampling import Cycle
from dnewton.errors import UserError
from dnewton.model.objective import Evaluation, Objective
from dnewton.planning import costs
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
from dnewton.solvers.newton import cg, combine, geodesic
from dnewton.solvers.newton.adaptive import Controller, Operations
from dnewton.solvers.newton.first_passes import NONE, FirstPasses, decision
from dnewton.solvers.newton.progress import Progress, settings
from dnewton.solvers.newton.state import State, Tried
from dnewton.solvers.newton.systems import Systems

MAX_TRIALS = 12
MAX_SHORTER = 2  # trials of a step shorter than the direction
MAX_SOLVES = 6  # of one iteration, with ever larger λ
SUBSAMPLE, GRADIENT = 1, 2  # purposes of random draws


class Newton(Solver):
    """The solver: :meth:`start` once, then :meth:`step` until it has converged or enough iterations are done."""

    def __init__(self, objective: Objective, options: NewtonSection, comm: Comm, strategy: CurvaturePlan) -> None:
        """Collective over the world (the early-termination counter's window)."""
        self._objective = objective
        self._options = options
        self._comm = comm
        self._strategy = strategy
        network, total = objective.network, objective.data.count
        size = options.subsample_size(total, network.plan.outputs)
        self._subsamples = objective.subsamples(size, options.seed, SUBSAMPLE)
        chosen = total if options.gradient_batch == "all" else min(options.gradient_batch, total)
        self._stochastic = options.gradient_batch != "all"
        self._gradient_draws = Cycle(total, chosen, options.seed, GRADIENT)
        self._systems = Systems(network, options, comm, strategy)
        self._rank_unit = self._systems.rank_unit
        self._at: Evaluation
        self._grad: Array
        self._norm = math.nan
        self._active = 0
        self._work = Operations(tuple(costs.blocks_of(network.plan)), size, network.plan.outputs)
        self._controller = Controller.restored("")
        self._accelerates = options.acceleration == "geodesic"
        self._broken = damping.Broken()
        self._progress: Progress
        self.state: State
        self._start_kind, self._about_start = decision(options, objective, comm)
        self._passes = FirstPasses(objective, options, comm, self._start_kind)

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
        self._check_finite()
        if math.isnan(state.first_norm) and not self._passes.left:
            state.first_norm = self._norm
        unknown = not (self._options.by_paper or self._controller.damping.scale) and self._options.lambda_ == "auto"
        lam = None if unknown else state.damping  # measured by the first Jacobian
        return IterationReport(at.value, self._norm, at.metric, at.samples, lam, seen=float(at.samples))

    def begin(self, start: StartPoint) -> IterationReport:
        """As :meth:`start`, from θ alone or from what a checkpoint holds. Collective over the world."""
        state = State(start.theta, self._options.first_lambda)
        if start.saved is not None:
            state = State.restored(start, start.saved)
            self._controller = Controller.restored(start.saved.values.get("controller", ""))
            self._passes.restore(start.saved)
        elif self._start_kind != NONE and not (start.given and self._options.start == "auto"):
            self._passes.begin()
        report = self.start(state)
        self._progress.restore("" if start.saved is None else start.saved.values.get("progress", ""))
        return report

    @property
    def passes_before(self) -> int:
        """Passes of Adam before Newton's iterations."""
        return self._passes.planned

    def describe(self) -> list[str]:
        """What was derived from the sizes."""
        rule = "lambda by drop and boost" if self._options.by_paper else "lambda by the gain ratio"
        sizes = f"curvature of {self._subsamples.size} of {self._subsamples.total} samples"
        return [f"newton: {sizes}; {rule}{self._about_start}"]

    def saved(self) -> SolverState:
        """The previous step, λ, and where f was evaluated."""
        found = self.state.saved()
        written = {**found.values, "progress": self._progress.saved()}
        if not self._options.by_paper:
            written["controller"] = self._controller.saved()
        adam = self._passes.saved()
        return SolverState({**found.vectors, **adam.vectors}, adam.own, {**written, **adam.values})

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
        """One Newton iteration, or a pass of Adam before the first. Collective over the world."""
        if self._passes.left:
            return self._pass_of_adam()
        state, by_paper = self.state, self._options.by_paper
        if self._objective.renew(state.iteration):
            self._accept(self._evaluate(state.theta))
        alpha, at, ratio, tried = self._by_line_search() if by_paper else self._by_damping()
        direction, solution, waited, trials, solves = tried
        tried_in_vain = at is None  # λ has risen with every trial
        if at is not None and not self._take(alpha, direction, at):
            at, ratio = None, -1.0
        if at is None:
            self._keep_point()
        rule = self._controller.damping
        if by_paper:
            state.damping = damping.update(state.damping, ratio, *self._options.factors)
        elif at is not None and alpha == 1:
            state.damping = rule.accepted(state.damping, ratio, self._accelerates, first=solves == 1)
        elif not tried_in_vain:
            state.damping = rule.rejected(state.damping)
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
            extra={} if by_paper else {"solves": solves},
        )
        self._progress.seen(report, direction.slope, direction.curvature)
        return report

    def _pass_of_adam(self) -> IterationReport:
        """A pass, and f after it; after the last one ∇f, too. Collective over the world."""
        state, objective = self.state, self._objective
        self._at.forget()
        theta = self._passes.step(state.theta)
        with self._comm.phase("evaluate"):
            value, metric = objective.value(theta)
            if not math.isfinite(value):
                self._passes.refuse()
                value, metric = objective.value(theta := state.theta)
        self._passes.taken()
        state.theta = theta
        state.iteration += 1
        state.evaluated = state.iteration
        count, done = objective.data.count, self._passes.done
        report = IterationReport(value, None, metric, count, seen=float(count), extra={"adam_pass": done})
        if self._passes.left:
            return report
        self._accept(self._evaluate(theta))
        self._check_finite()
        state.first_norm = self._norm
        return replace(report, grad_norm=self._norm, seen=2.0 * count)

    def _check_finite(self) -> None:
        """Raise UserError where f or ∇f is not finite, alike on all ranks."""
        at = self._at
        if not (math.isfinite(at.value) and math.isfinite(self._norm)):
            raise UserError(f"the objective is {at.value} at the starting point; {self._objective.cure(at)}")

    def _by_line_search(self) -> tuple[float, Evaluation | None, float, Tried]:
        """One direction, and α along it (Wang et al. 2018, algorithm 2). Collective over the world."""
        state = self.state
        direction, solution, waited = self._direction(self._curvature(), state.damping)
        self._systems.new_point()
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
        return alpha, at, ratio, Tried(direction, solution, waited, trials)

    def _by_damping(self) -> tuple[float, Evaluation | None, float, Tried]:
        """Directions for ever larger λ from the same J, until one lowers f as its model says. Collective."""
        state, rule = self.state, self._controller.damping
        model = self._curvature()
        self._systems.new_point()
        if not rule.scale:
            wanted = None if self._options.lambda_ == "auto" else self._options.lambda_
            scale = combine.curvature_along(model, self._rank_unit, self._grad, self._norm, self._comm)
            state.damping = rule.begin(scale, epsilon(state.theta), wanted)
        state.iteration += 1
        waited, trials, iterations = 0.0, 0, 0
        alpha, at = 1.0, None
        keeps = self._strategy.keeps_jacobian
        for solves in range(1, (MAX_SOLVES if keeps else 1) + 1):
            direction, solution, seconds = self._direction(model, state.damping)
            waited += seconds
            iterations += solution.iterations
            self._comm.stops.safe_point()
            if solves == 1:
                self._learn(direction.counts)
            predicted = direction.slope + 0.5 * direction.curvature
            if self._accelerates and isinstance(model, GaussNewton):
                direction = self._bent(model, direction, state.damping)
            if not keeps:  # what was formed for several λ may hold J, too
                del model
                self._systems.new_point()
            if math.isfinite(predicted) and predicted < 0:
                alpha, at, evaluated = self._shorten(direction)
                trials += evaluated
                if at is not None:
                    break
            elif not math.isfinite(predicted):
                state.previous = None  # it may have come from there
            state.damping = rule.rejected(state.damping)
        self._systems.new_point()
        self._broken.seen(predicted, state.iteration)
        tried = Tried(direction, replace(solution, iterations=iterations), waited, trials, solves)
        if at is None:
            return 1.0, None, -1.0, tried
        ratio = (at.value - self._at.value) / (alpha * direction.slope + 0.5 * alpha**2 * direction.curvature)
        return alpha, at, ratio, tried

    def _shorten(self, direction: combine.Direction) -> tuple[float, Evaluation | None, int]:
        """Shorter steps: evaluations are far cheaper than another solve, but for one by a matrix that is there: there a
        larger λ gains far more than a shorter way along a bent direction. Collective over the world."""
        solves_again = direction.bend is not None and self._strategy.keeps_jacobian
        before, eta, trials = self._at.value, self._options.eta, 1 if solves_again else MAX_SHORTER + 1
        evaluate = lambda alpha: self._evaluate(self._moved(alpha, direction), trial=True)  # noqa: E731
        return line_search.by_parabola(evaluate, before, direction.slope, direction.curvature, eta=eta, trials=trials)

    def _bent(self, model: GaussNewton, direction: combine.Direction, lam: float) -> combine.Direction:
        """The direction with the second order of its way. Collective over the world."""
        objective, theta, batches = self._objective, self.state.theta, self._at.subsample
        return geodesic.bent(
            model,
            self._rank_unit,
            direction,
            lambda step: objective.outputs(theta + step, batches),
            lambda g: self._systems.again(g, lam),
            self._comm,
        )

    def _learn(self, counts: Sequence[float]) -> None:
        """The size of the preconditioner for the next solves, by the ranks' CG iterations in this one."""
        if counts:
            total, active = counts
            self._controller.sampled.solved(total / max(1.0, active), self._work, self._strategy.rows)

    def _spent(self, trials: int, accepted: bool) -> float:
        """Gradient equivalents of an iteration but for its CG: evaluations, a gradient, the K-fold sweep over S."""
        s, outputs = self._subsamples.size, self._objective.network.plan.outputs
        total = self._gradient_draws.size if self._stochastic else self._objective.data.count
        sweep = 0.0 if self._strategy.how == "implicit" else BACKWARD * outputs * s
        return FORWARD * trials * total + (BACKWARD * total if accepted else FORWARD * s) + sweep

    def close(self, error: str = "") -> None:
        """Free the early-termination counter. Collective."""
        self._systems.watch.close()

    def _curvature(self) -> GaussNewton | MatrixFreeModel:
        """The model at θ in the form that the plan says; takes over the subsample's forward passes."""
        with self._comm.phase("jacobian"):
            return self._systems.model(self._objective, self.state.theta, self._at.subsample)

    def _direction(
        self, model: GaussNewton | MatrixFreeModel, lam: float
    ) -> tuple[combine.Direction, cg.Solution, float]:
        """The combined direction for one λ, the local solution, and the seconds this rank waited for others."""
        with self._comm.phase("cg"):
            solution = self._solve(model, lam)
        with self._comm.phase("combine"):
            direction = self._combined(model, solution, lam)
            return direction, solution, self._systems.watch.complete()

    def _combined(self, model: Model, solution: cg.Solution, lam: float) -> combine.Direction:
        """The step from the pieces, with the counts of the solves where they are learnt from. Collective."""
        unit, g, comm, d = self._rank_unit, self._grad, self._comm, solution.d
        counts = [float(solution.iterations), float(solution.iterations > 0)] if self._strategy.rows else []
        if self._options.combine == "none":
            return combine.plain(model, unit, g, d, comm, counts)
        return combine.combine(model, unit, g, d, self.state.previous, lam, comm, counts)

    def _solve(self, model: GaussNewton | MatrixFreeModel, lam: float) -> cg.Solution:
        """The local systems, or the whole one. Collective over the world where J is not held or the system is whole."""
        self._systems.begin(self._active)
        start = self.state.previous if self._options.warm_start else None
        rows = self._controller.sampled.rows
        return self._systems.solve(model, self._grad, self._norm, lam, start, rows)

    def _take(self, alpha: float, direction: combine.Direction, at: Evaluation) -> bool:
        """Move to an accepted trial point; False, and back, when f or ∇f is not finite there."""
        state = self.state
        before = (state.theta, state.evaluated, self._at, self._grad, self._norm, self._active)
        state.theta = self._moved(alpha, direction)
        self._accept(self._evaluate(state.theta) if self._stochastic else at)
        if math.isfinite(self._norm) and math.isfinite(self._at.value):
            state.previous = direction.step(alpha)
            return True
        state.theta, state.evaluated, self._at, self._grad, self._norm, self._active = before
        return False

    def _moved(self, alpha: float, direction: combine.Direction) -> Array:
        return self.state.theta + direction.step(alpha)

    def _line_search(self, direction: combine.Direction) -> tuple[float, Evaluation | None, int]:
        """Backtracking on α = 1, ½, ¼, … Collective over the world."""
        before, slope, eta = self._at.value, direction.slope, self._options.eta
        evaluate = lambda alpha: self._evaluate(self._moved(alpha, direction), trial=True)  # noqa: E731
        return line_search.backtracking(evaluate, before, slope, eta=eta, factor=0.5, trials=MAX_TRIALS)

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
