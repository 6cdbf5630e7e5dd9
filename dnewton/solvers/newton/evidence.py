"""`C: auto`: the regulariser by the evidence for it, from the training samples alone (docs/method.md, "C by itself").

With E_D = Σ‖z - y‖² over l samples of K outputs, E_W = ‖θ‖² and a posterior ∝ exp(-β E_D - α E_W), l·f is
E_D + (α/β) E_W, so that 1/(2C) = α/β. Of s_i, the eigenvalues of J Jᵀ, γ = Σ s_i/(s_i + α/β) is the number of
parameters that the data determine; for fixed J the evidence is largest where α = γ/(2 E_W), β = (K l - γ)/(2 E_D)
(MacKay 1992; within Gauss-Newton iterations Foresee and Hagan 1997). J Jᵀ is the sum of what the ranks' blocks
give, so that γ does not depend on how many ranks there are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from dnewton.arrays.linear_algebra import symmetric_eigenvalues
from dnewton.arrays.namespace import Array, dot, eigh, epsilon, namespace, to_device, zeros
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.gram import add_term, panels_of
from dnewton.curvature.jacobian import LocalSystem
from dnewton.curvature.matrix_free import MatrixFreeModel
from dnewton.data.sampling import signs
from dnewton.model.objective import Objective
from dnewton.planning.costs import EVIDENCE_ROWS, LANCZOS_STEPS
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.solvers.interface import IterationReport, SolverState, StartPoint
from dnewton.solvers.newton.newton import Newton

LARGEST, LEAST = 1e12, 1e-6  # C
FASTEST = 4.0  # the most that C changes by in an iteration
SMALLEST = 0.01  # relative change of C that is made: f must be able to come to rest
LOWER = 1.5  # C is limited to its value over this
FALLEN = 1.0  # where the evidence has fallen so much, in natural logarithms
SAMPLED = 0.1  # and so much times γ where J is of other samples each time
RENEWED = 0.25  # of the K·l residuals: where it has risen so much, no limit holds any longer
LEFT = 0.01  # of the K·l residuals, the share that is never counted as fitted by parameters
PROBES = 4  # of the estimate where eigenvalues are not found
EVERY = 4  # iterations from one such estimate to the next
PROBE = 4  # purpose of the random draws


class Spectrum(NamedTuple):
    """Eigenvalues of J Jᵀ over all samples, each with the number that it stands for."""

    values: list[float]
    weights: list[float]


class Estimate(NamedTuple):
    """C at which the evidence is largest by the present γ, γ, and the logarithm of the evidence but for a constant."""

    C: float
    gamma: float
    evidence: float


def estimate(spectrum: Spectrum, ratio: float, e_d: float, e_w: float, count: float) -> Estimate | None:
    """One step of MacKay's re-estimation from α/β = `ratio`, with `count` = K·l residuals; None where it says nothing
    (θ = 0, J = 0, or numbers that are not finite)."""
    pairs = [(s, w) for s, w in zip(*spectrum, strict=True) if s > 0]
    gamma = sum(w * s / (s + ratio) for s, w in pairs)
    gamma = min(gamma, (1 - LEFT) * count)
    if not (math.isfinite(gamma + e_d + e_w) and gamma > 0 and e_w > 0):
        return None
    e_d = max(e_d, 0.0)
    twice = 2 * gamma * e_d  # 0 for an exact fit: nothing speaks for a regulariser
    wanted = e_w * (count - gamma) / twice if twice > 0 else LARGEST
    volume = sum(w * math.log1p(s / ratio) for s, w in pairs)
    evidence = -0.5 * (count * math.log(e_d + ratio * e_w) + volume)
    return Estimate(min(max(wanted, LEAST), LARGEST), gamma, evidence)


@dataclass(frozen=True)
class Limit:
    """What C must not exceed, by what has become of the evidence.

    The estimate takes J for fixed. Where further steps lower f but turn towards weights that the data determine in
    ever more directions, f falls and the evidence with it: the fit follows the noise. Each time it has fallen, C is
    limited to less than it was, until it no longer does.
    """

    most: float = math.inf
    highest: float = -math.inf  # evidence since `most` was set
    begun: float = math.inf  # evidence when it was

    def after(self, c: float, evidence: float, count: float, error: float = 0.0) -> Limit:
        """With the evidence at another point, which was found with C = `c`; `error`: falls that may be by chance."""
        if evidence > self.begun + RENEWED * count:  # another fit altogether
            return Limit(highest=evidence)
        if evidence >= self.highest - FALLEN - error:
            return replace(self, highest=max(evidence, self.highest))
        return Limit(c / LOWER, begun=evidence)


def spectrum(model: GaussNewton | MatrixFreeModel, unit: LocalSystem, like: Array, comm: Comm, seed: int) -> Spectrum:
    """Of J Jᵀ, with weights of √w J Jᵀ √w, scaled from S to all samples by the caller; the same on all ranks.

    Exact for few rows with J held; else by stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017) with random signs
    drawn by the seed, the same each time. `like` is θ. Collective over the world.
    """
    rows = model.samples * model.outputs
    root = model.root_weights

    def mapped(values: Array, here: slice) -> Array:
        return values if root is None else values * root[here][:, None, None]

    if isinstance(model, GaussNewton) and rows <= EVIDENCE_ROWS:
        matrix = zeros((rows, rows), like, "float64")
        for term in model.jacobian.gram_terms(unit, mapped, "float64"):
            add_term(term, panels_of(matrix, rows))
        values = [float(v) for v in symmetric_eigenvalues(comm.allreduce(matrix))]
        floor = epsilon(like) * math.sqrt(rows) * max(values)  # below it, rounding of J Jᵀ
        values = comm.bcast_scalars([v if v > floor else 0.0 for v in values])
        return Spectrum(values, [1.0] * rows)

    shape = (model.samples, model.outputs)

    def product(y: Array) -> Array:
        xp = namespace(y)
        w = mapped(xp.astype(xp.reshape(y, shape), like.dtype)[:, None, :], slice(0, shape[0]))[:, 0, :]
        if isinstance(model, GaussNewton):
            image = comm.allreduce(model.jacobian.gram_times(w, unit))
        else:
            back = xp.zeros_like(like)
            model.passes.add_transposed(w[:, None, ...], 0, back)
            image = model.passes.image(back)
        image = mapped(image[:, None, :], slice(0, shape[0]))[:, 0, :]
        return xp.astype(xp.reshape(image, (rows,)), y.dtype)

    nodes: list[float] = []
    weights: list[float] = []
    for probe in range(PROBES):
        comm.stops.safe_point()
        start = to_device(signs(seed, PROBE, probe, rows), like)
        found, shares = _quadrature(product, start, min(LANCZOS_STEPS, rows))
        nodes += found
        weights += [rows / PROBES * share for share in shares]
    both = comm.bcast_scalars([*nodes, *weights])  # sums over ranks need not be the same bits everywhere
    return Spectrum(both[: len(nodes)], both[len(nodes) :])


def _quadrature(product: Callable[[Array], Array], start: Array, steps: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of Gauss quadrature by `steps` Lanczos iterations from a vector, which all ranks hold.

    The number of nodes is always `steps`, so that ranks cannot disagree on it. Collective where `product` is.
    """
    xp = namespace(start)
    rows = start.shape[0]
    basis = zeros((steps, rows), start)
    tridiagonal = zeros((steps, steps), start)
    q = start / math.sqrt(dot(start, start))
    for k in range(steps):
        basis[k, :] = q
        w = product(q)
        tridiagonal[k, k] = dot(q, w)
        for _ in range(2):  # twice is enough
            w = w - (basis @ w) @ basis
        norm = math.sqrt(dot(w, w))
        if k + 1 < steps:
            tridiagonal[k, k + 1] = tridiagonal[k + 1, k] = norm
            q = w / norm if norm > 0 else w
    nodes, vectors = eigh(xp.astype(tridiagonal, xp.float64))
    return [float(v) for v in nodes], [float(v) ** 2 for v in vectors[0, :]]


@dataclass(frozen=True)
class Standing:
    """What a checkpoint holds of the regulariser."""

    evaluated: float  # 1/(C l) with which f and ∇f were evaluated at θ
    regulariser: float  # and the one in force, which they have been moved to
    gamma: float = math.nan
    point: int = -1  # the iteration that evaluated θ where C was last estimated
    iteration: int = -EVERY  # after which that was
    limit: Sequence[float] = ()  # of :class:`Limit`


class EvidenceNewton(Newton):
    """Newton where each accepted point re-estimates C before the next direction."""

    def __init__(self, objective: Objective, options: NewtonSection, comm: Comm, strategy: CurvaturePlan) -> None:
        """Collective over the world (the early-termination counter's window)."""
        super().__init__(objective, options, comm, strategy)
        self._standing = Standing(objective.regulariser, objective.regulariser)
        rows = self._subsamples.size * objective.network.plan.outputs
        self._every = 1 if strategy.how == "explicit" and rows <= EVIDENCE_ROWS else EVERY

    def describe(self) -> list[str]:
        """What was derived from the sizes."""
        how = "eigenvalues of J J^T" if self._every == 1 else f"Lanczos quadrature every {EVERY} iterations"
        return [*super().describe(), f"newton: C by the evidence, from {self._C:g} on; {how}"]

    def begin(self, start: StartPoint) -> IterationReport:
        """As in the base; f and ∇f as they were with the regulariser of a checkpoint. Collective over the world."""
        if start.saved is not None:
            held = start.saved.values.get("evidence")  # a run with a number for C has none
            self._standing = Standing(**json.loads(held)) if held else self._standing
        self._objective.regulariser = self._standing.evaluated
        report = super().begin(start)
        self._move_to(self._standing.regulariser, self._squares())
        return self._told(replace(report, loss=self._at.value, grad_norm=self._norm))

    def saved(self) -> SolverState:
        """As in the base, and the regulariser."""
        state = super().saved()
        return replace(state, values={**state.values, "evidence": json.dumps(asdict(self._standing))})

    @property
    def determined(self) -> float | None:
        """γ."""
        return None if math.isnan(self._standing.gamma) else self._standing.gamma

    def step(self) -> IterationReport:
        """One Newton iteration. Collective over the world."""
        report = super().step()
        if report.alpha:
            self._standing = replace(self._standing, evaluated=self._objective.regulariser)
        return self._told(report)

    def _told(self, report: IterationReport) -> IterationReport:
        """With C and γ; values of f by different C do not compare, so the best weights are the last ones."""
        gamma = None if math.isnan(self._standing.gamma) else self._standing.gamma
        return replace(report, extra={**report.extra, "C": self._C, "gamma": gamma}, score=-float(self.state.iteration))

    @property
    def _C(self) -> float:
        return 1 / (self._objective.regulariser * self._objective.data.weight)

    def _curvature(self) -> GaussNewton | MatrixFreeModel:
        model = super()._curvature()
        state, last = self.state, self._standing
        if state.evaluated != last.point and state.iteration >= last.iteration + self._every:
            with self._comm.phase("combine"):
                self._re_estimate(model)
            model.regulariser = self._objective.regulariser
        return model

    def _re_estimate(self, model: GaussNewton | MatrixFreeModel) -> None:
        """C by J at θ; f and ∇f follow without a pass. Collective over the world."""
        state, samples = self.state, self._objective.data.weight  # a sample of weight 2 is two observations
        found = spectrum(model, self._rank_unit, state.theta, self._comm, self._options.seed)
        found = Spectrum([s * samples / model.samples for s in found.values], found.weights)
        squares = self._squares()
        regulariser = self._objective.regulariser
        e_d = samples * (self._at.value - 0.5 * regulariser * squares)
        ratio = 0.5 * samples * regulariser
        count = samples * model.outputs
        new = estimate(found, ratio, e_d, squares, count)
        wanted, limit = self._C, Limit(*self._standing.limit)
        if new is not None:
            error = 0.0 if model.samples == self._objective.data.count else SAMPLED * new.gamma
            limit = limit.after(self._C, new.evidence, count, error)
            wanted = min(max(new.C, self._C / FASTEST), self._C * FASTEST, limit.most)
        if abs(wanted / self._C - 1) > SMALLEST:
            self._move_to(1 / (wanted * samples), squares)
        gamma = math.nan if new is None else new.gamma
        self._standing = replace(
            self._standing,
            regulariser=self._objective.regulariser,
            gamma=gamma,
            point=state.evaluated,
            iteration=state.iteration,
            limit=(limit.most, limit.highest, limit.begun),
        )

    def _squares(self) -> float:
        """‖θ‖². Collective over the world."""
        theta = self.state.theta
        return self._comm.sum_scalars([dot(theta, theta)])[0]

    def _move_to(self, regulariser: float, squares: float) -> None:
        """f and ∇f at θ with another regulariser. Collective over the world."""
        change = regulariser - self._objective.regulariser
        self._objective.regulariser = regulariser
        if change == 0:
            return
        self._at.value += 0.5 * change * squares
        self._grad = self._grad + change * self.state.theta
        local = dot(self._grad, self._grad)
        total, count = self._comm.sum_scalars([local, float(local > 0)])
        self._norm = math.sqrt(total) if total >= 0 else total
        self._active = int(count)
