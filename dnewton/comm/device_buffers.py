"""How arrays of a GPU get to MPI: as they are where the library takes device memory, else through pinned host memory.

The device is synchronised here and nowhere else, once per collective, before a buffer reaches MPI: MPI does not know
the streams on which the arrays are still being computed. Arrays of the host pass through untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dnewton.arrays.namespace import (
    Array,
    contiguous,
    dtype_name,
    empty,
    nbytes,
    on_cuda,
    on_host,
    pinned,
    refilled,
    synchronize,
    to_device,
    to_host,
)

# What users set to turn device memory on (or off) in their MPI library, by a word of the library's version text.
SWITCHES = {
    "MVAPICH": ("MVP_USE_CUDA", "MV2_USE_CUDA"),
    "CRAY": ("MPICH_GPU_SUPPORT_ENABLED",),
    "Intel": ("I_MPI_OFFLOAD",),
    "Open MPI": ("OMPI_MCA_opal_cuda_support",),
    "MPICH": ("MPIR_CVAR_ENABLE_GPU", "MPICH_GPU_SUPPORT_ENABLED"),
}
ASKING = ("MPICH", "Open MPI")  # for these a variable can only turn off what the library was built with
OFF = ("0", "false", "no", "off", "")


def straight(
    setting: str, environ: Mapping[str, str], library: str, query: Callable[[], bool | None]
) -> tuple[bool, str]:
    """Whether device buffers are passed to MPI as they are, and why.

    `setting` is parallel.device_buffers; `library` MPI's version text; `query` asks the library, None when it has no
    answer.
    """
    if setting != "auto":
        return setting == "yes", f"parallel.device_buffers: {setting}"
    name = next((n for n in SWITCHES if n.lower() in library.lower()), "")
    for variable in SWITCHES.get(name, ()):
        if variable in environ:
            off = environ[variable].strip().lower() in OFF
            if off or name not in ASKING:
                return not off, f"{variable}={environ[variable]}"
    supported = query()
    if supported is None:
        return False, "the MPI library does not say that it takes device memory"
    return supported, "the MPI library says so" if supported else "the MPI library says that it was built without CUDA"


class DeviceBuffers:
    """A rank's way between device arrays and MPI's buffers; shared by all its communicators."""

    def __init__(self) -> None:
        self.straight = False
        self.synchronised = 0  # collectives that waited for the device
        self.staged = 0  # bytes copied between device and host for them
        self._pinned = np.empty(0, dtype=np.uint8)

    def out(self, array: Array) -> Array:
        """A contiguous buffer with the numbers of an array, for MPI to read or to work on in place."""
        if on_host(array):
            return np.ascontiguousarray(array)
        array = contiguous(array)
        self.synchronised += 1
        if not array.size:  # of no address on the device; it must be waited for all the same, for what MPI brings
            synchronize(array)
            return np.empty(array.shape, dtype=dtype_name(array))
        if self.straight:
            synchronize(array)
            return array
        self.staged += nbytes(array)
        if not on_cuda(array):
            return to_host(array).copy()
        buffer = self._room(array)
        # The copy waits for the kernels before it on the stream, and we for the copy. Copies from this memory to the
        # device, of an earlier collective, are before it on the stream, too.
        array.get(out=buffer, blocking=False)
        synchronize(array)
        return buffer

    def _room(self, array: Array) -> np.ndarray:
        size = nbytes(array)
        if self._pinned.size < size:
            synchronize(array)  # what is freed may still be read
            self._pinned = pinned(size)
        view: np.ndarray = self._pinned[:size].view(array.dtype).reshape(array.shape)
        return view

    def room(self, shape: int | tuple[int, ...], like: Array) -> Array:
        """A buffer for what MPI brings, to be given to :meth:`back`. Made before :meth:`out` waits for the device."""
        if on_host(like) or (self.straight and 0 not in np.atleast_1d(shape)):
            return empty(shape, like)
        return np.empty(shape, dtype=dtype_name(like))

    def back(self, buffer: Array, like: Array, in_place: bool = False) -> Array:
        """What MPI left in a buffer, where `like` is; `in_place`: in `like` itself if it is contiguous."""
        if on_host(like) or not on_host(buffer):
            return buffer
        self.staged += nbytes(buffer)
        return refilled(like, buffer) if in_place else to_device(buffer, like)
