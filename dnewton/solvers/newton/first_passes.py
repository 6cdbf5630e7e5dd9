"""`start: adam`: a few passes of a first-order method before Newton's first iteration.

Far from a solution, with many classes, what a Newton direction is worth more than a gradient's does not pay for what it
costs; passes over mini-batches get near, and Newton goes on from there (docs/method.md).
"""

from __future__ import annotations

import math

from dnewton.arrays.namespace import Array, copy, dot, namespace
from dnewton.comm.communicator import Comm
from dnewton.data.sampling import in_batches, permutation
from dnewton.grid import ceil_div
from dnewton.model.objective import Objective
from dnewton.solvers.adam_moments import Moments

ORDER = 3  # purpose of the random draws
RATE, BATCH = 3e-3, 128


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
