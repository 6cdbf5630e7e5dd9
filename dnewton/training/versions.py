"""Versions of what a run is computed with, for its log: the same run on others may differ in the last digits."""

from __future__ import annotations

import platform
import sys

import numpy as np

from dnewton.comm import library
from dnewton.comm.communicator import Comm


def line(comm: Comm) -> str:
    """`versions: Python 3.12.3, NumPy 2.3.1, MPI MPICH 4.3.1`; CuPy's where it is loaded."""
    found = {"Python": platform.python_version(), "NumPy": np.__version__}
    if (cupy := sys.modules.get("cupy")) is not None:
        found["CuPy"] = str(getattr(cupy, "__version__", "unknown"))
    found["MPI"] = library.short_version() if comm.uses_mpi else "not used"
    return "versions: " + ", ".join(f"{name} {version}" for name, version in found.items())
