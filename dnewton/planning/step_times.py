"""Seconds of what the mini-batch methods and Hessian-free optimisation do, on the largest rank. Pure functions.

Each method's file says which of these it does, and how often; an iteration is one pass over the training set.
"""

from __future__ import annotations

from dataclasses import dataclass

from dnewton.grid import ceil_div
from dnewton.planning.grid_search import Workload
from dnewton.planning.machine import Price
from dnewton.planning.pass_times import Passes

OTHER = "other"  # what methods do outside all phases


@dataclass(frozen=True)
class Steps:
    """The work of one of `replicas` workers; `work` is the whole training set."""

    passes: Passes
    work: Workload
    replicas: int
    servers: int = 0

    @property
    def price(self) -> Price:
        """Of an operation."""
        return self.passes.price

    @property
    def variables(self) -> float:
        """Of the largest rank."""
        return self.passes.variables

    @property
    def everybody(self) -> int:
        """Ranks that train."""
        return self.replicas * self.passes.plan.grid.size

    def count(self, batch: int) -> int:
        """Steps of a pass over the training set, each of `batch` samples per worker."""
        return ceil_div(self.work.samples, batch * self.replicas)

    def of_pass(self, batch: int) -> float:
        """Samples that a worker has in a step, in the mean over a pass."""
        return self.work.samples / self.replicas / self.count(batch)

    def gradient(self, samples: float, batch: int = 0) -> float:
        """A gradient over so many of a worker's samples."""
        size = max(1, round(samples))
        batch = batch or size
        passes = self.passes.forward(size, batch=batch) + self.passes.backward(size, batch=batch)
        return samples / size * passes + self.passes.vectors(2)

    def value(self, samples: int) -> float:
        """f alone over samples that all workers share."""
        share = ceil_div(samples, self.replicas)
        return self.passes.forward(share) + self.price.scalars(self.everybody)

    def vectors(self, operations: float) -> float:
        """Array operations on vectors of the length of a rank's θ."""
        return self.passes.vectors(operations)

    def summed(self) -> float:
        """A sum of vectors like θ over the workers."""
        return self.price.allreduce(self.variables, self.replicas)

    def from_first(self) -> float:
        """The first worker's vector for all."""
        return self.price.bcast(self.variables, self.replicas)

    def gathered(self, numbers: float, ranks: int) -> float:
        """Vectors of several ranks, one after another on each."""
        return 0.0 if ranks == 1 else self.price.gather(numbers, ranks)

    def served(self, exchanges: float) -> float:
        """So many pulls and pushes of θ, of all workers, by the parameter servers, who each have a share of it."""
        each = 2.0 * self.variables * self.price.itemsize / self.price.network + 4 * self.price.latency
        queue = max(1.0, self.everybody / max(1, self.servers) / 2)  # servers answer one worker at a time
        return exchanges * (each * queue + self.vectors(4))

    def evaluation(self) -> float:
        """f and its gradient over all samples, each worker over its share."""
        share = ceil_div(self.work.samples, self.replicas)
        seconds = self.passes.forward(share) + self.passes.backward(share) + self.vectors(4)
        return seconds + self.summed() + self.price.scalars(self.everybody)


def mini_batches(steps: Steps, batch: int, updates: float, sums: float, exchange: float = 0.0) -> dict[str, float]:
    """A pass of mini-batch steps of `updates` vector operations each, with `sums` sums over the workers per step and
    `exchange` further seconds, and an evaluation at its end."""
    count = steps.count(batch)
    return {
        "gradient": count * steps.gradient(steps.of_pass(batch)),
        "exchange": count * (sums * steps.summed() + exchange) + steps.from_first(),
        OTHER: count * steps.vectors(updates),
        "evaluate": steps.evaluation(),
    }
