"""The memory that a comparison solver needs, and the evaluation batch that fits into it. Pure functions of the plan."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dnewton.errors import UserError
from dnewton.grid import ceil_div
from dnewton.planning import costs
from dnewton.planning.curvature_plan import data_bytes
from dnewton.planning.grid_search import Workload
from dnewton.planning.net_plan import NetPlan

PROCESS = 112.0 * 2**20  # bytes that the interpreter and its libraries take, of MPI too, with what they hold later
STEP = 16 << 20  # in which the bytes of a process are counted


@dataclass(frozen=True)
class Budget:
    """The planned peak, by what it is for, and the samples that are evaluated at a time."""

    batch: int
    parts: Mapping[str, float]

    @property
    def peak(self) -> float:
        """Planned peak of resident bytes on the largest rank."""
        return sum(self.parts.values())

    def describe(self) -> list[str]:
        """Lines for the log."""
        mib = ", ".join(f"{name} {value / 2**20:.1f}" for name, value in self.parts.items())
        return [f"planned memory of the largest rank: {self.peak / 2**20:.1f} MiB (MiB: {mib})"]


def fit(
    plan: NetPlan,
    work: Workload,
    *,
    vectors: float,
    batch: int,
    step: int,
    kept: int = 0,
    extra: float = 0.0,
    memory: float = math.inf,
    process: float = 0.0,
    source: str = "config",
) -> Budget:
    """The largest evaluation batch up to `batch` that fits into `memory` bytes.

    `vectors` of the length of θ, mini-batches of `step` samples, forward passes of `kept` samples that last, and
    `extra` bytes. Raises UserError when nothing fits.
    """
    blocks = costs.blocks_of(plan)
    numbers = sum(b.size for b in blocks)
    sweep = max(4.0 * b.outputs + 2 * b.inputs + (b.moved if m else 0) for m, b in enumerate(blocks))
    sweep += 2 * plan.waiting_numbers
    per_sample = (plan.kept_numbers() + sweep) * work.itemsize + 32.0 * work.outputs
    fixed = {
        "process": process,
        "vectors": vectors * numbers * work.itemsize,
        "data": data_bytes(plan, work),
        "curvature": kept * plan.kept_numbers() * work.itemsize + extra,
    }
    size = min(batch, work.samples)
    while True:
        parts = {**fixed, "passes": min(work.samples, max(size, step)) * per_sample}
        found = Budget(size, parts)
        if found.peak <= memory:
            return found
        if size <= step or size == 1:
            raise UserError(
                f"{source}: parallel.memory: the largest of {plan.grid.size} rank(s) of a replica needs "
                f"{found.peak / 2**20:.0f} MiB and may use {memory / 2**20:.0f}; allow more, or use fewer replicas, "
                "or a smaller net, batch or data set"
            )
        size = ceil_div(size, 2)
