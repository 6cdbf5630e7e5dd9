"""Newton on D replicas: f and ∇f over the shares of all, and a local solve with the shares of S put together or apart.

`replica_solve: average`: every replica solves with its own share of S, and the pieces are averaged: one sum of θ's size
per iteration, as in globally improved approximate Newton methods (Wang et al. 2018b). `exact`: the products of every CG
iteration are summed over the replicas, so that the direction is the one of all of S. `curvature: full` always is.
All replicas hold θ, ∇f and the steps in the same bits, and decide by replica 0's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from dnewton.arrays.namespace import Array
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.curvature.gauss_newton import GaussNewton
from dnewton.curvature.jacobian import LocalSystem
from dnewton.curvature.matrix_free import MatrixFreeModel
from dnewton.data.sampling import Indices
from dnewton.errors import UserError
from dnewton.grid import cut
from dnewton.model.objective import Objective
from dnewton.planning.curvature_plan import CurvaturePlan
from dnewton.planning.replicas import ProcessGroups
from dnewton.solvers.newton import cg, combine
from dnewton.solvers.newton.newton import Newton


class ReplicaComm(Comm):
    """The ranks of one replica for arrays; scalars are replica 0's, the same bits on all ranks of all replicas."""

    def __init__(self, model: Comm, everybody: Comm, replica: int) -> None:
        """Collective over the replica."""
        super().__init__(model._mpi, model.grid, model.yield_when_idle)
        self._everybody = everybody
        self._counts = replica == 0
        model._shared(self)

    def sum_scalars(self, values: Sequence[float]) -> list[float]:
        """Sums over the ranks of replica 0. Collective over all workers."""
        return self._everybody.sum_scalars(values if self._counts else [0.0] * len(values))

    def reduce_with(self, array: Array, values: Sequence[float]) -> tuple[Array, list[float]]:
        """The array's sum over the replica, the scalars' as of :meth:`sum_scalars`. Collective over all workers."""
        return self.reduce(array, 0), self.sum_scalars(values)

    def minmax(self, value: float) -> tuple[float, float]:
        """Over the ranks of all replicas. Collective over all workers."""
        return self._everybody.minmax(value)

    def bcast_scalars(self, values: Sequence[float]) -> list[float]:
        """The first rank's values. Collective over all workers."""
        return self._everybody.bcast_scalars(values)


class SharedObjective(Objective):
    """The objective where every replica evaluates its share of whatever samples are asked for."""

    groups: ProcessGroups

    @property
    def replicas(self) -> int:
        """That share the samples."""
        return self.groups.layout.replicas

    def share(self, indices: Indices) -> Indices:
        """This replica's part."""
        lo, hi = cut(len(indices), self.groups.layout.replicas, self.groups.replica)
        return indices[lo:hi]

    def totals(self, squares: float, loss: float, metric: float) -> list[float]:
        """‖θ‖², Σ ξ and the metric over all shares. Collective over all workers."""
        assert self.groups.workers is not None
        root = self.comm.rank == 0
        self.groups.workers.stops.sync_point()
        partial = [squares if self.groups.replica == 0 else 0.0, loss if root else 0.0, metric if root else 0.0]
        return self.groups.workers.sum_scalars(partial)

    def summed(self, gradient: Array) -> Array:
        """Σ ∇ξ over all shares, in the bits of replica 0. Collective over the peers."""
        assert self.groups.peers is not None
        self.groups.peers.stops.sync_point()
        return self.groups.peers.bcast(self.groups.peers.allreduce(gradient))


class SharedModel:
    """The quadratic model on all of S, of which this replica has a share."""

    def __init__(self, own: GaussNewton | MatrixFreeModel, peers: Comm, total: int) -> None:
        self.own = own
        self._peers = peers
        self.regulariser = own.regulariser
        self._weight = own.samples / total

    def images(self, columns: Sequence[Array], unit: LocalSystem, comm: Comm) -> Array:
        """J z on this replica's share. Collective over the replica."""
        return self.own.images(columns, unit, comm)

    def images_with(
        self, columns: Sequence[Array], unit: LocalSystem, comm: Comm, values: Sequence[float]
    ) -> tuple[Array, list[float]]:
        """J z on this replica's share and sums of scalars, on the replica's first rank. Collective over all workers."""
        return self.own.images_with(columns, unit, comm, values)

    def quadratic(self, u: Array, w: Array) -> float:
        """uᵀ B w / |S| over all shares. Collective over the peers of the calling rank."""
        return self._peers.sum_scalars([self._weight * self.own.quadratic(u, w)])[0]

    def _over_replicas(self, part: Array) -> Array:
        return self._peers.bcast(self._peers.allreduce(self._weight * part))

    def full_product(self, v: Array, unit: LocalSystem, damping: float, comm: Comm) -> Array:
        """This rank's part of (G + λI) v. Collective over the replica and the peers."""
        curved = self._over_replicas(self.own.full_product(v, unit, -self.regulariser, comm))
        return curved + (self.regulariser + damping) * v[unit.span]

    def block_product(self, v: Array, unit: LocalSystem, damping: float) -> Array:
        """(G_uu + λI) v of a diagonal unit. Collective over the peers alone."""
        assert isinstance(self.own, GaussNewton)
        curved = self._over_replicas(self.own.block_product(v, unit, -self.regulariser))
        return curved + (self.regulariser + damping) * v[unit.span]


class ReplicatedNewton(Newton):
    """Newton where the replicas share the samples."""

    def __init__(
        self,
        objective: SharedObjective,
        options: NewtonSection,
        comm: ReplicaComm,
        how: CurvaturePlan,
        groups: ProcessGroups,
    ) -> None:
        """Raises UserError for what replicas cannot do. Collective over all workers."""
        size = options.subsample_size(objective.data.count, objective.network.plan.outputs)
        replicas = groups.layout.replicas
        if options.C == "auto":
            raise UserError("solver.C: auto needs parallel.replicas: 1; give a number")
        if size < replicas:
            raise UserError(f"solver.subsample: {size} sample(s) cannot be shared by {replicas} replicas; take more")
        if options.curvature == "full" and options.subproblem == "exact":
            raise UserError("solver.subproblem: exact with curvature: full needs parallel.replicas: 1; use cg")
        if options.replica_solve == "exact" and options.curvature == "diagonal" and how.how != "explicit":
            raise UserError("solver.replica_solve: exact needs an explicit jacobian, which does not fit; use average")
        super().__init__(objective, options, comm, how)
        assert groups.peers is not None
        self._peers = groups.peers
        self._size = size

    def _direction(
        self, model: GaussNewton | MatrixFreeModel, lam: float
    ) -> tuple[combine.Direction, cg.Solution, float]:
        comm = self._comm
        shared = SharedModel(model, self._peers, self._size)
        comm.stops.sync_point()
        with comm.phase("cg"):
            solution = self._solve_shared(shared, lam)
        with comm.phase("combine"):
            direction = self._combined(shared, solution, lam)
            return direction, solution, self._systems.watch.complete()

    def _solve_shared(self, model: SharedModel, lam: float) -> cg.Solution:
        options = self._options
        comm = self._comm
        g = self._grad
        start = self.state.previous if options.warm_start else None
        if options.curvature == "full":
            return cg.solve_whole(
                lambda v, unit: model.full_product(v, unit, lam, comm),
                g,
                self._rank_unit,
                self._norm,
                options.tolerance_of_cg,
                options.max_cg,
                comm,
                start,
            )
        if options.replica_solve == "exact":
            self._systems.begin(self._active)
            systems = [
                cg.PlainCG(lambda v, unit: model.block_product(v, unit, lam), g, unit, options.tolerance_of_cg, start)
                for unit in self._systems.units
            ]
            return cg.solve(systems, g, options.max_cg, self._systems.watch)
        solution = self._solve(model.own, lam)
        with comm.phase("combine"):
            mean = self._peers.bcast(self._peers.allreduce(solution.d) / self._peers.size)
        return cg.Solution(mean, solution.iterations, solution.cut)
