"""Multi-secant Newton over workers, after Arnold and Wang 2017 (whose equations are not public: these are derived).

m workers at x_i with gradients g_i of the same samples; S = [x_i - x̄], Y = [g_i - ḡ].
Type II: γ = (YᵀY + δI)⁻¹ Yᵀḡ;  type I: γ = (sym(SᵀY) + δI)⁻¹ Sᵀḡ.  Then x_new = x̄ - Sγ - η (ḡ - Yγ).
Every rank gets its slice of all x_i and g_i by one Alltoall, so traffic is about 4 n numbers per rank whatever m is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from dnewton.arrays.namespace import Array, copy, identity, namespace, to_device, to_host
from dnewton.config.baselines import WorkersSection
from dnewton.config.solver_register import SOLVERS
from dnewton.config.types import Count, Fraction, NotNegative
from dnewton.data.sampling import Indices
from dnewton.grid import cut
from dnewton.planning.step_times import Steps, mini_batches
from dnewton.solvers.baselines.local_sgd import LocalSteps
from dnewton.solvers.baselines.workers import Share, Workers, data_parallel
from dnewton.solvers.interface import StartPoint


class RankMSection(WorkersSection):
    """Multi-secant Newton over workers, after Arnold and Wang 2017."""

    name: Literal["rank_m"] = "rank_m"
    tau: Count = 4  # local steps that spread the workers before a secant step
    momentum: Fraction = 0.9  # of the local steps
    type: Literal["I", "II"] = "II"  # which of the two secant equations (docs/solvers.md)
    ridge: Annotated[float, Field(ge=1e-15, allow_inf_nan=False)] = 1e-3  # relative to trace(YᵀY)/m
    overlap: Count = 256  # samples on which all workers take the same gradient difference
    secant_rate: NotNegative = 0.1  # eta: step along what is left of the gradient
    spread: Annotated[float, Field(ge=0, le=1)] = 0.0  # how much of its distance from the mean a worker keeps


@dataclass(frozen=True)
class Secant:
    """One multi-secant step: the new point, the workers' mean, and this rank's slice of the mean gradient."""

    new: Array
    mean: Array
    slope: Array
    rank: int  # numerical rank of Y


def coefficients(yy: Array, sy: Array, yg: Array, sg: Array, kind: str, ridge: float) -> tuple[Array, int]:
    """γ of both types from the small matrices YᵀY, SᵀY and vectors Yᵀḡ, Sᵀḡ (float64), and the rank of Y."""
    xp = namespace(yy)
    m = yy.shape[0]
    scale = float(xp.sum(xp.linalg.diagonal(yy))) / m
    if not (scale > 0 and bool(xp.all(xp.isfinite(yy) & xp.isfinite(sy)))):
        return xp.zeros((m,), dtype=yy.dtype), 0  # the workers are at one point, or lost
    values = xp.linalg.eigvalsh(yy)
    rank = int(xp.sum(xp.astype(values > 1e-10 * max(float(values[-1]), 1e-300), xp.int64)))
    if kind == "II":
        matrix, right = yy, yg
    else:
        matrix, right = 0.5 * (sy + sy.T), sg
        scale = float(xp.sum(xp.abs(xp.linalg.diagonal(matrix)))) / m
    values, vectors = xp.linalg.eigh(matrix + ridge * scale * identity(m, yy))
    sound = xp.abs(values) > 1e-14 * float(xp.max(xp.abs(values)))  # type I may be singular
    inverse = xp.where(sound, 1 / xp.where(sound, values, xp.ones_like(values)), xp.zeros_like(values))
    return vectors @ (inverse * (vectors.T @ right)), rank


class RankM(LocalSteps):
    """τ local steps spread the workers; then a secant step from their mean, or a plain one where f would rise."""

    def __init__(self, workers: Workers, options: RankMSection) -> None:
        super().__init__(workers, options, options.momentum)
        self._own: RankMSection = options

    def prepare(self, start: StartPoint) -> None:
        """All workers begin at the common point."""
        super().prepare(start)
        saved = start.saved.values if start.saved is not None else {}
        self._steps, self._ranks, self._kept = (int(n) for n in saved.get("secant", "0 0 0").split())

    def update(self, share: Share, rate: float, count: int) -> None:
        """One local step; the secant step after every τ of them. Collective over the workers."""
        self.sgd_step(share, rate)
        if (count + 1) % self._own.tau == 0:
            self._meet_at_secant(count + 1)

    def meet(self) -> None:
        """A pass ends with a secant step, so that what is evaluated has all steps in it."""
        count = (self.iteration + 1) * self.workers.steps
        if count % self._own.tau:
            self._meet_at_secant(count)
        super().meet()

    def _meet_at_secant(self, draw: int) -> None:
        options, workers = self._own, self.workers
        overlap = workers.common(draw, options.overlap)
        self._seen += len(overlap) * workers.count
        step = self.secant(overlap)
        with workers.all.phase("function"):
            before = workers.value(step.mean, overlap)
            after = workers.value(step.new, overlap)
        self._seen += 2 / 3 * len(overlap)
        good = after < before  # false for NaN
        self._steps = self._steps + 1
        self._ranks = self._ranks + step.rank
        self._kept = self._kept + bool(good)
        if good:
            new = step.new
        else:
            with workers.all.phase("exchange"):
                new = step.mean - options.secant_rate * workers.peers.concatenate(step.slope)
        self.x = new + options.spread * (self.x - step.mean)
        self.centre = new

    def secant(self, overlap: Indices) -> Secant:
        """The step from the workers' present points. Collective over the workers."""
        options = self._own
        workers = self.workers
        m = self.workers.count
        with workers.all.phase("gradient"):
            g = workers.gradient(self.x, overlap)
        xp, n = namespace(g), g.shape[0]
        bounds = [cut(n, m, r) for r in range(m)]
        with workers.all.phase("exchange"):
            got = workers.peers.alltoall([xp.concat([self.x[lo:hi], g[lo:hi]]) for lo, hi in bounds])
            rows = xp.stack([xp.astype(b, xp.float64) for b in got])
            half = rows.shape[1] // 2
            w, grads = rows[:, :half], rows[:, half:]
            mean, slope = xp.mean(w, axis=0), xp.mean(grads, axis=0)
            s = w - mean
            y = grads - slope  # (m, n/m): rows are the columns of S and Y
            small = xp.concat([xp.reshape(y @ y.T, (m * m,)), xp.reshape(s @ y.T, (m * m,)), y @ slope, s @ slope])
            small = to_host(workers.all.bcast(workers.all.allreduce(small)))
            yy = small[: m * m].reshape(m, m)
            sy = small[m * m : 2 * m * m].reshape(m, m)
            gamma, rank = coefficients(
                yy, sy, small[2 * m * m : 2 * m * m + m], small[2 * m * m + m :], options.type, options.ridge
            )
            gamma = to_device(gamma, s)
            new = mean - gamma @ s - options.secant_rate * (slope - gamma @ y)
            whole = workers.peers.concatenate(xp.astype(xp.stack([new, mean], axis=1), g.dtype))
        new, mean = (copy(whole[:, i]) for i in (0, 1))
        return Secant(new, mean, xp.astype(slope, g.dtype), rank)

    def figures(self) -> dict[str, Any]:
        """Mean numerical rank of Y, and the share of secant steps that were kept, since the last line."""
        steps = max(1, self._steps)
        figures = {"secant_rank": self._ranks / steps, "secant_kept": self._kept / steps}
        self._steps = self._ranks = self._kept = 0
        return figures

    def saved_values(self) -> dict[str, str]:
        """Also what the next line of figures counts."""
        return {**super().saved_values(), "secant": f"{self._steps} {self._ranks} {self._kept}"}


SMALL = 60.0  # array operations on the small matrices of a secant step


def _seconds(options: RankMSection, steps: Steps) -> Mapping[str, float]:
    """Local steps; after every τ of them a gradient and two values on the overlap, and slices of all points."""
    found = dict(mini_batches(steps, options.batch, 6.0, 0.0))
    meetings = -(-steps.count(options.batch) // options.tau)
    overlap = min(options.overlap, steps.work.samples)
    found["gradient"] += meetings * steps.gradient(overlap)
    found["function"] = meetings * 2 * steps.value(overlap)
    exchanged = SMALL * steps.price.call + 2 * steps.gathered(2 * steps.variables, steps.replicas) + steps.vectors(12)
    small = 2 * steps.replicas**2 + 2 * steps.replicas
    exchanged += steps.price.allreduce(small, steps.everybody, itemsize=8) + steps.price.scalars(steps.everybody)
    found["exchange"] += meetings * exchanged
    return found


SOLVERS.add("rank_m")(data_parallel(RankMSection, RankM, vectors=21, seconds=_seconds))
