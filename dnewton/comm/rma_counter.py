"""A one-sided counter in an RMA window: ranks add to it and read it while its host computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from dnewton.comm.communicator import Comm


class OneSidedCounter:
    """Counter slots on rank 0 that any rank adds to and reads without rank 0 taking part.

    Request-based calls only: a plain fetch-and-op would wait until its busy target enters MPI.
    """

    SLOTS = 2

    def __init__(self, comm: Comm) -> None:
        """Collective over the world: allocates the window and opens a shared epoch for its whole life."""
        self._comm = comm
        self._lib = comm._lib
        self._window = comm._lib.Win.Allocate(8 * self.SLOTS if comm.rank == 0 else 0, 8, comm=comm._mpi)
        self._window.Lock_all()
        if comm.rank == 0:
            for slot in range(self.SLOTS):
                self.clear(slot)
        self._read = np.zeros(1, dtype=np.int64)
        self._one = np.ones(1, dtype=np.int64)
        self._pending_read: Any = None
        self._pending_add: Any = None
        comm.barrier()

    def clear(self, slot: int) -> None:
        """Set a slot to zero; only rank 0, while no rank uses the slot."""
        self._window.Accumulate(np.zeros(1, dtype=np.int64), 0, target=slot, op=self._lib.REPLACE)
        self._window.Flush(0)

    def add(self, slot: int) -> None:
        """Add one; the request is completed by :meth:`complete`."""
        with self._comm._counted(8, "early_termination"):
            self._pending_add = self._window.Raccumulate(self._one, 0, target=slot, op=self._lib.SUM)

    def poll(self, slot: int) -> int | None:
        """The slot's value if a read has come back, else None; never waits."""
        if self._pending_read is None:
            with self._comm._counted(8, "early_termination"):
                self._pending_read = self._window.Rget_accumulate(
                    self._one, self._read, 0, target=slot, op=self._lib.NO_OP
                )
        if not self._pending_read.Test():
            return None
        self._pending_read = None
        return int(self._read[0])

    def complete(self) -> None:
        """Finish pending requests; call it after a collective, so that no rank is waited for while it computes."""
        for request in (self._pending_read, self._pending_add):
            if request is not None:
                self._comm.wait(request)
        if self._pending_add is not None:
            self._window.Flush(0)
        self._pending_read = self._pending_add = None

    def free(self) -> None:
        """Collective over the world."""
        self._window.Unlock_all()
        self._window.Free()
