"""What the fake adds to CuPy: counters, the errors of its checks, garbage, and the C++ compiler it uses.

A test reads `cupy._fake.counts` and expects `cupy._fake.NotSynchronised` or `Overwritten`; the real CuPy has no
such module.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, fields

import numpy as np


class NotSynchronised(AssertionError):
    """A device buffer was about to be read (by MPI, say) while kernels that may write it were in flight."""


class Overwritten(AssertionError):
    """A pinned buffer changed between an asynchronous copy to the device and the next synchronisation."""


@dataclass
class Counts:
    """What has happened since the last :func:`reset`."""

    synchronisations: int = 0  # explicit: of a stream, a device or an event
    to_host: int = 0
    to_host_bytes: int = 0
    to_device: int = 0
    to_device_bytes: int = 0
    kernels: int = 0


counts = Counts()


def reset() -> None:
    """Zero the counters; what is in flight stays in flight."""
    for field in fields(Counts):
        setattr(counts, field.name, 0)


def to_host(nbytes: int) -> None:
    counts.to_host += 1
    counts.to_host_bytes += nbytes


def to_device(nbytes: int) -> None:
    counts.to_device += 1
    counts.to_device_bytes += nbytes


def garbage(array: np.ndarray) -> None:
    """Fill with what no program should ever use: NaN, or bytes 0x7f."""
    if array.dtype.kind in "fc":
        array.fill(np.nan)
    elif array.dtype.kind == "b":
        array.fill(True)
    elif array.size:
        array.fill(np.frombuffer(b"\x7f" * array.itemsize, array.dtype)[0])


def compiler() -> str | None:
    """The C++ compiler that runs the kernels' snippets, or None."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else []
    return next((path for name in [*names, "c++", "g++", "clang++"] if (path := shutil.which(name))), None)
