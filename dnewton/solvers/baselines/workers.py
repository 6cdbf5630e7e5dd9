"""The replicas as workers of a data-parallel method: their shares of every batch, local gradients, f over all samples.

Every pass over the training set has a permutation of its own, drawn by (seed, pass). Batch k of a pass is the k-th run
of D·b samples in it; worker r takes slice r of the run. So D workers with b samples see the same batches as one with
D·b, and only the last batch of a pass can leave a worker without samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from dnewton.arrays.namespace import Array, copy, dot, namespace
from dnewton.config.baselines import CommonSection
from dnewton.data.sampling import Indices, ascending, in_batches, permutation, run
from dnewton.errors import UserError
from dnewton.grid import ceil_div, cut
from dnewton.model.objective import Objective
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.memory import Budget
from dnewton.planning.replicas import ProcessGroups
from dnewton.solvers.interface import Solver
from dnewton.solvers.kind import SolverKind

T = TypeVar("T", bound=CommonSection)

ORDER, OVERLAP = 4, 5  # purposes of random draws


@dataclass(frozen=True)
class Share:
    """This worker's samples of a batch, and how many all workers have of it."""

    indices: Indices
    total: int


@dataclass(frozen=True)
class Point:
    """f, the train metric's sum and ∇f (this rank's blocks) at a point, over all samples; alike on all replicas."""

    value: float
    metric: float
    gradient: Array
    norm: float


class Workers:
    """The D replicas, seen from a rank of one of them."""

    def __init__(self, groups: ProcessGroups, objective: Objective, batch: int, seed: int) -> None:
        """`batch` samples per worker and step."""
        assert groups.workers is not None
        assert groups.peers is not None
        self.groups = groups
        self.all = groups.workers
        self.peers = groups.peers
        self.model = objective.comm
        self.count = groups.layout.replicas
        self.index = groups.peers.rank
        self.objective = objective
        self.samples = objective.data.count
        self._batch = batch
        self._seed = seed

    @property
    def stride(self) -> int:
        """Samples of a batch of all workers."""
        return self._batch * self.count

    @property
    def steps(self) -> int:
        """Batches in a pass over the training set."""
        return ceil_div(self.samples, self.stride)

    def shares(self, epoch: int) -> Iterator[Share]:
        """This worker's part of every batch of a pass; it may be empty in the last one."""
        order = permutation(self._seed, ORDER, epoch, self.samples)
        for here in in_batches(order, self.stride):
            lo, hi = cut(len(here), self.count, self.index)
            yield Share(ascending(here[lo:hi]), len(here))

    def common(self, draw: int, size: int) -> Indices:
        """`size` samples that are the same on all workers."""
        return ascending(permutation(self._seed, OVERLAP, draw, self.samples)[: min(size, self.samples)])

    def gradient(self, theta: Array, indices: Indices) -> Array:
        """Mean gradient over this worker's samples and the regulariser's. Collective over the replica."""
        gradient = namespace(theta).zeros_like(theta)
        self.objective.accumulate(theta, indices, gradient)
        if len(indices):
            gradient /= len(indices)
        gradient += self.objective.regulariser * theta
        return gradient

    def mean_gradient(self, theta: Array, share: Share) -> Array:
        """Mean gradient over the samples of all workers. Collective over the workers: one sum of θ's size."""
        gradient = namespace(theta).zeros_like(theta)
        with self.all.phase("gradient"):
            self.objective.accumulate(theta, share.indices, gradient)
        with self.all.phase("exchange"):
            gradient = self.peers.allreduce(gradient)
        gradient /= share.total
        gradient += self.objective.regulariser * theta
        return gradient

    def mean(self, vector: Array) -> Array:
        """The mean of the workers' vectors. Collective over the workers."""
        return self.peers.allreduce(copy(vector)) / self.count

    def dots(self, *pairs: tuple[Array, Array]) -> list[float]:
        """Dot products of vectors that are alike on all replicas, the same bits on every rank. Collective."""
        first = self.index == 0
        return self.all.sum_scalars([dot(a, b) if first else 0.0 for a, b in pairs])

    def evaluate(self, theta: Array, indices: Indices | None = None) -> Point:
        """f and ∇f at a θ that is alike on all replicas, each of which evaluates its share of the samples.

        Collective over the workers.
        """
        share, total = self._own_share(indices)
        gradient = namespace(theta).zeros_like(theta)
        loss, metric = self.objective.accumulate(theta, share, gradient)
        self.all.stops.sync_point()
        gradient = self.peers.allreduce(gradient)
        gradient /= total
        gradient += self.objective.regulariser * theta
        value, metric, squares = self._totals(theta, loss, metric, gradient)
        return Point(value[0] / total + value[1], metric, gradient, math.sqrt(squares) if squares >= 0 else squares)

    def value(self, theta: Array, indices: Indices | None = None) -> float:
        """f alone. Collective over the workers."""
        share, total = self._own_share(indices)
        loss, _ = self.objective.accumulate(theta, share, None)
        self.all.stops.sync_point()
        value, _, _ = self._totals(theta, loss, 0.0, theta[:0])
        return value[0] / total + value[1]

    def _own_share(self, indices: Indices | None) -> tuple[Indices, int]:
        total = self.samples if indices is None else len(indices)
        lo, hi = cut(total, self.count, self.index)
        return run(lo, hi) if indices is None else indices[lo:hi], total

    def _totals(
        self, theta: Array, loss: float, metric: float, gradient: Array
    ) -> tuple[tuple[float, float], float, float]:
        root = self.model.rank == 0
        first = self.index == 0  # outputs are alike in a replica, θ over the replicas
        norms = [dot(theta, theta), dot(gradient, gradient)] if first else [0.0, 0.0]
        total, metric, squares, slopes = self.all.sum_scalars([loss if root else 0.0, metric if root else 0.0, *norms])
        return (total, 0.5 * self.objective.regulariser * squares), metric, slopes

    def check(self, point: Point) -> None:
        """Raise UserError, alike on all ranks, unless f and ∇f are finite at the point where a run starts."""
        if not (math.isfinite(point.value) and math.isfinite(point.norm)):
            raise UserError(f"the objective is {point.value} at the starting point; scale the data or the weights")


def data_parallel(section: type[T], solver: Callable[[Workers, T], Solver], **rest: Any) -> SolverKind[T]:
    """The kind of a method whose workers are the replicas; `rest` are further fields of :class:`SolverKind`."""

    def make(objective: Objective, options: T, groups: ProcessGroups, how: CurvaturePlan | Budget) -> Solver:
        return solver(Workers(groups, objective, getattr(options, "batch", 1), options.seed), options)

    return SolverKind(section, make, **rest)
