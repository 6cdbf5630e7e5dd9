"""A run directory belongs to one job from before its first file until the job has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dnewton.comm.communicator import Comm
from dnewton.storage.run_directory import RunDirectory


@contextmanager
def owned(comm: Comm, out: RunDirectory, tell: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Inside, rank 0 holds `out`; `tell` gets a line on rank 0 where taking it may take a time.

    Raises UserError alike on all ranks where another job holds it. Collective over the ranks.
    """
    with comm.raise_together():
        if comm.rank == 0:
            out.claim(tell)
    try:
        yield
    finally:
        out.release()
