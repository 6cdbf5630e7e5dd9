"""What seconds are forecast from: the constants of a machine, and what one operation of a rank then takes. Pure.

A product of (m, k) and (k, n) takes its operations by the rate of large products times m/(m + 25) k/(k + 6) n/(n + 10):
BLAS works in tiles, and short sides leave them half empty. Array operations write their results by a share of the
memory bandwidth, those beyond the caches by a smaller one. Collectives take a latency per step of a tree, and the bytes
that pass through a rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dnewton.grid import ceil_div
from dnewton.hardware.node import threads_for

WIDE_RATE = 0.65  # of the rate in float32 that products in float64 have
PRACTICE = 0.87  # of rates measured over and over: between other operations the caches are colder
SIDES = (25.0, 6.0, 10.0)  # lengths at which the sides of a product halve its rate (OpenBLAS on x86-64)
CACHED, FRESH = 0.5, 0.3  # of the memory bandwidth: results of array operations in the caches, and in fresh memory
RUN = 12.0  # numbers of a run whose copy costs as much as beginning it
CACHE = 4 << 20  # bytes up to which memory is used again
THREADED = 0.8  # of one thread's rate that each of several threads adds
BESIDE = 0.8  # of its rates that a rank has beside others of its node: caches are shared, and all wait for the slowest
STREAMS = 8.0  # ranks of a node that together reach its memory bandwidth
WAITING = 3e-4  # seconds of a step of a collective where ranks wait for a core, over their share of one
YIELDING = 0.7  # of the network's bandwidth, where they do


@dataclass(frozen=True)
class MachineConstants:
    """A machine by a few numbers, of one rank that has a core to itself."""

    flops: float = 5e10  # operations per second of large products in float32
    memory: float = 1e10  # bytes per second that a matrix-vector product reads
    latency: float = 1e-5  # seconds of a step of a collective
    network: float = 2e9  # bytes per second that pass through a rank in a collective
    cores: int = 0  # per node; 0: as many as there are ranks
    nodes: int = 0  # that there are; 0: as many as it takes for a core per rank
    call: float = 2.5e-6  # seconds that an array operation takes, however small
    threads: int = 0  # of BLAS; 0: what a rank's cores allow

    def ranks_on_node(self, ranks: int) -> int:
        """On the fullest node."""
        if not self.cores:
            return 1
        most = ceil_div(ranks, self.cores)
        return ceil_div(ranks, min(most, self.nodes) if self.nodes else most)

    def share(self, ranks: int) -> float:
        """Cores that a rank has to itself: below one, ranks wait for each other's turns."""
        return self.cores / self.ranks_on_node(ranks) if self.cores else 1.0

    def is_positive(self) -> bool:
        """Whether the rates can be divided by."""
        return min(self.flops, self.memory, self.latency, self.network, self.call) > 0


@dataclass(frozen=True)
class Price:
    """Seconds of operations of one of several ranks."""

    flops: float
    memory: float
    latency: float
    network: float
    call: float
    itemsize: int
    threads: int = 1
    relief: float = 1.0  # how much faster local solves are where ranks that have finished leave their cores to others

    @classmethod
    def on(cls, machine: MachineConstants, ranks: int, itemsize: int, largest: float = math.inf) -> Price:
        """For `ranks` ranks; `largest` are the operations of their largest product, by which threads are chosen."""
        share = machine.share(ranks)
        threads = machine.threads or threads_for(share, largest)
        faster = min(1.0, share) * (1 + THREADED * (min(threads, max(1.0, share)) - 1))
        here = machine.ranks_on_node(ranks)
        beside = BESIDE if here > 1 else 1.0
        busy = max(1.0, here / STREAMS) / beside
        waiting = share < 1
        return cls(
            PRACTICE * machine.flops * faster * beside * (WIDE_RATE if itemsize == 8 else 1.0),
            PRACTICE * machine.memory * min(1.0, share) / busy,
            WAITING / share if waiting else machine.latency,
            machine.network * (YIELDING * share if waiting else 1.0),
            machine.call / min(1.0, share),
            itemsize,
            threads,
            relief=0.5 * (1 + share) / share if waiting else 1.0,
        )

    def wide(self) -> Price:
        """The same in float64."""
        return self if self.itemsize == 8 else replace(self, flops=self.flops * WIDE_RATE, itemsize=8)

    def product(self, m: float, k: float, n: float) -> float:
        """A product of matrices (m, k) and (k, n)."""
        idle = (1 + SIDES[0] / max(1.0, m)) * (1 + SIDES[1] / max(1.0, k)) * (1 + SIDES[2] / max(1.0, n))
        return 2.0 * m * k * n * idle / self.flops + self.call

    def read(self, numbers: float) -> float:
        """Reading numbers from memory once."""
        return numbers * self.itemsize / self.memory + self.call

    def blocked(self, numbers: float, run: float = math.inf) -> float:
        """Copying numbers in blocks that stay in cache, in runs of so many."""
        return numbers * self.itemsize * (1 + RUN / run) / (CACHED * self.memory) + self.call

    def kept(self, numbers: float) -> float:
        """Writing what is kept: to memory that is new to the process."""
        return numbers * self.itemsize / (FRESH * self.memory)

    def touch(self, numbers: float, operations: float = 1.0) -> float:
        """Operations number by number, each with a result of its own."""
        size = numbers * self.itemsize
        cached = min(size, CACHE)
        seconds = cached / (CACHED * self.memory) + (size - cached) / (FRESH * self.memory)
        return operations * (seconds + self.call)

    def allreduce(self, numbers: float, ranks: int, itemsize: int = 0) -> float:
        """A sum over ranks."""
        if ranks == 1:
            return 0.0
        through = 2.0 * (ranks - 1) / ranks * numbers * (itemsize or self.itemsize)
        return self._steps(ranks) + through / self.network

    def gather(self, numbers: float, ranks: int) -> float:
        """Slices of all ranks, `numbers` together, on every rank; they are put in order before and after."""
        if ranks == 1:
            return 0.0
        through = (ranks - 1) / ranks * numbers * self.itemsize
        return self._steps(ranks) + through / self.network + self.touch(numbers, 2)

    def bcast(self, numbers: float, ranks: int) -> float:
        """One rank's numbers on every rank."""
        return 0.0 if ranks == 1 else self._steps(ranks) + numbers * self.itemsize / self.network

    def scalars(self, ranks: int) -> float:
        """A sum of a few numbers, or a decision that is told to all."""
        return 0.0 if ranks == 1 else self._steps(ranks) + 8 * ranks / self.network

    def _steps(self, ranks: int) -> float:
        return self.latency * math.ceil(math.log2(ranks))
