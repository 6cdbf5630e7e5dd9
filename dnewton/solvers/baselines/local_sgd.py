"""Workers that take steps of their own and meet now and then: the base of the methods that differ in how they meet."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, copy, namespace
from dnewton.config.baselines import WorkersSection
from dnewton.solvers.baselines.epoch_loop import Epochs, saved_or_zeros
from dnewton.solvers.baselines.workers import Share, Workers
from dnewton.solvers.interface import SolverState, StartPoint


class LocalSteps(Epochs):
    """Every worker has its own point x; a worker without samples stands still but still takes part in the meetings."""

    def __init__(self, workers: Workers, options: WorkersSection, momentum: float) -> None:
        super().__init__(workers, options)
        self.momentum = momentum

    def prepare(self, start: StartPoint) -> None:
        """All workers begin at the common point, or where they were."""
        resumed = start.saved is not None and "x" in start.saved.own
        self.x = start.saved.own["x"] if resumed and start.saved else copy(start.theta)
        self.centre = copy(start.theta)
        self.velocity = saved_or_zeros(start, "velocity") if resumed else namespace(start.theta).zeros_like(start.theta)

    @property
    def theta(self) -> Array:
        """The centre: what is evaluated and saved."""
        return self.centre

    def local_gradient(self, at: Array, share: Share) -> Array | None:
        """The mean gradient over the worker's own samples; None without any. Collective over the replica."""
        if not len(share.indices):
            return None
        with self.workers.all.phase("gradient"):
            return self.workers.gradient(at, share.indices)

    def sgd_step(self, share: Share, rate: float) -> None:
        """x takes a step with Nesterov's momentum: v ← δ v - η g(x + δ v); x ← x + v (δ = 0: plain)."""
        if self.momentum == 0:
            g = self.local_gradient(self.x, share)
            if g is not None:
                self.x = self.x - rate * g
            return
        g = self.local_gradient(self.x + self.momentum * self.velocity, share)
        if g is not None:
            self.velocity = self.momentum * self.velocity - rate * g
            self.x = self.x + self.velocity

    def meet(self) -> None:
        """Replica 0's bits of the centre for all."""
        with self.workers.all.phase("exchange"):
            self.centre = self.workers.peers.bcast(self.centre)

    def saved(self) -> SolverState:
        """The workers' points and momenta."""
        own = {"x": self.x, "velocity": self.velocity} if self.momentum else {"x": self.x}
        return SolverState(own=own, values=self.saved_values())
