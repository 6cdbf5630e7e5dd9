"""Early termination of the local solves (Wang et al. 2018, section 5.1): who is still solving, and when to stop.

Every active rank does at least one CG iteration. A rank counts once, when it meets its own stopping rule; everyone
stops when ceil(fraction * active) have.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

from dnewton.comm.communicator import Comm
from dnewton.comm.rma_counter import OneSidedCounter
from dnewton.comm.stop_hooks import StopHooks


class TerminationRule(Protocol):
    """Asked by the local solve after every iteration, and told when it ends."""

    def begin(self, iteration: int, active: int) -> None:
        """A new Newton iteration with `active` ranks that have something to solve."""
        ...

    def should_terminate(self) -> bool:
        """True when this rank, still solving, must stop. Called once per CG iteration."""
        ...

    def finished(self, counts: bool) -> None:
        """This rank met its stopping rule; `counts` is False where it had nothing to solve."""
        ...

    def complete(self) -> float:
        """After the first collective that follows the solve; returns the seconds this rank waited for others."""
        ...

    def close(self) -> None:
        """Give back what the watch holds. Collective over the world."""
        ...


class NeverTerminate:
    """`mode: off`."""

    def __init__(self, stops: StopHooks | None = None) -> None:
        """`stops` is asked after every iteration whether the job has to stop."""
        self._stops = stops or StopHooks()
        self._end = time.perf_counter()

    def begin(self, iteration: int, active: int) -> None:
        self._end = time.perf_counter()

    def should_terminate(self) -> bool:
        return self._stops.stop_requested()

    def finished(self, counts: bool) -> None:
        self._end = time.perf_counter()

    def complete(self) -> float:
        return time.perf_counter() - self._end

    def close(self) -> None:
        return


class AsyncTermination:
    """`mode: async`: a counter in an RMA window on rank 0, two slots in turn; no rank ever waits for another."""

    def __init__(self, counter: OneSidedCounter, comm: Comm, fraction: float) -> None:
        self._counter = counter
        self._comm = comm
        self._fraction = fraction
        self._slot = 0
        self._active = self._target = 0
        self._end = time.perf_counter()

    def begin(self, iteration: int, active: int) -> None:
        self._comm.ledger.solved = (0, active)
        self._slot = iteration % OneSidedCounter.SLOTS
        self._active = active
        self._target = math.ceil(self._fraction * active)
        if self._comm.rank == 0:  # a collective lies between the other slot's last use and now, and before its next
            self._counter.clear((self._slot + 1) % OneSidedCounter.SLOTS)
        self._end = time.perf_counter()

    def should_terminate(self) -> bool:
        value = self._counter.poll(self._slot)
        if value is not None:
            self._comm.ledger.solved = (int(value), self._active)
        stop = (value is not None and value >= self._target) or self._comm.stops.stop_requested()
        if stop:
            self._end = time.perf_counter()
        return stop

    def finished(self, counts: bool) -> None:
        if counts:
            self._counter.add(self._slot)
        self._end = time.perf_counter()

    def complete(self) -> float:
        waited = time.perf_counter() - self._end
        self._counter.complete()
        return waited

    def close(self) -> None:
        self._counter.complete()  # a solve that was left in the middle has requests under way
        self._counter.free()


class LockstepTermination:
    """`mode: lockstep`: a count every few iterations in which finished and empty ranks keep taking part.

    Reproducible: which iteration a rank is stopped at does not depend on timing.
    """

    def __init__(self, comm: Comm, fraction: float, every: int) -> None:
        self._comm = comm
        self._fraction = fraction
        self._every = every
        self._active = self._target = 0
        self._iterations = 0
        self.over = False  # enough ranks have counted: the solve ends for all
        self._end = time.perf_counter()

    def begin(self, iteration: int, active: int) -> None:
        self._target = math.ceil(self._fraction * active)
        self._iterations = 0
        self._active = active
        self._comm.ledger.solved = (0, active)
        self.over = active == 0

    def should_terminate(self) -> bool:
        self._iterations += 1
        if self._iterations % self._every:
            return False
        return self.count(False)

    def finished(self, counts: bool) -> None:
        self._end = time.perf_counter()
        while not self.over:
            self.count(counts)

    def count(self, counts: bool) -> bool:
        """Whether enough ranks count now. Collective over the world: a scalar."""
        self._comm.stops.safe_point()
        with self._comm.phase("early_termination"):
            done = self._comm.sum_scalars([float(counts)])[0]
        self._comm.ledger.solved = (int(done), self._active)
        self.over = done >= self._target
        return self.over

    def complete(self) -> float:
        return time.perf_counter() - self._end

    def close(self) -> None:
        return


def make_joint(mode: str, fraction: float, comm: Comm) -> LockstepTermination:
    """The rule where all ranks solve in step: a count after every iteration; `off`: when all have finished."""
    return LockstepTermination(comm, 1.0 if mode == "off" else fraction, every=1)


def make(mode: str, fraction: float, every: int, comm: Comm, alone: bool = True) -> TerminationRule:
    """The rule for `solver.early_termination`; one rank has nobody to wait for.

    `alone`: the local solves need no other rank.

    Collective over the world.
    """
    if mode == "off" or comm.size == 1:
        return NeverTerminate(comm.stops if alone else None)
    if mode == "lockstep":
        return LockstepTermination(comm, fraction, every)
    return AsyncTermination(OneSidedCounter(comm), comm, fraction)
