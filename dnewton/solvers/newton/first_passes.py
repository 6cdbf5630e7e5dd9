"""`start: adam`: a few passes of a first-order method before Newton's first iteration.

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


def by_adam(objective: Objective, theta: Array, passes: int, seed: int) -> Array:
    """θ after so many passes over the samples in batches of 128, the rate falling from 3e-3 to 0 by half a cosine.

    The regulariser is part of the gradient. Collective over the world: what a gradient sends, for every batch.
    """
    total = objective.data.count
    steps = passes * ceil_div(total, BATCH)
    xp = namespace(theta)
    theta = copy(theta)
    moments = Moments(xp.zeros_like(theta), xp.zeros_like(theta))
    for k in range(passes):
        for batch in in_batches(permutation(seed, ORDER, k, total), BATCH):
            g = xp.zeros_like(theta)
            objective.accumulate(theta, objective.share(batch), g)
            g = objective.summed(g) / len(batch)
            g += objective.regulariser * theta
            rate = 0.5 * RATE * (1 + math.cos(math.pi * moments.count / steps))
            theta -= moments.step(g, rate)
    return theta


def by_local_adam(objective: Objective, theta: Array, passes: int, seed: int) -> Array:
    """Likewise, every replica alone on its share of the samples of a pass, with batches smaller by the number of
    replicas; after a pass θ is the mean over the replicas (Su and Chen 2015). One sum of θ's size for each pass.

    Collective over the world.
    """
    total, replicas = objective.data.count, objective.replicas
    size = ceil_div(BATCH, replicas)
    steps = passes * ceil_div(ceil_div(total, replicas), size)
    xp = namespace(theta)
    theta = copy(theta)
    moments = Moments(xp.zeros_like(theta), xp.zeros_like(theta))
    for k in range(passes):
        for batch in in_batches(objective.share(permutation(seed, ORDER, k, total)), size):
            g = xp.zeros_like(theta)
            objective.accumulate(theta, batch, g)
            g = g / len(batch) + objective.regulariser * theta
            theta -= moments.step(g, 0.5 * RATE * (1 + math.cos(math.pi * min(1.0, moments.count / steps))))
        theta = objective.summed(theta) / replicas
    return theta


def after_adam(objective: Objective, theta: Array, options: NewtonSection, comm: Comm, kind: str) -> Array:
    """θ after the passes, TOGETHER or APART, or as it was where they have led to no finite numbers. Collective over the
    world."""
    passes = by_local_adam if kind == APART else by_adam
    with comm.phase("gradient"):
        there = passes(objective, theta, options.start_passes, options.seed)
        (squares,) = comm.sum_scalars([dot(there, there)])
    return there if math.isfinite(squares) else theta
