"""How a command line runs as an MPI job: exit codes, one line for a user's mistake, a traceback for our own."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

import numpy as np

from dnewton.comm import Comm
from dnewton.errors import UserError, one_line


def run(main: Callable[[Comm], None]) -> NoReturn:
    """Run a command line on the whole job and exit.

    A UserError (raised alike on all ranks) prints one line on rank 0 and exits 2 everywhere; any other exception
    prints this rank's traceback and ends the whole job at once with code 1. Collective over all processes.
    """
    comm = Comm.world()
    np.seterr(all="ignore")  # overflow and NaN in a trial point are expected, and looked for where they matter
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    code = 0
    try:
        main(comm)
    except UserError as error:
        code = 2
        if comm.rank == 0:
            print(f"dnewton: error: {one_line(error)}", file=sys.stderr)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException:
        trace = traceback.format_exc()
        print(f"dnewton: rank {comm.rank} of {comm.size} failed; ending the job\n{trace}", file=sys.stderr, flush=True)
        comm.abort()
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
