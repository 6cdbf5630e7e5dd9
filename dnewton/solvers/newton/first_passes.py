"""`start: adam`: a few passes of a first-order method before Newton's iterations.

Far from a solution, with many classes, what a Newton direction is worth more than a gradient's does not pay for what it
costs; passes over mini-batches get near, and Newton goes on from there (docs/method.md).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from dnewton.arrays.namespace import Array, copy, dot, namespace, zeros
from dnewton.comm.communicator import Comm
from dnewton.config.newton import NewtonSection
from dnewton.data.samples import Streamed
from dnewton.data.sampling import in_batches, permutation
from dnewton.grid import ceil_div
from dnewton.model.objective import Objective
from dnewton.planning.costs import blocks_of
from dnewton.solvers.adam_moments import Moments
from dnewton.solvers.interface import SolverState

ORDER = 3  # purpose of the random draws
RATE, BATCH = 3e-3, 128
MESSAGES = 1.5  # of a rank for a batch and a pair of layers, about
SUMS, LARGE_SUMS = 5, 2  # pairs that are timed; the quickest counts
LONG = 1.0  # seconds: what takes less is left to no timing
SPEED = 2e10  # operations per second of a rank, with so few samples at a time


NONE, TOGETHER, APART = "none", "together", "apart"  # what comes before Newton


def decision(options: NewtonSection, objective: Objective, comm: Comm) -> tuple[str, str]:
    """NONE, TOGETHER or APART, and what the log says of it.

    Where nobody asks for them the passes are left out if samples are streamed, which batches in random order would read
    piece by piece, and where their messages would take long, and longer than their computing, as on slow networks. If
    those between replicas do, every replica goes over its own samples alone. Alike on all ranks. Collective over the
    world.
    """
    chosen, why = _chosen(options, objective, comm)
    if chosen == NONE:
        return NONE, f"; no passes of Adam first: {why} (solver.start)" if why else ""
    alone = ", every replica over its own samples" if chosen == APART else ""
    return chosen, f"; a new run begins with {options.start_passes} passes of Adam{alone}{why}"


def _chosen(options: NewtonSection, objective: Objective, comm: Comm) -> tuple[str, str]:
    if options.start == "local_adam":
        return APART, ""
    if not options.starts_by_adam(objective.data.count, objective.loss.targets == "classes"):
        return NONE, ""
    if options.start == "adam":
        return TOGETHER, ""
    if comm.minmax(float(isinstance(objective.data.x, Streamed)))[1] > 0.0:
        return NONE, "samples are streamed"
    batches = options.start_passes * ceil_div(objective.data.count, BATCH)
    short = max(LONG, _computing(options, objective, comm))
    within, between = _waiting(objective, comm, batches), _between_replicas(objective, comm, batches)
    if within > short:
        return NONE, f"messages would take {within:.2g} s"
    if between > short:
        return APART, f": sums over replicas would take {between:.2g} s"
    return TOGETHER, ""


def _waiting(objective: Objective, comm: Comm, batches: int) -> float:
    """Seconds of the messages within a replica, by the time that a small sum takes now. Collective over the world."""
    if objective.network.comm.size == 1:
        return 0.0
    each = _each(lambda: objective.network.comm.sum_scalars([0.0]), SUMS)
    layers = len(list(objective.network.plan.parametric()))
    return comm.minmax(each)[1] * MESSAGES * (layers - 1) * batches


def _between_replicas(objective: Objective, comm: Comm, batches: int) -> float:
    """Seconds of the sums of gradients, by the time that one takes now. Collective over the world."""
    if objective.replicas == 1:
        return 0.0
    gradient = zeros(objective.network.size, objective.data.y, "float32")
    return comm.minmax(_each(lambda: objective.summed(gradient), LARGE_SUMS))[1] * batches


def _each(work: Callable[[], object], times: int) -> float:
    """Seconds of one of two that follow each other, the least disturbed pair: a single one may find that the others'
    messages have arrived already, and the next then waits twice as long."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        work()
        found.append((time.perf_counter() - begun) / 2)
    return min(found)


def _computing(options: NewtonSection, objective: Objective, comm: Comm) -> float:
    """Seconds of a rank's products in all passes, of the rank that has most. Alike on all ranks."""
    operations = sum(6.0 * block.q * block.o * block.i for block in blocks_of(objective.network.plan))
    return options.start_passes * objective.data.count * operations / SPEED / min(1.0, comm.least_cores)


class FirstPasses:
    """The passes of a run, one at a time: each is an iteration, in metrics and for checkpoints.

    Batches of 128 samples, the rate falling from 3e-3 to 0 by half a cosine; the regulariser is part of the gradient.
    APART: every replica alone on its share of the samples of a pass, with batches smaller by the number of replicas;
    after a pass θ is the mean over the replicas (Su and Chen 2015).
    """

    def __init__(self, objective: Objective, options: NewtonSection, comm: Comm, kind: str) -> None:
        """`kind`: NONE, TOGETHER or APART; NONE until a run begins with them."""
        self._objective = objective
        self._options = options
        self._comm = comm
        self._apart = kind == APART
        self.planned = 0  # of this run
        self.done = 0
        self._moments: Moments | None = None
        self._next: Moments | None = None

    @property
    def left(self) -> int:
        """Passes that are still to come."""
        return self.planned - self.done

    def begin(self) -> None:
        """Passes come first in this run."""
        self.planned = self._options.start_passes

    def restore(self, saved: SolverState) -> None:
        """Go on where a run was saved; one of an earlier version had done them all."""
        self.planned, self.done = (int(saved.values.get(name, "0")) for name in ("passes", "passes_done"))
        self._apart = saved.values.get("passes_kind") == APART
        if self.left:  # what the run is asked for now holds
            self.planned = self.done if self._options.start == "none" else max(self.done, self._options.start_passes)
        held = {**saved.vectors, **saved.own}
        if self.left and "first_moment" in held:  # each replica's own are not, on another number of replicas
            count = int(saved.values["adam_steps"])
            self._moments = Moments(held["first_moment"], held["second_moment"], count)

    def saved(self) -> SolverState:
        """What a checkpoint has of them: nothing in a run without."""
        if not self.planned:
            return SolverState()
        values = {"passes": str(self.planned), "passes_done": str(self.done)}
        values["passes_kind"] = APART if self._apart else TOGETHER
        if not self.left or self._moments is None:
            return SolverState(values=values)
        vectors = {"first_moment": self._moments.first, "second_moment": self._moments.second}
        values["adam_steps"] = str(self._moments.count)
        return SolverState(own=vectors, values=values) if self._apart else SolverState(vectors, values=values)

    def step(self, theta: Array) -> Array:
        """θ after one more pass, which counts when it is :meth:`taken`; as it was where that has led to no finite
        numbers. Collective over the world."""
        with self._comm.phase("gradient"):
            moments, there = self._passed(theta)
            (squares,) = self._comm.sum_scalars([dot(there, there)])
        self._next = moments if math.isfinite(squares) else None
        return theta if self._next is None else there

    def refuse(self) -> None:
        """f is not finite at the θ of the last step: it counts as one without finite numbers."""
        self._next = None

    def taken(self) -> None:
        """The run is at the θ of the last step; without finite numbers there are no more passes."""
        if self._next is None:
            self.planned = self.done + 1
        self.done += 1
        self._moments = self._next if self.left else None
        self._next = None

    def _passed(self, theta: Array) -> tuple[Moments, Array]:
        """A pass: copies, since what is before it may be saved. A sum over the replicas for every batch, or one."""
        objective, options, apart = self._objective, self._options, self._apart
        xp, theta, total = namespace(theta), copy(theta), objective.data.count
        replicas = objective.replicas if apart else 1
        size = ceil_div(BATCH, replicas)
        steps = ceil_div(ceil_div(total, replicas), size)  # of a pass
        before = self._moments or Moments(xp.zeros_like(theta), xp.zeros_like(theta))
        moments = Moments(copy(before.first), copy(before.second), before.count)
        order = permutation(options.seed, ORDER, self.done, total)
        for k, batch in enumerate(in_batches(objective.share(order) if apart else order, size)):
            g = xp.zeros_like(theta)
            objective.accumulate(theta, batch if apart else objective.share(batch), g)
            g = (g if apart else objective.summed(g)) / len(batch)
            g += objective.regulariser * theta
            part = min(1.0, (self.done + k / steps) / self.planned)
            theta -= moments.step(g, 0.5 * RATE * (1 + math.cos(math.pi * part)))
        return moments, objective.summed(theta) / replicas if apart else theta
