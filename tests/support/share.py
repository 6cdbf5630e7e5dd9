"""What all ranks need and one can compute: the oracle's plain loops would else run on every rank of too few cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from dnewton.comm import library

MPI = library.mpi()
T = TypeVar("T")

_channel = MPI.COMM_WORLD.Dup()


def from_first(compute: Callable[[], T]) -> T:
    """What `compute()` gives on rank 0, on every rank; the others sleep meanwhile. Collective over the session.

    An error on rank 0 is raised on all.
    """
    if _channel.Get_size() == 1:
        return compute()
    found: tuple[T | None, Exception | None] = None, None
    if _channel.Get_rank() == 0:
        try:
            found = compute(), None
        except Exception as error:  # for all ranks to raise
            found = None, error
    done = _channel.Ibarrier()
    while not done.Test():
        time.sleep(1e-3)
    value, error = _channel.bcast(found)
    if error is not None:
        raise error
    return value
