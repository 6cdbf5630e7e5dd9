"""Scalars that ride in a sum of an array: one message in the place of two, and sums in the same bits as without it.

Every rank has room of its own behind the array, and zeros in the others' rooms. A number plus zeros is the number,
whatever the order in which the library sums, so that every rank's scalars arrive as they were and are then added in
rank order. In an array of float32 a scalar of 64 bits is three whole numbers of at most 22 bits, which float32 holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dnewton.arrays.namespace import Array, dtype_name, namespace, to_device, to_host

BITS = 22
PARTS = 3  # 3 · 22 bits are at least 64
MASK = np.uint64((1 << BITS) - 1)


def numbers(scalars: int, ranks: int, itemsize: int) -> int:
    """How many numbers of an array so many scalars of each rank take."""
    return scalars * ranks * (1 if itemsize == 8 else PARTS)


def packed(values: Sequence[float], rank: int, ranks: int, dtype: str) -> np.ndarray[Any, Any]:
    """This rank's scalars in its room, as numbers of `dtype`, float32 or float64; flat."""
    scalars = np.array(values, dtype=np.float64)
    own = scalars
    if np.dtype(dtype).itemsize < 8:
        words = scalars.view(np.uint64)
        own = np.concatenate([(words >> np.uint64(BITS * part)) & MASK for part in range(PARTS)])
    rooms = np.zeros((ranks, own.size), dtype=dtype)
    rooms[rank] = own
    return rooms.reshape(rooms.size)


def unpacked(summed: np.ndarray[Any, Any], ranks: int) -> list[float]:
    """The sums in rank order of what the ranks have packed, from the sum of their arrays."""
    rooms = summed.reshape(ranks, summed.size // ranks)
    if rooms.dtype.itemsize < 8:
        parts = rooms.astype(np.uint64).reshape(ranks, PARTS, rooms.shape[1] // PARTS)
        words = parts[:, 0] | (parts[:, 1] << np.uint64(BITS)) | (parts[:, 2] << np.uint64(2 * BITS))
        rooms = words.view(np.float64)
    return [float(v) for v in rooms.sum(axis=0)]


def reduce(comm: Any, array: Array, values: Sequence[float]) -> tuple[Array, list[float]]:
    """Sums of an array and of scalars in one message, right on rank 0 only. Collective over `comm`, a Comm."""
    if comm.size == 1:
        return array, [float(v) for v in values]
    xp = namespace(array)
    carried = to_device(packed(values, comm.rank, comm.size, dtype_name(array)), array)
    summed = comm.reduce(xp.concat([xp.reshape(array, (-1,)), carried]), 0)
    end = summed.shape[0] - carried.shape[0]
    return xp.reshape(summed[:end], array.shape), unpacked(to_host(summed[end:]), comm.size)
