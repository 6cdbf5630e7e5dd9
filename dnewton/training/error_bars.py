"""The posterior of a finished run's weights, from all its training samples (docs/method.md, "Error bars")."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dnewton.arrays.namespace import Array, namespace, take, to_device, to_host
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.config.schema import Config
from dnewton.curvature import laplace
from dnewton.curvature.laplace import RowBatch, Spectrum
from dnewton.data.sampling import in_batches
from dnewton.errors import UserError
from dnewton.model.block import blocks_of
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.memory import Budget
from dnewton.planning.net_plan import NetPlan
from dnewton.storage.posterior import Group, Posterior

if TYPE_CHECKING:
    from dnewton.training.job import Job

ROWS = 32 << 20  # bytes of J at a time
LEFT = 0.01  # of the residuals, the share that is never counted as fitted by parameters
BYTES = 8  # all of it is float64


def shared_by_ranks(config: Config, ranks: int) -> bool:
    """Whether all weights make one group; else each rank's own do."""
    wanted, solver = config.output.error_bars, config.solver
    if wanted in ("full", "blocks"):
        return wanted == "full" or ranks == 1
    return ranks == 1 or not (isinstance(solver, NewtonSection) and solver.curvature == "diagonal")


def check(
    config: Config,
    plan: NetPlan,
    samples: int,
    memory: float,
    how: CurvaturePlan | Budget,
    source: str,
    terms: int = 1,
) -> None:
    """Raise UserError where error bars are asked for of a loss that has none, or would not fit into the memory."""
    if not config.output.error_bars:
        return
    if config.net.loss.noise == "none":
        raise UserError(
            f"{source}: output.error_bars: net.loss has no error bars, as it is no likelihood; use squared, poisson, "
            "logistic or cross_entropy, or error_bars: false"
        )
    need, room = (
        needed(config, plan, samples, terms),
        memory - sum(how.parts[k] for k in ("process", "vectors", "data")),
    )
    if need > room:
        cure = "" if config.output.error_bars == "blocks" or plan.grid.size == 1 else ", error_bars: blocks"
        raise UserError(
            f"{source}: output.error_bars: needs {need / 2**20:.0f} MiB on the largest rank, parallel.memory leaves "
            f"{max(room, 0) / 2**20:.0f}; allow more, or use a smaller net{cure}, or error_bars: false"
        )


def check_targets(config: Config, real: bool, source: str) -> None:
    """Raise UserError where error bars are asked for of labels by a loss that gives no probabilities."""
    if config.output.error_bars and not real and config.net.loss.noise == "estimated":
        raise UserError(
            f"{source}: output.error_bars: this loss gives no probabilities of labels; use cross_entropy or logistic, "
            "or error_bars: false"
        )


def needed(config: Config, plan: NetPlan, samples: int, terms: int = 1) -> float:
    """Bytes at the peak on the largest rank; `terms` of equations have matrices of their own."""
    sizes = [sum(block.size for block in blocks_of(plan, rank)) for rank in range(plan.grid.size)]
    shared = shared_by_ranks(config, plan.grid.size)
    rows, total, largest = samples * plan.outputs, sum(sizes), max(sizes)
    weights = total if shared else largest
    square = min(rows, weights)  # the matrix, its eigenvectors, and LAPACK's room for twice as much
    vectors = 0 if weights <= rows else 2 * rows * largest
    more = 2.0 * terms if terms > 1 else 0.0
    return BYTES * ((4.0 + more) * square**2 + vectors + 2.0 * square * weights) + ROWS


def posterior(job: Job, theta: Array) -> Posterior:
    """At θ, this rank's blocks of the final weights. Raises UserError. Collective over the ranks of the network."""
    with job.comm.stops.no_stop(), job.comm.phase("output"):
        return _Laplace(job, theta).found()


def described(found: Posterior, job: Job) -> str:
    """A line for the log."""
    count, weights = len(found.groups), job.network.plan.variables
    groups = "together" if count == 1 else f"in {count} blocks"
    noise = f", noise {math.sqrt(found.noise):.4g} (of scaled targets)" if found.noise else ""
    return f"error bars: {weights} weights {groups}, {found.determined:.4g} determined by the data{noise}"


def nothing(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns of no numbers beyond the net's weights."""
    return np.zeros((rows, 0)), np.zeros(0, dtype=np.int64)


class _Laplace:
    """What :func:`posterior` finds."""

    def __init__(self, job: Job, theta: Array) -> None:
        xp = namespace(theta)
        self._job = job
        self._theta = xp.astype(theta, xp.float64)
        self._comm: Comm = job.network.comm
        self._shared = shared_by_ranks(job.config, self._comm.size)
        objective = job.objective
        self._weight = objective.data.weight / objective.data.count  # of a sample whose relative weight is 1
        outputs = job.network.plan.outputs
        self._rows = objective.data.count * outputs
        if job.equations is None:
            self._counts = [objective.data.weight * outputs]
        else:
            self._counts = [float(n) for n in job.equations.residuals()]
        self._losses = [0.0] * len(self._counts)

    def found(self) -> Posterior:
        job, kinds = self._job, len(self._counts)
        size = int(self._theta.shape[0])
        total = size if not self._shared else int(sum(self._comm.sum_scalars([float(size)])))
        together = self._comm if self._shared and self._comm.size > 1 else None
        shift = job.objective.regulariser * job.objective.data.weight
        largest = self._comm.minmax(float(total))[1]
        if largest <= self._rows:  # alike on all ranks, whose sweeps go together
            spectrum = laplace.by_weights(self._batches(), kinds, shift, self._theta, together)
        else:
            spectrum = laplace.by_rows(self._batches(), self._rows, kinds, shift, self._theta, together)
        determined = spectrum.determined()
        if not self._shared:
            determined = self._comm.sum_scalars(determined)
        determined = self._known(determined)
        if not math.isfinite(sum(determined) + sum(self._losses)):
            raise UserError("output.error_bars: the derivatives of the net are not finite at its final weights")
        scales, scale = [1.0] * kinds, 1.0
        if job.config.net.loss.noise == "estimated":
            scales = [
                2 * e / max(n - g, LEFT * n) for e, n, g in zip(self._losses, self._counts, determined, strict=True)
            ]
            n, g = sum(self._counts), sum(determined)
            scale = 2 * sum(self._losses) / max(n - g, LEFT * n)
        noise = scale / 2 if job.config.net.loss.noise == "estimated" and job.equations is None else 0.0
        return Posterior(self._groups(spectrum, scales, scale), noise, sum(determined))

    def _known(self, determined: list[float]) -> list[float]:
        """What blocks say of the number of parameters, which grows with their number, or the method knows better."""
        known: float | None = getattr(self._job.solver, "determined", None)  # of newton with C: auto
        total = sum(determined)
        if self._shared or known is None or not 0 < known < total:
            return determined
        return [g * known / total for g in determined]

    def _batches(self) -> Iterator[RowBatch]:
        """A of all samples in float64; sums up the losses. Collective like the sweeps."""
        job, theta = self._job, self._theta
        xp, data, loss = namespace(theta), job.objective.data, job.objective.loss
        width = BYTES * job.network.plan.outputs * self._comm.minmax(float(theta.shape[0]))[1]
        holders = self._comm.size if self._shared else 1  # all ranks' columns are gathered
        at_once = max(1, min(job.strategy.batch, int(ROWS // max(1.0, 4 * width * holders))))
        batches = in_batches(np.arange(data.count), at_once)
        for part, given in zip(batches, data.batches(batches), strict=True):
            x = xp.astype(to_device(given, theta), xp.float64)
            y = xp.astype(take(data.y, part), xp.float64)
            rows, z = laplace.rows_of(job.network, theta, x, y, loss)
            n, k, size = rows.shape
            flat = xp.reshape(rows, (n * k, size)) * math.sqrt(self._weight)
            if len(self._counts) == 1:
                self._losses[0] += self._weight * loss.value(z, y)
                yield RowBatch(flat, None)
                continue
            term = x[:, -1]
            for t in range(len(self._counts)):
                chosen = xp.nonzero(term == t)[0]
                self._losses[t] += loss.value(z[chosen, :], y[chosen, :])
            yield RowBatch(flat, xp.repeat(term, k))

    def _groups(self, spectrum: Spectrum, scales: list[float], scale: float) -> tuple[Group, ...]:
        """Every group's entry on this rank. Collective over the ranks of the network."""
        basis, variances, outside = spectrum.covariance(scales, scale)
        basis, variances = to_host(basis), to_host(variances)
        places = np.arange(basis.shape[1])
        if self._shared or self._comm.size == 1:
            return (Group(np.ascontiguousarray(basis), places, variances, outside, *nothing(len(variances))),)
        groups = []
        for rank in range(self._comm.size):
            size, o = self._comm.sum_scalars(
                [float(len(variances)), outside] if rank == self._comm.rank else [0.0, 0.0]
            )
            d = self._comm.bcast(variances if rank == self._comm.rank else np.zeros(int(size)), rank)
            if rank == self._comm.rank:
                groups.append(Group(np.ascontiguousarray(basis), places, d, o, *nothing(len(d))))
            else:
                groups.append(Group(np.zeros((int(size), 0)), places[:0], d, o, *nothing(len(d))))
        return tuple(groups)
