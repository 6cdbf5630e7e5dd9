"""The MPI library: loaded when the first communicator asks for it, so that one process can do without."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Mapping
from typing import Any

from dnewton.errors import UserError, one_line

# Variables that a launcher sets for each process that it starts: of Hydra (MPICH, Intel MPI, MVAPICH), PMIx (Open MPI,
# Slurm), Open MPI, MVAPICH2, Cray's PALS and ALPS.
RANK_VARIABLES = (
    "PMI_RANK",
    "PMI_FD",
    "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
    "MPI_LOCALRANKID",
    "PALS_RANKID",
    "ALPS_APP_PE",
)
LAUNCHERS = ("PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD")  # prefixes of the variables _SIZE and _RANK


def mpi() -> Any:
    """mpi4py's module MPI; the first call loads the library and initialises MPI. Raises UserError where it is missing.

    Calls from several threads are serialised by their callers.
    """
    try:
        import mpi4py

        mpi4py.rc.thread_level = "serialized"
        from mpi4py import MPI
    except (ImportError, OSError, RuntimeError) as error:
        raise UserError(
            f"no MPI library can be loaded ({one_line(error)[:120]}); pip install 'dnewton[mpich]', or use the "
            "cluster's own (module load ...) with an mpi4py that fits it"
        ) from None
    return MPI


def started_by_launcher(environment: Mapping[str, str] | None = None) -> bool:
    """Whether mpirun, mpiexec, srun or the like started this process as a rank, by the variables that they set.

    A batch script's own shell is none of its ranks. `environment`: os.environ by default.
    """
    variables = os.environ if environment is None else environment
    several = number(variables.get("SLURM_STEP_NUM_TASKS")) > 1
    return several or any(name in variables for name in RANK_VARIABLES)


def told_rank(environment: Mapping[str, str]) -> int:
    """The rank that the launcher states, for where MPI is not asked or may see every process as rank 0; else 0."""
    names = [*(f"{name}_RANK" for name in LAUNCHERS), "PMIX_RANK", "SLURM_PROCID"]
    return next((number(environment[name]) for name in names if name in environment), 0)


def told_size(environment: Mapping[str, str]) -> int:
    """The number of ranks that the launcher states; 0 where it states none."""
    names = [*(f"{name}_SIZE" for name in LAUNCHERS), "SLURM_STEP_NUM_TASKS"]
    return next((number(environment[name]) for name in names if name in environment), 0)


def number(text: str | None) -> int:
    """A variable's whole number; 0 where it is missing or something else."""
    return int(text) if text is not None and text.isdecimal() else 0


def version() -> str:
    """The library's own text about its name and version, in one line."""
    return one_line(mpi().Get_library_version())


def short_version() -> str:
    """The library's name and version in few words, such as `MPICH 4.3.1`."""
    first = mpi().Get_library_version().strip("\0 \n").splitlines()[0].split(",")[0]
    named = re.fullmatch(r"(\S+) Version:\s*(\S+)", first.strip())
    return one_line(f"{named[1]} {named[2]}" if named else first)[:60]


def thread_level() -> str:
    """Which of its threads may call the library, as MPI grants it: single, funneled, serialized or multiple."""
    names = {getattr(mpi(), f"THREAD_{n.upper()}"): n for n in ("single", "funneled", "serialized", "multiple")}
    return names[mpi().Query_thread()]


def takes_device_memory() -> bool | None:
    """Whether the MPI library says that it takes CUDA buffers; None when it has no way to say so.

    `MPIX_Query_cuda_support` is an extension of Open MPI, MPICH and their kin that mpi4py does not wrap.
    """
    query = getattr(ctypes.CDLL(mpi().__file__), "MPIX_Query_cuda_support", None)
    return None if query is None else bool(query())
