"""`start: adam`: a few passes of a first-order method before Newton's first iteration.

Far from a solution, with many classes, what a Newton direction is worth more than a gradient's does not pay for what it
costs; passes over mini-batches get near, and Newton goes on from there (docs/method.md).
"""

from __future__ import annotations

import math
import time

from dnewton.arrays.namespace import Array, copy, dot, namespace
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
SUMS = 7  # that are timed; the quickest counts
LONG = 1.0  # seconds: what takes less is left to no timing
SPEED = 2e10  # operations per second of a rank, with so few samples at a time


def decision(options: NewtonSection, objective: Objective, comm: Comm) -> tuple[bool, str]:
    """Whether a new run begins with these passes, and what the log says of it.

    Where nobody asks for them they are left out if samples are streamed, which batches in random order would read piece
    by piece, and where their messages would take long, and longer than their computing, as on slow networks. Alike on
    all ranks. Collective over the world.
    """
    wanted = options.starts_by_adam(objective.data.count, objective.loss.targets == "classes")
    if wanted and options.start == "auto":
        streamed = comm.minmax(float(isinstance(objective.data.x, Streamed)))[1] > 0.0
        wait = _waiting(options, objective, comm)
        if streamed or wait > max(LONG, _computing(options, objective, comm)):
            why = "samples are streamed" if streamed else f"messages would take {wait:.2g} s"
            return False, f"; no passes of Adam first: {why} (solver.start)"
    return wanted, f"; a new run begins with {options.start_passes} passes of Adam" if wanted else ""


def _waiting(options: NewtonSection, objective: Objective, comm: Comm) -> float:
    """Seconds of the messages of all passes, by the time that a small sum takes now. Collective over the world."""
    if comm.size == 1:
        return 0.0
    least = math.inf
    for _ in range(SUMS):
        begun = time.perf_counter()
        comm.sum_scalars([0.0])
        least = min(least, time.perf_counter() - begun)
    layers = len(list(objective.network.plan.parametric()))
    batches = options.start_passes * ceil_div(objective.data.count, BATCH)
    return comm.minmax(least)[1] * MESSAGES * (layers - 1) * batches


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


def after_adam(objective: Objective, theta: Array, passes: int, seed: int, comm: Comm) -> Array:
    """As :func:`by_adam`, or θ as it was where the passes have led to no finite numbers. Collective over the world."""
    with comm.phase("gradient"):
        there = by_adam(objective, theta, passes, seed)
        (squares,) = comm.sum_scalars([dot(there, there)])
    return there if math.isfinite(squares) else theta
