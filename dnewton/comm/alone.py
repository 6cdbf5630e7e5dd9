"""One process without an MPI library: what :class:`dnewton.comm.communicator.Comm` calls of mpi4py, for one rank.

Sums and copies over one rank leave the data as they are, and requests are done when they are made. Messages from rank
to rank have no receiver here, so there is neither sending nor receiving, and nothing ever arrives.
"""

from __future__ import annotations

import os
from typing import Any


class Names:
    """The names of mpi4py's MPI that a communicator's calls take as arguments."""

    IN_PLACE: Any = None
    MAX = MIN = SUM = COMM_TYPE_SHARED = ANY_SOURCE = ANY_TAG = 0

    class Status:
        """Of no message."""


class Done:
    """A request that is complete."""

    def Test(self) -> bool:
        """True: it was complete from the start."""
        return True


def _copied(sent: Any, received: Any) -> Done:
    if sent is not Names.IN_PLACE:
        received[...] = sent.reshape(received.shape)
    return Done()


class Alone:
    """In the place of an mpi4py intracommunicator of one process; its methods have mpi4py's names and meaning."""

    def Get_rank(self) -> int:
        """0."""
        return 0

    def Get_size(self) -> int:
        """1."""
        return 1

    def Set_name(self, name: str) -> None:
        """Nobody asks for it."""

    def Get_name(self) -> str:
        """Of all."""
        return "world"

    def Dup(self) -> Alone:
        """Another one."""
        return Alone()

    def Split(self, color: int = 0, key: int = 0) -> Alone:
        """Another one, whatever the colour."""
        return Alone()

    def Split_type(self, split_type: int, key: int = 0) -> Alone:
        """Another one: the node's ranks are this one."""
        return Alone()

    def Free(self) -> None:
        """Nothing is held."""

    def Abort(self, code: int = 0) -> None:
        """End this process at once."""
        os._exit(code)

    def Allreduce(self, sent: Any, received: Any, op: Any = None) -> None:
        """The sum, or any other `op`, of one array is the array."""
        _copied(sent, received)

    def Allgather(self, sent: Any, received: Any) -> None:
        """The one part is the whole."""
        _copied(sent, received)

    def Iallreduce(self, sent: Any, received: Any, op: Any = None) -> Done:
        """As Allreduce."""
        return _copied(sent, received)

    def Ibcast(self, buffer: Any, root: int = 0) -> Done:
        """The root has it already."""
        return Done()

    def Ibarrier(self) -> Done:
        """Nobody else has to come."""
        return Done()

    def Iprobe(self, source: int, tag: int, status: Any) -> bool:
        """False: no message."""
        return False
