"""The ranks that a call from Python is for."""

from __future__ import annotations

import os
import sys
from typing import Any

from dnewton.cli.launch import check_launcher
from dnewton.comm import library
from dnewton.comm.communicator import Comm


def opened(mpi: Any) -> Comm:
    """A communicator of its own for one call, to be freed after it.

    `mpi`: an mpi4py communicator; by default all ranks of the job, or this process alone, without MPI, where no
    launcher started it. Raises UserError. Collective over the ranks.
    """
    if mpi is not None:
        return Comm.of(mpi)
    launched = library.started_by_launcher()
    if launched or ("mpi4py.MPI" in sys.modules and library.mpi().COMM_WORLD.Get_size() > 1):
        comm = Comm.world()
        check_launcher(comm.size, os.environ, trains=False)
        return comm
    return Comm.alone()
